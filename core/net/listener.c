#include "core/net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The kernel cuts it to net.core.somaxconn, 4096 by default since Linux 5.4. */
enum { BACKLOG = 4096 };
/* A dead peer is noticed after 60 + 4 × 15 s without an answer. */
enum { KEEPALIVE_IDLE_S = 60, KEEPALIVE_INTERVAL_S = 15, KEEPALIVE_PROBES = 4 };

static bool
set_int(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

static void
close_keep_errno(int fd)
{
    int saved = errno;
    close(fd);
    errno = saved;
}

/* One socket, bound and listening; -1 with errno and *why. */
static int
open_one(const struct sockaddr *address, socklen_t len, bool v6_only, bool reuseport, const char **why)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *why = "socket";
    if (fd == -1) return -1;
    *why = "setsockopt";
    if (address->sa_family != AF_UNIX && !set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1)) goto fail;
    if (address->sa_family == AF_INET6 && !set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6_only)) goto fail;
    if (reuseport && !set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1)) goto fail;
    *why = "bind";
    if (bind(fd, address, len) == -1) goto fail;
    *why = "listen";
    if (listen(fd, BACKLOG) == -1) goto fail;
    return fd;
fail:
    close_keep_errno(fd);
    return -1;
}

static void
close_all(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        close_keep_errno(fds[i]);
        fds[i] = -1;
    }
}

static bool
duplicate(int *fds, size_t count, const char **why)
{
    for (size_t i = 1; i < count; i++) {
        fds[i] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        if (fds[i] == -1) {
            *why = "dup";
            close_all(fds, i);
            return false;
        }
    }
    return true;
}

/* After the first bind, so that with port 0 the rest share the port that the kernel chose. */
static bool
open_rest(bool v6_only, size_t count, int *fds, const char **why)
{
    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    if (getsockname(fds[0], (struct sockaddr *)&bound, &len) == -1) {
        *why = "getsockname";
        close_all(fds, 1);
        return false;
    }
    for (size_t i = 1; i < count; i++) {
        fds[i] = open_one((const struct sockaddr *)&bound, len, v6_only, true, why);
        if (fds[i] == -1) {
            close_all(fds, i);
            return false;
        }
    }
    return true;
}

static bool
open_inet(const struct config_address *address, bool reuseport, size_t count, int *fds, const char **why)
{
    struct sockaddr_storage to;
    socklen_t len;
    bool everywhere = address->host[0] == '\0';
    *why = "resolve";
    if (address_resolve(everywhere ? "::" : address->host, address->port, &to, &len) != 0) {
        errno = EADDRNOTAVAIL;
        return false;
    }
    fds[0] = open_one((const struct sockaddr *)&to, len, !everywhere, reuseport, why);
    if (fds[0] == -1 && everywhere && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) { /* no IPv6 here */
        if (address_resolve("0.0.0.0", address->port, &to, &len) != 0) return false;
        fds[0] = open_one((const struct sockaddr *)&to, len, false, reuseport, why);
    }
    if (fds[0] == -1) return false;
    return reuseport ? open_rest(!everywhere, count, fds, why) : duplicate(fds, count, why);
}

/* Takes away a socket file whose process is gone. One that answers, or whose queue is full, is somebody's;
 * what is no socket is not ours to remove. The bind that follows says EADDRINUSE of both. */
static void
unlink_stale(const struct sockaddr_un *un, socklen_t len)
{
    struct stat st;
    if (lstat(un->sun_path, &st) == -1 || !S_ISSOCK(st.st_mode)) return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1) return;
    if (connect(fd, (const struct sockaddr *)un, len) == -1 && errno == ECONNREFUSED) unlink(un->sun_path);
    close(fd);
}

static bool
open_unix(const struct config_address *address, size_t count, int *fds, const char **why)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    size_t path = strlen(address->host);
    *why = "bind";
    if (path == 0 || path >= sizeof(un.sun_path)) {
        errno = path == 0 ? EINVAL : ENAMETOOLONG;
        return false;
    }
    memcpy(un.sun_path, address->host, path);
    unlink_stale(&un, sizeof(un));
    fds[0] = open_one((const struct sockaddr *)&un, sizeof(un), false, false, why);
    return fds[0] != -1 && duplicate(fds, count, why);
}

bool
listener_open(const struct config_address *address, bool reuseport, size_t count, int *fds, const char **why)
{
    *why = "count";
    if (count == 0) {
        errno = EINVAL;
        return false;
    }
    return address->is_unix ? open_unix(address, count, fds, why)
                            : open_inet(address, reuseport, count, fds, why);
}

void
listener_name(int fd, char out[128])
{
    struct sockaddr_storage bound = {0}; /* an unnamed unix socket leaves its path unwritten */
    socklen_t len = sizeof(bound);
    out[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&bound, &len) == 0)
        address_format((const struct sockaddr *)&bound, out, 128, true);
}

bool
socket_prepare(int fd)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof(own);
    int flags = fcntl(fd, F_GETFL), fd_flags = fcntl(fd, F_GETFD);
    if (flags == -1 || fd_flags == -1) return false;
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1 || fcntl(fd, F_SETFD, fd_flags | FD_CLOEXEC) == -1)
        return false;
    if (getsockname(fd, (struct sockaddr *)&own, &len) == -1) return false;
    if (own.ss_family != AF_INET && own.ss_family != AF_INET6) return true;
    return set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1) && set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1) &&
           set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S) &&
           set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S) &&
           set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}
