#include <stdlib.h>

#include "core/admin/admin_internal.h"
#include "core/base/clock.h"
#include "core/base/text.h"

/* A page with more rows helps nobody; the API has them all. */
enum { PAGE_ROWS = 1000 };

static const char style[] =
    ":root{color-scheme:light "
    "dark;--bg:#f6f7f9;--card:#fff;--fg:#1c2330;--dim:#687083;--line:#e3e6eb;--link:#1f5fbf}"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--fg:#e6e9ef;--dim:#949db0;--line:#"
    "2c333f;"
    "--link:#8ab4f8}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:14px/1.5 "
    "system-ui,sans-serif}"
    "main{max-width:1200px;margin:0 auto;padding:24px 20px "
    "48px}h1{font-size:22px;margin:0}h2{font-size:15px;margin:28px 0 8px}"
    "header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 18px}header span{color:var(--dim)}"
    "nav{margin-top:6px}a{color:var(--link);text-decoration:none;margin-right:14px}a:hover{text-decoration:"
    "underline}"
    ".box{background:var(--card);border:1px solid var(--line);border-radius:8px;overflow-x:auto}"
    "table{border-collapse:collapse;width:100%}th,td{padding:7px 12px;text-align:left;white-space:nowrap}"
    "th{font-weight:600;color:var(--dim);font-size:12px}tr+tr td,thead+tbody tr:first-child "
    "td{border-top:1px solid var(--line)}"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.w{white-space:normal;min-width:180px}"
    "code{font:13px ui-monospace,monospace}.s{padding:1px "
    "9px;border-radius:10px;font-size:12px;color:#fff;background:#6b7280}"
    ".healthy,.ready{background:#1a7f4b}.unproven,.suspect{background:#a86400}.unhealthy,.ejected,.not{"
    "background:#c0362c}"
    ".empty{padding:14px 12px;color:var(--dim)}";

static void
html(struct strbuf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&': strbuf_add_text(out, "&amp;"); break;
        case '<': strbuf_add_text(out, "&lt;"); break;
        case '>': strbuf_add_text(out, "&gt;"); break;
        case '"': strbuf_add_text(out, "&quot;"); break;
        case '\'': strbuf_add_text(out, "&#39;"); break;
        default: strbuf_add_char(out, *text);
        }
    }
}

static void
cell(struct strbuf *out, const char *text)
{
    strbuf_add_text(out, "<td>");
    html(out, text);
    strbuf_add_text(out, "</td>");
}

static void
number(struct strbuf *out, unsigned long long value)
{
    strbuf_printf(out, "<td class=\"n\">%llu</td>", value);
}

/* Whole seconds: "3m20s". */
static void
duration(struct strbuf *out, uint64_t us)
{
    char text[32];
    text_format_duration(us / 1000000 * 1000000, text);
    strbuf_printf(out, "<td class=\"n\">%s</td>", text);
}

static void
begin(struct strbuf *out, const char *title, const char *heads)
{
    strbuf_printf(
        out, "<h2>%s</h2><div class=\"box\"><table><thead><tr>%s</tr></thead><tbody>\n", title, heads);
}

static void
end(struct strbuf *out, bool any, const char *none)
{
    strbuf_add_text(out, "</tbody></table>");
    if (!any) strbuf_printf(out, "<div class=\"empty\">%s</div>", none);
    strbuf_add_text(out, "</div>\n");
}

static void
write_head(struct admin *admin, struct strbuf *out)
{
    bool ready = admin_is_ready(admin);
    strbuf_printf(out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>fluxgate</title>"
        "<meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"5\">"
        "<style>%s</style></head><body><main>\n",
        style);
    strbuf_printf(out,
        "<header><h1>fluxgate</h1><span class=\"s %s\" style=\"color:#fff\">%s</span><span>version %s</span>"
        "<span>generation %u</span><span><code>",
        ready ? "ready" : "not", ready ? "ready" : "not ready", FLUXGATE_VERSION, admin->generation);
    html(out, admin->hash);
    strbuf_add_text(out, "</code></span><span>");
    html(out, admin->config == NULL ? "" : admin->config->file);
    strbuf_add_text(out,
        "</span></header><nav><a href=\"/metrics\">metrics</a><a href=\"/api/v1/status\">status</a>"
        "<a href=\"/api/v1/endpoints\">endpoints</a><a href=\"/api/v1/config\">config</a></nav>\n");
}

