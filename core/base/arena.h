/* core/base/arena.h: memory that is freed all at once. One a stream, one a config generation. Not
 * thread-safe. */
#ifndef FLUXGATE_BASE_ARENA_H
#define FLUXGATE_BASE_ARENA_H
#include <stddef.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

struct arena_chunk;

/* Storage is the caller's; all zero is a valid empty arena. */
struct arena {
    struct arena_chunk *chunks; /* newest first */
    char *at, *end;             /* free part of the newest chunk */
    size_t chunk_bytes;         /* size of an ordinary chunk; 0 means 4096 */
    size_t total_bytes;         /* all chunks together: what a limit is compared with */
};

void arena_init(struct arena *arena, size_t chunk_bytes);

/* 16-byte aligned, not zeroed, valid until arena_reset/arena_fini. NULL only where malloc fails. A request
 * larger than a chunk gets one of its own. Hot: touches malloc only when a chunk is full. */
MUST_CHECK
void *arena_alloc(struct arena *arena, size_t bytes);
MUST_CHECK
void *arena_calloc(struct arena *arena, size_t bytes);

/* Copies with a NUL behind; the slice twin returns the copy's slice, {NULL, 0} where memory is out. */
MUST_CHECK
char *arena_strdup(struct arena *arena, struct slice s);
MUST_CHECK
char *arena_printf(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

/* Frees all but the first ordinary chunk, which is kept for the next user. FLUXGATE_POISON=1 fills what is
 * freed. */
void arena_reset(struct arena *arena);

/* Fills what rests until its next user with 0xdb where FLUXGATE_POISON=1, else does nothing. */
extern int arena_poisons; /* its own: -1 until the environment was asked */
void arena_poison_now(void *at, size_t bytes);
static inline void
arena_poison(void *at, size_t bytes)
{
    if (UNLIKELY(arena_poisons != 0)) arena_poison_now(at, bytes);
}

/* Frees everything; the arena is then empty and usable again. */
void arena_fini(struct arena *arena);

#endif
