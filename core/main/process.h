/* core/main/process.h: the mains of the child processes. Each runs after a fork with nothing open but its
 * channel, gets its generation and sockets as messages, and returns its exit code. */
#ifndef FLUXGATE_MAIN_PROCESS_H
#define FLUXGATE_MAIN_PROCESS_H
#include <stdbool.h>

#include "core/base/diag.h"
#include "core/config/config.h"
#include "core/main/ipc.h"
#include "core/shm/shm.h"

int worker_main(struct shm *shm, int channel, unsigned worker);
int control_main(struct shm *shm, int channel);
int registry_main(int channel);

/* What a child does with IPC_GENERATION: takes fds[0] as the bundle and builds the config from it, ports
 * filled in. NULL, with the complaints in message->text, where that fails; message->fds[0] is taken either
 * way. `file` is the config's path, in message->text on arrival. */
struct config *generation_load(struct ipc_message *message, struct bundle **bundle);

/* Sends IPC_USING for `number`. */
void generation_report(int channel, uint32_t number, bool ok, const char *text);

/* Puts the ports that the kernel chose where the config has 0. */
void config_apply_bound(struct config *config, const struct ipc_bound *bound);

#endif
