#include "core/base/diag.h"

#include <stdarg.h>
#include <stdlib.h>

#include "core/base/strbuf.h"

static bool
push(struct diags *diags, struct diag row)
{
    if (diags->count == diags->cap) {
        size_t cap = diags->cap == 0 ? 8 : diags->cap * 2;
        struct diag *rows = realloc(diags->rows, cap * sizeof *rows);
        if (rows == NULL) return false;
        diags->rows = rows;
        diags->cap = cap;
    }
    diags->rows[diags->count++] = row;
    return true;
}

void
diag_add(
    struct diags *diags, enum diag_level level, struct place place, const char *hint, const char *format, ...)
{
    struct strbuf text = {0};
    va_list args;
    char message[1024];
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (place.file != NULL) {
        strbuf_add_text(&text, place.file);
        if (place.line > 0) strbuf_printf(&text, ":%d", place.line);
        if (place.line > 0 && place.column > 0) strbuf_printf(&text, ":%d", place.column);
        strbuf_add_text(&text, ": ");
    }
    strbuf_add_text(&text, level == DIAG_ERROR ? "error: " : "warning: ");
    strbuf_add_text(&text, message);
    if (hint != NULL) strbuf_printf(&text, "; did you mean '%s'?", hint);
    if (level == DIAG_ERROR) diags->errors++;
    if (text.failed || !push(diags, (struct diag){level, text.at})) {
        diags->failed = true;
        strbuf_fini(&text);
    }
}

void
diags_print(const struct diags *diags, FILE *out)
{
    for (size_t i = 0; i < diags->count; i++)
        fprintf(out, "%s\n", diags->rows[i].text);
    if (diags->failed) fputs("error: out of memory while the configuration was read\n", out);
}

void
diags_fini(struct diags *diags)
{
    for (size_t i = 0; i < diags->count; i++)
        free(diags->rows[i].text);
    free(diags->rows);
    *diags = (struct diags){0};
}
