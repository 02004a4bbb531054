/* core/config/value.h: typed values out of the tree, and blocks of keys read by table: the same rows give the
 * reader, its hints, the printer and the check of the JSON Schema. Internal to core/config. */
#ifndef FLUXGATE_CONFIG_VALUE_H
#define FLUXGATE_CONFIG_VALUE_H
#include "core/config/config.h"
#include "core/config/node.h"

/* What stands there, for "expected …, found …". Never NULL. */
const char *value_kind(struct load *load, const struct node *node);
void value_refuse(struct load *load, const struct node *node, const char *expected);

/* Each: false and said in diags where the value is something else; then *out is untouched. */
MUST_CHECK
bool value_text(struct load *load, const struct node *node, const char *expected, const char **out);
MUST_CHECK
bool value_bool(struct load *load, const struct node *node, bool *out);
MUST_CHECK
bool value_number(struct load *load, const struct node *node, uint64_t min, uint64_t max, uint64_t *out);
MUST_CHECK
bool value_duration(struct load *load, const struct node *node, uint64_t min, uint64_t *us);
void duration_exact(uint64_t us, char out[32]); /* text that value_duration takes back to the same number */
MUST_CHECK
bool value_size(struct load *load, const struct node *node, uint64_t min, uint64_t max, uint64_t *bytes);
MUST_CHECK
bool value_word(struct load *load, const struct node *node, const char *const *words, int *out);
MUST_CHECK
bool value_map(struct load *load, const struct node *node); /* or null, which is an empty one */
/* A list of texts, or one text alone; NULL-terminated. */
MUST_CHECK
bool value_texts(
    struct load *load, const struct node *node, const char *expected, const char ***out, size_t *count);

enum address_use { ADDRESS_LISTEN, ADDRESS_CONNECT };
MUST_CHECK
bool value_address(
    struct load *load, const struct node *node, enum address_use use, struct config_address *out);
MUST_CHECK
bool address_parse(struct load *load, const char *text, struct place place, enum address_use use,
    struct config_address *out);
MUST_CHECK
bool value_cidr(struct load *load, const struct node *node, struct config_cidr *out);
void cidr_format(const struct config_cidr *cidr, char out[64]);

/* RFC 3986 normal form of a path, as core/http/uri.c makes it of a request's: what a route is compared with.
 */
MUST_CHECK
bool value_path(struct load *load, const struct node *node, bool keep_slashes, const char **out);

enum key_type {
    KEY_DURATION, /* uint64_t, microseconds */
    KEY_SIZE,     /* uint64_t */
    KEY_SIZE32,   /* uint32_t */
    KEY_NUMBER,   /* uint32_t */
    KEY_BOOL,
    KEY_TEXT,  /* const char * */
    KEY_WORD,  /* enum, by `words` */
    KEY_OTHER, /* `read` knows; NULL: another pass does */
    KEY_LATER, /* refused by name: its part is not there yet */
};

typedef void (*key_read)(struct load *load, const struct node *node, void *target);

struct key {
    const char *name;
    enum key_type type;
    size_t offset;
    uint64_t min, max;
    const char *const *words;
    key_read read;
};

struct block {
    const char *name; /* as in docs/fluxgate.schema.json, definitions */
    const char *what; /* for messages: "a route" */
    const struct key *keys;
    size_t count;
    key_read other; /* takes keys that no row names (NULL: they are refused) */
};

#define BLOCK(id, called, rows)                                                                              \
    const struct block id##_block = {#id, called, rows, sizeof(rows) / sizeof((rows)[0]), NULL}

extern const struct block config_block, listener_block, route_block, match_block, redirect_block,
    respond_block, rewrite_block, timeouts_block, route_timeouts_block, service_timeouts_block, service_block,
    endpoint_block, health_block, damping_block, filter_block, service_limits_block, route_limits_block,
    retry_block, registry_block, registry_listen_block, admin_block, limits_block, drain_block, log_block,
    flat_block;
extern const struct block *const config_blocks[]; /* NULL-terminated */

extern const char *const retry_on_words[]; /* NULL-terminated; word n is bit n of config_retry.on */
extern const char *const on_error_words[]; /* NULL-terminated; by config_filter.skip_on_error */

/* Reads a map by its table into `target`. Rows that are not there leave the target alone. */
void block_read(struct load *load, const struct block *block, const struct node *map, void *target);

/* `path` as seen from the main file's folder. */
MUST_CHECK
const char *path_resolve(struct load *load, const char *path);

#endif
