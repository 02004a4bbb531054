/* From the shared segment to the arrays that pick() sees. Runs when shm_endpoints_version moved, never per
 * request. */
#include "core/script/script_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"

static enum tier
tier_of(const struct slot *cold)
{
    switch ((enum slot_state)cold->state) {
    case SLOT_HEALTHY:
    case SLOT_SUSPECT: return cold->weight == 0 ? TIER_BOUND : TIER_GOOD;
    case SLOT_UNPROVEN: return cold->weight == 0 ? TIER_BOUND : TIER_UNPROVEN;
    case SLOT_EJECTED: return cold->weight == 0 ? TIER_BOUND : TIER_EJECTED;
    case SLOT_DRAINING: return TIER_BOUND;
    case SLOT_FREE:
    case SLOT_UNHEALTHY:
    case SLOT_MAINTENANCE:
    case SLOT_GONE:
    case SLOT_STATE_COUNT: break;
    }
    return TIER_NEVER;
}

/* Envoy's slow start with its defaults (min_weight_percent 10, aggression 1): weight × max(10 %, elapsed ÷
 * window), here in steps of 5 % of the window, since each step rebuilds what on_change prepared. */
enum { RAMP_STEPS = 20, RAMP_LEAST = 2 };

static double
effective_weight(struct script *script, const struct service *service, const struct slot *cold)
{
    uint64_t window = service->config->slow_start_us;
    if (LIKELY(window == 0)) return cold->weight;
    uint64_t now = clock_now_us(), elapsed = now > cold->up_us ? now - cold->up_us : 0;
    if (elapsed >= window) return cold->weight;
    double width = (double)window / RAMP_STEPS;
    uint64_t step = (uint64_t)((double)elapsed / width);
    uint64_t due =
        cold->up_us + (uint64_t)((double)(step + 1) * width) + 1; /* + 1: past what was rounded off */
    if (script->ramp_due_us == 0 || due < script->ramp_due_us) script->ramp_due_us = due;
    return cold->weight * (double)(step < RAMP_LEAST ? RAMP_LEAST : step) / RAMP_STEPS;
}

static struct service *
service_of(struct script *script, uint32_t name_id)
{
    uint32_t at = name_id < SHM_NAMES_MAX ? script->service_by_name[name_id] : 0;
    return at == 0 ? NULL : &script->services[at - 1];
}

/* The view, and so every Lua reference to it, learns that its endpoint is gone. */
static void
member_free(struct member *member)
{
    if (member == NULL) return;
    if (member->view != NULL) member->view->handle = member->view->incarnation = 0;
    free(member->id);
    free(member);
}

static bool
grow_slots(struct script *script, uint32_t slots)
{
    if (slots <= script->slot_cap) return true;
    uint32_t cap = slots < 64 ? 64 : slots + slots / 2;
    struct member **rows = realloc(script->by_slot, cap * sizeof(struct member *));
    if (rows == NULL) return false;
    memset(rows + script->slot_cap, 0, (cap - script->slot_cap) * sizeof(struct member *));
    script->by_slot = rows;
    script->slot_cap = cap;
    return true;
}

/* The text of a row changed (or is new): its cached Lua strings go. Protected by the caller. */
static int
forget_text(lua_State *L)
{
    struct member *member = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, member->script->texts_ref);
    lua_pushnil(L);
    lua_rawseti(L, -2, (int)member->slot + 1);
    return 0;
}

static struct member *
member_new(struct script *script, uint32_t slot, const struct slot *cold, const struct slot_text *text,
    uint32_t service)
{
    struct member *member = calloc(1, sizeof *member);
    if (member == NULL) return NULL;
    *member = (struct member){.script = script,
        .shared = slot_at(script->env.shm, slot),
        .slot = slot,
        .incarnation = cold->incarnation,
        .service = service,
        .id = slice_dup(slice_of(text->id))};
    if (member->id == NULL || member->shared == NULL) {
        member_free(member);
        return NULL;
    }
    return member;
}

