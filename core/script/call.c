#include "core/script/filter_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"

enum { GC_STEP_KIB = 16, GC_SLACK_BYTES = 256 << 10 };
enum { QUARANTINE_FORGIVE_US = 600000000 };

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
    uint64_t hard_us = budget_us > script->hard_budget_us / 2 ? budget_us * 2 : script->hard_budget_us;
    script->running = plugin;
    if (script->mark != NULL) {
        atomic_store_explicit(&script->mark->script, plugin->name_id, memory_order_relaxed);
        atomic_store_explicit(&script->mark->in_script_since_us, coarse_us(), memory_order_relaxed);
    }
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX;
    script->entered_bytes = script->used_bytes;
    guard_enter(script->L, budget_us, hard_us, plugin->stuck_until_us);
}

bool
script_leave(struct script *script)
{
    bool overran = guard_leave();
    /* The collector may not fail outside a protected call, so it gets room that no plug-in has. */
    script->memory_cap_bytes = SCRIPT_MEMORY_MAX + SCRIPT_MEMORY_SPARE;
    if (UNLIKELY(script->used_bytes > script->gc_next_bytes && script->L != NULL)) {
        /* still under the watchdog's mark, no longer the script's */
        if (lua_gc(script->L, LUA_GCSTEP, GC_STEP_KIB) != 0) {
            script->gc_next_bytes = script->used_bytes + script->used_bytes / 2 + GC_SLACK_BYTES;
        }
    }
    if (script->mark != NULL)
        atomic_store_explicit(&script->mark->in_script_since_us, 0, memory_order_relaxed);
    script->running = NULL;
    return overran;
}

static void
count(struct script *script, size_t total)
{
    if (script->env.shm == NULL) return;
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)((char *)shm_totals(script->env.shm) + total);
    atomic_fetch_add_explicit(word, 1, memory_order_relaxed);
}
#define COUNT(script, name) count(script, offsetof(struct shm_totals, name))

/* Created by the first that needs it: there are fewer words than a configuration may have plug-ins. */
static void
share(struct script *script, const struct plugin *plugin, uint64_t until_us)
{
    _Atomic uint64_t *errors = plugin_word(script, "errors", plugin);
    _Atomic uint64_t *out = until_us == 0 ? NULL : plugin_word(script, "out", plugin);
    if (until_us == 0 && errors != NULL) atomic_fetch_add_explicit(errors, 1, memory_order_relaxed);
    if (out != NULL && atomic_load_explicit(out, memory_order_relaxed) < until_us)
        atomic_store_explicit(out, until_us, memory_order_relaxed);
}

/* For the successor of this process: how often, and until when. */
static void
share_runaways(struct script *script, const struct plugin *plugin, uint64_t until_us)
{
    _Atomic uint64_t *word = plugin_word(script, "runaways", plugin);
    if (word == NULL) return;
    atomic_store_explicit(word, until_us << SCRIPT_RUNAWAYS_BITS | plugin->runaways, memory_order_relaxed);
}

static void
quarantine_until(struct script *script, struct plugin *plugin, uint64_t until_us, uint64_t now_us)
{
    plugin->quarantined_until_us = until_us;
    share(script, plugin, until_us);
    plugin_share_error(script, plugin);
    COUNT(script, script_quarantines);
    log_warnx("script is quarantined", F_STR("service", plugin->service), F_STR("plugin", plugin->name),
        F_US("for", until_us - now_us), F_STR("message", plugin->last_error));
}

/* One that is stuck again soon after it was let back in stays out for longer. */
static void
quarantine(struct script *script, struct plugin *plugin, bool is_runaway, uint64_t now)
{
    if (now - plugin->free_since_us > QUARANTINE_FORGIVE_US) plugin->runaways = 0;
    uint64_t until = now + ((uint64_t)SCRIPT_QUARANTINE_US << (is_runaway ? plugin->runaways : 0));
    if (is_runaway && plugin->runaways < SCRIPT_QUARANTINE_DOUBLINGS) plugin->runaways++;
    if (is_runaway) share_runaways(script, plugin, until);
    if (plugin->stuck_until_us != NULL &&
        atomic_load_explicit(plugin->stuck_until_us, memory_order_relaxed) != 0)
        atomic_store_explicit(plugin->stuck_until_us, until, memory_order_relaxed);
    quarantine_until(script, plugin, until, now);
}

bool
plugin_is_quarantined(struct script *script, struct plugin *plugin)
{
    uint64_t stuck = 0;
    if (plugin->stuck_until_us != NULL)
        stuck = atomic_load_explicit(plugin->stuck_until_us, memory_order_relaxed);
    if (LIKELY(plugin->quarantined_until_us == 0 && stuck == 0)) return false;
    uint64_t now = clock_now_us();
    if (stuck > now && stuck > plugin->quarantined_until_us) { /* in some worker it never came back */
        snprintf(plugin->last_error, sizeof plugin->last_error, "it did not return in another process");
        quarantine_until(script, plugin, stuck, now);
    }
    if (now < plugin->quarantined_until_us) return true;
    if (stuck != 0)
        atomic_compare_exchange_strong(plugin->stuck_until_us, &stuck, 0); /* else it got stuck anew */
    plugin->quarantined_until_us = 0;
    plugin->free_since_us = now;
    plugin->errors_in_window = 0;
    plugin->window_start_us = 0;
    if (!plugin->is_loaded) script->wants_load = true;
    log_info("script is tried again", F_STR("service", plugin->service), F_STR("plugin", plugin->name));
    return false;
}

