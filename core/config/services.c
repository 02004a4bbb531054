#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

/* As the shared segment's fields allow (core/shm/shm.h). */
enum {
    SERVICE_NAME_BYTES = 128,
    ENDPOINT_ID_BYTES = 255,
    ZONE_BYTES = 63,
    METADATA_BYTES = 2047,
    WEIGHT_MAX = 65535
};

static void
take_zone(struct load *load, const struct node *node, void *target)
{
    struct config_endpoint *endpoint = target;
    if (!value_text(load, node, "the name of a zone", &endpoint->zone)) return;
    if (strlen(endpoint->zone) > ZONE_BYTES)
        refuse(load, node->place, NULL, "zone: at most %d bytes", ZONE_BYTES);
}

static void
take_endpoint_address(struct load *load, const struct node *node, void *target)
{
    struct config_endpoint *endpoint = target;
    if (!value_address(load, node, ADDRESS_CONNECT, &endpoint->address)) endpoint->weight = UINT32_MAX;
}

static void
take_id(struct load *load, const struct node *node, void *target)
{
    struct config_endpoint *endpoint = target;
    if (!value_text(load, node, "the endpoint's name", &endpoint->id)) return;
    if (strlen(endpoint->id) > ENDPOINT_ID_BYTES)
        refuse(load, node->place, NULL, "id: at most %d bytes", ENDPOINT_ID_BYTES);
}

static void
take_metadata(struct load *load, const struct node *node, void *target)
{
    struct config_endpoint *endpoint = target;
    if (!value_map(load, node)) return;
    endpoint->metadata_json = options_json(load, node);
    if (endpoint->metadata_json != NULL && strlen(endpoint->metadata_json) > METADATA_BYTES)
        refuse(load, node->place, NULL, "metadata: at most %d bytes as JSON", METADATA_BYTES);
}

static const struct key endpoint_keys[] = {
    {"address", KEY_OTHER, 0, 0, 0, NULL, take_endpoint_address},
    {"id", KEY_OTHER, 0, 0, 0, NULL, take_id},
    {"weight", KEY_NUMBER, offsetof(struct config_endpoint, weight), 0, WEIGHT_MAX, NULL, NULL},
    {"zone", KEY_OTHER, 0, 0, 0, NULL, take_zone},
    {"metadata", KEY_OTHER, 0, 0, 0, NULL, take_metadata},
};
BLOCK(endpoint, "an endpoint", endpoint_keys);

static const char *
endpoint_id_at(const void *context, uint32_t at)
{
    const struct config_service *service = context;
    return service->endpoints[at].id;
}

static bool
endpoint_read(struct load *load, const struct node *item, struct config_endpoint *endpoint)
{
    *endpoint = (struct config_endpoint){.weight = 1, .metadata_json = ""};
    if (item->kind == NODE_SCALAR) {
        if (!value_address(load, item, ADDRESS_CONNECT, &endpoint->address)) return false;
    } else if (item->kind == NODE_MAP) {
        block_read(load, &endpoint_block, item, endpoint);
        if (node_find(item, "address") == NULL) {
            refuse(load, item->place, NULL, "an endpoint needs an address");
            return false;
        }
        if (endpoint->address.text == NULL) return false;
    } else {
        value_refuse(
            load, item, "an address such as 10.0.0.1:8080, or a map {address, id, weight, zone, metadata}");
        return false;
    }
    if (endpoint->id == NULL) endpoint->id = endpoint->address.text;
    return true;
}

static void
take_endpoints(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    struct index ids = {0};
    if (node_is_null(node)) return;
    if (node->kind != NODE_LIST) {
        value_refuse(load, node, "a list of endpoints");
        return;
    }
    service->endpoints = load_alloc(load, (node->count + 1) * sizeof *service->endpoints);
    if (service->endpoints == NULL) return;
    for (const struct node *item = node->first; item != NULL; item = item->next) {
        struct config_endpoint *endpoint = &service->endpoints[service->endpoint_count];
        uint32_t before;
        if (!endpoint_read(load, item, endpoint)) continue;
        if (index_add(
                &ids, endpoint->id, (uint32_t)service->endpoint_count, endpoint_id_at, service, &before)) {
            service->endpoint_count++;
        } else if (before == UINT32_MAX) {
            load->diags->failed = true;
        } else {
            refuse(load, item->place, NULL, "the endpoint %s is given twice, first in line %d",
                shown(load, endpoint->id), service->endpoints[before].address.place.line);
        }
    }
    index_fini(&ids);
}

