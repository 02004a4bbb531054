/* core/script/host.h: what scripts that wait ask of the worker's event loop. The proxy fills it in; in the
 * checker and in control there is none, and then nothing may wait. */
#ifndef FLUXGATE_SCRIPT_HOST_H
#define FLUXGATE_SCRIPT_HOST_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/slice.h"
#include "core/http/header.h"
#include "core/http/reason.h"

struct fetch;       /* the proxy's: one exchange under way */
struct script_task; /* the script's: a coroutine */

struct fetch_request {             /* borrowed until fetch() returns */
    struct slice method;           /* a token */
    struct slice url;              /* "http://…", "https://…", "service://NAME/path?query" */
    const struct headers *headers; /* no framing and no hop-by-hop field: those are the client's own */
    struct slice body;
    uint64_t timeout_us; /* of the whole exchange, name resolution included */
    size_t max_body;     /* of the answer, in bytes; past it the exchange fails with REASON_LIMIT */
};

struct fetch_answer {    /* lives until the callback returns */
    enum reason failure; /* REASON_NONE: status, headers and body are an answer */
    const char *detail;  /* of a failure, for people: "connect refused by 127.0.0.1:9" */
    int status;
    const struct headers *headers;
    struct slice body; /* whole, chunks undone */
};

struct script_host {
    void *context;
    struct event_base *base;
    /* Around whatever the script's own timers start. They do not nest: fetch's `done` and script_task_body
     * come from between them. */
    void (*enter)(void *context);
    void (*leave)(void *context);
    /* Starts an exchange; `done` comes once, never before this returns, unless it is cancelled. NULL:
     * *failure and a borrowed *detail say why none began (a URL that is none, an unknown service, no
     * descriptors). */
    struct fetch *(*fetch)(void *context, const struct fetch_request *request,
        void (*done)(void *task, const struct fetch_answer *answer), void *task, enum reason *failure,
        const char **detail);
    void (*fetch_cancel)(struct fetch *fetch);
    /* Collects the request's body, at most `max` bytes; then, never before this returns, script_task_body.
     * False: there is none to be had any more, the request has been sent on. A wait for the client's bytes
     * counts by client_body_gap and body_rate, not by timeouts.filter. A chain that has ended or failed
     * meanwhile is forgotten with its task: no answer may come for it. */
    bool (*body)(void *stream, struct script_task *task, size_t max);
    /* A chain that answered FILTER_WAIT is over its phase: ask filter_verdict. Called between enter and
     * leave. */
    void (*moved)(void *stream);
};
#endif
