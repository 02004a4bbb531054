/* core/health/grpc_check.h: one call of grpc.health.v1.Health/Check over HTTP/2 with prior knowledge, as
 * bytes in and bytes out: no sockets, no clock. ("GRPC Health Checking Protocol" and "gRPC over HTTP2" of
 * grpc/grpc.) */
#ifndef FLUXGATE_HEALTH_GRPC_CHECK_H
#define FLUXGATE_HEALTH_GRPC_CHECK_H
#include <stdbool.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

struct grpc_check;

struct grpc_answer {
    bool is_serving;
    int code;        /* grpc-status; -1 where there was none */
    char detail[96]; /* "SERVING", "NOT_SERVING", "grpc-status 12", "HTTP status 404", … */
};

/* `authority` is "host:port", `service` "" for the server as a whole; both are copied. NULL: out of memory.
 */
MUST_CHECK
struct grpc_check *grpc_check_new(const char *authority, const char *service);
void grpc_check_free(struct grpc_check *check); /* NULL is fine */

/* What is to be sent next, borrowed until the next call; empty where there is nothing now. False: the
 * exchange cannot go on. */
MUST_CHECK
bool grpc_check_send(struct grpc_check *check, struct slice *bytes);
/* Takes what came, split anywhere. False: as above. */
MUST_CHECK
bool grpc_check_receive(struct grpc_check *check, struct slice bytes);
/* NULL while the answer is not complete. */
const struct grpc_answer *grpc_check_answer(const struct grpc_check *check);

#endif
