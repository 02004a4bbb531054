/* room: net */
#include <stdint.h>
#include <stdlib.h>

#include "core/base/base64.h"
#include "core/net/ipset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What decodes is the one text of its bytes. */
static void
check_base64(struct slice text, enum base64_form form)
{
    size_t len = 0;
    char *out = malloc(text.len + 1);
    if (out == NULL) return;
    if (base64_decode(text, form, out, &len)) {
        char *again = malloc(text.len + 1);
        if (len > text.len || base64_length(len, form) != text.len) abort();
        if (again != NULL) base64_encode((struct slice){out, len}, form, again);
        if (again != NULL && !slice_equal((struct slice){again, text.len}, text)) abort();
        free(again);
    }
    free(out);
}

/* Lines: a set has what any set of one of its lines has, and nothing else. */
static void
check_sets(struct slice text, struct slice question)
{
    struct ipset *all = ipset_new();
    bool expected = false;
    while (all != NULL && text.len > 0) {
        const char *end = memchr(text.at, '\n', text.len);
        struct slice line = {text.at, end == NULL ? text.len : (size_t)(end - text.at)};
        size_t used = line.len + (end != NULL);
        text = (struct slice){text.at + used, text.len - used};
        struct ipset *one = ipset_new();
        if (one != NULL && ipset_add(one, line) != ipset_add(all, line)) abort();
        expected = expected || (one != NULL && ipset_has(one, question));
        ipset_free(one);
    }
    if (all != NULL && ipset_has(all, question) != expected) abort();
    ipset_free(all);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = {(const char *)data, size};
    const char *end = size == 0 ? NULL : memchr(input.at, '\n', size);
    struct slice first = {input.at, end == NULL ? size : (size_t)(end - input.at)};
    check_base64(input, BASE64_STANDARD);
    check_base64(input, BASE64_URL);
    if (size > 4096) return 0;
    check_sets((struct slice){input.at + first.len, size - first.len}, first);
    return 0;
}
