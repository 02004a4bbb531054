#include <stdlib.h>

#include "core/base/text.h"
#include "core/http/uri.h"
#include "core/proxy/proxy_internal.h"

/* One route as it is asked: slices with their lengths, header names by number. */
struct pair {
    struct slice name, value; /* value.at NULL: any */
    enum header_id id;
};

struct row {
    const struct config_route *route;
    struct slice host; /* of a wildcard: with its dot, ".example.com" */
    struct slice prefix, path;
    uint32_t methods; /* bit per enum method; 0: any, or `others` */
    uint32_t method_count;
    struct pair *headers, *query, *cookies;
};

/* Routes of one host, as indexes in the file's order. */
struct bucket {
    struct slice host;
    uint32_t *rows;
    uint32_t count;
};

struct route_table {
    struct arena arena;
    const struct config *config;
    struct row *rows;
    struct bucket *buckets; /* by exact host, open addressing */
    uint32_t bucket_mask;
    uint32_t *loose; /* wildcard and host-less routes */
    uint32_t loose_count;
    uint32_t *route_ids, *service_ids, *strategy_ids;
    struct config_route *inner; /* by service: what a fetch's requests to it take */
    struct config_target *inner_targets;
    uint32_t inner_id;
};

bool
route_prefix_matches(struct slice path, struct slice prefix)
{
    if (!slice_starts_with(path, prefix)) return false;
    return path.len == prefix.len || (prefix.len > 0 && prefix.at[prefix.len - 1] == '/') ||
           path.at[prefix.len] == '/' || prefix.len == 0;
}

bool
route_host_matches(struct slice pattern, struct slice host)
{
    if (pattern.len >= 2 && pattern.at[0] == '*') {
        struct slice tail = {pattern.at + 1, pattern.len - 1};
        return host.len > tail.len && memcmp(host.at + host.len - tail.len, tail.at, tail.len) == 0;
    }
    return slice_equal(pattern, host);
}

/* building */

static struct pair *
pairs_new(struct arena *arena, const struct config_pair *from, size_t count)
{
    struct pair *pairs = arena_calloc(arena, (count + 1) * sizeof *pairs);
    for (size_t i = 0; pairs != NULL && i < count; i++) {
        pairs[i].name = slice_of(from[i].name);
        pairs[i].value = slice_of(from[i].value);
        pairs[i].id = header_identify(pairs[i].name);
    }
    return pairs;
}

static bool
row_init(struct row *row, struct arena *arena, const struct config_route *route)
{
    const struct config_match *match = &route->match;
    row->route = route;
    row->host = slice_of(match->host);
    row->prefix = slice_of(match->path_prefix);
    row->path = slice_of(match->path);
    for (size_t i = 0; match->methods != NULL && match->methods[i] != NULL; i++) {
        row->method_count++;
        for (int method = METHOD_OTHER + 1; method < METHOD_COUNT; method++) {
            if (strcmp(method_name((enum method)method), match->methods[i]) == 0)
                row->methods |= 1u << method;
        }
    }
    row->headers = pairs_new(arena, match->headers, match->header_count);
    row->query = pairs_new(arena, match->query, match->query_count);
    row->cookies = pairs_new(arena, match->cookies, match->cookie_count);
    return row->headers != NULL && row->query != NULL && row->cookies != NULL;
}

static bool
is_loose(const struct row *row)
{
    return row->host.len == 0 || row->host.at[0] == '*';
}

static struct bucket *
bucket_find(const struct route_table *table, struct slice host)
{
    for (uint32_t i = (uint32_t)text_hash(host) & table->bucket_mask;; i = (i + 1) & table->bucket_mask) {
        struct bucket *bucket = &table->buckets[i];
        if (bucket->host.at == NULL || slice_equal(bucket->host, host)) return bucket;
    }
}

