/* Coroutines in which plug-in code may wait, and what wakes them. A thread of Lua's that came to its end is
 * used again; one that raised or was cancelled is left to the collector. What a wait asks of the host is
 * asked after the yield, outside Lua. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/script/filter_internal.h"

enum { IDLE_MAX = 64, SPAWN_ARGUMENTS_MAX = 16 };

/* ---- threads ---- */

static int
make_thread(lua_State *L)
{
    struct script_task *task = lua_touserdata(L, 1);
    lua_State *thread = lua_newthread(L);
    task->thread_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    task->L = thread;
    return 0;
}

static bool
thread_ready(struct script_task *task, lua_State *L)
{
    struct script *script = task->script;
    if (LIKELY(task->L != NULL && task->serial == script->serial)) return true;
    task->L = NULL;
    task->serial = script->serial;
    if (lua_cpcall(L, make_thread, task) == 0) return true;
    lua_pop(L, 1);
    task->L = NULL;
    return false;
}

void
task_drop_thread(struct script_task *task)
{
    if (task->L != NULL && task->serial == task->script->serial)
        luaL_unref(task->script->L, LUA_REGISTRYINDEX, task->thread_ref);
    task->L = NULL;
}

/* ---- tasks ---- */

static void
task_free(struct script_task *task)
{
    arena_fini(&task->arena);
    free(task);
}

struct script_task *
task_take(struct script *script, lua_State *L, enum task_kind kind, struct plugin *plugin)
{
    struct tasks *tasks = script->tasks;
    struct script_task *task = tasks->idle;
    if (LIKELY(task != NULL)) {
        tasks->idle = task->next;
    } else {
        task = calloc(1, sizeof *task);
        if (task == NULL) return NULL;
        task->script = script;
    }
    task->next = tasks->busy;
    task->prev = NULL;
    if (task->next != NULL) task->next->prev = task;
    tasks->busy = task;
    tasks->busy_count++;
    task->kind = kind;
    task->plugin = plugin;
    if (LIKELY(thread_ready(task, L))) return task;
    task_give(task);
    return NULL;
}

static void
wait_end(struct script_task *task)
{
    struct fetch *fetch = task->fetch;
    if (task->has_event) (void)event_del(&task->event);
    task->fetch = NULL;
    task->answer = NULL;
    task->wait = WAIT_NONE;
    if (fetch != NULL) task->script->tasks->host.fetch_cancel(fetch);
}

void
task_give(struct script_task *task)
{
    struct tasks *tasks = task->script->tasks;
    if (UNLIKELY(task->wait != WAIT_NONE)) { /* its coroutine stands in the middle of something */
        wait_end(task);
        task_drop_thread(task);
    }
    if (task->next != NULL) task->next->prev = task->prev;
    if (task->prev != NULL) task->prev->next = task->next;
    if (tasks->busy == task) tasks->busy = task->next;
    task->chain = NULL;
    task->timer = NULL;
    if (tasks->busy_count-- > IDLE_MAX) { /* a burst is over */
        task_drop_thread(task);
        task_free(task);
        return;
    }
    task->next = tasks->idle;
    tasks->idle = task;
}

/* ---- waits ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg);

/* libevent's timers. */
static bool
arm(struct script_task *task, uint64_t after_us)
{
    struct tasks *tasks = task->script->tasks;
    if (!task->has_event) {
        if (event_assign(&task->event, tasks->host.base, -1, 0, on_wake, task) == -1) return false;
        task->has_event = true;
    }
    struct timeval tv = {(time_t)(after_us / 1000000), (suseconds_t)(after_us % 1000000)};
    return event_add(&task->event, &tv) == 0;
}

static void
on_fetched(void *arg, const struct fetch_answer *answer)
{
    struct script_task *task = arg;
    task->fetch = NULL;
    task->answer = answer;
    lua_pushboolean(task->L, 1);
    task_end_wait(task, 1);
}

static void
refuse(struct script_task *task, enum reason reason, const char *detail)
{
    task->refusal = (struct fetch_answer){.failure = reason, .detail = detail};
    task->answer = &task->refusal;
}

