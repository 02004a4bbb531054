#include "registry/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/log.h"
#include "core/base/text.h"

enum {
    FIRST_BUCKETS = 64,
    LATE_US = 1000000, /* a timer so much too late means that we were stopped, not that clients were silent */
    PROTECT_CHECK_US = 1000000, /* counting everybody costs: at most once a second */
    OVERDUE_PART = 3,           /* a lease is overdue in its last third: two beats were missed */
};

/* ---- the lease heap: earliest wake_us first ---- */

static void
heap_place(struct model *model, struct instance *instance, size_t at)
{
    model->heap[at] = instance;
    instance->heap_at = at;
}

static void
heap_fix(struct model *model, size_t at)
{
    struct instance *moving = model->heap[at];
    while (at > 0 && model->heap[(at - 1) / 2]->wake_us > moving->wake_us) {
        heap_place(model, model->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= model->heap_count) break;
        if (child + 1 < model->heap_count && model->heap[child + 1]->wake_us < model->heap[child]->wake_us)
            child++;
        if (model->heap[child]->wake_us >= moving->wake_us) break;
        heap_place(model, model->heap[child], at);
        at = child;
    }
    heap_place(model, moving, at);
}

static bool
heap_add(struct model *model, struct instance *instance)
{
    if (model->heap_count == model->heap_cap) {
        size_t cap = model->heap_cap == 0 ? 64 : 2 * model->heap_cap;
        struct instance **heap = realloc(model->heap, cap * sizeof(struct instance *));
        if (heap == NULL) return false;
        model->heap = heap;
        model->heap_cap = cap;
    }
    heap_place(model, instance, model->heap_count++);
    heap_fix(model, instance->heap_at);
    return true;
}

static void
heap_remove(struct model *model, struct instance *instance)
{
    size_t at = instance->heap_at;
    struct instance *last = model->heap[--model->heap_count];
    if (last == instance) return;
    heap_place(model, last, at);
    heap_fix(model, at);
}

static void
wake_at(struct model *model, struct instance *instance, uint64_t wake_us)
{
    instance->wake_us = wake_us;
    heap_fix(model, instance->heap_at);
}

/* ---- the table ---- */

static uint64_t
ttl_of(const struct model *model, const struct instance *instance)
{
    return instance->spec.ttl_us != 0 ? instance->spec.ttl_us : model->lease_ttl_us;
}

struct instance *
model_find(const struct model *model, struct slice id)
{
    uint64_t hash = text_hash(id);
    struct instance *instance = model->buckets[hash & (model->bucket_count - 1)];
    while (instance != NULL && (instance->hash != hash || !slice_equal(instance->spec.id, id))) {
        instance = instance->hash_next;
    }
    return instance;
}

static void
grow(struct model *model)
{
    size_t count = 2 * model->bucket_count;
    struct instance **buckets = calloc(count, sizeof(struct instance *));
    if (buckets == NULL) return; /* chains get longer, nothing else */
    for (struct instance *i = model->first; i != NULL; i = i->next) {
        i->hash_next = buckets[i->hash & (count - 1)];
        buckets[i->hash & (count - 1)] = i;
    }
    free(model->buckets);
    model->buckets = buckets;
    model->bucket_count = count;
}

/* The struct and all its text in one block. */
static struct instance *
instance_new(const struct spec *spec)
{
    struct instance *instance;
    const size_t offsets[] = {offsetof(struct spec, id), offsetof(struct spec, service),
        offsetof(struct spec, host), offsetof(struct spec, url), offsetof(struct spec, health_path),
        offsetof(struct spec, zone), offsetof(struct spec, version), offsetof(struct spec, metadata)};
    enum { TEXTS = sizeof offsets / sizeof offsets[0] };
    size_t bytes = sizeof *instance;
    for (size_t i = 0; i < TEXTS; i++)
        bytes += ((const struct slice *)((const char *)spec + offsets[i]))->len + 1;
    instance = calloc(1, bytes);
    if (instance == NULL) return NULL;
    char *at = (char *)(instance + 1);
    instance->spec = *spec;
    for (size_t i = 0; i < TEXTS; i++) {
        struct slice *text = (struct slice *)((char *)&instance->spec + offsets[i]);
        if (text->len > 0) memcpy(at, text->at, text->len);
        text->at = at;
        at += text->len + 1;
    }
    instance->hash = text_hash(instance->spec.id);
    return instance;
}

static bool
insert(struct model *model, struct instance *instance)
{
    if (!heap_add(model, instance)) return false;
    if (model->count >= model->bucket_count) grow(model);
    struct instance **bucket = &model->buckets[instance->hash & (model->bucket_count - 1)];
    instance->hash_next = *bucket;
    *bucket = instance;
    instance->prev = model->last;
    instance->next = NULL;
    *(model->last == NULL ? &model->first : &model->last->next) = instance;
    model->last = instance;
    model->count++;
    if (!instance->lapsed) model->living++;
    return true;
}

