#include "core/discovery/instance.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#include <jansson.h>

#include "core/base/text.h"
#include "core/shm/shm.h"
#include "proto/service_registry.pb-c.h"
#include "proto/service_registry_v2.pb-c.h"

enum { WEIGHT_MAX = 65535, HTTP_PORT = 80 };
/* jansson refuses a whole document for one byte that is not UTF-8; such bytes become this noncharacter, which
 * no instance may hold, so that only the instance around them is lost. */
#define NOT_UTF8 "\xef\xbf\xbf"

/* ---- checks */

static bool
text_is_clean(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c < 0x20 || c == 0x7f) return false;
    }
    return text_is_utf8(s) && memmem(s.at == NULL ? "" : s.at, s.len, NOT_UTF8, 3) == NULL;
}

/* What may be written into a request line as it is: visible ASCII that RFC 3986 knows in a path or a query.
 */
static bool
path_is_valid(struct slice s, bool with_query)
{
    if (s.len > 0 && s.at[0] != '/') return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c <= 0x20 || c >= 0x7f || strchr("\"#<>\\^`{|}", c) != NULL) return false;
        if (c == '?' && !with_query) return false;
    }
    return true;
}

static bool
host_is_valid(struct slice host)
{
    char text[SLOT_HOST_BYTES];
    struct in6_addr address;
    if (host.len == 0 || !text_copy(text, sizeof text, host)) return false;
    if (memchr(host.at, ':', host.len) != NULL) return inet_pton(AF_INET6, text, &address) == 1;
    for (size_t i = 0; i < host.len; i++) {
        unsigned char c = ascii_lower((unsigned char)host.at[i]);
        bool is_word = (unsigned char)(c - 'a') < 26 || (unsigned char)(c - '0') < 10;
        if (!is_word && c != '-' && c != '.' && c != '_') return false;
    }
    return true;
}

static struct slice
unbracketed(struct slice host)
{
    if (host.len > 2 && host.at[0] == '[' && host.at[host.len - 1] == ']') {
        return (struct slice){host.at + 1, host.len - 2};
    }
    return host;
}

/* NULL where `url` is http://HOST[:PORT][/PATH] and nothing else. */
static const char *
url_read(struct slice url, struct known_instance *row)
{
    uint64_t port = HTTP_PORT;
    struct slice scheme = SLICE_LIT("http://"), tls = SLICE_LIT("https://");
    if (url.len >= tls.len && slice_equal_nocase((struct slice){url.at, tls.len}, tls)) {
        return "url is https: endpoints are reached without TLS";
    }
    if (url.len < scheme.len || !slice_equal_nocase((struct slice){url.at, scheme.len}, scheme)) {
        return "url does not begin with http://";
    }
    struct slice rest = {url.at + scheme.len, url.len - scheme.len}, host;
    const char *slash = memchr(rest.at, '/', rest.len);
    struct slice authority = {rest.at, slash == NULL ? rest.len : (size_t)(slash - rest.at)};
    struct slice path = {rest.at + authority.len, rest.len - authority.len};
    const char *close =
        authority.len > 0 && authority.at[0] == '[' ? memchr(authority.at, ']', authority.len) : NULL;
    const char *from = close == NULL ? authority.at : close;
    const char *colon = memchr(from, ':', authority.len - (size_t)(from - authority.at));
    host = (struct slice){authority.at, colon == NULL ? authority.len : (size_t)(colon - authority.at)};
    if (colon != NULL) {
        struct slice digits = {colon + 1, authority.len - host.len - 1};
        if (!text_parse_u64(digits, 65535, &port) || port == 0) return "url has no valid port";
    }
    row->connect_host = unbracketed(host);
    if (!host_is_valid(row->connect_host)) return "url has no valid host";
    while (path.len > 0 && path.at[path.len - 1] == '/')
        path.len--;
    if (!path_is_valid(path, false)) return "url holds more than a host, a port and a path";
    if (path.len >= SLOT_PATH_BYTES) return "url is too long";
    row->path_prefix = path;
    row->connect_port = (uint32_t)port;
    return NULL;
}

