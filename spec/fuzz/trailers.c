/* room: http */
#include "core/http/h1.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : abort())

static void
check_rows(const struct headers *rows)
{
    for (uint32_t i = 0; i < rows->count; i++) {
        const struct header *row = &rows->rows[i];
        FUZZ_CHECK(header_name_is_valid(row->name) && header_value_is_valid(row->value));
        FUZZ_CHECK(row->id == header_identify(row->name));
        FUZZ_CHECK(row->id != HEADER_CONTENT_LENGTH && row->id != HEADER_TRANSFER_ENCODING &&
                   row->id != HEADER_HOST);
        FUZZ_CHECK(
            row->id != HEADER_CONNECTION && row->id != HEADER_AUTHORIZATION && row->id != HEADER_COOKIE);
    }
}

/* Lines that parse are what the chunked decoder lets through, and the other way round. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct arena arena = {0};
    struct headers rows = {0};
    struct h1_chunked chunked = {0};
    struct slice data, lines = {(const char *)bytes, size};
    size_t used;
    if (size > 8192) return 0;
    bool parsed = h1_parse_trailers(lines, &arena, &rows);
    check_rows(&rows);
    char *body = malloc(size + 5);
    FUZZ_CHECK(body != NULL);
    memcpy(body, "0\r\n", 3);
    if (size > 0) memcpy(body + 3, bytes, size);
    memcpy(body + 3 + size, "\r\n", 2);
    enum h1_result result =
        h1_chunked_read(&chunked, &arena, 0, (struct slice){body, size + 5}, &data, &used);
    FUZZ_CHECK(parsed == (result == H1_DONE && used == size + 5));
    if (parsed) FUZZ_CHECK(slice_equal(chunked.trailers, lines));
    free(body);
    arena_fini(&arena);
    return 0;
}
