#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "core/http/uri.h"
#include "core/proxy/proxy_internal.h"

enum { FREE_STREAMS = 1024, READ_ROUNDS = 8 };

#define BIT(state) (1u << STREAM_##state)
/* From each state, those that may follow. */
static const unsigned moves[STREAM_STATE_COUNT] = {
    [STREAM_HEAD] = BIT(HEAD) | BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_CONNECT] = BIT(CONNECT) | BIT(WAIT) | BIT(ANSWER) | BIT(CLOSED),
    [STREAM_WAIT] = BIT(CONNECT) | BIT(WAIT) | BIT(REPLY) | BIT(ANSWER) | BIT(TUNNEL) | BIT(CLOSED),
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

/* What the present state waits for, at most: 0 is for ever. */
static uint64_t
wait_us(const struct stream *stream)
{
    switch (stream->state) {
    case STREAM_HEAD: return stream->timeouts.client_header;
    case STREAM_CONNECT: return stream->timeouts.connect;
    case STREAM_WAIT:
        return stream->up.state == RELAY_OPEN && relay_is_flushed(&stream->up)
                   ? stream->timeouts.client_body_gap
                   : stream->timeouts.response;
    case STREAM_REPLY:
    case STREAM_ANSWER: return stream->timeouts.stream_idle;
    case STREAM_TUNNEL: return stream->timeouts.tunnel_idle;
    case STREAM_CLOSED: break;
    }
    return 0;
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
    stream->due_us = due_us;
    if (stream->nudge_us != 0 && stream->nudge_us < due_us) due_us = stream->nudge_us;
    deadline_set(proxy, &stream->conn->deadline, due_us);
}

/* ---- life
 * -----------------------------------------------------------------------------------------------------------
 */

struct stream *
stream_new(struct conn *conn, struct buf *in)
{
    struct proxy *proxy = conn->proxy;
    struct stream *stream;
    if (!link_is_empty(&proxy->free_streams)) {
        stream = LINK_OF(proxy->free_streams.next, struct stream, link);
        link_remove(&stream->link);
        proxy->free_stream_count--;
    } else {
        stream = malloc(sizeof *stream);
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
        &(struct h1_limits){
            limits->header_bytes, limits->headers, limits->uri_bytes, limits->body_bytes, false});
    relay_init(&stream->up, BODY_NONE, BODY_NONE, 0, in);
    relay_init(&stream->down, BODY_NONE, BODY_NONE, 0, NULL);
    link_push(&proxy->streams, &stream->link);
    atomic_store_explicit(&proxy->block->streams, ++proxy->stream_count, memory_order_relaxed);
    return stream;
}

void
stream_rest_free(struct proxy *proxy, struct stream *stream)
{
    if (proxy->free_stream_count < FREE_STREAMS) {
        arena_reset(&stream->arena);
        link_push(&proxy->free_streams, &stream->link);
        proxy->free_stream_count++;
    } else {
        arena_fini(&stream->arena);
        free(stream);
    }
}

void
stream_release_generation(struct stream *stream)
{
    if (stream->generation == NULL) return;
    script_request_done(stream->generation->script, &stream->request);
    stream->route = NULL;
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
    return left;
}

