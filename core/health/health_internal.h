/* core/health/health_internal.h: what the files of this room share: one probe's socket (probe.c) and the
 * targets that probes and passive evidence judge (health.c, verdict.c, passive.c). */
#ifndef FLUXGATE_HEALTH_HEALTH_INTERNAL_H
#define FLUXGATE_HEALTH_HEALTH_INTERNAL_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "core/base/compiler.h"
#include "core/health/health.h"

enum { PROBE_BODY_BYTES = 4096 };

/* ---- probe.c */
struct probe;

struct probe_spec { /* borrowed until probe_start returns */
    enum probe_kind kind;
    const struct sockaddr *address;
    socklen_t address_len;
    uint64_t timeout_us;
    /* PROBE_HTTP: checked by probe_start */
    const char *method, *path, *host;
    const char *body_contains; /* NULL: the body is not read */
    const char *service;       /* PROBE_GRPC, with `host` its authority */
    /* PROBE_SOCKET: script_policy_dialog with its arguments; `context` is probe_start's */
    bool (*converse)(
        void *context, const struct slice *got, const char *why, struct script_dialog_turn *turn);
};

struct probe_outcome {
    struct script_probe_result result; /* its body lives until the callback returns */
    bool has_load;                     /* http: it reported its load, load_milli */
    uint32_t load_milli;
    bool body_matched;    /* body_contains stood in it, or was not asked for */
    bool script_failed;   /* socket: its script did, which says nothing either */
    bool is_inconclusive; /* this machine failed (no descriptors, no ports, no memory), not the endpoint */
};

/* Connects, and for http sends one request and reads its response head; for grpc makes one Check; for a
 * socket does what the script asks for. `on_done` comes once, never before this returns, and the probe is
 * gone then. NULL: errno; EINVAL where method, path or host could break out of a request head. */
MUST_CHECK
struct probe *probe_start(struct event_base *base, const struct probe_spec *spec,
    void (*on_done)(void *context, const struct probe_outcome *outcome), void *context);
void probe_cancel(struct probe *probe); /* NULL is fine */
/* Between these two it neither goes on nor reports, and its time stands still. NULL is fine, and so is
 * twice. */
void probe_hold(struct probe *probe);
void probe_go_on(struct probe *probe);

/* ---- health.c */
enum duty {
    DUTY_NONE,    /* not probed: no policy, draining, maintenance */
    DUTY_POLICY,  /* as its service's policy plans */
    DUTY_SUSPECT, /* no policy, but its lease lapsed: does it accept a connection? */
};

struct window { /* counters of a slot where the running window began, and the last one's numbers */
    uint64_t mark_requests, mark_failures, mark_errors;
    uint64_t requests, failures, errors; /* errors: failures and answers of 5xx */
    uint32_t row_seen;                   /* errors in a row that observe() knows of */
    bool is_new;                         /* its numbers were not yet observed */
};

struct damping { /* of one endpoint's verdicts */
    double penalty;
    uint64_t at_us; /* of which the penalty is */
    bool is_held;
};

struct target { /* one incarnation of one slot */
    uint32_t slot, incarnation, service /* shm name id */, state /* as last seen */;
    uint64_t text_hash;
    enum duty duty;
    struct health *health;
    struct event *timer;      /* the next probe */
    struct probe *probe;      /* under way */
    struct script_probe plan; /* of the probe under way; its texts are stale */
    TAILQ_ENTRY(target) queue;
    bool is_queued;
    uint32_t rise, fall;
    uint64_t started_us; /* of the last probe */
    /* passive evidence */
    uint32_t failures_seen;
    struct window window;
    struct damping damping;
    uint64_t trial_since_us; /* when the trial under way was first seen */
    struct {
        uint64_t at_us;
        bool passed;
        int status;
        enum reason failure;
        uint32_t latency_us;
    } last;
};
TAILQ_HEAD(target_queue, target);

struct service_counts { /* of one scan */
    uint32_t pickable, ejected;
    uint32_t countable, healthy; /* what service.panic goes by, as core/script/refresh.c counts */
    /* these outlive the scan */
    bool in_panic;
    uint64_t window_us, window_due_us; /* of who observes; 0: nobody does */
    bool is_probed;                    /* as it was when the targets got their duties */
    bool is_owed;                      /* a window that closed was not yet observed */
    bool judges_well, observes_well;   /* its policy did when it was last called */
};

/* Whose policies are called. All but the last await the timer, for the next. */
enum pace {
    PACE_REST,      /* nobody's */
    PACE_PROVEN,    /* theirs that answered last time */
    PACE_UNDER_WAY, /* and those whose probe has begun */
    PACE_ALL,
};

struct health {
    struct event_base *base;
    struct shm *shm;
    void (*on_suspect_failed)(void *context, uint32_t slot);
    void *context;
    const struct config *config;
    struct script *script;
    uint32_t *service_of; /* SHM_NAMES_MAX: shm name id to index in config->services, SLOT_NONE: none */
    struct service_counts *counts; /* a service of config */
    struct target **targets;       /* by slot, NULL where none */
    uint32_t cap;
    uint64_t version; /* shm_endpoints_version last looked at */
    struct event *scan;
    enum pace pace; /* pace.c alone writes it */
    struct event *pace_timer;
    struct target_queue waiting;
    uint32_t active, queued;
    uint64_t dice;
    uint64_t policy_errors;
    struct script_window_row *rows; /* of the service whose window closes */
    uint32_t row_cap;
};

/* NULL where the slot's service is not in the config. */
const struct config_service *health_service(const struct health *health, uint32_t service);
/* From 0 to 1, 1 excluded. */
double health_random(struct health *health);
void target_schedule(struct target *target, uint64_t us);
/* Starts the probes that wait, as far as they may. */
void queue_pump(struct health *health);

/* ---- verdict.c */
/* The endpoint's name for a person; borrowed until the next call. */
const char *endpoint_id(struct health *health, uint32_t slot);
/* Publishes and logs it. */
void target_state(struct target *target, enum slot_state state, const char *reason);
bool verdict_passes(const struct probe_outcome *outcome, const struct script_probe *plan);
/* The policy's word, turned into a state. What control or an operator set stays: draining, maintenance,
 * suspect. */
void target_judge(
    struct target *target, const struct slot *cold, const struct probe_outcome *outcome, bool passed);

/* ---- damping.c */
void damping_fell(struct damping *damping, const struct config_damping *rules, uint64_t now_us);
/* How much longer it is held down; 0: it may rise. */
uint64_t damping_left_us(struct damping *damping, const struct config_damping *rules, uint64_t now_us);

/* ---- pace.c */
MUST_CHECK
bool pace_init(struct health *health);
/* One of ours: it counts as proven until it fails. */
bool pace_trusts(const struct config_plugin *plugin);
/* May the policy be called for a new probe now? True where none would be. */
bool pace_allows_probe(const struct target *target);
bool pace_allows_observer(const struct health *health, const struct service_counts *counts);

/* ---- passive.c */
/* NULL where the slot's service is not in the config. */
struct service_counts *counts_of(struct health *health, uint32_t service);
/* What was counted up to now belongs to no window. */
void window_begin(struct target *target);
/* Looks at what the workers counted: probes what began to fail, and ejects, tries and restores as the policy
 * that observes says, or where there is none at all by failures in a row. */
void passive_scan(struct health *health, uint64_t now_us);

#endif
