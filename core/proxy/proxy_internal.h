/* core/proxy/proxy_internal.h: what the files of this room share. One worker, one thread, one event_base.
 *
 *   conn (client socket) --owns--> stream (one request) --owns--> upstream (backend socket)
 *
 * A conn lives from accept to close; it has a stream only between a request's first byte and its response's
 * last. An upstream belongs to a stream, or idles in its endpoint's pool. What is closed rests until the
 * callback ends. */
#ifndef FLUXGATE_PROXY_PROXY_INTERNAL_H
#define FLUXGATE_PROXY_PROXY_INTERNAL_H
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/http/h1.h"
#include "core/http/reason.h"
#include "core/proxy/proxy.h"
#include "core/proxy/relay.h"
#include "core/script/filter.h"
#include "core/shm/ring.h"

enum {
    KEEP_STREAMS = 1024,
    INTERIM_MAX = 16, /* 1xx heads of one answer: more is a broken backend */
    ARENA_STREAM = 8192 + 272,
    COMMON_TIMEOUTS = 64,
    NUDGE_US = 1000000,
    NUDGE_AGAIN_US = 250000,
    NUDGE_QUEUED_US = 50000, /* nobody works for it yet, and others want its place */
    ENDED_US = 2000000,      /* of a backend's silence, where the client said FIN amid its answer */
    EXPECT_US = 200000,      /* a backend that knows Expect has answered by then */
};

/* deadlines (proxy.c) */
/* A timer that is moved by a store: it fires no later than due, and when it fires early it is armed again for
 * the rest, so that a busy connection touches libevent once a timeout and not once a request. */
struct deadline {
    struct event event;
    uint64_t due_us;   /* UINT64_MAX: none */
    uint64_t fires_us; /* of the pending event; 0: not pending */
};
void deadline_set(struct proxy *proxy, struct deadline *deadline, uint64_t due_us);
bool deadline_is_due(
    struct proxy *proxy, struct deadline *deadline); /* in its callback; arms again where it is not */
void deadline_stop(struct deadline *deadline);

/* objects */
/* name, what it awaits */
#define CONN_STATES(X)                                                                                       \
    X(IDLE)   /* the first byte of a request; list idle; timeouts.keepalive */                               \
    X(BUSY)   /* its stream; list busy; the stream's timeout */                                              \
    X(READY)  /* bytes of the next request are here; list ready until the callback ends */                   \
    X(LINGER) /* the peer's FIN after our last answer; list lingering; LINGER_US */                          \
    X(CLOSED) /* the callback's end; list resting */
#define X(name) CONN_##name,
enum conn_state { CONN_STATES(X) };
#undef X

enum conn_input {
    INPUT_OPEN,  /* read event registered */
    INPUT_HELD,  /* taken off while nobody wants the bytes: a level-triggered event would spin */
    INPUT_ENDED, /* FIN was read: the peer may still read */
};

struct conn {
    struct link link;
    struct proxy *proxy;
    struct stream *stream; /* BUSY */
    struct buf *left;      /* READY: bytes past the last request */
    int fd;
    enum conn_state state;
    enum conn_input input;
    uint32_t requests;
    uint32_t discarded; /* LINGER */
    enum shm_close why; /* for the count of closed ones: what is known so far */
    short writing;      /* EV_WRITE while registered */
    bool counted;       /* in shm_worker.connections: one shed at the door is not */
    bool is_inner;      /* the gateway's own, for a fetch (fetch_inner.c): no client, and counted nowhere */
    uint64_t retire_us; /* limits.max_connection_age; UINT64_MAX: never */
    uint64_t client_key, listener_key; /* counted by client_begin; 0: not */
    struct event read, write;
    struct deadline deadline;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer;
    char ip[INET6_ADDRSTRLEN];
};

/* One endpoint as this worker knows it, checked again whenever the table's version moved. */
struct endpoint {
    uint32_t slot, incarnation, service;
    uint64_t version, text_hash, address_hash;
    struct link idle; /* upstreams, the youngest first */
    unsigned idle_count;
    unsigned idle_low;   /* the lowest idle_count since the last sweep: what nobody needed */
    uint64_t trusted_us; /* from when on it does not end young connections, as far as we know; 0: never met */
    socklen_t address_len;
    struct sockaddr_storage address;
    uint32_t id_len, prefix_len, host_len;
    char *id, *prefix, *host; /* one block behind `id`; host with port, for requests without a Host */
};

