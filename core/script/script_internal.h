/* core/script/script_internal.h: what the files of this room share. */
#ifndef FLUXGATE_SCRIPT_SCRIPT_INTERNAL_H
#define FLUXGATE_SCRIPT_SCRIPT_INTERNAL_H
#include <lua.h>
#include <lauxlib.h>
#include <stdatomic.h>

#include "core/script/heap.h"
#include "core/script/script.h"
#include "core/script/view.h"

enum {
    SCRIPT_MEMORY_MAX = 64 << 20,               /* a state (DESIGN.md section 6) */
    SCRIPT_MEMORY_SPARE = 16 << 20,             /* what our own calls and the collector may take on top */
    SCRIPT_MEMORY_FULL = SCRIPT_MEMORY_MAX / 2, /* still held after a full collection: somebody hoards */
    SCRIPT_LOAD_BUDGET_US = 2000000,            /* CPU time of everything that a load runs */
    SCRIPT_PICK_BUDGET_US = 5000, /* of one pick or on_result, and what an endpoint adds to it: */
    SCRIPT_PICK_ENDPOINT_US =
        5, /* before LuaJIT compiled it, a loop that reads two fields takes 1 us a turn */
    SCRIPT_CHANGE_BUDGET_US = 250000, /* of one on_change, probe or judge */
    SCRIPT_HARD_BUDGET_US = 250000,   /* or twice the soft one: past this the state is abandoned */
    SCRIPT_ERRORS_MAX = 10,           /* in SCRIPT_ERRORS_WINDOW_US: then the plug-in is quarantined */
    SCRIPT_ERRORS_WINDOW_US = 10000000,
    SCRIPT_QUARANTINE_US = 30000000, /* doubled each time that a runaway comes back, up to: */
    SCRIPT_QUARANTINE_DOUBLINGS = 5,
    SCRIPT_RUNAWAYS_BITS = 3,       /* of the word "runaways" (script.c), for a count up to the above */
    SCRIPT_MEND_PAUSE_US = 1000000, /* after a state could not be built */
    SCRIPT_VIEWS = 64, /* request views in turn: one kept past its call raises until its turn comes again */
};

/* Tiers: the best one that has anybody is what pick sees. */
struct script_task;

enum tier { TIER_GOOD, TIER_UNPROVEN, TIER_EJECTED, TIER_COUNT, TIER_BOUND = TIER_COUNT, TIER_NEVER };

/* An endpoint as this state knows it; view->handle points here. */
struct member {
    struct script *script;
    struct slot *shared;
    struct fg_backend *view; /* in Lua's memory, kept by the `views` table; NULL until Lua saw it */
    uint32_t slot, incarnation, service;
    uint32_t weight, port, state;
    double effective_weight; /* slow start applied */
    enum tier tier;
    bool is_offered;   /* in its service's array now */
    bool is_on_trial;  /* ejected, and in the best tier for the one request that takes its trial */
    bool was_seen;     /* mark of the running scan */
    uint64_t bound_in; /* serial of the pick in which request:bound answered it */
    uint64_t full_in;  /* ... and of the one that left it out for being full or for its trial */
    uint64_t text_hash;
    char *id;
};

/* One plug-in of one service: what its errors are counted on. */
struct plugin {
    const char *name, *service, *kind, *key, *file;
    uint32_t name_id; /* shm name, for the watchdog's mark */
    int self, hot;    /* registry references; hot: pick() or, for a policy, none */
    int on_change, on_result;
    bool is_loaded, was_loaded; /* was_loaded: ever, so that it is known what it does */
    uint64_t errors, window_start_us, quarantined_until_us;
    uint64_t free_since_us;              /* when the last quarantine ended */
    unsigned errors_in_window, runaways; /* runaways: each soon after the quarantine for the one before */
    int64_t grown_bytes;                 /* what the state grew by in its calls: whom to suspect first */
    _Atomic uint64_t
        *stuck_until_us; /* shared by all workers: quarantined until then; NULL without a segment */
    struct log_every log;
    char where[96]; /* "file:line: " of its main callback, for when the state can't be asked any more */
    char last_error[256];
};

struct service {
    struct script *script;
    const struct config_service *config;
    uint32_t name_id;
    struct plugin strategy, policy,
        passive;             /* passive: the policy that observes beside the one that probes */
    struct plugin *observer; /* passive, or policy where that observes itself; NULL */
    bool policy_probes;
    uint64_t window_us; /* of the observer */
    int offered_ref, scratch_ref,
        all_ref;             /* arrays of views: what pick sees; without the tried; all that are not gone */
    struct member **members; /* all that are not gone, by id */
    uint32_t member_count, member_cap;
    struct member **offered; /* tiers one after the other, each by id; the first tier_start[1] are tier 0 */
    uint32_t tier_start[TIER_COUNT + 1];
    enum tier tier;  /* the best that has anybody */
    uint32_t trials; /* members that are on trial */
    uint32_t bindable;
    uint32_t limit;         /* active requests an endpoint, over all workers; 0: none */
    uint32_t filled[3];     /* rows that we wrote into all, scratch and offered */
    uint32_t scratch_count; /* rows of the scratch table in use */
    uint64_t signature;
    bool is_stale; /* the arrays could not be rebuilt: try again at the next refresh */
};

