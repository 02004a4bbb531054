#include "core/shm/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/proxy/filtering.h"
#include "core/proxy/proxy_internal.h"

enum {
    RACES_MAX = 8,
    POLL_US = 5000, /* where nobody wakes us: no descriptors, or a limit that only the script knows */
};

/* One service's requests that wait in this worker. Made when it is first limited, kept for ever. */
struct line {
    struct link link; /* in proxy->lines */
    struct queue *queue;
    uint32_t service_id;
    struct link streams; /* by `place`; the order that counts is that of their tickets */
};

/* What a try found. */
enum tried {
    TRY_TAKEN, /* counted on `slot` and on the service */
    TRY_FULL,  /* wait, for `slot` alone where that is one */
    TRY_NONE,  /* `reason`: there is nothing to wait for */
};
struct grant {
    uint32_t slot;
    enum reason reason;
    bool is_service; /* full: there may be room on any slot */
};

static struct line *
line_of(struct proxy *proxy, uint32_t service_id)
{
    if (service_id >= SHM_NAMES_MAX) return NULL;
    if (proxy->line_by_name == NULL) /* hardly a page of it is ever touched */
        proxy->line_by_name = calloc(SHM_NAMES_MAX, sizeof(struct line *));
    if (proxy->line_by_name == NULL) return NULL;
    if (proxy->line_by_name[service_id] != NULL) return proxy->line_by_name[service_id];
    struct line *line = malloc(sizeof *line);
    struct queue *queue = shm_queue(proxy->shm, service_id);
    if (line == NULL || queue == NULL) {
        free(line);
        return NULL;
    }
    line->queue = queue;
    line->service_id = service_id;
    link_init(&line->streams);
    link_push(&proxy->lines, &line->link);
    proxy->line_by_name[service_id] = line;
    return line;
}

/* The service in the newest generation: false where that has none of the name. */
static bool
find_service(const struct proxy *proxy, uint32_t service_id, uint32_t *index)
{
    const struct generation *generation = proxy->generation;
    for (uint32_t i = 0; i < generation->config->service_count; i++) {
        if (route_service_id(generation->routes, i) != service_id) continue;
        *index = i;
        return true;
    }
    return false;
}

/* 0: the service went, so whoever waits is to learn that. */
static uint32_t
slot_limit(const struct proxy *proxy, const struct line *line)
{
    uint32_t index;
    if (!find_service(proxy, line->service_id, &index)) return 0;
    return proxy->generation->config->services[index].queue.active_per_endpoint;
}

static const struct config_queue_limits *
limits_of(const struct stream *stream)
{
    return &stream_picker(stream)->config->services[stream->request.service].queue;
}

/* How many may wait and how long: the route's own word, where it has one. */
static const struct config_queue_limits *
waiting_limits(const struct stream *stream)
{
    const struct config_route *route = stream->route;
    return route->own_limits || route->target_count == 1 ? &route->queue : limits_of(stream);
}

/* waking */

static bool
is_woken_by_others(const struct proxy *proxy)
{
    return proxy->worker < proxy->wake_count;
}

static void
arm_poll(struct proxy *proxy)
{
    struct timeval tv = {0, POLL_US};
    if (proxy->waiting == 0) proxy->polls = false;
    if (proxy->waiting == 0 || (!proxy->polls && is_woken_by_others(proxy))) return;
    if (!event_pending(&proxy->poll, EV_TIMEOUT, NULL)) /* else the sweep looks, later */
        (void)!event_add(&proxy->poll, &tv);
}

static void
wake_worker(void *context, unsigned worker)
{
    static const uint64_t one = 1;
    struct proxy *proxy = context;
    if (worker == proxy->worker)
        proxy->is_woken = true;          /* for proxy_leave: our caller is in the middle of something */
    else if (worker < proxy->wake_count) /* EAGAIN: it is awake; anything else: its sweep finds the room */
        (void)!write(proxy->wake_fds[worker], &one, sizeof one);
}

static void
wake_line(struct proxy *proxy, struct line *line)
{
    atomic_thread_fence(memory_order_seq_cst); /* the room is seen by whoever entered unseen by us */
    if (LIKELY(queue_depth(line->queue) == 0)) return;
    queue_wake(proxy->shm, line->queue, slot_limit(proxy, line), wake_worker, proxy);
}

