#include <errno.h>
#include <sys/socket.h>

#include "core/base/text.h"
#include "core/http/uri.h"
#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

static const struct slice allowed = {"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH", 44};

static void
refuse_head(struct stream *stream)
{
    enum h1_error error = stream->parser.error;
    int status = h1_error_status(error);
    stream->bytes_in = stream->in->end;
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
    stream->parser.head.keep_alive = false; /* what stands behind it is not to be trusted either */
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

static inline uint32_t
choose_service(struct proxy *proxy, const struct config_route *route)
{
    if (route->target_count == 1 || route->weight_total == 0) return route->targets[0].service;
    uint64_t at = proxy_random(proxy) % route->weight_total;
    for (size_t i = 0; i < route->target_count; i++) {
        if (at < route->targets[i].weight) return route->targets[i].service;
        at -= route->targets[i].weight;
    }
    return route->targets[0].service;
}

uint32_t
request_choose_service(struct proxy *proxy, const struct config_route *route)
{
    return choose_service(proxy, route);
}

/* What is refused before it comes is not read. False: answered. */
static bool
limit_body(struct stream *stream, uint64_t bytes)
{
    const struct h1_head *head = &stream->parser.head;
    stream->up.limit = stream->parser.limits.body_bytes = bytes;
    if (bytes == 0 || head->body != BODY_LENGTH || head->length <= bytes) return true;
    atomic_fetch_add_explicit(&stream->proxy->totals->bad_requests, 1, memory_order_relaxed);
    stream->parser.head.keep_alive = false;
    reply_reason(stream, REASON_LIMIT, 413, h1_error_text(H1_BODY_TOO_LARGE));
    return false;
}

static inline bool
settle(struct stream *stream, uint32_t service)
{
    const struct config_route *route = stream->route;
    const struct config *config = stream->generation->config;
    const struct route_table *table = stream->generation->routes;
    stream->request.service = service;
    if (UNLIKELY(service == SLOT_NONE)) { /* the route answers by itself */
        stream->timeouts = route->timeouts;
        stream->service_id = stream->strategy_id = UINT32_MAX;
        return limit_body(stream, config->limits.body_bytes);
    }
    stream->timeouts = route->own_timeouts || route->target_count == 1 ? route->timeouts
                                                                       : config->services[service].timeouts;
    const struct config_body_limits *limits =
        route->own_limits || route->target_count == 1 ? &route->body : &config->services[service].body;
    stream->retry =
        route->own_retry || route->target_count == 1 ? &route->retry : &config->services[service].retry;
    if (!limit_body(stream, limits->bytes)) return false;
    stream->service_id = route_service_id(table, service);
    stream->strategy_id = route_strategy_id(table, service);
    stream->body_rate = limits->rate;
    return true;
}

static inline void
send_on(struct stream *stream)
{
    if (!forward_rewrite(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    stream->per_try_us = stream->retry->per_try;
    budget_count_request(&stream->proxy->block->budget, stream->proxy->now_us);
    attempt_begin(stream);
}

bool
request_settle(struct stream *stream, uint32_t service)
{
    return settle(stream, service);
}

void
request_send(struct stream *stream)
{
    send_on(stream);
}

/* What strategies and filters see. */
static void
show_request(struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    struct script_request *request = &stream->request;
    request->method = head->method;
    request->method_text = head->method_text;
    request->path = stream->path;
    request->query = stream->query;
    request->host = stream->host;
    request->headers = &stream->parser.head.headers;
    request->arena = &stream->arena;
}

static bool
has_filters(const struct stream *stream, uint32_t service)
{
    const struct generation *generation = stream->generation;
    return UNLIKELY(generation->has_filters) && !stream->conn->is_inner &&
           filter_is_needed(
               generation->script, (uint32_t)(stream->route - generation->config->routes), service);
}

static void
proxy_request(struct stream *stream)
{
    const struct config *config = stream->generation->config;
    uint32_t service = choose_service(stream->proxy, stream->route);
    if (has_filters(stream, service) && !filtering_new(stream, service)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    if (!settle(stream, service)) return;
    if (UNLIKELY(config->via != NULL) && forward_is_loop(stream)) {
        reply_reason(stream, REASON_BAD_REQUEST, 508, "the request has passed this gateway before");
        return;
    }
    if (!forward_request(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    show_request(stream);
    if (UNLIKELY(stream->filtering != NULL))
        filtering_begin(stream);
    else
        send_on(stream);
}

/* A route that answers by itself. */
static void
answer_request(struct stream *stream)
{
    if (!has_filters(stream, SLOT_NONE)) {
        if (limit_body(stream, stream->generation->config->limits.body_bytes)) reply_route(stream);
        return;
    }
    if (!filtering_new(stream, SLOT_NONE)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    if (!settle(stream, SLOT_NONE)) return;
    if (!forward_request(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    show_request(stream);
    filtering_begin(stream);
}

bool
request_set_target(struct stream *stream)
{
    stream->target = stream->path;
    if (UNLIKELY(stream->filtering != NULL) && (stream->filtering->request.changed & FILTER_PATH) != 0) {
        stream->target = stream->request.path;
        return true;
    }
    if (stream->route->slashes_keep && !find_path(stream, true, &stream->target)) return false;
    if (stream->route->path_raw) stream->target = stream->parser.head.path;
    return true;
}

/* RFC 9110 §7.6.2: at zero TRACE and OPTIONS end here, else one hop less is left. False: answered. */
static bool
count_forwards(struct stream *stream)
{
    struct h1_head *head = &stream->parser.head;
    uint64_t left;
    if (head->method != METHOD_TRACE && head->method != METHOD_OPTIONS) return true;
    struct header *row = headers_find_name(&head->headers, SLICE_LIT("max-forwards"));
    if (row == NULL || !text_parse_u64(row->value, UINT32_MAX, &left)) return true;
    if (left > 0) {
        row->value = slice_of(arena_printf(&stream->arena, "%llu", (unsigned long long)left - 1));
        return true;
    }
    if (head->method == METHOD_OPTIONS)
        reply_text(stream, 200, NULL, SLICE_NONE, SLICE_LIT("Allow"), allowed);
    else
        reply_reason(stream, REASON_BAD_REQUEST, 405, "TRACE is not answered here");
    return false;
}

/* A fetch names its service, and no route is asked. */
static bool
find_route(struct stream *stream)
{
    const struct route_table *table = stream->generation->routes;
    const struct h1_head *head = &stream->parser.head;
    if (UNLIKELY(stream->conn->is_inner)) {
        stream->route = route_inner(table, inner_service(stream->conn));
        stream->route_id = route_inner_id(table);
        return stream->route != NULL;
    }
    struct route_request ask = {
        head->method, head->method_text, stream->host, stream->path, head->query, &head->headers};
    stream->route = route_find(table, &ask);
    if (stream->route != NULL) stream->route_id = route_name_id(table, stream->route);
    return stream->route != NULL;
}

static void
route_request(struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    relay_init(&stream->up, head->body, head->body, head->length, stream->in);
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
        reply_text(stream, 200, NULL, SLICE_NONE, SLICE_LIT("Allow"), allowed);
        return;
    }
    if (!count_forwards(stream)) return;
    if (!find_path(stream, false, &stream->path)) return;
    if (head->has_query && !uri_query_is_valid(head->query)) {
        refuse(stream, "the query holds a byte that must be escaped");
        return;
    }
    if (!find_host(stream)) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    if (!find_route(stream)) {
        reply_reason(stream, REASON_NO_ROUTE, 0, NULL);
        return;
    }
    if (!request_set_target(stream)) return;
    if (stream->route->action == ACTION_PROXY)
        proxy_request(stream);
    else
        answer_request(stream);
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
request_on_bytes(struct stream *stream)
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

void
request_read_head(struct stream *stream)
{
    struct buf *in = stream->in;
    ssize_t n = recv(stream->conn->fd, in->bytes + in->end, in->cap - in->end, 0);
    if (n > 0) {
        in->end += (uint32_t)n;
        request_on_bytes(stream);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        stream_client_gone(stream);
    }
}
