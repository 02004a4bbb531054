#include "core/config/value.h"

#include <stdio.h>
#include <string.h>

#include "core/base/text.h"

/* Past this a wait is no wait any more, and sums with clock_now_us() would wrap. */
static const uint64_t DURATION_MAX_US = (uint64_t)10 * 365 * 24 * 3600 * 1000000;

const char *
value_kind(struct load *load, const struct node *node)
{
    if (node->kind == NODE_MAP) return "a map";
    if (node->kind == NODE_LIST) return "a list";
    if (node_is_null(node)) return "nothing";
    return shown(load, node->text);
}

static void
refuse_value(struct load *load, const struct node *node, const char *hint, const char *expected)
{
    const char *found = value_kind(load, node);
    if (node->bad) return;
    if (node->key != NULL) {
        refuse(load, node->place, hint, "%s: expected %s, found %s", node->key, expected, found);
    } else {
        refuse(load, node->place, hint, "expected %s, found %s", expected, found);
    }
}

void
value_refuse(struct load *load, const struct node *node, const char *expected)
{
    refuse_value(load, node, NULL, expected);
}

static bool
is_scalar(const struct node *node)
{
    return node->kind == NODE_SCALAR && !node->bad && !node_is_null(node);
}

bool
value_text(struct load *load, const struct node *node, const char *expected, const char **out)
{
    if (is_scalar(node) && node->text[0] != '\0') {
        *out = node->text;
        return true;
    }
    value_refuse(load, node, expected);
    return false;
}

bool
value_bool(struct load *load, const struct node *node, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on", NULL}, *const no[] = {"false", "no", "off", NULL};
    for (size_t i = 0; is_scalar(node) && i < 3; i++) {
        bool on = slice_equal_nocase(slice_of(node->text), slice_of(yes[i]));
        if (!on && !slice_equal_nocase(slice_of(node->text), slice_of(no[i]))) continue;
        *out = on;
        return true;
    }
    value_refuse(load, node, "true or false");
    return false;
}