enum upstream_state {
    UPSTREAM_CONNECTING, /* write event registered */
    UPSTREAM_BUSY,       /* a stream's */
    UPSTREAM_IDLE,       /* in its endpoint's pool; a readable one is closed */
    UPSTREAM_CLOSED,     /* list resting */
};

struct upstream {
    struct link link;
    struct link all; /* proxy->idle while IDLE, oldest last */
    struct proxy *proxy;
    struct stream *stream;
    int fd;
    enum upstream_state state;
    short reading, writing; /* EV_READ, EV_WRITE while registered */
    uint32_t slot, incarnation;
    uint64_t address_hash;
    uint32_t served;
    uint32_t read_bytes; /* that the next answer may need, by the size of the last */
    uint64_t written;    /* by the requests before the present one */
    uint64_t idle_since_us, idle_until_us;
    struct event read, write;
};

/* name, allowed next states */
#define STREAM_STATES(X)                                                                                     \
    X(HEAD)    /* the rest of the request head; client_header */                                             \
    X(FILTER)  /* a filter's fetch, sleep or the request body that it asked for; filter, client_body_gap */  \
    X(QUEUED)  /* room: its turn in the service's line, on proxy->lines; queue_timeout */                    \
    X(BACKOFF) /* the moment to try an endpoint again; resume_us */                                          \
    X(CONNECT) /* the backend's socket; connect */                                                           \
    X(WAIT)    /* the response head, while the request still goes out; client_body_gap, then response */     \
    X(JUDGE)   /* a filter that looks at the response head, which is here; filter */                         \
    X(REPLY)   /* both bodies; stream_idle */                                                                \
    X(ANSWER)  /* the client's socket, for our own answer; stream_idle */                                    \
    X(TUNNEL)  /* bytes of either side; tunnel_idle */                                                       \
    X(CLOSED)  /* the callback's end; list resting */
#define X(name) STREAM_##name,
enum stream_state { STREAM_STATES(X) };
#undef X
enum { STREAM_STATE_COUNT = STREAM_CLOSED + 1 };

/* Bits: what of a stream is to be sent when the turn ends. */
enum outbox_way { OUTBOX_UP = 1, OUTBOX_DOWN = 2 };

enum body_kept {
    BODY_KEPT, /* the head's buffer holds every body byte read so far: the request can be sent again */
    BODY_GONE,
};

struct stream {
    struct link link;
    struct proxy *proxy;
    struct conn *conn;
    enum stream_state state;
    unsigned outgoing;                     /* ways of the outbox; 0: not in it */
    struct link out;                       /* in proxy->outbox */
    struct generation *picker;             /* newer than `generation`: what picks now; NULL */
    struct generation *generation;         /* pinned until the response head is queued; then NULL */
    uint64_t started_us, due_us, nudge_us; /* nudge: when the client is sent 100 Continue; 0: not */
    uint64_t per_try_us;                   /* of an attempt until its response head; 0: none of its own */
    uint64_t resume_us;                    /* BACKOFF: when the next attempt begins */
    struct config_timeouts timeouts;
    uint64_t bytes_in, bytes_out;
    uint64_t body_rate;                     /* limits.body_rate; 0: any */
    uint64_t body_since_us, body_waited_us; /* when the wait for more body began, 0: none; of earlier ones */
    uint64_t taken; /* of bytes_out, what had left the kernel's queue when it was last looked at */

    /* the request */
    struct h1_parser parser;
    struct buf *in;   /* the head, and what of the body fits behind it */
    struct buf *body; /* what does not */
    enum body_kept kept;
    struct slice path, query; /* normal form as matched; query as it came */
    struct slice target;      /* path after rewrite, before the endpoint's prefix */
    struct slice host, request_id, upgrade_list;
    const struct config_route *route; /* while the generation is pinned */
    const struct config_retry *retry; /* the same: of the route, or of the service in `generation` */
    uint32_t route_id, service_id, strategy_id; /* shm names; UINT32_MAX */
    struct script_request request;              /* its `service` is an index in stream_picker's config */
    uint32_t head_bytes;
    struct filtering *filtering; /* filtering.h; NULL: neither its route nor its service has filters */

