#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "core/health/health_internal.h"

enum {
    PROBE_GAP_US = 200000,     /* between two probes that traffic asked for */
    EJECT_FAILURES = 5,        /* in a row: the default of Envoy's outlier detection, as are 10 s and 300 s */
    EJECT_FIRST_US = 10000000, /* times how often it was ejected */
    EJECT_LAST_US = 300000000,
    EJECT_FORGET_US = 300000000,  /* a good time this long and the next ejection is a first one again */
    TRIAL_PATIENCE_US = 30000000, /* past it the request on trial, or its worker, is taken for lost */
};

struct service_counts *
counts_of(struct health *health, uint32_t service)
{
    const struct config_service *config = health_service(health, service);
    return config == NULL ? NULL : &health->counts[config - health->config->services];
}

static void
counts_make(struct health *health)
{
    for (size_t i = 0; i < health->config->service_count; i++) {
        struct service_counts *counts = &health->counts[i];
        counts->pickable = counts->ejected = counts->countable = counts->healthy = 0;
    }
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

/* ---- windows: what a service's endpoints were asked and answered between two looks */

void
window_begin(struct target *target)
{
    const struct slot *slot = slot_at(target->health->shm, target->slot);
    if (slot == NULL) return;
    target->window.mark_requests = atomic_load_explicit(&slot->requests, memory_order_relaxed);
    target->window.mark_failures = atomic_load_explicit(&slot->errors, memory_order_relaxed);
    target->window.mark_errors = atomic_load_explicit(&slot->server_errors, memory_order_relaxed);
    target->window.row_seen = atomic_load_explicit(&slot->error_row, memory_order_relaxed);
    target->window.requests = target->window.failures = target->window.errors = 0;
    target->window.is_new = false;
}

/* Counters are bumped one after the other, so that a part may be ahead of the whole. */
static void
window_close(struct target *target)
{
    struct window before = target->window, *window = &target->window;
    window_begin(target);
    window->is_new = true;
    window->requests = window->mark_requests - before.mark_requests;
    window->failures = window->mark_failures - before.mark_failures;
    window->errors = window->failures + (window->mark_errors - before.mark_errors);
    if (window->failures > window->requests) window->failures = window->requests;
    if (window->errors > window->requests) window->errors = window->requests;
    window->row_seen = before.row_seen;
}

static bool
rows_reserve(struct health *health, uint32_t rows)
{
    if (rows <= health->row_cap) return true;
    struct script_window_row *grown = realloc(health->rows, rows * sizeof *grown);
    if (grown == NULL) return false;
    health->rows = grown;
    health->row_cap = rows;
    return true;
}

/* Closes the windows of one service and tells its policy what the fleet did in them. What came before the
 * first window was somebody else's business. */
static void
windows_close(struct health *health, uint32_t service, bool is_first, uint64_t now_us)
{
    uint32_t count = 0;
    if (!rows_reserve(health, health->cap)) return; /* the windows go on */
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        if (target == NULL || counts_of(health, target->service) != &health->counts[service]) continue;
        window_close(target);
        target->window.is_new = !is_first;
        if (target->state != SLOT_HEALTHY) continue;
        health->rows[count++] = (struct script_window_row){target->window.requests, target->window.errors,
            slot_latency_us(health->shm, target->slot, now_us)};
    }
    bool is_well = script_policy_fleet(health->script, service, health->rows, count);
    health->counts[service].observes_well = is_well;
    if (!is_well) health->policy_errors++;
}

static void
windows_turn(struct health *health, uint64_t now_us)
{
    for (uint32_t i = 0; i < health->config->service_count; i++) {
        struct service_counts *counts = &health->counts[i];
        if (counts->window_us == 0 || now_us < counts->window_due_us) continue;
        if (!pace_allows_observer(health, counts)) continue;
        if (counts->is_owed) { /* in this scan, and then the next may close */
            counts->is_owed = false;
            continue;
        }
        bool is_first = counts->window_due_us == 0;
        counts->window_due_us = now_us + counts->window_us;
        windows_close(health, i, is_first, now_us);
    }
}

/* ---- ejection */

