#include "core/script/view.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdatomic.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/http/uri.h"
#include "core/script/filter_view.h"
#include "core/script/script_internal.h"

enum {
    LOG_LINES_A_SECOND = 100,
    LOG_LINE_BYTES = 2048,
    LOCAL_COUNTERS = 64,
    COUNTER_NAME_MAX = 200,
    COOKIE_MAX = 4096
};

const char *
fg_layout(void)
{
    static char text[768];
    if (text[0] != '\0') return text;
#define OF(type, field) offsetof(struct type, field)
    snprintf(text, sizeof text,
        "fg_backend=%zu slot=%zu incarnation=%zu weight=%zu port=%zu effective_weight=%zu handle=%zu;"
        "fg_request=%zu attempt=%zu service_index=%zu handle=%zu script=%zu filter=%zu;"
        "fg_result=%zu status=%zu failure_number=%zu latency=%zu handle=%zu;"
        "fg_counter=%zu handle=%zu;fg_slice=%zu at=%zu len=%zu;",
        sizeof(struct fg_backend), OF(fg_backend, slot), OF(fg_backend, incarnation), OF(fg_backend, weight),
        OF(fg_backend, port), OF(fg_backend, effective_weight), OF(fg_backend, handle),
        sizeof(struct fg_request), OF(fg_request, attempt), OF(fg_request, service_index),
        OF(fg_request, handle), OF(fg_request, script), OF(fg_request, filter), sizeof(struct fg_result),
        OF(fg_result, status), OF(fg_result, failure_number), OF(fg_result, latency), OF(fg_result, handle),
        sizeof(struct fg_counter), OF(fg_counter, handle), sizeof(struct fg_slice), OF(fg_slice, at),
        OF(fg_slice, len));
#undef OF
    return text;
}

/* ---- endpoints ---- */

static struct member *
member_of(const struct fg_backend *backend)
{
    return backend == NULL ? NULL : (struct member *)(uintptr_t)backend->handle;
}

uint32_t
fg_backend_active(const struct fg_backend *backend)
{
    guard_point();
    const struct member *member = member_of(backend);
    return member == NULL ? 0 : atomic_load_explicit(&member->shared->active, memory_order_relaxed);
}

uint32_t
fg_backend_failures(const struct fg_backend *backend)
{
    guard_point();
    const struct member *member = member_of(backend);
    return member == NULL ? 0 : atomic_load_explicit(&member->shared->failures, memory_order_relaxed);
}

double
fg_backend_latency(const struct fg_backend *backend)
{
    guard_point();
    const struct member *member = member_of(backend);
    return member == NULL ? 0 : slot_latency_us(member->script->env.shm, member->slot, clock_now_us()) / 1e6;
}

double
fg_backend_load(const struct fg_backend *backend)
{
    guard_point();
    const struct member *member = member_of(backend);
    return member == NULL ? 0 : atomic_load_explicit(&member->shared->load_milli, memory_order_relaxed) / 1e3;
}

bool
member_is_full(const struct member *member)
{
    uint32_t limit = member->script->services[member->service].limit;
    return limit != 0 && atomic_load_explicit(&member->shared->active, memory_order_relaxed) >= limit;
}

int
fg_backend_full(const struct fg_backend *backend)
{
    const struct member *member = member_of(backend);
    return member != NULL && member_is_full(member);
}

int
fg_backend_text(const struct fg_backend *backend, uint32_t which, struct fg_slice *out)
{
    guard_point();
    struct member *member = member_of(backend);
    struct slot cold;
    if (member == NULL || out == NULL) return 0;
    struct slot_text *text = &member->script->text;
    if (!slot_read(member->script->env.shm, member->slot, &cold, text) ||
        cold.incarnation != member->incarnation)
        return 0;
    const char *at = NULL;
    switch (which) {
    case FG_ID: at = text->id; break;
    case FG_HOST_NAME: at = text->host; break;
    case FG_ZONE: at = text->zone; break;
    case FG_METADATA: at = text->metadata; break;
    case FG_STATE: at = slot_state_word((enum slot_state)cold.state); break;
    case FG_HEALTH_PATH: at = text->health_path; break;
    }
    if (at == NULL) return 0;
    *out = (struct fg_slice){at, strlen(at)};
    return 1;
}

