#include <stdlib.h>

#include "core/proxy/proxy_internal.h"

/* Kept for the next user; what a burst took beyond these goes back to malloc. */
enum { KEEP_SMALL = 1024, KEEP_LARGE = 64 };

struct buf *
buf_take(struct buf_pool *pool, size_t bytes)
{
    struct buf *buf;
    if (bytes <= BUF_SMALL - sizeof *buf) {
        bytes = BUF_SMALL - sizeof *buf;
        if ((buf = pool->small) != NULL) {
            pool->small = buf->next;
            pool->small_count--;
            goto found;
        }
    } else if (bytes <= BUF_LARGE - sizeof *buf) {
        bytes = BUF_LARGE - sizeof *buf;
        if ((buf = pool->large) != NULL) {
            pool->large = buf->next;
            pool->large_count--;
            goto found;
        }
    }
    if (bytes > UINT32_MAX / 2 || (buf = malloc(sizeof *buf + bytes)) == NULL) return NULL;
    buf->cap = (uint32_t)bytes;
found:
    buf->next = NULL;
    buf->at = buf->end = 0;
    return buf;
}

void
buf_give(struct buf_pool *pool, struct buf **given)
{
    struct buf *buf = *given;
    *given = NULL;
    if (buf == NULL) return;
    if (buf->cap == BUF_SMALL - sizeof *buf && pool->small_count < KEEP_SMALL) {
        buf->next = pool->small;
        pool->small = buf;
        pool->small_count++;
    } else if (buf->cap == BUF_LARGE - sizeof *buf && pool->large_count < KEEP_LARGE) {
        buf->next = pool->large;
        pool->large = buf;
        pool->large_count++;
    } else {
        free(buf);
    }
}

static void
list_free(struct buf *buf)
{
    for (struct buf *next; buf != NULL; buf = next) {
        next = buf->next;
        free(buf);
    }
}

void
buf_pool_fini(struct buf_pool *pool)
{
    list_free(pool->small);
    list_free(pool->large);
    *pool = (struct buf_pool){0};
}
