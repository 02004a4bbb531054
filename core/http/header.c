#include "core/http/header.h"

#include <string.h>

#include "core/http/scan_internal.h"

enum { ROWS_FIRST = 24 }; /* what a browser sends fits; one arena chunk of 4 KiB takes it four times */

#define X(name, text) [HEADER_##name] = {"" text, sizeof(text) - 1},
static const struct slice known_names[HEADER_ID_COUNT] = {KNOWN_HEADERS(X)};
#undef X

/* A perfect hash over length, the first two and the last two letters (name_hash): a new known name needs a
 * multiplier that spreads them again, and the unit test says so. */
#define NAME_MULTIPLIER 0xdfbe9b13u
static const uint8_t name_slots[128] = {
    [1] = HEADER_TE,
    [2] = HEADER_KEEP_ALIVE,
    [3] = HEADER_SEC_WEBSOCKET_KEY,
    [6] = HEADER_X_FORWARDED_PROTO,
    [13] = HEADER_LOCATION,
    [15] = HEADER_AUTHORIZATION,
    [17] = HEADER_SET_COOKIE,
    [18] = HEADER_HOST,
    [21] = HEADER_ENDPOINT_LOAD_METRICS,
    [25] = HEADER_EXPECT,
    [32] = HEADER_ACCEPT_ENCODING,
    [34] = HEADER_COOKIE,
    [39] = HEADER_REFERER,
    [44] = HEADER_SERVER,
    [45] = HEADER_TRACESTATE,
    [47] = HEADER_X_FORWARDED_PORT,
    [51] = HEADER_X_REQUEST_ID,
    [54] = HEADER_ALLOW,
    [57] = HEADER_USER_AGENT,
    [60] = HEADER_GRPC_STATUS,
    [63] = HEADER_PROXY_CONNECTION,
    [64] = HEADER_CONTENT_TYPE,
    [66] = HEADER_PROXY_AUTHENTICATE,
    [70] = HEADER_UPGRADE,
    [73] = HEADER_X_FORWARDED_FOR,
    [78] = HEADER_VIA,
    [81] = HEADER_RETRY_AFTER,
    [85] = HEADER_TRACEPARENT,
    [89] = HEADER_TRANSFER_ENCODING,
    [91] = HEADER_DATE,
    [94] = HEADER_TRAILER,
    [98] = HEADER_CONTENT_ENCODING,
    [101] = HEADER_X_REAL_IP,
    [104] = HEADER_CONTENT_LENGTH,
    [105] = HEADER_CACHE_CONTROL,
    [108] = HEADER_HTTP2_SETTINGS,
    [113] = HEADER_X_FORWARDED_PREFIX,
    [114] = HEADER_FORWARDED,
    [115] = HEADER_CONNECTION,
    [120] = HEADER_ACCEPT,
    [125] = HEADER_X_FORWARDED_HOST,
    [126] = HEADER_PROXY_AUTHORIZATION,
};

static unsigned
name_hash(struct slice name) /* of two bytes or more */
{
    const unsigned char *s = (const unsigned char *)name.at;
    uint32_t key = (uint32_t)s[0] | (uint32_t)s[1] << 8 | (uint32_t)s[name.len - 2] << 16 |
                   (uint32_t)s[name.len - 1] << 24;
    key |= 0x20202020u;
    return ((key + (uint32_t)name.len * 0x9e3779b1u) * NAME_MULTIPLIER) >> 25;
}

/* Zero where eight bytes are those of `lower`, letters in either case: only bytes that are letters there
 * (0x40 set;
 * '-' and digits have it not) may differ, and in 0x20 alone. */
static uint64_t
differ_word(const char *lower, const char *name)
{
    uint64_t a, b;
    memcpy(&a, lower, sizeof a);
    memcpy(&b, name, sizeof b);
    return (a ^ b) & ~((a & 0x4040404040404040u) >> 1);
}

static bool
equals_lower(const char *lower, const char *name, size_t len)
{
    if (len < 8) {
        for (size_t i = 0; i < len; i++) {
            if (ascii_lower((unsigned char)name[i]) != (unsigned char)lower[i]) return false;
        }
        return true;
    }
    uint64_t differ = differ_word(lower + len - 8, name + len - 8);
    for (size_t i = 0; i + 8 < len; i += 8)
        differ |= differ_word(lower + i, name + i);
    return differ == 0;
}

enum header_id
header_identify(struct slice name)
{
    if (name.len < 2) return HEADER_OTHER;
    unsigned id = name_slots[name_hash(name)];
    const struct slice *known = &known_names[id];
    if (known->len != name.len || !equals_lower(known->at, name.at, name.len)) return HEADER_OTHER;
    return (enum header_id)id;
}

struct slice
header_name(enum header_id id)
{
    return (unsigned)id < HEADER_ID_COUNT ? known_names[id] : SLICE_NONE;
}