static void
write_workers(struct admin *admin, struct strbuf *out, uint64_t now_us)
{
    bool any = false;
    begin(out, "Workers",
        "<th class=\"n\">worker</th><th class=\"n\">pid</th><th class=\"n\">generation</th><th "
        "class=\"n\">heartbeat</th>"
        "<th class=\"n\">connections</th><th class=\"n\">requests</th><th class=\"n\">tunnels</th><th></th>");
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        struct shm_worker *worker = shm_worker(admin->env.shm, i);
        int32_t pid = atomic_load_explicit(&worker->pid, memory_order_relaxed);
        uint64_t beat = atomic_load_explicit(&worker->heartbeat_us, memory_order_relaxed);
        if (pid == 0) continue;
        any = true;
        strbuf_add_text(out, "<tr>");
        number(out, i);
        number(out, (unsigned)pid);
        number(out, atomic_load_explicit(&worker->generation, memory_order_relaxed));
        strbuf_printf(out, "<td class=\"n\">%llu ms</td>",
            (unsigned long long)(beat == 0 || now_us < beat ? 0 : (now_us - beat) / 1000));
        number(out, atomic_load_explicit(&worker->connections, memory_order_relaxed));
        number(out, atomic_load_explicit(&worker->streams, memory_order_relaxed));
        number(out, atomic_load_explicit(&worker->tunnels, memory_order_relaxed));
        cell(out, atomic_load_explicit(&worker->draining, memory_order_relaxed) != 0 ? "draining" : "");
        strbuf_add_text(out, "</tr>\n");
    }
    end(out, any, "no worker runs");
}

/* Endpoints of a service: all, and those in rotation. */
struct tally {
    unsigned all, good;
};

/* By shm_name id, in one pass over the table. */
static void
count_endpoints(struct admin *admin, struct tally *tallies)
{
    struct slot cold;
    uint32_t slots = shm_slots(admin->env.shm);
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (!slot_read(admin->env.shm, slot, &cold, NULL)) continue;
        if (cold.state == SLOT_GONE || cold.service >= SHM_NAMES_MAX) continue;
        tallies[cold.service].all++;
        if (cold.state == SLOT_HEALTHY || cold.state == SLOT_SUSPECT) tallies[cold.service].good++;
    }
}

static void
write_services(struct admin *admin, struct strbuf *out)
{
    size_t count = admin->config == NULL ? 0 : admin->config->service_count;
    struct tally *tallies = calloc(SHM_NAMES_MAX, sizeof(*tallies));
    if (tallies == NULL) {
        out->failed = true;
        return;
    }
    count_endpoints(admin, tallies);
    begin(out, "Services",
        "<th>service</th><th>strategy</th><th>health policy</th><th>discovered as</th><th class=\"n\">in "
        "rotation</th>"
        "<th class=\"n\">endpoints</th>");
    for (size_t i = 0; i < count && i < PAGE_ROWS; i++) {
        const struct config_service *service = &admin->config->services[i];
        uint32_t id = shm_name_find(admin->env.shm, slice_of(service->name));
        struct tally none = {0, 0}, *tally = id < SHM_NAMES_MAX ? &tallies[id] : &none;
        strbuf_add_text(out, "<tr>");
        cell(out, service->name);
        cell(out, service->strategy.name == NULL ? "" : service->strategy.name);
        cell(out, service->health.enabled ? service->health.policy.name : "");
        cell(out, service->discover == NULL ? "" : service->discover);
        number(out, tally->good);
        number(out, tally->all);
        strbuf_add_text(out, "</tr>\n");
    }
    end(out, count > 0, "the configuration names no service");
    free(tallies);
}

