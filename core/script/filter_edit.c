/* What filters change: a request's fields, line, target and body, and a response; and what they answer. */
#include <stdio.h>
#include <stdlib.h>

#include "core/http/uri.h"
#include "core/script/filter_internal.h"

enum { METHOD_BYTES_MAX = 64, NAME_BYTES_MAX = 256, FIELD_BYTES = 64 };

/* ---- changing fields ---- */

/* Framing and hop-by-hop fields (RFC 9110 §7.6.1) and Host: whoever wrote those would decide where a message
 * ends or who is asked. */
static bool
is_owned(enum header_id id, struct slice name)
{
    static const uint64_t owned =
        (uint64_t)1 << HEADER_HOST | (uint64_t)1 << HEADER_CONNECTION | (uint64_t)1 << HEADER_CONTENT_LENGTH |
        (uint64_t)1 << HEADER_TRANSFER_ENCODING | (uint64_t)1 << HEADER_UPGRADE |
        (uint64_t)1 << HEADER_EXPECT | (uint64_t)1 << HEADER_TE | (uint64_t)1 << HEADER_TRAILER |
        (uint64_t)1 << HEADER_KEEP_ALIVE | (uint64_t)1 << HEADER_HTTP2_SETTINGS;
    static_assert(HEADER_ID_COUNT < 64, "one bit a name");
    if ((owned >> id & 1) != 0) return true;
    return name.len > 6 && slice_equal_nocase((struct slice){name.at, 6}, SLICE_LIT("proxy-"));
}

static int
check_field(struct slice name, struct slice value, enum header_id *id)
{
    if (name.at == NULL || name.len > NAME_BYTES_MAX || !header_name_is_valid(name)) return FG_NAME;
    *id = header_identify(name);
    if (is_owned(*id, name)) return FG_OWNED;
    return value.at != NULL && header_value_is_valid(value) ? FG_DONE : FG_VALUE;
}

int
field_check(struct slice name, struct slice value)
{
    enum header_id id;
    return check_field(name, value, &id);
}

/* Room for `bytes` more in what this request may take of the arena. */
static bool
may_copy(struct filter_chain *chain, size_t bytes)
{
    if (bytes > FILTER_COPY_MAX - chain->copied) return false;
    chain->copied += bytes;
    return true;
}

static bool
copy(struct filter_chain *chain, struct slice text, struct slice *out)
{
    if (!may_copy(chain, text.len + FIELD_BYTES)) return false;
    char *at = arena_strdup(chain->request->pick->arena, text);
    *out = (struct slice){at, text.len};
    return at != NULL;
}

static int
add_field(struct filter_chain *chain, struct headers *headers, enum header_id id, struct slice name,
    struct slice value)
{
    struct slice kept_name = id == HEADER_OTHER ? name : header_name(id), kept;
    if ((id == HEADER_OTHER && !copy(chain, name, &kept_name)) || !copy(chain, value, &kept))
        return FG_MEMORY;
    return headers_add(headers, chain->request->pick->arena, id, kept_name, kept) ? FG_DONE : FG_MEMORY;
}

static int
edit_field(
    struct filter_chain *chain, struct headers *headers, uint32_t edit, struct slice name, struct slice value)
{
    enum header_id id;
    int wrong = check_field(name, edit == FG_REMOVE ? SLICE_LIT("") : value, &id);
    if (wrong != FG_DONE) return wrong;
    value = slice_trim(value);
    if (edit == FG_ADD) return add_field(chain, headers, id, name, value);
    struct header *row = headers_find_name(headers, name);
    if (row == NULL) return edit == FG_REMOVE ? FG_DONE : add_field(chain, headers, id, name, value);
    if (edit != FG_REMOVE && !copy(chain, value, &row->value)) return FG_MEMORY;
    for (struct header *more = headers_next(headers, row); more != NULL; more = headers_next(headers, more))
        more->flags |= HEADER_F_DROP;
    if (edit == FG_REMOVE) row->flags |= HEADER_F_DROP;
    return FG_DONE;
}

int
fg_request_edit(const struct fg_request *view, uint32_t edit, const char *name, size_t len, const char *value,
    size_t value_len)
{
    guard_point();
    struct filter_chain *chain;
    int found = view_chain(view, &chain);
    if (found != FG_DONE) return found;
    return edit_field(
        chain, chain->request->headers, edit, (struct slice){name, len}, (struct slice){value, value_len});
}

