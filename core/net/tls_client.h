/* core/net/tls_client.h: TLS as a client, over a connected non-blocking socket: TLS 1.2 or later, the peer's
 * certificate checked against what the system trusts (SSL_CERT_FILE, SSL_CERT_DIR) and against its name. */
#ifndef FLUXGATE_NET_TLS_CLIENT_H
#define FLUXGATE_NET_TLS_CLIENT_H
#include <stddef.h>

#include "core/base/compiler.h"

struct tls_trust;   /* what is trusted, and how it is spoken; one for many clients, which it must outlive */
struct tls_client;  /* one connection */
struct tls_session; /* what lets the next connection to the same peer begin sooner */

/* Reads the system's certificates from the disk: some 15 ms, once. NULL: out of memory. */
MUST_CHECK
struct tls_trust *tls_trust_new(void);
void tls_trust_free(struct tls_trust *trust);

/* `host`: a name, or an address without brackets; it goes out as SNI unless it is an address, and the
 * certificate must be made out to it. The socket stays the caller's, and must outlive the client. `session`
 * may be NULL, else one of the same host. NULL: out of memory. */
MUST_CHECK
struct tls_client *tls_client_new(
    struct tls_trust *trust, int fd, const char *host, struct tls_session *session);
void tls_client_free(struct tls_client *client);

enum tls_result {
    TLS_DONE,
    TLS_WANT_READ,  /* call again once the socket is readable */
    TLS_WANT_WRITE, /* ... writable */
    TLS_END,    /* the peer said that it sends no more; a bare FIN, which anybody may forge, is a failure */
    TLS_FAILED, /* tls_client_problem says why; nothing more can be done with it */
};

MUST_CHECK
enum tls_result tls_client_handshake(struct tls_client *client);
MUST_CHECK
enum tls_result tls_client_read(struct tls_client *client, void *out, size_t cap, size_t *got);
/* May take a part; the bytes may have moved when it is called again. */
MUST_CHECK
enum tls_result tls_client_write(struct tls_client *client, const void *bytes, size_t len, size_t *put);

/* Of the last failure, for people: "certificate verify failed: hostname mismatch". */
const char *tls_client_problem(const struct tls_client *client);

/* The present session where it can be resumed, else NULL; the caller frees it. */
struct tls_session *tls_client_session(struct tls_client *client);
void tls_session_free(struct tls_session *session);

#endif
