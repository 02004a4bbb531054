#include <arpa/inet.h>
#include <stdio.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

enum { REQUEST_ID_MAX = 128, FORWARDED_MAX = 32 };

/* the client's address */

static bool
parse_address(struct slice text, struct sockaddr_storage *out)
{
    char copy[INET6_ADDRSTRLEN + 1];
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (text.len >= 2 && text.at[0] == '[' && text.at[text.len - 1] == ']')
        text = (struct slice){text.at + 1, text.len - 2};
    if (text.len == 0 || text.len >= sizeof copy) return false;
    memcpy(copy, text.at, text.len);
    copy[text.len] = '\0';
    *out = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, copy, &v4->sin_addr) == 1) {
        out->ss_family = AF_INET;
        return true;
    }
    if (inet_pton(AF_INET6, copy, &v6->sin6_addr) != 1) return false;
    out->ss_family = AF_INET6;
    return true;
}

struct slice
forward_client_ip(const struct config *config, const struct headers *headers, const struct sockaddr *peer,
    struct slice peer_ip)
{
    struct slice hops[FORWARDED_MAX], token, client = peer_ip;
    unsigned count = 0;
    if (!config_cidr_has(config->trusted_proxies, config->trusted_proxy_count, peer)) return peer_ip;
    for (const struct header *row = headers_find(headers, HEADER_X_FORWARDED_FOR); row != NULL;
         row = headers_next(headers, row)) {
        for (struct slice rest = row->value; header_list_next(&rest, &token);)
            hops[count++ % FORWARDED_MAX] = token;
    }
    for (unsigned i = 0; i < count && i < FORWARDED_MAX;
         i++) { /* from the right: each hop vouches for the one before it */
        struct sockaddr_storage address;
        token = hops[(count - 1 - i) % FORWARDED_MAX];
        if (!parse_address(token, &address)) break;
        client = token;
        if (!config_cidr_has(
                config->trusted_proxies, config->trusted_proxy_count, (struct sockaddr *)&address))
            break;
    }
    return client;
}

/* ids */

bool
forward_request_id_is_valid(struct slice id)
{
    if (id.len == 0 || id.len > REQUEST_ID_MAX) return false;
    for (size_t i = 0; i < id.len; i++) {
        unsigned char c = (unsigned char)id.at[i];
        bool is_alnum = (unsigned char)((c | 0x20) - 'a') < 26 || (unsigned char)(c - '0') < 10;
        if (!is_alnum && memchr("-_.:+/=@", c, 8) == NULL) return false;
    }
    return true;
}

static bool
is_hex(const char *at, size_t len, bool *is_zero)
{
    *is_zero = true;
    for (size_t i = 0; i < len; i++) {
        bool ok = (unsigned char)(at[i] - '0') < 10 || (unsigned char)(at[i] - 'a') < 6;
        if (!ok) return false;
        if (at[i] != '0') *is_zero = false;
    }
    return true;
}

/* W3C Trace Context §3.2.2: version-traceid-parentid-flags in lower-case hex; ids of zeros and version ff are
 * invalid; a later version may carry more behind the flags. */
bool
forward_traceparent_is_valid(struct slice value)
{
    bool is_zero;
    if (value.len < 55 || value.at[2] != '-' || value.at[35] != '-' || value.at[52] != '-') return false;
    if (!is_hex(value.at, 2, &is_zero) || memcmp(value.at, "ff", 2) == 0) return false;
    if (is_zero ? value.len != 55 : value.len > 55 && value.at[55] != '-') return false;
    if (!is_hex(value.at + 3, 32, &is_zero) || is_zero) return false;
    if (!is_hex(value.at + 36, 16, &is_zero) || is_zero) return false;
    return is_hex(value.at + 53, 2, &is_zero);
}

/* 16 digits, the bytes of `number` as they lie in memory: for ids drawn at random. Eight digits a step: each
 * nibble in a byte of its own, and what passes 9 is moved on to the letters. */
static char *
put_hex(char *out, uint64_t number)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t half[2] = {number & 0x0f0f0f0f0f0f0f0fu, number >> 4 & 0x0f0f0f0f0f0f0f0fu};
    for (int i = 0; i < 2; i++, out += 8) {
        uint64_t letters = (half[i] + ones * 6) >> 4 & ones;
        uint64_t digits = half[i] + ones * '0' + letters * ('a' - '0' - 10);
        memcpy(out, &digits, 8);
    }
    return out;
}

static bool
set_row(struct stream *stream, enum header_id id, struct slice name, struct slice value)
{
    headers_drop(&stream->parser.head.headers, id);
    return headers_add_sound(&stream->parser.head.headers, &stream->arena, id, name, value);
}

