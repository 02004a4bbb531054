/* room: serve */
/* Bytes of an HTTP/1 client, cut where the first byte says: the calls that reach the handler are those of the
 * whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/serve/serve_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
on_request(void *context, struct serve_call *call, const struct serve_request *request)
{
    struct strbuf *seen = context;
    strbuf_add_slice(seen, request->method_text);
    strbuf_add_char(seen, ' ');
    strbuf_add_slice(seen, request->path);
    strbuf_add_char(seen, '?');
    strbuf_add_slice(seen, request->query);
    strbuf_add_char(seen, ' ');
    strbuf_add_slice(seen, request->body);
    strbuf_add_char(seen, '\n');
    serve_reply(call, request->path.len % 2 == 0 ? 200 : 204, "text/plain", request->body);
}

static void
run(struct event_base *base, struct slice input, size_t cut, struct strbuf *seen)
{
    const struct sockaddr peer = {.sa_family = AF_UNIX};
    struct serve_limits limits = {.body_bytes = 4096};
    struct serve *serve = serve_new(base, SERVE_BOTH, &limits, on_request, seen);
    char sink[65536];
    int pair[2];
    if (serve == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == -1) abort();
    serve_conn_accept(serve, pair[0], &peer);
    for (size_t at = 0; at < input.len;) {
        size_t part = at == 0 && cut > 0 && cut < input.len ? cut : input.len - at;
        ssize_t n = send(pair[1], input.at + at, part, MSG_NOSIGNAL);
        if (n <= 0) break;
        at += (size_t)n;
        for (int i = 0; i < 8; i++)
            event_base_loop(base, EVLOOP_NONBLOCK);
        while (recv(pair[1], sink, sizeof sink, 0) > 0)
            continue;
    }
    for (int i = 0; i < 8; i++)
        event_base_loop(base, EVLOOP_NONBLOCK);
    close(pair[1]);
    event_base_loop(base, EVLOOP_NONBLOCK);
    serve_free(serve);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_base *base;
    struct strbuf whole = {0}, parts = {0};
    if (base == NULL) base = event_base_new();
    if (size < 1 || size > 32768 || base == NULL) return 0;
    struct slice input = {(const char *)data + 1, size - 1};
    run(base, input, 0, &whole);
    if (input.len > 1) {
        run(base, input, 1 + data[0] % (input.len - 1), &parts);
        if (!slice_equal(strbuf_slice(&whole), strbuf_slice(&parts))) abort();
    }
    strbuf_fini(&whole);
    strbuf_fini(&parts);
    return 0;
}
