#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/config/node.h"
#include "core/config/value.h"

/* The files that are being read, the innermost first. */
struct chain {
    const char *path;
    unsigned depth;
    const struct chain *outer;
};

static struct node *file_load(
    struct load *load, const char *path, const struct place *from, const struct chain *outer);

/* `path` as seen from the file it is written in. Dots are dropped from its front only, so that a cycle is
 * noticed. */
static const char *
beside(struct load *load, const char *file, const char *path)
{
    const char *slash = strrchr(file, '/');
    while (path[0] == '.' && path[1] == '/') {
        path += 2;
        while (path[0] == '/')
            path++;
    }
    if (path[0] == '/' || slash == NULL) return load_text(load, "%s", path);
    return load_text(load, "%.*s%s", (int)(slash - file + 1), file, path);
}

static void
refuse_twice(struct load *load, const struct node *second, const struct node *first)
{
    refuse(load, second->key_place, NULL, "%s is given twice, first in %s:%d", shown(load, second->key),
        first->key_place.file, first->key_place.line);
}

/* Maps are merged, lists appended; what is neither may stand in one file only. */
static void
merge(struct load *load, struct node *into, struct node *from)
{
    for (struct node *child = from->first, *next; child != NULL; child = next) {
        next = child->next;
        if (into->kind == NODE_LIST) {
            node_append(into, child);
            continue;
        }
        struct node *mine = node_find(into, child->key);
        if (mine == NULL) {
            node_append(into, child);
        } else if (node_is_null(mine) && child->kind != NODE_SCALAR) {
            mine->kind = child->kind; /* "services:" with nothing below it */
            merge(load, mine, child);
        } else if (mine->kind == child->kind && mine->kind != NODE_SCALAR) {
            merge(load, mine, child);
        } else if (!node_is_null(child)) {
            refuse_twice(load, child, mine);
        }
    }
}

static struct node *
unlink_member(struct node *map, const char *key)
{
    struct node *before = NULL;
    for (struct node *child = map->first; child != NULL; before = child, child = child->next) {
        if (strcmp(child->key, key) != 0) continue;
        if (before == NULL) {
            map->first = child->next;
        } else {
            before->next = child->next;
        }
        if (map->last == child) map->last = before;
        map->count--;
        return child;
    }
    return NULL;
}

static void
include_one(struct load *load, struct node *root, const struct node *item, const struct chain *chain)
{
    const char *text;
    if (!value_text(load, item, "the path of a YAML file", &text)) return;
    const char *path = beside(load, chain->path, text);
    if (path == NULL) return;
    for (const struct chain *at = chain; at != NULL; at = at->outer) {
        if (strcmp(at->path, path) != 0) continue;
        refuse(load, item->place, NULL, "%s includes itself", shown(load, path));
        return;
    }
    if (chain->depth >= INCLUDE_DEPTH_MAX || load->files >= INCLUDE_FILES_MAX) {
        refuse(load, item->place, NULL, "more than %d files, or %d levels, of includes", INCLUDE_FILES_MAX,
            INCLUDE_DEPTH_MAX);
        return;
    }
    struct node *included = file_load(load, path, &item->place, chain);
    if (included != NULL) merge(load, root, included);
}

static struct node *
file_load(struct load *load, const char *path, const struct place *from, const struct chain *outer)
{
    struct chain chain = {path, outer == NULL ? 0 : outer->depth + 1, outer};
    struct place whole = {path, 0, 0};
    struct slice bytes;
    load->files++;
    if (!bundle_read(load->bundle, path, &bytes)) {
        refuse(load, from == NULL ? whole : *from, NULL, "cannot read %s: %s", shown(load, path),
            strerror(errno));
        return NULL;
    }
    struct node *root = node_parse(load, path, bytes);
    if (root == NULL) return NULL;
    if (node_is_null(root)) {
        root->kind = NODE_MAP;
    } else if (root->kind != NODE_MAP) {
        refuse(load, root->place, NULL, "expected a map such as 'listeners: [...]', found %s",
            value_kind(load, root));
        return NULL;
    }
    struct node *list = unlink_member(root, "include");
    if (list == NULL) return root;
    if (list->kind == NODE_SCALAR) include_one(load, root, list, &chain);
    if (list->kind == NODE_MAP) value_refuse(load, list, "a list of YAML files");
    for (const struct node *item = list->kind == NODE_LIST ? list->first : NULL; item != NULL;
         item = item->next)
        include_one(load, root, item, &chain);
    return root;
}

struct node *
node_load(struct load *load, const char *path)
{
    return file_load(load, path, NULL, NULL);
}
