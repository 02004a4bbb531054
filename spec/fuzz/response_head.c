/* room: http */
#include "spec/fuzz/h1_fuzz.h"

/* The first byte chooses the method that is answered, and limits. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct h1_limits limits[] = {{32768, 100, 8192, 0, false}, {64, 4, 16, 5, false}};
    static const enum method methods[] = {METHOD_GET, METHOD_HEAD, METHOD_CONNECT, METHOD_OTHER};
    if (size == 0) return 0;
    struct h1_run run = {true, methods[bytes[0] % 4], &limits[bytes[0] / 4 % 2]};
    return fuzz_head(&run, (struct slice){(const char *)bytes + 1, size - 1});
}
