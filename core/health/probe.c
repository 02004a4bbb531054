#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/health/probe_internal.h"
#include "core/http/load.h"

enum { GRACE_US = 250000 };

static void on_probe_ready(evutil_socket_t fd, short what, void *context);

static void
probe_free(struct probe *probe)
{
    if (probe->ready != NULL) event_free(probe->ready);
    if (probe->timer != NULL) event_free(probe->timer);
    if (probe->fd != -1) close(probe->fd);
    talk_fini(probe);
    strbuf_fini(&probe->request);
    arena_fini(&probe->arena);
    free(probe->body_contains);
    free(probe->in);
    free(probe);
}

static void
probe_report(struct probe *probe)
{
    struct probe_outcome *outcome = &probe->outcome;
    uint64_t took = clock_now_us() - probe->begun_us;
    outcome->result.latency_us = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    outcome->result.body = (struct slice){probe->body, probe->body_len};
    outcome->body_matched =
        probe->body_contains == NULL ||
        memmem(probe->body, probe->body_len, probe->body_contains, strlen(probe->body_contains)) != NULL;
    probe->on_done(probe->context, outcome);
    probe_free(probe);
}

void
probe_fail(struct probe *probe, enum reason failure)
{
    probe->outcome.result.ok = false;
    probe->outcome.result.failure = failure;
    probe_report(probe);
}

void
probe_pass(struct probe *probe)
{
    probe->outcome.result.ok = true;
    probe_report(probe);
}

void
probe_fail_here(struct probe *probe)
{
    probe->outcome.is_inconclusive = true;
    probe_fail(probe, REASON_NONE);
}

/* What is wrong with this machine says nothing of the endpoint. */
static bool
errno_is_ours(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS ||
           error == EADDRNOTAVAIL || error == EACCES || error == EPERM;
}

static void
outcome_of_errno(struct probe_outcome *outcome, int error)
{
    outcome->is_inconclusive = errno_is_ours(error);
    outcome->result.failure = error == ETIMEDOUT ? REASON_CONNECT_TIMEOUT : REASON_CONNECT_REFUSED;
}

bool
probe_await(struct probe *probe, short what)
{
    if (probe->ready != NULL) event_free(probe->ready);
    probe->ready = event_new(probe->base, probe->fd, (short)(what | EV_PERSIST), on_probe_ready, probe);
    return probe->ready != NULL && (probe->is_held || event_add(probe->ready, NULL) == 0);
}

