/* registry/grpc.c: the old service, v2 with its stream, grpc.health.v1 and reflection on one port. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "proto/health.pb-c.h"
#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"
#include "registry/registry_internal.h"

struct ask {
    struct registry *registry;
    struct serve_call *call;
    const struct serve_request *request;
    ProtobufCAllocator allocator; /* the request's arena: nothing to free */
};

static void *
arena_take(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void
arena_leave(void *arena, void *pointer)
{
    (void)arena;
    (void)pointer;
}

/* The request as a message in the arena, or NULL after the call was ended. */
static void *
unpack(struct ask *ask, const ProtobufCMessageDescriptor *descriptor)
{
    const uint8_t *bytes = (const uint8_t *)ask->request->body.at;
    ProtobufCMessage *message = protobuf_c_message_unpack(
        descriptor, &ask->allocator, ask->request->body.len, bytes == NULL ? (const uint8_t *)"" : bytes);
    if (message == NULL) serve_finish(ask->call, GRPC_INTERNAL, "the request does not parse");
    return message;
}

static void
answer(struct ask *ask, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    char *bytes = arena_alloc(ask->request->arena, len + 1);
    if (bytes == NULL) {
        serve_finish(ask->call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    protobuf_c_message_pack(message, (uint8_t *)bytes);
    serve_send(ask->call, (struct slice){bytes, len});
    serve_finish(ask->call, GRPC_OK, NULL);
}

static void
answer_v1(struct ask *ask, const char *text)
{
    Serviceregistry__ServiceRegistryResponse response = SERVICEREGISTRY__SERVICE_REGISTRY_RESPONSE__INIT;
    response.success = 1;
    response.message = (char *)text;
    answer(ask, &response.base);
}

static void
answer_failure(struct ask *ask, enum model_result result)
{
    switch (result) {
    case MODEL_OK: break;
    case MODEL_UNKNOWN:
        serve_finish(ask->call, GRPC_NOT_FOUND, "no living instance has this id: register it again");
        break;
    case MODEL_FULL:
        serve_finish(ask->call, GRPC_RESOURCE_EXHAUSTED, "the registry holds as many instances as it can");
        break;
    case MODEL_STORE_FAILED:
        serve_finish(ask->call, GRPC_UNAVAILABLE, "the registry's store failed: nothing was changed");
        break;
    case MODEL_NO_MEMORY: serve_finish(ask->call, GRPC_RESOURCE_EXHAUSTED, "out of memory"); break;
    }
}

static void
answer_complaint(struct ask *ask, const struct complaint *complaint)
{
    char text[512];
    ask->registry->rejected++;
    snprintf(text, sizeof text, "%.100s%s%s", complaint->field, complaint->field[0] == '\0' ? "" : " ",
        complaint->error);
    serve_finish(ask->call, GRPC_INVALID_ARGUMENT, text);
}

/* NULL after the call was ended. */
static struct instance *
register_spec(struct ask *ask, struct spec *spec)
{
    struct complaint complaint;
    struct instance *instance = NULL;
    if (!validate_spec(spec, CONTRACT_LOOSE, ask->request->arena, &complaint)) {
        answer_complaint(ask, &complaint);
        return NULL;
    }
    enum model_result result = model_register(&ask->registry->model, spec, clock_now_us(), &instance);
    if (result != MODEL_OK) {
        answer_failure(ask, result);
        return NULL;
    }
    return instance;
}

static struct slice
id_of(const char *id)
{
    return slice_of(id);
}

/* ---- serviceregistry.ServiceRegistry ---- */

static void
on_register_v1(struct ask *ask)
{
    Serviceregistry__RegisterServiceRequest *request =
        unpack(ask, &serviceregistry__register_service_request__descriptor);
    if (request == NULL) return;
    if (request->instance == NULL) {
        answer_complaint(ask, &(struct complaint){"instance", "is missing"});
        return;
    }
    const Serviceregistry__GrpcServiceInstance *from = request->instance;
    if (from->port < 0) {
        answer_complaint(ask, &(struct complaint){"port", "is not a number from 1 to 65535"});
        return;
    }
    struct spec spec = {.id = slice_of(from->id),
        .service = slice_of(from->servicename),
        .host = slice_of(from->host),
        .port = (uint32_t)from->port,
        .url = slice_of(from->url),
        .health_path = slice_of(from->healthpath),
        .weight = 1};
    const struct instance *old = model_find(&ask->registry->model, spec.id);
    if (old != NULL) spec.maintenance = old->spec.maintenance;
    if (register_spec(ask, &spec) == NULL) return;
    answer_v1(ask, "Service registered successfully");
    registry_changed(ask->registry);
}

static void
on_deregister_v1(struct ask *ask)
{
    Serviceregistry__DeregisterServiceRequest *request =
        unpack(ask, &serviceregistry__deregister_service_request__descriptor);
    if (request == NULL) return;
    enum model_result result = model_remove(&ask->registry->model, id_of(request->instanceid));
    if (result != MODEL_OK && result != MODEL_UNKNOWN) {
        answer_failure(ask, result);
        return;
    }
    answer_v1(ask, "Service deregistered successfully");
    if (result == MODEL_OK) registry_changed(ask->registry);
}

static void
on_heartbeat_v1(struct ask *ask)
{
    Serviceregistry__SendHeartbeatRequest *request =
        unpack(ask, &serviceregistry__send_heartbeat_request__descriptor);
    if (request == NULL) return;
    enum model_result result =
        model_heartbeat(&ask->registry->model, id_of(request->instanceid), clock_now_us());
    if (result == MODEL_OK) {
        answer_v1(ask, "Heartbeat received.");
    } else {
        answer_failure(ask, result); /* NOT_FOUND: a client that looks at nothing but errors notices it too */
    }
}

static void
send_snapshot(struct ask *ask, enum snapshot_form form, const char *service)
{
    struct serve_blob *blob =
        render_snapshot(ask->registry, form, service == NULL || service[0] == '\0' ? NULL : service);
    if (blob == NULL) {
        answer_failure(ask, MODEL_NO_MEMORY);
        return;
    }
    serve_send_blob(ask->call, blob);
    serve_finish(ask->call, GRPC_OK, NULL);
}

static void
on_healthy_v1(struct ask *ask)
{
    Serviceregistry__GetHealthyServicesRequest *request =
        unpack(ask, &serviceregistry__get_healthy_services_request__descriptor);
    if (request != NULL) send_snapshot(ask, SNAPSHOT_V1_PROTO, request->instancename);
}

/* ---- serviceregistry.v2.Registry ---- */

static void
on_register_v2(struct ask *ask)
{
    Serviceregistry__V2__RegisterRequest *request =
        unpack(ask, &serviceregistry__v2__register_request__descriptor);
    if (request == NULL) return;
    const Serviceregistry__V2__Instance *from = request->instance;
    struct slice metadata = SLICE_NONE;
    if (from == NULL) {
        answer_complaint(ask, &(struct complaint){"instance", "is missing"});
        return;
    }
    if (from->port < 0 || from->ttl_ms > TTL_MAX_US / 1000) {
        const char *field = from->port < 0 ? "port" : "ttl_ms";
        answer_complaint(ask, &(struct complaint){field, "is out of range"});
        return;
    }
    if (!validate_metadata(slice_of(from->metadata), ask->request->arena, &metadata)) {
        answer_complaint(ask, &(struct complaint){"metadata", "is not a JSON object"});
        return;
    }
    struct spec spec = {.id = slice_of(from->id),
        .service = slice_of(from->service_name),
        .host = slice_of(from->host),
        .port = (uint32_t)from->port,
        .url = slice_of(from->url),
        .health_path = slice_of(from->health_path),
        .weight =
            from->weight_given_case == SERVICEREGISTRY__V2__INSTANCE__WEIGHT_GIVEN_WEIGHT ? from->weight : 1,
        .zone = slice_of(from->zone),
        .version = slice_of(from->version),
        .metadata = metadata,
        .ttl_us = from->ttl_ms * 1000,
        .maintenance = from->maintenance,
        .draining = from->draining};
    const struct instance *old = model_find(&ask->registry->model, spec.id);
    if (old != NULL) spec.maintenance = spec.maintenance || old->spec.maintenance;
    const struct instance *kept = register_spec(ask, &spec);
    if (kept == NULL) return;
    Serviceregistry__V2__Instance instance = *from;
    instance.host = (char *)kept->spec.host.at;
    instance.url = (char *)kept->spec.url.at;
    instance.metadata = (char *)kept->spec.metadata.at;
    instance.port = (int32_t)kept->spec.port;
    instance.weight_given_case = SERVICEREGISTRY__V2__INSTANCE__WEIGHT_GIVEN_WEIGHT;
    instance.weight = kept->spec.weight;
    instance.maintenance = kept->spec.maintenance;
    instance.lapsed = 0;
    instance.base.n_unknown_fields = 0;
    instance.ttl_ms = (kept->spec.ttl_us != 0 ? kept->spec.ttl_us : ask->registry->model.lease_ttl_us) / 1000;
    Serviceregistry__V2__RegisterResponse response = SERVICEREGISTRY__V2__REGISTER_RESPONSE__INIT;
    response.instance = &instance;
    response.ttl_ms = instance.ttl_ms;
    answer(ask, &response.base);
    registry_changed(ask->registry);
}

static void
answer_empty(struct ask *ask)
{
    serve_send(ask->call, SLICE_NONE);
    serve_finish(ask->call, GRPC_OK, NULL);
}

static void
on_deregister_v2(struct ask *ask)
{
    Serviceregistry__V2__InstanceId *request = unpack(ask, &serviceregistry__v2__instance_id__descriptor);
    if (request == NULL) return;
    enum model_result result = model_remove(&ask->registry->model, id_of(request->id));
    if (result != MODEL_OK) {
        answer_failure(ask, result);
        return;
    }
    answer_empty(ask);
    registry_changed(ask->registry);
}

static void
on_heartbeat_v2(struct ask *ask)
{
    Serviceregistry__V2__InstanceId *request = unpack(ask, &serviceregistry__v2__instance_id__descriptor);
    if (request == NULL) return;
    enum model_result result = model_heartbeat(&ask->registry->model, id_of(request->id), clock_now_us());
    if (result == MODEL_OK) {
        answer_empty(ask);
    } else {
        answer_failure(ask, result);
    }
}

static void
on_list_v2(struct ask *ask)
{
    Serviceregistry__V2__ListRequest *request = unpack(ask, &serviceregistry__v2__list_request__descriptor);
    if (request != NULL) send_snapshot(ask, SNAPSHOT_V2_PROTO, request->service_name);
}

static void
on_watch_v2(struct ask *ask)
{
    Serviceregistry__V2__ListRequest *request = unpack(ask, &serviceregistry__v2__list_request__descriptor);
    if (request != NULL)
        watch_stream(ask->registry, ask->call, slice_of(request->service_name), clock_now_us());
}

/* ---- grpc.health.v1.Health ---- */

static bool
is_known_service(const char *name)
{
    static const char *const names[] = {"", "serviceregistry.ServiceRegistry", "serviceregistry.v2.Registry",
        "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) return true;
    }
    return false;
}

static void
on_check(struct ask *ask)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    Grpc__Health__V1__HealthCheckRequest *request =
        unpack(ask, &grpc__health__v1__health_check_request__descriptor);
    if (request == NULL) return;
    if (!is_known_service(request->service)) {
        serve_finish(ask->call, GRPC_NOT_FOUND, "unknown service");
        return;
    }
    response.status = ask->registry->draining
                          ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
                          : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    answer(ask, &response.base);
}

static void
on_watch_health(struct ask *ask)
{
    char bytes[2] = {1 << 3, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING};
    Grpc__Health__V1__HealthCheckRequest *request =
        unpack(ask, &grpc__health__v1__health_check_request__descriptor);
    if (request == NULL) return;
    if (watch_add(ask->registry, ask->call, WATCH_HEALTH, SLICE_NONE) == NULL) {
        answer_failure(ask, MODEL_NO_MEMORY);
        return;
    }
    if (!is_known_service(request->service))
        bytes[1] = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    serve_send(ask->call, (struct slice){bytes, sizeof bytes});
}

/* ---- reflection ---- */

static void
on_reflection_message(void *context, struct slice bytes, bool end)
{
    struct watcher *watcher = context;
    struct serve_call *call = watcher->call;
    struct strbuf out = {0};
    bool ok = end || (reflection_answer(bytes, &out) && !out.failed);
    bool flooded = serve_pending_bytes(call) > (1 << 20);
    if (!end && ok && !flooded) {
        serve_send(call, strbuf_slice(&out));
    } else {
        watch_remove(watcher);
        serve_finish(call,
            ok && !flooded ? GRPC_OK
            : flooded      ? GRPC_RESOURCE_EXHAUSTED
                           : GRPC_INTERNAL,
            ok && !flooded ? NULL
            : flooded      ? "answers are not read"
                           : "the request does not parse");
    }
    strbuf_fini(&out);
}

static void
on_reflection(struct ask *ask)
{
    struct watcher *watcher = watch_add(ask->registry, ask->call, WATCH_OTHER, SLICE_NONE);
    if (watcher == NULL) {
        answer_failure(ask, MODEL_NO_MEMORY);
        return;
    }
    serve_on_message(ask->call, on_reflection_message, watcher);
    if (ask->request->body.len > 0) on_reflection_message(watcher, ask->request->body, false);
}

#define V1         "/serviceregistry.ServiceRegistry/"
#define V2         "/serviceregistry.v2.Registry/"
#define HEALTH     "/grpc.health.v1.Health/"
#define REFLECTION "/ServerReflectionInfo"

static const struct method_row {
    struct slice path;
    void (*handle)(struct ask *ask);
    bool streaming;
} methods[] = {
#define ROW(path, handle, streaming)                                                                         \
    {                                                                                                        \
        {path, sizeof(path) - 1}, handle, streaming                                                          \
    }
    ROW(V1 "SendHeartbeat", on_heartbeat_v1, false),
    ROW(V1 "RegisterService", on_register_v1, false),
    ROW(V1 "DeregisterService", on_deregister_v1, false),
    ROW(V1 "GetHealthyServices", on_healthy_v1, false),
    ROW(V2 "SendHeartbeat", on_heartbeat_v2, false),
    ROW(V2 "RegisterInstance", on_register_v2, false),
    ROW(V2 "DeregisterInstance", on_deregister_v2, false),
    ROW(V2 "ListInstances", on_list_v2, false),
    ROW(V2 "WatchInstances", on_watch_v2, false),
    ROW(HEALTH "Check", on_check, false),
    ROW(HEALTH "Watch", on_watch_health, false),
    ROW("/grpc.reflection.v1.ServerReflection" REFLECTION, on_reflection, true),
    ROW("/grpc.reflection.v1alpha.ServerReflection" REFLECTION, on_reflection, true),
#undef ROW
};

static const struct method_row *
find_method(struct slice path)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (slice_equal(path, methods[i].path)) return &methods[i];
    }
    return NULL;
}

bool
grpc_is_streaming(void *context, struct slice path)
{
    const struct method_row *row = find_method(path);
    (void)context;
    return row != NULL && row->streaming;
}

void
grpc_handle(void *context, struct serve_call *call, const struct serve_request *request)
{
    const struct method_row *row = find_method(request->path);
    struct ask ask = {context, call, request, {arena_take, arena_leave, request->arena}};
    if (row == NULL) {
        serve_finish(call, GRPC_UNIMPLEMENTED, "no such method");
        return;
    }
    row->handle(&ask);
}
