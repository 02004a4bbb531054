/* registry/registry.h: the service registry as one object on an event loop: model, leases, store, REST and
 * gRPC. */
#ifndef FLUXGATE_REGISTRY_REGISTRY_H
#define FLUXGATE_REGISTRY_REGISTRY_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/config/config.h"

struct registry;

/* Opens the store and takes the listening descriptors (-1: that protocol is off). NULL: *why says what
 * failed. */
MUST_CHECK
struct registry *registry_new(struct event_base *base, const struct config_registry *config, int http_fd,
    int grpc_fd, const char **why);
/* A reload: lease_ttl changes at once; listeners and store need a restart, and say so in the log. */
void registry_use(struct registry *registry, const struct config_registry *config);
/* SIGTERM: answers what is under way, ends watches, flushes the store; then done. */
void registry_drain(struct registry *registry, uint64_t limit_us, void (*done)(void *), void *context);
void registry_free(struct registry *registry);

#endif
