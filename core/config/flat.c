#include <stddef.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

#define ADMIN_SERVICE "fluxgate-admin"
#define FLAT_SERVICE  "backends"

struct flat {
    uint32_t port;
    const char *strategy, *url, *health_path;
    int protocol;
    uint64_t interval_us, timeout_us;
};

static const char *const protocol_words[] = {"http", "grpc", NULL};

static void
take_path(struct load *load, const struct node *node, void *target)
{
    struct flat *flat = target;
    health_path_read(load, node, &flat->health_path);
}

#define F(name, type, field, min, max, words)                                                                \
    {                                                                                                        \
        name, type, offsetof(struct flat, field), min, max, words, NULL                                      \
    }
static const struct key flat_keys[] = {
    F("port", KEY_NUMBER, port, 1, 65535, NULL),
    F("strategy", KEY_TEXT, strategy, 0, 0, NULL),
    F("serviceRegistryURL", KEY_TEXT, url, 0, 0, NULL),
    F("serviceRegistryType", KEY_WORD, protocol, 0, 0, protocol_words),
    F("healthCheckInterval", KEY_DURATION, interval_us, 10000, 0, NULL),
    {"backendHealthPath", KEY_OTHER, 0, 0, 0, NULL, take_path},
    F("healthCheckTimeout", KEY_DURATION, timeout_us, 1000, 0, NULL),
};
#undef F

/* The old program ignored what it did not know, so such files exist and must start. */
static void
warn_unknown(struct load *load, const struct node *node, void *target)
{
    (void)target;
    complain(load, DIAG_WARNING, node->key_place, NULL, "%s is unknown in the flat form and has no effect",
        shown(load, node->key));
}

const struct block flat_block = {
    "flat", "the flat file", flat_keys, sizeof flat_keys / sizeof flat_keys[0], warn_unknown};

bool
flat_has_key(const char *key)
{
    for (size_t i = 0; i < flat_block.count; i++) {
        if (strcmp(flat_keys[i].name, key) == 0) return true;
    }
    return false;
}

bool
flat_is(const struct node *root)
{
    bool flat = false;
    for (const struct node *node = root->first; node != NULL; node = node->next) {
        for (size_t i = 0; i < config_block.count; i++) {
            if (strcmp(config_block.keys[i].name, node->key) == 0) return false;
        }
        flat = flat || flat_has_key(node->key);
    }
    return flat;
}

const char *
flat_path(const char *path)
{
    static const struct {
        const char *path, *key;
    } rows[] = {
        {"services." FLAT_SERVICE ".health.interval", "healthCheckInterval"},
        {"services." FLAT_SERVICE ".health.timeout", "healthCheckTimeout"},
        {"services." FLAT_SERVICE ".health.path", "backendHealthPath"},
        {"services." FLAT_SERVICE ".health", "backendHealthPath"},
        {"services." FLAT_SERVICE, "strategy"},
        {"registry.protocol", "serviceRegistryType"},
        {"registry", "serviceRegistryURL"},
        {"listeners", "port"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strncmp(path, rows[i].path, strlen(rows[i].path)) == 0) return rows[i].key;
    }
    return NULL;
}

static struct place
place_of(const struct node *root, const char *key)
{
    const struct node *node = node_find(root, key);
    return node == NULL ? root->place : node->place;
}

static void
flat_health(
    struct load *load, const struct node *root, const struct flat *flat, struct config_service *service)
{
    struct config_health *health = &service->health;
    struct strbuf buf = {0};
    char interval[32], timeout[32];
    duration_exact(flat->interval_us, interval);
    duration_exact(flat->timeout_us, timeout);
    *health = (struct config_health){.enabled = true,
        .interval_us = flat->interval_us,
        .fast_interval_us = flat->interval_us,
        .timeout_us = flat->timeout_us,
        .rise = 1,
        .fall = 1,
        .jitter = 0.1};
    strbuf_printf(&buf, "{\"interval\": \"%s\", \"timeout\": \"%s\", \"path\": ", interval, timeout);
    strbuf_add_json(&buf, slice_of(flat->health_path));
    strbuf_printf(&buf,
        ", \"status\": [200], \"rise\": 1, \"fall\": 1, \"fast_interval\": \"%s\", \"jitter\": 0.1}",
        interval);
    health->policy.options = (struct config_options){"services." FLAT_SERVICE ".health", NULL};
    health->policy.options.json = buf.failed ? NULL : arena_strdup(load->arena, strbuf_slice(&buf));
    strbuf_fini(&buf);
    if (health->policy.options.json == NULL) load->diags->failed = true;
    /* what failed is in diags */
    bool found = plugin_find(load, PLUGIN_HEALTH, DEFAULT_HEALTH, root->place, &health->policy);
    (void)found;
}

