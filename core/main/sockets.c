#include "core/main/supervisor_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/main/process.h"
#include "core/net/listener.h"

/* A unix socket's file goes with its last socket: nobody would answer behind it. */
static void
remove_file(const struct bound_socket *bound)
{
    struct sockaddr_un name;
    socklen_t len = sizeof name;
    if (bound->count == 0 || getsockname(bound->fds[0], (struct sockaddr *)&name, &len) == -1) return;
    if (name.sun_family != AF_UNIX || name.sun_path[0] == '\0') return;
    if (unlink(name.sun_path) == -1 && errno != ENOENT)
        log_warn("a socket's file stays", F_STR("file", name.sun_path));
}

static void
bound_close(struct bound_socket *bound)
{
    remove_file(bound);
    for (unsigned i = 0; i < bound->count; i++)
        close(bound->fds[i]);
    bound->count = 0;
    bound->text[0] = '\0';
    bound->port = 0;
}

static uint16_t
port_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } name;
    socklen_t len = sizeof name;
    if (getsockname(fd, &name.any, &len) == -1) return 0;
    if (name.any.sa_family == AF_INET) return ntohs(name.v4.sin_port);
    return name.any.sa_family == AF_INET6 ? ntohs(name.v6.sin6_port) : 0;
}

/* SO_REUSEPORT lets another gateway of the same user take the port as well, unnoticed; a socket without it
 * finds out. */
static bool
is_taken(const struct config_address *address)
{
    int fd;
    const char *step;
    if (address->is_unix || address->port == 0) return false;
    if (listener_open(address, false, 1, &fd, &step)) {
        close(fd);
        return false;
    }
    return errno == EADDRINUSE;
}

/* A unix socket is one queue for all workers. */
static bool
duplicate(struct bound_socket *bound, unsigned count, const char *what, char why[512])
{
    while (bound->count < count) {
        int fd = fcntl(bound->fds[0], F_DUPFD_CLOEXEC, 0);
        if (fd == -1) {
            snprintf(why, 512, "%s address %s: %s", what, bound->text, strerror(errno));
            return false;
        }
        bound->fds[bound->count++] = fd;
    }
    return true;
}

/* Brings `bound` to `count` sockets on `address`; those it has stay. */
static bool
bound_open(struct bound_socket *bound, const struct config_address *address, const char *what, bool reuseport,
    unsigned count, char why[512])
{
    struct config_address target = *address;
    const char *step = "bind";
    if (bound->count >= count)
        return true; /* surplus sockets of retired workers go when the reload settles */
    if (bound->count > 0 && target.port == 0) target.port = bound->port;
    if (target.is_unix && bound->count > 0) return duplicate(bound, count, what, why);
    bool taken = reuseport && bound->count == 0 && is_taken(&target);
    if (taken) errno = EADDRINUSE;
    if (taken || !listener_open(&target, reuseport, count - bound->count, bound->fds + bound->count, &step)) {
        snprintf(why, 512, "%s:%d:%d: %s address %s: %s: %s",
            address->place.file == NULL ? "configuration" : address->place.file, address->place.line,
            address->place.column, what, address->text, step, strerror(errno));
        return false;
    }
    bound->count = count;
    bound->what = what;
    bound->port = port_of(bound->fds[0]);
    return true;
}

/* New connections go to the first `count` sockets of the port alone (SO_REUSEPORT deals them out by their
 * order). */
static void
steer(const struct bound_socket *bound, unsigned count)
{
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)(SKF_AD_OFF + SKF_AD_RANDOM)},
        {BPF_ALU | BPF_MOD | BPF_K, 0, 0, count},
        {BPF_RET | BPF_A, 0, 0, 0},
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    if (bound->port == 0) return; /* a unix socket is one queue for all */
    if (setsockopt(bound->fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) == -1)
        log_warn("connections cannot be steered", F_STR("address", bound->text));
}

void
sockets_retire(struct supervisor *sv)
{
    unsigned workers = sv->current.config->workers;
    for (size_t i = 0; i < sv->listener_count; i++) {
        struct bound_socket *bound = &sv->listeners[i];
        if (!bound->kept || bound->count <= workers) continue;
        /* nothing new reaches the queues of the workers that leave; they close them once they are empty */
        steer(bound, workers);
        bound->steered = true;
        while (bound->count > workers)
            close(bound->fds[--bound->count]);
    }
}

/* The listener bound for the nth address that is written like this. */
static struct bound_socket *
listener_find(struct supervisor *sv, const char *key)
{
    for (size_t i = 0; i < sv->listener_count; i++) {
        if (strcmp(sv->listeners[i].text, key) == 0) return &sv->listeners[i];
    }
    return NULL;
}

static void
listener_key(const struct config *config, size_t i, char key[LISTENER_KEY_BYTES])
{
    const char *text = config->listeners[i].address.text;
    unsigned nth = 0;
    for (size_t j = 0; j < i; j++)
        nth += strcmp(config->listeners[j].address.text, text) == 0;
    snprintf(key, LISTENER_KEY_BYTES, "%u %s", nth, text);
}

const struct bound_socket *
sockets_listener(struct supervisor *sv, const struct config *config, size_t i)
{
    char key[LISTENER_KEY_BYTES];
    listener_key(config, i, key);
    return listener_find(sv, key);
}

