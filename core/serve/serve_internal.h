/* core/serve/serve_internal.h: what the files of core/serve share. */
#ifndef FLUXGATE_SERVE_SERVE_INTERNAL_H
#define FLUXGATE_SERVE_SERVE_INTERNAL_H
#include <event2/event.h>
#include <event2/event_struct.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/base/log.h"
#include "core/base/strbuf.h"
#include "core/serve/serve.h"

enum {
    SCRATCH_BYTES = 64 << 10,       /* one read */
    OUT_BYTES = 16 << 10,           /* an ordinary output buffer; larger ones are not kept */
    OUT_HIGH_BYTES = 256 << 10,     /* more unsent than this: the connection is not read any more */
    IN_HIGH_BYTES = 64 << 10,       /* input waiting behind a held call before reading stops */
    FREE_MAX = 64,                  /* calls and buffers kept for the next user */
    CALL_CHUNK_BYTES = 2048,        /* a heartbeat's headers fit */
    BODY_KEEP_BYTES = 16 << 10,     /* body memory kept with a free call */
    BUFFERED_MAX_BYTES = 256 << 20, /* all bodies being received together; past it 503 */
    STREAMS_MAX = 1024,
    GRPC_PREFIX = 5, /* bytes before each message: compressed or not, length */
    HEADER_BYTES_MAX = 32 << 10,
    HEADER_ROWS_MAX = 100,
    URI_BYTES_MAX = 8 << 10,
    STALL_US = 30 * 1000000, /* a peer that takes no output for so long is cut off */
    LINGER_US = 2 * 1000000,
};

/* A run of heap bytes of which [off, len) are still wanted. */
struct bytes {
    char *at;
    size_t off, len, cap;
};

enum conn_state {
    CONN_NEW,     /* no byte yet, or too few to tell the protocol */
    CONN_HEAD,    /* HTTP/1: at rest, or inside a request head; deadline idle or header */
    CONN_BODY,    /* HTTP/1: inside a request body */
    CONN_CALL,    /* HTTP/1: the handler has the call; no deadline */
    CONN_H2,      /* an nghttp2 session; deadline only while it has no streams */
    CONN_CLOSING, /* output is flushed, then the write side shuts */
    CONN_LINGER,  /* input is thrown away until the peer closes, so that it can read our last answer */
    CONN_DEAD,    /* closed; freed when the loop turn ends */
};

struct serve_conn {
    struct serve *serve;
    struct serve_conn *prev, *next; /* serve->conns, or the graveyard by next */
    struct serve_conn *dirty_next;  /* serve->dirty: something to flush or resume when the turn ends */
    int fd;
    enum conn_state state;
    bool is_dirty, busy /* inside its own input loop */, eof, reading, writing;
    bool going_away;      /* HTTP/2: the last GOAWAY is queued */
    uint64_t deadline_us; /* of the state; 0: none */
    uint64_t stall_us;    /* when output counts as stuck; 0: nothing waits */
    struct event read_event, write_event;
    struct bytes in, out;
    struct serve_blob *blob; /* follows out */
    size_t blob_at;
    struct serve_call *calls; /* HTTP/1: at most one */
    nghttp2_session *session;
    int32_t tokens;     /* resets and control frames that the peer may still cause */
    uint64_t tokens_us; /* when they were last refilled */
    size_t buffered;    /* body bytes of its unfinished requests */
    char peer[64];
};

enum call_state {
    CALL_READING, /* the request is not complete */
    CALL_HELD,    /* the handler has it */
    CALL_DONE,    /* replied; HTTP/2: its last frames may still wait */
};

/* One gRPC message, or the body of an HTTP reply over HTTP/2, on its way out. */
struct out_message {
    struct out_message *next;
    struct serve_blob *blob;
    size_t at; /* of prefix and blob together */
    size_t prefix_len;
    char prefix[5];
};