/* Asks the host for what the task yielded for. False: it is answered already. */
static bool
wait_begin(struct script_task *task)
{
    const struct script_host *host = &task->script->tasks->host;
    switch (task->wait) {
    case WAIT_SLEEP: return arm(task, task->sleep_us); /* no memory for a timer: it does not sleep */
    case WAIT_FETCH: {
        enum reason reason = REASON_LIMIT;
        const char *detail = "no room for it";
        task->fetch = host->fetch(host->context, &task->question, on_fetched, task, &reason, &detail);
        arena_reset(&task->arena);
        if (task->fetch == NULL) {
            refuse(task, reason, detail);
            return false;
        }
        break;
    }
    case WAIT_BODY:
        if (!host->body(task->chain->request->stream, task, task->body_max)) {
            task->body.ok = false;
            task->body.why = "cut";
            return false;
        }
        break;
    case WAIT_NONE:
    case WAIT_START: break;
    }
    return true;
}

/* Elsewhere a filter refuses by what it returns. Whoever writes on_request so has a lock that is open. */
static bool
returned_nothing(struct script_task *task)
{
    char message[128];
    if (task->kind != TASK_CALLBACK || task->chain->phase != CHAIN_REQUEST) return true;
    for (int i = 1; i <= lua_gettop(task->L); i++) {
        if (LIKELY(lua_isnil(task->L, i))) continue;
        snprintf(message, sizeof message,
            "returned a %s: to refuse or answer, call request:answer(status, …)", luaL_typename(task->L, i));
        lua_settop(task->L, 0);
        plugin_fault_at(task->script, task->plugin, task->callback, message);
        return false;
    }
    return true;
}

enum task_end
task_run(struct script_task *task, int arguments)
{
    struct script *script = task->script;
    struct tasks *tasks = script->tasks;
    for (;;) {
        task->wait = WAIT_NONE;
        tasks->running = task;
        enum resume_end end = task_resume(task, arguments);
        tasks->running = NULL;
        task->answer = NULL;
        if (UNLIKELY(task->serial != script->serial)) return TASK_FAILED; /* nothing of it is left */
        if (LIKELY(end == RESUME_DONE)) {
            if (UNLIKELY(lua_gettop(task->L) != 0) && !returned_nothing(task)) return TASK_FAILED;
            lua_settop(task->L, 0);
            return TASK_DONE;
        }
        if (end == RESUME_FAILED || task->wait == WAIT_NONE) {
            task->wait = WAIT_NONE;
            task_drop_thread(task);
            if (end != RESUME_FAILED) {
                plugin_fault_at(script, task->plugin, task->callback,
                    "it yielded, and no coroutine of its own was there to take that");
            }
            return TASK_FAILED;
        }
        if (wait_begin(task)) return TASK_WAITS;
        lua_pushboolean(task->L, 1);
        arguments = 1;
    }
}

static void
task_ended(struct script_task *task, enum task_end end)
{
    switch (task->kind) {
    case TASK_CALLBACK: chain_task_ended(task, end); return;
    case TASK_TIMER: timer_task_ended(task); break;
    case TASK_SPAWNED: task->script->tasks->spawned--; break;
    }
    task_give(task);
}

/* The wait is over; `arguments` values are on the task's stack. */
void
task_end_wait(struct script_task *task, int arguments)
{
    if (task->has_event) (void)event_del(&task->event);
    enum task_end end = task_run(task, arguments);
    if (end != TASK_WAITS) task_ended(task, end);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct script_task *task = arg;
    const struct script_host *host = &task->script->tasks->host;
    (void)fd;
    (void)what;
    host->enter(host->context);
    if (task->wait == WAIT_START) {
        enum task_end end = task_run(task, task->arguments);
        if (end != TASK_WAITS) task_ended(task, end);
    } else {
        lua_pushboolean(task->L, 1);
        task_end_wait(task, 1);
    }
    host->leave(host->context);
}

