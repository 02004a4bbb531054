/* room: http */
#include "spec/fuzz/h1_fuzz.h"

struct decoded {
    enum h1_result result;
    enum h1_error error;
    size_t used, len;
    struct text trailers;
    char data[1 << 16];
};

/* Pieces end where the input's own bytes say, each in a buffer of its exact size; step 0: all at once. */
static void
decode(struct slice input, unsigned step, uint64_t limit, struct decoded *out)
{
    struct arena arena = {0};
    struct h1_chunked chunked = {0};
    out->result = H1_AGAIN;
    out->len = out->used = out->trailers.len = 0;
    while (out->result == H1_AGAIN && out->used < input.len) {
        size_t left = input.len - out->used, len = step == 0 || left < step ? left : step, at = 0;
        char *piece = malloc(len);
        FUZZ_CHECK(piece != NULL);
        memcpy(piece, input.at + out->used, len);
        while (out->result == H1_AGAIN && at < len) {
            struct slice data;
            size_t used = 0;
            out->result =
                h1_chunked_read(&chunked, &arena, limit, (struct slice){piece + at, len - at}, &data, &used);
            if (out->result == H1_BAD) break;
            FUZZ_CHECK(data.len <= used && used <= len - at && (used > 0 || out->result == H1_DONE));
            if (data.len > 0) memcpy(out->data + out->len, data.at, data.len);
            out->len += data.len;
            at += used;
        }
        out->used += at;
        free(piece);
    }
    out->error = chunked.error;
    FUZZ_CHECK(limit == 0 || out->len <= limit);
    if (out->result == H1_DONE) {
        struct headers rows = {0};
        text_add(&out->trailers, "trailers", chunked.trailers);
        FUZZ_CHECK(h1_parse_trailers(
            chunked.trailers, &arena, &rows)); /* what the decoder lets through is well-formed */
    }
    arena_fini(&arena);
}

/* The first byte chooses the limit, the second the size of the pieces. */
int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct decoded whole, split;
    if (size < 2 || size > sizeof whole.data) return 0;
    struct slice input = {(const char *)bytes + 2, size - 2};
    uint64_t limit = bytes[0] % 4 == 0 ? 16 : 0;
    decode(input, 0, limit, &whole);
    for (unsigned step = 1; step <= 2; step++) {
        decode(input, step == 1 ? 1 : bytes[1] + 1u, limit, &split);
        FUZZ_CHECK(whole.result == split.result && whole.error == split.error && whole.len == split.len);
        FUZZ_CHECK(
            memcmp(whole.data, split.data, whole.len) == 0 && text_equal(&whole.trailers, &split.trailers));
        FUZZ_CHECK(whole.result == H1_BAD || whole.used == split.used);
    }
    return 0;
}
