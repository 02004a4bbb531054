#include "core/discovery/discovery_internal.h"

#include <curl/curl.h>
#include <stdlib.h>

#include "core/base/log.h"
#include "core/base/text.h"

struct fetcher {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct fetch *fetches;
};

struct fetch {
    struct fetch *next, **link;
    struct fetcher *fetcher;
    CURL *easy;
    struct curl_slist *headers, *connect_to;
    struct event *idle;
    struct timeval idle_after;
    char *body;
    bool (*on_data)(void *context, struct slice bytes);
    void (*on_done)(void *context, const struct fetch_result *result);
    void *context;
    bool is_refused;
    struct fetch_result result;
    char error[CURL_ERROR_SIZE];
};

static void
fetch_free(struct fetch *fetch)
{
    if (fetch->link != NULL) {
        *fetch->link = fetch->next;
        if (fetch->next != NULL) fetch->next->link = fetch->link;
    }
    if (fetch->easy != NULL) {
        if (fetch->link != NULL) curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
        curl_easy_cleanup(fetch->easy);
    }
    if (fetch->idle != NULL) event_free(fetch->idle);
    curl_slist_free_all(fetch->headers);
    curl_slist_free_all(fetch->connect_to);
    free(fetch->body);
    free(fetch);
}

static void
fetch_finish(struct fetch *fetch, const char *error)
{
    struct fetch_result result = fetch->result;
    char text[CURL_ERROR_SIZE];
    void (*on_done)(void *, const struct fetch_result *) = fetch->on_done;
    void *context = fetch->context;
    curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &result.status);
    if (error != NULL) {
        snprintf(text, sizeof text, "%s", error);
        result.error = text;
    }
    fetch_free(fetch);
    on_done(context, &result);
}

/* Callbacks of on_done may start the next fetch, so each message is done with before it is acted upon. */
static void
messages_read(struct fetcher *fetcher)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(fetcher->multi, &left)) != NULL) {
        struct fetch *fetch = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &fetch);
        const char *text = fetch->error[0] != '\0' ? fetch->error : curl_easy_strerror(code);
        fetch_finish(fetch, code == CURLE_OK ? NULL : fetch->is_refused ? "refused" : text);
    }
}

static void
on_socket_ready(evutil_socket_t fd, short what, void *context)
{
    struct fetcher *fetcher = context;
    int running, flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(fetcher->multi, (curl_socket_t)fd, flags, &running);
    messages_read(fetcher);
}

static void
on_timer(evutil_socket_t fd, short what, void *context)
{
    struct fetcher *fetcher = context;
    int running;
    (void)fd;
    (void)what;
    curl_multi_socket_action(fetcher->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    messages_read(fetcher);
}

static int
on_curl_timer(CURLM *multi, long timeout_ms, void *context)
{
    struct fetcher *fetcher = context;
    (void)multi;
    if (timeout_ms < 0) return event_del(fetcher->timer);
    struct timeval after = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    return event_add(fetcher->timer, &after);
}

static int
on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
    struct fetcher *fetcher = context;
    struct event *event = socket_context;
    (void)easy;
    if (event != NULL) event_free(event);
    event = NULL;
    if (what != CURL_POLL_REMOVE) {
        short flags =
            (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
        event = event_new(fetcher->base, fd, flags, on_socket_ready, fetcher);
        if (event != NULL && event_add(event, NULL) == -1) {
            event_free(event);
            event = NULL;
        }
    }
    curl_multi_assign(fetcher->multi, fd, event);
    return event == NULL && what != CURL_POLL_REMOVE ? -1 : 0;
}

/* A whole answer may come without a byte for a while; what counts is that something comes at all. */
static void
fetch_lives(struct fetch *fetch)
{
    if (fetch->idle != NULL && event_add(fetch->idle, &fetch->idle_after) == -1) log_warnx("timer failed");
}

static void
on_idle(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    fetch_finish(context, "no sign of life");
}

static size_t
on_curl_data(char *bytes, size_t size, size_t count, void *context)
{
    struct fetch *fetch = context;
    fetch_lives(fetch);
    if (fetch->on_data(fetch->context, (struct slice){bytes, size * count})) return size * count;
    fetch->is_refused = true;
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
    struct fetch *fetch = context;
    struct slice line = {bytes, size * count}, value, grpc = SLICE_LIT("application/grpc");
    uint64_t status;
    fetch_lives(fetch);
    if (header_is(line, SLICE_LIT("content-type"), &value)) {
        fetch->result.is_grpc =
            value.len >= grpc.len && slice_equal_nocase((struct slice){value.at, grpc.len}, grpc);
    } else if (header_is(line, SLICE_LIT("grpc-status"), &value)) {
        if (text_parse_u64(value, 1000, &status)) fetch->result.grpc_status = (int)status;
    } else if (header_is(line, SLICE_LIT("grpc-message"), &value)) {
        if (value.len >= sizeof fetch->result.grpc_message) value.len = sizeof fetch->result.grpc_message - 1;
        if (!text_copy(fetch->result.grpc_message, sizeof fetch->result.grpc_message, value)) {
            fetch->result.grpc_message[0] = '\0';
        }
    }
    return line.len;
}

struct fetcher *
fetcher_new(struct event_base *base)
{
    struct fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL) return NULL;
    fetcher->base = base;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(fetcher);
        return NULL;
    }
    fetcher->multi = curl_multi_init();
    fetcher->timer = evtimer_new(base, on_timer, fetcher);
    if (fetcher->multi == NULL || fetcher->timer == NULL) {
        fetcher_free(fetcher);
        return NULL;
    }
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
    return fetcher;
}

