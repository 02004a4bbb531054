/* bench/pick.sh: what one pick() costs, C call to C return, for each shipped strategy over growing fleets.
 * The state is a worker's own, without sockets around it. Figures are the best of some batches: noise only
 * ever adds. Behind them the garbage of one, in bytes of Lua memory: what a state grew by in the batch that
 * grew least, since the collector may shrink it and a table that fills may double.
 *
 *     pick [STRATEGY...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/script/script.h"

enum { BATCHES = 7, BATCH_US = 20000, WARM_UP_US = 150000, LARGEST = 10000, GARBAGE_PICKS = 2000 };

static const unsigned fleets[] = {3, 10, 100, LARGEST};

static const struct row {
    const char *strategy, *options;
} rows[] = {
    {"round_robin", "{}"},
    {"least_connections", "{}"},
    {"weighted_random", "{}"},
    {"power_of_two", "{}"},
    {"peak_ewma", "{}"},
    {"consistent_hash", "{\"key\":\"path\"}"},
    {"maglev", "{\"key\":\"path\"}"},
    {"zone_aware", "{\"zone\":\"zone-1\"}"},
    {"priority_failover", "{\"priorities\":{\"backend-00000\":1}}"},
    {"fill_first", "{\"limit\":100}"},
    {"sticky_sessions", "{\"secrets\":[\"a secret of the benchmark\"]}"},
};

struct bed { /* everything a script borrows */
    struct shm *shm;
    struct config config;
    struct config_service service;
    struct diags diags;
    struct arena arena;
    struct headers headers;
    struct script_request request;
    struct script *script;
    const char *strategies_path[2]; /* ends with NULL */
    char file[512], folder[512];
    char cookie[256];
};

static void
fail(const char *what)
{
    fprintf(stderr, "pick: %s\n", what);
    exit(1);
}

static void
bed_fill(struct bed *bed, unsigned endpoints)
{
    uint32_t service = shm_name_add(bed->shm, slice_of("web"));
    if (service == UINT32_MAX) fail("no room for a service's name");
    for (unsigned i = 0; i < endpoints; i++) {
        struct slot_text text = {0};
        snprintf(text.id, sizeof text.id, "backend-%05u", i);
        snprintf(text.host, sizeof text.host, "10.0.%u.%u", i / 250, i % 250);
        snprintf(text.zone, sizeof text.zone, "zone-%u", i % 3);
        uint32_t slot = slot_claim(bed->shm, service, SLOT_HEALTHY, 1 + i % 3, 8000, &text);
        if (slot == SLOT_NONE) fail("no slot left");
        slot_observe(bed->shm, slot, 1000 + i % 100 * 10, false, clock_now_us());
    }
}

/* False: the strategy refuses these options; why goes to standard error. */
static bool
bed_init(struct bed *bed, const struct row *row, unsigned endpoints)
{
    memset(bed, 0, sizeof *bed);
    bed->shm = shm_create(
        &(struct shm_params){.max_endpoints = LARGEST + 64, .stats_bytes = 4096, .ring_bytes = 65536});
    struct bundle *bundle = bundle_open();
    if (bed->shm == NULL || bundle == NULL) fail("no memory");
    bed_fill(bed, endpoints);
    arena_init(&bed->config.arena, 0);
    arena_init(&bed->arena, 0);
    snprintf(bed->file, sizeof bed->file, "%s/strategies/%s.lua", bundle_share_dir(), row->strategy);
    bed->service.name = "web";
    bed->service.strategy = (struct config_plugin){
        row->strategy, bed->file, {"services.web.options", row->options}, {"bench.yaml", 1, 1}};
    snprintf(bed->folder, sizeof bed->folder, "%s/strategies", bundle_share_dir());
    bed->strategies_path[0] = bed->folder;
    bed->config.strategies_path = bed->strategies_path;
    bed->config.file = "bench.yaml";
    bed->config.services = &bed->service;
    bed->config.service_count = 1;
    struct script_env env = {
        .role = SCRIPT_WORKER, .config = &bed->config, .bundle = bundle, .shm = bed->shm};
    bed->script = script_new(&env, NULL, &bed->diags);
    if (bed->script != NULL && diags_ok(&bed->diags)) return true;
    diags_print(&bed->diags, stderr);
    return false;
}

static void
pick_times(struct bed *bed, int times)
{
    for (int i = 0; i < times; i++) {
        uint32_t slot;
        enum reason reason;
        if (script_pick(bed->script, &bed->request, &slot, &reason) != SCRIPT_PICKED)
            fail("a strategy picked none of healthy endpoints");
    }
}

