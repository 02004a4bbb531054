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
static const suseconds_t spans_us[] = {
    [PACE_REST] = 100000, [PACE_PROVEN] = 150000, [PACE_UNDER_WAY] = 100000};

bool
pace_allows_probe(const struct target *target)
{
    struct health *health = target->health;
    if (health->pace == PACE_ALL || target->duty != DUTY_POLICY) return true;
    const struct service_counts *counts = counts_of(health, target->service);
    return counts == NULL || (health->pace != PACE_REST && counts->judges_well);
}

bool
pace_allows_observer(const struct health *health, const struct service_counts *counts)
{
    if (health->pace == PACE_ALL || counts->window_us == 0) return true;
    return health->pace != PACE_REST && counts->observes_well;
}

bool
pace_trusts(const struct config_plugin *plugin)
{
    size_t len = strlen(bundle_share_dir());
    return plugin->file != NULL && strncmp(plugin->file, bundle_share_dir(), len) == 0 &&
           plugin->file[len] == '/';
}

static void
pace_set(struct health *health, enum pace pace)
{
    health->pace = pace;
    if (pace == PACE_ALL || event_add(health->pace_timer, &(struct timeval){0, spans_us[pace]}) == 0) return;
    log_warnx("timer failed");
    health->pace = PACE_ALL;
}

static void
on_pace_timer(evutil_socket_t fd, short what, void *context)
{
    struct health *health = context;
    (void)fd;
    (void)what;
    pace_set(health, health->pace + 1);
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        if (target != NULL && (health->pace >= PACE_UNDER_WAY || pace_allows_probe(target)))
            probe_go_on(target->probe);
    }
    /* Probes would come first for as long as there are any that overrun. */
    if (health->config != NULL) passive_scan(health, clock_now_us());
    queue_pump(health);
}

bool
pace_init(struct health *health)
{
    health->pace = PACE_ALL;
    health->pace_timer = evtimer_new(health->base, on_pace_timer, health);
    return health->pace_timer != NULL;
}

void
health_overran(struct health *health)
{
    pace_set(health, PACE_REST);
    for (uint32_t i = 0; i < health->cap && health->pace == PACE_REST; i++) {
        if (health->targets[i] != NULL) probe_hold(health->targets[i]->probe);
    }
}
