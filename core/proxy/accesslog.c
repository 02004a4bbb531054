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

static inline bool
put_short(char *out, struct slice value) /* of 1 to 7 bytes */
{
    const uint64_t blanks = 0x2020202020202020u;
    uint32_t head, tail;
    if (value.len >= 4) {
        memcpy(&head, value.at, 4);
        memcpy(&tail, value.at + value.len - 4, 4);
        memcpy(out, &head, 4);
        memcpy(out + value.len - 4, &tail, 4);
    } else {
        out[0] = value.at[0];
        out[value.len / 2] = value.at[value.len / 2];
        out[value.len - 1] = value.at[value.len - 1];
        head = (uint32_t)(blanks & 0xffffff00u) | (uint8_t)value.at[0];
        tail =
            (uint32_t)(uint8_t)value.at[value.len / 2] << 8 | (uint8_t)value.at[value.len - 1] | 0x20200000u;
    }
    return needs_escape(_mm_set_epi64x((int64_t)blanks, (int64_t)((uint64_t)tail << 32 | head))) == 0;
}

/* Copies `value` (not empty) where none of it needs an escape; else what it wrote is to be written over. The
 * last step overlaps the one before. What was stored in parts is never loaded as a whole: the processor would
 * wait. */
static inline bool
put_plain(char *out, struct slice value)
{
    const char *at = value.at, *last = at + value.len - 16;
    unsigned found = 0;
    if (value.len < 8) return put_short(out, value);
    if (value.len < 16) {
        uint64_t head, tail;
        memcpy(&head, at, 8);
        memcpy(&tail, at + value.len - 8, 8);
        memcpy(out, &head, 8);
        memcpy(out + value.len - 8, &tail, 8);
        return needs_escape(_mm_set_epi64x((int64_t)tail, (int64_t)head)) == 0;
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
    size_t digits = 1;
    if (!begin_field(line, label, 20)) return;
    for (uint64_t bound = 10; digits < 20 && number >= bound; bound *= 10) /* 10^20 is never asked for */
        digits++;
    char *at = line->at += digits;
    do {
        *--at = (char)('0' + number % 10);
    } while ((number /= 10) != 0);
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