void
script_task_body(struct script_task *task, bool ok, struct slice body, const char *why)
{
    if (task->wait != WAIT_BODY) return;
    task->body.ok = ok;
    task->body.text = body;
    task->body.why = why;
    lua_pushboolean(task->L, 1);
    task_end_wait(task, 1);
}

static bool
start_later(struct script_task *task)
{
    task->wait = WAIT_START;
    return !task->script->tasks->has_host || arm(task, 0); /* else script_set_host does it */
}

/* ---- what runtime.lua calls (lua/fluxgate/tasks.lua). A wait answers a sentence where it may not be ---- */

static struct script *
script_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* The task that may wait in L; NULL, and why not as the one result, where none may. */
static struct script_task *
waiting_task(lua_State *L)
{
    struct script_task *task = script_of(L)->tasks->running;
    if (task != NULL && task->L == L && lua_isyieldable(L)) return task;
    if (task == NULL)
        lua_pushliteral(L, "may wait only in on_request, on_response, timers and spawned functions");
    else if (task->L != L)
        lua_pushliteral(L, "may wait only in the callback itself, not in a coroutine that the script made");
    else
        lua_pushliteral(L, "may not wait inside a function that table.sort, string.gsub or the like calls");
    return NULL;
}

static int
host_sleep(lua_State *L)
{
    struct script_task *task = waiting_task(L);
    if (task == NULL) return 1;
    task->sleep_us = (uint64_t)(lua_tonumber(L, 1) * 1e6); /* checked by tasks.lua */
    task->wait = WAIT_SLEEP;
    return lua_yield(L, 0);
}

static bool
keep_text(lua_State *L, struct script_task *task, int index, struct slice *out)
{
    size_t len;
    const char *text = lua_tolstring(L, index, &len);
    if (text == NULL) {
        *out = SLICE_NONE;
        return true;
    }
    char *kept = arena_strdup(&task->arena, (struct slice){text, len});
    *out = (struct slice){kept, len};
    return kept != NULL;
}

static const char *
keep_fields(lua_State *L, struct script_task *task, int index)
{
    size_t count = lua_objlen(L, index);
    task->headers = (struct headers){0};
    for (size_t i = 1; i + 1 <= count; i += 2) {
        struct slice name, value;
        lua_rawgeti(L, index, (int)i);
        lua_rawgeti(L, index, (int)i + 1);
        if (!keep_text(L, task, -2, &name) || !keep_text(L, task, -1, &value)) return "out of memory";
        lua_pop(L, 2);
        switch (field_check(name, value)) {
        case FG_DONE: break;
        case FG_OWNED: return "a framing or hop-by-hop field belongs to the gateway";
        case FG_NAME: return "the name of a field is no token";
        default: return "the value of a field holds a control byte";
        }
        if (!headers_add(&task->headers, &task->arena, header_identify(name), name, slice_trim(value)))
            return "out of memory";
    }
    return NULL;
}

/* (url, method, body or nil, timeout in s, max_body, {name, value, ...}) → true after the wait, or why not.
 */
static int
host_fetch(lua_State *L)
{
    struct script_task *task = waiting_task(L);
    if (task == NULL) return 1;
    arena_reset(&task->arena);
    struct fetch_request *question = &task->question;
    *question = (struct fetch_request){.headers = &task->headers,
        .timeout_us = (uint64_t)(lua_tonumber(L, 4) * 1e6),
        .max_body = (size_t)lua_tonumber(L, 5)};
    const char *wrong = "out of memory";
    if (keep_text(L, task, 1, &question->url) && keep_text(L, task, 2, &question->method) &&
        keep_text(L, task, 3, &question->body))
        wrong = keep_fields(L, task, 6);
    if (wrong == NULL && !header_name_is_valid(question->method)) wrong = "the method is no token";
    if (wrong != NULL) {
        lua_pushstring(L, wrong);
        return 1;
    }
    task->wait = WAIT_FETCH;
    return lua_yield(L, 0);
}

