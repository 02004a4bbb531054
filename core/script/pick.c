/* The hot path: from a request to a slot. */
#include "core/script/script_internal.h"

#include <stdatomic.h>
#include <string.h>

enum { DECLINED_LOG_US = 5000000 };
enum { LUA_TCDATA_TYPE = 10 }; /* LuaJIT's type of FFI objects; lua.h does not name it */

static bool
is_tried(const struct script_request *request, uint32_t slot)
{
    uint32_t count = request->tried_count < 8 ? request->tried_count : 8;
    for (uint32_t i = 0; i < count; i++) {
        if (request->tried[i] == slot) return true;
    }
    return false;
}

static struct member *
member_at(struct script *script, uint32_t slot)
{
    return slot < script->slot_cap ? script->by_slot[slot] : NULL;
}

/* What this pick may answer: rows of `offered` from first to past, less the tried, the full and those whose
 * trial another request has. */
struct choice {
    struct member **rows;
    uint32_t count;    /* rows */
    uint32_t eligible; /* without who is left out */
    bool has_full;     /* somebody was left out for being full alone */
    bool has_trial;    /* ... or for a trial */
};

/* What is full may have room a moment later: one pick goes by one look. */
static bool
is_left_out(const struct script *script, const struct choice *choice, const struct script_request *request,
    const struct member *member)
{
    if ((choice->has_full || choice->has_trial) && member->full_in == script->pick_serial) return true;
    return is_tried(request, member->slot);
}

/* A full endpoint is no reason to ask a lower tier: better wait for it than for one that fails requests. */
static void
leave_out_full(struct script *script, const struct script_request *request, struct choice *choice)
{
    for (uint32_t i = 0; i < choice->count; i++) {
        struct member *member = choice->rows[i];
        if (!member_is_full(member) || is_left_out(script, choice, request, member)) continue;
        member->full_in = script->pick_serial;
        choice->has_full = true;
        choice->eligible--;
    }
}

static void
leave_out(struct script *script, struct choice *choice, struct member *member)
{
    member->full_in = script->pick_serial;
    choice->has_trial = true;
    choice->eligible--;
}

static void
leave_out_trials(struct script *script, const struct script_request *request, struct choice *choice)
{
    for (uint32_t i = 0; i < choice->count; i++) {
        struct member *member = choice->rows[i];
        if (!member->is_on_trial || is_tried(request, member->slot)) continue;
        if (atomic_load_explicit(&member->shared->trial, memory_order_relaxed) != TRIAL_OPEN)
            leave_out(script, choice, member);
    }
}

void
script_trial_end(struct script *script, struct script_request *request, enum trial outcome)
{
    if (request->trial == 0) return;
    slot_end_trial(script->env.shm, request->trial - 1, outcome);
    request->trial = 0;
}

static struct choice
choose(struct script *script, const struct service *service, const struct script_request *request)
{
    struct choice choice = {0};
    for (int tier = (int)service->tier; tier < TIER_COUNT; tier++) {
        choice.rows = service->offered + service->tier_start[tier];
        choice.count = choice.eligible = service->tier_start[tier + 1] - service->tier_start[tier];
        choice.has_trial = false;
        if (request->tried_count != 0) {
            for (uint32_t i = 0; i < choice.count; i++) {
                if (is_tried(request, choice.rows[i]->slot)) choice.eligible--;
            }
        }
        if (UNLIKELY(service->trials != 0) && tier == TIER_GOOD) leave_out_trials(script, request, &choice);
        if (choice.eligible != 0) break;
    }
    if (UNLIKELY(service->limit != 0)) leave_out_full(script, request, &choice);
    return choice;
}

/* Pushes the array that Lua sees: the service's own, or the scratch table where someone is left out or a
 * lower tier is asked. No allocation: fill_arrays made room and every view. */
static void
push_choice(struct script *script, struct service *service, const struct choice *choice,
    const struct script_request *request)
{
    lua_State *L = script->L;
    bool is_whole = choice->count == 0 || (choice->eligible == choice->count && choice->rows[0]->is_offered);
    if (LIKELY(is_whole)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, service->offered_ref);
        return;
    }
    uint32_t at = 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service->scratch_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->views_ref);
    for (uint32_t i = 0; i < choice->count; i++) {
        if (is_left_out(script, choice, request, choice->rows[i])) continue;
        lua_rawgeti(L, -1, (int)choice->rows[i]->slot + 1);
        lua_rawseti(L, -3, (int)++at);
    }
    lua_pop(L, 1);
    for (uint32_t i = service->scratch_count; i > at; i--) {
        lua_pushnil(L);
        lua_rawseti(L, -2, (int)i);
    }
    service->scratch_count = at;
}

