#include <errno.h>
#include <sys/socket.h>

#include "core/http/load.h"
#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

static void
note_load(struct proxy *proxy, uint32_t slot, const struct headers *headers)
{
    uint32_t milli;
    if (!load_of_headers(headers, &milli)) return;
    struct slot *shared = slot_at(proxy->shm, slot);
    if (shared != NULL) atomic_store_explicit(&shared->load_milli, milli, memory_order_relaxed);
}

/* What an endpoint's latency counts as: an error that came quickly is no sign of health. */
static uint32_t
latency_of(struct stream *stream, bool is_good)
{
    struct proxy *proxy = stream->proxy;
    uint64_t latency_us = proxy->now_us - stream->picked_us;
    if (latency_us > UINT32_MAX) latency_us = UINT32_MAX;
    if (LIKELY(is_good)) {
        latency_note(proxy, stream->service_id, (uint32_t)latency_us);
        return (uint32_t)latency_us;
    }
    uint32_t p90_us = latency_p90_us(proxy, stream->service_id);
    return latency_us < p90_us ? p90_us : (uint32_t)latency_us;
}

void
attempt_failed(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    if (stream->slot == SLOT_NONE) return;
    slot_observe(proxy->shm, stream->slot, latency_of(stream, false), true, proxy->now_us);
    stream->stay_until_us = stream->picked_us + latency_p90_us(proxy, stream->service_id);
}

/* A 5xx: as a failure, it makes the endpoint look neither fast nor idle. */
static void
attempt_answered_badly(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    slot_observe_error(proxy->shm, stream->slot, latency_of(stream, false), proxy->now_us);
    stream->stay_until_us = stream->picked_us + latency_p90_us(proxy, stream->service_id);
}

static void
end_trial(struct stream *stream, int status, enum reason failure)
{
    enum trial outcome = failure != REASON_NONE ? TRIAL_FAILED : status >= 500 ? TRIAL_ERROR : TRIAL_PASSED;
    script_trial_end(stream_picker(stream)->script, &stream->request, outcome);
}

void
attempt_observe(struct stream *stream, int status, enum reason failure, const struct headers *headers)
{
    struct proxy *proxy = stream->proxy;
    uint64_t latency_us = proxy->now_us - stream->picked_us;
    if (latency_us > UINT32_MAX) latency_us = UINT32_MAX;
    if (UNLIKELY(failure != REASON_NONE))
        attempt_failed(stream);
    else if (UNLIKELY(status >= 500))
        attempt_answered_badly(stream);
    else
        slot_observe(proxy->shm, stream->slot, latency_of(stream, true), false, proxy->now_us);
    if (UNLIKELY(stream->request.trial != 0)) end_trial(stream, status, failure);
    if (headers != NULL) note_load(proxy, stream->slot, headers);
    script_result(stream_picker(stream)->script, &stream->request, stream->slot,
        &(struct script_result){status, failure, (uint32_t)latency_us, headers});
}

/* The connection may carry another request only where this exchange ended to the byte on both sides. */
static bool
is_reusable(const struct stream *stream)
{
    return stream->state == STREAM_REPLY && stream->down.state == RELAY_DONE &&
           stream->up.state == RELAY_DONE && stream->response.head.keep_alive &&
           stream->down.from != BODY_CLOSE && (stream->down.buf == NULL || buf_used(stream->down.buf) == 0);
}

/* What a small buffer leaves over, and splice is not worth, comes in one read: at 32 KiB the second one cost
 * more than half of the request. */
static uint32_t
read_bytes(uint64_t body_bytes)
{
    return body_bytes > BUF_SMALL - 1024 && body_bytes < BUF_SMALL + SPLICE_LEAST
               ? BUF_LARGE - sizeof(struct buf)
               : 1;
}

