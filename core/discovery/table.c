#include "core/discovery/discovery_internal.h"

#include <stdlib.h>

#include "core/base/log.h"
#include "core/base/text.h"

/* Reasons that the registry's flags leave behind: a successor knows by them whose doing the state was. */
static const char reason_maintenance[] = "registry: maintenance";
static const char reason_draining[] = "registry: draining";
static const char reason_lapsed[] = "registry: its lease lapsed";
static const char reason_missing[] = "registry: no longer listed";

struct row { /* of one slot, by its number */
    uint32_t incarnation;
    uint32_t round; /* the last one that wanted it */
    bool is_registered;
    bool is_flagged;  /* maintenance or draining by the registry, not by an operator */
    bool was_healthy; /* before it became suspect */
    bool is_listed;   /* suspect though the registry still lists it, as lapsed */
    uint64_t registered, epoch;
};

struct table {
    struct shm *shm;
    struct row *rows;
    uint32_t cap;
    uint32_t round;
    /* lapsed instances whose probe failed: hashes of (service, id), so that the next answer does not bring
     * them back */
    struct burial {
        uint64_t key;
        uint32_t round; /* the last one that still listed it */
    } * buried;
    size_t buried_count, buried_cap;
    struct table_counts counts;
    struct log_every full;
    struct slot_text scratch;
};

static uint64_t
burial_key(uint32_t service, struct slice id)
{
    return text_hash(id) ^ ((uint64_t)service + 1) * 0x9e3779b97f4a7c15u;
}

static size_t
buried_find(const struct table *table, uint64_t key)
{
    size_t i = 0;
    while (i < table->buried_count && table->buried[i].key != key)
        i++;
    return i;
}

static void
bury(struct table *table, uint64_t key)
{
    size_t at = buried_find(table, key);
    if (at < table->buried_count) {
        table->buried[at].round = table->round;
        return;
    }
    if (table->buried_count == table->buried_cap) {
        size_t cap = table->buried_cap == 0 ? 64 : table->buried_cap * 2;
        struct burial *grown = realloc(table->buried, cap * sizeof *grown);
        if (grown == NULL) return; /* it comes back as suspect and is probed again */
        table->buried = grown;
        table->buried_cap = cap;
    }
    table->buried[table->buried_count++] = (struct burial){key, table->round};
}

static void
unbury(struct table *table, uint64_t key)
{
    size_t at = buried_find(table, key);
    if (at < table->buried_count) table->buried[at] = table->buried[--table->buried_count];
}

/* The row of a live slot; one that a predecessor left is made from what the slot says. NULL: out of memory.
 */
static struct row *
row_of(struct table *table, uint32_t slot, const struct slot *cold)
{
    if (slot >= table->cap) {
        uint32_t cap = table->cap == 0 ? 256 : table->cap;
        while (cap <= slot)
            cap *= 2;
        struct row *grown = realloc(table->rows, cap * sizeof *grown);
        if (grown == NULL) return NULL;
        memset(grown + table->cap, 0, (cap - table->cap) * sizeof *grown);
        table->rows = grown;
        table->cap = cap;
    }
    struct row *row = &table->rows[slot];
    if (row->incarnation == cold->incarnation) return row;
    *row = (struct row){.incarnation = cold->incarnation, .was_healthy = true};
    if (slot_read(table->shm, slot, NULL, &table->scratch)) {
        const char *reason = table->scratch.reason;
        row->is_registered = table->scratch.origin == 1;
        row->is_flagged = strcmp(reason, reason_maintenance) == 0 || strcmp(reason, reason_draining) == 0;
        row->is_listed = strcmp(reason, reason_lapsed) == 0;
    }
    return row;
}

static uint32_t
find(struct table *table, uint32_t service, struct slice id, struct slot *cold)
{
    uint32_t slot = slot_find(table->shm, service, id);
    if (slot == SLOT_NONE || !slot_read(table->shm, slot, cold, NULL) || cold->state == SLOT_GONE)
        return SLOT_NONE;
    return slot;
}

static void
suspect(struct table *table, uint32_t slot, struct row *row, uint32_t state, bool is_listed)
{
    const char *reason = is_listed ? reason_lapsed : reason_missing;
    if (state == SLOT_SUSPECT && row->is_listed == is_listed) return;
    if (state != SLOT_SUSPECT) row->was_healthy = state == SLOT_HEALTHY;
    row->is_listed = is_listed;
    slot_set_state(table->shm, slot, SLOT_SUSPECT, reason);
}

