#include <arpa/inet.h>
#include <string.h>

#include "core/base/text.h"
#include "core/config/value.h"

static bool
is_ip(const char *host, int family)
{
    uint8_t bytes[16];
    return inet_pton(family, host, bytes) == 1;
}

/* A DNS name, or an IPv4 address in four parts: what is all digits and dots must be one (RFC 1123 §2.1). */
static bool
is_host(const char *host)
{
    size_t len = strlen(host), label = 0;
    bool digits_only = true;
    if (len == 0 || len > 253) return false;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = ascii_lower((unsigned char)host[i]);
        bool digit = (unsigned char)(c - '0') <= 9;
        if (c == '.') {
            if (label == 0) return false;
            label = 0;
            continue;
        }
        if (!digit && (unsigned char)(c - 'a') >= 26 && c != '-' && c != '_') return false;
        if (++label > 63) return false;
        digits_only = digits_only && digit;
    }
    return !digits_only || is_ip(host, AF_INET);
}

static const char *const address_forms[] = {
    "an address such as 0.0.0.0:8080, :8080, [::1]:8080 or unix:/run/fluxgate.sock",
    "an address such as 10.0.0.1:8080, [::1]:8080 or unix:/run/app.sock",
};

static bool
unix_parse(struct load *load, const char *path, struct place place, struct config_address *out)
{
    struct sockaddr_un address;
    if (path[0] != '/' || strlen(path) >= sizeof address.sun_path) {
        refuse(load, place, NULL, "expected unix:/absolute/path of at most %zu bytes",
            sizeof address.sun_path - 1);
        return false;
    }
    out->is_unix = true;
    out->host = path;
    out->port = 0;
    return true;
}

/* Splits at the last colon, brackets taken off; false where there is no port. */
static bool
host_split(struct load *load, const char *text, const char **host, const char **port, bool *bracketed)
{
    const char *colon = strrchr(text, ':');
    *bracketed = text[0] == '[';
    if (*bracketed) {
        const char *end = strchr(text, ']');
        if (end == NULL || end[1] != ':') return false;
        *host = load_text(load, "%.*s", (int)(end - text - 1), text + 1);
        *port = end + 2;
        return *host != NULL;
    }
    if (colon == NULL) return false;
    *host = load_text(load, "%.*s", (int)(colon - text), text);
    *port = colon + 1;
    return *host != NULL;
}

bool
address_parse(
    struct load *load, const char *text, struct place place, enum address_use use, struct config_address *out)
{
    const char *host, *port, *hint = NULL;
    bool bracketed;
    uint64_t number = 0;
    struct config_address result = {.text = text, .place = place};
    if (strncmp(text, "unix:", 5) == 0) {
        if (!unix_parse(load, text + 5, place, &result)) return false;
        *out = result;
        return true;
    }
    if (!host_split(load, text, &host, &port, &bracketed)) {
        if (use == ADDRESS_LISTEN && text_parse_u64(slice_of(text), 65535, &number))
            hint = load_text(load, ":%s", text);
        refuse(load, place, hint, "expected %s, found %s", address_forms[use], shown(load, text));
        return false;
    }
    if (!text_parse_u64(slice_of(port), 65535, &number) || (use == ADDRESS_CONNECT && number == 0)) {
        refuse(load, place, NULL, "expected a port from %d to 65535 behind the last colon, found %s",
            use == ADDRESS_CONNECT, shown(load, port));
        return false;
    }
    if (use == ADDRESS_LISTEN && strcmp(host, "*") == 0) host = "";
    bool ok = bracketed ? is_ip(host, AF_INET6) : host[0] == '\0' ? use == ADDRESS_LISTEN : is_host(host);
    if (!ok) {
        if (!bracketed && is_ip(host, AF_INET6)) hint = load_text(load, "[%s]:%s", host, port);
        refuse(load, place, hint, "expected %s, found %s", address_forms[use], shown(load, text));
        return false;
    }
    result.host = host;
    result.port = (uint16_t)number;
    *out = result;
    return true;
}

bool
value_address(struct load *load, const struct node *node, enum address_use use, struct config_address *out)
{
    const char *text;
    return value_text(load, node, address_forms[use], &text) &&
           address_parse(load, text, node->place, use, out);
}

/* ---- CIDR
 * ------------------------------------------------------------------------------------------------------ */

static bool
cidr_parse(const char *text, struct config_cidr *out)
{
    char host[64];
    const char *slash = strchr(text, '/');
    size_t len = slash == NULL ? strlen(text) : (size_t)(slash - text);
    uint64_t bits;
    if (!text_copy(host, sizeof host, (struct slice){text, len})) return false;
    *out = (struct config_cidr){.family = AF_INET};
    if (inet_pton(AF_INET, host, out->address) != 1) {
        out->family = AF_INET6;
        if (inet_pton(AF_INET6, host, out->address) != 1) return false;
    }
    bits = out->family == AF_INET ? 32 : 128;
    if (slash != NULL && !text_parse_u64(slice_of(slash + 1), bits, &bits)) return false;
    out->bits = (uint8_t)bits;
    return true;
}

/* Clears what stands behind the prefix; true where something did. */
static bool
cidr_mask(struct config_cidr *cidr)
{
    size_t bytes = cidr->family == AF_INET ? 4 : 16;
    bool cleared = false;
    for (size_t i = 0; i < bytes; i++) {
        unsigned kept = cidr->bits > i * 8 ? cidr->bits - (unsigned)i * 8 : 0;
        uint8_t mask = kept >= 8 ? 0xff : (uint8_t)(0xff00u >> kept);
        cleared = cleared || (cidr->address[i] & ~mask & 0xff) != 0;
        cidr->address[i] &= mask;
    }
    return cleared;
}

