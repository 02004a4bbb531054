#include "core/net/tls_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tls_trust {
    SSL_CTX *context;
};

struct tls_client {
    SSL *ssl;
    char problem[160];
};

/* No offer of HTTP/2: what we speak is HTTP/1.1. */
static const unsigned char alpn[] = "\x08http/1.1";

struct tls_trust *
tls_trust_new(void)
{
    struct tls_trust *trust = calloc(1, sizeof *trust);
    SSL_CTX *context = trust == NULL ? NULL : SSL_CTX_new(TLS_client_method());
    if (context == NULL) {
        free(trust);
        return NULL;
    }
    trust->context = context;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context,
        SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* the caller keeps them, by peer */
    /* Where there are no certificates every handshake fails, and says so. */
    (void)SSL_CTX_set_default_verify_paths(context);
    ERR_clear_error();
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_alpn_protos(context, alpn, sizeof alpn - 1) != 0) {
        tls_trust_free(trust);
        return NULL;
    }
    return trust;
}

void
tls_trust_free(struct tls_trust *trust)
{
    if (trust == NULL) return;
    SSL_CTX_free(trust->context);
    free(trust);
}

static bool
expect_host(SSL *ssl, const char *host)
{
    unsigned char address[16];
    char name[256];
    size_t len = strlen(host);
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    if (len > 1 && host[len - 1] == '.') len--; /* RFC 6066 §3: SNI has no final dot */
    if (len >= sizeof name) return false;
    memcpy(name, host, len);
    name[len] = '\0';
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, name, len) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct tls_client *
tls_client_new(struct tls_trust *trust, int fd, const char *host, struct tls_session *session)
{
    struct tls_client *client = calloc(1, sizeof *client);
    if (client == NULL) return NULL;
    client->ssl = SSL_new(trust->context);
    if (client->ssl == NULL || !expect_host(client->ssl, host) || SSL_set_fd(client->ssl, fd) != 1) {
        ERR_clear_error();
        tls_client_free(client);
        return NULL;
    }
    if (session != NULL) (void)SSL_set_session(client->ssl, (SSL_SESSION *)session);
    SSL_set_connect_state(client->ssl);
    return client;
}

void
tls_client_free(struct tls_client *client)
{
    if (client == NULL) return;
    if (client->ssl != NULL) {
        /* The socket may be full or dead: one try to say goodbye, and no word about how it went. */
        if (SSL_is_init_finished(client->ssl) && client->problem[0] == '\0') (void)SSL_shutdown(client->ssl);
        SSL_free(client->ssl);
        ERR_clear_error();
    }
    free(client);
}

static void
note_problem(struct tls_client *client, int error)
{
    unsigned long code = ERR_peek_last_error();
    long verified = SSL_get_verify_result(client->ssl);
    const char *text = code == 0 ? NULL : ERR_reason_error_string(code);
    if (text == NULL)
        text = error == SSL_ERROR_SYSCALL && errno != 0 ? strerror(errno) : "the connection was cut";
    if (verified != X509_V_OK)
        snprintf(
            client->problem, sizeof client->problem, "%s: %s", text, X509_verify_cert_error_string(verified));
    else
        snprintf(client->problem, sizeof client->problem, "%s", text);
    ERR_clear_error();
}

static enum tls_result
result_of(struct tls_client *client, int returned)
{
    if (returned == 1) return TLS_DONE;
    int error = SSL_get_error(client->ssl, returned);
    switch (error) {
    case SSL_ERROR_WANT_READ: return TLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE: return TLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN: return TLS_END;
    default: note_problem(client, error); return TLS_FAILED;
    }
}

enum tls_result
tls_client_handshake(struct tls_client *client)
{
    ERR_clear_error();
    errno = 0;
    return result_of(client, SSL_do_handshake(client->ssl));
}

enum tls_result
tls_client_read(struct tls_client *client, void *out, size_t cap, size_t *got)
{
    ERR_clear_error();
    errno = 0;
    return result_of(client, SSL_read_ex(client->ssl, out, cap, got));
}

enum tls_result
tls_client_write(struct tls_client *client, const void *bytes, size_t len, size_t *put)
{
    ERR_clear_error();
    errno = 0;
    return result_of(client, SSL_write_ex(client->ssl, bytes, len, put));
}

const char *
tls_client_problem(const struct tls_client *client)
{
    return client->problem;
}

struct tls_session *
tls_client_session(struct tls_client *client)
{
    SSL_SESSION *session = SSL_get1_session(client->ssl);
    if (session != NULL && SSL_SESSION_is_resumable(session) == 1) return (struct tls_session *)session;
    SSL_SESSION_free(session);
    return NULL;
}

void
tls_session_free(struct tls_session *session)
{
    SSL_SESSION_free((SSL_SESSION *)session);
}