static void
write_endpoint(struct strbuf *out, const struct admin_endpoint *at)
{
    const char *state = slot_state_word((enum slot_state)at->cold.state);
    strbuf_add_text(out, "<tr>");
    cell(out, at->service);
    cell(out, at->text.id);
    strbuf_add_text(out, "<td><code>");
    html(out, at->address);
    strbuf_printf(out, "</code></td><td><span class=\"s %s\">%s</span></td><td class=\"w\">", state, state);
    html(out, at->text.reason);
    strbuf_add_text(out, "</td>");
    duration(out, at->since_us);
    number(out, at->cold.weight);
    number(out, atomic_load_explicit(&at->cold.active, memory_order_relaxed));
    number(out, atomic_load_explicit(&at->cold.failures, memory_order_relaxed));
    strbuf_printf(out, "<td class=\"n\">%u.%u ms</td>", at->latency_us / 1000, at->latency_us % 1000 / 100);
    number(out, atomic_load_explicit(&at->cold.requests, memory_order_relaxed));
    strbuf_add_text(out, "</tr>\n");
}

static void
write_endpoints(struct admin *admin, struct strbuf *out, uint64_t now_us)
{
    struct admin_endpoint endpoint;
    uint32_t slots = shm_slots(admin->env.shm);
    unsigned shown = 0;
    begin(out, "Endpoints",
        "<th>service</th><th>id</th><th>address</th><th>state</th><th>why</th><th class=\"n\">since</th>"
        "<th class=\"n\">weight</th><th class=\"n\">active</th><th class=\"n\">failures</th><th "
        "class=\"n\">latency</th>"
        "<th class=\"n\">requests</th>");
    for (uint32_t slot = 0; slot < slots && shown < PAGE_ROWS; slot++) {
        if (!admin_endpoint_read(admin, slot, now_us, &endpoint)) continue;
        write_endpoint(out, &endpoint);
        shown++;
    }
    end(out, shown > 0, "no endpoint is known");
    if (shown == PAGE_ROWS)
        strbuf_printf(
            out, "<p>The first %d; <a href=\"/api/v1/endpoints\">the API</a> has all.</p>\n", PAGE_ROWS);
}

static void
write_scripts(struct admin *admin, struct strbuf *out, uint64_t now_us)
{
    struct script_status *rows = admin->script == NULL ? NULL : calloc(SCRIPT_ROWS, sizeof(*rows));
    size_t count = rows == NULL ? 0 : script_status(admin->script, rows, SCRIPT_ROWS);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].errors == 0) continue;
        if (!any)
            begin(out, "Scripts in trouble",
                "<th>script</th><th>service</th><th class=\"n\">errors</th><th>set aside</th><th>last "
                "error</th>");
        any = true;
        strbuf_add_text(out, "<tr>");
        cell(out, rows[i].plugin == NULL ? "" : rows[i].plugin);
        cell(out, rows[i].service == NULL ? "" : rows[i].service);
        number(out, rows[i].errors);
        cell(out, rows[i].quarantined_until_us > now_us ? "yes" : "");
        strbuf_add_text(out, "<td class=\"w\"><code>");
        html(out, rows[i].last_error);
        strbuf_add_text(out, "</code></td></tr>\n");
    }
    if (any) end(out, true, "");
    free(rows);
}

void
admin_write_page(struct admin *admin, struct strbuf *out)
{
    uint64_t now_us = clock_now_us();
    write_head(admin, out);
    write_scripts(admin, out, now_us);
    write_services(admin, out);
    write_endpoints(admin, out, now_us);
    write_workers(admin, out, now_us);
    strbuf_add_text(out, "</main></body></html>\n");
}
