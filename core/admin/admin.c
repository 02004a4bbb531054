#include "core/admin/admin_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/http/uri.h"
#include "core/metrics/stats.h"

enum { HELD_MAX = 64, BODY_BYTES = 64 << 10, CONNECTIONS = 256 };
/* What a replaced server's last calls may take; a held reload ends well before. */
enum { RETIRE_US = 60000000 };
enum { LEAVE_US = 2000000 };

bool
admin_is_ready(const struct admin *admin)
{
    return admin->env.is_ready != NULL && admin->env.is_ready(admin->env.context);
}

/* ---- answers ---- */

static void
reply(struct serve_call *call, int status, const char *type, struct strbuf *body)
{
    serve_header(call, "Cache-Control", "no-store");
    serve_header(call, "X-Content-Type-Options", "nosniff");
    if (body->failed) {
        serve_reply(call, 503, "text/plain; charset=utf-8", SLICE_LIT("out of memory\n"));
    } else {
        serve_reply(call, status, type, strbuf_slice(body));
    }
    strbuf_fini(body);
}

static void
reply_text(struct serve_call *call, int status, const char *text)
{
    struct strbuf body = {0};
    size_t len = strlen(text);
    strbuf_add_text(&body, text);
    if (len == 0 || text[len - 1] != '\n') strbuf_add_char(&body, '\n');
    reply(call, status, "text/plain; charset=utf-8", &body);
}

static void
reply_error(struct serve_call *call, int status, const char *error)
{
    struct strbuf body = {0};
    strbuf_add_text(&body, "{\"error\":");
    strbuf_add_json(&body, slice_of(error));
    strbuf_add_text(&body, "}\n");
    reply(call, status, "application/json", &body);
}

static void
label(struct strbuf *out, const char *name, const char *value)
{
    strbuf_printf(out, "%s=\"", name);
    for (value = value == NULL ? "" : value; *value != '\0'; value++) {
        if (*value == '"' || *value == '\\') strbuf_add_char(out, '\\');
        if (*value == '\n')
            strbuf_add_text(out, "\\n");
        else
            strbuf_add_char(out, *value);
    }
    strbuf_add_char(out, '"');
}

static void
script_series(struct strbuf *out, const char *name, const struct script_status *row, uint64_t value)
{
    strbuf_printf(out, "%s{", name);
    label(out, "kind", row->kind);
    strbuf_add_char(out, ',');
    label(out, "plugin", row->plugin);
    strbuf_add_char(out, ',');
    label(out, "service", row->service);
    strbuf_printf(out, "} %llu\n", (unsigned long long)value);
}

/* Of plug-ins that ever were in trouble: a configuration may have thousands that never are. */
static void
script_metrics(struct admin *admin, struct strbuf *out)
{
    struct script_status *rows = admin->script == NULL ? NULL : calloc(SCRIPT_ROWS, sizeof(*rows));
    size_t count = rows == NULL ? 0 : script_status(admin->script, rows, SCRIPT_ROWS);
    strbuf_add_text(out, "# HELP fluxgate_plugin_errors_total Errors by plug-in, in all workers.\n"
                         "# TYPE fluxgate_plugin_errors_total counter\n");
    for (size_t i = 0; i < count; i++) {
        if (rows[i].errors != 0) script_series(out, "fluxgate_plugin_errors_total", &rows[i], rows[i].errors);
    }
    strbuf_add_text(out, "# HELP fluxgate_plugin_quarantined 1 while some worker keeps the plug-in out.\n"
                         "# TYPE fluxgate_plugin_quarantined gauge\n");
    for (size_t i = 0; i < count; i++) {
        if (rows[i].errors != 0)
            script_series(out, "fluxgate_plugin_quarantined", &rows[i], rows[i].quarantined_until_us != 0);
    }
    free(rows);
}