/* Picks for `us`; nanoseconds of one. A pick that answers nothing is no figure. */
static double
pick_for(struct bed *bed, uint64_t us)
{
    uint64_t start = clock_now_us(), picks = 0, spent;
    do {
        pick_times(bed, 64);
        picks += 64;
        spent = clock_now_us() - start;
    } while (spent < us);
    return (double)spent * 1000 / (double)picks;
}

/* Bytes of Lua memory that one pick left behind. */
static double
garbage(struct bed *bed)
{
    double least = -1;
    for (int i = 0; i < BATCHES; i++) {
        size_t before = script_memory_bytes(bed->script);
        pick_times(bed, GARBAGE_PICKS);
        size_t after = script_memory_bytes(bed->script);
        double now = after > before ? (double)(after - before) / GARBAGE_PICKS : 0;
        bool is_collected = after < before;
        if (!is_collected && (least < 0 || now < least)) least = now;
    }
    return least < 0 ? 0 : least;
}

/* A strategy that sets a cookie is measured with a client who came back with it. */
static void
bring_cookie(struct bed *bed)
{
    uint32_t slot;
    enum reason reason;
    if (script_pick(bed->script, &bed->request, &slot, &reason) != SCRIPT_PICKED) fail("no first pick");
    if (bed->request.set_cookies.count == 0) return;
    struct slice sent = bed->request.set_cookies.rows[0].value;
    const char *stop = memchr(sent.at, ';', sent.len);
    size_t len = stop == NULL ? sent.len : (size_t)(stop - sent.at);
    if (len >= sizeof bed->cookie) fail("a cookie too long");
    memcpy(bed->cookie, sent.at, len);
    arena_reset(&bed->arena);
    bed->request.set_cookies = (struct headers){0};
    if (!headers_add(&bed->headers, &bed->config.arena, HEADER_COOKIE, SLICE_LIT("Cookie"),
            (struct slice){bed->cookie, len}))
        fail("no memory");
}

static double
measure(const struct row *row, unsigned endpoints, double *garbage_bytes)
{
    struct bed bed;
    double best = -1;
    if (bed_init(&bed, row, endpoints)) {
        bed.request = (struct script_request){.method = METHOD_GET,
            .method_text = SLICE_LIT("GET"),
            .path = SLICE_LIT("/things"),
            .query = SLICE_LIT("user=7"),
            .host = SLICE_LIT("example.com"),
            .client_ip = SLICE_LIT("192.0.2.1"),
            .headers = &bed.headers,
            .arena = &bed.arena,
            .attempt = 1};
        bring_cookie(&bed);
        pick_for(&bed, WARM_UP_US);
        for (int i = 0; i < BATCHES; i++) {
            double now = pick_for(&bed, BATCH_US);
            if (best < 0 || now < best) best = now;
            arena_reset(&bed.arena);
        }
        *garbage_bytes = garbage(&bed);
        if (atomic_load(&shm_totals(bed.shm)->script_errors) != 0) fail("a pick raised");
    }
    script_free(bed.script);
    arena_fini(&bed.arena);
    arena_fini(&bed.config.arena);
    diags_fini(&bed.diags);
    shm_destroy(bed.shm);
    return best;
}

static bool
is_wanted(const char *strategy, int argc, char **argv)
{
    char file[512];
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], strategy) == 0) return true;
    snprintf(file, sizeof file, "%s/strategies/%s.lua", bundle_share_dir(), strategy);
    return argc == 1 && access(file, R_OK) == 0;
}

int
main(int argc, char **argv)
{
    printf("nanoseconds of a pick()\n%-20s", "endpoints");
    for (size_t i = 0; i < sizeof fleets / sizeof fleets[0]; i++)
        printf("%10u", fleets[i]);
    printf("%14s\n", "garbage, B");
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        if (!is_wanted(rows[r].strategy, argc, argv)) continue;
        double most = 0;
        printf("%-20s", rows[r].strategy);
        for (size_t i = 0; i < sizeof fleets / sizeof fleets[0]; i++) {
            double bytes = 0, ns = measure(&rows[r], fleets[i], &bytes);
            if (bytes > most) most = bytes;
            if (ns < 0)
                printf("%10s", "-");
            else
                printf("%10.0f", ns);
            fflush(stdout);
        }
        printf("%14.2f\n", most);
    }
    return 0;
}
