/* The registry's gRPC interface by libcurl: unary calls over HTTP/2 with the 5-byte message prefix
 * (grpc/doc/PROTOCOL-HTTP2.md), messages by protobuf-c, the status from the trailers. */
#include "flux/internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"

#define V1 "/serviceregistry.ServiceRegistry/"
#define V2 "/serviceregistry.v2.Registry/"

/* google.rpc.Code */
enum {
    CODE_OK = 0,
    CODE_DEADLINE_EXCEEDED = 4,
    CODE_NOT_FOUND = 5,
    CODE_UNIMPLEMENTED = 12,
    CODE_UNAVAILABLE = 14
};

enum { PREFIX_BYTES = 5 };

typedef Serviceregistry__GrpcServiceInstance v1_instance;

static enum flux_error
error_of(int code)
{
    switch (code) {
    case CODE_OK: return FLUX_OK;
    case CODE_DEADLINE_EXCEEDED: return FLUX_TIMEOUT;
    case CODE_NOT_FOUND: return FLUX_UNKNOWN_ID;
    case CODE_UNAVAILABLE: return FLUX_UNREACHABLE;
    default: return FLUX_REJECTED;
    }
}

/* The prefix (not compressed, big-endian length) and the packed message; heap. */
static char *
frame(const ProtobufCMessage *message, size_t *len)
{
    size_t packed = protobuf_c_message_get_packed_size(message);
    char *bytes = malloc(PREFIX_BYTES + packed);
    if (bytes == NULL) return NULL;
    bytes[0] = 0;
    for (int i = 0; i < 4; i++)
        bytes[1 + i] = (char)(packed >> (24 - 8 * i));
    protobuf_c_message_pack(message, (uint8_t *)bytes + PREFIX_BYTES);
    *len = PREFIX_BYTES + packed;
    return bytes;
}

/* The one message of a response; false where the framing is broken, compressed, or holds more than one. */
static bool
unframe(const struct strbuf *body, struct slice *message)
{
    uint32_t len = 0;
    if (body->len < PREFIX_BYTES || body->at[0] != 0) return false;
    for (int i = 1; i <= 4; i++)
        len = len << 8 | (unsigned char)body->at[i];
    if (len != body->len - PREFIX_BYTES) return false;
    *message = (struct slice){body->at + PREFIX_BYTES, len};
    return true;
}

/* One unary call. *code is the gRPC status (-1: none came); with CODE_OK *reply is borrowed from the caller's
 * body. */
static enum flux_error
unary(struct flux_client *client, struct caller *caller, const char *method, const ProtobufCMessage *message,
    struct slice *reply, int *code, char detail[DETAIL_BYTES])
{
    long status = 0;
    size_t len = 0;
    struct strbuf url = {0};
    enum flux_error error = FLUX_NO_MEMORY;
    char *bytes = frame(message, &len);

    *code = -1;
    strbuf_add_text(&url, client->registry_url);
    strbuf_add_text(&url, method);
    if (bytes == NULL || url.failed) {
        snprintf(detail, DETAIL_BYTES, "out of memory");
        goto done;
    }
    struct caller_request request = {
        .method = "POST",
        .url = url.at,
        .content_type = "application/grpc",
        .body = {bytes, len},
        .token = client->token,
        .timeout_ms = client->timeout_ms,
        .grpc = true,
    };
    error = caller_perform(caller, &request, &status, detail);
    if (error != FLUX_OK) goto done;
    *code = caller->grpc_status;
    if (*code == -1) {
        snprintf(detail, DETAIL_BYTES, "%s: HTTP status %ld and no grpc-status", url.at, status);
        error = status / 100 == 2 || status / 100 == 4 ? FLUX_REJECTED : FLUX_UNREACHABLE;
    } else if (*code != CODE_OK) {
        snprintf(detail, DETAIL_BYTES, "%s: grpc-status %d %.200s", method, *code, caller->grpc_message);
        error = error_of(*code);
    } else if (!unframe(&caller->body, reply)) {
        snprintf(detail, DETAIL_BYTES, "%s: the response is not one plain message", method);
        error = FLUX_REJECTED;
    }
done:
    free(bytes);
    strbuf_fini(&url);
    return error;
}

/* A v1 call that answers ServiceRegistryResponse; success=false becomes `refused`. */
static enum flux_error
call_v1(struct flux_client *client, struct caller *caller, const char *method,
    const ProtobufCMessage *message, enum flux_error refused, char detail[DETAIL_BYTES])
{
    struct slice reply = SLICE_NONE;
    int code;
    enum flux_error error = unary(client, caller, method, message, &reply, &code, detail);
    Serviceregistry__ServiceRegistryResponse *response;
    if (error != FLUX_OK) return error;
    response = serviceregistry__service_registry_response__unpack(NULL, reply.len, (const uint8_t *)reply.at);
    if (response == NULL) {
        snprintf(detail, DETAIL_BYTES, "%s: the response is no ServiceRegistryResponse", method);
        return FLUX_REJECTED;
    }
    if (!response->success) {
        snprintf(detail, DETAIL_BYTES, "%s: %s", method, response->message);
        error = refused;
    }
    serviceregistry__service_registry_response__free_unpacked(response, NULL);
    return error;
}