struct script {
    struct script_env env;
    struct filters *filters; /* filter_internal.h; control loads none of them */
    struct tasks *tasks;
    lua_State *L; /* NULL: dropped; script_mend makes another */
    struct heap *heap;
    size_t used_bytes, gc_next_bytes, memory_cap_bytes, entered_bytes;
    uint64_t load_deadline_us; /* CPU time; 0 before the first load call */
    uint64_t serial;           /* of this state, for ctx_generation */
    uint64_t pick_serial;
    uint64_t random[2];
    struct service *services;
    size_t service_count;
    uint32_t *service_by_name; /* by shm name id: index + 1 */
    struct member **by_slot;
    uint32_t slot_cap;
    uint64_t endpoints_seen;
    uint64_t ramp_due_us;    /* when the next effective weight moves by slow start; 0: none will */
    uint64_t hard_budget_us; /* SCRIPT_HARD_BUDGET_US; specs shorten it */
    uint64_t load_took_us, mend_after_us;
    unsigned dropped; /* states, ever */
    bool has_refreshed;
    bool was_refused; /* an allocation, for the cap, since script_enter */
    bool wants_load;  /* a plug-in's quarantine ended and the present state does not have it */
    bool is_mending;
    struct shm_worker *mark; /* NULL but in a worker */
    struct plugin *running;
    struct slot_text text; /* the last that fg_backend_text read */
    int views_ref, texts_ref, by_id_ref, ctx_ref, new_view_ref, load_strategy_ref, load_policy_ref,
        export_ref, probe_ref, judge_ref, fleet_ref, observe_ref, dialog_ref, dialog_end_ref, forget_ref;
    uint32_t dialogs; /* ever begun: a state that is built anew knows no old number */
    uint32_t dialog_over;
    const void *queue_mark;
    struct fg_request *requests[SCRIPT_VIEWS];
    int request_refs[SCRIPT_VIEWS];
    unsigned next_request;
    struct fg_result *result;
    int result_ref;
    struct arena probe_text;
    _Atomic uint64_t *local_counters; /* the checker's, that has no shared segment */
    size_t local_counter_count;
    struct shm *own_shm;    /* the checker's, for dictionaries and metrics; made when asked for */
    struct native *natives; /* natives.c: what Lua holds on our heap */
    uint32_t native_count, prefix_count;
    uint64_t log_window_us;
    unsigned logged_in_window;
};

/* natives.c: frees what no finaliser did, once the state is gone. natives_free: the script goes too. */
void natives_drop(struct script *script);
void natives_free(struct script *script);

/* state.c */
MUST_CHECK
lua_State *state_new(struct script *script);
/* Loads the runtime of share/lua and runs it; on failure the message is in diags. */
MUST_CHECK
bool state_load_runtime(struct script *script, struct diags *diags);
/* What the loads that follow may take in CPU time, all together. */
void state_begin_load(struct script *script, uint64_t budget_us);
/* lua_pcall under the load budget: counts instructions, compiler off. The error stays on the stack. May
 * answer GUARD_ABANDONED: then the state is to be dropped, and state_load_place says where the call was. */
MUST_CHECK
int state_load_call(struct script *script, int arguments, int results);
void state_load_place(char *out, size_t size); /* "file:line: ", or "" */
/* For hooks: raises `text` with file and line of the function that was interrupted first since the last
 * forget. */
void state_raise_overrun(lua_State *L, const char *text);
void state_forget_overrun(void);
/* The error value on top of the stack as text, cut to size; never runs Lua. Pops it. */
void state_take_error(lua_State *L, int status, char *out, size_t size);

/* guard.c: the budgets of a call, in CPU time */
enum { GUARD_ABANDONED = -1 };
void guard_prepare(void); /* once a state: the timer of this process */
/* A call that is still there past its hard budget writes the end of a quarantine into *stuck_until_us (may be
 * NULL): should this process be killed for it, no other goes the same way. */
void guard_enter(lua_State *L, uint64_t soft_us, uint64_t hard_us, _Atomic uint64_t *stuck_until_us);
bool guard_leave(void); /* true: the soft budget was passed */
/* lua_pcall and lua_resume, between enter and leave: their status, or GUARD_ABANDONED past the hard budget.
 * Then nothing of the state may be touched again but to drop it. So a C function that scripts call holds no
 * lock, no half-written struct and no memory without an owner wherever it calls the Lua API. Hot. */
