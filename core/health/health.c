#include "core/health/health.h"

#include <errno.h>
#include <stdlib.h>

#include <event2/util.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/health/health_internal.h"

enum {
    SCAN_US = 100000,
    PROBES_MAX = 256,              /* at once; the rest wait in line */
    SUSPECT_INTERVAL_US = 5000000, /* where no policy says better */
    SUSPECT_TIMEOUT_US = 2000000,
    RETRY_US = 1000000, /* after a probe that this machine could not make */
};

static void target_run(struct target *target);

const struct config_service *
health_service(const struct health *health, uint32_t service)
{
    uint32_t index = service < SHM_NAMES_MAX ? health->service_of[service] : SLOT_NONE;
    return index == SLOT_NONE ? NULL : &health->config->services[index];
}

/* xorshift64 (Marsaglia 2003): jitter needs no better dice. */
double
health_random(struct health *health)
{
    health->dice ^= health->dice << 13;
    health->dice ^= health->dice >> 7;
    health->dice ^= health->dice << 17;
    return (double)(health->dice >> 11) / (double)(1ull << 53);
}

/* ---- the schedule */

void
target_schedule(struct target *target, uint64_t us)
{
    struct timeval after = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
    if (target->probe != NULL || target->is_queued) return; /* its end, or its turn, schedules */
    if (event_add(target->timer, &after) == -1) log_warnx("timer failed");
}

static uint64_t
target_interval(const struct target *target)
{
    const struct config_service *service = health_service(target->health, target->service);
    if (service == NULL || target->duty != DUTY_POLICY) return SUSPECT_INTERVAL_US;
    bool is_changing =
        target->state == SLOT_UNPROVEN ||
        (target->state == SLOT_UNHEALTHY ? target->rise > 0 && !target->damping.is_held : target->fall > 0);
    uint64_t us = is_changing && service->health.fast_interval_us != 0 ? service->health.fast_interval_us
                                                                       : service->health.interval_us;
    return us == 0 ? SUSPECT_INTERVAL_US : us;
}

static void
target_schedule_next(struct target *target, bool is_first)
{
    struct health *health = target->health;
    const struct config_service *service = health_service(health, target->service);
    double us = (double)target_interval(target), jitter = service == NULL ? 0.1 : service->health.jitter;
    if (target->duty == DUTY_NONE) return;
    if (jitter < 0 || jitter > 1) jitter = 0.1;
    us *= 1 - jitter + 2 * jitter * health_random(health);
    if (is_first) us *= 0.5 + 0.5 * health_random(health); /* what came together drifts apart */
    target_schedule(target, us < 1000 ? 1000 : (uint64_t)us);
}

static void
queue_leave(struct target *target)
{
    if (!target->is_queued) return;
    TAILQ_REMOVE(&target->health->waiting, target, queue);
    target->is_queued = false;
    target->health->queued--;
}

void
queue_pump(struct health *health)
{
    struct target *next = NULL;
    for (struct target *target = TAILQ_FIRST(&health->waiting); target != NULL; target = next) {
        next = TAILQ_NEXT(target, queue);
        if (health->active >= PROBES_MAX) return;
        if (!pace_allows_probe(target)) continue;
        queue_leave(target);
        target_run(target);
    }
}

static void
on_target_timer(evutil_socket_t fd, short what, void *context)
{
    struct target *target = context;
    struct health *health = target->health;
    (void)fd;
    (void)what;
    if (target->duty == DUTY_NONE || target->probe != NULL || target->is_queued) return;
    if (health->active < PROBES_MAX && pace_allows_probe(target)) {
        target_run(target);
        return;
    }
    TAILQ_INSERT_TAIL(&health->waiting, target, queue);
    target->is_queued = true;
    health->queued++;
}

/* ---- a probe and what becomes of it */

/* For a script that talks to the endpoint. */
static bool
on_converse(void *context, const struct slice *got, const char *why, struct script_dialog_turn *turn)
{
    const struct target *target = context;
    const struct config_service *service = health_service(target->health, target->service);
    return service != NULL &&
           script_policy_dialog(target->health->script,
               (uint32_t)(service - target->health->config->services), target->plan.dialog, got, why, turn);
}

static void
dialog_end(struct target *target)
{
    if (target->plan.dialog != 0) script_policy_dialog_end(target->health->script, target->plan.dialog);
    target->plan.dialog = 0;
}