bool
value_number(struct load *load, const struct node *node, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t number;
    if (is_scalar(node) && text_parse_u64(slice_of(node->text), max, &number) && number >= min) {
        *out = number;
        return true;
    }
    const char *expected =
        load_text(load, "a whole number from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    value_refuse(load, node, expected == NULL ? "a whole number" : expected);
    return false;
}

bool
value_duration(struct load *load, const struct node *node, uint64_t min, uint64_t *us)
{
    uint64_t value, number;
    if (is_scalar(node) && text_parse_duration(slice_of(node->text), &value) && value <= DURATION_MAX_US &&
        value >= min) {
        *us = value;
        return true;
    }
    const char *expected = "a duration such as 500ms, 5s or 1m30s";
    if (is_scalar(node) && text_parse_u64(slice_of(node->text), UINT64_MAX, &number) && number > 0) {
        expected = "a duration with its unit, such as 500ms, 5s or 1m30s";
    } else if (is_scalar(node) && text_parse_duration(slice_of(node->text), &value)) {
        char least[32];
        text_format_duration(min, least);
        expected = value < min ? load_text(load, "a duration of at least %s", least)
                               : "a duration of at most 10 years";
        if (expected == NULL) return false;
    }
    value_refuse(load, node, expected);
    return false;
}

void
duration_exact(uint64_t us, char out[32])
{
    uint64_t back;
    text_format_duration(us, out);
    if (!text_parse_duration(slice_of(out), &back) || back != us)
        snprintf(out, 32, "%lluus", (unsigned long long)us);
}

bool
value_size(struct load *load, const struct node *node, uint64_t min, uint64_t max, uint64_t *bytes)
{
    uint64_t value;
    bool is_size = is_scalar(node) && text_parse_size(slice_of(node->text), &value);
    if (is_size && value >= min && value <= max) {
        *bytes = value;
        return true;
    }
    const char *expected = "a size such as 512, 32k, 8M or 1g";
    if (is_size) {
        expected = load_text(
            load, "a size from %llu to %llu bytes", (unsigned long long)min, (unsigned long long)max);
        if (expected == NULL) return false;
    }
    value_refuse(load, node, expected);
    return false;
}

/* "info, warn or error" */
static const char *
words_list(struct load *load, const char *const *words)
{
    struct strbuf buf = {0};
    for (size_t i = 0; words[i] != NULL; i++) {
        if (i > 0) strbuf_add_text(&buf, words[i + 1] == NULL ? " or " : ", ");
        strbuf_add_text(&buf, words[i]);
    }
    const char *copy = buf.failed ? NULL : arena_strdup(load->arena, strbuf_slice(&buf));
    strbuf_fini(&buf);
    return copy == NULL ? "one of the known words" : copy;
}

bool
value_word(struct load *load, const struct node *node, const char *const *words, int *out)
{
    for (int i = 0; is_scalar(node) && words[i] != NULL; i++) {
        if (strcmp(words[i], node->text) != 0) continue;
        *out = i;
        return true;
    }
    const char *hint = is_scalar(node) ? text_nearest(slice_of(node->text), words) : NULL;
    refuse_value(load, node, hint, words_list(load, words));
    return false;
}

bool
value_map(struct load *load, const struct node *node)
{
    if (node->kind == NODE_MAP || (node_is_null(node) && !node->bad)) return true;
    value_refuse(load, node, "a map");
    return false;
}

bool
value_texts(
    struct load *load, const struct node *node, const char *expected, const char ***out, size_t *count)
{
    bool ok = true;
    size_t n = 0;
    const struct node *item = node->kind == NODE_LIST ? node->first : node;
    if (node->kind == NODE_MAP) {
        value_refuse(load, node, load_text(load, "a list (each %s)", expected));
        return false;
    }
    const char **texts = load_alloc(load, ((node->kind == NODE_LIST ? node->count : 1) + 1) * sizeof *texts);
    if (texts == NULL) return false;
    if (node_is_null(node)) item = NULL;
    for (; item != NULL; item = node->kind == NODE_LIST ? item->next : NULL) {
        if (value_text(load, item, expected, &texts[n])) {
            n++;
        } else {
            ok = false;
        }
    }
    *out = texts;
    if (count != NULL) *count = n;
    return ok;
}

const char *
path_resolve(struct load *load, const char *path)
{
    while (path[0] == '.' && path[1] == '/') {
        path += 2;
        while (path[0] == '/')
            path++;
    }
    if (path[0] == '/') return load_text(load, "%s", path);
    if (path[0] == '\0' || strcmp(path, ".") == 0) {
        size_t len = strlen(load->dir);
        return len == 0 ? load_text(load, ".")
                        : load_text(load, "%.*s", len == 1 ? 1 : (int)len - 1, load->dir);
    }
    return load_text(load, "%s%s", load->dir, path);
}

/* ---- blocks
 * ---------------------------------------------------------------------------------------------------- */

static void
refuse_key(struct load *load, const struct block *block, const struct node *node)
{
    const char **names = load_alloc(load, (block->count + 1) * sizeof *names);
    size_t n = 0;
    if (names == NULL) return;
    for (size_t i = 0; i < block->count; i++) {
        if (block->keys[i].type != KEY_LATER) names[n++] = block->keys[i].name;
    }
    refuse(load, node->key_place, text_nearest(slice_of(node->key), names), "%s has no key %s", block->what,
        shown(load, node->key));
}

static void
key_take(struct load *load, const struct block *block, const struct key *key, const struct node *node,
    void *target)
{
    char *at = (char *)target + key->offset;
    uint64_t number;
    int word;
    switch (key->type) {
    case KEY_DURATION:
        if (value_duration(load, node, key->min, &number)) memcpy(at, &number, sizeof number);
        break;
    case KEY_SIZE:
        if (value_size(load, node, key->min, key->max, &number)) memcpy(at, &number, sizeof number);
        break;
    case KEY_SIZE32:
        if (value_size(load, node, key->min, key->max, &number)) *(uint32_t *)(void *)at = (uint32_t)number;
        break;
    case KEY_NUMBER:
        if (value_number(load, node, key->min, key->max, &number)) *(uint32_t *)(void *)at = (uint32_t)number;
        break;
    case KEY_BOOL:
        if (!value_bool(load, node, (bool *)(void *)at)) return;
        break;
    case KEY_TEXT:
        if (!value_text(load, node, "text", (const char **)(void *)at)) return;
        break;
    case KEY_WORD:
        if (value_word(load, node, key->words, &word)) memcpy(at, &word, sizeof word);
        break;
    case KEY_OTHER:
        if (key->read != NULL) key->read(load, node, target);
        break;
    case KEY_LATER:
        refuse(load, node->key_place, NULL, "'%s'%s%s is not supported yet", key->name,
            block == &config_block ? "" : " of ", block == &config_block ? "" : block->what);
        break;
    }
}

void
block_read(struct load *load, const struct block *block, const struct node *map, void *target)
{
    if (!value_map(load, map) || map->kind != NODE_MAP) return;
    for (const struct node *node = map->first; node != NULL; node = node->next) {
        const struct key *key = NULL;
        for (size_t i = 0; i < block->count && key == NULL; i++) {
            if (strcmp(block->keys[i].name, node->key) == 0) key = &block->keys[i];
        }
        if (key != NULL) {
            key_take(load, block, key, node, target);
        } else if (block->other != NULL) {
            block->other(load, node, target);
        } else {
            refuse_key(load, block, node);
        }
    }
}
