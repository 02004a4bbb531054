/* registry/rest.c: the old contract under /api/v1/services, its metrics and health under /actuator, and v2
 * beside them. */
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/http/uri.h"
#include "registry/registry_internal.h"

/* One request on its way through the table below. */
struct ask {
    struct registry *registry;
    struct serve_call *call;
    const struct serve_request *request;
    struct slice segment; /* what stood for * in the path, decoded */
};

static const char json_type[] = "application/json";

static void
reply_error(struct serve_call *call, int status, const char *field, const char *error)
{
    struct strbuf body = {0};
    strbuf_add_text(&body, "{\"error\":");
    strbuf_add_json(&body, slice_of(error));
    if (field != NULL && field[0] != '\0') {
        strbuf_add_text(&body, ",\"field\":");
        strbuf_add_json(&body, slice_of(field));
    }
    strbuf_add_text(&body, "}\n");
    serve_reply(call, status, json_type, strbuf_slice(&body));
    strbuf_fini(&body);
}

/* "url names another port than port does": the field's name begins the sentence. */
static void
reply_complaint(struct ask *ask, const struct complaint *complaint)
{
    char text[512];
    ask->registry->rejected++;
    if (complaint->field[0] == '\0') {
        reply_error(ask->call, 400, NULL, complaint->error);
        return;
    }
    snprintf(text, sizeof text, "%.100s %s", complaint->field, complaint->error);
    reply_error(ask->call, 400, complaint->field, text);
}

static void
reply_failure(struct serve_call *call, enum model_result result)
{
    switch (result) {
    case MODEL_OK: break;
    case MODEL_UNKNOWN:
        reply_error(call, 404, "id", "no living instance has this id: register it again");
        break;
    case MODEL_FULL: reply_error(call, 503, NULL, "the registry holds as many instances as it can"); break;
    case MODEL_STORE_FAILED:
        reply_error(call, 503, NULL, "the registry's store failed: nothing was changed");
        break;
    case MODEL_NO_MEMORY: reply_error(call, 503, NULL, "out of memory"); break;
    }
}

static void
reply_blob(struct serve_call *call, struct serve_blob *blob)
{
    if (blob == NULL) {
        reply_failure(call, MODEL_NO_MEMORY);
    } else {
        serve_reply_blob(call, 200, json_type, blob);
    }
}

static void
reply_instance(struct ask *ask, int status, const struct instance *instance, bool v2)
{
    struct strbuf body = {0};
    if (v2) {
        render_instance_v2(ask->registry, instance, &body);
    } else {
        render_instance_v1(instance, &body);
    }
    if (body.failed) {
        reply_failure(ask->call, MODEL_NO_MEMORY);
    } else {
        serve_reply(ask->call, status, json_type, strbuf_slice(&body));
    }
    strbuf_fini(&body);
}

/* application/json or application/…+json with any parameters; none at all is taken for JSON. */
static bool
is_json(const struct serve_request *request)
{
    const struct header *row = headers_find(request->headers, HEADER_CONTENT_TYPE);
    static const struct slice prefix = {"application/", 12}, suffix = {"+json", 5};
    if (row == NULL) return true;
    const char *semicolon = memchr(row->value.at, ';', row->value.len);
    struct slice type = {
        row->value.at, semicolon == NULL ? row->value.len : (size_t)(semicolon - row->value.at)};
    type = slice_trim(type);
    if (slice_equal_nocase(type, SLICE_LIT("application/json"))) return true;
    return type.len > prefix.len + suffix.len &&
           slice_equal_nocase((struct slice){type.at, prefix.len}, prefix) &&
           slice_equal_nocase((struct slice){type.at + type.len - suffix.len, suffix.len}, suffix);
}

static void
do_register(struct ask *ask, bool v2)
{
    struct spec spec;
    struct stated stated;
    struct complaint complaint;
    struct instance *instance;
    if (!is_json(ask->request)) {
        serve_header(ask->call, "accept", json_type);
        reply_error(ask->call, 415, NULL, "the body must be application/json");
        return;
    }
    if (!validate_json(ask->request->body, v2, ask->request->arena, &spec, &stated, &complaint)) {
        reply_complaint(ask, &complaint);
        return;
    }
    /* maintenance is an operator's word: an instance that registers again does not end it, unless it says so
     */
    const struct instance *old = model_find(&ask->registry->model, spec.id);
    if (old != NULL && !stated.maintenance) spec.maintenance = old->spec.maintenance;
    enum model_result result = model_register(&ask->registry->model, &spec, clock_now_us(), &instance);
    if (result != MODEL_OK) {
        reply_failure(ask->call, result);
        return;
    }
    reply_instance(ask, 201, instance, v2);
    registry_changed(ask->registry);
}