static void
policy_failed(struct target *target)
{
    struct service_counts *counts = counts_of(target->health, target->service);
    target->health->policy_errors++;
    if (counts != NULL) counts->judges_well = false;
}

static void
on_probe_done(void *context, const struct probe_outcome *outcome)
{
    struct target *target = context;
    struct health *health = target->health;
    struct slot cold;
    bool is_first = target->last.at_us == 0, passed = verdict_passes(outcome, &target->plan);
    target->probe = NULL;
    health->active--;
    if (outcome->is_inconclusive) {
        target_schedule(target, RETRY_US);
    } else if (outcome->script_failed) {
        policy_failed(target);
        target_schedule_next(target, false);
    } else {
        if (!passed) {
            atomic_fetch_add_explicit(&shm_totals(health->shm)->probe_failures, 1, memory_order_relaxed);
        }
        target->last.at_us = clock_now_us();
        target->last.passed = passed;
        target->last.status = outcome->result.status;
        target->last.failure = outcome->result.failure;
        target->last.latency_us = outcome->result.latency_us;
        bool is_there =
            slot_read(health->shm, target->slot, &cold, NULL) && cold.incarnation == target->incarnation;
        struct slot *shared = is_there && outcome->has_load ? slot_at(health->shm, target->slot) : NULL;
        if (shared != NULL)
            atomic_store_explicit(&shared->load_milli, outcome->load_milli, memory_order_relaxed);
        if (is_there && target->duty != DUTY_NONE) target_judge(target, &cold, outcome, passed);
        target_schedule_next(target, is_first);
    }
    dialog_end(target);
    queue_pump(health);
}

/* Texts of one request: the instance's url and healthPath come before the policy's (CONTRACT: GET url +
 * healthPath). */
struct request_text {
    char path[SLOT_PATH_BYTES * 2], host[SLOT_HOST_BYTES + 16];
};

