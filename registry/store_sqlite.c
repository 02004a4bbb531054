/* registry/store_sqlite.c: one file, one writer. WAL with synchronous=NORMAL: a commit costs no fsync and
 * outlives the process; a loss of power may take the last changes, which the epoch then shows (boot_id).
 * Heartbeats never come here. */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "registry/store.h"

enum { SCHEMA_VERSION = 1, BUSY_MS = 2000 /* a predecessor may still be closing */, BOOT_ID_BYTES = 40 };

struct sqlite_store {
    struct store store; /* first: it is what others hold */
    sqlite3 *db;
    char *path;
    sqlite3_stmt *put, *remove, *meta, *begin_tx, *commit, *rollback;
    char boot_id[BOOT_ID_BYTES];
};

static const char schema[] =
    "CREATE TABLE instance (id TEXT PRIMARY KEY, service TEXT NOT NULL, host TEXT NOT NULL,"
    " port INTEGER NOT NULL, url TEXT NOT NULL, health_path TEXT NOT NULL, weight INTEGER NOT NULL,"
    " zone TEXT NOT NULL, version TEXT NOT NULL, metadata TEXT NOT NULL, ttl_us INTEGER NOT NULL,"
    " maintenance INTEGER NOT NULL, draining INTEGER NOT NULL, lapsed INTEGER NOT NULL);"
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "PRAGMA user_version = 1;";

static bool
failed(struct sqlite_store *s, const char *doing)
{
    bool busy = sqlite3_errcode(s->db) == SQLITE_BUSY;
    snprintf(s->store.error, sizeof s->store.error, "registry store %s: %s: %s%s", s->path, doing,
        sqlite3_errmsg(s->db), busy ? "; another process (a second registry?) has it open" : "");
    return false;
}

static struct sqlite_store *
of(struct store *store)
{
    return (struct sqlite_store *)store;
}

static int
bind_text(sqlite3_stmt *statement, int at, struct slice s)
{
    return sqlite3_bind_text64(statement, at, s.at == NULL ? "" : s.at, s.len, SQLITE_STATIC, SQLITE_UTF8);
}

static struct slice
column_text(sqlite3_stmt *statement, int at)
{
    const char *text = (const char *)sqlite3_column_text(statement, at);
    return (struct slice){
        text == NULL ? "" : text, text == NULL ? 0 : (size_t)sqlite3_column_bytes(statement, at)};
}

/* Runs a statement that gives no rows. */
static bool
run(sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    sqlite3_reset(statement);
    return code == SQLITE_DONE || code == SQLITE_ROW;
}

static bool
write_meta(struct sqlite_store *s, const char *key, const char *value)
{
    return bind_text(s->meta, 1, slice_of(key)) == SQLITE_OK &&
           bind_text(s->meta, 2, slice_of(value)) == SQLITE_OK && run(s->meta);
}

static bool
write_index(struct sqlite_store *s, uint64_t index)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)index);
    return write_meta(s, "index", text);
}

static bool
end_tx(struct sqlite_store *s, bool ok, const char *doing)
{
    if (ok && run(s->commit)) return true;
    failed(s, doing);
    if (!sqlite3_get_autocommit(s->db) && !run(s->rollback)) failed(s, "rolling back");
    return false;
}

static bool
sqlite_put(struct store *store, const struct spec *spec, bool lapsed, uint64_t index)
{
    struct sqlite_store *s = of(store);
    const struct slice texts[] = {spec->id, spec->service, spec->host, spec->url, spec->health_path,
        spec->zone, spec->version, spec->metadata};
    const int64_t numbers[] = {
        spec->port, spec->weight, (int64_t)spec->ttl_us, spec->maintenance, spec->draining, lapsed};
    if (!run(s->begin_tx)) return failed(s, "writing");
    bool ok = true;
    int at = 1;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        ok = ok && bind_text(s->put, at++, texts[i]) == SQLITE_OK;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ok = ok && sqlite3_bind_int64(s->put, at++, numbers[i]) == SQLITE_OK;
    }
    ok = ok && run(s->put) && write_index(s, index);
    sqlite3_clear_bindings(s->put);
    return end_tx(s, ok, "writing");
}

