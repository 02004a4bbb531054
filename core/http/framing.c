#include <string.h>

#include "core/http/h1_internal.h"
#include "core/http/scan_internal.h"

/* Rows that framing and connection handling look at; a head without any (most GETs) skips the walk. */
#define BIT(id) ((uint64_t)1 << HEADER_##id)
#define WATCHED                                                                                              \
    (BIT(CONNECTION) | BIT(CONTENT_LENGTH) | BIT(TRANSFER_ENCODING) | BIT(UPGRADE) | BIT(EXPECT) |           \
        BIT(KEEP_ALIVE))
_Static_assert(HEADER_ID_COUNT <= 64, "headers.seen tells every known header from each other");

enum { CONNECTION_OPTIONS_MAX = 100 };

struct facts {
    unsigned lengths, encodings; /* rows seen */
    unsigned options;            /* of Connection */
    uint64_t length;
    bool bad_length, bad_encoding, bad_expect;
    bool close, keep_alive, upgrade; /* Connection's tokens */
    bool expect_continue;
    struct slice protocol; /* of Upgrade */
};

bool
framing_content_length(struct slice value, uint64_t *bytes)
{
    uint64_t n = 0;
    if (value.len == 0) return false;
    for (size_t i = 0; i < value.len; i++) {
        unsigned digit = (unsigned char)value.at[i] - (unsigned)'0'; /* below '0' wraps, so exceeds 9 */
        if (digit > 9 || __builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, digit, &n))
            return false;
    }
    if (n > H1_LENGTH_MAX) return false;
    *bytes = n;
    return true;
}

static void
connection_read(struct slice list, struct facts *facts)
{
    struct slice token;
    while (header_list_next(&list, &token)) {
        facts->options++;
        switch (token.len) {
        case 5: facts->close |= slice_equal_nocase(token, SLICE_LIT("close")); break;
        case 7: facts->upgrade |= slice_equal_nocase(token, SLICE_LIT("upgrade")); break;
        case 10: facts->keep_alive |= slice_equal_nocase(token, SLICE_LIT("keep-alive")); break;
        }
    }
}

/* RFC 9113 §3.1 retired the upgrade to h2c, and a tunnel of it, or of any HTTP, would hide requests. */
static bool
is_http(struct slice name)
{
    return slice_equal_nocase(name, SLICE_LIT("h2c")) || slice_equal_nocase(name, SLICE_LIT("h2")) ||
           slice_equal_nocase(name, SLICE_LIT("http"));
}

bool
h1_upgrade_next(struct slice *list, struct slice *protocol)
{
    while (header_list_next(list, protocol)) {
        const char *end = protocol->at + protocol->len;
        const char *slash = scan_class(protocol->at, end, BYTE_TOKEN);
        bool is_valid =
            slash > protocol->at && (slash == end || (*slash == '/' && slash + 1 < end &&
                                                         scan_class(slash + 1, end, BYTE_TOKEN) == end));
        if (is_valid && !is_http((struct slice){protocol->at, (size_t)(slash - protocol->at)})) return true;
    }
    return false;
}

static void
upgrade_read(struct slice list, struct facts *facts)
{
    struct slice protocol;
    if (facts->protocol.len == 0 && h1_upgrade_next(&list, &protocol)) facts->protocol = protocol;
}

static void
expect_read(struct slice list, struct facts *facts)
{
    struct slice token;
    if (list.len == 0) facts->bad_expect = true;
    while (header_list_next(&list, &token)) {
        if (slice_equal_nocase(token, SLICE_LIT("100-continue"))) {
            facts->expect_continue = true;
        } else {
            facts->bad_expect = true;
        }
    }
}

/* Keep-Alive: timeout=n of a backend that means to end the connection then; 0 is at once. */
static void
keep_alive_read(struct slice list, struct h1_head *head, struct facts *facts)
{
    static const struct slice prefix = {"timeout=", 8};
    struct slice token;
    while (header_list_next(&list, &token)) {
        uint64_t seconds;
        if (token.len <= prefix.len || !slice_equal_nocase((struct slice){token.at, prefix.len}, prefix))
            continue;
        struct slice digits = {token.at + prefix.len, token.len - prefix.len};
        if (!framing_content_length(digits, &seconds)) continue;
        head->keep_alive_s = seconds > UINT32_MAX ? UINT32_MAX : (uint32_t)seconds;
        facts->close |= seconds == 0;
        return;
    }
}

static void
facts_gather(struct h1_head *head, struct facts *facts)
{
    for (uint32_t i = 0; i < head->headers.count; i++) {
        struct slice value = head->headers.rows[i].value;
        switch (head->headers.rows[i].id) {
        case HEADER_CONTENT_LENGTH:
            facts->lengths++;
            facts->bad_length |= !framing_content_length(value, &facts->length);
            break;
        case HEADER_TRANSFER_ENCODING:
            facts->encodings++;
            facts->bad_encoding |= !slice_equal_nocase(value, SLICE_LIT("chunked"));
            break;
        case HEADER_CONNECTION: connection_read(value, facts); break;
        case HEADER_UPGRADE: upgrade_read(value, facts); break;
        case HEADER_EXPECT: expect_read(value, facts); break;
        case HEADER_KEEP_ALIVE:
            if (head->status != 0) keep_alive_read(value, head, facts);
            break;
        }
    }
}

/* Stricter than RFC 9112 §6.3, which lets Transfer-Encoding override and equal lengths merge: what two
 * readers may read in two ways is no message. */
