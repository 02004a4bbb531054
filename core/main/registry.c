/* core/main/registry.c: the registry's process, embedded (told by the supervisor) or alone (`fluxgate
 * registry`). */
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/main/checker.h"
#include "core/main/command.h"
#include "core/main/process.h"
#include "core/net/listener.h"
#include "registry/registry.h"

enum { DRAIN_LIMIT_US = 2000000, ALIVE_MS = 500 };

struct registry_process {
    int channel;      /* -1: alone */
    const char *path; /* alone: the config file */
    struct event_base *base;
    struct event *on_channel, *on_alive, *on_signals[3];
    struct registry *registry;
    struct bundle *bundle;
    struct config *config;
    int code;
};

static void
on_drained(void *context)
{
    struct registry_process *process = context;
    event_base_loopexit(process->base, NULL);
}

static void
leave(struct registry_process *process)
{
    if (process->registry != NULL)
        registry_drain(process->registry, DRAIN_LIMIT_US, on_drained, process);
    else
        event_base_loopexit(process->base, NULL);
}

static void
replace_config(struct registry_process *process, struct bundle *bundle, struct config *config)
{
    if (process->registry != NULL) registry_use(process->registry, &config->registry);
    config_free(process->config);
    bundle_free(process->bundle);
    process->config = config;
    process->bundle = bundle;
}

static void
use_generation(struct registry_process *process, struct ipc_message *message)
{
    struct bundle *bundle;
    const char *why = "";
    struct config *config = generation_load(message, &bundle);
    if (config == NULL) {
        generation_report(process->channel, message->number, false, message->text);
        ipc_close_fds(message);
        return;
    }
    replace_config(process, bundle, config);
    if (process->registry == NULL && message->fd_count == 3) {
        process->registry =
            registry_new(process->base, &config->registry, message->fds[1], message->fds[2], &why);
        message->fd_count = 0;
        if (process->registry == NULL) {
            log_errorx("the registry cannot start", F_STR("why", why));
            process->code = 1;
            event_base_loopexit(process->base, NULL);
        }
    }
    ipc_close_fds(message);
    generation_report(process->channel, message->number, process->registry != NULL, why);
}

static void
on_channel(evutil_socket_t fd, short what, void *context)
{
    static struct ipc_message message;
    struct registry_process *process = context;
    int got = 0;
    (void)what;
    while ((got = ipc_receive(fd, &message)) == 1) {
        if (message.type == IPC_GENERATION)
            use_generation(process, &message);
        else if (message.type == IPC_DRAIN)
            leave(process);
        ipc_close_fds(&message);
    }
    if (got == -1) {
        event_del(process->on_channel);
        leave(process);
    }
}

static void
on_alive(evutil_socket_t fd, short what, void *context)
{
    static struct ipc_message message;
    struct registry_process *process = context;
    (void)fd;
    (void)what;
    message = (struct ipc_message){.type = IPC_ALIVE};
    if (!ipc_send(process->channel, &message)) log_debug("the supervisor does not take messages");
}

static void
finish(struct registry_process *process)
{
    if (process->registry != NULL) registry_free(process->registry);
    config_free(process->config);
    bundle_free(process->bundle);
    if (process->on_channel != NULL) event_free(process->on_channel);
    if (process->on_alive != NULL) event_free(process->on_alive);
    for (size_t i = 0; i < 3; i++) {
        if (process->on_signals[i] != NULL) event_free(process->on_signals[i]);
    }
    if (process->base != NULL) event_base_free(process->base);
}

int
registry_main(int channel)
{
    const struct timeval alive = {0, ALIVE_MS * 1000};
    struct registry_process process = {.channel = channel, .base = event_base_new()};
    if (process.base != NULL) {
        process.on_channel = event_new(process.base, channel, EV_READ | EV_PERSIST, on_channel, &process);
        process.on_alive = event_new(process.base, -1, EV_PERSIST, on_alive, &process);
    }
    if (process.on_channel == NULL || process.on_alive == NULL || event_add(process.on_channel, NULL) == -1 ||
        event_add(process.on_alive, &alive) == -1 || event_base_dispatch(process.base) == -1) {
        log_error("the registry's event loop failed");
        process.code = 1;
    }
    finish(&process);
    close(channel);
    return process.code;
}