void
attempt_end(struct stream *stream)
{
    outbox_take(stream);
    if (stream->upstream != NULL) {
        stream->upstream->written += stream->sent;
        stream->upstream->read_bytes = read_bytes(stream->down.body_bytes);
        uint64_t idle_us = is_reusable(stream) ? upstream_idle_us(stream->timeouts.upstream_keepalive,
                                                     stream->response.head.keep_alive_s)
                                               : 0;
        upstream_give(&stream->upstream, idle_us);
    }
    if (stream->slot != SLOT_NONE) {
        if (LIKELY(stream->stay_until_us <= stream->proxy->now_us) ||
            !stay_begin(stream->proxy, stream->slot, stream->service_id, stream->stay_until_us))
            slot_end(stream->proxy->shm, stream->proxy->worker, stream->slot);
        stream->slot = SLOT_NONE;
        stream->stay_until_us = 0;
    }
    if (UNLIKELY(stream->line != NULL)) queueing_end(stream);
}

static void
send_request(struct stream *stream)
{
    stream_enter(stream, STREAM_WAIT);
    if (stream->parser.head.expect_continue && stream->up.state == RELAY_OPEN && stream->interims == 0) {
        stream->nudge_us = stream->proxy->now_us + EXPECT_US;
    }
    upstream_want_write(stream->upstream, false);
    upstream_want_read(stream->upstream, true);
    outbox_put(stream, OUTBOX_UP);
}

/* A backend on this machine has accepted before connect(2) returns EINPROGRESS: trying at once saves the wait
 * for the write event and three epoll_ctl(2). Elsewhere it costs one EAGAIN a connection. */
static void
connect_or_send(struct stream *stream)
{
    struct upstream *upstream = stream->upstream;
    if (relay_flush(&stream->up, upstream->fd, &stream->sent) == PUMP_SINK_ERROR) {
        attempt_fail(stream, errno == ETIMEDOUT ? REASON_CONNECT_TIMEOUT : REASON_CONNECT_REFUSED);
    } else if (stream->sent == 0) {
        stream_enter(stream, STREAM_CONNECT);
        upstream_want_write(upstream, true);
    } else {
        upstream->state = UPSTREAM_BUSY;
        send_request(stream);
    }
}

/* A filter read or replaced the request's body. */
static bool
has_content(const struct stream *stream)
{
    return UNLIKELY(stream->filtering != NULL) && stream->filtering->is_sealed;
}

static void
rewind_request(struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    const struct config_limits *limits = &stream->generation->config->limits;
    relay_give_pipe(&stream->up, &stream->proxy->pipes);
    if (LIKELY(!has_content(stream))) {
        stream->in->at = stream->head_bytes;
        relay_init(&stream->up, head->body, head->body, head->length, stream->in);
        stream->up.limit = stream->parser.limits.body_bytes;
    } else {
        content_rewind(stream);
    }
    stream->sent = 0;
    stream->was_reset = false;
    buf_give(&stream->proxy->buffers, &stream->back);
    relay_begin(&stream->down, BODY_CLOSE, BODY_CLOSE, 0, NULL);
    h1_response_init(&stream->response, &stream->arena,
        &(struct h1_limits){limits->header_bytes, limits->headers, 0, 0, true}, head->method);
}

static bool
is_out_of_descriptors(int error)
{
    return error == EMFILE || error == ENFILE;
}

/* What merely idles gives its descriptor to a request that waits. */
static struct upstream *
connect_or_reclaim(struct proxy *proxy, const struct endpoint *endpoint)
{
    struct upstream *upstream = upstream_connect(proxy, endpoint);
    if (upstream != NULL || !is_out_of_descriptors(errno)) return upstream;
    if (!link_is_empty(&proxy->idle_upstreams)) {
        upstream_close(LINK_OF(proxy->idle_upstreams.prev, struct upstream, all));
    } else if (conn_reclaim(proxy, 1) == 0) {
        errno = EMFILE;
        return NULL;
    }
    return upstream_connect(proxy, endpoint);
}

/* Whether it could go out again, should its connection turn out to be stale: it may run twice, and its body
 * will be kept to the end (of a chunked one nobody knows where that is). */