/* Lower-case names; several lines of a field joined (RFC 9110 §5.3), but Set-Cookie's a list. Expects the
 * table on top. */
static void
push_field(lua_State *L, const struct header *row)
{
    char name[256];
    size_t len = row->name.len < sizeof name ? row->name.len : sizeof name;
    for (size_t i = 0; i < len; i++)
        name[i] = (char)ascii_lower((unsigned char)row->name.at[i]);
    lua_pushlstring(L, name, len);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushlstring(L, row->value.at == NULL ? "" : row->value.at, row->value.len);
    } else if (row->id == HEADER_SET_COOKIE) {
        if (!lua_istable(L, -1)) {
            lua_createtable(L, 2, 0);
            lua_insert(L, -2);
            lua_rawseti(L, -2, 1);
        }
        lua_pushlstring(L, row->value.at, row->value.len);
        lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    } else {
        lua_pushliteral(L, ", ");
        lua_pushlstring(L, row->value.at == NULL ? "" : row->value.at, row->value.len);
        lua_concat(L, 3);
    }
    lua_rawset(L, -3);
}

/* What fetch answered: a table, or nil and "reason: detail". */
static int
host_answer(lua_State *L)
{
    struct script_task *task = script_of(L)->tasks->running;
    const struct fetch_answer *answer = task == NULL ? NULL : task->answer;
    if (answer == NULL) return luaL_error(L, "gateway.fetch: its answer is gone");
    if (answer->failure != REASON_NONE) {
        lua_pushnil(L);
        lua_pushfstring(
            L, "%s: %s", reason_word(answer->failure), answer->detail == NULL ? "" : answer->detail);
        return 2;
    }
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, answer->status);
    lua_setfield(L, -2, "status");
    lua_createtable(L, 0, answer->headers == NULL ? 0 : (int)answer->headers->count);
    for (uint32_t i = 0; answer->headers != NULL && i < answer->headers->count; i++) {
        if ((answer->headers->rows[i].flags & HEADER_F_DROP) == 0) push_field(L, &answer->headers->rows[i]);
    }
    lua_setfield(L, -2, "headers");
    lua_pushlstring(L, answer->body.at == NULL ? "" : answer->body.at, answer->body.len);
    lua_setfield(L, -2, "body");
    return 1;
}

static int
host_body(lua_State *L)
{
    struct script_task *task = waiting_task(L);
    if (task == NULL) return 1;
    if (task->chain == NULL) {
        lua_pushliteral(L, "belongs to another callback");
        return 1;
    }
    task->body_max = (size_t)lua_tonumber(L, 1);
    task->wait = WAIT_BODY;
    return lua_yield(L, 0);
}

static int
host_body_text(lua_State *L)
{
    struct script_task *task = script_of(L)->tasks->running;
    if (task == NULL) return luaL_error(L, "request:body: it is gone");
    if (!task->body.ok) {
        lua_pushnil(L);
        lua_pushstring(L, task->body.why == NULL ? "cut" : task->body.why);
        return 2;
    }
    lua_pushlstring(L, task->body.text.at == NULL ? "" : task->body.text.at, task->body.text.len);
    return 1;
}

/* (fn, ...) → true, or nil and why not. */
static int
host_spawn(lua_State *L)
{
    struct script *script = script_of(L);
    struct tasks *tasks = script->tasks;
    int count = lua_gettop(L);
    if (count > SPAWN_ARGUMENTS_MAX + 1) return luaL_error(L, "gateway.spawn: at most 16 arguments");
    if (script->running == NULL) return luaL_error(L, "gateway.spawn: no plug-in runs");
    if (tasks->spawned >= SPAWNED_MAX) {
        lua_pushnil(L);
        lua_pushliteral(L, "limit: too many spawned functions run");
        return 2;
    }
    struct script_task *task = task_take(script, L, TASK_SPAWNED, script->running);
    if (task == NULL || !start_later(task)) {
        if (task != NULL) task_give(task);
        lua_pushnil(L);
        lua_pushliteral(L, "limit: out of memory");
        return 2;
    }
    tasks->spawned++;
    task->callback = "spawn";
    lua_xmove(L, task->L, count);
    task->arguments = count - 1;
    lua_pushboolean(L, 1);
    return 1;
}

