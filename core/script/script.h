/* core/script/script.h: everything that knows lua_State. One struct script is one state: one config
 * generation in one process (worker, control or checker). Callers see slots, never Lua. */
#ifndef FLUXGATE_SCRIPT_SCRIPT_H
#define FLUXGATE_SCRIPT_SCRIPT_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "core/base/arena.h"
#include "core/base/diag.h"
#include "core/config/config.h"
#include "core/http/h1.h"
#include "core/http/reason.h"
#include "core/shm/shm.h"

enum script_role { SCRIPT_WORKER, SCRIPT_CONTROL, SCRIPT_CHECKER };

struct script_env {
    enum script_role role;
    unsigned worker;                   /* SCRIPT_WORKER: which */
    const struct config *config;       /* borrowed, must outlive the script */
    struct bundle *bundle;             /* borrowed: every Lua source comes from it */
    struct shm *shm;                   /* NULL in the checker */
    bool was_checked;                  /* the checker has loaded these scripts without an error */
    void (*on_overrun)(void *context); /* may be NULL: a call passed its budget and is over; no Lua in here */
    void *context;
};

struct script;

/* Builds the state: the runtime of share/lua, then every strategy (roles worker and checker) and health
 * policy (control and checker) that the config names, each new()ed with its options under the load budget.
 * What a plug-in raises goes into diags with file:line (or the YAML place, for an option it names). NULL only
 * where no state could be made; with errors in diags it must not serve. `previous` (may be NULL) is asked to
 * export() its strategies' state. Where env->was_checked, an error is none of diags but a
 * fault: that plug-in is in quarantine, the others serve. */
MUST_CHECK
struct script *script_new(const struct script_env *env, struct script *previous, struct diags *diags);
void script_free(struct script *script);

/* What a strategy sees of a request: filled by the proxy, lives in its stream. Slices borrow from the stream.
 */
struct script_request {
    enum method method;
    struct slice method_text, path, query, host, client_ip;
    const struct headers *headers;
    struct arena *arena; /* the stream's: set_cookie values go there */
    uint32_t service;    /* index into config.services */
    uint32_t attempt;    /* 1 is the first */
    uint32_t tried[8];   /* slots of earlier attempts: pick does not see them */
    uint32_t tried_count;
    bool is_tls;
    struct headers
        set_cookies; /* rows to add to the response of the attempt that answers; emptied before each pick */
    uint32_t trial;  /* the slot + 1 whose trial this request has taken; 0: none */
    int ctx;         /* the script's own: 0 is "no ctx table yet" */
    uint64_t ctx_generation;
};

enum script_verdict { SCRIPT_PICKED, SCRIPT_NONE, SCRIPT_QUEUE };

/* Runs the service's strategy over the endpoints that may be picked now: not tried, not full, and of the best
 * tier there is (healthy and suspect, and beside them one request for each ejected one that is on trial; else
 * unproven; else ejected; unhealthy, draining, maintenance never, but through request:bound). SCRIPT_PICKED:
 * *slot, which another worker may have filled meanwhile: then the caller picks again. SCRIPT_NONE: *reason
 * (NO_ENDPOINTS, ALL_UNHEALTHY, ALL_FULL: room must come first, …). SCRIPT_QUEUE: the request is to wait, for
 * *slot (a full one was answered: by request:bound, or out of a table of the script's own) or, where that is
 * SLOT_NONE, for what only the script knows (gateway.QUEUE). An error, a wrong return value or a quarantined
 * script is answered by the C fallback, random by weight among the eligible: never a failure. The caller
 * counts the request with slot_begin. Hot: no garbage of ours. */
MUST_CHECK
enum script_verdict script_pick(
    struct script *script, struct script_request *request, uint32_t *slot, enum reason *reason);

struct script_result {
    int status;                    /* of the endpoint's answer, 0 where there was none */
    enum reason failure;           /* REASON_NONE where it answered */
    uint32_t latency_us;           /* pick to response head */
    const struct headers *headers; /* of the answer, NULL where there was none */
};
/* Tells the strategy (on_result, where it has one) how an attempt ended. */
void script_result(
    struct script *script, struct script_request *request, uint32_t slot, const struct script_result *result);

/* The request was on trial for its endpoint, if request->trial says so (core/shm/shm.h): how that went,
 * TRIAL_OPEN where another request is to find out. */
void script_trial_end(struct script *script, struct script_request *request, enum trial outcome);

/* The request is over: its ctx table is let go, and the trial that it has. Safe on one that never had any. */
void script_request_done(struct script *script, struct script_request *request);

/* Once a loop turn, when shm_endpoints_version moved: rebuilds the arrays and calls on_change. */
void script_refresh(struct script *script);

/* Strategy name of a service as metrics label it. */
const char *script_strategy_name(const struct script *script, uint32_t service);

/* ---- health policies (control)
 * ------------------------------------------------------------------------------------- */
enum probe_kind { PROBE_NONE, PROBE_TCP, PROBE_HTTP, PROBE_GRPC, PROBE_SOCKET };
enum { PROBE_STATUSES = 8 };

