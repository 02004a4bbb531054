/* core/base/diag.h: complaints about what a person wrote (YAML, Lua, options), gathered so that all are shown
 * at once. */
#ifndef FLUXGATE_BASE_DIAG_H
#define FLUXGATE_BASE_DIAG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "core/base/compiler.h"

enum diag_level { DIAG_ERROR, DIAG_WARNING };

/* Where something stands in a file; `file` is borrowed. line and column count from 1, 0 is "not known". */
struct place {
    const char *file;
    int line, column;
};

struct diag {
    enum diag_level level;
    char *text; /* "file:line:column: error: what was expected" and perhaps "; did you mean 'x'?" */
};

/* All zero is empty. Memory running out sets `failed`, which counts as an error. */
struct diags {
    struct diag *rows;
    size_t count, cap;
    size_t errors;
    bool failed;
};

/* Adds one complaint. `hint` (may be NULL) is the nearest valid name and becomes "; did you mean 'hint'?". */
void diag_add(struct diags *diags, enum diag_level level, struct place place, const char *hint,
    const char *format, ...) PRINTF_LIKE(5, 6);

static inline bool
diags_ok(const struct diags *diags)
{
    return diags->errors == 0 && !diags->failed;
}

/* One line each, in the order found. */
void diags_print(const struct diags *diags, FILE *out);
void diags_fini(struct diags *diags);

#endif
