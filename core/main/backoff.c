#include "core/main/backoff.h"

enum { QUICK_DEATH_US = 1000000, FIRST_US = 50000, MAX_US = 5000000, DOUBLINGS_MAX = 6 };

void
backoff_start(struct backoff *backoff, uint64_t now_us)
{
    backoff->started_us = now_us;
    backoff->due_us = now_us + MAX_US;
}

void
backoff_serves(struct backoff *backoff)
{
    backoff->quick_deaths = 0;
}

void
backoff_died(struct backoff *backoff, uint64_t now_us)
{
    uint64_t wait_us = 0;
    bool is_quick = now_us - backoff->started_us < QUICK_DEATH_US;
    backoff->quick_deaths = is_quick ? backoff->quick_deaths + 1 : 0;
    if (backoff->quick_deaths > 1) {
        unsigned doublings = backoff->quick_deaths - 2;
        wait_us = (uint64_t)FIRST_US << (doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX);
    }
    backoff->due_us = now_us + (wait_us < MAX_US ? wait_us : MAX_US);
}

void
backoff_clear(struct backoff *backoff)
{
    backoff->due_us = 0;
    backoff->quick_deaths = 0;
}
