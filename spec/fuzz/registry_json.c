/* room: registry */
/* Bodies of POST /register and /api/v2/instances. What is accepted is written and read again to the same
 * instance. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/registry_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool holds)
{
    if (!holds) abort();
}

static void
check(struct slice body, bool v2, struct arena *arena)
{
    struct registry registry = {.model.lease_ttl_us = 30000000};
    struct instance first = {0}, second = {0};
    struct stated stated;
    struct complaint complaint = {NULL, NULL};
    struct strbuf once = {0}, twice = {0};
    if (!validate_json(body, v2, arena, &first.spec, &stated, &complaint)) {
        require(complaint.field != NULL && complaint.error != NULL);
        return;
    }
    require(
        first.spec.id.len > 0 && first.spec.port > 0 && first.spec.host.len > 0 && first.spec.url.len > 0);
    if (v2) {
        render_instance_v2(&registry, &first, &once);
    } else {
        render_instance_v1(&first, &once);
    }
    require(validate_json(strbuf_slice(&once), v2, arena, &second.spec, &stated, &complaint));
    if (v2) {
        render_instance_v2(&registry, &second, &twice);
    } else {
        render_instance_v1(&second, &twice);
    }
    require(slice_equal(strbuf_slice(&once), strbuf_slice(&twice)));
    strbuf_fini(&once);
    strbuf_fini(&twice);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct spec spec = {.weight = 1};
    struct stated stated;
    struct complaint complaint;
    struct slice body = {(const char *)data, size};
    check(body, false, &arena);
    check(body, true, &arena);
    (void)!validate_patch(body, &arena, &spec, &stated, &complaint);
    arena_fini(&arena);
    return 0;
}
