#include "core/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { ARENA_ALIGN = 16, ARENA_DEFAULT_CHUNK = 4096, POISON_BYTE = 0xdb };

struct arena_chunk {
    struct arena_chunk *next;
    size_t bytes; /* of payload */
    _Alignas(ARENA_ALIGN) char payload[];
};

int arena_poisons = -1;

void
arena_poison_now(void *at, size_t bytes)
{
    const char *value = getenv("FLUXGATE_POISON");
    arena_poisons = value != NULL && value[0] == '1';
    if (arena_poisons) memset(at, POISON_BYTE, bytes);
}

static struct arena_chunk *
chunk_new(struct arena *arena, size_t bytes)
{
    struct arena_chunk *chunk;
    if (bytes > SIZE_MAX - sizeof *chunk) return NULL;
    chunk = malloc(sizeof *chunk + bytes);
    if (chunk == NULL) return NULL;
    chunk->bytes = bytes;
    arena->total_bytes += bytes;
    return chunk;
}

void
arena_init(struct arena *arena, size_t chunk_bytes)
{
    *arena = (struct arena){.chunk_bytes = chunk_bytes};
}

void *
arena_alloc(struct arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (LIKELY(bytes <= (size_t)(arena->end - arena->at) && arena->at != NULL)) {
        void *result = arena->at;
        arena->at += bytes;
        return result;
    }
    size_t usual = arena->chunk_bytes != 0 ? arena->chunk_bytes : ARENA_DEFAULT_CHUNK;
    struct arena_chunk *chunk = chunk_new(arena, bytes > usual ? bytes : usual);
    if (chunk == NULL) return NULL;
    if (bytes > usual && arena->chunks != NULL) { /* behind the newest, whose free part stays in use */
        chunk->next = arena->chunks->next;
        arena->chunks->next = chunk;
        return chunk->payload;
    }
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->at = chunk->payload + bytes;
    arena->end = chunk->payload + chunk->bytes;
    return chunk->payload;
}

void *
arena_calloc(struct arena *arena, size_t bytes)
{
    void *result = arena_alloc(arena, bytes);
    if (result != NULL) memset(result, 0, bytes);
    return result;
}

char *
arena_strdup(struct arena *arena, struct slice s)
{
    char *copy = arena_alloc(arena, s.len + 1);
    if (copy == NULL) return NULL;
    if (s.len > 0) memcpy(copy, s.at, s.len);
    copy[s.len] = '\0';
    return copy;
}

char *
arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : arena_alloc(arena, (size_t)n + 1);
    if (text != NULL) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

static void
chunk_free(struct arena *arena, struct arena_chunk *chunk)
{
    arena_poison(chunk->payload, chunk->bytes);
    arena->total_bytes -= chunk->bytes;
    free(chunk);
}

void
arena_reset(struct arena *arena)
{
    size_t usual = arena->chunk_bytes != 0 ? arena->chunk_bytes : ARENA_DEFAULT_CHUNK;
    struct arena_chunk *kept = NULL;
    for (struct arena_chunk *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        if (kept == NULL && chunk->bytes == usual) {
            kept = chunk;
        } else {
            chunk_free(arena, chunk);
        }
    }
    arena->chunks = kept;
    arena->at = arena->end = NULL;
    if (kept == NULL) return;
    kept->next = NULL;
    arena_poison(kept->payload, kept->bytes);
    arena->at = kept->payload;
    arena->end = kept->payload + kept->bytes;
}

void
arena_fini(struct arena *arena)
{
    for (struct arena_chunk *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        chunk_free(arena, chunk);
    }
    arena_init(arena, arena->chunk_bytes);
}
