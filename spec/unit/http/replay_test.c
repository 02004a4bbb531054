/* Gives every fuzz target of this room its corpus and its past finds, so that the ordinary suite, without
 * libFuzzer, sees each of them. A target aborts where its property does not hold. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#define LLVMFuzzerTestOneInput fuzz_request_head
#include "spec/fuzz/request_head.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_response_head
int fuzz_response_head(const uint8_t *bytes, size_t size);
#include "spec/fuzz/response_head.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_chunked
int fuzz_chunked(const uint8_t *bytes, size_t size);
#include "spec/fuzz/chunked.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_uri
#include "spec/fuzz/uri.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_cookie
#include "spec/fuzz/cookie.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_trailers
#include "spec/fuzz/trailers.c"

struct target {
    const char *name;
    int (*run)(const uint8_t *bytes, size_t size);
};

static const struct target targets[] = {
    {"request_head", fuzz_request_head},
    {"response_head", fuzz_response_head},
    {"chunked", fuzz_chunked},
    {"uri", fuzz_uri},
    {"cookie", fuzz_cookie},
    {"trailers", fuzz_trailers},
};

static int
replay_folder(const struct target *target, const char *kind)
{
    static char bytes[65536];
    char path[512];
    int files = 0;
    (void)snprintf(path, sizeof path, "spec/fuzz/%s/%s", kind, target->name);
    DIR *folder = opendir(path);
    if (folder == NULL) return errno == ENOENT ? 0 : -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof path, "spec/fuzz/%s/%s/%s", kind, target->name, entry->d_name);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        assert_int_equal(fclose(file), 0);
        uint8_t *exact = test_malloc(size == 0 ? 1 : size);
        memcpy(exact, bytes, size);
        assert_int_equal(target->run(exact, size), 0);
        test_free(exact);
        files++;
    }
    assert_int_equal(closedir(folder), 0);
    return files;
}

static void
replays_corpora_and_finds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        assert_true(replay_folder(&targets[i], "corpus") > 0);
        assert_true(replay_folder(&targets[i], "regression") >= 0);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_corpora_and_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
