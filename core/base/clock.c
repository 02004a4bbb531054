#include "core/base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t
read_us(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts); /* cannot fail for the two ids used here */
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t
clock_now_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

uint64_t
clock_wall_us(void)
{
    return read_us(CLOCK_REALTIME);
}

void
clock_rfc3339(uint64_t wall_us, char out[25])
{
    time_t seconds = (time_t)(wall_us / 1000000u);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, 25, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 25 - n, ".%03uZ", (unsigned)(wall_us / 1000u % 1000u));
}
