/* links: shm metrics config net */
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "spec/unit/proxy/fetch_rig.h"

#define OK2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

/* Certificates made by openssl(1): an authority that SSL_CERT_FILE names, and what it signed. */
static char folder[64];

static void
run(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    int status = system(command);
    if (status != 0) fail_msg("%s: %d", command, status);
}

static int
make_certificates(void **state)
{
    char path[96];
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    snprintf(folder, sizeof folder, "/tmp/fetch_tls.XXXXXX");
    assert_non_null(mkdtemp(folder));
    run("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca "
        "-keyout ca.key -out ca.pem 2>/dev/null",
        folder);
    static const char *const names[][2] = {
        {"good", "DNS:localhost,IP:127.0.0.1"}, {"other", "DNS:other.example"}};
    for (int i = 0; i < 2; i++) {
        run("cd %s && printf 'subjectAltName=%s\\n' >ext && openssl req -newkey ec -pkeyopt "
            "ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout %s.key -out csr 2>/dev/null && openssl x509 "
            "-req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out %s.pem "
            "2>/dev/null",
            folder, names[i][1], names[i][0], names[i][0]);
    }
    run("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "
        "/CN=self "
        "-addext subjectAltName=DNS:localhost -keyout self.key -out self.pem 2>/dev/null",
        folder);
    snprintf(path, sizeof path, "%s/ca.pem", folder);
    return setenv("SSL_CERT_FILE", path, 1) | setenv("SSL_CERT_DIR", "/nonexistent", 1);
}

static int
remove_certificates(void **state)
{
    (void)state;
    run("rm -r %s", folder);
    return 0;
}

/* A server that speaks TLS in this thread. */
struct tls {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
    char text[65536];
    size_t len;
    bool is_ended;
    char sni[64];
};

static int
note_sni(SSL *ssl, int *alert, void *context)
{
    struct tls *tls = context;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    snprintf(tls->sni, sizeof tls->sni, "%s", name == NULL ? "" : name);
    return SSL_TLSEXT_ERR_OK;
}

static struct tls *
tls_new(const char *name, int version)
{
    struct tls *tls = calloc(1, sizeof *tls);
    char path[96];
    assert_non_null(tls);
    tls->fd = -1;
    tls->context = SSL_CTX_new(TLS_server_method());
    assert_non_null(tls->context);
    snprintf(path, sizeof path, "%s/%s.pem", folder, name);
    assert_int_equal(SSL_CTX_use_certificate_chain_file(tls->context, path), 1);
    snprintf(path, sizeof path, "%s/%s.key", folder, name);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(tls->context, path, SSL_FILETYPE_PEM), 1);
    SSL_CTX_set_tlsext_servername_callback(tls->context, note_sni);
    SSL_CTX_set_tlsext_servername_arg(tls->context, tls);
    if (version != 0) {
        SSL_CTX_set_security_level(tls->context, 0);
        assert_int_equal(SSL_CTX_set_max_proto_version(tls->context, version), 1);
        assert_int_equal(SSL_CTX_set_min_proto_version(tls->context, version), 1);
    }
    return tls;
}

static void
tls_hang_up(struct tls *tls)
{
    SSL_free(tls->ssl);
    tls->ssl = NULL;
    if (tls->fd != -1) close(tls->fd);
    tls->fd = -1;
    tls->len = 0;
    tls->is_ended = false;
}

static void
tls_free(struct tls *tls)
{
    tls_hang_up(tls);
    SSL_CTX_free(tls->context);
    free(tls);
    ERR_clear_error();
}