int
fg_response_edit(const struct fg_response *view, uint32_t edit, const char *name, size_t len,
    const char *value, size_t value_len)
{
    guard_point();
    struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    return edit_field(
        chain, chain->response->headers, edit, (struct slice){name, len}, (struct slice){value, value_len});
}

/* ---- changing the request line, host, target and body ---- */

static int
set_path(struct filter_chain *chain, struct slice path)
{
    const struct config *config = chain->script->env.config;
    const struct config_route *route =
        chain->request->route < config->route_count ? &config->routes[chain->request->route] : NULL;
    struct slice kept, normal;
    if (path.len == 0 || path.at[0] != '/' || memchr(path.at, '?', path.len) != NULL) return FG_VALUE;
    if (!may_copy(chain, path.len) || !copy(chain, path, &kept)) return FG_MEMORY;
    char *out = arena_alloc(chain->request->pick->arena, path.len + 1);
    if (out == NULL) return FG_MEMORY;
    if (uri_normalise(kept, route != NULL && route->slashes_keep, out, path.len + 1, &normal) != URI_OK)
        return FG_VALUE;
    chain->request->pick->path = normal;
    chain->request->changed |= FILTER_PATH;
    return FG_DONE;
}

static int
set_host(struct filter_chain *chain, struct slice text)
{
    struct slice host, port, kept;
    if (text.len == 0 || !header_value_is_valid(text) || !uri_authority_split(text, &host, &port) ||
        host.len == 0)
        return FG_VALUE;
    if (!copy(chain, text, &kept)) return FG_MEMORY;
    chain->request->pick->host = kept;
    chain->request->changed |= FILTER_HOST;
    return FG_DONE;
}

static int
set_method(struct filter_chain *chain, struct slice text)
{
    struct slice kept;
    enum method method = METHOD_OTHER;
    if (text.len > METHOD_BYTES_MAX || !header_name_is_valid(text)) return FG_VALUE;
    for (int known = METHOD_OTHER + 1; known < METHOD_COUNT; known++) {
        if (slice_equal(text, slice_of(method_name((enum method)known)))) method = (enum method)known;
    }
    if (method == METHOD_CONNECT) return FG_VALUE;
    if (!copy(chain, text, &kept)) return FG_MEMORY;
    chain->request->pick->method = method;
    chain->request->pick->method_text = kept;
    chain->request->changed |= FILTER_METHOD;
    return FG_DONE;
}

static int
set_query(struct filter_chain *chain, struct slice text)
{
    struct slice kept;
    if (!uri_query_is_valid(text)) return FG_VALUE;
    if (!copy(chain, text, &kept)) return FG_MEMORY;
    chain->request->pick->query = kept;
    chain->request->changed |= FILTER_QUERY;
    return FG_DONE;
}

static int
set_service(struct filter_chain *chain, struct slice name)
{
    const struct config *config = chain->script->env.config;
    for (size_t i = 0; i < config->service_count; i++) {
        if (!slice_equal(name, slice_of(config->services[i].name))) continue;
        chain->request->service = (uint32_t)i;
        chain->request->changed |= FILTER_SERVICE;
        return FG_DONE;
    }
    return FG_UNKNOWN;
}

static int
set_route(struct filter_chain *chain, struct slice name)
{
    const struct config *config = chain->script->env.config;
    for (size_t i = 0; i < config->route_count; i++) {
        if (!slice_equal(name, slice_of(config->routes[i].name))) continue;
        chain->request->route = (uint32_t)i;
        chain->request->changed |= FILTER_ROUTE;
        return FG_DONE;
    }
    return FG_UNKNOWN;
}

static int
set_body(struct filter_chain *chain, struct slice text)
{
    if (text.len > FILTER_BODY_MAX) return FG_MEMORY;
    char *kept = arena_strdup(chain->request->pick->arena, text);
    if (kept == NULL) return FG_MEMORY;
    chain->request->body = (struct slice){kept, text.len};
    chain->request->has_body = text.len > 0;
    chain->request->changed |= FILTER_BODY;
    return FG_DONE;
}

