/* core/proxy/fetch.h: the HTTP/1.1 client behind gateway.fetch. `service://NAME/…` goes the way of a client's
 * request (pick, pools, retries, limits, queue, log, metrics; route "(fetch)", no filters); http:// and
 * https:// go straight to the host. A worker never waits for any of it, and a proxy that never fetches has
 * none of it. */
#ifndef FLUXGATE_PROXY_FETCH_H
#define FLUXGATE_PROXY_FETCH_H
#include "core/base/compiler.h"
#include "core/script/host.h"

struct proxy;

/* As struct script_host.fetch says, between proxy_enter and proxy_leave. The detail is borrowed until the
 * next call. Redirects are answers like others. What the gateway itself answers in a service's place (no
 * endpoints, a full queue) is a failure with its reason and no answer. Past FETCHES_MAX under way or
 * FETCH_HELD_MAX bytes of answers held it fails with REASON_SHED. */
MUST_CHECK
struct fetch *fetch_start(struct proxy *proxy, const struct fetch_request *request,
    void (*done)(void *task, const struct fetch_answer *answer), void *task, enum reason *failure,
    const char **detail);

/* Ends it without a word; also from within a `done`, its own included, where it does nothing. */
void fetch_cancel(struct fetch *fetch);

#endif
