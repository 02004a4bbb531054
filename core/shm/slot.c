#include "core/shm/shm.h"

#include <sched.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/shm/shm_internal.h"

/* A row is written in well under a microsecond; past the spins its writer was preempted, past the yields it
 * is dead. */
enum { READ_SPINS = 32, READ_YIELDS = 200 };

static const char *const state_words[] = {
#define X(name, word) word,
    SLOT_STATES(X)
#undef X
};

static_assert(sizeof(struct slot_text) % sizeof(uint64_t) == 0, "rows are copied word by word");

const char *
slot_state_word(enum slot_state state)
{
    return (unsigned)state < SLOT_STATE_COUNT ? state_words[state] : "unknown";
}

/* ---- the seqlock: words are relaxed atomics, so that a torn read is a retry and never undefined ---- */

static void
words_store(void *to, const void *from, size_t bytes)
{
    uint64_t *out = to, word;
    for (size_t i = 0; i < bytes / sizeof(word); i++) {
        memcpy(&word, (const char *)from + i * sizeof(word), sizeof(word));
        __atomic_store_n(&out[i], word, __ATOMIC_RELAXED);
    }
}

static void
words_load(void *to, const void *from, size_t bytes)
{
    const uint64_t *in = from;
    for (size_t i = 0; i < bytes / sizeof(*in); i++) {
        uint64_t word = __atomic_load_n(&in[i], __ATOMIC_RELAXED);
        memcpy((char *)to + i * sizeof(word), &word, sizeof(word));
    }
}

static struct slot_text *
texts(const struct shm *shm)
{
    return shm_at(shm, shm->texts_at);
}

static uint64_t *
gone_versions(const struct shm *shm)
{
    return shm_at(shm, shm->gone_at);
}

static uint64_t
version_bump(struct shm *shm)
{
    return atomic_fetch_add_explicit(&shm->endpoints_version, 1, memory_order_release) + 1;
}

/* Everything of the cold line but seq, and the text where it is not NULL. The text goes first and its hash
 * last, so that a successor can tell a row that was cut off (shm_control_adopt). */
static void
row_write(struct shm *shm, uint32_t at, const struct slot *cold, const struct slot_text *text)
{
    struct slot *slot = &shm_slot_rows(shm)[at];
    uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_relaxed) | 1;
    atomic_store_explicit(&slot->seq, seq, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    if (text != NULL) words_store(&texts(shm)[at], text, sizeof(*text));
    __atomic_store_n(&slot->incarnation, cold->incarnation, __ATOMIC_RELAXED);
    words_store((char *)slot + 8, (const char *)cold + 8, 64 - 8);
    atomic_store_explicit(&slot->seq, seq + 1, memory_order_release);
}

static void
cold_copy(struct slot *to, const struct slot *from)
{
    memset(to, 0, sizeof(*to));
    to->incarnation = from->incarnation;
    to->service = from->service;
    to->state = from->state;
    to->weight = from->weight;
    to->port = from->port;
    to->since_us = from->since_us;
    to->up_us = from->up_us;
    to->text_hash = from->text_hash;
    to->until_us = from->until_us;
    to->ejections = from->ejections;
}

/* ---- texts ---- */

static void
field_copy(char *to, const char *from, size_t size)
{
    size_t len = strnlen(from, size - 1);
    memcpy(to, from, len);
    memset(to + len, 0, size - len);
}

/* Fields NUL-terminated and zero behind, so that equal rows have equal bytes and no reader runs past a field.
 */
static void
text_normalise(struct slot_text *to, const struct slot_text *from)
{
    memset(to, 0, sizeof(*to));
    field_copy(to->id, from->id, sizeof(to->id));
    field_copy(to->host, from->host, sizeof(to->host));
    field_copy(to->zone, from->zone, sizeof(to->zone));
    field_copy(to->reason, from->reason, sizeof(to->reason));
    field_copy(to->path_prefix, from->path_prefix, sizeof(to->path_prefix));
    field_copy(to->health_path, from->health_path, sizeof(to->health_path));
    field_copy(to->metadata, from->metadata, sizeof(to->metadata));
    to->origin = from->origin;
    to->address_len = from->address_len <= sizeof(to->address) ? from->address_len : 0;
    memcpy(&to->address, &from->address, to->address_len);
}

