#include "core/config/index.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"

static uint32_t *
cell_of(const struct index *index, const char *name, index_name name_at, const void *context)
{
    size_t mask = index->cap - 1, i = (size_t)text_hash(slice_of(name)) & mask;
    while (index->cells[i] != 0 && strcmp(name_at(context, index->cells[i] - 1), name) != 0)
        i = (i + 1) & mask;
    return &index->cells[i];
}

static bool
grow(struct index *index, index_name name_at, const void *context)
{
    struct index bigger = {.count = index->count, .cap = index->cap == 0 ? 16 : index->cap * 2};
    bigger.cells = calloc(bigger.cap, sizeof *bigger.cells);
    if (bigger.cells == NULL) return false;
    for (size_t i = 0; i < index->cap; i++) {
        uint32_t at = index->cells[i];
        if (at != 0) *cell_of(&bigger, name_at(context, at - 1), name_at, context) = at;
    }
    free(index->cells);
    *index = bigger;
    return true;
}

bool
index_add(struct index *index, const char *name, uint32_t at, index_name name_at, const void *context,
    uint32_t *before)
{
    if (before != NULL) *before = UINT32_MAX;
    if (index->count * 2 >= index->cap && !grow(index, name_at, context)) return false;
    uint32_t *cell = cell_of(index, name, name_at, context);
    if (*cell != 0) {
        if (before != NULL) *before = *cell - 1;
        return false;
    }
    *cell = at + 1;
    index->count++;
    return true;
}

bool
index_find(const struct index *index, const char *name, index_name name_at, const void *context, uint32_t *at)
{
    if (index->cap == 0) return false;
    uint32_t cell = *cell_of(index, name, name_at, context);
    if (cell == 0) return false;
    *at = cell - 1;
    return true;
}

void
index_fini(struct index *index)
{
    free(index->cells);
    *index = (struct index){0};
}
