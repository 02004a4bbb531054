#include <stdio.h>

#include "core/base/clock.h"
#include "core/proxy/proxy_internal.h"

enum { LINE_MAX = 8192, VALUE_MAX = 1024, ESCAPE_MAX = 6 };

static_assert(LINE_MAX >= (VALUE_MAX + 256) * ESCAPE_MAX / 2 + 1024,
    "a line of long values fits, or is cut whole field by field");

/* A line written in place in the ring: what does not fit is left out whole. */
struct line {
    char *at, *end;
    bool is_json, is_first;
};

static char *
put_text(char *out, const char *text)
{
    size_t len = strlen(text);
    memcpy(out, text, len);
    return out + len;
}

static bool
begin_field(struct line *line, const char *name, size_t value_max)
{
    size_t name_len = strlen(name);
    if ((size_t)(line->end - line->at) < name_len + value_max + 8) return false;
    if (!line->is_first) *line->at++ = line->is_json ? ',' : ' ';
    line->is_first = false;
    if (line->is_json) *line->at++ = '"';
    line->at = put_text(line->at, name);
    if (line->is_json) *line->at++ = '"';
    *line->at++ = line->is_json ? ':' : '=';
    return true;
}

/* Bytes of peers: everything but plain ASCII is escaped, so that no line can hold another. */
static char *
put_escaped(char *out, struct slice value, bool is_json)
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < value.len && i < VALUE_MAX; i++) {
        unsigned char c = (unsigned char)value.at[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            *out++ = (char)c;
            continue;
        }
        out = put_text(out, is_json ? "\\u00" : "\\x");
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    return out;
}

static void
put_string(struct line *line, const char *name, struct slice value)
{
    size_t len = value.len < VALUE_MAX ? value.len : VALUE_MAX;
    if (value.len == 0) value = SLICE_LIT("-");
    if (!begin_field(line, name, len * ESCAPE_MAX + 3)) return;
    *line->at++ = '"';
    line->at = put_escaped(line->at, value, line->is_json);
    *line->at++ = '"';
}

static void
put_number(struct line *line, const char *name, uint64_t number)
{
    char digits[20], *at = digits + sizeof digits;
    if (!begin_field(line, name, sizeof digits)) return;
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
    char when[25];
    if (log->access == NULL) return;
    char *start = ring_reserve(proxy->ring, LINE_MAX);
    if (start == NULL) {
        atomic_fetch_add_explicit(&proxy->totals->access_log_dropped, 1, memory_order_relaxed);
        return;
    }
    struct line line = {start, start + LINE_MAX - 2,
        log->access_format != NULL && strcmp(log->access_format, "json") == 0, true};
    const struct endpoint *endpoint = stream->last_slot == SLOT_NONE
                                          ? NULL
                                          : endpoint_find(proxy, stream->last_slot, stream->last_incarnation);
    if (line.is_json) *line.at++ = '{';
    clock_rfc3339(clock_wall_us(), when);
    put_string(&line, "time", (struct slice){when, 24});
    put_string(&line, "client",
        stream->request.client_ip.len > 0 ? stream->request.client_ip : slice_of(stream->conn->ip));
    put_string(&line, "method", stream->parser.head.method_text);
    put_string(&line, "host", stream->host);
    put_string(&line, "path", stream->path.len > 0 ? stream->path : stream->parser.head.target);
    put_number(&line, "status", (uint64_t)stream->status);
    put_string(&line, "reason", slice_of(reason_word(stream->reason)));
    put_number(&line, "bytes_in", stream->bytes_in);
    put_number(&line, "bytes_out", stream->bytes_out);
    put_number(&line, "duration_us", duration_us);
    put_string(&line, "route",
        slice_of(stream->route_id == UINT32_MAX ? "" : shm_name_text(proxy->shm, stream->route_id)));
    put_string(&line, "service",
        slice_of(stream->service_id == UINT32_MAX ? "" : shm_name_text(proxy->shm, stream->service_id)));
    put_string(
        &line, "endpoint", endpoint == NULL ? SLICE_NONE : (struct slice){endpoint->id, endpoint->id_len});
    put_number(&line, "attempts", stream->attempts);
    put_string(&line, "request_id", stream->request_id);
    if (line.is_json) *line.at++ = '}';
    *line.at++ = '\n';
    ring_commit(proxy->ring, RING_ACCESS, (size_t)(line.at - start));
}
