/* core/http/h1_internal.h: what the files of the HTTP/1 code share. */
#ifndef FLUXGATE_HTTP_H1_INTERNAL_H
#define FLUXGATE_HTTP_H1_INTERNAL_H
#include "core/http/h1.h"

enum field_result {
    FIELD_ROW,   /* name and value are set, *next is behind the line */
    FIELD_END,   /* the empty line, *next is behind it */
    FIELD_AGAIN, /* the line's LF is not there yet */
    FIELD_BAD,   /* *error says why, *next is behind the line */
};

/* Reads one header or trailer line at `at` (RFC 9112 §5). Nothing is said about a line before its LF has
 * come, so that every split of the input gives one result. Hot. */
enum field_result h1_field_read(const char *at, const char *end, const char **next, struct slice *name,
    struct slice *value, enum h1_error *error);

/* Decides framing, connection, upgrade and expectation from the rows (RFC 9112 §6.3, §9.3). Hot. */
enum h1_error framing_decide(struct h1_parser *parser);

/* No body is longer: a backend that counts in signed 64 bits would see a negative length, and another
 * message. */
#define H1_LENGTH_MAX ((uint64_t)INT64_MAX)

/* One Content-Length value, 1*DIGIT up to H1_LENGTH_MAX (RFC 9110 §8.6). The list "5, 5", which may be
 * merged, is refused: two readings of one message are a smuggler's way in. */
bool framing_content_length(struct slice value, uint64_t *bytes);

/* Splits the target by its form (RFC 9112 §3.2). */
enum h1_error h1_target_read(struct h1_head *head);

/* Host against the target (RFC 9112 §3.2, §3.3); sets head.authority. */
enum h1_error h1_host_decide(struct h1_head *head);

enum method method_identify(struct slice text);

#endif
