/* core/health/probe_internal.h: what probe.c and probe_talk.c share: one probe under way. */
#ifndef FLUXGATE_HEALTH_PROBE_INTERNAL_H
#define FLUXGATE_HEALTH_PROBE_INTERNAL_H
#include "core/base/arena.h"
#include "core/base/strbuf.h"
#include "core/health/grpc_check.h"
#include "core/health/health_internal.h"
#include "core/http/h1.h"

enum {
    PROBE_HEAD_BYTES = 16384,
    PROBE_READS_MAX = 64 /* of one wake-up: a flood yields to the other probes */
};

struct talk {                       /* of a script with its endpoint */
    struct script_dialog_turn turn; /* what it waits for */
    bool (*converse)(
        void *context, const struct slice *got, const char *why, struct script_dialog_turn *turn);
    struct strbuf in; /* what came and was not yet asked for */
    bool is_closed;   /* by the endpoint */
    short awaited;    /* events that `ready` waits for */
    unsigned turns;
};

enum probe_state {
    PROBE_CONNECTING, /* awaits that the socket can be written */
    PROBE_SENDING,    /* the same, with part of the request left */
    PROBE_READING_HEAD,
    PROBE_READING_BODY,
    PROBE_TALKING, /* grpc, or a script: both ways at once (probe_talk.c) */
    PROBE_ENDED,   /* awaits the next loop turn, to report what failed at once */
};

struct probe {
    enum probe_state state;
    struct event_base *base;
    int fd;
    struct event *ready; /* of the socket, for what the state awaits */
    struct event *timer;
    uint64_t begun_us, due_us; /* due_us: of the timer, as long as it is not held */
    uint64_t left_us;          /* until then, while it is */
    bool is_held;
    enum probe_kind kind;
    struct strbuf request;
    size_t sent;
    bool is_head; /* the method */
    char *body_contains;
    struct arena arena;
    struct h1_parser parser;
    struct h1_chunked chunked;
    char *in; /* PROBE_HEAD_BYTES, comes with the first byte */
    size_t in_len;
    char body[PROBE_BODY_BYTES];
    size_t body_len;
    struct grpc_check *grpc;
    struct talk talk;
    struct probe_outcome outcome;
    void (*on_done)(void *context, const struct probe_outcome *outcome);
    void *context;
};

/* Each reports, and then the probe is gone. */
void probe_fail(struct probe *probe, enum reason failure);
void probe_pass(struct probe *probe);
void probe_fail_here(struct probe *probe); /* this machine's fault: says nothing of the endpoint */

/* False where memory is out. */
MUST_CHECK
bool probe_await(struct probe *probe, short what);

/* A policy's text, headed for a request line or a field: nothing that could end it. */
bool text_is_visible(const char *text);

/* ---- probe_talk.c */
/* False: errno, as probe_start. */
MUST_CHECK
bool talk_prepare(struct probe *probe, const struct probe_spec *spec);
void talk_begin(struct probe *probe); /* connected */
void talk_ready(struct probe *probe); /* the socket is */
void talk_fini(struct probe *probe);

#endif
