#include <stdio.h>
#include <stdlib.h>

#include "core/http/uri.h"
#include "core/proxy/fetch_internal.h"

enum { HEAD_FIRST_BYTES = 4096, METHOD_BYTES = 64 };

/* the request */

static enum method
method_of(struct slice text)
{
    for (int method = METHOD_OTHER + 1; method < METHOD_COUNT; method++) {
        if (slice_equal(slice_of(method_name((enum method)method)), text)) return (enum method)method;
    }
    return METHOD_OTHER;
}

static bool
refuse(enum reason *failure, const char **detail, enum reason reason, const char *sentence)
{
    *failure = reason;
    *detail = sentence;
    return false;
}

static bool
copy_headers(struct fetch *fetch, const struct headers *given, struct headers *out, const char **why)
{
    *why = "the request has too many headers";
    if (given == NULL) return true;
    if (given->count > FETCH_HEADERS) return false;
    for (uint32_t i = 0; i < given->count; i++) {
        const struct header *row = &given->rows[i];
        if ((row->flags & HEADER_F_DROP) != 0) continue;
        *why = "a header's name or value is malformed";
        if (!header_name_is_valid(row->name) || !header_value_is_valid(row->value)) return false;
        *why = NULL;
        if (!headers_add(out, &fetch->arena, header_identify(row->name), row->name, row->value)) return false;
    }
    return true;
}

/* The Host to send: the script's own, which must be one, or the URL's. False: it is none. */
static bool
choose_host(const struct fetch *fetch, const struct headers *headers, struct slice *host)
{
    struct slice name, port;
    const struct header *row = headers_find(headers, HEADER_HOST);
    *host = fetch->url.authority;
    if (row == NULL) {
        if (!uri_authority_split(*host, &name, &port)) *host = SLICE_LIT("localhost"); /* a service's name */
        return true;
    }
    *host = row->value;
    return headers_next(headers, row) == NULL && uri_authority_split(*host, &name, &port);
}

static struct slice
target_of(struct fetch *fetch)
{
    const struct fetch_url *url = &fetch->url;
    if (!url->has_query) return url->path;
    char *text = arena_printf(
        &fetch->arena, "%.*s?%.*s", (int)url->path.len, url->path.at, (int)url->query.len, url->query.at);
    return slice_of(text);
}

static bool
says_length(enum method method, struct slice body) /* RFC 9110 §8.6 */
{
    return body.len > 0 || method == METHOD_POST || method == METHOD_PUT || method == METHOD_PATCH;
}

static bool
write_out(struct fetch *fetch, const struct h1_out *out, struct slice host, struct slice body)
{
    size_t bound = h1_head_bound(out, host);
    char *text = arena_alloc(&fetch->arena, bound);
    size_t len = text == NULL ? 0 : h1_write_request(out, host, text, bound);
    if (len == 0) return false;
    strbuf_add(&fetch->out, text, len);
    strbuf_add_slice(&fetch->out, body);
    return !fetch->out.failed;
}

bool
fetch_write_request(
    struct fetch *fetch, const struct fetch_request *request, enum reason *failure, const char **detail)
{
    struct headers headers = {0};
    struct slice host;
    const char *why;
    fetch->method = method_of(request->method);
    if (request->method.len > METHOD_BYTES || !header_name_is_valid(request->method) ||
        fetch->method == METHOD_CONNECT || (fetch->method == METHOD_TRACE && request->body.len > 0))
        return refuse(failure, detail, REASON_BAD_REQUEST, "the method is none that can be fetched with");
    if (!copy_headers(fetch, request->headers, &headers, &why))
        return why == NULL ? refuse(failure, detail, REASON_SHED, "out of memory")
                           : refuse(failure, detail, REASON_BAD_REQUEST, why);
    if (!choose_host(fetch, &headers, &host))
        return refuse(failure, detail, REASON_BAD_REQUEST, "the Host header is malformed or repeated");
    h1_drop_hop_by_hop(&headers);
    headers_drop(&headers, HEADER_EXPECT);
    headers_drop(&headers, HEADER_UPGRADE);
    fetch->is_idempotent = method_is_idempotent(fetch->method);
    bool ok = headers_find(&headers, HEADER_USER_AGENT) != NULL ||
              headers_add(&headers, &fetch->arena, HEADER_USER_AGENT, SLICE_LIT("User-Agent"),
                  SLICE_LIT("fluxgate/" FLUXGATE_VERSION));
    bool has_length = says_length(fetch->method, request->body);
    struct h1_out out = {.method = request->method,
        .target = target_of(fetch),
        .headers = &headers,
        .body = has_length ? BODY_LENGTH : BODY_NONE,
        .no_framing = !has_length,
        .length = request->body.len};
    if (!ok || !write_out(fetch, &out, host, request->body))
        return refuse(failure, detail, REASON_SHED, "out of memory");
    return true;
}

