/* spec/unit/proxy/fetch_rig.h: fetches whose peers the test plays byte for byte. */
#ifndef FLUXGATE_SPEC_PROXY_FETCH_RIG_H
#define FLUXGATE_SPEC_PROXY_FETCH_RIG_H
#include "core/proxy/fetch_internal.h"
#include "spec/unit/proxy/rig.h"

/* What a fetch told its task. */
struct told {
    struct fetch *fetch;
    unsigned calls;
    enum reason failure;
    int status;
    char detail[512], header[64], body[65536];
    size_t body_len;
    void (*then)(struct told *told); /* inside `done` */
    struct rig *rig;
    struct told *other;
};

static inline void
hear_answer(void *task, const struct fetch_answer *answer)
{
    struct told *told = task;
    told->calls++;
    told->failure = answer->failure;
    told->status = answer->status;
    snprintf(told->detail, sizeof told->detail, "%s", answer->detail == NULL ? "" : answer->detail);
    if (answer->failure == REASON_NONE) {
        const struct header *row = headers_find_name(answer->headers, SLICE_LIT("x-a"));
        if (row != NULL)
            snprintf(told->header, sizeof told->header, "%.*s", (int)row->value.len, row->value.at);
        told->body_len = answer->body.len;
        if (answer->body.len > 0 && answer->body.len < sizeof told->body)
            memcpy(told->body, answer->body.at, answer->body.len);
    }
    if (told->then != NULL) told->then(told);
}

struct asked {
    const char *method, *url, *name, *value; /* one header */
    struct slice body;
    uint64_t timeout_us;
    size_t max_body;
};

/* Begins it; with `refusal` it must not begin, and that is the reason. */
static inline struct told *
fetch_with(struct rig *rig, struct asked asked, enum reason refusal)
{
    struct arena arena = {0};
    struct headers headers = {0};
    struct told *told = calloc(1, sizeof *told);
    enum reason failure = REASON_NONE;
    const char *detail = NULL;
    assert_non_null(told);
    told->rig = rig;
    if (asked.name != NULL)
        assert_true(headers_add(&headers, &arena, header_identify(slice_of(asked.name)), slice_of(asked.name),
            slice_of(asked.value)));
    struct fetch_request request = {.method = slice_of(asked.method == NULL ? "GET" : asked.method),
        .url = slice_of(asked.url),
        .headers = &headers,
        .body = asked.body,
        .timeout_us = asked.timeout_us == 0 ? RIG_PATIENCE_US : asked.timeout_us,
        .max_body = asked.max_body == 0 ? 65536 : asked.max_body};
    proxy_enter(rig->proxy);
    told->fetch = fetch_start(rig->proxy, &request, hear_answer, told, &failure, &detail);
    assert_int_equal(told->calls, 0);
    if (refusal == REASON_NONE) {
        if (told->fetch == NULL) fail_msg("%s: %s: %s", asked.url, reason_word(failure), detail);
    } else {
        assert_null(told->fetch);
        assert_string_equal(reason_word(failure), reason_word(refusal));
        snprintf(told->detail, sizeof told->detail, "%s", detail);
    }
    proxy_leave(rig->proxy);
    arena_fini(&arena);
    return told;
}

static inline struct told *
fetch_url(struct rig *rig, const char *format, ...)
{
    char url[512];
    va_list args;
    va_start(args, format);
    vsnprintf(url, sizeof url, format, args);
    va_end(args);
    return fetch_with(rig, (struct asked){.url = url}, REASON_NONE);
}

static inline void
expect_told(struct rig *rig, struct told *told, enum reason failure, const char *words)
{
    RIG_WAIT(rig, "the fetch's end", told->calls > 0);
    assert_int_equal(told->calls, 1);
    if (told->failure != failure || strstr(told->detail, words) == NULL)
        fail_msg("expected %s and \"%s\", was told %s: %s", reason_word(failure), words,
            reason_word(told->failure), told->detail);
    free(told);
}

static inline void
expect_answer(struct rig *rig, struct told *told, int status, const char *body)
{
    RIG_WAIT(rig, "the fetch's answer", told->calls > 0);
    if (told->failure != REASON_NONE) fail_msg("%s: %s", reason_word(told->failure), told->detail);
    assert_int_equal(told->calls, 1);
    assert_int_equal(told->status, status);
    assert_string_equal(told->body, body);
    free(told);
}

#endif
