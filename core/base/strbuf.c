#include "core/base/strbuf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/text.h"

void
strbuf_fini(struct strbuf *buf)
{
    free(buf->at);
    *buf = (struct strbuf){0};
}

void
strbuf_clear(struct strbuf *buf)
{
    buf->len = 0;
    buf->failed = false;
    if (buf->at != NULL) buf->at[0] = '\0';
}

static bool
reserve(struct strbuf *buf, size_t more)
{
    size_t need, cap = buf->cap < 64 ? 64 : buf->cap;
    if (buf->failed || __builtin_add_overflow(buf->len, more, &need) || need >= SIZE_MAX / 4) goto fail;
    if (need < buf->cap) return true;
    while (cap <= need)
        cap *= 2;
    char *at = realloc(buf->at, cap);
    if (at == NULL) goto fail;
    buf->at = at;
    buf->cap = cap;
    return true;
fail:
    buf->failed = true;
    return false;
}

void
strbuf_add(struct strbuf *buf, const void *bytes, size_t len)
{
    if (!reserve(buf, len)) return;
    if (len > 0) memcpy(buf->at + buf->len, bytes, len);
    buf->len += len;
    buf->at[buf->len] = '\0';
}

void
strbuf_add_slice(struct strbuf *buf, struct slice s)
{
    strbuf_add(buf, s.at, s.len);
}

void
strbuf_add_text(struct strbuf *buf, const char *text)
{
    strbuf_add(buf, text, strlen(text));
}

void
strbuf_add_char(struct strbuf *buf, char c)
{
    strbuf_add(buf, &c, 1);
}

void
strbuf_printf(struct strbuf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        buf->failed = true;
    } else if (reserve(buf, (size_t)n)) {
        vsnprintf(buf->at + buf->len, (size_t)n + 1, format, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

void
strbuf_add_json(struct strbuf *buf, struct slice s)
{
    strbuf_add_char(buf, '"');
    for (size_t i = 0; i < s.len;) {
        unsigned char c = (unsigned char)s.at[i];
        if (c == '"' || c == '\\') {
            char pair[2] = {'\\', (char)c};
            strbuf_add(buf, pair, 2);
            i++;
        } else if (c == '\n') {
            strbuf_add(buf, "\\n", 2);
            i++;
        } else if (c < 0x20 || c == 0x7f) {
            strbuf_printf(buf, "\\u%04x", c);
            i++;
        } else if (c < 0x80) {
            size_t run = i + 1;
            while (run < s.len && (unsigned char)s.at[run] >= 0x20 && (unsigned char)s.at[run] < 0x7f &&
                   s.at[run] != '"' && s.at[run] != '\\')
                run++;
            strbuf_add(buf, s.at + i, run - i);
            i = run;
        } else {
            size_t n = text_utf8_length((struct slice){s.at + i, s.len - i});
            if (n == 0) {
                strbuf_add(buf, "\xef\xbf\xbd", 3);
                i++;
            } else {
                strbuf_add(buf, s.at + i, n);
                i += n;
            }
        }
    }
    strbuf_add_char(buf, '"');
}

void
strbuf_add_escaped(struct strbuf *buf, struct slice s, size_t limit)
{
    size_t n = s.len < limit ? s.len : limit;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            strbuf_printf(buf, "\\x%02x", c);
        } else {
            strbuf_add_char(buf, (char)c);
        }
    }
    if (s.len > limit) strbuf_add_text(buf, "...");
}
