/* core/script/natives.h: what scripts call beside waiting, for Lua's FFI: shared dictionaries, metrics,
 * codecs, keys and sets of addresses. lua/ffi/natives.lua repeats it; the runtime compares the structs with
 * fg_natives_layout() and refuses to start on a difference. As in view.h, every function checks its
 * arguments, begins with guard_point() and never enters Lua. */
#ifndef FLUXGATE_SCRIPT_NATIVES_H
#define FLUXGATE_SCRIPT_NATIVES_H
#include <stddef.h>
#include <stdint.h>

#include "core/script/view.h"
#include "core/shm/meter.h"

struct script;

struct fg_dict {
    uint64_t handle; /* struct dict, in the segment */
};
struct fg_value {
    double number;
    const char *at; /* of a string: until the next call */
    size_t len;
    uint32_t kind; /* enum dict_kind */
};
struct fg_metric {
    uint32_t number, labels;
};
struct fg_series {
    uint64_t handle; /* an _Atomic uint64_t in the segment */
};
struct fg_histogram {
    struct meter_histogram of;
};
/* A key or a set of addresses, on the heap: its script frees what Lua did not, since a state may be dropped
 * whole. */
struct fg_key {
    uint64_t handle; /* struct native; 0: freed */
};
struct fg_ipset {
    uint64_t handle; /* the same */
};

const char *fg_natives_layout(void);

/* Dictionaries: enum dict_result, times in seconds, a ttl of 0 for ever. The checker has a segment of its
 * own. */
int fg_dict_open(struct script *script, const char *name, size_t len, struct fg_dict *dict); /* 0: no room */
int fg_dict_get(
    struct script *script, const struct fg_dict *dict, const char *key, size_t len, struct fg_value *value);
int fg_dict_set(struct script *script, const struct fg_dict *dict, const char *key, size_t len, uint32_t kind,
    double number, const char *text, size_t text_len, double ttl, int only_new);
int fg_dict_incr(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double by,
    int has_initial, double initial, double ttl, double *sum);
int fg_dict_delete(struct script *script, const struct fg_dict *dict, const char *key, size_t len);
int fg_dict_ttl(/* *left < 0: it has no end */
    struct script *script, const struct fg_dict *dict, const char *key, size_t len, double *left);
int fg_dict_take(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double rate,
    double burst, double cost, double *rest);
const char *fg_dict_word(int result);

/* Metrics. kind: enum meter_kind. 0: no room. */
int fg_metric_open(struct script *script, uint32_t kind, const char *name, size_t name_len, const char *help,
    size_t help_len, const struct fg_slice *labels, size_t count, struct fg_metric *metric);
/* 1: the series of these values, the same for ever; 2: the one that takes what there is no room for; 0: none.
 */
int fg_metric_series(struct script *script, const struct fg_metric *metric, const struct fg_slice *values,
    size_t count, struct fg_series *series);
void fg_series_add(const struct fg_series *series, double n);
void fg_series_set(const struct fg_series *series, double n);
int fg_histogram_open(struct script *script, const char *name, size_t name_len, const char *help,
    size_t help_len, const struct fg_slice *labels, size_t count, const double *bounds, size_t bound_count,
    struct fg_metric *metric);
int fg_histogram_series(struct script *script, const struct fg_metric *metric, const struct fg_slice *values,
    size_t count, struct fg_histogram *histogram);
void fg_histogram_observe(const struct fg_histogram *histogram, double n);

/* Codecs: into `out` of `cap` bytes. Bytes written; -1: no room, -2: the text is none. */
double fg_base64_encode(const char *bytes, size_t len, int is_url, char *out, size_t cap);
double fg_base64_decode(const char *text, size_t len, int is_url, char *out, size_t cap);
double fg_hex(const char *bytes, size_t len, char *out, size_t cap);
int fg_random_bytes(char *out, size_t len); /* 0: the system has none */
int fg_equal(const char *a, size_t a_len, const char *b, size_t b_len);
double fg_wall_time(void); /* seconds since 1970 */

/* Keys. NULL, or what is wrong in a few words; then key->handle stays 0. */
const char *fg_key_pem(struct script *script, const char *text, size_t len, struct fg_key *key);
const char *fg_key_rsa(
    struct script *script, const char *n, size_t n_len, const char *e, size_t e_len, struct fg_key *key);
const char *fg_key_p256(
    struct script *script, const char *x, size_t x_len, const char *y, size_t y_len, struct fg_key *key);
const char *fg_key_secret(struct script *script, const char *secret, size_t len, struct fg_key *key);
const char *fg_key_algorithm(const struct fg_key *key); /* NULL: it is no key */
void fg_key_free(struct fg_key *key);                   /* its finaliser */
int fg_key_verify(const struct fg_key *key, const char *algorithm, size_t algorithm_len, const char *data,
    size_t len, const char *signature, size_t signature_len);

/* Sets of addresses. */
int fg_ipset_new(struct script *script, struct fg_ipset *set);              /* 0: out of memory */
int fg_ipset_add(const struct fg_ipset *set, const char *text, size_t len); /* enum ipset_result */
int fg_ipset_has(const struct fg_ipset *set, const char *ip, size_t len);
void fg_ipset_free(struct fg_ipset *set); /* its finaliser */
/* 1: keys or sets that Lua no longer knows should be collected before another is made. */
int fg_natives_are_full(const struct script *script);

#endif
