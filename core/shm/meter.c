#include "core/shm/meter.h"

#include <stdlib.h>

#include "core/shm/shm_internal.h"

/* Both kinds of row are claimed by their keyed hash, which is their identity; their text is written before
 * `ready`, by whoever finds it not ready: it is the same text whoever writes. */
struct meter_row {
    _Atomic uint32_t ready, is_shown, series_count;
    uint32_t kind, label_count, bound_count;
    double bounds[METER_BOUNDS];
    char name[METER_NAME_BYTES], help[METER_HELP_BYTES]; /* NUL-terminated */
    char labels[METER_LABELS][METER_LABEL_NAME_BYTES];
};
struct meter_cell {
    _Atomic uint64_t value; /* the bits of a double */
    _Atomic uint32_t ready;
    uint32_t meter, len;
    uint32_t unused;
    char values[METER_VALUES_BYTES]; /* each as two bytes of length, then itself */
};
static_assert(sizeof(struct meter_cell) == 512, "eight cache lines");

/* Tags apart from the rows: a search touches no page of a row that is not used. */
struct meters {
    _Atomic uint64_t row_tags[METERS_MAX];
    _Atomic uint64_t cell_tags[METER_CELLS];
    struct meter_row rows[METERS_MAX];
    struct meter_cell cells[METER_CELLS];
};

size_t
meters_bytes(void)
{
    return sizeof(struct meters);
}

static struct meters *
meters_of(struct shm *shm)
{
    return shm_at(shm, shm->meters_at);
}

static bool
is_ready(struct shm *shm, uint32_t meter)
{
    return meter < METERS_MAX &&
           atomic_load_explicit(&meters_of(shm)->rows[meter].ready, memory_order_acquire) != 0;
}

/* ---- definitions ---- */

static uint64_t
definition_tag(const struct shm *shm, const struct meter_definition *definition)
{
    char text[METER_NAME_BYTES + METER_LABELS * METER_LABEL_NAME_BYTES + sizeof(definition->bounds) + 2];
    size_t len = 0;
    text[len++] = (char)definition->kind;
    if (definition->kind == METER_HISTOGRAM) {
        text[len++] = (char)definition->bound_count;
        memcpy(text + len, definition->bounds, definition->bound_count * sizeof(double));
        len += definition->bound_count * sizeof(double);
    }
    for (size_t i = 0; i <= definition->label_count; i++) { /* no text holds a NUL: each ends by its own */
        struct slice part = i == 0 ? definition->name : definition->labels[i - 1];
        memcpy(text + len, part.at, part.len);
        len += part.len;
        text[len++] = '\0';
    }
    return text_hash_secret((struct slice){text, len}, shm->hash_secret) | 1;
}

static bool
definition_fits(const struct meter_definition *definition)
{
    if (definition->label_count > METER_LABELS || definition->bound_count > METER_BOUNDS) return false;
    for (size_t i = 0; i <= definition->label_count; i++) {
        struct slice part = i == 0 ? definition->name : definition->labels[i - 1];
        size_t most = i == 0 ? METER_NAME_BYTES : METER_LABEL_NAME_BYTES;
        if (part.len == 0 || part.len >= most || memchr(part.at, '\0', part.len) != NULL) return false;
    }
    return true;
}

static void
row_write(struct meter_row *row, const struct meter_definition *definition)
{
    struct slice help = definition->help;
    if (help.len >= METER_HELP_BYTES) help.len = METER_HELP_BYTES - 1;
    row->kind = (uint32_t)definition->kind;
    row->label_count = (uint32_t)definition->label_count;
    row->bound_count = (uint32_t)definition->bound_count;
    memcpy(row->bounds, definition->bounds, sizeof(row->bounds));
    memcpy(row->name, definition->name.at, definition->name.len);
    for (size_t i = 0; i < help.len; i++)
        row->help[i] = help.at[i] == '\0' ? ' ' : help.at[i];
    for (size_t i = 0; i < definition->label_count; i++)
        memcpy(row->labels[i], definition->labels[i].at, definition->labels[i].len);
    atomic_store_explicit(&row->ready, 1, memory_order_release);
}

/* A line of a histogram is called like it, and then so. */
static bool
is_line_of(struct slice name, struct slice histogram)
{
    if (!slice_starts_with(name, histogram)) return false;
    struct slice rest = {name.at + histogram.len, name.len - histogram.len};
    return slice_equal(rest, SLICE_LIT("_bucket")) || slice_equal(rest, SLICE_LIT("_sum")) ||
           slice_equal(rest, SLICE_LIT("_count"));
}

static bool
names_clash(const struct meter_row *row, const struct meter_definition *definition)
{
    struct slice name = slice_of(row->name);
    return slice_equal(name, definition->name) ||
           (row->kind == METER_HISTOGRAM && is_line_of(definition->name, name)) ||
           (definition->kind == METER_HISTOGRAM && is_line_of(name, definition->name));
}

