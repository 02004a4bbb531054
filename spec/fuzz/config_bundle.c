/* room: config */
/* Any bytes as a sealed bundle, with the hash made right: they are refused, or every answer lies inside them.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/text.h"
#include "core/config/bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { HEADER = 32, BYTES_AT = 16, HASH_AT = 24 };
    char *image = malloc(size + 1);
    int fd = memfd_create("bundle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (image == NULL || fd == -1) abort();
    memcpy(image, data, size);
    if (size >= HEADER) {
        uint64_t bytes = size, hash = text_hash((struct slice){image + HEADER, size - HEADER});
        memcpy(image, "FLUXBNDL\1\0\0\0", 12);
        memcpy(image + BYTES_AT, &bytes, sizeof bytes);
        memcpy(image + HASH_AT, &hash, sizeof hash);
    }
    if (write(fd, image, size) != (ssize_t)size) abort();
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) abort();
    free(image);
    struct bundle *bundle = bundle_from_fd(fd);
    if (bundle == NULL) {
        close(fd);
        return 0;
    }
    static const char *const paths[] = {"", "a", "b", "/conf/fluxgate.yaml"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct slice bytes;
        if (!bundle_read(bundle, paths[i], &bytes)) continue;
        if (bytes.len >= size || bytes.at[bytes.len] != '\0') abort();
        for (size_t k = 0; k < bytes.len; k++) {
            if (((const volatile char *)bytes.at)[k] == '\1' && bytes.len > size) abort();
        }
    }
    bundle_free(bundle);
    return 0;
}
