-- ffi/natives.lua: core/script/natives.h for LuaJIT. Every field is const: what a script sees, only C writes.
local ffi = require "ffi"
local view = require "ffi.view"

ffi.cdef [[
struct fg_dict { const uint64_t handle; };
struct fg_value {
    const double number;
    const char *const at;
    const size_t len;
    const uint32_t kind;
};
struct fg_metric { const uint32_t number, labels; };
struct fg_series { const uint64_t handle; };
struct fg_histogram {
    const uint64_t parts[34];
    const double bounds[32];
    const uint32_t bound_count;
};
struct fg_key { const uint64_t handle; };
struct fg_ipset { const uint64_t handle; };

int fg_dict_open(struct script *script, const char *name, size_t len, struct fg_dict *dict);
int fg_dict_get(struct script *script, const struct fg_dict *dict, const char *key, size_t len,
    struct fg_value *value);
int fg_dict_set(struct script *script, const struct fg_dict *dict, const char *key, size_t len, uint32_t kind,
    double number, const char *text, size_t text_len, double ttl, int only_new);
int fg_dict_incr(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double by,
    int has_initial, double initial, double ttl, double *sum);
int fg_dict_delete(struct script *script, const struct fg_dict *dict, const char *key, size_t len);
int fg_dict_ttl(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double *left);
int fg_dict_take(struct script *script, const struct fg_dict *dict, const char *key, size_t len, double rate,
    double burst, double cost, double *rest);
const char *fg_dict_word(int result);

int fg_metric_open(struct script *script, uint32_t kind, const char *name, size_t name_len, const char *help,
    size_t help_len, const struct fg_slice *labels, size_t count, struct fg_metric *metric);
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

double fg_base64_encode(const char *bytes, size_t len, int is_url, char *out, size_t cap);
double fg_base64_decode(const char *text, size_t len, int is_url, char *out, size_t cap);
double fg_hex(const char *bytes, size_t len, char *out, size_t cap);
int fg_random_bytes(char *out, size_t len);
int fg_equal(const char *a, size_t a_len, const char *b, size_t b_len);
double fg_wall_time(void);

const char *fg_key_pem(struct script *script, const char *text, size_t len, struct fg_key *key);
const char *fg_key_rsa(struct script *script, const char *n, size_t n_len, const char *e, size_t e_len,
    struct fg_key *key);
const char *fg_key_p256(struct script *script, const char *x, size_t x_len, const char *y, size_t y_len,
    struct fg_key *key);
const char *fg_key_secret(struct script *script, const char *secret, size_t len, struct fg_key *key);
const char *fg_key_algorithm(const struct fg_key *key);
void fg_key_free(struct fg_key *key);
int fg_key_verify(const struct fg_key *key, const char *algorithm, size_t algorithm_len, const char *data,
    size_t len, const char *signature, size_t signature_len);
int fg_ipset_new(struct script *script, struct fg_ipset *set);
int fg_ipset_add(const struct fg_ipset *set, const char *text, size_t len);
int fg_ipset_has(const struct fg_ipset *set, const char *ip, size_t len);
void fg_ipset_free(struct fg_ipset *set);
int fg_natives_are_full(const struct script *script);
]]

return {
    check = view.check, -- with fg_natives_layout()
    -- enum dict_result and enum dict_kind
    OK = 0, NONE = 1, EXISTS = 2, FULL = 3, KIND = 4, BUCKET = 5, REFUSED = 6, BUSY = 7, KEY = 8, VALUE = 9,
    NUMBER = 1, STRING = 2, BOOLEAN = 3,
    LABELS_MAX = 8, SERIES_MAX = 1000, BOUNDS_MAX = 32, -- core/shm/meter.h
}
