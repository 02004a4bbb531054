/* core/proxy/fetch_internal.h: what the files of the HTTP client share.
 *
 *   fetcher (one a proxy, made by the first fetch) --owns--> fetch (one exchange) --owns--> wire (a socket)
 *
 * A wire idles in the fetcher between exchanges. One to a service is a socket pair: its other end is an
 * `inner`, a conn of this very proxy, whose streams go the way of all others. */
#ifndef FLUXGATE_PROXY_FETCH_INTERNAL_H
#define FLUXGATE_PROXY_FETCH_INTERNAL_H
#include "core/base/strbuf.h"
#include "core/net/tls_client.h"
#include "core/proxy/fetch.h"
#include "core/proxy/fetch_url.h"
#include "core/proxy/proxy_internal.h"

enum {
    FETCHES_MAX = 256,
    FETCH_HELD_MAX = 64 << 20, /* bytes of all answers and requests under way */
    FETCH_HEAD_BYTES = 65536,  /* of an answer */
    FETCH_HEADERS = 256,       /* of a request or an answer */
    FETCH_READ_BYTES = 16384,
    FETCH_ROUNDS = 8,    /* reads of one wake-up */
    FETCH_IDLE_MAX = 32, /* wires, of all peers */
    FETCH_IDLE_PEER_MAX = 8,
    FETCH_IDLE_US = 4000000,
    FETCH_FRESH_US = 1000000, /* what idled for longer takes no request that cannot be replayed */
    FETCH_SESSIONS = 16,      /* of TLS, by peer */
    FETCH_ADDRESSES = 8,      /* of one name that are tried */
    FETCH_DETAIL = 320,
};

struct fetch_address {
    socklen_t len;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
};

/* the other end of a wire to a service (fetch_inner.c) */
struct inner {
    struct conn conn;    /* first: conn_free frees the whole */
    struct wire *wire;   /* NULL: the fetch is over, and nobody listens */
    uint32_t service_id; /* shm name: where its next request goes */
};

/* A pair whose one end is the proxy's; *fd is the other. NULL with errno. */
MUST_CHECK
struct inner *inner_open(struct proxy *proxy, struct wire *wire, int *fd);
/* The wire is gone: the conn ends, but not before this callback does. */
void inner_leave(struct inner *inner);

/* wires (fetch_wire.c) */
struct wire {
    struct link link; /* fetcher->idle, the youngest first, while nobody's */
    struct fetcher *fetcher;
    struct fetch *fetch; /* whose it is; NULL: idle */
    enum fetch_scheme scheme;
    uint16_t port;
    int fd;
    bool is_writing;  /* the write event is registered */
    uint32_t sockets; /* as counted in proxy->fetch_sockets */
    uint32_t served;  /* exchanges that ended well */
    uint64_t written; /* by the exchanges before the present one */
    uint64_t idle_since_us;
    enum reason inner; /* why the gateway itself answered the present request */
    struct inner *other;
    struct tls_client *tls;
    struct event read, write;
    char host[]; /* lower case; a service's wires serve all of them */
};

enum wire_result { WIRE_OK, WIRE_AGAIN, WIRE_END, WIRE_FAILED };

/* An idle one to that peer, or NULL. A request that is not idempotent takes none of which the peer may just
 * be tired (RFC 9112 §9.3.1); the gateway's own are known to live. */
struct wire *wire_take(struct fetcher *fetcher, const struct fetch_url *url, bool is_idempotent);
/* A new one: a connection begun to `address`, or to the gateway itself. NULL with errno. */
MUST_CHECK
struct wire *wire_open(struct fetch *fetch, const struct fetch_address *address);
/* The handshake, as far as it goes now; fetch_https_begin first, which may fail for want of memory. */
MUST_CHECK
bool wire_secure(struct wire *wire);
enum wire_result wire_handshake(struct wire *wire);
enum wire_result wire_read(struct wire *wire, void *out, size_t cap, size_t *got);
enum wire_result wire_write(struct wire *wire, const void *bytes, size_t len, size_t *put);
void wire_want_write(struct wire *wire, bool want);
void wire_again(struct wire *wire); /* there may be more to read than the socket shows */
/* Back to the idle ones, or closed where there are too many. */
void wire_give(struct wire *wire);
void wire_close(struct wire *wire);

/* names (fetch_dns.c) */
struct resolver;
struct lookup;
enum resolved { RESOLVED, RESOLVE_WAITS, RESOLVE_NONE, RESOLVE_FAILED };