static void
on_wake(evutil_socket_t fd, short what, void *context)
{
    struct proxy *proxy = context;
    uint64_t count;
    (void)what;
    proxy_enter(proxy);
    (void)!read(fd, &count, sizeof count); /* EAGAIN: nothing new, and looking does no harm */
    proxy->is_woken = true;
    proxy_leave(proxy);
}

static void
on_poll(evutil_socket_t fd, short what, void *context)
{
    struct proxy *proxy = context;
    (void)fd;
    (void)what;
    proxy_enter(proxy);
    proxy_refresh(proxy);
    proxy->is_woken = true;
    proxy_leave(proxy);
}

/* picking under limits */

/* The request's script, endpoints and limits are those of the newest generation, which alone are kept up to
 * date; route and timeouts stay. False: that generation has no such service. */
static bool
follow_generation(struct stream *stream)
{
    struct generation *newest = stream->proxy->generation;
    uint32_t index;
    if (LIKELY(stream_picker(stream) == newest)) return true;
    if (!find_service(stream->proxy, stream->service_id, &index)) return false;
    if (UNLIKELY(stream->filtering != NULL))
        filtering_park_ctx(stream);
    else
        script_request_done(stream_picker(stream)->script, &stream->request);
    generation_put(&stream->picker);
    if (stream->generation != newest) {
        generation_get(newest);
        stream->picker = newest;
    }
    stream->request.service = index;
    return true;
}

static void
give_service(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    if (!stream->in_service) return;
    stream->in_service = false;
    queue_end(proxy->shm, stream->line->queue, proxy->worker);
}

/* A lost race is somebody else's progress, so that a few are enough. What is seen to be full is not counted
 * and taken off again: that would wake the others for nothing. */
static enum tried
pick_and_count(struct stream *stream, struct grant *grant)
{
    struct proxy *proxy = stream->proxy;
    const struct config_queue_limits *limits = limits_of(stream);
    *grant = (struct grant){SLOT_NONE, REASON_ALL_FULL, true};
    if (limits->active != 0 && queue_active(stream->line->queue) >= limits->active) return TRY_FULL;
    grant->is_service = false;
    for (int race = 0; race < RACES_MAX; race++) {
        struct script *script = stream_picker(stream)->script;
        switch (script_pick(script, &stream->request, &grant->slot, &grant->reason)) {
        case SCRIPT_NONE: return grant->reason == REASON_ALL_FULL ? TRY_FULL : TRY_NONE;
        case SCRIPT_QUEUE:
            if (grant->slot == SLOT_NONE) proxy->polls = true;
            return TRY_FULL;
        case SCRIPT_PICKED: break;
        }
        uint32_t slot = grant->slot;
        grant->slot = SLOT_NONE;
        if (!stream->in_service) {
            stream->in_service =
                queue_try_begin(proxy->shm, stream->line->queue, proxy->worker, limits->active);
            grant->is_service = !stream->in_service;
            if (!stream->in_service) return TRY_FULL;
        }
        if (!slot_try_begin(proxy->shm, proxy->worker, slot, limits->active_per_endpoint)) continue;
        grant->slot = slot;
        return TRY_TAKEN;
    }
    return TRY_FULL;
}

/* What a try that found all full waits for: a slot, any slot, or for a retry any but one that it has tried,
 * and rather one that others could have. */
static uint32_t
place_of(const struct stream *stream, const struct grant *grant)
{
    const struct script_request *request = &stream->request;
    uint32_t limit = limits_of(stream)->active_per_endpoint;
    if (grant->slot != SLOT_NONE || limit == 0 || grant->is_service || request->tried_count == 0)
        return grant->slot;
    uint32_t slot = request->tried[0];
    for (uint32_t i = 1; i < request->tried_count && slot_active(stream->proxy->shm, slot) >= limit; i++)
        slot = request->tried[i];
    return QUEUE_EXCEPT | slot;
}

