#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/shm/shm_internal.h"

enum { SERVICE = 7, LINE = 1000, WORKERS = 4, PATIENCE_MS = 30000 };

/* A data race is only seen between threads, a death only between processes: the same workers run as either.
 */
#if defined(__SANITIZE_THREAD__)
enum { AS_THREADS = 1, INSTRUMENTED = 1 };
#elif defined(__SANITIZE_ADDRESS__)
enum { AS_THREADS = 0, INSTRUMENTED = 1 };
#else
enum { AS_THREADS = 0, INSTRUMENTED = 0 };
#endif

struct world {
    struct shm *shm;
    struct queue *queue;
    uint32_t slots[2];
    struct common {
        _Atomic uint32_t inside, most, wrong, stop, ready;
        _Atomic uint64_t served;
    } * common; /* what the workers share beside the segment */
    int wake[WORKERS];
    int stop_before;
    unsigned steps;
};

static struct world
world_new(void)
{
    struct world world = {.shm = shm_create(&(struct shm_params){.max_endpoints = 16})};
    static struct slot_text text; /* zeroed */
    assert_non_null(world.shm);
    for (int i = 0; i < 2; i++) {
        snprintf(text.id, sizeof(text.id), "endpoint-%d", i);
        world.slots[i] = slot_claim(world.shm, SERVICE, SLOT_HEALTHY, 1, 80, &text);
        assert_int_not_equal(world.slots[i], SLOT_NONE);
    }
    world.queue = shm_queue(world.shm, SERVICE);
    assert_non_null(world.queue);
    world.common =
        mmap(NULL, sizeof(*world.common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(world.common, MAP_FAILED);
    return world;
}

static void
world_free(struct world *world)
{
    munmap(world->common, sizeof(*world->common));
    shm_destroy(world->shm);
}

static uint64_t
enter(struct world *world, unsigned worker, uint32_t bound, bool at_head)
{
    uint64_t ticket = queue_enter(world->shm, world->queue, worker, bound, at_head, LINE);
    assert_int_not_equal(ticket, 0);
    return ticket;
}

static bool
may_try(struct world *world, uint64_t ticket, uint32_t limit)
{
    return queue_may_try(world->shm, world->queue, ticket, limit);
}

static uint64_t
first(struct world *world, uint32_t limit)
{
    unsigned worker;
    uint64_t ticket = queue_first(world->shm, world->queue, limit, &worker);
    return ticket;
}

static void
on_wake(void *context, unsigned worker)
{
    *(uint32_t *)context |= 1u << worker;
}

static uint32_t
woken(struct world *world, uint32_t limit)
{
    uint32_t mask = 0;
    queue_wake(world->shm, world->queue, limit, on_wake, &mask);
    return mask;
}

/* ---- one after the other ---- */

static void
gives_each_service_one_queue_for_ever(void **state)
{
    (void)state;
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 1});
    assert_non_null(shm);
    for (uint32_t service = 0; service < QUEUES_MAX; service++)
        assert_non_null(shm_queue(shm, 3000 + service));
    assert_ptr_equal(shm_queue(shm, 3000), shm_queue(shm, 3000));
    assert_ptr_not_equal(shm_queue(shm, 3000), shm_queue(shm, 3001));
    assert_null(shm_queue(shm, 1));
    assert_null(shm_queue(shm, SHM_NAMES_MAX));
    shm_destroy(shm);
}

static void
stops_at_the_limit_of_slot_and_service(void **state)
{
    (void)state;
    struct world world = world_new();
    for (unsigned i = 0; i < 10; i++) {
        assert_true(slot_try_begin(world.shm, i % 3, world.slots[0], 10));
        assert_true(queue_try_begin(world.shm, world.queue, i % 3, 10));
    }
    assert_false(slot_try_begin(world.shm, 5, world.slots[0], 10));
    assert_false(queue_try_begin(world.shm, world.queue, 5, 10));
    assert_true(slot_try_begin(world.shm, 5, world.slots[0], 0)); /* no limit */
    assert_false(slot_try_begin(world.shm, 5, 9999, 10));
    slot_end(world.shm, 5, world.slots[0]);
    queue_end(world.shm, world.queue, 5); /* never begun there: nothing happens */
    assert_int_equal(slot_active(world.shm, world.slots[0]), 10);
    assert_int_equal(queue_active(world.queue), 10);
    slot_end(world.shm, 0, world.slots[0]);
    queue_end(world.shm, world.queue, 0);
    assert_true(slot_try_begin(world.shm, 5, world.slots[0], 10));
    assert_true(queue_try_begin(world.shm, world.queue, 5, 10));
    world_free(&world);
}

