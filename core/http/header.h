/* core/http/header.h: the header table of one message: rows of slices, known names by number. No sockets. */
#ifndef FLUXGATE_HTTP_HEADER_H
#define FLUXGATE_HTTP_HEADER_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/compiler.h"
#include "core/base/slice.h"

/* Names that the data plane looks at; HEADER_OTHER is every other. */
#define KNOWN_HEADERS(X)                                                                                     \
    X(HOST, "host")                                                                                          \
    X(CONNECTION, "connection")                                                                              \
    X(CONTENT_LENGTH, "content-length")                                                                      \
    X(TRANSFER_ENCODING, "transfer-encoding")                                                                \
    X(UPGRADE, "upgrade")                                                                                    \
    X(EXPECT, "expect")                                                                                      \
    X(TE, "te")                                                                                              \
    X(TRAILER, "trailer")                                                                                    \
    X(KEEP_ALIVE, "keep-alive")                                                                              \
    X(PROXY_CONNECTION, "proxy-connection")                                                                  \
    X(PROXY_AUTHENTICATE, "proxy-authenticate")                                                              \
    X(PROXY_AUTHORIZATION, "proxy-authorization")                                                            \
    X(HTTP2_SETTINGS, "http2-settings")                                                                      \
    X(COOKIE, "cookie")                                                                                      \
    X(SET_COOKIE, "set-cookie")                                                                              \
    X(DATE, "date")                                                                                          \
    X(SERVER, "server")                                                                                      \
    X(CONTENT_TYPE, "content-type")                                                                          \
    X(LOCATION, "location")                                                                                  \
    X(VIA, "via")                                                                                            \
    X(FORWARDED, "forwarded")                                                                                \
    X(X_FORWARDED_FOR, "x-forwarded-for")                                                                    \
    X(X_FORWARDED_PROTO, "x-forwarded-proto")                                                                \
    X(X_FORWARDED_HOST, "x-forwarded-host")                                                                  \
    X(X_FORWARDED_PORT, "x-forwarded-port")                                                                  \
    X(X_REAL_IP, "x-real-ip")                                                                                \
    X(X_REQUEST_ID, "x-request-id")                                                                          \
    X(TRACEPARENT, "traceparent")                                                                            \
    X(TRACESTATE, "tracestate")                                                                              \
    X(USER_AGENT, "user-agent")                                                                              \
    X(REFERER, "referer")                                                                                    \
    X(ACCEPT, "accept")                                                                                      \
    X(AUTHORIZATION, "authorization")                                                                        \
    X(ENDPOINT_LOAD_METRICS, "endpoint-load-metrics")                                                        \
    X(RETRY_AFTER, "retry-after")                                                                            \
    X(SEC_WEBSOCKET_KEY, "sec-websocket-key")                                                                \
    X(CONTENT_ENCODING, "content-encoding")                                                                  \
    X(ACCEPT_ENCODING, "accept-encoding")                                                                    \
    X(CACHE_CONTROL, "cache-control")                                                                        \
    X(ALLOW, "allow")                                                                                        \
    X(X_FORWARDED_PREFIX, "x-forwarded-prefix")                                                              \
    X(GRPC_STATUS, "grpc-status")

#define X(name, text) HEADER_##name,
enum header_id { HEADER_OTHER, KNOWN_HEADERS(X) HEADER_ID_COUNT };
#undef X

struct header {
    struct slice name;  /* as it came; compare without case */
    struct slice value; /* trimmed of OWS */
    uint16_t id;        /* enum header_id */
    uint16_t flags;     /* HEADER_F_… */
};

enum {
    HEADER_F_DROP = 1, /* the writer leaves this row out: hop-by-hop, replaced or forbidden */
    /* Name and value are valid by their grammar, and need not be looked at again: set by the parser, and for
     * rows of our own making. Who puts other bytes into a row takes it away. */
    HEADER_F_SOUND = 2,
};

/* Rows live in the arena that the owner names; slices are borrowed from wherever they came. */
struct headers {
    struct header *rows;
    uint32_t count, cap;
    uint64_t seen; /* bit id%64 set where a known header may be present: a quick "no" */
};

/* Number of a known name, HEADER_OTHER where it is none. Hot. */
enum header_id header_identify(struct slice name);
struct slice header_name(enum header_id id); /* canonical lower-case text */

/* Appends a row. False where memory is out. */
MUST_CHECK
bool headers_add(
    struct headers *headers, struct arena *arena, enum header_id id, struct slice name, struct slice value);
/* The same for bytes that are known to be valid: HEADER_F_SOUND. Hot. */
MUST_CHECK
static inline bool headers_add_sound(
    struct headers *headers, struct arena *arena, enum header_id id, struct slice name, struct slice value);
MUST_CHECK
bool headers_grow(struct headers *headers, struct arena *arena); /* room for one row more */

/* First row of that name not dropped, NULL where there is none. `headers_next` continues after `row`. Hot. */
struct header *headers_find(const struct headers *headers, enum header_id id);
struct header *headers_find_name(const struct headers *headers, struct slice name);
struct header *headers_next(const struct headers *headers, const struct header *row);

/* Marks every row of that id dropped. */
void headers_drop(struct headers *headers, enum header_id id);

/* One token of a comma list, empty members passed over (RFC 9110 §5.6.1); false at the end. *rest is
 * advanced. */
bool header_list_next(struct slice *rest, struct slice *token);
bool header_list_has(struct slice list, struct slice token); /* without case */

/* The value of cookie `name` in all Cookie rows (RFC 6265 §5.4 syntax, first match); false where absent. */
bool headers_cookie(const struct headers *headers, struct slice name, struct slice *value);
/* The one behind `skip` others of that name, in the order in which they came. */
bool headers_cookie_at(const struct headers *headers, struct slice name, uint32_t skip, struct slice *value);

static inline bool
headers_add_sound(
    struct headers *headers, struct arena *arena, enum header_id id, struct slice name, struct slice value)
{
    if (UNLIKELY(headers->count == headers->cap) && !headers_grow(headers, arena)) return false;
    headers->rows[headers->count++] = (struct header){name, value, (uint16_t)id, HEADER_F_SOUND};
    headers->seen |= (uint64_t)1 << ((unsigned)id % 64);
    return true;
}

bool header_name_is_valid(struct slice name); /* token, RFC 9110 §5.6.2 */
bool header_value_is_valid(
    struct slice value); /* field-value, RFC 9110 §5.5: no CR, LF, NUL or other control byte but HTAB */

#endif
