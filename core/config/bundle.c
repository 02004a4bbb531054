#include "core/config/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/strbuf.h"
#include "core/base/text.h"
#include "core/config/index.h"

/* The image: header, then `count` rows sorted by path, then the bytes they point to, each run with a NUL
 * behind it. Offsets count from the start of the image. The same files give the same image whatever order
 * they were read in. */
enum { IMAGE_VERSION = 1, IMAGE_FILES_MAX = 65536 };
static const uint64_t IMAGE_BYTES_MAX = (uint64_t)256 << 20;

struct image_header {
    char magic[8];
    uint32_t version;
    uint32_t count;
    uint64_t bytes;
    uint64_t hash; /* text_hash of everything behind the header */
};
static const char image_magic[8] = {'F', 'L', 'U', 'X', 'B', 'N', 'D', 'L'};

struct image_row {
    uint64_t path_at, path_len, bytes_at, bytes_len;
};

struct file {
    char *path;
    char *bytes; /* NULL where it could not be read */
    size_t len;
    int error;             /* errno of the one attempt, 0 where it was read */
    struct file *replaced; /* earlier bytes that someone may still borrow */
};

struct bundle {
    struct file **files; /* open: in the order read */
    size_t count, cap;
    size_t total_bytes;
    struct index paths;
    const char *image; /* sealed: the mapping */
    size_t image_len;
    int fd;
};

struct bundle *
bundle_open(void)
{
    struct bundle *bundle = calloc(1, sizeof *bundle);
    if (bundle != NULL) bundle->fd = -1;
    return bundle;
}

static void
file_free(struct file *file)
{
    for (struct file *next; file != NULL; file = next) {
        next = file->replaced;
        free(file->path);
        free(file->bytes);
        free(file);
    }
}

void
bundle_free(struct bundle *bundle)
{
    if (bundle == NULL) return;
    for (size_t i = 0; i < bundle->count; i++)
        file_free(bundle->files[i]);
    free(bundle->files);
    index_fini(&bundle->paths);
    if (bundle->image != NULL) munmap((void *)(uintptr_t)bundle->image, bundle->image_len);
    if (bundle->fd != -1) close(bundle->fd);
    free(bundle);
}

/* ---- open
 * ------------------------------------------------------------------------------------------------------ */

static const char *
file_path(const void *context, uint32_t at)
{
    const struct bundle *bundle = context;
    return bundle->files[at]->path;
}

static struct file *
file_add(struct bundle *bundle, const char *path)
{
    if (bundle->count == IMAGE_FILES_MAX) {
        errno = ENFILE;
        return NULL;
    }
    if (bundle->count == bundle->cap) {
        size_t cap = bundle->cap == 0 ? 16 : bundle->cap * 2;
        struct file **files = realloc(bundle->files, cap * sizeof *files);
        if (files == NULL) return NULL;
        bundle->files = files;
        bundle->cap = cap;
    }
    struct file *file = calloc(1, sizeof *file);
    if (file == NULL) return NULL;
    file->path = strdup(path);
    if (file->path == NULL) {
        free(file);
        return NULL;
    }
    bundle->files[bundle->count] = file;
    if (!index_add(&bundle->paths, path, (uint32_t)bundle->count, file_path, bundle, NULL)) {
        file_free(file);
        errno = ENOMEM;
        return NULL;
    }
    bundle->count++;
    return file;
}

/* Reads up to `max` bytes, so that a file that grows meanwhile ends as EFBIG and not as endless memory. */
static int
read_all(int fd, size_t expected, size_t max, char **bytes, size_t *len)
{
    size_t cap = expected + 1, used = 0;
    char *at = malloc(cap + 1);
    if (at == NULL) return ENOMEM;
    for (;;) {
        ssize_t n = read(fd, at + used, cap - used);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 || n == 0) {
            int error = n == -1 ? errno : 0;
            if (error != 0) break;
            at[used] = '\0';
            *bytes = at;
            *len = used;
            return 0;
        }
        used += (size_t)n;
        if (used > max) {
            errno = EFBIG;
            break;
        }
        if (used < cap) continue;
        char *more = realloc(at, cap * 2 + 1);
        if (more == NULL) {
            errno = ENOMEM;
            break;
        }
        at = more;
        cap *= 2;
    }
    int error = errno;
    free(at);
    return error;
}

