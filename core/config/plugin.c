#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/config_internal.h"

static const struct {
    const char *what, *folder;
} kinds[] = {[PLUGIN_STRATEGY] = {"strategy", ""},
    [PLUGIN_HEALTH] = {"health policy", "health/"},
    [PLUGIN_FILTER] = {"filter", "filters/"}};

enum { CANDIDATES_MAX = 512 };

static void
candidates_add(struct load *load, const char *folder, const char **names, size_t *count)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) return;
    for (const struct dirent *entry; *count < CANDIDATES_MAX && (entry = readdir(dir)) != NULL;) {
        size_t len = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || len < 5 || strcmp(entry->d_name + len - 4, ".lua") != 0) continue;
        names[*count] = load_text(load, "%.*s", (int)len - 4, entry->d_name);
        if (names[*count] != NULL) (*count)++;
    }
    closedir(dir);
}

static bool
refuse_unknown(struct load *load, enum plugin_kind kind, const char *name, struct place place)
{
    const char **names = load_alloc(load, (CANDIDATES_MAX + 1) * sizeof *names);
    size_t count = 0;
    struct strbuf where = {0};
    if (names == NULL) return false;
    for (const char *const *dir = load->config->strategies_path; *dir != NULL; dir++) {
        const char *folder = load_text(load, "%s/%s", *dir, kinds[kind].folder);
        if (folder == NULL) break;
        candidates_add(load, folder, names, &count);
        strbuf_printf(&where, "%s%s/%s%s.lua", dir == load->config->strategies_path ? "" : ", ", *dir,
            kinds[kind].folder, name);
    }
    refuse(load, place, text_nearest(slice_of(name), names), "unknown %s %s: no file %s", kinds[kind].what,
        shown(load, name), where.at == NULL || where.failed ? "" : where.at);
    strbuf_fini(&where);
    return false;
}

static bool
file_is_there(struct load *load, const char *path, struct place place, bool *failed)
{
    struct slice bytes;
    if (bundle_read(load->bundle, path, &bytes)) return true;
    if (errno == ENOENT) return false;
    refuse(load, place, NULL, "cannot read %s: %s", shown(load, path), strerror(errno));
    *failed = true;
    return false;
}

static bool
name_is_plain(const char *name)
{
    for (const char *at = name; *at != '\0'; at++) {
        unsigned char c = ascii_lower((unsigned char)*at);
        if ((unsigned char)(c - 'a') >= 26 && (unsigned char)(c - '0') > 9 && c != '_' && c != '-')
            return false;
    }
    return name[0] != '\0' && strlen(name) < 128;
}

bool
plugin_find(struct load *load, enum plugin_kind kind, const char *name, struct place place,
    struct config_plugin *plugin)
{
    size_t len = strlen(name);
    bool failed = false;
    plugin->name = name;
    plugin->place = place;
    if (len > 4 && strcmp(name + len - 4, ".lua") == 0) {
        plugin->file = path_resolve(load, name);
        if (plugin->file == NULL) return false;
        if (file_is_there(load, plugin->file, place, &failed)) return true;
        if (!failed)
            refuse(load, place, NULL, "cannot read %s: %s", shown(load, plugin->file), strerror(ENOENT));
        return false;
    }
    if (!name_is_plain(name)) {
        refuse(load, place, NULL,
            "expected the name of a %s (letters, digits, '_', '-') or a path that ends in .lua, found %s",
            kinds[kind].what, shown(load, name));
        return false;
    }
    for (const char *const *dir = load->config->strategies_path; *dir != NULL; dir++) {
        plugin->file = load_text(load, "%s/%s%s.lua", *dir, kinds[kind].folder, name);
        if (plugin->file == NULL) return false;
        if (file_is_there(load, plugin->file, place, &failed)) return true;
        if (failed) return false;
    }
    return refuse_unknown(load, kind, name, place);
}

const char *
options_json(struct load *load, const struct node *node)
{
    struct strbuf buf = {0};
    if (node != NULL && node->kind == NODE_MAP) {
        node_json(node, &buf);
    } else {
        strbuf_add_text(&buf, "{}");
    }
    const char *json = buf.failed ? NULL : arena_strdup(load->arena, strbuf_slice(&buf));
    strbuf_fini(&buf);
    if (json == NULL) load->diags->failed = true;
    return json;
}
