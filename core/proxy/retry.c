#include "core/proxy/proxy_internal.h"

enum { BUDGET_PERCENT = 20, BUDGET_PER_SECOND = 10 };

/* What failed before a byte of the request went out was never executed, whatever the method (RFC 9110
 * §9.2.2); what went out may have been, and only an idempotent request may be sent again. */
enum retry_verdict
retry_decide(const struct retry_case *retry)
{
    if (retry->answered || retry->kept == BODY_GONE) return RETRY_NO;
    switch (retry->reason) {
    case REASON_CONNECT_REFUSED:
    case REASON_CONNECT_TIMEOUT:
    case REASON_TLS_ERROR:
        if (retry->sent != 0) return RETRY_NO;
        break;
    case REASON_RESET_BEFORE_HEADERS:
        if (retry->sent != 0 && !retry->idempotent) return RETRY_NO;
        /* A stale connection says nothing about its endpoint: it costs neither an attempt nor the budget, and
         * happens once, since the connection after it is fresh. */
        if (retry->pooled) return RETRY_SAME;
        break;
    case REASON_BAD_RESPONSE: /* what an earlier exchange left in a pooled connection, not an answer to this
                                 one */
        return retry->pooled && retry->idempotent && !retry->head_began ? RETRY_SAME : RETRY_NO;
    default: return RETRY_NO;
    }
    return retry->attempts < ATTEMPTS_MAX ? RETRY_OTHER : RETRY_NO;
}

static unsigned
budget_second(struct budget *budget, uint64_t now_us)
{
    uint64_t second = now_us / 1000000 + 1;
    unsigned i = (unsigned)(second % BUDGET_SECONDS);
    if (budget->second[i] != second) {
        budget->second[i] = second;
        budget->requests[i] = budget->retries[i] = 0;
    }
    return i;
}

void
budget_count_request(struct budget *budget, uint64_t now_us)
{
    budget->requests[budget_second(budget, now_us)]++;
}

bool
budget_take_retry(struct budget *budget, uint64_t now_us)
{
    unsigned now = budget_second(budget, now_us);
    uint64_t requests = 0, retries = 0;
    for (unsigned i = 0; i < BUDGET_SECONDS; i++) {
        if (budget->second[i] + BUDGET_SECONDS <= budget->second[now]) continue; /* of an older round */
        requests += budget->requests[i];
        retries += budget->retries[i];
    }
    if (retries * 100 >= requests * BUDGET_PERCENT + (uint64_t)BUDGET_PER_SECOND * BUDGET_SECONDS * 100)
        return false;
    budget->retries[now]++;
    return true;
}
