#include <stdlib.h>

#include "core/proxy/proxy_internal.h"

static struct buf *
buf_new(struct buf_pool *pool, size_t bytes)
{
    struct buf *buf = NULL;
    if (bytes > UINT32_MAX / 2) return NULL;
    if (bytes == BUF_SMALL - sizeof *buf && pool->slab_count < KEEP_SMALL) {
        buf = slab_take(pool->slab, sizeof *buf + bytes);
        pool->slab_count += buf != NULL;
    }
    if (buf == NULL) buf = malloc(sizeof *buf + bytes);
    if (buf != NULL) buf->cap = (uint32_t)bytes;
    return buf;
}

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
    if (buf == NULL) buf = buf_new(pool, bytes);
    if (buf == NULL) return NULL;
    buf->at = buf->end = 0;
    return buf;
}

void
buf_give(struct buf_pool *pool, struct buf **given)
{
    struct buf *buf = *given;
    *given = NULL;
    if (buf == NULL) return;
    bool is_small = buf->cap == BUF_SMALL - sizeof *buf, is_large = buf->cap == BUF_LARGE - sizeof *buf;
    /* Where the slab gives some, there is a place for each of those, and none for others. */
    bool is_kept = slab_owns(pool->slab, buf) || pool->slab_count == 0;
    if (is_small && is_kept && pool->small_count < KEEP_SMALL)
        pool->small[pool->small_count++] = buf;
    else if (is_large && pool->large_count < KEEP_LARGE)
        pool->large[pool->large_count++] = buf;
    else
        free(buf);
}

void
buf_pool_fini(struct buf_pool *pool)
{
    while (pool->small_count > 0) {
        struct buf *buf = pool->small[--pool->small_count];
        if (!slab_owns(pool->slab, buf)) free(buf);
    }
    while (pool->large_count > 0)
        free(pool->large[--pool->large_count]);
}
