#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "core/net/listener.h"

static void
format_inet(const char *host, bool brackets, uint16_t port, char *out, size_t size, bool with_port)
{
    if (with_port) {
        snprintf(out, size, brackets ? "[%s]:%u" : "%s:%u", host, port);
    } else {
        snprintf(out, size, "%s", host);
    }
}

void
address_format(const struct sockaddr *address, char *out, size_t size, bool with_port)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (size == 0) return;
    out[0] = '\0';
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        format_inet(host, false, ntohs(v4->sin_port), out, size, with_port);
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)address;
        /* what a dual-stack socket calls ::ffff:192.0.2.1 is 192.0.2.1 to everyone who reads it */
        bool mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
        inet_ntop(mapped ? AF_INET : AF_INET6, &v6->sin6_addr.s6_addr[mapped ? 12 : 0], host, sizeof(host));
        format_inet(host, !mapped, ntohs(v6->sin6_port), out, size, with_port);
    } else if (address->sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const void *)address;
        snprintf(out, size, "unix:%.*s", (int)strnlen(un->sun_path, sizeof(un->sun_path)), un->sun_path);
    }
}

static bool
resolve_numeric(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *len)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(out, &v4, sizeof(v4));
        *len = sizeof(v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(out, &v6, sizeof(v6));
        *len = sizeof(v6);
        return true;
    }
    return false;
}

int
address_resolve(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *len)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    char service[8];
    /* RFC 6761 §6.3: loopback without asking anybody; a bare machine has no /etc/hosts either */
    if (slice_equal_nocase(slice_of(host), SLICE_LIT("localhost"))) host = "127.0.0.1";
    if (resolve_numeric(host, port, out, len)) return 0;
    if (host[0] == '\0') return EAI_NONAME;
    snprintf(service, sizeof(service), "%u", port);
    int error = getaddrinfo(host, service, &hints, &found);
    if (error != 0) return error;
    const struct addrinfo *best = found;
    for (const struct addrinfo *at = found; at != NULL; at = at->ai_next) {
        if (at->ai_family == AF_INET) {
            best = at;
            break;
        }
    }
    if (best->ai_addrlen > sizeof(*out)) {
        freeaddrinfo(found);
        return EAI_FAMILY;
    }
    memcpy(out, best->ai_addr, best->ai_addrlen);
    *len = best->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}
