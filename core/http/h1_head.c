#include "core/http/h1.h"

#include <string.h>

#include "core/http/h1_internal.h"
#include "core/http/scan_internal.h"

enum phase { PHASE_START, PHASE_LINE, PHASE_FIELDS, PHASE_DONE, PHASE_BAD };
enum line_result { LINE_DONE, LINE_AGAIN, LINE_BAD };

enum {
    METHOD_BYTES_MAX = 64, /* longer ones are no method of anyone */
    REQUEST_LINE_EXTRA =
        METHOD_BYTES_MAX + 1 + 1 + 8 + 2, /* around the target: method, two SP, version, CRLF */
    HEADER_BYTES_MIN = 32,
    HEADER_BYTES_MAX = 1 << 28, /* what limits.header_bytes is held between */
    VERSION_BYTES = 8,
};

static const struct slice version_prefix = {"HTTP/", 5};

/* The line's LF: the one place that turns "cannot read on" into "not there yet" or "malformed", so that a
 * line is never judged by how much of it has come. */
static const char *
line_feed(const char *from, const char *end)
{
    return from < end ? memchr(from, '\n', (size_t)(end - from)) : NULL;
}

/* What is wrong with the line ends of [line, lf]; H1_OK where they are right. */
static enum h1_error
line_end_error(const char *line, const char *lf)
{
    if (lf == line || lf[-1] != '\r') {
        return lf > line && memchr(line, '\r', (size_t)(lf - line)) != NULL ? H1_BARE_CR : H1_BARE_LF;
    }
    return memchr(line, '\r', (size_t)(lf - 1 - line)) != NULL ? H1_BARE_CR : H1_OK;
}

static COLD enum field_result
field_fail(const char *at, const char *end, const char **next, enum h1_error *error)
{
    const char *lf = line_feed(at, end);
    if (lf == NULL) return FIELD_AGAIN;
    *next = lf + 1;
    if (*at == ' ' || *at == '\t') {
        *error = H1_OBS_FOLD; /* RFC 9112 §5.2; also blanks before the first field, §2.2 */
        return FIELD_BAD;
    }
    *error = line_end_error(at, lf);
    if (*error != H1_OK) return FIELD_BAD;
    const char *colon = scan_class(at, lf, BYTE_TOKEN);
    *error = colon == at || *colon != ':' ? H1_BAD_HEADER_NAME : H1_BAD_HEADER_VALUE;
    return FIELD_BAD;
}