/* Random by weight among the eligible: what serves when the script cannot. Weights in a tier are never 0. */
static enum script_verdict
fall_back(
    struct script *script, const struct choice *choice, const struct script_request *request, uint32_t *slot)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < choice->count; i++) {
        if (!is_left_out(script, choice, request, choice->rows[i])) total += choice->rows[i]->weight;
    }
    if (total == 0) return SCRIPT_NONE;
    uint64_t at = script_random(script) % total;
    for (uint32_t i = 0; i < choice->count; i++) {
        const struct member *member = choice->rows[i];
        if (is_left_out(script, choice, request, member)) continue;
        if (at < member->weight) {
            *slot = member->slot;
            break;
        }
        at -= member->weight;
    }
    if (script->env.shm != NULL) {
        atomic_fetch_add_explicit(&shm_totals(script->env.shm)->script_fallbacks, 1, memory_order_relaxed);
    }
    return SCRIPT_PICKED;
}

/* A request view for one call; the ring makes one that a script kept raise at the next call. */
static struct fg_request *
view_take(struct script *script, struct script_request *request)
{
    unsigned at = script->next_request++ % SCRIPT_VIEWS;
    struct fg_request *view = script->requests[at];
    *view = (struct fg_request){
        request->attempt, request->service, (uint64_t)(uintptr_t)request, (uint64_t)(uintptr_t)script, 0};
    lua_rawgeti(script->L, LUA_REGISTRYINDEX, script->request_refs[at]);
    return view;
}

/* The member that the value at `index` stands for: NULL where it is no view of this state. The smallest FFI
 * object holds 8 bytes, so its first word may be read; that the pointer equals the view which we keep for
 * that slot proves the rest. */
static struct member *
member_of_value(struct script *script, int index)
{
    if (lua_type(script->L, index) != LUA_TCDATA_TYPE) return NULL;
    const struct fg_backend *value = lua_topointer(script->L, index);
    if (value == NULL) return NULL;
    struct member *member = member_at(script, value->slot);
    return member != NULL && member->view == value ? member : NULL;
}

/* A script may write to the array of backends, as to any table. Whoever finds nobody in it is asked about
 * that: rows that are gone would be missed by each pick from then on. True where it had to be filled anew. */
