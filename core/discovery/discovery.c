#include "core/discovery/discovery.h"

#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "core/discovery/discovery_internal.h"

enum {
    TICK_US = 200000,            /* reaping, readiness, the snapshot's turn */
    SNAPSHOT_AFTER_US = 1000000, /* without an answer the snapshot speaks */
    READY_AFTER_US = 2000000,    /* and after that the static part serves alone */
    SAVE_AFTER_US = 1000000,     /* changes that come together are written together */
    SWEEP_EVERY_US = 60000000,
    /* After an old registry lost more than half of its list: as long as its clients take to find out and
       register again */
    GRACE_US = 60000000,
};
enum { SELECTS_NONE, SELECTS_NAME, SELECTS_ALL };

struct selector { /* of a config service, by its shm name id */
    uint64_t name;
    uint8_t kind;
};

struct discovery {
    struct event_base *base;
    struct shm *shm;
    struct work *work;
    struct dns *dns;
    struct table *table;
    struct sync *sync;
    struct event *tick, *rebuild;
    const struct config *config;
    char *state_dir;
    char *target;
    struct selector selectors[SHM_NAMES_MAX];
    /* what the registry said last, or the snapshot; NULL: nothing yet */
    struct instances *latest;
    struct instances
        *ghosts;      /* the answer before the registry lost its memory, while some of them are suspect */
    bool is_answered; /* by the registry itself */
    bool is_snapshot; /* latest is from the file */
    bool is_dirty;    /* not yet in the file */
    bool is_saving;   /* a write of it is under way */
    bool is_swapping; /* from discovery_use to discovery_commit */
    uint64_t begun_us, grace_us, dirty_us, sweep_us;
    struct slot_text scratch;
    struct log_every bad_service;
};

/* ---- the desired table */

static bool
on_selects(void *context, uint32_t service, uint64_t registered)
{
    const struct discovery *discovery = context;
    const struct selector *selector = &discovery->selectors[service < SHM_NAMES_MAX ? service : 0];
    if (service >= SHM_NAMES_MAX || selector->kind == SELECTS_NONE) return false;
    return selector->kind == SELECTS_ALL || registered == 0 || selector->name == registered;
}

static void
address_set_port(struct sockaddr_storage *address, uint32_t port)
{
    if (address->ss_family == AF_INET) ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
    if (address->ss_family == AF_INET6) ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
}

/* Leaves address_len 0 where the name has no address yet. */
static void
text_resolve(
    struct discovery *discovery, uint32_t service, struct slice host, uint32_t port, struct slot_text *text)
{
    struct sockaddr_storage address, current;
    socklen_t len;
    bool is_known =
        !dns_is_literal(host) && table_address(discovery->table, service, slice_of(text->id), &current);
    if (!dns_find(discovery->dns, host, is_known ? (struct sockaddr *)&current : NULL, &address, &len))
        return;
    address_set_port(&address, port);
    memcpy(&text->address, &address, len);
    text->address_len = (uint32_t)len;
}

static bool
endpoint_text(struct discovery *discovery, uint32_t service, const struct config_endpoint *endpoint,
    struct slot_text *text)
{
    const struct config_address *address = &endpoint->address;
    struct slice host = slice_of(address->host);
    memset(text, 0, sizeof *text);
    bool ok = text_copy(text->id, sizeof text->id, slice_of(endpoint->id)) &&
              text_copy(text->zone, sizeof text->zone, slice_of(endpoint->zone)) &&
              text_copy(text->metadata, sizeof text->metadata, slice_of(endpoint->metadata_json)) &&
              text_copy(text->host, sizeof text->host, address->is_unix ? slice_of(address->text) : host);
    if (!ok) return false;
    if (address->is_unix) {
        text->address.un.sun_family = AF_UNIX;
        text->address_len = sizeof text->address.un;
        return text_copy(text->address.un.sun_path, sizeof text->address.un.sun_path, host);
    }
    if (host.len == 0) host = SLICE_LIT("127.0.0.1"); /* ":9001" */
    text_resolve(discovery, service, host, address->port, text);
    return true;
}

static void
want_static(struct discovery *discovery, uint32_t id, const struct config_service *service)
{
    for (size_t i = 0; i < service->endpoint_count; i++) {
        const struct config_endpoint *endpoint = &service->endpoints[i];
        struct want want = {.service = id,
            .weight = endpoint->weight,
            .port = endpoint->address.port,
            .text = &discovery->scratch,
            .has_policy = service->health.enabled};
        if (endpoint_text(discovery, id, endpoint, &discovery->scratch)) {
            table_want(discovery->table, &want);
        } else {
            log_errorx("endpoint left out: a field is too long", F_STR("service", service->name),
                F_STR("endpoint", endpoint->id));
        }
    }
}