static bool
set_request_id(struct stream *stream)
{
    const struct headers *headers = &stream->parser.head.headers;
    const struct header *row = headers_find(headers, HEADER_X_REQUEST_ID);
    if (row != NULL && headers_next(headers, row) == NULL && forward_request_id_is_valid(row->value)) {
        stream->request_id = row->value;
        return true;
    }
    char *id = arena_alloc(&stream->arena, 32);
    if (id == NULL) return false;
    put_hex(put_hex(id, proxy_random(stream->proxy)), proxy_random(stream->proxy));
    stream->request_id = (struct slice){id, 32};
    return set_row(stream, HEADER_X_REQUEST_ID, SLICE_LIT("X-Request-Id"), stream->request_id);
}

static bool
set_traceparent(struct stream *stream)
{
    struct headers *headers = &stream->parser.head.headers;
    const struct header *row = headers_find(headers, HEADER_TRACEPARENT);
    char *out = arena_alloc(&stream->arena, 55);
    if (out == NULL) return false;
    if (row != NULL && headers_next(headers, row) == NULL && forward_traceparent_is_valid(row->value)) {
        memcpy(out, row->value.at, 55);
        memcpy(out, "00", 2); /* the version that we speak */
    } else {
        headers_drop(headers, HEADER_TRACESTATE); /* it belongs to the trace that was not continued */
        memcpy(out, "00-", 3);
        put_hex(put_hex(out + 3, proxy_random(stream->proxy)), proxy_random(stream->proxy) | 1);
        memcpy(out + 35, "-", 1);
        memcpy(out + 52, "-01", 3);
    }
    put_hex(out + 36, proxy_random(stream->proxy) | 1);
    return set_row(stream, HEADER_TRACEPARENT, SLICE_LIT("traceparent"), (struct slice){out, 55});
}

/* the request's headers */

static void
drop_untrusted(struct headers *headers)
{
    static const char prefix[] = "x-forwarded-";
    for (uint32_t i = 0; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        bool is_ours = row->id == HEADER_FORWARDED || row->id == HEADER_X_REAL_IP ||
                       (row->name.len > sizeof prefix - 1 &&
                           slice_equal_nocase(
                               (struct slice){row->name.at, sizeof prefix - 1}, SLICE_LIT("x-forwarded-")));
        if (is_ours) row->flags |= HEADER_F_DROP;
    }
}

static bool
set_forwarded_for(struct stream *stream)
{
    struct headers *headers = &stream->parser.head.headers;
    struct slice ip = slice_of(stream->conn->ip);
    const struct header *first = headers_find(headers, HEADER_X_FORWARDED_FOR);
    if (first != NULL) { /* what is left of it came from a trusted proxy */
        size_t len = ip.len;
        for (const struct header *row = first; row != NULL; row = headers_next(headers, row))
            len += row->value.len + 2;
        char *joined = arena_alloc(&stream->arena, len), *out = joined;
        if (joined == NULL) return false;
        for (const struct header *row = first; row != NULL; row = headers_next(headers, row)) {
            if (row->value.len == 0) continue;
            memcpy(out, row->value.at, row->value.len);
            memcpy(out + row->value.len, ", ", 2);
            out += row->value.len + 2;
        }
        memcpy(out, ip.at, ip.len);
        ip = (struct slice){joined, (size_t)(out - joined) + ip.len};
    }
    return set_row(stream, HEADER_X_FORWARDED_FOR, SLICE_LIT("X-Forwarded-For"), ip);
}

static bool
set_forwarded(struct stream *stream)
{
    struct headers *headers = &stream->parser.head.headers;
    const struct h1_head *head = &stream->parser.head;
    if (!set_forwarded_for(stream)) return false;
    if (headers_find(headers, HEADER_X_FORWARDED_PROTO) == NULL &&
        !headers_add_sound(headers, &stream->arena, HEADER_X_FORWARDED_PROTO, SLICE_LIT("X-Forwarded-Proto"),
            SLICE_LIT("http")))
        return false;
    return headers_find(headers, HEADER_X_FORWARDED_HOST) != NULL || head->authority.len == 0 ||
           headers_add_sound(headers, &stream->arena, HEADER_X_FORWARDED_HOST, SLICE_LIT("X-Forwarded-Host"),
               head->authority);
}

bool
forward_is_loop(const struct stream *stream)
{
    const struct headers *headers = &stream->parser.head.headers;
    struct slice name = slice_of(stream->generation->config->via), member;
    for (const struct header *row = headers_find(headers, HEADER_VIA); row != NULL;
         row = headers_next(headers, row)) {
        for (struct slice rest = row->value; header_list_next(&rest, &member);) {
            const char *blank = memchr(member.at, ' ', member.len);
            if (blank == NULL) continue;
            struct slice by = slice_trim((struct slice){blank, member.len - (size_t)(blank - member.at)});
            blank = memchr(by.at, ' ', by.len); /* before a comment */
            if (blank != NULL) by.len = (size_t)(blank - by.at);
            if (slice_equal_nocase(by, name)) return true;
        }
    }
    return false;
}

