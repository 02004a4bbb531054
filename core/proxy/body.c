#include <errno.h>
#include <sys/socket.h>

#include "core/proxy/relay.h"

enum { JOIN_MAX = 1024 };

void
relay_begin(struct relay *relay, enum body_kind from, enum body_kind to, uint64_t length, struct buf *buf)
{
    relay->state = RELAY_OPEN;
    relay->from = from;
    relay->to = to;
    relay->left = length;
    relay->limit = 0;
    relay->body_bytes = 0;
    if (UNLIKELY(from == BODY_CHUNKED)) relay->chunked = (struct h1_chunked){0};
    relay->buf = buf;
    relay->read_bytes = 1;
}

void
relay_init(struct relay *relay, enum body_kind from, enum body_kind to, uint64_t length, struct buf *buf)
{
    relay_begin(relay, from, to, length, buf);
    relay->iov_at = relay->iov_count = relay->scratch_used = 0;
    relay->pipe = NULL;
    relay->piped = 0;
}

bool
relay_is_flushed(const struct relay *relay)
{
    return relay->iov_at == relay->iov_count && relay->piped == 0;
}

bool
relay_queue(struct relay *relay, const char *bytes, size_t len)
{
    if (relay->iov_count == RELAY_IOVS) return false;
    if (len > 0) relay->iov[relay->iov_count++] = (struct iovec){(void *)bytes, len};
    return true;
}

/* A run of data in the sink's framing: the caller saw to it that three places and a size line are free. */
static inline void
queue_data(struct relay *relay, struct slice data)
{
    relay->body_bytes += data.len;
    if (relay->to != BODY_CHUNKED) {
        relay->iov[relay->iov_count++] = (struct iovec){(void *)data.at, data.len};
        return;
    }
    char *line = relay->scratch + relay->scratch_used;
    size_t line_len = h1_chunk_head(data.len, line);
    relay->scratch_used += (unsigned)line_len;
    relay->iov[relay->iov_count++] = (struct iovec){line, line_len};
    relay->iov[relay->iov_count++] = (struct iovec){(void *)data.at, data.len};
    relay->iov[relay->iov_count++] = (struct iovec){"\r\n", 2};
}

/* Trailers that may travel on, as lines; empty where there are none. */
static bool
trailer_lines(struct relay *relay, struct arena *arena, struct slice *lines)
{
    struct headers trailers = {0};
    size_t bytes = 0;
    *lines = SLICE_NONE;
    if (relay->from != BODY_CHUNKED || relay->chunked.trailers.len == 0) return true;
    if (!h1_parse_trailers(relay->chunked.trailers, arena, &trailers)) return false;
    for (uint32_t i = 0; i < trailers.count; i++)
        bytes += trailers.rows[i].name.len + trailers.rows[i].value.len + 4;
    if (bytes == 0) return true;
    char *out = arena_alloc(arena, bytes);
    if (out == NULL) return false;
    *lines = (struct slice){out, bytes};
    for (uint32_t i = 0; i < trailers.count; i++) {
        const struct header *row = &trailers.rows[i];
        memcpy(out, row->name.at, row->name.len);
        out += row->name.len;
        *out++ = ':';
        *out++ = ' ';
        if (row->value.len > 0) memcpy(out, row->value.at, row->value.len);
        out += row->value.len;
        *out++ = '\r';
        *out++ = '\n';
    }
    return true;
}

static inline bool
queue_end(struct relay *relay, struct arena *arena)
{
    struct slice lines;
    if (!trailer_lines(relay, arena, &lines)) {
        relay->chunked.error = H1_BAD_TRAILER;
        return false;
    }
    relay->state = RELAY_ENDED;
    if (relay->to != BODY_CHUNKED) return true;
    if (lines.len == 0) return relay_queue(relay, "0\r\n\r\n", 5);
    return relay_queue(relay, "0\r\n", 3) && relay_queue(relay, lines.at, lines.len) &&
           relay_queue(relay, "\r\n", 2);
}

void
relay_queue_data(struct relay *relay, struct slice data)
{
    queue_data(relay, data);
}

bool
relay_queue_end(struct relay *relay, struct arena *arena)
{
    return queue_end(relay, arena);
}

static bool
has_room(const struct relay *relay)
{
    return relay->iov_count + 3 <= RELAY_IOVS - 3 && relay->scratch_used + 20 <= RELAY_SCRATCH;
}

