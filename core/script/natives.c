#include "core/script/natives.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/base64.h"
#include "core/base/clock.h"
#include "core/net/ipset.h"
#include "core/script/crypto.h"
#include "core/script/script_internal.h"
#include "core/shm/dict.h"
#include "core/shm/meter.h"

/* Our heap is not under the cap of Lua's: a script may hold this many, and so many prefixes in all its sets.
 */
enum { NATIVES_MAX = 4096, PREFIXES_MAX = 1 << 18 };

struct native {
    struct native **link, *next; /* of its script's list */
    struct script *script;
    struct crypto_key *key; /* this or set */
    struct ipset *set;
    uint32_t prefixes; /* of the set */
};

#define FULL_LOG_US 10000000

static char dict_text[DICT_VALUE_BYTES]; /* the last string that fg_dict_get read */

const char *
fg_natives_layout(void)
{
    static char text[512];
    if (text[0] != '\0') return text;
#define OF(type, field) offsetof(struct type, field)
    snprintf(text, sizeof text,
        "fg_dict=%zu handle=%zu;fg_value=%zu number=%zu at=%zu len=%zu kind=%zu;"
        "fg_metric=%zu number=%zu labels=%zu;fg_series=%zu handle=%zu;"
        "fg_histogram=%zu parts=%zu bounds=%zu bound_count=%zu;fg_key=%zu handle=%zu;"
        "fg_ipset=%zu handle=%zu;",
        sizeof(struct fg_dict), OF(fg_dict, handle), sizeof(struct fg_value), OF(fg_value, number),
        OF(fg_value, at), OF(fg_value, len), OF(fg_value, kind), sizeof(struct fg_metric),
        OF(fg_metric, number), OF(fg_metric, labels), sizeof(struct fg_series), OF(fg_series, handle),
        sizeof(struct fg_histogram), OF(fg_histogram, of.parts), OF(fg_histogram, of.bounds),
        OF(fg_histogram, of.bound_count), sizeof(struct fg_key), OF(fg_key, handle), sizeof(struct fg_ipset),
        OF(fg_ipset, handle));
#undef OF
    return text;
}

/* The checker shares nothing: what it writes is thrown away with it. */
static struct shm *
segment_of(struct script *script)
{
    if (script == NULL) return NULL;
    if (script->env.shm != NULL) return script->env.shm;
    if (script->own_shm == NULL)
        script->own_shm = shm_create(&(struct shm_params){.max_endpoints = 1,
            .dict_bytes = script->env.config->limits.shared_dict_bytes,
            .dicts = script->env.config->limits.shared_dicts});
    return script->own_shm;
}

/* ---- dictionaries ---- */

struct visit {
    struct shm *shm;
    struct dict *dict;
    unsigned who;
    struct slice key;
    uint64_t now_us;
};

static bool
visit_of(struct visit *visit, struct script *script, const struct fg_dict *dict, const char *key, size_t len)
{
    if (dict == NULL || dict->handle == 0 || key == NULL) return false;
    visit->shm = segment_of(script);
    if (visit->shm == NULL) return false;
    visit->dict = (struct dict *)(uintptr_t)dict->handle;
    visit->who = script->env.role == SCRIPT_WORKER ? script->env.worker : DICT_CONTROL;
    visit->key = (struct slice){key, len};
    visit->now_us = clock_now_us();
    return true;
}

/* A write's; a script may not look at what it is answered. */
static int
written(const struct script *script, enum dict_result result)
{
    static struct log_every every;
    uint64_t suppressed;
    if (UNLIKELY(result == DICT_FULL) && log_every_due(&every, FULL_LOG_US, &suppressed))
        log_warnx("a shared dictionary is full: raise limits.shared_dict_bytes",
            F_STR("service", script->running == NULL ? "" : script->running->service),
            F_STR("plugin", script->running == NULL ? "" : script->running->name),
            F_UINT("suppressed", suppressed));
    return (int)result;
}

