#include "core/proxy/filtering.h"

#include "core/proxy/fetch.h"
#include "core/proxy/proxy_internal.h"

/* names of a generation that may have gone */

static uint32_t
route_index(const struct generation *generation, uint32_t name)
{
    for (uint32_t i = 0; i < generation->config->route_count; i++) {
        if (route_name_id(generation->routes, &generation->config->routes[i]) == name) return i;
    }
    return SLOT_NONE;
}

static uint32_t
service_index(const struct generation *generation, uint32_t name)
{
    for (uint32_t i = 0; i < generation->config->service_count; i++) {
        if (route_service_id(generation->routes, i) == name) return i;
    }
    return SLOT_NONE;
}

/* life */

bool
filtering_new(struct stream *stream, uint32_t service)
{
    struct filtering *filtering = arena_calloc(&stream->arena, sizeof *filtering);
    if (filtering == NULL) return false;
    link_init(&filtering->moved);
    filtering->stream = stream;
    filtering->generation = stream->generation->number;
    filtering->is_head = stream->parser.head.method == METHOD_HEAD;
    filtering->request.route = (uint32_t)(stream->route - stream->generation->config->routes);
    filtering->first_route = filtering->request.route;
    filtering->first_id = stream->route_id;
    filtering->request.service = service;
    stream->filtering = filtering;
    return true;
}

void
filtering_park_ctx(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (filtering->is_parked) {
        script_request_done(stream_picker(stream)->script, &stream->request);
        return;
    }
    filtering->is_parked = true;
    filtering->parked_ctx = stream->request.ctx;
    filtering->parked_generation = stream->request.ctx_generation;
    stream->request.ctx = 0;
    stream->request.ctx_generation = 0;
}

void
filtering_restore_ctx(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (!filtering->is_parked) return;
    filtering->is_parked = false;
    script_request_done(stream_picker(stream)->script, &stream->request);
    generation_put(&stream->picker);
    stream->request.ctx = filtering->parked_ctx;
    stream->request.ctx_generation = filtering->parked_generation;
}

void
filtering_stop(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct filter_chain *chain = filtering->chain;
    filtering->task = NULL;
    link_remove(&filtering->moved);
    if (chain == NULL) return;
    filtering->chain = NULL;
    filtering_restore_ctx(stream);
    filtering->ctx = filter_ctx(chain, &stream->arena);
    filter_end(chain);
}

static void
run_log(struct stream *stream)
{
    const struct filtering *filtering = stream->filtering;
    const struct generation *generation = stream->proxy->generation;
    const struct script_request *request = &stream->request;
    struct shm *shm = stream->proxy->shm;
    bool is_same = generation->number == filtering->generation;
    uint32_t route = is_same ? filtering->first_route : route_index(generation, filtering->first_id);
    uint32_t service = is_same ? filtering->request.service : service_index(generation, stream->service_id);
    if (!filter_wants_log(generation->script, route, service)) return;
    const struct endpoint *endpoint =
        stream->last_slot == SLOT_NONE
            ? NULL
            : endpoint_find(stream->proxy, stream->last_slot, stream->last_incarnation);
    struct filter_log log = {.method = stream->parser.head.method_text,
        .path = request->path.len > 0 ? request->path : stream->path,
        .query = stream->query,
        .host = request->host.len > 0 ? request->host : stream->host,
        .client_ip = request->client_ip,
        .id = stream->request_id,
        .route = slice_of(stream->route_id == UINT32_MAX ? "" : shm_name_text(shm, stream->route_id)),
        .service = slice_of(stream->service_id == UINT32_MAX ? "" : shm_name_text(shm, stream->service_id)),
        .endpoint = endpoint == NULL ? SLICE_NONE : (struct slice){endpoint->id, endpoint->id_len},
        .attempts = stream->attempts,
        .route_index = route,
        .ctx = filtering->ctx,
        .status = stream->status,
        .bytes = stream->bytes_out,
        .duration_us = stream->proxy->now_us - stream->started_us,
        .reason = stream->reason};
    filter_run_log(generation->script, &log);
}