/* the answer */

void
fetch_read_init(struct fetch *fetch)
{
    static const struct h1_limits limits = {FETCH_HEAD_BYTES, FETCH_HEADERS, 0, 0, true};
    h1_response_init(&fetch->parser, &fetch->arena, &limits, fetch->method);
}

static void
bad_answer(struct fetch *fetch, const char *why)
{
    char peer[200];
    fetch_peer(fetch, peer);
    fetch_end(fetch, REASON_BAD_RESPONSE, "%s gave a bad answer: %s", peer, why);
}

static bool
hold(struct fetch *fetch, size_t bytes)
{
    if (fetch->fetcher->held + bytes > FETCH_HELD_MAX) {
        fetch_end(fetch, REASON_SHED, "the answers of this worker's fetches take too much memory");
        return false;
    }
    fetch->held += bytes;
    fetch->fetcher->held += bytes;
    return true;
}

size_t
fetch_room(struct fetch *fetch, char **at)
{
    if (fetch->has_head) {
        *at = fetch->fetcher->scratch;
        return FETCH_READ_BYTES;
    }
    if (fetch->in_len == fetch->in_cap) {
        size_t cap = fetch->in_cap == 0 ? HEAD_FIRST_BYTES : fetch->in_cap * 2;
        char *grown = malloc(cap);
        if (grown == NULL) {
            fetch_end(fetch, REASON_SHED, "out of memory");
            return 0;
        }
        if (fetch->in_len > 0) memcpy(grown, fetch->in, fetch->in_len);
        if (fetch->in != NULL) h1_rebase(&fetch->parser, fetch->in, grown);
        free(fetch->in);
        fetch->in = grown;
        fetch->in_cap = cap;
    }
    *at = fetch->in + fetch->in_len;
    return fetch->in_cap - fetch->in_len;
}

/* The answer is whole. What stands behind it, or what made it early, ends the connection. */
static bool
answered(struct fetch *fetch, bool is_clean)
{
    const struct h1_head *head = &fetch->parser.head;
    struct wire *wire = fetch->wire;
    if (wire->inner != REASON_NONE) { /* the gateway's own word, not the service's */
        struct slice said = strbuf_slice(&fetch->body);
        const char *colon = said.len == 0 ? NULL : memmem(said.at, said.len, ": ", 2);
        if (said.len > 0 && said.at[said.len - 1] == '\n') said.len--;
        if (colon != NULL) said = (struct slice){colon + 2, said.len - (size_t)(colon + 2 - said.at)};
        if (said.len == 0) said = slice_of(reason_sentence(wire->inner));
        fetch_end(fetch, wire->inner, "service %.*s: %.*s", (int)fetch->url.host.len, fetch->url.host.at,
            (int)said.len, said.at);
        return false;
    }
    if (is_clean && !fetch->is_filled && head->keep_alive && head->body != BODY_CLOSE &&
        fetch->sent == fetch->out.len)
        wire_give(wire);
    fetch_end(fetch, REASON_NONE, NULL);
    return false;
}

static bool
add_body(struct fetch *fetch, struct slice data)
{
    if (data.len > fetch->max_body - fetch->body.len) {
        fetch_end(fetch, REASON_LIMIT, "the answer's body is larger than %zu bytes", fetch->max_body);
        return false;
    }
    if (!hold(fetch, data.len)) return false;
    strbuf_add_slice(&fetch->body, data);
    if (!fetch->body.failed) return true;
    fetch_end(fetch, REASON_SHED, "out of memory");
    return false;
}

