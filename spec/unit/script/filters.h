/* spec/unit/script/filters.h: filters over a fake host: fetches that the spec answers, bodies that it hands
 * over, and a real event base for timers. */
#ifndef FLUXGATE_SPEC_SCRIPT_FILTERS_H
#define FLUXGATE_SPEC_SCRIPT_FILTERS_H
#include "spec/unit/script/support.h"

#include <event2/event.h>

#include "core/base/clock.h"
#include "core/script/filter.h"
#include "core/script/filter_internal.h"

enum { WORLD_FILTERS = 12, WORLD_FETCHES = 16 };

struct fetch {
    void (*done)(void *task, const struct fetch_answer *answer);
    void *task;
    char url[200], method[16], body[64], field[64];
    uint64_t timeout_us;
    size_t max_body;
    bool is_cancelled;
};

struct world {
    struct fixture f;
    struct config_route routes[2];
    struct config_filter filters[3][WORLD_FILTERS]; /* of routes 0 and 1 and of service 0 */
    char files[3][WORLD_FILTERS][64], paths[3][WORLD_FILTERS][64];
    struct event_base *base;
    struct script_host host;
    struct filter_request request;
    struct filter_response response;
    struct headers answer_headers;
    struct filter_chain *chain;
    struct fetch fetches[WORLD_FETCHES];
    unsigned fetch_count, moved;
    int depth;
    struct script_task *body_task;
    size_t body_max;
    bool refuses_fetch, refuses_body;
};

static inline void
world_enter(void *context)
{
    struct world *w = context;
    assert_int_equal(w->depth++, 0);
}

static inline void
world_leave(void *context)
{
    struct world *w = context;
    assert_int_equal(--w->depth, 0);
}

static inline void
world_copy(char *out, size_t size, struct slice s)
{
    snprintf(out, size, "%.*s", (int)s.len, s.at == NULL ? "" : s.at);
}

static inline struct fetch *
world_fetch(void *context, const struct fetch_request *request,
    void (*done)(void *, const struct fetch_answer *), void *task, enum reason *failure, const char **detail)
{
    struct world *w = context;
    if (w->refuses_fetch) {
        *failure = REASON_NO_ENDPOINTS;
        *detail = "there is no service 'x'";
        return NULL;
    }
    struct fetch *fetch = &w->fetches[w->fetch_count++ % WORLD_FETCHES];
    *fetch = (struct fetch){
        .done = done, .task = task, .timeout_us = request->timeout_us, .max_body = request->max_body};
    world_copy(fetch->url, sizeof fetch->url, request->url);
    world_copy(fetch->method, sizeof fetch->method, request->method);
    world_copy(fetch->body, sizeof fetch->body, request->body);
    if (request->headers->count > 0)
        world_copy(fetch->field, sizeof fetch->field, request->headers->rows[0].value);
    return fetch;
}

static inline void
world_cancel(struct fetch *fetch)
{
    assert_false(fetch->is_cancelled);
    assert_non_null(fetch->done);
    fetch->is_cancelled = true;
    fetch->done = NULL;
}

static inline bool
world_body(void *stream, struct script_task *task, size_t max)
{
    struct world *w = stream;
    if (w->refuses_body) return false;
    w->body_task = task;
    w->body_max = max;
    return true;
}

static inline void
world_moved(void *stream)
{
    struct world *w = stream;
    assert_int_equal(w->depth, 1);
    w->moved++;
}

static inline void
world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    fixture_init(&w->f);
    static struct config_target targets[2] = {{0, 1}, {1, 1}};
    static const char *const names[2] = {"first", "second"};
    for (int i = 0; i < 2; i++) {
        w->routes[i] = (struct config_route){.name = names[i],
            .targets = &targets[i],
            .target_count = 1,
            .filters = w->filters[i],
            .timeouts = {.filter = 10000000}};
    }
    w->f.services[0].filters = w->filters[2];
    w->f.config.routes = w->routes;
    w->f.config.route_count = 2;
    w->base = event_base_new();
    assert_non_null(w->base);
    w->host = (struct script_host){.context = w,
        .base = w->base,
        .enter = world_enter,
        .leave = world_leave,
        .fetch = world_fetch,
        .fetch_cancel = world_cancel,
        .body = world_body,
        .moved = world_moved};
}

/* A filter at the end of list `list` (0, 1: the routes'; 2: service a's). `body` is what its table F has. */
static inline struct config_filter *
world_filter(struct world *w, int list, const char *body)
{
    size_t *count = list == 2 ? &w->f.services[0].filter_count : &w->routes[list].filter_count;
    char source[4096];
    int at = (int)(*count)++;
    assert_true(at < WORLD_FILTERS);
    snprintf(w->files[list][at], sizeof w->files[list][at], "/mem/f%d_%d.lua", list, at);
    if (list == 2)
        snprintf(w->paths[list][at], sizeof w->paths[list][at], "services.a.filters[%d].options", at);
    else
        snprintf(w->paths[list][at], sizeof w->paths[list][at], "routes[%d].filters[%d].options", list, at);
    snprintf(source, sizeof source,
        "local F = { api = 1 } F.__index = F "
        "function F.new(options, owner) return setmetatable({ options = options, owner = owner }, F) end\n"
        "%s\nreturn F",
        body);
    assert_true(bundle_put(w->f.bundle, w->files[list][at], slice_of(source)));
    w->filters[list][at] = (struct config_filter){.plugin = {w->files[list][at], w->files[list][at],
                                                      {w->paths[list][at], "{}"}, {"fluxgate.yaml", 3, 5}}};
    return &w->filters[list][at];
}