/* ---- health
 * ---------------------------------------------------------------------------------------------------- */

static void
take_rise(struct load *load, const struct node *node, void *target)
{
    struct config_health *health = target;
    uint64_t number;
    if (value_number(load, node, 1, 1000, &number))
        *(strcmp(node->key, "rise") == 0 ? &health->rise : &health->fall) = (uint32_t)number;
}

static bool
take_double(
    struct load *load, const struct node *node, double least, double most, const char *expected, double *out)
{
    char *end = NULL;
    const char *text = node->kind == NODE_SCALAR ? node->text : "";
    /* strtod alone would take blanks, signs, hexadecimal, "nan" */
    bool digits = strspn(text, "0123456789.") == strlen(text) && text[0] != '\0';
    double value = digits ? strtod(text, &end) : -1;
    if (digits && *end == '\0' && value >= least && value <= most) {
        *out = value;
        return true;
    }
    value_refuse(load, node, expected);
    return false;
}

static void
take_jitter(struct load *load, const struct node *node, void *target)
{
    struct config_health *health = target;
    (void)!take_double(load, node, 0, 1, "a share from 0 to 1, such as 0.1", &health->jitter);
}

static void
take_penalty(struct load *load, const struct node *node, void *target)
{
    struct config_damping *damping = target;
    (void)!take_double(load, node, 0.01, 1000, "a penalty from 0.01 to 1000, such as 3",
        strcmp(node->key, "suppress") == 0 ? &damping->suppress : &damping->reuse);
}

static const struct key damping_keys[] = {
    {"half_life", KEY_DURATION, offsetof(struct config_damping, half_life_us), 1000, 0, NULL, NULL},
    {"max", KEY_DURATION, offsetof(struct config_damping, max_us), 1000, 0, NULL, NULL},
    {"suppress", KEY_OTHER, 0, 0, 0, NULL, take_penalty},
    {"reuse", KEY_OTHER, 0, 0, 0, NULL, take_penalty},
};
const struct block damping_block = {
    "damping", "damping", damping_keys, sizeof damping_keys / sizeof damping_keys[0], NULL};

/* `damping: false` turns it off. */
static void
take_damping(struct load *load, const struct node *node, struct config_damping *damping)
{
    bool is_on = true;
    if (node == NULL || node_is_null(node)) return;
    if (node->kind == NODE_SCALAR && !value_bool(load, node, &is_on)) return;
    if (!is_on) damping->half_life_us = 0;
    if (node->kind == NODE_SCALAR || !value_map(load, node)) return;
    block_read(load, &damping_block, node, damping);
    if (damping->reuse >= damping->suppress)
        refuse(load, node->key_place, NULL, "damping: reuse must be below suppress");
}

static bool
status_is_valid(const char *text)
{
    uint64_t from, to;
    const char *dash = strchr(text, '-');
    if (dash == NULL) return text_parse_u64(slice_of(text), 599, &from) && from >= 100;
    return text_parse_u64((struct slice){text, (size_t)(dash - text)}, 599, &from) && from >= 100 &&
           text_parse_u64(slice_of(dash + 1), 599, &to) && to >= from;
}

static void
take_status(struct load *load, const struct node *node, void *target)
{
    static const char expected[] = "a status such as 200, or a range such as \"200-299\"";
    const char **texts;
    size_t count;
    (void)target;
    if (!value_texts(load, node, expected, &texts, &count)) return;
    if (count == 0) value_refuse(load, node, expected);
    for (size_t i = 0; i < count; i++) {
        if (!status_is_valid(texts[i]))
            refuse(load, node->place, NULL, "%s: expected %s, found %s", node->key, expected,
                shown(load, texts[i]));
    }
}

