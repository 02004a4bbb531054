/* core/discovery/discovery_internal.h: what the files of this room share. Everything runs on control's one
 * event loop but the jobs of struct work. */
#ifndef FLUXGATE_DISCOVERY_DISCOVERY_INTERNAL_H
#define FLUXGATE_DISCOVERY_DISCOVERY_INTERNAL_H
#include <event2/event.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/base/strbuf.h"
#include "core/config/config.h"
#include "core/discovery/instance.h"
#include "core/shm/shm.h"

enum { ANSWER_BYTES_MAX = 64 << 20 }; /* a registry's answer or stream message; longer ones are refused */
enum { LOG_INTERVAL_US = 10000000 };  /* repeated complaints of this room */

/* ---- work.c: a few threads for what blocks (libc's resolver, the snapshot file) */
struct work;

struct work_job {
    struct work_job *next;              /* the pool's own */
    void (*run)(struct work_job *job);  /* on a thread: touches the job alone */
    void (*done)(struct work_job *job); /* on the loop; owns the job */
    void (*drop)(struct work_job *job); /* instead of done where the pool went first; on any thread */
};

MUST_CHECK
struct work *work_new(struct event_base *base);
/* Takes the job. False: no thread could be had, and the job is still the caller's. */
MUST_CHECK
bool work_submit(struct work *work, struct work_job *job);
void work_free(struct work *work); /* does not wait for what is running */

/* ---- dns.c: names to addresses, kept fresh in the background */
enum { DNS_ADDRESSES = 16 };
struct dns;

MUST_CHECK
struct dns *dns_new(
    struct event_base *base, struct work *work, void (*on_change)(void *context), void *context);
/* Numeric addresses and localhost at once; a name once a lookup answered (then also while a later one fails).
 * Fills `out` without a port. `current` (may be NULL) is kept where it is still among the answers, so that a
 * name with several addresses does not wander. False: not known yet; on_change tells of news. Keeps asking
 * for as long as it is asked. */
MUST_CHECK
bool dns_find(struct dns *dns, struct slice host, const struct sockaddr *current,
    struct sockaddr_storage *out, socklen_t *len);
/* Numeric or localhost: dns_find never waits for it. */
bool dns_is_literal(struct slice host);
/* Names that nobody asked for since the last sweep are forgotten. */
void dns_sweep(struct dns *dns);
void dns_free(struct dns *dns);

/* ---- table.c: the endpoint table's one writer */
struct table;

struct want { /* an endpoint that shall be there */
    uint32_t service;
    uint32_t weight, port;
    struct slot_text *text; /* address_len 0: not resolved; an endpoint already there keeps its address */
    bool has_policy;
    bool lapsed, maintenance, draining; /* registry only */
    uint64_t registered;                /* hash of the name it is registered under, 0 for static ones */
    uint64_t epoch;                     /* hash of the answer's epoch, 0 where it has none */
};

/* What becomes of a registry endpoint that is not wanted */
enum absent_rule {
    ABSENT_KEEP,    /* nothing was answered: it stays as it is */
    ABSENT_EPOCH,   /* gone if this epoch had shown it, else suspect: the registry lost its memory, not the
                       endpoint */
    ABSENT_SUSPECT, /* suspect: an old registry's empty list says little */
    ABSENT_REMOVE,
};

struct table_round {
    enum absent_rule absent;
    uint64_t epoch;
    /* Does `service` still take what is registered under this name (0: not known)? Else it goes at once. */
    bool (*selects)(void *context, uint32_t service, uint64_t registered);
    void *context;
    bool is_swapping; /* workers may still be on the config before: what only that one has stays for now */
};

struct table_counts {
    uint32_t fixed, registered, suspects; /* after the last round */
    uint64_t full;                        /* endpoints left out, ever, for want of a slot */
};

MUST_CHECK
struct table *table_new(struct shm *shm);
void table_begin(struct table *table);
void table_want(struct table *table, const struct want *want);
void table_end(struct table *table, const struct table_round *round);
/* The address an endpoint has now; false where there is none. Borrowed until the next table call. */
bool table_address(struct table *table, uint32_t service, struct slice id, struct sockaddr_storage *out);
bool table_has(struct table *table, uint32_t service, struct slice id);
void table_suspect_failed(struct table *table, uint32_t slot);
struct table_counts table_counts(const struct table *table);
void table_free(struct table *table);

/* ---- pull.c: libcurl on the event loop */
struct puller;
struct pull;

struct pull_result {
    const char *error; /* transport: text; NULL where a whole answer came */
    long status;       /* HTTP, 0 where none came */
    int grpc_status;   /* -1 where none came */
    bool is_grpc;      /* content-type is application/grpc… */
    char grpc_message[128];
};

struct pull_spec { /* borrowed until pull_start returns */
    const char *url;
    const char *unix_path;  /* NULL: TCP */
    const char *connect_to; /* libcurl's CONNECT_TO form, NULL: the url's own host, which must be numeric or
                               localhost */
    bool is_grpc;           /* HTTP/2 with prior knowledge, POST of `body` */
    struct slice body;
    uint64_t connect_us;
    uint64_t idle_us;  /* no byte for that long: cut */
    uint64_t total_us; /* 0: none */
    /* False cuts the answer; `error` of on_done is then "refused". */
    bool (*on_data)(void *context, struct slice bytes);
    void (*on_done)(
        void *context, const struct pull_result *result); /* once, unless cancelled; the pull is gone then */
    void *context;
};

MUST_CHECK
struct puller *puller_new(struct event_base *base);
MUST_CHECK
struct pull *pull_start(struct puller *puller, const struct pull_spec *spec);
void pull_cancel(struct pull *pull); /* not from its own callbacks; NULL is fine */
void puller_free(struct puller *puller);

/* ---- sync.c: asks a registry, again and again */
struct sync;

struct sync_target {
    const char *url; /* "http://host:port[/base]" or "host:port"; "unix:/path" */
    enum registry_protocol protocol;
    uint64_t poll_interval_us;
};

struct sync_times { /* microseconds; sync_times_default() but in tests */
    uint64_t connect, wait, idle, poll_timeout, backoff_first, backoff_last, reprobe;
};
struct sync_times sync_times_default(void);

/* `on_answer` takes the instances. Changed tells whether they differ from the answer before. */
MUST_CHECK
struct sync *sync_new(struct event_base *base, struct shm *shm, struct dns *dns,
    const struct sync_times *times, void (*on_answer)(void *context, struct instances *instances),
    void *context);
MUST_CHECK
bool sync_use(struct sync *sync, const struct sync_target *target); /* NULL: ask nobody; false: as before */
void sync_dns_changed(struct sync *sync);
void sync_describe(const struct sync *sync, struct strbuf *out); /* members of a JSON object */
void sync_free(struct sync *sync);

/* ---- snapshot.c: the last known instances, on disk */
/* The file of `state_dir`, NULL where there is none or nothing usable in it (then it says so in the log). */
struct instances *snapshot_load(const char *state_dir);
/* Replaces it atomically on a thread; takes `json`'s bytes. One at a time: *is_busy is true until it is done.
 */
void snapshot_save(struct work *work, const char *state_dir, struct strbuf *json, bool *is_busy);
void snapshot_save_now(const char *state_dir, const struct strbuf *json);

#endif