void
plugin_fault(
    struct script *script, struct plugin *plugin, const char *callback, const char *message, unsigned weight)
{
    uint64_t now = clock_now_us(), suppressed = 0;
    plugin->errors++;
    share(script, plugin, 0);
    snprintf(plugin->last_error, sizeof plugin->last_error, "%s: %s", callback, message);
    COUNT(script, script_errors);
    if (log_every_due(&plugin->log, 5000000, &suppressed)) {
        plugin_share_error(script, plugin);
        log_warnx("script error", F_STR("service", plugin->service), F_STR("plugin", plugin->name),
            F_STR("callback", callback), F_STR("message", message), F_UINT("errors", plugin->errors),
            F_UINT("suppressed", suppressed));
    }
    if (now - plugin->window_start_us > SCRIPT_ERRORS_WINDOW_US) {
        plugin->window_start_us = now;
        plugin->errors_in_window = 0;
    }
    plugin->errors_in_window += weight;
    if (plugin->errors_in_window >= SCRIPT_ERRORS_MAX && plugin->quarantined_until_us == 0)
        quarantine(script, plugin, weight > 1, now);
}

void
plugin_fault_at(struct script *script, struct plugin *plugin, const char *callback, const char *sentence)
{
    char message[256];
    snprintf(message, sizeof message, "%s%s", plugin->where, sentence);
    plugin_fault(script, plugin, callback, message, 1);
}

/* The state is not asked where it stood: it may be half-changed. Where the callback begins is known from its
 * load. */
static void
abandon(struct script *script, struct plugin *plugin, const char *callback)
{
    char message[200];
    snprintf(message, sizeof message, "%sdid not return within %d ms of CPU time and was abandoned",
        plugin->where, SCRIPT_HARD_BUDGET_US / 1000);
    COUNT(script, script_abandonments);
    plugin_fault(script, plugin, callback, message, SCRIPT_ERRORS_MAX);
}

/* The heap was full. What the call left is garbage now; without it the others have room again, or else
 * somebody holds it for good. False: then it was another plug-in than the one that ran out. */
static bool
make_room(struct script *script, struct plugin *plugin)
{
    script->was_refused = false;
    lua_gc(script->L, LUA_GCCOLLECT, 0);
    script->gc_next_bytes = script->used_bytes + script->used_bytes / 2 + GC_SLACK_BYTES;
    if (script->used_bytes <= SCRIPT_MEMORY_FULL) return true;
    struct plugin *culprit = script_drop_hoarder(script, plugin);
    COUNT(script, script_memory_runaways);
    if (culprit == plugin) return true;
    plugin_fault(
        script, culprit, "memory", "it holds most of the memory that all scripts share", SCRIPT_ERRORS_MAX);
    return false;
}

bool
script_settle(
    struct script *script, struct plugin *plugin, struct script_task *task, int status, const char *callback)
{
    char message[200];
    unsigned weight = 1;
    bool is_done = status == 0 || status == LUA_YIELD;
    plugin->grown_bytes += (int64_t)script->used_bytes - (int64_t)script->entered_bytes;
    if (UNLIKELY(status == GUARD_ABANDONED)) script_drop(script);
    bool overran = script_leave(script);
    if (LIKELY(is_done && !script->was_refused)) return true;
    if (overran) {
        COUNT(script, script_runaways);
        if (script->env.on_overrun != NULL) script->env.on_overrun(script->env.context);
    }
    if (status == GUARD_ABANDONED) {
        abandon(script, plugin, callback);
        return false;
    }
    if (is_done) { /* it caught the error and goes on */
        snprintf(message, sizeof message, "%sasked for more memory than there is", plugin->where);
    } else {
        if (task != NULL) { /* what a coroutine that failed held is garbage before room is looked for */
            lua_xmove(task->L, script->L, 1);
            task_drop_thread(task);
        }
        state_take_error(script->L, status, message, sizeof message);
        if (status == LUA_ERRMEM) {
            snprintf(message, sizeof message, "%snot enough memory", plugin->where);
            weight = SCRIPT_ERRORS_MAX;
        }
        /* each costs every connection of this worker its budget: two in a window are enough */
        if (overran) weight = SCRIPT_ERRORS_MAX / 2;
    }
    if (script->was_refused && !make_room(script, plugin)) weight = 1;
    plugin_fault(script, plugin, callback, message, weight);
    return is_done && script->L != NULL;
}

bool
script_call(struct script *script, struct plugin *plugin, int arguments, int results, uint64_t budget_us,
    const char *callback)
{
    script_enter(script, plugin, budget_us);
    int status = guard_pcall(script->L, arguments, results);
    return script_settle(script, plugin, NULL, status, callback);
}

enum resume_end
task_resume(struct script_task *task, int arguments)
{
    struct script *script = task->script;
    script_enter(script, task->plugin, SCRIPT_FILTER_BUDGET_US);
    int status = guard_resume(task->L, arguments);
    if (UNLIKELY(!script_settle(script, task->plugin, task, status, task->callback))) return RESUME_FAILED;
    return status == LUA_YIELD ? RESUME_YIELDED : RESUME_DONE;
}
