/* core/proxy/proxy.h: the data plane of one worker: accepts, parses, routes, picks, forwards. Everything else
 * of this room is its own business. */
#ifndef FLUXGATE_PROXY_PROXY_H
#define FLUXGATE_PROXY_PROXY_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/strbuf.h"
#include "core/config/config.h"
#include "core/metrics/stats.h"
#include "core/script/script.h"
#include "core/shm/shm.h"

struct proxy;

/* The route that log and metrics name for the requests of gateway.fetch to a service; a shm name. */
#define PROXY_FETCH_ROUTE "(fetch)"

/* One config generation in this worker; counted: the proxy holds the newest, each stream the one it began on
 * until its response head is sent (DESIGN.md section 4). */
struct generation {
    uint32_t number;
    struct bundle *bundle;
    struct config *config;
    struct script *script;
    /* the proxy's own business */
    uint32_t refs;
    bool has_filters; /* anywhere */
    void *routes;     /* compiled by core/proxy/route.c */
    struct proxy *proxy;
    struct generation *next; /* in proxy->retired, until then at the latest */
    uint64_t until_us;
};

MUST_CHECK
struct proxy *proxy_new(struct event_base *base, struct shm *shm, unsigned worker, struct stats *stats);

/* Takes ownership of bundle, config and script (also on failure). The old generation goes when its last
 * stream left it. Route, service and strategy names must already be shm names. */
MUST_CHECK
bool proxy_use(struct proxy *proxy, uint32_t number, struct bundle *bundle, struct config *config,
    struct script *script);
struct script *proxy_script(
    struct proxy *proxy); /* of the newest generation; NULL before the first proxy_use */

/* The worker's listening sockets, in the order of the config's listeners, replaced as a whole: what is not in
 * the list is accepted from until its queue is empty, then closed. Takes the descriptors; one already held
 * (same inode) is kept and the double closed. */
MUST_CHECK
bool proxy_listen(struct proxy *proxy, const int *fds, size_t count);

/* Listening sockets (non-blocking duplicates) of a sibling that does not run: takes what waits in their
 * queues, up to a bound, then closes the descriptors. Nothing is taken while draining or out of descriptors.
 */
void proxy_accept_from(struct proxy *proxy, const int *fds, size_t count);

/* How workers tell each other that a limit has room: eventfd(2)s, non-blocking, fd i of worker i; borrowed,
 * they must stay open. Before the first proxy_use. Without them a worker looks each 5 ms while a request
 * waits in it. */
void proxy_set_wake(struct proxy *proxy, const int *fds, size_t count);

/* SIGTERM: no new connections; idle keep-alive connections close, answers say Connection: close; calls `done`
 * once when no stream is left or the limit (requests, tunnels; microseconds) passed and the rest were cut. */
void proxy_drain(struct proxy *proxy, uint64_t requests_us, uint64_t tunnels_us, void (*done)(void *context),
    void *context);
bool proxy_is_idle(const struct proxy *proxy);

/* Every open stream with state and age, a line each: for the signal that shows what a worker is doing. */
void proxy_dump(const struct proxy *proxy, struct strbuf *out);

void proxy_free(struct proxy *proxy); /* cuts what is left */

#endif
