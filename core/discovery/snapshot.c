#include "core/discovery/discovery_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"

static const char snapshot_name[] = "instances.json";

struct save_job {
    struct work_job work; /* first: jobs are cast */
    char *path;
    struct strbuf json;
    bool *is_busy; /* the caller's, alive while the pool is */
    int error;     /* errno of the failed step */
    const char *step;
};

static char *
path_of(const char *state_dir, const char *suffix)
{
    struct strbuf path = {0};
    strbuf_printf(&path, "%s/%s%s", state_dir, snapshot_name, suffix);
    if (path.failed) strbuf_fini(&path);
    return path.at;
}

static bool
file_read(const char *path, struct strbuf *out)
{
    char bytes[16384];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1) return false;
    while ((n = read(fd, bytes, sizeof bytes)) > 0 && out->len <= ANSWER_BYTES_MAX)
        strbuf_add(out, bytes, (size_t)n);
    int error = n == -1 ? errno : n > 0 ? EFBIG : out->failed ? ENOMEM : 0;
    close(fd);
    errno = error;
    return error == 0;
}

struct instances *
snapshot_load(const char *state_dir)
{
    struct strbuf json = {0};
    struct instances *all = NULL;
    const char *why = NULL;
    char *path = path_of(state_dir, "");
    if (path == NULL) return NULL;
    if (file_read(path, &json)) {
        all = instances_from_json(strbuf_slice(&json), &why);
        if (all == NULL) log_warnx("snapshot ignored", F_STR("file", path), F_STR("error", why));
    } else if (errno != ENOENT) {
        log_warn("snapshot cannot be read", F_STR("file", path));
    }
    if (all != NULL && all->bad > 0) {
        log_warnx("snapshot holds instances that cannot be used", F_STR("file", path),
            F_UINT("count", all->bad), F_STR("why", all->bad_why));
    }
    strbuf_fini(&json);
    free(path);
    return all;
}

static const char *
file_write(int fd, struct slice bytes)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.at, bytes.len);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return "write";
        bytes.at += n;
        bytes.len -= (size_t)n;
    }
    return fsync(fd) == -1 ? "fsync" : NULL;
}

/* NULL, or the step that failed, with errno. */
static const char *
file_replace(const char *path, const char *suffix, struct slice bytes)
{
    struct strbuf temporary = {0};
    const char *step = NULL;
    strbuf_printf(&temporary, "%s.%s", path, suffix);
    if (temporary.failed) return "allocate";
    int fd = open(temporary.at, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd == -1) {
        step = "open";
    } else {
        step = file_write(fd, bytes);
        if (close(fd) == -1 && step == NULL) step = "close";
        if (step == NULL && rename(temporary.at, path) == -1) step = "rename";
        int error = errno;
        if (step != NULL && unlink(temporary.at) == -1) step = "unlink";
        errno = error;
    }
    strbuf_fini(&temporary);
    return step;
}

static void
save_run(struct work_job *work)
{
    struct save_job *job = (struct save_job *)work;
    job->step = file_replace(job->path, "next", strbuf_slice(&job->json));
    job->error = errno;
}

static void
save_drop(struct work_job *work)
{
    struct save_job *job = (struct save_job *)work;
    strbuf_fini(&job->json);
    free(job->path);
    free(job);
}

static void
save_report(const char *path, const char *step)
{
    if (step != NULL) log_warn("snapshot not written", F_STR("file", path), F_STR("step", step));
}

static void
save_done(struct work_job *work)
{
    struct save_job *job = (struct save_job *)work;
    *job->is_busy = false;
    errno = job->error;
    save_report(job->path, job->step);
    save_drop(work);
}

void
snapshot_save(struct work *work, const char *state_dir, struct strbuf *json, bool *is_busy)
{
    struct save_job *job = json->failed ? NULL : calloc(1, sizeof *job);
    if (job != NULL) {
        job->work = (struct work_job){NULL, save_run, save_done, save_drop};
        job->path = path_of(state_dir, "");
        job->json = *json;
        job->is_busy = is_busy;
        *json = (struct strbuf){0};
        *is_busy = job->path != NULL && work_submit(work, &job->work);
        if (!*is_busy) save_drop(&job->work);
    }
    strbuf_fini(json);
}

void
snapshot_save_now(const char *state_dir, const struct strbuf *json)
{
    char *path = path_of(state_dir, "");
    if (path != NULL && !json->failed) save_report(path, file_replace(path, "last", strbuf_slice(json)));
    free(path);
}
