#include <jansson.h>
#include <stdlib.h>

#include "core/admin/admin_internal.h"
#include "core/base/clock.h"
#include "core/metrics/stats.h"
#include "core/net/listener.h"

bool
admin_endpoint_read(struct admin *admin, uint32_t slot, uint64_t now_us, struct admin_endpoint *endpoint)
{
    struct shm *shm = admin->env.shm;
    if (!slot_read(shm, slot, &endpoint->cold, &endpoint->text)) return false;
    if (endpoint->cold.state == SLOT_GONE) return false;
    endpoint->slot = slot;
    endpoint->service = shm_name_text(shm, endpoint->cold.service);
    endpoint->since_us = now_us > endpoint->cold.since_us ? now_us - endpoint->cold.since_us : 0;
    endpoint->latency_us = slot_latency_us(shm, slot, now_us);
    endpoint->address[0] = '\0';
    if (endpoint->text.address_len > 0)
        address_format(&endpoint->text.address.any, endpoint->address, sizeof(endpoint->address), true);
    return true;
}

static void
member(struct strbuf *out, const char *name, const char *text)
{
    strbuf_printf(out, "\"%s\":", name);
    strbuf_add_json(out, slice_of(text));
}

static void
write_seconds(struct strbuf *out, const char *name, uint64_t us)
{
    strbuf_printf(out, "\"%s\":%llu.%03llu", name, (unsigned long long)(us / 1000000),
        (unsigned long long)(us % 1000000 / 1000));
}

/* ---- status ---- */

static void
write_worker(struct strbuf *out, unsigned number, struct shm_worker *worker, uint64_t now_us)
{
    uint64_t beat = atomic_load_explicit(&worker->heartbeat_us, memory_order_relaxed);
    strbuf_printf(out, "{\"worker\":%u,\"pid\":%d,\"generation\":%u,", number,
        atomic_load_explicit(&worker->pid, memory_order_relaxed),
        atomic_load_explicit(&worker->generation, memory_order_relaxed));
    if (beat == 0) {
        strbuf_add_text(out, "\"heartbeat_age_seconds\":null");
    } else {
        write_seconds(out, "heartbeat_age_seconds", now_us > beat ? now_us - beat : 0);
    }
    strbuf_printf(out, ",\"connections\":%u,\"streams\":%u,\"tunnels\":%u,\"draining\":%s}",
        atomic_load_explicit(&worker->connections, memory_order_relaxed),
        atomic_load_explicit(&worker->streams, memory_order_relaxed),
        atomic_load_explicit(&worker->tunnels, memory_order_relaxed),
        atomic_load_explicit(&worker->draining, memory_order_relaxed) != 0 ? "true" : "false");
}

static void
write_workers(struct admin *admin, struct strbuf *out, uint64_t now_us)
{
    unsigned configured = admin->config == NULL ? 0 : admin->config->workers;
    bool first = true;
    strbuf_add_char(out, '[');
    for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
        struct shm_worker *worker = shm_worker(admin->env.shm, i);
        if (i >= configured && atomic_load_explicit(&worker->pid, memory_order_relaxed) == 0) continue;
        if (!first) strbuf_add_char(out, ',');
        first = false;
        write_worker(out, i, worker, now_us);
    }
    strbuf_add_char(out, ']');
}

static void
write_scripts(struct admin *admin, struct strbuf *out, uint64_t now_us)
{
    struct script_status *rows = admin->script == NULL ? NULL : calloc(SCRIPT_ROWS, sizeof(*rows));
    size_t count = rows == NULL ? 0 : script_status(admin->script, rows, SCRIPT_ROWS);
    strbuf_add_char(out, '[');
    for (size_t i = 0; i < count && i < SCRIPT_ROWS; i++) {
        uint64_t until = rows[i].quarantined_until_us;
        if (i > 0) strbuf_add_char(out, ',');
        strbuf_add_char(out, '{');
        member(out, "plugin", rows[i].plugin == NULL ? "" : rows[i].plugin);
        strbuf_add_char(out, ',');
        member(out, "service", rows[i].service == NULL ? "" : rows[i].service);
        strbuf_add_char(out, ',');
        member(out, "kind", rows[i].kind == NULL ? "" : rows[i].kind);
        strbuf_printf(out, ",\"errors\":%llu,\"quarantined\":%s,", (unsigned long long)rows[i].errors,
            until > now_us ? "true" : "false");
        write_seconds(out, "quarantine_seconds", until > now_us ? until - now_us : 0);
        strbuf_add_char(out, ',');
        member(out, "last_error", rows[i].last_error);
        strbuf_add_char(out, '}');
    }
    strbuf_add_char(out, ']');
    free(rows);
}

