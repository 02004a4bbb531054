/* core/serve/conn.c: one accepted socket: when it is read, written, stalled, lingering and closed. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/net/listener.h"
#include "core/serve/serve_internal.h"

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"; /* RFC 9113 §3.4 */

bool
bytes_reserve(struct bytes *bytes, size_t room)
{
    size_t need, cap = bytes->cap;
    if (__builtin_add_overflow(bytes->len, room, &need)) return false;
    if (need <= cap) return true;
    if (cap == 0) cap = 1024;
    while (cap < need) {
        if (__builtin_mul_overflow(cap, 2, &cap)) return false;
    }
    char *at = realloc(bytes->at, cap);
    if (at == NULL) return false;
    bytes->at = at;
    bytes->cap = cap;
    return true;
}

char *
serve_conn_out(struct serve_conn *conn, size_t room)
{
    struct serve *serve = conn->serve;
    if (conn->out.at == NULL && room <= OUT_BYTES) {
        char *at = serve->free_out_count > 0 ? serve->free_outs[--serve->free_out_count] : malloc(OUT_BYTES);
        if (at == NULL) return NULL;
        conn->out = (struct bytes){.at = at, .cap = OUT_BYTES};
    }
    if (conn->out.off > conn->out.len / 2) {
        memmove(conn->out.at, conn->out.at + conn->out.off, conn->out.len - conn->out.off);
        conn->out.len -= conn->out.off;
        conn->out.off = 0;
    }
    return bytes_reserve(&conn->out, room) ? conn->out.at + conn->out.len : NULL;
}

static void
conn_out_release(struct serve_conn *conn)
{
    struct serve *serve = conn->serve;
    if (conn->out.at == NULL) return;
    if (conn->out.cap == OUT_BYTES && serve->free_out_count < FREE_MAX) {
        serve->free_outs[serve->free_out_count++] = conn->out.at;
    } else {
        free(conn->out.at);
    }
    conn->out = (struct bytes){0};
}

size_t
serve_conn_pending(const struct serve_conn *conn)
{
    return conn->out.len - conn->out.off + (conn->blob == NULL ? 0 : conn->blob->len - conn->blob_at);
}

static void
set_reading(struct serve_conn *conn, bool on)
{
    if (conn->reading == on) return;
    conn->reading = on;
    if (on) {
        event_add(&conn->read_event, NULL);
    } else {
        event_del(&conn->read_event);
    }
}

static void
set_writing(struct serve_conn *conn, bool on)
{
    if (conn->writing == on) return;
    conn->writing = on;
    if (on) {
        event_add(&conn->write_event, NULL);
    } else {
        event_del(&conn->write_event);
    }
}

void
serve_conn_mark(struct serve_conn *conn)
{
    struct serve *serve = conn->serve;
    if (conn->is_dirty || conn->state == CONN_DEAD) return;
    if (serve->dirty == NULL) event_active(&serve->turn_event, EV_TIMEOUT, 1);
    conn->is_dirty = true;
    conn->dirty_next = serve->dirty;
    serve->dirty = conn;
}

void
serve_conn_close(struct serve_conn *conn)
{
    struct serve *serve = conn->serve;
    if (conn->state == CONN_DEAD) return;
    conn->state = CONN_DEAD;
    set_reading(conn, false);
    set_writing(conn, false);
    while (conn->calls != NULL)
        call_gone(conn->calls);
    nghttp2_session_del(conn->session);
    conn->session = NULL;
    close(conn->fd);
    conn->fd = -1;
    free(conn->in.at);
    conn->in = (struct bytes){0};
    conn_out_release(conn);
    serve_blob_put(conn->blob);
    conn->blob = NULL;
    if (conn->prev != NULL) conn->prev->next = conn->next;
    if (conn->next != NULL) conn->next->prev = conn->prev;
    if (serve->conns == conn) serve->conns = conn->next;
    serve->conn_count--;
    conn->next = serve->graveyard;
    serve->graveyard = conn;
    event_active(&serve->turn_event, EV_TIMEOUT, 1);
    serve_resume_accept(serve);
}

void
serve_conn_finish(struct serve_conn *conn)
{
    conn->state = CONN_CLOSING;
    conn->deadline_us = 0;
    serve_conn_mark(conn);
}

void
serve_conn_rest(struct serve_conn *conn)
{
    conn->state = CONN_HEAD;
    conn->deadline_us = clock_now_us() + conn->serve->limits.idle_us;
}

