#include <stdio.h>
#include <stdlib.h>

#include "core/base/text.h"
#include "core/metrics/stats_internal.h"
#include "core/shm/meter.h"

/* HELP text: backslash and newline are escaped (text format 0.0.4), other bytes that are no UTF-8 replaced.
 */
static void
help_line(struct strbuf *out, const struct meter_definition *definition)
{
    strbuf_printf(out, "# HELP %.*s ", (int)definition->name.len, definition->name.at);
    struct slice help = definition->help;
    while (help.len > 0) {
        size_t n = text_utf8_length(help);
        if (n == 0)
            strbuf_add_text(out, "\xef\xbf\xbd");
        else if (help.at[0] == '\\' || help.at[0] == '\n')
            strbuf_add_text(out, help.at[0] == '\n' ? "\\n" : "\\\\");
        else
            strbuf_add(out, help.at, n);
        n = n == 0 ? 1 : n;
        help = (struct slice){help.at + n, help.len - n};
    }
    strbuf_printf(out, "\n# TYPE %.*s %s\n", (int)definition->name.len, definition->name.at,
        definition->kind == METER_GAUGE ? "gauge" : "counter");
}

/* The fewest that read back to the same number: 0.1, not 0.10000000000000001. */
static int
digits(double value)
{
    char text[32];
    for (int count = 15; count < 17; count++) {
        snprintf(text, sizeof text, "%.*g", count, value);
        if (strtod(text, NULL) == value) return count;
    }
    return 17;
}

static void
number(struct strbuf *out, double value)
{
    if (value >= -9007199254740992.0 && value <= 9007199254740992.0 && value == (double)(int64_t)value)
        strbuf_printf(out, "%lld\n", (long long)value);
    else
        strbuf_printf(out, "%.*g\n", digits(value), value);
}

static void
sample_line(struct strbuf *out, const struct meter_definition *definition, const struct meter_sample *sample)
{
    struct slice values = sample->values;
    strbuf_add_slice(out, definition->name);
    for (size_t i = 0; i < definition->label_count; i++) {
        strbuf_printf(
            out, "%c%.*s=", i == 0 ? '{' : ',', (int)definition->labels[i].len, definition->labels[i].at);
        stats_label(out, meter_value(&values));
    }
    strbuf_add_text(out, definition->label_count > 0 ? "} " : " ");
    number(out, sample->value);
}

void
stats_expose_meters(struct shm *shm, struct strbuf *out)
{
    struct meter_definition definition;
    struct meter_sample *samples = calloc(METER_CELLS, sizeof(*samples));
    if (samples == NULL) {
        out->failed = true;
        return;
    }
    size_t count = meter_samples(shm, samples, METER_CELLS), at = 0;
    for (uint32_t meter = 0; meter < METERS_MAX; meter++) {
        bool is_shown = meter_at(shm, meter, &definition);
        if (is_shown) help_line(out, &definition);
        for (; at < count && samples[at].meter <= meter; at++) {
            if (is_shown && samples[at].meter == meter) sample_line(out, &definition, &samples[at]);
        }
    }
    free(samples);
}
