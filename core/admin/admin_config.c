#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "core/admin/admin_internal.h"

/* Options whose values let their reader forge or impersonate; the address that serves this page has no login.
 */
static const char *const secret_keys[] = {"secret", "secrets", "password", "passwords", "token", "tokens"};

static bool
is_secret(const char *key)
{
    for (size_t i = 0; i < sizeof(secret_keys) / sizeof(secret_keys[0]); i++) {
        if (strcasecmp(key, secret_keys[i]) == 0) return true;
    }
    return false;
}

/* True where something was hidden. The depth of what config accepted is bounded by its YAML reader and by
 * jansson's. */
static bool
hide(json_t *value)
{
    bool hidden = false;
    const char *key;
    size_t i;
    json_t *child;
    if (json_is_object(value)) {
        json_object_foreach(value, key, child)
        {
            if (is_secret(key)) {
                hidden |= json_object_set_new(value, key, json_string("(hidden)")) == 0;
            } else {
                hidden |= hide(child);
            }
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, child) hidden |= hide(child);
    }
    return hidden;
}

/* The options without their secrets: heap text, or NULL where there are none to hide. */
static char *
hidden_options(const char *json)
{
    json_t *root = json == NULL ? NULL : json_loads(json, 0, NULL);
    char *text = root != NULL && hide(root) ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

/* Shallow: only the services are copied, and of them only the options that hold a secret. */
static void
write_hidden(const struct config *config, struct config_service *services, char **texts, FILE *out)
{
    struct config copy = *config;
    for (size_t i = 0; i < config->service_count; i++) {
        services[i] = config->services[i];
        texts[2 * i] = hidden_options(services[i].strategy.options.json);
        if (texts[2 * i] != NULL) services[i].strategy.options.json = texts[2 * i];
        if (!services[i].health.enabled) continue;
        texts[2 * i + 1] = hidden_options(services[i].health.policy.options.json);
        if (texts[2 * i + 1] != NULL) services[i].health.policy.options.json = texts[2 * i + 1];
    }
    copy.services = services;
    config_print(&copy, out);
    for (size_t i = 0; i < 2 * config->service_count; i++)
        free(texts[i]);
}

void
admin_write_config(struct admin *admin, struct strbuf *out)
{
    const struct config *config = admin->config;
    char *text = NULL;
    size_t len = 0;
    struct config_service *services = calloc(config->service_count + 1, sizeof(*services));
    char **texts = calloc(config->service_count + 1, 2 * sizeof(*texts));
    FILE *memory = services == NULL || texts == NULL ? NULL : open_memstream(&text, &len);
    if (memory != NULL) write_hidden(config, services, texts, memory);
    if (memory == NULL || fclose(memory) != 0) {
        out->failed = true;
    } else {
        strbuf_add(out, text, len);
    }
    free(text);
    free(texts);
    free(services);
}