/* coroutine.running for scripts: ours are not theirs to resume. */
static int
host_running(lua_State *L)
{
    const struct script_task *task = script_of(L)->tasks->running;
    if (lua_pushthread(L) == 1 || (task != NULL && task->L == L)) lua_pushnil(L);
    return 1;
}

void
tasks_push_host(lua_State *L, struct script *script)
{
    static const struct {
        const char *name;
        lua_CFunction function;
    } functions[] = {{"sleep", host_sleep}, {"fetch", host_fetch}, {"answer", host_answer},
        {"body", host_body}, {"body_text", host_body_text}, {"spawn", host_spawn}, {"running", host_running}};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        lua_pushlightuserdata(L, script);
        lua_pushcclosure(L, functions[i].function, 1);
        lua_setfield(L, -2, functions[i].name);
    }
}

/* ---- life ---- */

bool
tasks_make(struct script *script)
{
    script->tasks = calloc(1, sizeof *script->tasks);
    return script->tasks != NULL;
}

void
tasks_free(struct script *script)
{
    struct tasks *tasks = script->tasks;
    if (tasks == NULL) return;
    timers_free(script, false);
    if (tasks->has_host) (void)event_del(&tasks->lost_event);
    while (tasks->busy != NULL)
        task_give(tasks->busy);
    for (struct script_task *task = tasks->idle, *next; task != NULL; task = next) {
        next = task->next;
        task_free(task);
    }
    free(tasks);
    script->tasks = NULL;
}

/* Chains whose state was dropped are told in a turn of their own: whoever abandoned it may stand anywhere. */
static void
on_lost(evutil_socket_t fd, short what, void *arg)
{
    struct script *script = arg;
    struct tasks *tasks = script->tasks;
    (void)fd;
    (void)what;
    tasks->host.enter(tasks->host.context);
    while (tasks->lost != NULL) {
        struct filter_chain *chain = tasks->lost;
        tasks->lost = chain->next_lost;
        chain->is_lost = false;
        tasks->host.moved(chain->request->stream);
    }
    tasks->host.leave(tasks->host.context);
}

bool
script_set_host(struct script *script, const struct script_host *host)
{
    struct tasks *tasks = script->tasks;
    tasks->host = *host;
    if (event_assign(&tasks->lost_event, host->base, -1, 0, on_lost, script) == -1) return false;
    tasks->has_host = true;
    for (struct script_task *task = tasks->busy; task != NULL; task = task->next) {
        if (task->wait == WAIT_START && !start_later(task)) return false;
    }
    timers_start(script);
    return true;
}

void
script_retire(struct script *script)
{
    script->tasks->is_retired = true;
    timers_stop(script);
}

bool
script_is_busy(const struct script *script)
{
    return script->tasks->spawned > 0;
}

void
tasks_abandon(struct script *script)
{
    struct tasks *tasks = script->tasks;
    if (tasks == NULL) return;
    for (struct script_task *task = tasks->busy, *next; task != NULL; task = next) {
        next = task->next;
        if (task->serial == script->serial) continue; /* of the new state's new() */
        timer_task_ended(task);
        task->timer = NULL;
        if (task == tasks->running) { /* task_run sees it when it is come back to */
            if (task->chain != NULL) chain_forget_views(task->chain);
            task->wait = WAIT_NONE;
            continue;
        }
        if (task->kind == TASK_SPAWNED) tasks->spawned--;
        struct filter_chain *chain = task->chain;
        if (chain != NULL) {
            chain_lose(chain);
            chain->next_lost = tasks->lost;
            tasks->lost = chain;
            chain->is_lost = true;
        }
        task_give(task);
    }
    timers_free(script, true);
    if (tasks->lost != NULL) event_active(&tasks->lost_event, EV_TIMEOUT, 0);
}
