/* core/base/clock.h: the two clocks. Monotonic for every wait and interval, wall only for what people read.
 */
#ifndef FLUXGATE_BASE_CLOCK_H
#define FLUXGATE_BASE_CLOCK_H
#include <stdint.h>

/* Microseconds of CLOCK_MONOTONIC: comparable between the processes of one machine. Hot (vDSO). */
uint64_t clock_now_us(void);

/* Microseconds since 1970 of CLOCK_REALTIME. */
uint64_t clock_wall_us(void);

/* Writes the RFC 3339 UTC form of `wall_us` with milliseconds, 24 bytes and a NUL. */
void clock_rfc3339(uint64_t wall_us, char out[25]);

/* How patient watchdog and script budgets are: $FLUXGATE_WATCHDOG, 1 to 99 times the usual, 0 for debuggers:
 * nothing is ended for being slow. 1 where it is not set or no such number. */
unsigned clock_patience(void);

#endif
