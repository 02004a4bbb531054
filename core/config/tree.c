#include "core/config/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "core/base/text.h"
#include "core/config/index.h"

enum { ANCHORS_MAX = 500 };

struct anchor {
    const char *name;
    struct node *node; /* NULL while the node is still being read */
    struct anchor *next;
};

struct parse {
    struct load *load;
    const char *file;
    struct slice bytes;
    yaml_parser_t yaml;
    unsigned anchor_count;
    struct anchor *anchors; /* newest first, so that a name given again means the later one */
};

static struct place
place_of(const struct parse *parse, yaml_mark_t mark)
{
    return (struct place){parse->file, (int)mark.line + 1, (int)mark.column + 1};
}

static struct place
place_at(const char *file, struct slice bytes, size_t offset)
{
    struct place place = {file, 1, 1};
    for (size_t i = 0; i < offset && i < bytes.len; i++) {
        place.column++;
        if (bytes.at[i] == '\n') {
            place.line++;
            place.column = 1;
        }
    }
    return place;
}

/* The braces of ${NAME} end a flow map or begin one: the likeliest slip that libyaml's own words do not
 * explain. */
static const char *
syntax_hint(const struct parse *parse, size_t line)
{
    struct slice rest = parse->bytes;
    const char *end;
    for (; line > 0 && (end = memchr(rest.at, '\n', rest.len)) != NULL; line--)
        rest = (struct slice){end + 1, rest.len - (size_t)(end + 1 - rest.at)};
    end = memchr(rest.at, '\n', rest.len);
    if (end != NULL) rest.len = (size_t)(end - rest.at);
    bool expands = rest.len > 0 && memmem(rest.at, rest.len, "${", 2) != NULL;
    return expands ? " (inside { } or [ ], put quotes around a value that holds ${...})" : "";
}

static void
refuse_syntax(struct parse *parse)
{
    const yaml_parser_t *yaml = &parse->yaml;
    const char *problem = yaml->problem != NULL ? yaml->problem : "it cannot be read";
    const char *also = syntax_hint(parse, yaml->problem_mark.line);
    if (yaml->error == YAML_MEMORY_ERROR) {
        parse->load->diags->failed = true;
    } else if (yaml->error == YAML_READER_ERROR) {
        refuse(parse->load, place_at(parse->file, parse->bytes, yaml->problem_offset), NULL,
            "not valid YAML: %s", problem);
    } else if (yaml->context != NULL) {
        refuse(parse->load, place_of(parse, yaml->problem_mark), NULL,
            "not valid YAML: %s (%s in line %zu)%s", problem, yaml->context, yaml->context_mark.line + 1,
            also);
    } else {
        refuse(parse->load, place_of(parse, yaml->problem_mark), NULL, "not valid YAML: %s%s", problem, also);
    }
}

static bool
next_event(struct parse *parse, yaml_event_t *event)
{
    if (yaml_parser_parse(&parse->yaml, event)) return true;
    refuse_syntax(parse);
    return false;
}

static struct node *
node_new(struct load *load, enum node_kind kind, struct place place)
{
    if (load->nodes >= NODE_COUNT_MAX) {
        if (load->nodes++ == NODE_COUNT_MAX)
            refuse(load, place, NULL, "more than %d values in all (those that aliases repeat count too)",
                NODE_COUNT_MAX);
        return NULL;
    }
    struct node *node = load_alloc(load, sizeof *node);
    if (node == NULL) return NULL;
    load->nodes++;
    node->kind = kind;
    node->place = place;
    return node;
}

void
node_append(struct node *parent, struct node *child)
{
    child->next = NULL;
    if (parent->last == NULL) {
        parent->first = child;
    } else {
        parent->last->next = child;
    }
    parent->last = child;
    parent->count++;
}

static struct node *
node_copy(struct load *load, const struct node *from, struct place place)
{
    struct node *copy = node_new(load, from->kind, place);
    if (copy == NULL) return NULL;
    copy->plain = from->plain;
    copy->bad = from->bad;
    copy->text = from->text;
    for (const struct node *child = from->first; child != NULL; child = child->next) {
        struct node *twin = node_copy(load, child, child->place);
        if (twin == NULL) return NULL;
        twin->key = child->key;
        twin->key_place = child->key_place;
        node_append(copy, twin);
    }
    return copy;
}