static char *
or_empty(char *text)
{
    return text == NULL ? (char *)protobuf_c_empty_string : text;
}

static enum flux_error
call_register(struct flux_client *client, struct caller *caller, char detail[DETAIL_BYTES])
{
    v1_instance instance = SERVICEREGISTRY__GRPC_SERVICE_INSTANCE__INIT;
    Serviceregistry__RegisterServiceRequest request = SERVICEREGISTRY__REGISTER_SERVICE_REQUEST__INIT;
    if (client->rich) {
        struct slice reply;
        int code;
        enum flux_error error;
        Serviceregistry__V2__Instance richer = SERVICEREGISTRY__V2__INSTANCE__INIT;
        Serviceregistry__V2__RegisterRequest rich = SERVICEREGISTRY__V2__REGISTER_REQUEST__INIT;
        richer.id = client->id;
        richer.service_name = client->service_name;
        richer.host = client->host;
        richer.port = client->port;
        richer.url = client->url;
        richer.health_path = client->health_path;
        if (client->weight != 0) {
            richer.weight_given_case = SERVICEREGISTRY__V2__INSTANCE__WEIGHT_GIVEN_WEIGHT;
            richer.weight = client->weight;
        }
        richer.zone = or_empty(client->zone);
        richer.version = or_empty(client->version);
        richer.metadata = or_empty(client->metadata_json);
        rich.instance = &richer;
        error = unary(client, caller, V2 "RegisterInstance", &rich.base, &reply, &code, detail);
        if (code != CODE_UNIMPLEMENTED) return error == FLUX_UNKNOWN_ID ? FLUX_REJECTED : error;
    }
    instance.id = client->id;
    instance.servicename = client->service_name;
    instance.host = client->host;
    instance.port = client->port;
    instance.url = client->url;
    instance.healthpath = client->health_path;
    request.instance = &instance;
    return call_v1(client, caller, V1 "RegisterService", &request.base, FLUX_REJECTED, detail);
}

static char *
instances_json(const Serviceregistry__GetHealthyServicesResponse *response, const char *service)
{
    char *text;
    json_t *all = json_array();
    bool ok = all != NULL;
    for (size_t i = 0; ok && i < response->n_services; i++) {
        const v1_instance *one = response->services[i];
        /* the old registry ignored the name */
        if (service[0] != '\0' && strcmp(one->servicename, service) != 0) continue;
        ok = json_array_append_new(
                 all, json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "id", one->id, "serviceName",
                          one->servicename, "host", one->host, "port", (int)one->port, "url", one->url,
                          "healthPath", one->healthpath)) == 0;
    }
    text = ok ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    return text;
}

static enum flux_error
call_healthy(struct flux_client *client, struct caller *caller, const char *service, char **json,
    char detail[DETAIL_BYTES])
{
    struct slice reply = SLICE_NONE;
    int code;
    enum flux_error error;
    Serviceregistry__GetHealthyServicesResponse *response;
    Serviceregistry__GetHealthyServicesRequest request = SERVICEREGISTRY__GET_HEALTHY_SERVICES_REQUEST__INIT;
    request.instancename = (char *)service;
    error = unary(client, caller, V1 "GetHealthyServices", &request.base, &reply, &code, detail);
    if (error != FLUX_OK) return error;
    response =
        serviceregistry__get_healthy_services_response__unpack(NULL, reply.len, (const uint8_t *)reply.at);
    *json = response == NULL ? NULL : instances_json(response, service);
    if (response != NULL) serviceregistry__get_healthy_services_response__free_unpacked(response, NULL);
    if (*json != NULL) return FLUX_OK;
    snprintf(detail, DETAIL_BYTES, "the registry's answer cannot be read");
    return FLUX_REJECTED;
}

enum flux_error
grpc_call(struct flux_client *client, struct caller *caller, enum operation operation, const char *service,
    char **json, char detail[DETAIL_BYTES])
{
    Serviceregistry__SendHeartbeatRequest beat = SERVICEREGISTRY__SEND_HEARTBEAT_REQUEST__INIT;
    Serviceregistry__DeregisterServiceRequest leave = SERVICEREGISTRY__DEREGISTER_SERVICE_REQUEST__INIT;
    enum flux_error error;
    switch (operation) {
    case OP_REGISTER: return call_register(client, caller, detail);
    case OP_HEALTHY: return call_healthy(client, caller, service, json, detail);
    case OP_HEARTBEAT:
        beat.instanceid = client->id;
        return call_v1(client, caller, V1 "SendHeartbeat", &beat.base, FLUX_UNKNOWN_ID, detail);
    case OP_DEREGISTER:
        leave.instanceid = client->id;
        error = call_v1(client, caller, V1 "DeregisterService", &leave.base, FLUX_UNKNOWN_ID, detail);
        return error == FLUX_UNKNOWN_ID ? FLUX_OK : error; /* gone is what was asked for */
    case OP_COUNT: break;
    }
    return FLUX_INVALID;
}