/* One writev of what waits. False: the peer is gone. */
static bool
write_some(struct serve_conn *conn)
{
    struct iovec iov[2];
    int count = 0;
    size_t head = conn->out.len - conn->out.off;
    if (head > 0) iov[count++] = (struct iovec){conn->out.at + conn->out.off, head};
    if (conn->blob != NULL) {
        iov[count++] = (struct iovec){conn->blob->bytes + conn->blob_at, conn->blob->len - conn->blob_at};
    }
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    ssize_t n = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
    if (n == -1) return errno == EAGAIN || errno == EINTR;
    size_t from_head = (size_t)n < head ? (size_t)n : head;
    conn->out.off += from_head;
    if (conn->out.off == conn->out.len) conn->out.off = conn->out.len = 0;
    if (conn->blob != NULL) {
        conn->blob_at += (size_t)n - from_head;
        if (conn->blob_at == conn->blob->len) {
            serve_blob_put(conn->blob);
            conn->blob = NULL;
        }
    }
    if (n > 0) conn->stall_us = 0;
    return true;
}

/* Sends until nothing is left or the socket is full. False: the connection was closed. */
static bool
conn_flush(struct serve_conn *conn)
{
    for (;;) {
        bool frames = conn->state == CONN_H2;
        if ((frames && serve_conn_pending(conn) < SCRATCH_BYTES && !http2_fill(conn)) ||
            (serve_conn_pending(conn) > 0 && !write_some(conn))) {
            serve_conn_close(conn);
            return false;
        }
        if (serve_conn_pending(conn) > 0) {
            if (conn->stall_us == 0) conn->stall_us = clock_now_us() + STALL_US;
            set_writing(conn, true);
            return true;
        }
        if (!frames || !nghttp2_session_want_write(conn->session)) break;
    }
    conn->stall_us = 0;
    set_writing(conn, false);
    conn_out_release(conn);
    return true;
}

/* Output is out: shut our side; the peer's remaining bytes are read away so that no reset overtakes the
 * answer. */
static void
conn_linger(struct serve_conn *conn)
{
    while (conn->calls != NULL)
        call_gone(conn->calls);
    if (conn->eof || shutdown(conn->fd, SHUT_WR) == -1) {
        serve_conn_close(conn);
        return;
    }
    conn->state = CONN_LINGER;
    conn->deadline_us = clock_now_us() + LINGER_US;
    set_reading(conn, true);
}

void
serve_conn_turn(struct serve_conn *conn)
{
    if (conn->state == CONN_HEAD || conn->state == CONN_CALL) http1_resume(conn);
    if (conn->state == CONN_DEAD || conn->state == CONN_LINGER) return;
    if (!conn_flush(conn)) return;
    size_t pending = serve_conn_pending(conn);
    if (conn->state == CONN_CLOSING) {
        if (pending == 0) conn_linger(conn);
        return;
    }
    if (conn->state == CONN_H2) {
        if (!nghttp2_session_want_read(conn->session) && !nghttp2_session_want_write(conn->session) &&
            pending == 0) {
            serve_conn_finish(conn);
            return;
        }
        http2_idle(conn);
    }
    if (conn->state == CONN_HEAD && pending == 0) {
        if (conn->in.len > 0 && conn->calls == NULL) { /* pipelined requests that waited for the output */
            http1_resume(conn);
            serve_conn_mark(conn);
            return;
        }
        if (conn->eof || (conn->serve->draining && conn->calls == NULL)) {
            serve_conn_finish(conn);
            return;
        }
    }
    set_reading(conn, !conn->eof && pending < OUT_HIGH_BYTES && conn->in.len < IN_HIGH_BYTES);
}

/* Decides the protocol by the first bytes; false: more are needed. */
static bool
tell_protocol(struct serve_conn *conn, struct slice bytes)
{
    struct serve *serve = conn->serve;
    size_t n = bytes.len < sizeof preface - 1 ? bytes.len : sizeof preface - 1;
    bool like_h2 = memcmp(bytes.at, preface, n) == 0;
    if (serve->protocol == SERVE_BOTH && like_h2 && n < sizeof preface - 1) return false;
    if (serve->protocol == SERVE_HTTP1 || (serve->protocol == SERVE_BOTH && !like_h2)) {
        conn->state = CONN_HEAD;
        return true;
    }
    if (!http2_start(conn)) {
        serve_conn_close(conn);
        return false;
    }
    return true;
}

