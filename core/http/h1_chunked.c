#include "core/http/h1.h"

#include <string.h>

#include "core/http/h1_internal.h"
#include "core/http/scan_internal.h"

enum {
    SIZE_DIGITS_MAX = 16,
    SIZE_LINE_MAX = 255,       /* size, extensions and CR of one chunk */
    EXTENSIONS_MAX = 16 << 10, /* extension bytes that the data after them has not paid for */
    TRAILERS_MAX = 8 << 10,
    STORE_FIRST = 512,
};

/* RFC 9112 §7.1.1: chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ). Extensions
 * are checked to the letter and thrown away. */
enum chunk_phase {
    CHUNK_SIZE_FIRST,
    CHUNK_SIZE,
    CHUNK_EXT_GAP,      /* blanks: only ';' may follow */
    CHUNK_EXT_NAME_GAP, /* behind ';' */
    CHUNK_EXT_NAME,
    CHUNK_EXT_EQUALS_GAP, /* blanks behind a name */
    CHUNK_EXT_VALUE_GAP,  /* behind '=' */
    CHUNK_EXT_VALUE,
    CHUNK_EXT_QUOTED,
    CHUNK_EXT_ESCAPE,
    CHUNK_EXT_QUOTED_END,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER_START,
    CHUNK_TRAILER_LINE,
    CHUNK_TRAILER_LF,
    CHUNK_LAST_LF,
    CHUNK_DONE,
    CHUNK_BAD,
};

enum { PHASE_REFUSED = CHUNK_BAD };

static unsigned
after_extension(char c, unsigned otherwise)
{
    switch (c) {
    case '\r': return CHUNK_SIZE_LF;
    case ';': return CHUNK_EXT_NAME_GAP;
    case ' ':
    case '\t': return otherwise;
    default: return PHASE_REFUSED;
    }
}

/* The phase after byte `c` of an extension. */
static unsigned
extension_step(unsigned phase, char c)
{
    bool blank = c == ' ' || c == '\t', token = byte_is(c, BYTE_TOKEN);
    switch (phase) {
    case CHUNK_EXT_GAP: return c == ';' ? CHUNK_EXT_NAME_GAP : blank ? CHUNK_EXT_GAP : PHASE_REFUSED;
    case CHUNK_EXT_NAME_GAP: return token ? CHUNK_EXT_NAME : blank ? CHUNK_EXT_NAME_GAP : PHASE_REFUSED;
    case CHUNK_EXT_NAME:
        if (token) return CHUNK_EXT_NAME;
        return c == '=' ? CHUNK_EXT_VALUE_GAP : after_extension(c, CHUNK_EXT_EQUALS_GAP);
    case CHUNK_EXT_EQUALS_GAP:
        if (c == '=') return CHUNK_EXT_VALUE_GAP;
        return c == ';' ? CHUNK_EXT_NAME_GAP : blank ? CHUNK_EXT_EQUALS_GAP : PHASE_REFUSED;
    case CHUNK_EXT_VALUE_GAP:
        if (token) return CHUNK_EXT_VALUE;
        return c == '"' ? CHUNK_EXT_QUOTED : blank ? CHUNK_EXT_VALUE_GAP : PHASE_REFUSED;
    case CHUNK_EXT_VALUE: return token ? CHUNK_EXT_VALUE : after_extension(c, CHUNK_EXT_GAP);
    case CHUNK_EXT_QUOTED:
        if (c == '"') return CHUNK_EXT_QUOTED_END;
        if (c == '\\') return CHUNK_EXT_ESCAPE;
        return byte_is(c, BYTE_TEXT) ? CHUNK_EXT_QUOTED : PHASE_REFUSED;
    case CHUNK_EXT_ESCAPE: return byte_is(c, BYTE_TEXT) ? CHUNK_EXT_QUOTED : PHASE_REFUSED;
    case CHUNK_EXT_QUOTED_END: return after_extension(c, CHUNK_EXT_GAP);
    default: return PHASE_REFUSED;
    }
}

/* Too long a line, and too many extensions for the data they come with: a sender of one-byte chunks with 200
 * bytes of extensions makes work without a body that limits.body_bytes would stop. */