    /* limits (queueing.c) */
    struct line *line; /* of its service, from the first look at its limits to attempt_end */
    uint64_t ticket;   /* QUEUED; 0: none */
    struct link place; /* in the line while it has a ticket */
    uint32_t bound;    /* the slot that the ticket waits for; SLOT_NONE */
    bool in_service;   /* counted by queue_try_begin */
    uint64_t queued_us, queue_timeout_us;

    /* the present attempt */
    struct upstream *upstream;
    uint32_t slot;                        /* counted by slot_begin until slot_end; SLOT_NONE */
    uint32_t last_slot, last_incarnation; /* the last one tried, for log and statistics */
    uint64_t picked_us;
    uint64_t sent;          /* request bytes the kernel took in this attempt */
    uint64_t stay_until_us; /* its place is held until then though it failed; 0: it did not */
    bool pooled;            /* the attempt runs on a connection that served before */
    bool was_reset;         /* its connection, without a FIN: the end that recv(2) tells of is none */
    bool met_stale;         /* such a one was at its end: this request takes no other */
    uint32_t attempts;

    /* the response */
    struct h1_parser response;
    struct buf *back;
    uint32_t interims, hidden; /* hidden: of them, those that the client was not sent */
    int status;                /* final, as the client saw it; 0 before */
    enum reason reason;
    bool keep_alive; /* of the client's connection after this answer */
    bool upgrade;    /* asked of the backend */
    bool continued;  /* the first interim answer is our own 100: it says nothing of an endpoint */

    /* what a new request does not find zeroed */
    struct arena arena;
    struct relay up, down; /* to the backend, to the client */
};

struct listener {
    struct event event;
    int fd;
    uint64_t inode, device;
    unsigned burst; /* accepts tried an event: grows while the queue is long */
    size_t place;   /* among the config's listeners; SIZE_MAX: not there any more */
    struct proxy *proxy;
};

enum drain_state { DRAIN_NO, DRAIN_RUNNING, DRAIN_DONE };
enum { DRAIN_FRESH_US = 1000000 }; /* for the next request of a connection just accepted or answered */

struct proxy {
    struct event_base *base;
    struct shm *shm;
    struct shm_worker *block;
    struct shm_totals *totals;
    struct ring *ring;
    struct stats *stats;
    unsigned worker;
    struct generation *generation; /* the newest */
    struct generation *retired;    /* nobody's any more: the sweep frees them */
    struct script_host host;
    size_t collected_bytes; /* collect.c */
    struct link moved;      /* struct filtering: chains that waited and go on, for proxy_leave */
    uint64_t endpoints_version;
    uint64_t now_us; /* of the present callback */

    struct listener **listeners;
    size_t listener_count;
    struct event accept_resume;
    bool accept_paused;
    uint32_t connection_cap; /* half of the descriptors: each request needs two */
    unsigned shedding;       /* connections told 503 at the door and lingering */

    struct link idle_conns, busy_conns, ready_conns, lingering; /* conns by state */
    struct link streams, upstreams;                             /* live; upstreams: CONNECTING and BUSY */
    struct link idle_upstreams;                                 /* by `all` */
    struct link resting_conns, resting_streams, resting_upstreams;
    uint32_t connections, stream_count, tunnels;

    struct fetcher *fetcher; /* NULL until the first fetch */
    uint32_t fetch_sockets;  /* descriptors of fetches, the endpoints' included */

    struct endpoint **endpoints; /* by slot */
    uint32_t endpoint_cap;

    struct buf_pool buffers;
    struct pipe_pool pipes;
    struct stream *free_streams[KEEP_STREAMS]; /* the last given is the first taken */
    unsigned free_stream_count;

    struct link outbox; /* streams whose small messages leave when the turn ends */
    unsigned outbox_count;
    struct event outbox_turn;
    struct batch *batch; /* sends the outbox in one system call; NULL: one by one */

    struct event sweep;
    struct {
        uint64_t us;
        const struct timeval *tv;
    } common[COMMON_TIMEOUTS];
    unsigned common_count;

    uint64_t random[4];
    char date[64];
    uint64_t date_second;
    uint64_t wall_offset_us; /* added to now_us: the wall clock, put right with each sweep */
    char log_time[25];
    uint64_t log_second;

