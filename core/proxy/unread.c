/* Apart from upstream.c, since <linux/tcp.h>, which knows tcpi_bytes_acked, excludes <netinet/tcp.h>. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "core/proxy/proxy_internal.h"

/* After FIN: a peer that had taken in a byte of what we sent since `before` bytes would have acknowledged it,
 * with its FIN at the latest (RFC 9293 §3.4: every segment carries the acknowledgement). One that did not
 * closed first. Linux counts our SYN as one byte acknowledged. On a unix socket the question has no answer:
 * false. */
bool
upstream_is_unread(const struct upstream *upstream)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(upstream->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1) return false;
    if (len < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked) return false;
    return info.tcpi_bytes_acked <= upstream->written + 1;
}