static int
file_load(const char *path, size_t room, char **bytes, size_t *len)
{
    /* O_NONBLOCK: opening a FIFO without a writer would wait for ever */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd == -1) return errno == ENOTDIR || errno == ENAMETOOLONG ? ENOENT : errno;
    struct stat info;
    size_t max = room < BUNDLE_FILE_MAX ? room : BUNDLE_FILE_MAX;
    int error = 0;
    if (fstat(fd, &info) == -1) {
        error = errno;
    } else if (S_ISDIR(info.st_mode)) {
        error = EISDIR;
    } else if (!S_ISREG(info.st_mode)) {
        error = EINVAL;
    } else if (info.st_size < 0 || (uint64_t)info.st_size > max) {
        error = EFBIG;
    } else {
        error = read_all(fd, (size_t)info.st_size, max, bytes, len);
    }
    close(fd);
    return error;
}

static size_t
room_left(const struct bundle *bundle)
{
    return bundle->total_bytes < IMAGE_BYTES_MAX ? (size_t)IMAGE_BYTES_MAX - bundle->total_bytes : 0;
}

/* ---- sealed
 * ---------------------------------------------------------------------------------------------------- */

/* Rows are read by memcpy: the image of a hostile file promises no alignment. */
static struct image_row
image_row(const char *image, size_t at)
{
    struct image_row row;
    memcpy(&row, image + sizeof(struct image_header) + at * sizeof row, sizeof row);
    return row;
}

static bool
run_is_valid(const char *image, size_t image_len, size_t from, uint64_t at, uint64_t len)
{
    uint64_t end;
    return at >= from && !__builtin_add_overflow(at, len, &end) && end < image_len && image[end] == '\0';
}

static bool
image_is_valid(const char *image, size_t len)
{
    struct image_header header;
    if (len < sizeof header || len > IMAGE_BYTES_MAX * 2) return false;
    memcpy(&header, image, sizeof header);
    if (memcmp(header.magic, image_magic, sizeof image_magic) != 0 || header.version != IMAGE_VERSION)
        return false;
    if (header.bytes != len || header.count > IMAGE_FILES_MAX) return false;
    size_t data = sizeof header + header.count * sizeof(struct image_row);
    if (data > len) return false;
    if (header.hash != text_hash((struct slice){image + sizeof header, len - sizeof header})) return false;
    const char *before = NULL;
    for (size_t i = 0; i < header.count; i++) {
        struct image_row row = image_row(image, i);
        if (!run_is_valid(image, len, data, row.path_at, row.path_len)) return false;
        if (!run_is_valid(image, len, data, row.bytes_at, row.bytes_len)) return false;
        const char *path = image + row.path_at;
        if (strlen(path) != row.path_len || (before != NULL && strcmp(before, path) >= 0)) return false;
        before = path;
    }
    return true;
}

struct bundle *
bundle_from_fd(int fd)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    struct stat info;
    int held = fcntl(fd, F_GET_SEALS);
    /* without the seals someone could cut the file under our mapping, and a read would end the process */
    if (held == -1 || (held & seals) != seals || fstat(fd, &info) == -1 || info.st_size <= 0) {
        errno = EBADMSG;
        return NULL;
    }
    size_t len = (size_t)info.st_size;
    void *image = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) return NULL;
    struct bundle *bundle = image_is_valid(image, len) ? bundle_open() : NULL;
    if (bundle == NULL) {
        munmap(image, len);
        errno = EBADMSG;
        return NULL;
    }
    bundle->image = image;
    bundle->image_len = len;
    bundle->fd = fd;
    return bundle;
}

