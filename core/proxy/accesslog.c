#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "core/base/clock.h"
#include "core/proxy/proxy_internal.h"

enum { LINE_MAX = 8192, VALUE_MAX = 1024, ESCAPE_MAX = 6, STEP = 16 };

static_assert(LINE_MAX >= (VALUE_MAX + 256) * ESCAPE_MAX / 2 + 1024,
    "a line of long values fits, or is cut whole field by field");

/* A line written in place in the ring: what does not fit is left out whole. */
struct line {
    char *at, *end;
    bool is_json;
};

/* What stands before a value, in both forms, each copied as STEP bytes. */
struct label {
    char text[2][STEP]; /* logfmt, JSON */
    uint8_t len[2];
};
#define LABEL(logfmt, json) (&(const struct label){{logfmt, json}, {sizeof(logfmt) - 1, sizeof(json) - 1}})
#define STRING(name)        LABEL(" " name "=\"", ",\"" name "\":\"")
#define NUMBER(name)        LABEL(" " name "=", ",\"" name "\":")

static inline bool
begin_field(struct line *line, const struct label *label, size_t value_max)
{
    if ((size_t)(line->end - line->at) < STEP + value_max) return false;
    memcpy(line->at, label->text[line->is_json], STEP);
    line->at += label->len[line->is_json];
    return true;
}

/* Bytes of peers: everything but plain ASCII is escaped, so that no line can hold another. */
static char *
put_escaped(char *out, struct slice value, bool is_json)
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < value.len; i++) {
        unsigned char c = (unsigned char)value.at[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            *out++ = (char)c;
            continue;
        }
        const char *mark = is_json ? "\\u00" : "\\x";
        while (*mark != '\0')
            *out++ = *mark++;
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    return out;
}

#ifdef __SSE2__
/* A bit for each of 16 bytes that is no plain ASCII, a quote or a backslash. */
static inline unsigned
needs_escape(__m128i v)
{
    __m128i odd = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
    odd = _mm_or_si128(odd, _mm_cmplt_epi8(v, _mm_set1_epi8(' '))); /* signed: what is above ASCII, too */
    return (unsigned)_mm_movemask_epi8(odd);
}