    /* limits (queueing.c) */
    struct link lines;          /* of every service that was ever limited */
    struct line **line_by_name; /* by shm name */
    uint32_t waiting;           /* streams with a ticket */
    /* somebody's turn may have come, or a filter goes on; endpoints or limits moved: for proxy_leave */
    bool is_woken, is_changed;
    bool polls; /* somebody waits for what no wake-up tells */
    struct event wake, poll;
    int wake_fds[SHM_WORKERS_MAX]; /* borrowed */
    unsigned wake_count;

    /* what failed attempts cost (stay.c) */
    uint32_t *p90_us; /* of each service's latency, by shm name; 0: nothing known */
    struct link stays;
    struct event stay_end;
    uint32_t stay_count;

    enum drain_state drain;
    uint64_t drain_requests_us, drain_tunnels_us; /* when what is left is cut */
    void (*drain_done)(void *);
    void *drain_context;
};

/* proxy.c */
void proxy_enter(struct proxy *proxy);   /* first in each callback */
void proxy_leave(struct proxy *proxy);   /* last in each callback: begins READY requests, frees what rests */
void proxy_refresh(struct proxy *proxy); /* where the endpoint table moved */
struct slice proxy_date(struct proxy *proxy);
uint64_t proxy_random(struct proxy *proxy);
void generation_get(struct generation *generation);
void generation_put(struct generation **generation);

/* accept.c */
void accept_start(struct proxy *proxy);  /* registers what is not registered */
void accept_resume(struct proxy *proxy); /* a descriptor came free */
void accept_stop(struct proxy *proxy);   /* empties the queues, closes the sockets */
/* What merely idles gives its descriptor away. False: nothing does. */
bool proxy_reclaim(struct proxy *proxy);

/* conn.c */
MUST_CHECK
struct conn *conn_new(struct proxy *proxy, int fd, const struct sockaddr *peer);
/* A conn that begins a block of `size` bytes, whose client is a fetch of this proxy. */
MUST_CHECK
struct conn *conn_new_inner(struct proxy *proxy, int fd, size_t size);
void conn_shed(struct conn *conn, enum shm_close why); /* 503 and a close, without a stream */
/* Whether another request may follow the present one; else notes why not. */
bool conn_may_stay(struct conn *conn);
/* At the door: false where limits.connections_per_client is passed already. */
MUST_CHECK
bool conn_is_within_client_limit(struct conn *conn);
/* The same for the limit of the config's listener at `place`, where there is one. */
MUST_CHECK
bool conn_is_within_listener_limit(struct conn *conn, size_t place);
/* After a reload, which may have set that limit: counts who is in already, and sheds nobody. */
void conns_count_clients(struct proxy *proxy);
void conn_close(struct conn *conn);
void conn_reset(struct conn *conn); /* the peer sees RST: an answer without its end */
void conn_linger(
    struct conn *conn); /* SHUT_WR, then reads until FIN, bounded: the peer gets our last answer whole */
/* The stream is over. `left` (taken) holds bytes of the next request, or is NULL. */
void conn_next(struct conn *conn, struct buf **left);
void conn_begin(struct conn *conn); /* READY: the next request from the bytes that are here */
void conn_want_read(struct conn *conn, bool want);
void conn_want_write(struct conn *conn, bool want);
void conn_free(struct conn *conn);
/* Descriptors ran short: closes up to `count` connections, the longest idle first; how many. */
unsigned conn_reclaim(struct proxy *proxy, unsigned count);

/* stream.c */
MUST_CHECK
struct stream *stream_new(struct conn *conn, struct buf *in); /* takes `in` where it succeeds */
void stream_enter(struct stream *stream, enum stream_state state);
void stream_arm(struct stream *stream); /* something moved: the state's timeout starts again */
void stream_close(struct stream *stream, enum reason reason);
void stream_on_readable(struct stream *stream); /* the client's socket */
void stream_on_writable(struct stream *stream);
void stream_on_timeout(struct stream *stream);
void stream_rest_free(struct proxy *proxy, struct stream *stream);
void stream_release_generation(struct stream *stream);
const char *stream_state_word(enum stream_state state);
void stream_client_gone(struct stream *stream);
bool stream_is_reset(const struct stream *stream); /* the client's socket saw RST */
/* Nobody waits for leave to send a body any more; a client that said FIN is still asked whether it is there.
 */
void stream_calm(struct stream *stream);

/* request.c: `in` holds (more of) a request head; reads more of it */
void request_on_bytes(struct stream *stream);
void request_read_head(struct stream *stream);
/* For what filters may change: a service of the route by weight; the path that is sent on, before `rewrite`;
 * what holds for this service. The last two are false where they answered. */
