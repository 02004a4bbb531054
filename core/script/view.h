/* core/script/view.h: what Lua's FFI sees of us: small structs that only C writes, and the fg_ functions that
 * read what is behind them. lua/ffi/view.lua repeats the structs; the runtime compares both with fg_layout()
 * and refuses to start on a difference. Every fg_ function checks every argument, is short, allocates nothing
 * of ours, begins with guard_point() and never enters Lua. */
#ifndef FLUXGATE_SCRIPT_VIEW_H
#define FLUXGATE_SCRIPT_VIEW_H
#include <stddef.h>
#include <stdint.h>

struct script;

/* One endpoint, in Lua's memory. handle is the script's struct member, 0 once the endpoint is gone. */
struct fg_backend {
    uint32_t slot, incarnation;
    uint32_t weight, port;
    double effective_weight;
    uint64_t handle;
};

/* One request. handle is the proxy's struct script_request, 0 while no callback runs for it; filter is its
 * struct filter_chain, 0 in pick(). */
struct fg_request {
    uint32_t attempt;
    uint32_t service_index;
    uint64_t handle, script, filter;
};

/* How an attempt ended; valid inside on_result. latency in seconds. */
struct fg_result {
    int32_t status;
    uint32_t failure_number; /* enum reason */
    double latency;
    uint64_t handle; /* struct headers, or 0 */
};

struct fg_counter {
    uint64_t handle; /* an _Atomic uint64_t in the shared segment */
};

struct fg_slice {
    const char *at;
    size_t len;
};

/* Text of a request or of an endpoint, by number: the same order as in lua/ffi/view.lua. */
enum fg_request_text { FG_METHOD, FG_PATH, FG_QUERY, FG_HOST, FG_CLIENT_IP };
enum fg_backend_text { FG_ID, FG_HOST_NAME, FG_ZONE, FG_METADATA, FG_STATE, FG_HEALTH_PATH };
enum fg_cookie_flags { FG_COOKIE_SECURE = 1, FG_COOKIE_HTTP_ONLY = 2 };
enum fg_cookie_error {
    FG_COOKIE_OK,
    FG_COOKIE_NAME,
    FG_COOKIE_VALUE,
    FG_COOKIE_PATH,
    FG_COOKIE_MEMORY,
    FG_COOKIE_ENDED,
    FG_COOKIE_FILTER, /* before pick(), where it would be lost */
    FG_COOKIE_DOMAIN
};

/* "name:size field:offset ...;" of every struct above: what the loader compares. */
const char *fg_layout(void);

/* Endpoints. 0 or false for one that is gone. Hot. */
uint32_t fg_backend_active(const struct fg_backend *backend);
uint32_t fg_backend_failures(const struct fg_backend *backend);
double fg_backend_latency(const struct fg_backend *backend); /* seconds, decays without traffic */
double fg_backend_load(const struct fg_backend *backend);
int fg_backend_full(const struct fg_backend *backend); /* at its limit of active requests now */
int fg_backend_text(
    const struct fg_backend *backend, uint32_t which, struct fg_slice *out); /* valid until the next call */

/* Requests. 1: *out is set; 0: there is none; -1: the request is over. Hot. */
int fg_request_text(const struct fg_request *request, uint32_t which, struct fg_slice *out);
int fg_request_header(const struct fg_request *request, const char *name, size_t len, struct fg_slice *out);
int fg_request_cookie(const struct fg_request *request, const char *name, size_t len, struct fg_slice *out);
int fg_request_cookie_at(
    const struct fg_request *request, const char *name, size_t len, uint32_t skip, struct fg_slice *out);
/* A 52-bit hash of what `key` names ("path", "header:x-user", "cookie:sid", "query:user", …); -1: there is
 * none, -2: the request is over, -3: the key names nothing. */
double fg_request_hash(const struct fg_request *request, const char *key, size_t len);
/* enum fg_cookie_error. max_age < 0: a session cookie. same_site is written as it is, checked by the caller.
 */
int fg_request_set_cookie(const struct fg_request *request, const char *name, size_t name_len,
    const char *value, size_t value_len, const char *path, size_t path_len, const char *domain,
    size_t domain_len, const char *same_site, double max_age, uint32_t flags);
/* Marks the endpoint as one that this pick may answer although it takes no new requests (draining, unproven,
 * …). 1: it may; 0: not now (unhealthy, gone, tried, of another service); -1: the request is over. */
int fg_request_bind(const struct fg_request *request, const struct fg_backend *backend);
int fg_request_ctx(const struct fg_request *request); /* 0: none yet; -1: over */
int fg_request_set_ctx(const struct fg_request *request, int ctx);

/* Results. As fg_request_header. */
int fg_result_header(const struct fg_result *result, const char *name, size_t len, struct fg_slice *out);
const char *fg_reason_word(uint32_t reason);

/* The gateway table's primitives. */
double fg_now(void);        /* monotonic seconds */
int fg_stack_is_deep(void); /* C frames below: what calls back into Lua out of C may not nest further */
double fg_random(struct script *script); /* [0, 1) */
int fg_counter_open(struct script *script, const char *name, size_t len, struct fg_counter *counter);
double fg_counter_next(const struct fg_counter *counter); /* the value before it was counted up */
double fg_counter_get(const struct fg_counter *counter);
void fg_log(struct script *script, int level, const char *text, size_t len);
int fg_sha256(const char *data, size_t len, uint8_t out[32]);
int fg_hmac_sha256(const char *key, size_t key_len, const char *data, size_t len, uint8_t out[32]);

#endif
