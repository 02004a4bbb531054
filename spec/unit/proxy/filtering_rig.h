/* A worker whose routes have filters, and what the tests of requests and of bodies both make filters do. */
#ifndef FLUXGATE_SPEC_FILTERING_RIG_H
#define FLUXGATE_SPEC_FILTERING_RIG_H
#include "core/proxy/filtering.h"
#include "spec/unit/proxy/rig.h"

#define FILTERED_WITHIN(time)                                                                                \
    RIG_YAML("  - match: { path_prefix: / }\n    service: web\n    filters: [ x.lua ]\n"                     \
             "    timeouts: { filter: " time " }\n",                                                         \
        "")
#define FILTERED  FILTERED_WITHIN("60s")
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a.example\r\n\r\n"

static inline struct rig *
new_rig(const char *yaml)
{
    struct rig *rig = rig_new(yaml, 2);
    fake.is_needed = fake.wants_log = true;
    return rig;
}

static inline struct filter_answer
answer_of(int status, const char *body)
{
    return (struct filter_answer){.status = status, .body = slice_of(body)};
}

static inline void
settle(struct rig *rig)
{
    for (int i = 0; i < 10; i++)
        rig_turn(rig);
}

static inline void
expect_over(struct rig *rig)
{
    RIG_WAIT(rig, "the chain's end", fake.ended == fake.begun);
}

static struct filter_answer given;

static inline enum filter_verdict
answer_at_once(struct filter_request *request, unsigned nth)
{
    (void)nth;
    request->answer = &given;
    return FILTER_ANSWERED;
}

static inline enum filter_verdict
wait_first(struct filter_request *request, unsigned nth)
{
    (void)request;
    return nth == 0 ? FILTER_WAIT : FILTER_GO;
}

#endif