static void
on_metrics(struct admin *admin, struct serve_call *call)
{
    struct strbuf body = {0};
    stats_expose(admin->env.shm, admin->config == NULL ? 0 : admin->config->workers, &body);
    script_metrics(admin, &body);
    reply(call, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

static void
on_live(struct admin *admin, struct serve_call *call)
{
    (void)admin;
    reply_text(call, 200, "live");
}

static void
on_ready(struct admin *admin, struct serve_call *call)
{
    bool ready = admin_is_ready(admin);
    reply_text(call, ready ? 200 : 503, ready ? "ready" : "not ready: starting or draining");
}

static void
on_page(struct admin *admin, struct serve_call *call)
{
    struct strbuf body = {0};
    admin_write_page(admin, &body);
    serve_header(call, "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    reply(call, 200, "text/html; charset=utf-8", &body);
}

static void
on_status(struct admin *admin, struct serve_call *call)
{
    struct strbuf body = {0};
    admin_write_status(admin, &body);
    reply(call, 200, "application/json", &body);
}

static void
on_endpoints(struct admin *admin, struct serve_call *call)
{
    struct strbuf body = {0};
    admin_write_endpoints(admin, &body);
    reply(call, 200, "application/json", &body);
}

static void
on_config(struct admin *admin, struct serve_call *call)
{
    struct strbuf body = {0};
    if (admin->config == NULL) {
        reply_error(call, 503, "no configuration is in use yet");
        return;
    }
    admin_write_config(admin, &body);
    reply(call, 200, "application/yaml", &body);
}

static void
on_held_gone(void *context)
{
    struct admin_held *held = context;
    struct admin_held **at = &held->admin->held;
    while (*at != held)
        at = &(*at)->next;
    *at = held->next;
    free(held);
}

static void
on_reload(struct admin *admin, struct serve_call *call)
{
    unsigned waiting = 0;
    for (const struct admin_held *at = admin->held; at != NULL; at = at->next)
        waiting++;
    if (!admin_is_ready(admin)) {
        reply_text(call, 503, "the gateway is starting or draining: no reload now");
        return;
    }
    struct admin_held *held = waiting < HELD_MAX ? calloc(1, sizeof(*held)) : NULL;
    if (held == NULL) {
        reply_text(call, 503, "too many reloads wait already");
        return;
    }
    *held = (struct admin_held){admin, call, admin->held};
    admin->held = held;
    serve_on_gone(call, on_held_gone, held);
    admin->env.request_reload(admin->env.context);
}

static void
on_drain(struct admin *admin, struct serve_call *call)
{
    reply_text(call, 202, "draining");
    admin->env.request_drain(admin->env.context);
}

/* ---- dispatch ---- */

static const struct admin_path {
    const char *path;
    bool is_post;
    void (*run)(struct admin *admin, struct serve_call *call);
} paths[] = {
    {"/", false, on_page},
    {"/metrics", false, on_metrics},
    {"/live", false, on_live},
    {"/ready", false, on_ready},
    {"/api/v1/status", false, on_status},
    {"/api/v1/endpoints", false, on_endpoints},
    {"/api/v1/config", false, on_config},
    {"/api/v1/reload", true, on_reload},
    {"/api/v1/drain", true, on_drain},
};

/* An address or localhost: any other name may be one that somebody else's DNS points here (rebinding), and a
 * page under it would send an Origin that agrees with its Host. */
static bool
is_own_name(struct slice authority)
{
    struct slice host, port;
    if (!uri_authority_split(authority, &host, &port)) return false;
    if (slice_equal_nocase(host, SLICE_LIT("localhost"))) return true;
    for (size_t i = 0; i < host.len; i++) {
        unsigned char c = ascii_lower((unsigned char)host.at[i]);
        bool is_hex = (unsigned)(c - 'a') < 6 && memchr(host.at, ':', host.len) != NULL;
        if ((unsigned)(c - '0') > 9 && c != '.' && c != ':' && !is_hex) return false;
    }
    return host.len > 0;
}

/* A page of another site can make a browser send a POST here, but not without naming its own origin (Fetch
 * Standard, "append a request Origin header"). Programs send no Origin. */
static bool
is_cross_site(const struct headers *headers)
{
    const struct header *origin = headers_find_name(headers, SLICE_LIT("origin"));
    const struct header *host = headers_find(headers, HEADER_HOST);
    const struct header *site = headers_find_name(headers, SLICE_LIT("sec-fetch-site"));
    if (site != NULL && (slice_equal_nocase(site->value, SLICE_LIT("cross-site")) ||
                            slice_equal_nocase(site->value, SLICE_LIT("same-site"))))
        return true;
    if (origin == NULL) return false;
    struct slice from = origin->value;
    if (headers_next(headers, origin) != NULL || host == NULL) return true;
    if (slice_starts_with(from, SLICE_LIT("http://"))) {
        from.at += 7;
        from.len -= 7;
    } else if (slice_starts_with(from, SLICE_LIT("https://"))) {
        from.at += 8;
        from.len -= 8;
    } else {
        return true; /* "null", extensions */
    }
    return !slice_equal_nocase(from, host->value) || !is_own_name(from);
}

static void
on_call(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct admin *admin = context;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        const struct admin_path *path = &paths[i];
        if (!slice_equal(request->path, slice_of(path->path))) continue;
        bool fits = path->is_post ? request->method == METHOD_POST
                                  : request->method == METHOD_GET || request->method == METHOD_HEAD;
        if (!fits) {
            serve_header(call, "Allow", path->is_post ? "POST" : "GET, HEAD");
            reply_error(call, 405, "this path does not take that method");
        } else if (path->is_post && is_cross_site(request->headers)) {
            reply_error(call, 403, "refused: the request comes from a page of another origin");
        } else {
            path->run(admin, call);
        }
        return;
    }
    reply_error(call, 404, "no such path");
}

/* ---- life ---- */

struct admin *
admin_new(struct event_base *base, const struct admin_env *env)
{
    struct admin *admin = calloc(1, sizeof(*admin));
    if (admin == NULL) return NULL;
    admin->base = base;
    admin->env = *env;
    return admin;
}

static void
on_retired(void *context)
{
    struct admin_server *server = context;
    server->finished = true;
}

static void
retire(struct admin *admin)
{
    struct admin_server *server = admin->server;
    if (server == NULL) return;
    admin->server = NULL;
    server->next = admin->retired;
    admin->retired = server;
    serve_drain(server->serve, RETIRE_US, on_retired, server);
}

/* Not in on_retired: the server is still on its own stack there. */
static void
bury(struct admin *admin)
{
    for (struct admin_server **at = &admin->retired; *at != NULL;) {
        struct admin_server *server = *at;
        if (!server->finished) {
            at = &server->next;
            continue;
        }
        *at = server->next;
        serve_free(server->serve);
        free(server);
    }
}

bool
admin_listen(struct admin *admin, int fd)
{
    static const struct serve_limits limits = {.body_bytes = BODY_BYTES, .connections = CONNECTIONS};
    struct admin_server *server = NULL;
    struct stat st;
    bury(admin);
    if (fstat(fd, &st) == -1) goto fail;
    if (admin->server != NULL && admin->server->device == st.st_dev && admin->server->inode == st.st_ino) {
        close(fd); /* the socket that is already served */
        return true;
    }
    server = calloc(1, sizeof(*server));
    if (server == NULL) goto fail;
    server->device = st.st_dev;
    server->inode = st.st_ino;
    server->serve = serve_new(admin->base, SERVE_HTTP1, &limits, on_call, admin);
    if (server->serve == NULL || !serve_listen(server->serve, fd)) goto fail;
    retire(admin);
    admin->server = server;
    return true;
fail:
    if (server != NULL) serve_free(server->serve);
    free(server);
    close(fd);
    return false;
}

void
admin_use(struct admin *admin, const struct config *config, struct script *script, uint32_t generation,
    const char *hash)
{
    admin->config = config;
    admin->script = script;
    admin->generation = generation;
    snprintf(admin->hash, sizeof(admin->hash), "%s", hash);
    if (!config->has_admin && !admin->is_leaving) retire(admin);
    bury(admin);
}

void
admin_reloaded(struct admin *admin, bool ok, const char *message)
{
    while (admin->held != NULL) {
        struct admin_held *held = admin->held;
        admin->held = held->next;
        serve_on_gone(held->call, NULL, NULL);
        reply_text(held->call, ok ? 200 : 422, message);
        free(held);
    }
}

bool
admin_leave(struct admin *admin, void (*done)(void *context), void *context)
{
    if (admin->held != NULL) return false;
    admin->is_leaving = true;
    if (admin->server == NULL)
        done(context);
    else
        serve_drain(admin->server->serve, LEAVE_US, done, context);
    return true;
}

void
admin_free(struct admin *admin)
{
    if (admin == NULL) return;
    if (admin->server != NULL) serve_free(admin->server->serve);
    free(admin->server);
    for (struct admin_server *at = admin->retired; at != NULL; at = at->next)
        at->finished = true;
    bury(admin);
    while (admin->held != NULL) { /* whose calls went with their servers */
        struct admin_held *held = admin->held;
        admin->held = held->next;
        free(held);
    }
    free(admin);
}
