#include "core/shm/dict.h"

#include <sched.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/shm/shm_internal.h"

/* A shard is heads of chains and blocks of 128 bytes. An entry is a block, which holds its key and then its
 * value, and as many further blocks as those need. Indexes are + 1; 0: none. What may be cut off by a kill:
 * a block in no chain, which repair finds; an entry that `writing` names, which repair drops. An entry joins
 * and leaves its chain by one store. */
enum {
    HEADS = 4096,
    ENTRY_BYTES = 80,
    MORE_BYTES = 124,
    BLOCKS = (DICT_SHARD_BYTES - 128 - HEADS * 4) / 128,
    SPINS_BEFORE_YIELD = 256,
    SWEEP_US = 10000, /* a full shard is searched for what expired this often: 50 us each */
};
/* A holder is inside for microseconds; one that is not waits for a processor, was stopped or was killed. */
#define LOCK_PATIENCE_US 100000
#define NEVER_US         UINT64_MAX

struct dict_entry {
    uint32_t more; /* its next block */
    uint32_t next; /* the next entry of its chain */
    uint64_t hash;
    uint64_t ends_us; /* 0: never */
    double number;    /* or the tokens of a bucket */
    uint64_t at_us;   /* when a bucket held them */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t kind; /* enum dict_kind */
    uint8_t unused;
    char bytes[ENTRY_BYTES];
};
struct dict_more {
    uint32_t more;
    char bytes[MORE_BYTES];
};
union dict_block {
    struct dict_entry entry;
    struct dict_more more;
};
static_assert(sizeof(union dict_block) == 128, "two cache lines");

struct dict_shard {
    _Atomic uint32_t lock;    /* who + 1; 0: nobody */
    _Atomic uint32_t writing; /* the entry that its holder is changing */
    uint32_t free;            /* chain of blocks by `more` */
    uint32_t free_count;
    uint32_t fresh;       /* blocks from here on were never used */
    uint32_t hand;        /* the chain to look for expired entries next */
    uint64_t earliest_us; /* nothing expires before; 0: not known, until a sweep looks */
    uint64_t swept_us;
    alignas(64) uint32_t heads[HEADS];
    alignas(64) union dict_block blocks[BLOCKS];
};
static_assert(sizeof(struct dict_shard) <= DICT_SHARD_BYTES, "a shard fits its place");

const char *
dict_result_word(enum dict_result result)
{
#define X(name, word) word,
    static const char *const words[] = {DICT_RESULTS(X)};
#undef X
    return (unsigned)result < DICT_RESULT_COUNT ? words[result] : "";
}

/* ---- blocks ---- */

static union dict_block *
block_at(struct dict_shard *shard, uint32_t index)
{
    return index - 1 < BLOCKS ? &shard->blocks[index - 1] : NULL;
}

static uint32_t
blocks_for(size_t bytes)
{
    return bytes <= ENTRY_BYTES ? 1 : (uint32_t)(1 + (bytes - ENTRY_BYTES + MORE_BYTES - 1) / MORE_BYTES);
}

static uint32_t
room(const struct dict_shard *shard)
{
    return shard->free_count + (shard->fresh < BLOCKS ? BLOCKS - shard->fresh : 0);
}

/* The caller has asked room(); 0 only where the shard is damaged. */
static uint32_t
block_take(struct dict_shard *shard)
{
    union dict_block *block = block_at(shard, shard->free);
    if (block == NULL) return shard->fresh < BLOCKS ? ++shard->fresh : 0;
    uint32_t index = shard->free;
    shard->free = block->more.more;
    if (shard->free_count > 0) shard->free_count--;
    return index;
}

static void
blocks_give(struct dict_shard *shard, uint32_t index, uint32_t count)
{
    union dict_block *block;
    for (; count > 0 && (block = block_at(shard, index)) != NULL; count--) {
        uint32_t next = block->more.more;
        block->more.more = shard->free;
        shard->free = index;
        shard->free_count++;
        index = next;
    }
}

/* An entry's bytes, block by block. */
struct run {
    char *at;
    size_t left;
    uint32_t more;
};

static struct run
run_begin(struct dict_entry *entry)
{
    return (struct run){entry->bytes, ENTRY_BYTES, entry->more};
}

/* The bytes at hand, at most `len`; 0: there are no more, the shard is damaged. */
static size_t
run_have(struct dict_shard *shard, struct run *run, size_t len)
{
    if (run->left == 0) {
        union dict_block *block = block_at(shard, run->more);
        if (block == NULL) return 0;
        *run = (struct run){block->more.bytes, MORE_BYTES, block->more.more};
    }
    return len < run->left ? len : run->left;
}