static bool
is_replayable(const struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    if (UNLIKELY(!method_is_idempotent(head->method))) return false;
    if (LIKELY(head->body == BODY_NONE) || has_content(stream)) return true;
    return head->body == BODY_LENGTH && head->length <= stream->in->cap - stream->head_bytes;
}

static void
run_on(struct stream *stream, struct endpoint *endpoint)
{
    struct slice head;
    outbox_take(stream);
    rewind_request(stream);
    stream->upstream = LIKELY(!stream->met_stale)
                           ? upstream_take(endpoint, stream->proxy->now_us, is_replayable(stream))
                           : NULL;
    stream->pooled = stream->upstream != NULL;
    if (stream->pooled)
        atomic_fetch_add_explicit(&stream->proxy->totals->upstream_reused, 1, memory_order_relaxed);
    else
        stream->upstream = connect_or_reclaim(stream->proxy, endpoint);
    if (stream->upstream == NULL) {
        bool is_ours = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS ||
                       errno == EADDRNOTAVAIL;
        if (is_ours)
            respond_to_failure(stream, REASON_SHED, "no socket could be had for the endpoint");
        else
            attempt_fail(stream, REASON_CONNECT_REFUSED);
        return;
    }
    stream->upstream->stream = stream;
    if (!forward_write_request(stream, endpoint, &head) || !relay_queue(&stream->up, head.at, head.len)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    if (UNLIKELY(has_content(stream))) content_queue(stream);
    if (stream->upstream->state == UPSTREAM_CONNECTING)
        connect_or_send(stream);
    else
        send_request(stream);
}

static bool
is_late(const struct stream *stream)
{
    return stream->timeouts.request != 0 &&
           stream->proxy->now_us >= stream->started_us + stream->timeouts.request;
}

void
attempt_begin(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    enum reason reason = REASON_NO_ENDPOINTS;
    uint32_t slot = SLOT_NONE;
    stream->attempts++;
    stream->request.attempt = stream->attempts;
    if (UNLIKELY(queueing_is_limited(stream))) {
        queueing_begin(stream);
        return;
    }
    switch (script_pick(stream_picker(stream)->script, &stream->request, &slot, &reason)) {
    case SCRIPT_PICKED:
        slot_begin(proxy->shm, proxy->worker, slot);
        attempt_run(stream, slot);
        return;
    case SCRIPT_QUEUE: queueing_begin(stream); return;
    case SCRIPT_NONE: attempt_none(stream, reason); return;
    }
}

void
attempt_none(struct stream *stream, enum reason reason)
{
    struct proxy *proxy = stream->proxy;
    stream->attempts--;
    if (stream->request.tried_count > 0) { /* nothing else is left: one that failed, but not at once */
        stream->request.tried_count = 0;
        stream->resume_us = proxy->now_us + retry_backoff_us(stream->attempts, proxy_random(proxy));
        stream_enter(stream, STREAM_BACKOFF);
        return;
    }
    if (stream->reason != REASON_NONE) reason = stream->reason; /* why the last one failed */
    respond_to_failure(stream, reason, NULL);
}

void
attempt_run(struct stream *stream, uint32_t slot)
{
    struct proxy *proxy = stream->proxy;
    stream->slot = stream->last_slot = slot;
    stream->picked_us = proxy->now_us;
    struct endpoint *endpoint = endpoint_get(proxy, slot);
    if (endpoint == NULL || endpoint->service != stream->service_id) { /* it went between the pick and now */
        stream->last_slot = SLOT_NONE;
        attempt_fail(stream, REASON_CONNECT_REFUSED);
        return;
    }
    stream->last_incarnation = endpoint->incarnation;
    run_on(stream, endpoint);
}

void
attempt_resume(struct stream *stream)
{
    if (is_late(stream))
        respond_to_failure(
            stream, stream->reason == REASON_NONE ? REASON_RESPONSE_TIMEOUT : stream->reason, NULL);
    else
        attempt_begin(stream);
}

static enum retry_verdict
decide(const struct stream *stream, enum reason reason)
{
    struct retry_case retry = {
        .reason = reason,
        .idempotent = method_is_idempotent(stream->parser.head.method),
        .pooled = stream->pooled,
        .kept = stream->kept,
        .sent = stream->sent,
        .answered = stream->interims - stream->hidden > stream->continued,
        .head_began = stream->response.error != H1_BAD_STATUS_LINE,
        .per_try = stream->per_try_us != 0 && stream->proxy->now_us >= stream->picked_us + stream->per_try_us,
        .attempts = stream->attempts,
    };
    return is_late(stream) ? RETRY_NO : retry_decide(stream->retry, &retry);
}

/* Its pooled connection ended before the request came to the endpoint. */
static bool
is_unread(const struct stream *stream)
{
    return stream->pooled && socket_is_unread(stream->upstream->fd, stream->upstream->written);
}

/* The attempt is over: its endpoint is not tried again while there are others. */
static void
leave_endpoint(struct stream *stream)
{
    struct script_request *request = &stream->request;
    if (request->tried_count < sizeof request->tried / sizeof request->tried[0])
        request->tried[request->tried_count++] = stream->slot;
    attempt_end(stream);
    stream->pooled = false;
}

static bool
may_retry(struct stream *stream, enum retry_verdict verdict)
{
    struct proxy *proxy = stream->proxy;
    if (verdict != RETRY_OTHER ||
        !budget_take_retry(proxy->shm, proxy->worker, stream->retry->budget_percent, proxy->now_us))
        return false;
    atomic_fetch_add_explicit(&proxy->totals->retries, 1, memory_order_relaxed);
    return true;
}

/* RFC 9110 §15.5.9: what a server may say when it closes a connection that idled for too long. The request
 * that crossed it was not meant. */
static bool
replay_timed_out(struct stream *stream)
{
    uint64_t sent = stream->sent;
    if (!stream->pooled || stream->response.head.keep_alive || stream->up.state != RELAY_DONE) return false;
    if (is_unread(stream)) stream->sent = 0;
    if (decide(stream, REASON_RESET_BEFORE_HEADERS) == RETRY_SAME) {
        attempt_fail(stream, REASON_RESET_BEFORE_HEADERS);
        return true;
    }
    stream->sent = sent;
    return false;
}

bool
attempt_replay(struct stream *stream)
{
    const struct h1_head *answer = &stream->response.head;
    if (answer->status == 408) return replay_timed_out(stream);
    if (!config_retry_has_status(stream->retry, answer->status)) return false;
    if (stream->up.state != RELAY_DONE || !may_retry(stream, decide(stream, REASON_NONE))) return false;
    attempt_observe(stream, answer->status, REASON_NONE, &answer->headers);
    leave_endpoint(stream);
    stream->reason = REASON_NONE;
    attempt_begin(stream);
    return true;
}

void
attempt_fail(struct stream *stream, enum reason reason)
{
    struct proxy *proxy = stream->proxy;
    enum retry_verdict verdict = decide(stream, reason);
    stream_calm(stream);
    if (stream->pooled && stream->upstream != NULL && reason == REASON_RESET_BEFORE_HEADERS)
        upstream_note_end(stream->upstream);
    if (verdict == RETRY_SAME) {
        struct endpoint *endpoint = endpoint_get(proxy, stream->slot);
        upstream_close(stream->upstream);
        stream->upstream = NULL;
        stream->pooled = false;
        stream->met_stale = true;
        if (endpoint != NULL && endpoint->incarnation == stream->last_incarnation) {
            run_on(stream, endpoint);
            return;
        }
        verdict = RETRY_OTHER;
    }
    attempt_observe(stream, 0, reason, NULL);
    leave_endpoint(stream);
    if (may_retry(stream, verdict)) {
        stream->reason = reason;
        attempt_begin(stream);
        return;
    }
    respond_to_failure(stream, reason, NULL);
}

void
attempt_on_connected(struct stream *stream)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(stream->upstream->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1) error = errno;
    if (error == EINPROGRESS) return;
    if (error != 0) {
        attempt_fail(stream, error == ETIMEDOUT ? REASON_CONNECT_TIMEOUT : REASON_CONNECT_REFUSED);
        return;
    }
    stream->upstream->state = UPSTREAM_BUSY;
    send_request(stream);
}

