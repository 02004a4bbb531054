#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

/* ---- timeouts, limits, drain
 * ----------------------------------------------------------------------------------- */

#define T(name)                                                                                              \
    {                                                                                                        \
#name, KEY_DURATION, offsetof(struct config_timeouts, name), 0, 0, NULL, NULL                        \
    }
static const struct key timeouts_keys[] = {
    T(connect),
    T(response),
    T(stream_idle),
    T(client_header),
    T(client_body_gap),
    T(keepalive),
    T(upstream_keepalive),
    T(tunnel_idle),
    T(filter),
    T(request),
};
/* What is decided before a route or a service is known cannot stand there. */
static const struct key service_timeouts_keys[] = {
    T(connect),
    T(response),
    T(stream_idle),
    T(client_body_gap),
    T(upstream_keepalive),
    T(tunnel_idle),
    T(filter),
    T(request),
};
static const struct key route_timeouts_keys[] = {
    T(connect),
    T(response),
    T(stream_idle),
    T(client_body_gap),
    T(tunnel_idle),
    T(filter),
    T(request),
};
#undef T
BLOCK(timeouts, "timeouts", timeouts_keys);
BLOCK(service_timeouts, "a service's timeouts", service_timeouts_keys);
BLOCK(route_timeouts, "a route's timeouts", route_timeouts_keys);

#define LATER(name)                                                                                          \
    {                                                                                                        \
        name, KEY_LATER, 0, 0, 0, NULL, NULL                                                                 \
    }
static const struct key drain_keys[] = {
    {"delay", KEY_DURATION, offsetof(struct config_drain, delay_us), 0, 0, NULL, NULL},
    {"requests", KEY_DURATION, offsetof(struct config_drain, requests_us), 0, 0, NULL, NULL},
    {"tunnels", KEY_DURATION, offsetof(struct config_drain, tunnels_us), 0, 0, NULL, NULL},
    {"keep_sessions", KEY_BOOL, offsetof(struct config_drain, keep_sessions), 0, 0, NULL, NULL},
};
BLOCK(drain, "drain", drain_keys);

/* ---- log
 * ------------------------------------------------------------------------------------------------------- */

static const char *const level_words[] = {"debug", "info", "warn", "error", NULL}; /* as enum log_level */
static const char *const format_words[] = {"logfmt", "json", NULL};                /* as enum log_format */

static void
take_access(struct load *load, const struct node *node, void *target)
{
    struct config_log *log = target;
    const char *path;
    if (!value_text(load, node, "a file, or \"-\" for standard output", &path)) return;
    log->access = strcmp(path, "-") == 0 ? path : path_resolve(load, path);
}

#define X(name) #name,
const char *const config_log_fields[LOG_FIELD_COUNT + 1] = {CONFIG_LOG_FIELDS(X) NULL};
#undef X

enum config_log_field
config_log_field_at(const char *text, size_t *len)
{
    size_t n = 0;
    while (text[1 + n] == '_' || (text[1 + n] >= 'a' && text[1 + n] <= 'z'))
        n++;
    *len = n + 1;
    for (unsigned i = 0; i < LOG_FIELD_COUNT; i++) {
        if (strlen(config_log_fields[i]) == n && memcmp(config_log_fields[i], text + 1, n) == 0)
            return (enum config_log_field)i;
    }
    return LOG_FIELD_COUNT;
}

static void
take_pattern(struct load *load, const struct node *node, struct config_log *log, const char *pattern)
{
    size_t len;
    for (const char *at = strchr(pattern, '$'); at != NULL; at = strchr(at + 1, '$')) {
        if (config_log_field_at(at, &len) != LOG_FIELD_COUNT) continue;
        struct slice name = {at + 1, len - 1};
        refuse(load, node->place, text_nearest(name, config_log_fields),
            "access_format: there is no $%.*s to log", (int)name.len, name.at);
        return;
    }
    log->access_pattern = pattern;
}

static void
take_access_format(struct load *load, const struct node *node, void *target)
{
    struct config_log *log = target;
    int word;
    if (node->kind == NODE_SCALAR && strchr(node->text, '$') != NULL) {
        const char *pattern;
        if (value_text(load, node, "logfmt, json or a line with $names", &pattern))
            take_pattern(load, node, log, pattern);
        return;
    }
    if (value_word(load, node, format_words, &word)) log->access_format = format_words[word];
}

static const struct key log_keys[] = {
    {"level", KEY_WORD, offsetof(struct config_log, level), 0, 0, level_words, NULL},
    {"format", KEY_WORD, offsetof(struct config_log, format), 0, 0, format_words, NULL},
    {"access", KEY_OTHER, 0, 0, 0, NULL, take_access},
    {"access_format", KEY_OTHER, 0, 0, 0, NULL, take_access_format},
};
BLOCK(log, "log", log_keys);

