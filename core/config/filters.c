#include <stddef.h>
#include <string.h>

#include "core/config/config_internal.h"

enum { FILTERS_MAX = 64 };

const char *const on_error_words[] = {"fail", "skip", NULL}; /* by skip_on_error */

static void
take_on_error(struct load *load, const struct node *node, void *target)
{
    struct config_filter *filter = target;
    int word;
    if (value_word(load, node, on_error_words, &word)) filter->skip_on_error = word == 1;
}

static void
take_filter_options(struct load *load, const struct node *node, void *target)
{
    struct config_filter *filter = target;
    if (value_map(load, node)) filter->plugin.options.json = options_json(load, node);
}

static const struct key filter_keys[] = {
    {"use", KEY_OTHER, 0, 0, 0, NULL, NULL}, /* by filter_read: a name alone is one too */
    {"options", KEY_OTHER, 0, 0, 0, NULL, take_filter_options},
    {"on_error", KEY_OTHER, 0, 0, 0, NULL, take_on_error},
};
BLOCK(filter, "a filter", filter_keys);

static bool
filter_read(struct load *load, const struct node *item, struct config_filter *filter)
{
    const struct node *use = item;
    const char *name;
    filter->plugin.options.json = "{}";
    if (item->kind == NODE_MAP) {
        block_read(load, &filter_block, item, filter);
        use = node_find(item, "use");
        if (use == NULL) {
            refuse(load, item->place, NULL, "a filter needs 'use', the name of one");
            return false;
        }
    } else if (item->kind == NODE_LIST || node_is_null(item)) {
        value_refuse(load, item, "a filter's name, or a map {use, options, on_error}");
        return false;
    }
    return value_text(load, use, "the name of a filter", &name) &&
           plugin_find(load, PLUGIN_FILTER, name, use->place, &filter->plugin);
}

struct config_filter *
filters_read(struct load *load, const struct node *list, const char *owner, size_t *count)
{
    if (list == NULL || node_is_null(list)) return NULL;
    if (list->kind != NODE_LIST) {
        value_refuse(load, list, "a list of filters, such as [cors, {use: rate_limit, options: {}}]");
        return NULL;
    }
    if (list->count > FILTERS_MAX) {
        refuse(load, list->place, NULL, "filters: at most %d", FILTERS_MAX);
        return NULL;
    }
    struct config_filter *filters = load_alloc(load, (list->count + 1) * sizeof *filters);
    if (filters == NULL || owner == NULL) return NULL;
    unsigned at = 0;
    for (const struct node *item = list->first; item != NULL; item = item->next, at++) {
        struct config_filter *filter = &filters[*count];
        filter->plugin.options.path = load_text(load, "%s.filters[%u].options", owner, at);
        if (filter_read(load, item, filter)) ++*count;
    }
    return filters;
}
