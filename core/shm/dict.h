/* core/shm/dict.h: shared dictionaries for Lua, in the shared segment: text to a string, a number, a boolean
 * or a token bucket, with a time to live, the same to every process. No system call and no kernel lock: each
 * dictionary is in parts of a MiB, each under a word that names who holds it, so that the lock of one that
 * was killed is broken (dicts_reap) and what it was writing is dropped.
 *
 * A dictionary's memory is fixed (shm_params.dict_bytes), a MiB is room for some 7,500 short entries; pages
 * never used cost nothing. Entries whose time is over make room; nothing else is ever thrown out: then it is
 * "full". Keys are hashed with a secret, so that clients cannot choose which collide. */
#ifndef FLUXGATE_SHM_DICT_H
#define FLUXGATE_SHM_DICT_H
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/shm/shm.h"

enum {
    DICTS_MAX = 256, /* of shm_params.dicts: names, ever, in one supervisor's life */
    DICTS_DEFAULT = 32,
    DICT_NAME_BYTES = 64,
    DICT_SHARD_BYTES = 1 << 20,
    DICT_SHARDS_DEFAULT = 16,
    DICT_BYTES_MAX = 1 << 30,
    DICT_KEY_BYTES = 256,
    DICT_VALUE_BYTES = 64 << 10,
    DICT_CONTROL = SHM_WORKERS_MAX, /* as `who`: the control process; a worker is its number */
};

/* result, word for Lua */
#define DICT_RESULTS(X)                                                                                      \
    X(OK, "ok")                                                                                              \
    X(NONE, "not found")                                                                                     \
    X(EXISTS, "exists")                                                                                      \
    X(FULL, "full")                                                                                          \
    X(KIND, "not a number") /* incr on a string, a boolean or a bucket */                                    \
    X(BUCKET, "not a bucket")                                                                                \
    X(REFUSED, "refused") /* the bucket holds less than was asked for */                                     \
    X(BUSY, "busy")       /* its shard stayed locked, by a process that was stopped */                       \
    X(KEY, "the key is longer than 256 bytes or empty")                                                      \
    X(VALUE, "the value is longer than 64 KiB")
#define X(name, word) DICT_##name,
enum dict_result { DICT_RESULTS(X) DICT_RESULT_COUNT };
#undef X
const char *dict_result_word(enum dict_result result);

enum dict_kind { DICT_NUMBER = 1, DICT_STRING, DICT_BOOLEAN, DICT_TOKENS };

struct dict_value {
    enum dict_kind kind; /* none of the API's is DICT_TOKENS: a bucket reads as DICT_NONE */
    double number;       /* a boolean: 0 or 1 */
    struct slice text;
};

struct dict;

/* The dictionary of this name, made on first use by any process and kept for ever. NULL: an empty or too long
 * name, or too many. */
struct dict *shm_dict(struct shm *shm, struct slice name);
/* The gateway's own, which has no name and is none of those. */
struct dict *shm_dict_own(struct shm *shm);

/* Times are clock_now_us(); ttl_us 0: for ever. `who` is who may be killed meanwhile. All of these are hot,
 * and exact over all processes. */

/* NONE where there is nothing; a string is copied into `buffer` of DICT_VALUE_BYTES, which value->text
 * borrows. */
MUST_CHECK
enum dict_result dict_get(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us,
    char *buffer, struct dict_value *value);
/* only_new: EXISTS where there is one already. A value that does not fit leaves the old one. */
MUST_CHECK
enum dict_result dict_set(struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us,
    const struct dict_value *value, uint64_t ttl_us, bool only_new);
/* Adds to a number. One that is not there begins as *initial and lives for ttl_us; NONE where initial is
 * NULL. */
MUST_CHECK
enum dict_result dict_incr(struct shm *shm, struct dict *dict, unsigned who, struct slice key,
    uint64_t now_us, double by, const double *initial, uint64_t ttl_us, double *sum);
/* OK or NONE. */
MUST_CHECK
enum dict_result dict_delete(
    struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us);
/* OK: *left_us until its end, UINT64_MAX where it has none. */
MUST_CHECK
enum dict_result dict_ttl(
    struct shm *shm, struct dict *dict, unsigned who, struct slice key, uint64_t now_us, uint64_t *left_us);
/* A bucket of `burst` tokens that fills by `rate` a second takes `cost` (all above 0). OK: *rest is what it
 * holds now; REFUSED: *rest is the seconds until it will hold as much. A bucket that would be full again is
 * as good as none, so its entry lives until then. */
MUST_CHECK
enum dict_result dict_take(struct shm *shm, struct dict *dict, unsigned who, struct slice key,
    uint64_t now_us, double rate, double burst, double cost, double *rest);

/* Supervisor, after a process is gone (shm_worker_reap does it for a worker): breaks the locks that it held
 * and drops an entry that it was in the middle of writing. */
void dicts_reap(struct shm *shm, unsigned who);

#endif
