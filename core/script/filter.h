/* core/script/filter.h: the filters of a stream. A chain runs on_request of each filter in the order of the
 * route's list, then of the service's, and on_response in the reverse; each callback is a coroutine that may
 * wait. Filters fail closed: an error, a time-out or a quarantine is FILTER_FAILED unless the filter's use
 * says `on_error: skip`. */
#ifndef FLUXGATE_SCRIPT_FILTER_H
#define FLUXGATE_SCRIPT_FILTER_H
#include <stdbool.h>
#include <stdint.h>

#include "core/script/host.h"
#include "core/script/script.h"

struct filter_chain;

enum filter_verdict {
    FILTER_GO,       /* the phase is done: go on */
    FILTER_WAIT,     /* host->moved will be called */
    FILTER_ANSWERED, /* a filter answered: filter_request.answer or filter_response.answer */
    FILTER_FAILED,   /* filter_request.failure says how */
};

enum filter_change {
    FILTER_METHOD = 1 << 0,
    FILTER_PATH = 1 << 1,
    FILTER_QUERY = 1 << 2,
    FILTER_HOST = 1 << 3,
    FILTER_ROUTE = 1 << 4,   /* the proxy chooses among that route's services: clears FILTER_SERVICE */
    FILTER_SERVICE = 1 << 5, /* this service, whatever the route says */
    FILTER_BODY = 1 << 6,
};

struct filter_answer { /* in the stream's arena; the headers are checked, without framing */
    int status;
    struct headers headers;
    struct slice body;
};

/* What filters see of a request and change in it. The proxy fills it and keeps it in the stream's arena, and
 * reads back what `changed` names after each phase. */
struct filter_request {
    struct script_request
        *pick;               /* method, path (normal form), query, host, client_ip, ctx; changed in place */
    struct headers *headers; /* those that pick->headers points to; changed in place */
    struct slice id, scheme; /* X-Request-Id; "http" or "https" */
    uint32_t route;          /* index into config.routes; set_route moves it */
    uint32_t service;        /* index into config.services; SLOT_NONE where the route answers by itself */
    bool has_body;           /* Content-Length above 0, or chunked */
    struct slice body;       /* FILTER_BODY: what replaces the client's; in the stream's arena */
    unsigned changed;        /* enum filter_change */
    struct filter_answer *answer;
    struct {
        enum reason reason;   /* FILTER_ERROR, SCRIPT_TIMEOUT, … */
        int status;           /* 500 or 503 */
        const char *sentence; /* for the client: names no file and no line */
    } failure;
    void *stream; /* handed to the host */
};

struct filter_response {
    int status;
    struct headers *headers; /* of the answer, without hop-by-hop fields; changed in place */
    bool has_body;           /* false for HEAD, 204 and 304 */
    uint32_t slot;           /* the endpoint that answered; SLOT_NONE where none did */
    enum reason reason;      /* why the gateway answers itself; REASON_NONE where it does not */
    /* set by filters */
    bool has_stages; /* on_body was called: each chunk goes through filter_body */
    enum { FILTER_IDENTITY, FILTER_GZIP, FILTER_DEFLATE, FILTER_ZSTD } encoding;
    int level;
    /* response:answer: replaces the whole. From then on `status` is its own, `headers` points to its rows,
     * and the body is answer->body. */
    struct filter_answer *answer;
};

/* What on_log sees: flat, since its stream left its generation long ago. */
struct filter_log {
    struct slice method, path, query, host, client_ip, id, route, service;
    struct slice endpoint; /* id of the one that was tried last; empty: none was */
    uint32_t attempts;
    uint32_t route_index; /* of the generation whose on_log runs; SLOT_NONE: it has gone */
    const char *ctx;      /* what filter_ctx gave; NULL: none */
    int status;
    uint64_t bytes, duration_us;
    enum reason reason;
};

/* Is there any filter for this route (its own or its service's)? Then a chain is to be made. Hot: one load
 * each. */
bool filter_is_needed(const struct script *script, uint32_t route, uint32_t service);
/* Is there an on_log among them? */
bool filter_wants_log(const struct script *script, uint32_t route, uint32_t service);

/* NULL: out of memory. `request` and what it points to must outlive the chain. */
MUST_CHECK
struct filter_chain *filter_begin(struct script *script, struct filter_request *request);
/* Runs on_request of what has not run yet: first of the route's filters (and, where one calls set_route, of
 * that route's), then, after FILTER_GO, of the service's when called again with the service that is final. A
 * list runs once a request; called again after a further change it runs what that brought about. */
MUST_CHECK
enum filter_verdict filter_run_request(struct filter_chain *chain);
/* Runs on_response of the filters whose on_request ran, in the reverse order. */
MUST_CHECK
enum filter_verdict filter_run_response(struct filter_chain *chain, struct filter_response *response);
/* After host->moved: how the phase that waited ended. */
enum filter_verdict filter_verdict(const struct filter_chain *chain);
/* timeouts.filter is over while the chain waits: the callback that waits fails, as by an error. How the phase
 * goes on; after FILTER_WAIT (the use says on_error: skip, and the next one waits) the time begins anew. */
MUST_CHECK
enum filter_verdict filter_expire(struct filter_chain *chain);
/* One chunk of the response's body through every stage; `out` is borrowed until the next call into the
 * script. False: a stage failed (logged, counted): the body is to be cut. */
MUST_CHECK
bool filter_body(struct filter_chain *chain, struct slice chunk, bool is_last, struct slice *out);
/* The strings, numbers and booleans of request.ctx for on_log, in the arena; NULL where there are none. */
const char *filter_ctx(struct filter_chain *chain, struct arena *arena);
/* Cancels what waits and lets everything go. NULL is fine. */
void filter_end(struct filter_chain *chain);

/* Runs on_log of a stream that is over, in reverse order, on the newest generation's script. */
void filter_run_log(struct script *script, const struct filter_log *log);

/* The answer to host->body. ok: `body` is whole; else `why` is "cut" or "too large". */
void script_task_body(struct script_task *task, bool ok, struct slice body, const char *why);

/* Once, before the first stream: who runs what waits. Starts gateway.every's timers. */
MUST_CHECK
bool script_set_host(struct script *script, const struct script_host *host);
/* A newer generation serves: timers stop, spawned functions finish. script_free ends those that have not. */
void script_retire(struct script *script);
/* Functions that it spawned still run: the proxy frees it later. */
bool script_is_busy(const struct script *script);
#endif
