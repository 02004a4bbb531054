#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/proxy/fetch_internal.h"

static struct inner *
inner_of(struct conn *conn)
{
    return LINK_OF(conn, struct inner, conn);
}

bool
inner_is_left(const struct conn *conn)
{
    return LINK_OF(conn, const struct inner, conn)->wire == NULL;
}

uint32_t
inner_service(const struct conn *conn)
{
    return LINK_OF(conn, const struct inner, conn)->service_id;
}

void
inner_note(struct conn *conn, enum reason reason)
{
    if (inner_of(conn)->wire != NULL) inner_of(conn)->wire->inner = reason;
}

void
inner_closed(struct conn *conn)
{
    if (inner_of(conn)->wire != NULL) inner_of(conn)->wire->other = NULL;
}

/* Its streams may be anywhere in the lists that somebody up the stack walks along, so that nothing is closed
 * here. */
void
inner_leave(struct inner *inner)
{
    inner->wire = NULL;
    event_active(&inner->conn.read, EV_READ, 0);
}

struct inner *
inner_open(struct proxy *proxy, struct wire *wire, int *fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == -1) return NULL;
    struct inner *inner = (struct inner *)conn_new_inner(proxy, pair[1], sizeof *inner);
    if (inner == NULL) {
        close(pair[0]);
        close(pair[1]);
        errno = ENOMEM;
        return NULL;
    }
    inner->wire = wire;
    *fd = pair[0];
    return inner;
}
