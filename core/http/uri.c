#include "core/http/uri.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#include "core/http/scan_internal.h"

static bool
byte_is_refused(char c)
{
    return !byte_is(c, BYTE_TARGET) || c == '\\';
}

/* How far a path is surely in normal form: up to the first escape, refused byte, "//" or "/.". */
static const char *
normal_prefix(const char *at, const char *end)
{
#ifdef __SSE2__
    const __m128i blank = _mm_set1_epi8(' '), hash = _mm_set1_epi8('#'), del = _mm_set1_epi8(0x7f);
    const __m128i percent = _mm_set1_epi8('%'), backslash = _mm_set1_epi8('\\'), mark = _mm_set1_epi8('?');
    const __m128i slash = _mm_set1_epi8('/'), dot = _mm_set1_epi8('.');
    for (; end - at >= 17; at += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i behind = _mm_loadu_si128((const __m128i *)(const void *)(at + 1));
        __m128i odd = _mm_or_si128(_mm_cmpeq_epi8(v, hash), _mm_cmpeq_epi8(v, del));
        odd = _mm_or_si128(odd, _mm_or_si128(_mm_cmpeq_epi8(v, percent), _mm_cmpeq_epi8(v, backslash)));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, mark));
        __m128i pair = _mm_or_si128(_mm_cmpeq_epi8(behind, slash), _mm_cmpeq_epi8(behind, dot));
        odd = _mm_or_si128(odd, _mm_and_si128(_mm_cmpeq_epi8(v, slash), pair));
        int mask = _mm_movemask_epi8(_mm_andnot_si128(odd, _mm_cmpgt_epi8(v, blank))) ^ 0xffff;
        if (mask != 0) return at + __builtin_ctz((unsigned)mask);
    }
#endif
    for (; at < end; at++) {
        if (byte_is_refused(*at) || *at == '%' || *at == '?') return at;
        if (*at == '/' && end - at >= 2 && (at[1] == '/' || at[1] == '.')) return at;
    }
    return end;
}

static bool
is_dots(const char *at, size_t len)
{
    return (len == 1 && at[0] == '.') || (len == 2 && at[0] == '.' && at[1] == '.');
}

/* Whether a segment in normal form would hold a dot segment once its %2F were decoded. */
static bool
hides_dots(const char *at, const char *end)
{
    const char *piece = at;
    bool escaped = false;
    for (; at < end; at++) {
        if (end - at < 3 || at[0] != '%' || at[1] != '2' || at[2] != 'F') continue;
        if (is_dots(piece, (size_t)(at - piece))) return true;
        escaped = true;
        piece = at + 3;
    }
    return escaped && is_dots(piece, (size_t)(end - piece));
}

/* Decodes one segment, from *at up to '/' or the end, to `out`; *at and *out are advanced. */
static enum uri_result
segment_decode(const char **at, const char *end, char **out)
{
    static const char upper[] = "0123456789ABCDEF";
    const char *from = *at;
    char *to = *out;
    while (from < end && *from != '/') {
        if (byte_is_refused(*from) || *from == '?') return URI_BAD_BYTE;
        if (*from != '%') {
            *to++ = *from++;
            continue;
        }
        if (end - from < 3) return URI_BAD_ESCAPE;
        unsigned high = byte_hex[(unsigned char)from[1]], low = byte_hex[(unsigned char)from[2]];
        if (high > 15 || low > 15) return URI_BAD_ESCAPE;
        char c = (char)(high << 4 | low);
        if (c == '\0' || c == '\\') return URI_FORBIDDEN;
        from += 3;
        if (byte_is(c, BYTE_PLAIN)) {
            *to++ = c;
        } else {
            *to++ = '%';
            *to++ = upper[high];
            *to++ = upper[low];
        }
    }
    *at = from;
    *out = to;
    return URI_OK;
}

/* Behind the last segment kept, which "/.." takes away. */
static char *
segment_pop(char *start, char *at)
{
    while (at > start && *--at != '/') {
    }
    return at;
}

/* RFC 3986 §5.2.4 over decoded segments. out[0, *len) never ends in '/' before the last segment but with kept
 * slashes. */
