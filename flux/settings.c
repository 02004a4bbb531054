/* What a client is made of: arguments over environment over defaults, checked once. */
#include "flux/internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/text.h"

enum {
    NAME_MAX_BYTES = 255,
    URL_MAX_BYTES = 2048,
    METADATA_MAX_BYTES = 4096,
    DEFAULT_BEAT_MS = 10000,
    DEFAULT_CALL_MS = 5000
};

/* Not empty, UTF-8, no control bytes: what goes into a URL, a label and JSON alike. */
static bool
is_plain(const char *text, size_t limit)
{
    size_t len = strlen(text);
    if (len == 0 || len > limit || !text_is_utf8(slice_of(text))) return false;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) return false;
    }
    return true;
}

static const char *
env(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Which one of the many is wrong, for the log. */
static enum flux_error
refuse(const struct flux_client *client, const char *why)
{
    if (client->on_event != NULL) client->on_event(client->context, "invalid", why);
    return FLUX_INVALID;
}

static enum flux_error
take_text(struct flux_client *client, char **field, const char *what, const char *text, size_t limit)
{
    char why[96];
    if (!is_plain(text, limit)) {
        snprintf(
            why, sizeof why, "%s: 1 to %zu bytes of UTF-8 without control bytes are expected", what, limit);
        return refuse(client, why);
    }
    *field = strdup(text);
    return *field == NULL ? FLUX_NO_MEMORY : FLUX_OK;
}

static enum flux_error
take_optional(struct flux_client *client, char **field, const char *what, const char *text, size_t limit)
{
    return text == NULL || text[0] == '\0' ? FLUX_OK : take_text(client, field, what, text, limit);
}

/* A port of the argument or the environment; `none` where neither says one. */
static enum flux_error
take_port(struct flux_client *client, int *field, int given, const char *variable, bool may_be_none)
{
    char why[96];
    const char *text = env(variable);
    uint64_t port = 0;
    snprintf(why, sizeof why, "%s: a port from 1 to 65535 is expected", variable);
    if (given < 0 || given > 65535) return refuse(client, why);
    if (given == 0 && text != NULL && !text_parse_u64(slice_of(text), 65535, &port))
        return refuse(client, why);
    *field = given != 0 ? given : (int)port;
    return *field == 0 && !may_be_none ? refuse(client, why) : FLUX_OK;
}

static enum flux_error
take_host(struct flux_client *client, const char *given)
{
    char name[256];
    if (given == NULL || given[0] == '\0') given = env("HOSTNAME");
    if (given == NULL) {
        if (gethostname(name, sizeof name) != 0) return FLUX_SYSTEM;
        name[sizeof name - 1] = '\0'; /* POSIX leaves a cut name without one */
        given = name;
    }
    return take_text(client, &client->host, "host", given, NAME_MAX_BYTES);
}

static enum flux_error
take_derived(struct flux_client *client, const struct flux_instance *instance)
{
    char text[2 * NAME_MAX_BYTES + 32];
    const char *id = instance->id, *url = instance->url;
    enum flux_error error;
    if (id == NULL || id[0] == '\0') {
        snprintf(text, sizeof text, "%s-%s-%d", client->service_name, client->host, client->port);
        id = text;
    }
    error = take_text(client, &client->id, "id", id, NAME_MAX_BYTES);
    if (error != FLUX_OK) return error;
    if (url == NULL || url[0] == '\0') {
        bool v6 = strchr(client->host, ':') != NULL && client->host[0] != '[';
        snprintf(text, sizeof text, v6 ? "http://[%s]:%d" : "http://%s:%d", client->host, client->port);
        url = text;
    }
    return take_text(client, &client->url, "url", url, URL_MAX_BYTES);
}

static enum flux_error
take_instance(struct flux_client *client, const struct flux_instance *instance)
{
    const char *name = instance->service_name, *path = instance->health_path;
    json_t *metadata;
    enum flux_error error;
    if (name == NULL || name[0] == '\0') name = env("SERVICE_NAME");
    if (name == NULL) return refuse(client, "SERVICE_NAME: a service name is needed");
    if ((error = take_text(client, &client->service_name, "service", name, NAME_MAX_BYTES)) != FLUX_OK)
        return error;
    if ((error = take_port(client, &client->port, instance->port, "PORT", false)) != FLUX_OK) return error;
    if ((error = take_host(client, instance->host)) != FLUX_OK) return error;
    if ((error = take_derived(client, instance)) != FLUX_OK) return error;
    if (path == NULL || path[0] == '\0') path = "/health";
    if (path[0] != '/') return refuse(client, "health path: it begins with a slash");
    if ((error = take_text(client, &client->health_path, "health path", path, URL_MAX_BYTES)) != FLUX_OK)
        return error;
    if ((error = take_optional(client, &client->zone, "zone", instance->zone, NAME_MAX_BYTES)) != FLUX_OK)
        return error;
    if ((error = take_optional(client, &client->version, "version", instance->version, NAME_MAX_BYTES)) !=
        FLUX_OK)
        return error;
    if ((error = take_optional(client, &client->metadata_json, "metadata", instance->metadata_json,
             METADATA_MAX_BYTES)) != FLUX_OK)
        return error;
    if (client->metadata_json != NULL) {
        metadata = json_loads(client->metadata_json, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(metadata)) error = refuse(client, "metadata: a JSON object is expected");
        json_decref(metadata);
    }
    if (instance->weight > 65535) return refuse(client, "weight: at most 65535");
    client->weight = instance->weight;
    client->rich = client->weight != 0 || client->zone != NULL || client->version != NULL ||
                   client->metadata_json != NULL;
    return error;
}

/* Scheme optional in both protocols; no query, no fragment, no slash at the end. */
static enum flux_error
take_registry_url(struct flux_client *client, const char *given)
{
    char text[URL_MAX_BYTES + 8];
    size_t len;
    CURLU *parsed;
    CURLUcode code;
    if (given == NULL || given[0] == '\0') given = env("REGISTRY_URL");
    if (given == NULL) given = client->protocol == FLUX_GRPC ? "127.0.0.1:9091" : "http://127.0.0.1:8081";
    if (!is_plain(given, URL_MAX_BYTES)) return refuse(client, "registry URL: bytes that no URL has");
    snprintf(text, sizeof text, strstr(given, "://") == NULL ? "http://%s" : "%s", given);
    len = strlen(text);
    while (len > 0 && text[len - 1] == '/')
        text[--len] = '\0';
    parsed = curl_url();
    if (parsed == NULL) return FLUX_NO_MEMORY;
    code = curl_url_set(parsed, CURLUPART_URL, text, 0);
    curl_url_cleanup(parsed);
    if (code == CURLUE_OUT_OF_MEMORY) return FLUX_NO_MEMORY;
    if (code != CURLUE_OK || strpbrk(text, "?#") != NULL ||
        (strncmp(text, "http://", 7) != 0 && strncmp(text, "https://", 8) != 0)) {
        return refuse(client, "registry URL: http://HOST:PORT, https://HOST:PORT or HOST:PORT is expected");
    }
    return take_text(client, &client->registry_url, "registry URL", text, URL_MAX_BYTES);
}

enum flux_error
settings_take(
    struct flux_client *client, const struct flux_instance *instance, const struct flux_options *options)
{
    static const struct flux_options none;
    enum flux_error error;
    if (options == NULL) options = &none;
    if (options->protocol != FLUX_HTTP && options->protocol != FLUX_GRPC) return FLUX_INVALID;
    client->protocol = options->protocol;
    client->heartbeat_ms = options->heartbeat_ms == 0 ? DEFAULT_BEAT_MS : options->heartbeat_ms;
    client->timeout_ms = options->timeout_ms == 0 ? DEFAULT_CALL_MS : options->timeout_ms;
    client->on_event = options->on_event;
    client->context = options->context;
    if ((error = take_instance(client, instance)) != FLUX_OK) return error;
    if ((error = take_registry_url(client, options->registry_url)) != FLUX_OK) return error;
    if ((error = take_optional(client, &client->token, "token", options->token, URL_MAX_BYTES)) != FLUX_OK)
        return error;
    return take_port(client, &client->metrics_port, options->metrics_port, "METRICS_PORT", true);
}

void
settings_free(struct flux_client *client)
{
    char **fields[] = {&client->id, &client->service_name, &client->host, &client->url, &client->health_path,
        &client->zone, &client->version, &client->metadata_json, &client->registry_url, &client->token};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        free(*fields[i]);
        *fields[i] = NULL;
    }
}
