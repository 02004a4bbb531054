#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

#define BIT(state) (1u << STREAM_##state)
/* From each state, those that may follow. */
static const unsigned moves[STREAM_STATE_COUNT] = {
    [STREAM_HEAD] = BIT(HEAD) | BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) |
                    BIT(ANSWER) | BIT(CLOSED),
    [STREAM_FILTER] =
        BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_QUEUED] =
        BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_BACKOFF] =
        BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_CONNECT] =
        BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_WAIT] = BIT(FILTER) | BIT(QUEUED) | BIT(BACKOFF) | BIT(CONNECT) | BIT(WAIT) | BIT(JUDGE) |
                    BIT(REPLY) | BIT(ANSWER) | BIT(TUNNEL) | BIT(CLOSED),
    [STREAM_JUDGE] = BIT(JUDGE) | BIT(REPLY) | BIT(ANSWER) | BIT(TUNNEL) | BIT(CLOSED),
    [STREAM_REPLY] = BIT(CLOSED),
    [STREAM_ANSWER] = BIT(CLOSED),
    [STREAM_TUNNEL] = BIT(CLOSED),
    [STREAM_CLOSED] = 0,
};

const char *
stream_state_word(enum stream_state state)
{
#define X(name) #name,
    static const char *const words[] = {STREAM_STATES(X)};
#undef X
    return words[state];
}

void
stream_enter(struct stream *stream, enum stream_state state)
{
    if (UNLIKELY((moves[stream->state] & 1u << state) == 0))
        abort(); /* in release builds too: our own invariant */
    stream->state = state;
    if (state != STREAM_CLOSED) stream_arm(stream);
}

static bool
waits_for_body(const struct stream *stream)
{
    return stream->up.state == RELAY_OPEN && relay_is_flushed(&stream->up);
}

/* What the present state waits for, at most: 0 is for ever. */
static uint64_t
wait_us(const struct stream *stream)
{
    switch (stream->state) {
    case STREAM_HEAD: return stream->timeouts.client_header;
    case STREAM_CONNECT: return stream->timeouts.connect;
    case STREAM_WAIT:
        return waits_for_body(stream) ? stream->timeouts.client_body_gap : stream->timeouts.response;
    case STREAM_FILTER:
    case STREAM_JUDGE: return filtering_left_us(stream);
    case STREAM_QUEUED: return queueing_left_us(stream);
    case STREAM_BACKOFF: return stream->resume_us - stream->proxy->now_us;
    case STREAM_REPLY:
    case STREAM_ANSWER: return stream->timeouts.stream_idle;
    case STREAM_TUNNEL: return stream->timeouts.tunnel_idle;
    case STREAM_CLOSED: break;
    }
    return 0;
}

static bool
may_wait_for_body(enum stream_state state)
{
    const unsigned states = BIT(FILTER) | BIT(WAIT) | BIT(JUDGE) | BIT(REPLY);
    return (states >> state & 1u) != 0;
}

static void
set_deadline(struct stream *stream)
{
    bool is_nudged = stream->nudge_us != 0 && stream->nudge_us < stream->due_us;
    deadline_set(stream->proxy, &stream->conn->deadline, is_nudged ? stream->nudge_us : stream->due_us);
}

void
stream_arm(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    uint64_t wait = wait_us(stream), due_us = wait == 0 ? UINT64_MAX : proxy->now_us + wait;
    if (stream->timeouts.request != 0 && stream->state != STREAM_TUNNEL) {
        uint64_t end_us = stream->started_us + stream->timeouts.request;
        if (end_us < due_us) due_us = end_us;
    }
    if (may_wait_for_body(stream->state) && waits_for_body(stream)) {
        uint64_t end_us = body_due_us(stream);
        if (end_us < due_us) due_us = end_us;
    }
    if (stream->per_try_us != 0 &&
        (stream->state == STREAM_CONNECT || (stream->state == STREAM_WAIT && !waits_for_body(stream)))) {
        uint64_t end_us = stream->picked_us + stream->per_try_us;
        if (end_us < due_us) due_us = end_us;
    }
    if (stream->state == STREAM_REPLY && stream->conn->input == INPUT_ENDED &&
        relay_is_flushed(&stream->down) && proxy->now_us + ENDED_US < due_us)
        due_us = proxy->now_us + ENDED_US;
    stream->due_us = due_us;
    set_deadline(stream);
}

