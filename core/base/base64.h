/* core/base/base64.h: RFC 4648. Strict: one text for each run of bytes, so that two who compare texts and two
 * who compare bytes agree. */
#ifndef FLUXGATE_BASE_BASE64_H
#define FLUXGATE_BASE_BASE64_H
#include <stdbool.h>
#include <stddef.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum base64_form {
    BASE64_STANDARD, /* §4, with its padding */
    BASE64_URL,      /* §5, without */
};

/* Bytes that base64_encode writes, no NUL among them; base64_decode writes at most as many as its text has.
 */
size_t base64_length(size_t bytes, enum base64_form form);
void base64_encode(struct slice bytes, enum base64_form form, char *out);

/* False: a length that none has, a byte outside the alphabet, padding where none may be, or last bits that
 * are not zero (§3.5). */
MUST_CHECK
bool base64_decode(struct slice text, enum base64_form form, char *out, size_t *len);

#endif
