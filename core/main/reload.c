/* core/main/reload.c: a reload as the supervisor sees it: checker, then control, then workers, then what is
 * left over goes. Control first, so that the endpoints of a new service stand in the table before the first
 * request asks for them; and what the new generation no longer has is removed last, once no worker can ask
 * for it. */
#include "core/main/supervisor_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/proxy/proxy.h"
#include "core/script/script.h"

enum { SWAP_LIMIT_US = 15000000 };

bool
generation_open(struct generation_file *file, int memfd, const char *path, char why[512])
{
    struct diags diags = {0};
    int fd = dup(memfd); /* the bundle owns one, the children are sent the other */
    *file = (struct generation_file){.fd = memfd};
    file->bundle = fd == -1 ? NULL : bundle_from_fd(fd);
    if (file->bundle == NULL) {
        snprintf(why, 512, "the bundle cannot be read back: %s", strerror(errno));
        goto fail;
    }
    file->config = config_load(file->bundle, path, &diags);
    if (file->config == NULL || !diags_ok(&diags)) {
        snprintf(why, 512, "%s", diags.count > 0 ? diags.rows[0].text : "out of memory");
        goto fail;
    }
    bundle_hash(file->bundle, file->hash);
    diags_fini(&diags);
    return true;
fail:
    diags_fini(&diags);
    generation_close(file);
    return false;
}

void
generation_close(struct generation_file *file)
{
    config_free(file->config);
    bundle_free(file->bundle);
    if (file->fd != -1) close(file->fd);
    *file = (struct generation_file){.fd = -1};
}

static bool
name_filters(struct supervisor *sv, const struct config_filter *filters, size_t count)
{
    bool ok = true;
    for (size_t i = 0; i < count; i++)
        ok &= shm_name_add(sv->shm, slice_of(filters[i].plugin.name)) != UINT32_MAX;
    return ok;
}

bool
generation_name(struct supervisor *sv, const struct config *config)
{
    bool ok = shm_name_add(sv->shm, SLICE_LIT(PROXY_FETCH_ROUTE)) != UINT32_MAX;
    for (size_t i = 0; i < config->route_count; i++) {
        ok &= shm_name_add(sv->shm, slice_of(config->routes[i].name)) != UINT32_MAX;
        ok &= name_filters(sv, config->routes[i].filters, config->routes[i].filter_count);
    }
    for (size_t i = 0; i < config->service_count; i++) {
        ok &= shm_name_add(sv->shm, slice_of(config->services[i].name)) != UINT32_MAX;
        ok &= shm_name_add(sv->shm, slice_of(config->services[i].strategy.name)) != UINT32_MAX;
        ok &= name_filters(sv, config->services[i].filters, config->services[i].filter_count);
        if (config->services[i].health.enabled)
            ok &= shm_name_add(sv->shm, slice_of(config->services[i].health.policy.name)) != UINT32_MAX;
    }
    return ok;
}

/* A line of the log for each line of `text`, so that the place of each error stands alone. */
static void
log_lines(const char *event, const char *text)
{
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        if (len > 0) log_errorx(event, F_SLICE("reason", ((struct slice){text, len})));
        text += len + (text[len] == '\n');
    }
}

static void
fail(struct supervisor *sv, const char *why)
{
    log_lines("reload failed", why);
    log_warnx("the present generation goes on", F_UINT("generation", sv->current.number));
    atomic_fetch_add(&shm_totals(sv->shm)->reload_failures, 1);
    if (sv->candidate.number != 0) {
        sockets_abandon(sv);
        generation_close(&sv->candidate);
    }
    sv->phase = PHASE_SERVING;
    if (sv->control.using == sv->current.number &&
        !process_tell(&sv->control, IPC_COMMIT, sv->current.number, true, "")) /* it may be a new one */
        log_warnx("control does not know that all serve");
    if (!process_tell(&sv->control, IPC_RELOADED, sv->reload_serial, false, why)) {
        log_warnx("nobody could be told of the failed reload");
    }
}

void
reload_request(struct supervisor *sv)
{
    if (sv->phase >= PHASE_DELAY) return;
    if (sv->phase != PHASE_SERVING) {
        sv->reload_again = true;
        return;
    }
    sv->reload_again = false;
    sv->reload_serial = sv->reloads_asked;
    if (!checker_start(&sv->checker, sv->path)) {
        char why[128];
        snprintf(why, sizeof why, "the check cannot be started: %s", strerror(errno));
        fail(sv, why);
        return;
    }
    sv->phase = PHASE_CHECKING;
}

/* What only a restart can change is said, not silently kept. */
static void
warn_fixed(const struct config *now, const struct config *next)
{
    if (now->limits.max_endpoints != next->limits.max_endpoints)
        log_warnx("limits.max_endpoints changes with the next restart");
    if (now->limits.shared_dict_bytes != next->limits.shared_dict_bytes ||
        now->limits.shared_dicts != next->limits.shared_dicts)
        log_warnx("limits.shared_dict_bytes and limits.shared_dicts change with the next restart");
    if (now->registry.embedded && next->registry.embedded &&
        strcmp(now->registry.store, next->registry.store) != 0)
        log_warnx("registry.store changes with the next restart");
}

