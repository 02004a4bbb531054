/* spec/unit/script/picks.h: strategies of a line, and what came of them: pick_test.c, answer_test.c. */
#ifndef FLUXGATE_SPEC_PICKS_H
#define FLUXGATE_SPEC_PICKS_H
#include "spec/unit/script/support.h"

#include "core/script/script_internal.h"

/* A strategy whose pick() has this body. */
#define PICK(body)                                                                                           \
    "local S = {} S.__index = S function S.new(o, s) return setmetatable({ service = s }, S) end "           \
    "function S:pick(request, backends) " body " end return S"

static inline uint64_t
errors_of(struct fixture *f, const char *service)
{
    struct script_status rows[8];
    size_t count = script_status(f->script, rows, 8);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].service, service) == 0) return rows[i].errors;
    }
    return UINT64_MAX;
}

static inline const char *
last_error(struct fixture *f)
{
    static struct script_status rows[8];
    assert_true(script_status(f->script, rows, 8) > 0);
    return rows[0].last_error;
}
#endif
