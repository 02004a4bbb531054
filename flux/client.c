/* One client: its single calls, and the thread that keeps its instance registered. */
#include "flux/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/base/clock.h"

/* Back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015): a random part of
 * 1 s, 2 s, 4 s … 30 s, so that a fleet does not come back to a restarted registry all at once. */
enum { BACKOFF_MIN_MS = 1000, BACKOFF_MAX_MS = 30000, BACKOFF_FLOOR_MS = 20 };

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void
init_curl(void)
{
    /* Never cleaned up: another user of libcurl may live in this program. A failure shows in curl_easy_init.
     */
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

const char *
flux_strerror(enum flux_error error)
{
#define X(name, text) [name] = text,
    static const char *const texts[] = {FLUX_ERRORS(X)};
#undef X
    if ((size_t)error >= sizeof texts / sizeof texts[0]) return "unknown error";
    return texts[error];
}

static void
tell(struct flux_client *client, const char *event, const char *detail)
{
    if (client->on_event != NULL) client->on_event(client->context, event, detail);
}

/* One operation, counted. */
static enum flux_error
call(struct flux_client *client, struct caller *caller, enum operation operation, const char *service,
    char **json, char detail[DETAIL_BYTES])
{
    uint64_t begun = clock_now_us();
    enum flux_error error;
    detail[0] = '\0';
    if (client->protocol == FLUX_GRPC)
        error = grpc_call(client, caller, operation, service, json, detail);
    else
        error = rest_call(client, caller, operation, service, json, detail);
    metrics_count(client, operation, error == FLUX_OK, (double)(clock_now_us() - begun) / 1e6);
    return error;
}

static void
set_registered(struct flux_client *client, bool registered)
{
    pthread_mutex_lock(&client->lock);
    atomic_store(&client->registered, registered);
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

static bool
is_stopping(struct flux_client *client)
{
    bool stopping;
    pthread_mutex_lock(&client->lock);
    stopping = client->stopping;
    pthread_mutex_unlock(&client->lock);
    return stopping;
}

static struct timespec
in_ms(uint64_t ms)
{
    uint64_t at_us = clock_now_us() + ms * 1000;
    return (struct timespec){(time_t)(at_us / 1000000), (long)(at_us % 1000000) * 1000};
}

/* Waits, or until a stop. */
static void
rest(struct flux_client *client, uint64_t ms)
{
    struct timespec until = in_ms(ms);
    pthread_mutex_lock(&client->lock);
    while (!client->stopping && pthread_cond_timedwait(&client->changed, &client->lock, &until) != ETIMEDOUT)
        continue;
    pthread_mutex_unlock(&client->lock);
}

/* 0 … limit; the middle where the kernel has no dice. */
static uint64_t
random_ms(uint64_t limit)
{
    uint32_t dice;
    if (getrandom(&dice, sizeof dice, 0) != sizeof dice) return limit / 2;
    return limit * dice / UINT32_MAX;
}

static uint64_t
backoff_ms(unsigned failures)
{
    uint64_t limit = failures > 5 ? BACKOFF_MAX_MS : (uint64_t)BACKOFF_MIN_MS << (failures - 1);
    uint64_t ms = random_ms(limit > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : limit);
    return ms < BACKOFF_FLOOR_MS ? BACKOFF_FLOOR_MS : ms;
}

static enum flux_error
register_on(struct flux_client *client, struct caller *caller, char detail[DETAIL_BYTES])
{
    enum flux_error error;
    pthread_mutex_lock(&client->lock);
    client->touched = true;
    pthread_mutex_unlock(&client->lock);
    error = call(client, caller, OP_REGISTER, NULL, NULL, detail);
    if (error == FLUX_OK) set_registered(client, true);
    return error;
}

/* A beat that failed for whatever reason makes the instance register again, as flux always did: a register is
 * an upsert, so it is right whether the registry forgot us, was restarted or was only slow. */
static void
beat_once(struct flux_client *client)
{
    char detail[DETAIL_BYTES];
    enum flux_error error = call(client, &client->beat, OP_HEARTBEAT, NULL, NULL, detail);
    if (error == FLUX_OK || is_stopping(client)) return;
    set_registered(client, false);
    tell(client, error == FLUX_UNKNOWN_ID ? "forgotten" : "heartbeat failed", detail);
}

static void *
run(void *context)
{
    struct flux_client *client = context;
    unsigned failures = 0;
    bool fresh = true; /* the first beat comes early by chance, so that a fleet started at once does not beat
                          at once */
    char detail[DETAIL_BYTES];
    while (!is_stopping(client)) {
        if (atomic_load(&client->registered)) {
            rest(client, fresh ? client->heartbeat_ms / 2 + random_ms(client->heartbeat_ms / 2)
                               : client->heartbeat_ms);
            fresh = false;
            if (!is_stopping(client)) beat_once(client);
        } else if (register_on(client, &client->beat, detail) == FLUX_OK) {
            failures = 0;
            fresh = true;
            tell(client, "registered", client->id);
        } else if (!is_stopping(client)) {
            failures++;
            tell(client, "register failed", detail);
            rest(client, backoff_ms(failures));
        }
    }
    return NULL;
}

struct flux_client *
flux_new(const struct flux_instance *instance, const struct flux_options *options, enum flux_error *error)
{
    static const struct flux_instance none;
    pthread_condattr_t attributes;
    enum flux_error ignored, *why = error != NULL ? error : &ignored;
    struct flux_client *client = calloc(1, sizeof *client);

    *why = FLUX_NO_MEMORY;
    if (client == NULL) return NULL;
    pthread_once(&curl_once, init_curl);
    *why = settings_take(client, instance != NULL ? instance : &none, options);
    if (*why != FLUX_OK) goto fail_settings;
    *why = FLUX_NO_MEMORY;
    if (!caller_init(&client->beat)) goto fail_settings;
    if (!caller_init(&client->direct)) goto fail_beat;
    *why = FLUX_SYSTEM;
    if (pthread_condattr_init(&attributes) != 0) goto fail_direct;
    if (pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0 ||
        pthread_cond_init(&client->changed, &attributes) != 0) {
        pthread_condattr_destroy(&attributes);
        goto fail_direct;
    }
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&client->lock, NULL);
    pthread_mutex_init(&client->direct_lock, NULL);
    *why = FLUX_OK;
    return client;
fail_direct:
    caller_fini(&client->direct);
fail_beat:
    caller_fini(&client->beat);
fail_settings:
    settings_free(client);
    free(client);
    return NULL;
}

static enum flux_error
wait_registered(struct flux_client *client, unsigned wait_ms)
{
    struct timespec until = in_ms(wait_ms);
    bool registered;
    pthread_mutex_lock(&client->lock);
    while (!atomic_load(&client->registered) && !client->stopping) {
        if (pthread_cond_timedwait(&client->changed, &client->lock, &until) == ETIMEDOUT) break;
    }
    registered = atomic_load(&client->registered);
    pthread_mutex_unlock(&client->lock);
    return registered ? FLUX_OK : FLUX_TIMEOUT;
}

enum flux_error
flux_start(struct flux_client *client, unsigned wait_ms)
{
    char detail[DETAIL_BYTES];
    pthread_mutex_lock(&client->lock);
    if (client->running || client->stopping) {
        pthread_mutex_unlock(&client->lock);
        return FLUX_INVALID;
    }
    if (client->metrics_port != 0) {
        client->server = metrics_server_start(client, client->metrics_port);
        if (client->server == NULL) {
            snprintf(detail, sizeof detail, "port %d: %s", client->metrics_port, strerror(errno));
            pthread_mutex_unlock(&client->lock);
            tell(client, "metrics failed", detail);
            return FLUX_SYSTEM;
        }
    }
    client->running = thread_start(&client->thread, run, client) == 0;
    pthread_mutex_unlock(&client->lock);
    if (!client->running) {
        metrics_server_stop(client->server);
        client->server = NULL;
        return FLUX_SYSTEM;
    }
    return wait_ms == 0 ? FLUX_OK : wait_registered(client, wait_ms);
}

bool
flux_is_registered(const struct flux_client *client)
{
    return atomic_load(&client->registered);
}

enum flux_error
flux_stop(struct flux_client *client)
{
    enum flux_error error = FLUX_OK;
    bool was_running, touched;
    struct metrics_server *server;

    pthread_mutex_lock(&client->lock);
    was_running = client->running;
    client->running = false;
    client->stopping = true;
    server = client->server;
    client->server = NULL;
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
    if (was_running) {
        caller_cancel(&client->beat);
        pthread_join(client->thread, NULL);
    }
    pthread_mutex_lock(&client->lock);
    touched = client->touched;
    pthread_mutex_unlock(&client->lock);
    if (touched) error = flux_deregister(client);
    metrics_server_stop(server);
    return error;
}

void
flux_free(struct flux_client *client)
{
    if (client == NULL) return;
    if (client->running) (void)flux_stop(client); /* nobody is left to tell */
    caller_fini(&client->beat);
    caller_fini(&client->direct);
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    pthread_mutex_destroy(&client->direct_lock);
    settings_free(client);
    free(client);
}

/* A single call on the handle for them, told of by `event`. */
static enum flux_error
direct_call(
    struct flux_client *client, enum operation operation, const char *event, const char *service, char **json)
{
    char detail[DETAIL_BYTES], failed[64];
    enum flux_error error;
    pthread_mutex_lock(&client->direct_lock);
    if (operation == OP_REGISTER)
        error = register_on(client, &client->direct, detail);
    else
        error = call(client, &client->direct, operation, service, json, detail);
    pthread_mutex_unlock(&client->direct_lock);
    snprintf(failed, sizeof failed, "%s failed", event);
    if (error != FLUX_OK) tell(client, failed, detail);
    return error;
}

enum flux_error
flux_register(struct flux_client *client)
{
    enum flux_error error = direct_call(client, OP_REGISTER, "register", NULL, NULL);
    if (error == FLUX_OK) tell(client, "registered", client->id);
    return error;
}

enum flux_error
flux_heartbeat(struct flux_client *client)
{
    enum flux_error error = direct_call(client, OP_HEARTBEAT, "heartbeat", NULL, NULL);
    if (error == FLUX_UNKNOWN_ID) set_registered(client, false);
    return error;
}

enum flux_error
flux_deregister(struct flux_client *client)
{
    enum flux_error error = direct_call(client, OP_DEREGISTER, "deregister", NULL, NULL);
    set_registered(client, false);
    if (error != FLUX_OK) return error;
    pthread_mutex_lock(&client->lock);
    client->touched = false;
    pthread_mutex_unlock(&client->lock);
    tell(client, "deregistered", client->id);
    return FLUX_OK;
}

enum flux_error
flux_healthy(struct flux_client *client, const char *service, char **json)
{
    *json = NULL;
    return direct_call(client, OP_HEALTHY, "list", service == NULL ? "" : service, json);
}

const char *
flux_id(const struct flux_client *client)
{
    return client->id;
}
