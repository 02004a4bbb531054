/* room: http */
#include "core/http/uri.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : abort())

static void
check_normal(struct slice path, struct slice normal, bool keep)
{
    FUZZ_CHECK(normal.len > 0 && normal.len <= path.len);
    if (normal.at[0] == '*') return;
    FUZZ_CHECK(normal.at[0] == '/');
    FUZZ_CHECK(keep || memmem(normal.at, normal.len, "//", 2) == NULL);
    FUZZ_CHECK(
        memmem(normal.at, normal.len, "/../", 4) == NULL && memmem(normal.at, normal.len, "/./", 3) == NULL);
    FUZZ_CHECK(
        memmem(normal.at, normal.len, "%00", 3) == NULL && memmem(normal.at, normal.len, "%5C", 3) == NULL);
    for (size_t i = 0; i < normal.len; i++) {
        unsigned char c = (unsigned char)normal.at[i];
        FUZZ_CHECK(c > ' ' && c < 0x7f && c != '#' && c != '?' && c != '\\');
    }
}

/* The first byte: bit 0 keeps slashes. The rest is path, query and authority alike. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0) return 0;
    bool keep = bytes[0] & 1;
    struct slice path = {(const char *)bytes + 1, size - 1}, normal, again, host, port, value;
    char *out = malloc(size), *second = malloc(size);
    FUZZ_CHECK(out != NULL && second != NULL);
    if (uri_normalise(path, keep, out, size, &normal) == URI_OK) {
        check_normal(path, normal, keep);
        FUZZ_CHECK(uri_normalise(normal, keep, second, size, &again) == URI_OK);
        FUZZ_CHECK(again.at == normal.at && again.len == normal.len);
    }
    if (uri_authority_split(path, &host, &port)) FUZZ_CHECK(host.len > 0 && host.len + port.len <= path.len);
    (void)uri_query_is_valid(path);
    if (uri_query_find(path, SLICE_LIT("a"), &value)) FUZZ_CHECK(value.len < path.len);
    free(out);
    free(second);
    return 0;
}
