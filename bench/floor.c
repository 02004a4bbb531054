/* The floor under every figure of bench/run.sh: a relay on one thread that parses nothing. One upstream
 * connection for each client connection, one read and one write for what either side says, closed together.
 *
 *     floor LISTEN_PORT BACKEND_PORT...      127.0.0.1 throughout
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, BUFFER = 64 * 1024, BACKENDS = 64 };

struct side {
    int fd;
    bool waits; /* for EPOLLOUT, since `pending` could not be written */
    bool ended; /* closes once `pending` is out */
    struct side *peer;
    char *pending; /* what the peer said and this side's socket did not take yet */
    size_t pending_at, pending_len;
};

struct pair {
    struct side client, upstream;
    struct pair *next_dead;
};

static int loop;
static struct pair *dead; /* freed when the batch of events ends: later events may still name them */
static struct sockaddr_in backends[BACKENDS];
static unsigned backend_count, turn;
static char buffer[BUFFER];

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
watch(int operation, struct side *side, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = side};
    if (epoll_ctl(loop, operation, side->fd, &event) == -1) fail("epoll_ctl");
}

static void
pair_close(struct pair *pair)
{
    if (pair->client.fd == -1) return;
    close(pair->client.fd);
    close(pair->upstream.fd);
    pair->client.fd = pair->upstream.fd = -1;
    pair->next_dead = dead;
    dead = pair;
}

/* The client stands first in its pair, so that either side leads to it. */
static struct pair *
pair_of(struct side *side)
{
    return (struct pair *)(side < side->peer ? side : side->peer);
}

/* Keeps what the socket did not take, and stops reading from the one who said it. */
static bool
hold(struct side *to, const char *bytes, size_t len)
{
    to->pending = malloc(len);
    if (to->pending == NULL) return false;
    memcpy(to->pending, bytes, len);
    to->pending_at = 0;
    to->pending_len = len;
    to->waits = true;
    watch(EPOLL_CTL_MOD, to, EPOLLOUT);
    watch(EPOLL_CTL_MOD, to->peer, to->peer->waits ? EPOLLOUT : 0);
    return true;
}

static bool
on_writable(struct side *side)
{
    ssize_t sent = write(side->fd, side->pending + side->pending_at, side->pending_len - side->pending_at);
    if (sent == -1) return errno == EAGAIN;
    side->pending_at += (size_t)sent;
    if (side->pending_at < side->pending_len) return true;
    free(side->pending);
    side->pending = NULL;
    side->waits = false;
    if (side->ended) return false;
    watch(EPOLL_CTL_MOD, side, side->peer->waits ? 0 : EPOLLIN);
    watch(EPOLL_CTL_MOD, side->peer, side->peer->waits ? EPOLLOUT : EPOLLIN);
    return true;
}

static bool
on_readable(struct side *side)
{
    ssize_t got = read(side->fd, buffer, sizeof buffer);
    if (got == -1) return errno == EAGAIN;
    if (got == 0) {
        side->peer->ended = true;
        return side->peer->waits;
    }
    ssize_t sent = write(side->peer->fd, buffer, (size_t)got);
    if (sent == got) return true;
    if (sent == -1 && errno != EAGAIN && errno != ENOTCONN) return false;
    if (sent == -1) sent = 0;
    return hold(side->peer, buffer + sent, (size_t)(got - sent));
}

static void
set_nodelay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == -1) fail("TCP_NODELAY");
}

static void
accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd == -1) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EMFILE) return;
            fail("accept4");
        }
        struct pair *pair = calloc(1, sizeof *pair);
        int upstream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (pair == NULL || upstream == -1) {
            free(pair);
            if (upstream != -1) close(upstream);
            close(fd);
            return;
        }
        set_nodelay(fd);
        set_nodelay(upstream);
        pair->client.fd = fd;
        pair->upstream.fd = upstream;
        pair->client.peer = &pair->upstream;
        pair->upstream.peer = &pair->client;
        const struct sockaddr_in *to = &backends[turn++ % backend_count];
        if (connect(upstream, (const struct sockaddr *)to, sizeof *to) == -1 && errno != EINPROGRESS) {
            close(upstream);
            close(fd);
            free(pair);
            continue;
        }
        watch(EPOLL_CTL_ADD, &pair->client, EPOLLIN);
        watch(EPOLL_CTL_ADD, &pair->upstream, EPOLLIN);
    }
}

static struct sockaddr_in
loopback(const char *port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(port)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void
run(struct side *listener)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(loop, events, EVENTS, -1);
        if (n == -1 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct side *side = events[i].data.ptr;
            if (side == listener) {
                accept_all(listener->fd);
                continue;
            }
            if (side->fd == -1) continue;
            bool alive = false; /* an error while the other side may not take more */
            if (side->waits)
                alive = on_writable(side);
            else if (!side->peer->waits)
                alive = on_readable(side);
            if (!alive) pair_close(pair_of(side));
        }
        while (dead != NULL) {
            struct pair *pair = dead;
            dead = pair->next_dead;
            free(pair->client.pending);
            free(pair->upstream.pending);
            free(pair);
        }
    }
}

int
main(int argc, char **argv)
{
    if (argc < 3 || argc > 2 + BACKENDS) {
        fprintf(stderr, "usage: floor LISTEN_PORT BACKEND_PORT...\n");
        return 64;
    }
    for (int i = 2; i < argc; i++)
        backends[backend_count++] = loopback(argv[i]);
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) fail("signal");
    struct sockaddr_in here = loopback(argv[1]);
    struct side listener = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    int on = 1;
    loop = epoll_create1(0);
    if (loop == -1 || listener.fd == -1) fail("socket");
    if (setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == -1) fail("SO_REUSEADDR");
    if (bind(listener.fd, (struct sockaddr *)&here, sizeof here) == -1) fail("bind");
    if (listen(listener.fd, 4096) == -1) fail("listen");
    watch(EPOLL_CTL_ADD, &listener, EPOLLIN);
    run(&listener);
}