static bool
image_find(const struct bundle *bundle, const char *path, struct slice *bytes)
{
    struct image_header header;
    memcpy(&header, bundle->image, sizeof header);
    for (size_t low = 0, high = header.count; low < high;) {
        size_t middle = low + (high - low) / 2;
        struct image_row row = image_row(bundle->image, middle);
        int order = strcmp(path, bundle->image + row.path_at);
        if (order == 0) {
            *bytes = (struct slice){bundle->image + row.bytes_at, (size_t)row.bytes_len};
            return true;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    errno = ENOENT;
    return false;
}

/* ---- both
 * ------------------------------------------------------------------------------------------------------ */

bool
bundle_read(struct bundle *bundle, const char *path, struct slice *bytes)
{
    uint32_t at;
    struct file *file;
    if (bundle->image != NULL) return image_find(bundle, path, bytes);
    if (index_find(&bundle->paths, path, file_path, bundle, &at)) {
        file = bundle->files[at];
    } else {
        file = file_add(bundle, path);
        if (file == NULL) return false;
        file->error = file_load(path, room_left(bundle), &file->bytes, &file->len);
        bundle->total_bytes += file->len;
    }
    if (file->error != 0) {
        errno = file->error;
        return false;
    }
    *bytes = (struct slice){file->bytes, file->len};
    return true;
}

bool
bundle_put(struct bundle *bundle, const char *path, struct slice bytes)
{
    uint32_t at;
    struct file *file;
    if (bundle->image != NULL) {
        errno = EPERM;
        return false;
    }
    if (bytes.len > BUNDLE_FILE_MAX || bytes.len > room_left(bundle)) {
        errno = EFBIG;
        return false;
    }
    char *copy = slice_dup(bytes);
    if (copy == NULL) return false;
    if (index_find(&bundle->paths, path, file_path, bundle, &at)) {
        file = bundle->files[at];
        if (file->bytes != NULL) { /* borrowed until bundle_free: kept behind the new ones */
            struct file *old = calloc(1, sizeof *old);
            if (old == NULL) {
                free(copy);
                return false;
            }
            old->bytes = file->bytes;
            old->replaced = file->replaced;
            file->replaced = old;
        }
    } else {
        file = file_add(bundle, path);
        if (file == NULL) {
            free(copy);
            return false;
        }
    }
    file->bytes = copy;
    file->len = bytes.len;
    file->error = 0;
    bundle->total_bytes += bytes.len;
    return true;
}

static int
by_path(const void *a, const void *b)
{
    const struct file *const *left = a, *const *right = b;
    return strcmp((*left)->path, (*right)->path);
}

/* The files that were read, sorted; the caller frees the array. */
static struct file **
files_sorted(const struct bundle *bundle, size_t *count)
{
    struct file **sorted = malloc((bundle->count + 1) * sizeof *sorted);
    *count = 0;
    if (sorted == NULL) return NULL;
    for (size_t i = 0; i < bundle->count; i++) {
        if (bundle->files[i]->error == 0) sorted[(*count)++] = bundle->files[i];
    }
    qsort(sorted, *count, sizeof *sorted, by_path);
    return sorted;
}

static bool
image_build(const struct bundle *bundle, struct strbuf *image)
{
    struct image_header header = {.version = IMAGE_VERSION};
    size_t count;
    struct file **files = files_sorted(bundle, &count);
    if (files == NULL) return false;
    uint64_t at = sizeof header + count * sizeof(struct image_row);
    memcpy(header.magic, image_magic, sizeof image_magic);
    header.count = (uint32_t)count;
    strbuf_add(image, &header, sizeof header);
    for (size_t i = 0; i < count; i++) {
        struct image_row row = {
            .path_at = at, .path_len = strlen(files[i]->path), .bytes_len = files[i]->len};
        row.bytes_at = row.path_at + row.path_len + 1;
        at = row.bytes_at + row.bytes_len + 1;
        strbuf_add(image, &row, sizeof row);
    }
    for (size_t i = 0; i < count; i++) {
        strbuf_add(image, files[i]->path, strlen(files[i]->path) + 1);
        strbuf_add(image, files[i]->bytes, files[i]->len + 1);
    }
    free(files);
    if (image->failed) return false;
    header.bytes = image->len;
    header.hash = text_hash((struct slice){image->at + sizeof header, image->len - sizeof header});
    memcpy(image->at, &header, sizeof header);
    return true;
}

static bool
write_all(int fd, struct slice bytes)
{
    for (size_t done = 0; done < bytes.len;) {
        ssize_t n = pwrite(fd, bytes.at + done, bytes.len - done, (off_t)done);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return false;
        done += (size_t)n;
    }
    return true;
}

bool
bundle_seal(struct bundle *bundle, int fd)
{
    struct strbuf image = {0};
    if (bundle->image != NULL) {
        strbuf_add(&image, bundle->image, bundle->image_len);
    } else if (!image_build(bundle, &image)) {
        image.failed = true;
    }
    bool ok = false;
    if (image.failed) {
        errno = ENOMEM;
    } else if (ftruncate(fd, 0) == 0 && write_all(fd, strbuf_slice(&image))) {
        ok = fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0;
    }
    int error = errno;
    strbuf_fini(&image);
    errno = error;
    return ok;
}

void
bundle_hash(const struct bundle *bundle, char out[17])
{
    struct image_header header = {0};
    struct strbuf image = {0};
    if (bundle->image != NULL) {
        memcpy(&header, bundle->image, sizeof header);
    } else if (image_build(bundle, &image)) {
        memcpy(&header, image.at, sizeof header);
    }
    strbuf_fini(&image);
    snprintf(out, 17, "%016llx", (unsigned long long)header.hash);
}
