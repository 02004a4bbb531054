/* The servers behind every competitor of bench/run.sh: one thread, one port for each argument, HTTP/1.1
 * without frills. It trusts its peers' syntax, since nothing but the benchmark talks to it.
 *
 *     backend PORT...        GET /64, /16k, /1m: a body of that size; a request body is read and dropped
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
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, BUFFER = 64 * 1024, LISTENERS = 64 };

struct answer {
    const char *path;
    size_t body;
    char *bytes[2]; /* [1] says that the connection ends with it */
    size_t len[2];
};

static struct answer answers[] = {{.path = "/64", .body = 64}, {.path = "/16k", .body = 16 * 1024},
    {.path = "/1m", .body = 1024 * 1024}, {.path = "/", .body = 64}};

struct conn {
    int fd;
    bool listens, waits, close_after;
    size_t body_left;          /* of a request body still to come */
    const struct answer *next; /* what follows that body */
    const char *out;
    size_t out_left;
    char *kept; /* a part of a request that ended mid-head, or came while an answer was under way */
    size_t kept_len;
};

static int loop;
static char buffer[2 * BUFFER];

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
watch(int operation, struct conn *conn, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(loop, operation, conn->fd, &event) == -1) fail("epoll_ctl");
}

static void
prepare(struct answer *answer, int last)
{
    char head[256];
    int n = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        "Content-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n",
        answer->body, last ? "Connection: close\r\n" : "");
    char *bytes = malloc((size_t)n + answer->body);
    if (bytes == NULL) fail("malloc");
    memcpy(bytes, head, (size_t)n);
    memset(bytes + n, 'x', answer->body);
    answer->bytes[last] = bytes;
    answer->len[last] = (size_t)n + answer->body;
}

/* Reads the head at `at`: what it asks for, its body's length, whether it is the last. */
static void
read_head(struct conn *conn, const char *at, const char *end)
{
    const char *path = memchr(at, ' ', (size_t)(end - at));
    conn->next = &answers[sizeof answers / sizeof answers[0] - 1];
    conn->body_left = 0;
    for (const struct answer *a = answers; path != NULL && a->path[1] != '\0'; a++)
        if (strncmp(path + 1, a->path, strlen(a->path)) == 0) conn->next = a;
    for (const char *line = at; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL) return;
        if ((*line | 32) == 'c') {
            if (strncasecmp(line, "content-length:", 15) == 0) conn->body_left = strtoul(line + 15, NULL, 10);
            if (strncasecmp(line, "connection: close", 17) == 0) conn->close_after = true;
        }
        line = stop + 1;
    }
}

static bool
conn_write(struct conn *conn)
{
    ssize_t sent = write(conn->fd, conn->out, conn->out_left);
    if (sent == -1 && errno != EAGAIN) return false;
    if (sent > 0) conn->out += sent, conn->out_left -= (size_t)sent;
    return true;
}

static bool
keep(struct conn *conn, const char *at, size_t len)
{
    if (len > BUFFER) return false;
    if (len == 0) return true;
    conn->kept = malloc(len);
    if (conn->kept == NULL) return false;
    memcpy(conn->kept, at, len);
    conn->kept_len = len;
    return true;
}

/* Takes one request after another out of the bytes, answering each that is whole. False ends the connection.
 */
static bool
serve(struct conn *conn, const char *at, size_t len)
{
    for (;;) {
        if (conn->next == NULL) {
            const char *end = len == 0 ? NULL : memmem(at, len, "\r\n\r\n", 4);
            if (end == NULL) return keep(conn, at, len);
            read_head(conn, at, end + 2);
            len -= (size_t)(end + 4 - at);
            at = end + 4;
        }
        size_t body = conn->body_left < len ? conn->body_left : len;
        conn->body_left -= body;
        at += body;
        len -= body;
        if (conn->body_left > 0) return true;
        conn->out = conn->next->bytes[conn->close_after];
        conn->out_left = conn->next->len[conn->close_after];
        conn->next = NULL;
        if (!conn_write(conn)) return false;
        if (conn->out_left > 0) {
            conn->waits = true;
            watch(EPOLL_CTL_MOD, conn, EPOLLOUT);
            return keep(conn, at, len);
        }
        if (conn->close_after) return false;
    }
}

static bool
on_readable(struct conn *conn)
{
    size_t kept = conn->kept_len;
    if (kept > 0) {
        memcpy(buffer, conn->kept, kept);
        free(conn->kept);
        conn->kept = NULL;
        conn->kept_len = 0;
    }
    ssize_t got = read(conn->fd, buffer + kept, BUFFER);
    if (got == 0) return false;
    if (got == -1) return errno == EAGAIN && keep(conn, buffer, kept);
    return serve(conn, buffer, kept + (size_t)got);
}

static bool
on_writable(struct conn *conn)
{
    if (!conn_write(conn)) return false;
    if (conn->out_left > 0) return true;
    if (conn->close_after) return false;
    conn->waits = false;
    watch(EPOLL_CTL_MOD, conn, EPOLLIN);
    return true;
}

static void
accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
        if (fd == -1) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EMFILE) return;
            fail("accept4");
        }
        struct conn *conn = calloc(1, sizeof *conn);
        if (conn == NULL) fail("calloc");
        conn->fd = fd;
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == -1) fail("TCP_NODELAY");
        watch(EPOLL_CTL_ADD, conn, EPOLLIN);
    }
}

static void
listen_on(const char *port)
{
    struct sockaddr_in here = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(port)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct conn *conn = calloc(1, sizeof *conn);
    int on = 1;
    if (conn == NULL) fail("calloc");
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    conn->listens = true;
    if (conn->fd == -1) fail("socket");
    if (setsockopt(conn->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == -1) fail("SO_REUSEADDR");
    if (bind(conn->fd, (struct sockaddr *)&here, sizeof here) == -1) fail("bind");
    if (listen(conn->fd, 4096) == -1) fail("listen");
    watch(EPOLL_CTL_ADD, conn, EPOLLIN);
}

int
main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];
    if (argc < 2 || argc > LISTENERS) {
        fprintf(stderr, "usage: backend PORT...\n");
        return 64;
    }
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) fail("signal");
    loop = epoll_create1(0);
    if (loop == -1) fail("epoll_create1");
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        prepare(&answers[i], 0);
        prepare(&answers[i], 1);
    }
    for (int i = 1; i < argc; i++)
        listen_on(argv[i]);
    for (;;) {
        int n = epoll_wait(loop, events, EVENTS, -1);
        if (n == -1 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < n; i++) { /* one event a connection and batch: closing frees at once */
            struct conn *conn = events[i].data.ptr;
            if (conn->listens) {
                accept_all(conn->fd);
            } else if (!(conn->waits ? on_writable(conn) : on_readable(conn))) {
                close(conn->fd);
                free(conn->kept);
                free(conn);
            }
        }
    }
}