/* Goes on as far as it can. */
static void
tls_step(struct rig *rig, struct tls *tls)
{
    size_t n = 0;
    if (tls->fd == -1) {
        tls->fd = accept4(rig->backend[0], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (tls->fd == -1) return;
        tls->ssl = SSL_new(tls->context);
        assert_int_equal(SSL_set_fd(tls->ssl, tls->fd), 1);
        SSL_set_accept_state(tls->ssl);
    }
    ERR_clear_error();
    int got = SSL_read_ex(tls->ssl, tls->text + tls->len, sizeof tls->text - 1 - tls->len, &n);
    tls->len += n;
    tls->text[tls->len] = '\0';
    int error = SSL_get_error(tls->ssl, got);
    if (got != 1 && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) tls->is_ended = true;
}

static void
tls_expect(struct rig *rig, struct tls *tls, const char *text)
{
    RIG_WAIT(rig, text, (tls_step(rig, tls), strstr(tls->text, text)) != NULL);
    tls->len = 0;
    tls->text[0] = '\0';
}

static void
tls_say(struct rig *rig, struct tls *tls, const char *bytes, size_t len)
{
    for (size_t n = 0; len > 0; bytes += n, len -= n) {
        n = 0;
        ERR_clear_error();
        if (SSL_write_ex(tls->ssl, bytes, len, &n) != 1) rig_turn(rig);
    }
}

static void
trusts_a_certificate_made_out_to_the_host_and_reuses_the_connection(void **state)
{
    static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rig *rig = rig_new(RIG_PLAIN, 1);
        struct tls *tls = tls_new("good", versions[i]);
        struct told *told = fetch_url(rig, "https://LocalHost:%u/s?t", rig->backend_port[0]);
        tls_expect(rig, tls, "GET /s?t HTTP/1.1\r\nHost: LocalHost:");
        assert_string_equal(tls->sni, "localhost");
        tls_say(rig, tls, OK2, sizeof OK2 - 1);
        expect_answer(rig, told, 200, "ok");
        told = fetch_url(rig, "https://localhost:%u/again", rig->backend_port[0]);
        tls_expect(rig, tls, "GET /again ");
        tls_say(rig, tls, OK2, sizeof OK2 - 1);
        expect_answer(rig, told, 200, "ok");
        assert_false(rig_has_connection(rig, 0));
        tls_hang_up(tls);

        RIG_WAIT(rig, "the idle connection's end", rig->proxy->fetcher->idle_count == 0);
        told = fetch_url(rig, "https://localhost:%u/resumed", rig->backend_port[0]);
        tls_expect(rig, tls, "GET /resumed ");
        assert_int_equal(SSL_session_reused(tls->ssl), 1);
        tls_say(rig, tls, OK2, sizeof OK2 - 1);
        expect_answer(rig, told, 200, "ok");
        tls_free(tls);
        rig_free(rig);
    }
}

static void
checks_an_address_too_and_sends_no_name_for_it(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct tls *tls = tls_new("good", 0);
    (void)state;
    struct told *told = fetch_url(rig, "https://127.0.0.1:%u/", rig->backend_port[0]);
    tls_expect(rig, tls, "GET / ");
    assert_string_equal(tls->sni, "");
    tls_say(rig, tls, OK2, sizeof OK2 - 1);
    expect_answer(rig, told, 200, "ok");
    tls_free(tls);
    rig_free(rig);
}

static void
refuses_whom_it_cannot_verify_before_it_asks_anything(void **state)
{
    static const struct {
        const char *name, *words;
        int version;
    } cases[] = {
        {"other", "hostname mismatch", 0},
        {"self", "self-signed certificate", 0},
        {"good", "", TLS1_1_VERSION},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig *rig = rig_new(RIG_PLAIN, 1);
        struct tls *tls = tls_new(cases[i].name, cases[i].version);
        struct told *told = fetch_url(rig, "https://localhost:%u/", rig->backend_port[0]);
        RIG_WAIT(rig, "its end", (tls_step(rig, tls), told->calls) == 1);
        RIG_WAIT(rig, "the server's end", (tls_step(rig, tls), tls->is_ended));
        assert_int_equal(tls->len, 0);
        expect_told(rig, told, REASON_TLS_ERROR, cases[i].words);
        tls_free(tls);
        rig_free(rig);
    }
}

