#include "registry/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The memory store keeps nothing: a restart begins a new epoch with no instances. */

static bool
memory_load(struct store *store, bool (*each)(void *context, const struct spec *spec, bool lapsed),
    void *context, uint64_t *index, char epoch[STORE_EPOCH_BYTES])
{
    (void)store;
    (void)each;
    (void)context;
    *index = 0;
    epoch[0] = '\0';
    return true;
}

static bool
memory_put(struct store *store, const struct spec *spec, bool lapsed, uint64_t index)
{
    (void)store;
    (void)spec;
    (void)lapsed;
    (void)index;
    return true;
}

static bool
memory_remove(struct store *store, struct slice id, uint64_t index)
{
    (void)store;
    (void)id;
    (void)index;
    return true;
}

static bool
memory_begin(struct store *store, const char *epoch, uint64_t index)
{
    (void)store;
    (void)epoch;
    (void)index;
    return true;
}

static void
memory_close(struct store *store)
{
    free(store);
}

static const struct store_ops memory_ops = {
    .name = "memory",
    .load = memory_load,
    .put = memory_put,
    .remove = memory_remove,
    .begin = memory_begin,
    .close = memory_close,
};

struct store *
store_memory_open(void)
{
    struct store *store = calloc(1, sizeof *store);
    if (store != NULL) store->ops = &memory_ops;
    return store;
}

struct store *
store_open(const char *url, const char **why)
{
    static char text[256];
    static const char sqlite[] = "sqlite:";
    if (url == NULL || strcmp(url, "memory") == 0) {
        *why = "out of memory";
        return store_memory_open();
    }
    if (strncmp(url, sqlite, sizeof sqlite - 1) == 0 && url[sizeof sqlite - 1] != '\0') {
        return store_sqlite_open(url + sizeof sqlite - 1, why);
    }
    snprintf(text, sizeof text, "registry.store: '%.150s' is neither memory nor sqlite:/path", url);
    *why = text;
    return NULL;
}