/* The registry's word on an endpoint that is there. A verdict of health stays where the registry has nothing
 * against it. */
static void
row_judge(struct table *table, uint32_t slot, struct row *row, uint32_t state, const struct want *want)
{
    enum slot_state begin = want->has_policy ? SLOT_UNPROVEN : SLOT_HEALTHY;
    if (want->maintenance || want->draining) {
        enum slot_state flagged = want->maintenance ? SLOT_MAINTENANCE : SLOT_DRAINING;
        row->is_flagged = true;
        if (state != flagged) {
            slot_set_state(
                table->shm, slot, flagged, want->maintenance ? reason_maintenance : reason_draining);
        }
        return;
    }
    bool was_flagged = row->is_flagged && (state == SLOT_MAINTENANCE || state == SLOT_DRAINING);
    row->is_flagged = false;
    if (was_flagged) {
        slot_set_state(table->shm, slot, begin, "registry: back in service");
        state = begin;
    }
    if (want->lapsed && state == SLOT_UNHEALTHY) {
        slot_remove(table->shm, slot); /* its probes failed already */
        bury(table, burial_key(want->service, slice_of(want->text->id)));
    } else if (want->lapsed) {
        if (state != SLOT_MAINTENANCE && state != SLOT_DRAINING) suspect(table, slot, row, state, true);
    } else if (state == SLOT_SUSPECT) {
        slot_set_state(table->shm, slot, row->was_healthy ? SLOT_HEALTHY : begin, "registry: listed again");
    }
}

static void
row_claim(struct table *table, const struct want *want)
{
    enum slot_state state = want->has_policy ? SLOT_UNPROVEN : SLOT_HEALTHY;
    const char *reason = want->registered != 0 ? "new in the registry" : "new in the configuration";
    struct slot cold;
    uint64_t suppressed;
    if (want->lapsed) {
        state = SLOT_SUSPECT;
        reason = reason_lapsed;
    }
    if (want->draining) {
        state = SLOT_DRAINING;
        reason = reason_draining;
    }
    if (want->maintenance) {
        state = SLOT_MAINTENANCE;
        reason = reason_maintenance;
    }
    if (!text_copy(want->text->reason, sizeof want->text->reason, slice_of(reason))) return;
    uint32_t slot = slot_claim(table->shm, want->service, state, want->weight, want->port, want->text);
    if (slot == SLOT_NONE) {
        table->counts.full++;
        if (!log_every_due(&table->full, LOG_INTERVAL_US, &suppressed)) return;
        log_errorx("endpoint table is full: limits.max_endpoints is too small",
            F_STR("endpoint", want->text->id), F_STR("service", shm_name_text(table->shm, want->service)),
            F_UINT("suppressed", suppressed));
        return;
    }
    struct row *row = slot_read(table->shm, slot, &cold, NULL) ? row_of(table, slot, &cold) : NULL;
    if (row == NULL) return;
    *row = (struct row){.incarnation = cold.incarnation,
        .round = table->round,
        .is_registered = want->registered != 0,
        .is_flagged = want->maintenance || want->draining,
        .is_listed = want->lapsed,
        .registered = want->registered,
        .epoch = want->epoch};
}

/* Burials last as long as the registry lists the dead. */
static void
burials_sweep(struct table *table)
{
    for (size_t i = 0; i < table->buried_count;) {
        if (table->buried[i].round == table->round) {
            i++;
        } else {
            table->buried[i] = table->buried[--table->buried_count];
        }
    }
}

struct table *
table_new(struct shm *shm)
{
    struct table *table = calloc(1, sizeof *table);
    if (table != NULL) table->shm = shm;
    return table;
}

void
table_begin(struct table *table)
{
    table->round++;
}