static void
says_that_a_peer_speaks_no_tls_or_hangs_in_it(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "https://localhost:%u/", rig->backend_port[0]);
    struct told *told = fetch_url(rig, "%s", url);
    struct heard *server = rig_backend(rig, 0);
    rig_say(rig, server, "HTTP/1.1 400 no\r\n\r\n");
    expect_told(rig, told, REASON_TLS_ERROR, "127.0.0.1:");
    rig_hang_up(server);
    told = fetch_url(rig, "%s", url);
    rig_hang_up(rig_backend(rig, 0));
    expect_told(rig, told, REASON_TLS_ERROR, "failed the TLS handshake");
    told = fetch_with(rig, (struct asked){.url = url, .timeout_us = 200000}, REASON_NONE);
    server = rig_backend(rig, 0);
    expect_told(rig, told, REASON_CONNECT_TIMEOUT, "did not end its TLS handshake within 200 ms");
    rig_hang_up(server);
    told = fetch_url(rig, "%s", url);
    server = rig_backend(rig, 0);
    proxy_enter(rig->proxy);
    fetch_cancel(told->fetch);
    proxy_leave(rig->proxy);
    rig_expect_end(rig, server);
    assert_int_equal(told->calls, 0);
    free(told);
    rig_hang_up(server);
    rig_free(rig);
}

/* An attacker can forge a FIN, but not close_notify. */
static void
takes_no_bare_fin_for_the_end_of_a_body(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\n\r\nall of it?";
    (void)state;
    for (int is_clean = 0; is_clean < 2; is_clean++) {
        struct rig *rig = rig_new(RIG_PLAIN, 1);
        struct tls *tls = tls_new("good", 0);
        struct told *told = fetch_url(rig, "https://localhost:%u/", rig->backend_port[0]);
        tls_expect(rig, tls, "GET / ");
        tls_say(rig, tls, answer, sizeof answer - 1);
        if (is_clean) (void)SSL_shutdown(tls->ssl);
        shutdown(tls->fd, SHUT_WR);
        if (is_clean)
            expect_answer(rig, told, 200, "all of it?");
        else
            expect_told(rig, told, REASON_RESET_AFTER_HEADERS, "inside its answer");
        tls_free(tls);
        rig_free(rig);
    }
}

static void
moves_a_large_body_both_ways(void **state)
{
    enum { BYTES = 2 << 20 };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct tls *tls = tls_new("good", 0);
    char *body = malloc(BYTES), url[64], head[64];
    (void)state;
    memset(body, 'x', BYTES);
    snprintf(url, sizeof url, "https://localhost:%u/", rig->backend_port[0]);
    struct told *told = fetch_with(rig,
        (struct asked){.method = "PUT", .url = url, .body = {body, BYTES}, .max_body = BYTES}, REASON_NONE);
    RIG_WAIT(rig, "the head", (tls_step(rig, tls), strstr(tls->text, "\r\n\r\n")) != NULL);
    size_t got = tls->len - (size_t)(strstr(tls->text, "\r\n\r\n") + 4 - tls->text);
    for (tls->len = 0; got < BYTES; tls->len = 0) {
        tls_step(rig, tls);
        got += tls->len;
        if (tls->len == 0) rig_turn(rig);
    }
    assert_int_equal(got, BYTES);
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BYTES);
    tls_say(rig, tls, head, strlen(head));
    tls_say(rig, tls, body, BYTES);
    RIG_WAIT(rig, "the body", told->calls == 1);
    if (told->failure != REASON_NONE) fail_msg("%s", told->detail);
    assert_int_equal(told->body_len, BYTES);
    free(told);
    free(body);
    tls_free(tls);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trusts_a_certificate_made_out_to_the_host_and_reuses_the_connection),
        cmocka_unit_test(checks_an_address_too_and_sends_no_name_for_it),
        cmocka_unit_test(refuses_whom_it_cannot_verify_before_it_asks_anything),
        cmocka_unit_test(says_that_a_peer_speaks_no_tls_or_hangs_in_it),
        cmocka_unit_test(takes_no_bare_fin_for_the_end_of_a_body),
        cmocka_unit_test(moves_a_large_body_both_ways),
    };
    return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