/* The old gateway went to the instance's url, whatever host and port said, so the url decides here too. */
static const char *
place_read(struct known_instance *row)
{
    struct instance *view = &row->view;
    view->host = unbracketed(view->host);
    if (view->host.len > 0 && !host_is_valid(view->host)) return "host is not a name or an address";
    if (view->url.len > 0) {
        const char *why = url_read(view->url, row);
        if (why != NULL) return why;
        if (view->host.len == 0) view->host = row->connect_host;
        if (view->port == 0) view->port = row->connect_port;
        return NULL;
    }
    if (view->host.len == 0) return "neither url nor host is given";
    if (view->port == 0) return "port is missing";
    row->connect_host = view->host;
    row->connect_port = view->port;
    row->path_prefix = (struct slice){"", 0};
    return NULL;
}

/* One form for every way in: compact, keys sorted, "" for an empty object. */
static const char *
metadata_normalise(struct arena *arena, const json_t *object, struct slice *out)
{
    *out = (struct slice){"", 0};
    if (!json_is_object(object)) return "metadata is not a JSON object";
    if (json_object_size(object) == 0) return NULL;
    char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    char *copy = text == NULL ? NULL : arena_strdup(arena, slice_of(text));
    free(text);
    *out = slice_of(copy);
    return copy == NULL ? "out of memory" : NULL;
}

static const char *
metadata_check(struct arena *arena, struct slice *metadata)
{
    json_error_t error;
    if (metadata->len == 0) return NULL;
    json_t *root = json_loadb(metadata->at, metadata->len, 0, &error);
    const char *why = metadata_normalise(arena, root, metadata);
    json_decref(root);
    if (why != NULL) return why;
    return text_is_clean(*metadata) ? NULL : "metadata is not clean UTF-8";
}

/* Any character that has a percent-encoded form may stand in an id: all of Unicode but NUL. */
static bool
is_name(struct slice s)
{
    return text_is_utf8(s) && memchr(s.at, '\0', s.len) == NULL && memmem(s.at, s.len, NOT_UTF8, 3) == NULL;
}

static const char *
instance_check(struct instances *all, struct known_instance *row)
{
    struct instance *view = &row->view;
    if (view->id.len == 0) return "id is missing";
    if (view->id.len >= SLOT_ID_BYTES) return "id is too long";
    if (!is_name(view->id)) return "id is not UTF-8";
    if (view->service.len == 0) return "serviceName is missing";
    if (view->service.len >= SHM_NAME_BYTES) return "serviceName is too long";
    if (!is_name(view->service)) return "serviceName is not UTF-8";
    if (view->zone.len >= SLOT_ZONE_BYTES) return "zone is too long";
    if (!text_is_clean(view->zone) || !text_is_clean(view->version))
        return "zone or version is not clean UTF-8";
    const char *why = metadata_check(&all->arena, &view->metadata);
    if (why != NULL) return why;
    if (view->metadata.len >= SLOT_META_BYTES) return "metadata is too long";
    if (view->weight > WEIGHT_MAX) return "weight is out of range";
    if (view->health_path.len > 0 && view->health_path.at[0] != '/') {
        char *path = arena_printf(&all->arena, "/%.*s", (int)view->health_path.len, view->health_path.at);
        if (path == NULL) return "out of memory";
        view->health_path = slice_of(path);
    }
    if (view->health_path.len >= SLOT_PATH_BYTES) return "healthPath is too long";
    if (!path_is_valid(view->health_path, true)) return "healthPath is not a path";
    return place_read(row);
}

/* ---- the list */

/* Ids seen so far, open addressing over row numbers + 1; half full at most. */
struct id_set {
    uint32_t *cells;
    size_t mask;
};

static bool
id_set_init(struct id_set *set, size_t count)
{
    size_t cells = 16;
    while (cells < count * 2)
        cells *= 2;
    set->cells = calloc(cells, sizeof *set->cells);
    set->mask = cells - 1;
    return set->cells != NULL;
}

/* The cell of `id`: the row it holds, or an empty one. */
static uint32_t *
id_set_cell(const struct id_set *set, const struct instances *all, struct slice id)
{
    size_t at = text_hash(id) & set->mask;
    while (set->cells[at] != 0 && !slice_equal(all->rows[set->cells[at] - 1].view.id, id))
        at = (at + 1) & set->mask;
    return &set->cells[at];
}