int
fg_request_change(const struct fg_request *view, uint32_t what, const char *text, size_t len)
{
    guard_point();
    struct filter_chain *chain;
    int found = view_chain(view, &chain);
    if (found != FG_DONE) return found;
    if (chain->phase != CHAIN_REQUEST) return FG_PHASE;
    struct slice given = {text, len};
    if (text == NULL) return FG_VALUE;
    switch (what) {
    case FG_SET_PATH: return set_path(chain, given);
    case FG_SET_QUERY: return set_query(chain, given);
    case FG_SET_HOST: return set_host(chain, given);
    case FG_SET_METHOD: return set_method(chain, given);
    case FG_SET_SERVICE: return set_service(chain, given);
    case FG_SET_ROUTE: return set_route(chain, given);
    case FG_SET_BODY: return set_body(chain, given);
    }
    return FG_VALUE;
}

int
fg_request_body(const struct fg_request *view, struct fg_slice *out)
{
    guard_point();
    struct filter_chain *chain;
    int found = view_chain(view, &chain);
    if (found != FG_DONE) return found;
    if (chain->request->changed & FILTER_BODY) return view_give(chain->request->body, out);
    if (chain->phase != CHAIN_REQUEST) return FG_PHASE;
    if (!chain->request->has_body) return view_give(SLICE_LIT(""), out);
    struct script_task *running = chain->script->tasks->running;
    return running != NULL && running->chain == chain ? FG_NO : FG_OVER;
}

/* ---- answers ---- */

static bool
is_status(double status)
{
    return status >= 200 && status <= 599 && status == (double)(int)status;
}

static int
draft_begin(struct filter_chain *chain, bool is_response, double status, const char *body, size_t len)
{
    struct filters *filters = chain->script->filters;
    struct arena *arena = chain->request->pick->arena;
    filters->draft.answer = NULL;
    if (!is_status(status)) return FG_STATUS;
    if (body == NULL) len = 0;
    if (len > FILTER_BODY_MAX || !may_copy(chain, FIELD_BYTES)) return FG_MEMORY;
    struct filter_answer *answer = arena_calloc(arena, sizeof *answer);
    char *kept = arena_strdup(arena, (struct slice){body, len});
    if (answer == NULL || kept == NULL) return FG_MEMORY;
    answer->status = (int)status;
    answer->body = (struct slice){kept, len};
    filters->draft.chain = chain;
    filters->draft.answer = answer;
    filters->draft.is_response = is_response;
    return FG_DONE;
}

int
fg_request_answer(const struct fg_request *view, double status, const char *body, size_t len)
{
    guard_point();
    struct filter_chain *chain;
    int found = view_chain(view, &chain);
    if (found != FG_DONE) return found;
    return chain->phase == CHAIN_REQUEST ? draft_begin(chain, false, status, body, len) : FG_PHASE;
}

int
fg_response_answer(const struct fg_response *view, double status, const char *body, size_t len)
{
    guard_point();
    struct filter_chain *chain = view_chain_of_response(view);
    return chain == NULL ? FG_OVER : draft_begin(chain, true, status, body, len);
}

int
fg_answer_field(struct script *script, const char *name, size_t len, const char *value, size_t value_len)
{
    guard_point();
    enum header_id id;
    if (script == NULL || script->filters == NULL || script->filters->draft.answer == NULL) return FG_OVER;
    struct slice n = {name, len}, v = {value, value_len};
    int wrong = check_field(n, v, &id);
    if (wrong != FG_DONE) return wrong;
    return add_field(
        script->filters->draft.chain, &script->filters->draft.answer->headers, id, n, slice_trim(v));
}

int
fg_answer_commit(struct script *script)
{
    guard_point();
    if (script == NULL || script->filters == NULL || script->filters->draft.answer == NULL) return FG_OVER;
    struct filter_chain *chain = script->filters->draft.chain;
    struct filter_answer *answer = script->filters->draft.answer;
    script->filters->draft.answer = NULL;
    if (!script->filters->draft.is_response) {
        chain->request->answer = answer;
        return FG_DONE;
    }
    struct filter_response *response = chain->response;
    response->answer = answer;
    response->status = answer->status;
    response->headers = &answer->headers; /* what later filters change */
    response->has_body = answer->body.len > 0;
    response->slot = SLOT_NONE;
    response->encoding = FILTER_IDENTITY;
    response->has_stages = false;
    chain->stage_first = chain->stage_total;
    return FG_DONE;
}

