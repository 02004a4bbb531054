/* core/proxy/fetch_url.h: the URLs that gateway.fetch takes. Pure. */
#ifndef FLUXGATE_PROXY_FETCH_URL_H
#define FLUXGATE_PROXY_FETCH_URL_H
#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

enum fetch_scheme { FETCH_SERVICE, FETCH_HTTP, FETCH_HTTPS };
enum { FETCH_URL_BYTES = 8192 };

struct fetch_url { /* slices borrow from the URL */
    enum fetch_scheme scheme;
    struct slice authority;   /* as written: host[:port], or a service's name */
    struct slice host;        /* without brackets and port; a service's name */
    uint16_t port;            /* 0 for a service */
    struct slice path, query; /* path "/" where there is none; the fragment is dropped */
    bool has_query;
};

/* NULL, else a sentence about what is wrong, and then *out is not to be used. Nothing that could end a
 * request line, no userinfo (RFC 9110 §4.2.4). Escapes stay as they are. */
MUST_CHECK
const char *fetch_url_parse(struct slice url, struct fetch_url *out);

#endif
