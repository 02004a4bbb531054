#include "registry/validate.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"

static bool
complain(struct complaint *complaint, const char *field, const char *error)
{
    *complaint = (struct complaint){field, error};
    return false;
}

/* ---- fields ---- */

static bool
host_is_valid(struct slice host)
{
    char text[HOST_BYTES_MAX + 1];
    struct in6_addr address;
    if (host.len == 0 || !text_copy(text, sizeof text, host)) return false;
    if (memchr(host.at, ':', host.len) != NULL) return inet_pton(AF_INET6, text, &address) == 1;
    for (size_t i = 0; i < host.len; i++) {
        unsigned char c = ascii_lower((unsigned char)host.at[i]);
        bool is_word = (unsigned char)(c - 'a') < 26 || (unsigned char)(c - '0') < 10;
        if (!is_word && c != '-' && c != '.' && c != '_') return false;
    }
    return true;
}

static struct slice
unbracketed(struct slice host)
{
    bool has = host.len > 2 && host.at[0] == '[' && host.at[host.len - 1] == ']';
    return has ? (struct slice){host.at + 1, host.len - 2} : host;
}

static bool
is_visible_ascii(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c <= 0x20 || c >= 0x7f) return false;
    }
    return true;
}

/* http[s]://HOST[:PORT][/PATH], RFC 3986 without userinfo, query and fragment: the gateway puts the request's
 * path behind. */
static const char *
url_split(struct slice url, struct slice *host, uint32_t *port)
{
    static const struct slice http = {"http://", 7}, https = {"https://", 8};
    bool tls = url.len >= https.len && slice_equal_nocase((struct slice){url.at, https.len}, https);
    bool plain = url.len >= http.len && slice_equal_nocase((struct slice){url.at, http.len}, http);
    uint64_t number = tls ? 443 : 80;
    if (!tls && !plain) return "must begin with http:// or https://";
    if (!is_visible_ascii(url)) return "holds a blank, a control byte or one past ASCII";
    struct slice rest = {url.at + (tls ? 8 : 7), url.len - (tls ? 8 : 7)};
    size_t n = 0;
    while (n < rest.len && rest.at[n] != '/' && rest.at[n] != '?' && rest.at[n] != '#')
        n++;
    if (memchr(rest.at, '?', rest.len) != NULL || memchr(rest.at, '#', rest.len) != NULL)
        return "holds a query or a fragment";
    struct slice authority = {rest.at, n};
    if (memchr(authority.at, '@', authority.len) != NULL) return "holds a user name";
    const char *close = n > 0 && authority.at[0] == '[' ? memchr(authority.at, ']', n) : NULL;
    const char *from = close == NULL ? authority.at : close;
    const char *colon = memchr(from, ':', n - (size_t)(from - authority.at));
    struct slice name = {authority.at, colon == NULL ? n : (size_t)(colon - authority.at)};
    if (colon != NULL &&
        (!text_parse_u64((struct slice){colon + 1, n - name.len - 1}, 65535, &number) || number == 0)) {
        return "has no port of 1 to 65535 behind its colon";
    }
    if (close == NULL && n > 0 && authority.at[0] == '[') return "has no valid host";
    *host = unbracketed(name);
    if (close == NULL ? memchr(name.at, ':', name.len) != NULL : memchr(host->at, ':', host->len) == NULL) {
        return "has no valid host";
    }
    *port = (uint32_t)number;
    return host_is_valid(*host) ? NULL : "has no valid host";
}

static bool
check_text(struct slice s, size_t max, const char *field, struct complaint *complaint)
{
    if (s.len > max) return complain(complaint, field, "is too long");
    if (!text_is_utf8(s)) return complain(complaint, field, "is not UTF-8");
    if (s.len > 0 && memchr(s.at, '\0', s.len) != NULL) return complain(complaint, field, "holds a NUL");
    return true;
}

static bool
check_texts(const struct spec *spec, struct complaint *complaint)
{
    const struct {
        const struct slice *text;
        size_t max;
        const char *field;
    } rows[] = {
        {&spec->id, ID_BYTES_MAX, "id"},
        {&spec->service, NAME_BYTES_MAX, "serviceName"},
        {&spec->host, HOST_BYTES_MAX, "host"},
        {&spec->url, URL_BYTES_MAX, "url"},
        {&spec->health_path, PATH_BYTES_MAX, "healthPath"},
        {&spec->zone, ZONE_BYTES_MAX, "zone"},
        {&spec->version, VERSION_BYTES_MAX, "version"},
        {&spec->metadata, METADATA_BYTES_MAX, "metadata"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!check_text(*rows[i].text, rows[i].max, rows[i].field, complaint)) return false;
    }
    return true;
}