void
health_path_read(struct load *load, const struct node *node, const char **out)
{
    static const char what[] = "a path such as /health";
    const char *path;
    if (!value_text(load, node, what, &path)) return;
    bool is_path = path[0] == '/';
    for (const char *at = path; *at != '\0'; at++)
        is_path = is_path && (unsigned char)*at > 0x20 && (unsigned char)*at < 0x7f && *at != '#';
    if (is_path)
        *out = path;
    else
        value_refuse(load, node, what);
}

/* The policy reads its value; here it is only checked. */
static void
take_health_path(struct load *load, const struct node *node, void *target)
{
    const char *path = NULL;
    (void)target;
    health_path_read(load, node, &path);
}

/* The policy's Lua knows its own keys. */
static void
take_health_other(struct load *load, const struct node *node, void *target)
{
    (void)load;
    (void)node;
    (void)target;
}

static const struct key health_keys[] = {
    {"policy", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"passive", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"damping", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"interval", KEY_DURATION, offsetof(struct config_health, interval_us), 10000, 0, NULL, NULL},
    {"fast_interval", KEY_DURATION, offsetof(struct config_health, fast_interval_us), 10000, 0, NULL, NULL},
    {"timeout", KEY_DURATION, offsetof(struct config_health, timeout_us), 1000, 0, NULL, NULL},
    {"rise", KEY_OTHER, 0, 0, 0, NULL, take_rise},
    {"fall", KEY_OTHER, 0, 0, 0, NULL, take_rise},
    {"jitter", KEY_OTHER, 0, 0, 0, NULL, take_jitter},
    {"path", KEY_OTHER, 0, 0, 0, NULL, take_health_path},
    {"status", KEY_OTHER, 0, 0, 0, NULL, take_status},
};
const struct block health_block = {
    "health", "a health policy", health_keys, sizeof health_keys / sizeof health_keys[0], take_health_other};

/* Every key of the block but those that are not the policy's, as written. */
static void
members_json(const struct node *node, struct strbuf *buf)
{
    strbuf_add_char(buf, '{');
    for (const struct node *child = node->kind == NODE_MAP ? node->first : NULL; child != NULL;
         child = child->next) {
        if (strcmp(child->key, "policy") == 0 || strcmp(child->key, "passive") == 0 ||
            strcmp(child->key, "damping") == 0)
            continue;
        strbuf_add_json(buf, slice_of(child->key));
        strbuf_add_text(buf, ": ");
        node_json(child, buf);
        strbuf_add_text(buf, ", ");
    }
}

static const char *
json_end(struct load *load, struct strbuf *buf)
{
    if (buf->len > 2) buf->len -= 2;
    strbuf_add_char(buf, '}');
    const char *json = buf->failed ? NULL : arena_strdup(load->arena, strbuf_slice(buf));
    strbuf_fini(buf);
    if (json == NULL) load->diags->failed = true;
    return json;
}

/* The defaults of what every policy that probes has: what Lua gets is what C goes by. */
static void
defaults_json(const struct node *node, const struct config_health *health, struct strbuf *buf)
{
    char interval[32], fast[32], timeout[32];
    duration_exact(health->interval_us, interval);
    duration_exact(health->fast_interval_us, fast);
    duration_exact(health->timeout_us, timeout);
    if (node_find(node, "interval") == NULL) strbuf_printf(buf, "\"interval\": \"%s\", ", interval);
    if (node_find(node, "fast_interval") == NULL) strbuf_printf(buf, "\"fast_interval\": \"%s\", ", fast);
    if (node_find(node, "timeout") == NULL) strbuf_printf(buf, "\"timeout\": \"%s\", ", timeout);
    if (node_find(node, "rise") == NULL) strbuf_printf(buf, "\"rise\": %u, ", health->rise);
    if (node_find(node, "fall") == NULL) strbuf_printf(buf, "\"fall\": %u, ", health->fall);
    if (node_find(node, "jitter") == NULL) strbuf_printf(buf, "\"jitter\": %g, ", health->jitter);
}