uint32_t
meter_define(struct shm *shm, const struct meter_definition *definition)
{
    struct meters *meters = meters_of(shm);
    if (!definition_fits(definition)) return METER_NONE;
    uint64_t tag = definition_tag(shm, definition);
    uint32_t meter = 0;
    for (; meter < METERS_MAX; meter++) {
        uint64_t seen = atomic_load(&meters->row_tags[meter]);
        if (seen == tag ||
            (seen == 0 && atomic_compare_exchange_strong(&meters->row_tags[meter], &seen, tag)) ||
            seen == tag)
            break;
    }
    if (meter == METERS_MAX) return METER_NONE;
    if (!is_ready(shm, meter)) row_write(&meters->rows[meter], definition);
    for (uint32_t other = 0; other < METERS_MAX && atomic_load(&meters->row_tags[other]) != 0; other++) {
        struct meter_row *row = &meters->rows[other];
        if (other != meter && is_ready(shm, other) && names_clash(row, definition))
            atomic_store(&row->is_shown, 0);
    }
    atomic_store(&meters->rows[meter].is_shown, 1);
    return meter;
}

/* ---- series ---- */

/* Packed behind the metric's number, which the hash takes in and the cell leaves out. */
struct packed {
    uint32_t meter;
    char bytes[METER_VALUES_BYTES];
    size_t len;
};

static bool
values_pack(struct packed *packed, uint32_t meter, const struct slice *values, size_t count)
{
    packed->meter = meter;
    packed->len = 0;
    for (size_t i = 0; i < count; i++) {
        size_t len = values[i].len;
        if (len > METER_VALUES_BYTES || packed->len + 2 + len > METER_VALUES_BYTES) return false;
        packed->bytes[packed->len++] = (char)(len >> 8);
        packed->bytes[packed->len++] = (char)(len & 0xff);
        if (len > 0) memcpy(packed->bytes + packed->len, values[i].at, len);
        packed->len += len;
    }
    return true;
}

/* `bounded`: at most METER_SERIES_MAX of its metric. NULL: no room. */
static struct meter_cell *
cell_find(struct shm *shm, struct meters *meters, const struct packed *packed, bool bounded)
{
    struct meter_row *row = &meters->rows[packed->meter];
    struct slice whole = {(const char *)packed, offsetof(struct packed, bytes) + packed->len};
    uint64_t hash = text_hash_secret(whole, shm->hash_secret), tag = hash | 1;
    for (uint32_t i = 0; i < METER_CELLS; i++) {
        uint32_t at = (uint32_t)((hash >> 1) + i) % METER_CELLS;
        uint64_t seen = atomic_load_explicit(&meters->cell_tags[at], memory_order_relaxed);
        if (seen == 0) {
            if (bounded && atomic_load(&row->series_count) >= METER_SERIES_MAX) return NULL;
            if (atomic_compare_exchange_strong(&meters->cell_tags[at], &seen, tag)) {
                atomic_fetch_add(&row->series_count, 1);
                seen = tag;
            }
        }
        if (seen != tag) continue;
        struct meter_cell *cell = &meters->cells[at];
        if (atomic_load_explicit(&cell->ready, memory_order_acquire) == 0) {
            cell->meter = packed->meter;
            cell->len = (uint32_t)packed->len;
            memcpy(cell->values, packed->bytes, packed->len);
            atomic_store_explicit(&cell->ready, 1, memory_order_release);
        }
        return cell;
    }
    return NULL;
}

/* All parts of a histogram, each with its place as one value more: or none, where there is no room for one.
 */
static bool
parts_find(
    struct shm *shm, struct packed *packed, bool bounded, uint32_t count, struct meter_histogram *histogram)
{
    const size_t len = packed->len;
    if (len + 3 > METER_VALUES_BYTES) return false;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(packed->bytes + len, (char[]){0, 1, (char)i}, 3);
        packed->len = len + 3;
        struct meter_cell *cell = cell_find(shm, meters_of(shm), packed, bounded);
        if (cell == NULL) return false;
        histogram->parts[i] = &cell->value;
    }
    return true;
}

bool
meter_histogram(struct shm *shm, uint32_t meter, const struct slice *values, size_t count,
    struct meter_histogram *histogram, bool *is_other)
{
    struct packed packed;
    struct slice others[METER_LABELS];
    if (!is_ready(shm, meter) || count > METER_LABELS) return false;
    const struct meter_row *row = &meters_of(shm)->rows[meter];
    if (row->kind != METER_HISTOGRAM || row->label_count != count || row->bound_count > METER_BOUNDS)
        return false;
    histogram->bound_count = row->bound_count;
    memcpy(histogram->bounds, row->bounds, sizeof(histogram->bounds));
    *is_other = false;
    if (values_pack(&packed, meter, values, count) &&
        parts_find(shm, &packed, count > 0, row->bound_count + 2, histogram))
        return true;
    *is_other = true;
    for (size_t i = 0; i < METER_LABELS; i++)
        others[i] = SLICE_LIT("other");
    return values_pack(&packed, meter, others, count) &&
           parts_find(shm, &packed, false, row->bound_count + 2, histogram);
}