static void
run_pass(struct run *run, size_t n)
{
    run->at += n;
    run->left -= n;
}

static bool
run_equals(struct dict_shard *shard, struct run *run, struct slice s)
{
    for (size_t n; s.len > 0; s = (struct slice){s.at + n, s.len - n}) {
        n = run_have(shard, run, s.len);
        if (n == 0 || memcmp(run->at, s.at, n) != 0) return false;
        run_pass(run, n);
    }
    return true;
}

static bool
run_write(struct dict_shard *shard, struct run *run, struct slice s)
{
    for (size_t n; s.len > 0; s = (struct slice){s.at + n, s.len - n}) {
        n = run_have(shard, run, s.len);
        if (n == 0) return false;
        memcpy(run->at, s.at, n);
        run_pass(run, n);
    }
    return true;
}

/* Copies len bytes out, or passes over them where out is NULL. */
static bool
run_read(struct dict_shard *shard, struct run *run, size_t len, char *out)
{
    for (size_t n; len > 0; len -= n) {
        n = run_have(shard, run, len);
        if (n == 0) return false;
        if (out != NULL) memcpy(out, run->at, n);
        if (out != NULL) out += n;
        run_pass(run, n);
    }
    return true;
}

/* ---- chains ---- */

static bool
is_over(const struct dict_entry *entry, uint64_t now_us)
{
    return entry->ends_us != 0 && entry->ends_us <= now_us;
}

/* `link` is the head or the `next` that names it. */
static void
entry_remove(struct dict_shard *shard, uint32_t *link)
{
    uint32_t index = *link;
    struct dict_entry *entry = &block_at(shard, index)->entry;
    uint32_t count = blocks_for((size_t)entry->key_len + entry->value_len);
    __atomic_store_n(link, entry->next, __ATOMIC_RELEASE);
    atomic_signal_fence(memory_order_seq_cst);
    blocks_give(shard, index, count);
}

static void
chain_expire(struct dict_shard *shard, uint32_t head, uint64_t now_us)
{
    uint32_t *link = &shard->heads[head];
    for (union dict_block *block; (block = block_at(shard, *link)) != NULL;) {
        if (is_over(&block->entry, now_us)) {
            entry_remove(shard, link);
            continue;
        }
        if (block->entry.ends_us != 0 && block->entry.ends_us < shard->earliest_us)
            shard->earliest_us = block->entry.ends_us;
        link = &block->entry.next;
    }
}

/* The whole shard, at most each SWEEP_US, and only where something has expired. */
static void
sweep(struct dict_shard *shard, uint64_t now_us)
{
    if (now_us < shard->earliest_us || (shard->swept_us != 0 && now_us - shard->swept_us < SWEEP_US)) return;
    shard->swept_us = now_us;
    shard->earliest_us = NEVER_US;
    for (uint32_t head = 0; head < HEADS; head++)
        chain_expire(shard, head, now_us);
}

static bool
make_room(struct dict_shard *shard, uint32_t blocks, uint64_t now_us)
{
    if (room(shard) < blocks) sweep(shard, now_us);
    return room(shard) >= blocks;
}

/* Its entry, or NULL; expired ones on the way are let go. */
static struct dict_entry *
entry_find(struct dict_shard *shard, uint64_t hash, struct slice key, uint64_t now_us, uint32_t **found)
{
    uint32_t *link = &shard->heads[hash % HEADS], steps = 0;
    for (union dict_block *block; (block = block_at(shard, *link)) != NULL && steps < BLOCKS; steps++) {
        struct dict_entry *entry = &block->entry;
        if (is_over(entry, now_us)) {
            entry_remove(shard, link);
            continue;
        }
        if (entry->hash == hash && entry->key_len == key.len) {
            struct run run = run_begin(entry);
            *found = link;
            if (run_equals(shard, &run, key)) return entry;
        }
        link = &entry->next;
    }
    return NULL;
}

/* A chain of `blocks` blocks behind `*link`. False only where the shard is damaged. */
static bool
chain_take(struct dict_shard *shard, uint32_t *link, uint32_t blocks)
{
    for (; blocks > 0; blocks--) {
        uint32_t index = block_take(shard);
        if (index == 0) return false;
        shard->blocks[index - 1].more.more = 0;
        *link = index;
        link = &shard->blocks[index - 1].more.more;
    }
    return true;
}

