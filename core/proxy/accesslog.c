#include "core/base/clock.h"
#include "core/proxy/proxy_internal.h"

enum { LINE_MAX = 8192, VALUE_MAX = 1024, ESCAPE_MAX = 6 };

static_assert(LINE_MAX >= (VALUE_MAX + 256) * ESCAPE_MAX / 2 + 1024,
    "a line of long values fits, or is cut whole field by field");

/* A line written in place in the ring: what does not fit is left out whole. */
struct line {
    char *at, *end;
    bool is_json;
};

/* What stands before a value, in both forms. Both are known when this is compiled, and so is their length
 * where it is copied. */
#define STRING(name) SLICE_LIT(",\"" name "\":\""), SLICE_LIT(" " name "=\"")
#define NUMBER(name) SLICE_LIT(",\"" name "\":"), SLICE_LIT(" " name "=")

static inline bool
begin_field(struct line *line, struct slice json, struct slice logfmt, size_t value_max)
{
    if ((size_t)(line->end - line->at) < json.len + value_max) return false; /* the longer of the two */
    if (line->is_json) {
        memcpy(line->at, json.at, json.len);
        line->at += json.len;
    } else {
        memcpy(line->at, logfmt.at, logfmt.len);
        line->at += logfmt.len;
    }
    return true;
}

/* Not zero where one of eight bytes is no plain ASCII, a quote or a backslash. */
static uint64_t
word_needs_escape(uint64_t word)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\';
    uint64_t found = (quote - ones) & ~quote;
    found |= (backslash - ones) & ~backslash;
    found |= (word - ones * 0x20) | (word + ones) | word; /* below blank; DEL; above ASCII */
    return found & ones * 0x80;
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

/* Copies what needs no escape: all of `value` (at least 4 bytes), or nothing. */
static inline bool
put_plain(char *out, struct slice value)
{
    const char *at = value.at, *last;
    uint64_t word, found = 0;
    if (value.len < 8) {
        uint32_t head, tail;
        memcpy(&head, at, 4);
        memcpy(&tail, at + value.len - 4, 4);
        memcpy(out, &head, 4);
        memcpy(out + value.len - 4, &tail, 4);
        return word_needs_escape((uint64_t)head << 32 | tail) == 0;
    }
    for (last = at + value.len - 8; at < last; at += 8, out += 8) {
        memcpy(&word, at, 8);
        memcpy(out, &word, 8);
        found |= word_needs_escape(word);
    }
    memcpy(&word, last, 8); /* overlaps */
    memcpy(out - (at - last), &word, 8);
    return (found | word_needs_escape(word)) == 0;
}

static inline void
put_string(struct line *line, struct slice json, struct slice logfmt, struct slice value)
{
    if (value.len == 0) value = SLICE_LIT("-");
    if (value.len > VALUE_MAX) value.len = VALUE_MAX;
    if (!begin_field(line, json, logfmt, value.len * ESCAPE_MAX + 2)) return;
    if (LIKELY(value.len >= 4) && LIKELY(put_plain(line->at, value)))
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
    if (!begin_field(line, SLICE_LIT("{\"time\":\""), SLICE_LIT("time=\""), 26)) return;
    memcpy(line->at, proxy->log_time, 24);
    line->at[24] = '"';
    line->at += 25;
}

static inline void
put_number(struct line *line, struct slice json, struct slice logfmt, uint64_t number)
{
    char digits[20], *at = digits + sizeof digits;
    if (!begin_field(line, json, logfmt, sizeof digits)) return;
    do {
        *--at = (char)('0' + number % 10);
    } while ((number /= 10) != 0);
    memcpy(line->at, at, (size_t)(digits + sizeof digits - at));
    line->at += digits + sizeof digits - at;
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