static void
on_register_v1(struct ask *ask)
{
    do_register(ask, false);
}

static void
on_register_v2(struct ask *ask)
{
    do_register(ask, true);
}

static void
on_heartbeat_v1(struct ask *ask)
{
    enum model_result result = model_heartbeat(&ask->registry->model, ask->segment, clock_now_us());
    if (result == MODEL_OK) {
        serve_reply(ask->call, 200, NULL, SLICE_NONE);
    } else {
        reply_failure(ask->call, result);
    }
}

static void
on_heartbeat_v2(struct ask *ask)
{
    enum model_result result = model_heartbeat(&ask->registry->model, ask->segment, clock_now_us());
    if (result == MODEL_OK) {
        serve_reply(ask->call, 204, NULL, SLICE_NONE);
    } else {
        reply_failure(ask->call, result);
    }
}

static void
do_remove(struct ask *ask, bool tells_unknown)
{
    enum model_result result = model_remove(&ask->registry->model, ask->segment);
    if (result == MODEL_OK || (result == MODEL_UNKNOWN && !tells_unknown)) {
        serve_reply(ask->call, 204, NULL, SLICE_NONE);
        if (result == MODEL_OK) registry_changed(ask->registry);
    } else {
        reply_failure(ask->call, result);
    }
}

static void
on_deregister_v1(struct ask *ask)
{
    do_remove(ask, false);
}

static void
on_delete_v2(struct ask *ask)
{
    do_remove(ask, true);
}

static void
on_list_v1(struct ask *ask)
{
    reply_blob(ask->call, render_snapshot(ask->registry, SNAPSHOT_V1_JSON, NULL));
}

static void
on_healthy_v1(struct ask *ask)
{
    char *name = arena_strdup(ask->request->arena, ask->segment);
    reply_blob(ask->call, name == NULL ? NULL : render_snapshot(ask->registry, SNAPSHOT_V1_JSON, name));
}

/* ?index=N&epoch=E&wait=30s: held until the index is another than N. */
static void
on_list_v2(struct ask *ask)
{
    const struct model *model = &ask->registry->model;
    struct slice text, query = ask->request->query;
    uint64_t index = 0, wait_us = UINT64_C(1000000) * WAIT_DEFAULT_S;
    bool same_epoch =
        !uri_query_find(query, SLICE_LIT("epoch"), &text) || slice_equal(text, slice_of(model->epoch));
    if (uri_query_find(query, SLICE_LIT("index"), &text) && !text_parse_u64(text, UINT64_MAX, &index)) {
        reply_error(ask->call, 400, "index", "index is not a number");
        return;
    }
    if (uri_query_find(query, SLICE_LIT("wait"), &text) && !text_parse_duration(text, &wait_us)) {
        reply_error(ask->call, 400, "wait", "wait is no duration such as 30s");
        return;
    }
    if (wait_us > UINT64_C(1000000) * WAIT_MAX_S) wait_us = UINT64_C(1000000) * WAIT_MAX_S;
    if (index == 0 || index != model->index || !same_epoch) wait_us = 0;
    watch_query(ask->registry, ask->call, wait_us, clock_now_us());
}

static void
on_get_v2(struct ask *ask)
{
    const struct instance *instance = model_find(&ask->registry->model, ask->segment);
    if (instance == NULL) {
        reply_error(ask->call, 404, "id", "no instance has this id");
    } else {
        reply_instance(ask, 200, instance, true);
    }
}

static void
on_patch_v2(struct ask *ask)
{
    struct model *model = &ask->registry->model;
    struct instance *instance = model_find(model, ask->segment);
    struct complaint complaint;
    struct stated stated;
    if (instance == NULL || instance->lapsed) {
        reply_failure(ask->call, MODEL_UNKNOWN);
        return;
    }
    if (!is_json(ask->request)) {
        reply_error(ask->call, 415, NULL, "the body must be application/json");
        return;
    }
    struct spec spec = instance->spec;
    if (!validate_patch(ask->request->body, ask->request->arena, &spec, &stated, &complaint)) {
        reply_complaint(ask, &complaint);
        return;
    }
    enum model_result result = model_change(model, instance, &spec, &instance);
    if (result != MODEL_OK) {
        reply_failure(ask->call, result);
        return;
    }
    reply_instance(ask, 200, instance, true);
    registry_changed(ask->registry);
}

