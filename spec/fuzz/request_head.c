/* room: http */
#include "spec/fuzz/h1_fuzz.h"

/* The first byte chooses among limits. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct h1_limits limits[] = {
        {32768, 100, 8192, 0, false}, {64, 4, 16, 5, false}, {128, 100, 1024, 0, true}, {0, 0, 0, 0, false}};
    if (size == 0) return 0;
    struct h1_run run = {.limits = &limits[bytes[0] % 4]};
    return fuzz_head(&run, (struct slice){(const char *)bytes + 1, size - 1});
}
