/* The budgets of a call. A CPU-time timer looks at which call runs. Past its soft budget an instruction hook
 * raises in interpreted code. Loops that LuaJIT compiled take no hooks, and neither do long C functions of
 * its library or finalisers: past the hard budget the handler leaves the call by siglongjmp, and the
 * lua_State is dropped whole.
 *
 * Why that is sound: it leaves only where the interrupted instruction lies in the text of LuaJIT or cjson, or
 * in LuaJIT's machine code. Then no function of ours, of libc or of the allocator is under way, so no lock of
 * theirs is held and none of their data half-written. What may stand between that instruction and the call
 * site is LuaJIT, all of whose memory goes with its heap; libgcc's unwinder, which holds no lock while it
 * asks LuaJIT's personality; and C functions that call the Lua API: those of this room own nothing there,
 * those of cjson at most one buffer, which leaks. */
#include "core/script/script_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "core/base/clock.h"

enum { TICK_US = 5000, HARD_TICK_US = 1000, IDLE_TICKS = 20, TEXTS_MAX = 4 };
/* LuaJIT counts the slots of a Lua stack, not the C frames below gsub's callbacks and coroutines that resume
 * each other. Past STACK_DEEP those are refused; what else may nest until the Lua stack is full takes less
 * than 8 MiB. */
enum { STACK_DEEP = 2 << 20, STACK_ROOM = 32 << 20 };

/* One timer a process and one thread that runs Lua; the handler interrupts that very thread, so signal fences
 * suffice. */
static struct {
    timer_t timer;
    pid_t owner; /* timers are not inherited by fork */
    _Atomic(lua_State *) running;
    atomic_uint entries; /* counts calls: a tick that finds another number found another call */
    atomic_bool is_armed, has_fired;
    atomic_bool may_leave; /* `call` is the frame of a guarded call that has not returned */
    sigjmp_buf call;
    const char *stack; /* of the guarded call: its frame */
    /* the handler's own */
    unsigned seen_entry;
    unsigned idle_ticks;
    uint64_t started_us;
    _Atomic uint64_t soft_us, hard_us;
    _Atomic(_Atomic uint64_t *) stuck_until_us;
} guard;

_Atomic bool guard_must_leave;

/* The executable segments of LuaJIT and cjson; none where it is linked into this program, whose own text lies
 * there too. */
static struct {
    uintptr_t from, to;
} texts[TEXTS_MAX];
static unsigned text_count;

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
timer_run(uint64_t every_us)
{
    struct itimerspec every = {0};
    every.it_value.tv_nsec = every.it_interval.tv_nsec = (long)every_us * 1000;
    atomic_store_explicit(&guard.is_armed, every_us != 0, memory_order_relaxed);
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

static uintptr_t
pc_of(const ucontext_t *at)
{
#if defined(__x86_64__)
    return (uintptr_t)at->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)at->uc_mcontext.pc;
#else
    (void)at;
    return 0; /* never in LuaJIT: the watchdog ends what does not return */
#endif
}

static bool
is_luajit(uintptr_t pc)
{
    for (unsigned i = 0; i < text_count; i++) {
        if (pc >= texts[i].from && pc < texts[i].to) return true;
    }
    return false;
}

/* One line of /proc/self/maps: "from-to perms offset device inode [name]". */
struct mapping {
    uintptr_t from, to;
    unsigned field, column;
    bool is_executable, is_named;
};

static void
mapping_take(struct mapping *line, char c)
{
    unsigned digit = c >= 'a' ? (unsigned)(c - 'a') + 10 : (unsigned)(c - '0');
    switch (line->field) {
    case 0:
        if (c == '-') {
            line->field++;
        } else {
            line->from = line->from * 16 + digit;
        }
        return;
    case 1:
        if (c == ' ') {
            line->field++;
        } else {
            line->to = line->to * 16 + digit;
        }
        return;
    case 2: /* "r-xp" */
        if (c == 'x') line->is_executable = true;
        if (c == ' ') line->field++;
        return;
    case 3:
    case 4:
        if (c == ' ') line->field++;
        return;
    case 5: /* the inode of an anonymous mapping is 0 */
        if (c == ' ')
            line->field++;
        else if (c != '0')
            line->is_named = true;
        return;
    }
    if (c != ' ') line->is_named = true;
}

