/* core/config/config_internal.h: the parts of a load, in the order they run: sections, services, routes; or
 * flat. */
#ifndef FLUXGATE_CONFIG_CONFIG_INTERNAL_H
#define FLUXGATE_CONFIG_CONFIG_INTERNAL_H
#include "core/config/config.h"
#include "core/config/index.h"
#include "core/config/node.h"
#include "core/config/value.h"

#define DEFAULT_ADMIN    "127.0.0.1:9901"
#define DEFAULT_STRATEGY "round_robin"
#define DEFAULT_HEALTH   "http"
#define DEFAULT_PASSIVE  "passive"

/* config.places */
struct places {
    const struct node *root;
    const char *dir;         /* of the main file, with its slash: what relative paths were resolved against */
    size_t strategies_given; /* leading entries of strategies_path that the file names itself */
};

enum plugin_kind { PLUGIN_STRATEGY, PLUGIN_HEALTH, PLUGIN_FILTER };

/* Finds the source of `name` and reads it into the bundle. `node` may be NULL (a default): then `place` is
 * blamed. */
MUST_CHECK
bool plugin_find(struct load *load, enum plugin_kind kind, const char *name, struct place place,
    struct config_plugin *plugin);

/* The node (NULL or null: an empty map) as a JSON object. */
MUST_CHECK
const char *options_json(struct load *load, const struct node *node);

/* The `filters` of a route or service; `owner` is its path ("routes[2]", NULL: memory is out). NULL: there
 * are none, or said in diags. */
struct config_filter *filters_read(
    struct load *load, const struct node *list, const char *owner, size_t *count);

/* Each appends what it lacks to diags. services_load fills `names`, which routes_load asks. */
void services_load(struct load *load, const struct node *list, struct index *names);
/* What a service or route has where it states nothing of its own; service NULL: a route with several. */
void service_defaults(const struct config *config, struct config_service *service);
void route_defaults(
    const struct config *config, const struct config_service *service, struct config_route *route);
void routes_load(struct load *load, const struct node *list, const struct index *names);
/* Leaves *out alone where it is no path of a probe, which it says in diags. */
void health_path_read(struct load *load, const struct node *node, const char **out);
const char *service_name_at(const void *config, uint32_t at);

void sections_default(struct load *load);
void sections_load(struct load *load, const struct node *root);
bool registry_url_check(struct load *load, const char *text, struct place place,
    enum registry_protocol protocol, const char **out);
unsigned workers_auto(void);

/* The file of the system that fluxgate replaces: flat_is says whether `root` is one. */
bool flat_is(const struct node *root);
bool flat_has_key(const char *key);
void flat_load(struct load *load, const struct node *root);
const char *flat_path(const char *path); /* the flat key behind a path of the new form; NULL: none */

#endif
