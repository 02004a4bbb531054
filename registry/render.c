/* registry/render.c: instances as JSON, protobuf and metrics. A snapshot is made once per change and form. */
#include <stdlib.h>
#include <string.h>

#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"
#include "registry/registry_internal.h"

enum { SNAPSHOTS_MAX = 64 };

static void
add_field(struct strbuf *out, const char *key, struct slice value)
{
    strbuf_add_text(out, key);
    strbuf_add_json(out, value);
}

static void
add_common(const struct spec *spec, struct strbuf *out)
{
    add_field(out, "{\"id\":", spec->id);
    add_field(out, ",\"serviceName\":", spec->service);
    add_field(out, ",\"host\":", spec->host);
    strbuf_printf(out, ",\"port\":%u", spec->port);
    add_field(out, ",\"url\":", spec->url);
    add_field(out, ",\"healthPath\":", spec->health_path);
}

void
render_instance_v1(const struct instance *instance, struct strbuf *out)
{
    add_common(&instance->spec, out);
    strbuf_add_char(out, '}');
}

static uint64_t
ttl_ms(const struct registry *registry, const struct instance *instance)
{
    return (instance->spec.ttl_us != 0 ? instance->spec.ttl_us : registry->model.lease_ttl_us) / 1000;
}

static const char *
word(bool flag)
{
    return flag ? "true" : "false";
}

void
render_instance_v2(const struct registry *registry, const struct instance *instance, struct strbuf *out)
{
    const struct spec *spec = &instance->spec;
    add_common(spec, out);
    strbuf_printf(out, ",\"weight\":%u", spec->weight);
    add_field(out, ",\"zone\":", spec->zone);
    add_field(out, ",\"version\":", spec->version);
    strbuf_add_text(out, ",\"metadata\":");
    strbuf_add_slice(out, spec->metadata.len == 0 ? SLICE_LIT("{}") : spec->metadata);
    strbuf_printf(out, ",\"ttlMs\":%llu,\"lapsed\":%s,\"maintenance\":%s,\"draining\":%s}",
        (unsigned long long)ttl_ms(registry, instance), word(instance->lapsed), word(spec->maintenance),
        word(spec->draining));
}

/* What the old contract is told of: it knows no flags, so who must not get traffic is not there. */
static bool
is_listed_v1(const struct instance *instance)
{
    return !instance->lapsed && !instance->spec.maintenance && !instance->spec.draining;
}

static bool
matches(const struct instance *instance, const char *service)
{
    return service == NULL || slice_equal(instance->spec.service, slice_of(service));
}

static void
render_json(const struct registry *registry, bool v2, const char *service, struct strbuf *out)
{
    bool first = true;
    if (v2) {
        strbuf_printf(out,
            "{\"index\":%llu,\"epoch\":\"%s\",\"instances\":", (unsigned long long)registry->model.index,
            registry->model.epoch);
    }
    strbuf_add_char(out, '[');
    for (const struct instance *i = registry->model.first; i != NULL; i = i->next) {
        if (!matches(i, service) || (!v2 && !is_listed_v1(i))) continue;
        if (!first) strbuf_add_char(out, ',');
        first = false;
        if (v2) {
            render_instance_v2(registry, i, out);
        } else {
            render_instance_v1(i, out);
        }
    }
    strbuf_add_text(out, v2 ? "]}" : "]");
}

/* protobuf by hand for the two lists: a message for each instance would be built only to be packed and freed.
 */

static void
add_varint(struct strbuf *out, uint64_t value)
{
    while (value >= 0x80) {
        strbuf_add_char(out, (char)(value | 0x80));
        value >>= 7;
    }
    strbuf_add_char(out, (char)value);
}

static void
add_bytes(struct strbuf *out, unsigned field, struct slice value)
{
    if (value.len == 0) return; /* proto3: the default is not sent */
    add_varint(out, field << 3 | 2);
    add_varint(out, value.len);
    strbuf_add_slice(out, value);
}

static void
add_number(struct strbuf *out, unsigned field, uint64_t value)
{
    if (value == 0) return;
    add_varint(out, field << 3);
    add_varint(out, value);
}

static void
add_proto_instance(
    const struct registry *registry, const struct instance *instance, bool v2, struct strbuf *out)
{
    const struct spec *spec = &instance->spec;
    add_bytes(out, 1, spec->id);
    add_bytes(out, 2, spec->service);
    add_bytes(out, 3, spec->host);
    add_number(out, 4, spec->port);
    add_bytes(out, 5, spec->url);
    add_bytes(out, 6, spec->health_path);
    if (!v2) return;
    add_varint(out, 7 << 3); /* always: 0 is not the default */
    add_varint(out, spec->weight);
    add_bytes(out, 8, spec->zone);
    add_bytes(out, 9, spec->version);
    add_bytes(out, 10, spec->metadata);
    add_number(out, 11, ttl_ms(registry, instance));
    add_number(out, 12, spec->maintenance);
    add_number(out, 13, spec->draining);
    add_number(out, 14, instance->lapsed);
}