static bool
request_text(
    const struct script_probe *plan, const struct slot_text *text, uint32_t port, struct request_text *out)
{
    const char *path = text->health_path[0] != '\0' ? text->health_path
                       : plan->path != NULL         ? plan->path
                                                    : "/";
    const char *host = text->address.any.sa_family == AF_UNIX ? "localhost" : text->host;
    bool is_v6 = strchr(host, ':') != NULL;
    int len = snprintf(out->path, sizeof out->path, "%s%s", text->path_prefix, path);
    if (len < 0 || (size_t)len >= sizeof out->path) return false;
    if (plan->host_header != NULL && plan->host_header[0] != '\0') {
        len = snprintf(out->host, sizeof out->host, "%s", plan->host_header);
    } else if (text->address.any.sa_family == AF_UNIX) {
        len = snprintf(out->host, sizeof out->host, "%s", host);
    } else {
        len = snprintf(
            out->host, sizeof out->host, "%s%s%s:%u", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
    }
    return len >= 0 && (size_t)len < sizeof out->host;
}

static void
address_set_port(struct slot_text *text, uint16_t port)
{
    if (text->address.any.sa_family == AF_INET) text->address.v4.sin_port = htons(port);
    if (text->address.any.sa_family == AF_INET6) text->address.v6.sin6_port = htons(port);
}

/* False: the policy failed. kind PROBE_NONE: it wants no probe. */
static bool
target_plan(struct target *target, struct script_probe *plan)
{
    struct health *health = target->health;
    const struct config_service *service = health_service(health, target->service);
    *plan = (struct script_probe){.kind = PROBE_TCP, .timeout_us = SUSPECT_TIMEOUT_US};
    if (target->duty == DUTY_SUSPECT || service == NULL) return true;
    *plan = (struct script_probe){.kind = PROBE_NONE};
    if (!script_policy_probe(
            health->script, (uint32_t)(service - health->config->services), target->slot, plan)) {
        return false;
    }
    if (plan->timeout_us == 0) plan->timeout_us = service->health.timeout_us;
    if (plan->timeout_us == 0) plan->timeout_us = SUSPECT_TIMEOUT_US;
    if (plan->kind == PROBE_NONE && target->state == SLOT_SUSPECT) plan->kind = PROBE_TCP;
    return true;
}

static void
target_run(struct target *target)
{
    struct health *health = target->health;
    struct slot cold;
    struct slot_text text;
    struct request_text request;
    if (!slot_read(health->shm, target->slot, &cold, &text) || cold.incarnation != target->incarnation) {
        target_schedule(target, RETRY_US); /* its row is being repaired, or it is gone at the next refresh */
        return;
    }
    target->started_us = clock_now_us();
    if (!target_plan(target, &target->plan)) {
        policy_failed(target);
        target_schedule_next(target, false);
        return;
    }
    if (target->plan.kind == PROBE_NONE) {
        if (target->state == SLOT_UNPROVEN) target_state(target, SLOT_HEALTHY, "its policy sends no probe");
        target_schedule_next(target, false);
        return;
    }
    uint16_t port = target->plan.port != 0 ? target->plan.port : (uint16_t)cold.port;
    if (target->plan.port != 0) address_set_port(&text, port);
    struct probe_spec spec = {.kind = target->plan.kind,
        .address = &text.address.any,
        .address_len = text.address_len,
        .timeout_us = target->plan.timeout_us,
        .method = target->plan.method != NULL ? target->plan.method : "GET",
        .path = request.path,
        .host = request.host,
        .body_contains = target->plan.body_contains,
        .service = target->plan.service,
        .converse = on_converse};
    errno = EINVAL;
    bool has_text = spec.kind == PROBE_HTTP || spec.kind == PROBE_GRPC;
    if (!has_text || request_text(&target->plan, &text, port, &request)) {
        target->probe = probe_start(health->base, &spec, on_probe_done, target);
    }
    if (target->probe == NULL) {
        if (errno == EINVAL) health->policy_errors++;
        dialog_end(target);
        target_schedule(target, RETRY_US);
        return;
    }
    health->active++;
    atomic_fetch_add_explicit(&shm_totals(health->shm)->probes, 1, memory_order_relaxed);
}

/* ---- targets */

static void
probe_drop(struct target *target)
{
    if (target->probe == NULL) return;
    probe_cancel(target->probe);
    target->probe = NULL;
    target->health->active--;
    dialog_end(target);
}

static void
target_free(struct target *target)
{
    struct health *health = target->health;
    queue_leave(target);
    probe_drop(target);
    if (target->timer != NULL) event_free(target->timer);
    health->targets[target->slot] = NULL;
    free(target);
}

static bool
is_probed(const struct health *health, const struct config_service *service)
{
    return service->health.enabled &&
           script_policy_probes(health->script, (uint32_t)(service - health->config->services));
}

static enum duty
duty_of(const struct health *health, const struct slot *cold)
{
    const struct config_service *service = health_service(health, cold->service);
    if (service == NULL) return DUTY_NONE;
    if (cold->state == SLOT_DRAINING || cold->state == SLOT_MAINTENANCE) return DUTY_NONE;
    if (is_probed(health, service)) return DUTY_POLICY;
    return cold->state == SLOT_SUSPECT ? DUTY_SUSPECT : DUTY_NONE;
}

static bool
targets_reserve(struct health *health, uint32_t slots)
{
    if (slots <= health->cap) return true;
    uint32_t cap = health->cap == 0 ? 256 : health->cap;
    while (cap < slots)
        cap *= 2;
    struct target **grown = realloc(health->targets, cap * sizeof(struct target *));
    if (grown == NULL) return false;
    memset(grown + health->cap, 0, (cap - health->cap) * sizeof(struct target *));
    health->targets = grown;
    health->cap = cap;
    return true;
}

static struct target *
target_new(struct health *health, uint32_t slot, const struct slot *cold)
{
    struct target *target = calloc(1, sizeof *target);
    if (target == NULL) return NULL;
    target->health = health;
    target->slot = slot;
    target->incarnation = cold->incarnation;
    target->service = cold->service;
    target->state = SLOT_FREE;
    target->text_hash = cold->text_hash;
    target->timer = evtimer_new(health->base, on_target_timer, target);
    health->targets[slot] = target;
    window_begin(target);
    if (target->timer != NULL) return target;
    target_free(target);
    return NULL;
}

/* Catches up with what discovery did to the slot. */
static void
target_follow(struct target *target, const struct slot *cold)
{
    struct health *health = target->health;
    enum duty duty = duty_of(health, cold);
    bool had_duty = target->duty != DUTY_NONE;
    bool is_unknown = cold->state == SLOT_UNPROVEN || cold->state == SLOT_SUSPECT;
    bool is_news = (is_unknown && target->state != cold->state) || target->text_hash != cold->text_hash;
    if (is_unknown && target->state != cold->state) target->rise = target->fall = 0;
    target->state = cold->state;
    target->text_hash = cold->text_hash;
    target->duty = duty;
    if (duty == DUTY_NONE && cold->state == SLOT_UNPROVEN) /* by a policy that only observes */
        target_state(target, SLOT_HEALTHY, "nothing probes it");
    if (duty == DUTY_NONE) {
        queue_leave(target);
        event_del(target->timer);
    } else if (is_news) {
        target_schedule(target, 0);
    } else if (!had_duty) {
        target_schedule(target, (uint64_t)((double)target_interval(target) * health_random(health)));
    }
}

void
health_refresh(struct health *health)
{
    uint64_t version = shm_endpoints_version(health->shm);
    uint32_t high = shm_slots(health->shm);
    if (version == health->version || health->config == NULL) return;
    if (!targets_reserve(health, high)) return;
    health->version = version;
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        struct slot cold;
        bool is_there = i < high && slot_read(health->shm, i, &cold, NULL) && cold.state != SLOT_GONE;
        if (target != NULL && (!is_there || cold.incarnation != target->incarnation)) {
            target_free(target);
            target = NULL;
        }
        if (!is_there) continue;
        if (target == NULL) target = target_new(health, i, &cold);
        if (target != NULL) target_follow(target, &cold);
    }
    queue_pump(health);
}

