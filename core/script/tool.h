/* core/script/tool.h: programs of ours that are Lua and run at a person's terminal, outside any gateway:
 * `fluxgate test` and `fluxgate new`. */
#ifndef FLUXGATE_SCRIPT_TOOL_H
#define FLUXGATE_SCRIPT_TOOL_H
#include "core/base/compiler.h"

/* Runs share/lua/fluxgate/tool/NAME.lua from the disk in a state of its own, with every library, and with
 * `arguments` (NULL-terminated, borrowed) as the program's. Returns the number that the file returns as an
 * exit code; 1 where it raises or cannot be read, said on standard error. The file may as well end the
 * process by os.exit. */
MUST_CHECK
int script_tool(const char *name, const char *const *arguments);
#endif