static bool
index_build(struct route_table *table, uint32_t count)
{
    uint32_t size = 4;
    while (size < count * 2)
        size *= 2;
    table->bucket_mask = size - 1;
    table->buckets = arena_calloc(&table->arena, size * sizeof *table->buckets);
    table->loose = arena_alloc(&table->arena, (count + 1) * sizeof *table->loose);
    if (table->buckets == NULL || table->loose == NULL) return false;
    for (uint32_t i = 0; i < count; i++) {
        if (is_loose(&table->rows[i])) {
            table->loose[table->loose_count++] = i;
            continue;
        }
        struct bucket *bucket = bucket_find(table, table->rows[i].host);
        bucket->host = table->rows[i].host;
        bucket->count++;
    }
    for (uint32_t i = 0; i < size; i++) {
        struct bucket *bucket = &table->buckets[i];
        if (bucket->count == 0) continue;
        bucket->rows = arena_alloc(&table->arena, bucket->count * sizeof *bucket->rows);
        if (bucket->rows == NULL) return false;
        bucket->count = 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (is_loose(&table->rows[i])) continue;
        struct bucket *bucket = bucket_find(table, table->rows[i].host);
        bucket->rows[bucket->count++] = i;
    }
    return true;
}

static bool
names_find(struct route_table *table, struct shm *shm, const struct script *script)
{
    const struct config *config = table->config;
    table->route_ids = arena_alloc(&table->arena, (config->route_count + 1) * sizeof(uint32_t));
    table->service_ids = arena_alloc(&table->arena, (config->service_count + 1) * sizeof(uint32_t));
    table->strategy_ids = arena_alloc(&table->arena, (config->service_count + 1) * sizeof(uint32_t));
    if (table->route_ids == NULL || table->service_ids == NULL || table->strategy_ids == NULL) return false;
    for (size_t i = 0; i < config->route_count; i++)
        table->route_ids[i] = shm_name_find(shm, slice_of(config->routes[i].name));
    for (uint32_t i = 0; i < config->service_count; i++) {
        table->service_ids[i] = shm_name_find(shm, slice_of(config->services[i].name));
        table->strategy_ids[i] = shm_name_find(shm, slice_of(script_strategy_name(script, i)));
    }
    return true;
}

static bool
inner_build(struct route_table *table, struct shm *shm)
{
    const struct config *config = table->config;
    table->inner = arena_calloc(&table->arena, (config->service_count + 1) * sizeof *table->inner);
    table->inner_targets =
        arena_alloc(&table->arena, (config->service_count + 1) * sizeof *table->inner_targets);
    table->inner_id = shm_name_find(shm, SLICE_LIT(PROXY_FETCH_ROUTE));
    if (table->inner == NULL || table->inner_targets == NULL) return false;
    for (uint32_t i = 0; i < config->service_count; i++) {
        const struct config_service *service = &config->services[i];
        table->inner_targets[i] = (struct config_target){.service = i, .weight = 1};
        table->inner[i] = (struct config_route){
            .name = PROXY_FETCH_ROUTE,
            .targets = &table->inner_targets[i],
            .target_count = 1,
            .weight_total = 1,
            .slashes_keep = true, /* the script wrote them */
            .timeouts = service->timeouts,
            .queue = service->queue,
            .retry = service->retry,
        };
    }
    return true;
}

struct route_table *
route_table_new(struct shm *shm, const struct config *config, const struct script *script)
{
    struct route_table *table = calloc(1, sizeof *table);
    if (table == NULL) return NULL;
    table->config = config;
    table->rows = arena_calloc(&table->arena, (config->route_count + 1) * sizeof *table->rows);
    if (table->rows == NULL) goto fail;
    for (size_t i = 0; i < config->route_count; i++) {
        if (!row_init(&table->rows[i], &table->arena, &config->routes[i])) goto fail;
    }
    if (!index_build(table, (uint32_t)config->route_count) || !names_find(table, shm, script) ||
        !inner_build(table, shm))
        goto fail;
    return table;
fail:
    route_table_free(table);
    return NULL;
}