static bool
check_place(struct spec *spec, struct arena *arena, struct complaint *complaint)
{
    struct slice host = SLICE_NONE;
    uint32_t port = 0;
    spec->host = unbracketed(spec->host);
    if (spec->port > 65535) return complain(complaint, "port", "is not a number from 1 to 65535");
    if (spec->host.len > 0 && !host_is_valid(spec->host))
        return complain(complaint, "host", "is no host name and no address");
    if (spec->url.len == 0) {
        if (spec->host.len == 0) return complain(complaint, "url", "is missing, and so is host");
        if (spec->port == 0) return complain(complaint, "port", "is missing, and so is url");
        bool v6 = memchr(spec->host.at, ':', spec->host.len) != NULL;
        char *url = arena_printf(arena, v6 ? "http://[%.*s]:%u" : "http://%.*s:%u", (int)spec->host.len,
            spec->host.at, spec->port);
        if (url == NULL) return complain(complaint, "", "out of memory");
        spec->url = slice_of(url);
        return true;
    }
    const char *why = url_split(spec->url, &host, &port);
    if (why != NULL) return complain(complaint, "url", why);
    if (spec->host.len > 0 && !slice_equal_nocase(spec->host, host)) {
        return complain(complaint, "url", "names another host than host does");
    }
    if (spec->port != 0 && spec->port != port)
        return complain(complaint, "url", "names another port than port does");
    if (spec->host.len == 0) spec->host = host;
    spec->port = port;
    return true;
}

bool
validate_spec(struct spec *spec, enum contract contract, struct arena *arena, struct complaint *complaint)
{
    bool v1 = contract == CONTRACT_REST_V1;
    if (spec->id.len == 0) return complain(complaint, "id", "is missing or empty");
    if (spec->service.len == 0) return complain(complaint, "serviceName", "is missing or empty");
    if (v1 && spec->url.len == 0) return complain(complaint, "url", "is missing or empty");
    if (v1 && spec->health_path.len == 0) return complain(complaint, "healthPath", "is missing or empty");
    if (!check_texts(spec, complaint)) return false;
    if (spec->health_path.len > 0 &&
        (spec->health_path.at[0] != '/' || !is_visible_ascii(spec->health_path))) {
        return complain(complaint, "healthPath", "must begin with / and hold no blanks or control bytes");
    }
    if (spec->weight > WEIGHT_MAX) return complain(complaint, "weight", "is not a number from 0 to 65535");
    if (spec->ttl_us != 0 && (spec->ttl_us < TTL_MIN_US || spec->ttl_us > TTL_MAX_US)) {
        return complain(complaint, "ttl", "is not between 100ms and 24h");
    }
    return check_place(spec, arena, complaint);
}

bool
validate_metadata(struct slice text, struct arena *arena, struct slice *out)
{
    json_error_t error;
    *out = SLICE_NONE;
    if (text.len == 0) return true;
    json_t *object = json_loadb(text.at, text.len, JSON_REJECT_DUPLICATES, &error);
    char *compact = json_is_object(object) ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (compact == NULL) return false;
    char *copy = arena_strdup(arena, slice_of(compact));
    free(compact);
    if (copy == NULL) return false;
    *out = strcmp(copy, "{}") == 0 ? SLICE_NONE : slice_of(copy);
    return true;
}

/* ---- JSON ---- */

static bool
take_text(const json_t *object, const char *key, struct arena *arena, struct slice *out,
    struct complaint *complaint)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return true;
    if (!json_is_string(value)) return complain(complaint, key, "is not a string");
    char *copy = arena_strdup(arena, (struct slice){json_string_value(value), json_string_length(value)});
    if (copy == NULL) return complain(complaint, "", "out of memory");
    *out = (struct slice){copy, json_string_length(value)};
    return true;
}

static bool
take_number(const json_t *object, const char *key, uint32_t min, uint32_t max, const char *error,
    uint32_t *out, bool *stated, struct complaint *complaint)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return true;
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max) {
        return complain(complaint, key, error);
    }
    *out = (uint32_t)json_integer_value(value);
    if (stated != NULL) *stated = true;
    return true;
}

static bool
take_flag(const json_t *object, const char *key, bool *out, bool *stated, struct complaint *complaint)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return true;
    if (!json_is_boolean(value)) return complain(complaint, key, "is neither true nor false");
    *out = json_is_true(value);
    *stated = true;
    return true;
}