/* LuaJIT's machine code: executable, and of no file. The kernel is asked, since a library may have been
 * loaded since we looked last. open, read and close are async-signal-safe. */
static bool
is_machine_code(uintptr_t pc)
{
    static char bytes[4096];
    struct mapping line = {0};
    bool is_found = false, is_past = false;
    ssize_t n;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd == -1) return false;
    while (!is_past && (n = read(fd, bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < n && !is_past; i++) {
            if (bytes[i] != '\n') {
                mapping_take(&line, bytes[i]);
                continue;
            }
            is_past = pc < line.to; /* they come in order */
            is_found = is_past && pc >= line.from && line.is_executable && !line.is_named;
            line = (struct mapping){0};
        }
    }
    close(fd);
    return is_found;
}

static void
leave(void)
{
    atomic_store_explicit(&guard.may_leave, false, memory_order_relaxed);
    siglongjmp(guard.call, 1);
}

/* Past the hard budget. Elsewhere than in LuaJIT this tick does nothing but wait for the next, which comes
 * sooner. */
static void
leave_if_sound(const ucontext_t *at)
{
    uintptr_t pc = pc_of(at);
    if (text_count == 0 || !atomic_load_explicit(&guard.may_leave, memory_order_relaxed)) return;
    if (is_luajit(pc) || is_machine_code(pc)) leave();
    if (!atomic_exchange_explicit(&guard_must_leave, true, memory_order_relaxed)) timer_run(HARD_TICK_US);
}

/* Async-signal-safe: clock_gettime and timer_settime by POSIX.1-2017 §2.4.3, lua_sethook by LuaJIT's word
 * ("this function can be called asynchronously", lj_dispatch.c). errno is kept. */
static void
on_tick(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    (void)number;
    (void)info;
    lua_State *L = atomic_load_explicit(&guard.running, memory_order_relaxed);
    unsigned entry = atomic_load_explicit(&guard.entries, memory_order_relaxed);
    if (entry != guard.seen_entry) { /* a new call, or several, since the last tick */
        guard.seen_entry = entry;
        guard.idle_ticks = 0;
        guard.started_us = cpu_us();
    } else if (L == NULL) {
        if (++guard.idle_ticks >= IDLE_TICKS) timer_run(0); /* the next guard_enter starts it again */
    } else {
        uint64_t ran_us = cpu_us() - guard.started_us;
        if (ran_us >= atomic_load_explicit(&guard.soft_us, memory_order_relaxed)) {
            /* Off and on again: a tick that hit LuaJIT inside its own switch of dispatch tables is repaired
             * by the next. */
            lua_sethook(L, NULL, 0, 0);
            lua_sethook(L, on_overrun, LUA_MASKCOUNT, 1);
            atomic_store_explicit(&guard.has_fired, true, memory_order_relaxed);
        }
        if (ran_us >= atomic_load_explicit(&guard.hard_us, memory_order_relaxed)) {
            atomic_store_explicit(&guard.has_fired, true, memory_order_relaxed);
            mark_stuck();
            leave_if_sound(context);
        }
    }
    errno = saved;
}

static int
find_luajit(struct dl_phdr_info *module, size_t size, void *context)
{
    uintptr_t theirs = (uintptr_t)lua_newstate, ours = (uintptr_t)guard_prepare;
    bool has_theirs = false, has_ours = false;
    bool is_cjson = module->dlpi_name != NULL && strstr(module->dlpi_name, "/cjson.so") != NULL;
    (void)size;
    (void)context;
    for (unsigned i = 0; i < module->dlpi_phnum; i++) {
        uintptr_t from = module->dlpi_addr + module->dlpi_phdr[i].p_vaddr;
        uintptr_t to = from + module->dlpi_phdr[i].p_memsz;
        if (module->dlpi_phdr[i].p_type != PT_LOAD) continue;
        has_theirs = has_theirs || (theirs >= from && theirs < to);
        has_ours = has_ours || (ours >= from && ours < to);
    }
    if (!has_theirs && !is_cjson) return 0;
    for (unsigned i = 0; i < module->dlpi_phnum && !has_ours && text_count < TEXTS_MAX; i++) {
        if (module->dlpi_phdr[i].p_type != PT_LOAD || (module->dlpi_phdr[i].p_flags & PF_X) == 0) continue;
        texts[text_count].from = module->dlpi_addr + module->dlpi_phdr[i].p_vaddr;
        texts[text_count].to = texts[text_count].from + module->dlpi_phdr[i].p_memsz;
        text_count++;
    }
    return 0;
}

