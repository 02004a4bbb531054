/* registry/watch.c: who waits for the next change. A watcher always gets the whole present state, so one that
 * is slow just misses steps in between. */
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "registry/registry_internal.h"

enum { SECOND_US = 1000000 };

static const char no_memory[] = "{\"error\":\"out of memory\"}\n";

static void
on_gone(void *context)
{
    watch_remove(context);
}

struct watcher *
watch_add(struct registry *registry, struct serve_call *call, enum watcher_kind kind, struct slice service)
{
    struct timeval tick = {0, TICK_US};
    struct watcher *watcher = calloc(1, sizeof *watcher);
    if (watcher == NULL) return NULL;
    if (service.len > 0) {
        watcher->service = slice_dup(service);
        if (watcher->service == NULL) {
            free(watcher);
            return NULL;
        }
    }
    watcher->registry = registry;
    watcher->call = call;
    watcher->kind = kind;
    watcher->next = registry->watchers;
    if (watcher->next != NULL) watcher->next->prev = watcher;
    registry->watchers = watcher;
    registry->watcher_count++;
    serve_on_gone(call, on_gone, watcher);
    if (!registry->tick_armed) registry->tick_armed = event_add(&registry->tick_event, &tick) == 0;
    return watcher;
}

void
watch_remove(struct watcher *watcher)
{
    struct registry *registry = watcher->registry;
    if (watcher->prev != NULL) watcher->prev->next = watcher->next;
    if (watcher->next != NULL) watcher->next->prev = watcher->prev;
    if (registry->watchers == watcher) registry->watchers = watcher->next;
    registry->watcher_count--;
    free(watcher->service);
    free(watcher);
}

static void
answer_query(struct registry *registry, struct serve_call *call)
{
    struct serve_blob *blob = render_snapshot(registry, SNAPSHOT_V2_JSON, NULL);
    if (blob == NULL) {
        serve_reply(call, 503, "application/json", slice_of(no_memory));
    } else {
        serve_reply_blob(call, 200, "application/json", blob);
    }
}

static void
end_query(struct watcher *watcher)
{
    struct registry *registry = watcher->registry;
    struct serve_call *call = watcher->call;
    watch_remove(watcher);
    answer_query(registry, call);
}

static void
end_stream(struct watcher *watcher, enum grpc_code code, const char *text)
{
    struct serve_call *call = watcher->call;
    watch_remove(watcher);
    serve_finish(call, code, text);
}

void
watch_query(struct registry *registry, struct serve_call *call, uint64_t wait_us, uint64_t now_us)
{
    struct watcher *watcher = NULL;
    if (wait_us > 0 && !registry->draining) watcher = watch_add(registry, call, WATCH_QUERY, SLICE_NONE);
    if (watcher == NULL) {
        answer_query(registry, call);
        return;
    }
    watcher->index = registry->model.index;
    watcher->deadline_us = now_us + wait_us;
}

/* Sends the present state unless the last one is still on its way. False: the stream was ended. */
static bool
send_snapshot(struct watcher *watcher, uint64_t now_us)
{
    struct registry *registry = watcher->registry;
    if (serve_pending_bytes(watcher->call) > 0) {
        if (watcher->stuck_us == 0) watcher->stuck_us = now_us;
        if (now_us - watcher->stuck_us < (uint64_t)STREAM_STUCK_S * SECOND_US) return true;
        end_stream(watcher, GRPC_RESOURCE_EXHAUSTED, "the watcher does not read");
        return false;
    }
    struct serve_blob *blob = render_snapshot(registry, SNAPSHOT_V2_PROTO, watcher->service);
    if (blob == NULL) {
        end_stream(watcher, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    watcher->stuck_us = 0;
    watcher->index = registry->model.index;
    watcher->deadline_us = now_us + (uint64_t)STREAM_REFRESH_S * SECOND_US;
    serve_send_blob(watcher->call, blob);
    return true;
}

void
watch_stream(struct registry *registry, struct serve_call *call, struct slice service, uint64_t now_us)
{
    struct watcher *watcher = watch_add(registry, call, WATCH_STREAM, service);
    if (watcher == NULL) {
        serve_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    (void)send_snapshot(watcher, now_us);
}

void
watch_notify(struct registry *registry)
{
    uint64_t now = clock_now_us();
    for (struct watcher *watcher = registry->watchers, *next; watcher != NULL; watcher = next) {
        next = watcher->next;
        if (watcher->index == registry->model.index) continue;
        if (watcher->kind == WATCH_QUERY) {
            end_query(watcher);
        } else if (watcher->kind == WATCH_STREAM) {
            (void)send_snapshot(watcher, now);
        }
    }
    registry->notified_us = clock_now_us();
    registry->notify_cost_us = registry->notified_us - now;
}

void
watch_tick(struct registry *registry, uint64_t now_us)
{
    struct timeval tick = {0, TICK_US};
    for (struct watcher *watcher = registry->watchers, *next; watcher != NULL; watcher = next) {
        next = watcher->next;
        if (watcher->kind == WATCH_QUERY) {
            if (now_us >= watcher->deadline_us) end_query(watcher);
        } else if (watcher->kind == WATCH_STREAM) {
            bool behind = watcher->index != registry->model.index && !registry->notify_due;
            if (behind || watcher->stuck_us != 0 || now_us >= watcher->deadline_us)
                (void)send_snapshot(watcher, now_us);
        }
    }
    registry->tick_armed = registry->watchers != NULL && event_add(&registry->tick_event, &tick) == 0;
}

void
watch_end_all(struct registry *registry)
{
    while (registry->watchers != NULL) {
        if (registry->watchers->kind == WATCH_QUERY) {
            end_query(registry->watchers);
        } else {
            end_stream(registry->watchers, GRPC_UNAVAILABLE, "the registry is shutting down");
        }
    }
}
