/* room: proxy */
#include "core/proxy/fetch_url.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : abort())

/* Nothing that ends a request line, a Host field or a C string. */
static void
check_plain(struct slice s, const char *without)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        FUZZ_CHECK(c > ' ' && c < 0x7f && strchr(without, c) == NULL);
    }
}

static void
check_parts(const struct fetch_url *url)
{
    FUZZ_CHECK(url->authority.len > 0 && url->host.len > 0 && url->host.len <= url->authority.len);
    FUZZ_CHECK(url->path.len > 0 && url->path.at[0] == '/');
    FUZZ_CHECK((url->port == 0) == (url->scheme == FETCH_SERVICE));
    FUZZ_CHECK(url->has_query || url->query.len == 0);
    check_plain(url->authority, "/?#@");
    check_plain(url->host, "/?#@");
    check_plain(url->path, "?#\\");
    check_plain(url->query, "#");
}

/* What is written from the parts is the same URL again. */
static void
check_again(const struct fetch_url *url)
{
    static const char *const schemes[] = {"service", "http", "https"};
    struct fetch_url again;
    char *text = NULL;
    int len = asprintf(&text, "%s://%.*s%.*s%s%.*s", schemes[url->scheme], (int)url->authority.len,
        url->authority.at, (int)url->path.len, url->path.at, url->has_query ? "?" : "", (int)url->query.len,
        url->query.at == NULL ? "" : url->query.at);
    FUZZ_CHECK(len > 0);
    if (len <= FETCH_URL_BYTES) {
        FUZZ_CHECK(fetch_url_parse((struct slice){text, (size_t)len}, &again) == NULL);
        FUZZ_CHECK(
            again.scheme == url->scheme && again.port == url->port && again.has_query == url->has_query);
        FUZZ_CHECK(slice_equal(again.host, url->host) && slice_equal(again.path, url->path));
        FUZZ_CHECK(slice_equal(again.query, url->query));
    }
    free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct fetch_url url;
    if (fetch_url_parse((struct slice){(const char *)bytes, size}, &url) != NULL) return 0;
    check_parts(&url);
    check_again(&url);
    return 0;
}