/* RFC 9110 §7.6.3, behind the fields of those before us. */
static bool
add_via(struct stream *stream, const char *name)
{
    const char *text = arena_printf(&stream->arena, "1.%d %s", stream->parser.head.minor, name);
    return text != NULL && headers_add(&stream->parser.head.headers, &stream->arena, HEADER_VIA,
                               SLICE_LIT("Via"), slice_of(text));
}

/* The protocols named by all Upgrade fields; empty: none. */
static struct slice
upgrade_list(struct stream *stream, const struct headers *headers)
{
    struct slice protocol;
    size_t cap = 0, len = 0;
    const struct header *first = headers_find(headers, HEADER_UPGRADE);
    for (const struct header *row = first; row != NULL; row = headers_next(headers, row))
        cap += row->value.len * 2 + 2;
    char *out = cap == 0 ? NULL : arena_alloc(&stream->arena, cap);
    if (out == NULL) return SLICE_NONE;
    for (const struct header *row = first; row != NULL; row = headers_next(headers, row)) {
        for (struct slice rest = row->value; h1_upgrade_next(&rest, &protocol);) {
            if (len > 0) {
                memcpy(out + len, ", ", 2);
                len += 2;
            }
            memcpy(out + len, protocol.at, protocol.len);
            len += protocol.len;
        }
    }
    return (struct slice){out, len};
}

bool
forward_rewrite(struct stream *stream)
{
    const struct config_route *route = stream->route;
    struct slice strip = slice_of(route->rewrite.strip_prefix), add = slice_of(route->rewrite.add_prefix);
    struct slice target = stream->target;
    while (strip.len > 0 && strip.at[strip.len - 1] == '/')
        strip.len--;
    while (add.len > 0 && add.at[add.len - 1] == '/')
        add.len--;
    if (strip.len > 0 && route_prefix_matches(target, strip)) {
        target = (struct slice){target.at + strip.len, target.len - strip.len};
        if (target.len == 0) target = SLICE_LIT("/");
    }
    if (add.len > 0) {
        char *joined = arena_alloc(&stream->arena, add.len + target.len);
        if (joined == NULL) return false;
        memcpy(joined, add.at, add.len);
        memcpy(joined + add.len, target.at, target.len);
        target = (struct slice){joined, add.len + target.len};
    }
    stream->target = target;
    return true;
}

bool
forward_request(struct stream *stream)
{
    const struct config *config = stream->generation->config;
    struct headers *headers = &stream->parser.head.headers;
    const struct h1_head *head = &stream->parser.head;
    if (head->upgrade) stream->upgrade_list = upgrade_list(stream, headers);
    stream->upgrade = stream->upgrade_list.len > 0;
    h1_drop_hop_by_hop(headers);
    headers_drop(headers, HEADER_HTTP2_SETTINGS);
    if (!head->expect_continue || head->body == BODY_NONE) headers_drop(headers, HEADER_EXPECT);
    if (UNLIKELY(config->via != NULL) && !add_via(stream, config->via)) return false;
    if (UNLIKELY(stream->conn->is_inner)) return set_request_id(stream) && set_traceparent(stream);
    if (!config_cidr_has(config->trusted_proxies, config->trusted_proxy_count, &stream->conn->peer.any))
        drop_untrusted(headers);
    return set_forwarded(stream) && set_request_id(stream) && set_traceparent(stream);
}

static struct slice
full_target(struct stream *stream, const struct endpoint *endpoint)
{
    struct slice path = stream->target, query = stream->query;
    if (endpoint->prefix_len == 0 && !stream->parser.head.has_query) return path;
    char *out = arena_alloc(&stream->arena, endpoint->prefix_len + path.len + query.len + 1);
    if (out == NULL) return SLICE_NONE;
    size_t len = endpoint->prefix_len;
    memcpy(out, endpoint->prefix, len);
    memcpy(out + len, path.at, path.len);
    len += path.len;
    if (stream->parser.head.has_query) {
        out[len++] = '?';
        if (query.len > 0) memcpy(out + len, query.at, query.len);
        len += query.len;
    }
    return (struct slice){out, len};
}

