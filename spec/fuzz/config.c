/* room: config */
/* Any bytes as the main file: they load or are refused with a complaint, and what loads prints a
 * configuration that loads and prints the same. A line "%%% NAME" begins a further file beside it, for
 * includes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/config/config.h"

#define MAIN_FILE "/conf/fluxgate.yaml"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
must(bool truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static struct bundle *
bundle_new(void)
{
    static const char *const names[] = {
        "round_robin", "least_connections", "sticky_sessions", "health/http", "health/tcp"};
    struct bundle *bundle = bundle_open();
    must(bundle != NULL, "bundle_open");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "/conf/strategies/%s.lua", names[i]);
        must(bundle_put(bundle, path, SLICE_LIT("return {}")), "bundle_put");
    }
    return bundle;
}

/* Splits the input at its "%%% NAME" lines. */
static void
put_files(struct bundle *bundle, struct slice rest)
{
    char path[64] = MAIN_FILE;
    while (path[0] != '\0') {
        const char *mark = rest.len == 0 ? NULL : memmem(rest.at, rest.len, "\n%%% ", 5);
        struct slice bytes = {rest.at, mark == NULL ? rest.len : (size_t)(mark - rest.at)};
        must(bundle_put(bundle, path, bytes), "bundle_put");
        path[0] = '\0';
        if (mark == NULL) return;
        rest = (struct slice){mark + 5, rest.len - bytes.len - 5};
        const char *end = memchr(rest.at, '\n', rest.len);
        size_t len = end == NULL ? rest.len : (size_t)(end - rest.at);
        if (len == 0 || len > 32 || memchr(rest.at, '\0', len) != NULL) return;
        snprintf(path, sizeof path, "/conf/%.*s", (int)len, rest.at);
        rest = (struct slice){rest.at + len, rest.len - len};
    }
}

static char *
print_text(const struct config *config)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    must(out != NULL, "open_memstream");
    config_print(config, out);
    must(fclose(out) == 0 && text != NULL, "fclose");
    return text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bundle *bundle = bundle_new();
    struct diags diags = {0}, again = {0};
    put_files(bundle, (struct slice){(const char *)data, size});
    struct config *config = config_load(bundle, MAIN_FILE, &diags);
    must(config != NULL || !diags_ok(&diags), "no configuration and no complaint");
    if (config != NULL) {
        struct place place = config_place(config, "services.web.options.x[3].y");
        must(place.file != NULL, "config_place");
        char *once = print_text(config);
        if (diags_ok(&diags)) {
            must(bundle_put(bundle, MAIN_FILE, slice_of(once)), "bundle_put");
            struct config *second = config_load(bundle, MAIN_FILE, &again);
            if (!diags_ok(&again)) fprintf(stderr, "%s\n", once), diags_print(&again, stderr);
            must(second != NULL && diags_ok(&again), "the printed configuration does not load");
            char *twice = print_text(second);
            must(strcmp(once, twice) == 0, "the printed configuration prints another");
            free(twice);
            config_free(second);
        }
        free(once);
    }
    config_free(config);
    diags_fini(&diags);
    diags_fini(&again);
    bundle_free(bundle);
    return 0;
}
