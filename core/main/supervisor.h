/* core/main/supervisor.h: the parent: reads the config, opens every listening socket, maps the shared
 * segment, forks the rest, restarts what dies, turns signals into messages. No Lua, no libcurl, no traffic.
 */
#ifndef FLUXGATE_MAIN_SUPERVISOR_H
#define FLUXGATE_MAIN_SUPERVISOR_H

/* Runs until it is told to stop; returns the exit code. */
int supervisor_main(const char *config_path);

#endif