/* `passive: true` is the shipped policy of that name, `passive: { policy: NAME, … }` any that observes. */
static void
take_passive(struct load *load, const struct node *node, struct config_service *service)
{
    struct config_plugin *passive = &service->health.passive;
    const char *name = DEFAULT_PASSIVE;
    bool is_on = true;
    struct strbuf buf = {0};
    if (node == NULL || node_is_null(node)) return;
    if (node->kind == NODE_SCALAR && !value_bool(load, node, &is_on)) return;
    if (!is_on || (node->kind != NODE_SCALAR && !value_map(load, node))) return;
    const struct node *policy = node_find(node, "policy");
    if (policy != NULL && !value_text(load, policy, "the name of a health policy", &name)) return;
    passive->options.path = load_text(load, "services.%s.health.passive", service->name);
    members_json(node, &buf);
    passive->options.json = json_end(load, &buf);
    /* what failed is in diags */
    bool found =
        plugin_find(load, PLUGIN_HEALTH, name, policy == NULL ? node->key_place : policy->place, passive);
    (void)found;
}

static void
take_health(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    struct config_health *health = &service->health;
    const struct node *policy = node_find(node, "policy");
    const char *name = DEFAULT_HEALTH;
    struct strbuf buf = {0};
    if (!value_map(load, node)) return;
    health->enabled = true;
    block_read(load, &health_block, node, health);
    if (node_find(node, "fast_interval") == NULL) health->fast_interval_us = health->interval_us;
    if (policy != NULL && !value_text(load, policy, "the name of a health policy", &name)) return;
    health->policy.options.path = load_text(load, "services.%s.health", service->name);
    members_json(node, &buf);
    if (strcmp(name, DEFAULT_PASSIVE) != 0) defaults_json(node, health, &buf); /* that one never probes */
    health->policy.options.json = json_end(load, &buf);
    /* what failed is in diags */
    bool found = plugin_find(
        load, PLUGIN_HEALTH, name, policy == NULL ? node->key_place : policy->place, &health->policy);
    (void)found;
    take_passive(load, node_find(node, "passive"), service);
    take_damping(load, node_find(node, "damping"), &health->damping);
}

/* ---- services
 * -------------------------------------------------------------------------------------------------- */

static void
take_discover(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    if (!value_text(load, node, "the name that instances register under, or \"*\"", &service->discover))
        return;
    if (strlen(service->discover) > 255) refuse(load, node->place, NULL, "discover: at most 255 bytes");
}

static void
take_options(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    if (value_map(load, node)) service->strategy.options.json = options_json(load, node);
}

static void
take_service_timeouts(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    block_read(load, &service_timeouts_block, node, &service->timeouts);
}

static void
take_service_limits(struct load *load, const struct node *node, void *target)
{
    block_read(load, &service_limits_block, node, target);
}

static void
take_service_retry(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    block_read(load, &retry_block, node, &service->retry);
}

static void
take_panic(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    const char *text = node->kind == NODE_SCALAR ? node->text : "";
    size_t len = strlen(text);
    uint64_t percent;
    if (len > 1 && text[len - 1] == '%' && text_parse_u64((struct slice){text, len - 1}, 100, &percent)) {
        service->panic_percent = (uint32_t)percent;
    } else {
        value_refuse(load, node, "a share from 0% to 100%, such as 50%");
    }
}

static void
take_filters(struct load *load, const struct node *node, void *target)
{
    struct config_service *service = target;
    const char *path = load_text(load, "services.%s", service->name);
    service->filters = filters_read(load, node, path, &service->filter_count);
}

