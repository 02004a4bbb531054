/* core/config/config.h: the configuration file as typed data (DESIGN.md section 11). Read-only once loaded;
 * one a generation. */
#ifndef FLUXGATE_CONFIG_CONFIG_H
#define FLUXGATE_CONFIG_CONFIG_H
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/arena.h"
#include "core/base/diag.h"
#include "core/base/log.h"
#include "core/config/bundle.h"

/* An address to listen on or to connect to: "HOST:PORT", ":PORT", "[v6]:PORT", "unix:/path". */
struct config_address {
    const char *text; /* as written: what messages show */
    bool is_unix;
    const char *host; /* "" means all addresses; the path where is_unix */
    uint16_t port;    /* 0 is allowed: the kernel chooses */
    struct place place;
};

/* A plug-in's options, kept as JSON for its Lua side. `path` is what Lua's errors begin with
 * ("services.users.options"); config_place finds the YAML line of such a path again. */
struct config_options {
    const char *path;
    const char *json; /* an object, "{}" where none are given */
};

struct config_plugin {
    const char *name; /* "round_robin", or the .lua path as written */
    const char *file; /* resolved path of the source, readable in the bundle */
    struct config_options options;
    struct place place;
};

struct config_filter {
    struct config_plugin plugin;
    bool skip_on_error; /* on_error: skip */
};

struct config_pair {
    const char *name;
    const char *value; /* NULL: present with any value */
};

struct config_match {
    const char *host; /* lower case, without port; "*.example.com" takes one or more labels; NULL: any */
    const char *path_prefix; /* normal form; "/users" takes /users and /users/…; "/" any. NULL: not asked */
    const char *path;        /* exact, normal form */
    const char *const *methods; /* NULL-terminated, NULL: any */
    const struct config_pair *headers, *query, *cookies;
    size_t header_count, query_count, cookie_count;
};

struct config_timeouts { /* microseconds; 0: none */
    uint64_t connect, response, stream_idle, client_header, client_body_gap, keepalive, upstream_keepalive,
        tunnel_idle, filter, request;
};

/* What a service takes at once; past it requests wait in its queue. A route has `queue` and `queue_timeout`
 * of its own. */
struct config_queue_limits {
    uint32_t active_per_endpoint, active; /* exact over all workers; 0: no limit */
    uint32_t queue;                       /* how many may wait, over all workers; 0: nobody waits */
    uint64_t queue_timeout;               /* microseconds, at least 1 ms */
};

struct config_body_limits {
    uint64_t bytes; /* of a request body; 0: any */
    uint64_t rate;  /* bytes a second that a request body must average; 0: off */
};

/* Failures after which another attempt may be made: bits of config_retry.on. */
enum { RETRY_ON_NEVER_SENT = 1 << 0, RETRY_ON_IDEMPOTENT_RESET = 1 << 1 };

struct config_retry {
    uint32_t attempts;       /* further ones after the first; 0: none */
    uint32_t budget_percent; /* of the requests of the last 10 s, beside 10 a second */
    uint32_t on;
    uint64_t per_try; /* microseconds from an attempt's begin to its response head; 0: no limit of its own */
    uint64_t status[2]; /* bit n: an idempotent request answered 500 + n is tried again */
};

static inline bool
config_retry_has_status(const struct config_retry *retry, int status)
{
    unsigned n = (unsigned)status - 500u;
    return n < 100 && (retry->status[n / 64] >> (n % 64) & 1) != 0;
}

struct config_target {
    uint32_t service; /* index into config.services */
    uint32_t weight;
};

enum config_action { ACTION_PROXY, ACTION_REDIRECT, ACTION_RESPOND };