static void
entry_ends(struct dict_shard *shard, struct dict_entry *entry, uint64_t now_us, uint64_t ttl_us)
{
    uint64_t ends = 0;
    if (ttl_us != 0 && __builtin_add_overflow(now_us, ttl_us, &ends)) ends = 0;
    entry->ends_us = ends;
    if (ends != 0 && ends < shard->earliest_us) shard->earliest_us = ends;
}

/* A new entry at the head of its chain: filled before it is shown. NULL: full. */
static struct dict_entry *
entry_make(struct dict_shard *shard, uint64_t hash, struct slice key, uint64_t now_us,
    const struct dict_value *value, uint64_t ttl_us)
{
    uint32_t blocks = blocks_for(key.len + value->text.len), index = 0;
    chain_expire(shard, shard->hand++ % HEADS, now_us);
    if (!make_room(shard, blocks, now_us) || !chain_take(shard, &index, blocks)) return NULL;
    struct dict_entry *entry = &shard->blocks[index - 1].entry;
    *entry = (struct dict_entry){.more = entry->more,
        .next = shard->heads[hash % HEADS],
        .hash = hash,
        .number = value->number,
        .value_len = (uint32_t)value->text.len,
        .key_len = (uint16_t)key.len,
        .kind = (uint8_t)value->kind};
    struct run run = run_begin(entry);
    if (!run_write(shard, &run, key) || !run_write(shard, &run, value->text)) return NULL;
    entry_ends(shard, entry, now_us, ttl_us);
    __atomic_store_n(&shard->heads[hash % HEADS], index, __ATOMIC_RELEASE);
    return entry;
}