/* life */

struct stream *
stream_new(struct conn *conn, struct buf *in)
{
    struct proxy *proxy = conn->proxy;
    struct stream *stream;
    if (proxy->free_stream_count > 0) {
        stream = proxy->free_streams[--proxy->free_stream_count];
    } else {
        stream = calloc(1, sizeof *stream);
        if (stream == NULL) return NULL;
        arena_init(&stream->arena, ARENA_STREAM);
    }
    memset(stream, 0, offsetof(struct stream, arena));
    const struct config_limits *limits = &proxy->generation->config->limits;
    stream->proxy = proxy;
    stream->conn = conn;
    stream->state = STREAM_HEAD;
    stream->in = in;
    stream->started_us = proxy->now_us;
    stream->route_id = stream->service_id = stream->strategy_id = UINT32_MAX;
    stream->slot = stream->last_slot = SLOT_NONE;
    stream->timeouts = proxy->generation->config->timeouts;
    stream->generation = proxy->generation;
    generation_get(stream->generation);
    h1_request_init(&stream->parser, &stream->arena,
        &(struct h1_limits){limits->header_bytes, limits->headers, limits->uri_bytes, 0,
            false}); /* body: the route's limit */
    relay_init(&stream->up, BODY_NONE, BODY_NONE, 0, in);
    relay_init(&stream->down, BODY_NONE, BODY_NONE, 0, NULL);
    link_push(&proxy->streams, &stream->link);
    atomic_store_explicit(&proxy->block->streams, ++proxy->stream_count, memory_order_relaxed);
    return stream;
}

void
stream_rest_free(struct proxy *proxy, struct stream *stream)
{
    if (proxy->free_stream_count < KEEP_STREAMS) {
        arena_reset(&stream->arena);
        arena_poison(stream, offsetof(struct stream, arena));
        arena_poison(&stream->up, sizeof *stream - offsetof(struct stream, up));
        proxy->free_streams[proxy->free_stream_count++] = stream;
    } else {
        arena_fini(&stream->arena);
        free(stream);
    }
}

void
stream_release_generation(struct stream *stream)
{
    if (stream->generation == NULL) return;
    script_request_done(stream_picker(stream)->script, &stream->request);
    stream->route = NULL;
    stream->retry = NULL;
    generation_put(&stream->picker);
    generation_put(&stream->generation);
}

static void
count(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    uint64_t duration_us = proxy->now_us - stream->started_us;
    struct stats_key key = {
        .route = stream->route_id,
        .service = stream->service_id,
        .slot = stream->last_slot,
        .incarnation = stream->last_incarnation,
        .strategy = stream->strategy_id,
        .status = (uint16_t)stream->status,
        .method = (uint8_t)stream->parser.head.method,
        .reason = (uint8_t)stream->reason,
    };
    stats_add(proxy->stats, &key, duration_us, stream->bytes_in, stream->bytes_out);
    accesslog_write(stream, duration_us);
}

/* The bytes past this request, as the next one's buffer; the stream gives its buffers back. */
static struct buf *
take_left(struct stream *stream)
{
    struct buf_pool *pool = &stream->proxy->buffers;
    struct buf *left = stream->up.buf;
    if (left == stream->in)
        stream->in = NULL;
    else if (left == stream->body)
        stream->body = NULL;
    buf_give(pool, &stream->in);
    buf_give(pool, &stream->body);
    buf_give(pool, &stream->back);
    stream->up.buf = stream->down.buf = NULL;
    relay_give_pipe(&stream->up, &stream->proxy->pipes);
    relay_give_pipe(&stream->down, &stream->proxy->pipes);
    return left;
}

