#include "core/discovery/discovery_internal.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include <curl/curl.h>
#include <event2/util.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"

enum {
    EPOCH_BYTES = 128,
    GRPC_PREFIX = 5, /* flag, length (gRPC over HTTP/2, "Length-Prefixed-Message") */
    GRPC_UNIMPLEMENTED = 12,
    CHANGE_GAP_US = 20000, /* between two answers of a registry in turmoil: fifty rebuilds a second will do */
    CHANGE_COST = 4,       /* times what the answer cost: a fifth of a core for a huge one at most */
    QUICK_US = 500000,     /* an unchanged answer that came this soon was not held */
};

enum sync_mode { SYNC_OFF, SYNC_WATCH, SYNC_POLL };
static const char *const mode_words[] = {"off", "watch", "poll"};

struct sync {
    struct event_base *base;
    struct shm *shm;
    struct dns *dns;
    struct puller *puller;
    struct sync_times times;
    void (*on_answer)(void *context, struct instances *instances);
    void *context;
    struct target {
        char *text; /* as given */
        char *url;  /* with scheme, without the last slash */
        char *host;
        char *unix_path; /* NULL: TCP */
        uint16_t port;
    } target;
    enum registry_protocol protocol;
    uint64_t poll_interval_us;
    /* of the present request */
    struct event *timer; /* the next one */
    struct pull *pull;
    bool asks_watch; /* what is asked for; in mode poll now and then a watch is tried */
    bool waits_for_dns;
    struct strbuf body;
    const char *bad;               /* why on_data refused */
    uint64_t asked_us, applied_us; /* begun; spent on the answer */
    /* over all requests */
    enum sync_mode mode;
    bool has_answer;
    uint64_t index, backoff_us, reprobe_us, answered_us, body_hash, errors;
    char epoch[EPOCH_BYTES];
    char last_error[256];
    bool is_failing;
    struct log_every failure_log, bad_log;
};

struct sync_times
sync_times_default(void)
{
    return (struct sync_times){.connect = 2000000,
        .wait = 30000000,
        .idle = 90000000,
        .poll_timeout = 10000000,
        .backoff_first = 100000,
        .backoff_last = 2000000, /* a refused connection costs nothing, a gateway without endpoints does */
        .reprobe = 60000000};
}

static void sync_ask(struct sync *sync);

static void
on_sync_timer(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    sync_ask(context);
}

static void
sync_in(struct sync *sync, uint64_t us)
{
    struct timeval after = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
    if (event_add(sync->timer, &after) == -1) log_warnx("timer failed");
}

/* Between 80 and 120 % of it, so that gateways do not ask in step. */
static uint64_t
jittered(uint64_t us)
{
    uint32_t dice;
    evutil_secure_rng_get_bytes(&dice, sizeof dice);
    return us * 4 / 5 + us * 2 / 5 * (dice % 1024) / 1024;
}

static uint64_t
backoff(struct sync *sync)
{
    uint64_t us = sync->backoff_us == 0 ? sync->times.backoff_first : sync->backoff_us * 2;
    if (us > sync->times.backoff_last) us = sync->times.backoff_last;
    sync->backoff_us = us;
    return jittered(us);
}

/* Fail static: nothing but the log, the counter and the next attempt. */
static void
sync_failed(struct sync *sync, const char *why)
{
    uint64_t suppressed;
    snprintf(sync->last_error, sizeof sync->last_error, "%s", why);
    sync->errors++;
    sync->is_failing = true;
    if (clock_now_us() - sync->asked_us >= sync->times.backoff_last)
        sync->backoff_us = 0; /* it held that long */
    atomic_fetch_add_explicit(&shm_totals(sync->shm)->registry_sync_errors, 1, memory_order_relaxed);
    if (log_every_due(&sync->failure_log, LOG_INTERVAL_US, &suppressed)) {
        log_warnx("registry sync failed, the last known endpoints stay", F_STR("registry", sync->target.text),
            F_STR("mode", mode_words[sync->mode]), F_STR("error", sync->last_error),
            F_UINT("suppressed", suppressed));
    }
    sync_in(sync, backoff(sync));
}