/* ---- registry
 * -------------------------------------------------------------------------------------------------- */

static const char *const protocol_words[] = {"http", "grpc", NULL}; /* as enum registry_protocol */

static void
take_listen_http(struct load *load, const struct node *node, void *target)
{
    struct config_registry *registry = target;
    if (!value_address(load, node, ADDRESS_LISTEN, &registry->listen_http)) return;
}

static void
take_listen_grpc(struct load *load, const struct node *node, void *target)
{
    struct config_registry *registry = target;
    if (!value_address(load, node, ADDRESS_LISTEN, &registry->listen_grpc)) return;
}

static const struct key registry_listen_keys[] = {
    {"http", KEY_OTHER, 0, 0, 0, NULL, take_listen_http},
    {"grpc", KEY_OTHER, 0, 0, 0, NULL, take_listen_grpc},
};
BLOCK(registry_listen, "registry.listen", registry_listen_keys);

static void
take_listen(struct load *load, const struct node *node, void *target)
{
    block_read(load, &registry_listen_block, node, target);
}

static void
take_store(struct load *load, const struct node *node, void *target)
{
    struct config_registry *registry = target;
    const char *store;
    if (!value_text(load, node, "memory or sqlite:/path", &store)) return;
    if (strcmp(store, "memory") == 0) {
        registry->store = store;
    } else if (strncmp(store, "sqlite:", 7) == 0 && store[7] != '\0') {
        const char *path = path_resolve(load, store + 7);
        registry->store = path == NULL ? NULL : load_text(load, "sqlite:%s", path);
    } else if (strncmp(store, "etcd:", 5) == 0 || strcmp(store, "etcd") == 0) {
        refuse(load, node->place, NULL, "the store 'etcd' is not supported yet");
    } else {
        value_refuse(load, node, "memory or sqlite:/path");
    }
}

static const struct key registry_keys[] = {
    {"embedded", KEY_BOOL, offsetof(struct config_registry, embedded), 0, 0, NULL, NULL},
    {"url", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* by take_registry: its form depends on the protocol */
    {"protocol", KEY_WORD, offsetof(struct config_registry, protocol), 0, 0, protocol_words, NULL},
    {"listen", KEY_OTHER, 0, 0, 0, NULL, take_listen},
    {"store", KEY_OTHER, 0, 0, 0, NULL, take_store},
    {"lease_ttl", KEY_DURATION, offsetof(struct config_registry, lease_ttl_us), 1000000, 0, NULL, NULL},
    {"poll_interval", KEY_DURATION, offsetof(struct config_registry, poll_interval_us), 100000, 0, NULL,
        NULL},
    LATER("token"),
    LATER("tls"),
};
BLOCK(registry, "registry", registry_keys);

bool
registry_url_check(struct load *load, const char *text, struct place place, enum registry_protocol protocol,
    const char **out)
{
    struct config_address address;
    const char *host = text;
    bool scheme = strncmp(text, "http://", 7) == 0;
    if (strncmp(text, "https://", 8) == 0) {
        refuse(load, place, NULL, "a registry over TLS is not supported yet: expected http://HOST:PORT");
        return false;
    }
    if (scheme) host = text + 7;
    size_t len = strlen(host);
    while (len > 0 && host[len - 1] == '/')
        len--;
    char *trimmed = load_text(load, "%.*s", (int)len, host);
    if (trimmed == NULL) return false;
    if (strchr(trimmed, ':') == NULL) {
        refuse(load, place,
            load_text(
                load, "%s%s:%d", scheme ? "http://" : "", trimmed, protocol == REGISTRY_HTTP ? 8081 : 9091),
            "the registry's URL %s has no port", shown(load, text));
        return false;
    }
    if (strncmp(trimmed, "unix:", 5) == 0 || strchr(trimmed, '/') != NULL) {
        refuse(load, place, NULL, "expected %s, found %s",
            protocol == REGISTRY_HTTP ? "http://HOST:PORT" : "HOST:PORT", shown(load, text));
        return false;
    }
    if (!address_parse(load, trimmed, place, ADDRESS_CONNECT, &address)) return false;
    *out = scheme && protocol == REGISTRY_HTTP ? load_text(load, "http://%s", trimmed) : trimmed;
    return *out != NULL;
}

static void
take_registry(struct load *load, const struct node *node, void *target)
{
    struct config_registry *registry = &((struct config *)target)->registry;
    const struct node *url = node_find(node, "url");
    const char *text;
    registry->enabled = true;
    registry->place = node->key_place;
    block_read(load, &registry_block, node, registry);
    if (url == NULL || !value_text(load, url, "the registry's URL, such as http://10.0.0.5:8081", &text))
        return;
    if (!registry_url_check(load, text, url->place, registry->protocol, &registry->url)) return;
    if (registry->embedded)
        refuse(load, url->key_place, NULL, "a registry is either embedded or has a url, not both");
}

/* ---- the top level
 * --------------------------------------------------------------------------------------------- */

static void
take_listener_address(struct load *load, const struct node *node, void *target)
{
    struct config_listener *listener = target;
    if (!value_address(load, node, ADDRESS_LISTEN, &listener->address)) listener->address.text = NULL;
}

static const struct key listener_keys[] = {
    {"address", KEY_OTHER, 0, 0, 0, NULL, take_listener_address},
    {"connections", KEY_NUMBER, offsetof(struct config_listener, connections), 0, 10000000, NULL, NULL},
    LATER("tls"),
    LATER("mode"),
    LATER("proxy_protocol"),
};
BLOCK(listener, "a listener", listener_keys);

static bool
listens_already(struct load *load, const struct config_listener *listener)
{
    const struct config *config = load->config;
    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_address *a = &config->listeners[i].address, *b = &listener->address;
        if (a->is_unix != b->is_unix || a->port != b->port || strcmp(a->host, b->host) != 0) continue;
        if (!a->is_unix && a->port == 0) continue;
        refuse(load, b->place, NULL, "%s is listened on twice, first in line %d", shown(load, b->text),
            a->place.line);
        return true;
    }
    return false;
}

