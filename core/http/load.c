#include "core/http/load.h"

#include <string.h>

enum { LOAD_MAX = 1000000 }; /* milli: a thousand times what a backend can do is as good as any more */

/* digits ["." digits]; what stands behind three decimals is cut. */
static bool
parse_milli(struct slice text, uint32_t *milli)
{
    uint64_t value = 0;
    unsigned decimals = 0;
    bool has_dot = false, has_digit = false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = (unsigned char)text.at[i] - (unsigned)'0';
        if (text.at[i] == '.' && !has_dot) {
            has_dot = true;
            continue;
        }
        if (digit > 9) return false;
        has_digit = true;
        if (has_dot && decimals == 3) continue;
        decimals += has_dot;
        if (value < (uint64_t)LOAD_MAX * 10) value = value * 10 + digit;
    }
    for (; decimals < 3; decimals++)
        value *= 10;
    *milli = value < LOAD_MAX ? (uint32_t)value : LOAD_MAX;
    return has_digit;
}

/* As gRPC's weighted round robin reads it: what the application says of itself goes before its processor. */
bool
load_read(struct slice value, uint32_t *milli)
{
    static const struct slice names[] = {{"application_utilization", 23}, {"cpu_utilization", 15},
        {"named_metrics.load", 18}, {"mem_utilization", 15}};
    unsigned best = sizeof names / sizeof names[0];
    struct slice token;
    if (slice_starts_with(value, SLICE_LIT("TEXT "))) value = (struct slice){value.at + 5, value.len - 5};
    for (struct slice rest = value; header_list_next(&rest, &token);) {
        const char *equals = token.len == 0 ? NULL : memchr(token.at, '=', token.len);
        if (equals == NULL) continue;
        struct slice name = {token.at, (size_t)(equals - token.at)};
        struct slice number = {equals + 1, token.len - name.len - 1};
        uint32_t found;
        for (unsigned i = 0; i < best; i++) {
            if (!slice_equal(name, names[i]) || !parse_milli(number, &found)) continue;
            if (i == 0 && found == 0) continue; /* not reported */
            *milli = found;
            best = i;
        }
    }
    return best < sizeof names / sizeof names[0];
}

bool
load_of_headers(const struct headers *headers, uint32_t *milli)
{
    const struct header *row = headers_find_name(headers, SLICE_LIT("endpoint-load-metrics"));
    return row != NULL && load_read(row->value, milli);
}
