#include <stdio.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

struct print {
    struct strbuf out;
    const struct config *config;
    const struct places *places;
};

/* YAML 1.1 folds these raw line breaks in quotes, or refuses the character. */
static bool
must_escape(const char *at, size_t len, unsigned *code)
{
    const unsigned char *p = (const unsigned char *)at;
    if (len == 2) *code = (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    if (len == 3) *code = (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    if (len == 2) return *code < 0xa0;
    return len == 3 && (*code == 0x2028 || *code == 0x2029 || *code >= 0xfffe || *code == 0xfeff);
}

/* JSON as YAML that expands to itself: "${" becomes "$${", but in keys, which are not expanded. */
static void
add_json(struct strbuf *out, const char *json)
{
    for (const char *at = json; *at != '\0';) {
        if (*at != '"') {
            strbuf_add_char(out, *at++);
            continue;
        }
        const char *end = at + 1;
        while (*end != '"' && *end != '\0')
            end += *end == '\\' && end[1] != '\0' ? 2 : 1;
        bool is_key = *end == '"' && end[1] == ':';
        for (const char *stop = *end == '"' ? end + 1 : end; at < stop;) {
            size_t len = text_utf8_length((struct slice){at, (size_t)(stop - at)});
            unsigned code = 0;
            if (len == 0) len = 1;
            if (!is_key && at[0] == '$' && at[1] == '{') strbuf_add_char(out, '$');
            if (must_escape(at, len, &code)) {
                strbuf_printf(out, "\\u%04x", code);
            } else {
                strbuf_add(out, at, len);
            }
            at += len;
        }
    }
}

static void
add_text(struct strbuf *out, const char *text, bool is_key)
{
    struct strbuf json = {0};
    strbuf_add_json(&json, slice_of(text));
    if (is_key) strbuf_add_char(&json, ':');
    if (json.failed) {
        out->failed = true;
    } else {
        add_json(out, json.at);
    }
    strbuf_fini(&json);
}

/* `indent` blanks, key, value, newline. */
static void
row_text(struct print *print, const char *indent, const char *key, const char *text)
{
    strbuf_printf(&print->out, "%s%s: ", indent, key);
    add_text(&print->out, text, false);
    strbuf_add_char(&print->out, '\n');
}

/* A path as path_resolve takes it back to itself. */
static const char *
path_written(const struct print *print, const char *path)
{
    const char *dir = print->places->dir;
    size_t len = strlen(dir);
    if (len == 0 || strncmp(path, dir, len) != 0) {
        bool is_dir = len > 1 && strlen(path) == len - 1 && strncmp(path, dir, len - 1) == 0;
        return is_dir ? "." : path;
    }
    const char *rest = path + len;
    return rest[0] == '\0' || rest[0] == '/' || strncmp(rest, "./", 2) == 0 ? path : rest;
}

static void
row_scalars(struct print *print, const char *indent, const struct block *block, const void *target)
{
    for (size_t i = 0; i < block->count; i++) {
        const struct key *key = &block->keys[i];
        const char *at = (const char *)target + key->offset;
        uint64_t wide = 0;
        uint32_t narrow = 0;
        char duration[32];
        if (key->type == KEY_LATER || key->type == KEY_OTHER || key->type == KEY_TEXT) continue;
        strbuf_printf(&print->out, "%s%s: ", indent, key->name);
        if (key->type == KEY_DURATION || key->type == KEY_SIZE) memcpy(&wide, at, sizeof wide);
        if (key->type == KEY_SIZE32 || key->type == KEY_NUMBER || key->type == KEY_WORD)
            memcpy(&narrow, at, sizeof narrow);
        if (key->type == KEY_DURATION) {
            duration_exact(wide, duration);
            strbuf_add_text(&print->out, duration);
        } else if (key->type == KEY_WORD) {
            strbuf_add_text(&print->out, key->words[narrow]);
        } else if (key->type == KEY_BOOL) {
            strbuf_add_text(&print->out, *(const bool *)(const void *)at ? "true" : "false");
        } else {
            strbuf_printf(&print->out, "%llu", (unsigned long long)(key->type == KEY_SIZE ? wide : narrow));
        }
        strbuf_add_char(&print->out, '\n');
    }
}

static void
print_retry(struct print *print, const char *indent, const struct config_retry *retry)
{
    const char *comma = "";
    row_scalars(print, indent, &retry_block, retry);
    strbuf_printf(&print->out, "%sbudget: %u%%\n%son: [", indent, retry->budget_percent, indent);
    for (unsigned i = 0; retry_on_words[i] != NULL; i++) {
        if ((retry->on >> i & 1) == 0) continue;
        strbuf_printf(&print->out, "%s%s", comma, retry_on_words[i]);
        comma = ", ";
    }
    strbuf_printf(&print->out, "]\n%sstatus: [", indent);
    comma = "";
    for (int status = 500; status < 600; status++) {
        if (!config_retry_has_status(retry, status)) continue;
        strbuf_printf(&print->out, "%s%d", comma, status);
        comma = ", ";
    }
    strbuf_add_text(&print->out, "]\n");
}

static void
print_filters(struct print *print, const struct config_filter *filters, size_t count)
{
    if (count > 0) strbuf_add_text(&print->out, "    filters:\n");
    for (size_t i = 0; i < count; i++) {
        strbuf_add_text(&print->out, "      - {use: ");
        add_text(&print->out, filters[i].plugin.name, false);
        strbuf_add_text(&print->out, ", options: ");
        add_json(&print->out, filters[i].plugin.options.json);
        strbuf_printf(&print->out, ", on_error: %s}\n", on_error_words[filters[i].skip_on_error]);
    }
}

/* ---- routes
 * ---------------------------------------------------------------------------------------------------- */

static void
match_text(struct strbuf *out, bool *first, const char *key, const char *text)
{
    if (text == NULL) return;
    strbuf_printf(out, "%s%s: ", *first ? "" : ", ", key);
    add_text(out, text, false);
    *first = false;
}

static void
match_pairs(struct strbuf *out, bool *first, const char *key, const struct config_pair *pairs, size_t count)
{
    if (count == 0) return;
    strbuf_printf(out, "%s%s: {", *first ? "" : ", ", key);
    *first = false;
    for (size_t i = 0; i < count; i++) {
        if (i > 0) strbuf_add_text(out, ", ");
        add_text(out, pairs[i].name, true);
        strbuf_add_char(out, ' ');
        if (pairs[i].value == NULL) {
            strbuf_add_text(out, "null");
        } else {
            add_text(out, pairs[i].value, false);
        }
    }
    strbuf_add_char(out, '}');
}

static void
print_match(struct print *print, const struct config_match *match)
{
    struct strbuf *out = &print->out;
    bool first = true;
    strbuf_add_text(out, "    match: {");
    match_text(out, &first, "host", match->host);
    match_text(out, &first, "path_prefix", match->path_prefix);
    match_text(out, &first, "path", match->path);
    if (match->methods != NULL) {
        strbuf_printf(out, "%smethods: [", first ? "" : ", ");
        for (size_t i = 0; match->methods[i] != NULL; i++)
            strbuf_printf(out, "%s%s", i == 0 ? "" : ", ", match->methods[i]);
        strbuf_add_char(out, ']');
        first = false;
    }
    match_pairs(out, &first, "headers", match->headers, match->header_count);
    match_pairs(out, &first, "query", match->query, match->query_count);
    match_pairs(out, &first, "cookies", match->cookies, match->cookie_count);
    strbuf_add_text(out, "}\n");
}

static void
print_targets(struct print *print, const struct config_route *route)
{
    const struct config_service *services = print->config->services;
    if (route->target_count == 1 && route->targets[0].weight == 1) {
        row_text(print, "    ", "service", services[route->targets[0].service].name);
        return;
    }
    strbuf_add_text(&print->out, "    service: {");
    for (size_t i = 0; i < route->target_count; i++) {
        if (i > 0) strbuf_add_text(&print->out, ", ");
        add_text(&print->out, services[route->targets[i].service].name, true);
        strbuf_printf(&print->out, " %u", route->targets[i].weight);
    }
    strbuf_add_text(&print->out, "}\n");
}

static void
print_action(struct print *print, const struct config_route *route)
{
    switch (route->action) {
    case ACTION_PROXY: print_targets(print, route); break;
    case ACTION_REDIRECT:
        strbuf_printf(&print->out, "    redirect:\n      status: %d\n", route->redirect.status);
        if (route->redirect.to != NULL) row_text(print, "      ", "to", route->redirect.to);
        break;
    case ACTION_RESPOND:
        strbuf_printf(&print->out, "    respond:\n      status: %d\n", route->respond.status);
        row_text(print, "      ", "content_type", route->respond.content_type);
        row_text(print, "      ", "body", route->respond.body);
        break;
    }
}

static void
print_route(struct print *print, const struct config_route *route)
{
    strbuf_add_text(&print->out, "  - name: ");
    add_text(&print->out, route->name, false);
    strbuf_add_char(&print->out, '\n');
    print_match(print, &route->match);
    print_action(print, route);
    if (route->rewrite.strip_prefix != NULL || route->rewrite.add_prefix != NULL ||
        route->rewrite.host != NULL) {
        strbuf_add_text(&print->out, "    rewrite:\n");
        if (route->rewrite.strip_prefix != NULL)
            row_text(print, "      ", "strip_prefix", route->rewrite.strip_prefix);
        if (route->rewrite.add_prefix != NULL)
            row_text(print, "      ", "add_prefix", route->rewrite.add_prefix);
        if (route->rewrite.host != NULL) row_text(print, "      ", "host", route->rewrite.host);
    }
    strbuf_printf(&print->out, "    path: %s\n    slashes: %s\n", route->path_raw ? "raw" : "normal",
        route->slashes_keep ? "keep" : "merge");
    if (route->own_timeouts) {
        strbuf_add_text(&print->out, "    timeouts:\n");
        row_scalars(print, "      ", &route_timeouts_block, &route->timeouts);
    }
    if (route->own_limits) {
        strbuf_add_text(&print->out, "    limits:\n");
        row_scalars(print, "      ", &route_limits_block, route);
    }
    if (route->own_retry) {
        strbuf_add_text(&print->out, "    retry:\n");
        print_retry(print, "      ", &route->retry);
    }
    print_filters(print, route->filters, route->filter_count);
}

/* ---- services
 * -------------------------------------------------------------------------------------------------- */

static void
print_endpoint(struct print *print, const struct config_endpoint *endpoint)
{
    strbuf_add_text(&print->out, "      - {address: ");
    add_text(&print->out, endpoint->address.text, false);
    strbuf_add_text(&print->out, ", id: ");
    add_text(&print->out, endpoint->id, false);
    strbuf_printf(&print->out, ", weight: %u", endpoint->weight);
    if (endpoint->zone != NULL) {
        strbuf_add_text(&print->out, ", zone: ");
        add_text(&print->out, endpoint->zone, false);
    }
    if (endpoint->metadata_json[0] != '\0') {
        strbuf_add_text(&print->out, ", metadata: ");
        add_json(&print->out, endpoint->metadata_json);
    }
    strbuf_add_text(&print->out, "}\n");
}

/* A policy and its options as a map that is not yet closed. */
static void
print_policy(struct strbuf *out, const struct config_plugin *policy)
{
    /* One that could not be read has neither: such a configuration is shown, if at all, beside its errors. */
    const char *members = policy->options.json == NULL ? "}" : policy->options.json + 1;
    strbuf_add_text(out, "{policy: ");
    add_text(out, policy->name == NULL ? "" : policy->name, false);
    if (members[0] == '}') return;
    strbuf_add_text(out, ", ");
    add_json(out, members);
    if (!out->failed) out->len--; /* its brace */
}

static void
print_damping(struct strbuf *out, const struct config_damping *damping)
{
    char half_life[32], max[32];
    if (damping->half_life_us == 0) {
        strbuf_add_text(out, ", damping: false");
        return;
    }
    duration_exact(damping->half_life_us, half_life);
    duration_exact(damping->max_us, max);
    strbuf_printf(out, ", damping: {half_life: %s, max: %s, suppress: %.15g, reuse: %.15g}", half_life, max,
        damping->suppress, damping->reuse);
}

static void
print_service(struct print *print, const struct config_service *service)
{
    struct strbuf *out = &print->out;
    strbuf_add_text(out, "  ");
    add_text(out, service->name, true);
    strbuf_add_char(out, '\n');
    if (service->discover != NULL) row_text(print, "    ", "discover", service->discover);
    if (service->endpoint_count > 0) strbuf_add_text(out, "    endpoints:\n");
    for (size_t i = 0; i < service->endpoint_count; i++)
        print_endpoint(print, &service->endpoints[i]);
    row_text(print, "    ", "strategy", service->strategy.name);
    strbuf_add_text(out, "    options: ");
    add_json(out, service->strategy.options.json);
    strbuf_add_char(out, '\n');
    if (service->health.enabled) {
        const struct config_plugin *passive = &service->health.passive;
        strbuf_add_text(out, "    health: ");
        print_policy(out, &service->health.policy);
        if (passive->name != NULL) {
            strbuf_add_text(out, ", passive: ");
            print_policy(out, passive);
            strbuf_add_char(out, '}');
        }
        print_damping(out, &service->health.damping);
        strbuf_add_text(out, "}\n");
    }
    strbuf_add_text(out, "    timeouts:\n");
    row_scalars(print, "      ", &service_timeouts_block, &service->timeouts);
    strbuf_add_text(out, "    limits:\n");
    row_scalars(print, "      ", &service_limits_block, service);
    strbuf_add_text(out, "    retry:\n");
    print_retry(print, "      ", &service->retry);
    row_scalars(print, "    ", &service_block, service);
    strbuf_printf(out, "    panic: %u%%\n", service->panic_percent);
    print_filters(print, service->filters, service->filter_count);
}

/* ---- the rest
 * -------------------------------------------------------------------------------------------------- */

static void
print_registry(struct print *print)
{
    const struct config_registry *registry = &print->config->registry;
    if (!registry->enabled) return;
    strbuf_add_text(&print->out, "registry:\n");
    row_scalars(print, "  ", &registry_block, registry);
    if (registry->url != NULL) row_text(print, "  ", "url", registry->url);
    strbuf_add_text(&print->out, "  listen:\n");
    row_text(print, "    ", "http", registry->listen_http.text);
    row_text(print, "    ", "grpc", registry->listen_grpc.text);
    if (strncmp(registry->store, "sqlite:", 7) == 0) {
        strbuf_add_text(&print->out, "  store: \"sqlite:");
        struct strbuf path = {0};
        add_text(&path, path_written(print, registry->store + 7), false);
        if (path.failed) {
            print->out.failed = true;
        } else {
            strbuf_add_text(&print->out, path.at + 1);
        }
        strbuf_fini(&path);
        strbuf_add_char(&print->out, '\n');
    } else {
        row_text(print, "  ", "store", registry->store);
    }
}

static void
print_dirs(struct print *print, const char *key, const char *const *dirs, size_t count)
{
    strbuf_printf(&print->out, "%s: [", key);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) strbuf_add_text(&print->out, ", ");
        add_text(&print->out, path_written(print, dirs[i]), false);
    }
    strbuf_add_text(&print->out, "]");
}