void
route_table_free(struct route_table *table)
{
    if (table == NULL) return;
    arena_fini(&table->arena);
    free(table);
}

/* asking */

static bool
method_matches(const struct row *row, const struct route_request *request)
{
    if (row->method_count == 0 || (row->methods >> request->method & 1u && request->method != METHOD_OTHER))
        return true;
    if (request->method != METHOD_OTHER) return false;
    for (const char *const *name = row->route->match.methods; *name != NULL; name++) {
        if (slice_equal(slice_of(*name), request->method_text)) return true;
    }
    return false;
}

static bool
header_matches(const struct pair *pair, const struct headers *headers)
{
    const struct header *row =
        pair->id != HEADER_OTHER ? headers_find(headers, pair->id) : headers_find_name(headers, pair->name);
    for (; row != NULL; row = headers_next(headers, row)) {
        if (pair->value.at == NULL || slice_equal(row->value, pair->value)) return true;
    }
    return false;
}

static bool
pairs_match(const struct row *row, const struct route_request *request)
{
    struct slice value;
    const struct config_match *match = &row->route->match;
    for (size_t i = 0; i < match->header_count; i++) {
        if (!header_matches(&row->headers[i], request->headers)) return false;
    }
    for (size_t i = 0; i < match->query_count; i++) {
        const struct pair *pair = &row->query[i];
        if (!uri_query_find(request->query, pair->name, &value)) return false;
        if (pair->value.at != NULL && !slice_equal(value, pair->value)) return false;
    }
    for (size_t i = 0; i < match->cookie_count; i++) {
        const struct pair *pair = &row->cookies[i];
        if (!headers_cookie(request->headers, pair->name, &value)) return false;
        if (pair->value.at != NULL && !slice_equal(value, pair->value)) return false;
    }
    return true;
}

static bool
row_matches(const struct row *row, const struct route_request *request)
{
    if (row->host.len > 0 && !route_host_matches(row->host, request->host)) return false;
    if (row->path.len > 0 && !slice_equal(row->path, request->path)) return false;
    if (row->prefix.len > 0 && !route_prefix_matches(request->path, row->prefix)) return false;
    return method_matches(row, request) && pairs_match(row, request);
}

const struct config_route *
route_find(const struct route_table *table, const struct route_request *request)
{
    const struct bucket *bucket = bucket_find(table, request->host);
    uint32_t exact = 0, loose = 0;
    while (exact < bucket->count ||
           loose < table->loose_count) { /* two sorted lists as one: the file's order holds */
        bool from_exact = loose == table->loose_count ||
                          (exact < bucket->count && bucket->rows[exact] < table->loose[loose]);
        const struct row *row = &table->rows[from_exact ? bucket->rows[exact++] : table->loose[loose++]];
        if (row_matches(row, request)) return row->route;
    }
    return NULL;
}

uint32_t
route_name_id(const struct route_table *table, const struct config_route *route)
{
    return table->route_ids[route - table->config->routes];
}

uint32_t
route_service_id(const struct route_table *table, uint32_t service)
{
    return table->service_ids[service];
}

uint32_t
route_strategy_id(const struct route_table *table, uint32_t service)
{
    return table->strategy_ids[service];
}

bool
route_find_service(const struct route_table *table, struct slice name, uint32_t *service)
{
    for (uint32_t i = 0; i < table->config->service_count; i++) {
        if (!slice_equal(slice_of(table->config->services[i].name), name)) continue;
        *service = i;
        return true;
    }
    return false;
}

const struct config_route *
route_inner(const struct route_table *table, uint32_t service_id)
{
    for (uint32_t i = 0; i < table->config->service_count; i++) {
        if (table->service_ids[i] == service_id) return &table->inner[i];
    }
    return NULL;
}

uint32_t
route_inner_id(const struct route_table *table)
{
    return table->inner_id;
}