/* ---- requests ---- */

static struct script_request *
request_of(const struct fg_request *view)
{
    return view == NULL ? NULL : (struct script_request *)(uintptr_t)view->handle;
}

static int
give(struct slice s, struct fg_slice *out)
{
    *out = (struct fg_slice){s.at == NULL ? "" : s.at, s.len};
    return 1;
}

int
fg_request_text(const struct fg_request *view, uint32_t which, struct fg_slice *out)
{
    guard_point();
    const struct script_request *request = request_of(view);
    if (request == NULL) return -1;
    if (out == NULL) return 0;
    switch (which) {
    case FG_METHOD: return give(request->method_text, out);
    case FG_PATH: return give(request->path, out);
    case FG_QUERY: return give(request->query, out);
    case FG_HOST: return give(request->host, out);
    case FG_CLIENT_IP: return give(request->client_ip, out);
    }
    return 0;
}

static int
find_header(const struct headers *headers, struct slice name, struct fg_slice *out)
{
    if (headers == NULL || name.at == NULL) return 0;
    const struct header *row = headers_find_name(headers, name);
    return row == NULL ? 0 : give(row->value, out);
}

int
fg_request_header(const struct fg_request *view, const char *name, size_t len, struct fg_slice *out)
{
    guard_point();
    const struct script_request *request = request_of(view);
    if (request == NULL) return -1;
    if (view->filter != 0)
        return filter_header((struct filter_chain *)(uintptr_t)view->filter, name, len, out);
    return out == NULL ? 0 : find_header(request->headers, (struct slice){name, len}, out);
}

int
fg_request_cookie(const struct fg_request *view, const char *name, size_t len, struct fg_slice *out)
{
    return fg_request_cookie_at(view, name, len, 0, out);
}

int
fg_request_cookie_at(
    const struct fg_request *view, const char *name, size_t len, uint32_t skip, struct fg_slice *out)
{
    guard_point();
    const struct script_request *request = request_of(view);
    struct slice value;
    if (request == NULL) return -1;
    if (out == NULL || name == NULL || request->headers == NULL) return 0;
    if (!headers_cookie_at(request->headers, (struct slice){name, len}, skip, &value)) return 0;
    return give(value, out);
}

/* 1, 0 as above; -3: `key` names nothing that a request has. */
static int
find_key(const struct fg_request *view, struct slice key, struct fg_slice *out)
{
    static const struct {
        struct slice name;
        uint32_t which;
    } plain[] = {
        {SLICE_LIT("client_ip"), FG_CLIENT_IP},
        {SLICE_LIT("path"), FG_PATH},
        {SLICE_LIT("host"), FG_HOST},
        {SLICE_LIT("query"), FG_QUERY},
        {SLICE_LIT("method"), FG_METHOD},
    };
    const struct script_request *request = request_of(view);
    struct slice value;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (slice_equal(key, plain[i].name)) return fg_request_text(view, plain[i].which, out);
    }
    if (slice_starts_with(key, SLICE_LIT("header:")))
        return fg_request_header(view, key.at + 7, key.len - 7, out);
    if (slice_starts_with(key, SLICE_LIT("cookie:")))
        return fg_request_cookie(view, key.at + 7, key.len - 7, out);
    if (slice_starts_with(key, SLICE_LIT("query:"))) {
        return uri_query_find(request->query, (struct slice){key.at + 6, key.len - 6}, &value)
                   ? give(value, out)
                   : 0;
    }
    return -3;
}

double
fg_request_hash(const struct fg_request *view, const char *key, size_t len)
{
    guard_point();
    struct fg_slice value;
    if (request_of(view) == NULL) return -2;
    if (key == NULL) return -3;
    int found = find_key(view, (struct slice){key, len}, &value);
    if (found == -3) return -3;
    if (found != 1) return -1;
    return (
        double)(text_hash((struct slice){value.at, value.len}) >> 12); /* 52 bits: exact in a Lua number */
}

