/* registry/validate.h: whether what a client sent is an instance. Shared by REST and gRPC. */
#ifndef FLUXGATE_REGISTRY_VALIDATE_H
#define FLUXGATE_REGISTRY_VALIDATE_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "registry/store.h"

enum {
    ID_BYTES_MAX = 255,
    NAME_BYTES_MAX = 255,
    HOST_BYTES_MAX = 255,
    URL_BYTES_MAX = 1279, /* a host, and a path of 1023 */
    PATH_BYTES_MAX = 1023,
    ZONE_BYTES_MAX = 63,
    VERSION_BYTES_MAX = 127,
    METADATA_BYTES_MAX = 2047,
    WEIGHT_MAX = 65535,
};
#define TTL_MIN_US UINT64_C(100000)
#define TTL_MAX_US (UINT64_C(24) * 3600 * 1000000)

/* What is wrong, and with which field ("" where it is the whole). Both static or in the arena. */
struct complaint {
    const char *field, *error;
};

enum contract {
    CONTRACT_REST_V1, /* id, serviceName, url and healthPath must be there */
    CONTRACT_LOOSE,   /* id, serviceName, and url or host with port */
};

/* Checks `spec` (slices borrowed from anywhere; port 0 and empty slices are "not given") and fills in what
 * the rest says: host and port from the url, the url from host and port, weight 1. False: *complaint. */
MUST_CHECK
bool validate_spec(
    struct spec *spec, enum contract contract, struct arena *arena, struct complaint *complaint);

/* The instance in a JSON object. v1 takes the six fields of the old contract and ignores every other key; v2
 * all. `flags` (may be NULL) is told whether maintenance and draining were stated. */
struct stated {
    bool maintenance, draining, weight;
};
MUST_CHECK
bool validate_json(struct slice body, bool is_v2, struct arena *arena, struct spec *spec,
    struct stated *stated, struct complaint *complaint);

/* A PATCH of an instance: {maintenance, draining, weight}. Only what is stated changes *spec. */
MUST_CHECK
bool validate_patch(struct slice body, struct arena *arena, struct spec *spec, struct stated *stated,
    struct complaint *complaint);

/* Empty, or a JSON object; kept in compact form in the arena. */
MUST_CHECK
bool validate_metadata(struct slice text, struct arena *arena, struct slice *out);

#endif
