#include "core/proxy/fetch_url.h"

#include "core/base/text.h"
#include "core/http/uri.h"

static bool
take_prefix(struct slice *url, struct slice prefix)
{
    if (url->len < prefix.len || !slice_equal_nocase((struct slice){url->at, prefix.len}, prefix))
        return false;
    *url = (struct slice){url->at + prefix.len, url->len - prefix.len};
    return true;
}

/* What stands before the first of `marks` (or all); *rest begins with the mark. */
static struct slice
take_until(struct slice *rest, const char *marks)
{
    struct slice taken = {rest->at, 0};
    while (taken.len < rest->len && strchr(marks, rest->at[taken.len]) == NULL)
        taken.len++;
    *rest = (struct slice){rest->at + taken.len, rest->len - taken.len};
    return taken;
}

static const char *
read_authority(struct fetch_url *url)
{
    struct slice port;
    uint64_t number = url->scheme == FETCH_HTTPS ? 443 : 80;
    if (url->authority.len == 0) return "the URL names no host";
    if (memchr(url->authority.at, '@', url->authority.len) != NULL) return "the URL holds userinfo";
    if (url->scheme == FETCH_SERVICE) {
        url->host = url->authority;
        url->port = 0;
        return NULL;
    }
    if (!uri_authority_split(url->authority, &url->host, &port)) return "the URL's host is malformed";
    if (port.len > 0 && (!text_parse_u64(port, UINT16_MAX, &number) || number == 0))
        return "the URL's port is none";
    url->port = (uint16_t)number;
    return NULL;
}

const char *
fetch_url_parse(struct slice text, struct fetch_url *url)
{
    struct slice rest = text;
    if (text.len > FETCH_URL_BYTES) return "the URL is too long";
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.at[i];
        if (c <= ' ' || c >= 0x7f) return "the URL holds a byte that must be escaped";
    }
    if (take_prefix(&rest, SLICE_LIT("service://")))
        url->scheme = FETCH_SERVICE;
    else if (take_prefix(&rest, SLICE_LIT("http://")))
        url->scheme = FETCH_HTTP;
    else if (take_prefix(&rest, SLICE_LIT("https://")))
        url->scheme = FETCH_HTTPS;
    else
        return "expected a URL http://…, https://… or service://NAME/…";
    url->authority = take_until(&rest, "/?#");
    url->path = take_until(&rest, "?#");
    if (url->path.len == 0) url->path = SLICE_LIT("/");
    url->has_query = rest.len > 0 && rest.at[0] == '?';
    if (url->has_query) rest = (struct slice){rest.at + 1, rest.len - 1};
    url->query = url->has_query ? take_until(&rest, "#") : SLICE_NONE;
    if (memchr(url->path.at, '\\', url->path.len) != NULL) return "the URL's path holds a backslash";
    return read_authority(url);
}