struct serve_call {
    struct serve *serve;     /* NULL: the peer left and the handler does not know */
    struct serve_conn *conn; /* NULL as above */
    struct serve_call *prev, *next;
    struct arena arena;
    enum call_state state;
    struct headers reply_headers;
    void (*gone)(void *context);
    void *gone_context;
    void (*message)(void *context, struct slice bytes, bool end);
    void *message_context;
    uint64_t deadline_us; /* HTTP/2: of the request's arrival, then grpc-timeout; 0: none */
    struct strbuf body;
    size_t buffered; /* of body, as counted in conn and serve */
    bool is_head, keep_alive, is_http10;
    /* HTTP/1 */
    struct h1_parser parser;
    struct h1_chunked chunked;
    /* HTTP/2 */
    int32_t stream_id;
    bool is_grpc, is_streaming, end_seen, submitted, finished, refused;
    enum method method;
    struct slice method_text, path, query;
    struct headers headers;
    size_t header_bytes;
    struct out_message *first, *last;
    size_t queued;
    enum grpc_code code;
    const char *status_text;
    uint64_t timeout_us; /* grpc-timeout; 0: none */
};

struct listener {
    struct listener *next;
    struct event event;
    int fd;
};

struct serve {
    struct event_base *base;
    enum serve_protocol protocol;
    struct serve_limits limits;
    struct h1_limits h1_limits;
    serve_handler handler;
    void *context;
    bool (*is_streaming)(void *context, struct slice path);
    struct listener *listeners;
    struct serve_conn *conns, *dirty, *graveyard;
    unsigned conn_count;
    struct event turn_event, sweep_event;
    uint64_t sweep_every_us;
    bool sweep_armed, paused, draining;
    uint64_t drain_deadline_us;
    void (*done)(void *context);
    void *done_context;
    char *scratch;
    struct serve_call *free_calls;
    unsigned free_call_count;
    char *free_outs[FREE_MAX];
    unsigned free_out_count;
    size_t buffered; /* body bytes being received, all connections */
    time_t date_at;
    char date[32];
    nghttp2_session_callbacks *h2_callbacks;
    nghttp2_option *h2_option;
    struct log_every accept_log, limit_log;
};

/* serve.c */
void serve_arm_sweep(struct serve *serve);
void serve_resume_accept(struct serve *serve);
const char *serve_date(struct serve *serve); /* an IMF-fixdate, made once a second */

/* conn.c */
void serve_conn_accept(struct serve *serve, int fd, const struct sockaddr *address);
void serve_conn_close(
    struct serve_conn *conn); /* at any time but inside nghttp2; calls are told, memory goes with the turn */
void serve_conn_mark(struct serve_conn *conn); /* flush and resume when the loop turn ends */
void serve_conn_turn(struct serve_conn *conn); /* now */
void serve_conn_timeout(struct serve_conn *conn, uint64_t now_us);
void serve_conn_finish(struct serve_conn *conn); /* close once the output is out, lingering */
MUST_CHECK
char *serve_conn_out(
    struct serve_conn *conn, size_t room); /* where `room` bytes may be written; NULL: no memory */
size_t serve_conn_pending(const struct serve_conn *conn);
void serve_conn_rest(struct serve_conn *conn); /* HTTP/1: between requests */
MUST_CHECK
bool bytes_reserve(struct bytes *bytes, size_t room);

/* call.c */
MUST_CHECK
struct serve_call *call_new(struct serve_conn *conn);
void call_free(struct serve_call *call); /* unlinks; nobody is told */
void call_gone(
    struct serve_call *call); /* tells the owner, or leaves it an orphan; the call is no longer ours */
MUST_CHECK
bool call_add_body(struct serve_call *call, struct slice bytes); /* false: a bound is passed or no memory */
void call_forget_body(struct serve_call *call);

/* http1.c */
void http1_input(struct serve_conn *conn, struct slice bytes);
void http1_resume(struct serve_conn *conn);
void http1_refuse(struct serve_conn *conn, int status, const char *text);
void http1_reply(struct serve_call *call, int status, const char *content_type, struct slice body,
    struct serve_blob *blob);

/* http2.c */
MUST_CHECK
bool http2_init(struct serve *serve);
void http2_fini(struct serve *serve);
MUST_CHECK
bool http2_start(struct serve_conn *conn);
void http2_input(struct serve_conn *conn, struct slice bytes);
MUST_CHECK
bool http2_fill(struct serve_conn *conn); /* frames into conn->out; false: the session is broken */
void http2_goaway(struct serve_conn *conn, bool last);
void http2_sweep(struct serve_conn *conn, uint64_t now_us);
void http2_idle(struct serve_conn *conn);
void http2_reply(struct serve_call *call, int status, const char *content_type, struct slice body,
    struct serve_blob *blob);
void http2_send(struct serve_call *call, struct slice bytes, struct serve_blob *blob);
void http2_finish(struct serve_call *call, enum grpc_code code, const char *message);

#endif