/* A century is as good as for ever. */
static uint64_t
ttl_us(double seconds)
{
    if (!(seconds > 0) || seconds >= 3.2e9) return 0;
    uint64_t us = (uint64_t)(seconds * 1e6);
    return us == 0 ? 1 : us;
}

int
fg_dict_open(struct script *script, const char *name, size_t len, struct fg_dict *dict)
{
    guard_point();
    struct shm *shm = segment_of(script);
    if (shm == NULL || name == NULL || dict == NULL) return 0;
    if (slice_starts_with((struct slice){name, len}, SLICE_LIT(SCRIPT_OWN_NAMES))) return 0;
    dict->handle = (uint64_t)(uintptr_t)shm_dict(shm, (struct slice){name, len});
    return dict->handle != 0;
}

int
fg_dict_get(
    struct script *script, const struct fg_dict *dict, const char *key, size_t len, struct fg_value *value)
{
    guard_point();
    struct visit v;
    struct dict_value found;
    if (!visit_of(&v, script, dict, key, len) || value == NULL) return DICT_BUSY;
    enum dict_result result = dict_get(v.shm, v.dict, v.who, v.key, v.now_us, dict_text, &found);
    if (result == DICT_OK)
        *value = (struct fg_value){found.number, found.text.at, found.text.len, (uint32_t)found.kind};
    return (int)result;
}

int
fg_dict_set(struct script *script, const struct fg_dict *dict, const char *key, size_t len, uint32_t kind,
    double number, const char *text, size_t text_len, double ttl, int only_new)
{
    guard_point();
    struct visit v;
    if (!visit_of(&v, script, dict, key, len) || kind < DICT_NUMBER || kind > DICT_BOOLEAN) return DICT_BUSY;
    struct dict_value value = {(enum dict_kind)kind, number, SLICE_NONE};
    if (kind == DICT_STRING && text != NULL) value.text = (struct slice){text, text_len};
    return written(
        script, dict_set(v.shm, v.dict, v.who, v.key, v.now_us, &value, ttl_us(ttl), only_new != 0));
}

int
fg_dict_incr(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double by,
    int has_initial, double initial, double ttl, double *sum)
{
    guard_point();
    struct visit v;
    if (!visit_of(&v, script, dict, key, len) || sum == NULL) return DICT_BUSY;
    return written(script, dict_incr(v.shm, v.dict, v.who, v.key, v.now_us, by,
                               has_initial != 0 ? &initial : NULL, ttl_us(ttl), sum));
}

int
fg_dict_delete(struct script *script, const struct fg_dict *dict, const char *key, size_t len)
{
    guard_point();
    struct visit v;
    if (!visit_of(&v, script, dict, key, len)) return DICT_BUSY;
    return (int)dict_delete(v.shm, v.dict, v.who, v.key, v.now_us);
}

int
fg_dict_ttl(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double *left)
{
    guard_point();
    struct visit v;
    uint64_t left_us = 0;
    if (!visit_of(&v, script, dict, key, len) || left == NULL) return DICT_BUSY;
    enum dict_result result = dict_ttl(v.shm, v.dict, v.who, v.key, v.now_us, &left_us);
    *left = left_us == UINT64_MAX ? -1 : (double)left_us / 1e6;
    return (int)result;
}

int
fg_dict_take(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double rate,
    double burst, double cost, double *rest)
{
    guard_point();
    struct visit v;
    if (!visit_of(&v, script, dict, key, len) || rest == NULL || !(rate > 0 && burst > 0 && cost > 0))
        return DICT_BUSY;
    return written(script, dict_take(v.shm, v.dict, v.who, v.key, v.now_us, rate, burst, cost, rest));
}

const char *
fg_dict_word(int result)
{
    guard_point();
    return dict_result_word((enum dict_result)result);
}

/* ---- metrics ---- */

