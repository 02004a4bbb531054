/* After a policy that passed its budget. Each such call keeps control away from everything else for the whole
 * of it, and many policies may loop at once, all of one file or each of its own. So after one of them
 * nobody's policy is called for a while, in which control answers and drains; then only those that answered
 * when they were last called, so that their endpoints are probed meanwhile; and then everybody's, until one
 * overruns again. The one that did is quarantined or close to it (core/script/call.c), so this comes to an
 * end. */
#include "core/health/health_internal.h"

#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config/bundle.h"

/* A call that overran took 250 to 500 ms. */
enum { REST_US = 100000, PROVEN_US = 150000 };

bool
pace_allows_probe(const struct target *target)
{
    struct health *health = target->health;
    if (health->pace == PACE_ALL || target->duty != DUTY_POLICY) return true;
    const struct service_counts *counts = counts_of(health, target->service);
    return counts == NULL || (health->pace == PACE_PROVEN && counts->judges_well);
}

bool
pace_allows_observer(const struct health *health, const struct service_counts *counts)
{
    if (health->pace == PACE_ALL || counts->window_us == 0) return true;
    return health->pace == PACE_PROVEN && counts->observes_well;
}

bool
pace_trusts(const struct config_plugin *plugin)
{
    size_t len = strlen(bundle_share_dir());
    return plugin->file != NULL && strncmp(plugin->file, bundle_share_dir(), len) == 0 &&
           plugin->file[len] == '/';
}

static bool
pace_set(struct health *health, enum pace pace, suseconds_t us)
{
    health->pace = pace;
    if (event_add(health->pace_timer, &(struct timeval){0, us}) == 0) return true;
    log_warnx("timer failed");
    health->pace = PACE_ALL;
    return false;
}

static void
on_pace_timer(evutil_socket_t fd, short what, void *context)
{
    struct health *health = context;
    (void)fd;
    (void)what;
    if (health->pace == PACE_PROVEN || !pace_set(health, PACE_PROVEN, PROVEN_US)) health->pace = PACE_ALL;
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        if (target != NULL && pace_allows_probe(target)) probe_go_on(target->probe);
    }
    /* Probes would come first for as long as there are any that overrun. */
    if (health->config != NULL) passive_scan(health, clock_now_us());
    queue_pump(health);
}

bool
pace_init(struct health *health)
{
    health->pace_timer = evtimer_new(health->base, on_pace_timer, health);
    return health->pace_timer != NULL;
}

void
health_overran(struct health *health)
{
    if (!pace_set(health, PACE_REST, REST_US)) return;
    for (uint32_t i = 0; i < health->cap; i++) {
        if (health->targets[i] != NULL) probe_hold(health->targets[i]->probe);
    }
}
