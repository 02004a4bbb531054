/* core/shm/queue.c: workers at once, asleep, and killed. */
#include "spec/unit/shm/queue_world.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A data race is only seen between threads, a death only between processes: the same workers run as either.
 */
#if defined(__SANITIZE_THREAD__)
enum { AS_THREADS = 1, INSTRUMENTED = 1 };
#elif defined(__SANITIZE_ADDRESS__)
enum { AS_THREADS = 0, INSTRUMENTED = 1 };
#else
enum { AS_THREADS = 0, INSTRUMENTED = 0 };
#endif

/* ---- at once ---- */

typedef void (*worker_body)(struct world *world, unsigned worker);

struct thread_job {
    struct world *world;
    worker_body body;
    unsigned worker;
    pthread_t thread;
};

static void *
thread_run(void *context)
{
    struct thread_job *job = context;
    job->body(job->world, job->worker);
    return NULL;
}

static pid_t
fork_worker(struct world *world, worker_body body, unsigned worker)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
    body(world, worker);
    _exit(0);
}

static void
run_workers(struct world *world, worker_body body)
{
    struct thread_job jobs[WORKERS];
    pid_t pids[WORKERS];
    int status;
    for (unsigned i = 0; i < WORKERS; i++) {
        jobs[i] = (struct thread_job){world, body, i, 0};
        if (AS_THREADS) {
            assert_int_equal(pthread_create(&jobs[i].thread, NULL, thread_run, &jobs[i]), 0);
        } else {
            pids[i] = fork_worker(world, body, i);
        }
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        if (AS_THREADS) {
            assert_int_equal(pthread_join(jobs[i].thread, NULL), 0);
            continue;
        }
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

static void
note_inside(struct common *common)
{
    uint32_t now = atomic_fetch_add(&common->inside, 1) + 1, most = atomic_load(&common->most);
    while (most < now && !atomic_compare_exchange_weak(&common->most, &most, now)) {
    }
}

static void
hammer_slot(struct world *world, unsigned worker)
{
    uint64_t seed = worker + 1;
    uint32_t held = 0;
    for (int i = 0; i < 60000; i++) {
        if (roll(&seed, 2) == 0 && held < 12 && slot_try_begin(world->shm, worker, world->slots[0], 10)) {
            note_inside(world->common);
            held++;
        } else if (held > 0) {
            atomic_fetch_sub(&world->common->inside, 1);
            slot_end(world->shm, worker, world->slots[0]);
            held--;
        }
    }
    for (; held > 0; held--) {
        atomic_fetch_sub(&world->common->inside, 1);
        slot_end(world->shm, worker, world->slots[0]);
    }
}

static void
hammer_service(struct world *world, unsigned worker)
{
    uint64_t seed = worker + 1;
    uint32_t held = 0;
    for (int i = 0; i < 60000; i++) {
        if (roll(&seed, 2) == 0 && held < 12 && queue_try_begin(world->shm, world->queue, worker, 10)) {
            note_inside(world->common);
            held++;
        } else if (held > 0) {
            atomic_fetch_sub(&world->common->inside, 1);
            queue_end(world->shm, world->queue, worker);
            held--;
        }
    }
    for (; held > 0; held--) {
        atomic_fetch_sub(&world->common->inside, 1);
        queue_end(world->shm, world->queue, worker);
    }
}

static void
never_lets_an_eleventh_in(void **state)
{
    (void)state;
    struct world world = world_new();
    run_workers(&world, hammer_slot);
    assert_int_equal(atomic_load(&world.common->most), 10);
    assert_int_equal(slot_active(world.shm, world.slots[0]), 0);
    atomic_store(&world.common->most, 0);
    run_workers(&world, hammer_service);
    assert_int_equal(atomic_load(&world.common->most), 10);
    assert_int_equal(queue_active(world.queue), 0);
    world_free(&world);
}

/* ---- wake-ups: workers that sleep whenever they can do nothing else ---- */

enum { EACH_SERVES = 2500, HOLDS_MAX = 8, WAITS_MAX = 16, NARROW = 3 };

struct sleeper {
    struct world *world;
    unsigned worker;
    uint64_t seed;
    uint64_t waiting[WAITS_MAX];
    uint32_t bounds[WAITS_MAX], held[HOLDS_MAX];
    uint32_t waiting_count, held_count;
};

static void
wake_worker(void *context, unsigned worker)
{
    struct world *world = context;
    uint64_t one = 1;
    if (write(world->wake[worker], &one, sizeof(one)) != (ssize_t)sizeof(one))
        atomic_store(&world->common->wrong, 1);
}

static void
wake_next(struct sleeper *self)
{
    queue_wake(self->world->shm, self->world->queue, NARROW, wake_worker, self->world);
}

static bool
try_serve(struct sleeper *self, uint32_t bound)
{
    struct world *world = self->world;
    uint32_t from = bound == SLOT_NONE ? roll(&self->seed, 2) : 0, tries = bound == SLOT_NONE ? 2 : 1;
    for (uint32_t i = 0; i < tries && self->held_count < HOLDS_MAX; i++) {
        uint32_t slot = bound == SLOT_NONE ? world->slots[(from + i) % 2] : bound;
        if (!slot_try_begin(world->shm, self->worker, slot, NARROW)) continue;
        self->held[self->held_count++] = slot;
        return true;
    }
    return false;
}

/* All of its own that can be served now; each that leaves hands the wake-up on. */
static void
serve_waiting(struct sleeper *self)
{
    struct world *world = self->world;
    for (;;) {
        unsigned owner;
        uint64_t ticket = queue_first(world->shm, world->queue, NARROW, &owner);
        uint32_t at = 0;
        while (at < self->waiting_count && self->waiting[at] != ticket)
            at++;
        if (ticket == 0 || at == self->waiting_count || !try_serve(self, self->bounds[at])) return;
        queue_leave(world->shm, world->queue, ticket);
        self->waiting[at] = self->waiting[--self->waiting_count];
        self->bounds[at] = self->bounds[self->waiting_count];
        wake_next(self);
    }
}

static void
arrive(struct sleeper *self)
{
    struct world *world = self->world;
    uint32_t bound = roll(&self->seed, 4) == 0 ? world->slots[roll(&self->seed, 2)] : SLOT_NONE;
    if (self->waiting_count == WAITS_MAX) return;
    if (queue_depth(world->queue) == 0 && try_serve(self, bound)) return;
    uint64_t ticket =
        queue_enter(world->shm, world->queue, self->worker, bound, roll(&self->seed, 8) == 0, LINE);
    if (ticket == 0) atomic_store(&world->common->wrong, 2);
    self->bounds[self->waiting_count] = bound;
    self->waiting[self->waiting_count++] = ticket;
    serve_waiting(self);
}

static void
sleep_until_woken(struct sleeper *self)
{
    struct pollfd fd = {.fd = self->world->wake[self->worker], .events = POLLIN};
    uint64_t count;
    if (poll(&fd, 1, PATIENCE_MS) != 1 || read(fd.fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        atomic_store(&self->world->common->wrong, 3); /* slept on while it could have gone */
}

static void
live_as_a_sleeper(struct world *world, unsigned worker)
{
    struct sleeper self = {.world = world, .worker = worker, .seed = worker + 99};
    for (uint32_t served = 0; served < EACH_SERVES && atomic_load(&world->common->wrong) == 0;) {
        if (roll(&self.seed, 3) != 0) arrive(&self);
        if (self.held_count > 0 && roll(&self.seed, 2) == 0) {
            slot_end(world->shm, worker, self.held[--self.held_count]);
            served++;
            wake_next(&self);
        }
        if (self.held_count == 0 && self.waiting_count > 0) sleep_until_woken(&self);
        serve_waiting(&self);
    }
    while (self.held_count > 0) {
        slot_end(world->shm, worker, self.held[--self.held_count]);
        wake_next(&self);
    }
    while (self.waiting_count > 0) {
        queue_leave(world->shm, world->queue, self.waiting[--self.waiting_count]);
        wake_next(&self);
    }
}

static void
loses_no_wake_up(void **state)
{
    (void)state;
    struct world world = world_new();
    for (unsigned i = 0; i < WORKERS; i++)
        assert_true((world.wake[i] = eventfd(0, EFD_NONBLOCK)) >= 0);
    run_workers(&world, live_as_a_sleeper);
    assert_int_equal(atomic_load(&world.common->wrong), 0);
    assert_int_equal(queue_depth(world.queue), 0);
    assert_int_equal(slot_active(world.shm, world.slots[0]), 0);
    assert_int_equal(slot_active(world.shm, world.slots[1]), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        close(world.wake[i]);
    world_free(&world);
}

/* ---- killed ---- */

static void
expect_all_back(struct world *world, uint32_t active)
{
    assert_int_equal(queue_depth(world->queue), 0);
    assert_int_equal(slot_active(world->shm, world->slots[0]), active);
    assert_int_equal(queue_active(world->queue), active);
    for (uint32_t i = 0; i < QUEUE_TICKETS_MAX; i++)
        assert_int_equal(atomic_load(&world->queue->cells[i].ticket), 0);
    for (uint32_t i = 0; i < QUEUE_TICKETS_MAX / 64; i++)
        assert_int_equal(atomic_load(&world->queue->shown[i]), 0);
}

#if defined(__x86_64__)
static volatile unsigned steps_left;

static void
on_step(int signal)
{
    (void)signal;
    if (--steps_left == 0) kill(getpid(), SIGKILL);
}

/* The processor's own single step: a trap after each instruction. The red zone is stepped over. */
#define STEP_FROM_HERE()                                                                                     \
    __asm__ volatile("subq $128, %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\taddq $128, %%rsp"        \
                     :                                                                                       \
                     :                                                                                       \
                     : "memory", "cc")
#define STEP_NO_MORE()                                                                                       \
    __asm__ volatile("subq $128, %%rsp\n\tpushfq\n\tandq $-257, (%%rsp)\n\tpopfq\n\taddq $128, %%rsp"        \
                     :                                                                                       \
                     :                                                                                       \
                     : "memory", "cc")
enum { CAN_STEP = !AS_THREADS };
#else
static volatile unsigned steps_left;
#define on_step SIG_DFL
#define STEP_FROM_HERE()
#define STEP_NO_MORE()
enum { CAN_STEP = 0 };
#endif

enum { OP_ENTER, OP_SLOT_BEGIN, OP_QUEUE_BEGIN, OP_LEAVE, OP_QUEUE_END, OP_SLOT_END, OP_COUNT };

/* The operations one after the other; before number `stop_before` the worker stops, if it is one that is
 * traced. */
static void
do_everything_once(struct world *world, unsigned worker, int stop_before)
{
    uint64_t ticket = 0;
    for (int op = 0; op < OP_COUNT; op++) {
        if (op == stop_before) STEP_FROM_HERE();
        if (op == OP_ENTER)
            ticket = queue_enter(world->shm, world->queue, worker, world->slots[0], false, LINE);
        if (op == OP_SLOT_BEGIN && !slot_try_begin(world->shm, worker, world->slots[0], 10)) return;
        if (op == OP_QUEUE_BEGIN && !queue_try_begin(world->shm, world->queue, worker, 10)) return;
        if (op == OP_LEAVE) queue_leave(world->shm, world->queue, ticket);
        if (op == OP_QUEUE_END) queue_end(world->shm, world->queue, worker);
        if (op == OP_SLOT_END) slot_end(world->shm, worker, world->slots[0]);
        if (op != stop_before) continue;
        STEP_NO_MORE();
        _exit(0);
    }
}

static void
die_at_step(struct world *world, unsigned worker)
{
    struct sigaction action = {.sa_handler = on_step};
    if (sigaction(SIGTRAP, &action, NULL) == -1) _exit(1);
    steps_left = world->steps;
    do_everything_once(world, worker, world->stop_before);
}

/* Over others that hold some, so that a count one too low would show as well as one too high. */
static void
survives_a_worker_killed_at_any_instruction(void **state)
{
    (void)state;
    enum { OTHERS = 3, STEPS_MAX = 200000, STRIDE = INSTRUMENTED ? 13 : 1 };
    if (!CAN_STEP) skip();
    struct world world = world_new();
    for (int i = 0; i < OTHERS; i++) {
        assert_true(slot_try_begin(world.shm, 0, world.slots[0], 10));
        assert_true(queue_try_begin(world.shm, world.queue, 0, 10));
    }
    unsigned deaths = 0;
    int status = 0;
    for (world.stop_before = 0; world.stop_before < OP_COUNT; world.stop_before++) {
        for (world.steps = 1; world.steps < STEPS_MAX; world.steps += STRIDE, deaths++) {
            pid_t pid = fork_worker(&world, die_at_step, 1);
            assert_int_equal(waitpid(pid, &status, 0), pid);
            shm_worker_reap(world.shm, 1);
            expect_all_back(&world, OTHERS);
            if (WIFEXITED(status)) break;
            assert_int_equal(WTERMSIG(status), SIGKILL);
        }
        assert_int_equal(status, 0); /* the last one lived */
    }
    print_message("killed at %u places\n", deaths);
    world_free(&world);
}

static void
do_everything_for_ever(struct world *world, unsigned worker)
{
    atomic_fetch_add(&world->common->ready, 1);
    while (atomic_load(&world->common->stop) == 0)
        do_everything_once(world, worker, -1);
}

static void
survives_workers_killed_under_load(void **state)
{
    (void)state;
    if (AS_THREADS) skip();
    struct world world = world_new();
    pid_t pids[WORKERS];
    int status;
    uint64_t seed = 5;
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = fork_worker(&world, do_everything_for_ever, i);
    for (uint32_t round = 0; round < 80; round++) {
        unsigned victim = roll(&seed, WORKERS - 1); /* the last one lives */
        while (atomic_load(&world.common->ready) < round + WORKERS)
            sched_yield();
        assert_int_equal(kill(pids[victim], SIGKILL), 0);
        assert_int_equal(waitpid(pids[victim], &status, 0), pids[victim]);
        assert_true(WIFSIGNALED(status));
        shm_worker_reap(world.shm, victim);
        pids[victim] = fork_worker(&world, do_everything_for_ever, victim);
    }
    atomic_store(&world.common->stop, 1);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    expect_all_back(&world, 0);
    world_free(&world);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_lets_an_eleventh_in),
        cmocka_unit_test(loses_no_wake_up),
        cmocka_unit_test(survives_a_worker_killed_at_any_instruction),
        cmocka_unit_test(survives_workers_killed_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
