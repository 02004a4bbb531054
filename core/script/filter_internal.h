/* core/script/filter_internal.h: what the files behind filter.h share: the uses of filters, the chain of one
 * stream, and the coroutines ("tasks") in which callbacks, spawned functions and timers run. */
#ifndef FLUXGATE_SCRIPT_FILTER_INTERNAL_H
#define FLUXGATE_SCRIPT_FILTER_INTERNAL_H
#include <event2/event.h>
#include <event2/event_struct.h>

#include "core/script/filter.h"
#include "core/script/filter_view.h"
#include "core/script/script_internal.h"

enum {
    SCRIPT_FILTER_BUDGET_US = 50000, /* of one slice: from one wait to the next */
    FILTER_LISTS_MAX = 8,            /* lists of a request: routes and services that it is sent to */
    FILTER_STAGES_MAX = 16,          /* on_body functions of one response */
    FILTER_COPY_MAX = 1 << 20,       /* what filters may write into one request beside its body */
    FILTER_BODY_MAX = 16 << 20,
    SPAWNED_MAX = 1024,
    TIMERS_MAX = 256,
};

/* ---- uses: one filter in the list of one route or service ---- */
struct filter_use {
    struct plugin plugin;
    const struct config_filter *config;
    int on_request, on_response, on_log; /* registry references; LUA_NOREF: it has none */
};

struct filter_list {
    struct filter_use *uses;
    uint32_t count;
    bool has_log;
};

/* A view that Lua holds too: taken for one callback, put back at its end. Put at one end and taken at the
 * other, with VIEWS_SPARE between: one that a script kept raises until its turn comes again. */
struct view_slot {
    void *view; /* NULL: none */
    int ref;
};

struct view_pool {
    struct view_slot *free; /* a ring */
    uint32_t head, count, cap, made;
};

struct filters {
    struct filter_list *routes, *services;
    size_t route_count, service_count;
    struct view_pool requests, responses;
    int load_ref, stage_ref, stages_ref, new_request_ref, new_response_ref;
    struct fg_log_request *log_request;
    struct fg_log_response *log_response;
    int log_request_ref, log_response_ref;
    double log_serial;  /* of the on_log that runs: whose ctx was read */
    int chunk_ref;      /* keeps the string that filter_body lent */
    struct slice chunk; /* what the running stage reads */
    char *joined;       /* values of a field with several lines, until the next such call */
    size_t joined_cap;
    struct {
        struct filter_chain *chain;
        struct filter_answer *answer;
        bool is_response;
    } draft; /* of request:answer, between its begin and its commit */
};

/* ---- tasks ---- */
enum task_kind { TASK_CALLBACK, TASK_SPAWNED, TASK_TIMER };
enum task_wait { WAIT_NONE, WAIT_START, WAIT_SLEEP, WAIT_FETCH, WAIT_BODY };
enum task_end { TASK_DONE, TASK_WAITS, TASK_FAILED };

struct script_task {
    struct script *script;
    struct script_task *prev, *next; /* of those in use, or (next alone) of the idle */
    lua_State *L;                    /* kept between uses; NULL: to be made */
    int thread_ref;
    uint64_t serial; /* of the state that L belongs to */
    enum task_kind kind;
    struct plugin *plugin;
    const char *callback;
    struct filter_chain *chain; /* TASK_CALLBACK */
    struct script_timer *timer; /* TASK_TIMER */
    /* the wait */
    enum task_wait wait;
    bool has_event;
    struct event event;
    uint64_t sleep_us;
    int arguments;      /* WAIT_START: on its stack */
    struct arena arena; /* what is asked of fetch */
    struct headers headers;
    struct fetch_request question;
    size_t body_max;
    struct fetch *fetch;
    const struct fetch_answer *answer; /* while the task that asked is resumed */
    struct fetch_answer refusal;
    struct {
        bool ok;
        struct slice text;
        const char *why;
    } body;
};

struct script_timer { /* gateway.every */
    struct script *script;
    struct script_timer *next;
    struct plugin *plugin;
    uint64_t serial;
    int function_ref;
    uint64_t period_us;
    _Atomic uint64_t *due_us; /* of `once = "gateway"`: shared; NULL: every worker runs it */
    struct script_task *task; /* a run under way */
    bool has_event;
    struct event event;
};

struct tasks {
    struct script_host host;
    bool has_host, is_retired;
    struct script_task *idle, *busy, *running;
    uint32_t spawned, busy_count;
    struct script_timer *timers;
    uint32_t timer_count;
    struct filter_chain *lost; /* chains whose state was abandoned: to be told */
    struct event lost_event;
};

