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
        definition->kind == METER_GAUGE       ? "gauge"
        : definition->kind == METER_HISTOGRAM ? "histogram"
                                              : "counter");
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
        strbuf_printf(out, "%lld", (long long)value);
    else
        strbuf_printf(out, "%.*g", digits(value), value);
}

/* The name and the labels, without the brace that ends them. True: there is one. */
static bool
series(struct strbuf *out, const struct meter_definition *definition, const char *suffix, struct slice values)
{
    strbuf_add_slice(out, definition->name);
    strbuf_add_text(out, suffix);
    for (size_t i = 0; i < definition->label_count; i++) {
        strbuf_printf(
            out, "%c%.*s=", i == 0 ? '{' : ',', (int)definition->labels[i].len, definition->labels[i].at);
        stats_label(out, meter_value(&values));
    }
    return definition->label_count > 0;
}

static void
line(struct strbuf *out, const struct meter_definition *definition, const char *suffix, struct slice values,
    double value)
{
    strbuf_add_text(out, series(out, definition, suffix, values) ? "} " : " ");
    number(out, value);
    strbuf_add_char(out, '\n');
}

/* `parts` as in struct meter_histogram. Buckets are shown as sums of all up to their bound. */
static void
histogram_lines(
    struct strbuf *out, const struct meter_definition *definition, struct slice values, const double *parts)
{
    double sum = 0;
    for (size_t i = 0; i <= definition->bound_count; i++) {
        sum += parts[i];
        strbuf_add_text(out, series(out, definition, "_bucket", values) ? ",le=\"" : "{le=\"");
        if (i < definition->bound_count)
            number(out, definition->bounds[i]);
        else
            strbuf_add_text(out, "+Inf");
        strbuf_add_text(out, "\"} ");
        number(out, sum);
        strbuf_add_char(out, '\n');
    }
    line(out, definition, "_sum", values, parts[definition->bound_count + 1]);
    line(out, definition, "_count", values, sum);
}

static struct slice
labels_of(const struct meter_sample *sample)
{
    struct slice values = sample->values;
    return (struct slice){values.at, values.len < 3 ? 0 : values.len - 3};
}

/* The samples at the front that are parts of one histogram; how many. One that found no room for all of its
 * parts counts in `other`: what it has of them is no histogram. */
static size_t
histogram(struct strbuf *out, const struct meter_definition *definition, const struct meter_sample *samples,
    size_t count)
{
    double parts[METER_BOUNDS + 2] = {0};
    size_t taken = 0;
    for (; taken < count && samples[taken].meter == samples[0].meter; taken++) {
        if (!slice_equal(labels_of(&samples[taken]), labels_of(&samples[0]))) break;
        size_t part = meter_part(&samples[taken]);
        if (part < METER_BOUNDS + 2) parts[part] = samples[taken].value;
    }
    if (taken == definition->bound_count + 2) histogram_lines(out, definition, labels_of(&samples[0]), parts);
    return taken;
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
        while (at < count && samples[at].meter <= meter) {
            if (!is_shown || samples[at].meter != meter) {
                at++;
            } else if (definition.kind == METER_HISTOGRAM) {
                at += histogram(out, &definition, samples + at, count - at);
            } else {
                line(out, &definition, "", samples[at].values, samples[at].value);
                at++;
            }
        }
    }
    free(samples);
}