static enum tried
try_now(struct stream *stream, struct grant *grant)
{
    enum tried tried = pick_and_count(stream, grant);
    if (tried != TRY_TAKEN) script_trial_end(stream_picker(stream)->script, &stream->request, TRIAL_OPEN);
    if (tried != TRY_TAKEN && stream->in_service) {
        give_service(stream);
        wake_line(stream->proxy, stream->line);
    }
    return tried;
}

/* waiting */

static void
leave_line(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    if (stream->ticket == 0) return;
    queue_leave(proxy->shm, stream->line->queue, stream->ticket);
    stream->ticket = 0;
    link_remove(&stream->place);
    proxy->waiting--;
}

static bool
enter_line(struct stream *stream, uint32_t bound, bool at_head, uint32_t depth)
{
    struct proxy *proxy = stream->proxy;
    stream->ticket = queue_enter(proxy->shm, stream->line->queue, proxy->worker, bound, at_head, depth);
    if (stream->ticket == 0) return false;
    stream->bound = bound;
    link_push(stream->line->streams.prev, &stream->place);
    proxy->waiting++;
    return true;
}

static void
give_up(struct stream *stream, enum reason reason)
{
    queueing_end(stream);
    attempt_none(stream, reason);
}

/* It was the first, and what it waits for turned out to be one endpoint or no longer to be: it stays before
 * the others, but in their way only in the second case. */
static void
change_place(struct stream *stream, uint32_t bound)
{
    leave_line(stream);
    if (!enter_line(stream, bound, true, QUEUE_TICKETS_MAX))
        give_up(stream, REASON_ALL_FULL);
    else
        wake_line(stream->proxy, stream->line);
}

static void
run(struct stream *stream, uint32_t slot)
{
    struct proxy *proxy = stream->proxy;
    if (stream->ticket != 0) {
        queue_served(stream->line->queue, proxy->now_us - stream->queued_us);
        leave_line(stream);
        wake_line(proxy, stream->line); /* there may be room for the next, too */
    }
    attempt_run(stream, slot);
}

/* Its ticket is the first. False: it waits on, and so does everybody behind it. */
static bool
try_first(struct stream *stream)
{
    struct grant grant;
    switch (try_now(stream, &grant)) {
    case TRY_TAKEN: run(stream, grant.slot); return true;
    case TRY_NONE: give_up(stream, grant.reason); return true;
    case TRY_FULL: break;
    }
    uint32_t bound = place_of(stream, &grant);
    if (bound == stream->bound) return false;
    change_place(stream, bound);
    return true;
}

static void
enter_queued(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    stream->queued_us = proxy->now_us;
    stream->queue_timeout_us = waiting_limits(stream)->queue_timeout;
    if (stream->conn->input == INPUT_ENDED && stream->parser.head.minor != 0)
        stream->nudge_us = proxy->now_us + NUDGE_QUEUED_US;
    stream_enter(stream, STREAM_QUEUED);
}

static bool
may_try(const struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    return queue_may_try(proxy->shm, stream->line->queue, stream->ticket, slot_limit(proxy, stream->line));
}

/* The line is as long as it may be, or this route's requests do not wait: but those who wait may all do so
 * for an endpoint of their own, and then they are not to be waited for. */
static void
pass_or_refuse(struct stream *stream)
{
    struct grant grant = {SLOT_NONE, REASON_ALL_FULL, false};
    enum tried tried = TRY_FULL;
    if (queue_depth(stream->line->queue) != 0 && enter_line(stream, SLOT_NONE, false, QUEUE_TICKETS_MAX)) {
        if (may_try(stream)) tried = try_now(stream, &grant);
        leave_line(stream);
        wake_line(stream->proxy, stream->line);
    }
    if (tried == TRY_TAKEN)
        attempt_run(stream, grant.slot);
    else
        give_up(stream, grant.reason);
}

/* Who entered tries once more: room that came before the ticket was seen by nobody. */
static void
wait_in_line(struct stream *stream, uint32_t bound)
{
    struct proxy *proxy = stream->proxy;
    bool is_retry = stream->attempts > 1;
    uint32_t depth = waiting_limits(stream)->queue;
    if (is_retry && depth != 0) depth = QUEUE_TICKETS_MAX; /* it was let in once */
    if (!enter_line(stream, bound, is_retry, depth)) {
        pass_or_refuse(stream);
        return;
    }
    enter_queued(stream);
    atomic_thread_fence(memory_order_seq_cst);
    if (may_try(stream)) (void)!try_first(stream);
    arm_poll(proxy);
}

