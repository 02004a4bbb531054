/* core/proxy/filtering.h: a stream's filters (core/script/filter.h), shared by filtering.c (the request),
 * collect.c (its body), respond.c (the answer) and transform.c (the answer's body). Internal to core/proxy.
 *
 *   HEAD -> on_request: the route's, then the service's -> pick ... response head -> on_response -> REPLY
 *
 * A chain that waits leaves its stream in FILTER or JUDGE; host.moved puts it on proxy->moved, and
 * proxy_leave goes on with it, so that no chain ends inside a call into its own script. */
#ifndef FLUXGATE_PROXY_FILTERING_H
#define FLUXGATE_PROXY_FILTERING_H
#include "core/proxy/proxy_internal.h"

enum filtering_phase {
    FILTERING_ROUTE,   /* on_request of the route's filters */
    FILTERING_SERVICE, /* on_request of the service's */
    FILTERING_SENT,    /* the request goes its way */
    FILTERING_ANSWER,  /* on_response */
};

enum content_kind {
    CONTENT_OWN,   /* the client's body is sent on as it comes */
    CONTENT_PART,  /* `content` is its first part; the rest comes behind it */
    CONTENT_WHOLE, /* `content` is all that is sent */
};

enum { COLLECTED_MAX = 256 << 20 }; /* bytes of all bodies that filters read, in this worker; past it: 503 */

struct filtering {
    struct stream *stream;
    struct filter_chain *chain; /* NULL: not begun, or over */
    struct link moved;          /* on proxy->moved: the chain goes on, or `task` is to be answered */
    enum filtering_phase phase;
    uint32_t generation;            /* its number: route and service are indexes of it */
    uint32_t first_route, first_id; /* whose filters they are; its shm name */
    bool is_head;                   /* the client's method, whatever a filter made of it */
    uint64_t waited_us, since_us;   /* of timeouts.filter; the present wait */
    struct filter_request request;
    struct filter_response response;
    const struct filter_answer *answer; /* ours, while on_response sees it; NULL: an endpoint's */
    enum reason failure;                /* what `answer` tells of; REASON_NONE: a filter's or a route's */
    const char *ctx;                    /* for on_log */
    bool is_parked; /* another generation picks: request.ctx is its script's, and ours is here */
    int parked_ctx;
    uint64_t parked_generation;

    /* the request's body (collect.c) */
    struct script_task *task; /* waits for it, NULL: none */
    size_t max;
    struct buf *body; /* decoded, as far as it was read */
    enum content_kind kind;
    struct slice content;
    bool is_collected; /* some of it was read, so that it does not stand behind the head any more */
    bool is_sealed;    /* the request goes its way: `raw` is where the client's framing stands */
    bool is_unread;    /* the client's body was replaced and is not all here: nobody will read it */
    struct {
        enum relay_state state;
        enum body_kind from;
        uint64_t left, body_bytes;
        struct h1_chunked chunked;
        struct buf *buf;
        uint32_t at;
    } raw;

    struct transform *transform; /* NULL: the answer's body goes as it comes */
};

/* Before anything can answer the request, whose route is known: its on_log runs at the end. False: no memory.
 */
MUST_CHECK
bool filtering_new(struct stream *stream, uint32_t service);
/* In place of request_send or reply_route, once the headers are what an endpoint would see. */
void filtering_begin(struct stream *stream);
void filtering_on_timeout(struct stream *stream);
uint64_t filtering_left_us(const struct stream *stream); /* of the wait; 0: for ever */
void filtering_run(struct proxy *proxy);                 /* those on proxy->moved */
/* The chain is over: nothing waits any more. */
void filtering_stop(struct stream *stream);
/* The stream ends: status, reason and bytes are known. Runs on_log. */
void filtering_close(struct stream *stream);
/* Another generation picks from now on, whose script has no use for this one's ctx. */
void filtering_park_ctx(struct stream *stream);
void filtering_restore_ctx(struct stream *stream); /* nothing more is picked */
void filtering_wait(struct stream *stream);
void filtering_host(struct proxy *proxy); /* fills proxy->host */

/* collect.c */
void collect_body(struct stream *stream); /* filtering->task is set: answers it, now or later */
void collect_on_readable(struct stream *stream);
void collect_end(struct stream *stream);
/* What the request's body is from here on. */
void content_seal(struct stream *stream);
void content_framing(const struct stream *stream, enum body_kind *body, uint64_t *length);
/* For each attempt: from the first byte; what goes behind the head. */
void content_rewind(struct stream *stream);
void content_queue(struct stream *stream);
/* stream->up is the client's own framing again, behind what was read of it. False: nothing was. */
MUST_CHECK
bool content_restore(struct stream *stream);

/* respond.c */
void respond_to_endpoint(struct stream *stream); /* its head, or its 101, is here */
void respond_with(struct stream *stream, const struct filter_answer *answer);
/* No endpoint answered: the gateway does, and on_response of the filters that let the request go may have a
 * word in it. Ends the attempt. */
void respond_to_failure(struct stream *stream, enum reason reason, const char *sentence);
void respond_went(struct stream *stream, enum filter_verdict verdict);

/* transform.c */
/* After on_response: stages and coding, if any, are between the endpoint's body and `down`. False: no memory.
 */
MUST_CHECK
bool transform_begin(struct stream *stream);
void transform_pump(struct stream *stream, bool may_read); /* stream_pump_down's part */
/* A body that is here as a whole, into the arena. False: a stage failed, or no memory. */
MUST_CHECK
bool transform_whole(struct stream *stream, struct headers *headers, struct slice *body);
void transform_end(struct stream *stream);
#endif