static void
render_proto(const struct registry *registry, bool v2, const char *service, struct strbuf *out)
{
    struct strbuf one = {0};
    if (v2) {
        add_number(out, 1, registry->model.index);
        add_bytes(out, 2, slice_of(registry->model.epoch));
    }
    for (const struct instance *i = registry->model.first; i != NULL; i = i->next) {
        if (!matches(i, service) || (!v2 && !is_listed_v1(i))) continue;
        strbuf_clear(&one);
        add_proto_instance(registry, i, v2, &one);
        add_bytes(out, v2 ? 3 : 1, strbuf_slice(&one));
        if (one.failed) out->failed = true;
    }
    strbuf_fini(&one);
}

static void
snapshot_free(struct snapshot *snapshot)
{
    serve_blob_put(snapshot->blob);
    free(snapshot->service);
    free(snapshot);
}

void
render_forget(struct registry *registry)
{
    while (registry->snapshots != NULL) {
        struct snapshot *snapshot = registry->snapshots;
        registry->snapshots = snapshot->next;
        snapshot_free(snapshot);
    }
}

static struct snapshot *
snapshot_new(struct registry *registry, enum snapshot_form form, const char *service)
{
    struct strbuf out = {0};
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL) return NULL;
    bool v2 = form == SNAPSHOT_V2_JSON || form == SNAPSHOT_V2_PROTO;
    if (form == SNAPSHOT_V1_JSON || form == SNAPSHOT_V2_JSON) {
        render_json(registry, v2, service, &out);
    } else {
        render_proto(registry, v2, service, &out);
    }
    snapshot->form = form;
    snapshot->index = registry->model.index;
    snapshot->service = service == NULL ? NULL : strdup(service);
    snapshot->blob = out.failed ? NULL : serve_blob_new(strbuf_slice(&out));
    strbuf_fini(&out);
    if (snapshot->blob != NULL && (service == NULL || snapshot->service != NULL)) return snapshot;
    snapshot_free(snapshot);
    return NULL;
}

struct serve_blob *
render_snapshot(struct registry *registry, enum snapshot_form form, const char *service)
{
    size_t count = 0;
    if (registry->snapshots != NULL && registry->snapshots->index != registry->model.index)
        render_forget(registry);
    for (struct snapshot *s = registry->snapshots; s != NULL; s = s->next, count++) {
        bool same =
            service == NULL ? s->service == NULL : s->service != NULL && strcmp(s->service, service) == 0;
        if (s->form == form && same) return s->blob;
    }
    if (count >= SNAPSHOTS_MAX) render_forget(registry); /* names that clients make up must not pile up */
    struct snapshot *snapshot = snapshot_new(registry, form, service);
    if (snapshot == NULL) return NULL;
    snapshot->next = registry->snapshots;
    registry->snapshots = snapshot;
    return snapshot->blob;
}

/* A label value in quotes; ids are UTF-8 already. */
static void
add_label(struct strbuf *out, struct slice value)
{
    strbuf_add_char(out, '"');
    for (size_t i = 0; i < value.len; i++) {
        char c = value.at[i];
        if (c == '\\' || c == '"') strbuf_add_char(out, '\\');
        if (c == '\n') {
            strbuf_add_text(out, "\\n");
        } else {
            strbuf_add_char(out, c);
        }
    }
    strbuf_add_char(out, '"');
}

static void
add_metric(struct strbuf *out, const char *name, const char *type, const char *help, uint64_t value)
{
    strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
        (unsigned long long)value);
}

void
render_metrics(const struct registry *registry, struct strbuf *out)
{
    const struct model *model = &registry->model;
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"service_registry_registered_services", "gauge", "Instances whose lease is alive.", model->living},
        {"service_registry_registered_services_total", "gauge",
            "The same, under the name the old source used.", model->living},
        {"service_registry_lapsed_instances", "gauge",
            "Instances whose lease ran out and that nobody deregistered.", model->count - model->living},
        {"service_registry_self_protection", "gauge", "1 while most leases ran out together and are kept.",
            model->protecting},
        {"service_registry_change_index", "gauge", "Grows with each change of what is registered.",
            model->index},
        {"service_registry_watchers", "gauge", "Held queries and open streams.", registry->watcher_count},
        {"service_registry_registrations_total", "counter", "Registrations accepted.", model->registrations},
        {"service_registry_heartbeats_total", "counter", "Heartbeats of known instances.", model->heartbeats},
        {"service_registry_unknown_heartbeats_total", "counter", "Heartbeats of unknown or lapsed instances.",
            model->unknown_heartbeats},
        {"service_registry_expirations_total", "counter", "Leases that lapsed.", model->expirations},
        {"service_registry_deregistrations_total", "counter", "Instances that were deregistered.",
            model->deregistrations},
        {"service_registry_rejected_total", "counter", "Registrations refused because they were not valid.",
            registry->rejected},
        {"service_registry_store_errors_total", "counter", "Changes that the store could not keep.",
            model->store_errors},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        add_metric(out, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
    }
    strbuf_add_text(out,
        "# HELP service_registry_instance_alive 1 while the instance's lease is alive, 0 once it lapsed.\n"
        "# TYPE service_registry_instance_alive gauge\n");
    for (const struct instance *i = model->first; i != NULL; i = i->next) {
        strbuf_add_text(out, "service_registry_instance_alive{instance_id=");
        add_label(out, i->spec.id);
        strbuf_add_text(out, ",service_name=");
        add_label(out, i->spec.service);
        strbuf_add_text(out, i->lapsed ? "} 0\n" : "} 1\n");
    }
}
