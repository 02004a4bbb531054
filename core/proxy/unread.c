/* Apart from upstream.c, since <linux/tcp.h>, which knows tcpi_bytes_acked, excludes <netinet/tcp.h>. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "core/proxy/proxy_internal.h"

/* After FIN: a peer that had taken in a byte of the present request would have acknowledged it, with its FIN
 * at the latest (RFC 9293 §3.4: every segment carries the acknowledgement), so one that did not closed first,
 * and a server that closed runs no request of that connection any more (RFC 9112 §9.6). The RST that our late
 * bytes draw changes nothing: Linux takes no acknowledgement from it, and recv(2) still says 0. Without FIN
 * the question has no answer, nor on a unix socket (false), nor where the kernel counts nothing: Linux counts
 * our SYN as one byte acknowledged, so that 0 means that. */
bool
socket_is_unread(int fd, uint64_t before)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1) return false;
    if (len < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked) return false;
    return info.tcpi_bytes_acked > 0 && info.tcpi_bytes_acked <= before + 1;
}