static bool
array_mend(struct script *script, struct service *service)
{
    lua_State *L = script->L;
    bool is_whole = true;
    lua_rawgeti(L, LUA_REGISTRYINDEX, service->offered_ref);
    for (uint32_t i = 1; i <= service->filled[2] && is_whole; i++) {
        lua_rawgeti(L, -1, (int)i);
        const struct member *member = member_of_value(script, -1);
        is_whole = member != NULL && member->is_offered && member->service == service - script->services;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (LIKELY(is_whole)) return false;
    if (script_fill(script, service)) return true;
    script->endpoints_seen--; /* no memory now: the next refresh tries again */
    return false;
}

/* Sets *slot, or says what is wrong with the answer at stack index `at`. */
static const char *
check_answer(struct script *script, const struct service *service, const struct choice *choice,
    const struct script_request *request, int at, uint32_t *slot)
{
    struct member *member = member_of_value(script, at);
    if (member == NULL) {
        return lua_type(script->L, at) == LUA_TCDATA_TYPE
                   ? "answered an object that is no backend of this gateway, or one that is gone"
                   : "answered something else than a backend or nil";
    }
    if (member->service != (uint32_t)(service - script->services))
        return "answered a backend of another service";
    if (is_tried(request, member->slot)) return "answered a backend that this request has tried already";
    bool is_choice = choice->count != 0 && member->tier == choice->rows[0]->tier;
    if (!is_choice && member->bound_in != script->pick_serial)
        return "answered a backend that may not be picked now";
    *slot = member->slot;
    return NULL;
}

/* Full when it was answered, not since: by request:bound, or out of a table of the script's own. */
static bool
insists_on_full(const struct script *script, const struct choice *choice, uint32_t slot)
{
    const struct member *member = script->by_slot[slot];
    bool was_known = choice->has_full && member->full_in == script->pick_serial;
    return (was_known || member->bound_in == script->pick_serial) && member_is_full(member);
}

static enum reason
none_reason(const struct service *service)
{
    return service->member_count == 0 ? REASON_NO_ENDPOINTS : REASON_ALL_UNHEALTHY;
}

static void
declined(struct script *script, struct plugin *plugin, int at)
{
    static struct log_every every;
    uint64_t suppressed;
    size_t len = 0;
    if (!log_every_due(&every, DECLINED_LOG_US, &suppressed)) return;
    const char *why = lua_type(script->L, at) == LUA_TSTRING ? lua_tolstring(script->L, at, &len) : "";
    log_info("a strategy picks none of the endpoints", F_STR("service", plugin->service),
        F_STR("plugin", plugin->name), F_SLICE("because", ((struct slice){why, len})),
        F_UINT("suppressed", suppressed));
}

/* A retry that has one endpoint left to wait for is in nobody's way: SLOT_NONE where there are more. */
static uint32_t
only_full(const struct script *script, const struct choice *choice, const struct script_request *request)
{
    uint32_t only = SLOT_NONE;
    for (uint32_t i = 0; i < choice->count; i++) {
        const struct member *member = choice->rows[i];
        if (is_tried(request, member->slot) || member->full_in != script->pick_serial || member->is_on_trial)
            continue;
        if (only != SLOT_NONE) return SLOT_NONE;
        only = member->slot;
    }
    return only;
}

/* Who is on trial gets this request alone: where another one was faster, the choice falls on somebody else.
 * What a session is bound to, and what is picked because there is nothing better, is picked all the same. */
static void
take_trial(struct script *script, struct choice *choice, struct script_request *request, uint32_t *slot)
{
    struct member *member = member_at(script, *slot);
    while (member != NULL && member->is_on_trial) {
        uint32_t first = *slot;
        if (slot_take_trial(script->env.shm, first)) {
            request->trial = first + 1;
            return;
        }
        if (member->tier != TIER_GOOD || member->bound_in == script->pick_serial) return;
        if (!is_left_out(script, choice, request, member)) leave_out(script, choice, member);
        if (fall_back(script, choice, request, slot) != SCRIPT_PICKED) {
            *slot = first;
            return;
        }
        member = member_at(script, *slot);
    }
}

/* `wrong` says what the script did; NULL: it was told already. */
static enum script_verdict
refuse_answer(struct script *script, struct service *service, const struct choice *choice,
    struct script_request *request, const char *wrong, uint32_t *slot)
{
    (void)array_mend(script, service);
    if (wrong != NULL) plugin_fault_at(script, &service->strategy, "pick", wrong);
    request->set_cookies.count = 0;
    return fall_back(script, choice, request, slot);
}

/* What pick() answered, at stack index `at` and behind it. */
static enum script_verdict
take_answer(struct script *script, struct service *service, const struct choice *choice,
    struct script_request *request, int at, uint32_t *slot, enum reason *reason)
{
    if (lua_isnil(script->L, at)) {
        if (choice->eligible == 0) { /* who is full or tried was never in the array: there was no choice */
            if (choice->has_full && request->tried_count != 0) *slot = only_full(script, choice, request);
            return SCRIPT_NONE;
        }
        if (UNLIKELY(array_mend(script, service)))
            return refuse_answer(script, service, choice, request,
                "took rows out of the array of backends, which is the gateway's", slot);
        *reason = REASON_NO_ENDPOINTS; /* it declined: its right, and perhaps it says why */
        declined(script, &service->strategy, at + 1);
        return SCRIPT_NONE;
    }
    if (UNLIKELY(lua_topointer(script->L, at) == script->queue_mark)) {
        *reason = REASON_ALL_FULL;
        return SCRIPT_QUEUE;
    }
    const char *wrong = check_answer(script, service, choice, request, at, slot);
    if (UNLIKELY(wrong != NULL)) return refuse_answer(script, service, choice, request, wrong, slot);
    if (LIKELY(service->limit == 0) || !insists_on_full(script, choice, *slot)) return SCRIPT_PICKED;
    *reason = REASON_ALL_FULL;
    return SCRIPT_QUEUE;
}

static enum script_verdict
pick_one(struct script *script, struct service *service, const struct choice *choice,
    struct script_request *request, uint32_t *slot, enum reason *reason)
{
    lua_State *L = script->L;
    struct plugin *plugin = &service->strategy;
    *reason = choice->has_full ? REASON_ALL_FULL : none_reason(service);
    if (choice->eligible == 0 && !choice->has_full && service->bindable == 0) return SCRIPT_NONE;
    if (UNLIKELY(plugin_is_quarantined(script, plugin) || !plugin->is_loaded || service->is_stale)) {
        enum script_verdict fallback = fall_back(script, choice, request, slot);
        script_mend(script);
        return fallback;
    }
    enum script_verdict verdict = SCRIPT_PICKED;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, plugin->hot);
    lua_rawgeti(L, LUA_REGISTRYINDEX, plugin->self);
    struct fg_request *view = view_take(script, request);
    push_choice(script, service, choice, request);
    uint64_t budget_us = SCRIPT_PICK_BUDGET_US + (uint64_t)choice->count * SCRIPT_PICK_ENDPOINT_US;
    bool is_ok = script_call(script, plugin, 3, 2, budget_us, "pick");
    if (UNLIKELY(script->L == NULL)) {
        request->set_cookies.count = 0;
        verdict = fall_back(script, choice, request, slot);
        script_mend(script);
        return verdict;
    }
    view->handle = 0;
    verdict = LIKELY(is_ok) ? take_answer(script, service, choice, request, top + 1, slot, reason)
                            : refuse_answer(script, service, choice, request, NULL, slot);
    lua_settop(L, top);
    return verdict;
}

