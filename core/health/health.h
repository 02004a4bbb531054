/* core/health/health.h: active probes and their verdicts, in control. Lua policies decide, C does the I/O. */
#ifndef FLUXGATE_HEALTH_HEALTH_H
#define FLUXGATE_HEALTH_HEALTH_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/strbuf.h"
#include "core/config/config.h"
#include "core/script/script.h"
#include "core/shm/shm.h"

struct health;

/* `on_suspect_failed` is told when a suspect endpoint failed its probe. */
MUST_CHECK
struct health *health_new(struct event_base *base, struct shm *shm,
    void (*on_suspect_failed)(void *context, uint32_t slot), void *context);

/* Moves to a generation (both borrowed until the next call). Histories belong to slot and incarnation and
 * survive. */
void health_use(struct health *health, const struct config *config, struct script *script);

/* The endpoint table moved: new slots are probed at once, gone ones forgotten. Cheap when nothing did. */
void health_refresh(struct health *health);

void health_describe(
    const struct health *health, struct strbuf *out); /* JSON: probes under way, last result a slot */

/* A policy's call passed its budget and is over: the others wait, so that control gets to the rest of its
 * work. No policy may be called before this returns. */
void health_overran(struct health *health);
void health_free(struct health *health);

#endif
