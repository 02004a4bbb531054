#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/base64.h"

/* From and into buffers of the exact size, so that a sanitizer sees one byte too many. */
static void
expect_round_trip(const char *bytes, size_t len, enum base64_form form)
{
    size_t text_len = base64_length(len, form), back_len = 99;
    char *text = malloc(text_len + 1), *back = malloc(text_len + 1);
    assert_non_null(text);
    assert_non_null(back);
    text[text_len] = '!';
    base64_encode((struct slice){bytes, len}, form, text);
    assert_int_equal(text[text_len], '!');
    assert_true(base64_decode((struct slice){text, text_len}, form, back, &back_len));
    assert_int_equal(back_len, len);
    if (len > 0) assert_memory_equal(back, bytes, len);
    free(back);
    free(text);
}

static void
every_length_and_byte_comes_back(void **state)
{
    (void)state;
    char bytes[300];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 167 + i / 7);
    for (size_t len = 0; len <= sizeof(bytes); len++) {
        expect_round_trip(bytes, len, BASE64_STANDARD);
        expect_round_trip(bytes, len, BASE64_URL);
    }
    for (int c = 0; c < 256; c++) {
        char one[2] = {(char)c, (char)(255 - c)};
        expect_round_trip(one, 1, BASE64_STANDARD);
        expect_round_trip(one, 2, BASE64_URL);
    }
}

static void
the_vectors_of_the_standard_hold(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *standard, *url;
    } cases[] = {/* RFC 4648 §10, and the letters that the two forms do not share */
        {"", "", ""}, {"f", "Zg==", "Zg"}, {"fo", "Zm8=", "Zm8"}, {"foo", "Zm9v", "Zm9v"},
        {"foob", "Zm9vYg==", "Zm9vYg"}, {"fooba", "Zm9vYmE=", "Zm9vYmE"}, {"foobar", "Zm9vYmFy", "Zm9vYmFy"},
        {"\xfb\xff\xfe", "+//+", "-__-"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char out[16];
        struct slice bytes = slice_of(cases[i].bytes);
        base64_encode(bytes, BASE64_STANDARD, out);
        assert_true(slice_equal(
            (struct slice){out, base64_length(bytes.len, BASE64_STANDARD)}, slice_of(cases[i].standard)));
        base64_encode(bytes, BASE64_URL, out);
        assert_true(
            slice_equal((struct slice){out, base64_length(bytes.len, BASE64_URL)}, slice_of(cases[i].url)));
    }
}

/* Whatever is accepted is the one text of its bytes. */
static void
no_second_text_decodes(void **state)
{
    (void)state;
    static const char letters[] = "AQZgv09+/-_=\n \x80";
    enum { LETTERS = sizeof(letters) - 1 };
    for (unsigned n = 0; n < LETTERS * LETTERS * LETTERS * LETTERS; n++) {
        char text[4], back[4], again[8];
        unsigned left = n;
        for (int i = 0; i < 4; i++, left /= LETTERS)
            text[i] = letters[left % LETTERS];
        for (size_t len = 1; len <= 4; len++) {
            for (int form = BASE64_STANDARD; form <= BASE64_URL; form++) {
                size_t made;
                if (!base64_decode((struct slice){text, len}, (enum base64_form)form, back, &made)) continue;
                assert_int_equal(base64_length(made, (enum base64_form)form), len);
                base64_encode((struct slice){back, made}, (enum base64_form)form, again);
                assert_memory_equal(again, text, len);
            }
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_and_byte_comes_back),
        cmocka_unit_test(the_vectors_of_the_standard_hold),
        cmocka_unit_test(no_second_text_decodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
