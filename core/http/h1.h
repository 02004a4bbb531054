/* core/http/h1.h: HTTP/1.x messages to the letter of RFC 9112, as server and as client. Pure: no sockets, no
 * clock. Incremental: every split of the input at every byte gives the result of the whole. */
#ifndef FLUXGATE_HTTP_H1_H
#define FLUXGATE_HTTP_H1_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/http/header.h"
#include "core/http/reason.h"

enum h1_result { H1_DONE, H1_AGAIN, H1_BAD };

/* name, status a server answers with, text for body and log */
#define H1_ERRORS(X)                                                                                         \
    X(H1_OK, 0, "")                                                                                          \
    X(H1_BAD_REQUEST_LINE, 400, "the request line is malformed")                                             \
    X(H1_BAD_METHOD, 400, "the method is not a token")                                                       \
    X(H1_BAD_TARGET, 400, "the request target is malformed")                                                 \
    X(H1_BAD_VERSION, 400, "the protocol version is malformed")                                              \
    X(H1_VERSION_UNSUPPORTED, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here")                             \
    X(H1_BAD_STATUS_LINE, 502, "the status line is malformed")                                               \
    X(H1_BAD_HEADER_NAME, 400, "a header name is not a token followed by a colon")                           \
    X(H1_BAD_HEADER_VALUE, 400, "a header value holds a control byte")                                       \
    X(H1_OBS_FOLD, 400, "a header line is folded")                                                           \
    X(H1_BARE_CR, 400, "a CR stands without its LF")                                                         \
    X(H1_BARE_LF, 400, "a line ends without CR")                                                             \
    X(H1_URI_TOO_LONG, 414, "the request target passes limits.uri_bytes")                                    \
    X(H1_HEADERS_TOO_LARGE, 431, "the header section passes limits.header_bytes or limits.headers")          \
    X(H1_BAD_HOST, 400, "Host is missing, repeated or invalid")                                              \
    X(H1_BAD_CONTENT_LENGTH, 400, "Content-Length is not one plain decimal number")                          \
    X(H1_BAD_TRANSFER_ENCODING, 400, "Transfer-Encoding is not exactly chunked")                             \
    X(H1_LENGTH_AND_ENCODING, 400, "Content-Length and Transfer-Encoding stand together")                    \
    X(H1_BAD_CHUNK, 400, "the chunked framing is broken")                                                    \
    X(H1_BAD_TRAILER, 400, "the trailer section is malformed")                                               \
    X(H1_BODY_TOO_LARGE, 413, "the body passes limits.body_bytes")                                           \
    X(H1_BAD_UPGRADE, 400, "Upgrade with a body")                                                            \
    X(H1_BAD_TRACE, 400, "TRACE with content")                                                               \
    X(H1_BAD_EXPECT, 417, "only Expect: 100-continue is known")                                              \
    X(H1_NO_MEMORY, 503, "out of memory")
#define X(name, status, text) name,
enum h1_error { H1_ERRORS(X) };
#undef X

int h1_error_status(enum h1_error error);
const char *h1_error_text(enum h1_error error);

enum body_kind {
    BODY_NONE,    /* no body follows */
    BODY_LENGTH,  /* exactly `length` bytes */
    BODY_CHUNKED, /* chunked framing */
    BODY_CLOSE,   /* responses only: until the peer closes */
};

/* Methods known by number; METHOD_OTHER is any other valid token (forwarded as it is). */
#define METHODS(X) X(GET) X(HEAD) X(POST) X(PUT) X(DELETE) X(OPTIONS) X(PATCH) X(TRACE) X(CONNECT)
#define X(name)    METHOD_##name,
enum method { METHOD_OTHER, METHODS(X) METHOD_COUNT };
#undef X
const char *method_name(enum method method);   /* "other" for METHOD_OTHER: a bounded label */
bool method_is_idempotent(enum method method); /* RFC 9110 §9.2.2 */

enum target_form { TARGET_ORIGIN, TARGET_ABSOLUTE, TARGET_AUTHORITY, TARGET_ASTERISK };

struct h1_limits {
    uint32_t header_bytes; /* request or status line and headers with their line ends */
    uint32_t headers;      /* rows */
    uint32_t uri_bytes;
    uint64_t body_bytes; /* 0: no limit */
    bool underscores;    /* accept '_' in header names (default: the row is dropped, as nginx does) */
};

struct h1_head {
    /* requests */
    struct slice method_text;
    enum method method;
    struct slice target; /* as it came */
    enum target_form form;
    struct slice path;  /* of the target, without query; "/" where absolute-form has none */
    struct slice query; /* without '?'; has_query tells "" from none */
    struct slice
        authority; /* of absolute-form, else of Host: host[:port], validated; empty only in HTTP/1.0 */
    bool has_query;
    /* responses */
    int status;
    struct slice phrase;
    /* both */
    int minor;            /* 0 or 1 */
    bool keep_alive;      /* what version and Connection say together */
    bool expect_continue; /* requests: Expect: 100-continue in HTTP/1.1 */
    bool upgrade;         /* Connection: upgrade with an Upgrade header that names more than HTTP, HTTP/1.1;
                             responses:         101 */
    struct slice upgrade_protocol; /* with upgrade: the first protocol named that is no HTTP; what the
                                      writer is given */
    enum body_kind body;
    uint64_t length;       /* BODY_LENGTH */
    uint32_t keep_alive_s; /* responses: Keep-Alive: timeout=n, 0 where absent */
    struct headers headers;
};

struct h1_parser {
    /* set by h1_request_init/h1_response_init */
    struct arena *arena; /* rows grow here */
    struct h1_limits limits;
    bool is_response;
    enum method
        request_method; /* of the request that a response answers: HEAD and CONNECT change its framing */
    /* progress */
    uint8_t phase;
    uint32_t line_at; /* start of the line being read */
    uint32_t scanned; /* bytes already searched for its end */
    enum h1_error error;
    struct h1_head head; /* complete after H1_DONE; slices borrow from the bytes given to h1_parse_head */
};

void h1_request_init(struct h1_parser *parser, struct arena *arena, const struct h1_limits *limits);
void h1_response_init(struct h1_parser *parser, struct arena *arena, const struct h1_limits *limits,
    enum method request_method);

/* `bytes` is everything read so far, from the head's first byte on; call again with the same start and more
 * bytes. H1_DONE: *used bytes were the head (a leading CRLF before a request line included), what follows is
 * body. H1_BAD: parser->error says why. Framing (RFC 9112 §6.3) is decided here: head.body and head.length.
 * Response heads with 1xx are returned like any other with BODY_NONE; the caller goes on with a fresh init
 * for the final one. Where the read buffer moved between calls, h1_rebase first. Hot. */
MUST_CHECK
enum h1_result h1_parse_head(struct h1_parser *parser, struct slice bytes, size_t *used);
void h1_rebase(struct h1_parser *parser, const char *old_start, const char *new_start);

/* Chunked framing (RFC 9112 §7.1). Storage the caller's, all zero is the start. */
struct h1_chunked {
    uint8_t phase;
    uint8_t line_len; /* bytes of the size line so far (extensions are bounded) */
    uint16_t extra;   /* bytes of extensions and trailers so far */
    uint64_t left;    /* of the present chunk's data */
    uint64_t total;   /* data bytes so far */
    enum h1_error error;
    struct slice trailers; /* after H1_DONE: the raw trailer lines, in `store`, without the closing CRLF */
    char *store;
    uint32_t store_cap;
};

/* A size line is at most 255 bytes; extensions are checked against their grammar and thrown away, and more
 * than 16 KiB of them beyond the data that they come with is H1_BAD_CHUNK. Decodes as far as one run of data:
 * *data (possibly empty) borrows from `in`, *used is how much of `in` is done with. H1_AGAIN with data: call
 * again with the rest. H1_AGAIN without data and *used == in.len: more input is needed. H1_DONE: the last
 * chunk and the trailer section were read. H1_BAD: error. `limit` bounds total (0: none); `arena` takes the
 * trailer bytes (at most 8 KiB). Hot. */
MUST_CHECK
enum h1_result h1_chunked_read(struct h1_chunked *chunked, struct arena *arena, uint64_t limit,
    struct slice in, struct slice *data, size_t *used);

/* Parses trailers.lines into `out`, leaving out what may not stand in a trailer (RFC 9110 §6.5.1: framing,
 * routing, authentication, request modifiers, content coding). False: malformed. */
MUST_CHECK
bool h1_parse_trailers(struct slice lines, struct arena *arena, struct headers *out);

/* Size line of a chunk of `bytes` (> 0) into `out`; returns its length. Data and "\r\n" follow. */
size_t h1_chunk_head(uint64_t bytes, char out[20]);

/* The next protocol of an Upgrade field (RFC 9110 §7.8) that may be asked for: no HTTP, and nothing that is
 * no protocol by its grammar. False: there is none. */
bool h1_upgrade_next(struct slice *list, struct slice *protocol);

/* Marks dropped what may not travel on (RFC 9110 §7.6.1): everything Connection nominates, all hop-by-hop
 * fields, Content-Length and Transfer-Encoding (the writer makes new framing). Upgrade survives nothing: the
 * caller adds it. */
void h1_drop_hop_by_hop(struct headers *headers);

/* What a writer is given; slices borrowed until it returns. */
struct h1_out {
    struct slice method, target;   /* requests: origin-form, normalised by the caller */
    int status;                    /* responses; the phrase is ours */
    const struct headers *headers; /* rows without HEADER_F_DROP are written, names as they came */
    /* BODY_LENGTH writes Content-Length, BODY_CHUNKED Transfer-Encoding, BODY_CLOSE none; BODY_NONE none in a
     * request, and "Content-Length: 0" in a response whose status may have a body. */
    enum body_kind body;
    bool no_framing; /* write neither (HEAD, 1xx, 204, 304 answers keep the rows given) */
    uint64_t length;
    struct slice connection; /* "close", "keep-alive", "upgrade" or a list; empty: no Connection field */
    struct slice upgrade;    /* with "upgrade" in connection */
};

/* Writes one head in HTTP/1.1 into `out`; returns its length, or 0 where `cap` is too small (measure with
 * h1_head_bound) or method, target, host or status are invalid. Host first, then rows in order, then framing
 * and Connection. Rows that would make a second framing or split the message are left out: Transfer-Encoding,
 * Connection, Keep-Alive, a request's Host, Content-Length and Upgrade, and any whose name or value is
 * invalid. Hot. */
size_t h1_write_request(const struct h1_out *message, struct slice host, char *out, size_t cap);
size_t h1_write_response(const struct h1_out *message, char *out, size_t cap);
size_t h1_head_bound(const struct h1_out *message, struct slice host);
const char *h1_phrase(int status);

#endif
