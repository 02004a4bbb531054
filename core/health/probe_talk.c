/* Probes that speak both ways: a gRPC health check, and scripts over the probe's socket. */
#include <errno.h>
#include <unistd.h>

#include "core/health/probe_internal.h"

enum { TURNS_MAX = 10000 }; /* of a dialog: a script that never tires of a closed socket does not get on */

bool
talk_prepare(struct probe *probe, const struct probe_spec *spec)
{
    probe->talk.converse = spec->converse;
    if (spec->kind != PROBE_GRPC) return true;
    if (!text_is_visible(spec->host) || spec->host[0] == '\0') {
        errno = EINVAL;
        return false;
    }
    probe->grpc = grpc_check_new(spec->host, spec->service == NULL ? "" : spec->service);
    if (probe->grpc == NULL) errno = ENOMEM;
    return probe->grpc != NULL;
}

void
talk_fini(struct probe *probe)
{
    grpc_check_free(probe->grpc);
    strbuf_fini(&probe->talk.in);
}

/* Sends what stands in `request`. False: it fails, and what came before may still tell why. */
static bool
flush(struct probe *probe)
{
    struct strbuf *out = &probe->request;
    while (probe->sent < out->len) {
        ssize_t n = send(probe->fd, out->at + probe->sent, out->len - probe->sent, MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return errno == EAGAIN;
        probe->sent += (size_t)n;
    }
    strbuf_clear(out);
    probe->sent = 0;
    return true;
}

static bool
is_flushed(const struct probe *probe)
{
    return probe->request.len == 0;
}

/* What both sides wait for; false: reported. */
static bool
await(struct probe *probe, bool wants_read)
{
    short what = (short)((is_flushed(probe) ? 0 : EV_WRITE) | (wants_read ? EV_READ : 0));
    if (what == probe->talk.awaited) return true;
    probe->talk.awaited = what;
    if (probe_await(probe, what)) return true;
    probe_fail_here(probe);
    return false;
}

/* One read: what came, 0 for the end, -1 for nothing yet; an error is an end. */
static ssize_t
read_some(struct probe *probe, char *to, size_t room)
{
    ssize_t n;
    do
        n = read(probe->fd, to, room);
    while (n == -1 && errno == EINTR);
    if (n == -1 && errno == EAGAIN) return -1;
    return n < 0 ? 0 : n;
}

/* ---- grpc */

static void
grpc_broken(struct probe *probe)
{
    struct script_probe_result *result = &probe->outcome.result;
    snprintf(result->detail, sizeof result->detail, "it speaks no HTTP/2");
    probe_fail(probe, REASON_BAD_RESPONSE);
}

/* False: reported. */
static bool
grpc_send(struct probe *probe)
{
    struct slice bytes;
    while (is_flushed(probe)) {
        if (!grpc_check_send(probe->grpc, &bytes)) {
            grpc_broken(probe);
            return false;
        }
        if (bytes.len == 0) break;
        strbuf_add_slice(&probe->request, bytes);
        if (probe->request.failed) {
            probe_fail_here(probe);
            return false;
        }
        if (!flush(probe)) break; /* it may have answered before it closed: reading will tell */
    }
    return true;
}

static void
grpc_report(struct probe *probe, const struct grpc_answer *answer)
{
    struct script_probe_result *result = &probe->outcome.result;
    result->status = answer->code < 0 ? 0 : answer->code;
    snprintf(result->detail, sizeof result->detail, "%s", answer->detail);
    if (answer->is_serving)
        probe_pass(probe);
    else
        probe_fail(probe, REASON_BAD_RESPONSE);
}

static void
grpc_turn(struct probe *probe)
{
    char bytes[4096];
    (void)flush(probe);
    if (!grpc_send(probe)) return;
    for (unsigned reads = 0; reads < PROBE_READS_MAX; reads++) {
        ssize_t n = read_some(probe, bytes, sizeof bytes);
        if (n == -1) break;
        if (n == 0) {
            probe_fail(probe, REASON_RESET_BEFORE_HEADERS);
            return;
        }
        if (!grpc_check_receive(probe->grpc, (struct slice){bytes, (size_t)n})) {
            grpc_broken(probe);
            return;
        }
        const struct grpc_answer *answer = grpc_check_answer(probe->grpc);
        if (answer != NULL) {
            grpc_report(probe, answer);
            return;
        }
        if (!grpc_send(probe)) return; /* acknowledgements */
    }
    (void)!await(probe, true);
}

/* ---- a script */

/* How many bytes of what came are what it asked for; 0: not yet. *skip: how many of them it does not see. */
static size_t
received(const struct talk *talk, size_t *skip)
{
    const struct strbuf *in = &talk->in;
    *skip = 0;
    switch (talk->turn.receive) {
    case RECEIVE_SOME: return in->len < talk->turn.bytes ? in->len : talk->turn.bytes;
    case RECEIVE_BYTES: return in->len >= talk->turn.bytes ? talk->turn.bytes : 0;
    case RECEIVE_LINE: break;
    }
    const char *end = in->len == 0 ? NULL : memchr(in->at, '\n', in->len);
    if (end == NULL) return 0;
    size_t len = (size_t)(end - in->at) + 1;
    *skip = len >= 2 && end[-1] == '\r' ? 2 : 1;
    return len;
}

/* Asks the script, with what came where it waited for that. False: reported. */
static bool
converse(struct probe *probe, const struct slice *got, const char *why)
{
    struct talk *talk = &probe->talk;
    struct script_probe_result *result = &probe->outcome.result;
    if (++talk->turns > TURNS_MAX) {
        snprintf(result->detail, sizeof result->detail, "its script came to no end");
        probe_fail(probe, REASON_BAD_RESPONSE);
        return false;
    }
    if (!talk->converse(probe->context, got, why, &talk->turn)) {
        probe->outcome.script_failed = true;
        probe_fail(probe, REASON_NONE);
        return false;
    }
    if (talk->turn.want == DIALOG_SEND) {
        strbuf_add_slice(&probe->request, talk->turn.text);
        if (!probe->request.failed) return true;
        probe_fail_here(probe);
        return false;
    }
    if (talk->turn.want == DIALOG_RECEIVE) return true;
    snprintf(result->detail, sizeof result->detail, "%s", talk->turn.detail);
    if (talk->turn.ok)
        probe_pass(probe);
    else
        probe_fail(probe, REASON_BAD_RESPONSE);
    return false;
}

static void
in_drop(struct strbuf *in, size_t len)
{
    in->len -= len;
    memmove(in->at, in->at + len, in->len);
}

/* Hands on what the script waits for, if it is there. 1: done, ask it for more; 0: not yet; -1: reported. */
static int
answer_receive(struct probe *probe)
{
    struct talk *talk = &probe->talk;
    size_t skip, len = received(talk, &skip);
    bool is_rest = len == 0 && talk->is_closed;
    if (len == 0 && !is_rest) return 0;
    if (is_rest) len = talk->in.len;
    struct slice got = {talk->in.at == NULL ? "" : talk->in.at, len - skip};
    bool goes_on = converse(probe, &got, is_rest ? "closed" : NULL); /* which copies it */
    if (!goes_on) return -1;
    if (len > 0) in_drop(&talk->in, len);
    return 1;
}

/* False: reported. */
static bool
read_in(struct probe *probe)
{
    char bytes[4096];
    struct talk *talk = &probe->talk;
    ssize_t n = read_some(probe, bytes, sizeof bytes);
    if (n == -1) return true;
    if (n == 0) talk->is_closed = true;
    strbuf_add(&talk->in, bytes, (size_t)n);
    if (talk->in.failed) {
        probe_fail_here(probe);
        return false;
    }
    if (talk->in.len <= DIALOG_BYTES_MAX) return true;
    snprintf(probe->outcome.result.detail, sizeof probe->outcome.result.detail, "it sent too much");
    probe_fail(probe, REASON_BAD_RESPONSE);
    return false;
}

/* The script waits for one thing at a time: its send to be written, or its receive to be complete. */
static void
script_turn(struct probe *probe)
{
    struct talk *talk = &probe->talk;
    unsigned turns = 0;
    for (; turns < PROBE_READS_MAX; turns++) {
        if (talk->turn.want == DIALOG_SEND) {
            const char *why = flush(probe) ? NULL : "closed";
            if (why == NULL && !is_flushed(probe)) break;
            strbuf_clear(&probe->request);
            probe->sent = 0;
            if (!converse(probe, NULL, why)) return;
            continue;
        }
        int answered = answer_receive(probe);
        if (answered == -1) return;
        if (answered == 1) continue;
        size_t before = talk->in.len;
        if (!read_in(probe)) return;
        if (talk->in.len == before && !talk->is_closed) break;
    }
    if (!await(probe, talk->turn.want == DIALOG_RECEIVE)) return;
    if (turns == PROBE_READS_MAX) event_active(probe->ready, EV_READ, 0); /* more may stand in `in` */
}

void
talk_begin(struct probe *probe)
{
    probe->talk.awaited = EV_WRITE; /* as for the connect */
    if (probe->kind == PROBE_GRPC)
        grpc_turn(probe);
    else if (converse(probe, NULL, NULL))
        script_turn(probe);
}

void
talk_ready(struct probe *probe)
{
    if (probe->kind == PROBE_GRPC)
        grpc_turn(probe);
    else
        script_turn(probe);
}
