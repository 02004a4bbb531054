#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "core/http/encode.h"

enum { TEXT_MAX = 1 << 18, ENCODED_MAX = TEXT_MAX + (1 << 16) };
static char encoded[ENCODED_MAX], decoded[TEXT_MAX];
static const enum encode_kind kinds[] = {ENCODE_GZIP, ENCODE_DEFLATE, ENCODE_ZSTD};

/* ---- real decoders: what a client can read of `in`; *whole where the end is there ---- */

static size_t
inflated(enum encode_kind kind, const char *in, size_t len, bool *whole)
{
    z_stream zlib = {.next_in = (Bytef *)in, .avail_in = (uInt)len};
    zlib.next_out = (Bytef *)decoded;
    zlib.avail_out = sizeof(decoded);
    assert_int_equal(inflateInit2(&zlib, kind == ENCODE_GZIP ? 15 + 16 : 15), Z_OK);
    int result = inflate(&zlib, Z_SYNC_FLUSH);
    assert_true(result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR);
    *whole = result == Z_STREAM_END;
    assert_int_equal(zlib.avail_in, 0);
    size_t out = sizeof(decoded) - zlib.avail_out;
    assert_int_equal(inflateEnd(&zlib), Z_OK);
    return out;
}

static size_t
unzstd(const char *in, size_t len, bool *whole)
{
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    assert_non_null(zstd);
    ZSTD_inBuffer from = {in, len, 0};
    ZSTD_outBuffer to = {decoded, sizeof(decoded), 0};
    size_t left = 1;
    do {
        left = ZSTD_decompressStream(zstd, &to, &from);
        assert_false(ZSTD_isError(left));
    } while (left != 0 && from.pos < from.size);
    assert_int_equal(from.pos, len);
    *whole = left == 0;
    ZSTD_freeDCtx(zstd);
    return to.pos;
}

static size_t
decode(enum encode_kind kind, const char *in, size_t len, bool *whole)
{
    return kind == ENCODE_ZSTD ? unzstd(in, len, whole) : inflated(kind, in, len, whole);
}

/* ---- the encoder, fed in pieces from buffers of the exact size, each call given `cap` bytes ---- */

static void
feed(struct encoder *encoder, struct slice piece, bool finish, size_t cap, size_t *at)
{
    bool more = true;
    char *copy = malloc(piece.len + 1), *out = malloc(cap);
    assert_non_null(copy);
    assert_non_null(out);
    if (piece.len > 0) memcpy(copy, piece.at, piece.len);
    struct slice in = {copy, piece.len};
    while (in.len > 0 || more) {
        size_t len = 0, before = in.len;
        assert_true(encoder_step(encoder, &in, finish, out, cap, &len, &more));
        assert_true(len <= cap);
        assert_true(len > 0 || in.len < before || (!more && in.len == 0)); /* it gets on */
        assert_true(*at + len <= sizeof(encoded));
        memcpy(encoded + *at, out, len);
        *at += len;
    }
    free(copy);
    free(out);
}

static void
expect_decoded(enum encode_kind kind, struct slice text, size_t len, bool end)
{
    bool whole;
    size_t out = decode(kind, encoded, len, &whole);
    assert_int_equal(out, text.len);
    if (out > 0) assert_memory_equal(decoded, text.at, out);
    assert_int_equal(whole, end);
}

/* Two pieces; after the first, its text is to be read already. */
static void
check_split(enum encode_kind kind, struct slice text, size_t split, size_t cap)
{
    size_t at = 0;
    struct encoder *encoder = encoder_new(kind, 6);
    assert_non_null(encoder);
    struct slice head = {text.at, split}, tail = {text.at + split, text.len - split};
    feed(encoder, head, false, cap, &at);
    if (split > 0) expect_decoded(kind, head, at, false);
    feed(encoder, tail, true, cap, &at);
    expect_decoded(kind, text, at, true);
    encoder_free(encoder);
}

static struct slice
prose(void)
{
    static char text[600];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "the quick brown fox "[(i * i / 7 + i) % 20];
    return (struct slice){text, sizeof(text)};
}

static struct slice
noise(size_t len)
{
    static char text[TEXT_MAX];
    uint64_t seed = 42;
    for (size_t i = 0; i < len; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        text[i] = (char)(seed >> 56);
    }
    return (struct slice){text, len};
}

