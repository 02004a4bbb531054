#include "core/base/text.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

bool
text_parse_u64(struct slice s, uint64_t max, uint64_t *value)
{
    uint64_t n = 0;
    if (s.len == 0) return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned digit = (unsigned char)s.at[i] - (unsigned)'0';
        if (digit > 9) return false;
        if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, digit, &n)) return false;
    }
    if (n > max) return false;
    *value = n;
    return true;
}

static const struct unit {
    const char *name;
    uint64_t factor;
} duration_units[] = {{"us", 1}, {"\xc2\xb5s", 1}, {"ms", 1000}, {"s", 1000000}, {"m", 60000000},
    {"h", 3600000000}, {NULL, 0}},
  size_units[] = {{"", 1}, {"b", 1}, {"k", 1u << 10}, {"kb", 1u << 10}, {"kib", 1u << 10}, {"m", 1u << 20},
      {"mb", 1u << 20}, {"mib", 1u << 20}, {"g", 1u << 30}, {"gb", 1u << 30}, {"gib", 1u << 30}, {NULL, 0}};

static const struct unit *
unit_find(const struct unit *units, struct slice name, bool fold)
{
    for (; units->name != NULL; units++) {
        struct slice known = slice_of(units->name);
        if (fold ? slice_equal_nocase(known, name) : slice_equal(known, name)) return units;
    }
    return NULL;
}

static size_t
digits(struct slice s, size_t from)
{
    size_t end = from;
    while (end < s.len && (unsigned char)(s.at[end] - '0') <= 9)
        end++;
    return end;
}

/* One "number[.fraction]unit" from `at`; returns where it ends, 0 where it is none. */
static size_t
duration_term(struct slice s, size_t at, uint64_t *us)
{
    size_t whole = digits(s, at), fraction = whole;
    uint64_t n = 0, part = 0, scale = 1;
    if (whole == at || !text_parse_u64((struct slice){s.at + at, whole - at}, UINT64_MAX, &n)) return 0;
    if (whole < s.len && s.at[whole] == '.') {
        fraction = digits(s, whole + 1);
        if (fraction == whole + 1 || fraction - whole > 10) return 0;
        if (!text_parse_u64((struct slice){s.at + whole + 1, fraction - whole - 1}, UINT64_MAX, &part))
            return 0;
        for (size_t i = whole + 1; i < fraction; i++)
            scale *= 10;
    }
    size_t end = fraction;
    while (end < s.len && (unsigned char)(s.at[end] - '0') > 9 && s.at[end] != '.')
        end++;
    const struct unit *unit =
        unit_find(duration_units, (struct slice){s.at + fraction, end - fraction}, false);
    if (unit == NULL || __builtin_mul_overflow(n, unit->factor, us)) return 0;
    uint64_t extra = (uint64_t)((double)part / (double)scale * (double)unit->factor + 0.5);
    return __builtin_add_overflow(*us, extra, us) ? 0 : end;
}

bool
text_parse_duration(struct slice s, uint64_t *us)
{
    uint64_t total = 0, term = 0;
    if (s.len == 0) return false;
    if (s.len == 1 && s.at[0] == '0') {
        *us = 0;
        return true;
    }
    for (size_t at = 0; at < s.len;) {
        at = duration_term(s, at, &term);
        if (at == 0 || __builtin_add_overflow(total, term, &total)) return false;
    }
    *us = total;
    return true;
}

bool
text_parse_size(struct slice s, uint64_t *bytes)
{
    size_t end = digits(s, 0);
    uint64_t n;
    if (!text_parse_u64((struct slice){s.at, end}, UINT64_MAX, &n)) return false;
    const struct unit *unit = unit_find(size_units, (struct slice){s.at + end, s.len - end}, true);
    if (unit == NULL || __builtin_mul_overflow(n, unit->factor, &n)) return false;
    *bytes = n;
    return true;
}

void
text_format_duration(uint64_t us, char out[32])
{
    int n = 0;
    if (us != 0 && us % 1000 != 0 && us < 1000000) {
        snprintf(out, 32, "%lluus", (unsigned long long)us);
        return;
    }
    if (us != 0 && us < 1000000) {
        snprintf(out, 32, "%llums", (unsigned long long)(us / 1000));
        return;
    }
    uint64_t hours = us / 3600000000, minutes = us / 60000000 % 60, rest = us % 60000000;
    if (hours > 0) n += snprintf(out + n, 32 - (size_t)n, "%lluh", (unsigned long long)hours);
    if (minutes > 0) n += snprintf(out + n, 32 - (size_t)n, "%llum", (unsigned long long)minutes);
    if (rest == 0 && n > 0) return;
    n += snprintf(out + n, 32 - (size_t)n, "%llu", (unsigned long long)(rest / 1000000));
    if (rest % 1000000 != 0) {
        n += snprintf(out + n, 32 - (size_t)n, ".%06llu", (unsigned long long)(rest % 1000000));
        while (out[n - 1] == '0')
            n--;
    }
    snprintf(out + n, 32 - (size_t)n, "s");
}

size_t
text_utf8_length(struct slice s)
{
    const unsigned char *p = (const unsigned char *)s.at;
    if (s.len == 0) return 0;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
               : (p[0] & 0xf0) == 0xe0        ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                              : 0;
    if (n == 0 || s.len < n) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0; /* overlong, surrogates */
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0; /* overlong, past U+10FFFF */
    return n;
}

bool
text_is_utf8(struct slice s)
{
    while (s.len > 0) {
        size_t n = text_utf8_length(s);
        if (n == 0) return false;
        s.at += n;
        s.len -= n;
    }
    return true;
}

enum { NEAREST_MAX = 64 };

static size_t
edit_distance(struct slice a, struct slice b)
{
    size_t row[NEAREST_MAX];
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t above = row[j], cost = diagonal;
            if (ascii_lower((unsigned char)a.at[i - 1]) != ascii_lower((unsigned char)b.at[j - 1])) cost++;
            if (above + 1 < cost) cost = above + 1;
            if (row[j - 1] + 1 < cost) cost = row[j - 1] + 1;
            diagonal = above;
            row[j] = cost;
        }
    }
    return row[b.len];
}

const char *
text_nearest(struct slice wrong, const char *const *names)
{
    const char *best = NULL;
    size_t best_distance = wrong.len / 3 > 2 ? wrong.len / 3 + 1 : 3;
    if (wrong.len == 0 || wrong.len >= NEAREST_MAX) return NULL;
    for (; *names != NULL; names++) {
        struct slice name = slice_of(*names);
        if (name.len >= NEAREST_MAX) continue;
        size_t distance = edit_distance(wrong, name);
        if (distance < best_distance && distance < name.len) {
            best = *names;
            best_distance = distance;
        }
    }
    return best;
}

bool
text_copy(char *out, size_t size, struct slice s)
{
    out[0] = '\0';
    if (s.len >= size || (s.len > 0 && memchr(s.at, '\0', s.len) != NULL)) return false;
    if (s.len > 0) memcpy(out, s.at, s.len);
    out[s.len] = '\0';
    return true;
}

uint64_t
text_hash(struct slice s)
{
    return XXH3_64bits(s.at, s.len);
}

static_assert(TEXT_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "XXH3 takes it");

uint64_t
text_hash_secret(struct slice s, const uint8_t secret[TEXT_SECRET_BYTES])
{
    return XXH3_64bits_withSecret(s.at, s.len, secret, TEXT_SECRET_BYTES);
}
