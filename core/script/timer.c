/* gateway.every: functions that run again and again, in each worker or in one of them. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/script/filter_internal.h"

static void on_timer(evutil_socket_t fd, short what, void *arg);

static void
arm(struct script_timer *timer, uint64_t after_us)
{
    struct tasks *tasks = timer->script->tasks;
    struct timeval tv = {(time_t)(after_us / 1000000), (suseconds_t)(after_us % 1000000)};
    if (!timer->has_event) {
        if (event_assign(&timer->event, tasks->host.base, -1, 0, on_timer, timer) == -1) return;
        timer->has_event = true;
    }
    if (event_add(&timer->event, &tv) == -1)
        log_warnx("a script's timer stops: out of memory", F_STR("plugin", timer->plugin->name));
}

/* Up to `us`, so that workers do not all run at one moment. */
static uint64_t
jitter(struct script_timer *timer, uint64_t us)
{
    return us == 0 ? 0 : script_random(timer->script) % us;
}

/* Once a gateway: who moves the due time on runs. While it runs, its worker moves it on ahead of the others;
 * where that worker died, the next one to look takes over. */
static bool
is_elected(struct script_timer *timer, uint64_t now)
{
    uint64_t due = atomic_load_explicit(timer->due_us, memory_order_relaxed);
    bool is_first = due == 0 || due > now + timer->period_us; /* never ran, or with a longer period */
    if (!is_first && now < due && timer->task == NULL) return false;
    return atomic_compare_exchange_strong(timer->due_us, &due, now + timer->period_us) && !is_first;
}

static uint64_t
next_look(struct script_timer *timer, uint64_t now)
{
    if (timer->due_us == NULL) /* ± 10 % */
        return timer->period_us - timer->period_us / 10 + jitter(timer, timer->period_us / 5);
    uint64_t due = atomic_load_explicit(timer->due_us, memory_order_relaxed);
    uint64_t left = due > now ? due - now : 0;
    if (timer->task != NULL) return left - left / 4;
    return left + jitter(timer, timer->period_us / 50 + 1000);
}

void
timer_task_ended(struct script_task *task)
{
    if (task->timer != NULL) task->timer->task = NULL;
}

static void
run(struct script_timer *timer)
{
    struct script *script = timer->script;
    if (script->L == NULL || plugin_is_quarantined(script, timer->plugin)) return;
    struct script_task *task = task_take(script, script->L, TASK_TIMER, timer->plugin);
    if (task == NULL) return;
    task->timer = timer;
    task->callback = "every";
    timer->task = task;
    lua_rawgeti(task->L, LUA_REGISTRYINDEX, timer->function_ref);
    if (task_run(task, 0) == TASK_WAITS) return;
    timer_task_ended(task); /* not `timer`: it may have gone with its state */
    task_give(task);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct script_timer *timer = arg;
    struct script *script = timer->script;
    const struct script_host *host = &script->tasks->host;
    uint64_t serial = script->serial, now = clock_now_us();
    (void)fd;
    (void)what;
    host->enter(host->context);
    bool is_mine = timer->due_us == NULL || is_elected(timer, now);
    if (is_mine && timer->task == NULL) run(timer);                             /* never two at once */
    if (serial == script->serial) arm(timer, next_look(timer, clock_now_us())); /* else it is no more */
    host->leave(host->context);
}

static void
start(struct script_timer *timer)
{
    if (timer->due_us != NULL) (void)is_elected(timer, clock_now_us()); /* the first due time */
    arm(timer, next_look(timer, clock_now_us()));
}

/* A word that every worker finds, kept over reloads: by plug-in, owner and the number of the call among
 * theirs, since a function has no name and one list may hold a plug-in twice. */
static _Atomic uint64_t *
due_word(struct script *script, const struct plugin *plugin)
{
    char name[SHM_NAME_BYTES];
    uint32_t number = 0;
    if (script->env.shm == NULL) return NULL;
    for (const struct script_timer *timer = script->tasks->timers; timer != NULL; timer = timer->next) {
        if (timer->serial == script->serial && strcmp(timer->plugin->name, plugin->name) == 0 &&
            strcmp(timer->plugin->service, plugin->service) == 0)
            number++;
    }
    int len = snprintf(name, sizeof name, "every/%u/%s/%s", number, plugin->name, plugin->service);
    if (len < 0 || len >= (int)sizeof name) return NULL;
    return shm_counter(script->env.shm, (struct slice){name, (size_t)len});
}

/* (seconds, fn, is_once_a_gateway): checked by tasks.lua. Nothing, or why not. */
static int
host_every(lua_State *L)
{
    struct script *script = lua_touserdata(L, lua_upvalueindex(1));
    struct tasks *tasks = script->tasks;
    struct plugin *plugin = script->running;
    if (plugin == NULL || tasks->timer_count >= TIMERS_MAX) {
        lua_pushliteral(L, "too many timers");
        return 1;
    }
    lua_pushvalue(L, 2);
    int function = luaL_ref(L, LUA_REGISTRYINDEX);
    struct script_timer *timer = calloc(1, sizeof *timer);
    if (timer == NULL) {
        lua_pushliteral(L, "out of memory");
        return 1;
    }
    *timer = (struct script_timer){.script = script,
        .plugin = plugin,
        .serial = script->serial,
        .function_ref = function,
        .period_us = (uint64_t)(lua_tonumber(L, 1) * 1e6)};
    if (lua_toboolean(L, 3) && script->env.role == SCRIPT_WORKER) {
        timer->due_us = due_word(script, plugin);
        if (timer->due_us == NULL) {
            free(timer);
            lua_pushliteral(L, "no room for another timer of the whole gateway");
            return 1;
        }
    }
    timer->next = tasks->timers;
    tasks->timers = timer;
    tasks->timer_count++;
    if (tasks->has_host && !tasks->is_retired) start(timer);
    return 0;
}

void
timers_push_host(lua_State *L, struct script *script)
{
    lua_pushlightuserdata(L, script);
    lua_pushcclosure(L, host_every, 1);
    lua_setfield(L, -2, "every");
}

void
timers_start(struct script *script)
{
    for (struct script_timer *timer = script->tasks->timers; timer != NULL; timer = timer->next)
        start(timer);
}

void
timers_stop(struct script *script)
{
    for (struct script_timer *timer = script->tasks->timers; timer != NULL; timer = timer->next) {
        if (timer->has_event) (void)event_del(&timer->event);
    }
}

void
timers_free(struct script *script, bool stale_only)
{
    struct script_timer **link = &script->tasks->timers;
    while (*link != NULL) {
        struct script_timer *timer = *link;
        if (stale_only && timer->serial == script->serial) {
            link = &timer->next;
            continue;
        }
        *link = timer->next;
        if (timer->has_event) (void)event_del(&timer->event);
        if (timer->task != NULL) timer->task->timer = NULL;
        script->tasks->timer_count--;
        free(timer);
    }
}
