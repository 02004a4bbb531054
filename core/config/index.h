/* core/config/index.h: names to positions in an array that someone else holds: open addressing, so that ten
 * thousand services or keys are looked up without quadratic time. All zero is empty. */
#ifndef FLUXGATE_CONFIG_INDEX_H
#define FLUXGATE_CONFIG_INDEX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/compiler.h"

struct index {
    uint32_t *cells; /* position + 1; 0 is free */
    size_t count, cap;
};

/* The name that stands at a position of the array. */
typedef const char *(*index_name)(const void *context, uint32_t at);

/* Adds `name` at position `at`. False: memory is out, or (*before set, where before is not NULL) the name is
 * there already. *before is UINT32_MAX otherwise. */
MUST_CHECK
bool index_add(struct index *index, const char *name, uint32_t at, index_name name_at, const void *context,
    uint32_t *before);
bool index_find(
    const struct index *index, const char *name, index_name name_at, const void *context, uint32_t *at);
void index_fini(struct index *index);

#endif