/* The main thread's stack grows on demand, as far as the limit that holds at that moment. */
static void
make_stack_room(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) == -1 || limit.rlim_cur >= STACK_ROOM) return;
    limit.rlim_cur = limit.rlim_max < STACK_ROOM ? limit.rlim_max : STACK_ROOM;
    if (setrlimit(RLIMIT_STACK, &limit) == -1) log_warn("the stack's limit stays as it is");
}

void
guard_prepare(void)
{
    if (guard.owner == getpid() || clock_patience() == 0) return;
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_RESTART | SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    memset(&guard, 0, sizeof guard);
    make_stack_room();
    text_count = 0;
    (void)dl_iterate_phdr(find_luajit, NULL);
    if (text_count == 0) log_warnx("LuaJIT's code is not apart from ours: a runaway script costs its worker");
    if (sigaction(SIGPROF, &action, NULL) == -1 ||
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &guard.timer) == -1) {
        log_warn("no script timer: only the watchdog ends a runaway script");
        return;
    }
    guard.owner = getpid();
}

void
guard_enter(lua_State *L, uint64_t soft_us, uint64_t hard_us, _Atomic uint64_t *stuck_until_us)
{
    atomic_store_explicit(&guard.stuck_until_us, stuck_until_us, memory_order_relaxed);
    atomic_store_explicit(&guard.soft_us, soft_us * clock_patience(), memory_order_relaxed);
    atomic_store_explicit(&guard.hard_us, hard_us * clock_patience(), memory_order_relaxed);
    atomic_store_explicit(
        &guard.entries, atomic_load_explicit(&guard.entries, memory_order_relaxed) + 1, memory_order_relaxed);
    atomic_store_explicit(&guard.running, L, memory_order_relaxed);
    /* The mark before the question: a tick between them sees the mark and leaves the timer running. */
    atomic_signal_fence(memory_order_seq_cst);
    if (UNLIKELY(!atomic_load_explicit(&guard.is_armed, memory_order_relaxed)) && guard.owner != 0)
        timer_run(TICK_US);
}

bool
guard_leave(void)
{
    lua_State *L = atomic_load_explicit(&guard.running, memory_order_relaxed);
    atomic_store_explicit(&guard.running, NULL, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (LIKELY(!atomic_load_explicit(&guard.has_fired, memory_order_relaxed))) return false;
    atomic_store_explicit(&guard.has_fired, false, memory_order_relaxed);
    if (atomic_exchange_explicit(&guard_must_leave, false, memory_order_relaxed)) timer_run(TICK_US);
    if (L != NULL) lua_sethook(L, NULL, 0, 0);
    state_forget_overrun();
    return true;
}

/* Where an abandoned call comes out: the handler did not return, so its signal is still blocked. */
static int
landed(void)
{
    sigset_t tick;
    sigemptyset(&tick);
    sigaddset(&tick, SIGPROF);
    atomic_store_explicit(&guard.running, NULL, memory_order_relaxed);
    (void)sigprocmask(SIG_UNBLOCK, &tick, NULL); /* fails for a bad first argument only */
    return GUARD_ABANDONED;
}

static void
may_leave(bool may)
{
    atomic_store_explicit(&guard.may_leave, may, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

int
guard_pcall(lua_State *L, int arguments, int results)
{
    if (UNLIKELY(sigsetjmp(guard.call, 0) != 0)) return landed();
    guard.stack = __builtin_frame_address(0);
    may_leave(true);
    int status = lua_pcall(L, arguments, results, 0);
    may_leave(false);
    return status;
}

int
guard_resume(lua_State *thread, int arguments)
{
    if (UNLIKELY(sigsetjmp(guard.call, 0) != 0)) return landed();
    guard.stack = __builtin_frame_address(0);
    may_leave(true);
    int status = lua_resume(thread, arguments);
    may_leave(false);
    return status;
}

void
guard_take_leave(void)
{
    if (atomic_load_explicit(&guard.may_leave, memory_order_relaxed)) leave();
}

int
fg_stack_is_deep(void)
{
    const char *here = __builtin_frame_address(0);
    return guard.stack - here > STACK_DEEP; /* stacks grow downwards wherever LuaJIT runs */
}