void
filtering_close(struct stream *stream)
{
    filtering_stop(stream);
    transform_end(stream);
    run_log(stream);
    collect_end(stream);
}

/* waiting */

void
filtering_wait(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    bool is_judging = filtering->phase == FILTERING_ANSWER && filtering->answer == NULL;
    filtering->since_us = stream->proxy->now_us;
    stream_enter(stream, is_judging ? STREAM_JUDGE : STREAM_FILTER);
    if (filtering->task != NULL) collect_body(stream);
}

uint64_t
filtering_left_us(const struct stream *stream)
{
    const struct filtering *filtering = stream->filtering;
    uint64_t limit_us = stream->timeouts.filter;
    if (filtering->task != NULL) return stream->timeouts.client_body_gap;
    uint64_t used_us = filtering->waited_us + (stream->proxy->now_us - filtering->since_us);
    if (limit_us == 0) return 0;
    return used_us < limit_us ? limit_us - used_us : 1;
}

static void
fail(struct stream *stream)
{
    const struct filter_request *request = &stream->filtering->request;
    enum reason reason =
        request->failure.reason == REASON_NONE ? REASON_FILTER_ERROR : request->failure.reason;
    reply_reason(stream, reason, request->failure.status, request->failure.sentence);
}

/* on_request */

/* What set_route and set_service made of it. False: answered. */
static bool
follow(struct stream *stream, bool *is_moved)
{
    struct filter_request *request = &stream->filtering->request;
    const struct config *config = stream->generation->config;
    *is_moved = request->service != stream->request.service;
    if (request->route < config->route_count && &config->routes[request->route] != stream->route) {
        stream->route = &config->routes[request->route];
        stream->route_id = route_name_id(stream->generation->routes, stream->route);
        if ((request->changed & FILTER_SERVICE) == 0)
            request->service = stream->route->action == ACTION_PROXY
                                   ? request_choose_service(stream->proxy, stream->route)
                                   : SLOT_NONE;
        *is_moved = true;
    }
    return !*is_moved || request_settle(stream, request->service);
}

static void
apply(struct stream *stream)
{
    const struct filter_request *request = &stream->filtering->request;
    const struct script_request *pick = &stream->request;
    struct h1_head *head = &stream->parser.head;
    if (request->changed & FILTER_METHOD) {
        head->method = pick->method;
        head->method_text = pick->method_text;
    }
    if (request->changed & FILTER_QUERY) {
        stream->query = pick->query;
        head->has_query = pick->query.len > 0;
    }
    if (request->changed & FILTER_HOST) head->authority = pick->host;
}

static void
send_on(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    filtering->phase = FILTERING_SENT;
    apply(stream);
    if (!request_set_target(stream)) return;
    if (filtering->request.service == SLOT_NONE) {
        reply_route(stream);
        return;
    }
    content_seal(stream);
    request_send(stream);
}

/* True: on_request of the service's filters comes next; of another service's, where the first one's sent it
 * there. */
static bool
goes_on(struct stream *stream, enum filter_verdict verdict)
{
    struct filtering *filtering = stream->filtering;
    bool is_moved;
    switch (verdict) {
    case FILTER_WAIT: filtering_wait(stream); return false;
    case FILTER_FAILED: fail(stream); return false;
    case FILTER_ANSWERED: respond_with(stream, filtering->request.answer); return false;
    case FILTER_GO: break;
    }
    if (!follow(stream, &is_moved)) return false;
    if (filtering->phase == FILTERING_ROUTE || is_moved) {
        filtering->phase = FILTERING_SERVICE;
        return true;
    }
    send_on(stream);
    return false;
}

static void
went(struct stream *stream, enum filter_verdict verdict)
{
    if (stream->filtering->phase == FILTERING_ANSWER) {
        respond_went(stream, verdict);
        return;
    }
    while (goes_on(stream, verdict))
        verdict = filter_run_request(stream->filtering->chain);
}

