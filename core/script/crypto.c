#include "core/script/crypto.h"

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <stdlib.h>

enum {
    RSA_BITS_MIN = 2048, /* RFC 7518 §3.3 */
    RSA_BITS_MAX = 8192, /* a signature takes longer to check than a request may */
    P256_BYTES = 32,
    DIGEST_BYTES = 32,
    SECRET_BYTES_MIN = DIGEST_BYTES,
    SECRET_BYTES_MAX = 4096,
    SIGNATURE_DER_MAX = 80, /* of two P-256 numbers: 72 */
};

struct crypto_key {
    const char *algorithm;
    EVP_PKEY *public;    /* NULL: a secret */
    struct slice secret; /* heap */
};

/* Takes over *public. */
static struct crypto_key *
key_of(EVP_PKEY *public, const char **why)
{
    char group[32] = "";
    int bits = EVP_PKEY_get_bits(public);
    const char *algorithm = NULL;
    *why = "no RSA or P-256 key";
    if (EVP_PKEY_is_a(public, "RSA")) {
        *why = "RSA keys of 2048 to 8192 bits only";
        if (bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX) algorithm = "RS256";
    } else if (EVP_PKEY_is_a(public, "EC")) {
        if (EVP_PKEY_get_group_name(public, group, sizeof(group), NULL) == 1 &&
            strcmp(group, "prime256v1") == 0)
            algorithm = "ES256";
    }
    struct crypto_key *key = algorithm == NULL ? NULL : calloc(1, sizeof(*key));
    if (key == NULL) {
        if (algorithm != NULL) *why = "out of memory";
        EVP_PKEY_free(public);
        return NULL;
    }
    key->algorithm = algorithm;
    key->public = public;
    return key;
}

/* OpenSSL would ask at the terminal. */
static int
no_password(char *out, int size, int writing, void *context)
{
    (void)out, (void)size, (void)writing, (void)context;
    return -1;
}

struct crypto_key *
crypto_key_pem(struct slice text, const char **why)
{
    *why = "no public key or certificate in PEM";
    if (text.len == 0 || text.len > INT_MAX) return NULL;
    BIO *bio = BIO_new_mem_buf(text.at, (int)text.len);
    if (bio == NULL) return NULL;
    EVP_PKEY *public = PEM_read_bio_PUBKEY(bio, NULL, no_password, NULL);
    if (public == NULL && BIO_reset(bio) == 1) {
        X509 *certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
        if (certificate != NULL) public = X509_get_pubkey(certificate);
        X509_free(certificate);
    }
    BIO_free(bio);
    ERR_clear_error();
    return public == NULL ? NULL : key_of(public, why);
}

static EVP_PKEY *
public_of(const char *type, OSSL_PARAM_BLD *numbers)
{
    EVP_PKEY *public = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(numbers);
    if (context == NULL || params == NULL || EVP_PKEY_fromdata_init(context) != 1 ||
        EVP_PKEY_fromdata(context, &public, EVP_PKEY_PUBLIC_KEY, params) != 1)
    public = NULL;
    OSSL_PARAM_free(params);
    EVP_PKEY_CTX_free(context);
    return public;
}

