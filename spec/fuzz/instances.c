/* room: discovery */
/* A registry's answer, of either contract, as JSON and as protobuf. Whatever the bytes: what is accepted
 * keeps the limits that the endpoint table relies on, and what is written of it reads back to the same
 * (parse, write, parse). */
#include <stdint.h>
#include <stdlib.h>

#include "core/base/text.h"
#include "core/discovery/instance.h"
#include "core/shm/shm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool holds)
{
    if (!holds) abort();
}

static void
row_check(const struct known_instance *row)
{
    const struct instance *view = &row->view;
    require(view->id.len > 0 && view->id.len < SLOT_ID_BYTES && text_is_utf8(view->id));
    require(view->service.len > 0 && view->service.len < SHM_NAME_BYTES && text_is_utf8(view->service));
    require(view->zone.len < SLOT_ZONE_BYTES && view->metadata.len < SLOT_META_BYTES);
    require(view->host.len > 0 && view->host.len < SLOT_HOST_BYTES);
    require(view->weight <= 65535);
    require(row->connect_port >= 1 && row->connect_port <= 65535);
    require(row->connect_host.len > 0 && row->connect_host.len < SLOT_HOST_BYTES);
    require(row->path_prefix.len < SLOT_PATH_BYTES && view->health_path.len < SLOT_PATH_BYTES);
    const struct slice paths[] = {row->path_prefix, view->health_path};
    for (size_t i = 0; i < 2; i++) {
        require(paths[i].len == 0 || paths[i].at[0] == '/');
        for (size_t at = 0; at < paths[i].len; at++) /* nothing may break out of a request line */
            require((unsigned char)paths[i].at[at] > 0x20 && (unsigned char)paths[i].at[at] < 0x7f);
    }
}

static void
all_check(struct instances *all)
{
    struct strbuf once = {0}, twice = {0};
    const char *why = NULL;
    if (all == NULL) return;
    for (size_t i = 0; i < all->count; i++)
        row_check(&all->rows[i]);
    if (text_is_utf8(all->epoch) && all->index <= INT64_MAX) {
        instances_to_json(all, NULL, NULL, NULL, &once);
        struct instances *again = instances_from_json(strbuf_slice(&once), &why);
        require(again != NULL && again->count == all->count && again->bad == 0);
        instances_to_json(again, NULL, NULL, NULL, &twice);
        require(slice_equal(strbuf_slice(&once), strbuf_slice(&twice)));
        instances_free(again);
    }
    strbuf_fini(&once);
    strbuf_fini(&twice);
    instances_free(all);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = {(const char *)data, size};
    const char *why = NULL;
    all_check(instances_from_json(bytes, &why));
    all_check(instances_from_snapshot(bytes, &why));
    all_check(instances_from_healthy(bytes, &why));
    return 0;
}