static void
serves_in_the_order_of_coming_over_all_workers(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t tickets[30];
    assert_int_equal(queue_depth(world.queue), 0);
    assert_int_equal(woken(&world, 10), 0);
    for (unsigned i = 0; i < 30; i++)
        tickets[i] = enter(&world, (i * 7) % 5, SLOT_NONE, false);
    assert_int_equal(queue_depth(world.queue), 30);
    for (unsigned i = 0; i < 30; i++) {
        for (unsigned k = i; k < 30; k++)
            assert_int_equal(may_try(&world, tickets[k], 10), k == i);
        assert_int_equal(woken(&world, 10), 1u << (i * 7) % 5);
        queue_leave(world.shm, world.queue, tickets[i]);
        queue_leave(world.shm, world.queue, tickets[i]); /* once is enough, twice no harm */
        assert_false(may_try(&world, tickets[i], 10));
        assert_int_equal(queue_depth(world.queue), 29 - i);
    }
    assert_int_equal(woken(&world, 10), 0);
    world_free(&world);
}

static void
lets_who_leaves_early_hold_up_nobody(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t a = enter(&world, 0, SLOT_NONE, false), b = enter(&world, 1, SLOT_NONE, false);
    uint64_t c = enter(&world, 2, SLOT_NONE, false);
    queue_leave(world.shm, world.queue, b);
    uint64_t d = enter(&world, 1, SLOT_NONE, false); /* in b's cell, but behind c */
    assert_int_not_equal(b, d);
    queue_leave(world.shm, world.queue, a);
    assert_true(may_try(&world, c, 10));
    assert_false(may_try(&world, d, 10));
    world_free(&world);
}

static void
puts_retries_before_all_who_are_none(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t a = enter(&world, 0, SLOT_NONE, false), b = enter(&world, 1, SLOT_NONE, true);
    uint64_t c = enter(&world, 2, SLOT_NONE, true), order[] = {b, c, a};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(first(&world, 10), order[i]);
        assert_true(may_try(&world, order[i], 10));
        for (int k = i + 1; k < 3; k++)
            assert_false(may_try(&world, order[k], 10));
        queue_leave(world.shm, world.queue, order[i]);
    }
    world_free(&world);
}

static void
lets_a_bound_ticket_wait_for_its_own_server_alone(void **state)
{
    (void)state;
    struct world world = world_new();
    uint32_t limit = 1;
    assert_true(slot_try_begin(world.shm, 0, world.slots[0], limit));
    uint64_t bound = enter(&world, 1, world.slots[0], false), again = enter(&world, 2, world.slots[0], false);
    uint64_t free_one = enter(&world, 3, SLOT_NONE, false), last = enter(&world, 0, SLOT_NONE, false);
    assert_true(may_try(&world, free_one, limit)); /* slots[1] has room, slots[0] has not */
    assert_false(may_try(&world, last, limit));
    assert_int_equal(woken(&world, limit), 1u << 3);
    assert_int_equal(woken(&world, 2), 1u << 1); /* a reload raised the limit: the bound one is first */
    assert_int_equal(woken(&world, 0), 1u << 1);
    slot_end(world.shm, 0, world.slots[0]);
    assert_int_equal(woken(&world, limit), 1u << 1);
    assert_false(may_try(&world, again, limit));
    assert_false(may_try(&world, free_one, limit)); /* the bound one came before it, and could go now */
    assert_true(may_try(&world, bound, limit));
    assert_true(slot_try_begin(world.shm, 1, world.slots[0], limit));
    queue_leave(world.shm, world.queue, bound);
    assert_int_equal(woken(&world, limit), 1u << 3);
    world_free(&world);
}

