#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/node.h"

void
complain(
    struct load *load, enum diag_level level, struct place place, const char *hint, const char *format, ...)
{
    char message[900];
    va_list args;
    if (load->said > DIAGS_SHOWN_MAX) {
        if (level == DIAG_ERROR) load->errors++;
        return;
    }
    if (load->said++ == DIAGS_SHOWN_MAX) {
        snprintf(message, sizeof message, "more follow; only the first %d are shown", DIAGS_SHOWN_MAX);
        place = (struct place){place.file, INT_MAX, 0};
        hint = NULL;
    } else {
        va_start(args, format);
        vsnprintf(message, sizeof message, format, args);
        va_end(args);
    }
    struct complaint *complaint = load_alloc(load, sizeof *complaint);
    char *text = load_text(load, "%s", message),
         *hint_copy = hint == NULL ? NULL : load_text(load, "%s", hint);
    if (level == DIAG_ERROR) load->errors++;
    if (complaint == NULL || text == NULL) return;
    *complaint = (struct complaint){level, place, text, hint_copy, load->complaints, load->said};
    load->complaints = complaint;
}

struct order {
    const char *main_file;
    const struct complaint *complaint;
};

/* The main file first, then by name; within a file from top to bottom. */
static int
by_place(const void *left, const void *right)
{
    const struct order *a = left, *b = right;
    const struct place *p = &a->complaint->place, *q = &b->complaint->place;
    int order = strcmp(p->file, q->file);
    if (order != 0)
        return strcmp(p->file, a->main_file) == 0 ? -1 : strcmp(q->file, b->main_file) == 0 ? 1 : order;
    if (p->line != q->line) return p->line < q->line ? -1 : 1;
    if (p->column != q->column) return p->column < q->column ? -1 : 1;
    return a->complaint->number < b->complaint->number ? -1 : 1;
}

void
complaints_flush(struct load *load, const char *main_file)
{
    size_t count = 0, said = load->diags->errors;
    for (const struct complaint *at = load->complaints; at != NULL; at = at->next)
        count++;
    struct order *sorted = count == 0 ? NULL : load_alloc(load, count * sizeof *sorted);
    size_t n = 0;
    for (const struct complaint *at = load->complaints; sorted != NULL && at != NULL; at = at->next)
        sorted[n++] = (struct order){main_file, at};
    if (n > 0) qsort(sorted, n, sizeof *sorted, by_place);
    for (size_t i = 0; i < n; i++) {
        const struct complaint *one = sorted[i].complaint;
        struct place place = one->place;
        if (place.line == INT_MAX) place.line = 0;
        diag_add(load->diags, one->level, place, one->hint, "%s", one->text);
    }
    if (load->diags->errors - said < load->errors) load->diags->errors = said + load->errors;
}

void *
load_alloc(struct load *load, size_t bytes)
{
    void *result = arena_calloc(load->arena, bytes);
    if (result == NULL) load->diags->failed = true;
    return result;
}

char *
load_text(struct load *load, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : load_alloc(load, (size_t)n + 1);
    if (text != NULL) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

const char *
shown(struct load *load, const char *text)
{
    enum { LIMIT = 80 };
    struct strbuf buf = {0};
    struct slice rest = slice_of(text);
    size_t used = 0;
    strbuf_add_char(&buf, '\'');
    while (rest.len > 0 && used < LIMIT) {
        size_t n = text_utf8_length(rest);
        unsigned char c = (unsigned char)rest.at[0];
        if (n == 0 || c < 0x20 || c == 0x7f) {
            strbuf_printf(&buf, "\\x%02x", c);
            n = 1;
        } else {
            strbuf_add(&buf, rest.at, n);
        }
        rest.at += n;
        rest.len -= n;
        used++;
    }
    strbuf_add_text(&buf, rest.len > 0 ? "…'" : "'");
    const char *copy = buf.failed ? NULL : arena_strdup(load->arena, strbuf_slice(&buf));
    strbuf_fini(&buf);
    return copy == NULL ? "it" : copy;
}
