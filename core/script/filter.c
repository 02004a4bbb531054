/* The chain of one stream: which callback runs next, and what its end means. */
#include "core/script/filter.h"

#include <string.h>

#include "core/script/filter_internal.h"

enum { RAN_FIRST = 8 };

static const struct filter_list *
list_at(const struct filter_list *lists, size_t count, uint32_t index)
{
    return index < count && lists[index].count > 0 ? &lists[index] : NULL;
}

bool
filter_is_needed(const struct script *script, uint32_t route, uint32_t service)
{
    const struct filters *filters = script->filters;
    if (filters == NULL) return false;
    return (route < filters->route_count && filters->routes[route].count != 0) ||
           (service < filters->service_count && filters->services[service].count != 0);
}

bool
filter_wants_log(const struct script *script, uint32_t route, uint32_t service)
{
    const struct filters *filters = script->filters;
    if (filters == NULL) return false;
    return (route < filters->route_count && filters->routes[route].has_log) ||
           (service < filters->service_count && filters->services[service].has_log);
}

struct filter_chain *
filter_begin(struct script *script, struct filter_request *request)
{
    struct filter_chain *chain = arena_calloc(request->pick->arena, sizeof *chain);
    if (chain == NULL || script->filters == NULL) return NULL;
    script_mend(script); /* else a state that was dropped fails the requests of other filters too */
    chain->script = script;
    chain->serial = script->serial;
    chain->request = request;
    return chain;
}

/* ---- views ---- */

void
chain_forget_views(struct filter_chain *chain)
{
    chain->request_view.view = NULL;
    chain->response_view.view = NULL;
}

/* From here on what a script kept of them raises. */
static void
views_put(struct filter_chain *chain)
{
    struct filters *filters = chain->script->filters;
    if (chain->request_view.view != NULL)
        *(struct fg_request *)chain->request_view.view = (struct fg_request){0};
    if (chain->response_view.view != NULL)
        *(struct fg_response *)chain->response_view.view = (struct fg_response){0};
    view_pool_put(&filters->requests, &chain->request_view);
    view_pool_put(&filters->responses, &chain->response_view);
}

static bool
views_take(struct filter_chain *chain)
{
    struct script *script = chain->script;
    struct filters *filters = script->filters;
    chain->request_view = view_pool_take(script, &filters->requests, filters->new_request_ref);
    if (chain->request_view.view == NULL) return false;
    *(struct fg_request *)chain->request_view.view = (struct fg_request){0, chain->request->service,
        (uint64_t)(uintptr_t)chain->request->pick, (uint64_t)(uintptr_t)script, (uint64_t)(uintptr_t)chain};
    if (chain->phase == CHAIN_REQUEST) return true;
    chain->response_view = view_pool_take(script, &filters->responses, filters->new_response_ref);
    if (chain->response_view.view == NULL) return false;
    ((struct fg_response *)chain->response_view.view)->handle = (uint64_t)(uintptr_t)chain;
    return true;
}

/* ---- one callback ---- */

/* Fails closed, or goes on without that filter where its use allows it. */
static enum filter_verdict
use_failed(struct filter_chain *chain, int status, const char *sentence)
{
    if (chain->current->config->skip_on_error) {
        if (chain->phase == CHAIN_REQUEST) chain->request->answer = NULL;
        return FILTER_GO;
    }
    chain->request->failure.reason = REASON_FILTER_ERROR;
    chain->request->failure.status = status;
    chain->request->failure.sentence = sentence;
    return FILTER_FAILED;
}

static enum filter_verdict
out_of_memory(struct filter_chain *chain)
{
    chain->request->failure.reason = REASON_FILTER_ERROR;
    chain->request->failure.status = 503;
    chain->request->failure.sentence = "no memory for the filters of this request";
    return FILTER_FAILED;
}

static bool
ran_add(struct filter_chain *chain)
{
    if (chain->ran_count == chain->ran_cap) {
        uint32_t cap = chain->ran_cap == 0 ? RAN_FIRST : chain->ran_cap * 2;
        struct filter_use **grown = arena_alloc(chain->request->pick->arena, cap * sizeof(*grown));
        if (grown == NULL) return false;
        if (chain->ran_count > 0) memcpy(grown, chain->ran, chain->ran_count * sizeof(*grown));
        chain->ran = grown;
        chain->ran_cap = cap;
    }
    chain->ran[chain->ran_count++] = chain->current;
    return true;
}

static enum filter_verdict
callback_ended(struct filter_chain *chain, enum task_end end)
{
    views_put(chain);
    if (UNLIKELY(end == TASK_FAILED)) return use_failed(chain, 500, "a filter failed");
    if (chain->phase == CHAIN_RESPONSE) return FILTER_GO;
    if (chain->request->answer != NULL) return FILTER_ANSWERED;
    return ran_add(chain) ? FILTER_GO : out_of_memory(chain);
}

static enum filter_verdict
run_callback(struct filter_chain *chain, struct filter_use *use, int callback, const char *name)
{
    struct script *script = chain->script;
    chain->current = use;
    if (callback == LUA_NOREF) return callback_ended(chain, TASK_DONE);
    if (UNLIKELY(script->L == NULL || plugin_is_quarantined(script, &use->plugin) || !use->plugin.is_loaded))
        return use_failed(chain, 503, "a filter is out of service");
    struct script_task *task = task_take(script, script->L, TASK_CALLBACK, &use->plugin);
    if (task == NULL) return out_of_memory(chain);
    if (!views_take(chain)) {
        views_put(chain);
        task_give(task);
        return out_of_memory(chain);
    }
    task->chain = chain;
    task->callback = name;
    chain->task = task;
    lua_State *L = task->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, callback);
    lua_rawgeti(L, LUA_REGISTRYINDEX, use->plugin.self);
    lua_rawgeti(L, LUA_REGISTRYINDEX, chain->request_view.ref);
    if (chain->phase == CHAIN_RESPONSE) lua_rawgeti(L, LUA_REGISTRYINDEX, chain->response_view.ref);
    enum task_end end = task_run(task, chain->phase == CHAIN_RESPONSE ? 3 : 2);
    if (UNLIKELY(end == TASK_WAITS)) return FILTER_WAIT;
    chain->task = NULL;
    task_give(task);
    return callback_ended(chain, end);
}

