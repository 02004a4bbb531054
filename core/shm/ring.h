/* core/shm/ring.h: a byte ring from one worker to control: finished log lines. Never waits: full is a counted
 * drop. */
#ifndef FLUXGATE_SHM_RING_H
#define FLUXGATE_SHM_RING_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/shm/shm.h"

enum ring_kind { RING_LOG, RING_ACCESS };

struct ring;
struct ring *shm_ring(struct shm *shm, unsigned worker);

/* The worker. One line with its newline, at most 16 KiB. False: full (the caller counts the drop). Hot. */
bool ring_put(struct ring *ring, enum ring_kind kind, const char *line, size_t len);
/* The same in two steps, so that a line is formatted in place: NULL where full; commit takes what was used.
 * Hot. */
char *ring_reserve(struct ring *ring, size_t max);
void ring_commit(struct ring *ring, enum ring_kind kind, size_t used);

/* Control. Hands each line to `take` in order, at most `max_lines`; returns how many. Survives a writer
 * killed mid-line. */
typedef void (*ring_take)(void *context, enum ring_kind kind, const char *line, size_t len);
size_t ring_drain(struct ring *ring, size_t max_lines, ring_take take, void *context);
bool ring_is_empty(const struct ring *ring);

#endif
