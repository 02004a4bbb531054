/* room: registry */
/* A gRPC client of the registry. The first byte picks: raw frames behind a good preface, or one method and
 * its message. Whatever comes, the registry answers a good call on another connection afterwards. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/serve/serve_internal.h"
#include "registry/registry_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const paths[] = {"/serviceregistry.ServiceRegistry/RegisterService",
    "/serviceregistry.ServiceRegistry/SendHeartbeat", "/serviceregistry.ServiceRegistry/DeregisterService",
    "/serviceregistry.ServiceRegistry/GetHealthyServices", "/serviceregistry.v2.Registry/RegisterInstance",
    "/serviceregistry.v2.Registry/WatchInstances", "/serviceregistry.v2.Registry/ListInstances",
    "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/nope"};

static void
add_frame(struct strbuf *out, uint8_t type, uint8_t flags, uint8_t stream, struct slice payload)
{
    const char head[9] = {(char)(payload.len >> 16), (char)(payload.len >> 8), (char)payload.len, (char)type,
        (char)flags, 0, 0, 0, (char)stream};
    strbuf_add(out, head, sizeof head);
    strbuf_add_slice(out, payload);
}

/* RFC 7541: 0x83 :method POST, 0x86 :scheme http, :authority (1) and :path (4) literal, content-type (31)
 * literal; all short strings. */
static void
add_call(struct strbuf *out, uint8_t stream, const char *path)
{
    struct strbuf block = {0};
    strbuf_add(&block, "\x83\x86\x01\x01x\x04", 6);
    strbuf_add_char(&block, (char)strlen(path));
    strbuf_add_text(&block, path);
    strbuf_add(&block, "\x0f\x10\x10", 3);
    strbuf_add_text(&block, "application/grpc");
    add_frame(out, 1, 4, stream, strbuf_slice(&block));
    strbuf_fini(&block);
}

static void
add_message(struct strbuf *out, uint8_t stream, struct slice message)
{
    struct strbuf body = {0};
    const char prefix[5] = {0, 0, 0, (char)(message.len >> 8), (char)message.len};
    strbuf_add(&body, prefix, sizeof prefix);
    strbuf_add_slice(&body, message);
    add_frame(out, 0, 1, stream, strbuf_slice(&body));
    strbuf_fini(&body);
}

static bool
talk(struct registry *registry, struct slice bytes, const char *wanted)
{
    const struct sockaddr peer = {.sa_family = AF_UNIX};
    struct strbuf got = {0};
    char part[65536];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == -1) abort();
    serve_conn_accept(registry->grpc, pair[0], &peer);
    for (size_t at = 0; at < bytes.len;) {
        ssize_t n = send(pair[1], bytes.at + at, bytes.len - at, MSG_NOSIGNAL);
        if (n <= 0) break;
        at += (size_t)n;
        for (int i = 0; i < 6; i++)
            event_base_loop(registry->base, EVLOOP_NONBLOCK);
        for (ssize_t m; (m = recv(pair[1], part, sizeof part, 0)) > 0;)
            strbuf_add(&got, part, (size_t)m);
    }
    close(pair[1]);
    for (int i = 0; i < 3; i++)
        event_base_loop(registry->base, EVLOOP_NONBLOCK);
    bool found = wanted == NULL || (got.len > 0 && memmem(got.at, got.len, wanted, strlen(wanted)) != NULL);
    strbuf_fini(&got);
    return found;
}

static struct registry *
start(void)
{
    static struct config_registry config = {.store = "memory"};
    const char *why;
    log_init("fuzz", LOG_ERROR, LOG_LOGFMT);
    struct event_base *base = event_base_new();
    const struct sockaddr name = {.sa_family = AF_UNIX}; /* the kernel chooses one */
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd == -1 || bind(fd, &name, sizeof name.sa_family) == -1 || listen(fd, 1) == -1) abort();
    struct registry *registry = base == NULL ? NULL : registry_new(base, &config, -1, fd, &why);
    if (registry == NULL) abort();
    return registry;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static struct registry *registry;
    struct strbuf bytes = {0}, good = {0};
    if (registry == NULL) registry = start();
    if (size < 1 || size > 16000) return 0;
    struct slice rest = {(const char *)data + 1, size - 1};
    strbuf_add(&bytes, preface, sizeof preface - 1);
    add_frame(&bytes, 4, 0, 0, SLICE_NONE);
    if (data[0] < sizeof paths / sizeof paths[0]) {
        add_call(&bytes, 1, paths[data[0]]);
        add_message(&bytes, 1, rest);
    } else {
        add_call(&bytes, 1, paths[data[0] % (sizeof paths / sizeof paths[0])]);
        strbuf_add_slice(&bytes, rest);
    }
    (void)talk(registry, strbuf_slice(&bytes), NULL);
    strbuf_add(&good, preface, sizeof preface - 1);
    add_frame(&good, 4, 0, 0, SLICE_NONE);
    add_call(&good, 1, "/serviceregistry.ServiceRegistry/DeregisterService");
    add_message(&good, 1, SLICE_LIT("\x0a\x01z"));
    if (!talk(registry, strbuf_slice(&good), "deregistered successfully")) abort();
    strbuf_fini(&bytes);
    strbuf_fini(&good);
    return 0;
}