static void
probe_send(struct probe *probe)
{
    while (probe->sent < probe->request.len) {
        ssize_t n =
            send(probe->fd, probe->request.at + probe->sent, probe->request.len - probe->sent, MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return; /* the event is persistent */
        if (n == -1) break;                     /* it may have answered before it closed: reading will tell */
        probe->sent += (size_t)n;
    }
    probe->state = PROBE_READING_HEAD;
    if (!probe_await(probe, EV_READ)) probe_fail_here(probe);
}

/* Takes in body bytes as far as they matter. True: no more are needed. Where no text is sought, the policy
 * reads for itself. */
static bool
body_take(struct probe *probe, struct slice bytes)
{
    size_t room = sizeof probe->body - probe->body_len, n = bytes.len < room ? bytes.len : room;
    if (n > 0) memcpy(probe->body + probe->body_len, bytes.at, n);
    probe->body_len += n;
    return probe->body_len == sizeof probe->body ||
           (probe->body_contains[0] != '\0' && memmem(probe->body, probe->body_len, probe->body_contains,
                                                   strlen(probe->body_contains)) != NULL);
}

/* Reports where the body is over, broken or long enough; all of `in` is used otherwise. True: reported. */
static bool
body_read(struct probe *probe)
{
    struct slice in = {probe->in, probe->in_len};
    const struct h1_head *head = &probe->parser.head;
    bool is_over = head->body == BODY_NONE;
    if (head->body == BODY_CHUNKED) {
        while (!is_over && in.len > 0) {
            struct slice data;
            size_t used;
            enum h1_result result = h1_chunked_read(&probe->chunked, &probe->arena, 0, in, &data, &used);
            if (result == H1_BAD) {
                probe_fail(probe, REASON_BAD_RESPONSE);
                return true;
            }
            in = (struct slice){in.at + used, in.len - used};
            is_over = body_take(probe, data) || result == H1_DONE;
            if (used == 0 && data.len == 0) break;
        }
    } else if (head->body != BODY_NONE) {
        uint64_t left = head->body == BODY_LENGTH ? head->length - probe->body_len : UINT64_MAX;
        if (in.len > left) in.len = (size_t)left;
        is_over = body_take(probe, in) || in.len == left;
    }
    probe->in_len = 0;
    if (is_over) probe_pass(probe);
    return is_over;
}

/* True: reported. */
static bool
head_read(struct probe *probe)
{
    size_t used = 0;
    enum h1_result result = h1_parse_head(&probe->parser, (struct slice){probe->in, probe->in_len}, &used);
    if (result == H1_BAD || (result == H1_AGAIN && probe->in_len == PROBE_HEAD_BYTES)) {
        probe_fail(probe, REASON_BAD_RESPONSE);
        return true;
    }
    if (result == H1_AGAIN) return false;
    int status = probe->parser.head.status;
    probe->outcome.has_load =
        status >= 200 && load_of_headers(&probe->parser.head.headers, &probe->outcome.load_milli);
    probe->in_len -= used;
    memmove(probe->in, probe->in + used, probe->in_len);
    if (status >= 100 && status < 200 && status != 101) {
        struct h1_limits limits = probe->parser.limits;
        arena_reset(&probe->arena);
        h1_response_init(&probe->parser, &probe->arena, &limits, probe->is_head ? METHOD_HEAD : METHOD_GET);
        return probe->in_len > 0 && head_read(probe);
    }
    probe->outcome.result.status = status;
    if (probe->body_contains == NULL) {
        probe_pass(probe);
        return true;
    }
    probe->state = PROBE_READING_BODY;
    return body_read(probe);
}

/* The peer closed, or its socket failed. */
static void
probe_closed(struct probe *probe)
{
    if (probe->state == PROBE_READING_BODY) {
        probe_pass(probe); /* what came of the body is judged */
    } else {
        probe_fail(probe, REASON_RESET_BEFORE_HEADERS);
    }
}

static void
probe_read(struct probe *probe)
{
    if (probe->in == NULL && (probe->in = malloc(PROBE_HEAD_BYTES)) == NULL) {
        probe_fail_here(probe);
        return;
    }
    for (unsigned reads = 0; reads < PROBE_READS_MAX; reads++) {
        ssize_t n = read(probe->fd, probe->in + probe->in_len, PROBE_HEAD_BYTES - probe->in_len);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return;
        if (n <= 0) {
            probe_closed(probe);
            return;
        }
        probe->in_len += (size_t)n;
        if (probe->state == PROBE_READING_HEAD ? head_read(probe) : body_read(probe)) return;
    }
}

/* A connect to a closed local port of the ephemeral range may be given that very port and so meet itself. */
static bool
is_self_connected(int fd)
{
    struct sockaddr_storage mine = {0}, peer = {0};
    socklen_t mine_len = sizeof mine, peer_len = sizeof peer;
    return getsockname(fd, (struct sockaddr *)&mine, &mine_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 && mine.ss_family != AF_UNIX &&
           mine_len == peer_len && memcmp(&mine, &peer, mine_len) == 0;
}

static void
probe_connected(struct probe *probe)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(probe->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1) error = errno;
    if (error == 0 && is_self_connected(probe->fd)) error = ECONNREFUSED;
    if (error != 0) {
        outcome_of_errno(&probe->outcome, error);
        probe_fail(probe, probe->outcome.result.failure);
    } else if (probe->kind == PROBE_TCP) {
        probe_pass(probe);
    } else if (probe->kind != PROBE_HTTP) {
        probe->state = PROBE_TALKING;
        talk_begin(probe);
    } else {
        probe->state = PROBE_SENDING;
        probe_send(probe);
    }
}

static void
on_probe_ready(evutil_socket_t fd, short what, void *context)
{
    struct probe *probe = context;
    (void)fd;
    (void)what;
    switch (probe->state) {
    case PROBE_CONNECTING: probe_connected(probe); return;
    case PROBE_SENDING: probe_send(probe); return;
    case PROBE_READING_HEAD:
    case PROBE_READING_BODY: probe_read(probe); return;
    case PROBE_TALKING: talk_ready(probe); return;
    case PROBE_ENDED: return;
    }
}

static void
on_probe_timer(evutil_socket_t fd, short what, void *context)
{
    struct probe *probe = context;
    (void)fd;
    (void)what;
    switch (probe->state) {
    case PROBE_CONNECTING: probe_fail(probe, REASON_CONNECT_TIMEOUT); return;
    case PROBE_READING_BODY:
        if (probe->body_contains[0] == '\0') {
            probe_pass(
                probe); /* its head did come: a stream that never ends is judged by what it began with */
            return;
        }
        probe_fail(probe, REASON_RESPONSE_TIMEOUT);
        return;
    case PROBE_SENDING:
    case PROBE_READING_HEAD:
    case PROBE_TALKING: probe_fail(probe, REASON_RESPONSE_TIMEOUT); return;
    case PROBE_ENDED: probe_fail(probe, probe->outcome.result.failure); return;
    }
}

bool
text_is_visible(const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c <= 0x20 || c >= 0x7f) return false;
    }
    return true;
}

