/* The soft budget of a call: a CPU-time timer looks at which call runs and, past its budget, arms an
 * instruction hook that raises in interpreted code. Loops that LuaJIT compiled take no hooks: the
 * supervisor's watchdog ends those. */
#include "core/script/script_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

enum { TICK_US = 5000, IDLE_TICKS = 20 };

/* One timer a process and one thread that runs Lua; the handler interrupts that very thread, so signal fences
 * suffice. */
static struct {
    timer_t timer;
    pid_t owner; /* timers are not inherited by fork */
    _Atomic(lua_State *) running;
    atomic_uint entries; /* counts calls: a tick that finds another number found another call */
    atomic_bool is_armed, has_fired;
    /* the handler's own */
    unsigned seen_entry;
    unsigned idle_ticks;
    uint64_t started_us;
    _Atomic uint64_t budget_us;
    _Atomic(_Atomic uint64_t *) stuck_until_us;
} guard;

static void
on_overrun(lua_State *L, lua_Debug *where)
{
    (void)where;
    state_raise_overrun(L, "ran too long");
}

static uint64_t
cpu_us(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == -1) return 0;
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void
timer_run(bool on)
{
    struct itimerspec every = {0};
    if (on) {
        every.it_value.tv_nsec = TICK_US * 1000;
        every.it_interval.tv_nsec = TICK_US * 1000;
    }
    atomic_store_explicit(&guard.is_armed, on, memory_order_relaxed);
    (void)timer_settime(guard.timer, 0, &every, NULL); /* fails for an invalid timer only */
}

/* The other workers read it before their next pick, the successor of this one at its start. */
static void
mark_stuck(void)
{
    _Atomic uint64_t *until = atomic_load_explicit(&guard.stuck_until_us, memory_order_relaxed);
    if (until != NULL)
        atomic_store_explicit(until, clock_now_us() + SCRIPT_QUARANTINE_US, memory_order_relaxed);
}

/* Async-signal-safe: clock_gettime and timer_settime by POSIX.1-2017 §2.4.3, lua_sethook by LuaJIT's word
 * ("this function can be called asynchronously", lj_dispatch.c). errno is kept. */
static void
on_tick(int number)
{
    int saved = errno;
    (void)number;
    lua_State *L = atomic_load_explicit(&guard.running, memory_order_relaxed);
    unsigned entry = atomic_load_explicit(&guard.entries, memory_order_relaxed);
    if (entry != guard.seen_entry) { /* a new call, or several, since the last tick */
        guard.seen_entry = entry;
        guard.idle_ticks = 0;
        guard.started_us = cpu_us();
    } else if (L == NULL) {
        if (++guard.idle_ticks >= IDLE_TICKS) timer_run(false); /* the next guard_enter starts it again */
    } else if (cpu_us() - guard.started_us >= atomic_load_explicit(&guard.budget_us, memory_order_relaxed)) {
        /* Off and on again: a tick that hit LuaJIT inside its own switch of dispatch tables is repaired by
         * the next. */
        lua_sethook(L, NULL, 0, 0);
        lua_sethook(L, on_overrun, LUA_MASKCOUNT, 1);
        atomic_store_explicit(&guard.has_fired, true, memory_order_relaxed);
        if (cpu_us() - guard.started_us >= SCRIPT_STUCK_US) mark_stuck();
    }
    errno = saved;
}

void
guard_prepare(void)
{
    if (guard.owner == getpid() || clock_patience() == 0) return;
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    memset(&guard, 0, sizeof guard);
    if (sigaction(SIGPROF, &action, NULL) == -1 ||
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &guard.timer) == -1) {
        log_warn("no script timer: only the watchdog ends a runaway script");
        return;
    }
    guard.owner = getpid();
}

void
guard_enter(lua_State *L, uint64_t budget_us, _Atomic uint64_t *stuck_until_us)
{
    atomic_store_explicit(&guard.stuck_until_us, stuck_until_us, memory_order_relaxed);
    atomic_store_explicit(&guard.budget_us, budget_us * clock_patience(), memory_order_relaxed);
    atomic_store_explicit(
        &guard.entries, atomic_load_explicit(&guard.entries, memory_order_relaxed) + 1, memory_order_relaxed);
    atomic_store_explicit(&guard.running, L, memory_order_relaxed);
    /* The mark before the question: a tick between them sees the mark and leaves the timer running. */
    atomic_signal_fence(memory_order_seq_cst);
    if (UNLIKELY(!atomic_load_explicit(&guard.is_armed, memory_order_relaxed)) && guard.owner != 0)
        timer_run(true);
}

bool
guard_leave(void)
{
    lua_State *L = atomic_load_explicit(&guard.running, memory_order_relaxed);
    atomic_store_explicit(&guard.running, NULL, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (LIKELY(!atomic_load_explicit(&guard.has_fired, memory_order_relaxed))) return false;
    atomic_store_explicit(&guard.has_fired, false, memory_order_relaxed);
    lua_sethook(L, NULL, 0, 0);
    state_forget_overrun();
    return true;
}