struct crypto_key *
crypto_key_rsa(struct slice n, struct slice e, const char **why)
{
    EVP_PKEY *public = NULL;
    *why = "n and e are no RSA key";
    if (n.len == 0 || n.len > RSA_BITS_MAX / 8 + 1 || e.len == 0 || e.len > 8) return NULL;
    BIGNUM *modulus = BN_bin2bn((const unsigned char *)n.at, (int)n.len, NULL);
    BIGNUM *exponent = BN_bin2bn((const unsigned char *)e.at, (int)e.len, NULL);
    OSSL_PARAM_BLD *numbers = OSSL_PARAM_BLD_new();
    /* an even modulus or exponent is none, and by the exponent 1 anybody signs */
    if (modulus != NULL && exponent != NULL && numbers != NULL && BN_is_odd(modulus) && BN_is_odd(exponent) &&
        !BN_is_one(exponent) && OSSL_PARAM_BLD_push_BN(numbers, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
        OSSL_PARAM_BLD_push_BN(numbers, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
    public = public_of("RSA", numbers);
    OSSL_PARAM_BLD_free(numbers);
    BN_free(exponent);
    BN_free(modulus);
    ERR_clear_error();
    return public == NULL ? NULL : key_of(public, why);
}

/* OpenSSL refuses a point that is not on the curve. */
struct crypto_key *
crypto_key_p256(struct slice x, struct slice y, const char **why)
{
    EVP_PKEY *public = NULL;
    char point[1 + 2 * P256_BYTES] = {4}; /* uncompressed (SEC 1 §2.3.3) */
    *why = "x and y are no point of P-256";
    if (x.len != P256_BYTES || y.len != P256_BYTES) return NULL;
    memcpy(point + 1, x.at, P256_BYTES);
    memcpy(point + 1 + P256_BYTES, y.at, P256_BYTES);
    OSSL_PARAM_BLD *numbers = OSSL_PARAM_BLD_new();
    if (numbers != NULL &&
        OSSL_PARAM_BLD_push_utf8_string(numbers, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(numbers, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)) == 1)
    public = public_of("EC", numbers);
    OSSL_PARAM_BLD_free(numbers);
    ERR_clear_error();
    return public == NULL ? NULL : key_of(public, why);
}

struct crypto_key *
crypto_key_secret(struct slice secret, const char **why)
{
    *why = "a secret needs 32 to 4096 bytes";
    if (secret.len < SECRET_BYTES_MIN || secret.len > SECRET_BYTES_MAX) return NULL;
    *why = "out of memory";
    struct crypto_key *key = calloc(1, sizeof(*key));
    char *copy = malloc(secret.len);
    if (key == NULL || copy == NULL) {
        free(copy);
        free(key);
        return NULL;
    }
    memcpy(copy, secret.at, secret.len);
    key->algorithm = "HS256";
    key->secret = (struct slice){copy, secret.len};
    return key;
}

void
crypto_key_free(struct crypto_key *key)
{
    if (key == NULL) return;
    EVP_PKEY_free(key->public);
    if (key->secret.at != NULL) OPENSSL_cleanse((char *)(uintptr_t)key->secret.at, key->secret.len);
    free((char *)(uintptr_t)key->secret.at);
    free(key);
}

const char *
crypto_key_algorithm(const struct crypto_key *key)
{
    return key->algorithm;
}

/* r and s, 32 bytes each (RFC 7518 §3.4), as the DER that OpenSSL wants; its length, 0 where it fails. */
static int
der_of(struct slice signature, unsigned char der[SIGNATURE_DER_MAX])
{
    const unsigned char *at = (const unsigned char *)signature.at;
    int len = 0;
    ECDSA_SIG *numbers = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(at, P256_BYTES, NULL), *s = BN_bin2bn(at + P256_BYTES, P256_BYTES, NULL);
    if (numbers != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(numbers, r, s) == 1) {
        r = s = NULL; /* they are numbers' now */
        len = i2d_ECDSA_SIG(numbers, NULL);
        len = len > 0 && len <= SIGNATURE_DER_MAX ? i2d_ECDSA_SIG(numbers, &der) : 0;
    }
    BN_free(s);
    BN_free(r);
    ECDSA_SIG_free(numbers);
    return len > 0 ? len : 0;
}

static bool
verify_public(const struct crypto_key *key, struct slice data, struct slice signature)
{
    unsigned char der[SIGNATURE_DER_MAX];
    struct slice given = signature;
    if (strcmp(key->algorithm, "ES256") == 0) {
        if (signature.len != (size_t)2 * P256_BYTES) return false;
        given = (struct slice){(const char *)der, (size_t)der_of(signature, der)};
        if (given.len == 0) return false;
    }
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool holds = context != NULL &&
                 EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key->public) == 1 &&
                 EVP_DigestVerify(context, (const unsigned char *)given.at, given.len,
                     (const unsigned char *)data.at, data.len) == 1;
    EVP_MD_CTX_free(context);
    return holds;
}

static bool
verify_secret(const struct crypto_key *key, struct slice data, struct slice signature)
{
    unsigned char digest[DIGEST_BYTES];
    unsigned len = 0;
    return signature.len == DIGEST_BYTES &&
           HMAC(EVP_sha256(), key->secret.at, (int)key->secret.len, (const unsigned char *)data.at, data.len,
               digest, &len) != NULL &&
           len == DIGEST_BYTES && CRYPTO_memcmp(digest, signature.at, DIGEST_BYTES) == 0;
}

bool
crypto_verify(const struct crypto_key *key, struct slice algorithm, struct slice data, struct slice signature)
{
    if (!slice_equal(algorithm, slice_of(key->algorithm)) || signature.len == 0) return false;
    if (key->public == NULL) return verify_secret(key, data, signature);
    bool holds = verify_public(key, data, signature);
    ERR_clear_error();
    return holds;
}