static bool
open_listeners(struct supervisor *sv, const struct config *config, char why[512])
{
    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_address *address = &config->listeners[i].address;
        char key[LISTENER_KEY_BYTES];
        listener_key(config, i, key);
        struct bound_socket *bound = listener_find(sv, key);
        if (bound == NULL) {
            if (sv->listener_count == LISTENERS_MAX) {
                snprintf(why, 512, "more than %d listeners (those of the present configuration count too)",
                    LISTENERS_MAX);
                return false;
            }
            bound = &sv->listeners[sv->listener_count];
            *bound = (struct bound_socket){.fresh = true};
            snprintf(bound->text, sizeof bound->text, "%s", key);
            sv->listener_count++;
        }
        bound->kept = true;
        if (!bound_open(bound, address, "listener", true, config->workers, why)) return false;
    }
    return true;
}

/* A single socket that may move: the new one is opened beside the old, which bound_settle closes. */
static bool
open_single(struct bound_socket *bound, const struct config_address *address, const char *what,
    bool may_fall_back, char why[512])
{
    struct bound_socket next = {.fresh = true};
    if (bound->count > 0 && strcmp(bound->text, address->text) == 0) return true;
    snprintf(next.text, sizeof next.text, "%s", address->text);
    if (!bound_open(&next, address, what, false, 1, why)) {
        struct config_address any = *address;
        if (!may_fall_back || errno != EADDRINUSE) return false;
        any.port = 0; /* the flat file never asked for an admin address: any free port will do */
        if (!bound_open(&next, &any, what, false, 1, why)) return false;
        log_warnx("the default admin port is taken, another one serves", F_UINT("port", next.port));
    }
    bound_close(bound);
    *bound = next;
    return true;
}

bool
sockets_open(struct supervisor *sv, struct config *config, char why[512])
{
    for (size_t i = 0; i < sv->listener_count; i++)
        sv->listeners[i].kept = sv->listeners[i].fresh = false;
    sv->admin.fresh = sv->registry_http.fresh = sv->registry_grpc.fresh = false;
    if (!open_listeners(sv, config, why)) goto fail;
    if (config->has_admin && !open_single(&sv->admin, &config->admin, "admin", config->is_flat, why))
        goto fail;
    if (config->registry.enabled && config->registry.embedded) {
        if (!open_single(&sv->registry_http, &config->registry.listen_http, "registry-http", false, why))
            goto fail;
        if (!open_single(&sv->registry_grpc, &config->registry.listen_grpc, "registry-grpc", false, why))
            goto fail;
    }
    struct ipc_bound bound = sockets_bound(sv);
    config_apply_bound(config, &bound);
    return true;
fail:
    sockets_abandon(sv);
    return false;
}

static void
drop_listener(struct supervisor *sv, size_t at)
{
    bound_close(&sv->listeners[at]);
    sv->listeners[at] = sv->listeners[--sv->listener_count];
}

void
sockets_abandon(struct supervisor *sv)
{
    for (size_t i = sv->listener_count; i-- > 0;) {
        struct bound_socket *bound = &sv->listeners[i];
        if (bound->fresh) {
            drop_listener(sv, i);
            continue;
        }
        bound->kept = true; /* as before: what is bound now belongs to the present configuration */
        /* a socket that no worker accepts from would still be dealt connections */
        while (sv->current.number != 0 && bound->count > sv->current.config->workers)
            close(bound->fds[--bound->count]);
    }
}

void
sockets_settle(struct supervisor *sv)
{
    for (size_t i = sv->listener_count; i-- > 0;) {
        struct bound_socket *bound = &sv->listeners[i];
        if (!bound->kept) {
            log_info("listener closed", F_STR("address", bound->text));
            drop_listener(sv, i);
        } else if (bound->steered) {
            steer(bound, bound->count);
        }
    }
    if (!sv->current.config->has_admin) bound_close(&sv->admin);
    if (!sv->current.config->registry.embedded) {
        bound_close(&sv->registry_http);
        bound_close(&sv->registry_grpc);
    }
}

void
sockets_close_listeners(struct supervisor *sv)
{
    while (sv->listener_count > 0)
        drop_listener(sv, sv->listener_count - 1);
}

void
sockets_close_all(struct supervisor *sv)
{
    sockets_close_listeners(sv);
    bound_close(&sv->admin);
    bound_close(&sv->registry_http);
    bound_close(&sv->registry_grpc);
}

static void
announce(const struct bound_socket *bound)
{
    char name[128];
    if (bound->count == 0 || !bound->fresh) return;
    listener_name(bound->fds[0], name);
    log_info("listening", F_STR("what", bound->what), F_STR("address", name));
}

void
sockets_announce(const struct supervisor *sv)
{
    for (size_t i = 0; i < sv->listener_count; i++)
        announce(&sv->listeners[i]);
    announce(&sv->admin);
    announce(&sv->registry_http);
    announce(&sv->registry_grpc);
}

struct ipc_bound
sockets_bound(const struct supervisor *sv)
{
    return (struct ipc_bound){sv->admin.port, sv->registry_http.port, sv->registry_grpc.port};
}