static bool
take_chunks(struct fetch *fetch, struct slice in)
{
    for (;;) {
        struct slice data = SLICE_NONE;
        size_t used = 0;
        enum h1_result result = h1_chunked_read(&fetch->chunked, &fetch->arena, 0, in, &data, &used);
        if (result == H1_BAD) {
            bad_answer(fetch, h1_error_text(fetch->chunked.error));
            return false;
        }
        if (data.len > 0 && !add_body(fetch, data)) return false;
        in = (struct slice){in.at + used, in.len - used};
        if (result == H1_DONE) return answered(fetch, in.len == 0);
        if (in.len == 0 && data.len == 0) return true;
    }
}

static bool
take_body(struct fetch *fetch, struct slice in)
{
    switch (fetch->parser.head.body) {
    case BODY_NONE: return answered(fetch, in.len == 0);
    case BODY_CLOSE: return add_body(fetch, in);
    case BODY_CHUNKED: return take_chunks(fetch, in);
    case BODY_LENGTH: break;
    }
    struct slice own = {in.at, in.len < fetch->left ? in.len : (size_t)fetch->left};
    if (!add_body(fetch, own)) return false;
    fetch->left -= own.len;
    return fetch->left > 0 || answered(fetch, in.len == own.len);
}

static bool
begin_body(struct fetch *fetch, struct slice rest)
{
    const struct h1_head *head = &fetch->parser.head;
    fetch->has_head = true;
    fetch->left = head->length;
    if (head->body == BODY_LENGTH && head->length > fetch->max_body) {
        fetch_end(fetch, REASON_LIMIT, "the answer's body is larger than %zu bytes", fetch->max_body);
        return false;
    }
    return take_body(fetch, rest);
}

/* RFC 9110 §15.2: those before the answer say nothing to us. */
static bool
skip_interim(struct fetch *fetch, size_t used)
{
    if (fetch->parser.head.status == 101 || ++fetch->interims > INTERIM_MAX) {
        bad_answer(fetch, "an interim answer that was not asked for");
        return false;
    }
    fetch->in_len -= used;
    memmove(fetch->in, fetch->in + used, fetch->in_len);
    fetch_read_init(fetch);
    return true;
}

bool
fetch_take(struct fetch *fetch, size_t len)
{
    if (fetch->has_head) return take_body(fetch, (struct slice){fetch->fetcher->scratch, len});
    fetch->in_len += len;
    while (fetch->in_len > 0) {
        size_t used = 0;
        switch (h1_parse_head(&fetch->parser, (struct slice){fetch->in, fetch->in_len}, &used)) {
        case H1_AGAIN: return true;
        case H1_BAD: bad_answer(fetch, h1_error_text(fetch->parser.error)); return false;
        case H1_DONE: break;
        }
        if (fetch->parser.head.status >= 200)
            return begin_body(fetch, (struct slice){fetch->in + used, fetch->in_len - used});
        if (!skip_interim(fetch, used)) return false;
    }
    return true;
}

/* `is_clean`: the peer ended it in order, which alone ends a body that has no other end. */
void
fetch_on_eof(struct fetch *fetch, bool is_clean)
{
    char peer[200];
    enum reason inner = fetch->wire->inner;
    if (fetch->has_head && fetch->parser.head.body == BODY_CLOSE && is_clean && inner == REASON_NONE) {
        (void)answered(fetch, false);
        return;
    }
    fetch_peer(fetch, peer);
    if (inner != REASON_NONE)
        fetch_end(fetch, inner, "%s: %s", peer, reason_sentence(inner));
    else if (fetch->has_head)
        fetch_end(fetch, REASON_RESET_AFTER_HEADERS, "%s closed the connection inside its answer", peer);
    else if (fetch->in_len > 0)
        fetch_end(fetch, REASON_BAD_RESPONSE, "%s closed the connection inside its answer's head", peer);
    else
        fetch_end(fetch, REASON_RESET_BEFORE_HEADERS, "%s closed the connection before it answered", peer);
}