static bool
grow_back(struct stream *stream)
{
    struct buf *old = stream->back;
    if (old->at > 0) { /* interim heads are done with */
        h1_rebase(&stream->response, old->bytes + old->at, old->bytes);
        memmove(old->bytes, old->bytes + old->at, buf_used(old));
        old->end -= old->at;
        old->at = 0;
        return true;
    }
    struct buf *grown = buf_take(&stream->proxy->buffers, (size_t)old->cap * 2);
    if (grown == NULL) return false;
    memcpy(grown->bytes, old->bytes, old->end);
    grown->end = old->end;
    h1_rebase(&stream->response, old->bytes, grown->bytes);
    buf_give(&stream->proxy->buffers, &stream->back);
    stream->back = grown;
    return true;
}

static void
read_response_head(struct stream *stream)
{
    if (stream->back == NULL) stream->back = buf_take(&stream->proxy->buffers, stream->upstream->read_bytes);
    if (stream->back == NULL || (stream->back->end == stream->back->cap && !grow_back(stream))) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    struct buf *back = stream->back;
    PREFETCH(&stream->down, 192);
    PREFETCH(stream->conn, sizeof *stream->conn);
    PREFETCH(stream->arena.at, 512);
    if (stream->in != NULL) PREFETCH(stream->in->bytes, 256);
    ssize_t n = recv(stream->upstream->fd, back->bytes + back->end, back->cap - back->end, 0);
    if (n > 0) {
        back->end += (uint32_t)n;
        response_on_bytes(stream);
    } else if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        if (back->end == 0) buf_give(&stream->proxy->buffers, &stream->back);
    } else if (back->end > back->at) {
        attempt_fail(stream, REASON_BAD_RESPONSE);
    } else {
        /* A pooled connection that the backend was closing while the request was on its way. */
        bool has_fin = n == 0 && !stream->was_reset;
        if (has_fin && is_unread(stream)) stream->sent = 0;
        attempt_fail(stream, REASON_RESET_BEFORE_HEADERS);
    }
}