/* Others wait already. Who insists on an endpoint is to enter as such, and not to learn it as the first. */
static enum tried
look(struct stream *stream, struct grant *grant)
{
    if (limits_of(stream)->active_per_endpoint == 0) return TRY_FULL;
    struct script *script = stream_picker(stream)->script;
    switch (script_pick(script, &stream->request, &grant->slot, &grant->reason)) {
    case SCRIPT_NONE: return grant->reason == REASON_ALL_FULL ? TRY_FULL : TRY_NONE;
    case SCRIPT_PICKED:
        script_trial_end(script, &stream->request, TRIAL_OPEN);
        grant->slot = SLOT_NONE;
        grant->is_service = true; /* or its turn has not come: it waits like any other */
        break;
    case SCRIPT_QUEUE: break;
    }
    return TRY_FULL;
}

void
queueing_begin(struct stream *stream)
{
    struct proxy *proxy = stream->proxy;
    struct grant grant = {SLOT_NONE, REASON_ALL_FULL, false};
    if (!follow_generation(stream)) {
        respond_to_failure(stream, REASON_NO_ENDPOINTS, "the service was removed");
        return;
    }
    stream->line = line_of(proxy, stream->service_id);
    if (stream->line == NULL) {
        reply_reason(stream, REASON_SHED, 0, "there is no room for the limits of another service");
        return;
    }
    bool is_next = queue_depth(stream->line->queue) == 0;
    switch (is_next ? try_now(stream, &grant) : look(stream, &grant)) {
    case TRY_TAKEN: attempt_run(stream, grant.slot); return;
    case TRY_NONE: give_up(stream, grant.reason); return;
    case TRY_FULL: wait_in_line(stream, place_of(stream, &grant)); return;
    }
}

void
queueing_end(struct stream *stream)
{
    struct line *line = stream->line;
    leave_line(stream);
    give_service(stream);
    stream->line = NULL;
    wake_line(stream->proxy, line);
}

void
queueing_wake(struct proxy *proxy, uint32_t service_id)
{
    if (proxy->line_by_name == NULL || service_id >= SHM_NAMES_MAX) return;
    if (proxy->line_by_name[service_id] != NULL) wake_line(proxy, proxy->line_by_name[service_id]);
}

uint64_t
queueing_left_us(const struct stream *stream)
{
    uint64_t due_us = stream->queued_us + stream->queue_timeout_us;
    return due_us > stream->proxy->now_us ? due_us - stream->proxy->now_us : 1;
}

void
queueing_on_timeout(struct stream *stream)
{
    queue_timed_out(stream->line->queue);
    respond_to_failure(stream, REASON_QUEUE_TIMEOUT, NULL);
}

/* whose turn it is */

static struct stream *
find_ticket(const struct line *line, uint64_t ticket)
{
    for (struct link *at = line->streams.next; at != &line->streams; at = at->next) {
        struct stream *stream = LINK_OF(at, struct stream, place);
        if (stream->ticket == ticket) return stream;
    }
    return NULL;
}

static bool
is_picky(const struct stream *stream)
{
    return stream->bound != SLOT_NONE && (stream->bound & QUEUE_EXCEPT) != 0;
}

/* Endpoints or limits changed: a session whose own endpoint it may no longer wait for waits like the others,
 * and whose service went learns that. */
static void
reconsider(struct stream *stream)
{
    struct grant grant;
    if (!follow_generation(stream)) {
        respond_to_failure(stream, REASON_NO_ENDPOINTS, "the service was removed");
        return;
    }
    if (stream->bound == SLOT_NONE) return;
    if (is_picky(stream)) { /* run_line tries it now, and finds what is true now */
        change_place(stream, SLOT_NONE);
        return;
    }
    struct script *script = stream_picker(stream)->script;
    (void)!script_pick(script, &stream->request, &grant.slot, &grant.reason);
    script_trial_end(script, &stream->request, TRIAL_OPEN);
    if (grant.slot != stream->bound) change_place(stream, SLOT_NONE);
}

