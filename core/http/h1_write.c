#include "core/http/h1.h"

#include <string.h>

#include "core/http/h1_internal.h"
#include "core/http/scan_internal.h"

enum {
    FRAMING_BYTES = 64,
    LINE_BYTES = 64
}; /* room for a framing field; for the start line around its parts */

/* Writes until `end`; too little room shows as `full`. */
struct pen {
    char *at, *end;
    bool full;
};

static inline void
put(struct pen *pen, struct slice s)
{
    if ((size_t)(pen->end - pen->at) < s.len) {
        pen->full = true;
        return;
    }
    if (s.len > 0) memcpy(pen->at, s.at, s.len);
    pen->at += s.len;
}

static void
put_number(struct pen *pen, uint64_t n)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    put(pen, (struct slice){digits + at, sizeof digits - at});
}

/* Names and most values are short: two overlapping words beat a call. */
static inline char *
copy_short(char *to, struct slice s)
{
    if (s.len >= 8 && s.len <= 16) {
        memcpy(to, s.at, 8);
        memcpy(to + s.len - 8, s.at + s.len - 8, 8);
    } else if (s.len >= 4 && s.len < 8) {
        memcpy(to, s.at, 4);
        memcpy(to + s.len - 4, s.at + s.len - 4, 4);
    } else if (s.len > 0) {
        memcpy(to, s.at, s.len);
    }
    return to + s.len;
}

static void
put_field(struct pen *pen, struct slice name, struct slice value)
{
    size_t need = name.len + value.len + 4;
    if ((size_t)(pen->end - pen->at) < need) {
        pen->full = true;
        return;
    }
    char *at = copy_short(pen->at, name);
    memcpy(at, ": ", 2);
    at = copy_short(at + 2, value);
    memcpy(at, "\r\n", 2);
    pen->at = at + 2;
}

/* Whether a row travels. What the writer makes itself never comes from a row, so that no message has two
 * framings; rows with bytes that would end their line, which scripts may make, are left out. */
static bool
row_is_written(const struct h1_out *message, bool is_request, const struct header *row)
{
    if ((row->flags & HEADER_F_DROP) != 0) return false;
    switch (row->id) {
    case HEADER_HOST:
        if (is_request) return false;
        break;
    case HEADER_CONTENT_LENGTH: {
        uint64_t length;
        if (is_request || !message->no_framing || !framing_content_length(row->value, &length)) return false;
        break;
    }
    case HEADER_TRANSFER_ENCODING:
    case HEADER_CONNECTION:
    case HEADER_KEEP_ALIVE:
    case HEADER_PROXY_CONNECTION:
    case HEADER_HTTP2_SETTINGS: return false;
    case HEADER_UPGRADE:
        if (is_request || message->upgrade.len > 0) return false;
        break;
    default: break;
    }
    return LIKELY((row->flags & HEADER_F_SOUND) != 0) ||
           (header_name_is_valid(row->name) && header_value_is_valid(row->value));
}

static void
put_rows(struct pen *pen, const struct h1_out *message, bool is_request)
{
    const struct headers *headers = message->headers;
    bool length_written = false;
    for (uint32_t i = 0; headers != NULL && i < headers->count; i++) {
        const struct header *row = &headers->rows[i];
        if (!row_is_written(message, is_request, row)) continue;
        if (row->id == HEADER_CONTENT_LENGTH) {
            if (length_written) continue;
            length_written = true;
        }
        put_field(pen, row->name, row->value);
    }
}

static bool
status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

static void
put_framing(struct pen *pen, const struct h1_out *message, bool is_request)
{
    if (message->no_framing || (!is_request && !status_has_body(message->status))) return;
    switch (message->body) {
    case BODY_LENGTH:
        put(pen, SLICE_LIT("Content-Length: "));
        put_number(pen, message->length);
        put(pen, SLICE_LIT("\r\n"));
        break;
    case BODY_CHUNKED: put(pen, SLICE_LIT("Transfer-Encoding: chunked\r\n")); break;
    case BODY_NONE: /* an answer without framing would last until the connection ends (RFC 9112 §6.3 rule 8)
                     */
        if (!is_request) put(pen, SLICE_LIT("Content-Length: 0\r\n"));
        break;
    case BODY_CLOSE: break;
    }
}

static void
put_connection(struct pen *pen, const struct h1_out *message)
{
    if (message->connection.len > 0 && header_value_is_valid(message->connection)) {
        put_field(pen, SLICE_LIT("Connection"), message->connection);
    }
    if (message->upgrade.len > 0 && header_value_is_valid(message->upgrade)) {
        put_field(pen, SLICE_LIT("Upgrade"), message->upgrade);
    }
    put(pen, SLICE_LIT("\r\n"));
}

static bool
target_is_valid(struct slice target)
{
    return target.len > 0 && scan_target(target.at, target.at + target.len) == target.at + target.len;
}

size_t
h1_write_request(const struct h1_out *message, struct slice host, char *out, size_t cap)
{
    if (cap == 0 || !header_name_is_valid(message->method) || !target_is_valid(message->target) ||
        !header_value_is_valid(host)) {
        return 0;
    }
    struct pen pen = {out, out + cap, false};
    put(&pen, message->method);
    put(&pen, SLICE_LIT(" "));
    put(&pen, message->target);
    put(&pen, SLICE_LIT(" HTTP/1.1\r\n"));
    put_field(&pen, SLICE_LIT("Host"), host);
    put_rows(&pen, message, true);
    put_framing(&pen, message, true);
    put_connection(&pen, message);
    return pen.full ? 0 : (size_t)(pen.at - out);
}

size_t
h1_write_response(const struct h1_out *message, char *out, size_t cap)
{
    if (cap == 0 || message->status < 100 || message->status > 599) return 0;
    struct pen pen = {out, out + cap, false};
    put(&pen, SLICE_LIT("HTTP/1.1 "));
    put_number(&pen, (uint64_t)message->status);
    put(&pen, SLICE_LIT(" "));
    put(&pen, slice_of(h1_phrase(message->status)));
    put(&pen, SLICE_LIT("\r\n"));
    put_rows(&pen, message, false);
    put_framing(&pen, message, false);
    put_connection(&pen, message);
    return pen.full ? 0 : (size_t)(pen.at - out);
}

size_t
h1_head_bound(const struct h1_out *message, struct slice host)
{
    size_t bytes = LINE_BYTES + FRAMING_BYTES + message->method.len + message->target.len + host.len;
    bytes += message->connection.len + message->upgrade.len + LINE_BYTES;
    for (uint32_t i = 0; message->headers != NULL && i < message->headers->count; i++) {
        const struct header *row = &message->headers->rows[i];
        if ((row->flags & HEADER_F_DROP) == 0) bytes += row->name.len + row->value.len + 4;
    }
    return bytes;
}

size_t
h1_chunk_head(uint64_t bytes, char out[20])
{
    static const char digits[] = "0123456789abcdef";
    unsigned count = bytes == 0 ? 1 : (unsigned)(67 - __builtin_clzll(bytes)) / 4;
    for (unsigned i = 0; i < count; i++)
        out[i] = digits[bytes >> (4 * (count - 1 - i)) & 15];
    out[count] = '\r';
    out[count + 1] = '\n';
    return count + 2;
}
