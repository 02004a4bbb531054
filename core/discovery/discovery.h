/* core/discovery/discovery.h: who the endpoints are. Control's half: static lists, DNS of their hosts,
 * registry sync. Writes the endpoint table of core/shm; knows nothing of health but the states it starts
 * with. */
#ifndef FLUXGATE_DISCOVERY_DISCOVERY_H
#define FLUXGATE_DISCOVERY_DISCOVERY_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/strbuf.h"
#include "core/config/config.h"
#include "core/shm/shm.h"

struct discovery;

/* What an instance looks like on every way in. Text is borrowed. */
struct instance {
    struct slice id, service, host, url, health_path, zone, version, metadata /* JSON object */;
    uint32_t port, weight;
    bool lapsed; /* its lease ran out, nobody deregistered it */
    bool maintenance, draining;
};

MUST_CHECK
struct discovery *discovery_new(struct event_base *base, struct shm *shm);

/* Begins with, or moves to, a config (borrowed until the next call or free). Static endpoints stand in the
 * table before this returns (numeric addresses and those that resolve; others are tried again in the
 * background). An endpoint that stays keeps its slot and its verdict. What the new config no longer has stays
 * picked until discovery_commit, since workers of the generation before may still ask for it; then it becomes
 * GONE. */
MUST_CHECK
bool discovery_use(struct discovery *discovery, const struct config *config);

/* Every worker runs the config last given to discovery_use: what it no longer has may go now. */
void discovery_commit(struct discovery *discovery);

/* The first registry answer (or snapshot) is in, or there is no registry to ask. */
bool discovery_is_ready(const struct discovery *discovery);

/* Writes the state of the sync as JSON: source, index, epoch, mode (watch, poll, snapshot), last error, age.
 */
void discovery_describe(const struct discovery *discovery, struct strbuf *out);

/* Health tells: a suspect endpoint failed its probe, so it is gone. */
void discovery_suspect_failed(struct discovery *discovery, uint32_t slot);

void discovery_free(struct discovery *discovery);

#endif
