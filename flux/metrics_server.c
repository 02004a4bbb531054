/* GET /metrics for Prometheus, on a thread of its own: a registry that hangs must not make the scrape fail as
 * well. */
#include "flux/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/serve/serve.h"

struct metrics_server {
    struct flux_client *client;
    struct event_base *base;
    struct serve *serve;
    struct event *stop;
    int stop_fd; /* eventfd: libevent's own loopbreak is not safe from another thread without its locking */
    pthread_t thread;
};

static void
on_request(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct metrics_server *server = context;
    char *text;
    if (!slice_equal(request->path, SLICE_LIT("/metrics"))) {
        serve_reply(call, 404, "text/plain; charset=utf-8", SLICE_LIT("GET /metrics is served here\n"));
        return;
    }
    if (request->method != METHOD_GET && request->method != METHOD_HEAD) {
        serve_header(call, "Allow", "GET, HEAD");
        serve_reply(call, 405, NULL, SLICE_NONE);
        return;
    }
    text = flux_metrics(server->client);
    if (text == NULL)
        serve_reply(call, 503, "text/plain; charset=utf-8", SLICE_LIT("out of memory\n"));
    else
        serve_reply(call, 200, "text/plain; version=0.0.4; charset=utf-8", slice_of(text));
    free(text);
}

static void
on_stop(evutil_socket_t fd, short what, void *context)
{
    struct metrics_server *server = context;
    (void)fd;
    (void)what;
    event_base_loopbreak(server->base);
}

static void *
run(void *context)
{
    struct metrics_server *server = context;
    event_base_dispatch(server->base);
    return NULL;
}

/* Dual-stack where there is IPv6, all IPv4 addresses else. -1: errno. */
static int
listen_on(int port)
{
    struct sockaddr_in6 v6 = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = in6addr_any};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int on = 1, off = 0, kind = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    int fd = socket(AF_INET6, kind, 0), saved;
    const struct sockaddr *address = (const struct sockaddr *)&v6;
    socklen_t len = sizeof v6;
    if (fd == -1 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == -1) {
        if (fd != -1) close(fd);
        fd = socket(AF_INET, kind, 0);
        address = (const struct sockaddr *)&v4;
        len = sizeof v4;
    }
    if (fd == -1) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 && bind(fd, address, len) == 0 &&
        listen(fd, 64) == 0) {
        return fd;
    }
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void
release(struct metrics_server *server)
{
    if (server->serve != NULL) serve_free(server->serve);
    if (server->stop != NULL) event_free(server->stop);
    if (server->base != NULL) event_base_free(server->base);
    if (server->stop_fd != -1) close(server->stop_fd);
    free(server);
}

struct metrics_server *
metrics_server_start(struct flux_client *client, int port)
{
    const struct serve_limits limits = {
        .body_bytes = 4096, .connections = 64, .header_us = 10 * 1000000ULL, .idle_us = 75 * 1000000ULL};
    struct metrics_server *server = calloc(1, sizeof *server);
    int fd, saved;
    if (server == NULL) return NULL;
    server->client = client;
    server->stop_fd = -1;
    fd = listen_on(port);
    if (fd == -1) goto fail;
    errno = ENOMEM;
    server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->base = event_base_new();
    if (server->stop_fd == -1 || server->base == NULL) goto fail;
    server->stop = event_new(server->base, server->stop_fd, EV_READ, on_stop, server);
    server->serve = serve_new(server->base, SERVE_HTTP1, &limits, on_request, server);
    if (server->stop == NULL || event_add(server->stop, NULL) == -1 || server->serve == NULL) goto fail;
    if (!serve_listen(server->serve, fd)) goto fail;
    fd = -1; /* the server's now */
    if (thread_start(&server->thread, run, server) != 0) goto fail;
    return server;
fail:
    saved = errno;
    if (fd != -1) close(fd);
    release(server);
    errno = saved;
    return NULL;
}

void
metrics_server_stop(struct metrics_server *server)
{
    const uint64_t one = 1;
    if (server == NULL) return;
    if (write(server->stop_fd, &one, sizeof one) != sizeof one) return; /* cannot fail: a fresh counter */
    pthread_join(server->thread, NULL);
    release(server);
}