/* Brings by_slot[slot] up to date. False where memory is out. */
static bool
scan_slot(struct script *script, uint32_t slot)
{
    struct slot cold;
    struct member *known = script->by_slot[slot];
    struct service *service = NULL;
    if (slot_read(script->env.shm, slot, &cold, NULL) && cold.state != SLOT_GONE)
        service = service_of(script, cold.service);
    if (service == NULL || (known != NULL && known->incarnation != cold.incarnation)) {
        script->by_slot[slot] = NULL;
        member_free(known);
        known = NULL;
    }
    if (service == NULL) return true;
    bool is_new = known == NULL;
    if (is_new || known->text_hash != cold.text_hash) {
        if (!slot_read(script->env.shm, slot, &cold, &script->text))
            return true; /* gone meanwhile: the version moved again */
        if (is_new) {
            known = member_new(script, slot, &cold, &script->text, (uint32_t)(service - script->services));
            if (known == NULL) return false;
            script->by_slot[slot] = known;
        }
        known->text_hash = cold.text_hash;
        if (script->L != NULL && lua_cpcall(script->L, forget_text, known) != 0) {
            lua_pop(script->L, 1);
            return false;
        }
    }
    known->weight = cold.weight;
    known->port = cold.port;
    known->state = cold.state;
    known->tier = tier_of(&cold);
    known->is_on_trial = cold.state == SLOT_EJECTED && known->tier == TIER_EJECTED &&
                         atomic_load_explicit(&cold.trial, memory_order_relaxed) != TRIAL_NONE;
    known->effective_weight = effective_weight(script, service, &cold);
    if (known->view != NULL) {
        known->view->weight = cold.weight;
        known->view->port = cold.port;
        known->view->effective_weight = known->effective_weight;
    }
    return true;
}

static int
compare_members(const void *a, const void *b)
{
    const struct member *left = *(struct member *const *)a, *right = *(struct member *const *)b;
    int order = strcmp(left->id, right->id);
    if (order != 0) return order;
    return left->slot < right->slot ? -1 : left->slot > right->slot;
}

static bool
service_reserve(struct service *service, uint32_t count)
{
    if (count <= service->member_cap) return true;
    uint32_t cap = count + count / 2 + 8;
    struct member **members = realloc(service->members, cap * sizeof(struct member *));
    if (members != NULL) service->members = members;
    struct member **offered = realloc(service->offered, cap * sizeof(struct member *));
    if (offered != NULL) service->offered = offered;
    if (members == NULL || offered == NULL) return false;
    service->member_cap = cap;
    return true;
}

static bool
is_countable(const struct member *member)
{
    return member->weight > 0 && member->state != SLOT_DRAINING && member->state != SLOT_MAINTENANCE;
}

/* One that is on trial stands beside the good ones, where there are any; else it is ejected like the rest. */
static void
service_trials(struct service *service)
{
    bool has_good = false;
    service->trials = 0;
    for (uint32_t i = 0; i < service->member_count; i++)
        has_good |= service->members[i]->tier == TIER_GOOD && !service->members[i]->is_on_trial;
    for (uint32_t i = 0; i < service->member_count; i++) {
        struct member *member = service->members[i];
        if (!member->is_on_trial) continue;
        member->tier = has_good ? TIER_GOOD : TIER_EJECTED;
        service->trials++;
    }
}

/* Where fewer than service.panic are healthy, the healthy few would only be run over: all are picked, as
 * Envoy's panic threshold has it. What is draining, in maintenance or weighs 0 neither counts nor comes back.
 */
static void
service_panic(struct service *service)
{
    uint64_t total = 0, good = 0;
    if (LIKELY(service->config->panic_percent == 0)) return;
    for (uint32_t i = 0; i < service->member_count; i++) {
        if (!is_countable(service->members[i])) continue;
        total++;
        good += service->members[i]->tier == TIER_GOOD;
    }
    if (good * 100 >= total * service->config->panic_percent) return;
    for (uint32_t i = 0; i < service->member_count; i++) {
        if (!is_countable(service->members[i])) continue;
        service->members[i]->tier = TIER_GOOD;
        service->members[i]->is_on_trial = false;
    }
}