static void
every_split_and_every_capacity_decode_to_the_same_text(void **state)
{
    (void)state;
    struct slice text = prose();
    for (size_t k = 0; k < 3; k++) {
        for (size_t split = 0; split <= text.len; split++)
            check_split(kinds[k], text, split, 1 + split % 70);
        for (size_t cap = 1; cap <= 200; cap++)
            check_split(kinds[k], text, text.len / 2, cap);
        check_split(kinds[k], text, 1, 1);
    }
}

static void
many_small_chunks_are_each_readable_at_once(void **state)
{
    (void)state;
    struct slice text = prose();
    static const size_t caps[] = {1, 5, 6, 7, 63, 64, 65, 4096};
    for (size_t k = 0; k < 3; k++) {
        for (size_t c = 0; c < sizeof(caps) / sizeof(*caps); c++) {
            size_t at = 0;
            struct encoder *encoder = encoder_new(kinds[k], 1);
            assert_non_null(encoder);
            for (size_t i = 0; i < text.len; i += 10) {
                feed(encoder, (struct slice){text.at + i, 10}, false, caps[c], &at);
                expect_decoded(kinds[k], (struct slice){text.at, i + 10}, at, false);
            }
            feed(encoder, SLICE_NONE, true, caps[c], &at);
            expect_decoded(kinds[k], text, at, true);
            encoder_free(encoder);
        }
    }
}

static void
incompressible_and_large_bodies_come_through_at_every_level(void **state)
{
    (void)state;
    static const size_t caps[] = {13, 16384, ENCODED_MAX};
    for (size_t k = 0; k < 3; k++) {
        for (int level = -1; level <= 11; level += 2) {
            struct slice text = noise(TEXT_MAX);
            size_t at = 0, cap = caps[(size_t)(level + 1) / 2 % 3];
            struct encoder *encoder = encoder_new(kinds[k], level);
            assert_non_null(encoder);
            for (size_t i = 0; i < text.len; i += 50000) {
                size_t n = text.len - i < 50000 ? text.len - i : 50000;
                feed(encoder, (struct slice){text.at + i, n}, i + n == text.len, cap, &at);
            }
            expect_decoded(kinds[k], text, at, true);
            encoder_free(encoder);
        }
    }
}

static void
an_empty_body_is_a_whole_one(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        for (size_t cap = 1; cap < 40; cap++)
            check_split(kinds[k], (struct slice){"", 0}, 0, cap);
    }
}

static void
repetition_shrinks_and_no_chunk_costs_nothing(void **state)
{
    (void)state;
    static char same[100000];
    for (size_t k = 0; k < 3; k++) {
        size_t at = 0, before;
        struct encoder *encoder = encoder_new(kinds[k], 6);
        assert_non_null(encoder);
        feed(encoder, (struct slice){same, sizeof(same)}, false, 4096, &at);
        before = at;
        for (int i = 0; i < 100; i++)
            feed(encoder, SLICE_NONE, false, 4096, &at);
        assert_int_equal(at, before);
        feed(encoder, SLICE_NONE, true, 4096, &at);
        assert_true(at < 1000);
        before = at;
        feed(encoder, SLICE_NONE, true, 4096, &at); /* over once and for all */
        assert_int_equal(at, before);
        encoder_free(encoder);
    }
}

static void
bytes_behind_the_end_are_refused(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        char out[64];
        size_t at = 0, len = 0;
        bool more;
        struct slice late = SLICE_LIT("late");
        struct encoder *encoder = encoder_new(kinds[k], 6);
        assert_non_null(encoder);
        feed(encoder, SLICE_LIT("text"), true, 64, &at);
        assert_false(encoder_step(encoder, &late, true, out, sizeof(out), &len, &more));
        encoder_free(encoder);
    }
    encoder_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_split_and_every_capacity_decode_to_the_same_text),
        cmocka_unit_test(many_small_chunks_are_each_readable_at_once),
        cmocka_unit_test(incompressible_and_large_bodies_come_through_at_every_level),
        cmocka_unit_test(an_empty_body_is_a_whole_one),
        cmocka_unit_test(repetition_shrinks_and_no_chunk_costs_nothing),
        cmocka_unit_test(bytes_behind_the_end_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