void
cidr_format(const struct config_cidr *cidr, char out[64])
{
    char host[INET6_ADDRSTRLEN] = "";
    inet_ntop(cidr->family, cidr->address, host, sizeof host);
    snprintf(out, 64, "%s/%u", host, (unsigned)cidr->bits);
}

bool
value_cidr(struct load *load, const struct node *node, struct config_cidr *out)
{
    static const char expected[] = "a network such as 10.0.0.0/8, 192.168.1.7 or fd00::/8";
    const char *text;
    struct config_cidr cidr;
    if (!value_text(load, node, expected, &text)) return false;
    if (!cidr_parse(text, &cidr)) {
        value_refuse(load, node, expected);
        return false;
    }
    if (cidr_mask(&cidr)) {
        char masked[64];
        cidr_format(&cidr, masked);
        refuse(load, node->place, masked, "%s has bits behind its prefix", shown(load, text));
        return false;
    }
    *out = cidr;
    return true;
}

static bool
cidr_matches(const struct config_cidr *cidr, int family, const uint8_t *address)
{
    size_t whole = cidr->bits / 8;
    unsigned rest = cidr->bits % 8;
    if (cidr->family != family || memcmp(cidr->address, address, whole) != 0) return false;
    return rest == 0 || ((cidr->address[whole] ^ address[whole]) & (0xff00u >> rest) & 0xff) == 0;
}

bool
config_cidr_has(const struct config_cidr *cidrs, size_t count, const struct sockaddr *address)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    uint8_t bytes[16];
    int family = address->sa_family;
    if (family == AF_INET) {
        memcpy(bytes, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    } else if (family == AF_INET6) {
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
    } else {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (cidr_matches(&cidrs[i], family, bytes)) return true;
        /* an IPv4 peer of a dual-stack listener (RFC 4291 §2.5.5.2) */
        if (family == AF_INET6 && memcmp(bytes, mapped, 12) == 0 &&
            cidr_matches(&cidrs[i], AF_INET, bytes + 12))
            return true;
    }
    return false;
}

/* ---- paths
 * ----------------------------------------------------------------------------------------------------- */

static int
hex(char c)
{
    unsigned char lower = ascii_lower((unsigned char)c);
    if ((unsigned char)(lower - '0') <= 9) return lower - '0';
    return (unsigned char)(lower - 'a') < 6 ? lower - 'a' + 10 : -1;
}

static bool
is_unreserved(unsigned char c)
{
    return (unsigned char)(ascii_lower(c) - 'a') < 26 || (unsigned char)(c - '0') <= 9 || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

/* Escapes (RFC 3986 §6.2.2.1-2) into buf; NULL, or what is wrong with the path. */
static const char *
path_decode(const char *path, struct strbuf *buf)
{
    for (const char *at = path; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        if (c <= 0x20 || c >= 0x7f || c == '\\' || c == '#' || c == '?')
            return "holds a byte that a path cannot have unescaped";
        if (c != '%') {
            strbuf_add_char(buf, (char)c);
            continue;
        }
        int high = hex(at[1]), low = high < 0 ? -1 : hex(at[2]);
        if (low < 0) return "holds a '%' without two hex digits";
        unsigned char byte = (unsigned char)(high * 16 + low);
        if (byte == 0 || byte == '\\') return "holds %00 or %5C, which no request may";
        if (is_unreserved(byte)) {
            strbuf_add_char(buf, (char)byte);
        } else {
            strbuf_printf(buf, "%%%02X", byte);
        }
        at += 2;
    }
    return NULL;
}

/* Dot segments (§5.2.4) and runs of '/', in place. */
static void
path_squeeze(char *path, bool keep_slashes)
{
    char *out = path;
    for (const char *at = path; *at == '/';) {
        const char *end = at + 1;
        while (*end != '\0' && *end != '/')
            end++;
        size_t len = (size_t)(end - at) - 1;
        bool last = *end == '\0';
        if (len == 1 && at[1] == '.') {
            if (last) *out++ = '/';
        } else if (len == 2 && at[1] == '.' && at[2] == '.') {
            while (out > path && *--out != '/') {
            }
            if (last) *out++ = '/';
        } else if (len > 0 || last || keep_slashes) {
            if (!(len == 0 && last && out > path && out[-1] == '/' && !keep_slashes)) {
                memmove(out, at, len + 1);
                out += len + 1;
            }
        }
        at = end;
    }
    *out = '\0';
}

bool
value_path(struct load *load, const struct node *node, bool keep_slashes, const char **out)
{
    struct strbuf buf = {0};
    const char *text;
    bool ok = false;
    if (!value_text(load, node, "a path such as /users", &text)) return false;
    const char *wrong = text[0] != '/' ? "does not begin with '/'" : path_decode(text, &buf);
    if (wrong == NULL && !buf.failed) {
        path_squeeze(buf.at, keep_slashes);
        ok = strcmp(buf.at, text) == 0;
        if (!ok)
            refuse(load, node->place, buf.at, "%s is not in the normal form that requests are compared in",
                shown(load, text));
    } else if (wrong != NULL) {
        refuse(load, node->place, NULL, "the path %s %s", shown(load, text), wrong);
    }
    if (buf.failed) load->diags->failed = true;
    strbuf_fini(&buf);
    if (ok) *out = text;
    return ok;
}
