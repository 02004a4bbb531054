/* core/serve/serve.h: the one small HTTP/1.1 and gRPC server, for admin, registry and flux metrics. Not for
 * the data plane: whole bodies in memory, bounded by limits. One event loop, no threads. */
#ifndef FLUXGATE_SERVE_SERVE_H
#define FLUXGATE_SERVE_SERVE_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/http/h1.h"

struct serve;      /* a server: listening sockets and their connections */
struct serve_call; /* one request, until its reply is done or the peer is gone */

/* Every slice is borrowed until the handler returns; a handler that keeps the call copies what it needs into
 * `arena`. */
struct serve_request {
    enum method method;
    struct slice method_text;
    struct slice path; /* as sent, percent-encoding kept: split first, then serve_decode a segment */
    struct slice query;
    struct slice body; /* whole */
    const struct headers *headers;
    const char *peer;    /* "127.0.0.1:4711" */
    struct arena *arena; /* lives until the reply is done */
    bool is_grpc;        /* path is "/package.Service/Method", body one message without its 5-byte prefix */
};

/* Called with each whole request. The handler replies at once or keeps `call` and replies later. A kept call
 * without serve_on_gone stays valid until its reply, even where the peer has left. */
typedef void (*serve_handler)(void *context, struct serve_call *call, const struct serve_request *request);

struct serve_limits {
    size_t body_bytes;           /* 413 / RESOURCE_EXHAUSTED past it; default 1 MiB */
    unsigned connections;        /* default 4096; past it a new one is closed */
    uint64_t header_us, idle_us; /* default 10 s, 75 s; a held call does not count as idle */
};

enum serve_protocol {
    SERVE_HTTP1,
    SERVE_GRPC /* h2c with prior knowledge */,
    SERVE_BOTH /* by the h2 preface */
};

MUST_CHECK
struct serve *serve_new(struct event_base *base, enum serve_protocol protocol,
    const struct serve_limits *limits, serve_handler handler, void *context);
/* Takes a bound, listening descriptor. EMFILE pauses accepting and recovers by itself. */
MUST_CHECK
bool serve_listen(struct serve *serve, int fd);
/* No new connections; present calls may finish; done is called once all are gone or after limit_us. */
void serve_drain(struct serve *serve, uint64_t limit_us, void (*done)(void *), void *context);
void serve_free(struct serve *serve);

/* gRPC methods whose client may send more than one message: the handler is called with the first (or, where
 * there was none, with an empty body at the end), serve_on_message gets the rest. Of every other method
 * exactly one is taken. */
void serve_set_streaming(struct serve *serve, bool (*is_streaming)(void *context, struct slice path));
unsigned serve_connections(const struct serve *serve);

/* A whole HTTP reply. Copies everything. `content_type` NULL: none. HEAD sends the length alone. */
void serve_reply(struct serve_call *call, int status, const char *content_type, struct slice body);
/* Bytes that many replies share: a counted reference, so that a snapshot for a thousand watchers exists once.
 */
struct serve_blob {
    unsigned refs;
    size_t len;
    char bytes[];
};
MUST_CHECK
struct serve_blob *serve_blob_new(struct slice bytes); /* one reference; NULL: out of memory */
struct serve_blob *serve_blob_get(struct serve_blob *blob);
void serve_blob_put(struct serve_blob *blob); /* NULL is fine */
/* As serve_reply, and serve_send below, but the bytes stay where they are; both take a reference of their
 * own. */
void serve_reply_blob(struct serve_call *call, int status, const char *content_type, struct serve_blob *body);
void serve_send_blob(struct serve_call *call, struct serve_blob *message);
void serve_header(
    struct serve_call *call, const char *name, const char *value); /* before the reply; copies */

/* gRPC: codes of google.rpc.Code. Unary: message then GRPC_OK. Streaming: any number of serve_send, then
 * serve_finish. */
enum grpc_code {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16
};
void serve_send(struct serve_call *call, struct slice message);
void serve_finish(struct serve_call *call, enum grpc_code code, const char *message);
size_t serve_pending_bytes(const struct serve_call
        *call); /* queued and unsent: a watcher that does not read is ended by its owner */

/* For held calls: `gone` is called once if the peer goes away before the reply is done (an HTTP/1 client that
 * closes its sending side counts as gone: most that do so are) or its grpc-timeout passes; the call is then
 * dead. A bidirectional or client-streaming method also gets every further message here. */
void serve_on_gone(struct serve_call *call, void (*gone)(void *context), void *context);
void serve_on_message(
    struct serve_call *call, void (*message)(void *context, struct slice bytes, bool end), void *context);

/* Percent-decodes one path segment once into the arena; false: broken escape, or it holds a NUL. */
MUST_CHECK
bool serve_decode(struct arena *arena, struct slice segment, struct slice *out);

#endif