static struct anchor *
anchor_open(struct parse *parse, const yaml_event_t *event, const yaml_char_t *name)
{
    if (++parse->anchor_count > ANCHORS_MAX) {
        refuse(parse->load, place_of(parse, event->start_mark), NULL, "more than %d anchors", ANCHORS_MAX);
        return NULL;
    }
    struct anchor *anchor = load_alloc(parse->load, sizeof *anchor);
    if (anchor == NULL) return NULL;
    anchor->name = load_text(parse->load, "%s", (const char *)name);
    if (anchor->name == NULL) return NULL;
    anchor->next = parse->anchors;
    parse->anchors = anchor;
    return anchor;
}

static struct node *
alias_resolve(struct parse *parse, const yaml_event_t *event)
{
    const char *name = (const char *)event->data.alias.anchor;
    struct place place = place_of(parse, event->start_mark);
    for (const struct anchor *anchor = parse->anchors; anchor != NULL; anchor = anchor->next) {
        if (strcmp(anchor->name, name) != 0) continue;
        if (anchor->node != NULL) return node_copy(parse->load, anchor->node, place);
        refuse(parse->load, place, NULL, "alias %s stands inside its own anchor", shown(parse->load, name));
        return NULL;
    }
    refuse(parse->load, place, NULL, "no anchor %s stands above this alias", shown(parse->load, name));
    return NULL;
}

/* The core tags say what we find out anyway; any other would be ignored silently, so it is refused. */
static bool
tag_is_known(struct parse *parse, const yaml_char_t *tag, yaml_mark_t mark, bool *text)
{
    static const char prefix[] = "tag:yaml.org,2002:";
    static const char *const known[] = {"str", "int", "float", "bool", "null", "seq", "map", NULL};
    const char *name = (const char *)tag;
    if (name == NULL) return true;
    if (strcmp(name, "!") == 0) {
        *text = true;
        return true;
    }
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) {
        for (size_t i = 0; known[i] != NULL; i++) {
            if (strcmp(name + sizeof prefix - 1, known[i]) != 0) continue;
            *text = i == 0;
            return true;
        }
    }
    refuse(parse->load, place_of(parse, mark), NULL, "the YAML tag %s is not supported",
        shown(parse->load, name));
    return false;
}

static struct node *
scalar_new(struct parse *parse, const yaml_event_t *event)
{
    struct load *load = parse->load;
    struct place place = place_of(parse, event->start_mark);
    struct slice text = {(const char *)event->data.scalar.value, event->data.scalar.length};
    bool forced_text = false;
    if (!tag_is_known(parse, event->data.scalar.tag, event->start_mark, &forced_text)) return NULL;
    if (memchr(text.at, '\0', text.len) != NULL) {
        refuse(load, place, NULL, "a value may not hold a NUL byte");
        text.len = strlen(text.at);
    }
    struct node *node = node_new(load, NODE_SCALAR, place);
    if (node == NULL) return NULL;
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !forced_text;
    node->bad = !env_expand(load, place, text, &node->text);
    return node->text == NULL ? NULL : node;
}

static struct node *node_read(struct parse *parse, const yaml_event_t *event, unsigned depth);

static bool
list_read(struct parse *parse, struct node *list, unsigned depth)
{
    yaml_event_t event;
    for (;;) {
        if (!next_event(parse, &event)) return false;
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        struct node *item = end ? NULL : node_read(parse, &event, depth + 1);
        yaml_event_delete(&event);
        if (end) return true;
        if (item == NULL) return false;
        node_append(list, item);
    }
}

/* The key's text, "" (said) where it is no short scalar. NULL: memory is out. */
static const char *
key_read(struct parse *parse, const yaml_event_t *event)
{
    struct place place = place_of(parse, event->start_mark);
    const char *text = (const char *)event->data.scalar.value;
    if (event->type != YAML_SCALAR_EVENT) {
        refuse(parse->load, place, NULL, "a key must be text");
    } else if (event->data.scalar.length == 0 || strlen(text) != event->data.scalar.length) {
        refuse(parse->load, place, NULL, "a key may neither be empty nor hold a NUL byte");
    } else if (event->data.scalar.length > NODE_KEY_BYTES) {
        refuse(parse->load, place, NULL, "a key may have at most %d bytes", NODE_KEY_BYTES);
    } else {
        return load_text(parse->load, "%s", text);
    }
    return NULL;
}

