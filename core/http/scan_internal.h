/* core/http/scan_internal.h: byte classes and the vectorised searches over them. */
#ifndef FLUXGATE_HTTP_SCAN_INTERNAL_H
#define FLUXGATE_HTTP_SCAN_INTERNAL_H
#include <stdbool.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "core/base/compiler.h"

enum {
    BYTE_TOKEN = 1,  /* tchar, RFC 9110 §5.6.2 */
    BYTE_TEXT = 2,   /* HTAB, SP, VCHAR, obs-text: what a field value or a reason phrase holds */
    BYTE_TARGET = 4, /* VCHAR but '#': what a request target is let in with */
    BYTE_HOST = 8,   /* unreserved and sub-delims but ',' */
    BYTE_PLAIN = 16, /* unreserved, RFC 3986 §2.3 */
    BYTE_DIGIT = 32,
};

extern const uint8_t byte_class[256];
extern const uint8_t byte_hex[256]; /* value of a hex digit, 255 where it is none */

static inline bool
byte_is(char c, unsigned class)
{
    return (byte_class[(unsigned char)c] & class) != 0;
}

/* The first byte of [at, end) outside `class`, `end` where there is none. */
static inline const char *
scan_class(const char *at, const char *end, unsigned class)
{
    while (at < end && byte_is(*at, class))
        at++;
    return at;
}

/* As scan_class with BYTE_TOKEN: letters, digits and '-', which names are made of, 16 bytes a step. */
static inline const char *
scan_token(const char *at, const char *end)
{
#ifdef __SSE2__
    const __m128i zero = _mm_setzero_si128(), dash = _mm_set1_epi8('-');
    for (; end - at >= 16; at += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i letter = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
        __m128i digit = _mm_sub_epi8(v, _mm_set1_epi8('0')); /* below wraps, so exceeds 9 */
        __m128i good = _mm_or_si128(_mm_cmpeq_epi8(_mm_subs_epu8(letter, _mm_set1_epi8(25)), zero),
            _mm_cmpeq_epi8(_mm_subs_epu8(digit, _mm_set1_epi8(9)), zero));
        int mask = _mm_movemask_epi8(_mm_or_si128(good, _mm_cmpeq_epi8(v, dash))) ^ 0xffff;
        if (mask == 0) continue;
        at += __builtin_ctz((unsigned)mask);
        break;
    }
#endif
    return scan_class(at, end, BYTE_TOKEN);
}

/* As scan_class with BYTE_TEXT, 16 bytes a step. */
static inline const char *
scan_text(const char *at, const char *end)
{
#ifdef __SSE2__
    const __m128i top = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\t'), del = _mm_set1_epi8(0x7f);
    for (; end - at >= 16; at += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, top), v);
        __m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(v, tab), control), _mm_cmpeq_epi8(v, del));
        int mask = _mm_movemask_epi8(bad);
        if (mask != 0) return at + __builtin_ctz((unsigned)mask);
    }
#endif
    return scan_class(at, end, BYTE_TEXT);
}

/* As scan_class with BYTE_TARGET, 16 bytes a step. */
static inline const char *
scan_target(const char *at, const char *end)
{
#ifdef __SSE2__
    const __m128i blank = _mm_set1_epi8(' '), hash = _mm_set1_epi8('#'), del = _mm_set1_epi8(0x7f);
    for (; end - at >= 16; at += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i odd = _mm_or_si128(_mm_cmpeq_epi8(v, hash), _mm_cmpeq_epi8(v, del));
        __m128i good =
            _mm_andnot_si128(odd, _mm_cmpgt_epi8(v, blank)); /* signed: bytes past 0x7f are below */
        int mask = _mm_movemask_epi8(good) ^ 0xffff;
        if (mask != 0) return at + __builtin_ctz((unsigned)mask);
    }
#endif
    return scan_class(at, end, BYTE_TARGET);
}

#endif
