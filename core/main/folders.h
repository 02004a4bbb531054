/* core/main/folders.h: waits until a file below some folders changes (inotify). For `fluxgate test --watch`.
 */
#ifndef FLUXGATE_MAIN_FOLDERS_H
#define FLUXGATE_MAIN_FOLDERS_H
#include <stdbool.h>
#include <stddef.h>

#include "core/base/compiler.h"

struct folders;

/* Watches the current directory, the given folders and those of the given files, with all folders below that
 * do not begin with a dot: some thousand at most. `paths` is NULL-terminated, borrowed until this returns;
 * what does not exist is left out. NULL with errno. */
MUST_CHECK
struct folders *folders_watch(const char *const *paths);
size_t folders_count(const struct folders *folders);
/* Returns once a file whose name ends in `suffix` was written, moved or deleted since folders_watch, and
 * nothing further happened for settle_ms. False with errno where the watching failed. */
MUST_CHECK
bool folders_wait(struct folders *folders, const char *suffix, int settle_ms);
void folders_free(struct folders *folders); /* NULL is fine */
#endif
