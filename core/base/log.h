/* core/base/log.h: events with typed fields. One call, two views (logfmt, JSON). Lines leave through a sink.
 */
#ifndef FLUXGATE_BASE_LOG_H
#define FLUXGATE_BASE_LOG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

enum log_kind { LOG_F_END, LOG_F_STR, LOG_F_SLICE, LOG_F_INT, LOG_F_UINT, LOG_F_DURATION };

struct log_field {
    enum log_kind kind;
    const char *name;
    const char *str;
    size_t len;
    int64_t number;
};

#define F_STR(name, value)                                                                                   \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_STR, (name), (value), 0, 0                                                                     \
    }
#define F_SLICE(name, value)                                                                                 \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_SLICE, (name), (value).at, (value).len, 0                                                      \
    }
#define F_INT(name, value)                                                                                   \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_INT, (name), NULL, 0, (int64_t)(value)                                                         \
    }
#define F_UINT(name, value)                                                                                  \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_UINT, (name), NULL, 0, (int64_t)(uint64_t)(value)                                              \
    }
#define F_US(name, value)                                                                                    \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_DURATION, (name), NULL, 0, (int64_t)(value)                                                    \
    }
#define F_END                                                                                                \
    (struct log_field)                                                                                       \
    {                                                                                                        \
        LOG_F_END, NULL, NULL, 0, 0                                                                          \
    }

/* A sink takes one finished line with its newline; it must neither block nor log. */
typedef void (*log_sink)(void *context, enum log_level level, const char *line, size_t len);

/* What every line of this process begins with: its role ("supervisor", "worker.1"), borrowed; NULL keeps the
 * present one. */
void log_init(const char *role, enum log_level level, enum log_format format);
void log_set_sink(log_sink sink, void *context); /* NULL: standard error */
bool log_level_parse(const char *text, enum log_level *level);
bool log_is_on(enum log_level level);

/* `event` is lower case words; values are escaped, so bytes of a peer may be passed. log_warn and log_error
 * add errno's text, the x twins do not; all keep errno. Never per request. */
void log_write(enum log_level level, bool with_errno, const char *event, const struct log_field *fields);

#define LOG_FIELDS(...) ((const struct log_field[]){__VA_ARGS__})
#define log_debug(event, ...)                                                                                \
    (log_is_on(LOG_DEBUG) ? log_write(LOG_DEBUG, false, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END)) \
                          : (void)0)
#define log_info(event, ...)  log_write(LOG_INFO, false, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END))
#define log_warn(event, ...)  log_write(LOG_WARN, true, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END))
#define log_warnx(event, ...) log_write(LOG_WARN, false, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END))
#define log_error(event, ...) log_write(LOG_ERROR, true, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END))
#define log_errorx(event, ...)                                                                               \
    log_write(LOG_ERROR, false, event, LOG_FIELDS(__VA_ARGS__ __VA_OPT__(, ) F_END))

/* True at most once per interval; else counts. When true, *suppressed is how many were swallowed since the
 * last. */
struct log_every {
    uint64_t next_us;
    uint64_t suppressed;
};
bool log_every_due(struct log_every *every, uint64_t interval_us, uint64_t *suppressed);

#endif