void
filtering_begin(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    struct filter_request *request = &filtering->request;
    const struct h1_head *head = &stream->parser.head;
    request->pick = &stream->request;
    request->headers = &stream->parser.head.headers;
    request->id = stream->request_id;
    request->scheme = stream->request.is_tls ? SLICE_LIT("https") : SLICE_LIT("http");
    request->has_body = head->body == BODY_CHUNKED || (head->body == BODY_LENGTH && head->length > 0);
    request->stream = stream;
    filtering->chain = filter_begin(stream->generation->script, request);
    if (filtering->chain == NULL)
        reply_reason(stream, REASON_SHED, 0, NULL);
    else
        went(stream, filter_run_request(filtering->chain));
}

/* the loop's side */

void
filtering_run(struct proxy *proxy)
{
    while (!link_is_empty(&proxy->moved)) {
        struct filtering *filtering = LINK_OF(proxy->moved.prev, struct filtering, moved);
        link_remove(&filtering->moved);
        if (filtering->task != NULL) {
            collect_body(filtering->stream);
            continue;
        }
        filtering->waited_us += proxy->now_us - filtering->since_us;
        went(filtering->stream, filter_verdict(filtering->chain));
    }
}

static bool
is_late(const struct stream *stream)
{
    return stream->timeouts.request != 0 &&
           stream->proxy->now_us >= stream->started_us + stream->timeouts.request;
}

void
filtering_on_timeout(struct stream *stream)
{
    struct filtering *filtering = stream->filtering;
    if (is_late(stream) && filtering->failure != REASON_NONE) {
        reply_reason(stream, filtering->failure, 0, NULL); /* what was to be said anyway */
    } else if (is_late(stream)) {
        reply_reason(stream, REASON_RESPONSE_TIMEOUT, 0, "the request took longer than it may");
    } else if (filtering->task != NULL) {
        reply_reason(stream, REASON_CLIENT_TIMEOUT, 0, NULL);
    } else if (stream->state == STREAM_JUDGE && body_due_us(stream) <= stream->proxy->now_us) {
        stream_close(stream, REASON_CLIENT_TIMEOUT); /* its request never ends, though an answer is here */
    } else {
        filtering->waited_us = 0;
        went(stream, filter_expire(filtering->chain));
    }
}

static void
on_moved(void *context)
{
    struct stream *stream = context;
    struct proxy *proxy = stream->proxy;
    if (!link_is_empty(&stream->filtering->moved)) return;
    link_push(&proxy->moved, &stream->filtering->moved);
    proxy->is_woken = true;
}

static bool
on_body_asked(void *context, struct script_task *task, size_t max)
{
    struct stream *stream = context;
    struct filtering *filtering = stream->filtering;
    if (filtering->phase > FILTERING_SERVICE) return false;
    filtering->task = task;
    filtering->max = max;
    if (stream->state == STREAM_FILTER) { /* asked after another wait: nobody else would look */
        filtering->waited_us += stream->proxy->now_us - filtering->since_us;
        filtering->since_us = stream->proxy->now_us;
        on_moved(stream);
    }
    return true;
}

static struct fetch *
on_fetch(void *context, const struct fetch_request *request,
    void (*done)(void *task, const struct fetch_answer *answer), void *task, enum reason *failure,
    const char **detail)
{
    return fetch_start(context, request, done, task, failure, detail);
}

static void
on_enter(void *context)
{
    proxy_enter(context);
}

static void
on_leave(void *context)
{
    proxy_leave(context);
}

void
filtering_host(struct proxy *proxy)
{
    proxy->host = (struct script_host){.context = proxy,
        .base = proxy->base,
        .enter = on_enter,
        .leave = on_leave,
        .fetch = on_fetch,
        .fetch_cancel = fetch_cancel,
        .body = on_body_asked,
        .moved = on_moved};
}