static uint64_t
eject_span(struct health *health, uint32_t ejections)
{
    uint64_t span = (uint64_t)EJECT_FIRST_US * ejections;
    if (span > EJECT_LAST_US) span = EJECT_LAST_US;
    return (uint64_t)((double)span * (0.9 + 0.2 * health_random(health)));
}

/* At most half, and so never the last one, whatever a policy says. One that is ejected already counts. */
static void
target_eject(struct target *target, struct service_counts *counts, const struct script_observation *word,
    uint64_t now_us)
{
    struct health *health = target->health;
    const struct slot *slot = slot_at(health->shm, target->slot);
    bool was_ejected = target->state == SLOT_EJECTED;
    char reason[128];
    if (!was_ejected && (counts->ejected + 1) * 2 > counts->pickable) return;
    bool is_forgiven = !was_ejected && now_us > slot->since_us + EJECT_FORGET_US;
    uint32_t ejections = is_forgiven ? 1 : slot->ejections + 1;
    uint64_t span = word->span_us != 0 ? word->span_us : eject_span(health, ejections);
    counts->ejected += !was_ejected;
    atomic_fetch_add_explicit(&shm_totals(health->shm)->ejections, 1, memory_order_relaxed);
    snprintf(reason, sizeof reason, span < 100000000 ? "ejected for %.3g s: %s" : "ejected for %.0f s: %s",
        (double)span / 1e6, word->reason);
    slot_eject(health->shm, target->slot, now_us + span, ejections, reason);
    target->state = SLOT_EJECTED;
    log_info("endpoint ejected", F_STR("endpoint", endpoint_id(health, target->slot)),
        F_STR("service", shm_name_text(health->shm, target->service)), F_STR("reason", word->reason),
        F_UINT("ejections", ejections), F_US("span", span));
}

static void
target_restore(struct target *target, const struct script_observation *word)
{
    target_state(target, SLOT_HEALTHY, word->reason);
    window_begin(target);
}

/* ---- evidence */

/* False: nobody observes, or who does failed. */
static bool
observe(struct target *target, const struct slot *slot, struct service_counts *counts, enum trial trial,
    uint64_t now_us, struct script_observation *word)
{
    struct health *health = target->health;
    struct window *window = &target->window;
    bool is_new = window->is_new && trial == TRIAL_NONE;
    if (counts->window_us == 0) return false;
    window->is_new = false;
    struct script_window seen = {.is_new = is_new,
        .seconds = (double)counts->window_us / 1e6,
        .failures_in_row = atomic_load_explicit(&slot->failures, memory_order_relaxed),
        .errors_in_row = atomic_load_explicit(&slot->error_row, memory_order_relaxed),
        .requests = is_new ? window->requests : 0,
        .failures = is_new ? window->failures : 0,
        .errors = is_new ? window->errors : 0,
        .latency_us = slot_latency_us(health->shm, target->slot, now_us),
        .ejections = slot->ejections,
        .trial = trial,
        .endpoints = counts->pickable,
        .ejected = counts->ejected};
    if (target->state == SLOT_HEALTHY && now_us > slot->since_us + EJECT_FORGET_US) seen.ejections = 0;
    counts->observes_well =
        script_policy_observe(health->script, (uint32_t)(counts - health->counts), target->slot, &seen, word);
    if (!counts->observes_well) {
        health->policy_errors++;
        return false;
    }
    if (word->reason[0] == '\0' || !text_is_utf8(slice_of(word->reason)))
        snprintf(word->reason, sizeof word->reason, "its health policy says so");
    return true;
}

/* Half-open (Nygard, "Release It!", 2007, Circuit Breaker): one request found out for all of them. */
static void
judge_trial(struct target *target, const struct slot *slot, struct service_counts *counts, enum trial trial,
    uint64_t now_us)
{
    struct script_observation word = {.action = OBSERVE_NOTHING};
    if (!observe(target, slot, counts, trial, now_us, &word) || word.action == OBSERVE_NOTHING) {
        bool has_failed = trial == TRIAL_FAILED;
        word = (struct script_observation){.action = has_failed ? OBSERVE_EJECT : OBSERVE_RESTORE};
        snprintf(word.reason, sizeof word.reason, has_failed ? "its trial failed" : "its trial passed");
    }
    if (word.action == OBSERVE_EJECT)
        target_eject(target, counts, &word, now_us);
    else
        target_restore(target, &word);
}