uint32_t request_choose_service(struct proxy *proxy, const struct config_route *route);
MUST_CHECK
bool request_set_target(struct stream *stream);
MUST_CHECK
bool request_settle(struct stream *stream, uint32_t service);
void request_send(struct stream *stream); /* all is settled: to an endpoint of its service */

/* transfer.c: bodies, as far as they go now; either may close the stream */
void stream_pump_up(struct stream *stream, bool may_read);
void stream_pump_down(struct stream *stream, bool may_read);
void stream_cut(struct stream *stream, enum reason reason); /* after the head: the backend's fault */
enum body_read {
    BODY_READ,
    BODY_READ_ALL, /* and there may be more */
    BODY_AGAIN,
    BODY_FAILED, /* the stream is closed */
};
enum { READ_ROUNDS = 8 }; /* full buffers in a row before others get their turn */
/* The next bytes of the response's body, for a relay that decodes it; without splice where that is not
 * `down`.
 */
enum body_read stream_read_back(struct stream *stream, struct relay *relay);
/* The answer's body has ended in `relay`: what the backend sent behind it ends the connection. */
void stream_look_behind(struct stream *stream, const struct relay *relay);
void stream_wait_for_back(struct stream *stream);
/* The request's body is no valid one: an answer, or the end where one is under way. */
void stream_body_broken(struct stream *stream);

/* outbox.c: stream_pump_up or stream_pump_down when the loop turn ends, or now where there is much to send or
 * nothing. Hot. */
void outbox_put(struct stream *stream, enum outbox_way way);
void outbox_take(struct stream *stream); /* it has nothing to send any more */
bool outbox_is_full(const struct proxy *proxy);
void outbox_send(struct proxy *proxy);
void outbox_init(struct proxy *proxy);
void outbox_fini(struct proxy *proxy);

/* attempt.c */
void attempt_begin(struct stream *stream);
void attempt_run(struct stream *stream, uint32_t slot);       /* on which it is counted */
void attempt_none(struct stream *stream, enum reason reason); /* there is no endpoint to try now */
void attempt_fail(
    struct stream *stream, enum reason reason); /* retries or answers; before the response head only */
void attempt_end(
    struct stream *stream); /* takes the request off its endpoint; gives or closes the connection */
/* An answer came that `retry.status` names, or a 408 of a pooled connection that the endpoint closes. True:
 * it was dropped, and the request goes on elsewhere. */
bool attempt_replay(struct stream *stream);
void attempt_resume(struct stream *stream); /* BACKOFF is over */
void attempt_observe(struct stream *stream, int status, enum reason failure, const struct headers *headers);
void attempt_failed(struct stream *stream); /* its endpoint's counts alone; no harm where there is none */
void attempt_on_connected(struct stream *stream);
void attempt_on_readable(struct stream *stream);
void attempt_on_writable(struct stream *stream);

/* queueing.c: limits of endpoints and services. A request that finds no room has a place in its service's
 * line (core/shm/queue.h) until it is its turn. */
void queueing_init(struct proxy *proxy);
void queueing_fini(struct proxy *proxy);
/* In place of pick and slot_begin: runs the attempt, answers, or enters QUEUED. */
void queueing_begin(struct stream *stream);
/* After slot_end: gives up its place in the service or in the line, and wakes whose turn it is. */
void queueing_end(struct stream *stream);
void queueing_wake(struct proxy *proxy, uint32_t service_id); /* after a slot_end without a stream */
void queueing_on_timeout(struct stream *stream);
uint64_t queueing_left_us(const struct stream *stream); /* of the wait */
void queueing_run(struct proxy *proxy);                 /* proxy->is_woken: runs those whose turn has come */
void queueing_sweep(struct proxy *proxy);               /* now and then */

/* What picks for this stream. */
static inline struct generation *
stream_picker(const struct stream *stream)
{
    return stream->picker != NULL ? stream->picker : stream->generation;
}

static inline bool
queueing_is_limited(const struct stream *stream)
{
    const struct config_queue_limits *limits =
        &stream_picker(stream)->config->services[stream->request.service].queue;
    return (limits->active_per_endpoint | limits->active) != 0;
}

