#include "core/main/folders.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDERS_MAX = 4096, DEPTH_MAX = 16 };

struct folders {
    int fd;
    size_t count;
};

static bool
watch(struct folders *folders, const char *path)
{
    /* A folder that is watched already answers with its old number, the same or a lower one. */
    int number = inotify_add_watch(
        folders->fd, path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_ONLYDIR);
    if (number == -1) return false;
    if ((size_t)number > folders->count) folders->count = (size_t)number;
    return true;
}

/* What cannot be read or watched below is left out: the run itself will say what it misses. */
static void
watch_below(struct folders *folders, const char *path, int depth)
{
    DIR *dir;
    if (depth > DEPTH_MAX || folders->count >= FOLDERS_MAX || !watch(folders, path)) return;
    if ((dir = opendir(path)) == NULL) return;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char below[PATH_MAX];
        struct stat status;
        int len = snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] == '.' || len < 0 || (size_t)len >= sizeof below) continue;
        if (lstat(below, &status) == 0 && S_ISDIR(status.st_mode)) watch_below(folders, below, depth + 1);
    }
    closedir(dir);
}

struct folders *
folders_watch(const char *const *paths)
{
    struct folders *folders = calloc(1, sizeof *folders);
    if (folders == NULL) return NULL;
    folders->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (folders->fd == -1) {
        free(folders);
        return NULL;
    }
    watch_below(folders, ".", 0);
    for (size_t i = 0; paths[i] != NULL; i++) {
        struct stat status;
        char parent[PATH_MAX];
        if (stat(paths[i], &status) == -1) continue;
        if (S_ISDIR(status.st_mode)) {
            watch_below(folders, paths[i], 0);
            continue;
        }
        const char *slash = strrchr(paths[i], '/');
        int len = slash == NULL ? 0 : (int)(slash - paths[i]);
        if (len == 0 || snprintf(parent, sizeof parent, "%.*s", len, paths[i]) >= (int)sizeof parent)
            continue;
        (void)watch(folders, parent);
    }
    if (folders->count > 0) return folders;
    folders_free(folders);
    return NULL;
}

size_t
folders_count(const struct folders *folders)
{
    return folders->count;
}

static bool
ends_in(const char *name, const char *suffix)
{
    size_t len = strlen(name), tail = strlen(suffix);
    return len >= tail && memcmp(name + len - tail, suffix, tail) == 0;
}

/* Reads what is there. 1: a file of ours changed; 0: only others; -1: errno. */
static int
read_events(struct folders *folders, const char *suffix)
{
    _Alignas(struct inotify_event) char bytes[16384];
    ssize_t n = read(folders->fd, bytes, sizeof bytes);
    if (n <= 0) return n == -1 && errno != EAGAIN && errno != EINTR ? -1 : 0;
    int found = 0;
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *event = (const void *)(bytes + at);
        bool is_lost = (event->mask & IN_Q_OVERFLOW) != 0;
        if (is_lost || (event->len > 0 && ends_in(event->name, suffix))) found = 1;
        at += (ssize_t)(sizeof *event + event->len);
    }
    return found;
}

bool
folders_wait(struct folders *folders, const char *suffix, int settle_ms)
{
    bool changed = false;
    for (;;) {
        struct pollfd ready = {.fd = folders->fd, .events = POLLIN};
        int n = poll(&ready, 1, changed ? settle_ms : -1);
        if (n == 0 && changed) return true;
        if (n == -1 && errno != EINTR) return false;
        if (n <= 0) continue;
        int found = read_events(folders, suffix);
        if (found == -1) return false;
        changed = changed || found == 1;
    }
}

void
folders_free(struct folders *folders)
{
    if (folders == NULL) return;
    close(folders->fd);
    free(folders);
}