static void
drop(struct model *model, struct instance *instance)
{
    struct instance **at = &model->buckets[instance->hash & (model->bucket_count - 1)];
    while (*at != instance)
        at = &(*at)->hash_next;
    *at = instance->hash_next;
    *(instance->prev == NULL ? &model->first : &instance->prev->next) = instance->next;
    *(instance->next == NULL ? &model->last : &instance->next->prev) = instance->prev;
    heap_remove(model, instance);
    model->count--;
    if (!instance->lapsed) model->living--;
    free(instance);
}

static bool
same_spec(const struct spec *a, const struct spec *b)
{
    return slice_equal(a->service, b->service) && slice_equal(a->host, b->host) &&
           slice_equal(a->url, b->url) && slice_equal(a->health_path, b->health_path) &&
           slice_equal(a->zone, b->zone) && slice_equal(a->version, b->version) &&
           slice_equal(a->metadata, b->metadata) && a->port == b->port && a->weight == b->weight &&
           a->ttl_us == b->ttl_us && a->maintenance == b->maintenance && a->draining == b->draining;
}

static enum model_result
store_failed(struct model *model)
{
    static struct log_every every;
    uint64_t swallowed;
    model->store_errors++;
    if (log_every_due(&every, 10000000, &swallowed)) {
        log_errorx(
            "registry store failed", F_STR("why", model->store->error), F_UINT("suppressed", swallowed));
    }
    return MODEL_STORE_FAILED;
}

/* ---- life ---- */

struct load_state {
    struct model *model;
    uint64_t now_us;
};

static bool
on_load(void *context, const struct spec *spec, bool lapsed)
{
    struct load_state *state = context;
    struct model *model = state->model;
    struct instance *instance = instance_new(spec);
    if (instance == NULL) return false;
    instance->lapsed = lapsed;
    instance->expires_us = state->now_us + ttl_of(model, instance) * (lapsed ? LAPSED_TTLS : 1);
    instance->wake_us = instance->expires_us;
    if (insert(model, instance)) return true;
    free(instance);
    return false;
}

bool
model_init(struct model *model, struct store *store, uint64_t lease_ttl_us, uint64_t now_us, const char **why)
{
    struct load_state state = {model, now_us};
    uint64_t random;
    *model = (struct model){.store = store, .lease_ttl_us = lease_ttl_us, .bucket_count = FIRST_BUCKETS};
    model->buckets = calloc(FIRST_BUCKETS, sizeof(struct instance *));
    *why = "out of memory";
    if (model->buckets == NULL) return false;
    *why = store->error;
    if (!store->ops->load(store, on_load, &state, &model->index, model->epoch)) return false;
    if (model->epoch[0] != '\0') return true;
    *why = "no random bytes to be had";
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) return false;
    snprintf(model->epoch, sizeof model->epoch, "%016llx", (unsigned long long)random);
    model->index++; /* index 0 in a question means "whatever you have" */
    *why = store->error;
    return store->ops->begin(store, model->epoch, model->index);
}

void
model_fini(struct model *model)
{
    while (model->first != NULL) {
        struct instance *instance = model->first;
        model->first = instance->next;
        free(instance);
    }
    free(model->buckets);
    free(model->heap);
    *model = (struct model){0};
}

static void
renew(struct model *model, struct instance *instance, uint64_t now_us)
{
    instance->expires_us = now_us + ttl_of(model, instance);
    if (instance->expires_us < instance->wake_us) wake_at(model, instance, instance->expires_us);
}

void
model_set_ttl(struct model *model, uint64_t lease_ttl_us, uint64_t now_us)
{
    model->lease_ttl_us = lease_ttl_us;
    for (struct instance *i = model->first; i != NULL; i = i->next) {
        if (i->lapsed || i->spec.ttl_us != 0) continue;
        renew(model, i, now_us);
    }
}

/* Puts `spec` in the place of `old` (NULL: none), store first. */
static enum model_result
replace(struct model *model, struct instance *old, const struct spec *spec, uint64_t expires_us,
    struct instance **out)
{
    struct instance *instance = instance_new(spec);
    if (instance == NULL) return MODEL_NO_MEMORY;
    instance->expires_us = instance->wake_us = expires_us;
    if (!insert(model, instance)) {
        free(instance);
        return MODEL_NO_MEMORY;
    }
    if (!model->store->ops->put(model->store, spec, false, model->index + 1)) {
        drop(model, instance);
        return store_failed(model);
    }
    if (old != NULL) drop(model, old);
    model->index++;
    *out = instance;
    return MODEL_OK;
}

