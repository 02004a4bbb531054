/* core/shm/shm.h: the shared segment (DESIGN.md section 3): mapped once before the first fork, fixed size,
 * indexes instead of pointers. Each part says who writes it. */
#ifndef FLUXGATE_SHM_SHM_H
#define FLUXGATE_SHM_SHM_H
#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum {
    SHM_WORKERS_MAX = 64,
    SHM_NAMES_MAX = 16384, /* services, routes, strategies, ever, in one supervisor's life */
    SHM_NAME_BYTES = 256,
    SHM_COUNTERS_MAX = 4096, /* named atomic counters for Lua */
    SLOT_NONE = UINT32_MAX,
    SLOT_ID_BYTES = 256,
    SLOT_HOST_BYTES = 256,
    SLOT_PATH_BYTES = 1024,
    SLOT_ZONE_BYTES = 64,
    SLOT_META_BYTES = 2048,
};

/* state, word */
#define SLOT_STATES(X)                                                                                       \
    X(FREE, "free")                                                                                          \
    X(UNPROVEN, "unproven") /* new; picked only when nothing better is left */                               \
    X(HEALTHY, "healthy")                                                                                    \
    X(SUSPECT, "suspect")     /* its lease lapsed; still picked, probed, maybe gone */                       \
    X(UNHEALTHY, "unhealthy") /* failed its probes: never picked */                                          \
    X(EJECTED, "ejected")     /* by passive evidence: picked when nothing else is left */                    \
    X(DRAINING, "draining")   /* no new requests but bound sessions */                                       \
    X(MAINTENANCE, "maintenance")                                                                            \
    X(GONE, "gone") /* removed; waits for its last request before it is free */
#define X(name, word) SLOT_##name,
enum slot_state { SLOT_STATES(X) SLOT_STATE_COUNT };
#undef X
const char *slot_state_word(enum slot_state state);

/* Two cache lines an endpoint: one that control writes, one of counters that every worker bumps. */
struct slot {
    /* control writes, under seq (odd while writing) */
    _Atomic uint32_t seq;
    uint32_t incarnation; /* moves each time the slot gets a new owner */
    uint32_t service;     /* shm_name id of the config service */
    uint32_t state;       /* enum slot_state */
    uint32_t weight;      /* 0: takes no new requests */
    uint32_t port;
    uint64_t since_us; /* of the state; monotonic */
    uint64_t up_us; /* when it began or last became healthy out of a bad state: slow start counts from here */
    uint64_t text_hash; /* of the slot_text row: workers re-read it only when it moved */
    uint64_t until_us;  /* EJECTED: when its ejection is over */
    uint32_t ejections; /* how often it was ejected without a good time in between */
    /* every worker, relaxed atomics */
    alignas(64) _Atomic uint32_t active; /* requests between pick and end of response, over all workers */
    _Atomic uint32_t failures;           /* gateway failures in a row; a success sets 0 */
    _Atomic uint32_t latency_ewma_us;
    _Atomic uint32_t latency_stamp_ms; /* monotonic, wraps; when the ewma was last moved */
    _Atomic uint32_t load_milli;       /* as the backend reported it, × 1000 */
    _Atomic uint32_t error_row;        /* attempts in a row that failed or were answered by a 5xx */
    _Atomic uint64_t requests, errors; /* ever, in this incarnation; errors: those that failed */
    _Atomic uint64_t server_errors;    /* ... and those that were answered by a 5xx */
    _Atomic uint32_t trial;            /* enum trial */
};
static_assert(offsetof(struct slot, active) == 64, "the workers' counters have a cache line of their own");
static_assert(sizeof(struct slot) == 128, "a slot is two cache lines");

/* The request that says whether an ejection is over: one over all workers, and no other until it is known how
 * it went. Control offers it and acts on its outcome; a worker takes it with a pick and ends it. */