/* stay.c: a failed attempt never makes an endpoint look good: it counts as at least its service's p90 in
 * latency_ewma, and stays in `active` for that long. latency_note takes the time to an answer's head. Hot. */
void latency_note(struct proxy *proxy, uint32_t service_id, uint32_t latency_us);
uint32_t latency_p90_us(const struct proxy *proxy, uint32_t service_id);
/* slot_end later, without a connection or a stream. False: the caller is to do it now. */
MUST_CHECK
bool stay_begin(struct proxy *proxy, uint32_t slot, uint32_t service_id, uint64_t due_us);
void stays_end(struct proxy *proxy, uint64_t until_us); /* those that are due then */
MUST_CHECK
bool stays_init(struct proxy *proxy);
void stays_fini(struct proxy *proxy);

/* slow.c: the pace of a client. What it takes of an answer shows in the kernel's queue long before its socket
 * is writable again, for which a third of the queue must be free: minutes for a slow client. */
enum taking { TAKES_NOTHING, TAKES_LITTLE /* below limits.body_rate */, TAKES_ENOUGH };
void client_blocks(struct stream *stream);
enum taking client_takes(struct stream *stream, uint64_t waited_us); /* since the last call of either */
/* The pace of a request body. */
void body_waits(struct stream *stream);            /* for the client, who alone holds it up */
void body_moves(struct stream *stream);            /* some came */
uint64_t body_due_us(const struct stream *stream); /* when it will have been too slow; UINT64_MAX: never */

/* response.c */
void response_on_bytes(struct stream *stream);
void response_send(struct stream *stream); /* the final head and what follows; filters have seen it */
void response_send_continue(struct stream *stream);
void response_flush_interim(struct stream *stream);

/* reply.c: our own answers. `reason` goes to the log; status 0 takes the reason's own. */
void reply_reason(struct stream *stream, enum reason reason, int status, const char *sentence);
/* What reply_reason would send. False: no memory. */
MUST_CHECK
bool reply_make(struct stream *stream, enum reason reason, int status, const char *sentence,
    struct filter_answer *answer);
void reply_route(struct stream *stream); /* redirect and respond */
void reply_answer(struct stream *stream, const struct filter_answer *answer);
void reply_text(struct stream *stream, int status, const char *type, struct slice body, struct slice name,
    struct slice value);

/* forward.c */
/* The headers that the endpoint sees, but for what filters change. */
MUST_CHECK
bool forward_request(struct stream *stream);
MUST_CHECK
bool forward_rewrite(struct stream *stream); /* the route's `rewrite` of stream->target */
/* The request bears our own name in Via (config's `via`, not NULL): it came back. */
bool forward_is_loop(const struct stream *stream);
MUST_CHECK
bool forward_write_request(struct stream *stream, const struct endpoint *endpoint, struct slice *head);
/* The response's headers as filters see them, and then its head. */
MUST_CHECK
bool forward_response(struct stream *stream);
void forward_show_length(struct headers *headers); /* Content-Length again, after hop-by-hop fields went */
MUST_CHECK
bool forward_write_response(struct stream *stream, struct slice *head);
bool forward_request_id_is_valid(struct slice id);
bool forward_traceparent_is_valid(struct slice value);
/* The client's address: the peer's, or where the peer is trusted the rightmost one of X-Forwarded-For that is
 * not. */
struct slice forward_client_ip(const struct config *config, const struct headers *headers,
    const struct sockaddr *peer, struct slice peer_ip);

/* route.c */
struct route_table;
MUST_CHECK
struct route_table *route_table_new(
    struct shm *shm, const struct config *config, const struct script *script);
void route_table_free(struct route_table *table);
struct route_request {
    enum method method;
    struct slice method_text, host, path, query;
    const struct headers *headers;
};
/* First match in the file's order; NULL where there is none. Hot. */
const struct config_route *route_find(const struct route_table *table, const struct route_request *request);
uint32_t route_name_id(const struct route_table *table, const struct config_route *route);
uint32_t route_service_id(const struct route_table *table, uint32_t service);
uint32_t route_strategy_id(const struct route_table *table, uint32_t service);
/* By name; false: there is none. And the route that a fetch's requests to it take. */
bool route_find_service(const struct route_table *table, struct slice name, uint32_t *service);
const struct config_route *route_inner(const struct route_table *table, uint32_t service_id);
uint32_t route_inner_id(const struct route_table *table);
bool route_prefix_matches(struct slice path, struct slice prefix); /* by segment */
bool route_host_matches(struct slice pattern, struct slice host);