/* Sorts the members into tiers; answers a hash of everything that on_change could care for. */
static uint64_t
service_arrange(struct service *service)
{
    uint32_t at = 0;
    uint64_t signature = text_hash(SLICE_LIT("members"));
    if (service->member_count > 1)
        qsort(service->members, service->member_count, sizeof(struct member *), compare_members);
    service_panic(service);
    service_trials(service);
    service->tier = TIER_COUNT;
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        service->tier_start[tier] = at;
        for (uint32_t i = 0; i < service->member_count; i++) {
            if ((int)service->members[i]->tier == tier) service->offered[at++] = service->members[i];
        }
        if (at > service->tier_start[tier] && service->tier == TIER_COUNT) service->tier = (enum tier)tier;
    }
    service->tier_start[TIER_COUNT] = at;
    service->bindable = 0;
    for (uint32_t i = 0; i < service->member_count; i++) {
        const struct member *member = service->members[i];
        const uint64_t row[] = {signature, member->slot, member->incarnation, member->weight, member->port,
            member->state, member->text_hash, (uint64_t)(member->effective_weight * 1000), member->tier};
        signature = text_hash((struct slice){(const char *)row, sizeof row});
        if (member->tier == TIER_BOUND) service->bindable++;
    }
    return signature;
}

void
script_push_view(lua_State *L, struct member *member)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, member->script->views_ref);
    if (member->view == NULL) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, member->script->new_view_ref);
        lua_call(L, 0, 1);
        struct fg_backend *view = (struct fg_backend *)lua_topointer(L, -1);
        *view = (struct fg_backend){member->slot, member->incarnation, member->weight, member->port,
            member->effective_weight, (uint64_t)(uintptr_t)member};
        lua_rawseti(L, -2, (int)member->slot + 1);
        member->view = view; /* only once the table holds it */
    }
    lua_rawgeti(L, -1, (int)member->slot + 1);
    lua_remove(L, -2);
}

static void
fill_array(lua_State *L, int reference, struct member **members, uint32_t count, uint32_t *filled)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, reference);
    int array = lua_gettop(L);
    uint32_t old = *filled;
    if (count > old) *filled = count; /* memory may end in the middle */
    for (uint32_t i = 0; i < count; i++) {
        script_push_view(L, members[i]);
        lua_rawseti(L, array, (int)i + 1);
    }
    /* Our own count: in an array that a script wrote to, the length may be any number. */
    for (uint32_t i = old; i > count; i--) {
        lua_pushnil(L);
        lua_rawseti(L, array, (int)i);
    }
    *filled = count;
    lua_pop(L, 1);
}

/* Protected: the three arrays of a service. Every member of a tier gets its view and the scratch table its
 * size here, so that pick allocates nothing. */
static int
fill_arrays(lua_State *L)
{
    struct service *service = lua_touserdata(L, 1);
    struct script *script = service->script;
    luaL_checkstack(L, 16, NULL);
    uint32_t first = 0, past = 0;
    if (service->tier < TIER_COUNT) {
        first = service->tier_start[service->tier];
        past = service->tier_start[service->tier + 1];
    }
    fill_array(L, service->all_ref, service->members, service->member_count, &service->filled[0]);
    fill_array(
        L, service->scratch_ref, service->offered, service->tier_start[TIER_COUNT], &service->filled[1]);
    fill_array(L, service->scratch_ref, NULL, 0, &service->filled[1]);
    fill_array(L, service->offered_ref, service->offered + first, past - first, &service->filled[2]);
    service->scratch_count = 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->by_id_ref);
    lua_pushnil(L);
    lua_rawseti(L, -2, (int)(service - script->services) + 1);
    for (uint32_t i = 0; i < service->member_count; i++)
        service->members[i]->is_offered = false;
    for (uint32_t i = first; i < past; i++)
        service->offered[i]->is_offered = true;
    return 0;
}

