#include "core/script/filter_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"

enum { GC_STEP_KIB = 16, GC_SLACK_BYTES = 256 << 10 };

/* xorshift128+: for spreading, not for secrets. Vigna, "Further scramblings of Marsaglia's xorshift
 * generators", 2017. */
uint64_t
script_random(struct script *script)
{
    uint64_t a = script->random[0], b = script->random[1];
    script->random[0] = b;
    a ^= a << 23;
    script->random[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return script->random[1] + b;
}

/* The watchdog compares seconds: a clock that is read without a serialising instruction and is 4 ms old will
 * do. */
static uint64_t
coarse_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void
script_enter(struct script *script, struct plugin *plugin, uint64_t budget_us)
{
    script->running = plugin;
    if (script->mark != NULL) {
        atomic_store_explicit(&script->mark->script, plugin->name_id, memory_order_relaxed);
        atomic_store_explicit(&script->mark->in_script_since_us, coarse_us(), memory_order_relaxed);
    }
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX;
    guard_enter(script->L, budget_us, plugin->stuck_until_us);
}

bool
script_leave(struct script *script)
{
    bool overran = guard_leave();
    /* The collector may not fail outside a protected call, so it gets room that no plug-in has. */
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX + SCRIPT_MEMORY_SPARE;
    if (UNLIKELY(script->used_bytes >
                 script->gc_next_bytes)) { /* still under the watchdog's mark, no longer the script's */
        if (lua_gc(script->L, LUA_GCSTEP, GC_STEP_KIB) != 0) {
            script->gc_next_bytes = script->used_bytes + script->used_bytes / 2 + GC_SLACK_BYTES;
        }
    }
    if (script->mark != NULL)
        atomic_store_explicit(&script->mark->in_script_since_us, 0, memory_order_relaxed);
    script->running = NULL;
    return overran;
}

/* Some worker never came back from this plug-in. */
static void
quarantine_stuck(struct script *script, struct plugin *plugin, uint64_t until_us)
{
    plugin->quarantined_until_us = until_us;
    snprintf(plugin->last_error, sizeof plugin->last_error, "it did not return and a worker was lost");
    if (script->env.shm != NULL) {
        atomic_fetch_add_explicit(&shm_totals(script->env.shm)->script_quarantines, 1, memory_order_relaxed);
    }
    log_warnx("script is quarantined", F_STR("service", plugin->service), F_STR("plugin", plugin->name),
        F_STR("message", plugin->last_error));
}

bool
plugin_is_quarantined(struct script *script, struct plugin *plugin)
{
    uint64_t stuck = 0;
    if (plugin->stuck_until_us != NULL)
        stuck = atomic_load_explicit(plugin->stuck_until_us, memory_order_relaxed);
    if (LIKELY(plugin->quarantined_until_us == 0 && stuck == 0)) return false;
    uint64_t now = clock_now_us();
    if (stuck > now && stuck > plugin->quarantined_until_us) quarantine_stuck(script, plugin, stuck);
    if (now < plugin->quarantined_until_us) return true;
    if (stuck != 0)
        atomic_compare_exchange_strong(plugin->stuck_until_us, &stuck, 0); /* else it got stuck anew */
    plugin->quarantined_until_us = 0;
    plugin->errors_in_window = 0;
    plugin->window_start_us = 0;
    log_info("script is tried again", F_STR("service", plugin->service), F_STR("plugin", plugin->name));
    return false;
}

void
plugin_fault(
    struct script *script, struct plugin *plugin, const char *callback, const char *message, unsigned weight)
{
    uint64_t now = clock_now_us(), suppressed = 0;
    struct shm_totals *totals = script->env.shm == NULL ? NULL : shm_totals(script->env.shm);
    plugin->errors++;
    snprintf(plugin->last_error, sizeof plugin->last_error, "%s: %s", callback, message);
    if (totals != NULL) atomic_fetch_add_explicit(&totals->script_errors, 1, memory_order_relaxed);
    if (log_every_due(&plugin->log, 5000000, &suppressed)) {
        log_warnx("script error", F_STR("service", plugin->service), F_STR("plugin", plugin->name),
            F_STR("callback", callback), F_STR("message", message), F_UINT("errors", plugin->errors),
            F_UINT("suppressed", suppressed));
    }
    if (now - plugin->window_start_us > SCRIPT_ERRORS_WINDOW_US) {
        plugin->window_start_us = now;
        plugin->errors_in_window = 0;
    }
    plugin->errors_in_window += weight;
    if (plugin->errors_in_window < SCRIPT_ERRORS_MAX || plugin->quarantined_until_us != 0) return;
    plugin->quarantined_until_us = now + SCRIPT_QUARANTINE_US;
    if (totals != NULL) atomic_fetch_add_explicit(&totals->script_quarantines, 1, memory_order_relaxed);
    log_warnx("script is quarantined", F_STR("service", plugin->service), F_STR("plugin", plugin->name),
        F_US("for", SCRIPT_QUARANTINE_US), F_STR("message", message));
}

/* Takes the error on top of the stack, counts it and logs it. */
static void
call_failed(struct script *script, struct plugin *plugin, int status, bool overran, const char *callback)
{
    char message[200];
    unsigned weight = 1;
    state_take_error(script->L, status, message, sizeof message);
    if (status == LUA_ERRMEM) { /* what the call left is garbage now; without it the others have room again */
        weight = SCRIPT_ERRORS_MAX;
        lua_gc(script->L, LUA_GCCOLLECT, 0);
        script->gc_next_bytes = script->used_bytes + script->used_bytes / 2 + GC_SLACK_BYTES;
    }
    if (overran) { /* each costs every connection of this worker its budget: two in a window are enough */
        weight = SCRIPT_ERRORS_MAX / 2;
        if (script->env.shm != NULL) {
            atomic_fetch_add_explicit(&shm_totals(script->env.shm)->script_runaways, 1, memory_order_relaxed);
        }
    }
    plugin_fault(script, plugin, callback, message, weight);
}

bool
script_call(struct script *script, struct plugin *plugin, int arguments, int results, uint64_t budget_us,
    const char *callback)
{
    script_enter(script, plugin, budget_us);
    int status = lua_pcall(script->L, arguments, results, 0);
    bool overran = script_leave(script);
    if (LIKELY(status == 0)) return true;
    call_failed(script, plugin, status, overran, callback);
    return false;
}

/* What a coroutine that failed held must be garbage before room is looked for. */
enum resume_end
task_resume(struct script_task *task, int arguments)
{
    struct script *script = task->script;
    script_enter(script, task->plugin, SCRIPT_FILTER_BUDGET_US);
    int status = lua_resume(task->L, arguments);
    bool overran = script_leave(script);
    if (LIKELY(status == 0)) return RESUME_DONE;
    if (LIKELY(status == LUA_YIELD)) return RESUME_YIELDED;
    lua_xmove(task->L, script->L, 1);
    task_drop_thread(task);
    call_failed(script, task->plugin, status, overran, task->callback);
    return RESUME_FAILED;
}
