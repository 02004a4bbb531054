#include "core/discovery/discovery_internal.h"

#include <curl/curl.h>
#include <stdlib.h>

#include "core/base/log.h"
#include "core/base/text.h"

struct puller {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct pull *pulls;
};

struct pull {
    struct pull *next, **link;
    struct puller *puller;
    CURL *easy;
    struct curl_slist *headers, *connect_to;
    struct event *idle;
    struct timeval idle_after;
    char *body;
    bool (*on_data)(void *context, struct slice bytes);
    void (*on_done)(void *context, const struct pull_result *result);
    void *context;
    bool is_refused;
    struct pull_result result;
    char error[CURL_ERROR_SIZE];
};

static void
pull_free(struct pull *pull)
{
    if (pull->link != NULL) {
        *pull->link = pull->next;
        if (pull->next != NULL) pull->next->link = pull->link;
    }
    if (pull->easy != NULL) {
        if (pull->link != NULL) curl_multi_remove_handle(pull->puller->multi, pull->easy);
        curl_easy_cleanup(pull->easy);
    }
    if (pull->idle != NULL) event_free(pull->idle);
    curl_slist_free_all(pull->headers);
    curl_slist_free_all(pull->connect_to);
    free(pull->body);
    free(pull);
}

static void
pull_finish(struct pull *pull, const char *error)
{
    struct pull_result result = pull->result;
    char text[CURL_ERROR_SIZE];
    void (*on_done)(void *, const struct pull_result *) = pull->on_done;
    void *context = pull->context;
    curl_easy_getinfo(pull->easy, CURLINFO_RESPONSE_CODE, &result.status);
    if (error != NULL) {
        snprintf(text, sizeof text, "%s", error);
        result.error = text;
    }
    pull_free(pull);
    on_done(context, &result);
}

/* Callbacks of on_done may start the next pull, so each message is done with before it is acted upon. */
static void
messages_read(struct puller *puller)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(puller->multi, &left)) != NULL) {
        struct pull *pull = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &pull);
        const char *text = pull->error[0] != '\0' ? pull->error : curl_easy_strerror(code);
        pull_finish(pull, code == CURLE_OK ? NULL : pull->is_refused ? "refused" : text);
    }
}

static void
on_socket_ready(evutil_socket_t fd, short what, void *context)
{
    struct puller *puller = context;
    int running, flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(puller->multi, (curl_socket_t)fd, flags, &running);
    messages_read(puller);
}