enum trial {
    TRIAL_NONE,
    TRIAL_OPEN,   /* the next pick may have it */
    TRIAL_TAKEN,  /* a request has it */
    TRIAL_PASSED, /* it was answered */
    TRIAL_ERROR,  /* it was answered by a 5xx */
    TRIAL_FAILED, /* it failed */
};

/* The long part, same index, written by control under the slot's seq. */
struct slot_text {
    char id[SLOT_ID_BYTES];
    char host[SLOT_HOST_BYTES]; /* as registered; what Lua and metrics show */
    char zone[SLOT_ZONE_BYTES];
    char reason[128];                  /* of the state: "3 probes failed: connect refused" */
    char path_prefix[SLOT_PATH_BYTES]; /* of the instance's url: stands before the request's path; "" for none
                                        */
    char health_path[SLOT_PATH_BYTES]; /* the instance's own, "" for the policy's */
    char metadata[SLOT_META_BYTES];    /* JSON object or "" */
    uint32_t address_len;
    uint32_t origin; /* 0 static, 1 registry: control's own */
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } address; /* resolved: workers connect to this and never ask DNS */
};

/* name; process-wide counters any process may bump, shown as fluxgate_NAME_total */
#define SHM_TOTALS(X)                                                                                        \
    X(worker_restarts)                                                                                       \
    X(control_restarts)                                                                                      \
    X(registry_restarts)                                                                                     \
    X(reloads)                                                                                               \
    X(reload_failures)                                                                                       \
    X(log_dropped)                                                                                           \
    X(access_log_dropped)                                                                                    \
    X(script_errors)                                                                                         \
    X(script_fallbacks)                                                                                      \
    X(script_quarantines)                                                                                    \
    X(script_runaways)                                                                                       \
    X(metric_overflows)                                                                                      \
    X(dict_full)                                                                                             \
    X(script_abandonments)                                                                                   \
    X(script_memory_runaways)                                                                                \
    X(stats_series_dropped)                                                                                  \
    X(connections_accepted)                                                                                  \
    X(connections_refused)                                                                                   \
    X(bad_requests)                                                                                          \
    X(retries)                                                                                               \
    X(upstream_connects)                                                                                     \
    X(upstream_reused)                                                                                       \
    X(registry_sync_errors)                                                                                  \
    X(registry_sync_updates)                                                                                 \
    X(probes)                                                                                                \
    X(probe_failures)                                                                                        \
    X(ejections)                                                                                             \
    X(panics)                                                                                                \
    X(registry_bad_instances)                                                                                \
    X(tunnels)                                                                                               \
    X(ipc_errors)

/* word, meaning; why client connections were closed, shown as
 * fluxgate_connections_closed_total{reason="word"} */
#define SHM_CLOSES(X)                                                                                        \
    X(CLIENT, "client")       /* it closed or reset it */                                                    \
    X(IDLE, "idle")           /* timeouts.keepalive */                                                       \
    X(REQUESTS, "requests")   /* limits.keepalive_requests */                                                \
    X(AGE, "age")             /* limits.max_connection_age */                                                \
    X(SLOW, "client_timeout") /* a head or a body that came too slowly */                                    \
    X(BAD, "bad_request")     /* what stood behind it is not to be trusted */                                \
    X(ANSWERED, "answered")   /* its answer was the last: Connection: close, HTTP/1.0, an early answer */    \
    X(CUT, "cut")             /* inside an answer that has no end */                                         \
    X(TUNNEL, "tunnel")       /* an upgraded one is over */                                                  \
    X(DRAINING, "draining")                                                                                  \
    X(LIMIT, "limit")               /* limits.connections, or a listener's, at the door */                   \
    X(CLIENT_LIMIT, "client_limit") /* limits.connections_per_client, at the door */                         \
    X(RECLAIMED, "reclaimed")       /* descriptors ran short */
#define X(name, word) SHM_CLOSE_##name,
enum shm_close { SHM_CLOSES(X) SHM_CLOSE_COUNT };
#undef X