enum field_result
h1_field_read(const char *at, const char *end, const char **next, struct slice *name, struct slice *value,
    enum h1_error *error)
{
    const char *colon = scan_token(at, end);
    if (UNLIKELY(colon == end)) return FIELD_AGAIN;
    if (*colon != ':' || colon == at) {
        if (colon == at && *at == '\r' && end - at >= 2 && at[1] == '\n') {
            *next = at + 2;
            return FIELD_END;
        }
        return field_fail(at, end, next, error);
    }
    const char *first = colon + 1;
    while (first < end && (*first == ' ' || *first == '\t'))
        first++;
    const char *stop = scan_text(first, end);
    if (end - stop < 2) return stop == end || *stop == '\r' ? FIELD_AGAIN : field_fail(at, end, next, error);
    if (UNLIKELY(stop[0] != '\r' || stop[1] != '\n')) return field_fail(at, end, next, error);
    *next = stop + 2;
    while (stop > first && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    *name = (struct slice){at, (size_t)(colon - at)};
    *value = (struct slice){first, (size_t)(stop - first)};
    return FIELD_ROW;
}

/* HTTP/1.DIGIT: a higher minor version is spoken to as 1.1 (RFC 9110 §2.5). */
static enum h1_error
version_read(struct slice text, int *minor)
{
    if (text.len != VERSION_BYTES || !slice_starts_with(text, version_prefix)) return H1_BAD_VERSION;
    if (!byte_is(text.at[5], BYTE_DIGIT) || text.at[6] != '.' || !byte_is(text.at[7], BYTE_DIGIT)) {
        return H1_BAD_VERSION;
    }
    if (text.at[5] != '1') return H1_VERSION_UNSUPPORTED;
    *minor = text.at[7] == '0' ? 0 : 1;
    return H1_OK;
}

static COLD enum h1_error
request_line_error(const struct h1_limits *limits, const char *line, const char *lf)
{
    enum h1_error error = line_end_error(line, lf);
    if (error != H1_OK) return error;
    const char *end = lf - 1;
    const char *method_end = scan_class(line, end, BYTE_TOKEN);
    if (method_end == end) return H1_BAD_REQUEST_LINE;
    if (*method_end != ' ' || method_end - line > METHOD_BYTES_MAX) return H1_BAD_METHOD;
    const char *target = method_end + 1;
    const char *target_end = scan_target(target, end);
    if ((size_t)(target_end - target) > limits->uri_bytes) return H1_URI_TOO_LONG;
    if (target_end == end) return H1_BAD_REQUEST_LINE; /* HTTP/0.9 has no version */
    if (*target_end != ' ') return H1_BAD_TARGET;
    const char *version = target_end + 1;
    if (target_end == target || memchr(version, ' ', (size_t)(end - version)) != NULL)
        return H1_BAD_REQUEST_LINE;
    int minor;
    return version_read((struct slice){version, (size_t)(end - version)}, &minor);
}

static enum line_result
request_line_fail(struct h1_parser *parser, const char *line, const char *end, const char **next)
{
    const char *lf = line_feed(line, end);
    if (lf == NULL) return LINE_AGAIN;
    *next = lf + 1;
    parser->error = request_line_error(&parser->limits, line, lf);
    if (parser->error == H1_OK) parser->error = H1_BAD_REQUEST_LINE;
    return LINE_BAD;
}

static enum line_result
request_line_read(struct h1_parser *parser, const char *line, const char *end, const char **next)
{
    struct h1_head *head = &parser->head;
    const char *method_end = scan_class(line, end, BYTE_TOKEN);
    if (method_end == end || *method_end != ' ' || method_end - line > METHOD_BYTES_MAX) {
        return request_line_fail(parser, line, end, next);
    }
    const char *target = method_end + 1;
    const char *target_end = scan_target(target, end);
    if (end - target_end < 1 + VERSION_BYTES + 2 || *target_end != ' ' || target_end == target ||
        (size_t)(target_end - target) > parser->limits.uri_bytes) {
        return request_line_fail(parser, line, end, next);
    }
    const char *version_end = target_end + 1 + VERSION_BYTES;
    if (version_end[0] != '\r' || version_end[1] != '\n' ||
        version_read((struct slice){target_end + 1, VERSION_BYTES}, &head->minor) != H1_OK) {
        return request_line_fail(parser, line, end, next);
    }
    *next = version_end + 2;
    head->method_text = (struct slice){line, (size_t)(method_end - line)};
    head->method = method_identify(head->method_text);
    head->target = (struct slice){target, (size_t)(target_end - target)};
    parser->error = h1_target_read(head);
    return parser->error == H1_OK ? LINE_DONE : LINE_BAD;
}

/* RFC 9112 §4. The SP before an absent phrase may be missing, as many servers leave it out. */
static enum h1_error
status_line_parse(struct h1_head *head, const char *line, const char *lf)
{
    enum h1_error error = line_end_error(line, lf);
    if (error != H1_OK) return error;
    const char *end = lf - 1;
    if (end - line < VERSION_BYTES + 4) return H1_BAD_STATUS_LINE;
    error = version_read((struct slice){line, VERSION_BYTES}, &head->minor);
    if (error != H1_OK) return error == H1_BAD_VERSION ? H1_BAD_STATUS_LINE : error;
    const char *at = line + VERSION_BYTES;
    if (*at++ != ' ') return H1_BAD_STATUS_LINE;
    for (int i = 0; i < 3; i++) {
        if (!byte_is(at[i], BYTE_DIGIT)) return H1_BAD_STATUS_LINE;
        head->status = head->status * 10 + (at[i] - '0');
    }
    at += 3;
    if (head->status < 100 || head->status > 599 || (at < end && *at != ' ')) return H1_BAD_STATUS_LINE;
    if (at < end) at++;
    if (scan_text(at, end) != end) return H1_BAD_STATUS_LINE;
    head->phrase = (struct slice){at, (size_t)(end - at)};
    return H1_OK;
}

static enum line_result
status_line_read(struct h1_parser *parser, const char *line, const char *end, const char **next)
{
    const char *lf = line_feed(line, end);
    if (lf == NULL) return LINE_AGAIN;
    *next = lf + 1;
    parser->error = status_line_parse(&parser->head, line, lf);
    return parser->error == H1_OK ? LINE_DONE : LINE_BAD;
}

static enum h1_result
parser_fail(struct h1_parser *parser, enum h1_error error)
{
    parser->phase = PHASE_BAD;
    parser->error = error;
    return H1_BAD;
}

/* RFC 9112 §2.2: one empty line before a request line is passed over. H1_DONE: go on with the line. */
static enum h1_result
start_read(struct h1_parser *parser, struct slice bytes)
{
    if (bytes.len == 0) return H1_AGAIN;
    if (!parser->is_response && bytes.at[0] == '\r') {
        if (bytes.len < 2) return H1_AGAIN;
        if (bytes.at[1] != '\n') return parser_fail(parser, H1_BARE_CR);
        parser->line_at = 2;
    }
    parser->phase = PHASE_LINE;
    return H1_DONE;
}

/* What the first bytes alone give away, so that a TLS hello or a wrong protocol is not waited for. These
 * bytes decide however many come with them. H1_OK: read on. */
static enum h1_error
first_bytes_error(const struct h1_parser *parser, const char *line, const char *end)
{
    if (parser->is_response) {
        for (size_t i = 0; i < version_prefix.len && line + i < end; i++) {
            if (line[i] != version_prefix.at[i]) return H1_BAD_STATUS_LINE;
        }
        return H1_OK;
    }
    if (line == end || byte_is(*line, BYTE_TOKEN)) return H1_OK;
    if (*line == '\n') return H1_BARE_LF;
    return *line == '\r' || *line == ' ' ? H1_BAD_REQUEST_LINE : H1_BAD_METHOD;
}

/* H1_DONE: the line was read and *next is behind it. Whether it is too long is asked first, and of its length
 * alone. */
static enum h1_result
line_read(struct h1_parser *parser, struct slice bytes, const char **next)
{
    const char *line = bytes.at + parser->line_at, *end = bytes.at + bytes.len;
    size_t room = parser->limits.header_bytes - parser->line_at;
    size_t cap = parser->is_response ? SIZE_MAX : (size_t)parser->limits.uri_bytes + REQUEST_LINE_EXTRA;
    enum h1_error error = first_bytes_error(parser, line, end);
    if (error != H1_OK) return parser_fail(parser, error);
    enum line_result result = LINE_AGAIN;
    if (parser->scanned == 0 || line_feed(line + parser->scanned, end) != NULL) {
        result = parser->is_response ? status_line_read(parser, line, end, next)
                                     : request_line_read(parser, line, end, next);
    }
    size_t seen = result == LINE_AGAIN ? (size_t)(end - line) + 1 : (size_t)(*next - line);
    if (seen > room || seen > cap) {
        return parser_fail(parser, cap <= room ? H1_URI_TOO_LONG : H1_HEADERS_TOO_LARGE);
    }
    if (result == LINE_BAD) return parser_fail(parser, parser->error);
    parser->scanned = result == LINE_AGAIN ? (uint32_t)(end - line) : 0;
    if (result == LINE_AGAIN) return H1_AGAIN;
    parser->line_at += (uint32_t)seen;
    parser->phase = PHASE_FIELDS;
    return H1_DONE;
}

static enum h1_error
row_add(struct h1_parser *parser, struct slice name, struct slice value)
{
    struct headers *headers = &parser->head.headers;
    enum header_id id = header_identify(name);
    /* A backend that maps names to variables cannot tell '_' from '-': X_Real_IP would pass for X-Real-IP. */
    if (id == HEADER_OTHER && !parser->limits.underscores && !parser->is_response &&
        memchr(name.at, '_', name.len) != NULL) {
        return H1_OK;
    }
    if (headers->count >= parser->limits.headers) return H1_HEADERS_TOO_LARGE;
    return headers_add_sound(headers, parser->arena, id, name, value) ? H1_OK : H1_NO_MEMORY;
}

static enum h1_result
head_finish(struct h1_parser *parser)
{
    enum h1_error error = H1_OK;
    if (!parser->is_response) error = h1_host_decide(&parser->head);
    if (error == H1_OK) error = framing_decide(parser);
    if (error != H1_OK) return parser_fail(parser, error);
    parser->phase = PHASE_DONE;
    return H1_DONE;
}

static enum h1_result
fields_read(struct h1_parser *parser, struct slice bytes)
{
    const char *start = bytes.at, *end = start + bytes.len, *at = start + parser->line_at, *next = at;
    struct slice name = SLICE_NONE, value = SLICE_NONE;
    if (parser->scanned > 0 &&
        line_feed(at + parser->scanned, end) == NULL) { /* looked at before: only its LF is news */
        parser->scanned = (uint32_t)(end - at);
        return H1_AGAIN;
    }
    for (;;) {
        enum h1_error error = H1_OK;
        enum field_result result = h1_field_read(at, end, &next, &name, &value, &error);
        if (result == FIELD_AGAIN) {
            parser->line_at = (uint32_t)(at - start);
            parser->scanned = (uint32_t)(end - at);
            return H1_AGAIN;
        }
        if ((size_t)(next - start) > parser->limits.header_bytes)
            return parser_fail(parser, H1_HEADERS_TOO_LARGE);
        if (result == FIELD_BAD) return parser_fail(parser, error);
        at = next;
        if (result == FIELD_END) break;
        error = row_add(parser, name, value);
        if (UNLIKELY(error != H1_OK)) return parser_fail(parser, error);
    }
    parser->line_at = (uint32_t)(at - start);
    parser->scanned = 0;
    return head_finish(parser);
}

static void
parser_init(struct h1_parser *parser, struct arena *arena, const struct h1_limits *limits)
{
    memset(parser, 0, sizeof *parser);
    parser->arena = arena;
    parser->limits = *limits;
    if (limits->header_bytes < HEADER_BYTES_MIN) parser->limits.header_bytes = HEADER_BYTES_MIN;
    if (limits->header_bytes > HEADER_BYTES_MAX) parser->limits.header_bytes = HEADER_BYTES_MAX;
}

void
h1_request_init(struct h1_parser *parser, struct arena *arena, const struct h1_limits *limits)
{
    parser_init(parser, arena, limits);
}

void
h1_response_init(
    struct h1_parser *parser, struct arena *arena, const struct h1_limits *limits, enum method request_method)
{
    parser_init(parser, arena, limits);
    parser->is_response = true;
    parser->request_method = request_method;
}

enum h1_result
h1_parse_head(struct h1_parser *parser, struct slice bytes, size_t *used)
{
    enum h1_result result = H1_DONE;
    *used = 0;
    if (parser->phase == PHASE_BAD) return H1_BAD;
    if (parser->phase == PHASE_START) result = start_read(parser, bytes);
    if (result == H1_DONE && parser->phase == PHASE_LINE) {
        const char *next = NULL;
        result = line_read(parser, bytes, &next);
    }
    if (result == H1_DONE && parser->phase == PHASE_FIELDS) result = fields_read(parser, bytes);
    if (result == H1_AGAIN && bytes.len >= parser->limits.header_bytes) {
        return parser_fail(parser, H1_HEADERS_TOO_LARGE); /* its LF can only come past the limit */
    }
    if (result == H1_DONE) *used = parser->line_at;
    return result;
}

static void
slice_rebase(struct slice *slice, uintptr_t old_start, size_t len, const char *new_start)
{
    uintptr_t offset = (uintptr_t)slice->at - old_start;
    if (slice->at != NULL && offset < len) slice->at = new_start + offset;
}

void
h1_rebase(struct h1_parser *parser, const char *old_start, const char *new_start)
{
    struct h1_head *head = &parser->head;
    uintptr_t old = (uintptr_t)old_start;
    size_t len = (size_t)parser->line_at + parser->scanned;
    struct slice *slices[] = {&head->method_text, &head->target, &head->path, &head->query, &head->authority,
        &head->phrase, &head->upgrade_protocol};
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++)
        slice_rebase(slices[i], old, len, new_start);
    for (uint32_t i = 0; i < head->headers.count; i++) {
        slice_rebase(&head->headers.rows[i].name, old, len, new_start);
        slice_rebase(&head->headers.rows[i].value, old, len, new_start);
    }
}