/* ---- answers */

static void
bad_report(struct sync *sync, const struct instances *all)
{
    uint64_t suppressed;
    if (all->bad == 0) return;
    atomic_fetch_add_explicit(&shm_totals(sync->shm)->registry_bad_instances, all->bad, memory_order_relaxed);
    if (!log_every_due(&sync->bad_log, LOG_INTERVAL_US, &suppressed)) return;
    log_warnx("registry lists instances that cannot be used", F_STR("registry", sync->target.text),
        F_UINT("count", all->bad), F_SLICE("first", all->bad_id), F_STR("why", all->bad_why),
        F_UINT("suppressed", suppressed));
}

/* Takes `all`. False where it changes nothing. */
static bool
sync_answered(struct sync *sync, struct instances *all, uint64_t body_hash)
{
    bool is_same = sync->has_answer &&
                   (all->is_v2 ? all->index == sync->index && slice_equal(all->epoch, slice_of(sync->epoch))
                               : sync->mode == SYNC_POLL && body_hash == sync->body_hash);
    if (sync->is_failing) log_info("registry answers again", F_STR("registry", sync->target.text));
    sync->is_failing = false;
    sync->last_error[0] = '\0';
    sync->answered_us = clock_now_us();
    bad_report(sync, all);
    if (is_same && all->is_v2) {
        instances_free(all);
        return false;
    }
    sync->has_answer = true;
    sync->body_hash = body_hash;
    sync->index = all->index;
    if (!text_copy(sync->epoch, sizeof sync->epoch, all->epoch))
        sync->index = 0; /* then each ask begins anew */
    if (!is_same) {
        atomic_fetch_add_explicit(&shm_totals(sync->shm)->registry_sync_updates, 1, memory_order_relaxed);
    }
    uint64_t begun = clock_now_us();
    sync->on_answer(sync->context, all);
    sync->applied_us = clock_now_us() - begun;
    return !is_same;
}

static void
sync_next(struct sync *sync, bool changed)
{
    if (sync->mode == SYNC_POLL) {
        sync->backoff_us = 0;
        sync_in(sync, jittered(sync->poll_interval_us));
    } else if (changed) {
        sync->backoff_us = 0;
        sync_in(sync, CHANGE_GAP_US + CHANGE_COST * sync->applied_us);
    } else if (clock_now_us() - sync->asked_us < QUICK_US) {
        sync_in(sync, backoff(sync));
    } else {
        sync->backoff_us = 0;
        sync_in(sync, 0);
    }
}

/* The registry knows the old contract only. */
static void
sync_fall_back(struct sync *sync)
{
    if (sync->mode != SYNC_POLL) {
        log_info("registry has no watch, polling it", F_STR("registry", sync->target.text),
            F_US("interval", sync->poll_interval_us));
    }
    sync->mode = SYNC_POLL;
    sync->reprobe_us = clock_now_us() + sync->times.reprobe;
    sync_in(sync, 0);
}

static void
sync_watches(struct sync *sync)
{
    if (sync->mode == SYNC_POLL) log_info("registry has a watch now", F_STR("registry", sync->target.text));
    sync->mode = SYNC_WATCH;
}

static bool
on_rest_data(void *context, struct slice bytes)
{
    struct sync *sync = context;
    if (bytes.len > ANSWER_BYTES_MAX || sync->body.len > ANSWER_BYTES_MAX - bytes.len) {
        sync->bad = "the answer is too long";
        return false;
    }
    strbuf_add_slice(&sync->body, bytes);
    return !sync->body.failed;
}

