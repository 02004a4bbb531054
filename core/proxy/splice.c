#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/proxy/relay.h"

enum {
    PIPE_BYTES = 262144,
    PIPE_LEAST = 65536, /* less is what the kernel gives a user who has too many */
};

static void
pipe_free(struct pipe_pool *pool, struct pipe *pipe)
{
    close(pipe->ends[0]);
    close(pipe->ends[1]);
    free(pipe);
    pool->open--;
}

static struct pipe *
pipe_new(struct pipe_pool *pool)
{
    struct pipe *pipe = malloc(sizeof *pipe);
    if (pipe == NULL) return NULL;
    if (pipe2(pipe->ends, O_NONBLOCK | O_CLOEXEC) == -1) {
        free(pipe);
        return NULL;
    }
    pool->open++;
    (void)fcntl(pipe->ends[0], F_SETPIPE_SZ, PIPE_BYTES); /* the usual 64 KiB do as well, if slower */
    if (fcntl(pipe->ends[0], F_GETPIPE_SZ) < PIPE_LEAST) {
        pipe_free(pool, pipe);
        pool->limit = pool->open;
        return NULL;
    }
    return pipe;
}

void
pipe_pool_fini(struct pipe_pool *pool)
{
    for (struct pipe *pipe = pool->idle, *next; pipe != NULL; pipe = next) {
        next = pipe->next;
        pipe_free(pool, pipe);
    }
    pool->idle = NULL;
}

bool
relay_take_pipe(struct relay *relay, struct pipe_pool *pool)
{
    if (relay->from == BODY_LENGTH ? relay->left < SPLICE_LEAST
                                   : relay->from != BODY_CLOSE || relay->read_bytes <= BUF_SMALL)
        return false;
    if (relay->pipe != NULL) return true;
    if (pool->idle != NULL) {
        relay->pipe = pool->idle;
        pool->idle = relay->pipe->next;
    } else if (pool->open < pool->limit) {
        relay->pipe = pipe_new(pool);
    }
    return relay->pipe != NULL;
}

void
relay_give_pipe(struct relay *relay, struct pipe_pool *pool)
{
    struct pipe *pipe = relay->pipe;
    if (pipe == NULL) return;
    relay->pipe = NULL;
    if (relay->piped > 0) { /* of no use to another body */
        relay->piped = 0;
        pipe_free(pool, pipe);
        return;
    }
    pipe->next = pool->idle;
    pool->idle = pipe;
}

ssize_t
relay_read_pipe(struct relay *relay, struct pipe_pool *pool, int source, bool *filled)
{
    size_t most = PIPE_BYTES;
    if (relay->from == BODY_LENGTH && relay->left < most) most = (size_t)relay->left;
    ssize_t n = splice(source, NULL, relay->pipe->ends[1], NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n == -1 && (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
        relay_give_pipe(relay, pool); /* no such thing on this kernel or socket: by copy from now on */
        pool->limit = 0;
        pipe_pool_fini(pool);
        errno = EAGAIN;
        return -1;
    }
    if (n <= 0) return n;
    *filled = (size_t)n == most;
    relay->piped = (size_t)n;
    relay->body_bytes += (size_t)n;
    if (relay->from == BODY_LENGTH)
        relay->left -= (size_t)n;
    else if (n < SPLICE_WORTH)
        relay->read_bytes = 1; /* a trickle: copied until it fills a buffer again */
    if (relay->to == BODY_CHUNKED) {
        size_t len = h1_chunk_head((size_t)n, relay->scratch);
        relay->iov[relay->iov_count++] = (struct iovec){relay->scratch, len}; /* the queue was empty */
    }
    return n;
}

enum pump
relay_drain_pipe(struct relay *relay, int sink, uint64_t *written)
{
    while (relay->piped > 0) {
        ssize_t n =
            splice(relay->pipe->ends[0], NULL, sink, NULL, relay->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return errno == EAGAIN ? PUMP_SINK : PUMP_SINK_ERROR;
        if (n == 0) return PUMP_SINK_ERROR;
        *written += (uint64_t)n;
        relay->piped -= (size_t)n;
    }
    if (relay->to == BODY_CHUNKED) relay->iov[relay->iov_count++] = (struct iovec){"\r\n", 2};
    return PUMP_SOURCE;
}
