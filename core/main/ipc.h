/* core/main/ipc.h: messages between the supervisor and its children: one SOCK_SEQPACKET pair a child,
 * descriptors beside. */
#ifndef FLUXGATE_MAIN_IPC_H
#define FLUXGATE_MAIN_IPC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/compiler.h"

enum { IPC_FDS_MAX = 200, IPC_TEXT_MAX = 8192 };

/* name; direction and what it carries */
#define IPC_TYPES(X)                                                                                         \
    X(GENERATION) /* down: number, ports; ok: to control, all serve; fds: bundle, then the child's own       \
                     sockets */                                                                              \
    X(COMMIT)     /* down, control: every worker runs generation `number` */                                 \
    X(RELOADED) /* down, control: ok and text, for those of the first `number` requests on the admin address \
                   that wait */                                                                              \
    X(DRAIN)    /* down: limits */                                                                           \
    X(REOPEN)   /* down, control: log files */                                                               \
    X(HELP)     /* down, a worker: the sockets of a sibling that stands still, to accept from once */        \
    X(DUMP)     /* down, workers: open streams into the log */                                               \
    X(USING)    /* up: generation `number` runs here (ok), or why not (text) */                              \
    X(ALIVE)    /* up, control and registry: now and then */                                                 \
    X(READY)    /* up, control: endpoints stand in the table */                                              \
    X(WANT_RELOAD) /* up, control: somebody asked on the admin address, as the `number`-th */                \
    X(WANT_DRAIN)  /* up, control: the same */
#define X(name) IPC_##name,
enum ipc_type { IPC_TYPES(X) IPC_TYPE_COUNT };
#undef X

struct ipc_bound { /* ports that the kernel chose, or that stand in the file */
    uint16_t admin, registry_http, registry_grpc;
};

struct ipc_message {
    uint32_t type;
    uint32_t number;
    uint32_t ok;
    struct ipc_bound bound;
    uint32_t wake_count; /* a worker's first generation: so many wake descriptors come behind the bundle */
    uint64_t requests_us, tunnels_us;
    char hash[17];
    uint32_t text_len;
    /* filled beside the wire struct */
    int fds[IPC_FDS_MAX];
    size_t fd_count;
    char text[IPC_TEXT_MAX]; /* NUL-terminated */
};

/* Both ends non-blocking and close-on-exec. */
MUST_CHECK
bool ipc_pair(int fds[2]);

/* Sends one message; its descriptors are duplicated by the kernel, the caller keeps its own. False with errno
 * (EAGAIN: the peer does not read; the caller decides whether it is dead). */
MUST_CHECK
bool ipc_send(int fd, const struct ipc_message *message);

/* Receives one message into *message, whose descriptors the caller then owns. 1: one came; 0: none now; -1:
 * the peer is gone or sent what is no message of ours (errno EPROTO). */
MUST_CHECK
int ipc_receive(int fd, struct ipc_message *message);

void ipc_close_fds(struct ipc_message *message); /* closes what nobody took; sets fd_count 0 */

#endif
