#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/text.h"
#include "spec/unit/config/support.h"

static char folder[] = "/tmp/fluxgate-bundle-XXXXXX";
static char file_path[128];

static int
make_folder(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL) return -1;
    snprintf(file_path, sizeof file_path, "%s/a.lua", folder);
    return 0;
}

static int
remove_folder(void **state)
{
    (void)state;
    unlink(file_path);
    return rmdir(folder);
}

static void
write_file(const char *text)
{
    FILE *out = fopen(file_path, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_int_equal(fclose(out), 0);
}

static void
assert_reads(struct bundle *bundle, const char *path, const char *text)
{
    struct slice bytes;
    assert_true(bundle_read(bundle, path, &bytes));
    assert_int_equal(bytes.len, strlen(text));
    assert_memory_equal(bytes.at, text, bytes.len + 1); /* its NUL, too */
}

static void
assert_fails(struct bundle *bundle, const char *path, int error)
{
    struct slice bytes;
    errno = 0;
    assert_false(bundle_read(bundle, path, &bytes));
    assert_int_equal(errno, error);
}

static int
memfd(void)
{
    int fd = memfd_create("bundle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_not_equal(fd, -1);
    return fd;
}

static void
reads_a_file_once_and_remembers_it(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    write_file("one");
    assert_reads(bundle, file_path, "one");
    write_file("two");
    assert_reads(bundle, file_path, "one");
    bundle_free(bundle);
}

static void
remembers_that_a_file_was_not_there(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    unlink(file_path);
    assert_fails(bundle, file_path, ENOENT);
    write_file("late");
    assert_fails(bundle, file_path, ENOENT);
    bundle_free(bundle);
}

static void
refuses_what_is_no_ordinary_file(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    char path[160];
    assert_fails(bundle, folder, EISDIR);
    write_file("x");
    snprintf(path, sizeof path, "%s/below", file_path);
    assert_fails(bundle, path, ENOENT);
    snprintf(path, sizeof path, "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_fails(bundle, path, EINVAL); /* and does not wait for a writer */
    unlink(path);
    assert_int_equal(truncate(file_path, BUNDLE_FILE_MAX + 1), 0);
    assert_fails(bundle, file_path, EFBIG);
    bundle_free(bundle);
}

static void
keeps_borrowed_bytes_when_they_are_replaced(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    struct slice before;
    put(bundle, "generated", "first");
    assert_true(bundle_read(bundle, "generated", &before));
    put(bundle, "generated", "second");
    put(bundle, "generated", "");
    assert_memory_equal(before.at, "first", 6);
    assert_reads(bundle, "generated", "");
    bundle_free(bundle);
}

static void
sealed_answers_from_memory_alone(void **state)
{
    (void)state;
    struct bundle *open = bundle_open();
    int fd = memfd();
    char hash[17], sealed_hash[17];
    write_file("return {}");
    assert_reads(open, file_path, "return {}");
    assert_fails(open, "/nowhere/x.lua", ENOENT);
    for (int i = 0; i < 100; i++) {
        char path[32];
        snprintf(path, sizeof path, "put-%d", i);
        put(open, path, path);
    }
    assert_true(bundle_seal(open, fd));
    bundle_hash(open, hash);
    bundle_free(open);
    unlink(file_path);

    struct bundle *sealed = bundle_from_fd(fd);
    assert_non_null(sealed);
    assert_reads(sealed, file_path, "return {}");
    assert_reads(sealed, "put-57", "put-57");
    assert_fails(sealed, "/nowhere/x.lua", ENOENT);
    assert_fails(sealed, "/etc/hostname", ENOENT);
    assert_false(bundle_put(sealed, "more", SLICE_LIT("x")));
    bundle_hash(sealed, sealed_hash);
    assert_string_equal(hash, sealed_hash);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1); /* nobody can change it any more */
    assert_int_equal(ftruncate(fd, 0), -1);
    bundle_free(sealed);
}

static void
hash_is_that_of_the_content_and_not_of_the_order(void **state)
{
    (void)state;
    struct bundle *a = bundle_open(), *b = bundle_open(), *c = bundle_open();
    char hash_a[17], hash_b[17], hash_c[17];
    put(a, "x", "1"), put(a, "y", "2");
    put(b, "y", "2"), put(b, "x", "1");
    put(c, "y", "1"), put(c, "x", "2");
    assert_fails(b, "/nowhere", ENOENT);
    bundle_hash(a, hash_a), bundle_hash(b, hash_b), bundle_hash(c, hash_c);
    assert_string_equal(hash_a, hash_b);
    assert_string_not_equal(hash_a, hash_c);
    assert_int_equal(strlen(hash_a), 16);
    bundle_free(a), bundle_free(b), bundle_free(c);
}

/* ---- hostile images
 * -------------------------------------------------------------------------------------------- */

static char *
image_of(struct bundle *bundle, size_t *len)
{
    int fd = memfd();
    struct stat info;
    assert_true(bundle_seal(bundle, fd));
    assert_int_equal(fstat(fd, &info), 0);
    *len = (size_t)info.st_size;
    char *image = malloc(*len);
    assert_non_null(image);
    assert_int_equal(pread(fd, image, *len, 0), *len);
    close(fd);
    return image;
}

static int
sealed_fd(const char *image, size_t len)
{
    int fd = memfd();
    assert_int_equal(pwrite(fd, image, len, 0), len);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL), 0);
    return fd;
}