struct config_route {
    const char
        *name; /* label for metrics: `name:` or what is matched ("/users", "api.example.com/users", "= /x") */
    struct config_match match;
    enum config_action action;
    struct config_target *targets; /* ACTION_PROXY */
    size_t target_count;
    uint64_t weight_total;
    struct {
        const char *to; /* absolute, or a path; $path, $query, $host are filled in; without them the path is
                           kept where `to` has none */
        int status;
    } redirect;
    struct {
        int status;
        const char *body, *content_type;
        size_t body_len;
    } respond;
    struct {
        const char *strip_prefix, *add_prefix, *host; /* NULL: as it is */
    } rewrite;
    bool path_raw;     /* path: raw */
    bool slashes_keep; /* slashes: keep */
    struct config_timeouts
        timeouts;      /* route over service over top level, already merged for single-target routes */
    bool own_timeouts; /* the route itself stated some */
    struct config_queue_limits queue; /* merged as timeouts are; the active ones are the service's */
    struct config_body_limits body;
    struct config_retry retry;
    bool own_limits, own_retry;
    struct config_filter *filters; /* in the order in which they run; the service's run after them */
    size_t filter_count;
    struct place place;
};

struct config_endpoint {
    const char *id; /* `id:`, else the address text */
    struct config_address address;
    uint32_t weight; /* default 1, 0 takes no new requests, at most 65535 */
    const char *zone;
    const char *metadata_json; /* an object or "" */
};

struct config_damping {     /* RFC 2439 */
    uint64_t half_life_us;  /* 1m; 0: no damping */
    uint64_t max_us;        /* 5m */
    double suppress, reuse; /* 3, 1 */
};

struct config_health {
    bool enabled;
    struct config_plugin policy;  /* options hold every key of the health block but `policy` and `passive` */
    struct config_plugin passive; /* observes beside it; name NULL: none does */
    uint64_t interval_us, fast_interval_us, timeout_us; /* defaults 5s, interval, 2s */
    uint32_t rise, fall;                                /* 2, 3 */
    double jitter;                                      /* 0.1: ± 10 % of the interval */
    struct config_damping damping;
};

struct config_service {
    const char *name;
    const char *discover; /* NULL: static only; "*": every instance */
    struct config_endpoint *endpoints;
    size_t endpoint_count;
    struct config_plugin strategy;
    struct config_health health;
    struct config_timeouts timeouts; /* service over top level; so are the next three */
    struct config_queue_limits queue;
    struct config_body_limits body;
    struct config_retry retry;
    uint64_t slow_start_us; /* how long an endpoint's weight grows from a tenth to the whole; 0: not at all */
    struct config_filter *filters; /* of every request that this service takes */
    size_t filter_count;
    uint32_t panic_percent; /* fewer healthy endpoints than this: the others are picked too; 0: never */
    struct place place;
};

enum registry_protocol { REGISTRY_HTTP, REGISTRY_GRPC };

struct config_registry {
    bool enabled; /* a `registry` block, or the flat file's keys, is there */
    bool embedded;
    const char *url; /* not embedded: "http://host:port", or "host:port" */
    enum registry_protocol protocol;
    struct config_address listen_http,
        listen_grpc;   /* embedded, and `fluxgate registry`; default :8081 and :9091 */
    const char *store; /* "memory", "sqlite:/path" */
    uint64_t lease_ttl_us;
    uint64_t poll_interval_us; /* fallback polling; flat file: 2 × healthCheckInterval; default 10 s */
    struct place place;
};

struct config_cidr {
    uint8_t family; /* AF_INET or AF_INET6 */
    uint8_t bits;
    uint8_t address[16];
};

struct config_limits {
    uint32_t header_bytes, headers, uri_bytes;
    uint64_t body_bytes;
    uint64_t body_rate;              /* as config_body_limits.rate */
    uint32_t connections;            /* client connections over all workers */
    uint32_t connections_per_client; /* the same for one client address; 0: no limit */
    uint32_t keepalive_requests;     /* on one client connection; 0: no limit */
    uint64_t max_connection_age;     /* microseconds, to be spread by ± 10 %; 0: no limit */
    uint32_t max_endpoints;          /* fixed at start: a reload that changes it is told so */
    uint32_t pool_per_endpoint;
    uint64_t shared_dict_bytes;       /* of each; fixed at start, as is: */
    uint32_t shared_dicts;            /* how many there may ever be */
    struct config_queue_limits queue; /* what services start from */
};