/* For the count of closed connections, should this one be closed now. */
static enum shm_close
why_closed(const struct stream *stream, bool answered)
{
    switch (stream->reason) {
    case REASON_CLIENT_GONE: return SHM_CLOSE_CLIENT;
    case REASON_CLIENT_TIMEOUT: return SHM_CLOSE_SLOW;
    case REASON_BAD_REQUEST: return SHM_CLOSE_BAD;
    case REASON_DRAINING: return SHM_CLOSE_DRAINING;
    default: break;
    }
    if (stream->state == STREAM_TUNNEL) return SHM_CLOSE_TUNNEL;
    if (!answered) return SHM_CLOSE_CUT;
    if (stream->proxy->drain != DRAIN_NO) return SHM_CLOSE_DRAINING;
    enum shm_close why = stream->conn->why; /* what conn_may_stay found */
    return why == SHM_CLOSE_REQUESTS || why == SHM_CLOSE_AGE ? why : SHM_CLOSE_ANSWERED;
}

static void
dispose_conn(struct stream *stream, bool answered)
{
    struct proxy *proxy = stream->proxy;
    struct conn *conn = stream->conn;
    bool request_read =
        stream->up.state != RELAY_OPEN && stream->up.state != RELAY_DROPPED && stream->head_bytes > 0;
    if (UNLIKELY(stream->filtering != NULL) && stream->filtering->is_unread) request_read = false;
    bool by_close = stream->state == STREAM_REPLY && stream->down.to == BODY_CLOSE;
    struct buf *left = take_left(stream);
    conn->stream = NULL;
    conn->why = why_closed(stream, answered);
    if (!answered) {
        /* RFC 9112 §8: a body that ends with the connection would look whole after FIN. */
        if (by_close)
            conn_reset(conn);
        else
            conn_close(conn);
    } else if (stream->keep_alive && request_read && proxy->drain != DRAIN_DONE) {
        conn_next(conn, &left);
    } else if (stream->state != STREAM_TUNNEL &&
               (!request_read || conn->input == INPUT_HELD || (left != NULL && buf_used(left) > 0))) {
        conn_linger(conn);
    } else {
        conn_close(conn);
    }
    buf_give(&proxy->buffers, &left);
}

void
stream_close(struct stream *stream, enum reason reason)
{
    struct proxy *proxy = stream->proxy;
    if (stream->state == STREAM_CLOSED) return;
    bool answered = stream->down.state == RELAY_DONE;
    if (stream->state != STREAM_ANSWER) stream->reason = reason; /* an answer of ours was given its reason */
    if (stream->status == 0) stream->status = reason_status(stream->reason);
    if (stream->status == 0) stream->status = 500;
    if (stream->state == STREAM_TUNNEL)
        atomic_store_explicit(&proxy->block->tunnels, --proxy->tunnels, memory_order_relaxed);
    attempt_end(stream);
    count(stream);
    if (UNLIKELY(stream->conn->is_inner)) inner_note(stream->conn, stream->reason);
    if (UNLIKELY(stream->filtering != NULL)) filtering_close(stream);
    stream_release_generation(stream);
    dispose_conn(stream, answered);
    stream_enter(stream, STREAM_CLOSED);
    link_remove(&stream->link);
    link_push(&proxy->resting_streams, &stream->link);
    atomic_store_explicit(&proxy->block->streams, --proxy->stream_count, memory_order_relaxed);
}

/* It reset the connection, or closed it inside its request: nobody is left to answer, and the backend did no
 * wrong. */
void
stream_client_gone(struct stream *stream)
{
    stream_close(stream, REASON_CLIENT_GONE);
}

/* what the client's socket says */