static bool
header_add(struct fetch *fetch, const char *line)
{
    struct curl_slist *grown = curl_slist_append(fetch->headers, line);
    if (grown == NULL) return false;
    fetch->headers = grown;
    return true;
}

static bool
fetch_prepare(struct fetch *fetch, const struct fetch_spec *spec)
{
    CURL *easy = fetch->easy;
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, spec->url) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK; /* the environment has no say */
    ok = ok && curl_easy_setopt(easy, CURLOPT_USERAGENT, "fluxgate/" FLUXGATE_VERSION) == CURLE_OK;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_curl_data);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_curl_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(spec->connect_us / 1000));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(spec->total_us / 1000));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    if (spec->unix_path != NULL) {
        ok = ok && curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, spec->unix_path) == CURLE_OK;
    }
    if (spec->connect_to != NULL) {
        fetch->connect_to = curl_slist_append(NULL, spec->connect_to);
        ok = ok && fetch->connect_to != NULL;
        curl_easy_setopt(easy, CURLOPT_CONNECT_TO, fetch->connect_to);
    }
    if (spec->is_grpc) {
        fetch->body = slice_dup(spec->body);
        ok = ok && fetch->body != NULL && header_add(fetch, "Content-Type: application/grpc+proto") &&
             header_add(fetch, "TE: trailers");
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
        /* libcurl 7.88 fails on the second request of an h2c connection ("Error in the HTTP2 framing layer")
         */
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, fetch->body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)spec->body.len);
    } else {
        ok = ok && header_add(fetch, "Accept: application/json");
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fetch->headers);
    return ok;
}

struct fetch *
fetch_start(struct fetcher *fetcher, const struct fetch_spec *spec)
{
    struct fetch *fetch = calloc(1, sizeof *fetch);
    if (fetch == NULL) return NULL;
    fetch->fetcher = fetcher;
    fetch->on_data = spec->on_data;
    fetch->on_done = spec->on_done;
    fetch->context = spec->context;
    fetch->result.grpc_status = -1;
    fetch->idle_after =
        (struct timeval){(time_t)(spec->idle_us / 1000000), (suseconds_t)(spec->idle_us % 1000000)};
    fetch->easy = curl_easy_init();
    fetch->idle = evtimer_new(fetcher->base, on_idle, fetch);
    if (fetch->easy == NULL || fetch->idle == NULL || !fetch_prepare(fetch, spec) ||
        curl_multi_add_handle(fetcher->multi, fetch->easy) != CURLM_OK) {
        fetch_free(fetch);
        return NULL;
    }
    fetch->next = fetcher->fetches;
    fetch->link = &fetcher->fetches;
    if (fetch->next != NULL) fetch->next->link = &fetch->next;
    fetcher->fetches = fetch;
    fetch_lives(fetch);
    return fetch;
}

void
fetch_cancel(struct fetch *fetch)
{
    if (fetch != NULL) fetch_free(fetch);
}

void
fetcher_free(struct fetcher *fetcher)
{
    if (fetcher == NULL) return;
    while (fetcher->fetches != NULL)
        fetch_free(fetcher->fetches);
    if (fetcher->multi != NULL) curl_multi_cleanup(fetcher->multi);
    if (fetcher->timer != NULL) event_free(fetcher->timer);
    curl_global_cleanup();
    free(fetcher);
}