static void
slices_of(struct slice *out, const struct fg_slice *in, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (struct slice){in[i].at, in[i].len};
}

static int
metric_open(struct script *script, struct meter_definition *definition, const struct fg_slice *labels,
    size_t count, struct fg_metric *metric)
{
    struct shm *shm = segment_of(script);
    if (shm == NULL || definition->name.at == NULL || definition->help.at == NULL || labels == NULL ||
        metric == NULL || count > METER_LABELS)
        return 0;
    definition->label_count = count;
    slices_of(definition->labels, labels, count);
    metric->number = meter_define(shm, definition);
    metric->labels = (uint32_t)count;
    return metric->number != METER_NONE;
}

int
fg_metric_open(struct script *script, uint32_t kind, const char *name, size_t name_len, const char *help,
    size_t help_len, const struct fg_slice *labels, size_t count, struct fg_metric *metric)
{
    guard_point();
    struct meter_definition definition = {
        .kind = (enum meter_kind)kind, .name = {name, name_len}, .help = {help, help_len}};
    return kind <= METER_GAUGE ? metric_open(script, &definition, labels, count, metric) : 0;
}

int
fg_histogram_open(struct script *script, const char *name, size_t name_len, const char *help, size_t help_len,
    const struct fg_slice *labels, size_t count, const double *bounds, size_t bound_count,
    struct fg_metric *metric)
{
    guard_point();
    struct meter_definition definition = {
        .kind = METER_HISTOGRAM, .name = {name, name_len}, .help = {help, help_len}};
    if (bounds == NULL || bound_count > METER_BOUNDS) return 0;
    memcpy(definition.bounds, bounds, bound_count * sizeof *bounds);
    definition.bound_count = bound_count;
    return metric_open(script, &definition, labels, count, metric);
}

int
fg_histogram_series(struct script *script, const struct fg_metric *metric, const struct fg_slice *values,
    size_t count, struct fg_histogram *histogram)
{
    guard_point();
    struct slice parts[METER_LABELS];
    bool is_other = false;
    struct shm *shm = segment_of(script);
    if (shm == NULL || metric == NULL || values == NULL || histogram == NULL || count > METER_LABELS)
        return 0;
    slices_of(parts, values, count);
    memset(histogram, 0, sizeof *histogram);
    if (!meter_histogram(shm, metric->number, parts, count, &histogram->of, &is_other)) {
        memset(histogram, 0, sizeof *histogram);
        return 0;
    }
    if (is_other) atomic_fetch_add_explicit(&shm_totals(shm)->metric_overflows, 1, memory_order_relaxed);
    return is_other ? 2 : 1;
}

void
fg_histogram_observe(const struct fg_histogram *histogram, double n)
{
    guard_point();
    if (histogram != NULL && histogram->of.parts[0] != NULL) meter_observe(&histogram->of, n);
}

int
fg_metric_series(struct script *script, const struct fg_metric *metric, const struct fg_slice *values,
    size_t count, struct fg_series *series)
{
    guard_point();
    struct slice parts[METER_LABELS];
    bool is_other = false;
    struct shm *shm = segment_of(script);
    if (shm == NULL || metric == NULL || values == NULL || series == NULL || count > METER_LABELS) return 0;
    slices_of(parts, values, count);
    _Atomic uint64_t *number = meter_series(shm, metric->number, parts, count, &is_other);
    series->handle = (uint64_t)(uintptr_t)number;
    if (is_other) atomic_fetch_add_explicit(&shm_totals(shm)->metric_overflows, 1, memory_order_relaxed);
    return number == NULL ? 0 : is_other ? 2 : 1;
}

void
fg_series_add(const struct fg_series *series, double n)
{
    guard_point();
    if (series != NULL && series->handle != 0) meter_add((_Atomic uint64_t *)(uintptr_t)series->handle, n);
}

