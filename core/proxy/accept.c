#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/proxy/proxy_internal.h"

enum {
    BURST_MAX = 64,
    PAUSE_US = 100000,
    SHED_MAX = 256,
    RECLAIM = 8,
    ADOPT_MAX = 1024, /* a sibling's, in one turn: under a flood our own connections want their turns too */
};

static void
accept_pause(struct proxy *proxy, int error)
{
    static struct log_every every;
    struct timeval pause = {0, PAUSE_US};
    uint64_t suppressed;
    atomic_fetch_add_explicit(&proxy->totals->connections_refused, 1, memory_order_relaxed);
    if (log_every_due(&every, 10000000, &suppressed)) {
        errno = error;
        log_warn(
            "accept paused", F_UINT("connections", proxy->connections), F_UINT("suppressed", suppressed));
    }
    for (size_t i = 0; i < proxy->listener_count; i++)
        event_del(&proxy->listeners[i]->event);
    proxy->accept_paused = true;
    event_add(&proxy->accept_resume, &pause);
}

void
accept_resume(struct proxy *proxy)
{
    if (LIKELY(!proxy->accept_paused)) return;
    proxy->accept_paused = false;
    event_del(&proxy->accept_resume);
    accept_start(proxy);
}

static bool
is_over_limit(const struct proxy *proxy)
{
    uint64_t sum = 0;
    unsigned workers = proxy->generation->config->workers;
    if (workers <= proxy->worker) workers = proxy->worker + 1;
    for (unsigned i = 0; i < workers && i < SHM_WORKERS_MAX; i++) {
        sum += atomic_load_explicit(&shm_worker(proxy->shm, i)->connections, memory_order_relaxed);
    }
    uint32_t limit = proxy->generation->config->limits.connections;
    return limit != 0 && sum >= limit;
}

static void
accept_shed(struct proxy *proxy, int fd, const struct sockaddr *peer)
{
    atomic_fetch_add_explicit(&proxy->totals->connections_refused, 1, memory_order_relaxed);
    struct conn *conn = proxy->shedding < SHED_MAX ? conn_new(proxy, fd, peer) : NULL;
    if (conn == NULL) {
        close(fd);
        return;
    }
    proxy->shedding++;
    conn_shed(conn, SHM_CLOSE_LIMIT);
}

static void
accept_count(struct proxy *proxy, struct conn *conn, size_t place)
{
    conn->counted = true;
    proxy->connections++;
    atomic_store_explicit(&proxy->block->connections, proxy->connections, memory_order_relaxed);
    bool has_room = conn_is_within_listener_limit(conn, place);
    if (has_room && conn_is_within_client_limit(conn)) {
        atomic_fetch_add_explicit(&proxy->totals->connections_accepted, 1, memory_order_relaxed);
        return;
    }
    atomic_fetch_add_explicit(&proxy->totals->connections_refused, 1, memory_order_relaxed);
    conn_shed(conn, has_room ? SHM_CLOSE_CLIENT_LIMIT : SHM_CLOSE_LIMIT);
}

/* Backends' connections first, clients' last. */
bool
proxy_reclaim(struct proxy *proxy)
{
    int saved = errno;
    bool found = !link_is_empty(&proxy->idle_upstreams);
    if (found)
        upstream_close(LINK_OF(proxy->idle_upstreams.prev, struct upstream, all));
    else
        found =
            (proxy->fetcher != NULL && fetcher_reclaim(proxy->fetcher)) || conn_reclaim(proxy, RECLAIM) > 0;
    errno = saved;
    return found;
}

/* One connection off the queue. False: the queue is empty, or accepting is paused. */
static bool
accept_one(struct proxy *proxy, int listener, size_t place)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    if (proxy->connections + proxy->fetch_sockets / 2 >= proxy->connection_cap &&
        conn_reclaim(proxy, RECLAIM) == 0) {
        accept_pause(proxy, EMFILE);
        return false;
    }
    int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd == -1) {
        switch (errno) {
        case EMFILE:
        case ENFILE:
            if (proxy_reclaim(proxy)) return true; /* and the next turn finds it */
            accept_pause(proxy, errno);
            return false;
        case ENOBUFS:
        case ENOMEM: accept_pause(proxy, errno); return false;
        case ECONNABORTED:
        case EINTR:
        case EPROTO: return true; /* that one is gone; accept(2) says to go on */
        default: return false;
        }
    }
    if (len == 0 || len < sizeof peer.ss_family) peer.ss_family = AF_UNIX;
    if (is_over_limit(proxy)) {
        accept_shed(proxy, fd, (const struct sockaddr *)&peer);
        return true;
    }
    struct conn *conn = conn_new(proxy, fd, (const struct sockaddr *)&peer);
    if (conn == NULL) {
        close(fd);
        atomic_fetch_add_explicit(&proxy->totals->connections_refused, 1, memory_order_relaxed);
        return true;
    }
    accept_count(proxy, conn, place);
    return true;
}