struct script_probe { /* what probe() answered; text lives until the next call into the script */
    enum probe_kind kind;
    const char *method, *path, *host_header;
    uint16_t port; /* 0: the endpoint's own */
    uint64_t timeout_us;
    struct {
        int from, to;
    } statuses[PROBE_STATUSES]; /* expected; judge() decides, this is what the policy declared */
    unsigned status_count;
    const char *body_contains; /* NULL: the head is enough; "": the policy reads the body itself */
    const char *service;       /* PROBE_GRPC; NULL for the server as a whole */
    uint32_t dialog; /* PROBE_SOCKET: for script_policy_dialog, until script_policy_dialog_end; 0: none */
};

struct script_probe_result {
    bool ok;    /* connected (tcp), a whole response head came (http), it serves (grpc), the script said so
                   (socket) */
    int status; /* of HTTP, or grpc-status */
    uint32_t latency_us;
    enum reason
        failure; /* CONNECT_REFUSED, CONNECT_TIMEOUT, RESPONSE_TIMEOUT, BAD_RESPONSE, RESET_BEFORE_HEADERS */
    struct slice body; /* first 4 KiB */
    char detail[128];  /* for people, beside `failure`: "NOT_SERVING", what the script said; "" where there is
                          none */
    uint32_t dialog;   /* whose value judge() sees; 0: none */
};

struct script_history {  /* of one endpoint, kept by control */
    uint32_t rise, fall; /* successes and failures in a row, this result not yet counted */
    uint32_t state;      /* enum slot_state */
    uint64_t since_us;
};

enum script_judgement { JUDGE_UNCHANGED, JUDGE_HEALTHY, JUDGE_UNHEALTHY };

/* What a script that talks to its endpoint asks for next. */
enum dialog_want { DIALOG_SEND, DIALOG_RECEIVE, DIALOG_DONE };
enum dialog_receive { RECEIVE_SOME, RECEIVE_LINE, RECEIVE_BYTES };
enum { DIALOG_BYTES_MAX = 65536 }; /* of one receive or send */
struct script_dialog_turn {
    enum dialog_want want;
    struct slice text; /* SEND: borrowed until the next call into the script */
    enum dialog_receive receive;
    size_t bytes; /* RECEIVE_BYTES: exactly so many; else at most */
    bool ok;      /* DONE */
    char detail[128];
};

/* False: the policy failed (logged, counted); the caller then leaves the endpoint as it is. */
MUST_CHECK
bool script_policy_probe(struct script *script, uint32_t service, uint32_t slot, struct script_probe *probe);
/* Goes on with a dialog that probe() began: after a send or at its start `got` is NULL, after a receive what
 * came, with `why` where it is less ("closed"). False as above, or the dialog is no more: its state was built
 * anew. */
MUST_CHECK
bool script_policy_dialog(struct script *script, uint32_t service, uint32_t dialog, const struct slice *got,
    const char *why, struct script_dialog_turn *turn);
void script_policy_dialog_end(struct script *script, uint32_t dialog);
MUST_CHECK
bool script_policy_judge(struct script *script, uint32_t service, uint32_t slot,
    const struct script_probe_result *result, const struct script_history *history,
    enum script_judgement *judgement, char reason[128]);

/* What an endpoint's requests told, for observe(). A window's numbers are there in the one call that follows
 * its end. */
struct script_window {
    bool is_new; /* it has just ended; else requests, failures and errors are 0 */
    double seconds;
    uint64_t requests, failures, errors;     /* errors: failures and answers of 5xx */
    uint32_t failures_in_row, errors_in_row; /* up to now */
    uint32_t latency_us;                     /* slot_latency_us */
    uint32_t ejections;
    enum trial trial;            /* PASSED, ERROR or FAILED where one has just ended */
    uint32_t endpoints, ejected; /* of the service: those that may be picked or are ejected; these */
};
struct script_window_row { /* of one healthy endpoint, for what its fleet did */
    uint64_t requests, errors;
    uint32_t latency_us;
};
enum script_action { OBSERVE_NOTHING, OBSERVE_EJECT, OBSERVE_RESTORE };
struct script_observation {
    enum script_action action;
    uint64_t span_us; /* of an ejection; 0: the caller's own rule */
    char reason[128]; /* "" where it gave none */
};

/* Does its policy probe and judge? It may only observe. Of one that was in quarantine from the start it is
 * not known before it is let in: true until then. */
bool script_policy_probes(const struct script *script, uint32_t service);
/* How long the windows are that its policy, or the one beside it, observes; 0: neither does. */
uint64_t script_policy_window_us(const struct script *script, uint32_t service);
/* Windows have ended: the calls of observe until the next ones compare with these. False as above. */
MUST_CHECK
bool script_policy_fleet(
    struct script *script, uint32_t service, const struct script_window_row *rows, uint32_t count);
MUST_CHECK
bool script_policy_observe(struct script *script, uint32_t service, uint32_t slot,
    const struct script_window *window, struct script_observation *word);

/* ---- for admin and tests
 * -------------------------------------------------------------------------------------------- */
struct script_status {
    const char *plugin, *service, *kind; /* strategy, policy, passive */
    uint64_t errors;
    uint64_t quarantined_until_us; /* 0: serving */
    char last_error[256];
};
/* In control also the strategies that raised errors in some worker, by what all workers together count. */
size_t script_status(struct script *script, struct script_status *rows, size_t cap);
/* States that this process dropped, in all generations. The machine code of each stays mapped: past
 * SCRIPT_STATES_MAX a worker is to be replaced. */
enum { SCRIPT_STATES_MAX = 32 };
unsigned script_states_dropped(void);
size_t script_memory_bytes(const struct script *script);

#endif
