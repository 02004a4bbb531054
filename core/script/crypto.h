/* core/script/crypto.h: public keys for scripts, on OpenSSL. RS256, ES256 and HS256 (RFC 7518 §3) and nothing
 * else; a key verifies the one algorithm of its kind, whatever a token asks for. */
#ifndef FLUXGATE_SCRIPT_CRYPTO_H
#define FLUXGATE_SCRIPT_CRYPTO_H
#include <stdbool.h>

#include "core/base/compiler.h"
#include "core/base/slice.h"

struct crypto_key;

/* Each: NULL, and *why says in a few words what is wrong. Nothing is kept of the arguments. */
/* A public key (SubjectPublicKeyInfo) or a certificate: RSA of 2048 to 8192 bits, or P-256. */
MUST_CHECK
struct crypto_key *crypto_key_pem(struct slice text, const char **why);
/* The numbers of a JWK as bytes (RFC 7518 §6). */
MUST_CHECK
struct crypto_key *crypto_key_rsa(struct slice n, struct slice e, const char **why);
MUST_CHECK
struct crypto_key *crypto_key_p256(struct slice x, struct slice y, const char **why);
/* A secret for HS256, of 32 bytes or more (RFC 7518 §3.2). */
MUST_CHECK
struct crypto_key *crypto_key_secret(struct slice secret, const char **why);
void crypto_key_free(struct crypto_key *key); /* NULL is fine */

/* "RS256", "ES256" or "HS256". */
const char *crypto_key_algorithm(const struct crypto_key *key);
/* False for every other algorithm, and for whatever is no signature. */
MUST_CHECK
bool crypto_verify(
    const struct crypto_key *key, struct slice algorithm, struct slice data, struct slice signature);

#endif
