/* Flap damping: an endpoint that keeps falling and rising is held down until it has been quiet for a while.
 * RFC 2439 §4.2 to 4.4: each fall adds 1 to a penalty that halves each half_life; past `suppress` the
 * endpoint is down until the penalty has decayed to `reuse`, and never longer than `max`. */
#include <math.h>

#include "core/health/health_internal.h"

static void
decay(struct damping *damping, const struct config_damping *rules, uint64_t now_us)
{
    uint64_t passed = now_us > damping->at_us ? now_us - damping->at_us : 0;
    damping->penalty *= exp2(-(double)passed / (double)rules->half_life_us);
    damping->at_us = now_us;
    if (damping->penalty <= rules->reuse) damping->is_held = false;
}

void
damping_fell(struct damping *damping, const struct config_damping *rules, uint64_t now_us)
{
    if (rules->half_life_us == 0) return;
    double ceiling = rules->reuse * exp2((double)rules->max_us / (double)rules->half_life_us);
    decay(damping, rules, now_us);
    damping->penalty += 1;
    if (damping->penalty > ceiling) damping->penalty = ceiling;
    if (damping->penalty > rules->suppress) damping->is_held = true;
}

uint64_t
damping_left_us(struct damping *damping, const struct config_damping *rules, uint64_t now_us)
{
    if (!damping->is_held) return 0;
    if (rules->half_life_us == 0) { /* a reload turned it off */
        damping->is_held = false;
        return 0;
    }
    decay(damping, rules, now_us);
    if (!damping->is_held) return 0;
    return (uint64_t)(log2(damping->penalty / rules->reuse) * (double)rules->half_life_us) + 1;
}
