/* registry/store.h: where registrations outlive the process. One interface, a file for each kind. */
#ifndef FLUXGATE_REGISTRY_STORE_H
#define FLUXGATE_REGISTRY_STORE_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum { STORE_EPOCH_BYTES = 17 };

/* An instance as its owner described it. All text is UTF-8 without NUL; `metadata` is a JSON object or empty.
 */
struct spec {
    struct slice id, service, host, url, health_path, zone, version, metadata;
    uint32_t port, weight;
    uint64_t ttl_us; /* 0: the registry's lease_ttl */
    bool maintenance, draining;
};

struct store;

/* The five things a store does. Changes are durable (against the end of the process) once a call has returned
 * true; `index` is the model's change index after the change and is kept with it. */
struct store_ops {
    const char *name;
    /* Calls `each` for every row kept, then gives index and epoch ("" where it had none). */
    bool (*load)(struct store *store, bool (*each)(void *context, const struct spec *spec, bool lapsed),
        void *context, uint64_t *index, char epoch[STORE_EPOCH_BYTES]);
    bool (*put)(struct store *store, const struct spec *spec, bool lapsed, uint64_t index);
    bool (*remove)(struct store *store, struct slice id, uint64_t index);
    bool (*begin)(
        struct store *store, const char *epoch, uint64_t index); /* a new life: this epoch from now on */
    void (*close)(struct store *store);
};

/* What every store begins with. */
struct store {
    const struct store_ops *ops;
    char error[512]; /* of the last call that failed; names the file */
};

/* "memory" or "sqlite:/path". NULL: *why says what failed, in a buffer that lives until the next call. */
MUST_CHECK
struct store *store_open(const char *url, const char **why);

MUST_CHECK
struct store *store_memory_open(void);
MUST_CHECK
struct store *store_sqlite_open(const char *path, const char **why);

#endif