static void
flat_services(struct load *load, const struct node *root, const struct flat *flat)
{
    struct config *config = load->config;
    struct config_service *services = load_alloc(load, 2 * sizeof *services);
    struct config_endpoint *admin = load_alloc(load, sizeof *admin);
    if (services == NULL || admin == NULL) return;
    services[0] = (struct config_service){.name = FLAT_SERVICE, .discover = "*", .place = root->place};
    services[0].strategy.options = (struct config_options){"services." FLAT_SERVICE ".options", "{}"};
    flat_health(load, root, flat, &services[0]);
    *admin = (struct config_endpoint){
        .id = config->admin.text, .address = config->admin, .weight = 1, .metadata_json = ""};
    services[1] = (struct config_service){
        .name = ADMIN_SERVICE, .endpoints = admin, .endpoint_count = 1, .place = root->place};
    services[1].strategy.options = (struct config_options){"services." ADMIN_SERVICE ".options", "{}"};
    services[1].health = (struct config_health){.interval_us = 5000000,
        .fast_interval_us = 5000000,
        .timeout_us = 2000000,
        .rise = 2,
        .fall = 3,
        .jitter = 0.1};
    service_defaults(config, &services[0]);
    service_defaults(config, &services[1]);
    config->services = services;
    config->service_count = 2;
    /* what failed is in diags */
    bool found =
        plugin_find(load, PLUGIN_STRATEGY, flat->strategy, place_of(root, "strategy"), &services[0].strategy);
    found = plugin_find(load, PLUGIN_STRATEGY, DEFAULT_STRATEGY, root->place, &services[1].strategy) && found;
    if (found && strcmp(services[0].strategy.name, "sticky_sessions") == 0)
        services[0].strategy.options.json = "{\"max_age\":\"24h\"}"; /* the old cookie lived for a day */
}

static void
flat_routes(struct load *load, const struct node *root)
{
    static const char *const get[] = {"GET", "HEAD", NULL};
    struct config *config = load->config;
    struct config_route *routes = load_alloc(load, 2 * sizeof *routes);
    struct config_target *targets = load_alloc(load, 2 * sizeof *targets);
    if (routes == NULL || targets == NULL) return;
    targets[0] = (struct config_target){.service = 1, .weight = 1};
    targets[1] = (struct config_target){.service = 0, .weight = 1};
    routes[0] = (struct config_route){.name = "= /metrics", .match = {.path = "/metrics", .methods = get}};
    routes[1] = (struct config_route){.name = "/", .match = {.path_prefix = "/"}};
    for (size_t i = 0; i < 2; i++) {
        routes[i].targets = &targets[i];
        routes[i].target_count = routes[i].weight_total = 1;
        route_defaults(config, &config->services[targets[i].service], &routes[i]);
        routes[i].place = root->place;
    }
    config->routes = routes;
    config->route_count = 2;
}

void
flat_load(struct load *load, const struct node *root)
{
    struct config *config = load->config;
    struct config_registry *registry = &config->registry;
    struct flat flat = {.port = 8080,
        .strategy = DEFAULT_STRATEGY,
        .health_path = "/health",
        .interval_us = 5000000,
        .timeout_us = 2000000};
    config->is_flat = true;
    block_read(load, &flat_block, root, &flat);
    config->listeners = load_alloc(load, sizeof *config->listeners);
    const char *listen = load_text(load, "0.0.0.0:%u", flat.port);
    if (config->listeners == NULL || listen == NULL) return;
    config->listeners[0] = (struct config_listener){.place = place_of(root, "port")};
    config->listener_count = 1;
    config->has_admin =
        address_parse(load, DEFAULT_ADMIN, root->place, ADDRESS_LISTEN, &config->admin) &&
        address_parse(load, listen, place_of(root, "port"), ADDRESS_LISTEN, &config->listeners[0].address);
    registry->enabled = true;
    registry->place = place_of(root, "serviceRegistryURL");
    registry->protocol = (enum registry_protocol)flat.protocol;
    registry->poll_interval_us = 2 * flat.interval_us;
    registry->store = "memory";
    config->log.access_format = "logfmt";
    if (flat.url == NULL) {
        if (node_find(root, "serviceRegistryURL") == NULL)
            refuse(load, root->place, NULL, "'serviceRegistryURL' is missing, such as http://localhost:8081");
    } else if (!registry_url_check(load, flat.url, registry->place, registry->protocol, &registry->url)) {
        registry->url = NULL;
    }
    flat_services(load, root, &flat);
    flat_routes(load, root);
}