struct shm_totals {
#define X(name) _Atomic uint64_t name;
    SHM_TOTALS(X)
#undef X
    _Atomic uint64_t closed[SHM_CLOSE_COUNT];
};

/* What a worker's requests and retries were in each of the last seconds (core/proxy/retry.c): the retry
 * budget is of all workers together. The worker writes its own; every worker reads all. `second` is 0 where
 * there is none. */
enum { SHM_BUDGET_SECONDS = 10 };
struct shm_budget {
    struct {
        _Atomic uint64_t second;
        _Atomic uint32_t requests, retries;
    } seconds[SHM_BUDGET_SECONDS];
};

/* One a worker. The worker writes it; supervisor and control read. */
struct shm_worker {
    alignas(64) _Atomic int32_t pid;
    _Atomic uint32_t generation;         /* config generation it serves new requests on */
    _Atomic uint64_t heartbeat_us;       /* monotonic, once a loop turn and at least each 100 ms */
    _Atomic uint64_t endpoints_seen;     /* endpoints_version its arrays are built from */
    _Atomic uint64_t in_script_since_us; /* 0: not inside Lua; the watchdog's mark */
    _Atomic uint32_t script;             /* shm_name id of the script it is in */
    _Atomic uint32_t connections, streams, tunnels;
    _Atomic uint64_t script_bytes; /* memory of its Lua state */
    _Atomic uint32_t draining;
    alignas(64) struct shm_budget budget; /* kept over restarts: what was retried was retried */
};

struct shm_params {
    uint32_t max_endpoints;
    size_t stats_bytes;  /* region a worker for core/metrics; page rounded */
    size_t ring_bytes;   /* log ring a worker; a power of two */
    uint64_t dict_bytes; /* of a shared dictionary; 0: 16 MiB */
    uint32_t dicts;      /* how many of them; 0: 32 */
};

struct shm; /* opaque: the mapping's header and offsets */

/* Maps the segment; the handle lives in it, so forked children use the same pointer. NULL with errno. */
MUST_CHECK
struct shm *shm_create(const struct shm_params *params);
void shm_destroy(struct shm *shm);

/* Control, once at its start and before any other call that writes the table: repairs what a predecessor
 * killed in the middle of a write left behind, and makes the index of slot_find anew. Harmless on a fresh
 * segment. */
void shm_control_adopt(struct shm *shm);

struct shm_totals *shm_totals(struct shm *shm);
struct shm_worker *shm_worker(struct shm *shm, unsigned worker); /* worker < SHM_WORKERS_MAX */
void *shm_stats_region(
    struct shm *shm, unsigned worker, size_t *bytes); /* zeroed at start, kept over worker restarts */
const uint8_t *shm_secret(const struct shm *shm);     /* 32 random bytes of this supervisor's life */

/* Names: text to a small id, for ever. shm_name_add is for the supervisor alone (before it sends a generation
 * out); everyone looks up. UINT32_MAX: full or too long / unknown. */
uint32_t shm_name_add(struct shm *shm, struct slice name);
uint32_t shm_name_find(struct shm *shm, struct slice name);
const char *shm_name_text(struct shm *shm, uint32_t id); /* "" for an id never given */

/* Connections by client address, over all workers, for limits.connections_per_client. `key` is a hash of the
 * address that clients can't choose, not 0. client_begin counts one and returns how many there are, it
 * included; where a worker's table is full it counts nothing and returns 0: the limit then lets pass. A
 * worker empties its own table when it starts. */
uint32_t client_begin(struct shm *shm, unsigned worker, uint64_t key);
void client_end(struct shm *shm, unsigned worker, uint64_t key);
void clients_clear(struct shm *shm, unsigned worker);

/* A named 64-bit counter for Lua, made on first use by any process, kept over reloads. NULL where full or
 * where the name is longer than SHM_NAME_BYTES - 1. */