/* "ttl": "30s", or "ttlMs": 30000. */
static bool
take_ttl(const json_t *object, uint64_t *us, struct complaint *complaint)
{
    const json_t *text = json_object_get(object, "ttl"), *ms = json_object_get(object, "ttlMs");
    if (text != NULL && !json_is_null(text)) {
        struct slice s = {json_string_value(text), json_is_string(text) ? json_string_length(text) : 0};
        if (!json_is_string(text) || !text_parse_duration(s, us))
            return complain(complaint, "ttl", "is no duration such as \"30s\"");
    } else if (ms != NULL && !json_is_null(ms)) {
        if (!json_is_integer(ms) || json_integer_value(ms) < 0 ||
            json_integer_value(ms) > (json_int_t)(TTL_MAX_US / 1000)) {
            return complain(complaint, "ttlMs", "is not a number of milliseconds up to 24h");
        }
        *us = (uint64_t)json_integer_value(ms) * 1000;
    }
    return true;
}

static bool
take_metadata(const json_t *object, struct arena *arena, struct slice *out, struct complaint *complaint)
{
    const json_t *value = json_object_get(object, "metadata");
    if (value == NULL || json_is_null(value)) return true;
    if (!json_is_object(value)) return complain(complaint, "metadata", "is not an object");
    if (json_object_size(value) == 0) return true;
    char *text = json_dumps(value, JSON_COMPACT);
    char *copy = text == NULL ? NULL : arena_strdup(arena, slice_of(text));
    free(text);
    if (copy == NULL) return complain(complaint, "", "out of memory");
    *out = slice_of(copy);
    return true;
}

static bool
take_v2(const json_t *object, struct arena *arena, struct spec *spec, struct stated *stated,
    struct complaint *complaint)
{
    return take_text(object, "zone", arena, &spec->zone, complaint) &&
           take_text(object, "version", arena, &spec->version, complaint) &&
           take_metadata(object, arena, &spec->metadata, complaint) &&
           take_ttl(object, &spec->ttl_us, complaint) &&
           take_number(object, "weight", 0, WEIGHT_MAX, "is not a number from 0 to 65535", &spec->weight,
               &stated->weight, complaint) &&
           take_flag(object, "maintenance", &spec->maintenance, &stated->maintenance, complaint) &&
           take_flag(object, "draining", &spec->draining, &stated->draining, complaint);
}

/* NULL: *complaint. jansson itself refuses what nests deeper than 2048, text that is not UTF-8, and NULs in
 * strings. */
static json_t *
load_object(struct slice body, struct arena *arena, struct complaint *complaint)
{
    json_error_t error;
    json_t *object = json_loadb(body.at == NULL ? "" : body.at, body.len, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL) {
        char *text = arena_printf(arena, "the body is not valid JSON: line %d: %s", error.line, error.text);
        (void)complain(complaint, "", text == NULL ? "the body is not valid JSON" : text);
        return NULL;
    }
    if (json_is_object(object)) return object;
    json_decref(object);
    (void)complain(complaint, "", "the body is not a JSON object");
    return NULL;
}

bool
validate_json(struct slice body, bool is_v2, struct arena *arena, struct spec *spec, struct stated *stated,
    struct complaint *complaint)
{
    json_t *object = load_object(body, arena, complaint);
    *spec = (struct spec){.weight = 1};
    *stated = (struct stated){0};
    if (object == NULL) return false;
    bool ok = take_text(object, "id", arena, &spec->id, complaint) &&
              take_text(object, "serviceName", arena, &spec->service, complaint) &&
              take_text(object, "host", arena, &spec->host, complaint) &&
              take_number(object, "port", 1, 65535, "is not a number from 1 to 65535", &spec->port, NULL,
                  complaint) &&
              take_text(object, "url", arena, &spec->url, complaint) &&
              take_text(object, "healthPath", arena, &spec->health_path, complaint) &&
              (!is_v2 || take_v2(object, arena, spec, stated, complaint));
    json_decref(object);
    return ok && validate_spec(spec, is_v2 ? CONTRACT_LOOSE : CONTRACT_REST_V1, arena, complaint);
}

bool
validate_patch(struct slice body, struct arena *arena, struct spec *spec, struct stated *stated,
    struct complaint *complaint)
{
    json_t *object = load_object(body, arena, complaint);
    const char *key;
    json_t *value;
    *stated = (struct stated){0};
    if (object == NULL) return false;
    bool ok = true;
    json_object_foreach(object, key, value)
    {
        if (strcmp(key, "maintenance") != 0 && strcmp(key, "draining") != 0 && strcmp(key, "weight") != 0) {
            char *field = arena_strdup(arena, slice_of(key));
            ok = complain(complaint, field == NULL ? "" : field,
                "cannot be changed: maintenance, draining and weight can");
            break;
        }
    }
    ok = ok &&
         take_number(object, "weight", 0, WEIGHT_MAX, "is not a number from 0 to 65535", &spec->weight,
             &stated->weight, complaint) &&
         take_flag(object, "maintenance", &spec->maintenance, &stated->maintenance, complaint) &&
         take_flag(object, "draining", &spec->draining, &stated->draining, complaint);
    json_decref(object);
    return ok;
}
