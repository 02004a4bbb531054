#include "core/config/node.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"

struct node *
node_find(const struct node *map, const char *key)
{
    if (map == NULL || map->kind != NODE_MAP) return NULL;
    for (struct node *child = map->first; child != NULL; child = child->next) {
        if (strcmp(child->key, key) == 0) return child;
    }
    return NULL;
}

static bool
is_one_of(const char *text, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcmp(*words, text) == 0) return true;
    }
    return false;
}

bool
node_is_null(const struct node *node)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return node->kind == NODE_SCALAR && node->plain && is_one_of(node->text, words);
}

static size_t
digits(const char *text)
{
    size_t n = 0;
    while ((unsigned char)(text[n] - '0') <= 9)
        n++;
    return n;
}

/* JSON's own grammar (RFC 8259 §6), at most 15 digits and a two-digit exponent: more would not survive a
 * double, and such a run of digits is rather somebody's id. */
static bool
is_json_number(const char *text)
{
    const char *at = text[0] == '-' ? text + 1 : text;
    size_t whole = digits(at), fraction = 0;
    if (whole == 0 || (whole > 1 && at[0] == '0')) return false;
    at += whole;
    if (*at == '.') {
        fraction = digits(at + 1);
        if (fraction == 0) return false;
        at += 1 + fraction;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-') at++;
        size_t exponent = digits(at);
        if (exponent == 0 || exponent > 2) return false;
        at += exponent;
    }
    return *at == '\0' && whole + fraction <= 15;
}

static void
scalar_json(const struct node *node, struct strbuf *out)
{
    static const char *const yes[] = {"true", "True", "TRUE", NULL}, *const no[] = {
                                                                         "false", "False", "FALSE", NULL};
    if (node_is_null(node)) {
        strbuf_add_text(out, "null");
    } else if (node->plain && is_one_of(node->text, yes)) {
        strbuf_add_text(out, "true");
    } else if (node->plain && is_one_of(node->text, no)) {
        strbuf_add_text(out, "false");
    } else if (node->plain && is_json_number(node->text)) {
        strbuf_add_text(out, node->text);
    } else {
        strbuf_add_json(out, slice_of(node->text));
    }
}

void
node_json(const struct node *node, struct strbuf *out)
{
    if (node->kind == NODE_SCALAR) {
        scalar_json(node, out);
        return;
    }
    strbuf_add_char(out, node->kind == NODE_MAP ? '{' : '[');
    for (const struct node *child = node->first; child != NULL; child = child->next) {
        if (child != node->first) strbuf_add_text(out, ", ");
        if (node->kind == NODE_MAP) {
            strbuf_add_json(out, slice_of(child->key));
            strbuf_add_text(out, ": ");
        }
        node_json(child, out);
    }
    strbuf_add_char(out, node->kind == NODE_MAP ? '}' : ']');
}

/* The member whose key begins `path`: the longest, since names of services may hold dots. */
static const struct node *
member_step(const struct node *map, const char **path)
{
    const struct node *best = NULL;
    size_t best_len = 0;
    for (const struct node *child = map->first; child != NULL; child = child->next) {
        size_t len = strlen(child->key);
        if (len < best_len || strncmp(*path, child->key, len) != 0) continue;
        char after = (*path)[len];
        if (after != '\0' && after != '.' && after != '[') continue;
        best = child;
        best_len = len;
    }
    *path += best_len;
    return best;
}

static const struct node *
item_step(const struct node *list, const char **path)
{
    const char *end = strchr(*path, ']');
    uint64_t at;
    if (end == NULL) return NULL;
    struct slice number = {*path + 1, (size_t)(end - *path - 1)};
    if (list->kind != NODE_LIST || !text_parse_u64(number, UINT32_MAX, &at) || at >= list->count) return NULL;
    const struct node *item = list->first;
    while (at-- > 0)
        item = item->next;
    *path = end + 1;
    return item;
}

struct place
node_place(const struct node *root, const char *path)
{
    const struct node *at = root;
    while (*path != '\0') {
        if (*path == '.') path++;
        const struct node *next = *path == '['           ? item_step(at, &path)
                                  : at->kind == NODE_MAP ? member_step(at, &path)
                                                         : NULL;
        if (next == NULL) break;
        at = next;
    }
    return at->key != NULL ? at->key_place : at->place;
}