static void
print_paths(struct print *print)
{
    const struct config *config = print->config;
    size_t given = print->places->strategies_given, lua = 0, trusted = 0;
    while (config->lua_path[lua] != NULL)
        lua++;
    print_dirs(print, "lua_path", config->lua_path, lua);
    strbuf_add_char(&print->out, '\n');
    while (config->trust[trusted] != NULL)
        trusted++;
    print_dirs(print, "trust", config->trust, trusted);
    strbuf_add_char(&print->out, '\n');
    print_dirs(print, "strategies_path", config->strategies_path, given);
    strbuf_add_text(&print->out, given == 0 ? " # searched:" : " # then:");
    for (size_t i = given; config->strategies_path[i] != NULL; i++) {
        strbuf_add_char(&print->out, ' ');
        add_text(&print->out, config->strategies_path[i], false);
    }
    strbuf_add_char(&print->out, '\n');
    if (config->state_dir != NULL) row_text(print, "", "state", path_written(print, config->state_dir));
    if (config->zone != NULL) row_text(print, "", "zone", config->zone);
    if (config->via != NULL) row_text(print, "", "via", config->via);
}

static void
print_log(struct print *print)
{
    const struct config_log *log = &print->config->log;
    strbuf_add_text(&print->out, "log:\n");
    row_scalars(print, "  ", &log_block, log);
    row_text(
        print, "  ", "access_format", log->access_pattern != NULL ? log->access_pattern : log->access_format);
    if (log->access != NULL)
        row_text(
            print, "  ", "access", strcmp(log->access, "-") == 0 ? "-" : path_written(print, log->access));
}

