/* core/base/strbuf.h: a growing byte string for cold paths (admin answers, metrics, messages). Heap. */
#ifndef FLUXGATE_BASE_STRBUF_H
#define FLUXGATE_BASE_STRBUF_H
#include <stdbool.h>
#include <stddef.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

/* All zero is the empty string. Once memory ran out `failed` stays set, further writes are ignored, and the
 * holder asks once at the end. `at` is NUL-terminated whenever it is not NULL. */
struct strbuf {
    char *at;
    size_t len, cap;
    bool failed;
};

void strbuf_fini(struct strbuf *buf);
void strbuf_clear(struct strbuf *buf); /* keeps the memory */
void strbuf_add(struct strbuf *buf, const void *bytes, size_t len);
void strbuf_add_slice(struct strbuf *buf, struct slice s);
void strbuf_add_text(struct strbuf *buf, const char *text);
void strbuf_add_char(struct strbuf *buf, char c);
void strbuf_printf(struct strbuf *buf, const char *format, ...) PRINTF_LIKE(2, 3);

/* A JSON string literal with its quotes; bytes that are not UTF-8 become U+FFFD. */
void strbuf_add_json(struct strbuf *buf, struct slice s);

/* Printable form for logs: control bytes, quotes and backslashes as \xNN, at most `limit` source bytes, then
 * "...". */
void strbuf_add_escaped(struct strbuf *buf, struct slice s, size_t limit);

static inline struct slice
strbuf_slice(const struct strbuf *buf)
{
    return (struct slice){buf->at, buf->len};
}

#endif