/* What a policy does is not known while it is in quarantine from the start. */
static void
policies_follow(struct health *health)
{
    for (size_t i = 0; i < health->config->service_count; i++) {
        const struct config_service *service = &health->config->services[i];
        struct service_counts *counts = &health->counts[i];
        counts->window_us = script_policy_window_us(health->script, (uint32_t)i);
        if (counts->is_probed != is_probed(health, service)) health->version = UINT64_MAX;
        counts->is_probed = is_probed(health, service);
    }
}

static void
on_scan(evutil_socket_t fd, short what, void *context)
{
    struct health *health = context;
    (void)fd;
    (void)what;
    if (health->config == NULL) return;
    policies_follow(health);
    health_refresh(health);
    passive_scan(health, clock_now_us());
}

/* ---- public */

struct health *
health_new(struct event_base *base, struct shm *shm, void (*on_suspect_failed)(void *context, uint32_t slot),
    void *context)
{
    struct health *health = calloc(1, sizeof *health);
    if (health == NULL) return NULL;
    *health =
        (struct health){.base = base, .shm = shm, .on_suspect_failed = on_suspect_failed, .context = context};
    TAILQ_INIT(&health->waiting);
    evutil_secure_rng_get_bytes(&health->dice, sizeof health->dice);
    health->dice |= 1;
    health->service_of = malloc(SHM_NAMES_MAX * sizeof *health->service_of);
    health->scan = event_new(base, -1, EV_PERSIST, on_scan, health);
    if (health->service_of == NULL || health->scan == NULL || !pace_init(health) ||
        event_add(health->scan, &(struct timeval){0, SCAN_US}) == -1) {
        health_free(health);
        return NULL;
    }
    memset(health->service_of, 0xff, SHM_NAMES_MAX * sizeof *health->service_of);
    return health;
}

/* Verdicts of a policy that is no more say nothing. */
static void
verdicts_drop(struct health *health)
{
    for (uint32_t i = 0; i < shm_slots(health->shm); i++) {
        struct slot cold;
        if (!slot_read(health->shm, i, &cold, NULL)) continue;
        const struct config_service *service = health_service(health, cold.service);
        if (service == NULL || is_probed(health, service)) continue;
        if (cold.state != SLOT_UNPROVEN && cold.state != SLOT_UNHEALTHY) continue;
        slot_set_state(health->shm, i, SLOT_HEALTHY, "nothing probes it");
    }
}

/* A probe planned far ahead by a long interval of the last generation does not wait that long any more. */
static void
targets_reschedule(struct health *health)
{
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        struct timeval due, now;
        if (target == NULL || target->duty == DUTY_NONE || !evtimer_pending(target->timer, &due)) continue;
        uint64_t interval = target_interval(target);
        event_base_gettimeofday_cached(health->base, &now);
        int64_t left = (int64_t)(due.tv_sec - now.tv_sec) * 1000000 + (due.tv_usec - now.tv_usec);
        if (left > (int64_t)interval)
            target_schedule(target, (uint64_t)((double)interval * health_random(health)));
    }
}