/* RFC 6265 §4.1.1 cookie-octet. */
static bool
is_cookie_value(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c <= 0x20 || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\') return false;
    }
    return true;
}

/* path-value of RFC 6265 §4.1.1: any character but controls and ';'. Empty: no Path attribute. */
static bool
is_cookie_path(struct slice s)
{
    if (s.len != 0 && s.at[0] != '/') return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c < 0x20 || c >= 0x7f || c == ';') return false;
    }
    return true;
}

/* RFC 6265 section 4.1.2.3: a host name, with a dot before it or without; "" for the host that asked. */
static bool
is_cookie_domain(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        bool is_letter = (c | 0x20u) >= 'a' && (c | 0x20u) <= 'z';
        if (!is_letter && !(c >= '0' && c <= '9') && c != '-' && c != '.') return false;
    }
    return true;
}

int
fg_request_set_cookie(const struct fg_request *view, const char *name, size_t name_len, const char *value,
    size_t value_len, const char *path, size_t path_len, const char *domain, size_t domain_len,
    const char *same_site, double max_age, uint32_t flags)
{
    guard_point();
    struct script_request *request = request_of(view);
    struct slice n = {name, name_len}, v = {value, value_len}, p = {path, path_len};
    struct slice d = {domain, domain_len};
    char age[40] = "";
    if (request == NULL || request->arena == NULL) return FG_COOKIE_ENDED;
    if (view->filter != 0) return FG_COOKIE_FILTER;
    if (name == NULL || !header_name_is_valid(n) || name_len > COOKIE_MAX) return FG_COOKIE_NAME;
    if (value == NULL || !is_cookie_value(v) || value_len > COOKIE_MAX) return FG_COOKIE_VALUE;
    if (path == NULL || !is_cookie_path(p) || path_len > COOKIE_MAX) return FG_COOKIE_PATH;
    if (domain == NULL || !is_cookie_domain(d) || domain_len > COOKIE_MAX) return FG_COOKIE_DOMAIN;
    if (max_age >= 0 && max_age < 1e10) snprintf(age, sizeof age, "; Max-Age=%lld", (long long)max_age);
    const char *text = arena_printf(request->arena, "%.*s=%.*s%s%.*s%s%.*s%s%s%s%s%s", (int)n.len, n.at,
        (int)v.len, v.at, p.len == 0 ? "" : "; Path=", (int)p.len, p.at,
        d.len == 0 ? "" : "; Domain=", (int)d.len, d.at, age,
        same_site == NULL || same_site[0] == '\0' ? "" : "; SameSite=", same_site == NULL ? "" : same_site,
        flags & FG_COOKIE_HTTP_ONLY ? "; HttpOnly" : "", flags & FG_COOKIE_SECURE ? "; Secure" : "");
    if (text == NULL || !headers_add(&request->set_cookies, request->arena, HEADER_SET_COOKIE,
                            header_name(HEADER_SET_COOKIE), slice_of(text))) {
        return FG_COOKIE_MEMORY;
    }
    return FG_COOKIE_OK;
}

int
fg_request_bind(const struct fg_request *view, const struct fg_backend *backend)
{
    guard_point();
    const struct script_request *request = request_of(view);
    struct member *member = member_of(backend);
    if (request == NULL) return -1;
    if (member == NULL || view->filter != 0 || member->service != view->service_index ||
        member->tier == TIER_NEVER)
        return 0;
    for (uint32_t i = 0; i < request->tried_count && i < 8; i++) {
        if (request->tried[i] == member->slot) return 0;
    }
    if (member->state == SLOT_DRAINING && !member->script->env.config->drain.keep_sessions) return 0;
    member->bound_in = member->script->pick_serial;
    return 1;
}

int
fg_request_ctx(const struct fg_request *view)
{
    guard_point();
    const struct script_request *request = request_of(view);
    if (request == NULL) return -1;
    const struct script *script = (const struct script *)(uintptr_t)view->script;
    return request->ctx_generation == script->serial ? request->ctx : 0;
}