struct keys_seen {
    struct index index;
    struct node **nodes;
    size_t count, cap;
};

static const char *
seen_name(const void *context, uint32_t at)
{
    const struct keys_seen *seen = context;
    return seen->nodes[at]->key;
}

/* False: memory is out. *first is the earlier member of that name, if any. */
static bool
key_note(struct keys_seen *seen, struct node *node, const struct node **first)
{
    uint32_t before = UINT32_MAX;
    *first = NULL;
    if (seen->count == seen->cap) {
        size_t cap = seen->cap == 0 ? 8 : seen->cap * 2;
        struct node **nodes = realloc(seen->nodes, cap * sizeof *nodes);
        if (nodes == NULL) return false;
        seen->nodes = nodes;
        seen->cap = cap;
    }
    seen->nodes[seen->count] = node;
    if (index_add(&seen->index, node->key, (uint32_t)seen->count, seen_name, seen, &before)) {
        seen->count++;
        return true;
    }
    if (before == UINT32_MAX) return false;
    *first = seen->nodes[before];
    return true;
}

/* `<<: *anchor` (or a list of them): members that the map does not state itself. */
static bool
merge_take(struct parse *parse, struct node *map, struct keys_seen *seen, struct node *merge)
{
    if (merge->kind == NODE_LIST) {
        for (struct node *item = merge->first, *next; item != NULL; item = next) {
            next = item->next;
            if (!merge_take(parse, map, seen, item)) return false;
        }
        return true;
    }
    if (merge->kind != NODE_MAP) {
        refuse(parse->load, merge->place, NULL, "<<: expected a map, or a list of maps, by alias");
        return true;
    }
    for (struct node *child = merge->first, *next; child != NULL; child = next) {
        const struct node *first;
        next = child->next;
        if (!key_note(seen, child, &first)) {
            parse->load->diags->failed = true;
            return false;
        }
        if (first == NULL) node_append(map, child);
    }
    return true;
}

static bool
member_add(struct parse *parse, struct node *map, struct keys_seen *seen, struct node *value)
{
    const struct node *first;
    if (!key_note(seen, value, &first)) {
        parse->load->diags->failed = true;
        return false;
    }
    if (first == NULL) {
        node_append(map, value);
    } else {
        refuse(parse->load, value->key_place, NULL, "%s is given twice, first in line %d",
            shown(parse->load, value->key), first->key_place.line);
    }
    return true;
}

static bool
map_members(
    struct parse *parse, struct node *map, struct keys_seen *seen, struct node *merges, unsigned depth)
{
    yaml_event_t event;
    for (;;) {
        if (!next_event(parse, &event)) return false;
        bool end = event.type == YAML_MAPPING_END_EVENT;
        bool merge = event.type == YAML_SCALAR_EVENT && event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                     strcmp((const char *)event.data.scalar.value, "<<") == 0;
        struct place place = place_of(parse, event.start_mark);
        const char *key = end ? NULL : key_read(parse, &event);
        yaml_event_delete(&event);
        if (end) return true;
        if (key == NULL || !next_event(parse, &event)) return false;
        struct node *value = node_read(parse, &event, depth + 1);
        yaml_event_delete(&event);
        if (value == NULL) return false;
        value->key = key;
        value->key_place = place;
        if (merge) {
            node_append(merges, value);
        } else if (!member_add(parse, map, seen, value)) {
            return false;
        }
    }
}

static bool
map_read(struct parse *parse, struct node *map, unsigned depth)
{
    struct keys_seen seen = {0};
    struct node merges = {.kind = NODE_LIST};
    bool ok = map_members(parse, map, &seen, &merges, depth);
    for (struct node *merge = merges.first, *next; ok && merge != NULL; merge = next) {
        next = merge->next;
        ok = merge_take(parse, map, &seen, merge);
    }
    index_fini(&seen.index);
    free(seen.nodes);
    return ok;
}