static const struct key service_keys[] = {
    {"discover", KEY_OTHER, 0, 0, 0, NULL, take_discover},
    {"endpoints", KEY_OTHER, 0, 0, 0, NULL, take_endpoints},
    {"strategy", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"options", KEY_OTHER, 0, 0, 0, NULL, take_options},
    {"health", KEY_OTHER, 0, 0, 0, NULL, take_health},
    {"timeouts", KEY_OTHER, 0, 0, 0, NULL, take_service_timeouts},
    {"limits", KEY_OTHER, 0, 0, 0, NULL, take_service_limits},
    {"retry", KEY_OTHER, 0, 0, 0, NULL, take_service_retry},
    {"filters", KEY_OTHER, 0, 0, 0, NULL, take_filters},
    {"tls", KEY_LATER, 0, 0, 0, NULL, NULL},
    {"slow_start", KEY_DURATION, offsetof(struct config_service, slow_start_us), 0, 0, NULL, NULL},
    {"panic", KEY_OTHER, 0, 0, 0, NULL, take_panic},
    {"protocol", KEY_LATER, 0, 0, 0, NULL, NULL},
};
BLOCK(service, "a service", service_keys);

const char *
service_name_at(const void *context, uint32_t at)
{
    const struct config *config = context;
    return config->services[at].name;
}

static bool
name_is_valid(struct load *load, const struct node *node)
{
    bool ok = strlen(node->key) <= SERVICE_NAME_BYTES;
    for (const char *at = node->key; *at != '\0'; at++)
        ok = ok && (unsigned char)*at >= 0x20 && *at != 0x7f;
    if (!ok)
        refuse(load, node->key_place, NULL, "a service's name has at most %d bytes and no control bytes",
            SERVICE_NAME_BYTES);
    return ok;
}

void
service_defaults(const struct config *config, struct config_service *service)
{
    service->timeouts = config->timeouts;
    service->queue = config->limits.queue;
    service->body = (struct config_body_limits){config->limits.body_bytes, config->limits.body_rate};
    service->retry = config->retry;
}

static void
service_read(struct load *load, const struct node *node, struct config_service *service)
{
    const struct node *strategy = node_find(node, "strategy");
    const char *name = DEFAULT_STRATEGY;
    service->name = node->key;
    service->place = node->key_place;
    service_defaults(load->config, service);
    service->health = (struct config_health){.interval_us = 5000000,
        .timeout_us = 2000000,
        .rise = 2,
        .fall = 3,
        .jitter = 0.1,
        .damping = {60000000, 300000000, 3, 1}};
    service->health.fast_interval_us = service->health.interval_us;
    service->strategy.options.path = load_text(load, "services.%s.options", service->name);
    service->strategy.options.json = "{}";
    block_read(load, &service_block, node, service);
    if (strategy == NULL || value_text(load, strategy, "the name of a strategy", &name)) {
        /* what failed is in diags */
        bool found = plugin_find(load, PLUGIN_STRATEGY, name,
            strategy == NULL ? node->key_place : strategy->place, &service->strategy);
        (void)found;
    }
    const struct node *endpoints = node_find(node, "endpoints"), *discover = node_find(node, "discover");
    if (discover == NULL && (endpoints == NULL || (endpoints->count == 0 && !endpoints->bad)))
        refuse(load, node->key_place, NULL, "the service %s needs endpoints or discover",
            shown(load, service->name));
    if (discover != NULL && !load->config->registry.enabled)
        refuse(load, discover->key_place, NULL,
            "discover needs a 'registry' block that says where instances register");
}

void
services_load(struct load *load, const struct node *list, struct index *names)
{
    struct config *config = load->config;
    if (list == NULL || node_is_null(list)) return;
    if (list->kind != NODE_MAP) {
        value_refuse(load, list, "a map of services by name");
        return;
    }
    config->services = load_alloc(load, (list->count + 1) * sizeof *config->services);
    if (config->services == NULL) return;
    for (const struct node *node = list->first; node != NULL; node = node->next) {
        struct config_service *service = &config->services[config->service_count];
        if (!name_is_valid(load, node)) continue;
        service_read(load, node, service);
        if (index_add(names, service->name, (uint32_t)config->service_count, service_name_at, config, NULL)) {
            config->service_count++;
        } else {
            load->diags->failed = true; /* the tree holds no key twice */
        }
    }
}