/* Without the reason, which moves with the state and which no worker reads. */
static uint64_t
row_hash(struct slot_text *normal)
{
    char reason[sizeof(normal->reason)];
    memcpy(reason, normal->reason, sizeof(reason));
    memset(normal->reason, 0, sizeof(reason));
    uint64_t hash = text_hash((struct slice){(const char *)normal, sizeof(*normal)});
    memcpy(normal->reason, reason, sizeof(reason));
    return hash;
}

/* ---- control's index: (service, id) to slot; in the mapping, but nobody else reads it ---- */

static uint32_t
index_home(const struct shm *shm, uint32_t service, struct slice id)
{
    uint64_t hash = text_hash(id) ^ ((uint64_t)service * 0x9e3779b97f4a7c15u);
    return (uint32_t)(hash ^ hash >> 32) & (shm->index_cells - 1);
}

static uint32_t *
index_cells(const struct shm *shm)
{
    return shm_at(shm, shm->index_at);
}

static struct slice
row_id(const struct shm *shm, uint32_t slot)
{
    const char *id = texts(shm)[slot].id;
    return (struct slice){id, strnlen(id, SLOT_ID_BYTES)};
}

static void
index_add(struct shm *shm, uint32_t slot)
{
    uint32_t *cells = index_cells(shm), mask = shm->index_cells - 1;
    uint32_t at = index_home(shm, shm_slot_rows(shm)[slot].service, row_id(shm, slot));
    while (cells[at] != 0)
        at = (at + 1) & mask; /* at most half full: max_endpoints of twice as many cells */
    cells[at] = slot + 1;
}

/* Backward-shift deletion (Knuth, TAOCP 6.4, algorithm R): no tombstones pile up under churn. */
static void
index_drop(struct shm *shm, uint32_t slot)
{
    uint32_t *cells = index_cells(shm), mask = shm->index_cells - 1;
    uint32_t at = index_home(shm, shm_slot_rows(shm)[slot].service, row_id(shm, slot));
    while (cells[at] != slot + 1) {
        if (cells[at] == 0) return;
        at = (at + 1) & mask;
    }
    for (uint32_t next = (at + 1) & mask; cells[next] != 0; next = (next + 1) & mask) {
        uint32_t moved = cells[next] - 1;
        uint32_t home = moved < shm->max_endpoints
                            ? index_home(shm, shm_slot_rows(shm)[moved].service, row_id(shm, moved))
                            : next;
        if (((next - home) & mask) < ((next - at) & mask)) continue; /* its home lies behind the gap */
        cells[at] = cells[next];
        at = next;
    }
    cells[at] = 0;
}

uint32_t
slot_find(struct shm *shm, uint32_t service, struct slice id)
{
    const uint32_t *cells = index_cells(shm);
    uint32_t mask = shm->index_cells - 1, at = index_home(shm, service, id);
    for (; cells[at] != 0; at = (at + 1) & mask) {
        uint32_t slot = cells[at] - 1;
        if (slot < shm->max_endpoints && shm_slot_rows(shm)[slot].service == service &&
            slice_equal(row_id(shm, slot), id))
            return slot;
    }
    return SLOT_NONE;
}

/* ---- readers ---- */

uint32_t
shm_slots(const struct shm *shm)
{
    uint32_t high = atomic_load_explicit(&shm->slots_high, memory_order_acquire);
    return high <= shm->max_endpoints ? high : shm->max_endpoints;
}

uint64_t
shm_endpoints_version(const struct shm *shm)
{
    return atomic_load_explicit(&shm->endpoints_version, memory_order_acquire);
}

struct slot *
slot_at(struct shm *shm, uint32_t slot)
{
    return slot < shm->max_endpoints ? &shm_slot_rows(shm)[slot] : NULL;
}

