/* core/shm/meter.h: metrics that scripts define (gateway.metric), in the shared segment: one number a series
 * for all processes, so that sums are exact and outlive reloads and the death of any worker. No locks:
 * whoever is killed while it makes a series leaves what the next one makes in the same place. */
#ifndef FLUXGATE_SHM_METER_H
#define FLUXGATE_SHM_METER_H
#include <stdatomic.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"
#include "core/shm/shm.h"

enum {
    METERS_MAX = 256,        /* definitions, ever, in one supervisor's life */
    METER_SERIES_MAX = 1000, /* a metric; what comes later is counted in its series `other` */
    METER_CELLS = 16384,     /* series of all metrics */
    METER_LABELS = 8,
    METER_NAME_BYTES = 128,
    METER_LABEL_NAME_BYTES = 64,
    METER_HELP_BYTES = 256,
    METER_VALUES_BYTES = 488, /* of one series, 2 bytes a value beside */
    METER_BOUNDS = 32,        /* of a histogram */
    METER_NONE = UINT32_MAX,
};

enum meter_kind { METER_COUNTER, METER_GAUGE, METER_HISTOGRAM };

struct meter_definition { /* borrows; the names are checked by who defines */
    enum meter_kind kind;
    struct slice name, help;
    struct slice labels[METER_LABELS];
    size_t label_count;
    double bounds[METER_BOUNDS]; /* of a histogram: ascending, finite */
    size_t bound_count;
};

/* The metric's number, the same for the same kind, name, labels and bounds; METER_NONE: too many, or too long
 * a text. Another definition of the same name, or of one that a histogram's lines have, is no longer shown.
 * Help longer than its field is cut. */
MUST_CHECK
uint32_t meter_define(struct shm *shm, const struct meter_definition *definition);

/* The number that the label values count in; kept for ever. *is_other: the metric has too many series, the
 * table is full or the values are too long, and this is the series all of whose values are `other`. NULL: no
 * such metric, or not as many labels. */
_Atomic uint64_t *meter_series(
    struct shm *shm, uint32_t meter, const struct slice *values, size_t count, bool *is_other);
void meter_add(_Atomic uint64_t *series, double n); /* hot */
void meter_set(_Atomic uint64_t *series, double n); /* hot */

/* A histogram's numbers for some label values. Each is a series: so many observations no greater than a bound
 * and greater than the one before it, then those above all bounds, then the sum of all. */
struct meter_histogram {
    _Atomic uint64_t *parts[METER_BOUNDS + 2];
    double bounds[METER_BOUNDS];
    uint32_t bound_count;
};
/* As meter_series. False: none. */
MUST_CHECK
bool meter_histogram(struct shm *shm, uint32_t meter, const struct slice *values, size_t count,
    struct meter_histogram *histogram, bool *is_other);
void meter_observe(const struct meter_histogram *histogram, double n); /* hot */

/* For the scrape. False: nothing of this number is shown. The slices borrow from the segment. */
bool meter_at(struct shm *shm, uint32_t meter, struct meter_definition *definition);
struct meter_sample {
    uint32_t meter;
    struct slice values; /* packed, as they order and as meter_value reads them */
    double value;
};
/* All series of the metrics that are shown, at most `cap`; ordered by metric, then by values. */
size_t meter_samples(struct shm *shm, struct meter_sample *samples, size_t cap);
/* Takes the first value off the front of *values. */
struct slice meter_value(struct slice *values);
/* Of a histogram's sample: where in struct meter_histogram it stands; its label values come before. */
size_t meter_part(const struct meter_sample *sample);

#endif
