/* registry/model.h: who is registered and until when. Instances, leases, the change index. No sockets, no
 * clock of its own. */
#ifndef FLUXGATE_REGISTRY_MODEL_H
#define FLUXGATE_REGISTRY_MODEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "registry/store.h"

enum {
    MODEL_INSTANCES_MAX = 262144, /* registered by anybody who reaches the port: memory must end somewhere */
    PROTECT_AT_LEAST = 5,         /* fewer leases lapsing together is a deploy, not a network */
    LAPSED_TTLS = 2,              /* how long a lapsed instance stays in v2 snapshots */
};

/* One registered instance. Text is in one block with the struct, NUL-terminated. */
struct instance {
    struct spec spec; /* what was registered; slices into the same block */
    bool lapsed;
    uint64_t expires_us; /* of the lease; of a lapsed one, when it goes for good */
    uint64_t wake_us;    /* its key in the heap: at most expires_us */
    size_t heap_at;
    uint64_t hash;
    struct instance *hash_next;
    struct instance *prev, *next; /* all, in order of registration */
};

struct model {
    struct store *store;
    uint64_t lease_ttl_us;
    uint64_t index; /* grows with every change that a watcher could see */
    char epoch[STORE_EPOCH_BYTES];
    struct instance **buckets;
    size_t bucket_count;
    struct instance *first, *last;
    size_t count, living;
    struct instance **heap;
    size_t heap_count, heap_cap;
    bool protecting; /* most leases ran out together: nothing lapses */
    uint64_t protect_checked_us;
    /* ever */
    uint64_t registrations, heartbeats, expirations, deregistrations, unknown_heartbeats, store_errors;
};

enum model_result { MODEL_OK, MODEL_UNKNOWN, MODEL_FULL, MODEL_STORE_FAILED, MODEL_NO_MEMORY };

/* Restores what the store holds, with fresh leases. False: *why says what failed (borrowed from the store).
 */
MUST_CHECK
bool model_init(
    struct model *model, struct store *store, uint64_t lease_ttl_us, uint64_t now_us, const char **why);
void model_fini(struct model *model);
/* Another ttl for every lease that has none of its own; present leases are measured anew from now. */
void model_set_ttl(struct model *model, uint64_t lease_ttl_us, uint64_t now_us);

/* Adds or replaces, after the store has it. The same content again only renews the lease. *out is borrowed
 * until the next change. */
MUST_CHECK
enum model_result model_register(
    struct model *model, const struct spec *spec, uint64_t now_us, struct instance **out);
/* Another content for an instance that is there; its lease stays as it is. */
MUST_CHECK
enum model_result model_change(
    struct model *model, struct instance *instance, const struct spec *spec, struct instance **out);
/* Hot. An unknown or lapsed id is MODEL_UNKNOWN: the client registers again. */
MUST_CHECK
enum model_result model_heartbeat(struct model *model, struct slice id, uint64_t now_us);
/* MODEL_UNKNOWN where there is none. */
MUST_CHECK
enum model_result model_remove(struct model *model, struct slice id);
struct instance *model_find(
    const struct model *model, struct slice id); /* NULL where unknown; lapsed ones too */

/* Lapses and removes what is due. `late_us`: how much later than asked this is called; a process that was
 * stopped gives its clients that time back. */
void model_expire(struct model *model, uint64_t now_us, uint64_t late_us);
uint64_t model_next_us(const struct model *model); /* when model_expire has work; UINT64_MAX: never */

#endif