static bool
row_read_once(struct shm *shm, uint32_t at, struct slot *cold, struct slot_text *text)
{
    struct slot *slot = &shm_slot_rows(shm)[at];
    uint32_t before = atomic_load_explicit(&slot->seq, memory_order_acquire);
    atomic_store_explicit(&cold->seq, before, memory_order_relaxed);
    if ((before & 1) != 0) return false;
    cold->incarnation = __atomic_load_n(&slot->incarnation, __ATOMIC_RELAXED);
    words_load((char *)cold + 8, (const char *)slot + 8, 64 - 8);
    if (text != NULL && cold->state != SLOT_FREE) words_load(text, &texts(shm)[at], sizeof(*text));
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&slot->seq, memory_order_relaxed) == before;
}

static void
counters_read(struct slot *to, struct slot *from)
{
#define COPY(field)                                                                                          \
    atomic_store_explicit(                                                                                   \
        &to->field, atomic_load_explicit(&from->field, memory_order_relaxed), memory_order_relaxed)
    COPY(active);
    COPY(failures);
    COPY(latency_ewma_us);
    COPY(latency_stamp_ms);
    COPY(load_milli);
    COPY(error_row);
    COPY(requests);
    COPY(errors);
    COPY(server_errors);
    COPY(trial);
#undef COPY
}

bool
slot_read(struct shm *shm, uint32_t slot, struct slot *cold, struct slot_text *text)
{
    struct slot mine;
    if (cold == NULL) cold = &mine;
    atomic_store_explicit(&cold->seq, 0, memory_order_relaxed);
    if (slot >= shm->max_endpoints) return false;
    for (unsigned tries = 0; !row_read_once(shm, slot, cold, text); tries++) {
        if (tries >= READ_SPINS + READ_YIELDS) {
            atomic_store_explicit(&cold->seq, 1, memory_order_relaxed);
            return false;
        }
        if (tries >= READ_SPINS) sched_yield();
    }
    counters_read(cold, &shm_slot_rows(shm)[slot]);
    return cold->state != SLOT_FREE && cold->state < SLOT_STATE_COUNT;
}

/* ---- control ---- */

static void
counters_clear(struct slot *slot)
{
    static struct slot zero;
    counters_read(slot, &zero);
}

static bool
is_live(struct shm *shm, uint32_t slot)
{
    if (slot >= shm->max_endpoints) return false;
    uint32_t state = shm_slot_rows(shm)[slot].state;
    return state != SLOT_FREE && state != SLOT_GONE;
}

uint32_t
slot_claim(struct shm *shm, uint32_t service, enum slot_state state, uint32_t weight, uint32_t port,
    const struct slot_text *text)
{
    struct slot_text normal;
    struct slot cold;
    uint32_t high = shm_slots(shm), at = shm->free_hint <= high ? shm->free_hint : high;
    if (state == SLOT_FREE || state == SLOT_GONE || (unsigned)state >= SLOT_STATE_COUNT) return SLOT_NONE;
    while (at < high && shm_slot_rows(shm)[at].state != SLOT_FREE)
        at++;
    if (at >= shm->max_endpoints) return SLOT_NONE;
    if (at == high) {
        atomic_store_explicit(&shm->slots_high, at + 1, memory_order_release);
        if (atomic_load_explicit(&shm->slots_peak, memory_order_relaxed) < at + 1)
            atomic_store_explicit(&shm->slots_peak, at + 1, memory_order_release);
    }
    shm->free_hint = at + 1;
    text_normalise(&normal, text);
    cold_copy(&cold, &shm_slot_rows(shm)[at]);
    cold.incarnation++;
    cold.service = service;
    cold.state = state;
    cold.weight = weight;
    cold.port = port;
    cold.since_us = cold.up_us = clock_now_us();
    cold.until_us = 0;
    cold.ejections = 0;
    cold.text_hash = row_hash(&normal);
    counters_clear(&shm_slot_rows(shm)[at]);
    row_write(shm, at, &cold, &normal);
    index_add(shm, at);
    version_bump(shm);
    return at;
}