static struct instances *
instances_new(size_t rows)
{
    struct instances *all = calloc(1, sizeof *all);
    if (all == NULL) return NULL;
    arena_init(&all->arena, 64 << 10);
    all->cap = rows;
    all->epoch = (struct slice){"", 0};
    all->rows = arena_alloc(&all->arena, (rows + 1) * sizeof *all->rows);
    if (all->rows == NULL) {
        instances_free(all);
        return NULL;
    }
    return all;
}

static void
instances_refuse(struct instances *all, struct slice id, const char *why)
{
    if (all->bad++ > 0) return;
    all->bad_why = why;
    all->bad_id = id;
}

/* `row`'s slices live in the arena already. */
static void
instances_add(struct instances *all, struct id_set *ids, struct known_instance *row)
{
    const char *why = instance_check(all, row);
    uint32_t *cell = why == NULL ? id_set_cell(ids, all, row->view.id) : NULL;
    if (cell != NULL && *cell != 0) why = "id stands there twice";
    if (why != NULL || all->count == all->cap) {
        instances_refuse(all, row->view.id, why);
        return;
    }
    row->service_hash = text_hash(row->view.service);
    all->rows[all->count] = *row;
    *cell = (uint32_t)++all->count;
}

static bool
keep_text(struct instances *all, const char *text, size_t len, struct slice *out)
{
    char *copy = arena_strdup(&all->arena, (struct slice){text, len});
    *out = copy == NULL ? SLICE_NONE : (struct slice){copy, len};
    return copy != NULL;
}

/* ---- JSON */

/* NULL where the field is a string, null or absent; the latter two give "". */
static const char *
json_text(struct instances *all, const json_t *object, const char *key, struct slice *out)
{
    const json_t *value = json_object_get(object, key);
    *out = (struct slice){"", 0};
    if (value == NULL || json_is_null(value)) return NULL;
    if (!json_is_string(value)) return "a text field is not a string";
    if (!keep_text(all, json_string_value(value), json_string_length(value), out)) return "out of memory";
    return NULL;
}

static const char *
json_number(const json_t *object, const char *key, uint32_t max, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return NULL; /* *out stays its default */
    if (!json_is_integer(value)) return "a number field is not an integer";
    json_int_t number = json_integer_value(value);
    if (number < 0 || number > (json_int_t)max) return "port or weight is out of range";
    *out = (uint32_t)number;
    return NULL;
}

static const char *
json_flag(const json_t *object, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = json_is_true(value);
    return value == NULL || json_is_null(value) || json_is_boolean(value) ? NULL : "a flag is not a boolean";
}

static const char *
json_metadata(struct instances *all, const json_t *object, struct slice *out)
{
    const json_t *value = json_object_get(object, "metadata");
    if (!json_is_object(value)) return json_text(all, object, "metadata", out);
    return metadata_normalise(&all->arena, value, out);
}

static const char *
json_instance(struct instances *all, const json_t *object, struct known_instance *row)
{
    struct instance *view = &row->view;
    const struct {
        const char *key;
        struct slice *field;
    } texts[] = {{"id", &view->id}, {"serviceName", &view->service}, {"host", &view->host},
        {"url", &view->url}, {"healthPath", &view->health_path}, {"zone", &view->zone},
        {"version", &view->version}};
    const char *why = json_is_object(object) ? NULL : "an instance is not an object";
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && why == NULL; i++)
        why = json_text(all, object, texts[i].key, texts[i].field);
    if (why == NULL) why = json_number(object, "port", 65535, &view->port);
    if (why == NULL) why = json_number(object, "weight", WEIGHT_MAX, &view->weight);
    if (why == NULL) why = json_flag(object, "lapsed", &view->lapsed);
    if (why == NULL) why = json_flag(object, "maintenance", &view->maintenance);
    if (why == NULL) why = json_flag(object, "draining", &view->draining);
    if (why == NULL) why = json_metadata(all, object, &view->metadata);
    return why;
}

static struct instances *
json_rows(const json_t *array, const char **why)
{
    struct id_set ids = {0};
    size_t count = json_array_size(array);
    struct instances *all = instances_new(count);
    *why = "out of memory";
    if (all == NULL || !id_set_init(&ids, count)) {
        instances_free(all);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        struct known_instance row = {.view.weight = 1}; /* where it is not given */
        const char *wrong = json_instance(all, json_array_get(array, i), &row);
        if (wrong != NULL) {
            instances_refuse(all, row.view.id, wrong);
        } else {
            instances_add(all, &ids, &row);
        }
    }
    free(ids.cells);
    return all;
}

