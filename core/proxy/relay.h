/* core/proxy/relay.h: how bytes pass from socket to socket: lists, pooled buffers and pipes, and the relay,
 * one direction of a message with its framing. Knows nothing of streams. */
#ifndef FLUXGATE_PROXY_RELAY_H
#define FLUXGATE_PROXY_RELAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/base/arena.h"
#include "core/http/h1.h"
#include "core/net/batch.h"

enum {
    /* With its struct buf: one head, and a body of 16 KiB in the same read. Not a multiple of 4 KiB: the
     * first bytes of many then share few sets of the cache. */
    BUF_SMALL = 24576 + 304,
    BUF_LARGE = 65536, /* a body that filled a small one */
    /* Kept for the next user; what a burst took beyond these goes back to malloc. */
    KEEP_SMALL = 1024,
    KEEP_LARGE = 64,
    PIPES_MAX = 128,
    SPLICE_LEAST = 32768, /* of a body's rest: 64 KiB took 0.75 of the copy's CPU, 32 KiB the same */
    SPLICE_WORTH = 16384,
    RELAY_IOVS = 26,
    RELAY_SCRATCH = 192,
};

/* lists */
struct link {
    struct link *prev, *next;
};
#define LINK_OF(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static inline void
link_init(struct link *head)
{
    head->prev = head->next = head;
}

static inline bool
link_is_empty(const struct link *head)
{
    return head->next == head;
}

static inline void
link_push(struct link *head, struct link *entry) /* to the front */
{
    entry->prev = head;
    entry->next = head->next;
    head->next->prev = entry;
    head->next = entry;
}

static inline void
link_remove(struct link *entry)
{
    entry->prev->next = entry->next;
    entry->next->prev = entry->prev;
    link_init(entry);
}

/* buffers (pool.c) */
/*  bytes                at                 end             cap
 *    |  done with        |  not yet used    |  free         |     */
struct buf {
    uint32_t at, end, cap, unused; /* `bytes` stands at a multiple of 16 */
    char bytes[];
};

/* The last given is the first taken. Arrays: a list would read each buffer to find the next. */
struct buf_pool {
    struct buf *small[KEEP_SMALL], *large[KEEP_LARGE];
    unsigned small_count, large_count;
};

/* Any size: the two pooled ones come from their list. NULL: out of memory. buf_give(NULL) is fine. */
MUST_CHECK
struct buf *buf_take(struct buf_pool *pool, size_t bytes);
void buf_give(struct buf_pool *pool, struct buf **buf);
void buf_pool_fini(struct buf_pool *pool);

static inline size_t
buf_used(const struct buf *buf)
{
    return buf->end - buf->at;
}

/* pipes (splice.c): a body's bytes on their way from socket to socket, never seen by us */
struct pipe {
    struct pipe *next; /* in the pool */
    int ends[2];
};

struct pipe_pool {
    struct pipe *idle;
    unsigned open, limit;
};

void pipe_pool_fini(struct pipe_pool *pool);

/* relays (body.c) */
enum relay_state {
    RELAY_OPEN,    /* the source has more to say */
    RELAY_ENDED,   /* the source's last byte is queued */
    RELAY_DONE,    /* ... and written */
    RELAY_DROPPED, /* given up: the sink takes no more */
};

/* One direction of a message: decodes the source's framing, encodes the sink's, holds at most one buffer. */
struct relay {
    enum relay_state state;
    enum body_kind from, to;
    uint64_t left;  /* of a BODY_LENGTH source */
    uint64_t limit; /* of a BODY_CHUNKED source's data; 0: none */
    uint64_t body_bytes;
    struct buf *buf;     /* what was read and is not queued yet: borrowed from the stream */
    struct pipe *pipe;   /* or what holds the bytes, behind the queue */
    size_t piped;        /* in the pipe */
    uint32_t read_bytes; /* size of the next buffer: grows once one was filled */
    unsigned iov_at, iov_count, scratch_used;
    struct iovec iov[RELAY_IOVS];
    struct h1_chunked chunked;   /* of a BODY_CHUNKED source */
    char scratch[RELAY_SCRATCH]; /* chunk size lines */
};

enum pump {
    PUMP_SOURCE,       /* all is written; waits for the source to become readable */
    PUMP_SINK,         /* waits for the sink to become writable */
    PUMP_DONE,         /* ended and written */
    PUMP_EOF,          /* the source closed before the end of the body */
    PUMP_SOURCE_ERROR, /* errno */
    PUMP_SINK_ERROR,   /* errno */
    PUMP_BAD,          /* the source's framing is broken: relay->chunked.error */
    PUMP_NO_MEMORY,
};

void relay_init(
    struct relay *relay, enum body_kind from, enum body_kind to, uint64_t length, struct buf *buf);
/* The same, behind what is queued already. */
void relay_begin(
    struct relay *relay, enum body_kind from, enum body_kind to, uint64_t length, struct buf *buf);
/* Queues bytes that stand before the body (a head). False: the queue is full. */
MUST_CHECK
bool relay_queue(struct relay *relay, const char *bytes, size_t len);
/* Queues body bytes in the sink's framing, into an empty queue or behind a head. */
void relay_queue_data(struct relay *relay, struct slice data);
/* Queues the end of the body, with the trailers of relay->chunked. False: they are broken, or no memory. */
MUST_CHECK
bool relay_queue_end(struct relay *relay, struct arena *arena);
/* Queues what the buffer holds, as far as the queue has room. False: broken framing or no memory
 * (chunked.error), from then on each time. */
MUST_CHECK
bool relay_fill(struct relay *relay, struct arena *arena);
/* A BODY_CLOSE source came to its end. */
void relay_eof(struct relay *relay);
bool relay_is_flushed(const struct relay *relay);
/* relay_fill and relay_flush's first write, as part of a batch whose result relay_sent takes. false: nothing
 * to send, or relay_fill failed, and does so again. */
bool relay_batch(struct relay *relay, struct arena *arena, struct batch *batch, int sink);
void relay_sent(struct relay *relay, ssize_t n, uint64_t *written);
/* Writes the queue: PUMP_SOURCE (empty), PUMP_SINK or PUMP_SINK_ERROR; *written grows. */
enum pump relay_flush(struct relay *relay, int sink, uint64_t *written);

/* splice.c. Whether the rest of the body is better spliced than copied, and a pipe was there for it; it stays
 * with the relay until it is given back. */
MUST_CHECK
bool relay_take_pipe(struct relay *relay, struct pipe_pool *pool);
void relay_give_pipe(struct relay *relay, struct pipe_pool *pool);
/* As recv(2), into the pipe; the queue must be empty. *filled: the source may hold more. */
ssize_t relay_read_pipe(struct relay *relay, struct pipe_pool *pool, int source, bool *filled);
enum pump relay_drain_pipe(struct relay *relay, int sink, uint64_t *written); /* relay_flush's part */

#endif
