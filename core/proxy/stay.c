#include <stdlib.h>

#include "core/proxy/proxy_internal.h"

enum {
    STAYS_MAX = 4096, /* past it a failure's place is free at once */
    LATENCY_MAX_US = 1 << 30,
    STAY_MAX_US = 10000000, /* a service of long polls must not keep an endpoint full that was restarted */
};

/* A place that a failed attempt holds though it is over: an endpoint that fails in a millisecond would else
 * look the least loaded of all, and draw every request. */
struct stay {
    struct link link; /* in proxy->stays, by due_us */
    uint32_t slot, service_id;
    uint64_t due_us;
};

/* Nine parts up or one down, so that one latency of ten is above: Robbins and Monro, "A Stochastic
 * Approximation Method", Ann. Math. Statist. 22(3), 1951, with steps of 1/128. */
void
latency_note(struct proxy *proxy, uint32_t service_id, uint32_t latency_us)
{
    uint32_t *p90 = &proxy->p90_us[service_id % SHM_NAMES_MAX], now = *p90, step = (now >> 7) + 1;
    if (UNLIKELY(latency_us > LATENCY_MAX_US)) latency_us = LATENCY_MAX_US;
    if (UNLIKELY(now <= step)) /* 0 or 1: there is no step down */
        *p90 = latency_us + 1;
    else
        *p90 = latency_us > now ? now + 9 * step : now - step;
}

uint32_t
latency_p90_us(const struct proxy *proxy, uint32_t service_id)
{
    return proxy->p90_us[service_id % SHM_NAMES_MAX];
}

static void
arm(struct proxy *proxy)
{
    if (link_is_empty(&proxy->stays)) return;
    uint64_t due_us = LINK_OF(proxy->stays.next, struct stay, link)->due_us;
    uint64_t in_us = due_us > proxy->now_us ? due_us - proxy->now_us : 0;
    struct timeval tv = {(time_t)(in_us / 1000000), (suseconds_t)(in_us % 1000000)};
    (void)!event_add(&proxy->stay_end, &tv); /* where it fails, the sweep ends them */
}

static void
end(struct proxy *proxy, struct stay *stay)
{
    slot_end(proxy->shm, proxy->worker, stay->slot);
    queueing_wake(proxy, stay->service_id);
    link_remove(&stay->link);
    proxy->stay_count--;
    free(stay);
}

void
stays_end(struct proxy *proxy, uint64_t until_us)
{
    while (!link_is_empty(&proxy->stays)) {
        struct stay *stay = LINK_OF(proxy->stays.next, struct stay, link);
        if (stay->due_us > until_us) break;
        end(proxy, stay);
    }
    arm(proxy);
}

static void
on_stay_end(evutil_socket_t fd, short what, void *context)
{
    struct proxy *proxy = context;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    stays_end(proxy, proxy->now_us);
    proxy_leave(proxy);
}

bool
stay_begin(struct proxy *proxy, uint32_t slot, uint32_t service_id, uint64_t due_us)
{
    if (due_us > proxy->now_us + STAY_MAX_US) due_us = proxy->now_us + STAY_MAX_US;
    struct stay *stay = proxy->stay_count < STAYS_MAX ? malloc(sizeof *stay) : NULL;
    if (stay == NULL) return false;
    *stay = (struct stay){{NULL, NULL}, slot, service_id, due_us};
    struct link *after = proxy->stays.prev; /* services differ in their p90, so it is nearly the last */
    while (after != &proxy->stays && LINK_OF(after, struct stay, link)->due_us > due_us)
        after = after->prev;
    link_push(after, &stay->link);
    proxy->stay_count++;
    if (proxy->stays.next == &stay->link) arm(proxy);
    return true;
}

bool
stays_init(struct proxy *proxy)
{
    link_init(&proxy->stays);
    event_assign(&proxy->stay_end, proxy->base, -1, 0, on_stay_end, proxy);
    proxy->p90_us = calloc(SHM_NAMES_MAX, sizeof *proxy->p90_us); /* hardly a page of it is ever touched */
    return proxy->p90_us != NULL;
}

void
stays_fini(struct proxy *proxy)
{
    stays_end(proxy, UINT64_MAX);
    event_del(&proxy->stay_end);
    free(proxy->p90_us);
}