static bool
json_head(struct instances *all, const json_t *root, const char **why)
{
    const json_t *index = json_object_get(root, "index");
    const char *wrong = json_text(all, root, "epoch", &all->epoch);
    if (wrong != NULL || !json_is_integer(index) || json_integer_value(index) < 0) {
        *why = wrong != NULL ? "epoch is not a string" : "index is not a number";
        return false;
    }
    all->is_v2 = true;
    all->index = (uint64_t)json_integer_value(index);
    return true;
}

static json_t *
json_load(struct slice json, const char **why)
{
    static _Thread_local char message[JSON_ERROR_TEXT_LENGTH + 32];
    struct strbuf clean = {0};
    json_error_t error;
    if (!text_is_utf8(json)) {
        for (size_t i = 0; i < json.len;) {
            size_t n = text_utf8_length((struct slice){json.at + i, json.len - i});
            strbuf_add(&clean, n == 0 ? NOT_UTF8 : json.at + i, n == 0 ? 3 : n);
            i += n == 0 ? 1 : n;
        }
        json = strbuf_slice(&clean);
    }
    json_t *root =
        clean.failed ? NULL : json_loadb(json.at == NULL ? "" : json.at, json.len, JSON_ALLOW_NUL, &error);
    if (root == NULL) {
        snprintf(message, sizeof message, "not JSON: %s", clean.failed ? "out of memory" : error.text);
        *why = message;
    }
    strbuf_fini(&clean);
    return root;
}

struct instances *
instances_from_json(struct slice json, const char **why)
{
    struct instances *all = NULL;
    json_t *root = json_load(json, why);
    if (root == NULL) return NULL;
    const json_t *rows = json_is_object(root) ? json_object_get(root, "instances") : root;
    if (!json_is_array(rows)) {
        *why = "the answer holds no list of instances";
    } else {
        all = json_rows(rows, why);
        if (all != NULL && json_is_object(root) && !json_head(all, root, why)) {
            instances_free(all);
            all = NULL;
        }
    }
    json_decref(root);
    return all;
}

/* ---- protobuf */

/* protobuf-c ends strings with NUL wherever they stop; one inside cuts the text, which the checks then see.
 */
static bool
keep_string(struct instances *all, const char *text, struct slice *out)
{
    return keep_text(all, text, strlen(text), out);
}

static void
healthy_add(struct instances *all, struct id_set *ids, const Serviceregistry__GrpcServiceInstance *from)
{
    struct known_instance row = {.view.weight = 1};
    struct instance *view = &row.view;
    view->zone = view->version = view->metadata = (struct slice){"", 0};
    bool kept = keep_string(all, from->id, &view->id) &&
                keep_string(all, from->servicename, &view->service) &&
                keep_string(all, from->host, &view->host) && keep_string(all, from->url, &view->url) &&
                keep_string(all, from->healthpath, &view->health_path);
    if (!kept || from->port < 0 || from->port > 65535) {
        instances_refuse(all, view->id, kept ? "port or weight is out of range" : "out of memory");
        return;
    }
    view->port = (uint32_t)from->port;
    instances_add(all, ids, &row);
}

static void
snapshot_add(struct instances *all, struct id_set *ids, const Serviceregistry__V2__Instance *from)
{
    struct known_instance row = {0};
    struct instance *view = &row.view;
    bool kept =
        keep_string(all, from->id, &view->id) && keep_string(all, from->service_name, &view->service) &&
        keep_string(all, from->host, &view->host) && keep_string(all, from->url, &view->url) &&
        keep_string(all, from->health_path, &view->health_path) &&
        keep_string(all, from->zone, &view->zone) && keep_string(all, from->version, &view->version) &&
        keep_string(all, from->metadata, &view->metadata);
    if (!kept || from->port < 0 || from->port > 65535) {
        instances_refuse(all, view->id, kept ? "port or weight is out of range" : "out of memory");
        return;
    }
    view->port = (uint32_t)from->port;
    bool weighs = from->weight_given_case == SERVICEREGISTRY__V2__INSTANCE__WEIGHT_GIVEN_WEIGHT;
    view->weight = weighs ? from->weight : 1; /* proto/service_registry_v2.proto */
    view->lapsed = from->lapsed;
    view->maintenance = from->maintenance;
    view->draining = from->draining;
    instances_add(all, ids, &row);
}