static void
write_totals(struct admin *admin, struct strbuf *out)
{
    struct shm_totals *totals = shm_totals(admin->env.shm);
    const char *comma = "";
    strbuf_add_char(out, '{');
#define X(name)                                                                                              \
    strbuf_printf(out, "%s\"" #name "\":%llu", comma,                                                        \
        (unsigned long long)atomic_load_explicit(&totals->name, memory_order_relaxed));                      \
    comma = ",";
    SHM_TOTALS(X)
#undef X
    strbuf_add_char(out, '}');
}

void
admin_write_status(struct admin *admin, struct strbuf *out)
{
    uint64_t now_us = clock_now_us();
    strbuf_add_char(out, '{');
    member(out, "version", FLUXGATE_VERSION);
    strbuf_printf(out, ",\"generation\":%u,", admin->generation);
    member(out, "hash", admin->hash);
    strbuf_add_char(out, ',');
    member(out, "config", admin->config == NULL ? "" : admin->config->file);
    strbuf_printf(out,
        ",\"ready\":%s,\"endpoints_version\":%llu,\"workers\":", admin_is_ready(admin) ? "true" : "false",
        (unsigned long long)shm_endpoints_version(admin->env.shm));
    write_workers(admin, out, now_us);
    strbuf_add_text(out, ",\"scripts\":");
    write_scripts(admin, out, now_us);
    strbuf_add_text(out, ",\"discovery\":");
    if (admin->env.discovery != NULL) {
        discovery_describe(admin->env.discovery, out);
    } else {
        strbuf_add_text(out, "null");
    }
    strbuf_add_text(out, ",\"health\":");
    if (admin->env.health != NULL) {
        health_describe(admin->env.health, out);
    } else {
        strbuf_add_text(out, "null");
    }
    strbuf_add_text(out, ",\"totals\":");
    write_totals(admin, out);
    strbuf_add_text(out, "}\n");
}

/* ---- endpoints ---- */

/* As the object that it is, or, should it ever not be one, as text: one endpoint must not spoil the whole
 * answer. */
static void
write_metadata(struct strbuf *out, const char *metadata)
{
    json_t *parsed = json_loads(metadata, 0, NULL);
    strbuf_add_text(out, "\"metadata\":");
    if (metadata[0] == '\0') {
        strbuf_add_text(out, "{}");
    } else if (json_is_object(parsed)) {
        strbuf_add_text(out, metadata);
    } else {
        strbuf_add_json(out, slice_of(metadata));
    }
    json_decref(parsed);
}

static void
write_endpoint(struct strbuf *out, const struct admin_endpoint *at)
{
    strbuf_add_char(out, '{');
    member(out, "service", at->service);
    strbuf_add_char(out, ',');
    member(out, "id", at->text.id);
    strbuf_add_char(out, ',');
    member(out, "address", at->address);
    strbuf_add_char(out, ',');
    member(out, "host", at->text.host);
    strbuf_printf(out, ",\"port\":%u,", at->cold.port);
    member(out, "state", slot_state_word((enum slot_state)at->cold.state));
    strbuf_add_char(out, ',');
    member(out, "reason", at->text.reason);
    strbuf_add_char(out, ',');
    write_seconds(out, "since_seconds", at->since_us);
    strbuf_printf(out, ",\"weight\":%u,\"active\":%u,\"failures\":%u,\"latency_ms\":%u.%03u,\"load\":%.3f,",
        at->cold.weight, atomic_load_explicit(&at->cold.active, memory_order_relaxed),
        atomic_load_explicit(&at->cold.failures, memory_order_relaxed), at->latency_us / 1000,
        at->latency_us % 1000, atomic_load_explicit(&at->cold.load_milli, memory_order_relaxed) / 1000.0);
    strbuf_printf(out, "\"requests\":%llu,\"errors\":%llu,",
        (unsigned long long)atomic_load_explicit(&at->cold.requests, memory_order_relaxed),
        (unsigned long long)atomic_load_explicit(&at->cold.errors, memory_order_relaxed));
    member(out, "zone", at->text.zone);
    strbuf_add_char(out, ',');
    member(out, "path_prefix", at->text.path_prefix);
    strbuf_add_char(out, ',');
    member(out, "health_path", at->text.health_path);
    strbuf_printf(out, ",\"origin\":\"%s\",\"slot\":%u,\"incarnation\":%u,",
        at->text.origin == 0 ? "static" : "registry", at->slot, at->cold.incarnation);
    write_metadata(out, at->text.metadata);
    strbuf_add_char(out, '}');
}

void
admin_write_endpoints(struct admin *admin, struct strbuf *out)
{
    struct admin_endpoint endpoint;
    uint64_t now_us = clock_now_us();
    uint32_t slots = shm_slots(admin->env.shm);
    bool first = true;
    strbuf_printf(
        out, "{\"version\":%llu,\"endpoints\":[", (unsigned long long)shm_endpoints_version(admin->env.shm));
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (!admin_endpoint_read(admin, slot, now_us, &endpoint)) continue;
        strbuf_add_text(out, first ? "\n" : ",\n");
        first = false;
        write_endpoint(out, &endpoint);
    }
    strbuf_add_text(out, "\n]}\n");
}