/* With one connection a wake-up the second accept(2) would only learn EAGAIN: the burst grows where it pays.
 */
static void
on_listener(evutil_socket_t fd, short what, void *context)
{
    struct listener *listener = context;
    struct proxy *proxy = listener->proxy;
    (void)what;
    proxy_enter(proxy);
    unsigned n = 0;
    while (n < listener->burst && accept_one(proxy, fd, listener->place))
        n++;
    if (n < listener->burst)
        listener->burst = 1;
    else if (listener->burst < BURST_MAX)
        listener->burst *= 2;
    proxy_leave(proxy);
}

void
accept_start(struct proxy *proxy)
{
    if (proxy->generation == NULL || proxy->accept_paused || proxy->drain != DRAIN_NO) return;
    for (size_t i = 0; i < proxy->listener_count; i++) {
        if (!event_pending(&proxy->listeners[i]->event, EV_READ, NULL))
            event_add(&proxy->listeners[i]->event, NULL);
    }
}

/* The kernel's queue holds connections whose clients think them open: they are served before the socket goes.
 */
static void
listener_retire(struct proxy *proxy, struct listener *listener)
{
    event_del(&listener->event);
    if (proxy->generation != NULL && proxy->drain != DRAIN_DONE) {
        while (accept_one(proxy, listener->fd, SIZE_MAX))
            continue;
    }
    close(listener->fd);
    free(listener);
}

void
accept_stop(struct proxy *proxy)
{
    size_t count = proxy->listener_count;
    proxy->listener_count = 0;
    for (size_t i = 0; i < count; i++)
        listener_retire(proxy, proxy->listeners[i]);
    event_del(&proxy->accept_resume);
    proxy->accept_paused = false;
}

static struct listener *
listener_find(const struct proxy *proxy, const struct stat *file)
{
    for (size_t i = 0; i < proxy->listener_count; i++) {
        struct listener *listener = proxy->listeners[i];
        if (listener != NULL && listener->inode == file->st_ino && listener->device == file->st_dev) {
            proxy->listeners[i] = NULL;
            return listener;
        }
    }
    return NULL;
}

static struct listener *
listener_new(struct proxy *proxy, int fd, const struct stat *file)
{
    int one = 1;
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL) return NULL;
    listener->proxy = proxy;
    listener->fd = fd;
    listener->inode = file->st_ino;
    listener->device = file->st_dev;
    listener->burst = 1;
    /* Accepted sockets inherit both, which saves two system calls a connection; on a unix socket they fail,
     * harmlessly. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    event_assign(&listener->event, proxy->base, fd, EV_READ | EV_PERSIST, on_listener, listener);
    return listener;
}

bool
proxy_listen(struct proxy *proxy, const int *fds, size_t count)
{
    bool ok = true;
    size_t kept = 0;
    struct stat file;
    struct listener **list = calloc(count + 1, sizeof(*list));
    proxy_enter(proxy);
    for (size_t i = 0; i < count; i++) {
        struct listener *listener = NULL;
        if (list != NULL && fstat(fds[i], &file) == 0) {
            listener = listener_find(proxy, &file);
            if (listener != NULL)
                close(fds[i]);
            else
                listener = listener_new(proxy, fds[i], &file);
        }
        if (listener == NULL) {
            close(fds[i]);
            ok = false;
            continue;
        }
        listener->place = i;
        list[kept++] = listener;
    }
    if (list == NULL) return false;
    struct listener **old = proxy->listeners;
    size_t old_count = proxy->listener_count;
    proxy->listeners = list;
    proxy->listener_count = kept;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i] != NULL) listener_retire(proxy, old[i]);
    }
    free(old);
    accept_start(proxy);
    proxy_leave(proxy);
    return ok;
}

void
proxy_accept_from(struct proxy *proxy, const int *fds, size_t count)
{
    bool may_accept = proxy->generation != NULL && proxy->drain == DRAIN_NO;
    proxy_enter(proxy);
    for (size_t i = 0; i < count; i++) {
        for (unsigned n = 0; may_accept && !proxy->accept_paused && n < ADOPT_MAX; n++) {
            if (!accept_one(proxy, fds[i], i)) break;
        }
        close(fds[i]);
    }
    proxy_leave(proxy);
}
