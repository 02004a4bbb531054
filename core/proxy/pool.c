#include <stdlib.h>

#include "core/proxy/relay.h"

struct buf *
buf_take(struct buf_pool *pool, size_t bytes)
{
    struct buf *buf = NULL;
    if (bytes <= BUF_SMALL - sizeof *buf) {
        bytes = BUF_SMALL - sizeof *buf;
        if (pool->small_count > 0) buf = pool->small[--pool->small_count];
    } else if (bytes <= BUF_LARGE - sizeof *buf) {
        bytes = BUF_LARGE - sizeof *buf;
        if (pool->large_count > 0) buf = pool->large[--pool->large_count];
    }
    if (buf == NULL) {
        if (bytes > UINT32_MAX / 2 || (buf = malloc(sizeof *buf + bytes)) == NULL) return NULL;
        buf->cap = (uint32_t)bytes;
    }
    buf->at = buf->end = 0;
    return buf;
}

void
buf_give(struct buf_pool *pool, struct buf **given)
{
    struct buf *buf = *given;
    *given = NULL;
    if (buf == NULL) return;
    arena_poison(buf->bytes, buf->cap);
    if (buf->cap == BUF_SMALL - sizeof *buf && pool->small_count < KEEP_SMALL)
        pool->small[pool->small_count++] = buf;
    else if (buf->cap == BUF_LARGE - sizeof *buf && pool->large_count < KEEP_LARGE)
        pool->large[pool->large_count++] = buf;
    else
        free(buf);
}

void
buf_pool_fini(struct buf_pool *pool)
{
    while (pool->small_count > 0)
        free(pool->small[--pool->small_count]);
    while (pool->large_count > 0)
        free(pool->large[--pool->large_count]);
}