/* Control is on the candidate: from here it is the current one, and a worker that dies comes back on it. */
static void
enter_workers(struct supervisor *sv)
{
    struct generation_file old = sv->current;
    sv->current = sv->candidate;
    sv->candidate = (struct generation_file){.fd = -1};
    sv->phase = PHASE_WORKERS;
    sv->phase_until_us = clock_now_us() + SWAP_LIMIT_US;
    bool registry_moved = old.config->registry.embedded && sv->current.config->registry.embedded &&
                          (sv->registry_http.fresh || sv->registry_grpc.fresh);
    process_set_wanted(sv);
    sockets_retire(sv);
    for (struct process *p = process_next(sv, NULL); p != NULL; p = process_next(sv, p)) {
        if (p->pid == 0 || p->role == ROLE_CONTROL) continue;
        if (!p->wanted)
            process_tell_drain(sv, p);
        else if (p->role == ROLE_REGISTRY && registry_moved)
            kill(p->pid, SIGKILL); /* it starts anew on the new sockets */
        else if (!process_send_generation(sv, p, &sv->current))
            kill(p->pid, SIGKILL);
    }
    generation_close(&old);
}

void
reload_checker_ended(struct supervisor *sv, int wait_status)
{
    char why[512];
    bool good = checker_finish(&sv->checker, wait_status);
    struct strbuf said = sv->checker.said;
    int memfd = sv->checker.memfd;
    sv->checker = (struct checker){.memfd = -1, .pipe = -1};
    if (sv->phase != PHASE_CHECKING) { /* a drain began meanwhile */
        if (memfd != -1) close(memfd);
    } else if (!good) {
        fail(sv, said.at == NULL ? "out of memory" : said.at);
    } else if (!generation_open(&sv->candidate, memfd, sv->path, why)) {
        fail(sv, why);
    } else {
        if (said.len > 0) log_lines("reload warning", said.at);
        sv->candidate.number = sv->current.number + 1;
        warn_fixed(sv->current.config, sv->candidate.config);
        if (!generation_name(sv, sv->candidate.config)) {
            fail(sv, "too many names of services and routes since the start (or one over 255 bytes): restart "
                     "the gateway");
        } else if (!sockets_open(sv, sv->candidate.config, why)) {
            fail(sv, why);
        } else {
            sockets_announce(sv);
            sv->phase = PHASE_CONTROL;
            sv->phase_until_us = clock_now_us() + SWAP_LIMIT_US;
            if (sv->control.pid != 0 && !process_send_generation(sv, &sv->control, &sv->candidate))
                kill(sv->control.pid, SIGKILL);
        }
    }
    strbuf_fini(&said);
}

static void
settled(struct supervisor *sv)
{
    sv->phase = PHASE_SERVING;
    sockets_settle(sv);
    log_init(NULL, sv->current.config->log.level, sv->current.config->log.format);
    atomic_fetch_add(&shm_totals(sv->shm)->reloads, 1);
    log_info("reloaded", F_UINT("generation", sv->current.number), F_STR("hash", sv->current.hash));
    char text[128];
    snprintf(text, sizeof text, "generation %u (%s) serves", sv->current.number, sv->current.hash);
    if (!process_tell(&sv->control, IPC_COMMIT, sv->current.number, true, "") ||
        !process_tell(&sv->control, IPC_RELOADED, sv->reload_serial, true, text))
        log_warnx("control could not be told of the reload; it is told when it starts again");
}

void
reload_used(struct supervisor *sv, struct process *process, const struct ipc_message *message)
{
    if (!message->ok) {
        if (process->role == ROLE_CONTROL && sv->phase == PHASE_CONTROL) {
            fail(sv, message->text);
        } else {
            log_errorx("a generation could not be built", F_UINT("generation", message->number),
                F_STR("reason", message->text));
            kill(process->pid, SIGKILL); /* it comes back and tries again, with back-off */
        }
        return;
    }
    process->using = message->number;
    backoff_serves(&process->backoff);
    if (sv->phase == PHASE_CONTROL && process->role == ROLE_CONTROL &&
        message->number == sv->candidate.number)
        enter_workers(sv);
    if (process->role == ROLE_CONTROL && sv->phase == PHASE_SERVING && sv->announced_ready &&
        !process_tell(process, IPC_COMMIT, sv->current.number, true, ""))
        log_warnx("control does not know that all serve");
    if (sv->phase == PHASE_WORKERS && process_all_workers_use(sv, sv->current.number)) settled(sv);
}

void
reload_turn(struct supervisor *sv)
{
    uint64_t now = clock_now_us();
    switch (sv->phase) {
    case PHASE_CHECKING:
        if (sv->checker.pid != 0 && now > sv->checker.deadline_us) kill(sv->checker.pid, SIGKILL);
        return;
    case PHASE_CONTROL:
        if (now > sv->phase_until_us) fail(sv, "control did not change over in time");
        return;
    case PHASE_WORKERS: /* the swap is past undoing: a worker that hangs in it is replaced by one on the new
                           generation */
        if (now <= sv->phase_until_us) return;
        sv->phase_until_us = now + SWAP_LIMIT_US;
        for (unsigned i = 0; i < SHM_WORKERS_MAX; i++) {
            struct process *worker = &sv->workers[i];
            if (worker->wanted && worker->pid != 0 && worker->using != sv->current.number)
                kill(worker->pid, SIGKILL);
        }
        return;
    case PHASE_SERVING:
        if (sv->reload_again) reload_request(sv);
        return;
    case PHASE_STARTING:
    case PHASE_DELAY:
    case PHASE_DRAINING:
    case PHASE_STOPPING: return;
    }
}
