/* core/main/supervisor_internal.h: what supervisor.c, spawn.c, sockets.c and reload.c share. */
#ifndef FLUXGATE_MAIN_SUPERVISOR_INTERNAL_H
#define FLUXGATE_MAIN_SUPERVISOR_INTERNAL_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/compiler.h"
#include "core/config/config.h"
#include "core/main/backoff.h"
#include "core/main/checker.h"
#include "core/main/ipc.h"
#include "core/shm/shm.h"

enum { LISTENERS_MAX = 64, LISTENER_KEY_BYTES = 256 };

enum role { ROLE_CONTROL, ROLE_REGISTRY, ROLE_WORKER };

/* One child. pid 0: not running; it is started when its back-off is over, while it is wanted. */
struct process {
    enum role role;
    unsigned index; /* of a worker */
    unsigned place; /* whose sockets it accepts from: its own, or those of the worker that it stands in for */
    bool wanted;
    pid_t pid;
    int channel;
    struct backoff backoff;
    uint64_t alive_us, helped_us;
    uint64_t sign_us, sign_cpu_us; /* its last sign of life, and the CPU time that it had used by then */
    uint64_t late_us;              /* since when the next one is late without an excuse; 0: it is not */
    uint32_t sent, using;          /* generation last sent, and last reported in use */
    bool ready, killed;            /* killed: by the watchdog, its end is on the way */
};

/* A bound address: one socket a worker (listeners), or one (admin, registry). Kept for successors. */
struct bound_socket {
    char text[LISTENER_KEY_BYTES]; /* the address as the config writes it, and which of several alike: the key
                                      over reloads */
    const char *what;
    unsigned count;
    int fds[SHM_WORKERS_MAX];
    uint16_t port;
    bool fresh;   /* opened by the reload under way */
    bool kept;    /* named by the candidate */
    bool steered; /* workers have left it: new connections go to the first `count` sockets */
};

struct generation_file {
    uint32_t number; /* 0: there is none */
    int fd;
    struct bundle *bundle;
    struct config *config;
    char hash[17];
};

enum phase {
    PHASE_STARTING, /* control is on its way; workers start when it is ready or 3 s passed */
    PHASE_SERVING,
    PHASE_CHECKING, /* a checker runs */
    PHASE_CONTROL,  /* control changes over to the candidate */
    PHASE_WORKERS,  /* workers do */
    PHASE_DELAY,    /* SIGTERM came: /ready says 503, traffic goes on for drain.delay */
    PHASE_DRAINING, /* workers finish */
    PHASE_STOPPING, /* control and registry do */
};

struct supervisor {
    const char *path;
    struct shm *shm;
    enum phase phase;
    uint64_t phase_until_us; /* when the phase is given up */
    struct generation_file current, candidate;
    struct checker checker;
    bool reload_again; /* a SIGHUP came during a reload */
    uint32_t reloads_asked,
        reload_serial; /* control's count of requests: the last one, and what the present reload answers */
    struct bound_socket listeners[LISTENERS_MAX], admin, registry_http, registry_grpc;
    size_t listener_count;
    struct process control, registry, workers[SHM_WORKERS_MAX];
    int wake[SHM_WORKERS_MAX]; /* eventfds: a worker that made room wakes the one whose request waits for it
                                */
    int signals;               /* signalfd */
    bool announced_ready;
    uint64_t last_turn_us;
    int exit_code;
};

/* sockets.c: opens what the config names and is not open yet, for `workers` workers each; on failure
 * everything fresh is closed again and *why tells. sockets_settle closes what the present config no longer
 * names. */
MUST_CHECK
bool sockets_open(struct supervisor *sv, struct config *config, char why[512]);
void sockets_abandon(struct supervisor *sv);
void sockets_settle(struct supervisor *sv);
void sockets_retire(struct supervisor *sv); /* takes the sockets of workers that leave out of the deal */
/* What is bound for the config's i-th listener; NULL: nothing. */
const struct bound_socket *sockets_listener(struct supervisor *sv, const struct config *config, size_t i);
void sockets_close_listeners(struct supervisor *sv);
void sockets_close_all(struct supervisor *sv);
void sockets_announce(const struct supervisor *sv);
struct ipc_bound sockets_bound(const struct supervisor *sv);

/* spawn.c */
void process_init(struct supervisor *sv);
void process_start_due(struct supervisor *sv); /* starts every wanted process that is not running and may */
bool process_send_generation(
    struct supervisor *sv, struct process *process, const struct generation_file *file);
bool process_tell(struct process *process, enum ipc_type type, uint32_t number, bool ok, const char *text);
void process_tell_drain(struct supervisor *sv, struct process *process);
void process_reap(struct supervisor *sv); /* waitpid for all; restarts are scheduled */
void process_watchdog(struct supervisor *sv);
void process_set_wanted(
    struct supervisor *sv); /* from the current config: how many workers, registry or not */
struct process *process_next(
    struct supervisor *sv, struct process *after); /* NULL: the first; running or not */
bool process_any_worker_runs(const struct supervisor *sv);
bool process_all_workers_use(const struct supervisor *sv, uint32_t number);

/* reload.c */
bool generation_open(struct generation_file *file, int memfd, const char *path, char why[512]);
void generation_close(struct generation_file *file);
bool generation_name(
    struct supervisor *sv, const struct config *config); /* routes, services, strategies into shm */
void reload_request(struct supervisor *sv);
void reload_checker_ended(struct supervisor *sv, int wait_status);
void reload_used(struct supervisor *sv, struct process *process, const struct ipc_message *message);
void reload_turn(struct supervisor *sv); /* timeouts, and a further request that waited */

#endif
