/* core/http/uri.h: request paths in RFC 3986 §6 normal form, so that gateway and backend never disagree. */
#ifndef FLUXGATE_HTTP_URI_H
#define FLUXGATE_HTTP_URI_H
#include <stdbool.h>
#include <stddef.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum uri_result {
    URI_OK,
    URI_BAD_ESCAPE, /* %, %g1 */
    URI_BAD_BYTE,   /* control byte, blank, '#', '\', byte past 0x7e */
    URI_FORBIDDEN,  /* %00, %5C, or a dot segment that appears once decoded (%2F..%2F) */
    URI_TOO_LONG,   /* `cap` too small */
};

/* The path's normal form into out (needs at most path.len + 1 bytes): unreserved characters decoded, hex
 * upper-case, dot segments resolved (§5.2.4), runs of '/' merged unless keep_slashes, %2F opaque. `out` may
 * not overlap `path`. Where it was normal already *normal borrows `path` itself (normal->at == path.at): the
 * hot case copies nothing. "*" is its own normal form, any other path begins with '/'. Hot. */
MUST_CHECK
enum uri_result uri_normalise(
    struct slice path, bool keep_slashes, char *out, size_t cap, struct slice *normal);

/* Checks a query: escapes need not be valid pairs, but control bytes, blank, '#' and bytes past 0x7e are
 * refused. */
bool uri_query_is_valid(struct slice query);

/* The first value of `name` in a query (application/x-www-form-urlencoded keys compared undecoded); false if
 * absent. */
bool uri_query_find(struct slice query, struct slice name, struct slice *value);

/* host[:port] of RFC 3986 §3.2.2-3 with no userinfo: reg-name without '%' and ',', IPv4 or [IPv6]. *host is
 * without port and brackets; *port (up to 65535) is empty where there is none. */
bool uri_authority_split(struct slice authority, struct slice *host, struct slice *port);

#endif
