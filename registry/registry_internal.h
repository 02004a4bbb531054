/* registry/registry_internal.h: what the files of the registry share beside model, store and validate. */
#ifndef FLUXGATE_REGISTRY_REGISTRY_INTERNAL_H
#define FLUXGATE_REGISTRY_REGISTRY_INTERNAL_H
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/strbuf.h"
#include "core/serve/serve.h"
#include "registry/model.h"
#include "registry/registry.h"
#include "registry/validate.h"

enum {
    WAIT_DEFAULT_S = 30, /* of a held query */
    WAIT_MAX_S = 60,
    STREAM_REFRESH_S = 30, /* an unchanged snapshot so often shows that a stream lives */
    STREAM_STUCK_S = 30,   /* a watcher that reads nothing for so long is ended */
    TICK_US = 100000,      /* how exactly the above are kept */
    NOTIFY_GAP_US = 10000, /* changes within this go out as one */
    NOTIFY_GAP_MAX_US = 500000,
    NOTIFY_COST = 4, /* at most a fifth of the time goes into telling watchers */
    LAPSE_GRAIN_US = 50000,
};

/* Forms in which a snapshot is sent. Each is rendered once per index and shared. */
enum snapshot_form {
    SNAPSHOT_V1_JSON,
    SNAPSHOT_V2_JSON,
    SNAPSHOT_V1_PROTO,
    SNAPSHOT_V2_PROTO,
    SNAPSHOT_FORMS
};

struct snapshot {
    struct snapshot *next;
    enum snapshot_form form;
    uint64_t index;
    char *service; /* NULL: all */
    struct serve_blob *blob;
};

enum watcher_kind {
    WATCH_QUERY,  /* REST, held until the index moves or the wait is over */
    WATCH_STREAM, /* gRPC WatchInstances */
    WATCH_HEALTH, /* gRPC Health.Watch: says SERVING once, and that we leave at the end */
    WATCH_OTHER,  /* a reflection stream: only has to be ended by a drain */
};

struct watcher {
    struct watcher *prev, *next;
    struct registry *registry;
    struct serve_call *call;
    enum watcher_kind kind;
    uint64_t index;       /* last sent */
    uint64_t deadline_us; /* query: answer by then; stream: next refresh */
    uint64_t stuck_us;    /* stream: since when it has not read; 0: it reads */
    char *service;        /* NULL: all */
};

struct registry {
    struct event_base *base;
    struct model model;
    struct store *store;
    struct serve *http, *grpc;
    struct event expire_event, notify_event, tick_event;
    uint64_t expire_at_us; /* what expire_event is set for; UINT64_MAX: not */
    bool notify_due, tick_armed;
    uint64_t notified_us, notify_cost_us;
    struct watcher *watchers;
    unsigned watcher_count;
    struct snapshot *snapshots; /* of model.index alone */
    uint64_t rejected;          /* registrations refused by validation */
    char *listen_text, *store_text;
    bool draining;
    unsigned drains_left;
    void (*done)(void *context);
    void *done_context;
};

/* registry.c: after every change of the model. */
void registry_changed(struct registry *registry);

/* render.c: a borrowed reference that lives until the next change; NULL: out of memory. `service` NULL: all.
 */
MUST_CHECK
struct serve_blob *render_snapshot(struct registry *registry, enum snapshot_form form, const char *service);
void render_forget(struct registry *registry);
void render_instance_v1(const struct instance *instance, struct strbuf *out);
void render_instance_v2(const struct registry *registry, const struct instance *instance, struct strbuf *out);
void render_metrics(const struct registry *registry, struct strbuf *out);

/* watch.c */
MUST_CHECK
struct watcher *watch_add(
    struct registry *registry, struct serve_call *call, enum watcher_kind kind, struct slice service);
void watch_remove(struct watcher *watcher); /* frees it; the call is the caller's business */
void watch_query(struct registry *registry, struct serve_call *call, uint64_t wait_us, uint64_t now_us);
void watch_stream(struct registry *registry, struct serve_call *call, struct slice service, uint64_t now_us);
void watch_notify(struct registry *registry);
void watch_tick(struct registry *registry, uint64_t now_us);
void watch_end_all(struct registry *registry);

/* rest.c, grpc.c: serve's handlers; context is the registry. */
void rest_handle(void *context, struct serve_call *call, const struct serve_request *request);
void grpc_handle(void *context, struct serve_call *call, const struct serve_request *request);
bool grpc_is_streaming(void *context, struct slice path);

/* reflection.c: answers one ServerReflectionRequest (both versions have one wire). False: it does not parse.
 */
MUST_CHECK
bool reflection_answer(struct slice request, struct strbuf *out);

#endif