void
fg_series_set(const struct fg_series *series, double n)
{
    guard_point();
    if (series != NULL && series->handle != 0) meter_set((_Atomic uint64_t *)(uintptr_t)series->handle, n);
}

/* ---- codecs ---- */

double
fg_base64_encode(const char *bytes, size_t len, int is_url, char *out, size_t cap)
{
    guard_point();
    enum base64_form form = is_url != 0 ? BASE64_URL : BASE64_STANDARD;
    if (bytes == NULL || out == NULL || len > cap || base64_length(len, form) > cap) return -1;
    base64_encode((struct slice){bytes, len}, form, out);
    return (double)base64_length(len, form);
}

double
fg_base64_decode(const char *text, size_t len, int is_url, char *out, size_t cap)
{
    guard_point();
    size_t made = 0;
    if (text == NULL || out == NULL || len > cap) return -1;
    enum base64_form form = is_url != 0 ? BASE64_URL : BASE64_STANDARD;
    return base64_decode((struct slice){text, len}, form, out, &made) ? (double)made : -2;
}

double
fg_hex(const char *bytes, size_t len, char *out, size_t cap)
{
    guard_point();
    static const char digits[] = "0123456789abcdef";
    if (bytes == NULL || out == NULL || len > cap / 2) return -1;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[(unsigned char)bytes[i] >> 4];
        out[2 * i + 1] = digits[(unsigned char)bytes[i] & 15];
    }
    return (double)len * 2;
}

int
fg_random_bytes(char *out, size_t len)
{
    guard_point();
    return out != NULL && len <= INT32_MAX && RAND_bytes((unsigned char *)out, (int)len) == 1;
}

int
fg_equal(const char *a, size_t a_len, const char *b, size_t b_len)
{
    guard_point();
    if (a == NULL || b == NULL || a_len != b_len) return 0;
    return CRYPTO_memcmp(a, b, a_len) == 0;
}

double
fg_wall_time(void)
{
    guard_point();
    return (double)clock_wall_us() / 1e6;
}

/* ---- keys and sets ---- */

static struct crypto_key *
key_of(const struct fg_key *key)
{
    return key == NULL || key->handle == 0 ? NULL : ((struct native *)(uintptr_t)key->handle)->key;
}

static struct ipset *
set_of(const struct fg_ipset *set)
{
    return set == NULL || set->handle == 0 ? NULL : ((struct native *)(uintptr_t)set->handle)->set;
}

/* Takes over what it is given, also where it fails: then 0. */
static uint64_t
native_keep(struct script *script, struct crypto_key *key, struct ipset *set)
{
    bool has_room = script != NULL && script->native_count < NATIVES_MAX;
    struct native *native = has_room ? calloc(1, sizeof *native) : NULL;
    if (native == NULL) {
        crypto_key_free(key);
        ipset_free(set);
        return 0;
    }
    *native = (struct native){&script->natives, script->natives, script, key, set, 0};
    script->native_count++;
    if (native->next != NULL) native->next->link = &native->next;
    script->natives = native;
    return (uint64_t)(uintptr_t)native;
}

static void
native_drop(struct native *native)
{
    *native->link = native->next;
    if (native->next != NULL) native->next->link = native->link;
    native->script->native_count--;
    native->script->prefix_count -= native->prefixes;
    crypto_key_free(native->key);
    ipset_free(native->set);
    free(native);
}

void
fg_key_free(struct fg_key *key)
{
    guard_point();
    if (key_of(key) == NULL) return;
    native_drop((struct native *)(uintptr_t)key->handle);
    key->handle = 0;
}

void
fg_ipset_free(struct fg_ipset *set)
{
    guard_point();
    if (set_of(set) == NULL) return;
    native_drop((struct native *)(uintptr_t)set->handle);
    set->handle = 0;
}