/* What `$name` may name in log.access_format. */
#define CONFIG_LOG_FIELDS(X)                                                                                 \
    X(time)                                                                                                  \
    X(client)                                                                                                \
    X(method)                                                                                                \
    X(host)                                                                                                  \
    X(path)                                                                                                  \
    X(query)                                                                                                 \
    X(protocol)                                                                                              \
    X(status)                                                                                                \
    X(reason)                                                                                                \
    X(bytes_in)                                                                                              \
    X(bytes_out)                                                                                             \
    X(duration_us)                                                                                           \
    X(duration_ms)                                                                                           \
    X(route)                                                                                                 \
    X(service)                                                                                               \
    X(endpoint)                                                                                              \
    X(attempts)                                                                                              \
    X(request_id)                                                                                            \
    X(user_agent)                                                                                            \
    X(referer)
#define X(name) LOG_FIELD_##name,
enum config_log_field { CONFIG_LOG_FIELDS(X) LOG_FIELD_COUNT };
#undef X
extern const char *const config_log_fields[LOG_FIELD_COUNT + 1]; /* by number; NULL-terminated */
/* The field that stands at the begin of `text` ("$status ..."), and how long it is with its `$`;
 * LOG_FIELD_COUNT: none. */
enum config_log_field config_log_field_at(const char *text, size_t *len);

struct config_log {
    enum log_level level;
    enum log_format format;
    const char *access;         /* file, "-" standard output, NULL none */
    const char *access_format;  /* "json" or "logfmt" */
    const char *access_pattern; /* a line with $names, each known; NULL: access_format's */
};

struct config_drain {
    uint64_t delay_us, requests_us, tunnels_us;
    bool keep_sessions;
};

struct config_listener {
    struct config_address address;
    uint32_t connections; /* client connections to it over all workers; 0: no limit of its own */
    struct place place;
};

struct config {
    struct arena arena; /* owns everything below */
    const char *file;
    bool is_flat;
    struct config_listener *listeners;
    size_t listener_count;
    unsigned workers; /* resolved: at least 1, at most 64 */
    struct config_route *routes;
    size_t route_count;
    struct config_service *services;
    size_t service_count;
    struct config_registry registry;
    struct config_address admin;
    bool has_admin;
    struct config_cidr *trusted_proxies;
    size_t trusted_proxy_count;
    const char *const *lua_path; /* directories, NULL-terminated, resolved */
    const char *const *trust;    /* files of plug-ins that have every library, NULL-terminated, resolved */
    const char *const
        *strategies_path;  /* directories searched for plug-in names, resolved; the shipped one last */
    const char *state_dir; /* snapshot of last known endpoints; NULL: none kept */
    const char *zone;
    const char *via; /* this gateway's name in Via; NULL: none is sent */
    struct config_timeouts timeouts;
    struct config_limits limits;
    struct config_retry retry; /* what services start from */
    struct config_drain drain;
    struct config_log log;
    void *places; /* of config_place */
};

/* Reads `path` and its includes through `bundle`. Every complaint goes into diags (file:line:column, what was
 * expected, the nearest valid name); the caller asks diags_ok. NULL only where nothing usable could be built.
 * The result may be non-NULL with errors in diags: it must then not be run. Plug-in files are located (and
 * read into the bundle) but not executed: script_new does that. */
MUST_CHECK
struct config *config_load(struct bundle *bundle, const char *path, struct diags *diags);
void config_free(struct config *config);

/* The YAML place of a dotted path ("services.users.options.rate"), or of its nearest parent that stands in
 * the file. */
struct place config_place(const struct config *config, const char *path);

/* The whole configuration with every default, as YAML that loads again to the same. */
void config_print(const struct config *config, FILE *out);

bool config_cidr_has(const struct config_cidr *cidrs, size_t count, const struct sockaddr *address);

#endif