bool
script_fill(struct script *script, struct service *service)
{
    char message[200];
    int status = lua_cpcall(script->L, fill_arrays, service);
    service->is_stale = status != 0;
    if (status == 0) return true;
    /* Out of memory: old rows may stand in the arrays, and pick refuses each that is not offered. */
    for (uint32_t i = 0; i < service->member_count; i++)
        service->members[i]->is_offered = false;
    state_take_error(script->L, status, message, sizeof message);
    plugin_fault(script, &service->strategy, "refresh", message, 1);
    return false;
}

static void
service_rebuild(struct script *script, struct service *service, uint64_t signature)
{
    if (!service->strategy.is_loaded || !script_fill(script, service)) return;
    service->signature = signature;
    if (service->strategy.on_change == LUA_NOREF || plugin_is_quarantined(script, &service->strategy)) return;
    lua_rawgeti(script->L, LUA_REGISTRYINDEX, service->strategy.on_change);
    lua_rawgeti(script->L, LUA_REGISTRYINDEX, service->strategy.self);
    lua_rawgeti(script->L, LUA_REGISTRYINDEX, service->offered_ref);
    (void)!script_call(script, &service->strategy, 2, 0, SCRIPT_CHANGE_BUDGET_US, "on_change");
}

static bool
scan_all(struct script *script)
{
    uint32_t slots = shm_slots(script->env.shm);
    if (!grow_slots(script, slots)) return false;
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (!scan_slot(script, slot)) return false;
    }
    for (size_t i = 0; i < script->service_count; i++)
        script->services[i].member_count = 0;
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct member *member = script->by_slot[slot];
        if (member == NULL) continue;
        struct service *service = &script->services[member->service];
        if (!service_reserve(service, service->member_count + 1)) return false;
        service->members[service->member_count++] = member;
    }
    return true;
}

/* Control writes an endpoint and probes it at once, thousands of them at a start: a look at the one slot, no
 * scan. */
struct member *
script_member(struct script *script, uint32_t slot)
{
    if (script->env.shm == NULL || slot_at(script->env.shm, slot) == NULL) return NULL;
    if (!grow_slots(script, slot + 1) || !scan_slot(script, slot)) return NULL;
    return script->by_slot[slot];
}

void
script_refresh(struct script *script)
{
    /* Policies look at one endpoint at a time, so control needs no arrays. */
    if (script->env.shm == NULL || script->env.role == SCRIPT_CONTROL) return;
    script_mend(script);
    if (script->mark != NULL)
        atomic_store_explicit(&script->mark->script_bytes, script->used_bytes, memory_order_relaxed);
    uint64_t version = shm_endpoints_version(script->env.shm);
    if (LIKELY(script->has_refreshed && version == script->endpoints_seen &&
               (script->ramp_due_us == 0 || clock_now_us() < script->ramp_due_us)))
        return;
    script->ramp_due_us = 0;
    bool is_complete = scan_all(script);
    if (!is_complete) {
        log_errorx("out of memory: endpoints are not up to date");
        /* Rows of members that went stand in the lists until memory is back: drop the lists, not the process.
         */
        for (size_t i = 0; i < script->service_count; i++)
            script->services[i].member_count = 0;
    }
    for (size_t i = 0; i < script->service_count; i++) {
        struct service *service = &script->services[i];
        uint64_t signature = service_arrange(service);
        if (script->L == NULL) continue; /* the on_change of one before; the next turn mends it */
        if (script->has_refreshed && !service->is_stale && signature == service->signature) continue;
        service_rebuild(script, service, signature);
    }
    script->endpoints_seen = is_complete ? version : version - 1;
    script->has_refreshed = script->L != NULL;
}