/* Who changes places comes back behind the last one. */
static void
reconsider_all(struct line *line)
{
    const struct link *last = line->streams.prev;
    struct link *at = line->streams.next;
    for (bool is_last = link_is_empty(&line->streams); !is_last;) {
        struct link *next = at->next;
        is_last = at == last;
        reconsider(LINK_OF(at, struct stream, place));
        at = next;
    }
}

/* Who waits for any slot but one is not queue_first's while it is in nobody's way, and may find room all the
 * same. */
static void
try_picky(struct line *line)
{
    const struct link *last = line->streams.prev;
    struct link *at = line->streams.next;
    for (bool is_last = link_is_empty(&line->streams); !is_last;) {
        struct stream *stream = LINK_OF(at, struct stream, place);
        is_last = at == last;
        at = at->next;
        if (is_picky(stream)) (void)!try_first(stream);
    }
}

static void
run_line(struct proxy *proxy, struct line *line, bool is_changed)
{
    uint32_t limit = slot_limit(proxy, line);
    if (is_changed) reconsider_all(line);
    try_picky(line);
    for (int races = 0; races < RACES_MAX;) {
        unsigned worker;
        uint64_t ticket = queue_first(proxy->shm, line->queue, limit, &worker);
        struct stream *stream = ticket != 0 && worker == proxy->worker ? find_ticket(line, ticket) : NULL;
        if (stream == NULL) return;
        if (try_first(stream)) continue;
        if ((stream->bound & QUEUE_EXCEPT) != 0) return; /* or SLOT_NONE */
        races++; /* its endpoint had room and has none any more: those behind it may have */
    }
}

void
queueing_run(struct proxy *proxy)
{
    bool is_changed = proxy->is_changed;
    proxy->is_woken = proxy->is_changed = false;
    for (struct link *at = proxy->lines.next; at != &proxy->lines; at = at->next) {
        struct line *line = LINK_OF(at, struct line, link);
        if (!link_is_empty(&line->streams)) run_line(proxy, line, is_changed);
    }
    arm_poll(proxy);
}

/* Whoever waits with bytes or a FIN of its client in the kernel has no read event that would tell of RST. */
static void
drop_gone(struct line *line)
{
    for (struct link *at = line->streams.next, *next; at != &line->streams; at = next) {
        struct stream *stream = LINK_OF(at, struct stream, place);
        next = at->next;
        if (stream->conn->input != INPUT_OPEN && stream_is_reset(stream)) stream_client_gone(stream);
    }
}

/* What no wake-up tells of: a worker that died, one that was lost. */
void
queueing_sweep(struct proxy *proxy)
{
    if (LIKELY(proxy->waiting == 0)) return;
    for (struct link *at = proxy->lines.next; at != &proxy->lines; at = at->next)
        drop_gone(LINK_OF(at, struct line, link));
    proxy->is_woken = true;
}

/* life */

void
queueing_init(struct proxy *proxy)
{
    link_init(&proxy->lines);
    event_assign(&proxy->poll, proxy->base, -1, 0, on_poll, proxy);
}

void
proxy_set_wake(struct proxy *proxy, const int *fds, size_t count)
{
    if (is_woken_by_others(proxy)) event_del(&proxy->wake);
    proxy->wake_count = count < SHM_WORKERS_MAX ? (unsigned)count : SHM_WORKERS_MAX;
    memcpy(proxy->wake_fds, fds, proxy->wake_count * sizeof *fds);
    if (!is_woken_by_others(proxy)) return;
    event_assign(
        &proxy->wake, proxy->base, proxy->wake_fds[proxy->worker], EV_READ | EV_PERSIST, on_wake, proxy);
    if (event_add(&proxy->wake, NULL) == -1) proxy->wake_count = 0; /* then a timer looks */
}

void
queueing_fini(struct proxy *proxy)
{
    event_del(&proxy->poll);
    if (is_woken_by_others(proxy)) event_del(&proxy->wake);
    for (struct link *at = proxy->lines.next, *next; at != &proxy->lines; at = next) {
        next = at->next;
        free(LINK_OF(at, struct line, link));
    }
    free(proxy->line_by_name);
}