/* upstream.c */
struct endpoint *endpoint_get(struct proxy *proxy, uint32_t slot); /* NULL: gone */
struct endpoint *endpoint_find(
    struct proxy *proxy, uint32_t slot, uint32_t incarnation); /* as last known; NULL */
void endpoints_check(struct proxy *proxy); /* the table moved: drops what is gone, with its connections */
void endpoints_fini(struct proxy *proxy);
/* An idle connection, NULL where none may be used by this request: one that could not be sent again, should
 * the endpoint be closing the connection, takes only a young one, of an endpoint that is trusted. */
struct upstream *upstream_take(struct endpoint *endpoint, uint64_t now_us, bool is_replayable);
/* A new one, CONNECTING (or BUSY where the kernel connected at once). NULL with errno. */
MUST_CHECK
struct upstream *upstream_connect(struct proxy *proxy, const struct endpoint *endpoint);
/* Back to the pool, or closed where it is full or the endpoint changed; *upstream becomes NULL. */
void upstream_give(struct upstream **upstream, uint64_t idle_us);
/* The endpoint ended it, idle or just taken from the pool. */
void upstream_note_end(const struct upstream *upstream);
void upstream_close(struct upstream *upstream);
/* Nothing to read, not even an end. */
bool upstream_is_quiet(const struct upstream *upstream);
void upstream_want_read(struct upstream *upstream, bool want);
void upstream_want_write(struct upstream *upstream, bool want);
void upstream_sweep(struct proxy *proxy);
/* The peer of a TCP socket sent FIN before any byte of the present request, behind `before` bytes of earlier
 * ones, reached it: it was never executed (unread.c). */
bool socket_is_unread(int fd, uint64_t before);
void upstream_free(struct upstream *upstream);
uint64_t upstream_idle_us(uint64_t configured_us, uint32_t keep_alive_s);

/* retry.c */
struct retry_case {
    enum reason reason; /* NONE: the endpoint gave an answer that `status` names */
    bool idempotent;
    bool pooled;
    enum body_kept kept;
    uint64_t sent;   /* bytes of the request that the kernel took */
    bool answered;   /* a byte of any endpoint's response reached the client */
    bool head_began; /* the endpoint sent at least a status line */
    bool per_try;    /* it was the attempt's own time that ran out */
    uint32_t attempts;
};
enum retry_verdict { RETRY_NO, RETRY_SAME, RETRY_OTHER };
/* SAME: on a fresh connection to the same endpoint, for the pooled one was stale; OTHER: another endpoint. */
enum retry_verdict retry_decide(const struct config_retry *config, const struct retry_case *retry);
/* Before the next attempt on an endpoint that failed already, after `attempts` (at least 1). */
uint64_t retry_backoff_us(uint32_t attempts, uint64_t random);
void budget_count_request(struct shm_budget *budget, uint64_t now_us); /* the worker's own */
/* Of all workers; counts it where it is allowed. */
bool budget_take_retry(struct shm *shm, unsigned worker, uint32_t percent, uint64_t now_us);

/* accesslog.c */
void accesslog_write(struct stream *stream, uint64_t duration_us);
/* logline.c: log.access_format as a line with $names; returns where it ends, at most `end`. */
char *logline_write(
    const struct stream *stream, const char *pattern, uint64_t duration_us, char *out, const char *end);

/* tunnel.c */
void tunnel_open(struct stream *stream);
void tunnel_begin(struct stream *stream); /* filters have seen the 101 */
void tunnel_pump(struct stream *stream, bool client_readable, bool upstream_readable);

/* drain.c */
void drain_check(struct proxy *proxy);

/* fetch_inner.c: of a conn that is_inner */
bool inner_is_left(const struct conn *conn); /* nobody waits for its answer any more */
uint32_t inner_service(const struct conn *conn);
void inner_note(struct conn *conn, enum reason reason); /* why the gateway itself ended its request */
void inner_closed(struct conn *conn);

/* fetch.c */
void fetcher_close_idle(struct fetcher *fetcher);
bool fetcher_reclaim(struct fetcher *fetcher); /* the longest idle; false: none is */
void fetcher_free(struct fetcher *fetcher);    /* cancels what runs; outside the loop */

#endif