static void
on_rest_done(void *context, const struct pull_result *result)
{
    struct sync *sync = context;
    const char *why = result->error;
    char text[64];
    sync->pull = NULL;
    if (sync->bad != NULL) why = sync->bad;
    if (why == NULL && sync->asks_watch && (result->status == 404 || result->status == 405)) {
        sync_fall_back(sync);
        return;
    }
    if (why == NULL && result->status != 200) {
        snprintf(text, sizeof text, "HTTP status %ld", result->status);
        why = text;
    }
    struct instances *all = why == NULL ? instances_from_json(strbuf_slice(&sync->body), &why) : NULL;
    if (all != NULL && all->is_v2 != sync->asks_watch) {
        instances_free(all);
        all = NULL;
        why = "the answer is of the other contract";
    }
    if (all == NULL) {
        sync_failed(sync, why);
        return;
    }
    if (sync->asks_watch) sync_watches(sync);
    bool changed = sync_answered(sync, all, text_hash(strbuf_slice(&sync->body)));
    sync_next(sync, changed);
}

/* One message of the stream; NULL or what is wrong with it. */
static const char *
grpc_message(struct sync *sync, struct slice message)
{
    const char *why = NULL;
    struct instances *all =
        sync->asks_watch ? instances_from_snapshot(message, &why) : instances_from_healthy(message, &why);
    if (all == NULL) return why;
    if (sync->asks_watch) sync_watches(sync);
    sync->backoff_us = 0;
    sync_answered(sync, all, text_hash(message));
    return NULL;
}

static bool
on_grpc_data(void *context, struct slice bytes)
{
    struct sync *sync = context;
    size_t at = 0;
    strbuf_add_slice(&sync->body, bytes);
    if (sync->body.failed) {
        sync->bad = "out of memory";
        return false;
    }
    while (sync->bad == NULL && sync->body.len - at >= GRPC_PREFIX) {
        const unsigned char *head = (const unsigned char *)sync->body.at + at;
        size_t len = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
        if (head[0] != 0) {
            sync->bad = "the message is compressed";
        } else if (len > ANSWER_BYTES_MAX) {
            sync->bad = "the message is too long";
        } else if (sync->body.len - at - GRPC_PREFIX < len) {
            break;
        } else {
            sync->bad = grpc_message(sync, (struct slice){sync->body.at + at + GRPC_PREFIX, len});
            at += GRPC_PREFIX + len;
        }
    }
    if (at > 0) {
        sync->body.len -= at;
        memmove(sync->body.at, sync->body.at + at, sync->body.len);
    }
    return sync->bad == NULL;
}

static void
on_grpc_done(void *context, const struct pull_result *result)
{
    struct sync *sync = context;
    char text[200];
    sync->pull = NULL;
    bool is_unknown = result->grpc_status == GRPC_UNIMPLEMENTED ||
                      (result->grpc_status == -1 && result->status == 404 && !result->is_grpc);
    if (sync->bad != NULL) {
        sync_failed(sync, sync->bad);
    } else if (sync->asks_watch && is_unknown) {
        sync_fall_back(sync);
    } else if (result->grpc_status > 0) {
        snprintf(text, sizeof text, "gRPC status %d: %s", result->grpc_status, result->grpc_message);
        sync_failed(sync, text);
    } else if (result->error != NULL) {
        sync_failed(sync, result->error);
    } else if (result->grpc_status == -1) {
        snprintf(text, sizeof text, "HTTP status %ld without a gRPC status", result->status);
        sync_failed(sync, text);
    } else if (sync->asks_watch) {
        sync_in(sync, backoff(sync)); /* the stream ended in peace: the registry is going down or elsewhere */
    } else if (sync->answered_us < sync->asked_us) {
        sync_failed(sync, "an answer without a message");
    } else {
        sync_next(sync, true);
    }
}

/* ---- asking */

static char *
sync_path(struct sync *sync)
{
    struct strbuf url = {0};
    strbuf_add_text(&url, sync->target.url);
    if (sync->protocol == REGISTRY_GRPC) {
        strbuf_add_text(&url, sync->asks_watch ? "/serviceregistry.v2.Registry/WatchInstances"
                                               : "/serviceregistry.ServiceRegistry/GetHealthyServices");
    } else if (sync->asks_watch) {
        char *epoch = curl_easy_escape(NULL, sync->epoch, (int)strlen(sync->epoch));
        char wait[32];
        text_format_duration(sync->times.wait, wait);
        strbuf_printf(&url, "/api/v2/instances?index=%llu&epoch=%s&wait=%s", (unsigned long long)sync->index,
            epoch == NULL ? "" : epoch, wait);
        curl_free(epoch);
    } else {
        strbuf_add_text(&url, "/api/v1/services");
    }
    if (url.failed) strbuf_fini(&url);
    return url.at;
}

