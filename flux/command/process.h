/* flux/command/process.h: the child of `flux run`, and the question whether its port accepts. */
#ifndef FLUX_COMMAND_PROCESS_H
#define FLUX_COMMAND_PROCESS_H
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "core/base/compiler.h"

/* Starts `command` in a process group of its own with the signal mask `mask`; it gets SIGTERM should this
 * process die. The pid; else -1 with errno, *stage saying whether "fork" or "exec" failed. */
MUST_CHECK
pid_t process_start(char **command, const sigset_t *mask, const char **stage);

/* True where a connection to `port` on any address of this machine succeeds. Takes well under 0.1 s. */
bool port_accepts(int port);

#endif