/* ---- phases ---- */

static bool
has_list(const struct filter_chain *chain, const struct filter_list *list)
{
    for (uint32_t i = 0; i < chain->list_count; i++) {
        if (chain->lists[i] == list) return true;
    }
    return false;
}

/* The list that is to run next: the route's, then, from the second call on, the service's. */
static const struct filter_list *
next_list(const struct filter_chain *chain)
{
    const struct filters *filters = chain->script->filters;
    const struct filter_list *list = list_at(filters->routes, filters->route_count, chain->request->route);
    if (list != NULL && !has_list(chain, list)) return list;
    if (chain->calls < 2) return NULL;
    list = list_at(filters->services, filters->service_count, chain->request->service);
    return list != NULL && !has_list(chain, list) ? list : NULL;
}

static struct filter_use *
next_use(struct filter_chain *chain)
{
    if (chain->list_at < chain->list_count) {
        const struct filter_list *list = chain->lists[chain->list_at];
        if (chain->use_at < list->count) return &list->uses[chain->use_at++];
        chain->list_at++;
        chain->use_at = 0;
    }
    const struct filter_list *list = next_list(chain);
    if (list == NULL || chain->list_count == FILTER_LISTS_MAX) return NULL;
    chain->lists[chain->list_count++] = list;
    return &list->uses[chain->use_at++];
}

static enum filter_verdict
go_on_request(struct filter_chain *chain)
{
    for (struct filter_use *use; (use = next_use(chain)) != NULL;) {
        enum filter_verdict verdict = run_callback(chain, use, use->on_request, "on_request");
        if (verdict != FILTER_GO) return verdict;
    }
    if (chain->list_count < FILTER_LISTS_MAX || next_list(chain) == NULL) return FILTER_GO;
    chain->request->failure.reason = REASON_FILTER_ERROR; /* a filter that did not run may be the lock */
    chain->request->failure.status = 500;
    chain->request->failure.sentence = "filters send this request on and on";
    return FILTER_FAILED;
}

static enum filter_verdict
go_on_response(struct filter_chain *chain)
{
    while (chain->left > 0) {
        struct filter_use *use = chain->ran[--chain->left];
        enum filter_verdict verdict = run_callback(chain, use, use->on_response, "on_response");
        if (verdict != FILTER_GO) return verdict;
    }
    return chain->response->answer != NULL ? FILTER_ANSWERED : FILTER_GO;
}

enum filter_verdict
filter_run_request(struct filter_chain *chain)
{
    chain->phase = CHAIN_REQUEST;
    chain->calls++;
    return chain->verdict = go_on_request(chain);
}

enum filter_verdict
filter_run_response(struct filter_chain *chain, struct filter_response *response)
{
    chain->phase = CHAIN_RESPONSE;
    chain->response = response;
    chain->left = chain->ran_count;
    chain->stage_first = chain->stage_total;
    return chain->verdict = go_on_response(chain);
}

enum filter_verdict
filter_verdict(const struct filter_chain *chain)
{
    return chain->verdict;
}

static enum filter_verdict
go_on(struct filter_chain *chain, enum filter_verdict verdict)
{
    if (verdict == FILTER_GO)
        verdict = chain->phase == CHAIN_REQUEST ? go_on_request(chain) : go_on_response(chain);
    return chain->verdict = verdict;
}

void
chain_task_ended(struct script_task *task, enum task_end end)
{
    struct filter_chain *chain = task->chain;
    chain->task = NULL;
    task_give(task);
    if (go_on(chain, callback_ended(chain, end)) != FILTER_WAIT)
        chain->script->tasks->host.moved(chain->request->stream);
}

/* Counts as an error of the filter, but not towards its quarantine: whom it waited for is at fault. */
enum filter_verdict
filter_expire(struct filter_chain *chain)
{
    struct script_task *task = chain->task;
    if (task == NULL) return chain->verdict; /* lost already, and to be told */
    plugin_fault(chain->script, task->plugin, task->callback, "it waited longer than timeouts.filter", 0);
    chain->task = NULL;
    task_give(task);
    views_put(chain);
    return go_on(chain, use_failed(chain, 503, "a filter waited too long"));
}

void
chain_lose(struct filter_chain *chain)
{
    chain->task = NULL;
    chain_forget_views(chain);
    chain->request->failure.reason = REASON_FILTER_ERROR;
    chain->request->failure.status = 503;
    chain->request->failure.sentence = "a filter is out of service";
    chain->verdict = FILTER_FAILED;
}

void
filter_end(struct filter_chain *chain)
{
    if (chain == NULL) return;
    struct script *script = chain->script;
    if (chain->is_lost) {
        struct filter_chain **link = &script->tasks->lost;
        while (*link != chain)
            link = &(*link)->next_lost;
        *link = chain->next_lost;
        chain->is_lost = false;
    }
    if (chain->task != NULL) {
        struct script_task *task = chain->task;
        chain->task = NULL;
        task_give(task);
        views_put(chain);
    }
    if (chain->serial == script->serial) stages_drop(chain);
}