static void
take_listeners(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    if (node_is_null(node)) return;
    if (node->kind != NODE_LIST) {
        value_refuse(load, node, "a list such as [{address: 0.0.0.0:8080}]");
        return;
    }
    config->listeners = load_alloc(load, (node->count + 1) * sizeof *config->listeners);
    if (config->listeners == NULL) return;
    for (const struct node *item = node->first; item != NULL; item = item->next) {
        struct config_listener listener = {.place = item->place};
        if (item->kind != NODE_MAP) {
            value_refuse(load, item, "a listener such as {address: 0.0.0.0:8080}");
            continue;
        }
        block_read(load, &listener_block, item, &listener);
        if (node_find(item, "address") == NULL)
            refuse(load, item->place, NULL, "a listener needs an address");
        if (listener.address.text == NULL || listens_already(load, &listener)) continue;
        config->listeners[config->listener_count++] = listener;
    }
}

unsigned
workers_auto(void)
{
    cpu_set_t cpus;
    int n = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    return n < 1 ? 1 : n > 64 ? 64 : (unsigned)n;
}

static void
take_workers(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    uint64_t number;
    if (node->kind == NODE_SCALAR && strcmp(node->text, "auto") == 0) return;
    if (node->kind == NODE_SCALAR && !text_parse_u64(slice_of(node->text), UINT64_MAX, &number)) {
        value_refuse(load, node, "auto, or a number from 1 to 64");
    } else if (value_number(load, node, 1, 64, &number)) {
        config->workers = (unsigned)number;
    }
}

static void
take_admin_address(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    if (!value_address(load, node, ADDRESS_LISTEN, &config->admin)) return;
}

static const struct key admin_keys[] = {{"address", KEY_OTHER, 0, 0, 0, NULL, take_admin_address}};
BLOCK(admin, "admin", admin_keys);

static void
take_admin(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    config->has_admin = true;
    if (!address_parse(load, DEFAULT_ADMIN, node->key_place, ADDRESS_LISTEN, &config->admin)) return;
    block_read(load, &admin_block, node, config);
}

static void
take_proxies(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    const struct node *item = node->kind == NODE_LIST ? node->first : node;
    if (node_is_null(node)) return;
    config->trusted_proxies = load_alloc(load, (node->count + 1) * sizeof *config->trusted_proxies);
    if (config->trusted_proxies == NULL) return;
    for (; item != NULL; item = node->kind == NODE_LIST ? item->next : NULL) {
        if (value_cidr(load, item, &config->trusted_proxies[config->trusted_proxy_count]))
            config->trusted_proxy_count++;
    }
}

/* The given directories, resolved, with room for `more` behind them. */
static const char **
dirs_read(struct load *load, const struct node *node, size_t more, size_t *count)
{
    const char **given = NULL;
    *count = 0;
    if (node != NULL && !value_texts(load, node, "a directory", &given, count)) *count = 0;
    const char **dirs = load_alloc(load, (*count + more + 1) * sizeof *dirs);
    for (size_t i = 0; dirs != NULL && i < *count; i++) {
        dirs[i] = path_resolve(load, given[i]);
        if (dirs[i] == NULL) return NULL;
    }
    return dirs;
}