void
table_want(struct table *table, const struct want *want)
{
    struct slice id = slice_of(want->text->id);
    uint64_t key = burial_key(want->service, id);
    struct slot cold;
    uint32_t slot = find(table, want->service, id, &cold);
    if (!want->lapsed) unbury(table, key);
    if (slot == SLOT_NONE) {
        bool is_buried = want->lapsed && buried_find(table, key) < table->buried_count;
        if (is_buried) {
            bury(table, key);
        } else if (want->text->address_len > 0) {
            row_claim(table, want);
        }
        return;
    }
    struct row *row = row_of(table, slot, &cold);
    if (row == NULL || row->round == table->round) return; /* the first of two with one id wins */
    row->round = table->round;
    if (want->text->address_len == 0) {
        if (!slot_read(table->shm, slot, NULL, &table->scratch)) return;
        want->text->address_len = table->scratch.address_len;
        want->text->address = table->scratch.address;
    }
    slot_update(table->shm, slot, want->weight, want->port, want->text);
    row->is_registered = want->registered != 0;
    row->registered = want->registered;
    row->epoch = want->epoch;
    if (row->is_registered) {
        row_judge(table, slot, row, cold.state, want);
    } else if (cold.state == SLOT_SUSPECT) {
        slot_set_state(
            table->shm, slot, want->has_policy ? SLOT_UNPROVEN : SLOT_HEALTHY, "new in the configuration");
    }
}

/* A registry endpoint that this round did not want. */
static void
row_absent(struct table *table, uint32_t slot, struct row *row, const struct slot *cold,
    const struct table_round *round)
{
    enum absent_rule rule = round->absent;
    if (!round->selects(round->context, cold->service, row->registered))
        rule = round->is_swapping ? ABSENT_KEEP : ABSENT_REMOVE;
    if (rule == ABSENT_KEEP) return;
    if (rule == ABSENT_EPOCH) rule = row->epoch == round->epoch ? ABSENT_REMOVE : ABSENT_SUSPECT;
    /* one that took no new requests has nothing to prove, one that failed its probes has shown enough */
    bool is_pickable = cold->state == SLOT_UNPROVEN || cold->state == SLOT_HEALTHY ||
                       cold->state == SLOT_EJECTED || cold->state == SLOT_SUSPECT;
    if (rule == ABSENT_REMOVE || !is_pickable) {
        slot_remove(table->shm, slot);
    } else {
        suspect(table, slot, row, cold->state, false);
    }
}

void
table_end(struct table *table, const struct table_round *round)
{
    uint32_t high = shm_slots(table->shm);
    uint64_t full = table->counts.full;
    table->counts = (struct table_counts){.full = full};
    for (uint32_t slot = 0; slot < high; slot++) {
        struct slot cold;
        if (!slot_read(table->shm, slot, &cold, NULL) || cold.state == SLOT_GONE) continue;
        struct row *row = row_of(table, slot, &cold);
        if (row == NULL) continue;
        if (row->round != table->round) {
            if (row->is_registered) {
                row_absent(table, slot, row, &cold, round);
            } else if (!round->is_swapping) {
                slot_remove(table->shm, slot);
            }
        }
        if (!slot_read(table->shm, slot, &cold, NULL) || cold.state == SLOT_GONE) continue;
        if (row->is_registered) {
            table->counts.registered++;
        } else {
            table->counts.fixed++;
        }
        if (cold.state == SLOT_SUSPECT) table->counts.suspects++;
    }
    if (round->absent != ABSENT_KEEP) burials_sweep(table);
}

bool
table_address(struct table *table, uint32_t service, struct slice id, struct sockaddr_storage *out)
{
    struct slot cold;
    uint32_t slot = find(table, service, id, &cold);
    if (slot == SLOT_NONE || !slot_read(table->shm, slot, NULL, &table->scratch)) return false;
    if (table->scratch.address_len == 0 || table->scratch.address_len > sizeof *out) return false;
    memset(out, 0, sizeof *out);
    memcpy(out, &table->scratch.address, table->scratch.address_len);
    return true;
}

bool
table_has(struct table *table, uint32_t service, struct slice id)
{
    struct slot cold;
    return find(table, service, id, &cold) != SLOT_NONE;
}

void
table_suspect_failed(struct table *table, uint32_t slot)
{
    struct slot cold;
    if (!slot_read(table->shm, slot, &cold, NULL) || cold.state != SLOT_SUSPECT) return;
    struct row *row = row_of(table, slot, &cold);
    if (row == NULL || !slot_read(table->shm, slot, NULL, &table->scratch)) return;
    log_info("endpoint is gone: its lease lapsed and its probe failed", F_STR("endpoint", table->scratch.id),
        F_STR("service", shm_name_text(table->shm, cold.service)));
    if (row->is_listed) bury(table, burial_key(cold.service, slice_of(table->scratch.id)));
    slot_remove(table->shm, slot);
}

struct table_counts
table_counts(const struct table *table)
{
    return table->counts;
}

void
table_free(struct table *table)
{
    if (table == NULL) return;
    free(table->rows);
    free(table->buried);
    free(table);
}