/* ---- alone
 * -------------------------------------------------------------------------------------------------------------
 */

/* The config from a bundle that a checker sealed: the same way as in the gateway. NULL: said on standard
 * error. */
static struct config *
load_checked(const char *path, struct bundle **bundle)
{
    struct diags diags = {0};
    struct config *config = NULL;
    int memfd;
    *bundle = NULL;
    if (!checker_run(path, &memfd)) return NULL;
    *bundle = bundle_from_fd(memfd);
    if (*bundle != NULL) config = config_load(*bundle, path, &diags);
    if (config == NULL || !diags_ok(&diags)) {
        diags_print(&diags, stderr);
        config_free(config);
        bundle_free(*bundle);
        config = NULL;
    }
    diags_fini(&diags);
    return config;
}

static void
on_signal(evutil_socket_t signo, short what, void *context)
{
    struct registry_process *process = context;
    struct bundle *bundle;
    (void)what;
    if (signo != SIGHUP) {
        log_info("draining");
        leave(process);
        return;
    }
    struct config *config = load_checked(process->path, &bundle);
    if (config == NULL) {
        log_errorx(
            "reload failed", F_STR("reason", "the configuration is not valid; the present one goes on"));
        return;
    }
    replace_config(process, bundle, config);
    log_info("reloaded");
}

static int
open_socket(const struct config_address *address, const char *what)
{
    int fd;
    const char *step;
    char name[128];
    if (!listener_open(address, false, 1, &fd, &step)) {
        fprintf(stderr, "fluxgate: %s address %s: %s: %s\n", what, address->text, step, strerror(errno));
        return -1;
    }
    listener_name(fd, name);
    log_info("listening", F_STR("what", what), F_STR("address", name));
    return fd;
}

static int
run_registry(const struct command_args *args)
{
    struct registry_process process = {.channel = -1, .path = args->config};
    const int taken[3] = {SIGTERM, SIGINT, SIGHUP};
    const char *why = "";
    process.config = load_checked(args->config, &process.bundle);
    if (process.config == NULL) return EXIT_FAILED;
    if (!process.config->registry
             .enabled) { /* `url` and `embedded` tell a gateway where it is, not the registry itself */
        fprintf(stderr,
            "fluxgate: %s says nothing of a registry; add\n  registry: { listen: { http: \"0.0.0.0:8081\", "
            "grpc: \"0.0.0.0:9091\" } }\n",
            args->config);
        finish(&process);
        return EXIT_FAILED;
    }
    log_init("registry", process.config->log.level, process.config->log.format);
    signal(SIGPIPE, SIG_IGN);
    int http = open_socket(&process.config->registry.listen_http, "registry-http");
    int grpc = http == -1 ? -1 : open_socket(&process.config->registry.listen_grpc, "registry-grpc");
    process.code = EXIT_FAILED;
    process.base = grpc == -1 ? NULL : event_base_new();
    if (process.base != NULL)
        process.registry = registry_new(process.base, &process.config->registry, http, grpc, &why);
    if (process.registry != NULL) {
        bool ok = true;
        for (size_t i = 0; i < 3; i++) {
            process.on_signals[i] = evsignal_new(process.base, taken[i], on_signal, &process);
            ok = ok && process.on_signals[i] != NULL && event_add(process.on_signals[i], NULL) == 0;
        }
        log_info("ready", F_INT("pid", getpid()));
        if (ok && event_base_dispatch(process.base) != -1) process.code = EXIT_DONE;
        log_info("stopped");
    } else if (process.base != NULL) {
        fprintf(stderr, "fluxgate: the registry cannot start: %s\n", why);
    }
    finish(&process);
    return process.code;
}

const struct command command_registry = {
    .name = "registry",
    .summary = "run the service registry alone",
    .usage = "registry -c FILE",
    .help = "Serves the registry that the configuration's `registry` block describes: REST on\n"
            "listen.http (8081), gRPC on listen.grpc (9091). SIGHUP reloads, SIGTERM drains and ends it.",
    .options = "c",
    .run = run_registry,
};