/* A dialog goes on in the state that began it, and that is about to go. */
static void
dialogs_drop(struct health *health)
{
    for (uint32_t i = 0; i < health->cap; i++) {
        struct target *target = health->targets[i];
        if (target == NULL || target->probe == NULL || target->plan.kind != PROBE_SOCKET) continue;
        probe_drop(target);
        target_schedule(target, 0);
    }
}

void
health_use(struct health *health, const struct config *config, struct script *script)
{
    struct service_counts *counts = calloc(config->service_count + 1, sizeof *counts);
    dialogs_drop(health);
    if (counts == NULL) {
        log_errorx("health keeps no generation: out of memory");
        health->config = NULL; /* the old one is about to go */
        memset(health->service_of, 0xff, SHM_NAMES_MAX * sizeof *health->service_of);
        return;
    }
    for (size_t i = 0; i < config->service_count; i++) {
        const uint32_t id = shm_name_find(health->shm, slice_of(config->services[i].name));
        const uint32_t old = id < SHM_NAMES_MAX ? health->service_of[id] : SLOT_NONE;
        if (old != SLOT_NONE) counts[i].in_panic = health->counts[old].in_panic;
        counts[i].judges_well = pace_trusts(&config->services[i].health.policy);
        counts[i].observes_well = pace_trusts(config->services[i].health.passive.name == NULL
                                                  ? &config->services[i].health.policy
                                                  : &config->services[i].health.passive);
    }
    free(health->counts);
    health->counts = counts;
    health->config = config;
    health->script = script;
    memset(health->service_of, 0xff, SHM_NAMES_MAX * sizeof *health->service_of);
    for (size_t i = 0; i < config->service_count; i++) {
        uint32_t id = shm_name_find(health->shm, slice_of(config->services[i].name));
        if (id < SHM_NAMES_MAX) health->service_of[id] = (uint32_t)i;
    }
    verdicts_drop(health);
    policies_follow(health);
    health->version = UINT64_MAX;
    health_refresh(health);
    targets_reschedule(health);
}

static void
target_describe(const struct target *target, bool first, struct strbuf *out)
{
    struct health *health = target->health;
    struct slot_text text;
    struct slot cold;
    if (!slot_read(health->shm, target->slot, &cold, &text)) return;
    strbuf_printf(out, "%s{\"slot\":%u,\"id\":", first ? "" : ",", target->slot);
    strbuf_add_json(out, slice_of(text.id));
    strbuf_add_text(out, ",\"service\":");
    strbuf_add_json(out, slice_of(shm_name_text(health->shm, target->service)));
    strbuf_printf(out, ",\"state\":\"%s\",\"reason\":", slot_state_word((enum slot_state)cold.state));
    strbuf_add_json(out, slice_of(text.reason));
    strbuf_printf(out, ",\"rise\":%u,\"fall\":%u,\"ejections\":%u,\"probing\":%s,\"last\":", target->rise,
        target->fall, cold.ejections, target->probe != NULL ? "true" : "false");
    if (target->last.at_us == 0) {
        strbuf_add_text(out, "null}");
        return;
    }
    strbuf_printf(out, "{\"passed\":%s,\"status\":%d,\"failure\":\"%s\",\"latency_us\":%u,\"age_ms\":%llu}}",
        target->last.passed ? "true" : "false", target->last.status, reason_word(target->last.failure),
        target->last.latency_us, (unsigned long long)((clock_now_us() - target->last.at_us) / 1000));
}

void
health_describe(const struct health *health, struct strbuf *out)
{
    bool first = true;
    strbuf_printf(out, "{\"active\":%u,\"queued\":%u,\"policy_errors\":%llu,\"endpoints\":[", health->active,
        health->queued, (unsigned long long)health->policy_errors);
    for (uint32_t i = 0; i < health->cap; i++) {
        if (health->targets[i] == NULL) continue;
        size_t before = out->len;
        target_describe(health->targets[i], first, out);
        if (out->len != before) first = false;
    }
    strbuf_add_text(out, "]}");
}

void
health_free(struct health *health)
{
    if (health == NULL) return;
    for (uint32_t i = 0; i < health->cap; i++) {
        if (health->targets[i] != NULL) target_free(health->targets[i]);
    }
    if (health->scan != NULL) event_free(health->scan);
    if (health->pace_timer != NULL) event_free(health->pace_timer);
    free(health->targets);
    free(health->counts);
    free(health->rows);
    free(health->service_of);
    free(health);
}