static void
assert_no_bundle(int fd)
{
    errno = 0;
    assert_null(bundle_from_fd(fd));
    assert_int_equal(errno, EBADMSG);
    close(fd);
}

static void
refuses_every_truncation(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    size_t len;
    put(bundle, "a", "alpha"), put(bundle, "b", "beta");
    char *image = image_of(bundle, &len);
    for (size_t cut = 0; cut < len; cut++)
        assert_no_bundle(sealed_fd(image, cut));
    free(image);
    bundle_free(bundle);
}

/* The hash alone would catch a flipped bit, so it is made right again: the bounds must hold by themselves. */
static void
survives_every_flipped_byte_with_a_right_hash(void **state)
{
    (void)state;
    enum { HEADER = 32, HASH_AT = 24 };
    struct bundle *bundle = bundle_open();
    size_t len;
    put(bundle, "a", "alpha"), put(bundle, "b", "beta");
    char *image = image_of(bundle, &len);
    for (size_t at = 0; at < len; at++) {
        for (unsigned mask = 1; mask < 256; mask <<= 1) {
            struct slice bytes;
            image[at] = (char)(image[at] ^ (char)mask);
            uint64_t hash = text_hash((struct slice){image + HEADER, len - HEADER});
            uint64_t old;
            memcpy(&old, image + HASH_AT, sizeof old);
            if (at < HASH_AT || at >= HEADER) memcpy(image + HASH_AT, &hash, sizeof hash);
            int fd = sealed_fd(image, len);
            struct bundle *other = bundle_from_fd(fd);
            if (other == NULL) {
                close(fd);
            } else if (bundle_read(other, "a", &bytes)) {
                assert_true(strlen(bytes.at) <= len);
            }
            bundle_free(other);
            memcpy(image + HASH_AT, &old, sizeof old);
            image[at] = (char)(image[at] ^ (char)mask);
        }
    }
    free(image);
    bundle_free(bundle);
}

static void
refuses_an_image_that_is_not_sealed(void **state)
{
    (void)state;
    struct bundle *bundle = bundle_open();
    size_t len;
    put(bundle, "a", "alpha");
    char *image = image_of(bundle, &len);
    int fd = memfd();
    assert_int_equal(pwrite(fd, image, len, 0), len);
    assert_no_bundle(fd);
    assert_no_bundle(sealed_fd("hello", 5));
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_no_bundle(pipes[0]);
    close(pipes[1]);
    free(image);
    bundle_free(bundle);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_file_once_and_remembers_it),
        cmocka_unit_test(remembers_that_a_file_was_not_there),
        cmocka_unit_test(refuses_what_is_no_ordinary_file),
        cmocka_unit_test(keeps_borrowed_bytes_when_they_are_replaced),
        cmocka_unit_test(sealed_answers_from_memory_alone),
        cmocka_unit_test(hash_is_that_of_the_content_and_not_of_the_order),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(survives_every_flipped_byte_with_a_right_hash),
        cmocka_unit_test(refuses_an_image_that_is_not_sealed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
