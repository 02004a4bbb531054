/* core/net/batch.h: several sends in one system call, by io_uring (7) where the kernel gives it. */
#ifndef FLUXGATE_NET_BATCH_H
#define FLUXGATE_NET_BATCH_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/base/compiler.h"

enum { BATCH_MAX = 64 };

struct batch;

/* NULL: errno says why (ENOSYS or EPERM: no io_uring here; its users then send one by one).
 * FLUXGATE_IO_URING=0 in the environment turns it off: EPERM. Of one thread, made behind the last fork. */
MUST_CHECK
struct batch *batch_new(void);
void batch_free(struct batch *batch); /* NULL is fine */

/* Puts a send without SIGPIPE and without waiting into the batch, which may hold BATCH_MAX of them. Bytes and
 * *iov stay with the caller, unchanged until batch_run. */
void batch_add(struct batch *batch, int fd, struct iovec *iov, size_t count);
/* Sends all, in the order in which they were added, and empties the batch. results[i] is what sendmsg(2)
 * would have returned, or the negative errno. false: io_uring failed us, the results that it left open are
 * -EAGAIN, and the batch can only be freed. */
MUST_CHECK
bool batch_run(struct batch *batch, ssize_t results[BATCH_MAX]);

#endif
