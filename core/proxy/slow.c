#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "core/proxy/proxy_internal.h"

enum { GRACE_US = 30000000 }; /* where client_body_gap is off */

/* Of what we wrote, what is not in the kernel's queue any more. */
static uint64_t
taken_bytes(const struct stream *stream)
{
    int queued = 0;
    if (ioctl(stream->conn->fd, SIOCOUTQ, &queued) == -1 || queued < 0) return stream->bytes_out;
    uint64_t bytes = (uint64_t)queued; /* a unix socket counts what its queue costs: more than it holds */
    return bytes < stream->bytes_out ? stream->bytes_out - bytes : 0;
}

void
client_blocks(struct stream *stream)
{
    stream->taken = taken_bytes(stream);
}

enum taking
client_takes(struct stream *stream, uint64_t waited_us)
{
    uint64_t before = stream->taken, due, rate = stream->state == STREAM_TUNNEL ? 0 : stream->body_rate;
    stream->taken = taken_bytes(stream);
    if (stream->taken <= before) return TAKES_NOTHING;
    if (__builtin_mul_overflow(rate, waited_us / 1000000, &due)) return TAKES_ENOUGH;
    return stream->taken - before >= due ? TAKES_ENOUGH : TAKES_LITTLE;
}

void
body_waits(struct stream *stream)
{
    if (stream->body_since_us == 0) stream->body_since_us = stream->proxy->now_us;
}

void
body_moves(struct stream *stream)
{
    if (stream->body_since_us == 0) return;
    stream->body_waited_us += stream->proxy->now_us - stream->body_since_us;
    stream->body_since_us = 0;
}

/* Time counts only while we wait for the client: a backend that takes its body slowly is no fault of its. The
 * first client_body_gap is free, so that the rate never forbids a pause that the gap allows. */
uint64_t
body_due_us(const struct stream *stream)
{
    uint64_t grace_us = stream->timeouts.client_body_gap, paid_us;
    if (stream->body_rate == 0 || stream->body_since_us == 0) return UINT64_MAX;
    if (grace_us == 0) grace_us = GRACE_US;
    if (__builtin_mul_overflow(stream->bytes_in - stream->head_bytes, 1000000, &paid_us)) return UINT64_MAX;
    uint64_t allowed_us = grace_us + paid_us / stream->body_rate;
    return allowed_us <= stream->body_waited_us
               ? stream->proxy->now_us
               : stream->body_since_us + (allowed_us - stream->body_waited_us);
}
