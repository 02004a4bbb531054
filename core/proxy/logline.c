#include <stdio.h>

#include "core/base/clock.h"
#include "core/proxy/proxy_internal.h"

enum { VALUE_MAX = 1024 };

/* What peers chose: only plain ASCII stands as it is, so that no line can hold another. */
static char *
put_value(char *out, const char *end, struct slice value)
{
    static const char hex[] = "0123456789abcdef";
    if (value.len == 0) value = SLICE_LIT("-");
    for (size_t i = 0; i < value.len && i < VALUE_MAX && end - out >= 4; i++) {
        unsigned char c = (unsigned char)value.at[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            *out++ = (char)c;
            continue;
        }
        *out++ = '\\';
        *out++ = 'x';
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    return out;
}

static struct slice
header_value(const struct stream *stream, enum header_id id)
{
    const struct headers *headers = &stream->parser.head.headers;
    const struct header *row = headers_find(headers, id);
    return row == NULL ? SLICE_NONE : row->value;
}

static struct slice
name_text(const struct stream *stream, uint32_t id)
{
    return id == UINT32_MAX ? SLICE_NONE : slice_of(shm_name_text(stream->proxy->shm, id));
}

static struct slice
endpoint_id(const struct stream *stream)
{
    const struct endpoint *endpoint =
        stream->last_slot == SLOT_NONE
            ? NULL
            : endpoint_find(stream->proxy, stream->last_slot, stream->last_incarnation);
    return endpoint == NULL ? SLICE_NONE : (struct slice){endpoint->id, endpoint->id_len};
}

static struct slice
number(char room[25], uint64_t value)
{
    return (struct slice){room, (size_t)snprintf(room, 24, "%llu", (unsigned long long)value)};
}

static struct slice
field(const struct stream *stream, enum config_log_field which, uint64_t duration_us, char room[25])
{
    const struct h1_head *head = &stream->parser.head;
    switch (which) {
    case LOG_FIELD_time: clock_rfc3339(clock_wall_us(), room); return (struct slice){room, 24};
    case LOG_FIELD_client:
        return stream->request.client_ip.len > 0 ? stream->request.client_ip : slice_of(stream->conn->ip);
    case LOG_FIELD_method: return head->method_text;
    case LOG_FIELD_host: return stream->host;
    case LOG_FIELD_path: return stream->path.len > 0 ? stream->path : head->target;
    case LOG_FIELD_query: return stream->query;
    case LOG_FIELD_protocol: return head->minor == 0 ? SLICE_LIT("HTTP/1.0") : SLICE_LIT("HTTP/1.1");
    case LOG_FIELD_status: return number(room, (uint64_t)stream->status);
    case LOG_FIELD_reason: return slice_of(reason_word(stream->reason));
    case LOG_FIELD_bytes_in: return number(room, stream->bytes_in);
    case LOG_FIELD_bytes_out: return number(room, stream->bytes_out);
    case LOG_FIELD_duration_us: return number(room, duration_us);
    case LOG_FIELD_duration_ms: return number(room, duration_us / 1000);
    case LOG_FIELD_route: return name_text(stream, stream->route_id);
    case LOG_FIELD_service: return name_text(stream, stream->service_id);
    case LOG_FIELD_endpoint: return endpoint_id(stream);
    case LOG_FIELD_attempts: return number(room, stream->attempts);
    case LOG_FIELD_request_id: return stream->request_id;
    case LOG_FIELD_user_agent: return header_value(stream, HEADER_USER_AGENT);
    case LOG_FIELD_referer: return header_value(stream, HEADER_REFERER);
    case LOG_FIELD_COUNT: break;
    }
    return SLICE_NONE;
}

char *
logline_write(
    const struct stream *stream, const char *pattern, uint64_t duration_us, char *out, const char *end)
{
    char room[25];
    while (*pattern != '\0' && out < end) {
        size_t len = 0;
        enum config_log_field which = *pattern == '$' ? config_log_field_at(pattern, &len) : LOG_FIELD_COUNT;
        if (which == LOG_FIELD_COUNT) {
            unsigned char c = (unsigned char)*pattern++;
            *out++ = c < 0x20 ? ' ' : (char)c; /* a line is one line */
            continue;
        }
        out = put_value(out, end, field(stream, which, duration_us, room));
        pattern += len;
    }
    return out;
}