static void
on_timer(evutil_socket_t fd, short what, void *context)
{
    struct puller *puller = context;
    int running;
    (void)fd;
    (void)what;
    curl_multi_socket_action(puller->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    messages_read(puller);
}

static int
on_curl_timer(CURLM *multi, long timeout_ms, void *context)
{
    struct puller *puller = context;
    (void)multi;
    if (timeout_ms < 0) return event_del(puller->timer);
    struct timeval after = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    return event_add(puller->timer, &after);
}

static int
on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
    struct puller *puller = context;
    struct event *event = socket_context;
    (void)easy;
    if (event != NULL) event_free(event);
    event = NULL;
    if (what != CURL_POLL_REMOVE) {
        short flags =
            (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
        event = event_new(puller->base, fd, flags, on_socket_ready, puller);
        if (event != NULL && event_add(event, NULL) == -1) {
            event_free(event);
            event = NULL;
        }
    }
    curl_multi_assign(puller->multi, fd, event);
    return event == NULL && what != CURL_POLL_REMOVE ? -1 : 0;
}

/* A whole answer may come without a byte for a while; what counts is that something comes at all. */
static void
pull_lives(struct pull *pull)
{
    if (pull->idle != NULL && event_add(pull->idle, &pull->idle_after) == -1) log_warnx("timer failed");
}

static void
on_idle(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    pull_finish(context, "no sign of life");
}

static size_t
on_curl_data(char *bytes, size_t size, size_t count, void *context)
{
    struct pull *pull = context;
    pull_lives(pull);
    if (pull->on_data(pull->context, (struct slice){bytes, size * count})) return size * count;
    pull->is_refused = true;
    return size * count + 1; /* anything else than what was given is an error (CURLOPT_WRITEFUNCTION) */
}

static bool
header_is(struct slice line, struct slice name, struct slice *value)
{
    if (line.len <= name.len || line.at[name.len] != ':') return false;
    if (!slice_equal_nocase((struct slice){line.at, name.len}, name)) return false;
    *value = (struct slice){line.at + name.len + 1, line.len - name.len - 1};
    while (value->len > 0 && (value->at[value->len - 1] == '\n' || value->at[value->len - 1] == '\r'))
        value->len--;
    *value = slice_trim(*value);
    return true;
}

/* Headers and, behind the last data, trailers. */
static size_t
on_curl_header(char *bytes, size_t size, size_t count, void *context)
{
    struct pull *pull = context;
    struct slice line = {bytes, size * count}, value, grpc = SLICE_LIT("application/grpc");
    uint64_t status;
    pull_lives(pull);
    if (header_is(line, SLICE_LIT("content-type"), &value)) {
        pull->result.is_grpc =
            value.len >= grpc.len && slice_equal_nocase((struct slice){value.at, grpc.len}, grpc);
    } else if (header_is(line, SLICE_LIT("grpc-status"), &value)) {
        if (text_parse_u64(value, 1000, &status)) pull->result.grpc_status = (int)status;
    } else if (header_is(line, SLICE_LIT("grpc-message"), &value)) {
        if (value.len >= sizeof pull->result.grpc_message) value.len = sizeof pull->result.grpc_message - 1;
        if (!text_copy(pull->result.grpc_message, sizeof pull->result.grpc_message, value)) {
            pull->result.grpc_message[0] = '\0';
        }
    }
    return line.len;
}

struct puller *
puller_new(struct event_base *base)
{
    struct puller *puller = calloc(1, sizeof *puller);
    if (puller == NULL) return NULL;
    puller->base = base;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(puller);
        return NULL;
    }
    puller->multi = curl_multi_init();
    puller->timer = evtimer_new(base, on_timer, puller);
    if (puller->multi == NULL || puller->timer == NULL) {
        puller_free(puller);
        return NULL;
    }
    curl_multi_setopt(puller->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(puller->multi, CURLMOPT_SOCKETDATA, puller);
    curl_multi_setopt(puller->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(puller->multi, CURLMOPT_TIMERDATA, puller);
    return puller;
}

static bool
header_add(struct pull *pull, const char *line)
{
    struct curl_slist *grown = curl_slist_append(pull->headers, line);
    if (grown == NULL) return false;
    pull->headers = grown;
    return true;
}

static bool
pull_prepare(struct pull *pull, const struct pull_spec *spec)
{
    CURL *easy = pull->easy;
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, spec->url) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK; /* the environment has no say */
    ok = ok && curl_easy_setopt(easy, CURLOPT_USERAGENT, "fluxgate/" FLUXGATE_VERSION) == CURLE_OK;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, pull);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, pull->error);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_curl_data);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, pull);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_curl_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, pull);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(spec->connect_us / 1000));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(spec->total_us / 1000));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    if (spec->unix_path != NULL) {
        ok = ok && curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, spec->unix_path) == CURLE_OK;
    }
    if (spec->connect_to != NULL) {
        pull->connect_to = curl_slist_append(NULL, spec->connect_to);
        ok = ok && pull->connect_to != NULL;
        curl_easy_setopt(easy, CURLOPT_CONNECT_TO, pull->connect_to);
    }
    if (spec->is_grpc) {
        pull->body = slice_dup(spec->body);
        ok = ok && pull->body != NULL && header_add(pull, "Content-Type: application/grpc+proto") &&
             header_add(pull, "TE: trailers");
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
        /* libcurl 7.88 fails on the second request of an h2c connection ("Error in the HTTP2 framing layer")
         */
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, pull->body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)spec->body.len);
    } else {
        ok = ok && header_add(pull, "Accept: application/json");
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, pull->headers);
    return ok;
}

struct pull *
pull_start(struct puller *puller, const struct pull_spec *spec)
{
    struct pull *pull = calloc(1, sizeof *pull);
    if (pull == NULL) return NULL;
    pull->puller = puller;
    pull->on_data = spec->on_data;
    pull->on_done = spec->on_done;
    pull->context = spec->context;
    pull->result.grpc_status = -1;
    pull->idle_after =
        (struct timeval){(time_t)(spec->idle_us / 1000000), (suseconds_t)(spec->idle_us % 1000000)};
    pull->easy = curl_easy_init();
    pull->idle = evtimer_new(puller->base, on_idle, pull);
    if (pull->easy == NULL || pull->idle == NULL || !pull_prepare(pull, spec) ||
        curl_multi_add_handle(puller->multi, pull->easy) != CURLM_OK) {
        pull_free(pull);
        return NULL;
    }
    pull->next = puller->pulls;
    pull->link = &puller->pulls;
    if (pull->next != NULL) pull->next->link = &pull->next;
    puller->pulls = pull;
    pull_lives(pull);
    return pull;
}

void
pull_cancel(struct pull *pull)
{
    if (pull != NULL) pull_free(pull);
}

void
puller_free(struct puller *puller)
{
    if (puller == NULL) return;
    while (puller->pulls != NULL)
        pull_free(puller->pulls);
    if (puller->multi != NULL) curl_multi_cleanup(puller->multi);
    if (puller->timer != NULL) event_free(puller->timer);
    curl_global_cleanup();
    free(puller);
}