MUST_CHECK
int guard_pcall(lua_State *L, int arguments, int results);
MUST_CHECK
int guard_resume(lua_State *thread, int arguments);
extern _Atomic bool guard_must_leave; /* the handler's: past the hard budget */
void guard_take_leave(void);
/* Where a call past its hard budget may be left although it spends its time outside of LuaJIT: at the head of
 * every allocation and of each fg_ function, before it holds anything. Hot. */
static inline void
guard_point(void)
{
    if (UNLIKELY(atomic_load_explicit(&guard_must_leave, memory_order_relaxed))) guard_take_leave();
}

/* call.c */
/* Between these two, and nowhere else, a worker or control runs plug-in code. */
void script_enter(struct script *script, struct plugin *plugin, uint64_t budget_us);
bool script_leave(struct script *script);
/* After guard_pcall or guard_resume: script_leave, and what `status` says about the plug-in. False: it
 * failed; the error was taken (off the coroutine of `task`, NULL for a call), counted and logged. Where
 * script->L is NULL then, the state was dropped with all that was in it: whoever made the call touches
 * nothing of it and ends with script_mend. */
MUST_CHECK
bool script_settle(
    struct script *script, struct plugin *plugin, struct script_task *task, int status, const char *callback);
/* lua_pcall between enter and settle. */
MUST_CHECK
bool script_call(struct script *script, struct plugin *plugin, int arguments, int results, uint64_t budget_us,
    const char *callback);
/* Counters and dictionaries of ours begin so; scripts cannot name them. */
#define SCRIPT_OWN_NAMES "fluxgate/"
_Atomic uint64_t *plugin_word(
    struct script *script, const char *what, const struct plugin *plugin);   /* script.c */
void plugin_share_error(struct script *script, const struct plugin *plugin); /* last_error, for control */
void plugin_fault(
    struct script *script, struct plugin *plugin, const char *callback, const char *message, unsigned weight);
/* For what no Lua error says: the place is that of the plug-in's main callback. */
void plugin_fault_at(
    struct script *script, struct plugin *plugin, const char *callback, const char *sentence);
bool plugin_is_quarantined(struct script *script, struct plugin *plugin);
uint64_t script_random(struct script *script);

/* refresh.c: the endpoint in a slot as it is now, for policies; NULL where the slot is free or of no service
 * of ours. */
struct member *script_member(struct script *script, uint32_t slot);
/* Writes a service's arrays anew. False where memory is out: then it is stale. */
bool script_fill(struct script *script, struct service *service);
/* The view of a member on top of the stack, made on first use. Raises where memory is out:
 * protected only. */
void script_push_view(lua_State *L, struct member *member);

/* At its service's limit of active requests. Hot. */
bool member_is_full(const struct member *member);

/* task.c: the state was dropped and `serial` is another. What waited in it fails, a turn later; spawned
 * functions and timers are gone. Outside Lua; touches nothing of the old state. */
void tasks_abandon(struct script *script);

/* The word by which all workers know that a plug-in does not return; NULL without a segment. In a process
 * that begins in the middle of a generation the plug-in also takes over how often it did not. */
_Atomic uint64_t *script_stuck_word(struct script *script, struct plugin *plugin, bool is_new_generation);
/* `key`: what no other plug-in of its kind has, the service or the path of the options. */
struct plugin script_plugin(const struct script *script, const char *kind, const char *key,
    const struct config_plugin *plugin, const char *service);

/* load.c, for every kind of plug-in. The error is on top of the stack; `owner` is "service x" or "route x".
 * Where the state had to be dropped script->L is NULL afterwards. Without diags the plug-in is at fault.
 */
void load_push(lua_State *L, const struct config_plugin *plugin);
void load_failed(struct script *script, int status, struct plugin *plugin, const struct config_plugin *config,
    const char *owner, struct diags *diags);
int load_keep(lua_State *L, int index);                         /* a registry reference, LUA_NOREF for nil */
void load_keep_where(struct plugin *plugin, lua_State *L);      /* "file:line: " of its callback, on top */
bool load_is_due(struct script *script, struct plugin *plugin); /* neither loaded nor in quarantine */

/* load.c: new()s every plug-in that this role runs, is not loaded yet and not in quarantine; complaints go
 * into diags. */
void load_plugins(struct script *script, struct script *previous, struct diags *diags);

/* mend.c */
/* Strategies and policies, service by service, then filters. */
void script_each_plugin(
    struct script *script, void (*each)(void *context, struct plugin *plugin), void *context);
/* Lets the state go, and with it all that points into it. The struct script stays, and so do its members and
 * its plug-ins' counts. What filters wait for ends. */
void script_drop(struct script *script);
/* Builds a state where there is none, out of the same bundle and without the plug-ins in quarantine, and
 * loads those whose quarantine is over. Never while plug-in code runs. */
void script_mend(struct script *script);
/* After a full collection that left the state too full: drops it, and answers whose doing it was. */
MUST_CHECK
struct plugin *script_drop_hoarder(struct script *script, struct plugin *running);

#endif