void
slot_update(struct shm *shm, uint32_t slot, uint32_t weight, uint32_t port, const struct slot_text *text)
{
    struct slot_text normal;
    struct slot cold;
    if (!is_live(shm, slot)) return;
    const struct slot_text *old = &texts(shm)[slot];
    text_normalise(&normal, text);
    memcpy(normal.id, old->id,
        sizeof(normal.id)); /* the id belongs to the incarnation, the reason to the state */
    memcpy(normal.reason, old->reason, sizeof(normal.reason));
    cold_copy(&cold, &shm_slot_rows(shm)[slot]);
    uint64_t hash = row_hash(&normal);
    if (cold.weight == weight && cold.port == port && cold.text_hash == hash) return;
    cold.weight = weight;
    cold.port = port;
    cold.text_hash = hash;
    row_write(shm, slot, &cold, &normal);
    version_bump(shm);
}

/* What a state is: `cold` with its state, until_us and ejections as they are to be. */
static void
state_write(struct shm *shm, uint32_t slot, struct slot *cold, const char *reason)
{
    struct slot_text text = texts(shm)[slot];
    struct slot *row = &shm_slot_rows(shm)[slot];
    bool moved = cold->state != row->state;
    bool is_same = !moved && cold->until_us == row->until_us && cold->ejections == row->ejections;
    field_copy(text.reason, reason == NULL ? "" : reason, sizeof(text.reason));
    if (is_same && strncmp(text.reason, texts(shm)[slot].reason, sizeof(text.reason)) == 0) return;
    /* A suspect is picked as ever, so it has nothing to warm up for. */
    bool was_up = row->state == SLOT_HEALTHY || row->state == SLOT_SUSPECT;
    if (moved) cold->since_us = clock_now_us();
    if (cold->state == SLOT_HEALTHY && !was_up) cold->up_us = cold->since_us;
    row_write(shm, slot, cold, &text);
    if (moved) version_bump(shm);
}

static void
state_move(struct shm *shm, uint32_t slot, enum slot_state state, const char *reason)
{
    struct slot cold, *row = &shm_slot_rows(shm)[slot];
    cold_copy(&cold, row);
    if (cold.state != (uint32_t)state) atomic_store_explicit(&row->trial, TRIAL_NONE, memory_order_relaxed);
    cold.state = state;
    if (state != SLOT_EJECTED) cold.until_us = 0;
    state_write(shm, slot, &cold, reason);
}

void
slot_set_state(struct shm *shm, uint32_t slot, enum slot_state state, const char *reason)
{
    if (!is_live(shm, slot) || state == SLOT_FREE || (unsigned)state >= SLOT_STATE_COUNT) return;
    if (state == SLOT_GONE) {
        slot_remove(shm, slot);
    } else {
        state_move(shm, slot, state, reason);
    }
}

void
slot_eject(struct shm *shm, uint32_t slot, uint64_t until_us, uint32_t ejections, const char *reason)
{
    struct slot cold;
    if (!is_live(shm, slot)) return;
    struct slot *row = &shm_slot_rows(shm)[slot];
    bool was_on_trial = atomic_exchange_explicit(&row->trial, TRIAL_NONE, memory_order_relaxed) != TRIAL_NONE;
    cold_copy(&cold, row);
    cold.state = SLOT_EJECTED;
    cold.until_us = until_us;
    cold.ejections = ejections;
    state_write(shm, slot, &cold, reason);
    if (was_on_trial) version_bump(shm); /* workers offer it no more */
}

void
slot_offer_trial(struct shm *shm, uint32_t slot, const char *reason)
{
    if (!is_live(shm, slot)) return;
    struct slot *row = &shm_slot_rows(shm)[slot];
    if (row->state != SLOT_EJECTED) return;
    atomic_store_explicit(&row->trial, TRIAL_OPEN, memory_order_relaxed);
    state_move(shm, slot, SLOT_EJECTED, reason);
    version_bump(shm);
}

