/* core/http/load.h: the load that a backend reports of itself. Pure: no sockets, no memory, no clock. */
#ifndef FLUXGATE_HTTP_LOAD_H
#define FLUXGATE_HTTP_LOAD_H
#include <stdbool.h>
#include <stdint.h>

#include "core/http/header.h"

/* Reads ORCA's text form ("TEXT cpu_utilization=0.3, named_metrics.load=7"), × 1000. False: it says nothing
 * that we go by, and *milli is untouched. */
bool load_read(struct slice value, uint32_t *milli);

/* The same from the field `endpoint-load-metrics` of a response. */
bool load_of_headers(const struct headers *headers, uint32_t *milli);

#endif
