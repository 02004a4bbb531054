#include <stdio.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

static struct slice
slice_text(const char *text)
{
    return slice_of(text);
}

/* Whether the request's body is all here: then the connection can go on, else it ends after the answer. */
static bool
skip_body(struct stream *stream)
{
    const struct h1_head *head = &stream->parser.head;
    struct relay *up = &stream->up;
    if (stream->head_bytes == 0 || up->state == RELAY_DROPPED) return false;
    bool is_behind_head = LIKELY(stream->filtering == NULL) || !content_restore(stream);
    if (up->state != RELAY_OPEN) return true;
    if (stream->kept == BODY_GONE) return false;
    if (is_behind_head) {
        stream->in->at = stream->head_bytes;
        relay_init(up, head->body, BODY_CLOSE, head->length, stream->in);
        up->limit = stream->parser.limits.body_bytes;
    }
    do {
        up->iov_at = up->iov_count = up->scratch_used = 0;
        if (!relay_fill(up, &stream->arena)) {
            up->state = RELAY_DROPPED;
            return false;
        }
    } while (up->state == RELAY_OPEN && up->buf != NULL && buf_used(up->buf) > 0);
    up->iov_at = up->iov_count = 0;
    return up->state != RELAY_OPEN;
}

static bool
has_no_body(int status)
{
    return status == 204 || status == 304;
}

/* Queues head and body behind what is queued already and writes. */
static void
send_answer(struct stream *stream, struct headers *headers, struct slice body)
{
    bool is_bodiless = has_no_body(stream->status);
    const struct h1_head *request = &stream->parser.head;
    struct h1_out out = {.status = stream->status,
        .headers = headers,
        .body = BODY_LENGTH,
        .length = body.len,
        .no_framing = is_bodiless};
    if (!stream->keep_alive)
        out.connection = SLICE_LIT("close");
    else if (request->minor == 0)
        out.connection = SLICE_LIT("keep-alive");
    size_t bound = h1_head_bound(&out, SLICE_NONE);
    char *text = arena_alloc(&stream->arena, bound);
    size_t len = text == NULL ? 0 : h1_write_response(&out, text, bound);
    relay_begin(&stream->down, BODY_NONE, BODY_NONE, 0, NULL);
    if (len == 0 || !relay_queue(&stream->down, text, len)) {
        stream_close(stream, REASON_SHED);
        return;
    }
    bool is_head =
        UNLIKELY(stream->filtering != NULL) ? stream->filtering->is_head : request->method == METHOD_HEAD;
    if (!is_bodiless && !is_head && !relay_queue(&stream->down, body.at, body.len)) {
        stream_close(stream, REASON_SHED);
        return;
    }
    stream_enter(stream, STREAM_ANSWER);
    stream_pump_down(stream, false);
}

static bool
add_row(struct stream *stream, struct headers *headers, const char *name, struct slice value)
{
    struct slice text = slice_text(name);
    return headers_add(headers, &stream->arena, header_identify(text), text, value);
}

void
reply_answer(struct stream *stream, const struct filter_answer *answer)
{
    struct headers headers = answer->headers;
    attempt_end(stream);
    if (UNLIKELY(stream->filtering != NULL)) filtering_stop(stream);
    stream->nudge_us = 0;
    stream->status = answer->status;
    bool is_read = skip_body(stream);
    stream->keep_alive = is_read && stream->parser.head.keep_alive && stream->proxy->drain == DRAIN_NO &&
                         conn_may_stay(stream->conn);
    bool ok = headers_find(&headers, HEADER_DATE) != NULL ||
              add_row(stream, &headers, "Date", proxy_date(stream->proxy));
    if (ok && stream->request_id.len > 0 && headers_find(&headers, HEADER_X_REQUEST_ID) == NULL)
        ok = add_row(stream, &headers, "X-Request-Id", stream->request_id);
    if (ok)
        send_answer(stream, &headers, answer->body);
    else
        stream_close(stream, REASON_SHED);
}

static bool
make_answer(struct stream *stream, int status, const char *type, struct slice body, struct slice name,
    struct slice value, struct filter_answer *answer)
{
    *answer = (struct filter_answer){.status = status, .body = body};
    if (type != NULL && !has_no_body(status) &&
        !add_row(stream, &answer->headers, "Content-Type", slice_text(type)))
        return false;
    return name.len == 0 || headers_add(&answer->headers, &stream->arena, header_identify(name), name, value);
}

void
reply_text(struct stream *stream, int status, const char *type, struct slice body, struct slice name,
    struct slice value)
{
    struct filter_answer answer;
    if (make_answer(stream, status, type, body, name, value, &answer))
        reply_answer(stream, &answer);
    else
        stream_close(stream, REASON_SHED);
}