static enum h1_error
extension_count(struct h1_chunked *chunked)
{
    if (chunked->line_len >= SIZE_LINE_MAX || chunked->extra >= EXTENSIONS_MAX) return H1_BAD_CHUNK;
    chunked->line_len++;
    chunked->extra++;
    return H1_OK;
}

static enum h1_error
size_finish(struct h1_chunked *chunked, uint64_t limit)
{
    uint64_t total;
    chunked->line_len = 0;
    if (chunked->left == 0) {
        chunked->phase = CHUNK_TRAILER_START;
        chunked->extra = 0;
        return H1_OK;
    }
    if (__builtin_add_overflow(chunked->total, chunked->left, &total) || total > H1_LENGTH_MAX)
        return H1_BAD_CHUNK;
    if (limit != 0 && total > limit) return H1_BODY_TOO_LARGE;
    chunked->extra = chunked->left >= chunked->extra ? 0 : (uint16_t)(chunked->extra - chunked->left);
    chunked->phase = CHUNK_DATA;
    return H1_OK;
}

static enum h1_error
size_step(struct h1_chunked *chunked, uint64_t limit, char c)
{
    uint8_t digit = byte_hex[(unsigned char)c];
    switch (chunked->phase) {
    case CHUNK_SIZE_FIRST:
    case CHUNK_SIZE:
        if (digit < 16) { /* no sign, no 0x, no blank before */
            if (chunked->line_len >= SIZE_DIGITS_MAX) return H1_BAD_CHUNK;
            chunked->line_len++;
            chunked->left = chunked->left << 4 | digit;
            chunked->phase = CHUNK_SIZE;
            return H1_OK;
        }
        if (chunked->phase == CHUNK_SIZE_FIRST) return H1_BAD_CHUNK;
        chunked->phase = (uint8_t)after_extension(c, CHUNK_EXT_GAP);
        break;
    case CHUNK_SIZE_LF: return c == '\n' ? size_finish(chunked, limit) : H1_BARE_CR;
    default: chunked->phase = (uint8_t)extension_step(chunked->phase, c); break;
    }
    if (chunked->phase == CHUNK_BAD) return c == '\n' ? H1_BARE_LF : H1_BAD_CHUNK;
    return chunked->phase == CHUNK_SIZE_LF ? H1_OK : extension_count(chunked);
}

static enum h1_error
trailer_store(struct h1_chunked *chunked, struct arena *arena, char c)
{
    if (chunked->extra >= TRAILERS_MAX) return H1_HEADERS_TOO_LARGE;
    if (chunked->extra == chunked->store_cap) {
        uint32_t cap = chunked->store_cap == 0 ? STORE_FIRST : chunked->store_cap * 2;
        char *store = arena_alloc(arena, cap);
        if (store == NULL) return H1_NO_MEMORY;
        if (chunked->extra > 0) memcpy(store, chunked->store, chunked->extra);
        chunked->store = store;
        chunked->store_cap = cap;
    }
    chunked->store[chunked->extra++] = c;
    return H1_OK;
}

static enum h1_error
trailers_check(struct slice lines)
{
    if (lines.len == 0) return H1_OK;
    const char *at = lines.at, *end = lines.at + lines.len, *next = at;
    struct slice name, value;
    for (; at < end; at = next) {
        enum h1_error error = H1_OK;
        if (h1_field_read(at, end, &next, &name, &value, &error) != FIELD_ROW) return H1_BAD_TRAILER;
    }
    return H1_OK;
}

static enum h1_error
trailer_step(struct h1_chunked *chunked, struct arena *arena, char c)
{
    enum h1_error error;
    switch (chunked->phase) {
    case CHUNK_TRAILER_START:
        if (c == '\r') {
            chunked->phase = CHUNK_LAST_LF;
            return H1_OK;
        }
        break;
    case CHUNK_LAST_LF:
        if (c != '\n') return H1_BARE_CR;
        chunked->trailers = (struct slice){chunked->store, chunked->extra};
        error = trailers_check(chunked->trailers);
        if (error == H1_OK) chunked->phase = CHUNK_DONE;
        return error;
    case CHUNK_TRAILER_LF:
        if (c != '\n') return H1_BARE_CR;
        chunked->phase = CHUNK_TRAILER_START;
        return trailer_store(chunked, arena, c);
    default: break;
    }
    if (c == '\n') return H1_BARE_LF;
    chunked->phase = c == '\r' ? CHUNK_TRAILER_LF : CHUNK_TRAILER_LINE;
    return trailer_store(chunked, arena, c);
}