static bool
fill_chunked(struct relay *relay, struct arena *arena)
{
    struct buf *buf = relay->buf;
    if (UNLIKELY(relay->chunked.error != H1_OK)) return false; /* it was broken before, and still is */
    while (has_room(relay)) {
        struct slice in = buf == NULL ? SLICE_NONE : (struct slice){buf->bytes + buf->at, buf_used(buf)},
                     data = SLICE_NONE;
        size_t used = 0;
        if (in.len == 0) return true;
        enum h1_result result = h1_chunked_read(&relay->chunked, arena, relay->limit, in, &data, &used);
        buf->at += (uint32_t)used;
        if (data.len > 0) queue_data(relay, data);
        if (result == H1_BAD) return false;
        if (result == H1_DONE) return queue_end(relay, arena);
        if (data.len == 0 && used == 0) return true;
    }
    return true;
}

bool
relay_fill(struct relay *relay, struct arena *arena)
{
    struct buf *buf = relay->buf;
    if (relay->state != RELAY_OPEN || !has_room(relay)) return true;
    size_t have = buf == NULL ? 0 : buf_used(buf);
    switch (relay->from) {
    case BODY_NONE: return queue_end(relay, arena);
    case BODY_CHUNKED: return fill_chunked(relay, arena);
    case BODY_CLOSE: break;
    case BODY_LENGTH:
        if (have > relay->left) have = (size_t)relay->left;
        relay->left -= have;
        break;
    }
    if (have > 0) {
        queue_data(relay, (struct slice){buf->bytes + buf->at, have});
        buf->at += (uint32_t)have;
    }
    if (relay->from == BODY_LENGTH && relay->left == 0) return queue_end(relay, arena);
    return true;
}

void
relay_eof(struct relay *relay)
{
    relay->state = RELAY_ENDED;
    if (relay->to != BODY_CHUNKED) return;
    if (relay->iov_count == RELAY_IOVS)
        relay->iov_count = relay->iov_at = 0; /* never: it is called on an empty queue */
    relay->iov[relay->iov_count++] = (struct iovec){"0\r\n\r\n", 5};
}

static void
advance(struct relay *relay, size_t written)
{
    while (written > 0) {
        struct iovec *iov = &relay->iov[relay->iov_at];
        if (written < iov->iov_len) {
            iov->iov_base = (char *)iov->iov_base + written;
            iov->iov_len -= written;
            return;
        }
        written -= iov->iov_len;
        relay->iov_at++;
    }
}

/* send(2) spares the kernel a vector's import, which costs more than to join a head and a small body; neither
 * raises SIGPIPE. */
static ssize_t
send_queue(int sink, struct iovec *iov, size_t count, int more)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    if (count == 2 && iov[0].iov_len + iov[1].iov_len <= JOIN_MAX) {
        char joined[JOIN_MAX];
        memcpy(joined, iov[0].iov_base, iov[0].iov_len);
        memcpy(joined + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
        return send(sink, joined, iov[0].iov_len + iov[1].iov_len, MSG_NOSIGNAL | more);
    }
    return count == 1 ? send(sink, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | more)
                      : sendmsg(sink, &message, MSG_NOSIGNAL | more);
}

static enum pump
flush_queue(struct relay *relay, int sink, uint64_t *written)
{
    while (relay->iov_at < relay->iov_count) {
        ssize_t n = send_queue(sink, relay->iov + relay->iov_at, relay->iov_count - relay->iov_at,
            relay->piped > 0 ? MSG_MORE : 0);
        if (n == -1) {
            if (errno == EINTR) continue;
            return errno == EAGAIN || errno == EWOULDBLOCK ? PUMP_SINK : PUMP_SINK_ERROR;
        }
        *written += (uint64_t)n;
        advance(relay, (size_t)n);
    }
    relay->iov_at = relay->iov_count = relay->scratch_used = 0;
    return PUMP_SOURCE;
}

bool
relay_batch(struct relay *relay, struct arena *arena, struct batch *batch, int sink)
{
    if (relay->piped > 0 || !relay_fill(relay, arena) || relay->iov_at == relay->iov_count) return false;
    batch_add(batch, sink, relay->iov + relay->iov_at, relay->iov_count - relay->iov_at);
    return true;
}

void
relay_sent(struct relay *relay, ssize_t n, uint64_t *written)
{
    if (n <= 0) return; /* relay_flush tries it again, and sees why */
    *written += (uint64_t)n;
    advance(relay, (size_t)n);
}

enum pump
relay_flush(struct relay *relay, int sink, uint64_t *written)
{
    for (;;) {
        enum pump pump = flush_queue(relay, sink, written);
        if (LIKELY(relay->piped == 0) || pump != PUMP_SOURCE) return pump;
        pump = relay_drain_pipe(relay, sink, written);
        if (pump != PUMP_SOURCE) return pump;
    }
}
