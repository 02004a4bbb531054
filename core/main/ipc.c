#include "core/main/ipc.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* What travels: everything of struct ipc_message before `fds`, then text_len bytes. */
enum { WIRE_BYTES = offsetof(struct ipc_message, fds) };

bool
ipc_pair(int fds[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0;
}

bool
ipc_send(int fd, const struct ipc_message *message)
{
    struct ipc_message head = {0};
    union {
        char bytes[CMSG_SPACE(sizeof(int) * IPC_FDS_MAX)];
        struct cmsghdr align;
    } control;
    if (message->fd_count > IPC_FDS_MAX || message->text_len >= IPC_TEXT_MAX) {
        errno = EMSGSIZE;
        return false;
    }
    memcpy(&head, message, WIRE_BYTES);
    struct iovec parts[2] = {{&head, WIRE_BYTES}, {(void *)message->text, message->text_len}};
    struct msghdr wire = {.msg_iov = parts, .msg_iovlen = 2};
    if (message->fd_count > 0) {
        size_t bytes = sizeof(int) * message->fd_count;
        memset(&control, 0, sizeof control);
        wire.msg_control = control.bytes;
        wire.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&wire);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(c), message->fds, bytes);
    }
    ssize_t n;
    do {
        n = sendmsg(fd, &wire, MSG_NOSIGNAL);
    } while (n == -1 && errno == EINTR);
    return n != -1;
}

static void
take_fds(struct msghdr *wire, struct ipc_message *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(wire); c != NULL; c = CMSG_NXTHDR(wire, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (message->fd_count < IPC_FDS_MAX)
                message->fds[message->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

int
ipc_receive(int fd, struct ipc_message *message)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * IPC_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec parts[2] = {{message, WIRE_BYTES}, {message->text, IPC_TEXT_MAX - 1}};
    struct msghdr wire = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof control};
    ssize_t n;
    do {
        n = recvmsg(fd, &wire, MSG_CMSG_CLOEXEC);
    } while (n == -1 && errno == EINTR);
    message->fd_count = 0;
    if (n == -1) return errno == EAGAIN ? 0 : -1;
    if (n == 0) {
        errno = ECONNRESET;
        return -1;
    }
    take_fds(&wire, message);
    size_t text = n > WIRE_BYTES ? (size_t)(n - WIRE_BYTES) : 0;
    if (n < WIRE_BYTES || (wire.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
        message->type >= IPC_TYPE_COUNT || message->text_len != text) {
        ipc_close_fds(message);
        errno = EPROTO;
        return -1;
    }
    message->text[text] = '\0';
    message->hash[sizeof message->hash - 1] = '\0';
    return 1;
}

void
ipc_close_fds(struct ipc_message *message)
{
    for (size_t i = 0; i < message->fd_count; i++) {
        if (message->fds[i] != -1) close(message->fds[i]);
    }
    message->fd_count = 0;
}