/* libcurl is told the address, so that it never starts a resolver of its own. */
static bool
sync_connect_to(struct sync *sync, char *out, size_t size)
{
    struct sockaddr_storage address;
    socklen_t len;
    char text[INET6_ADDRSTRLEN];
    if (!dns_find(sync->dns, slice_of(sync->target.host), NULL, &address, &len)) return false;
    const void *bytes = address.ss_family == AF_INET
                            ? (const void *)&((struct sockaddr_in *)&address)->sin_addr
                            : (const void *)&((struct sockaddr_in6 *)&address)->sin6_addr;
    if (inet_ntop(address.ss_family, bytes, text, sizeof text) == NULL) return false;
    snprintf(out, size, address.ss_family == AF_INET ? "::%s:%u" : "::[%s]:%u", text, sync->target.port);
    return true;
}

static void
sync_ask(struct sync *sync)
{
    char connect_to[192] = "";
    if (sync->mode == SYNC_OFF || sync->pull != NULL) return;
    sync->asks_watch = sync->mode == SYNC_WATCH || clock_now_us() >= sync->reprobe_us;
    if (sync->asks_watch) sync->reprobe_us = clock_now_us() + sync->times.reprobe;
    sync->asked_us = clock_now_us();
    sync->waits_for_dns =
        sync->target.unix_path == NULL && !sync_connect_to(sync, connect_to, sizeof connect_to);
    if (sync->waits_for_dns) {
        sync_failed(sync, "its host name is not resolved");
        return;
    }
    char *url = sync_path(sync);
    bool is_grpc = sync->protocol == REGISTRY_GRPC;
    struct pull_spec spec = {
        .url = url,
        .unix_path = sync->target.unix_path,
        .connect_to = sync->target.unix_path == NULL ? connect_to : NULL,
        .is_grpc = is_grpc,
        .body = {"\0\0\0\0\0",
            GRPC_PREFIX}, /* an empty ListRequest or GetHealthyServicesRequest: all services */
        .connect_us = sync->times.connect,
        .idle_us = sync->asks_watch ? sync->times.idle : sync->times.poll_timeout,
        .total_us =
            sync->asks_watch ? (is_grpc ? 0 : sync->times.wait + sync->times.idle) : sync->times.poll_timeout,
        .on_data = is_grpc ? on_grpc_data : on_rest_data,
        .on_done = is_grpc ? on_grpc_done : on_rest_done,
        .context = sync,
    };
    strbuf_clear(&sync->body);
    sync->bad = NULL;
    sync->pull = url == NULL ? NULL : pull_start(sync->puller, &spec);
    if (sync->pull == NULL) sync_failed(sync, "out of memory");
    free(url);
}

/* ---- the target */

static void
target_fini(struct target *target)
{
    free(target->text);
    free(target->url);
    free(target->host);
    free(target->unix_path);
    *target = (struct target){0};
}

static bool
target_parse(struct target *target, const char *text)
{
    char *host = NULL, *port = NULL;
    uint64_t number = 0;
    struct strbuf url = {0};
    CURLU *parsed = NULL;
    bool ok = false;
    target->text = slice_dup(slice_of(text));
    if (target->text == NULL) return false;
    if (strncmp(text, "unix:", 5) == 0) {
        target->unix_path = slice_dup(slice_of(text + 5));
        target->url = slice_dup(SLICE_LIT("http://localhost"));
        target->host = slice_dup(SLICE_LIT("localhost"));
        return target->unix_path != NULL && target->url != NULL && target->host != NULL;
    }
    if (strstr(text, "://") == NULL) strbuf_add_text(&url, "http://");
    strbuf_add_text(&url, text);
    while (!url.failed && url.len > 0 && url.at[url.len - 1] == '/')
        url.at[--url.len] = '\0';
    if (url.failed || (parsed = curl_url()) == NULL) goto done;
    if (curl_url_set(parsed, CURLUPART_URL, url.at, 0) != CURLUE_OK) goto done;
    if (curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK) goto done;
    if (curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK) goto done;
    if (!text_parse_u64(slice_of(port), 65535, &number)) goto done;
    target->port = (uint16_t)number;
    struct slice name = slice_of(host);
    if (name.len > 2 && name.at[0] == '[') name = (struct slice){name.at + 1, name.len - 2};
    target->host = slice_dup(name);
    target->url = url.at;
    url = (struct strbuf){0};
    ok = target->host != NULL;
done:
    strbuf_fini(&url);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(parsed);
    return ok;
}

