/* core/base/slice.h: a borrowed run of bytes: not NUL-terminated, any byte possible, owned by someone else.
 */
#ifndef FLUXGATE_BASE_SLICE_H
#define FLUXGATE_BASE_SLICE_H
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct slice {
    const char *at;
    size_t len;
};

#define SLICE_NONE     ((struct slice){NULL, 0})
#define SLICE_LIT(lit) ((struct slice){"" lit, sizeof(lit) - 1})

static inline struct slice
slice_of(const char *text) /* borrows `text`; NULL gives the empty slice */
{
    return (struct slice){text, text == NULL ? 0 : strlen(text)};
}

static inline bool
slice_equal(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

/* ASCII case folded, locale never asked. */
static inline unsigned char
ascii_lower(unsigned char c)
{
    return (unsigned char)(c - 'A') < 26 ? (unsigned char)(c | 0x20) : c;
}

static inline bool
slice_equal_nocase(struct slice a, struct slice b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        if (ascii_lower((unsigned char)a.at[i]) != ascii_lower((unsigned char)b.at[i])) return false;
    }
    return true;
}

static inline bool
slice_starts_with(struct slice s, struct slice prefix)
{
    return s.len >= prefix.len && (prefix.len == 0 || memcmp(s.at, prefix.at, prefix.len) == 0);
}

/* Without the blanks and tabs at both ends (RFC 9110 OWS). */
static inline struct slice
slice_trim(struct slice s)
{
    while (s.len > 0 && (s.at[0] == ' ' || s.at[0] == '\t')) {
        s.at++;
        s.len--;
    }
    while (s.len > 0 && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* A heap copy, NUL-terminated; the caller frees it. NULL where memory is out. */
char *slice_dup(struct slice s);

#endif
