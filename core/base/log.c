#include "core/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/strbuf.h"
#include "core/base/text.h"

enum { LOG_VALUE_MAX = 1024 };

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static struct {
    const char *role;
    enum log_level level;
    enum log_format format;
    log_sink sink;
    void *context;
} logger = {"fluxgate", LOG_INFO, LOG_LOGFMT, NULL, NULL};

void
log_init(const char *role, enum log_level level, enum log_format format)
{
    if (role != NULL) logger.role = role;
    logger.level = level;
    logger.format = format;
}

void
log_set_sink(log_sink sink, void *context)
{
    logger.sink = sink;
    logger.context = context;
}

bool
log_level_parse(const char *text, enum log_level *level)
{
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

bool
log_is_on(enum log_level level)
{
    return level >= logger.level;
}

static void
add_value(struct strbuf *line, const char *name, struct slice value)
{
    if (logger.format == LOG_JSON) {
        strbuf_add_char(line, ',');
        strbuf_add_json(line, slice_of(name));
        strbuf_add_char(line, ':');
        if (value.len > LOG_VALUE_MAX) value.len = LOG_VALUE_MAX;
        strbuf_add_json(line, value);
        return;
    }
    bool plain = value.len > 0;
    for (size_t i = 0; i < value.len && plain; i++) {
        unsigned char c = (unsigned char)value.at[i];
        plain = c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
    }
    strbuf_printf(line, " %s=", name);
    if (!plain) strbuf_add_char(line, '"');
    strbuf_add_escaped(line, value, LOG_VALUE_MAX);
    if (!plain) strbuf_add_char(line, '"');
}

static void
add_field(struct strbuf *line, const struct log_field *field)
{
    char text[32];
    switch (field->kind) {
    case LOG_F_END: return;
    case LOG_F_STR: add_value(line, field->name, slice_of(field->str == NULL ? "" : field->str)); return;
    case LOG_F_SLICE: add_value(line, field->name, (struct slice){field->str, field->len}); return;
    case LOG_F_INT:
    case LOG_F_UINT: {

        strbuf_printf(line, logger.format == LOG_JSON ? ",\"%s\":" : " %s=", field->name);
        if (field->kind == LOG_F_INT)
            strbuf_printf(line, "%lld", (long long)field->number);
        else
            strbuf_printf(line, "%llu", (unsigned long long)(uint64_t)field->number);
        return;
    }
    case LOG_F_DURATION:
        text_format_duration((uint64_t)field->number, text);
        add_value(line, field->name, slice_of(text));
        return;
    }
}

void
log_write(enum log_level level, bool with_errno, const char *event, const struct log_field *fields)
{
    int saved = errno;
    struct strbuf line = {0};
    char when[25];
    if (!log_is_on(level)) return;
    clock_rfc3339(clock_wall_us(), when);
    if (logger.format == LOG_JSON) {
        strbuf_printf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"role\":\"%s\"", when, level_names[level],
            logger.role);
        add_value(&line, "event", slice_of(event));
    } else {
        strbuf_printf(
            &line, "time=%s level=%s role=%s event=\"%s\"", when, level_names[level], logger.role, event);
    }
    for (; fields->kind != LOG_F_END; fields++)
        add_field(&line, fields);
    if (with_errno) add_value(&line, "error", slice_of(strerror(saved)));
    strbuf_add_text(&line, logger.format == LOG_JSON ? "}\n" : "\n");
    if (line.at != NULL) {
        if (logger.sink != NULL) {
            logger.sink(logger.context, level, line.at, line.len);
        } else {
            ssize_t ignored = write(STDERR_FILENO, line.at, line.len); /* nowhere left to tell of a failure */
            (void)ignored;
        }
    }
    strbuf_fini(&line);
    errno = saved;
}

bool
log_every_due(struct log_every *every, uint64_t interval_us, uint64_t *suppressed)
{
    uint64_t now = clock_now_us();
    if (now < every->next_us) {
        every->suppressed++;
        return false;
    }
    every->next_us = now + interval_us;
    *suppressed = every->suppressed;
    every->suppressed = 0;
    return true;
}