static void
want_instance(struct discovery *discovery, uint32_t id, bool has_policy, const struct known_instance *row,
    uint64_t epoch)
{
    const struct instance *view = &row->view;
    struct slot_text *text = &discovery->scratch;
    struct want want = {.service = id,
        .weight = view->weight,
        .port = row->connect_port,
        .text = text,
        .has_policy = has_policy,
        .lapsed = view->lapsed,
        .maintenance = view->maintenance,
        .draining = view->draining,
        .registered = row->service_hash,
        .epoch = epoch};
    memset(text, 0, sizeof *text);
    text->origin = 1;
    bool ok = text_copy(text->id, sizeof text->id, view->id) &&
              text_copy(text->host, sizeof text->host, view->host) &&
              text_copy(text->zone, sizeof text->zone, view->zone) &&
              text_copy(text->path_prefix, sizeof text->path_prefix, row->path_prefix) &&
              text_copy(text->health_path, sizeof text->health_path, view->health_path) &&
              text_copy(text->metadata, sizeof text->metadata, view->metadata);
    if (!ok) return; /* instance_check saw to it */
    text_resolve(discovery, id, row->connect_host, row->connect_port, text);
    table_want(discovery->table, &want);
}

static void
want_registered(struct discovery *discovery, uint32_t id, const struct config_service *service)
{
    const struct instances *all = discovery->latest;
    const struct selector *selector = &discovery->selectors[id];
    uint64_t epoch = all->is_v2 ? text_hash(all->epoch) : 0;
    for (size_t i = 0; i < all->count; i++) {
        const struct known_instance *row = &all->rows[i];
        if (selector->kind == SELECTS_NAME && row->service_hash != selector->name) continue;
        want_instance(discovery, id, service->health.enabled, row, epoch);
    }
}

static void
table_rebuild(struct discovery *discovery, enum absent_rule absent)
{
    const struct config *config = discovery->config;
    const struct instances *all = discovery->latest;
    struct table_round round = {absent, all != NULL && all->is_v2 ? text_hash(all->epoch) : 0, on_selects,
        discovery, discovery->is_swapping};
    uint64_t suppressed;
    memset(discovery->selectors, 0, sizeof discovery->selectors);
    table_begin(discovery->table);
    for (size_t i = 0; i < config->service_count; i++) {
        const struct config_service *service = &config->services[i];
        uint32_t id = shm_name_find(discovery->shm, slice_of(service->name));
        if (id >= SHM_NAMES_MAX) {
            if (log_every_due(&discovery->bad_service, LOG_INTERVAL_US, &suppressed)) {
                log_errorx("service has no name in the shared segment", F_STR("service", service->name));
            }
            continue;
        }
        want_static(discovery, id, service);
        if (service->discover == NULL || !config->registry.enabled) continue;
        discovery->selectors[id] = (struct selector){text_hash(slice_of(service->discover)),
            strcmp(service->discover, "*") == 0 ? SELECTS_ALL : SELECTS_NAME};
        if (all != NULL) want_registered(discovery, id, service);
    }
    table_end(discovery->table, &round);
    if (table_counts(discovery->table).suspects == 0) {
        instances_free(discovery->ghosts);
        discovery->ghosts = NULL;
    }
}

/* For a rebuild without a new answer: what is absent stays as the last answer left it. */
static void
on_rebuild(evutil_socket_t fd, short what, void *context)
{
    struct discovery *discovery = context;
    (void)fd;
    (void)what;
    if (discovery->config != NULL) table_rebuild(discovery, ABSENT_KEEP);
}

static void
on_dns_change(void *context)
{
    struct discovery *discovery = context;
    struct timeval soon = {0, 10000};
    sync_dns_changed(discovery->sync);
    if (!evtimer_pending(discovery->rebuild, NULL) && event_add(discovery->rebuild, &soon) == -1) {
        log_warnx("timer failed");
    }
}

/* ---- answers and the snapshot */

/* The old contract knows neither epochs nor lapsed leases: an empty list, or one that lost more than half at
 * a stroke, is likelier a registry that restarted than a fleet that left. */
static enum absent_rule
absent_of_old(struct discovery *discovery, const struct instances *answer)
{
    uint64_t now = clock_now_us();
    size_t before =
        discovery->latest != NULL ? discovery->latest->count : table_counts(discovery->table).registered;
    bool had_epoch = discovery->latest != NULL && discovery->latest->is_v2;
    if (had_epoch || answer->count * 2 < before) discovery->grace_us = now + GRACE_US;
    return answer->count == 0 || now < discovery->grace_us ? ABSENT_SUSPECT : ABSENT_REMOVE;
}

