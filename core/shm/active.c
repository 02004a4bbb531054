#include "core/shm/shm.h"

#include <sched.h>

#include "core/shm/shm_internal.h"

/* What a failed first attempt counts as: nothing is known yet, and a quick refusal must not read as a quick
 * answer. */
enum { EWMA_FIRST_FAILURE_US = 1000000 };
#define EWMA_TIME_CONSTANT_MS 10000.0

/* Never below 0: a count that was lost is put right by the next idle moment. */
void
active_take(_Atomic uint32_t *active, uint32_t count)
{
    uint32_t seen = atomic_load_explicit(active, memory_order_relaxed), left;
    do {
        left = seen > count ? seen - count : 0;
    } while (!atomic_compare_exchange_weak(active, &seen, left));
}

bool
active_try(_Atomic uint32_t *active, uint32_t limit)
{
    if (limit == 0) {
        atomic_fetch_add(active, 1);
        return true;
    }
    uint32_t seen = atomic_load(active);
    do {
        if (seen >= limit) return false;
    } while (!atomic_compare_exchange_weak(active, &seen, seen + 1));
    return true;
}

/* Only its worker writes a column, so that adding needs no atomic operation. */
bool
slot_try_begin(struct shm *shm, unsigned worker, uint32_t slot, uint32_t limit)
{
    if (slot >= shm->max_endpoints || worker >= SHM_WORKERS_MAX) return false;
    _Atomic uint32_t *active = &shm_slot_rows(shm)[slot].active, *mine = shm_column(shm, worker, slot);
    op_open(shm, worker, slot + 1);
    bool begun = active_try(active, limit);
    if (begun) {
        uint32_t count = atomic_load_explicit(mine, memory_order_relaxed);
        atomic_store_explicit(mine, count + 1, memory_order_release);
    }
    op_close(shm, worker);
    return begun;
}

void
slot_begin(struct shm *shm, unsigned worker, uint32_t slot)
{
    if (!slot_try_begin(shm, worker, slot, 0)) return; /* out of range: nothing to count */
}

void
slot_end(struct shm *shm, unsigned worker, uint32_t slot)
{
    if (slot >= shm->max_endpoints || worker >= SHM_WORKERS_MAX) return;
    _Atomic uint32_t *mine = shm_column(shm, worker, slot);
    uint32_t count = atomic_load_explicit(mine, memory_order_relaxed);
    if (count == 0) return;
    op_open(shm, worker, slot + 1);
    active_take(&shm_slot_rows(shm)[slot].active, 1);
    atomic_store_explicit(mine, count - 1, memory_order_release);
    op_close(shm, worker);
}

uint32_t
slot_active(struct shm *shm, uint32_t slot)
{
    return slot < shm->max_endpoints ? atomic_load(&shm_slot_rows(shm)[slot].active) : 0;
}

/* e^-(ms / time constant) to the third order: within 2 % of it to one time constant, and falling for ever. */
static double
decay(uint32_t ms)
{
    double x = ms / EWMA_TIME_CONSTANT_MS;
    return 1.0 / (1.0 + x * (1.0 + x * (0.5 + x / 6.0)));
}

/* One sample a millisecond moves the average, by the share that the time since the last one has in it. Under
 * load that share of a small difference is below 1 us, so fractions are rounded up as often as they are large
 * (Weyl sequence). */
static void
ewma_move(struct slot *slot, uint32_t latency_us, bool failed, uint64_t now_us)
{
    uint32_t now_ms = (uint32_t)(now_us / 1000);
    uint32_t stamp = atomic_load_explicit(&slot->latency_stamp_ms, memory_order_relaxed);
    uint32_t old = atomic_load_explicit(&slot->latency_ewma_us, memory_order_relaxed);
    uint32_t ms = now_ms - stamp;
    if (old == 0) {
        if (failed && latency_us < EWMA_FIRST_FAILURE_US) latency_us = EWMA_FIRST_FAILURE_US;
        atomic_store_explicit(&slot->latency_ewma_us, latency_us > 0 ? latency_us : 1, memory_order_relaxed);
        atomic_store_explicit(&slot->latency_stamp_ms, now_ms, memory_order_relaxed);
        return;
    }
    if (ms == 0 || ms > INT32_MAX) return; /* another sample of this millisecond, or a later one, was first */
    if (failed && latency_us < old) latency_us = old;
    if (!atomic_compare_exchange_strong_explicit(
            &slot->latency_stamp_ms, &stamp, now_ms, memory_order_relaxed, memory_order_relaxed))
        return;
    double fraction = (double)(uint32_t)(now_us * 2654435769u) / 4294967296.0;
    double moved = (double)old + ((double)latency_us - (double)old) * (1.0 - decay(ms)) + fraction;
    uint32_t next = moved >= (double)UINT32_MAX ? UINT32_MAX : moved < 1.0 ? 1 : (uint32_t)moved;
    atomic_store_explicit(&slot->latency_ewma_us, next, memory_order_relaxed);
}

void
slot_observe(struct shm *shm, uint32_t slot, uint32_t latency_us, bool failed, uint64_t now_us)
{
    if (slot >= shm->max_endpoints) return;
    struct slot *row = &shm_slot_rows(shm)[slot];
    atomic_fetch_add_explicit(&row->requests, 1, memory_order_relaxed);
    if (failed) {
        atomic_fetch_add_explicit(&row->errors, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&row->failures, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&row->error_row, 1, memory_order_relaxed);
    } else if (atomic_load_explicit(&row->error_row, memory_order_relaxed) != 0) {
        atomic_store_explicit(&row->failures, 0, memory_order_relaxed);
        atomic_store_explicit(&row->error_row, 0, memory_order_relaxed);
    }
    ewma_move(row, latency_us, failed, now_us);
}

