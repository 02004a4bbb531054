/* bench/h1.c: what one HTTP/1 message costs between its first byte and the bytes that leave: parse, normal
 * form of the path, hop-by-hop removal, writing. bench/h1.sh runs it under callgrind and against the clock.
 *
 *     h1 CASE ROUNDS      CASE: request-small request-browser response chunked
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/http/h1.h"
#include "core/http/uri.h"

enum { OUT_BYTES = 8192 };

static const struct h1_limits limits = {32768, 100, 8192, 0, false};
static struct arena arena;
static char out[OUT_BYTES], path[OUT_BYTES];

static const struct slice request_small = SLICE_LIT("GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n");
static const struct slice request_browser =
    SLICE_LIT("GET /api/v1/users/42/orders?page=2&sort=desc HTTP/1.1\r\nHost: api.example.com\r\n"
              "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
              "Chrome/120.0 Safari/537.36\r\n"
              "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: "
              "en-US,en;q=0.5\r\n"
              "Accept-Encoding: gzip, deflate, br\r\nCookie: SESSIONID=abcdef0123456789; theme=dark\r\n"
              "Referer: https://example.com/index.html\r\nX-Request-Id: 0123456789abcdef\r\nConnection: "
              "keep-alive\r\n\r\n");
static const struct slice response = SLICE_LIT("HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov "
                                               "2026 03:00:00 GMT\r\nContent-Type: text/plain\r\n"
                                               "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n");
static const struct slice chunks = SLICE_LIT("10\r\n0123456789abcdef\r\n10\r\n0123456789abcdef\r\n10\r\n01234"
                                             "56789abcdef\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");

static size_t
relay_head(struct slice bytes, bool is_response)
{
    struct h1_parser parser;
    struct slice normal = SLICE_NONE;
    size_t used, written = 0;
    if (is_response) {
        h1_response_init(&parser, &arena, &limits, METHOD_GET);
    } else {
        h1_request_init(&parser, &arena, &limits);
    }
    if (h1_parse_head(&parser, bytes, &used) != H1_DONE) abort();
    struct h1_head *head = &parser.head;
    if (!is_response && uri_normalise(head->path, false, path, sizeof path, &normal) != URI_OK) abort();
    h1_drop_hop_by_hop(&head->headers);
    struct h1_out message = {.method = head->method_text,
        .target = head->target,
        .status = head->status,
        .headers = &head->headers,
        .body = head->body,
        .length = head->length};
    if (h1_head_bound(&message, head->authority) > sizeof out) abort();
    written = is_response ? h1_write_response(&message, out, sizeof out)
                          : h1_write_request(&message, head->authority, out, sizeof out);
    arena_reset(&arena);
    return written;
}

static size_t
decode_chunks(struct slice bytes)
{
    struct h1_chunked chunked = {0};
    enum h1_result result = H1_AGAIN;
    while (result == H1_AGAIN) {
        struct slice data;
        size_t used;
        result = h1_chunked_read(&chunked, &arena, 0, bytes, &data, &used);
        bytes = (struct slice){bytes.at + used, bytes.len - used};
    }
    if (result != H1_DONE) abort();
    return (size_t)chunked.total;
}

/* CPU time, so that a busy machine does not show. */
static double
cpu_ns(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == -1) abort();
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

int
main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    long rounds = argc > 2 ? strtol(argv[2], NULL, 10) : 1000000;
    size_t bytes = 0;
    double from_ns = cpu_ns();
    for (long i = 0; i < rounds; i++) {
        if (strcmp(name, "request-small") == 0) {
            bytes += relay_head(request_small, false);
        } else if (strcmp(name, "request-browser") == 0) {
            bytes += relay_head(request_browser, false);
        } else if (strcmp(name, "response") == 0) {
            bytes += relay_head(response, true);
        } else if (strcmp(name, "chunked") == 0) {
            bytes += decode_chunks(chunks);
        } else {
            (void)fprintf(stderr, "usage: h1 request-small|request-browser|response|chunked [rounds]\n");
            return 64;
        }
    }
    (void)printf(
        "%-16s %8.1f ns a message (%zu bytes)\n", name, (cpu_ns() - from_ns) / (double)rounds, bytes);
    arena_fini(&arena);
    return 0;
}