static void
latest_replace(struct discovery *discovery, struct instances *instances)
{
    struct instances *old = discovery->latest;
    discovery->latest = instances;
    bool has_forgotten = old != NULL && old->count > 0 &&
                         (old->is_v2 != instances->is_v2 || !slice_equal(old->epoch, instances->epoch) ||
                             (!instances->is_v2 && instances->count * 2 < old->count));
    if (has_forgotten && discovery->ghosts == NULL) {
        discovery->ghosts = old;
    } else {
        instances_free(old);
    }
}

static void
on_answer(void *context, struct instances *instances)
{
    struct discovery *discovery = context;
    enum absent_rule absent = instances->is_v2 ? ABSENT_EPOCH : absent_of_old(discovery, instances);
    latest_replace(discovery, instances);
    discovery->is_answered = true;
    discovery->is_snapshot = false;
    table_rebuild(discovery, absent);
    if (!discovery->is_dirty) discovery->dirty_us = clock_now_us();
    discovery->is_dirty = true;
}

/* Is this instance of an older answer still an endpoint somewhere? */
static bool
on_keep_ghost(void *context, const struct known_instance *row)
{
    const struct discovery *discovery = context;
    for (size_t i = 0; i < discovery->config->service_count; i++) {
        uint32_t id = shm_name_find(discovery->shm, slice_of(discovery->config->services[i].name));
        if (id < SHM_NAMES_MAX && table_has(discovery->table, id, row->view.id)) return true;
    }
    return false;
}

static void
snapshot_write(struct discovery *discovery, bool at_once)
{
    struct strbuf json = {0};
    discovery->is_dirty = false;
    if (discovery->state_dir == NULL || discovery->latest == NULL) return;
    instances_to_json(discovery->latest, discovery->ghosts, on_keep_ghost, discovery, &json);
    if (at_once) {
        snapshot_save_now(discovery->state_dir, &json);
        strbuf_fini(&json);
    } else {
        snapshot_save(discovery->work, discovery->state_dir, &json, &discovery->is_saving);
    }
}

static void
snapshot_read(struct discovery *discovery)
{
    struct instances *all = snapshot_load(discovery->state_dir);
    if (all == NULL) return;
    log_warnx("registry has not answered, the snapshot serves", F_STR("registry", discovery->target),
        F_UINT("instances", all->count));
    latest_replace(discovery, all);
    discovery->is_snapshot = true;
    table_rebuild(discovery, ABSENT_KEEP);
}

static void
on_tick(evutil_socket_t fd, short what, void *context)
{
    struct discovery *discovery = context;
    uint64_t now = clock_now_us();
    (void)fd;
    (void)what;
    shm_reap(discovery->shm);
    if (discovery->config == NULL) return;
    if (discovery->config->registry.enabled && discovery->latest == NULL && discovery->state_dir != NULL &&
        now - discovery->begun_us >= SNAPSHOT_AFTER_US &&
        now - discovery->begun_us < SNAPSHOT_AFTER_US + TICK_US * 2) {
        snapshot_read(discovery);
    }
    if (discovery->is_dirty && !discovery->is_saving && now - discovery->dirty_us >= SAVE_AFTER_US)
        snapshot_write(discovery, false);
    if (now - discovery->sweep_us >= SWEEP_EVERY_US) {
        discovery->sweep_us = now;
        table_rebuild(discovery, ABSENT_KEEP);
        dns_sweep(discovery->dns);
    }
}

/* ---- public */

struct discovery *
discovery_new(struct event_base *base, struct shm *shm)
{
    struct discovery *discovery = calloc(1, sizeof *discovery);
    struct sync_times times = sync_times_default();
    if (discovery == NULL) return NULL;
    discovery->base = base;
    discovery->shm = shm;
    discovery->begun_us = discovery->sweep_us = clock_now_us();
    discovery->work = work_new(base);
    if (discovery->work != NULL) discovery->dns = dns_new(base, discovery->work, on_dns_change, discovery);
    if (discovery->dns != NULL)
        discovery->sync = sync_new(base, shm, discovery->dns, &times, on_answer, discovery);
    discovery->table = table_new(shm);
    discovery->rebuild = evtimer_new(base, on_rebuild, discovery);
    discovery->tick = event_new(base, -1, EV_PERSIST, on_tick, discovery);
    if (discovery->sync == NULL || discovery->table == NULL || discovery->rebuild == NULL ||
        discovery->tick == NULL || event_add(discovery->tick, &(struct timeval){0, TICK_US}) == -1) {
        discovery_free(discovery);
        return NULL;
    }
    return discovery;
}