struct instances *
instances_from_snapshot(struct slice message, const char **why)
{
    struct id_set ids = {0};
    Serviceregistry__V2__Snapshot *from =
        serviceregistry__v2__snapshot__unpack(NULL, message.len, (const uint8_t *)message.at);
    if (from == NULL) {
        *why = "the message is not a Snapshot";
        return NULL;
    }
    struct instances *all = instances_new(from->n_instances);
    if (all == NULL || !id_set_init(&ids, from->n_instances) || !keep_string(all, from->epoch, &all->epoch)) {
        *why = "out of memory";
        instances_free(all);
        all = NULL;
    } else {
        all->is_v2 = true;
        all->index = from->index;
        for (size_t i = 0; i < from->n_instances; i++)
            snapshot_add(all, &ids, from->instances[i]);
    }
    free(ids.cells);
    serviceregistry__v2__snapshot__free_unpacked(from, NULL);
    return all;
}

struct instances *
instances_from_healthy(struct slice message, const char **why)
{
    struct id_set ids = {0};
    Serviceregistry__GetHealthyServicesResponse *from =
        serviceregistry__get_healthy_services_response__unpack(
            NULL, message.len, (const uint8_t *)message.at);
    if (from == NULL) {
        *why = "the message is not a GetHealthyServicesResponse";
        return NULL;
    }
    struct instances *all = instances_new(from->n_services);
    if (all == NULL || !id_set_init(&ids, from->n_services)) {
        *why = "out of memory";
        instances_free(all);
        all = NULL;
    } else {
        for (size_t i = 0; i < from->n_services; i++)
            healthy_add(all, &ids, from->services[i]);
    }
    free(ids.cells);
    serviceregistry__get_healthy_services_response__free_unpacked(from, NULL);
    return all;
}

/* ---- writing */

static void
row_write(const struct known_instance *row, bool first, struct strbuf *out)
{
    const struct instance *view = &row->view;
    const struct {
        const char *key;
        struct slice value;
    } texts[] = {{"id", view->id}, {"serviceName", view->service}, {"host", view->host}, {"url", view->url},
        {"healthPath", view->health_path}, {"zone", view->zone}, {"version", view->version}};
    strbuf_add_text(out, first ? "\n{" : ",\n{");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        strbuf_printf(out, "\"%s\":", texts[i].key);
        strbuf_add_json(out, texts[i].value);
        strbuf_add_char(out, ',');
    }
    if (view->metadata.len > 0) {
        strbuf_add_text(out, "\"metadata\":");
        strbuf_add_slice(out, view->metadata);
        strbuf_add_char(out, ',');
    }
    strbuf_printf(out, "\"port\":%u,\"weight\":%u,\"lapsed\":%s,\"maintenance\":%s,\"draining\":%s}",
        view->port, view->weight, view->lapsed ? "true" : "false", view->maintenance ? "true" : "false",
        view->draining ? "true" : "false");
}

void
instances_to_json(const struct instances *instances, const struct instances *also,
    bool (*keep)(void *context, const struct known_instance *row), void *context, struct strbuf *out)
{
    struct id_set ids = {0};
    bool first = true;
    strbuf_printf(out, "{\"index\":%llu,\"epoch\":", (unsigned long long)instances->index);
    strbuf_add_json(out, instances->epoch);
    strbuf_add_text(out, ",\"instances\":[");
    for (size_t i = 0; i < instances->count; i++, first = false)
        row_write(&instances->rows[i], first, out);
    if (also != NULL && id_set_init(&ids, instances->count)) {
        for (size_t i = 0; i < instances->count; i++)
            *id_set_cell(&ids, instances, instances->rows[i].view.id) = (uint32_t)i + 1;
        for (size_t i = 0; i < also->count; i++) {
            const struct known_instance *row = &also->rows[i];
            if (*id_set_cell(&ids, instances, row->view.id) != 0 || !keep(context, row)) continue;
            row_write(row, first, out);
            first = false;
        }
    }
    free(ids.cells);
    strbuf_add_text(out, "\n]}\n");
}

void
instances_free(struct instances *instances)
{
    if (instances == NULL) return;
    arena_fini(&instances->arena);
    free(instances);
}
