#include <stddef.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

enum {
    ROUTE_NAME_BYTES = 200,
    TARGETS_MAX = 1024,
    WEIGHT_MAX = 65535,
    HOST_BYTES = 253,
    RESPOND_BYTES = 1 << 20
};

/* ---- match
 * ----------------------------------------------------------------------------------------------------- */

static bool
host_is_valid(struct slice host)
{
    size_t label = 0;
    if (host.len > HOST_BYTES) return false;
    if (host.len > 2 && host.at[0] == '[') return host.at[host.len - 1] == ']';
    if (slice_starts_with(host, SLICE_LIT("*."))) host = (struct slice){host.at + 2, host.len - 2};
    for (size_t i = 0; i < host.len; i++) {
        unsigned char c = (unsigned char)host.at[i];
        if (c == '.' && label == 0) return false;
        if (c != '.' && (unsigned char)(c - 'a') >= 26 && (unsigned char)(c - '0') > 9 && c != '-' &&
            c != '_')
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63) return false;
    }
    return label > 0;
}

static void
take_host(struct load *load, const struct node *node, void *target)
{
    static const char expected[] = "a host such as api.example.com or *.example.com, without a port";
    struct config_match *match = target;
    const char *text;
    if (!value_text(load, node, expected, &text)) return;
    char *host = load_text(load, "%s", text);
    if (host == NULL) return;
    for (char *at = host; *at != '\0'; at++)
        *at = (char)ascii_lower((unsigned char)*at);
    if (host_is_valid(slice_of(host))) {
        match->host = host;
    } else {
        value_refuse(load, node, expected);
    }
}

/* IANA's registry of HTTP methods, and PURGE, which caches made common. */
static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT",
    "TRACE", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK",
    "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PRI",
    "PROPFIND", "PROPPATCH", "PURGE", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK",
    "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL", NULL};

static void
take_methods(struct load *load, const struct node *node, void *target)
{
    struct config_match *match = target;
    const char **names;
    size_t count;
    if (!value_texts(load, node, "a method such as GET", &names, &count)) return;
    if (count == 0) value_refuse(load, node, "a list of methods such as [GET, HEAD]");
    for (size_t i = 0; i < count; i++) {
        bool known = false;
        for (size_t k = 0; methods[k] != NULL && !known; k++)
            known = strcmp(methods[k], names[i]) == 0;
        if (known) continue;
        const struct node *item = node->kind == NODE_LIST ? node->first : node;
        for (size_t k = 0; k < i && item->next != NULL; k++)
            item = item->next;
        refuse(load, item->place, text_nearest(slice_of(names[i]), methods), "unknown method %s",
            shown(load, names[i]));
        return;
    }
    match->methods = names;
}

static bool
is_token(const char *text, const char *also)
{
    for (const char *at = text; *at != '\0'; at++) {
        unsigned char c = ascii_lower((unsigned char)*at);
        if ((unsigned char)(c - 'a') < 26 || (unsigned char)(c - '0') <= 9 || strchr(also, c) != NULL)
            continue;
        return false;
    }
    return text[0] != '\0';
}

/* RFC 9110 §5.6.2 */
static const char token_marks[] = "!#$%&'*+-.^_`|~";

static bool
value_is_clean(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) return false;
    }
    return true;
}

/* A map of name to value; a value left out means "there, with any value". */
static bool
pairs_read(struct load *load, const struct node *node, bool tokens, bool lower,
    const struct config_pair **out, size_t *count)
{
    if (!value_map(load, node)) return false;
    struct config_pair *pairs = load_alloc(load, (node->count + 1) * sizeof *pairs);
    size_t n = 0;
    if (pairs == NULL) return false;
    for (const struct node *child = node->first; child != NULL; child = child->next) {
        char *name = load_text(load, "%s", child->key);
        if (name == NULL) return false;
        for (char *at = name; lower && *at != '\0'; at++)
            *at = (char)ascii_lower((unsigned char)*at);
        if (tokens && !is_token(name, token_marks)) {
            refuse(load, child->key_place, NULL, "%s is no name that a header or cookie can have",
                shown(load, child->key));
        } else if (child->kind != NODE_SCALAR || !value_is_clean(child->text)) {
            value_refuse(load, child, "text without control characters, or nothing for any value");
        } else {
            pairs[n++] = (struct config_pair){name, node_is_null(child) ? NULL : child->text};
        }
    }
    *out = pairs;
    *count = n;
    return true;
}

