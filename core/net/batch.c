#include "core/net/batch.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { JOIN_MAX = 1024 }; /* to import a vector costs the kernel more than to join a head and a small body */

struct batch {
    struct io_uring ring;
    unsigned count;
    struct msghdr messages[BATCH_MAX];
    char joined[BATCH_MAX][JOIN_MAX];
};

/* What a kernel does not know yet is left out, step by step. */
static int
open_ring(struct io_uring *ring)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0};
    int status = -EINVAL;
    for (size_t i = 0; status == -EINVAL && i < sizeof flags / sizeof flags[0]; i++)
        status = io_uring_queue_init(BATCH_MAX, ring, flags[i]);
    return status;
}

struct batch *
batch_new(void)
{
    const char *wanted = getenv("FLUXGATE_IO_URING");
    if (wanted != NULL && strcmp(wanted, "0") == 0) {
        errno = EPERM;
        return NULL;
    }
    struct batch *batch = malloc(sizeof *batch);
    if (batch == NULL) return NULL;
    int status = open_ring(&batch->ring);
    if (status < 0) {
        free(batch);
        errno = -status;
        return NULL;
    }
    batch->count = 0;
    (void)io_uring_register_ring_fd(&batch->ring); /* since Linux 5.18; it only saves a lookup */
    return batch;
}

void
batch_free(struct batch *batch)
{
    if (batch == NULL) return;
    io_uring_queue_exit(&batch->ring);
    free(batch);
}

/* MSG_DONTWAIT: the kernel does it all while it takes it, or says EAGAIN; nothing is left to come later. */
void
batch_add(struct batch *batch, int fd, struct iovec *iov, size_t count)
{
    enum { FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };
    unsigned i = batch->count++;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&batch->ring); /* there are as many as a batch holds */
    if (count == 1) {
        io_uring_prep_send(sqe, fd, iov->iov_base, iov->iov_len, FLAGS);
    } else if (count == 2 && iov[0].iov_len + iov[1].iov_len <= JOIN_MAX) {
        memcpy(batch->joined[i], iov[0].iov_base, iov[0].iov_len);
        memcpy(batch->joined[i] + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
        io_uring_prep_send(sqe, fd, batch->joined[i], iov[0].iov_len + iov[1].iov_len, FLAGS);
    } else {
        batch->messages[i] = (struct msghdr){.msg_iov = iov, .msg_iovlen = count};
        io_uring_prep_sendmsg(sqe, fd, &batch->messages[i], FLAGS);
    }
    io_uring_sqe_set_data64(sqe, i);
}

bool
batch_run(struct batch *batch, ssize_t results[BATCH_MAX])
{
    unsigned count = batch->count, seen = 0, head;
    struct io_uring_cqe *cqe;
    for (unsigned i = 0; i < count; i++)
        results[i] = -EAGAIN;
    batch->count = 0;
    int submitted = io_uring_submit(&batch->ring);
    io_uring_for_each_cqe(&batch->ring, head, cqe)
    {
        if (cqe->user_data < count) results[cqe->user_data] = cqe->res;
        seen++;
    }
    io_uring_cq_advance(&batch->ring, seen);
    return submitted == (int)count && seen == count;
}
