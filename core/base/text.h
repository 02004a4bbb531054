/* core/base/text.h: numbers, durations, sizes and names in text. No locale, no blanks, no signs taken in. */
#ifndef FLUXGATE_BASE_TEXT_H
#define FLUXGATE_BASE_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

/* 1*DIGIT up to `max`; false leaves *value alone. */
MUST_CHECK
bool text_parse_u64(struct slice s, uint64_t max, uint64_t *value);

/* Go's durations: 500ms, 1m30s, 1.5h, 250us, 0; a bare number other than 0 is refused. Into microseconds. */
MUST_CHECK
bool text_parse_duration(struct slice s, uint64_t *us);

/* 512, 32k, 8M, 1g, 64KiB, 10MB: factors are 1024 throughout. */
MUST_CHECK
bool text_parse_size(struct slice s, uint64_t *bytes);

/* The shortest Go form of a duration ("1m30s", "500ms", "0s"); `out` takes 32 bytes. */
void text_format_duration(uint64_t us, char out[32]);

/* Bytes of the UTF-8 character that `s` begins with (RFC 3629: no overlong forms, no surrogates), 0 where it
 * is none. */
size_t text_utf8_length(struct slice s);
bool text_is_utf8(struct slice s);

/* The entry of `names` (NULL-terminated) nearest to `wrong` by edit distance, NULL where none is near enough
 * to be meant (more than a third of its letters differ, and more than two). Names up to 63 bytes. */
const char *text_nearest(struct slice wrong, const char *const *names);

/* Copies into a fixed field with its NUL; false, and an empty field, where it does not fit or holds a NUL. */
MUST_CHECK
bool text_copy(char *out, size_t size, struct slice s);

/* A 64-bit hash (XXH3) for tables; not for secrets. Stable between processes and machines. Hot. */
uint64_t text_hash(struct slice s);

/* The same under a secret: who does not know those random bytes cannot choose texts that collide. (A secret
 * put in front of the text would not do: XXH3 adds up its 16-byte pieces each by itself.) Hot. */
enum { TEXT_SECRET_BYTES = 192 };
uint64_t text_hash_secret(struct slice s, const uint8_t secret[TEXT_SECRET_BYTES]);

#endif