void
attempt_on_readable(struct stream *stream)
{
    switch (stream->state) {
    case STREAM_WAIT: read_response_head(stream); return;
    case STREAM_JUDGE: upstream_want_read(stream->upstream, false); return; /* the rest can wait, too */
    case STREAM_REPLY:
        if (relay_is_flushed(&stream->down))
            stream_pump_down(stream, true);
        else
            upstream_want_read(stream->upstream, false); /* the client is slower: back-pressure */
        return;
    case STREAM_TUNNEL: tunnel_pump(stream, false, true); return;
    case STREAM_HEAD:
    case STREAM_FILTER:
    case STREAM_QUEUED:
    case STREAM_BACKOFF:
    case STREAM_CONNECT:
    case STREAM_ANSWER:
    case STREAM_CLOSED: return;
    }
}

void
attempt_on_writable(struct stream *stream)
{
    switch (stream->state) {
    case STREAM_WAIT:
    case STREAM_JUDGE:
    case STREAM_REPLY: stream_pump_up(stream, false); return;
    case STREAM_TUNNEL: tunnel_pump(stream, false, false); return;
    case STREAM_HEAD:
    case STREAM_FILTER:
    case STREAM_QUEUED:
    case STREAM_BACKOFF:
    case STREAM_CONNECT:
    case STREAM_ANSWER:
    case STREAM_CLOSED: return;
    }
}