void
stream_calm(struct stream *stream)
{
    bool is_asked = UNLIKELY(stream->conn->input == INPUT_ENDED) && stream->parser.head.minor != 0 &&
                    stream->state != STREAM_REPLY; /* amid the answer a 100 would be taken for a part of it */
    if (!is_asked)
        stream->nudge_us = 0;
    else if (stream->nudge_us == 0) /* its FIN came during the request before */
        stream->nudge_us = stream->proxy->now_us + NUDGE_US;
}

/* Whether what was read holds the request to its end. Where it is broken its end is not awaited either. */
static bool
is_whole(struct stream *stream)
{
    struct relay up = stream->up; /* a copy runs ahead: the attempt goes on from where it is */
    if (up.state != RELAY_OPEN || up.buf == NULL) return up.state != RELAY_OPEN || up.from == BODY_NONE;
    uint32_t at = up.buf->at;
    bool is_sound = true;
    do {
        up.iov_at = up.iov_count = up.scratch_used = 0;
        is_sound = relay_fill(&up, &stream->arena);
    } while (is_sound && up.state == RELAY_OPEN && buf_used(up.buf) > 0);
    up.buf->at = at;
    return !is_sound || up.state != RELAY_OPEN;
}

/* Nobody wants its bytes now. A FIN is taken for a half-close (the answer is still wanted, as after `nc -N`),
 * which no system call can tell from a full close; the answer's first byte will, so a client that is still
 * being answered after NUDGE_US is sent a 100 Continue, which HTTP/1.1 lets any client ignore, and RST comes
 * back where nobody listens. Amid the answer there is nothing to send: a backend that then falls silent for
 * ENDED_US is not waited for any longer. */
static void
poke_client(struct stream *stream)
{
    char byte;
    struct conn *conn = stream->conn;
    ssize_t n = recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) {
        conn_want_read(conn, false); /* the next request: it waits in the kernel */
    } else if (n == 0 && conn->input != INPUT_ENDED) {
        conn_want_read(conn, false);
        conn->input = INPUT_ENDED;
        bool is_queued = stream->state == STREAM_QUEUED;
        bool is_sending = is_queued || stream->state == STREAM_FILTER || stream->state == STREAM_CONNECT ||
                          stream->state == STREAM_BACKOFF;
        if (is_sending && !is_whole(stream)) { /* RFC 9112 §8: it will never be whole */
            stream_client_gone(stream);
            return;
        }
        if (stream->state == STREAM_WAIT || stream->state == STREAM_JUDGE || is_sending) {
            stream->nudge_us = stream->proxy->now_us + (is_queued ? NUDGE_QUEUED_US : NUDGE_US);
            if (stream->parser.head.minor == 0) stream->nudge_us = 0;
            stream_arm(stream);
        } else if (stream->state == STREAM_REPLY) {
            stream_arm(stream);
        }
    } else if (n == -1 && errno != EAGAIN && errno != EINTR) {
        stream_client_gone(stream);
    }
}

void
stream_on_readable(struct stream *stream)
{
    switch (stream->state) {
    case STREAM_HEAD: request_read_head(stream); return;
    case STREAM_FILTER:
        if (stream->filtering->task != NULL)
            collect_on_readable(stream);
        else
            poke_client(stream);
        return;
    case STREAM_WAIT:
    case STREAM_JUDGE:
    case STREAM_REPLY:
        if (stream->up.state == RELAY_OPEN && relay_is_flushed(&stream->up))
            stream_pump_up(stream, true);
        else
            poke_client(stream);
        return;
    case STREAM_QUEUED:
    case STREAM_BACKOFF:
    case STREAM_CONNECT:
    case STREAM_ANSWER: poke_client(stream); return;
    case STREAM_TUNNEL: tunnel_pump(stream, true, false); return;
    case STREAM_CLOSED: return;
    }
}