bool
forward_write_request(struct stream *stream, const struct endpoint *endpoint, struct slice *written)
{
    const struct h1_head *head = &stream->parser.head;
    const struct filtering *filtering = stream->filtering;
    const char *given = stream->route->rewrite.host;
    struct slice host = given != NULL ? slice_of(given) : head->authority;
    enum body_kind body = head->body;
    uint64_t length = head->length;
    if (UNLIKELY(filtering != NULL)) {
        content_framing(stream, &body, &length);
        if (filtering->request.changed & FILTER_HOST) host = head->authority;
    }
    if (host.len == 0)
        host = (struct slice){endpoint->host, endpoint->host_len}; /* HTTP/1.0: 1.1 asks for one */
    struct h1_out out = {
        .method = head->method_text,
        .target = full_target(stream, endpoint),
        .headers = &head->headers,
        .body = body,
        .length = length,
        .no_framing = body == BODY_NONE,
    };
    if (out.target.at == NULL) return false;
    /* RFC 9110 §8.6: methods that expect content say so when there is none. */
    if (body == BODY_NONE &&
        (head->method == METHOD_POST || head->method == METHOD_PUT || head->method == METHOD_PATCH)) {
        out.body = BODY_LENGTH;
        out.no_framing = false;
    }
    /* As from a client: the backend would have to guess where the body ends and the tunnel begins. */
    if (body == BODY_CHUNKED || (body == BODY_LENGTH && length > 0)) stream->upgrade = false;
    if (stream->upgrade) {
        out.connection = SLICE_LIT("upgrade");
        out.upgrade = stream->upgrade_list;
    }
    size_t bound = h1_head_bound(&out, host);
    char *text = arena_alloc(&stream->arena, bound);
    if (text == NULL) return false;
    *written = (struct slice){text, h1_write_request(&out, host, text, bound)};
    return written->len > 0;
}

/* the response's headers */

/* HEAD and 304 say how long the body would be (RFC 9110 §8.6): that row stays, though the body's framing is
 * none. */
void
forward_show_length(struct headers *headers)
{
    for (uint32_t i = 0; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        if (row->id != HEADER_CONTENT_LENGTH) continue;
        row->flags &= (uint16_t)~HEADER_F_DROP;
        headers->seen |= (uint64_t)1 << (HEADER_CONTENT_LENGTH % 64);
        return;
    }
}

static bool
add_response_rows(struct stream *stream, struct headers *headers)
{
    const struct headers *cookies = &stream->request.set_cookies;
    for (uint32_t i = 0; i < cookies->count; i++) {
        const struct header *row = &cookies->rows[i];
        if (row->flags & HEADER_F_DROP) continue;
        if (!headers_add(headers, &stream->arena, row->id, row->name, row->value)) return false;
    }
    /* RFC 9110 §6.6.1: a recipient with a clock adds the date that the origin left out. */
    return headers_find(headers, HEADER_DATE) != NULL ||
           headers_add_sound(
               headers, &stream->arena, HEADER_DATE, SLICE_LIT("Date"), proxy_date(stream->proxy));
}

static bool
is_for_head(const struct stream *stream)
{
    return UNLIKELY(stream->filtering != NULL) ? stream->filtering->is_head
                                               : stream->parser.head.method == METHOD_HEAD;
}

bool
forward_response(struct stream *stream)
{
    struct h1_head *answer = &stream->response.head;
    /* RFC 9110 §15.5.22: what to ask for instead, where the request's own list has served */
    stream->upgrade_list =
        UNLIKELY(answer->status == 426) ? upgrade_list(stream, &answer->headers) : SLICE_NONE;
    h1_drop_hop_by_hop(&answer->headers);
    if (answer->status != 204 && (is_for_head(stream) || answer->status == 304))
        forward_show_length(&answer->headers);
    return add_response_rows(stream, &answer->headers);
}

bool
forward_write_response(struct stream *stream, struct slice *written)
{
    struct h1_head *answer = &stream->response.head;
    bool is_bodiless = is_for_head(stream) || answer->status == 204 || answer->status == 304;
    struct h1_out out = {
        .status = answer->status,
        .headers = &answer->headers,
        .body = answer->body == BODY_NONE ? BODY_LENGTH : stream->down.to,
        .length = answer->body == BODY_NONE ? 0 : answer->length,
        .no_framing = is_bodiless,
    };
    if (!stream->keep_alive)
        out.connection = SLICE_LIT("close");
    else if (stream->parser.head.minor == 0)
        out.connection = SLICE_LIT("keep-alive");
    if (UNLIKELY(stream->upgrade_list.len > 0) && stream->parser.head.minor == 1) {
        out.upgrade = stream->upgrade_list;
        out.connection = stream->keep_alive ? SLICE_LIT("upgrade") : SLICE_LIT("close, upgrade");
    }
    size_t bound = h1_head_bound(&out, SLICE_NONE);
    char *text = arena_alloc(&stream->arena, bound);
    if (text == NULL) return false;
    *written = (struct slice){text, h1_write_response(&out, text, bound)};
    return written->len > 0;
}