static void
lets_a_retry_hold_up_nobody_who_can_have_what_it_tried(void **state)
{
    (void)state;
    struct world world = world_new();
    uint32_t limit = 1;
    assert_true(slot_try_begin(world.shm, 0, world.slots[0], limit));
    assert_true(slot_try_begin(world.shm, 0, world.slots[1], limit));
    uint64_t retry = enter(&world, 1, QUEUE_EXCEPT | world.slots[0], true);
    uint64_t other = enter(&world, 2, SLOT_NONE, false);
    assert_false(may_try(&world, other, limit));
    assert_int_equal(first(&world, limit), retry);
    slot_end(world.shm, 0, world.slots[0]);
    assert_true(may_try(&world, other, limit));
    assert_true(may_try(&world, retry, limit));
    assert_int_equal(first(&world, limit), other);
    assert_int_equal(woken(&world, limit), 1u << 1 | 1u << 2); /* the room may be on the other slot */
    queue_leave(world.shm, world.queue, other);
    assert_int_equal(first(&world, limit), 0);
    assert_int_equal(woken(&world, limit), 1u << 1);
    world_free(&world);
}

static void
bounds_the_line_exactly(void **state)
{
    (void)state;
    struct world world = world_new();
    uint64_t tickets[5];
    for (unsigned i = 0; i < 5; i++)
        assert_int_not_equal(
            tickets[i] = queue_enter(world.shm, world.queue, i, SLOT_NONE, i % 2 == 0, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, true, 5), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, true, 0), 0);
    assert_int_equal(queue_depth(world.queue), 5);
    queue_leave(world.shm, world.queue, tickets[3]);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 3), 0); /* another route's */
    assert_int_not_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, 5), 0);
    for (unsigned i = 5; i < QUEUE_TICKETS_MAX; i++)
        assert_int_not_equal(queue_enter(world.shm, world.queue, i % 64, SLOT_NONE, false, UINT32_MAX), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, 9, SLOT_NONE, false, UINT32_MAX), 0);
    assert_int_equal(queue_enter(world.shm, world.queue, SHM_WORKERS_MAX, SLOT_NONE, false, LINE), 0);
    assert_int_equal(queue_depth(world.queue), QUEUE_TICKETS_MAX);
    world_free(&world);
}

static void
takes_a_dead_worker_out_of_line_and_counts(void **state)
{
    (void)state;
    struct world world = world_new();
    for (int i = 0; i < 3; i++)
        assert_true(queue_try_begin(world.shm, world.queue, 1, 5));
    assert_true(queue_try_begin(world.shm, world.queue, 2, 5));
    uint64_t dead = enter(&world, 1, SLOT_NONE, true), alive = enter(&world, 2, SLOT_NONE, false);
    (void)enter(&world, 1, world.slots[0], false);
    assert_false(may_try(&world, alive, 5));
    shm_worker_reap(world.shm, 1);
    assert_int_equal(queue_active(world.queue), 1);
    assert_int_equal(queue_depth(world.queue), 1);
    assert_true(may_try(&world, alive, 5));
    assert_false(may_try(&world, dead, 5));
    queue_leave(world.shm, world.queue, dead); /* a successor that found it in a dump: no harm */
    assert_int_equal(queue_depth(world.queue), 1);
    world_free(&world);
}

static void
counts_for_the_metrics(void **state)
{
    (void)state;
    struct world world = world_new();
    struct queue_stats rows[2];
    (void)enter(&world, 0, SLOT_NONE, false);
    (void)enter(&world, 1, SLOT_NONE, false);
    assert_int_equal(queue_enter(world.shm, world.queue, 1, SLOT_NONE, false, 2), 0);
    assert_true(queue_try_begin(world.shm, world.queue, 1, 5));
    queue_served(world.queue, 1500);
    queue_served(world.queue, 500);
    queue_timed_out(world.queue);
    assert_int_equal(shm_queues(world.shm, rows, 2), 1);
    assert_int_equal(rows[0].service, SERVICE);
    assert_int_equal(rows[0].depth, 2);
    assert_int_equal(rows[0].active, 1);
    assert_int_equal(rows[0].entered, 2);
    assert_int_equal(rows[0].served, 2);
    assert_int_equal(rows[0].timed_out, 1);
    assert_int_equal(rows[0].refused, 1);
    assert_int_equal(rows[0].waited_us_sum, 2000);
    assert_non_null(shm_queue(world.shm, SERVICE + 1));
    assert_int_equal(shm_queues(world.shm, rows, 1), 1);
    assert_int_equal(shm_queues(world.shm, rows, 2), 2);
    world_free(&world);
}

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