static void
take_headers(struct load *load, const struct node *node, void *target)
{
    struct config_match *match = target;
    if (!pairs_read(load, node, true, true, &match->headers, &match->header_count)) match->header_count = 0;
}

static void
take_query(struct load *load, const struct node *node, void *target)
{
    struct config_match *match = target;
    if (!pairs_read(load, node, false, false, &match->query, &match->query_count)) match->query_count = 0;
}

static void
take_cookies(struct load *load, const struct node *node, void *target)
{
    struct config_match *match = target;
    if (!pairs_read(load, node, true, false, &match->cookies, &match->cookie_count)) match->cookie_count = 0;
}

static const struct key match_keys[] = {
    {"host", KEY_OTHER, 0, 0, 0, NULL, take_host},
    {"path_prefix", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* by match_read: slashes matter */
    {"path", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"methods", KEY_OTHER, 0, 0, 0, NULL, take_methods},
    {"headers", KEY_OTHER, 0, 0, 0, NULL, take_headers},
    {"query", KEY_OTHER, 0, 0, 0, NULL, take_query},
    {"cookies", KEY_OTHER, 0, 0, 0, NULL, take_cookies},
};
BLOCK(match, "match", match_keys);

static void
match_read(struct load *load, const struct node *node, struct config_route *route)
{
    const struct node *prefix = node_find(node, "path_prefix"), *path = node_find(node, "path");
    bool ok = true;
    block_read(load, &match_block, node, &route->match);
    if (prefix != NULL) ok = value_path(load, prefix, route->slashes_keep, &route->match.path_prefix);
    if (path != NULL) ok = value_path(load, path, route->slashes_keep, &route->match.path) && ok;
    if (ok && prefix != NULL && path != NULL)
        refuse(load, path->key_place, NULL, "match has either 'path' or 'path_prefix', not both");
}

/* ---- actions
 * --------------------------------------------------------------------------------------------------- */

static void
take_redirect_status(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    uint64_t status;
    static const char expected[] = "a redirect's status: 301, 302, 303, 307 or 308";
    if (node->kind == NODE_SCALAR && text_parse_u64(slice_of(node->text), 308, &status) && status >= 301 &&
        status != 304 && status != 305 && status != 306) {
        route->redirect.status = (int)status;
    } else {
        value_refuse(load, node, expected);
    }
}

static void
take_redirect_to(struct load *load, const struct node *node, void *target)
{
    static const char expected[] = "an absolute http(s) URL, or a path that begins with '/'";
    static const char *const names[] = {"path", "query", "host", NULL};
    struct config_route *route = target;
    const char *to;
    if (!value_text(load, node, expected, &to)) return;
    bool ok = to[0] == '/' || strncmp(to, "http://", 7) == 0 || strncmp(to, "https://", 8) == 0;
    for (const char *at = to; *at != '\0'; at++) {
        ok = ok && (unsigned char)*at > 0x20 && (unsigned char)*at < 0x7f;
        if (*at != '$') continue;
        size_t len = strspn(at + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_");
        struct slice name = {at + 1, len};
        bool known = false;
        for (size_t i = 0; names[i] != NULL; i++)
            known = known || slice_equal(name, slice_of(names[i]));
        if (known) continue;
        const char *nearest = text_nearest(name, names);
        refuse(load, node->place, nearest == NULL ? NULL : load_text(load, "$%s", nearest),
            "to: knows $path, $query and $host, found '$%.*s'", (int)len, at + 1);
        return;
    }
    if (ok) {
        route->redirect.to = to;
    } else {
        value_refuse(load, node, expected);
    }
}

static const struct key redirect_keys[] = {
    {"to", KEY_OTHER, 0, 0, 0, NULL, take_redirect_to},
    {"status", KEY_OTHER, 0, 0, 0, NULL, take_redirect_status},
};
BLOCK(redirect, "redirect", redirect_keys);

static void
take_respond_status(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    uint64_t status;
    if (value_number(load, node, 200, 599, &status)) route->respond.status = (int)status;
}

static void
take_body(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    if (node->kind != NODE_SCALAR || node_is_null(node) || strlen(node->text) > RESPOND_BYTES) {
        value_refuse(load, node, "text of at most 1 MiB");
        return;
    }
    route->respond.body = node->text;
    route->respond.body_len = strlen(node->text);
}

static void
take_content_type(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    const char *text;
    if (!value_text(load, node, "a media type such as text/plain", &text)) return;
    if (value_is_clean(text) && strchr(text, '/') != NULL) {
        route->respond.content_type = text;
    } else {
        value_refuse(load, node, "a media type such as text/plain");
    }
}

static const struct key respond_keys[] = {
    {"status", KEY_OTHER, 0, 0, 0, NULL, take_respond_status},
    {"body", KEY_OTHER, 0, 0, 0, NULL, take_body},
    {"content_type", KEY_OTHER, 0, 0, 0, NULL, take_content_type},
};
BLOCK(respond, "respond", respond_keys);

static void
take_strip(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    if (!value_path(load, node, route->slashes_keep, &route->rewrite.strip_prefix)) return;
}

static void
take_add(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    if (!value_path(load, node, route->slashes_keep, &route->rewrite.add_prefix)) return;
}

static void
take_rewrite_host(struct load *load, const struct node *node, void *target)
{
    static const char expected[] = "a host such as app.internal or app.internal:8080";
    struct config_route *route = target;
    const char *text;
    if (!value_text(load, node, expected, &text)) return;
    if (is_token(text, ".-_:[]")) {
        route->rewrite.host = text;
    } else {
        value_refuse(load, node, expected);
    }
}

static const struct key rewrite_keys[] = {
    {"strip_prefix", KEY_OTHER, 0, 0, 0, NULL, take_strip},
    {"add_prefix", KEY_OTHER, 0, 0, 0, NULL, take_add},
    {"host", KEY_OTHER, 0, 0, 0, NULL, take_rewrite_host},
};
BLOCK(rewrite, "rewrite", rewrite_keys);

/* ---- routes
 * ---------------------------------------------------------------------------------------------------- */

static const char *const path_words[] = {"normal", "raw", NULL};
static const char *const slashes_words[] = {"merge", "keep", NULL};

static void
take_path_mode(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    int word;
    if (node->kind == NODE_SCALAR && node->text[0] == '/') {
        refuse(load, node->key_place, NULL,
            "a route's own 'path' is 'normal' or 'raw'; the path to compare stands in match: {path: %s}",
            node->text);
    } else if (value_word(load, node, path_words, &word)) {
        route->path_raw = word == 1;
    }
}

static void
take_name(struct load *load, const struct node *node, void *target)
{
    struct config_route *route = target;
    const char *name;
    if (!value_text(load, node, "a name", &name)) return;
    if (value_is_clean(name) && strlen(name) <= ROUTE_NAME_BYTES) {
        route->name = name;
    } else {
        value_refuse(load, node, "a name of at most 200 bytes without control bytes");
    }
}

static const struct key route_keys[] = {
    {"match", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* these by route_read, in an order of its own */
    {"service", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"redirect", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"respond", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"rewrite", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"timeouts", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"limits", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"retry", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"slashes", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"path", KEY_OTHER, 0, 0, 0, NULL, take_path_mode},
    {"name", KEY_OTHER, 0, 0, 0, NULL, take_name},
    {"filters", KEY_OTHER, 0, 0, 0, NULL, NULL},
    {"errors", KEY_LATER, 0, 0, 0, NULL, NULL},
};
BLOCK(route, "a route", route_keys);

static bool
service_of(struct load *load, const char *name, struct place place, const struct index *names, uint32_t *at)
{
    const struct config *config = load->config;
    if (index_find(names, name, service_name_at, config, at)) return true;
    const char **known = load_alloc(load, (config->service_count + 1) * sizeof *known);
    if (known == NULL) return false;
    for (size_t i = 0; i < config->service_count; i++)
        known[i] = config->services[i].name;
    refuse(load, place, text_nearest(slice_of(name), known), "unknown service %s", shown(load, name));
    return false;
}

static void
targets_read(
    struct load *load, const struct node *node, const struct index *names, struct config_route *route)
{
    const char *name;
    if (node->kind == NODE_MAP && (node->count == 0 || node->count > TARGETS_MAX)) {
        refuse(load, node->place, NULL, "service: expected from 1 to %d services with their weights",
            TARGETS_MAX);
        return;
    }
    route->targets = load_alloc(load, (node->count + 1) * sizeof *route->targets);
    if (route->targets == NULL) return;
    if (node->kind != NODE_MAP) {
        if (!value_text(load, node, "a service's name, or a map of names to weights", &name)) return;
        if (!service_of(load, name, node->place, names, &route->targets[0].service)) return;
        route->targets[0].weight = 1;
        route->target_count = route->weight_total = 1;
        return;
    }
    bool ok = true;
    for (const struct node *child = node->first; child != NULL; child = child->next) {
        struct config_target *target = &route->targets[route->target_count];
        uint64_t weight;
        bool known = service_of(load, child->key, child->key_place, names, &target->service);
        if (!value_number(load, child, 0, WEIGHT_MAX, &weight) || !known) {
            ok = false;
            continue;
        }
        target->weight = (uint32_t)weight;
        route->weight_total += weight;
        route->target_count++;
    }
    if (ok && route->weight_total == 0)
        refuse(load, node->place, NULL, "service: at least one weight must be above 0");
}

static void
action_read(struct load *load, const struct node *node, const struct index *names, struct config_route *route)
{
    const struct node *service = node_find(node, "service"), *redirect = node_find(node, "redirect");
    const struct node *respond = node_find(node, "respond"), *rewrite = node_find(node, "rewrite");
    int given = (service != NULL) + (redirect != NULL) + (respond != NULL);
    if (given != 1)
        refuse(load, node->place, NULL,
            "a route has exactly one of 'service', 'redirect' and 'respond', found %s",
            given == 0 ? "none" : "more");
    if (service != NULL) targets_read(load, service, names, route);
    if (redirect != NULL) {
        route->action = ACTION_REDIRECT;
        route->redirect.status = 308;
        block_read(load, &redirect_block, redirect, route);
        if (redirect->kind == NODE_MAP && node_find(redirect, "to") == NULL)
            refuse(load, redirect->key_place, NULL, "redirect needs 'to'");
    }
    if (respond != NULL) {
        route->action = ACTION_RESPOND;
        route->respond.status = 200;
        route->respond.body = "";
        route->respond.content_type = "text/plain; charset=utf-8";
        block_read(load, &respond_block, respond, route);
        if (route->respond.body_len > 0 && (route->respond.status == 204 || route->respond.status == 304))
            refuse(
                load, respond->key_place, NULL, "a %d has no body (RFC 9110 §6.4.1)", route->respond.status);
    }
    if (rewrite != NULL) block_read(load, &rewrite_block, rewrite, route);
    if (rewrite != NULL && service == NULL)
        refuse(load, rewrite->key_place, NULL, "rewrite needs 'service': nothing else is sent on");
}

void
route_defaults(const struct config *config, const struct config_service *service, struct config_route *route)
{
    route->timeouts = service == NULL ? config->timeouts : service->timeouts;
    route->queue = service == NULL ? config->limits.queue : service->queue;
    route->body = service == NULL
                      ? (struct config_body_limits){config->limits.body_bytes, config->limits.body_rate}
                      : service->body;
    route->retry = service == NULL ? config->retry : service->retry;
}

/* After the target is known: it says what the route starts from. */
static void
overrides_read(struct load *load, const struct node *node, struct config_route *route)
{
    const struct config *config = load->config;
    const struct node *timeouts = node_find(node, "timeouts"), *limits = node_find(node, "limits");
    const struct node *retry = node_find(node, "retry");
    route_defaults(
        config, route->target_count == 1 ? &config->services[route->targets[0].service] : NULL, route);
    if (timeouts != NULL) block_read(load, &route_timeouts_block, timeouts, &route->timeouts);
    if (limits != NULL) block_read(load, &route_limits_block, limits, route);
    if (retry != NULL) block_read(load, &retry_block, retry, &route->retry);
    route->own_timeouts = timeouts != NULL && timeouts->count > 0;
    route->own_limits = limits != NULL && limits->count > 0;
    route->own_retry = retry != NULL && retry->count > 0;
}

static const char *
label_of(struct load *load, const struct config_match *match)
{
    const char *host = match->host == NULL ? "" : match->host;
    if (match->path != NULL)
        return load_text(load, "%s%s= %s", host, host[0] == '\0' ? "" : " ", match->path);
    if (match->path_prefix != NULL) return load_text(load, "%s%s", host, match->path_prefix);
    return load_text(load, "%s", host[0] == '\0' ? "/" : host);
}

static const char *
route_name_at(const void *context, uint32_t at)
{
    const struct config *config = context;
    return config->routes[at].name;
}

/* A label of our own gets a number where it is taken; a name that the file gives twice is refused. */
static void
name_settle(
    struct load *load, const struct node *node, struct index *taken, struct config_route *route, uint32_t at)
{
    uint32_t before = UINT32_MAX;
    bool own = route->name == NULL;
    const char *label = own ? label_of(load, &route->match) : route->name;
    if (label != NULL && strlen(label) > ROUTE_NAME_BYTES)
        label = load_text(load, "%.*s", ROUTE_NAME_BYTES - 8, label);
    route->name = label;
    for (uint32_t n = at + 1; route->name != NULL; n++) { /* the route's number: free at once, as a rule */
        if (index_add(taken, route->name, at, route_name_at, load->config, &before)) return;
        if (before == UINT32_MAX) break;
        if (!own) {
            refuse(load, node_find(node, "name")->place, NULL,
                "the route's name %s is taken, first by the route in line %d", shown(load, route->name),
                load->config->routes[before].place.line);
            return;
        }
        route->name = load_text(load, "%s #%u", label, n);
    }
    load->diags->failed = true;
}

static void
route_read(struct load *load, const struct node *node, const struct index *names, struct config_route *route)
{
    const struct node *slashes = node_find(node, "slashes"), *match = node_find(node, "match");
    const struct node *filters = node_find(node, "filters");
    int word;
    route->place = node->place;
    if (slashes != NULL && value_word(load, slashes, slashes_words, &word)) route->slashes_keep = word == 1;
    block_read(load, &route_block, node, route);
    if (match != NULL) match_read(load, match, route);
    action_read(load, node, names, route);
    overrides_read(load, node, route);
    if (filters == NULL) return;
    const char *path = load_text(load, "routes[%zu]", (size_t)(route - load->config->routes));
    route->filters = filters_read(load, filters, path, &route->filter_count);
}

void
routes_load(struct load *load, const struct node *list, const struct index *names)
{
    struct config *config = load->config;
    struct index taken = {0};
    if (list == NULL || node_is_null(list)) return;
    if (list->kind != NODE_LIST) {
        value_refuse(load, list, "a list of routes");
        return;
    }
    config->routes = load_alloc(load, (list->count + 1) * sizeof *config->routes);
    if (config->routes == NULL) return;
    for (const struct node *node = list->first; node != NULL; node = node->next) {
        struct config_route *route = &config->routes[config->route_count];
        if (node->kind != NODE_MAP) {
            value_refuse(load, node, "a route such as {match: {path_prefix: /}, service: web}");
            continue;
        }
        route_read(load, node, names, route);
        name_settle(load, node, &taken, route, (uint32_t)config->route_count);
        config->route_count++;
    }
    index_fini(&taken);
}
