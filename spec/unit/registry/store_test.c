/* The SQLite store: what outlives a close, and what a person is told when the file is no good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <signal.h>
#include <sqlite3.h>

#include "core/base/log.h"
#include "registry/model.h"

#define TTL UINT64_C(30000000)

struct fixture {
    char dir[64], path[96], url[128];
};

static void
be_quiet(void *context, enum log_level level, const char *line, size_t len)
{
    (void)context;
    (void)level;
    (void)line;
    (void)len;
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (f == NULL) return -1;
    log_set_sink(be_quiet, NULL);
    strcpy(f->dir, "/tmp/fluxgate-store-XXXXXX");
    if (mkdtemp(f->dir) == NULL) return -1;
    snprintf(f->path, sizeof f->path, "%s/registry.db", f->dir);
    snprintf(f->url, sizeof f->url, "sqlite:%s", f->path);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", f->path, suffixes[i]);
        unlink(path);
    }
    rmdir(f->dir);
    free(f);
    return 0;
}

static void
open_model(struct fixture *f, struct model *model, uint64_t now)
{
    const char *why = "";
    struct store *store = store_open(f->url, &why);
    if (store == NULL) fail_msg("%s", why);
    assert_true(model_init(model, store, TTL, now, &why));
}

static void
close_model(struct model *model)
{
    struct store *store = model->store;
    model_fini(model);
    store->ops->close(store);
}

static struct spec
full_spec(const char *id)
{
    return (struct spec){.id = slice_of(id),
        .service = SLICE_LIT("us\"ers"),
        .host = SLICE_LIT("h"),
        .url = SLICE_LIT("http://h:9"),
        .health_path = SLICE_LIT("/h"),
        .zone = SLICE_LIT("z"),
        .version = SLICE_LIT("1.2"),
        .metadata = SLICE_LIT("{\"k\":1}"),
        .port = 9,
        .weight = 3,
        .ttl_us = 5000000,
        .maintenance = true};
}

static void
a_restart_that_lost_nothing_looks_like_no_change(void **state)
{
    struct fixture *f = *state;
    struct model model;
    struct instance *instance;
    struct spec spec = full_spec("a'; DROP TABLE instance; --"), other = full_spec("b"),
                gone = full_spec("c");
    char epoch[STORE_EPOCH_BYTES];
    other.ttl_us = 0;
    open_model(f, &model, 1000);
    assert_int_equal(model_register(&model, &spec, 1000, &instance), MODEL_OK);
    assert_int_equal(model_register(&model, &other, 1000, &instance), MODEL_OK);
    assert_int_equal(model_register(&model, &gone, 1000, &instance), MODEL_OK);
    assert_int_equal(model_remove(&model, gone.id), MODEL_OK);
    model_expire(&model, 1000 + 5000000, 0); /* the first one lapses */
    uint64_t index = model.index;
    memcpy(epoch, model.epoch, sizeof epoch);
    close_model(&model);

    uint64_t now = UINT64_C(9000000000);
    open_model(f, &model, now);
    assert_int_equal(model.index, index);
    assert_string_equal(model.epoch, epoch);
    assert_int_equal(model.count, 2);
    assert_int_equal(model.living, 1);
    instance = model_find(&model, spec.id);
    assert_true(instance != NULL && instance->lapsed && instance->expires_us == now + 2 * 5000000);
    assert_true(slice_equal(instance->spec.service, spec.service) &&
                slice_equal(instance->spec.metadata, spec.metadata));
    assert_true(instance->spec.weight == 3 && instance->spec.ttl_us == 5000000 && instance->spec.maintenance);
    assert_int_equal(model_find(&model, other.id)->expires_us, now + TTL);
    close_model(&model);
}

static void
another_boot_is_another_epoch(void **state)
{
    struct fixture *f = *state;
    struct model model;
    char epoch[STORE_EPOCH_BYTES];
    sqlite3 *db;
    open_model(f, &model, 0);
    memcpy(epoch, model.epoch, sizeof epoch);
    close_model(&model);
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "UPDATE meta SET value = 'other' WHERE key = 'boot'", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    open_model(f, &model, 0);
    assert_string_not_equal(model.epoch, epoch);
    close_model(&model);
}

