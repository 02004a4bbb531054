/* room: http */
#include "core/http/header.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : abort())

/* Up to the first NUL the name, behind it the Cookie value; the row's parts in two rows give what one row
 * gives where the cut is at a ';'. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *text = (const char *)bytes, *nul = size == 0 ? NULL : memchr(text, '\0', size);
    if (nul == NULL) return 0;
    struct slice name = {text, (size_t)(nul - text)}, line = {nul + 1, size - name.len - 1};
    struct slice value = SLICE_NONE, halves = SLICE_NONE;
    struct arena arena = {0};
    struct headers one = {0}, two = {0};
    const char *cut = line.len == 0 ? NULL : memchr(line.at, ';', line.len);
    size_t first = cut == NULL ? line.len : (size_t)(cut - line.at);
    struct slice rest = {line.at + first, line.len - first};
    FUZZ_CHECK(headers_add(&one, &arena, HEADER_COOKIE, SLICE_LIT("Cookie"), line));
    FUZZ_CHECK(headers_add(&two, &arena, HEADER_COOKIE, SLICE_LIT("Cookie"), (struct slice){line.at, first}));
    FUZZ_CHECK(headers_add(&two, &arena, HEADER_COOKIE, SLICE_LIT("Cookie"), rest));
    bool found = headers_cookie(&one, name, &value);
    FUZZ_CHECK(headers_cookie(&two, name, &halves) == found && slice_equal(value, halves));
    if (found) {
        FUZZ_CHECK(value.at >= line.at && value.at + value.len <= line.at + line.len);
        FUZZ_CHECK(value.len == 0 || memchr(value.at, ';', value.len) == NULL);
    }
    struct slice list = line, token;
    while (header_list_next(&list, &token))
        FUZZ_CHECK(token.len > 0 && memchr(token.at, ',', token.len) == NULL);
    arena_fini(&arena);
    return 0;
}