static void
take_lua_path(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    size_t count;
    const char **dirs = dirs_read(load, node, 0, &count);
    if (dirs != NULL) config->lua_path = dirs;
}

static void
take_trust(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    size_t count;
    const char **files = dirs_read(load, node, 0, &count);
    for (size_t i = 0; files != NULL && i < count; i++) {
        size_t len = strlen(files[i]);
        if (len < 5 || strcmp(files[i] + len - 4, ".lua") != 0)
            refuse(load, node->place, NULL, "trust: expected paths of .lua files, found %s",
                shown(load, files[i]));
    }
    if (files != NULL) config->trust = files;
}

/* Behind the given ones: `strategies` beside the file, then the shipped ones. A directory that is not there
 * answers no name, so nobody has to ask whether it is. */
static void
strategies_path_set(struct load *load, const struct node *node)
{
    size_t count;
    const char **dirs = dirs_read(load, node, 2, &count);
    const char *beside = path_resolve(load, "strategies"),
               *shipped = load_text(load, "%s/strategies", bundle_share_dir());
    if (dirs == NULL || beside == NULL || shipped == NULL) return;
    dirs[count] = beside;
    if (strcmp(beside, shipped) != 0) dirs[count + 1] = shipped;
    load->config->strategies_path = dirs;
    load->plugin_dirs = count;
}

static void
take_state(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    const char *path;
    if (value_text(load, node, "a directory", &path)) config->state_dir = path_resolve(load, path);
}

static void
take_zone(struct load *load, const struct node *node, void *target)
{
    struct config *config = target;
    if (!value_text(load, node, "the name of a zone", &config->zone)) return;
    if (strlen(config->zone) > 63) refuse(load, node->place, NULL, "zone: at most 63 bytes");
}

/* RFC 9110 §7.6.3: a pseudonym, which is a token. */
static void
take_via(struct load *load, const struct node *node, void *target)
{
    static const char expected[] =
        "a name of this gateway that no other on the way has (letters, digits, '-')";
    struct config *config = target;
    const char *name;
    if (!value_text(load, node, expected, &name)) return;
    if (strcmp(name, "false") == 0) return;
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    if (len == 0 || name[len] != '\0' || len > 63 || strcmp(name, "true") == 0)
        refuse(load, node->place, NULL, "via: expected %s", expected);
    else
        config->via = name;
}