/* Literal addresses, localhost, /etc/hosts and what was asked a short while ago at once: into the fetch's
 * addresses. WAITS: fetch_on_addresses comes later, unless resolve_cancel. NONE: there are none, FAILED: for
 * want of memory or descriptors; fetch->detail says it. */
enum resolved resolve(struct fetch *fetch);
void resolve_cancel(struct fetch *fetch);
/* Other files and servers than the system's, before the first look-up; for specs. False: no memory. */
MUST_CHECK
bool resolver_use(struct fetcher *fetcher, const char *resolv_conf, const char *hosts);
void resolver_free(struct resolver *resolver);

/* exchanges */
/* name, what it awaits */
#define FETCH_STATES(X)                                                                                      \
    X(RESOLVE)   /* the name's addresses */                                                                  \
    X(CONNECT)   /* the socket */                                                                            \
    X(HANDSHAKE) /* TLS */                                                                                   \
    X(EXCHANGE)  /* the answer, while the request still goes out */                                          \
    X(ENDED)     /* its `done`, in this turn of the loop or the next */
#define X(name) FETCH_##name,
enum fetch_state { FETCH_STATES(X) };
#undef X

struct fetch {
    struct link link; /* fetcher->fetches */
    struct fetcher *fetcher;
    enum fetch_state state;
    bool is_reporting; /* inside `done` */
    void (*done)(void *task, const struct fetch_answer *answer);
    void *task;
    struct event timer;
    uint64_t timeout_us, due_us, try_due_us; /* try: of the present address */

    char *text; /* the URL, which `url` borrows from */
    struct fetch_url url;
    uint32_t service_id;
    enum method method;
    bool is_idempotent;
    struct strbuf out; /* head and body */
    size_t sent;
    bool is_send_broken; /* the peer takes no more: what it says is still read */

    struct link waiting; /* in lookup->waiting */
    struct lookup *lookup;
    struct fetch_address addresses[FETCH_ADDRESSES];
    unsigned address_count, address_at;
    struct wire *wire;
    bool is_pooled, was_replayed;

    struct arena arena;
    struct h1_parser parser;
    struct h1_chunked chunked;
    bool has_head;
    bool is_filled; /* the last read was as much as it could be: it shows nothing of what stands behind */
    unsigned interims;
    char *in; /* the head; its slices borrow from here */
    size_t in_len, in_cap;
    struct strbuf body;
    uint64_t left; /* of a BODY_LENGTH body */
    size_t max_body, held;

    enum reason failure;
    char detail[FETCH_DETAIL];
};

struct fetcher {
    struct proxy *proxy;
    struct link fetches;
    unsigned count;
    struct link idle;
    unsigned idle_count;
    size_t held;
    struct tls_trust *trust;
    struct {
        struct tls_session *session;
        uint16_t port;
        char host[254];
    } sessions[FETCH_SESSIONS];
    unsigned session_at;
    struct resolver *resolver;
    char detail[FETCH_DETAIL]; /* of a fetch that did not begin */
    char scratch[FETCH_READ_BYTES];
};

/* fetch.c */
MUST_CHECK
struct fetcher *fetcher_get(struct proxy *proxy); /* NULL: out of memory */
/* It is over: its `done` comes from the loop. Detail as printf; with NULL what is there stays. */
void fetch_end(struct fetch *fetch, enum reason failure, const char *detail, ...) PRINTF_LIKE(3, 4);
void fetch_on_addresses(struct fetch *fetch);
void fetch_on_readable(struct fetch *fetch);
void fetch_on_writable(struct fetch *fetch);
void fetch_peer(const struct fetch *fetch, char out[200]); /* "keys.example:80 (192.0.2.1:80)" */

/* fetch_http.c */
/* Writes the request into fetch->out. False: *failure and fetcher->detail. */
MUST_CHECK
bool fetch_write_request(
    struct fetch *fetch, const struct fetch_request *request, enum reason *failure, const char **detail);
void fetch_read_init(struct fetch *fetch);
/* Where the next bytes of the answer go; 0: out of memory, and it ended. */
size_t fetch_room(struct fetch *fetch, char **at);
/* `len` bytes came there. False: it ended, well or not. */
bool fetch_take(struct fetch *fetch, size_t len);
void fetch_on_eof(struct fetch *fetch, bool is_clean);

#endif
