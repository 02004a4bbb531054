/* spec/fuzz/h1_fuzz.h: what the head targets share: incremental against whole parsing, and parse-write-parse.
 */
#ifndef FLUXGATE_FUZZ_H1_FUZZ_H
#define FLUXGATE_FUZZ_H1_FUZZ_H
#include <stddef.h>
#include <stdint.h>

#include "spec/unit/http/h1_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : abort())

/* A few cuts, placed by the input's own bytes, and all of them while it is short. */
static inline void
fuzz_splits(const struct h1_run *run, struct slice input, const struct text *whole)
{
    static struct text split;
    if (input.len <= 160) {
        FUZZ_CHECK(h1_run_differs(run, input, whole, &split) == 0);
        return;
    }
    size_t cuts[9], count = 0;
    for (size_t at = 1; at < input.len && count < 8; at += 1 + (unsigned char)input.at[at] * 2u)
        cuts[count++] = at;
    cuts[count++] = input.len;
    (void)h1_run_cuts(run, input, cuts, count, &split);
    FUZZ_CHECK(text_equal(whole, &split));
}

/* What is sent on parses, means the same and is sent on as it stands. */
static inline void
fuzz_fixed_point(const struct h1_run *run, struct slice input)
{
    static char once[262144], twice[262144];
    struct arena arena = {0};
    struct h1_parser first, second;
    size_t used;
    h1_run_init(run, &first, &arena);
    if (h1_parse_head(&first, input, &used) == H1_DONE &&
        (run->is_response || first.head.authority.len > 0)) {
        size_t len = h1_forward(&first, once, sizeof once);
        FUZZ_CHECK(len > 0);
        struct h1_limits wide = {1 << 24, 100000, 1 << 20, 0, true};
        struct h1_run again = {run->is_response, run->request_method, &wide};
        h1_run_init(&again, &second, &arena);
        FUZZ_CHECK(h1_parse_head(&second, (struct slice){once, len}, &used) == H1_DONE && used == len);
        FUZZ_CHECK(first.head.body == second.head.body && first.head.length == second.head.length);
        FUZZ_CHECK(slice_equal(first.head.authority, second.head.authority));
        FUZZ_CHECK(slice_equal(first.head.path, second.head.path) &&
                   slice_equal(first.head.query, second.head.query));
        FUZZ_CHECK(first.head.upgrade == second.head.upgrade);
        size_t same = h1_forward(&second, twice, sizeof twice);
        FUZZ_CHECK(same == len && memcmp(once, twice, len) == 0);
    }
    arena_fini(&arena);
}

static inline int
fuzz_head(const struct h1_run *run, struct slice input)
{
    static struct text whole;
    if (input.len > 32768) return 0; /* the text of a run holds no more */
    (void)h1_run_cuts(run, input, &input.len, 1, &whole);
    fuzz_splits(run, input, &whole);
    fuzz_fixed_point(run, input);
    return 0;
}

#endif