#define BLOCK_TAKER(name, field)                                                                             \
    static void take_##name(struct load *load, const struct node *node, void *target)                        \
    {                                                                                                        \
        block_read(load, &name##_block, node, &((struct config *)target)->field);                            \
    }
BLOCK_TAKER(timeouts, timeouts)
BLOCK_TAKER(limits, limits)
BLOCK_TAKER(retry, retry)
BLOCK_TAKER(drain, drain)
BLOCK_TAKER(log, log)

static const struct key config_keys_table[] = {
    {"listeners", KEY_OTHER, 0, 0, 0, NULL, take_listeners},
    {"workers", KEY_OTHER, 0, 0, 0, NULL, take_workers},
    {"routes", KEY_OTHER, 0, 0, 0, NULL, NULL},   /* by routes_load, once the services are known */
    {"services", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* by services_load, once the rest is */
    {"registry", KEY_OTHER, 0, 0, 0, NULL, take_registry}, {"admin", KEY_OTHER, 0, 0, 0, NULL, take_admin},
    {"trusted_proxies", KEY_OTHER, 0, 0, 0, NULL, take_proxies},
    {"lua_path", KEY_OTHER, 0, 0, 0, NULL, take_lua_path}, {"trust", KEY_OTHER, 0, 0, 0, NULL, take_trust},
    {"strategies_path", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* by sections_load: it has defaults to append */
    {"state", KEY_OTHER, 0, 0, 0, NULL, take_state}, {"zone", KEY_OTHER, 0, 0, 0, NULL, take_zone},
    {"via", KEY_OTHER, 0, 0, 0, NULL, take_via}, {"timeouts", KEY_OTHER, 0, 0, 0, NULL, take_timeouts},
    {"limits", KEY_OTHER, 0, 0, 0, NULL, take_limits}, {"retry", KEY_OTHER, 0, 0, 0, NULL, take_retry},
    {"drain", KEY_OTHER, 0, 0, 0, NULL, take_drain}, {"log", KEY_OTHER, 0, 0, 0, NULL, take_log},
    {"include", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* gone before this: include.c */
};

/* A flat key beside new ones deserves more than "unknown". */
static void
take_stray(struct load *load, const struct node *node, void *target)
{
    (void)target;
    if (flat_has_key(node->key)) {
        refuse(load, node->key_place, NULL,
            "'%s' belongs to the flat form of file, which has no key such as 'listeners' or 'routes'",
            node->key);
        return;
    }
    static const struct block strict = {"config", "the file", config_keys_table,
        sizeof config_keys_table / sizeof config_keys_table[0], NULL};
    struct node alone = {.kind = NODE_MAP};
    struct node copy = *node;
    node_append(&alone, &copy);
    block_read(load, &strict, &alone, NULL);
}

const struct block config_block = {"config", "the file", config_keys_table,
    sizeof config_keys_table / sizeof config_keys_table[0], take_stray};

void
sections_default(struct load *load)
{
    struct config *config = load->config;
    static const char *none[] = {NULL};
    const uint64_t s = 1000000;
    config->workers = workers_auto();
    config->timeouts = (struct config_timeouts){.connect = 2 * s,
        .response = 60 * s,
        .stream_idle = 300 * s,
        .client_header = 10 * s,
        .client_body_gap = 30 * s,
        .keepalive = 75 * s,
        .upstream_keepalive = 4 * s,
        .tunnel_idle = 3600 * s,
        .filter = 10 * s,
        .request = 0};
    config->limits = (struct config_limits){.header_bytes = 32 << 10,
        .headers = 100,
        .uri_bytes = 8 << 10,
        .body_bytes = 0,
        .body_rate = 512,
        .connections = 20000,
        .keepalive_requests = 10000,
        .max_connection_age = 3600 * s,
        .max_endpoints = 65536,
        .pool_per_endpoint = 64,
        .shared_dict_bytes = 16 << 20,
        .shared_dicts = 32,
        .queue = {.queue = 1000, .queue_timeout = 5 * s}};
    config->retry = (struct config_retry){
        .attempts = 2, .budget_percent = 20, .on = RETRY_ON_NEVER_SENT | RETRY_ON_IDEMPOTENT_RESET};
    config->drain = (struct config_drain){.requests_us = 30 * s, .tunnels_us = 30 * s, .keep_sessions = true};
    config->log = (struct config_log){.level = LOG_INFO, .format = LOG_LOGFMT};
    config->registry = (struct config_registry){.lease_ttl_us = 30 * s, .poll_interval_us = 10 * s};
    config->registry.listen_http = (struct config_address){.text = ":8081", .host = "", .port = 8081};
    config->registry.listen_grpc = (struct config_address){.text = ":9091", .host = "", .port = 9091};
    config->lua_path = config->trust = none;
    strategies_path_set(load, NULL);
}

/* What is only known once the whole file is. */
static void
sections_finish(struct load *load, const struct node *root)
{
    struct config *config = load->config;
    struct config_registry *registry = &config->registry;
    const struct node *block = node_find(root, "registry");
    bool serves =
        registry->url == NULL || node_find(block, "listen") != NULL; /* a file for `fluxgate registry` */
    bool registry_only = registry->enabled && serves && node_find(root, "routes") == NULL &&
                         node_find(root, "services") == NULL && node_find(root, "listeners") == NULL;
    if (config->log.access_format == NULL) config->log.access_format = format_words[config->log.format];
    if (registry->store == NULL)
        registry->store = config->state_dir == NULL
                              ? "memory"
                              : load_text(load, "sqlite:%s/registry.db", config->state_dir);
    if (registry_only) return;
    if (registry->enabled && !registry->embedded && node_find(block, "url") == NULL)
        refuse(load, registry->place, NULL, "registry needs 'embedded: true' or a 'url'");
    static const struct {
        const char *name, *example;
    } needed[] = {{"listeners", "listeners: [{address: 0.0.0.0:8080}]"},
        {"routes", "routes: [{match: {path_prefix: /}, service: web}]"}};
    for (size_t i = 0; i < 2; i++) {
        const struct node *node = node_find(root, needed[i].name);
        if (node != NULL && !node_is_null(node) && (node->kind != NODE_LIST || node->count > 0)) continue;
        refuse(load, node == NULL ? root->place : node->key_place, NULL, "'%s' is missing, such as %s",
            needed[i].name, needed[i].example);
    }
}

void
sections_load(struct load *load, const struct node *root)
{
    const struct node *dirs = node_find(root, "strategies_path");
    if (dirs != NULL) strategies_path_set(load, dirs);
    block_read(load, &config_block, root, load->config);
    sections_finish(load, root);
}
