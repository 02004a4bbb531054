/* core/admin/admin.h: the admin address: /metrics, /ready, /live, /api/v1/status, /endpoints, /config, POST
 * /reload. In control. */
#ifndef FLUXGATE_ADMIN_ADMIN_H
#define FLUXGATE_ADMIN_ADMIN_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/config/config.h"
#include "core/discovery/discovery.h"
#include "core/health/health.h"
#include "core/shm/shm.h"

struct admin;

struct admin_env {
    struct shm *shm;
    struct discovery *discovery;
    struct health *health;
    /* main's side */
    void *context;
    bool (*is_ready)(void *context);       /* false while starting and from the start of a drain */
    void (*request_reload)(void *context); /* the answer comes with admin_reloaded */
    void (*request_drain)(void *context);
};

MUST_CHECK
struct admin *admin_new(struct event_base *base, const struct admin_env *env);
/* Takes fd, also where it fails. Replaces the previous socket once it is up, whose calls may finish; a
 * duplicate of the socket already served changes nothing. */
MUST_CHECK
bool admin_listen(struct admin *admin, int fd);
/* config and script are borrowed until the next call, hash is copied. A config without an admin address
 * closes it. */
void admin_use(struct admin *admin, const struct config *config, struct script *script, uint32_t generation,
    const char *hash);
/* Answers every POST /reload that is held, so it is called for a verdict on files as they were after the last
 * request_reload only. */
void admin_reloaded(struct admin *admin, bool ok, const char *message);
/* Before this process ends: no new calls, which wait in the socket for the next one; `done` comes once the
 * present ones are over. False: one of them waits for a reload; ask again. */
MUST_CHECK
bool admin_leave(struct admin *admin, void (*done)(void *context), void *context);
void admin_free(struct admin *admin);

#endif
