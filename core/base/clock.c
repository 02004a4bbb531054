#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
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

unsigned
clock_patience(void)
{
    static int factor = -1;
    if (factor == -1) {
        const char *value = getenv("FLUXGATE_WATCHDOG");
        unsigned n = 0, digits = 0;
        while (value != NULL && (unsigned)(value[digits] - '0') <= 9 && digits < 3)
            n = n * 10 + (unsigned)(value[digits++] - '0');
        factor = digits == 0 || digits > 2 || value[digits] != '\0' ? 1 : (int)n;
    }
    return (unsigned)factor;
}