void
stream_on_writable(struct stream *stream)
{
    switch (stream->state) {
    case STREAM_REPLY:
    case STREAM_ANSWER: stream_pump_down(stream, false); return;
    case STREAM_FILTER:
    case STREAM_JUDGE:
    case STREAM_QUEUED:
    case STREAM_BACKOFF:
    case STREAM_CONNECT:
    case STREAM_WAIT: response_flush_interim(stream); return;
    case STREAM_TUNNEL: tunnel_pump(stream, false, false); return;
    case STREAM_HEAD:
    case STREAM_CLOSED: return;
    }
}

/* After FIN recv(2) answers 0 whatever comes behind it; the socket's error knows of RST (EPIPE). */
bool
stream_is_reset(const struct stream *stream)
{
    int error = 0;
    socklen_t len = sizeof error;
    return getsockopt(stream->conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1 || error != 0;
}

/* A backend has been silent for NUDGE_US. Where the client waits for leave to send its body, it gets that;
 * where it sent FIN, the answer to our 100 tells whether anybody is left: the socket is asked for RST until
 * the response comes, because its read event is off (a FIN would make it fire for ever). */
static void
nudge(struct stream *stream)
{
    stream->nudge_us = stream->conn->input == INPUT_ENDED ? stream->proxy->now_us + NUDGE_AGAIN_US : 0;
    if (stream->interims == 0)
        response_send_continue(stream);
    else if (stream_is_reset(stream))
        stream_client_gone(stream);
    if (stream->state != STREAM_CLOSED) set_deadline(stream);
}

/* The client's socket has not been writable for as long as it may be. */
static void
client_timeout(struct stream *stream)
{
    uint64_t request_us = stream->state == STREAM_TUNNEL ? 0 : stream->timeouts.request;
    bool is_late = request_us != 0 && stream->started_us + request_us <= stream->proxy->now_us;
    switch (is_late ? TAKES_NOTHING : client_takes(stream, wait_us(stream))) {
    case TAKES_ENOUGH: stream_arm(stream); return;
    case TAKES_LITTLE: stream_close(stream, REASON_CLIENT_TIMEOUT); return;
    case TAKES_NOTHING: stream_close(stream, REASON_STREAM_IDLE); return;
    }
}

void
stream_on_timeout(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    if (proxy->now_us < stream->due_us) { /* the nudge's time, be it that nobody needs that any more */
        if (stream->nudge_us != 0 && stream->nudge_us <= proxy->now_us)
            nudge(stream);
        else
            set_deadline(stream);
        return;
    }
    switch (stream->state) {
    case STREAM_HEAD: reply_reason(stream, REASON_CLIENT_TIMEOUT, 0, NULL); return;
    case STREAM_FILTER:
    case STREAM_JUDGE: filtering_on_timeout(stream); return;
    case STREAM_QUEUED: queueing_on_timeout(stream); return;
    case STREAM_BACKOFF: attempt_resume(stream); return;
    case STREAM_CONNECT: attempt_fail(stream, REASON_CONNECT_TIMEOUT); return;
    case STREAM_WAIT:
        if (waits_for_body(stream))
            reply_reason(stream, REASON_CLIENT_TIMEOUT, 0, NULL);
        else
            attempt_fail(stream, REASON_RESPONSE_TIMEOUT);
        return;
    case STREAM_REPLY:
        if (waits_for_body(stream) && body_due_us(stream) <= proxy->now_us)
            stream_close(stream, REASON_CLIENT_TIMEOUT); /* its answer began long before its request ended */
        else if (!relay_is_flushed(&stream->down))
            client_timeout(stream);
        else if (stream->conn->input == INPUT_ENDED)
            stream_client_gone(stream);
        else
            stream_cut(stream, REASON_STREAM_IDLE); /* the backend fell silent */
        return;
    case STREAM_ANSWER:
    case STREAM_TUNNEL:
        if (relay_is_flushed(&stream->down))
            stream_close(stream, REASON_STREAM_IDLE);
        else
            client_timeout(stream);
        return;
    case STREAM_CLOSED: return;
    }
}
