/* flux/internal.h: what the files of libflux share. */
#ifndef FLUX_INTERNAL_H
#define FLUX_INTERNAL_H
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/base/strbuf.h"
#include "flux/flux.h"

/* name, label of the metrics */
#define FLUX_OPERATIONS(X)                                                                                   \
    X(OP_REGISTER, "register")                                                                               \
    X(OP_HEARTBEAT, "heartbeat")                                                                             \
    X(OP_DEREGISTER, "deregister")                                                                           \
    X(OP_HEALTHY, "get_healthy_services")
#define X(name, label) name,
enum operation { FLUX_OPERATIONS(X) OP_COUNT };
#undef X

enum { METRICS_BUCKETS = 11, DETAIL_BYTES = 320 };

struct metrics_series {
    uint64_t buckets[METRICS_BUCKETS]; /* not cumulative; past the last bound only in `count` */
    uint64_t count;
    double sum_s;
};

struct metrics_server;

/* One libcurl handle with its connection. Used by one thread at a time. */
struct caller {
    CURLM *multi;
    CURL *easy;
    struct strbuf body; /* of the last response */
    int grpc_status;    /* from headers or trailers, -1: none came */
    char grpc_message[DETAIL_BYTES];
    atomic_bool cancelled; /* set by caller_cancel; the call under way ends, and every later one at once */
};

struct flux_client {
    /* written by flux_new, then constant */
    char *id, *service_name, *host, *url, *health_path, *zone, *version, *metadata_json;
    int port, metrics_port;
    unsigned weight, heartbeat_ms, timeout_ms;
    bool rich;          /* weight, zone, version or metadata is set: the v2 calls come first */
    char *registry_url; /* with scheme, without a slash at its end */
    char *token;
    enum flux_protocol protocol;
    void (*on_event)(void *context, const char *event, const char *detail);
    void *context;

    /* under `lock`; `changed` is signalled (CLOCK_MONOTONIC) */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool running, stopping;
    bool touched; /* a register call was made that may have reached the registry: a stop deregisters */
    struct metrics_series series[OP_COUNT][2]; /* [1]: success */

    atomic_bool registered;
    pthread_t thread;
    struct caller beat; /* the thread's */
    pthread_mutex_t direct_lock;
    struct caller direct; /* of single calls, under direct_lock */
    struct metrics_server *server;
};

/* caller.c: HTTP by libcurl. */
MUST_CHECK
bool caller_init(struct caller *caller);
void caller_fini(struct caller *caller);
void caller_cancel(struct caller *caller); /* from any thread */

struct caller_request {
    const char *method; /* "POST" */
    const char *url;
    const char *content_type; /* NULL: no body */
    struct slice body;
    const char *token;
    unsigned timeout_ms;
    bool grpc; /* HTTP/2 with prior knowledge (by ALPN where the URL is https), te: trailers */
};

/* FLUX_OK where a whole response came: *status, and the body in caller->body. Else UNREACHABLE, TIMEOUT,
 * NO_MEMORY or SYSTEM, and the reason in `detail`. */
MUST_CHECK
enum flux_error caller_perform(
    struct caller *caller, const struct caller_request *request, long *status, char detail[DETAIL_BYTES]);

/* rest.c, grpc.c: one operation in their protocol. `service` and `json` are for OP_HEALTHY alone. */
MUST_CHECK
enum flux_error rest_call(struct flux_client *client, struct caller *caller, enum operation operation,
    const char *service, char **json, char detail[DETAIL_BYTES]);
MUST_CHECK
enum flux_error grpc_call(struct flux_client *client, struct caller *caller, enum operation operation,
    const char *service, char **json, char detail[DETAIL_BYTES]);

/* thread.c: a thread that takes no signals: those are for the program's own threads. 0, else an errno. */
MUST_CHECK
int thread_start(pthread_t *thread, void *(*run)(void *), void *context);

/* settings.c: the constant part of a client, from `instance`, `options` and the environment; flux_new's
 * errors. */
MUST_CHECK
enum flux_error settings_take(
    struct flux_client *client, const struct flux_instance *instance, const struct flux_options *options);
void settings_free(struct flux_client *client);

/* metrics.c */
void metrics_count(struct flux_client *client, enum operation operation, bool success, double seconds);
/* metrics_server.c: GET /metrics on all addresses, on a thread of its own. NULL: errno. */
MUST_CHECK
struct metrics_server *metrics_server_start(struct flux_client *client, int port);
void metrics_server_stop(struct metrics_server *server); /* NULL is fine */

#endif
