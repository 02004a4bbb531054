/* spec/unit/http/h1_support.h: what the specs and the fuzz targets of the HTTP/1 code share: a head parsed in
 * any split, from buffers of the exact size, as text that two runs can be compared by. */
#ifndef FLUXGATE_SPEC_H1_SUPPORT_H
#define FLUXGATE_SPEC_H1_SUPPORT_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/slice.h"
#include "core/http/h1.h"

static const struct h1_limits usual_limits = {32768, 100, 8192, 0, false};

struct h1_run {
    bool is_response;
    enum method request_method;
    const struct h1_limits *limits; /* NULL: usual_limits */
};

struct text {
    char at[192 * 1024];
    size_t len;
};

static inline void
text_add(struct text *text, const char *label, struct slice s)
{
    int n = snprintf(text->at + text->len, sizeof text->at - text->len, "%s=%zu:", label, s.len);
    text->len += (size_t)n;
    if (s.len > 0) memcpy(text->at + text->len, s.at, s.len);
    text->len += s.len;
    text->at[text->len++] = '\n';
}

static inline void
text_add_number(struct text *text, const char *label, uint64_t number)
{
    int n = snprintf(
        text->at + text->len, sizeof text->at - text->len, "%s=%llu\n", label, (unsigned long long)number);
    text->len += (size_t)n;
}

static inline void
text_add_head(struct text *text, const struct h1_head *head)
{
    text_add(text, "method", head->method_text);
    text_add(text, "target", head->target);
    text_add(text, "path", head->path);
    text_add(text, "query", head->query);
    text_add(text, "authority", head->authority);
    text_add(text, "phrase", head->phrase);
    text_add(text, "protocol", head->upgrade_protocol);
    text_add_number(text, "form", (uint64_t)head->form);
    text_add_number(text, "status", (uint64_t)head->status);
    text_add_number(text, "flags",
        (uint64_t)(head->minor | head->keep_alive << 1 | head->expect_continue << 2 | head->upgrade << 3 |
                   head->has_query << 4));
    text_add_number(text, "body", (uint64_t)head->body);
    text_add_number(text, "length", head->length);
    text_add_number(text, "keep_alive_s", head->keep_alive_s);
    for (uint32_t i = 0; i < head->headers.count; i++) {
        text_add(text, "name", head->headers.rows[i].name);
        text_add(text, "value", head->headers.rows[i].value);
    }
}

static inline void
h1_run_init(const struct h1_run *run, struct h1_parser *parser, struct arena *arena)
{
    const struct h1_limits *limits = run->limits != NULL ? run->limits : &usual_limits;
    if (run->is_response) {
        h1_response_init(parser, arena, limits, run->request_method);
    } else {
        h1_request_init(parser, arena, limits);
    }
}

/* Feeds input[0, cuts[0]), then up to cuts[1] and so on, each time from a fresh buffer of just that size, and
 * writes what came of it. The last cut is the input's length. */
static inline enum h1_result
h1_run_cuts(const struct h1_run *run, struct slice input, const size_t *cuts, size_t count, struct text *text)
{
    struct arena arena = {0};
    struct h1_parser parser;
    char *buffer = NULL;
    enum h1_result result = H1_AGAIN;
    size_t used = 0;
    h1_run_init(run, &parser, &arena);
    for (size_t i = 0; i < count && result == H1_AGAIN; i++) {
        char *next = malloc(cuts[i] == 0 ? 1 : cuts[i]);
        if (next == NULL) abort();
        if (cuts[i] > 0) memcpy(next, input.at, cuts[i]);
        if (buffer != NULL) h1_rebase(&parser, buffer, next);
        free(buffer);
        buffer = next;
        result = h1_parse_head(&parser, (struct slice){buffer, cuts[i]}, &used);
    }
    text->len = 0;
    text_add_number(text, "result", (uint64_t)result);
    text_add_number(text, "error", (uint64_t)parser.error);
    text_add_number(text, "used", used);
    if (result == H1_DONE) text_add_head(text, &parser.head);
    free(buffer);
    arena_fini(&arena);
    return result;
}

static inline bool
text_equal(const struct text *a, const struct text *b)
{
    return a->len == b->len && memcmp(a->at, b->at, a->len) == 0;
}

/* The error's number out of the text of a run. */
static inline enum h1_error
text_error(const struct text *text)
{
    const char *at = strstr(text->at, "error=");
    return at == NULL ? H1_OK : (enum h1_error)strtoul(at + 6, NULL, 10);
}

/* Where two pieces, or single bytes, give something else than the whole: 1 + the cut; 0 where they do not. */
static inline size_t
h1_run_differs(const struct h1_run *run, struct slice input, const struct text *whole, struct text *split)
{
    for (size_t cut = 0; cut <= input.len; cut++) {
        size_t cuts[] = {cut, input.len};
        (void)h1_run_cuts(run, input, cuts, 2, split);
        if (!text_equal(whole, split)) return 1 + cut;
    }
    size_t *each = malloc((input.len + 1) * sizeof *each);
    if (each == NULL) abort();
    for (size_t i = 0; i <= input.len; i++)
        each[i] = i;
    (void)h1_run_cuts(run, input, each, input.len + 1, split);
    free(each);
    return text_equal(whole, split) ? 0 : SIZE_MAX;
}

/* What the gateway sends on for a parsed head: hop-by-hop rows gone, the framing that was read. 0: cannot be
 * written. */
static inline size_t
h1_forward(struct h1_parser *parser, char *out, size_t cap)
{
    struct h1_head *head = &parser->head;
    bool bodiless = parser->is_response && head->body == BODY_NONE;
    struct h1_out message = {.method = head->method_text,
        .status = head->status,
        .headers = &head->headers,
        .body = head->body,
        .length = head->length,
        .no_framing = bodiless};
    h1_drop_hop_by_hop(&head->headers);
    for (uint32_t i = 0; bodiless && i < head->headers.count;
         i++) { /* a HEAD's or a 304's own length is kept */
        if (head->headers.rows[i].id == HEADER_CONTENT_LENGTH)
            head->headers.rows[i].flags &= (uint16_t)~HEADER_F_DROP;
    }
    if (head->upgrade) {
        message.connection = SLICE_LIT("upgrade");
        message.upgrade = head->upgrade_protocol;
    } else if (!head->keep_alive) {
        message.connection = SLICE_LIT("close");
    }
    size_t written;
    if (parser->is_response) {
        written = h1_write_response(&message, out, cap);
    } else {
        char target[16384];
        struct slice parts[] = {head->path, SLICE_LIT("?"), head->query};
        size_t len = 0;
        for (int i = 0; i < (head->has_query ? 3 : 1); i++) {
            if (parts[i].len > 0) memcpy(target + len, parts[i].at, parts[i].len);
            len += parts[i].len;
        }
        message.target = head->form == TARGET_AUTHORITY ? head->target : (struct slice){target, len};
        written = h1_write_request(&message, head->authority, out, cap);
    }
    if (written > h1_head_bound(&message, head->authority) + (size_t)message.target.len) abort();
    return written;
}

#endif