static enum uri_result
path_write(struct slice path, bool keep_slashes, char *out, size_t *len)
{
    const char *at = path.at, *end = path.at + path.len;
    char *to = out;
    while (at < end) { /* at a '/' */
        char *segment = to + 1, *segment_end = segment;
        at++;
        *to = '/';
        enum uri_result result = segment_decode(&at, end, &segment_end);
        if (result != URI_OK) return result;
        size_t bytes = (size_t)(segment_end - segment);
        bool last = at == end;
        if (is_dots(segment, bytes)) {
            if (bytes == 2) to = segment_pop(out, to);
            if (last) *to++ = '/';
        } else if (bytes == 0) {
            if (last || keep_slashes) to++;
        } else {
            if (hides_dots(segment, segment_end)) return URI_FORBIDDEN;
            to = segment_end;
        }
    }
    *len = (size_t)(to - out);
    return URI_OK;
}

enum uri_result
uri_normalise(struct slice path, bool keep_slashes, char *out, size_t cap, struct slice *normal)
{
    size_t len = 0;
    if (path.len == 0 || path.at[0] != '/') {
        if (path.len != 1 || path.at[0] != '*') return URI_BAD_BYTE;
        *normal = path; /* OPTIONS * names no path */
        return URI_OK;
    }
    if (LIKELY(normal_prefix(path.at, path.at + path.len) == path.at + path.len)) {
        *normal = path;
        return URI_OK;
    }
    if (cap < path.len + 1) return URI_TOO_LONG;
    enum uri_result result = path_write(path, keep_slashes, out, &len);
    if (result != URI_OK) return result;
    *normal = len == path.len && memcmp(out, path.at, len) == 0 ? path : (struct slice){out, len};
    return URI_OK;
}

bool
uri_query_is_valid(struct slice query)
{
    return query.len == 0 || scan_target(query.at, query.at + query.len) == query.at + query.len;
}

bool
uri_query_find(struct slice query, struct slice name, struct slice *value)
{
    while (query.len > 0) {
        const char *mark = memchr(query.at, '&', query.len);
        size_t len = mark == NULL ? query.len : (size_t)(mark - query.at);
        size_t done = mark == NULL ? len : len + 1;
        struct slice pair = {query.at, len};
        query = (struct slice){query.at + done, query.len - done};
        const char *equals = len == 0 ? NULL : memchr(pair.at, '=', pair.len);
        size_t name_len = equals == NULL ? pair.len : (size_t)(equals - pair.at);
        if (len == 0 || !slice_equal((struct slice){pair.at, name_len}, name)) continue;
        *value = equals == NULL ? (struct slice){pair.at + pair.len, 0}
                                : (struct slice){equals + 1, pair.len - name_len - 1};
        return true;
    }
    return false;
}

static bool
port_is_valid(struct slice port) /* 1*5DIGIT up to 65535 */
{
    unsigned n = 0;
    if (port.len > 5) return false;
    for (size_t i = 0; i < port.len; i++) {
        if (!byte_is(port.at[i], BYTE_DIGIT)) return false;
        n = n * 10 + (unsigned)(port.at[i] - '0');
    }
    return n <= 65535;
}

static bool
ipv6_is_valid(struct slice address)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr parsed;
    if (address.len == 0 || address.len >= sizeof text || memchr(address.at, '\0', address.len) != NULL)
        return false;
    memcpy(text, address.at, address.len);
    text[address.len] = '\0';
    return inet_pton(AF_INET6, text, &parsed) == 1;
}

/* Narrower than reg-name by '%' and ',': a name that has to be decoded before it is compared, or that may be
 * two Hosts merged into one, is read in two ways. No host of DNS has either. */
bool
uri_authority_split(struct slice authority, struct slice *host, struct slice *port)
{
    if (authority.len == 0) return false;
    const char *at = authority.at, *end = authority.at + authority.len;
    if (*at == '[') {
        const char *close = memchr(at, ']', authority.len);
        if (close == NULL || !ipv6_is_valid((struct slice){at + 1, (size_t)(close - at - 1)})) return false;
        *host = (struct slice){at + 1, (size_t)(close - at - 1)};
        at = close + 1;
    } else {
        const char *colon = scan_class(at, end, BYTE_HOST);
        if (colon == at) return false;
        *host = (struct slice){at, (size_t)(colon - at)};
        at = colon;
    }
    *port = (struct slice){end, 0};
    if (at == end) return true;
    if (*at != ':') return false;
    *port = (struct slice){at + 1, (size_t)(end - at - 1)};
    return port_is_valid(*port);
}
