/* core/net/listener.h: listening sockets. The supervisor opens them, one SO_REUSEPORT socket a worker, and
 * keeps them for successors; workers only accept. */
#ifndef FLUXGATE_NET_LISTENER_H
#define FLUXGATE_NET_LISTENER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "core/base/compiler.h"
#include "core/config/config.h"

/* Opens, binds and listens; non-blocking, close-on-exec. `reuseport` lets `count` sockets share one port: all
 * are opened or none; with port 0 the first one's port serves the rest. A unix address, or no `reuseport`,
 * gives one socket duplicated `count` times. Host "" is one dual-stack socket on [::], or 0.0.0.0 where the
 * machine has no IPv6; a v6 literal takes IPv6 alone. The file of a unix socket on which nobody answers is
 * replaced. A host name is resolved here. false: errno, and *why (static text) says which step. */
MUST_CHECK
bool listener_open(
    const struct config_address *address, bool reuseport, size_t count, int *fds, const char **why);

/* "127.0.0.1:8080", "[::1]:8080" or "unix:/path" of a bound socket or a peer; `out` takes 128 bytes. */
void listener_name(int fd, char out[128]);
/* As above, an IPv4-mapped address as plain IPv4; without port no brackets. "" for another family. */
void address_format(const struct sockaddr *address, char *out, size_t size, bool with_port);

/* Numeric parse or blocking getaddrinfo (never in a worker). 0, else an EAI_ code. Of a name with addresses
 * of both families the first IPv4 one is taken: backends on "localhost" mostly listen there alone. */
MUST_CHECK
int address_resolve(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *len);

/* TCP_NODELAY, keepalive, non-blocking, close-on-exec. */
MUST_CHECK
bool socket_prepare(int fd);

#endif
