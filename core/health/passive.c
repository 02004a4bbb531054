#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/health/health_internal.h"

enum {
    PROBE_GAP_US = 200000,     /* between two probes that traffic asked for */
    EJECT_FAILURES = 5,        /* in a row: the default of Envoy's outlier detection, as are 10 s and 300 s */
    EJECT_FIRST_US = 10000000, /* times how often it was ejected */
    EJECT_LAST_US = 300000000,
    EJECT_FORGET_US = 300000000, /* a good time this long and the next ejection is a first one again */
};

static struct service_counts *
counts_of(struct health *health, uint32_t service)
{
    const struct config_service *config = health_service(health, service);
    return config == NULL ? NULL : &health->counts[config - health->config->services];
}

static void
counts_make(struct health *health)
{
    for (size_t i = 0; i < health->config->service_count; i++)
        health->counts[i] = (struct service_counts){.in_panic = health->counts[i].in_panic};
    for (uint32_t i = 0; i < health->cap; i++) {
        const struct target *target = health->targets[i];
        struct service_counts *counts = target == NULL ? NULL : counts_of(health, target->service);
        const struct slot *slot = counts == NULL ? NULL : slot_at(health->shm, target->slot);
        if (slot == NULL || slot->weight == 0) continue;
        bool is_ejected = target->state == SLOT_EJECTED;
        bool is_up =
            target->state == SLOT_HEALTHY || target->state == SLOT_UNPROVEN || target->state == SLOT_SUSPECT;
        counts->pickable += is_ejected || is_up;
        counts->ejected += is_ejected;
        counts->countable += target->state != SLOT_DRAINING && target->state != SLOT_MAINTENANCE;
        counts->healthy += target->state == SLOT_HEALTHY || target->state == SLOT_SUSPECT;
    }
}

/* The workers pick by themselves; here it is said and counted, once for all of them. */
static void
panic_watch(struct health *health, const struct config_service *service, struct service_counts *counts)
{
    bool in_panic = (uint64_t)counts->healthy * 100 < (uint64_t)counts->countable * service->panic_percent;
    if (in_panic == counts->in_panic) return;
    counts->in_panic = in_panic;
    if (in_panic) {
        atomic_fetch_add_explicit(&shm_totals(health->shm)->panics, 1, memory_order_relaxed);
        log_warnx("too few healthy endpoints: the others are picked too", F_STR("service", service->name),
            F_UINT("healthy", counts->healthy), F_UINT("endpoints", counts->countable),
            F_UINT("panic_percent", service->panic_percent));
    } else {
        log_info("enough healthy endpoints again", F_STR("service", service->name));
    }
}

static void
target_state(struct target *target, enum slot_state state, const char *reason)
{
    slot_set_state(target->health->shm, target->slot, state, reason);
    target->state = state;
}

static void
target_eject(struct target *target, struct service_counts *counts, uint32_t failures, uint64_t now_us)
{
    struct health *health = target->health;
    char reason[128];
    if ((counts->ejected + 1) * 2 > counts->pickable) return; /* at most half, so never the last one */
    if (now_us - target->restored_us > EJECT_FORGET_US) target->ejections = 0;
    if (target->ejections < EJECT_LAST_US / EJECT_FIRST_US) target->ejections++;
    uint64_t span = (uint64_t)EJECT_FIRST_US * target->ejections;
    span = (uint64_t)((double)span * (0.9 + 0.2 * health_random(health)));
    target->eject_until_us = now_us + span;
    counts->ejected++;
    atomic_fetch_add_explicit(&shm_totals(health->shm)->ejections, 1, memory_order_relaxed);
    snprintf(reason, sizeof reason, "ejected for %u s: %u requests failed in a row",
        (unsigned)(span / 1000000), failures);
    target_state(target, SLOT_EJECTED, reason);
    log_info("endpoint ejected", F_STR("endpoint", endpoint_id(target->health, target->slot)),
        F_STR("service", shm_name_text(health->shm, target->service)), F_UINT("failures", failures),
        F_US("span", span));
}

static void
target_restore(struct target *target, struct slot *slot, uint64_t now_us)
{
    /* Half-open: the next failure ejects it again, for longer; the next success wipes the slate. */
    atomic_store_explicit(&slot->failures, EJECT_FAILURES - 1, memory_order_relaxed);
    target->failures_seen = EJECT_FAILURES - 1;
    target->eject_until_us = 0;
    target->restored_us = now_us;
    target_state(target, SLOT_HEALTHY, "its ejection is over: one more failure and it goes again");
    log_info("endpoint restored", F_STR("endpoint", endpoint_id(target->health, target->slot)),
        F_STR("service", shm_name_text(target->health->shm, target->service)));
}

static void
target_observe(struct target *target, uint64_t now_us)
{
    struct health *health = target->health;
    struct slot *slot = slot_at(health->shm, target->slot);
    struct service_counts *counts = counts_of(health, target->service);
    if (slot == NULL || counts == NULL) return;
    uint32_t failures = atomic_load_explicit(&slot->failures, memory_order_relaxed);
    if (failures < target->failures_seen) target->failures_seen = failures;
    if (target->state == SLOT_EJECTED && now_us >= target->eject_until_us) {
        target_restore(target, slot, now_us);
    } else if (target->duty != DUTY_NONE) {
        if (failures == target->failures_seen || target->probe != NULL || target->is_queued) return;
        if (now_us - target->started_us < PROBE_GAP_US) return;
        target->failures_seen = failures;
        target_schedule(target, 0);
    } else if (target->state == SLOT_HEALTHY && failures >= EJECT_FAILURES) {
        target_eject(target, counts, failures, now_us);
    }
}

void
passive_scan(struct health *health, uint64_t now_us)
{
    counts_make(health);
    for (size_t i = 0; i < health->config->service_count; i++)
        panic_watch(health, &health->config->services[i], &health->counts[i]);
    for (uint32_t i = 0; i < health->cap; i++) {
        if (health->targets[i] != NULL) target_observe(health->targets[i], now_us);
    }
}
