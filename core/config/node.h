/* core/config/node.h: a YAML document as a tree that remembers where each part stands, with environment
 * variables expanded and includes merged. Internal to core/config. */
#ifndef FLUXGATE_CONFIG_NODE_H
#define FLUXGATE_CONFIG_NODE_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/diag.h"
#include "core/base/strbuf.h"
#include "core/config/bundle.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

enum {
    NODE_DEPTH_MAX = 32,
    NODE_COUNT_MAX = 1000000,     /* over all files, copies made by aliases counted */
    NODE_KEY_BYTES = 128,         /* one key: quoted and escaped it still is a "simple key" of 1024 */
    CONFIG_FILE_BYTES = 16 << 20, /* one file */
    CONFIG_TEXT_BYTES = 32 << 20, /* all values after expansion */
    INCLUDE_DEPTH_MAX = 16,
    INCLUDE_FILES_MAX = 256,
    DIAGS_SHOWN_MAX = 1000,
};

struct node {
    enum node_kind kind;
    bool plain;         /* a scalar without quotes: may be null, a number, true */
    bool bad;           /* already complained about: nothing more is said of its value */
    uint32_t count;     /* of children */
    struct place place; /* of the value */
    const char *key;    /* in a map, else NULL */
    struct place key_place;
    const char *text; /* of a scalar: UTF-8 without NUL */
    struct node *first, *last, *next;
};

/* Something that was said; shown in the order of the file, not in that of the parts that read it. */
struct complaint {
    enum diag_level level;
    struct place place;
    const char *text, *hint;
    const struct complaint *next; /* said before it */
    size_t number;
};

/* What a load in progress shares between the files of this room. */
struct load {
    struct config *config;
    struct arena *arena;
    struct bundle *bundle;
    struct diags *diags;
    const char *dir; /* of the main file, with its slash, or "" */
    size_t nodes, text_bytes, files;
    const struct complaint *complaints; /* the last one said */
    size_t said, errors;
    uint64_t plugin_dirs; /* of strategies_path that the file itself names */
};

/* One complaint; past DIAGS_SHOWN_MAX they are only counted. */
void complain(struct load *load, enum diag_level level, struct place place, const char *hint,
    const char *format, ...) PRINTF_LIKE(5, 6);
/* Hands all of them to diags, sorted by place. */
void complaints_flush(struct load *load, const char *main_file);
#define refuse(load, place, ...) complain(load, DIAG_ERROR, place, __VA_ARGS__)

/* Zeroed arena memory; NULL sets diags.failed. */
MUST_CHECK
void *load_alloc(struct load *load, size_t bytes);
MUST_CHECK
char *load_text(struct load *load, const char *format, ...) PRINTF_LIKE(2, 3);

/* `text` in quotes for a message: control bytes escaped, cut where it is long. Never NULL. */
const char *shown(struct load *load, const char *text);

/* Parses bytes of `file` into a tree. NULL: said in diags. */
MUST_CHECK
struct node *node_parse(struct load *load, const char *file, struct slice bytes);

/* The main file with all it includes, merged. NULL: nothing usable, said in diags. */
MUST_CHECK
struct node *node_load(struct load *load, const char *path);

/* ${NAME} and ${NAME:-default} filled in; $${ stands for ${ itself. False: said in diags; *out is NULL where
 * memory is out. */
MUST_CHECK
bool env_expand(struct load *load, struct place place, struct slice text, const char **out);

struct node *node_find(const struct node *map, const char *key); /* NULL where it is not there */
bool node_is_null(const struct node *node);
void node_append(struct node *parent, struct node *child);

/* The node as JSON: plain scalars that look like null, true, false or a number are that, all others strings.
 */
void node_json(const struct node *node, struct strbuf *out);

/* The place of a dotted path, of its nearest parent where it is not there. */
struct place node_place(const struct node *root, const char *path);

#endif