/* The shipped filter `name`. */
static inline void
world_shipped(struct world *w, const char *name, const char *options)
{
    static char files[WORLD_FILTERS][600];
    struct config_filter *use = world_filter(w, 0, "function F:on_request() end");
    char *file = files[w->routes[0].filter_count - 1];
    snprintf(file, sizeof files[0], "%s/strategies/filters/%s.lua", bundle_share_dir(), name);
    use->plugin.name = name;
    use->plugin.file = file;
    use->plugin.options.json = options;
}

static inline void
world_load(struct world *w)
{
    fixture_load(&w->f);
    assert_true(script_set_host(w->f.script, &w->host));
}

/* A request on route 0 to service 0, and its chain. */
static inline enum filter_verdict
world_begin(struct world *w)
{
    struct script_request *pick = fixture_request(&w->f, 0);
    w->request = (struct filter_request){.pick = pick,
        .headers = &w->f.headers,
        .id = SLICE_LIT("id-1"),
        .scheme = SLICE_LIT("https"),
        .stream = w};
    w->moved = 0;
    w->chain = filter_begin(w->f.script, &w->request);
    assert_non_null(w->chain);
    return filter_run_request(w->chain);
}

static inline void
world_answer_header(struct world *w, const char *name, const char *value)
{
    assert_true(headers_add(
        &w->answer_headers, &w->f.arena, header_identify(slice_of(name)), slice_of(name), slice_of(value)));
}

static inline enum filter_verdict
world_respond(struct world *w, int status)
{
    w->response = (struct filter_response){
        .status = status, .headers = &w->answer_headers, .has_body = true, .slot = SLOT_NONE};
    return filter_run_response(w->chain, &w->response);
}

static inline void
world_end(struct world *w)
{
    filter_end(w->chain);
    w->chain = NULL;
    script_request_done(w->f.script, &w->f.request);
    w->f.headers.count = w->answer_headers.count = 0;
    w->f.headers.cap = w->answer_headers.cap = 0;
    arena_reset(&w->f.arena);
}

static inline void
world_fini(struct world *w)
{
    if (w->chain != NULL) world_end(w);
    fixture_fini(&w->f);
    event_base_free(w->base);
}

static inline const char *
world_value(const struct headers *headers, const char *name)
{
    static char text[4][256];
    static unsigned at;
    char *out = text[at++ % 4];
    const struct header *row = headers_find_name(headers, slice_of(name));
    if (row == NULL) return "";
    world_copy(out, sizeof text[0], row->value);
    return out;
}

static inline const char *
world_header(struct world *w, const char *name)
{
    return world_value(w->request.headers, name);
}

/* Answers the fetch at `index`, as the proxy would: between enter and leave. */
static inline void
world_answer(struct world *w, unsigned index, const struct fetch_answer *answer)
{
    struct fetch *fetch = &w->fetches[index];
    void (*done)(void *, const struct fetch_answer *) = fetch->done;
    assert_non_null(done);
    fetch->done = NULL;
    w->depth++;
    done(fetch->task, answer);
    w->depth--;
}

/* Runs the loop until the condition holds; the spec's own time limit is the bound. */
#define WORLD_UNTIL(w, condition)                                                                            \
    while (!(condition))                                                                                     \
    assert_int_equal(event_base_loop((w)->base, EVLOOP_ONCE), 0)

/* One request through filters that neither wait nor answer. */
static inline void
world_pass(struct world *w)
{
    assert_int_equal(world_begin(w), FILTER_GO);
    assert_int_equal(filter_run_request(w->chain), FILTER_GO);
    assert_int_equal(world_respond(w, 200), FILTER_GO);
    world_end(w);
}

/* What request field `name` a filter with this on_request body leaves; fails where it does not go on. */
static inline const char *
world_eval(struct world *w, const char *on_request)
{
    char body[3000];
    world_init(w);
    snprintf(body, sizeof body, "function F:on_request(r) %s end", on_request);
    world_filter(w, 0, body);
    world_load(w);
    fixture_header(&w->f, "X-In", "one");
    fixture_header(&w->f, "X-Twice", "a");
    fixture_header(&w->f, "x-twice", "b");
    fixture_header(&w->f, "Cookie", "sid=7");
    if (world_begin(w) != FILTER_GO) {
        struct script_status rows[16];
        size_t count = script_status(w->f.script, rows, 16);
        fail_msg("%s", count > 3 ? rows[3].last_error : "?");
    }
    return world_header(w, "x-out");
}

/* A filter whose on_response is this; the answer's field x-out. */
static inline const char *
respond_with(struct world *w, const char *code, enum filter_verdict expected)
{
    char body[2000];
    world_init(w);
    snprintf(body, sizeof body, "function F:on_response(r, a) %s end", code);
    world_filter(w, 0, body);
    world_load(w);
    world_answer_header(w, "Content-Length", "5");
    world_answer_header(w, "ETag", "\"v1\"");
    world_answer_header(w, "Set-Cookie", "a=1");
    world_answer_header(w, "Set-Cookie", "b=2");
    assert_int_equal(world_begin(w), FILTER_GO);
    enum filter_verdict verdict = world_respond(w, 200);
    if (verdict != expected) {
        struct script_status rows[16];
        (void)script_status(w->f.script, rows, 16);
        fail_msg("%s: %s", code, rows[3].last_error);
    }
    return world_value(w->response.headers, "x-out");
}
#endif