int
fg_request_set_ctx(const struct fg_request *view, int ctx)
{
    guard_point();
    struct script_request *request = request_of(view);
    if (request == NULL || ctx <= 0) return -1;
    request->ctx = ctx;
    request->ctx_generation = ((const struct script *)(uintptr_t)view->script)->serial;
    return 1;
}

/* ---- results ---- */

int
fg_result_header(const struct fg_result *result, const char *name, size_t len, struct fg_slice *out)
{
    guard_point();
    if (result == NULL || out == NULL) return 0;
    return find_header((const struct headers *)(uintptr_t)result->handle, (struct slice){name, len}, out);
}

const char *
fg_reason_word(uint32_t reason)
{
    return reason < REASON_COUNT ? reason_word((enum reason)reason) : "";
}

/* ---- the gateway table ---- */

double
fg_now(void)
{
    guard_point();
    return (double)clock_now_us() / 1e6;
}

double
fg_random(struct script *script)
{
    guard_point();
    return script == NULL ? 0 : (double)(script_random(script) >> 11) * 0x1.0p-53;
}

int
fg_counter_open(struct script *script, const char *name, size_t len, struct fg_counter *counter)
{
    guard_point();
    if (script == NULL || name == NULL || counter == NULL || len == 0 || len > COUNTER_NAME_MAX) return 0;
    if (slice_starts_with((struct slice){name, len}, SLICE_LIT(SCRIPT_OWN_NAMES))) return 0;
    _Atomic uint64_t *shared = NULL;
    if (script->env.shm != NULL) {
        shared = shm_counter(script->env.shm, (struct slice){name, len});
    } else { /* the checker: nothing is shared, and what it counts is thrown away with it */
        if (script->local_counters == NULL)
            script->local_counters = calloc(LOCAL_COUNTERS, sizeof *script->local_counters);
        if (script->local_counters != NULL)
            shared = &script->local_counters[script->local_counter_count++ % LOCAL_COUNTERS];
    }
    counter->handle = (uint64_t)(uintptr_t)shared;
    return shared != NULL;
}

double
fg_counter_next(const struct fg_counter *counter)
{
    guard_point();
    if (counter == NULL || counter->handle == 0) return 0;
    return (double)atomic_fetch_add_explicit(
        (_Atomic uint64_t *)(uintptr_t)counter->handle, 1, memory_order_relaxed);
}

double
fg_counter_get(const struct fg_counter *counter)
{
    guard_point();
    if (counter == NULL || counter->handle == 0) return 0;
    return (double)atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)counter->handle, memory_order_relaxed);
}

/* Whatever a script does, the log ring belongs to all: past LOG_LINES_A_SECOND its lines are dropped. */
void
fg_log(struct script *script, int level, const char *text, size_t len)
{
    guard_point();
    if (script == NULL || text == NULL || level < LOG_DEBUG || level > LOG_ERROR ||
        !log_is_on((enum log_level)level))
        return;
    uint64_t now = clock_now_us();
    if (now - script->log_window_us > 1000000) {
        script->log_window_us = now;
        script->logged_in_window = 0;
    }
    if (script->logged_in_window++ >= LOG_LINES_A_SECOND) return;
    const struct plugin *plugin = script->running;
    struct slice line = {text, len < LOG_LINE_BYTES ? len : LOG_LINE_BYTES};
    log_write((enum log_level)level, false, "script says",
        LOG_FIELDS(F_STR("service", plugin == NULL ? "" : plugin->service),
            F_STR("plugin", plugin == NULL ? "" : plugin->name), F_SLICE("message", line), F_END));
}

int
fg_sha256(const char *data, size_t len, uint8_t out[32])
{
    guard_point();
    if (data == NULL || out == NULL) return 0;
    return EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) == 1;
}

int
fg_hmac_sha256(const char *key, size_t key_len, const char *data, size_t len, uint8_t out[32])
{
    guard_point();
    unsigned out_len = 0;
    if (key == NULL || data == NULL || out == NULL || key_len > INT32_MAX) return 0;
    return HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)data, len, out, &out_len) != NULL &&
           out_len == 32;
}