static bool
sqlite_remove(struct store *store, struct slice id, uint64_t index)
{
    struct sqlite_store *s = of(store);
    if (!run(s->begin_tx)) return failed(s, "deleting");
    bool ok = bind_text(s->remove, 1, id) == SQLITE_OK && run(s->remove) && write_index(s, index);
    sqlite3_clear_bindings(s->remove);
    return end_tx(s, ok, "deleting");
}

static bool
sqlite_begin(struct store *store, const char *epoch, uint64_t index)
{
    struct sqlite_store *s = of(store);
    if (!run(s->begin_tx)) return failed(s, "writing");
    bool ok = write_meta(s, "epoch", epoch) && write_meta(s, "boot", s->boot_id) && write_index(s, index);
    return end_tx(s, ok, "writing");
}

static bool
read_meta(struct sqlite_store *s, const char *key, char *out, size_t size)
{
    sqlite3_stmt *statement = NULL;
    bool ok = sqlite3_prepare_v2(s->db, "SELECT value FROM meta WHERE key = ?", -1, &statement, NULL) ==
                  SQLITE_OK &&
              bind_text(statement, 1, slice_of(key)) == SQLITE_OK;
    int code = ok ? sqlite3_step(statement) : SQLITE_ERROR;
    out[0] = '\0';
    if (code == SQLITE_ROW) snprintf(out, size, "%s", column_text(statement, 0).at);
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE;
}

static bool
load_rows(
    struct sqlite_store *s, bool (*each)(void *context, const struct spec *spec, bool lapsed), void *context)
{
    static const char select[] =
        "SELECT id, service, host, url, health_path, zone, version, metadata, port, weight,"
        " ttl_us, maintenance, draining, lapsed FROM instance ORDER BY rowid";
    sqlite3_stmt *statement = NULL;
    int code;
    if (sqlite3_prepare_v2(s->db, select, -1, &statement, NULL) != SQLITE_OK) return failed(s, "reading");
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct spec spec = {.id = column_text(statement, 0),
            .service = column_text(statement, 1),
            .host = column_text(statement, 2),
            .url = column_text(statement, 3),
            .health_path = column_text(statement, 4),
            .zone = column_text(statement, 5),
            .version = column_text(statement, 6),
            .metadata = column_text(statement, 7),
            .port = (uint32_t)sqlite3_column_int64(statement, 8),
            .weight = (uint32_t)sqlite3_column_int64(statement, 9),
            .ttl_us = (uint64_t)sqlite3_column_int64(statement, 10),
            .maintenance = sqlite3_column_int(statement, 11) != 0,
            .draining = sqlite3_column_int(statement, 12) != 0};
        if (!each(context, &spec, sqlite3_column_int(statement, 13) != 0)) {
            sqlite3_finalize(statement);
            snprintf(
                s->store.error, sizeof s->store.error, "registry store %s: reading: out of memory", s->path);
            return false;
        }
    }
    if (code != SQLITE_DONE) failed(s, "reading");
    sqlite3_finalize(statement);
    return code == SQLITE_DONE;
}

static bool
sqlite_load(struct store *store, bool (*each)(void *context, const struct spec *spec, bool lapsed),
    void *context, uint64_t *index, char epoch[STORE_EPOCH_BYTES])
{
    struct sqlite_store *s = of(store);
    char text[24], boot[BOOT_ID_BYTES];
    if (!read_meta(s, "index", text, sizeof text) || !read_meta(s, "epoch", epoch, STORE_EPOCH_BYTES) ||
        !read_meta(s, "boot", boot, sizeof boot)) {
        return failed(s, "reading");
    }
    *index = 0;
    for (const char *c = text; *c >= '0' && *c <= '9'; c++)
        *index = *index * 10 + (uint64_t)(*c - '0');
    /* after another boot the last commits may be lost: watchers must not take our index for theirs */
    if (strcmp(boot, s->boot_id) != 0) epoch[0] = '\0';
    return load_rows(s, each, context);
}

static void
sqlite_close(struct store *store)
{
    struct sqlite_store *s = of(store);
    sqlite3_stmt *statements[] = {s->put, s->remove, s->meta, s->begin_tx, s->commit, s->rollback};
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        sqlite3_finalize(statements[i]);
    sqlite3_close(s->db);
    free(s->path);
    free(s);
}