_Atomic uint64_t *shm_counter(struct shm *shm, struct slice name);
_Atomic uint64_t *shm_counter_find(struct shm *shm, struct slice name); /* NULL also where nobody made it */

/* ---- the endpoint table
 * -------------------------------------------------------------------------------------------- */
uint32_t shm_slots(const struct shm *shm);             /* highest slot in use + 1: where a scan ends */
uint64_t shm_endpoints_version(const struct shm *shm); /* moves with every publish. Hot: one load */
struct slot *slot_at(struct shm *shm, uint32_t slot);  /* NULL where out of range */

/* Consistent copy of the cold line (the counters as they happen to stand) and, where text is not NULL, of the
 * text. False where the slot is free or out of range; also, and then cold->seq is odd, where its writer
 * stopped in the middle: the version moves once that is repaired, and until then a reader keeps what it had.
 */
bool slot_read(struct shm *shm, uint32_t slot, struct slot *cold, struct slot_text *text);

/* Control only. slot_claim takes a free slot (counters zero, incarnation + 1, state UNPROVEN or as given) and
 * publishes it; SLOT_NONE where the table is full. slot_update rewrites text and weight; slot_set_state the
 * state and its reason. slot_remove sets GONE; shm_reap frees GONE slots whose active is 0 and which every
 * live worker has seen gone. An update keeps the id and the reason, and one that changes nothing publishes
 * nothing; text_hash and the version do not move for a reason alone. slot_find passes over what is GONE. */
MUST_CHECK
uint32_t slot_claim(struct shm *shm, uint32_t service, enum slot_state state, uint32_t weight, uint32_t port,
    const struct slot_text *text);
void slot_update(
    struct shm *shm, uint32_t slot, uint32_t weight, uint32_t port, const struct slot_text *text);
void slot_set_state(struct shm *shm, uint32_t slot, enum slot_state state, const char *reason);
/* EJECTED until then, for the nth time in a row; slot_offer_trial puts an ejected one on trial, or once more
 * where nothing came of the last one. Any other state ends both. */
void slot_eject(struct shm *shm, uint32_t slot, uint64_t until_us, uint32_t ejections, const char *reason);
void slot_offer_trial(struct shm *shm, uint32_t slot, const char *reason);
void slot_remove(struct shm *shm, uint32_t slot);
unsigned shm_reap(struct shm *shm);
uint32_t slot_find(
    struct shm *shm, uint32_t service, struct slice id); /* control: linear or indexed; SLOT_NONE */

/* Workers. Each worker has a column of its own, so that the requests of one that died are taken off again.
 * Hot. */
void slot_begin(struct shm *shm, unsigned worker, uint32_t slot);
void slot_end(struct shm *shm, unsigned worker, uint32_t slot);
uint32_t slot_active(struct shm *shm, uint32_t slot);
/* Result of an attempt: latency into the EWMA (time constant 10 s by the stamp), failures in a row. `failed`:
 * a gateway failure (connect, reset, timeout, bad response), never the client's leaving; it never lowers the
 * EWMA, and on an endpoint without one it counts as 1 s at least. Hot. */
void slot_observe(struct shm *shm, uint32_t slot, uint32_t latency_us, bool failed, uint64_t now_us);
/* The same for an attempt that was answered by a 5xx: no failure, but no success either. */
void slot_observe_error(struct shm *shm, uint32_t slot, uint32_t latency_us, uint64_t now_us);
/* False: another request has it. Who took it ends it with what became of it, TRIAL_OPEN where nobody knows.
 */
bool slot_take_trial(struct shm *shm, uint32_t slot);
void slot_end_trial(struct shm *shm, uint32_t slot, enum trial outcome);
uint32_t slot_latency_us(struct shm *shm, uint32_t slot, uint64_t now_us); /* decays without traffic */

/* Supervisor, after the worker's process is gone: takes its column off every active count and clears its
 * block. */
void shm_worker_reap(struct shm *shm, unsigned worker);

#endif