void
slot_observe_error(struct shm *shm, uint32_t slot, uint32_t latency_us, uint64_t now_us)
{
    if (slot >= shm->max_endpoints) return;
    struct slot *row = &shm_slot_rows(shm)[slot];
    atomic_fetch_add_explicit(&row->requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&row->server_errors, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&row->error_row, 1, memory_order_relaxed);
    if (atomic_load_explicit(&row->failures, memory_order_relaxed) != 0)
        atomic_store_explicit(&row->failures, 0, memory_order_relaxed);
    ewma_move(row, latency_us, true, now_us);
}

bool
slot_take_trial(struct shm *shm, uint32_t slot)
{
    uint32_t open = TRIAL_OPEN;
    return slot < shm->max_endpoints &&
           atomic_compare_exchange_strong(&shm_slot_rows(shm)[slot].trial, &open, TRIAL_TAKEN);
}

void
slot_end_trial(struct shm *shm, uint32_t slot, enum trial outcome)
{
    uint32_t taken = TRIAL_TAKEN;
    if (slot >= shm->max_endpoints) return;
    (void)!atomic_compare_exchange_strong(&shm_slot_rows(shm)[slot].trial, &taken, outcome);
}

uint32_t
slot_latency_us(struct shm *shm, uint32_t slot, uint64_t now_us)
{
    if (slot >= shm->max_endpoints) return 0;
    const struct slot *row = &shm_slot_rows(shm)[slot];
    uint32_t ewma = atomic_load_explicit(&row->latency_ewma_us, memory_order_relaxed);
    uint32_t ms =
        (uint32_t)(now_us / 1000) - atomic_load_explicit(&row->latency_stamp_ms, memory_order_relaxed);
    return ms > INT32_MAX ? ewma : (uint32_t)((double)ewma * decay(ms));
}

/* By how much the count that `what` names differs from the sum of its columns: false where the workers did
 * not stand still for as long as it takes to add up. Their numbers move with each change, so equal ones
 * before and after mean that nothing happened in between; what is under way elsewhere makes no difference
 * here. */
static bool
drift_measure(struct shm *shm, uint32_t what, unsigned dead, int64_t *drift)
{
    uint64_t before[SHM_WORKERS_MAX];
    uint32_t at = (what & ~OP_QUEUE) - 1;
    bool is_queue = (what & OP_QUEUE) != 0;
    for (unsigned w = 0; w < SHM_WORKERS_MAX; w++) {
        before[w] = atomic_load(&shm->ops[w].word);
        if (w != dead && (uint32_t)before[w] == what) return false;
    }
    int64_t sum = 0;
    int64_t active = atomic_load(is_queue ? &shm_queue_rows(shm)[at].active : &shm_slot_rows(shm)[at].active);
    for (unsigned w = 0; w < SHM_WORKERS_MAX; w++) {
        if (before[w] == 0) continue; /* never counted anything: leave its pages untouched */
        sum += atomic_load(is_queue ? &shm_queue_rows(shm)[at].columns[w] : shm_column(shm, w, at));
    }
    for (unsigned w = 0; w < SHM_WORKERS_MAX; w++) {
        if (atomic_load(&shm->ops[w].word) != before[w]) return false;
    }
    *drift = active - sum;
    return true;
}

/* The worker was killed while it changed a count: done or not done, its column says the same again after
 * this. Without it a limit would be one too high or, worse, too low for ever. */
static void
op_repair(struct shm *shm, unsigned worker)
{
    enum { TRIES = 4096, TRIES_BEFORE_YIELD = 64 };
    uint32_t what = (uint32_t)atomic_load(&shm->ops[worker].word), at = (what & ~OP_QUEUE) - 1;
    int64_t drift = 0;
    if (what == 0 || at >= ((what & OP_QUEUE) != 0 ? (uint32_t)QUEUES_MAX : shm->max_endpoints)) return;
    _Atomic uint32_t *active =
        (what & OP_QUEUE) != 0 ? &shm_queue_rows(shm)[at].active : &shm_slot_rows(shm)[at].active;
    for (int i = 0; i < TRIES && !drift_measure(shm, what, worker, &drift); i++) {
        if (i >= TRIES_BEFORE_YIELD) sched_yield();
    }
    if (drift > 0) active_take(active, (uint32_t)drift);
    if (drift < 0) atomic_fetch_add(active, (uint32_t)-drift);
}

void
shm_worker_reap(struct shm *shm, unsigned worker)
{
    if (worker >= SHM_WORKERS_MAX) return;
    op_repair(shm, worker);
    uint32_t peak = atomic_load_explicit(&shm->slots_peak, memory_order_acquire);
    for (uint32_t at = 0; at < peak && at < shm->max_endpoints; at++) {
        uint32_t held = atomic_load_explicit(shm_column(shm, worker, at), memory_order_relaxed);
        if (held == 0) continue;
        active_take(&shm_slot_rows(shm)[at].active, held);
        atomic_store_explicit(shm_column(shm, worker, at), 0, memory_order_release);
    }
    queues_reap(shm, worker);
    dicts_reap(shm, worker);
    op_close(shm, worker);
    struct shm_worker *block = &shm->workers[worker];
    atomic_store(&block->generation, 0);
    atomic_store(&block->heartbeat_us, 0);
    atomic_store(&block->endpoints_seen, 0);
    atomic_store(&block->in_script_since_us, 0);
    atomic_store(&block->script, 0);
    atomic_store(&block->connections, 0);
    atomic_store(&block->streams, 0);
    atomic_store(&block->tunnels, 0);
    atomic_store(&block->draining, 0);
    atomic_store(&block->pid, 0);
}