static inline __m128i
load(const char *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

static inline void
store(char *to, __m128i v)
{
    _mm_storeu_si128((__m128i *)(void *)to, v);
}

/* Copies `value` (not empty) where none of it needs an escape; else what it wrote is to be written over.
 * Short ones are put together in a register; the last step of longer ones overlaps the one before. */
static inline bool
put_plain(char *out, struct slice value)
{
    const char *at = value.at, *last = at + value.len - 16;
    unsigned found = 0;
    if (value.len < 16) {
        char whole[16] = "                ";
        if (value.len >= 8) {
            memcpy(whole, at, 8);
            memcpy(whole + value.len - 8, at + value.len - 8, 8);
        } else if (value.len >= 4) {
            memcpy(whole, at, 4);
            memcpy(whole + value.len - 4, at + value.len - 4, 4);
        } else {
            whole[0] = at[0];
            whole[value.len / 2] = at[value.len / 2];
            whole[value.len - 1] = at[value.len - 1];
        }
        store(out, load(whole));
        return needs_escape(load(whole)) == 0;
    }
    for (; at < last; at += 16, out += 16) {
        found |= needs_escape(load(at));
        store(out, load(at));
    }
    store(out - (at - last), load(last));
    return (found | needs_escape(load(last))) == 0;
}
#else
static inline bool
put_plain(char *out, struct slice value)
{
    (void)out, (void)value;
    return false;
}
#endif

static void
put_string(struct line *line, const struct label *label, struct slice value)
{
    if (value.len == 0) value = SLICE_LIT("-");
    if (value.len > VALUE_MAX) value.len = VALUE_MAX;
    if (!begin_field(line, label, value.len * ESCAPE_MAX + STEP)) return;
    if (LIKELY(put_plain(line->at, value)))
        line->at += value.len;
    else
        line->at = put_escaped(line->at, value, line->is_json);
    *line->at++ = '"';
}

/* The calendar is asked once a second. */
static void
put_time(struct line *line, struct proxy *proxy)
{
    uint64_t wall_us = proxy->now_us + proxy->wall_offset_us, second = wall_us / 1000000;
    if (UNLIKELY(second != proxy->log_second)) {
        clock_rfc3339(wall_us, proxy->log_time);
        proxy->log_second = second;
    }
    unsigned ms = (unsigned)(wall_us / 1000 % 1000);
    proxy->log_time[20] = (char)('0' + ms / 100);
    proxy->log_time[21] = (char)('0' + ms / 10 % 10);
    proxy->log_time[22] = (char)('0' + ms % 10);
    if (!begin_field(line, LABEL("time=\"", "{\"time\":\""), 26)) return;
    memcpy(line->at, proxy->log_time, 24);
    line->at[24] = '"';
    line->at += 25;
}

static void
put_number(struct line *line, const struct label *label, uint64_t number)
{
    enum { DIGITS = 20 };
    char digits[2 * DIGITS], *at = digits + DIGITS; /* the second half is copied, not looked at */
    if (!begin_field(line, label, DIGITS)) return;
    memset(at, ' ', DIGITS);
    do {
        *--at = (char)('0' + number % 10);
    } while ((number /= 10) != 0);
    memcpy(line->at, at, DIGITS);
    line->at += digits + DIGITS - at;
}

void
accesslog_write(struct stream *stream, uint64_t duration_us)
{
    struct proxy *proxy = stream->proxy;
    const struct config_log *log = &proxy->generation->config->log;
    if (log->access == NULL) return;
    char *start = ring_reserve(proxy->ring, LINE_MAX);
    if (start == NULL) {
        atomic_fetch_add_explicit(&proxy->totals->access_log_dropped, 1, memory_order_relaxed);
        return;
    }
    if (UNLIKELY(log->access_pattern != NULL)) {
        char *end = logline_write(stream, log->access_pattern, duration_us, start, start + LINE_MAX - 1);
        *end = '\n';
        ring_commit(proxy->ring, RING_ACCESS, (size_t)(end + 1 - start));
        return;
    }
    struct line line = {
        start, start + LINE_MAX - 2, log->access_format != NULL && strcmp(log->access_format, "json") == 0};
    const struct endpoint *endpoint = stream->last_slot == SLOT_NONE
                                          ? NULL
                                          : endpoint_find(proxy, stream->last_slot, stream->last_incarnation);
    put_time(&line, proxy);
    put_string(&line, STRING("client"),
        stream->request.client_ip.len > 0 ? stream->request.client_ip : slice_of(stream->conn->ip));
    put_string(&line, STRING("method"), stream->parser.head.method_text);
    put_string(&line, STRING("host"), stream->host);
    put_string(&line, STRING("path"), stream->path.len > 0 ? stream->path : stream->parser.head.target);
    put_number(&line, NUMBER("status"), (uint64_t)stream->status);
    put_string(&line, STRING("reason"), slice_of(reason_word(stream->reason)));
    put_number(&line, NUMBER("bytes_in"), stream->bytes_in);
    put_number(&line, NUMBER("bytes_out"), stream->bytes_out);
    put_number(&line, NUMBER("duration_us"), duration_us);
    put_string(&line, STRING("route"),
        slice_of(stream->route_id == UINT32_MAX ? "" : shm_name_text(proxy->shm, stream->route_id)));
    put_string(&line, STRING("service"),
        slice_of(stream->service_id == UINT32_MAX ? "" : shm_name_text(proxy->shm, stream->service_id)));
    put_string(&line, STRING("endpoint"),
        endpoint == NULL ? SLICE_NONE : (struct slice){endpoint->id, endpoint->id_len});
    put_number(&line, NUMBER("attempts"), stream->attempts);
    put_string(&line, STRING("request_id"), stream->request_id);
    if (line.is_json) *line.at++ = '}';
    *line.at++ = '\n';
    ring_commit(proxy->ring, RING_ACCESS, (size_t)(line.at - start));
}