int
fg_natives_are_full(const struct script *script)
{
    guard_point();
    return script != NULL &&
           (script->native_count >= NATIVES_MAX || script->prefix_count >= PREFIXES_MAX / 2);
}

void
natives_drop(struct script *script)
{
    while (script->natives != NULL)
        native_drop(script->natives);
}

void
natives_free(struct script *script)
{
    natives_drop(script);
    shm_destroy(script->own_shm);
    script->own_shm = NULL;
}

static const char *
key_keep(struct script *script, struct crypto_key *made, const char *why, struct fg_key *key)
{
    if (made == NULL || key == NULL) {
        crypto_key_free(made);
        return why;
    }
    key->handle = native_keep(script, made, NULL);
    return key->handle != 0 ? NULL : "too many keys and address sets are in use";
}

const char *
fg_key_pem(struct script *script, const char *text, size_t len, struct fg_key *key)
{
    guard_point();
    const char *why = "no text";
    if (text == NULL) return why;
    struct crypto_key *made = crypto_key_pem((struct slice){text, len}, &why);
    return key_keep(script, made, why, key);
}

const char *
fg_key_rsa(
    struct script *script, const char *n, size_t n_len, const char *e, size_t e_len, struct fg_key *key)
{
    guard_point();
    const char *why = "no numbers";
    if (n == NULL || e == NULL) return why;
    struct crypto_key *made = crypto_key_rsa((struct slice){n, n_len}, (struct slice){e, e_len}, &why);
    return key_keep(script, made, why, key);
}

const char *
fg_key_p256(
    struct script *script, const char *x, size_t x_len, const char *y, size_t y_len, struct fg_key *key)
{
    guard_point();
    const char *why = "no numbers";
    if (x == NULL || y == NULL) return why;
    struct crypto_key *made = crypto_key_p256((struct slice){x, x_len}, (struct slice){y, y_len}, &why);
    return key_keep(script, made, why, key);
}

const char *
fg_key_secret(struct script *script, const char *secret, size_t len, struct fg_key *key)
{
    guard_point();
    const char *why = "no secret";
    if (secret == NULL) return why;
    struct crypto_key *made = crypto_key_secret((struct slice){secret, len}, &why);
    return key_keep(script, made, why, key);
}

const char *
fg_key_algorithm(const struct fg_key *key)
{
    guard_point();
    return key_of(key) == NULL ? NULL : crypto_key_algorithm(key_of(key));
}

int
fg_key_verify(const struct fg_key *key, const char *algorithm, size_t algorithm_len, const char *data,
    size_t len, const char *signature, size_t signature_len)
{
    guard_point();
    if (key_of(key) == NULL || algorithm == NULL || data == NULL || signature == NULL) return 0;
    return crypto_verify(key_of(key), (struct slice){algorithm, algorithm_len}, (struct slice){data, len},
        (struct slice){signature, signature_len});
}

int
fg_ipset_new(struct script *script, struct fg_ipset *set)
{
    guard_point();
    struct ipset *made = ipset_new();
    if (made == NULL || set == NULL) {
        ipset_free(made);
        return 0;
    }
    set->handle = native_keep(script, NULL, made);
    return set->handle != 0;
}

int
fg_ipset_add(const struct fg_ipset *set, const char *text, size_t len)
{
    guard_point();
    if (set_of(set) == NULL || text == NULL) return IPSET_BAD;
    struct native *native = (struct native *)(uintptr_t)set->handle;
    if (native->script->prefix_count >= PREFIXES_MAX) return IPSET_MEMORY;
    enum ipset_result result = ipset_add(native->set, (struct slice){text, len});
    native->prefixes += result == IPSET_OK;
    native->script->prefix_count += result == IPSET_OK;
    return (int)result;
}

int
fg_ipset_has(const struct fg_ipset *set, const char *ip, size_t len)
{
    guard_point();
    return set_of(set) != NULL && ip != NULL && ipset_has(set_of(set), (struct slice){ip, len});
}