static void
refuse(struct fixture *f, const char *because)
{
    const char *why = "";
    assert_null(store_open(f->url, &why));
    assert_non_null(strstr(why, f->path));
    if (strstr(why, because) == NULL) fail_msg("%s does not say: %s", why, because);
}

static void
spoil(struct fixture *f, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void
a_file_that_is_no_database_is_named(void **state)
{
    struct fixture *f = *state;
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    for (int i = 0; i < 4096; i++)
        fputc(i * 7 & 0xff, file);
    fclose(file);
    refuse(f, "file is not a database");
}

static void
a_damaged_database_is_named(void **state)
{
    struct fixture *f = *state;
    struct model model;
    open_model(f, &model, 0);
    for (int i = 0; i < 200; i++) {
        char id[16];
        struct instance *instance;
        snprintf(id, sizeof id, "i%d", i);
        struct spec spec = full_spec(id);
        assert_int_equal(model_register(&model, &spec, 0, &instance), MODEL_OK);
    }
    close_model(&model);
    FILE *file = fopen(f->path, "r+");
    assert_non_null(file);
    fseek(file, 4096 + 100, SEEK_SET);
    for (int i = 0; i < 8000; i++)
        fputc(0xa5, file);
    fclose(file);
    refuse(f, "");
}

static void
another_schema_version_is_refused(void **state)
{
    struct fixture *f = *state;
    spoil(f, "PRAGMA user_version = 9");
    refuse(f, "schema version is 9");
}

static void
a_database_of_someone_else_is_refused(void **state)
{
    struct fixture *f = *state;
    spoil(f, "CREATE TABLE theirs (x)");
    refuse(f, "not made by fluxgate");
}

static void
a_second_registry_on_the_file_is_refused(void **state)
{
    struct fixture *f = *state;
    struct model model;
    open_model(f, &model, 0);
    refuse(f, "locked");
    close_model(&model);
}

static void
a_directory_that_is_not_there_is_named(void **state)
{
    struct fixture *f = *state;
    strcpy(f->url, "sqlite:/nowhere/at/all.db");
    strcpy(f->path, "/nowhere/at/all.db");
    refuse(f, "unable to open");
    const char *why;
    assert_null(store_open("postgres:x", &why));
    assert_null(store_open("sqlite:", &why));
}

static void
a_full_disk_fails_the_change_and_spares_the_process(void **state)
{
    struct fixture *f = *state;
    struct model model;
    struct instance *instance = NULL;
    struct rlimit old, small = {64 << 10, RLIM_INFINITY};
    enum model_result result = MODEL_OK;
    int n = 0;
    char id[16];
    signal(SIGXFSZ, SIG_IGN);
    open_model(f, &model, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (; n < 2000 && result == MODEL_OK; n++) {
        snprintf(id, sizeof id, "i%d", n);
        struct spec spec = full_spec(id);
        result = model_register(&model, &spec, 0, &instance);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(result, MODEL_STORE_FAILED);
    assert_int_equal(model.count, n - 1);
    assert_int_equal(model.store_errors, 1);
    struct spec spec = full_spec("after"); /* and once there is room again it goes on */
    assert_int_equal(model_register(&model, &spec, 0, &instance), MODEL_OK);
    size_t count = model.count;
    uint64_t index = model.index;
    close_model(&model);
    open_model(f, &model, 0);
    assert_int_equal(model.count, count);
    assert_int_equal(model.index, index);
    close_model(&model);
}

int
main(void)
{
#define CLAIM(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CLAIM(a_restart_that_lost_nothing_looks_like_no_change),
        CLAIM(another_boot_is_another_epoch),
        CLAIM(a_file_that_is_no_database_is_named),
        CLAIM(a_damaged_database_is_named),
        CLAIM(another_schema_version_is_refused),
        CLAIM(a_database_of_someone_else_is_refused),
        CLAIM(a_second_registry_on_the_file_is_refused),
        CLAIM(a_directory_that_is_not_there_is_named),
        CLAIM(a_full_disk_fails_the_change_and_spares_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