static void
conn_input(struct serve_conn *conn, struct slice bytes)
{
    if (conn->state == CONN_NEW) {
        if (conn->in.len > 0) { /* the beginning of a preface, 23 bytes at most */
            if (!bytes_reserve(&conn->in, bytes.len)) {
                serve_conn_close(conn);
                return;
            }
            memcpy(conn->in.at + conn->in.len, bytes.at, bytes.len);
            conn->in.len += bytes.len;
            bytes = (struct slice){conn->in.at, conn->in.len};
        }
        if (!tell_protocol(conn, bytes)) {
            if (conn->state == CONN_DEAD || conn->in.len > 0) return;
            if (!bytes_reserve(&conn->in, bytes.len)) {
                serve_conn_close(conn);
                return;
            }
            memcpy(conn->in.at, bytes.at, bytes.len);
            conn->in.len = bytes.len;
            return;
        }
        struct bytes held = conn->in;
        conn->in = (struct bytes){0};
        if (conn->state == CONN_H2) {
            http2_input(conn, bytes);
        } else {
            http1_input(conn, bytes);
        }
        free(held.at);
        return;
    }
    if (conn->state == CONN_H2) {
        http2_input(conn, bytes);
    } else if (conn->state == CONN_HEAD || conn->state == CONN_BODY || conn->state == CONN_CALL) {
        http1_input(conn, bytes);
    }
}

static void
on_eof(struct serve_conn *conn)
{
    struct serve_call *call = conn->calls;
    conn->eof = true;
    set_reading(conn, false);
    if (conn->state == CONN_CALL && call != NULL && call->gone == NULL)
        return; /* half-closed: its answer still goes out */
    if (conn->state == CONN_CLOSING) return;
    if (conn->state == CONN_HEAD && serve_conn_pending(conn) > 0)
        return; /* serve_conn_turn ends it after the last answer */
    serve_conn_close(conn);
}

static void
on_readable(evutil_socket_t fd, short what, void *context)
{
    struct serve_conn *conn = context;
    struct serve *serve = conn->serve;
    (void)what;
    ssize_t n = read(fd, serve->scratch, SCRATCH_BYTES);
    if (n == -1) {
        if (errno != EAGAIN && errno != EINTR) serve_conn_close(conn);
        return;
    }
    if (n == 0) {
        on_eof(conn);
        return;
    }
    if (conn->state == CONN_LINGER) return;
    conn_input(conn, (struct slice){serve->scratch, (size_t)n});
    if (conn->state != CONN_DEAD) serve_conn_turn(conn);
}

static void
on_writable(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    serve_conn_turn(context);
}

void
serve_conn_timeout(struct serve_conn *conn, uint64_t now_us)
{
    if (conn->stall_us != 0 && now_us >= conn->stall_us) {
        serve_conn_close(conn);
        return;
    }
    if (conn->state == CONN_H2) {
        http2_sweep(conn, now_us);
        if (conn->deadline_us == 0 || now_us < conn->deadline_us || conn->calls != NULL) return;
        http2_goaway(conn, true);
        serve_conn_mark(conn);
        return;
    }
    if (conn->deadline_us == 0 || now_us < conn->deadline_us) return;
    if (conn->state == CONN_BODY || (conn->state == CONN_HEAD && conn->calls != NULL)) {
        http1_refuse(conn, 408, "the request did not arrive in time");
        serve_conn_mark(conn);
        return;
    }
    serve_conn_close(conn);
}

void
serve_conn_accept(struct serve *serve, int fd, const struct sockaddr *address)
{
    struct serve_conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL || !socket_prepare(fd)) {
        free(conn);
        close(fd);
        return;
    }
    conn->serve = serve;
    conn->fd = fd;
    conn->deadline_us = clock_now_us() + serve->limits.header_us;
    address_format(address, conn->peer, sizeof conn->peer, true);
    if (event_assign(&conn->read_event, serve->base, fd, EV_READ | EV_PERSIST, on_readable, conn) != 0 ||
        event_assign(&conn->write_event, serve->base, fd, EV_WRITE | EV_PERSIST, on_writable, conn) != 0) {
        free(conn);
        close(fd);
        return;
    }
    conn->next = serve->conns;
    if (conn->next != NULL) conn->next->prev = conn;
    serve->conns = conn;
    serve->conn_count++;
    set_reading(conn, true);
    serve_arm_sweep(serve);
}