static uint32_t
roll(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
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

/* ---- a model: whatever happens, in whatever order wake-ups arrive, nobody who could go is left waiting ----
 */

enum { MODEL_WORKERS = 5, MODEL_TICKETS = 64, MODEL_STEPS = 30000 };

struct model {
    struct world *world;
    uint64_t seed;
    uint32_t limit, service_limit, pending; /* pending: workers that were woken and did not run yet */
    struct {
        uint64_t ticket, came;
        uint32_t bound;
        unsigned worker;
        bool at_head;
    } waiting[MODEL_TICKETS];
    struct {
        unsigned worker;
        uint32_t slot;
    } held[256];
    uint32_t waiting_count, held_count;
    uint64_t clock;
};

static void
model_wake(struct model *model)
{
    queue_wake(model->world->shm, model->world->queue, model->limit, on_wake, &model->pending);
}

/* Looks before it takes the service's room: given back unused, that would wake the next, itself as a rule,
 * and so on without end. */
static bool
model_try(struct model *model, unsigned worker, uint32_t bound)
{
    struct world *world = model->world;
    if (model->held_count == 256) return false;
    for (int i = 0; i < 2; i++) {
        uint32_t slot = world->slots[i];
        if (bound != SLOT_NONE && bound != slot) continue;
        if (model->limit != 0 && slot_active(world->shm, slot) >= model->limit) continue;
        if (!queue_try_begin(world->shm, world->queue, worker, model->service_limit)) return false;
        assert_true(slot_try_begin(world->shm, worker, slot, model->limit));
        model->held[model->held_count].worker = worker;
        model->held[model->held_count++].slot = slot;
        return true;
    }
    return false;
}

static void
model_forget(struct model *model, uint32_t at)
{
    model->waiting[at] = model->waiting[--model->waiting_count];
}

/* Who goes was first of its kind: of the retries, or of the others while no retry waits. */
static void
model_check_order(struct model *model, uint32_t at)
{
    for (uint32_t i = 0; i < model->waiting_count; i++) {
        if (i == at || model->waiting[i].bound != SLOT_NONE) continue;
        bool before = model->waiting[i].at_head == model->waiting[at].at_head
                          ? model->waiting[i].came < model->waiting[at].came
                          : model->waiting[i].at_head;
        assert_false(before);
    }
}

static void
model_run(struct model *model, unsigned worker)
{
    struct world *world = model->world;
    for (;;) {
        unsigned owner;
        uint64_t ticket = queue_first(world->shm, world->queue, model->limit, &owner);
        if (ticket == 0 || owner != worker) return;
        uint32_t at = 0;
        while (model->waiting[at].ticket != ticket)
            assert_true(++at < model->waiting_count);
        if (!model_try(model, worker, model->waiting[at].bound)) return;
        model_check_order(model, at);
        model_forget(model, at);
        queue_leave(world->shm, world->queue, ticket);
        queue_served(world->queue, 1);
        model_wake(model);
    }
}

static void
model_arrive(struct model *model)
{
    struct world *world = model->world;
    unsigned worker = roll(&model->seed, MODEL_WORKERS);
    uint32_t bound = roll(&model->seed, 3) == 0 ? world->slots[roll(&model->seed, 2)] : SLOT_NONE;
    bool at_head = roll(&model->seed, 6) == 0;
    if (model->waiting_count == MODEL_TICKETS) return;
    if (queue_depth(world->queue) == 0 && model_try(model, worker, bound)) return;
    uint64_t ticket = queue_enter(world->shm, world->queue, worker, bound, at_head, MODEL_TICKETS);
    assert_int_not_equal(ticket, 0);
    uint32_t at = model->waiting_count++;
    model->waiting[at].ticket = ticket;
    model->waiting[at].came = ++model->clock;
    model->waiting[at].bound = bound;
    model->waiting[at].worker = worker;
    model->waiting[at].at_head = at_head;
    model_run(model, worker);
}

static void
model_finish(struct model *model)
{
    if (model->held_count == 0) return;
    uint32_t at = roll(&model->seed, model->held_count);
    slot_end(model->world->shm, model->held[at].worker, model->held[at].slot);
    queue_end(model->world->shm, model->world->queue, model->held[at].worker);
    model->held[at] = model->held[--model->held_count];
    model_wake(model);
}

static void
model_time_out(struct model *model)
{
    if (model->waiting_count == 0) return;
    uint32_t at = roll(&model->seed, model->waiting_count);
    queue_leave(model->world->shm, model->world->queue, model->waiting[at].ticket);
    queue_timed_out(model->world->queue);
    model_forget(model, at);
    model_wake(model);
}

static void
model_kill(struct model *model)
{
    unsigned worker = roll(&model->seed, MODEL_WORKERS);
    for (uint32_t i = model->waiting_count; i-- > 0;) {
        if (model->waiting[i].worker == worker) model_forget(model, i);
    }
    for (uint32_t i = model->held_count; i-- > 0;) {
        if (model->held[i].worker == worker) model->held[i] = model->held[--model->held_count];
    }
    shm_worker_reap(model->world->shm, worker);
    model->pending &= ~(1u << worker);
    model_wake(model);
}

static void
model_expect_nobody_stranded(struct model *model)
{
    struct world *world = model->world;
    while (model->pending != 0) {
        unsigned worker = roll(&model->seed, MODEL_WORKERS);
        if ((model->pending & 1u << worker) == 0) continue;
        model->pending &= ~(1u << worker);
        model_run(model, worker);
    }
    assert_int_equal(queue_depth(world->queue), model->waiting_count);
    assert_int_equal(queue_active(world->queue), model->held_count);
    if (model->service_limit != 0 && queue_active(world->queue) >= model->service_limit) return;
    for (uint32_t i = 0; i < model->waiting_count; i++) {
        for (int k = 0; k < 2; k++) {
            bool wants = model->waiting[i].bound == SLOT_NONE || model->waiting[i].bound == world->slots[k];
            bool has_room = model->limit == 0 || slot_active(world->shm, world->slots[k]) < model->limit;
            assert_false(wants && has_room);
        }
    }
}

static void
strands_nobody_whatever_happens(void **state)
{
    (void)state;
    struct world world = world_new();
    struct model model = {.world = &world, .seed = 42, .limit = 3, .service_limit = 5};
    for (int step = 0; step < MODEL_STEPS; step++) {
        uint32_t what = roll(&model.seed, 100);
        if (what < 46) model_arrive(&model);
        if (what >= 46 && what < 90) model_finish(&model);
        if (what >= 90 && what < 97) model_time_out(&model);
        if (what == 97) model_kill(&model);
        if (what == 98) model.limit = roll(&model.seed, 5), model_wake(&model);
        if (what == 99) model.service_limit = roll(&model.seed, 9), model_wake(&model);
        if (roll(&model.seed, 3) == 0) model_expect_nobody_stranded(&model);
    }
    while (model.held_count > 0 || model.waiting_count > 0) {
        model_finish(&model);
        model_expect_nobody_stranded(&model);
    }
    struct queue_stats row;
    assert_int_equal(shm_queues(world.shm, &row, 1), 1);
    assert_true(row.served > MODEL_STEPS / 10);
    world_free(&world);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_service_one_queue_for_ever),
        cmocka_unit_test(stops_at_the_limit_of_slot_and_service),
        cmocka_unit_test(serves_in_the_order_of_coming_over_all_workers),
        cmocka_unit_test(lets_who_leaves_early_hold_up_nobody),
        cmocka_unit_test(puts_retries_before_all_who_are_none),
        cmocka_unit_test(lets_a_bound_ticket_wait_for_its_own_server_alone),
        cmocka_unit_test(lets_a_retry_hold_up_nobody_who_can_have_what_it_tried),
        cmocka_unit_test(bounds_the_line_exactly),
        cmocka_unit_test(takes_a_dead_worker_out_of_line_and_counts),
        cmocka_unit_test(counts_for_the_metrics),
        cmocka_unit_test(never_lets_an_eleventh_in),
        cmocka_unit_test(loses_no_wake_up),
        cmocka_unit_test(survives_a_worker_killed_at_any_instruction),
        cmocka_unit_test(survives_workers_killed_under_load),
        cmocka_unit_test(strands_nobody_whatever_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