static void
target_clear(struct sync *sync)
{
    pull_cancel(sync->pull);
    sync->pull = NULL;
    event_del(sync->timer);
    target_fini(&sync->target);
    sync->mode = SYNC_OFF;
    sync->has_answer = sync->is_failing = sync->waits_for_dns = false;
    sync->index = sync->backoff_us = sync->body_hash = 0;
    sync->epoch[0] = sync->last_error[0] = '\0';
    strbuf_fini(&sync->body);
}

struct sync *
sync_new(struct event_base *base, struct shm *shm, struct dns *dns, const struct sync_times *times,
    void (*on_answer)(void *context, struct instances *instances), void *context)
{
    struct sync *sync = calloc(1, sizeof *sync);
    if (sync == NULL) return NULL;
    *sync = (struct sync){
        .base = base, .shm = shm, .dns = dns, .times = *times, .on_answer = on_answer, .context = context};
    sync->timer = evtimer_new(base, on_sync_timer, sync);
    sync->puller = sync->timer == NULL ? NULL : puller_new(base);
    if (sync->puller == NULL) {
        sync_free(sync);
        return NULL;
    }
    return sync;
}

bool
sync_use(struct sync *sync, const struct sync_target *target)
{
    if (target == NULL) {
        target_clear(sync);
        return true;
    }
    sync->poll_interval_us = target->poll_interval_us > 0 ? target->poll_interval_us : 10000000;
    if (sync->mode != SYNC_OFF && sync->protocol == target->protocol &&
        strcmp(sync->target.text, target->url) == 0) {
        return true;
    }
    struct target next = {0};
    if (!target_parse(&next, target->url)) {
        log_errorx("registry address cannot be used", F_STR("registry", target->url));
        target_fini(&next);
        return false;
    }
    target_clear(sync);
    sync->target = next;
    sync->protocol = target->protocol;
    sync->mode = SYNC_WATCH;
    sync_ask(sync);
    return true;
}

void
sync_dns_changed(struct sync *sync)
{
    if (sync->mode != SYNC_OFF && sync->waits_for_dns) sync_in(sync, 0);
}

void
sync_describe(const struct sync *sync, struct strbuf *out)
{
    strbuf_add_text(out, "\"source\":");
    strbuf_add_json(out, slice_of(sync->target.text));
    strbuf_printf(out, ",\"protocol\":\"%s\",\"mode\":\"%s\",\"index\":%llu,\"epoch\":",
        sync->protocol == REGISTRY_GRPC ? "grpc" : "http", mode_words[sync->mode],
        (unsigned long long)sync->index);
    strbuf_add_json(out, slice_of(sync->epoch));
    strbuf_printf(out, ",\"errors\":%llu,\"last_error\":", (unsigned long long)sync->errors);
    strbuf_add_json(out, slice_of(sync->last_error));
    if (sync->answered_us != 0) {
        strbuf_printf(
            out, ",\"age_ms\":%llu", (unsigned long long)((clock_now_us() - sync->answered_us) / 1000));
    } else {
        strbuf_add_text(out, ",\"age_ms\":null");
    }
}

void
sync_free(struct sync *sync)
{
    if (sync == NULL) return;
    if (sync->timer != NULL) target_clear(sync);
    puller_free(sync->puller);
    if (sync->timer != NULL) event_free(sync->timer);
    free(sync);
}