static void
on_metrics(struct ask *ask)
{
    struct strbuf body = {0};
    render_metrics(ask->registry, &body);
    if (body.failed) {
        reply_failure(ask->call, MODEL_NO_MEMORY);
    } else {
        serve_reply(ask->call, 200, "text/plain; version=0.0.4; charset=utf-8", strbuf_slice(&body));
    }
    strbuf_fini(&body);
}

static void
on_health(struct ask *ask)
{
    serve_reply(ask->call, 200, json_type, SLICE_LIT("{\"status\":\"UP\"}"));
}

/* `*` is one segment, not empty. Where several rows fit a path, the method decides. */
static const struct route {
    enum method method;
    const char *path;
    void (*handle)(struct ask *ask);
} routes[] = {
    {METHOD_POST, "/api/v1/services/heartbeat/*", on_heartbeat_v1}, /* by far the most frequent */
    {METHOD_POST, "/api/v1/services/register", on_register_v1},
    {METHOD_DELETE, "/api/v1/services/deregister/*", on_deregister_v1},
    {METHOD_GET, "/api/v1/services", on_list_v1},
    {METHOD_GET, "/api/v1/services/*/healthy", on_healthy_v1},
    {METHOD_GET, "/actuator/prometheus", on_metrics},
    {METHOD_GET, "/actuator/health", on_health},
    {METHOD_GET, "/api/v2/instances", on_list_v2},
    {METHOD_POST, "/api/v2/instances", on_register_v2},
    {METHOD_PUT, "/api/v2/instances/*/heartbeat", on_heartbeat_v2},
    {METHOD_POST, "/api/v2/instances/*/heartbeat", on_heartbeat_v2},
    {METHOD_GET, "/api/v2/instances/*", on_get_v2},
    {METHOD_PATCH, "/api/v2/instances/*", on_patch_v2},
    {METHOD_POST, "/api/v2/instances/*", on_patch_v2},
    {METHOD_DELETE, "/api/v2/instances/*", on_delete_v2},
};

static bool
path_fits(const char *pattern, struct slice path, struct slice *segment)
{
    const char *star = strchr(pattern, '*');
    if (star == NULL) return slice_equal(path, slice_of(pattern));
    struct slice before = {pattern, (size_t)(star - pattern)}, behind = slice_of(star + 1);
    if (path.len <= before.len + behind.len || !slice_starts_with(path, before)) return false;
    if (behind.len > 0 && memcmp(path.at + path.len - behind.len, behind.at, behind.len) != 0) return false;
    *segment = (struct slice){path.at + before.len, path.len - before.len - behind.len};
    return memchr(segment->at, '/', segment->len) == NULL;
}

void
rest_handle(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct ask ask = {.registry = context, .call = call, .request = request};
    enum method method = request->method == METHOD_HEAD ? METHOD_GET : request->method;
    struct strbuf allow = {0};
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        struct slice raw = SLICE_NONE;
        if (!path_fits(routes[i].path, request->path, &raw)) continue;
        if (routes[i].method != method) {
            if (allow.len > 0) strbuf_add_text(&allow, ", ");
            strbuf_add_text(
                &allow, routes[i].method == METHOD_GET ? "GET, HEAD" : method_name(routes[i].method));
            continue;
        }
        strbuf_fini(&allow);
        if (raw.len > 0 && (!serve_decode(request->arena, raw, &ask.segment) || !text_is_utf8(ask.segment))) {
            reply_error(call, 400, NULL, "the path holds a broken escape, a NUL or bytes that are not UTF-8");
            return;
        }
        routes[i].handle(&ask);
        return;
    }
    if (allow.len > 0 && !allow.failed) {
        serve_header(call, "Allow", allow.at);
        reply_error(call, 405, NULL, "this path knows other methods");
    } else {
        reply_error(call, 404, NULL, "no such path");
    }
    strbuf_fini(&allow);
}
