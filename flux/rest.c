/* The registry's REST interface: /api/v1/services, and POST /api/v2/instances for what v1 has no field for.
 */
#include "flux/internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define V1 "/api/v1/services"
#define V2 "/api/v2/instances"

/* The v1 instance; with `rich` the fields of v2 as well. NULL: out of memory. Heap. */
static char *
instance_json(const struct flux_client *client, bool rich)
{
    char *text;
    json_t *object = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "id", client->id, "serviceName",
        client->service_name, "host", client->host, "port", client->port, "url", client->url, "healthPath",
        client->health_path);
    bool ok = object != NULL;
    if (ok && rich) {
        if (client->weight != 0)
            ok = json_object_set_new(object, "weight", json_integer(client->weight)) == 0;
        if (ok && client->zone != NULL)
            ok = json_object_set_new(object, "zone", json_string(client->zone)) == 0;
        if (ok && client->version != NULL) {
            ok = json_object_set_new(object, "version", json_string(client->version)) == 0;
        }
        if (ok && client->metadata_json != NULL) {
            ok = json_object_set_new(object, "metadata", json_loads(client->metadata_json, 0, NULL)) == 0;
        }
    }
    text = ok ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    return text;
}

static bool
add_escaped(struct strbuf *out, const char *text)
{
    char *escaped = curl_easy_escape(NULL, text, 0);
    if (escaped == NULL) return false;
    strbuf_add_text(out, escaped);
    curl_free(escaped);
    return true;
}

/* BASE PREFIX escaped(SEGMENT) SUFFIX; heap. */
static char *
url_of(const struct flux_client *client, const char *prefix, const char *segment, const char *suffix)
{
    struct strbuf url = {0};
    strbuf_add_text(&url, client->registry_url);
    strbuf_add_text(&url, prefix);
    if (segment != NULL && !add_escaped(&url, segment)) url.failed = true;
    strbuf_add_text(&url, suffix);
    if (!url.failed) return url.at;
    strbuf_fini(&url);
    return NULL;
}

/* One call; *status is what came. Takes `url`. */
static enum flux_error
perform(struct flux_client *client, struct caller *caller, const char *method, char *url, const char *json,
    long *status, char detail[DETAIL_BYTES])
{
    struct caller_request request = {
        .method = method,
        .url = url,
        .content_type = json == NULL ? NULL : "application/json",
        .body = slice_of(json),
        .token = client->token,
        .timeout_ms = client->timeout_ms,
    };
    enum flux_error error;
    if (url == NULL) {
        snprintf(detail, DETAIL_BYTES, "out of memory");
        return FLUX_NO_MEMORY;
    }
    error = caller_perform(caller, &request, status, detail);
    if (error == FLUX_OK && *status / 100 != 2) {
        snprintf(detail, DETAIL_BYTES, "%s %s: %ld %.*s", method, url, *status,
            (int)(caller->body.len > 160 ? 160 : caller->body.len),
            caller->body.at == NULL ? "" : caller->body.at);
    }
    free(url);
    return error;
}

static enum flux_error
error_of(long status)
{
    if (status / 100 == 2) return FLUX_OK;
    return status == 404 ? FLUX_UNKNOWN_ID : FLUX_REJECTED;
}

static enum flux_error
post_instance(
    struct flux_client *client, struct caller *caller, bool rich, long *status, char detail[DETAIL_BYTES])
{
    enum flux_error error = FLUX_NO_MEMORY;
    char *json = instance_json(client, rich);
    if (json != NULL) {
        char *url = url_of(client, rich ? V2 : V1 "/register", NULL, "");
        error = perform(client, caller, "POST", url, json, status, detail);
    }
    free(json);
    return error;
}

static enum flux_error
call_register(struct flux_client *client, struct caller *caller, char detail[DETAIL_BYTES])
{
    long status = 0;
    enum flux_error error;
    if (client->rich) {
        error = post_instance(client, caller, true, &status, detail);
        /* A registry of the old contract knows no v2: the instance counts more than its weight. */
        if (error != FLUX_OK || (status != 404 && status != 405 && status != 501)) {
            return error != FLUX_OK ? error : status / 100 == 2 ? FLUX_OK : FLUX_REJECTED;
        }
    }
    error = post_instance(client, caller, false, &status, detail);
    if (error != FLUX_OK) return error;
    return status / 100 == 2 ? FLUX_OK : FLUX_REJECTED;
}

/* The old registry answers the whole list only: the named ones are kept. */
static char *
filtered(struct slice body, const char *service)
{
    char *text = NULL;
    size_t i;
    json_t *all = json_loadb(body.at == NULL ? "" : body.at, body.len, 0, NULL), *kept = json_array(), *one;
    if (!json_is_array(all) || kept == NULL) goto done;
    json_array_foreach(all, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "serviceName"));
        if (service[0] != '\0' && (name == NULL || strcmp(name, service) != 0)) continue;
        if (json_array_append(kept, one) != 0) goto done;
    }
    text = json_dumps(kept, JSON_COMPACT);
done:
    json_decref(all);
    json_decref(kept);
    return text;
}

static enum flux_error
call_healthy(struct flux_client *client, struct caller *caller, const char *service, char **json,
    char detail[DETAIL_BYTES])
{
    long status = 404;
    enum flux_error error = FLUX_OK;
    if (service[0] != '\0') {
        error = perform(
            client, caller, "GET", url_of(client, V1 "/", service, "/healthy"), NULL, &status, detail);
    }
    if (error == FLUX_OK && status == 404) {
        error = perform(client, caller, "GET", url_of(client, V1, NULL, ""), NULL, &status, detail);
    }
    if (error != FLUX_OK) return error;
    if (status / 100 != 2) return FLUX_REJECTED;
    *json = filtered(strbuf_slice(&caller->body), service);
    if (*json != NULL) return FLUX_OK;
    snprintf(detail, DETAIL_BYTES, "the registry's answer is no JSON array");
    return FLUX_REJECTED;
}

enum flux_error
rest_call(struct flux_client *client, struct caller *caller, enum operation operation, const char *service,
    char **json, char detail[DETAIL_BYTES])
{
    long status = 0;
    enum flux_error error;
    char *url;
    switch (operation) {
    case OP_REGISTER: return call_register(client, caller, detail);
    case OP_HEALTHY: return call_healthy(client, caller, service, json, detail);
    case OP_HEARTBEAT:
        url = url_of(client, V1 "/heartbeat/", client->id, "");
        error = perform(client, caller, "POST", url, NULL, &status, detail);
        return error != FLUX_OK ? error : error_of(status);
    case OP_DEREGISTER:
        url = url_of(client, V1 "/deregister/", client->id, "");
        error = perform(client, caller, "DELETE", url, NULL, &status, detail);
        if (error == FLUX_OK) error = error_of(status);
        return error == FLUX_UNKNOWN_ID ? FLUX_OK : error; /* gone is what was asked for */
    case OP_COUNT: break;
    }
    return FLUX_INVALID;
}
