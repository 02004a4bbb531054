#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config/bundle.h"

#ifndef FLUXGATE_DATADIR
#define FLUXGATE_DATADIR "/usr/share/fluxgate"
#endif

enum { SHARE_PATH_BYTES = 4096 };
static char share_dir[SHARE_PATH_BYTES];

static bool
is_dir_below(const char *dir, const char *name)
{
    char path[SHARE_PATH_BYTES + 32];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* EXE/../../.. is build/PRESET/fluxgate in a source tree, EXE/../.. is build/fluxgate. */
static bool
find_beside_program(void)
{
    char exe[SHARE_PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = '\0';
    char trees[3][SHARE_PATH_BYTES];
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(exe, '/');
        if (slash == NULL) return false;
        *slash = '\0';
        memcpy(trees[up], exe, sizeof exe);
    }
    for (int up = 2; up >= 1; up--) {
        if (trees[up][0] == '\0') continue;
        if (!is_dir_below(trees[up], "lua/fluxgate") && !is_dir_below(trees[up], "strategies")) continue;
        memcpy(share_dir, trees[up], sizeof share_dir);
        return true;
    }
    return false;
}

static void
find_share_dir(void)
{
    const char *given = getenv("FLUXGATE_SHARE");
    if (given != NULL && given[0] != '\0' && strlen(given) < sizeof share_dir) {
        memcpy(share_dir, given, strlen(given) + 1);
    } else if (!find_beside_program()) {
        memcpy(share_dir, FLUXGATE_DATADIR, sizeof FLUXGATE_DATADIR);
    }
}

const char *
bundle_share_dir(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_share_dir);
    return share_dir;
}