static void
dispose_conn(struct stream *stream, bool answered)
{
    struct proxy *proxy = stream->proxy;
    struct conn *conn = stream->conn;
    bool request_read =
        stream->up.state != RELAY_OPEN && stream->up.state != RELAY_DROPPED && stream->head_bytes > 0;
    bool by_close = stream->state != STREAM_TUNNEL && stream->down.to == BODY_CLOSE;
    struct buf *left = take_left(stream);
    conn->stream = NULL;
    if (!answered) {
        /* RFC 9112 §8: a body that ends with the connection would look whole after FIN. */
        if (by_close && stream->status != 0)
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

/* ---- the request head
 * ------------------------------------------------------------------------------------------------ */

static void
refuse_head(struct stream *stream)
{
    enum h1_error error = stream->parser.error;
    int status = h1_error_status(error);
    enum reason reason = status == 413 || status == 414 || status == 431 ? REASON_LIMIT
                         : error == H1_NO_MEMORY                         ? REASON_SHED
                                                                         : REASON_BAD_REQUEST;
    atomic_fetch_add_explicit(&stream->proxy->totals->bad_requests, 1, memory_order_relaxed);
    reply_reason(stream, reason, status, h1_error_text(error));
}

static void
refuse(struct stream *stream, const char *sentence)
{
    atomic_fetch_add_explicit(&stream->proxy->totals->bad_requests, 1, memory_order_relaxed);
    reply_reason(stream, REASON_BAD_REQUEST, 400, sentence);
}

static const char *
uri_sentence(enum uri_result result)
{
    switch (result) {
    case URI_OK: return "";
    case URI_BAD_ESCAPE: return "the path holds a broken escape";
    case URI_BAD_BYTE: return "the path holds a byte that must be escaped";
    case URI_FORBIDDEN: return "the path holds a forbidden escape or a hidden dot segment";
    case URI_TOO_LONG: return "the path is too long";
    }
    return "";
}

/* Lower case, without port and final dot: what routes match on. False: out of memory. */
static bool
find_host(struct stream *stream)
{
    struct slice host, port, authority = stream->parser.head.authority;
    if (authority.len == 0 || !uri_authority_split(authority, &host, &port)) host = SLICE_NONE;
    if (host.len > 1 && host.at[host.len - 1] == '.') host.len--;
    for (size_t i = 0; i < host.len; i++) {
        if (ascii_lower((unsigned char)host.at[i]) == (unsigned char)host.at[i]) continue;
        char *copy = arena_strdup(&stream->arena, host);
        if (copy == NULL) return false;
        for (size_t j = 0; j < host.len; j++)
            copy[j] = (char)ascii_lower((unsigned char)copy[j]);
        host.at = copy;
        break;
    }
    stream->host = host;
    return true;
}

/* Routes match on the normal form; what a route then forwards is its own choice (path: raw, slashes: keep).
 */
static bool
find_path(struct stream *stream, bool keep_slashes, struct slice *normal)
{
    const struct h1_head *head = &stream->parser.head;
    char *room = arena_alloc(&stream->arena, head->path.len + 1);
    if (room == NULL) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return false;
    }
    enum uri_result result = uri_normalise(head->path, keep_slashes, room, head->path.len + 1, normal);
    if (result == URI_OK) return true;
    refuse(stream, uri_sentence(result));
    return false;
}

static uint32_t
choose_service(struct stream *stream, const struct config_route *route)
{
    if (route->target_count == 1 || route->weight_total == 0) return route->targets[0].service;
    uint64_t at = proxy_random(stream->proxy) % route->weight_total;
    for (size_t i = 0; i < route->target_count; i++) {
        if (at < route->targets[i].weight) return route->targets[i].service;
        at -= route->targets[i].weight;
    }
    return route->targets[0].service;
}

static void
proxy_request(struct stream *stream)
{
    const struct config_route *route = stream->route;
    const struct config *config = stream->generation->config;
    const struct route_table *table = stream->generation->routes;
    const struct h1_head *head = &stream->parser.head;
    uint32_t service = choose_service(stream, route);
    stream->timeouts = route->own_timeouts || route->target_count == 1 ? route->timeouts
                                                                       : config->services[service].timeouts;
    stream->service_id = route_service_id(table, service);
    stream->strategy_id = route_strategy_id(table, service);
    if (!forward_request(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    struct script_request *request = &stream->request;
    request->method = head->method;
    request->method_text = head->method_text;
    request->path = stream->path;
    request->query = stream->query;
    request->host = stream->host;
    request->headers = &stream->parser.head.headers;
    request->arena = &stream->arena;
    request->service = service;
    budget_count_request(&stream->proxy->budget, stream->proxy->now_us);
    attempt_begin(stream);
}

static void
route_request(struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    stream->up.from = head->body;
    stream->up.left = head->length;
    stream->up.limit = stream->parser.limits.body_bytes;
    stream->bytes_in = stream->head_bytes;
    stream->query = head->query;
    stream->path = head->path;
    proxy_refresh(stream->proxy);
    stream->request.client_ip = forward_client_ip(
        stream->generation->config, &head->headers, &stream->conn->peer.any, slice_of(stream->conn->ip));
    if (head->form == TARGET_AUTHORITY) {
        reply_reason(stream, REASON_BAD_REQUEST, 405, "CONNECT is not served here");
        return;
    }
    if (head->form == TARGET_ASTERISK) { /* RFC 9110 §9.3.7: asked of the server itself */
        reply_text(stream, 200, NULL, SLICE_NONE, SLICE_LIT("Allow"),
            SLICE_LIT("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
        return;
    }
    if (!find_path(stream, false, &stream->path)) return;
    if (head->has_query && !uri_query_is_valid(head->query)) {
        refuse(stream, "the query holds a byte that must be escaped");
        return;
    }
    if (!find_host(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    struct route_request ask = {
        head->method, head->method_text, stream->host, stream->path, head->query, &head->headers};
    stream->route = route_find(stream->generation->routes, &ask);
    if (stream->route == NULL) {
        reply_reason(stream, REASON_NO_ROUTE, 0, NULL);
        return;
    }
    stream->route_id = route_name_id(stream->generation->routes, stream->route);
    stream->target = stream->path;
    if (stream->route->slashes_keep && !find_path(stream, true, &stream->target)) return;
    if (stream->route->path_raw) stream->target = head->path;
    if (stream->route->action == ACTION_PROXY)
        proxy_request(stream);
    else
        reply_route(stream);
}

static bool
grow_head(struct stream *stream)
{
    struct buf *old = stream->in, *grown = buf_take(&stream->proxy->buffers, (size_t)old->cap * 2);
    if (grown == NULL) return false;
    memcpy(grown->bytes, old->bytes, old->end);
    grown->end = old->end;
    h1_rebase(&stream->parser, old->bytes, grown->bytes);
    buf_give(&stream->proxy->buffers, &stream->in);
    stream->in = stream->up.buf = grown;
    return true;
}

void
stream_on_head(struct stream *stream)
{
    size_t used = 0;
    struct slice bytes = {stream->in->bytes, stream->in->end};
    switch (h1_parse_head(&stream->parser, bytes, &used)) {
    case H1_DONE:
        stream->in->at = stream->head_bytes = (uint32_t)used;
        route_request(stream);
        return;
    case H1_BAD: refuse_head(stream); return;
    case H1_AGAIN: break;
    }
    if (stream->conn->input == INPUT_ENDED)
        stream_client_gone(stream);
    else if (stream->in->end == stream->in->cap && !grow_head(stream))
        reply_reason(stream, REASON_SHED, 0, NULL);
    else
        conn_want_read(stream->conn, true);
}

static void
read_head(struct stream *stream)
{
    struct buf *in = stream->in;
    ssize_t n = recv(stream->conn->fd, in->bytes + in->end, in->cap - in->end, 0);
    if (n > 0) {
        in->end += (uint32_t)n;
        stream_on_head(stream);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        stream_client_gone(stream);
    }
}

/* ---- the request body
 * ------------------------------------------------------------------------------------------------ */

enum body_read { BODY_READ, BODY_READ_ALL, BODY_AGAIN, BODY_FAILED };

/* More of the body: behind the head as long as there is room, since what lies there can be sent again. */
static enum body_read
read_body(struct stream *stream)
{
    struct relay *up = &stream->up;
    struct buf_pool *pool = &stream->proxy->buffers;
    if (up->buf == stream->in && stream->in->end == stream->in->cap) {
        stream->kept = BODY_GONE;
        up->buf = NULL;
        up->read_bytes = BUF_LARGE - sizeof(struct buf);
    }
    if (up->buf == NULL) up->buf = stream->body = buf_take(pool, up->read_bytes);
    if (up->buf == NULL) {
        stream_close(stream, REASON_SHED);
        return BODY_FAILED;
    }
    if (up->buf != stream->in) up->buf->at = up->buf->end = 0;
    size_t room = up->buf->cap - up->buf->end;
    ssize_t n = recv(stream->conn->fd, up->buf->bytes + up->buf->end, room, 0);
    if (n > 0) {
        up->buf->end += (uint32_t)n;
        stream->bytes_in += (uint64_t)n;
        return (size_t)n == room ? BODY_READ_ALL : BODY_READ;
    }
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    stream_client_gone(stream);
    return BODY_FAILED;
}

static void
wait_for_body(struct stream *stream)
{
    if (stream->body != NULL && stream->up.buf == stream->body) {
        buf_give(&stream->proxy->buffers, &stream->body);
        stream->up.buf = NULL;
    }
    conn_want_read(stream->conn, true);
    stream_arm(stream);
}

static void
body_broken(struct stream *stream)
{
    enum h1_error error = stream->up.chunked.error;
    stream->up.state = RELAY_DROPPED;
    atomic_fetch_add_explicit(&stream->proxy->totals->bad_requests, 1, memory_order_relaxed);
    if (stream->state == STREAM_WAIT) {
        reply_reason(stream, error == H1_BODY_TOO_LARGE ? REASON_LIMIT : REASON_BAD_REQUEST,
            h1_error_status(error), h1_error_text(error));
    } else {
        stream_close(stream, REASON_BAD_REQUEST);
    }
}

/* The backend takes no more. It may have answered already and closed: its answer, if any, is read first. */
static void
body_unwanted(struct stream *stream)
{
    if (stream->state == STREAM_WAIT && stream->sent == 0) {
        attempt_fail(stream, REASON_RESET_BEFORE_HEADERS);
        return;
    }
    stream->up.state = RELAY_DROPPED;
    upstream_want_write(stream->upstream, false);
    upstream_want_read(stream->upstream, true);
}

void
stream_pump_up(struct stream *stream, bool may_read)
{
    struct relay *up = &stream->up;
    for (unsigned round = 0; up->state == RELAY_OPEN || up->state == RELAY_ENDED;) {
        if (!relay_fill(up, &stream->arena)) {
            body_broken(stream);
            return;
        }
        switch (relay_flush(up, stream->upstream->fd, &stream->sent)) {
        case PUMP_SINK:
            upstream_want_write(stream->upstream, true);
            stream_arm(stream);
            return;
        case PUMP_SINK_ERROR: body_unwanted(stream); return;
        default: break;
        }
        if (up->state == RELAY_ENDED) {
            up->state = RELAY_DONE;
            stream->nudge_us = 0;
            upstream_want_write(stream->upstream, false);
            stream_arm(stream);
            return;
        }
        if (up->buf != NULL && buf_used(up->buf) > 0) continue;
        upstream_want_write(stream->upstream, false);
        if (!may_read || round++ == READ_ROUNDS) {
            wait_for_body(stream);
            return;
        }
        switch (read_body(stream)) {
        case BODY_READ_ALL: break;
        case BODY_READ: may_read = false; break;
        case BODY_AGAIN: wait_for_body(stream); return;
        case BODY_FAILED: return;
        }
        stream->nudge_us = 0; /* the body comes: nobody waits for 100 Continue */
    }
}

/* ---- the response body
 * ----------------------------------------------------------------------------------------------- */

static void
cut(struct stream *stream, enum reason reason)
{
    if (stream->slot != SLOT_NONE)
        slot_observe(stream->proxy->shm, stream->slot, (uint32_t)(stream->proxy->now_us - stream->picked_us),
            true, stream->proxy->now_us);
    stream_close(stream, reason);
}

static enum body_read
read_back(struct stream *stream)
{
    struct relay *down = &stream->down;
    struct buf_pool *pool = &stream->proxy->buffers;
    if (stream->back != NULL && stream->back->cap < down->read_bytes) buf_give(pool, &stream->back);
    if (stream->back == NULL) stream->back = buf_take(pool, down->read_bytes);
    down->buf = stream->back;
    if (stream->back == NULL) {
        stream_close(stream, REASON_SHED);
        return BODY_FAILED;
    }
    stream->back->at = stream->back->end = 0;
    ssize_t n = recv(stream->upstream->fd, stream->back->bytes, stream->back->cap, 0);
    if (n > 0) {
        stream->back->end = (uint32_t)n;
        if ((size_t)n < stream->back->cap) return BODY_READ;
        down->read_bytes = BUF_LARGE - sizeof(struct buf);
        return BODY_READ_ALL;
    }
    if (n == -1 && (errno == EAGAIN || errno == EINTR)) return BODY_AGAIN;
    if (n == 0 && down->from == BODY_CLOSE) {
        relay_eof(down);
        return BODY_READ;
    }
    cut(stream, REASON_RESET_AFTER_HEADERS);
    return BODY_FAILED;
}

static void
wait_for_back(struct stream *stream)
{
    buf_give(&stream->proxy->buffers, &stream->back);
    stream->down.buf = NULL;
    upstream_want_read(stream->upstream, true);
    stream_arm(stream);
}

void
stream_pump_down(struct stream *stream, bool may_read)
{
    struct relay *down = &stream->down;
    for (unsigned round = 0; down->state == RELAY_OPEN || down->state == RELAY_ENDED;) {
        if (!relay_fill(down, &stream->arena)) {
            (void)relay_flush(down, stream->conn->fd, &stream->bytes_out); /* what was sound before it */
            cut(stream, REASON_BAD_RESPONSE);
            return;
        }
        switch (relay_flush(down, stream->conn->fd, &stream->bytes_out)) {
        case PUMP_SINK:
            conn_want_write(stream->conn, true);
            stream_arm(stream);
            return;
        case PUMP_SINK_ERROR: stream_client_gone(stream); return;
        default: break;
        }
        if (down->state == RELAY_ENDED) {
            down->state = RELAY_DONE;
            stream_close(stream, REASON_NONE);
            return;
        }
        if (down->buf != NULL && buf_used(down->buf) > 0) continue;
        conn_want_write(stream->conn, false);
        if (!may_read || round++ == READ_ROUNDS) {
            wait_for_back(stream);
            return;
        }
        switch (read_back(stream)) {
        case BODY_READ_ALL: break;
        case BODY_READ: may_read = false; break;
        case BODY_AGAIN: wait_for_back(stream); return;
        case BODY_FAILED: return;
        }
    }
}

/* ---- what the client's socket says
 * ----------------------------------------------------------------------------------- */

/* Nobody wants its bytes now. A FIN is taken for a half-close (the answer is still wanted, as after `nc -N`),
 * which no system call can tell from a full close; the answer's first byte will, so a client that is still
 * being answered after NUDGE_US is sent a 100 Continue, which HTTP/1.1 lets any client ignore, and RST comes
 * back where nobody listens. */
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
        if (stream->state == STREAM_WAIT || stream->state == STREAM_CONNECT) {
            stream->nudge_us = stream->proxy->now_us + NUDGE_US;
            if (stream->parser.head.minor == 0) stream->nudge_us = 0;
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
    case STREAM_HEAD: read_head(stream); return;
    case STREAM_WAIT:
    case STREAM_REPLY:
        if (stream->up.state == RELAY_OPEN && relay_is_flushed(&stream->up))
            stream_pump_up(stream, true);
        else
            poke_client(stream);
        return;
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
    case STREAM_CONNECT:
    case STREAM_WAIT: response_flush_interim(stream); return;
    case STREAM_TUNNEL: tunnel_pump(stream, false, false); return;
    case STREAM_HEAD:
    case STREAM_CLOSED: return;
    }
}

/* After FIN recv(2) answers 0 whatever comes behind it; the socket's error knows of RST (EPIPE). */
static bool
is_reset(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1 || error != 0;
}

/* A backend has been silent for NUDGE_US. Where the client waits for leave to send its body, it gets that;
 * where it sent FIN, the answer to our 100 tells whether anybody is left: the socket is asked for RST until
 * the response comes, because its read event is off (a FIN would make it fire for ever). */
static void
nudge(struct stream *stream)
{
    uint64_t due_us = stream->due_us;
    struct conn *conn = stream->conn;
    stream->nudge_us = conn->input == INPUT_ENDED ? stream->proxy->now_us + NUDGE_AGAIN_US : 0;
    if (stream->interims == 0)
        response_send_continue(stream);
    else if (is_reset(conn->fd))
        stream_client_gone(stream);
    if (stream->state == STREAM_CLOSED) return;
    if (stream->nudge_us != 0 && stream->nudge_us < due_us) due_us = stream->nudge_us;
    deadline_set(stream->proxy, &conn->deadline, due_us);
}

void
stream_on_timeout(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    if (stream->nudge_us != 0 && stream->nudge_us <= proxy->now_us && proxy->now_us < stream->due_us) {
        nudge(stream);
        return;
    }
    switch (stream->state) {
    case STREAM_HEAD: reply_reason(stream, REASON_CLIENT_TIMEOUT, 0, NULL); return;
    case STREAM_CONNECT: attempt_fail(stream, REASON_CONNECT_TIMEOUT); return;
    case STREAM_WAIT:
        if (stream->up.state == RELAY_OPEN && relay_is_flushed(&stream->up))
            reply_reason(stream, REASON_CLIENT_TIMEOUT, 0, NULL);
        else
            attempt_fail(stream, REASON_RESPONSE_TIMEOUT);
        return;
    case STREAM_REPLY:
        if (relay_is_flushed(&stream->down))
            cut(stream, REASON_STREAM_IDLE); /* the backend fell silent */
        else
            stream_close(stream, REASON_STREAM_IDLE); /* the client takes nothing */
        return;
    case STREAM_ANSWER:
    case STREAM_TUNNEL: stream_close(stream, REASON_STREAM_IDLE); return;
    case STREAM_CLOSED: return;
    }
}
