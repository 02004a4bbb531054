/* core/config/keys.h: which keys the loader knows, for the check that the JSON Schema and the reference know
 * the same. */
#ifndef FLUXGATE_CONFIG_KEYS_H
#define FLUXGATE_CONFIG_KEYS_H
#include <stdbool.h>

/* Calls `each` for every key, block by block; a block is named as under "definitions" in
 * docs/fluxgate.schema.json. `later`: refused by name, its part is not there yet. */
void config_keys(void (*each)(void *context, const char *block, const char *key, bool later), void *context);

#endif