_Atomic uint64_t *
meter_series(struct shm *shm, uint32_t meter, const struct slice *values, size_t count, bool *is_other)
{
    struct meters *meters = meters_of(shm);
    struct packed packed;
    struct meter_cell *cell = NULL;
    if (!is_ready(shm, meter) || meters->rows[meter].label_count != count || count > METER_LABELS)
        return NULL;
    if (meters->rows[meter].kind == METER_HISTOGRAM) return NULL;
    if (values_pack(&packed, meter, values, count)) cell = cell_find(shm, meters, &packed, count > 0);
    *is_other = cell == NULL;
    if (cell != NULL) return &cell->value;
    struct slice others[METER_LABELS];
    for (size_t i = 0; i < METER_LABELS; i++)
        others[i] = SLICE_LIT("other");
    if (values_pack(&packed, meter, others, count)) cell = cell_find(shm, meters, &packed, false);
    return cell == NULL ? NULL : &cell->value;
}

static uint64_t
bits_of(double n)
{
    uint64_t bits;
    memcpy(&bits, &n, sizeof(bits));
    return bits;
}

static double
number_of(uint64_t bits)
{
    double n;
    memcpy(&n, &bits, sizeof(n));
    return n;
}

void
meter_add(_Atomic uint64_t *series, double n)
{
    uint64_t seen = atomic_load_explicit(series, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(
        series, &seen, bits_of(number_of(seen) + n), memory_order_relaxed, memory_order_relaxed)) {
    }
}

void
meter_set(_Atomic uint64_t *series, double n)
{
    atomic_store_explicit(series, bits_of(n), memory_order_relaxed);
}

void
meter_observe(const struct meter_histogram *histogram, double n)
{
    uint32_t i = 0;
    while (i < histogram->bound_count && n > histogram->bounds[i])
        i++;
    meter_add(histogram->parts[i], 1);
    meter_add(histogram->parts[histogram->bound_count + 1], n);
}

/* ---- the scrape ---- */

static struct slice
field_of(const char *text, size_t size)
{
    return (struct slice){text, strnlen(text, size - 1)};
}

bool
meter_at(struct shm *shm, uint32_t meter, struct meter_definition *definition)
{
    if (!is_ready(shm, meter)) return false;
    const struct meter_row *row = &meters_of(shm)->rows[meter];
    if (atomic_load(&row->is_shown) == 0) return false;
    *definition = (struct meter_definition){
        .kind = row->kind <= METER_HISTOGRAM ? (enum meter_kind)row->kind : METER_COUNTER,
        .name = field_of(row->name, METER_NAME_BYTES),
        .help = field_of(row->help, METER_HELP_BYTES),
        .label_count = row->label_count < METER_LABELS ? row->label_count : METER_LABELS,
        .bound_count = row->bound_count < METER_BOUNDS ? row->bound_count : METER_BOUNDS,
    };
    memcpy(definition->bounds, row->bounds, sizeof(row->bounds));
    for (size_t i = 0; i < definition->label_count; i++)
        definition->labels[i] = field_of(row->labels[i], METER_LABEL_NAME_BYTES);
    return true;
}

static int
by_meter_and_values(const void *left, const void *right)
{
    const struct meter_sample *a = left, *b = right;
    if (a->meter != b->meter) return a->meter < b->meter ? -1 : 1;
    size_t len = a->values.len < b->values.len ? a->values.len : b->values.len;
    int order = len == 0 ? 0 : memcmp(a->values.at, b->values.at, len);
    if (order != 0) return order;
    return a->values.len < b->values.len ? -1 : a->values.len > b->values.len;
}

size_t
meter_samples(struct shm *shm, struct meter_sample *samples, size_t cap)
{
    struct meters *meters = meters_of(shm);
    size_t count = 0;
    for (uint32_t at = 0; at < METER_CELLS && count < cap; at++) {
        if (atomic_load_explicit(&meters->cell_tags[at], memory_order_relaxed) == 0) continue;
        struct meter_cell *cell = &meters->cells[at];
        if (atomic_load_explicit(&cell->ready, memory_order_acquire) == 0) continue;
        if (!is_ready(shm, cell->meter) || atomic_load(&meters->rows[cell->meter].is_shown) == 0) continue;
        uint64_t bits = atomic_load_explicit(&cell->value, memory_order_relaxed);
        uint32_t len = cell->len < METER_VALUES_BYTES ? cell->len : METER_VALUES_BYTES;
        samples[count++] = (struct meter_sample){cell->meter, {cell->values, len}, number_of(bits)};
    }
    qsort(samples, count, sizeof(*samples), by_meter_and_values);
    return count;
}

struct slice
meter_value(struct slice *values)
{
    if (values->len < 2) return SLICE_NONE;
    size_t len = (size_t)(unsigned char)values->at[0] << 8 | (unsigned char)values->at[1];
    if (len > values->len - 2) len = values->len - 2;
    struct slice value = {values->at + 2, len};
    *values = (struct slice){value.at + len, values->len - 2 - len};
    return value;
}

size_t
meter_part(const struct meter_sample *sample)
{
    return sample->values.len == 0 ? 0 : (unsigned char)sample->values.at[sample->values.len - 1];
}