static const struct store_ops sqlite_ops = {
    .name = "sqlite",
    .load = sqlite_load,
    .put = sqlite_put,
    .remove = sqlite_remove,
    .begin = sqlite_begin,
    .close = sqlite_close,
};

static bool
execute(struct sqlite_store *s, const char *sql, const char *doing)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK || failed(s, doing);
}

/* The one number or word that `sql` gives. */
static bool
ask(struct sqlite_store *s, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *statement = NULL;
    bool ok = sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL) == SQLITE_OK &&
              sqlite3_step(statement) == SQLITE_ROW;
    if (ok) snprintf(out, size, "%s", column_text(statement, 0).at);
    sqlite3_finalize(statement);
    return ok;
}

static bool
prepare_schema(struct sqlite_store *s)
{
    char answer[128];
    if (!ask(s, "PRAGMA user_version", answer, sizeof answer)) return failed(s, "opening");
    if (strcmp(answer, "0") == 0) {
        if (!ask(s, "SELECT count(*) FROM sqlite_master", answer, sizeof answer)) return failed(s, "opening");
        if (strcmp(answer, "0") != 0) {
            snprintf(s->store.error, sizeof s->store.error,
                "registry store %s: this database holds other tables; it was not made by fluxgate", s->path);
            return false;
        }
        return execute(s, "BEGIN IMMEDIATE", "creating the tables") &&
               execute(s, schema, "creating the tables") && execute(s, "COMMIT", "creating the tables");
    }
    if (atoll(answer) != SCHEMA_VERSION) {
        snprintf(s->store.error, sizeof s->store.error,
            "registry store %s: its schema version is %.20s, this fluxgate knows %d", s->path, answer,
            SCHEMA_VERSION);
        return false;
    }
    if (!ask(s, "PRAGMA quick_check(1)", answer, sizeof answer)) return failed(s, "checking");
    if (strcmp(answer, "ok") == 0) return true;
    snprintf(s->store.error, sizeof s->store.error,
        "registry store %s: the database is corrupt: %.100s; move it away to start anew", s->path, answer);
    return false;
}

static bool
prepare_statements(struct sqlite_store *s)
{
    const struct {
        sqlite3_stmt **statement;
        const char *sql;
    } rows[] = {
        {&s->put, "INSERT OR REPLACE INTO instance (id, service, host, url, health_path, zone, version, "
                  "metadata, port,"
                  " weight, ttl_us, maintenance, draining, lapsed) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
        {&s->remove, "DELETE FROM instance WHERE id = ?"},
        {&s->meta, "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"},
        {&s->begin_tx, "BEGIN IMMEDIATE"},
        {&s->commit, "COMMIT"},
        {&s->rollback, "ROLLBACK"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (sqlite3_prepare_v3(s->db, rows[i].sql, -1, SQLITE_PREPARE_PERSISTENT, rows[i].statement, NULL) !=
            SQLITE_OK) {
            return failed(s, "opening");
        }
    }
    return true;
}

static void
read_boot_id(char out[BOOT_ID_BYTES])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? -1 : read(fd, out, BOOT_ID_BYTES - 1);
    if (fd != -1) close(fd);
    out[n < 0 ? 0 : n] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

struct store *
store_sqlite_open(const char *path, const char **why)
{
    static char text[512];
    struct sqlite_store *s = calloc(1, sizeof *s);
    *why = "out of memory";
    if (s == NULL) return NULL;
    s->store.ops = &sqlite_ops;
    s->path = strdup(path);
    read_boot_id(s->boot_id);
    if (s->path == NULL) goto fail;
    int code =
        sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (s->db == NULL) goto fail;
    if (code != SQLITE_OK) {
        failed(s, "opening");
        goto fail;
    }
    sqlite3_busy_timeout(s->db, BUSY_MS);
    /* an exclusive lock for life: a second registry on the same file would answer with half of the truth */
    if (!execute(s,
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
            "opening") ||
        !prepare_schema(s) || !execute(s, "BEGIN IMMEDIATE; COMMIT;", "locking") || !prepare_statements(s)) {
        goto fail;
    }
    return &s->store;

fail:
    if (s->store.error[0] != '\0') {
        snprintf(text, sizeof text, "%s", s->store.error);
        *why = text;
    }
    sqlite_close(&s->store);
    return NULL;
}