static void
observe_ejected(struct target *target, struct slot *slot, struct service_counts *counts, uint64_t now_us)
{
    struct health *health = target->health;
    enum trial trial = atomic_load_explicit(&slot->trial, memory_order_relaxed);
    if (trial != TRIAL_TAKEN) target->trial_since_us = now_us;
    switch (trial) {
    case TRIAL_NONE:
        if (now_us < slot->until_us) return;
        slot_offer_trial(health->shm, target->slot, "its ejection is over: one request is its trial");
        log_info("endpoint is on trial", F_STR("endpoint", endpoint_id(health, target->slot)),
            F_STR("service", shm_name_text(health->shm, target->service)));
        return;
    case TRIAL_OPEN: return;
    case TRIAL_TAKEN:
        if (now_us - target->trial_since_us < TRIAL_PATIENCE_US) return;
        slot_end_trial(health->shm, target->slot, TRIAL_OPEN);
        return;
    case TRIAL_PASSED:
    case TRIAL_ERROR:
    case TRIAL_FAILED: judge_trial(target, slot, counts, trial, now_us); return;
    }
}

/* Where the configuration says nothing of health at all. */
static bool
observe_by_default(const struct slot *slot, struct script_observation *word)
{
    uint32_t failures = atomic_load_explicit(&slot->failures, memory_order_relaxed);
    if (failures < EJECT_FAILURES) return false;
    *word = (struct script_observation){.action = OBSERVE_EJECT};
    snprintf(word->reason, sizeof word->reason, "%u requests failed in a row", failures);
    return true;
}

static void
observe_healthy(struct target *target, struct slot *slot, struct service_counts *counts, uint64_t now_us)
{
    const struct config_service *service = health_service(target->health, target->service);
    struct script_observation word = {.action = OBSERVE_NOTHING};
    uint32_t row = atomic_load_explicit(&slot->error_row, memory_order_relaxed);
    bool is_news = row > target->window.row_seen || (target->window.is_new && target->window.requests > 0);
    target->window.row_seen = row;
    if (counts->window_us != 0) {
        if (!is_news) return;
        if (!observe(target, slot, counts, TRIAL_NONE, now_us, &word) && !observe_by_default(slot, &word))
            return;
    } else if (service->health.enabled || !observe_by_default(slot, &word)) {
        return;
    }
    if (word.action == OBSERVE_EJECT) target_eject(target, counts, &word, now_us);
}

/* The policy's next turn is far: what fails under traffic is probed now. */
static void
probe_at_once(struct target *target, const struct slot *slot, uint64_t now_us)
{
    uint32_t failures = atomic_load_explicit(&slot->failures, memory_order_relaxed);
    if (failures < target->failures_seen) target->failures_seen = failures;
    if (failures == target->failures_seen || target->duty == DUTY_NONE) return;
    if (target->probe != NULL || target->is_queued || now_us - target->started_us < PROBE_GAP_US) return;
    target->failures_seen = failures;
    target_schedule(target, 0);
}

static void
target_observe(struct target *target, uint64_t now_us)
{
    struct slot *slot = slot_at(target->health->shm, target->slot);
    struct service_counts *counts = counts_of(target->health, target->service);
    if (slot == NULL || counts == NULL) return;
    probe_at_once(target, slot, now_us);
    if (!pace_allows_observer(target->health, counts)) { /* what it knows later is no less */
        counts->is_owed |= target->window.is_new;
        return;
    }
    if (target->state == SLOT_EJECTED) {
        observe_ejected(target, slot, counts, now_us);
    } else if (target->state == SLOT_HEALTHY) {
        observe_healthy(target, slot, counts, now_us);
    }
}

void
passive_scan(struct health *health, uint64_t now_us)
{
    counts_make(health);
    windows_turn(health, now_us);
    for (size_t i = 0; i < health->config->service_count; i++)
        panic_watch(health, &health->config->services[i], &health->counts[i]);
    for (uint32_t i = 0; i < health->cap; i++) {
        if (health->targets[i] != NULL) target_observe(health->targets[i], now_us);
    }
}