static void
print_all(struct print *print)
{
    const struct config *config = print->config;
    struct strbuf *out = &print->out;
    if (config->listener_count > 0) strbuf_add_text(out, "listeners:\n");
    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_listener *listener = &config->listeners[i];
        row_text(print, "  - ", "address", listener->address.text);
        if (listener->connections != 0) strbuf_printf(out, "    connections: %u\n", listener->connections);
    }
    strbuf_printf(out, "workers: %u\n", config->workers);
    if (config->route_count > 0) strbuf_add_text(out, "routes:\n");
    for (size_t i = 0; i < config->route_count; i++)
        print_route(print, &config->routes[i]);
    if (config->service_count > 0) strbuf_add_text(out, "services:\n");
    for (size_t i = 0; i < config->service_count; i++)
        print_service(print, &config->services[i]);
    print_registry(print);
    if (config->has_admin) {
        strbuf_add_text(out, "admin:\n");
        row_text(print, "  ", "address", config->admin.text);
    }
    strbuf_add_text(out, "trusted_proxies: [");
    for (size_t i = 0; i < config->trusted_proxy_count; i++) {
        char cidr[64];
        cidr_format(&config->trusted_proxies[i], cidr);
        strbuf_printf(out, "%s\"%s\"", i == 0 ? "" : ", ", cidr);
    }
    strbuf_add_text(out, "]\n");
    print_paths(print);
    strbuf_add_text(out, "timeouts:\n");
    row_scalars(print, "  ", &timeouts_block, &config->timeouts);
    strbuf_add_text(out, "limits:\n");
    row_scalars(print, "  ", &limits_block, &config->limits);
    strbuf_add_text(out, "retry:\n");
    print_retry(print, "  ", &config->retry);
    strbuf_add_text(out, "drain:\n");
    row_scalars(print, "  ", &drain_block, &config->drain);
    print_log(print);
}

void
config_print(const struct config *config, FILE *out)
{
    struct print print = {.config = config, .places = config->places};
    print_all(&print);
    if (print.out.failed) {
        fputs("# out of memory\n", out);
    } else if (print.out.at != NULL) {
        fwrite(print.out.at, 1, print.out.len, out);
    }
    strbuf_fini(&print.out);
}