void
slot_remove(struct shm *shm, uint32_t slot)
{
    if (!is_live(shm, slot)) return;
    index_drop(shm, slot);
    state_move(shm, slot, SLOT_GONE, "removed");
    gone_versions(shm)[slot] = shm_endpoints_version(shm);
    shm->gone_count++;
}

/* The oldest view that a live worker may still pick from. */
static uint64_t
oldest_view(struct shm *shm)
{
    uint64_t oldest = UINT64_MAX;
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        struct shm_worker *worker = &shm->workers[i];
        if (atomic_load_explicit(&worker->pid, memory_order_acquire) == 0) continue;
        uint64_t seen = atomic_load_explicit(&worker->endpoints_seen, memory_order_acquire);
        if (seen < oldest) oldest = seen;
    }
    return oldest;
}

/* The columns decide, not `active`, which may have lost a count to a worker killed inside slot_begin. */
static bool
is_idle(struct shm *shm, uint32_t slot)
{
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        if (atomic_load_explicit(shm_column(shm, i, slot), memory_order_acquire) != 0) return false;
    }
    return true;
}

unsigned
shm_reap(struct shm *shm)
{
    uint32_t high = shm_slots(shm);
    unsigned freed = 0;
    if (shm->gone_count == 0) return 0;
    uint64_t oldest = oldest_view(shm);
    for (uint32_t at = 0; at < high; at++) {
        if (shm_slot_rows(shm)[at].state != SLOT_GONE || gone_versions(shm)[at] > oldest || !is_idle(shm, at))
            continue;
        struct slot cold;
        cold_copy(&cold, &shm_slot_rows(shm)[at]);
        cold.state = SLOT_FREE;
        row_write(shm, at, &cold, NULL);
        counters_clear(&shm_slot_rows(shm)[at]);
        if (at < shm->free_hint) shm->free_hint = at;
        shm->gone_count--;
        freed++;
    }
    while (high > 0 && shm_slot_rows(shm)[high - 1].state == SLOT_FREE)
        high--;
    atomic_store_explicit(&shm->slots_high, high, memory_order_release);
    if (freed > 0) version_bump(shm);
    return freed;
}

/* A row whose text is whole keeps serving. One cut off in the middle may pair an id with another's address:
 * it goes, and discovery, which has no slot for that id now, claims a new one. */
static void
row_repair(struct shm *shm, uint32_t at)
{
    struct slot_text normal;
    struct slot cold;
    cold_copy(&cold, &shm_slot_rows(shm)[at]);
    text_normalise(&normal, &texts(shm)[at]);
    if (cold.state >= SLOT_STATE_COUNT) cold.state = SLOT_GONE;
    if (cold.state != SLOT_FREE && cold.text_hash != row_hash(&normal)) {
        cold.state = SLOT_GONE;
        field_copy(normal.reason, "control died while it wrote this row", sizeof(normal.reason));
        cold.text_hash = row_hash(&normal);
    }
    row_write(shm, at, &cold, &normal);
}

void
shm_control_adopt(struct shm *shm)
{
    uint32_t high = shm_slots(shm);
    uint64_t version = version_bump(shm);
    memset(index_cells(shm), 0, shm->index_cells * sizeof(uint32_t));
    shm->gone_count = 0;
    shm->free_hint = 0;
    for (uint32_t at = 0; at < high; at++) {
        if ((atomic_load_explicit(&shm_slot_rows(shm)[at].seq, memory_order_relaxed) & 1) != 0)
            row_repair(shm, at);
        if (shm_slot_rows(shm)[at].state == SLOT_GONE) {
            /* since when is unknown if its writer died before it noted that: from now on is safe */
            gone_versions(shm)[at] = version + 1;
            shm->gone_count++;
        } else if (shm_slot_rows(shm)[at].state != SLOT_FREE) {
            index_add(shm, at);
        }
    }
    version_bump(shm);
}