static enum h1_error
chunk_step(struct h1_chunked *chunked, struct arena *arena, uint64_t limit, char c)
{
    if (chunked->phase < CHUNK_DATA) return size_step(chunked, limit, c);
    if (chunked->phase >= CHUNK_TRAILER_START) return trailer_step(chunked, arena, c);
    if (chunked->phase == CHUNK_DATA_CR) {
        chunked->phase = CHUNK_DATA_LF;
        return c == '\r' ? H1_OK : c == '\n' ? H1_BARE_LF : H1_BAD_CHUNK;
    }
    chunked->phase = CHUNK_SIZE_FIRST;
    return c == '\n' ? H1_OK : H1_BARE_CR;
}

/* The part of the present chunk's data that stands at `in`. */
static struct slice
data_take(struct h1_chunked *chunked, struct slice in)
{
    struct slice data = {in.at, chunked->left < in.len ? (size_t)chunked->left : in.len};
    chunked->left -= data.len;
    chunked->total += data.len;
    if (chunked->left == 0) chunked->phase = CHUNK_DATA_CR;
    return data;
}

enum h1_result
h1_chunked_read(struct h1_chunked *chunked, struct arena *arena, uint64_t limit, struct slice in,
    struct slice *data, size_t *used)
{
    size_t at = 0;
    *data = SLICE_NONE;
    *used = 0;
    if (chunked->phase == CHUNK_BAD) return H1_BAD;
    while (at < in.len && chunked->phase != CHUNK_DONE) {
        if (chunked->phase == CHUNK_DATA) {
            *data = data_take(chunked, (struct slice){in.at + at, in.len - at});
            *used = at + data->len;
            return H1_AGAIN;
        }
        enum h1_error error = chunk_step(chunked, arena, limit, in.at[at++]);
        if (UNLIKELY(error != H1_OK)) {
            chunked->phase = CHUNK_BAD;
            chunked->error = error;
            return H1_BAD;
        }
    }
    *used = at;
    return chunked->phase == CHUNK_DONE ? H1_DONE : H1_AGAIN;
}

/* RFC 9110 §6.5.1 by its kinds. Known names first; the rest of them have no number. */
static bool
known_may_trail(enum header_id id)
{
    switch (id) {
    case HEADER_SERVER:
    case HEADER_VIA:
    case HEADER_USER_AGENT:
    case HEADER_REFERER:
    case HEADER_ENDPOINT_LOAD_METRICS:
    case HEADER_GRPC_STATUS: return true;
    default: return false;
    }
}

static bool
trailer_is_allowed(struct slice name)
{
    static const char *const forbidden[] = {"age", "authentication-info", "content-disposition",
        "content-language", "content-location", "content-range", "early-data", "expires", "from", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "max-forwards", "origin",
        "pragma", "priority", "proxy-authentication-info", "range", "vary", "warning", "www-authenticate"};
    enum header_id id = header_identify(name);
    if (id != HEADER_OTHER) return known_may_trail(id);
    if (memchr(name.at, '_', name.len) != NULL) return false; /* may pass for a forbidden name behind us */
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        if (slice_equal_nocase(name, slice_of(forbidden[i]))) return false;
    }
    return true;
}

bool
h1_parse_trailers(struct slice lines, struct arena *arena, struct headers *out)
{
    if (lines.len == 0) return true;
    const char *at = lines.at, *end = lines.at + lines.len, *next = at;
    struct slice name, value;
    for (; at < end; at = next) {
        enum h1_error error = H1_OK;
        if (h1_field_read(at, end, &next, &name, &value, &error) != FIELD_ROW) return false;
        if (!trailer_is_allowed(name)) continue;
        if (!headers_add(out, arena, header_identify(name), name, value)) return false;
    }
    return true;
}
