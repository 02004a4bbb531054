/* What a probe's outcome says of an endpoint, and what is then published. */
#include <stdio.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "core/health/health_internal.h"

const char *
endpoint_id(struct health *health, uint32_t slot)
{
    static struct slot_text text; /* 6 KiB: not for a stack frame */
    return slot_read(health->shm, slot, NULL, &text) ? text.id : "?";
}

void
target_state(struct target *target, enum slot_state state, const char *reason)
{
    struct health *health = target->health;
    uint32_t before = target->state;
    slot_set_state(health->shm, target->slot, state, reason);
    target->state = state;
    if (before == state) return;
    if (state == SLOT_HEALTHY) {
        struct slot *slot = slot_at(health->shm, target->slot);
        if (slot != NULL) {
            atomic_store_explicit(&slot->failures, 0, memory_order_relaxed);
            atomic_store_explicit(&slot->error_row, 0, memory_order_relaxed);
        }
        target->failures_seen = target->window.row_seen = 0;
    }
    if (before == SLOT_UNPROVEN && state == SLOT_HEALTHY) return; /* each start would log every endpoint */
    log_info(state == SLOT_HEALTHY ? "endpoint is healthy" : "endpoint is unhealthy",
        F_STR("endpoint", endpoint_id(health, target->slot)),
        F_STR("service", shm_name_text(health->shm, target->service)), F_STR("reason", reason));
}

bool
verdict_passes(const struct probe_outcome *outcome, const struct script_probe *plan)
{
    const struct script_probe_result *result = &outcome->result;
    if (!result->ok || !outcome->body_matched) return false;
    if (plan->kind != PROBE_HTTP || plan->status_count == 0) return true;
    for (unsigned i = 0; i < plan->status_count && i < PROBE_STATUSES; i++) {
        if (result->status >= plan->statuses[i].from && result->status <= plan->statuses[i].to) return true;
    }
    return false;
}

static void
reason_write(const struct target *target, const struct probe_outcome *outcome, bool passed, char reason[128])
{
    uint32_t count = passed ? target->rise : target->fall;
    int len =
        snprintf(reason, 128, "%u probe%s %s", count, count == 1 ? "" : "s", passed ? "passed" : "failed: ");
    if (passed || len < 0 || len >= 128) return;
    if (outcome->result.ok && !outcome->body_matched) {
        snprintf(reason + len, 128 - (size_t)len, "the body does not match");
    } else if (outcome->result.ok) {
        snprintf(reason + len, 128 - (size_t)len, "status %d", outcome->result.status);
    } else if (outcome->result.detail[0] != '\0' && text_is_utf8(slice_of(outcome->result.detail))) {
        snprintf(reason + len, 128 - (size_t)len, "%s", outcome->result.detail);
    } else {
        snprintf(reason + len, 128 - (size_t)len, "%s", reason_word(outcome->result.failure));
        for (char *c = reason + len; *c != '\0'; c++)
            if (*c == '_') *c = ' ';
    }
}

static bool
is_observed(const struct target *target)
{
    const struct config_service *service = health_service(target->health, target->service);
    return service != NULL &&
           target->health->counts[service - target->health->config->services].window_us != 0;
}

/* True: its state says so instead. Nobody is held down where nobody else is well. */
static bool
is_held_down(struct target *target, const struct config_service *service)
{
    const struct service_counts *counts = &target->health->counts[service - target->health->config->services];
    uint64_t left_us = damping_left_us(&target->damping, &service->health.damping, clock_now_us());
    char reason[128];
    if (target->state != SLOT_UNHEALTHY || left_us == 0 || counts->healthy == 0) return false;
    snprintf(reason, sizeof reason, "%u probes passed, but it is flapping: held down for %.0f s more",
        target->rise, (double)left_us / 1e6);
    target_state(target, SLOT_UNHEALTHY, reason);
    return true;
}

void
target_judge(struct target *target, const struct slot *cold, const struct probe_outcome *outcome, bool passed)
{
    struct health *health = target->health;
    const struct config_service *service = health_service(health, target->service);
    struct script_history history = {target->rise, target->fall, cold->state, cold->since_us};
    enum script_judgement judgement = JUDGE_UNCHANGED;
    char reason[128] = "";
    bool is_judged = true;
    if (target->duty == DUTY_POLICY && service != NULL) {
        struct script_probe_result result = outcome->result;
        result.dialog = target->plan.dialog;
        is_judged = script_policy_judge(health->script, (uint32_t)(service - health->config->services),
            target->slot, &result, &history, &judgement, reason);
        counts_of(health, target->service)->judges_well = is_judged;
    }
    target->rise = passed ? target->rise + 1 : 0;
    target->fall = passed ? 0 : target->fall + 1;
    if (cold->state == SLOT_SUSPECT) {
        if (!passed || judgement == JUDGE_UNHEALTHY) health->on_suspect_failed(health->context, target->slot);
        return;
    }
    if (!is_judged) {
        health->policy_errors++;
        return;
    }
    if (reason[0] == '\0' || !text_is_utf8(slice_of(reason))) reason_write(target, outcome, passed, reason);
    bool is_judgeable = cold->state == SLOT_UNPROVEN || cold->state == SLOT_HEALTHY ||
                        cold->state == SLOT_UNHEALTHY || cold->state == SLOT_EJECTED;
    if (!is_judgeable || target->duty != DUTY_POLICY || service == NULL) return;
    /* Probes that pass do not end what requests that fail began: that is for the trial to say. */
    bool is_settled = cold->state == SLOT_HEALTHY || (cold->state == SLOT_EJECTED && is_observed(target));
    if (judgement == JUDGE_HEALTHY && !is_settled && !is_held_down(target, service))
        target_state(target, SLOT_HEALTHY, reason);
    if (judgement == JUDGE_UNHEALTHY && cold->state != SLOT_UNHEALTHY) {
        if (cold->state == SLOT_HEALTHY)
            damping_fell(&target->damping, &service->health.damping, clock_now_us());
        target_state(target, SLOT_UNHEALTHY, reason);
    }
}