bool
headers_grow(struct headers *headers, struct arena *arena)
{
    uint32_t cap = headers->cap == 0 ? ROWS_FIRST : headers->cap * 2;
    if (cap < headers->cap) return false;
    struct header *rows = arena_alloc(arena, cap * sizeof *rows);
    if (rows == NULL) return false;
    if (headers->count > 0) memcpy(rows, headers->rows, headers->count * sizeof *rows);
    headers->rows = rows;
    headers->cap = cap;
    return true;
}

bool
headers_add(
    struct headers *headers, struct arena *arena, enum header_id id, struct slice name, struct slice value)
{
    if (UNLIKELY(headers->count == headers->cap) && !headers_grow(headers, arena)) return false;
    headers->rows[headers->count++] = (struct header){name, value, (uint16_t)id, 0};
    headers->seen |= (uint64_t)1 << ((unsigned)id % 64);
    return true;
}

static struct header *
find_from(const struct headers *headers, uint32_t first, enum header_id id)
{
    for (uint32_t i = first; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        if (row->id == id && (row->flags & HEADER_F_DROP) == 0) return row;
    }
    return NULL;
}

static struct header *
find_name_from(const struct headers *headers, uint32_t first, struct slice name)
{
    for (uint32_t i = first; i < headers->count; i++) {
        struct header *row = &headers->rows[i];
        if ((row->flags & HEADER_F_DROP) == 0 && slice_equal_nocase(row->name, name)) return row;
    }
    return NULL;
}

struct header *
headers_find(const struct headers *headers, enum header_id id)
{
    if ((headers->seen >> ((unsigned)id % 64) & 1) == 0) return NULL;
    return find_from(headers, 0, id);
}

struct header *
headers_find_name(const struct headers *headers, struct slice name)
{
    enum header_id id = header_identify(name);
    return id != HEADER_OTHER ? headers_find(headers, id) : find_name_from(headers, 0, name);
}

struct header *
headers_next(const struct headers *headers, const struct header *row)
{
    uint32_t next = (uint32_t)(row - headers->rows) + 1;
    if (row->id != HEADER_OTHER) return find_from(headers, next, (enum header_id)row->id);
    return find_name_from(headers, next, row->name);
}

void
headers_drop(struct headers *headers, enum header_id id)
{
    if ((headers->seen >> ((unsigned)id % 64) & 1) == 0) return;
    for (uint32_t i = 0; i < headers->count; i++) {
        if (headers->rows[i].id == id) headers->rows[i].flags |= HEADER_F_DROP;
    }
}

bool
header_list_next(struct slice *rest, struct slice *token)
{
    while (rest->len > 0) {
        const char *comma = memchr(rest->at, ',', rest->len);
        size_t len = comma == NULL ? rest->len : (size_t)(comma - rest->at);
        struct slice member = slice_trim((struct slice){rest->at, len});
        size_t done = comma == NULL ? len : len + 1;
        *rest = (struct slice){rest->at + done, rest->len - done};
        if (member.len == 0) continue;
        *token = member;
        return true;
    }
    return false;
}

bool
header_list_has(struct slice list, struct slice token)
{
    struct slice member;
    while (header_list_next(&list, &member)) {
        if (slice_equal_nocase(member, token)) return true;
    }
    return false;
}

static bool
cookie_in(struct slice line, struct slice name, uint32_t *skip, struct slice *value)
{
    while (line.len > 0) {
        const char *semicolon = memchr(line.at, ';', line.len);
        size_t len = semicolon == NULL ? line.len : (size_t)(semicolon - line.at);
        struct slice pair = {line.at, len};
        size_t done = semicolon == NULL ? len : len + 1;
        line = (struct slice){line.at + done, line.len - done};
        const char *equals = len == 0 ? NULL : memchr(pair.at, '=', pair.len);
        if (equals == NULL) continue;
        size_t name_len = (size_t)(equals - pair.at);
        if (!slice_equal(slice_trim((struct slice){pair.at, name_len}), name)) continue;
        if (*skip > 0) {
            --*skip;
            continue;
        }
        *value = slice_trim((struct slice){equals + 1, pair.len - name_len - 1});
        return true;
    }
    return false;
}

bool
headers_cookie(const struct headers *headers, struct slice name, struct slice *value)
{
    return headers_cookie_at(headers, name, 0, value);
}

bool
headers_cookie_at(const struct headers *headers, struct slice name, uint32_t skip, struct slice *value)
{
    if (name.len == 0) return false; /* "=x" names nothing */
    for (const struct header *row = headers_find(headers, HEADER_COOKIE); row != NULL;
         row = headers_next(headers, row)) {
        if (cookie_in(row->value, name, &skip, value)) return true;
    }
    return false;
}

bool
header_name_is_valid(struct slice name)
{
    return name.len > 0 && scan_token(name.at, name.at + name.len) == name.at + name.len;
}

bool
header_value_is_valid(struct slice value)
{
    if (value.len == 0) return true;
    const char *end = value.at + value.len;
    if (value.len < 16) return scan_class(value.at, end, BYTE_TEXT) == end;
    const char *stop = scan_text(value.at, end - value.len % 16);
    return stop == end - value.len % 16 && scan_text(end - 16, end) == end; /* the last step overlaps */
}
