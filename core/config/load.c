#include <stdlib.h>
#include <string.h>

#include "core/config/config_internal.h"
#include "core/config/keys.h"

const struct block *const config_blocks[] = {&config_block, &listener_block, &route_block, &match_block,
    &redirect_block, &respond_block, &rewrite_block, &timeouts_block, &service_timeouts_block,
    &route_timeouts_block, &service_block, &endpoint_block, &health_block, &damping_block, &filter_block,
    &registry_block, &registry_listen_block, &admin_block, &limits_block, &service_limits_block,
    &route_limits_block, &retry_block, &drain_block, &log_block, &flat_block, NULL};

static bool
config_build(struct load *load, const char *path)
{
    struct config *config = load->config;
    struct places *places = load_alloc(load, sizeof *places);
    const char *slash = strrchr(path, '/');
    struct index names = {0};
    config->file = load_text(load, "%s", path);
    load->dir = slash == NULL ? "" : load_text(load, "%.*s", (int)(slash - path + 1), path);
    if (places == NULL || config->file == NULL || load->dir == NULL) return false;
    struct node *root = node_load(load, config->file);
    if (root == NULL) return false;
    places->root = root;
    places->dir = load->dir;
    config->places = places;
    sections_default(load);
    if (load->diags->failed) return false;
    if (root->count == 0) {
        refuse(load, (struct place){config->file, 1, 1}, NULL,
            "the file is empty: expected 'listeners' and 'routes'");
    } else if (flat_is(root)) {
        flat_load(load, root);
    } else {
        sections_load(load, root);
        services_load(load, node_find(root, "services"), &names);
        routes_load(load, node_find(root, "routes"), &names);
    }
    places->strategies_given = load->plugin_dirs;
    index_fini(&names);
    return !load->diags->failed;
}

struct config *
config_load(struct bundle *bundle, const char *path, struct diags *diags)
{
    struct config *config = calloc(1, sizeof *config);
    struct load load = {.config = config, .bundle = bundle, .diags = diags};
    if (config == NULL) {
        diags->failed = true;
        return NULL;
    }
    arena_init(&config->arena, 16384);
    load.arena = &config->arena;
    bool built = config_build(&load, path);
    complaints_flush(&load, path);
    if (built && !diags->failed) return config;
    config_free(config);
    return NULL;
}

void
config_free(struct config *config)
{
    if (config == NULL) return;
    arena_fini(&config->arena);
    free(config);
}

struct place
config_place(const struct config *config, const char *path)
{
    const struct places *places = config->places;
    const char *flat = config->is_flat ? flat_path(path) : NULL;
    return node_place(places->root, flat != NULL ? flat : path);
}

void
config_keys(void (*each)(void *context, const char *block, const char *key, bool later), void *context)
{
    for (size_t i = 0; config_blocks[i] != NULL; i++) {
        for (size_t k = 0; k < config_blocks[i]->count; k++) {
            const struct key *key = &config_blocks[i]->keys[k];
            each(context, config_blocks[i]->name, key->name, key->type == KEY_LATER);
        }
    }
}