enum script_verdict
script_pick(struct script *script, struct script_request *request, uint32_t *slot, enum reason *reason)
{
    *slot = SLOT_NONE;
    *reason = REASON_NO_ENDPOINTS;
    request->set_cookies.count = 0;
    request->set_cookies.seen = 0;
    if (UNLIKELY(request->trial != 0)) script_trial_end(script, request, TRIAL_OPEN);
    if (request->service >= script->service_count) return SCRIPT_NONE;
    struct service *service = &script->services[request->service];
    script->pick_serial++;
    struct choice choice = choose(script, service, request);
    enum script_verdict verdict = pick_one(script, service, &choice, request, slot, reason);
    if (UNLIKELY(service->trials != 0) && verdict == SCRIPT_PICKED)
        take_trial(script, &choice, request, slot);
    return verdict;
}

void
script_result(
    struct script *script, struct script_request *request, uint32_t slot, const struct script_result *result)
{
    if (request->service >= script->service_count) return;
    struct plugin *plugin = &script->services[request->service].strategy;
    struct member *member = member_at(script, slot);
    if (!plugin->is_loaded || plugin->on_result == LUA_NOREF || plugin_is_quarantined(script, plugin)) return;
    if (member == NULL || member->view == NULL || member->service != request->service) return;
    lua_State *L = script->L;
    *script->result = (struct fg_result){
        result->status, result->failure, result->latency_us / 1e6, (uint64_t)(uintptr_t)result->headers};
    lua_rawgeti(L, LUA_REGISTRYINDEX, plugin->on_result);
    lua_rawgeti(L, LUA_REGISTRYINDEX, plugin->self);
    struct fg_request *view = view_take(script, request);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->views_ref);
    lua_rawgeti(L, -1, (int)slot + 1);
    lua_remove(L, -2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, script->result_ref);
    bool is_ok = script_call(script, plugin, 4, 0, SCRIPT_PICK_BUDGET_US, "on_result");
    if (UNLIKELY(!is_ok && script->L == NULL)) {
        script_mend(script);
        return;
    }
    view->handle = 0;
    *script->result = (struct fg_result){0};
}

void
script_request_done(struct script *script, struct script_request *request)
{
    if (UNLIKELY(request->trial != 0)) script_trial_end(script, request, TRIAL_OPEN);
    if (request->ctx <= 0 || request->ctx_generation != script->serial || script->L == NULL) return;
    lua_rawgeti(script->L, LUA_REGISTRYINDEX, script->ctx_ref);
    luaL_unref(script->L, -1, request->ctx);
    lua_pop(script->L, 1);
    request->ctx = 0;
}