static enum h1_error
body_decide(struct h1_parser *parser, const struct facts *facts)
{
    struct h1_head *head = &parser->head;
    if (facts->encodings > 0 && facts->lengths > 0) return H1_LENGTH_AND_ENCODING;
    if (facts->encodings > 1 || facts->bad_encoding) return H1_BAD_TRANSFER_ENCODING;
    if (facts->encodings > 0 && head->minor == 0) return H1_BAD_TRANSFER_ENCODING; /* §6.1 */
    if (facts->lengths > 1 || facts->bad_length) return H1_BAD_CONTENT_LENGTH;
    if (facts->encodings > 0) {
        head->body = BODY_CHUNKED;
    } else if (facts->lengths > 0) {
        head->body = BODY_LENGTH;
        head->length = facts->length;
    } else {
        head->body = parser->is_response ? BODY_CLOSE : BODY_NONE;
    }
    return H1_OK;
}

/* §6.3 rules 1 and 2. */
static bool
response_is_bodiless(const struct h1_parser *parser)
{
    int status = parser->head.status;
    return parser->request_method == METHOD_HEAD || status < 200 || status == 204 || status == 304 ||
           (parser->request_method == METHOD_CONNECT && status < 300);
}

static enum h1_error
response_decide(struct h1_parser *parser, const struct facts *facts)
{
    struct h1_head *head = &parser->head;
    head->upgrade = head->status == 101 && facts->upgrade && facts->protocol.len > 0 && head->minor == 1;
    if (!response_is_bodiless(parser)) {
        if (head->body == BODY_CLOSE) head->keep_alive = false;
        return H1_OK;
    }
    bool claims = head->body == BODY_CHUNKED || (head->body == BODY_LENGTH && head->length > 0);
    head->body = BODY_NONE;
    head->length = 0;
    if (!claims || parser->request_method == METHOD_HEAD || head->status == 304) return H1_OK;
    /* RFC 9110 §8.6, RFC 9112 §6.1: a 1xx or 204 announces no body. A server that does may send one, and its
     * bytes would stand before the final or the next response. */
    if (head->status < 200) return facts->encodings > 0 ? H1_BAD_TRANSFER_ENCODING : H1_BAD_CONTENT_LENGTH;
    head->keep_alive = false;
    return H1_OK;
}

static enum h1_error
request_decide(struct h1_head *head, const struct facts *facts)
{
    bool has_body = head->body == BODY_CHUNKED || (head->body == BODY_LENGTH && head->length > 0);
    /* A client that counts on its CONNECT sends on as in the tunnel: no request is read from those bytes. */
    if (head->form == TARGET_AUTHORITY) head->keep_alive = false;
    if (has_body && head->method == METHOD_TRACE) return H1_BAD_TRACE; /* RFC 9110 §9.3.8 */
    if (head->minor == 0) { /* RFC 9110 §7.8, §10.1.1: Upgrade and Expect are not heard from 1.0 */
        headers_drop(&head->headers, HEADER_EXPECT); /* nor said again in the 1.1 that leaves */
        return H1_OK;
    }
    if (facts->bad_expect) return H1_BAD_EXPECT;
    head->expect_continue = facts->expect_continue && has_body;
    head->upgrade = facts->upgrade && facts->protocol.len > 0;
    return head->upgrade && has_body ? H1_BAD_UPGRADE : H1_OK;
}

enum h1_error
framing_decide(struct h1_parser *parser)
{
    struct h1_head *head = &parser->head;
    struct facts facts = {0};
    if ((head->headers.seen & WATCHED) != 0) facts_gather(head, &facts);
    enum h1_error error = body_decide(parser, &facts);
    if (error != H1_OK) return error;
    /* Each option is sought among all rows (h1_drop_hop_by_hop): 16,000 of one byte would be a cheap way to
     * keep us busy. */
    if (facts.options > CONNECTION_OPTIONS_MAX) return H1_HEADERS_TOO_LARGE;
    head->keep_alive = !facts.close && (head->minor == 1 || facts.keep_alive);
    error = parser->is_response ? response_decide(parser, &facts) : request_decide(head, &facts);
    if (error != H1_OK) return error;
    if (head->upgrade) head->upgrade_protocol = facts.protocol;
    if (head->body == BODY_LENGTH && parser->limits.body_bytes != 0 &&
        head->length > parser->limits.body_bytes) {
        return H1_BODY_TOO_LARGE;
    }
    return H1_OK;
}

/* RFC 9110 §7.6.1 and what RFC 2616 §13.5.1 named; Content-Length and Transfer-Encoding are made anew. */
#define HOP_BY_HOP                                                                                           \
    (BIT(CONNECTION) | BIT(CONTENT_LENGTH) | BIT(TRANSFER_ENCODING) | BIT(UPGRADE) | BIT(TE) |               \
        BIT(TRAILER) | BIT(KEEP_ALIVE) | BIT(PROXY_CONNECTION) | BIT(PROXY_AUTHENTICATE) |                   \
        BIT(PROXY_AUTHORIZATION) | BIT(HTTP2_SETTINGS))

static void
drop_nominated(struct headers *headers, struct slice list)
{
    struct slice name;
    while (header_list_next(&list, &name)) {
        /* What nearly every Connection says names no field, or one that goes anyway. */
        if (slice_equal_nocase(name, SLICE_LIT("close")) || slice_equal_nocase(name, SLICE_LIT("keep-alive")))
            continue;
        for (uint32_t i = 0; i < headers->count; i++) {
            if (slice_equal_nocase(headers->rows[i].name, name)) headers->rows[i].flags |= HEADER_F_DROP;
        }
    }
}

void
h1_drop_hop_by_hop(struct headers *headers)
{
    if ((headers->seen & HOP_BY_HOP) == 0) return;
    for (uint32_t i = 0; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        if ((HOP_BY_HOP >> row->id & 1) == 0) continue;
        row->flags |= HEADER_F_DROP;
        if (row->id == HEADER_CONNECTION) drop_nominated(headers, row->value);
    }
}