/* The registry's address as one text; the embedded one is asked over loopback, whatever it listens on. */
static bool
target_text(const struct config_registry *registry, struct strbuf *out)
{
    const struct config_address *listen = &registry->listen_http;
    if (!registry->embedded) {
        strbuf_add_text(out, registry->url == NULL ? "" : registry->url);
    } else if (listen->is_unix) {
        strbuf_printf(out, "unix:%s", listen->host);
    } else {
        struct slice host = slice_of(listen->host);
        bool is_any = host.len == 0 || slice_equal(host, SLICE_LIT("0.0.0.0"));
        bool is_any6 = slice_equal(host, SLICE_LIT("::"));
        if (is_any) host = SLICE_LIT("127.0.0.1");
        if (is_any6) host = SLICE_LIT("::1");
        bool is_v6 = memchr(host.at, ':', host.len) != NULL;
        strbuf_printf(out, "http://%s%.*s%s:%u", is_v6 ? "[" : "", (int)host.len, host.at, is_v6 ? "]" : "",
            listen->port);
    }
    return !out->failed && out->len > 0;
}

static bool
registry_use(struct discovery *discovery, const struct config_registry *registry)
{
    struct strbuf text = {0};
    bool ok = true;
    if (!registry->enabled) {
        instances_free(discovery->latest);
        discovery->latest = NULL;
        ok = sync_use(discovery->sync, NULL);
    } else {
        struct sync_target target = {
            NULL, registry->embedded ? REGISTRY_HTTP : registry->protocol, registry->poll_interval_us};
        ok = target_text(registry, &text);
        target.url = text.at;
        ok = ok && sync_use(discovery->sync, &target);
    }
    if (ok) {
        free(discovery->target);
        discovery->target = text.at;
    } else {
        strbuf_fini(&text);
    }
    return ok;
}

bool
discovery_use(struct discovery *discovery, const struct config *config)
{
    bool is_first = discovery->config == NULL;
    char *state_dir = config->state_dir == NULL ? NULL : slice_dup(slice_of(config->state_dir));
    if ((config->state_dir != NULL && state_dir == NULL) || !registry_use(discovery, &config->registry)) {
        free(state_dir);
        return false;
    }
    free(discovery->state_dir);
    discovery->state_dir = state_dir;
    discovery->config = config;
    discovery->is_swapping = true;
    if (is_first) discovery->begun_us = clock_now_us();
    table_rebuild(discovery, ABSENT_KEEP);
    return true;
}

void
discovery_commit(struct discovery *discovery)
{
    if (discovery->config == NULL || !discovery->is_swapping) return;
    discovery->is_swapping = false;
    table_rebuild(discovery, ABSENT_KEEP);
}

bool
discovery_is_ready(const struct discovery *discovery)
{
    if (discovery->config == NULL) return false;
    if (!discovery->config->registry.enabled || discovery->is_answered || discovery->is_snapshot) return true;
    return clock_now_us() - discovery->begun_us >= READY_AFTER_US;
}

void
discovery_describe(const struct discovery *discovery, struct strbuf *out)
{
    struct table_counts counts = table_counts(discovery->table);
    strbuf_printf(out, "{\"ready\":%s,\"registry\":", discovery_is_ready(discovery) ? "true" : "false");
    if (discovery->target == NULL) {
        strbuf_add_text(out, "null");
    } else {
        strbuf_add_char(out, '{');
        sync_describe(discovery->sync, out);
        strbuf_printf(out, ",\"from_snapshot\":%s,\"instances\":%zu,\"bad_instances\":%zu}",
            discovery->is_snapshot ? "true" : "false",
            discovery->latest == NULL ? 0 : discovery->latest->count,
            discovery->latest == NULL ? 0 : discovery->latest->bad);
    }
    strbuf_printf(out,
        ",\"static_endpoints\":%u,\"registry_endpoints\":%u,\"suspects\":%u,\"left_out\":%llu}", counts.fixed,
        counts.registered, counts.suspects, (unsigned long long)counts.full);
}

void
discovery_suspect_failed(struct discovery *discovery, uint32_t slot)
{
    table_suspect_failed(discovery->table, slot);
    if (!discovery->is_dirty) discovery->dirty_us = clock_now_us();
    discovery->is_dirty = discovery->is_dirty || discovery->is_answered;
}

void
discovery_free(struct discovery *discovery)
{
    if (discovery == NULL) return;
    if (discovery->is_dirty && discovery->is_answered) snapshot_write(discovery, true);
    if (discovery->tick != NULL) event_free(discovery->tick);
    if (discovery->rebuild != NULL) event_free(discovery->rebuild);
    sync_free(discovery->sync);
    dns_free(discovery->dns);
    work_free(discovery->work);
    table_free(discovery->table);
    instances_free(discovery->latest);
    instances_free(discovery->ghosts);
    free(discovery->state_dir);
    free(discovery->target);
    free(discovery);
}
