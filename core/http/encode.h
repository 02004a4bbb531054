/* core/http/encode.h: a body's content coding (RFC 9110 §8.4.1), made as it streams: gzip (RFC 1952), deflate
 * (RFC 1950) and zstd (RFC 8878). No sockets, no clock; memory only in encoder_new. */
#ifndef FLUXGATE_HTTP_ENCODE_H
#define FLUXGATE_HTTP_ENCODE_H
#include <stdbool.h>
#include <stddef.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum encode_kind { ENCODE_GZIP, ENCODE_DEFLATE, ENCODE_ZSTD };
struct encoder;

/* level 1 to 9, in each library's own terms. NULL: out of memory. */
MUST_CHECK
struct encoder *encoder_new(enum encode_kind kind, int level);
void encoder_free(struct encoder *encoder); /* NULL is fine */

/* Takes from the front of *in what fits, and puts what it becomes at out[*len...cap). What is taken is
 * flushed once *in is empty, so that a client sees each chunk when it comes. `finish`: nothing follows *in.
 * Call again while *in is not empty or *more is set. False: the library failed, the body is to be cut. */
MUST_CHECK
bool encoder_step(
    struct encoder *encoder, struct slice *in, bool finish, char *out, size_t cap, size_t *len, bool *more);
#endif