bool
reply_make(
    struct stream *stream, enum reason reason, int status, const char *sentence, struct filter_answer *answer)
{
    if (status == 0) status = reason_status(reason);
    if (status == 0) status = 500;
    if (sentence == NULL) sentence = reason_sentence(reason);
    char *body = arena_printf(&stream->arena, "%d %s: %s\n", status, reason_word(reason), sentence);
    struct slice name = SLICE_NONE, value = SLICE_NONE;
    if (status == 405) {
        name = SLICE_LIT("Allow");
        value = SLICE_LIT("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
    }
    return make_answer(stream, status, "text/plain", slice_text(body), name, value, answer);
}

void
reply_reason(struct stream *stream, enum reason reason, int status, const char *sentence)
{
    struct filter_answer answer;
    stream->reason = reason;
    if (reply_make(stream, reason, status, sentence, &answer))
        reply_answer(stream, &answer);
    else
        stream_close(stream, REASON_SHED);
}

/* redirect and respond */

/* Where the path of an absolute `to` begins; its length where it has none. */
static size_t
path_at(struct slice to)
{
    const char *scheme = to.len == 0 ? NULL : memmem(to.at, to.len, "://", 3);
    size_t at = scheme == NULL ? 0 : (size_t)(scheme - to.at) + 3;
    while (at < to.len && to.at[at] != '/' && to.at[at] != '?' && to.at[at] != '$')
        at++;
    return at;
}

static struct slice
variable(const struct stream *stream, struct slice rest, size_t *len)
{
    struct {
        struct slice name, value;
    } known[] = {
        {SLICE_LIT("$path"), stream->target},
        {SLICE_LIT("$query"), stream->query},
        {SLICE_LIT("$host"), stream->host},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!slice_starts_with(rest, known[i].name)) continue;
        *len = known[i].name.len;
        return known[i].value;
    }
    *len = 0;
    return SLICE_NONE;
}

static struct slice
location(struct stream *stream, struct slice to)
{
    size_t cap = to.len + stream->query.len + stream->target.len + 2, len = 0;
    for (size_t i = 0; i < to.len; i++) {
        if (to.at[i] == '$') cap += stream->target.len + stream->query.len + stream->host.len;
    }
    char *out = arena_alloc(&stream->arena, cap);
    if (out == NULL) return SLICE_NONE;
    bool has_path = path_at(to) < to.len;
    for (size_t i = 0; i < to.len;) {
        size_t name_len = 0;
        struct slice value = variable(stream, (struct slice){to.at + i, to.len - i}, &name_len);
        if (name_len == 0) {
            out[len++] = to.at[i++];
            continue;
        }
        if (value.len > 0) memcpy(out + len, value.at, value.len);
        len += value.len;
        i += name_len;
    }
    if (!has_path) { /* "https://example.com": path and query stay */
        memcpy(out + len, stream->target.at, stream->target.len);
        len += stream->target.len;
        if (stream->parser.head.has_query) {
            out[len++] = '?';
            if (stream->query.len > 0) memcpy(out + len, stream->query.at, stream->query.len);
            len += stream->query.len;
        }
    }
    /* "//name" would be read as another host: only the file may ask for that, no request. */
    size_t skip = 0;
    bool is_meant = to.len > 1 && to.at[0] == '/' && to.at[1] == '/';
    while (!is_meant && len - skip > 1 && out[skip] == '/' && out[skip + 1] == '/')
        skip++;
    return (struct slice){out + skip, len - skip};
}

/* What the route itself says; its filters may have a word in it. */
static void
answer_route(struct stream *stream, int status, const char *type, struct slice body, struct slice name,
    struct slice value)
{
    struct filter_answer *answer;
    if (LIKELY(stream->filtering == NULL)) {
        reply_text(stream, status, type, body, name, value);
        return;
    }
    answer = arena_alloc(&stream->arena, sizeof *answer);
    if (answer == NULL || !make_answer(stream, status, type, body, name, value, answer))
        reply_reason(stream, REASON_SHED, 0, NULL);
    else
        respond_with(stream, answer);
}

void
reply_route(struct stream *stream)
{
    const struct config_route *route = stream->route;
    if (route->action == ACTION_RESPOND) {
        struct slice body = {route->respond.body, route->respond.body_len};
        answer_route(
            stream, route->respond.status, route->respond.content_type, body, SLICE_NONE, SLICE_NONE);
        return;
    }
    struct slice to = location(stream, slice_text(route->redirect.to));
    if (to.at == NULL) {
        reply_reason(stream, REASON_SHED, 0, NULL);
        return;
    }
    char *body =
        arena_printf(&stream->arena, "%d moved to %.*s\n", route->redirect.status, (int)to.len, to.at);
    answer_route(stream, route->redirect.status, "text/plain", slice_text(body), SLICE_LIT("Location"), to);
}