static bool
request_write(struct probe *probe, const struct probe_spec *spec)
{
    if (!header_name_is_valid(slice_of(spec->method)) || spec->path[0] != '/' ||
        !text_is_visible(spec->path) || !text_is_visible(spec->host)) {
        errno = EINVAL;
        return false;
    }
    probe->is_head = strcmp(spec->method, "HEAD") == 0;
    strbuf_printf(&probe->request,
        "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fluxgate-health/" FLUXGATE_VERSION
        "\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        spec->method, spec->path, spec->host);
    if (spec->body_contains != NULL) probe->body_contains = slice_dup(slice_of(spec->body_contains));
    if (probe->request.failed || (spec->body_contains != NULL && probe->body_contains == NULL)) {
        errno = ENOMEM;
        return false;
    }
    struct h1_limits limits = {
        .header_bytes = PROBE_HEAD_BYTES, .headers = 200, .uri_bytes = PROBE_HEAD_BYTES};
    h1_response_init(&probe->parser, &probe->arena, &limits, probe->is_head ? METHOD_HEAD : METHOD_GET);
    return true;
}

static void
probe_connect(struct probe *probe, const struct probe_spec *spec)
{
    int one = 1;
    probe->fd = socket(spec->address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe->fd == -1) {
        probe->outcome.is_inconclusive = true;
        probe->state = PROBE_ENDED;
        return;
    }
    if (spec->address->sa_family != AF_UNIX) {
        /* a probe without it is only slower */
        (void)setsockopt(probe->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (connect(probe->fd, spec->address, spec->address_len) == -1 && errno != EINPROGRESS) {
        outcome_of_errno(&probe->outcome, errno);
        probe->state = PROBE_ENDED;
    } else if (!probe_await(probe, EV_WRITE)) {
        probe->outcome.is_inconclusive = true;
        probe->state = PROBE_ENDED;
    }
}

static bool
timer_run(struct probe *probe, uint64_t us)
{
    struct timeval after = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
    probe->due_us = clock_now_us() + us;
    return event_add(probe->timer, &after) == 0;
}

struct probe *
probe_start(struct event_base *base, const struct probe_spec *spec,
    void (*on_done)(void *context, const struct probe_outcome *outcome), void *context)
{
    struct probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) return NULL;
    probe->base = base;
    probe->fd = -1;
    probe->kind = spec->kind;
    probe->begun_us = clock_now_us();
    probe->on_done = on_done;
    probe->context = context;
    arena_init(&probe->arena, 0);
    probe->timer = evtimer_new(base, on_probe_timer, probe);
    errno = ENOMEM;
    if (probe->timer == NULL || (spec->kind == PROBE_HTTP && !request_write(probe, spec)) ||
        !talk_prepare(probe, spec))
        goto fail;
    probe_connect(probe, spec);
    if (timer_run(probe, probe->state == PROBE_ENDED ? 0 : spec->timeout_us)) return probe;
    errno = ENOMEM;
fail:;
    int error = errno;
    probe_free(probe);
    errno = error;
    return NULL;
}

void
probe_cancel(struct probe *probe)
{
    if (probe != NULL) probe_free(probe);
}

/* What is active already in this loop turn is so no more. An endpoint may have answered while nobody looked:
 * it gets the time that it takes to find that out. */
void
probe_hold(struct probe *probe)
{
    if (probe == NULL || probe->is_held) return;
    uint64_t now_us = clock_now_us(), least_us = probe->state == PROBE_ENDED ? 0 : GRACE_US;
    probe->is_held = true;
    probe->left_us = probe->due_us > now_us + least_us ? probe->due_us - now_us : least_us;
    if (probe->ready != NULL) event_del(probe->ready);
    event_del(probe->timer);
}

void
probe_go_on(struct probe *probe)
{
    if (probe == NULL || !probe->is_held) return;
    probe->is_held = false;
    bool is_on = timer_run(probe, probe->left_us);
    if (is_on && probe->ready != NULL && probe->state != PROBE_ENDED) {
        is_on = event_add(probe->ready, NULL) == 0;
        if (is_on && probe->state == PROBE_TALKING) event_active(probe->ready, EV_READ, 0);
    }
    if (!is_on) probe_fail_here(probe);
}
