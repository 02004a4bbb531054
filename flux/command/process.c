#include "flux/command/process.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONNECT_LIMIT_MS = 20 };

/* In the child: only async-signal-safe calls, then exec. What fails is told through the pipe, which exec
 * closes. */
static void
become(char **command, const sigset_t *mask, pid_t parent, int tell)
{
    int why;
    ssize_t ignored;
    setpgid(0, 0); /* so that a terminal's ^C reaches flux alone, which leaves the registry first */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(128 + SIGTERM); /* it died before the line above */
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(command[0], command);
    why = errno;
    ignored = write(tell, &why, sizeof why);
    (void)ignored;
    _exit(127);
}

pid_t
process_start(char **command, const sigset_t *mask, const char **stage)
{
    int tell[2], why = 0;
    ssize_t got;
    pid_t parent = getpid(), child;

    *stage = "fork";
    if (pipe2(tell, O_CLOEXEC) == -1) return -1;
    child = fork();
    if (child == 0) become(command, mask, parent, tell[1]);
    why = errno;
    close(tell[1]);
    if (child == -1) {
        close(tell[0]);
        errno = why;
        return -1;
    }
    setpgid(child, child); /* both do it, so that neither has to wait; fails harmlessly after its exec */
    do {
        got = read(tell[0], &why, sizeof why);
    } while (got == -1 && errno == EINTR);
    close(tell[0]);
    if (got != (ssize_t)sizeof why) return child;
    while (waitpid(child, NULL, 0) == -1 && errno == EINTR)
        continue;
    *stage = "exec";
    errno = why;
    return -1;
}

static bool
accepts(const struct sockaddr *address, socklen_t len)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
    socklen_t size = sizeof error;
    bool yes;
    if (fd == -1) return false;
    yes = connect(fd, address, len) == 0;
    if (!yes && errno == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        yes = poll(&wait, 1, CONNECT_LIMIT_MS) == 1 &&
              getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
    }
    close(fd);
    return yes;
}

static bool
accepts_at(const struct sockaddr *address, int port)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof v4);
        v4.sin_port = htons((uint16_t)port);
        return accepts((const struct sockaddr *)&v4, sizeof v4);
    }
    if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, address, sizeof v6);
        v6.sin6_port = htons((uint16_t)port);
        return accepts((const struct sockaddr *)&v6, sizeof v6);
    }
    return false;
}

/* The addresses of the interfaces, since a program may listen on one of them alone; the loopback comes first
 * in the list. No name is resolved: that could block for longer than a start takes. */
bool
port_accepts(int port)
{
    struct ifaddrs *all, *one;
    bool yes = false;
    if (getifaddrs(&all) == -1) {
        const struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        return accepts_at((const struct sockaddr *)&loopback, port);
    }
    for (one = all; one != NULL && !yes; one = one->ifa_next) {
        if (one->ifa_addr != NULL && (one->ifa_flags & IFF_UP)) yes = accepts_at(one->ifa_addr, port);
    }
    freeifaddrs(all);
    return yes;
}