enum model_result
model_register(struct model *model, const struct spec *spec, uint64_t now_us, struct instance **out)
{
    struct instance *old = model_find(model, spec->id);
    if (old != NULL && !old->lapsed && same_spec(&old->spec, spec)) {
        renew(model, old, now_us);
        model->registrations++;
        *out = old;
        return MODEL_OK;
    }
    if (old == NULL && model->count >= MODEL_INSTANCES_MAX) return MODEL_FULL;
    enum model_result result = replace(model, old, spec, 0, out);
    if (result != MODEL_OK) return result;
    renew(model, *out, now_us);
    wake_at(model, *out, (*out)->expires_us);
    model->registrations++;
    return MODEL_OK;
}

enum model_result
model_change(struct model *model, struct instance *instance, const struct spec *spec, struct instance **out)
{
    *out = instance;
    if (same_spec(&instance->spec, spec)) return MODEL_OK;
    return replace(model, instance, spec, instance->expires_us, out);
}

enum model_result
model_heartbeat(struct model *model, struct slice id, uint64_t now_us)
{
    struct instance *instance = model_find(model, id);
    if (instance == NULL || instance->lapsed) {
        model->unknown_heartbeats++;
        return MODEL_UNKNOWN;
    }
    model->heartbeats++;
    renew(model, instance, now_us); /* the heap learns of it when the old time comes */
    return MODEL_OK;
}

enum model_result
model_remove(struct model *model, struct slice id)
{
    struct instance *instance = model_find(model, id);
    if (instance == NULL) return MODEL_UNKNOWN;
    if (!model->store->ops->remove(model->store, instance->spec.id, model->index + 1))
        return store_failed(model);
    drop(model, instance);
    model->index++;
    model->deregistrations++;
    return MODEL_OK;
}

/* Most leases overdue at once: the network is likelier at fault than the instances. */
static bool
is_protected(struct model *model, uint64_t now_us)
{
    size_t overdue = 0;
    if (model->protect_checked_us != 0 && now_us - model->protect_checked_us < PROTECT_CHECK_US)
        return model->protecting;
    model->protect_checked_us = now_us;
    for (const struct instance *i = model->first; i != NULL; i = i->next) {
        if (!i->lapsed && i->expires_us < now_us + ttl_of(model, i) / OVERDUE_PART) overdue++;
    }
    bool protect = overdue >= PROTECT_AT_LEAST && overdue * 2 > model->living;
    if (protect && !model->protecting) {
        log_warnx("most leases ran out together: keeping them, since the network is likelier at fault",
            F_UINT("overdue", overdue), F_UINT("instances", model->living));
    } else if (!protect && model->protecting) {
        log_info("leases lapse again", F_UINT("overdue", overdue), F_UINT("instances", model->living));
    }
    model->protecting = protect;
    return protect;
}

static void
lapse(struct model *model, struct instance *instance, uint64_t now_us)
{
    instance->lapsed = true;
    model->living--;
    model->index++;
    model->expirations++;
    instance->expires_us = now_us + LAPSED_TTLS * ttl_of(model, instance);
    wake_at(model, instance, instance->expires_us);
    if (!model->store->ops->put(model->store, &instance->spec, true, model->index)) (void)store_failed(model);
    log_info("lease lapsed", F_SLICE("id", instance->spec.id), F_SLICE("service", instance->spec.service));
}

void
model_expire(struct model *model, uint64_t now_us, uint64_t late_us)
{
    if (late_us > LATE_US) {
        for (struct instance *i = model->first; i != NULL; i = i->next) {
            uint64_t least =
                now_us + ttl_of(model, i) / OVERDUE_PART; /* the beats of that time wait in our sockets */
            i->expires_us += late_us;
            if (!i->lapsed && i->expires_us < least) i->expires_us = least;
        }
        log_warnx("the registry stood still: leases are longer by that time", F_US("still", late_us));
    }
    while (model->heap_count > 0 && model->heap[0]->wake_us <= now_us) {
        struct instance *instance = model->heap[0];
        if (instance->expires_us > now_us) {
            wake_at(model, instance, instance->expires_us);
        } else if (instance->lapsed) {
            model->index++;
            if (!model->store->ops->remove(model->store, instance->spec.id, model->index))
                (void)store_failed(model);
            drop(model, instance);
        } else if (is_protected(model, now_us)) {
            uint64_t again = ttl_of(model, instance) / 10;
            wake_at(model, instance, now_us + (again < PROTECT_CHECK_US ? again + 1000 : PROTECT_CHECK_US));
        } else {
            lapse(model, instance, now_us);
        }
    }
    if (model->protecting && model->heap_count > 0) (void)is_protected(model, now_us);
}

uint64_t
model_next_us(const struct model *model)
{
    return model->heap_count == 0 ? UINT64_MAX : model->heap[0]->wake_us;
}