/* ---- responses ---- */

static bool
is_bodiless(int status)
{
    return status == 204 || status == 304;
}

int
fg_response_set_status(const struct fg_response *view, double status)
{
    guard_point();
    struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    struct filter_response *response = chain->response;
    if (!is_status(status)) return FG_STATUS;
    if (response->has_body && is_bodiless((int)status) != is_bodiless(response->status)) return FG_VALUE;
    response->status = (int)status;
    if (response->answer != NULL) response->answer->status = (int)status;
    return FG_DONE;
}

static void
drop_named(struct headers *headers, struct slice name)
{
    for (struct header *row = headers_find_name(headers, name); row != NULL; row = headers_next(headers, row))
        row->flags |= HEADER_F_DROP;
}

/* What spoke of the bytes that the endpoint sent is taken away once others leave; its validator becomes a
 * weak one (RFC 9110 §8.8.1). */
static bool
body_changes(struct filter_chain *chain)
{
    static const struct slice gone[] = {SLICE_LIT("content-length"), SLICE_LIT("accept-ranges"),
        SLICE_LIT("content-md5"), SLICE_LIT("digest"), SLICE_LIT("content-digest")};
    struct headers *headers = chain->response->headers;
    struct header *tag = headers_find_name(headers, SLICE_LIT("etag"));
    if (tag != NULL && !slice_starts_with(tag->value, SLICE_LIT("W/"))) {
        const char *weak =
            arena_printf(chain->request->pick->arena, "W/%.*s", (int)tag->value.len, tag->value.at);
        if (weak == NULL || !may_copy(chain, tag->value.len + FIELD_BYTES)) return false;
        tag->value = slice_of(weak);
    }
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        drop_named(headers, gone[i]);
    return true;
}

/* What a HEAD or a 304 says of the body is what a GET would say (RFC 9110 §8.6 and §15.4.5). */
static int
bodiless_changes(struct filter_chain *chain)
{
    return chain->response->answer != NULL || body_changes(chain) ? FG_NO : FG_MEMORY;
}

int
fg_response_on_body(const struct fg_response *view, uint32_t number)
{
    guard_point();
    struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    if (!chain->response->has_body) return bodiless_changes(chain);
    if (chain->stage_total == FILTER_STAGES_MAX || !body_changes(chain)) return FG_MEMORY;
    chain->stages[chain->stage_total].plugin = &chain->current->plugin;
    chain->stages[chain->stage_total++].number = (int)number;
    chain->response->has_stages = true;
    return FG_DONE;
}

static bool
may_compress(const struct filter_response *response)
{
    const struct header *control = headers_find(response->headers, HEADER_CACHE_CONTROL);
    for (; control != NULL; control = headers_next(response->headers, control)) {
        if (header_list_has(control->value, SLICE_LIT("no-transform"))) return false;
    }
    return response->status != 206 && response->encoding == FILTER_IDENTITY &&
           headers_find(response->headers, HEADER_CONTENT_ENCODING) == NULL;
}

int
fg_response_compress(const struct fg_response *view, uint32_t encoding, uint32_t level)
{
    guard_point();
    static const struct slice names[] = {
        SLICE_LIT(""), SLICE_LIT("gzip"), SLICE_LIT("deflate"), SLICE_LIT("zstd")};
    struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    if (encoding < FILTER_GZIP || encoding > FILTER_ZSTD || level < 1 || level > 22) return FG_VALUE;
    if (!may_compress(chain->response)) return FG_NO;
    if (!chain->response->has_body) return bodiless_changes(chain);
    if (!body_changes(chain) ||
        !headers_add(chain->response->headers, chain->request->pick->arena, HEADER_CONTENT_ENCODING,
            header_name(HEADER_CONTENT_ENCODING), names[encoding]))
        return FG_MEMORY;
    chain->response->encoding = encoding;
    chain->response->level = (int)level;
    return FG_DONE;
}

int
fg_stage_chunk(struct script *script, struct fg_slice *out)
{
    guard_point();
    return script == NULL || script->filters == NULL ? FG_NO : view_give(script->filters->chunk, out);
}
