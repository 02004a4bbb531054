/* core/main/checker.h: a process of its own that reads the disk, parses the YAML and loads every script for
 * real, so that a crash, a hang or an error there changes nothing (DESIGN.md section 7). */
#ifndef FLUXGATE_MAIN_CHECKER_H
#define FLUXGATE_MAIN_CHECKER_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/compiler.h"
#include "core/base/strbuf.h"

enum { CHECKER_LIMIT_US = 20000000 };

struct checker {
    pid_t pid; /* 0: none runs */
    int memfd; /* the bundle, sealed once the process exited 0 */
    int pipe;  /* its complaints, a line each */
    uint64_t deadline_us;
    struct strbuf said;
};

/* Forks it. False with errno. */
MUST_CHECK
bool checker_start(struct checker *checker, const char *config_path);

/* Reads what it said so far; call when the pipe is readable. */
void checker_read(struct checker *checker);

/* After waitpid: true where the bundle is good; then memfd is the caller's, else it is closed and `said`
 * tells why. */
MUST_CHECK
bool checker_finish(struct checker *checker, int wait_status);

/* All of it in one blocking call (check, config, the first start). *memfd -1 and false where it failed;
 * warnings and errors are printed to standard error. */
MUST_CHECK
bool checker_run(const char *config_path, int *memfd);

#endif
