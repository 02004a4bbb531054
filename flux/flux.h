/* flux.h: join a service registry from C. One client registers one instance, beats on a thread of its own,
 * and leaves.
 *
 *     struct flux_instance me = { .service_name = "users", .port = 9001 };
 *     struct flux_client *client = flux_new(&me, NULL, NULL);
 *     if (client == NULL || flux_start(client, 5000) != FLUX_OK) ...
 *     ...
 *     flux_free(client);            // deregisters
 *
 * Every call may be made from any thread. Errors are values, text by flux_strerror; nothing here exits or
 * aborts. */
#ifndef FLUX_H
#define FLUX_H
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLUX_ERRORS(X)                                                                                       \
    X(FLUX_OK, "done")                                                                                       \
    X(FLUX_INVALID, "an argument or environment variable is invalid")                                        \
    X(FLUX_UNREACHABLE, "the registry cannot be reached")                                                    \
    X(FLUX_REJECTED, "the registry refused the call")                                                        \
    X(FLUX_UNKNOWN_ID, "the registry does not know this instance")                                           \
    X(FLUX_TIMEOUT, "the registry did not answer in time")                                                   \
    X(FLUX_NO_MEMORY, "out of memory")                                                                       \
    X(FLUX_SYSTEM, "a system call failed")
#define X(name, text) name,
enum flux_error { FLUX_ERRORS(X) };
#undef X
const char *flux_strerror(enum flux_error error);

enum flux_protocol { FLUX_HTTP, FLUX_GRPC };

/* Zero and NULL mean: take the environment variable, else the default. All text is copied. */
struct flux_instance {
    const char *id;           /* default SERVICE_NAME-HOSTNAME-PORT */
    const char *service_name; /* $SERVICE_NAME */
    const char *host;         /* $HOSTNAME, else this machine's name; what gateways connect to */
    int port;                 /* $PORT */
    const char *url;          /* http://HOST:PORT */
    const char *health_path;  /* /health */
    /* beyond the old contract; sent only when one of them is set, by the v2 calls */
    const char *zone, *version, *metadata_json;
    unsigned weight;
};

struct flux_options {
    const char *registry_url; /* $REGISTRY_URL, else http://127.0.0.1:8081 (grpc: 127.0.0.1:9091) */
    enum flux_protocol protocol;
    unsigned heartbeat_ms; /* 10000 */
    unsigned timeout_ms;   /* 5000, each call */
    int metrics_port;      /* $METRICS_PORT; 0: none served; GET /metrics on it */
    const char *token;     /* bearer token, NULL none */
    /* registered, forgotten, deregistered, "WHAT failed", invalid (from flux_new). Called by the flux thread,
     * or by the one that makes a single call. NULL: silent. */
    void (*on_event)(void *context, const char *event, const char *detail);
    void *context;
};

struct flux_client;
struct flux_client *flux_new(const struct flux_instance *instance, const struct flux_options *options,
    enum flux_error *error); /* error may be NULL */

/* Starts the thread: registers (back-off with jitter, for ever), beats, registers again when the registry
 * forgot it. Returns once the first registration succeeded or `wait_ms` passed (FLUX_TIMEOUT; it goes on
 * trying). 0: do not wait. */
enum flux_error flux_start(struct flux_client *client, unsigned wait_ms);
bool flux_is_registered(const struct flux_client *client);
/* Stops the thread and deregisters within the call timeout. A stopped client stays stopped. Not from
 * on_event. */
enum flux_error flux_stop(struct flux_client *client);
void flux_free(struct flux_client *client); /* flux_stop where needed; NULL is fine */

/* Single calls, for programs with a loop of their own; counted in the metrics like the thread's. */
enum flux_error flux_register(struct flux_client *client);
enum flux_error flux_heartbeat(struct flux_client *client);
enum flux_error flux_deregister(struct flux_client *client);
/* The living instances of `service` ("" for all) as a JSON array, heap, the caller frees. */
enum flux_error flux_healthy(struct flux_client *client, const char *service, char **json);

/* Metrics in Prometheus text format, heap, the caller frees; NULL: out of memory. */
char *flux_metrics(const struct flux_client *client);
const char *flux_id(const struct flux_client *client);

#ifdef __cplusplus
}
#endif
#endif