static struct node *
collection_read(struct parse *parse, const yaml_event_t *event, unsigned depth)
{
    bool is_map = event->type == YAML_MAPPING_START_EVENT, forced = false;
    const yaml_char_t *anchor_name =
        is_map ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
    const yaml_char_t *tag = is_map ? event->data.mapping_start.tag : event->data.sequence_start.tag;
    struct place place = place_of(parse, event->start_mark);
    if (depth >= NODE_DEPTH_MAX) {
        refuse(parse->load, place, NULL, "nested deeper than %d levels", NODE_DEPTH_MAX);
        return NULL;
    }
    if (!tag_is_known(parse, tag, event->start_mark, &forced)) return NULL;
    struct anchor *anchor = NULL;
    if (anchor_name != NULL && (anchor = anchor_open(parse, event, anchor_name)) == NULL) return NULL;
    struct node *node = node_new(parse->load, is_map ? NODE_MAP : NODE_LIST, place);
    if (node == NULL || !(is_map ? map_read : list_read)(parse, node, depth)) return NULL;
    if (anchor != NULL) anchor->node = node;
    return node;
}

static struct node *
node_read(struct parse *parse, const yaml_event_t *event, unsigned depth)
{
    struct node *node;
    switch ((int)event->type) {
    case YAML_ALIAS_EVENT: return alias_resolve(parse, event);
    case YAML_SCALAR_EVENT:
        node = scalar_new(parse, event);
        if (node != NULL && event->data.scalar.anchor != NULL) {
            struct anchor *anchor = anchor_open(parse, event, event->data.scalar.anchor);
            if (anchor == NULL) return NULL;
            anchor->node = node;
        }
        return node;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT: return collection_read(parse, event, depth);
    }
    refuse(parse->load, place_of(parse, event->start_mark), NULL, "not valid YAML here");
    return NULL;
}

static struct node *
document_read(struct parse *parse)
{
    struct node *root = NULL;
    yaml_event_t event;
    for (bool more = true; more;) {
        if (!next_event(parse, &event)) return NULL;
        struct place place = place_of(parse, event.start_mark);
        bool document = event.type == YAML_DOCUMENT_START_EVENT;
        more = event.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
        if (!document) continue;
        if (root != NULL) {
            refuse(parse->load, place, NULL, "a second document begins here; one is expected");
            return NULL;
        }
        if (!next_event(parse, &event)) return NULL;
        root = node_read(parse, &event, 0);
        yaml_event_delete(&event);
        if (root == NULL) return NULL;
    }
    if (root != NULL) return root;
    return node_new(parse->load, NODE_MAP, (struct place){parse->file, 1, 1});
}

/* libyaml's own message has no line for these. */
static bool
encoding_is_utf8(struct parse *parse)
{
    struct slice rest = parse->bytes;
    while (rest.len > 0) {
        size_t n = text_utf8_length(rest);
        if (n == 0) {
            refuse(parse->load, place_at(parse->file, parse->bytes, parse->bytes.len - rest.len), NULL,
                "not UTF-8: byte 0x%02x", (unsigned)(unsigned char)rest.at[0]);
            return false;
        }
        rest.at += n;
        rest.len -= n;
    }
    return true;
}

struct node *
node_parse(struct load *load, const char *file, struct slice bytes)
{
    struct parse parse = {.load = load, .file = file, .bytes = bytes};
    struct node *root = NULL;
    static const struct slice mark = SLICE_LIT("\xef\xbb\xbf"); /* which libyaml counts as a column */
    if (slice_starts_with(bytes, mark)) {
        bytes.at += mark.len;
        bytes.len -= mark.len;
        parse.bytes = bytes;
    }
    if (bytes.len > CONFIG_FILE_BYTES) {
        refuse(load, (struct place){file, 0, 0}, NULL, "longer than %d bytes", CONFIG_FILE_BYTES);
        return NULL;
    }
    if (!encoding_is_utf8(&parse)) return NULL;
    if (!yaml_parser_initialize(&parse.yaml)) {
        load->diags->failed = true;
        return NULL;
    }
    yaml_parser_set_encoding(&parse.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parse.yaml, (const unsigned char *)bytes.at, bytes.len);
    root = document_read(&parse);
    yaml_parser_delete(&parse.yaml);
    return root;
}