/* ---- the chain of one stream, in its arena ---- */
struct filter_chain {
    struct script *script;
    uint64_t serial;
    struct filter_request *request;
    struct filter_response *response;
    enum { CHAIN_IDLE, CHAIN_REQUEST, CHAIN_RESPONSE } phase;
    enum filter_verdict verdict;
    unsigned calls; /* of filter_run_request */
    const struct filter_list *lists[FILTER_LISTS_MAX];
    uint32_t list_count, list_at, use_at; /* where on_request goes on */
    struct filter_use **ran;              /* those whose on_request ran */
    uint32_t ran_count, ran_cap, left;    /* left: how many on_response are still to run */
    struct filter_use *current;
    struct script_task *task; /* while its callback runs or waits */
    struct view_slot request_view, response_view;
    size_t copied; /* bytes that filters wrote */
    struct {
        struct plugin *plugin;
        int number; /* of runtime.lua's stages */
    } stages[FILTER_STAGES_MAX];
    uint32_t stage_first, stage_total; /* those before the first were answered away */
    struct filter_chain *next_lost;
    bool is_lost;
};

/* call.c: lua_resume between script_enter and script_leave; on an error the thread is dropped, the error
 * taken, counted and logged. The only place where a coroutine is run. Hot. */
enum resume_end { RESUME_DONE, RESUME_YIELDED, RESUME_FAILED };
MUST_CHECK
enum resume_end task_resume(struct script_task *task, int arguments);

/* filter_load.c */
MUST_CHECK
bool filters_make(struct script *script, bool is_new_generation);
void filters_free(struct script *script);
void filters_load(struct script *script, struct diags *diags);
void filters_take_runtime(lua_State *L, struct script *script, int table); /* protected */
void filters_each(struct script *script, void (*each)(void *context, struct plugin *plugin), void *context);

/* A view out of the pool, NULL where memory is out. */
struct view_slot view_pool_take(struct script *script, struct view_pool *pool, int new_ref);
void view_pool_put(struct view_pool *pool, struct view_slot *slot);

/* What the fg_ functions of filter_view.c and filter_edit.c begin and end with. */
static inline int
view_give(struct slice s, struct fg_slice *out)
{
    if (out == NULL) return FG_NO;
    *out = (struct fg_slice){s.at == NULL ? "" : s.at, s.len};
    return FG_DONE;
}

/* Sets *chain, or says why there is none. */
static inline int
view_chain(const struct fg_request *view, struct filter_chain **chain)
{
    if (view == NULL || view->handle == 0) return FG_OVER;
    if (view->filter == 0) return FG_NO_FILTER;
    *chain = (struct filter_chain *)(uintptr_t)view->filter;
    return FG_DONE;
}

static inline struct filter_chain *
view_chain_of_response(const struct fg_response *view)
{
    return view == NULL ? NULL : (struct filter_chain *)(uintptr_t)view->handle;
}

/* filter_edit.c: FG_DONE, or what is wrong with a field that a script wants to send (enum fg_filter_error).
 */
int field_check(struct slice name, struct slice value);

/* filter.c: a callback of a chain came to its end after a wait. */
void chain_task_ended(struct script_task *task, enum task_end end);
void chain_forget_views(struct filter_chain *chain); /* the state that they are of is gone */
void stages_drop(struct filter_chain *chain);        /* filter_log.c: its on_body functions are let go */
void chain_lose(struct filter_chain *chain);         /* likewise, in the middle of a wait: it has failed */

/* task.c */
MUST_CHECK
bool tasks_make(struct script *script);
void tasks_free(struct script *script);
void tasks_push_host(lua_State *L, struct script *script); /* sets the host's functions in the table on top */
/* A coroutine with an empty stack, NULL where memory is out; L is the state that runs, or script->L. Hot. */
struct script_task *task_take(
    struct script *script, lua_State *L, enum task_kind kind, struct plugin *plugin);
/* Runs it on with `arguments` values on its stack, to its next wait or its end. Hot. */
enum task_end task_run(struct script_task *task, int arguments);
/* The wait is over; `arguments` values are on its stack. It may be given back when this returns. */
void task_end_wait(struct script_task *task, int arguments);
void task_drop_thread(struct script_task *task); /* to the collector: the next use gets another */
/* Ends what it waits for and gives it back. */
void task_give(struct script_task *task);

/* timer.c */
void timers_push_host(lua_State *L, struct script *script);
void log_push_host(lua_State *L, struct script *script); /* filter_log.c */
void timers_start(struct script *script);
void timers_stop(struct script *script);
void timers_free(struct script *script, bool stale_only);
void timer_task_ended(struct script_task *task);

#endif
