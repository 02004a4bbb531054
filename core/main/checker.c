#include "core/main/checker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/diag.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/script/script.h"

/* Control opens it, long after anybody looks: so what can be known now is said now, and nothing is made. */
static void
check_access_log(const struct config *config, struct diags *diags)
{
    static const char *const otherwise = "or \"-\" for standard output";
    const char *path = config->log.access;
    struct stat info;
    if (path == NULL || strcmp(path, "-") == 0) return;
    struct place place = config_place(config, "log.access");
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode))
            diag_add(diags, DIAG_ERROR, place, NULL, "log.access: %s is a directory: name a file in it, %s",
                path, otherwise);
        else if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == -1)
            diag_add(diags, DIAG_ERROR, place, NULL,
                "log.access: %s cannot be written (%s): give it to the user that runs fluxgate, %s", path,
                strerror(errno), otherwise);
        return;
    }
    const char *slash = strrchr(path, '/');
    char *dir = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (dir == NULL)
        diags->failed = true;
    else if (stat(dir, &info) == -1 || !S_ISDIR(info.st_mode))
        diag_add(diags, DIAG_ERROR, place, NULL,
            "log.access: there is no directory %s for it: make it (mkdir -p %s), %s", dir, dir, otherwise);
    else if (faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) == -1)
        diag_add(diags, DIAG_ERROR, place, NULL,
            "log.access: no file can be made in %s (%s): give it to the user that runs fluxgate, %s", dir,
            strerror(errno), otherwise);
    free(dir);
}

/* The child. Complaints go to `out`, one a line; 0 where the bundle in `memfd` is complete. */
static int
check(const char *path, int memfd, FILE *out)
{
    struct diags diags = {0};
    struct script *script = NULL;
    int code = 1;
    struct bundle *bundle = bundle_open();
    struct config *config = bundle == NULL ? NULL : config_load(bundle, path, &diags);
    if (config != NULL) check_access_log(config, &diags);
    if (config != NULL && diags_ok(&diags)) {
        struct script_env env = {.role = SCRIPT_CHECKER, .config = config, .bundle = bundle};
        script = script_new(&env, NULL, &diags);
        if (script == NULL && diags_ok(&diags))
            fputs("error: out of memory while the scripts were loaded\n", out);
    }
    diags_print(&diags, out);
    if (config == NULL && diags_ok(&diags))
        fputs("error: out of memory while the configuration was read\n", out);
    if (script != NULL && diags_ok(&diags)) {
        if (bundle_seal(bundle, memfd))
            code = 0;
        else
            fprintf(out, "error: the bundle cannot be sealed: %s\n", strerror(errno));
    }
    script_free(script);
    config_free(config);
    bundle_free(bundle);
    diags_fini(&diags);
    return code;
}

bool
checker_start(struct checker *checker, const char *config_path)
{
    int ends[2];
    *checker = (struct checker){.memfd = -1, .pipe = -1};
    checker->memfd = memfd_create("fluxgate-bundle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (checker->memfd == -1) return false;
    if (pipe2(ends, O_CLOEXEC) == -1) goto fail;
    checker->pid = fork();
    if (checker->pid == -1) {
        close(ends[0]);
        close(ends[1]);
        goto fail;
    }
    if (checker->pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        log_init("checker", LOG_WARN, LOG_LOGFMT);
        FILE *out = fdopen(ends[1], "w");
        int code = out == NULL ? 1 : check(config_path, checker->memfd, out);
        if (out != NULL && fclose(out) != 0) code = 1;
        _exit(code);
    }
    close(ends[1]);
    checker->pipe = ends[0];
    if (fcntl(checker->pipe, F_SETFL, O_NONBLOCK) == -1) log_warn("the checker's pipe stays blocking");
    checker->deadline_us = clock_now_us() + CHECKER_LIMIT_US;
    return true;
fail:
    close(checker->memfd);
    *checker = (struct checker){.memfd = -1, .pipe = -1};
    return false;
}

void
checker_read(struct checker *checker)
{
    char bytes[4096];
    while (checker->pipe != -1 && checker->said.len < 256 * 1024) {
        ssize_t n = read(checker->pipe, bytes, sizeof bytes);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return;
        if (n <= 0) {
            close(checker->pipe);
            checker->pipe = -1;
            return;
        }
        strbuf_add(&checker->said, bytes, (size_t)n);
    }
}

bool
checker_finish(struct checker *checker, int wait_status)
{
    checker_read(checker);
    if (checker->pipe != -1) close(checker->pipe);
    checker->pipe = -1;
    checker->pid = 0;
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return true;
    if (WIFSIGNALED(wait_status)) {
        if (WTERMSIG(wait_status) == SIGKILL) {
            strbuf_printf(&checker->said,
                "error: the check was ended: it took longer than %d s or was killed\n",
                CHECKER_LIMIT_US / 1000000);
        } else {
            strbuf_printf(&checker->said, "error: the check died of signal %d (%s)\n", WTERMSIG(wait_status),
                strsignal(WTERMSIG(wait_status)));
        }
    } else if (checker->said.len == 0) {
        strbuf_add_text(&checker->said, "error: the check failed and did not say why\n");
    }
    close(checker->memfd);
    checker->memfd = -1;
    return false;
}

bool
checker_run(const char *config_path, int *memfd)
{
    struct checker checker;
    int status = 0;
    *memfd = -1;
    if (!checker_start(&checker, config_path)) {
        fprintf(stderr, "fluxgate: the check cannot be started: %s\n", strerror(errno));
        return false;
    }
    while (checker.pipe != -1) {
        struct pollfd wait = {.fd = checker.pipe, .events = POLLIN};
        uint64_t now = clock_now_us();
        if (now >= checker.deadline_us) {
            kill(checker.pid, SIGKILL);
            break;
        }
        if (poll(&wait, 1, (int)((checker.deadline_us - now) / 1000) + 1) > 0) checker_read(&checker);
    }
    while (waitpid(checker.pid, &status, 0) == -1 && errno == EINTR)
        continue;
    bool ok = checker_finish(&checker, status);
    if (checker.said.len > 0) fwrite(checker.said.at, 1, checker.said.len, stderr);
    strbuf_fini(&checker.said);
    *memfd = checker.memfd;
    return ok;
}
