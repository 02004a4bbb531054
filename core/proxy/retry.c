#include "core/proxy/proxy_internal.h"

enum { BUDGET_PER_SECOND = 10, BACKOFF_US = 25000, BACKOFF_DOUBLINGS = 4 };

/* What failed before a byte of the request went out was never executed, whatever the method (RFC 9110
 * §9.2.2); what went out may have been, and only an idempotent request may be sent again. */
enum retry_verdict
retry_decide(const struct config_retry *config, const struct retry_case *retry)
{
    bool is_new = retry->sent == 0; /* to the endpoint */
    if (retry->answered || retry->kept == BODY_GONE || (!is_new && !retry->idempotent)) return RETRY_NO;
    switch (retry->reason) {
    case REASON_CONNECT_REFUSED:
    case REASON_CONNECT_TIMEOUT:
    case REASON_TLS_ERROR:
        if (!is_new || (config->on & RETRY_ON_NEVER_SENT) == 0) return RETRY_NO;
        break;
    case REASON_RESET_BEFORE_HEADERS:
        /* A stale connection says nothing about its endpoint: it costs neither an attempt nor the budget, and
         * happens once, since the connection after it is fresh. */
        if (retry->pooled) return RETRY_SAME;
        if ((config->on & (is_new ? RETRY_ON_NEVER_SENT : RETRY_ON_IDEMPOTENT_RESET)) == 0) return RETRY_NO;
        break;
    case REASON_BAD_RESPONSE: /* what an earlier exchange left behind, no answer to this request */
        return retry->pooled && retry->idempotent && !retry->head_began ? RETRY_SAME : RETRY_NO;
    case REASON_RESPONSE_TIMEOUT:
        if (!retry->per_try || !retry->idempotent) return RETRY_NO;
        break;
    case REASON_NONE: /* an answer that `status` names */
        if (!retry->idempotent) return RETRY_NO;
        break;
    default: return RETRY_NO;
    }
    return retry->attempts <= config->attempts ? RETRY_OTHER : RETRY_NO;
}

/* 25, 50, 100 … ms, each ± 50 %: who failed together does not come back together. */
uint64_t
retry_backoff_us(uint32_t attempts, uint64_t random)
{
    unsigned doublings = attempts < BACKOFF_DOUBLINGS ? attempts : BACKOFF_DOUBLINGS;
    uint64_t us = (uint64_t)BACKOFF_US << doublings >> 1;
    return (us / 2 + random % us) | 1; /* no round number: those are for the timeouts of the configuration */
}

static unsigned
budget_second(struct shm_budget *budget, uint64_t now_us)
{
    uint64_t second = now_us / 1000000 + 1;
    unsigned i = (unsigned)(second % SHM_BUDGET_SECONDS);
    if (atomic_load_explicit(&budget->seconds[i].second, memory_order_relaxed) != second) {
        atomic_store_explicit(&budget->seconds[i].requests, 0, memory_order_relaxed);
        atomic_store_explicit(&budget->seconds[i].retries, 0, memory_order_relaxed);
        atomic_store_explicit(&budget->seconds[i].second, second, memory_order_release);
    }
    return i;
}

static void
add_one(_Atomic uint32_t *count) /* of the one that writes it */
{
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
}

void
budget_count_request(struct shm_budget *budget, uint64_t now_us)
{
    add_one(&budget->seconds[budget_second(budget, now_us)].requests);
}

/* Two workers that ask in the same moment may both get the last one: the budget bounds a storm, it is no
 * limit that something rests on. */
bool
budget_take_retry(struct shm *shm, unsigned worker, uint32_t percent, uint64_t now_us)
{
    struct shm_budget *own = &shm_worker(shm, worker)->budget;
    unsigned now = budget_second(own, now_us);
    uint64_t second = now_us / 1000000 + 1, requests = 0, retries = 0;
    for (unsigned w = 0; w < SHM_WORKERS_MAX; w++) {
        const struct shm_budget *budget = &shm_worker(shm, w)->budget;
        for (unsigned i = 0; i < SHM_BUDGET_SECONDS; i++) {
            uint64_t at = atomic_load_explicit(&budget->seconds[i].second, memory_order_acquire);
            if (at + SHM_BUDGET_SECONDS <= second || at > second) continue; /* of an older round */
            requests += atomic_load_explicit(&budget->seconds[i].requests, memory_order_relaxed);
            retries += atomic_load_explicit(&budget->seconds[i].retries, memory_order_relaxed);
        }
    }
    if (retries * 100 >= requests * percent + (uint64_t)BUDGET_PER_SECOND * SHM_BUDGET_SECONDS * 100)
        return false;
    add_one(&own->seconds[now].retries);
    return true;
}