/* Another value in the same place, under `writing`. False: full, and the old value stands. */
static bool
entry_rewrite(struct dict_shard *shard, uint32_t index, const struct dict_value *value, uint64_t now_us,
    uint64_t ttl_us)
{
    struct dict_entry *entry = &block_at(shard, index)->entry;
    uint32_t had = blocks_for((size_t)entry->key_len + entry->value_len);
    uint32_t want = blocks_for((size_t)entry->key_len + value->text.len), kept = had < want ? had : want;
    if (want > had && !make_room(shard, want - had, now_us)) return false;
    atomic_store_explicit(&shard->writing, index, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t *link = &entry->more;
    for (uint32_t i = 1; i < kept && block_at(shard, *link) != NULL; i++)
        link = &block_at(shard, *link)->more.more;
    if (had > want) blocks_give(shard, *link, had - want);
    *link = had > want ? 0 : *link;
    bool whole = want <= had || chain_take(shard, link, want - had);
    entry->kind = (uint8_t)value->kind;
    entry->number = value->number;
    entry->value_len = (uint32_t)value->text.len;
    entry_ends(shard, entry, now_us, ttl_us);
    struct run run = run_begin(entry);
    whole = whole && run_read(shard, &run, entry->key_len, NULL) && run_write(shard, &run, value->text);
    atomic_store_explicit(&shard->writing, 0, memory_order_release);
    return whole;
}

/* ---- locks ---- */

static inline void
pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* False: its holder is neither done nor reaped. */
static bool
shard_lock(struct dict_shard *shard, unsigned who)
{
    uint64_t began_us = 0;
    for (unsigned spins = 0;; spins++) {
        uint32_t nobody = 0;
        if (atomic_load_explicit(&shard->lock, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong_explicit(
                &shard->lock, &nobody, who + 1, memory_order_acquire, memory_order_relaxed))
            return true;
        if (spins < SPINS_BEFORE_YIELD) {
            pause_cpu();
            continue;
        }
        uint64_t now_us = clock_now_us();
        if (began_us == 0) began_us = now_us;
        if (now_us - began_us > LOCK_PATIENCE_US) return false;
        sched_yield();
    }
}

static void
shard_unlock(struct dict_shard *shard)
{
    atomic_store_explicit(&shard->lock, 0, memory_order_release);
}

static struct dict_shard *
shard_at(struct dict *dict, unsigned at)
{
    return (struct dict_shard *)(void *)((char *)dict + (size_t)at * DICT_SHARD_BYTES);
}

/* One call on a key: its shard is locked when this says OK. */
struct visit {
    struct dict_shard *shard;
    uint64_t hash;
    uint32_t *link; /* that names `entry` */
    struct dict_entry *entry;
};

static enum dict_result
visit_begin(
    struct visit *visit, struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us)
{
    if (key.len == 0 || key.len > DICT_KEY_BYTES) return DICT_KEY;
    if (who > DICT_CONTROL) return DICT_BUSY;
    visit->hash = text_hash_secret(key, shm->hash_secret);
    visit->shard = shard_at(dict, (unsigned)(visit->hash >> 32) % shm->dict_shards);
    if (!shard_lock(visit->shard, who)) return DICT_BUSY;
    visit->link = NULL;
    visit->entry = entry_find(visit->shard, visit->hash, key, now_us, &visit->link);
    return DICT_OK;
}

static enum dict_result
visit_end(struct visit *visit, struct shm *shm, enum dict_result result)
{
    shard_unlock(visit->shard);
    if (result == DICT_FULL) atomic_fetch_add_explicit(&shm_totals(shm)->dict_full, 1, memory_order_relaxed);
    return result;
}

/* ---- what Lua calls ---- */

static struct dict *
dict_at(struct shm *shm, unsigned i)
{
    return shm_at(shm, shm->dicts_at + i * shm_dict_bytes(shm));
}

struct dict *
shm_dict(struct shm *shm, struct slice name)
{
    if (name.len == 0 || name.len > DICT_NAME_BYTES) return NULL;
    uint64_t tag = text_hash_secret(name, shm->hash_secret) | 1;
    for (unsigned i = 0; i < shm->dict_count; i++) {
        uint64_t seen = atomic_load(&shm->dict_tags[i]);
        if (seen == 0 && atomic_compare_exchange_strong(&shm->dict_tags[i], &seen, tag)) seen = tag;
        if (seen == tag) return dict_at(shm, i);
    }
    return NULL;
}

struct dict *
shm_dict_own(struct shm *shm)
{
    atomic_store_explicit(&shm->dict_tags[shm->dict_count], 1, memory_order_relaxed);
    return dict_at(shm, shm->dict_count);
}

enum dict_result
dict_get(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us, char *buffer,
    struct dict_value *value)
{
    struct visit visit;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    struct dict_entry *entry = visit.entry;
    if (entry == NULL || entry->kind == DICT_TOKENS) return visit_end(&visit, shm, DICT_NONE);
    *value = (struct dict_value){(enum dict_kind)entry->kind, entry->number, SLICE_NONE};
    if (entry->kind == DICT_STRING) {
        struct run run = run_begin(entry);
        value->text = (struct slice){buffer, entry->value_len};
        if (entry->value_len > DICT_VALUE_BYTES || !run_read(visit.shard, &run, entry->key_len, NULL) ||
            !run_read(visit.shard, &run, entry->value_len, buffer))
            result = DICT_NONE;
    }
    return visit_end(&visit, shm, result);
}

enum dict_result
dict_set(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us,
    const struct dict_value *value, uint64_t ttl_us, bool only_new)
{
    struct visit visit;
    if (value->text.len > DICT_VALUE_BYTES) return DICT_VALUE;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    if (visit.entry != NULL && only_new) {
        result = DICT_EXISTS;
    } else if (visit.entry != NULL) {
        if (!entry_rewrite(visit.shard, *visit.link, value, now_us, ttl_us)) result = DICT_FULL;
    } else if (entry_make(visit.shard, visit.hash, key, now_us, value, ttl_us) == NULL) {
        result = DICT_FULL;
    }
    return visit_end(&visit, shm, result);
}

enum dict_result
dict_incr(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us, double by,
    const double *initial, uint64_t ttl_us, double *sum)
{
    struct visit visit;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    if (visit.entry == NULL) {
        if (initial == NULL) return visit_end(&visit, shm, DICT_NONE);
        *sum = *initial + by;
        struct dict_value value = {DICT_NUMBER, *sum, SLICE_NONE};
        if (entry_make(visit.shard, visit.hash, key, now_us, &value, ttl_us) == NULL) result = DICT_FULL;
    } else if (visit.entry->kind != DICT_NUMBER) {
        result = DICT_KIND;
    } else {
        *sum = visit.entry->number += by; /* one word: whole, wherever its writer dies */
    }
    return visit_end(&visit, shm, result);
}

enum dict_result
dict_delete(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us)
{
    struct visit visit;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    if (visit.entry == NULL) return visit_end(&visit, shm, DICT_NONE);
    entry_remove(visit.shard, visit.link);
    return visit_end(&visit, shm, DICT_OK);
}

enum dict_result
dict_ttl(
    struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us, uint64_t *left_us)
{
    struct visit visit;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    if (visit.entry == NULL) return visit_end(&visit, shm, DICT_NONE);
    *left_us = visit.entry->ends_us == 0 ? NEVER_US : visit.entry->ends_us - now_us;
    return visit_end(&visit, shm, DICT_OK);
}

/* Microseconds of a time in seconds, at most a hundred years: then the entry stays as good as for ever. */
static uint64_t
us_of(double seconds)
{
    const double most = 3.2e9;
    return (uint64_t)((seconds < most ? seconds : most) * 1e6) + 1;
}

enum dict_result
dict_take(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us, double rate,
    double burst, double cost, double *rest)
{
    struct visit visit;
    enum dict_result result = visit_begin(&visit, shm, dict, who, key, now_us);
    if (result != DICT_OK) return result;
    struct dict_entry *entry = visit.entry;
    double left = burst;
    if (entry == NULL) {
        struct dict_value value = {DICT_TOKENS, burst, SLICE_NONE};
        entry = entry_make(visit.shard, visit.hash, key, now_us, &value, 1);
        if (entry == NULL) return visit_end(&visit, shm, DICT_FULL);
    } else if (entry->kind != DICT_TOKENS) {
        return visit_end(&visit, shm, DICT_BUCKET);
    } else {
        /* another worker's clock reading may be a little ahead of ours */
        uint64_t passed_us = now_us > entry->at_us ? now_us - entry->at_us : 0;
        left = entry->number + (double)passed_us * rate / 1e6;
        if (left > burst) left = burst;
        if (now_us < entry->at_us) now_us = entry->at_us;
    }
    bool taken = left + 1e-9 >= cost;
    *rest = taken ? left - cost : (cost - left) / rate;
    if (taken) left = left > cost ? left - cost : 0;
    if (taken) *rest = left;
    entry->at_us = now_us; /* first: who dies here has a bucket that fills later, never one that holds more */
    atomic_signal_fence(memory_order_seq_cst);
    entry->number = left;
    entry_ends(visit.shard, entry, now_us, us_of((burst - left) / rate));
    return visit_end(&visit, shm, taken ? DICT_OK : DICT_REFUSED);
}

/* ---- the dead ---- */

/* Marks the blocks of an entry that is whole; false: it is not. */
static bool
entry_claim(struct dict_shard *shard, uint32_t index, uint32_t head, uint8_t *claimed)
{
    const struct dict_entry *entry = &shard->blocks[index - 1].entry;
    size_t bytes = (size_t)entry->key_len + entry->value_len;
    if (entry->hash % HEADS != head || entry->key_len == 0 || entry->key_len > DICT_KEY_BYTES ||
        entry->value_len > DICT_VALUE_BYTES || entry->kind < DICT_NUMBER || entry->kind > DICT_TOKENS)
        return false;
    uint32_t count = blocks_for(bytes), at = index;
    for (uint32_t i = 0; i < count; i++) {
        if (at - 1 >= BLOCKS || at > shard->fresh || (claimed[(at - 1) / 8] >> (at - 1) % 8 & 1) != 0) break;
        claimed[(at - 1) / 8] |= (uint8_t)(1u << (at - 1) % 8);
        at = shard->blocks[at - 1].more.more;
        if (i + 1 == count && at == 0) return true;
    }
    /* what it claimed stays out of use until the next repair: never in two places */
    return false;
}

/* Its holder is dead: keeps every entry that is whole and frees all other blocks. */
static void
shard_repair(struct dict_shard *shard)
{
    uint8_t claimed[(BLOCKS + 7) / 8] = {0};
    uint32_t writing = atomic_load(&shard->writing);
    if (shard->fresh > BLOCKS) shard->fresh = BLOCKS;
    for (uint32_t head = 0; head < HEADS; head++) {
        uint32_t *link = &shard->heads[head], steps = 0;
        for (union dict_block *block; (block = block_at(shard, *link)) != NULL && steps < BLOCKS; steps++) {
            if (*link != writing && entry_claim(shard, *link, head, claimed))
                link = &block->entry.next;
            else
                *link = block->entry.next;
        }
        if (*link != 0) *link = 0;
    }
    shard->free = shard->free_count = 0;
    for (uint32_t at = shard->fresh; at > 0; at--) {
        if ((claimed[(at - 1) / 8] >> (at - 1) % 8 & 1) != 0) continue;
        shard->blocks[at - 1].more.more = shard->free;
        shard->free = at;
        shard->free_count++;
    }
    shard->earliest_us = shard->swept_us = 0;
    atomic_store(&shard->writing, 0);
}

void
dicts_reap(struct shm *shm, unsigned who)
{
    for (unsigned i = 0; i <= shm->dict_count; i++) {
        if (atomic_load(&shm->dict_tags[i]) == 0) continue;
        for (unsigned s = 0; s < shm->dict_shards; s++) {
            struct dict_shard *shard = shard_at(dict_at(shm, i), s);
            if (atomic_load(&shard->lock) != who + 1) continue;
            shard_repair(shard);
            shard_unlock(shard);
        }
    }
}
