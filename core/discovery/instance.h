/* core/discovery/instance.h: a registry's answer (REST of either contract, gRPC of either, our snapshot file)
 * as one checked list of instances. Pure: no sockets, no clock. What a peer sent is believed nowhere. */
#ifndef FLUXGATE_DISCOVERY_INSTANCE_H
#define FLUXGATE_DISCOVERY_INSTANCE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/base/strbuf.h"
#include "core/discovery/discovery.h"

/* An instance that passed the checks, and what its url says of where to connect. */
struct known_instance {
    struct instance view;      /* host and port: as registered, from the url where they are missing */
    struct slice connect_host; /* a name or a numeric address without brackets */
    uint32_t connect_port;
    struct slice path_prefix; /* of the url, without its last slash; "" for none */
    uint64_t service_hash;    /* text_hash of view.service */
};

struct instances {
    struct arena arena; /* owns every slice below */
    struct known_instance *rows;
    size_t count, cap;
    size_t bad;          /* left out: malformed, too long, out of range, an id that was there before */
    const char *bad_why; /* of the first one, static text; NULL where bad is 0 */
    struct slice bad_id; /* of the first one, as far as it had one */
    bool is_v2;          /* index and epoch were given */
    uint64_t index;
    struct slice epoch;
};

/* Parses a JSON answer: an array (old contract) or {"index", "epoch", "instances": […]} (v2). NULL: not such
 * a document
 * (*why, static or thread-local text), or out of memory. A bad instance is left out and counted, never a
 * failure. */
MUST_CHECK
struct instances *instances_from_json(struct slice json, const char **why);

/* The same from a serviceregistry.v2.Snapshot, and from a serviceregistry.GetHealthyServicesResponse. */
MUST_CHECK
struct instances *instances_from_snapshot(struct slice message, const char **why);
MUST_CHECK
struct instances *instances_from_healthy(struct slice message, const char **why);

/* The v2 form; what instances_from_json reads back to the same. `also` (may be NULL) adds its rows whose ids
 * are not in `instances` and of which `keep` says so. */
void instances_to_json(const struct instances *instances, const struct instances *also,
    bool (*keep)(void *context, const struct known_instance *row), void *context, struct strbuf *out);

void instances_free(struct instances *instances);

#endif
