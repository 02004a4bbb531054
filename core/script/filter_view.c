#include "core/script/filter_view.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/script/filter_internal.h"

enum { JOINED_MAX = 1 << 20 };

const char *
fg_filter_layout(void)
{
    static char text[256];
    if (text[0] == '\0') {
        snprintf(text, sizeof text,
            "fg_response=%zu handle=%zu;fg_log_request=%zu handle=%zu serial=%zu;"
            "fg_log_response=%zu handle=%zu;",
            sizeof(struct fg_response), offsetof(struct fg_response, handle), sizeof(struct fg_log_request),
            offsetof(struct fg_log_request, handle), offsetof(struct fg_log_request, serial),
            sizeof(struct fg_log_response), offsetof(struct fg_log_response, handle));
    }
    return text;
}

/* ---- reading ---- */

static struct slice
route_name(const struct script *script, uint32_t route)
{
    const struct config *config = script->env.config;
    return route < config->route_count ? slice_of(config->routes[route].name) : SLICE_LIT("");
}

static struct slice
service_name(const struct script *script, uint32_t service)
{
    const struct config *config = script->env.config;
    return service < config->service_count ? slice_of(config->services[service].name) : SLICE_LIT("");
}

int
fg_filter_text(const struct fg_request *view, uint32_t which, struct fg_slice *out)
{
    guard_point();
    struct filter_chain *chain = NULL;
    int found = view_chain(view, &chain);
    if (found == FG_OVER) return found;
    const struct script *script = (const struct script *)(uintptr_t)view->script;
    const struct script_request *pick = (const struct script_request *)(uintptr_t)view->handle;
    switch (which) {
    case FG_FILTER_ID: return chain == NULL ? found : view_give(chain->request->id, out);
    case FG_FILTER_SCHEME:
        if (chain != NULL) return view_give(chain->request->scheme, out);
        return view_give(pick->is_tls ? SLICE_LIT("https") : SLICE_LIT("http"), out);
    case FG_FILTER_ROUTE:
        return chain == NULL ? found : view_give(route_name(script, chain->request->route), out);
    case FG_FILTER_SERVICE:
        return view_give(service_name(script, chain == NULL ? pick->service : chain->request->service), out);
    }
    return FG_NO;
}

static bool
joined_add(struct filters *filters, size_t *len, struct slice text)
{
    if (text.len > JOINED_MAX - *len) return false;
    if (*len + text.len > filters->joined_cap) {
        size_t cap = (*len + text.len) * 2;
        char *grown = realloc(filters->joined, cap);
        if (grown == NULL) return false;
        filters->joined = grown;
        filters->joined_cap = cap;
    }
    if (text.len > 0) memcpy(filters->joined + *len, text.at, text.len);
    *len += text.len;
    return true;
}

/* RFC 9110 §5.3: the lines of one field are one value, joined by ", "; Cookie's by "; " (RFC 6265 §5.4). */
static int
find_field(struct script *script, const struct headers *headers, struct slice name, struct fg_slice *out)
{
    struct filters *filters = script->filters;
    const struct header *row = headers == NULL || name.at == NULL ? NULL : headers_find_name(headers, name);
    if (row == NULL) return FG_NO;
    const struct header *more = headers_next(headers, row);
    if (LIKELY(more == NULL)) return view_give(row->value, out);
    size_t len = 0;
    struct slice between = row->id == HEADER_COOKIE ? SLICE_LIT("; ") : SLICE_LIT(", ");
    bool ok = joined_add(filters, &len, row->value);
    for (; ok && more != NULL; more = headers_next(headers, more))
        ok = joined_add(filters, &len, between) && joined_add(filters, &len, more->value);
    return ok ? view_give((struct slice){filters->joined, len}, out) : FG_MEMORY;
}

int
filter_header(struct filter_chain *chain, const char *name, size_t len, struct fg_slice *out)
{
    return find_field(chain->script, chain->request->headers, (struct slice){name, len}, out);
}

static int
next_field(const struct headers *headers, uint32_t *at, struct fg_slice *name, struct fg_slice *value)
{
    if (at == NULL || name == NULL || value == NULL) return FG_NO;
    while (*at < headers->count) {
        const struct header *row = &headers->rows[(*at)++];
        if ((row->flags & HEADER_F_DROP) == 0)
            return view_give(row->name, name) & view_give(row->value, value);
    }
    return FG_NO;
}

int
fg_request_field(const struct fg_request *view, uint32_t *at, struct fg_slice *name, struct fg_slice *value)
{
    guard_point();
    struct filter_chain *chain;
    int found = view_chain(view, &chain);
    return found == FG_DONE ? next_field(chain->request->headers, at, name, value) : found;
}

int
fg_response_status(const struct fg_response *view)
{
    guard_point();
    const struct filter_chain *chain = view_chain_of_response(view);
    return chain == NULL ? FG_OVER : chain->response->status;
}

int
fg_response_has_body(const struct fg_response *view)
{
    guard_point();
    const struct filter_chain *chain = view_chain_of_response(view);
    return chain == NULL ? FG_OVER : chain->response->has_body;
}

double
fg_response_slot(const struct fg_response *view)
{
    guard_point();
    const struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return -2;
    return chain->response->slot == SLOT_NONE ? -1 : (double)chain->response->slot;
}

int
fg_response_reason(const struct fg_response *view, struct fg_slice *out)
{
    guard_point();
    const struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    if (chain->response->reason == REASON_NONE) return FG_NO;
    return view_give(slice_of(reason_word(chain->response->reason)), out);
}

int
fg_response_header(const struct fg_response *view, const char *name, size_t len, struct fg_slice *out)
{
    guard_point();
    struct filter_chain *chain = view_chain_of_response(view);
    if (chain == NULL) return FG_OVER;
    return find_field(chain->script, chain->response->headers, (struct slice){name, len}, out);
}

int
fg_response_field(const struct fg_response *view, uint32_t *at, struct fg_slice *name, struct fg_slice *value)
{
    guard_point();
    const struct filter_chain *chain = view_chain_of_response(view);
    return chain == NULL ? FG_OVER : next_field(chain->response->headers, at, name, value);
}

/* ---- on_log ---- */

int
fg_log_text(const struct fg_log_request *view, uint32_t which, struct fg_slice *out)
{
    guard_point();
    const struct filter_log *log = view == NULL ? NULL : (const struct filter_log *)(uintptr_t)view->handle;
    if (log == NULL) return FG_OVER;
    switch (which) {
    case FG_LOG_METHOD: return view_give(log->method, out);
    case FG_LOG_PATH: return view_give(log->path, out);
    case FG_LOG_HOST: return view_give(log->host, out);
    case FG_LOG_CLIENT_IP: return view_give(log->client_ip, out);
    case FG_LOG_ID: return view_give(log->id, out);
    case FG_LOG_ROUTE: return view_give(log->route, out);
    case FG_LOG_SERVICE: return view_give(log->service, out);
    case FG_LOG_QUERY: return view_give(log->query, out);
    }
    return FG_NO;
}

int
fg_log_endpoint(const struct fg_log_response *view, struct fg_slice *out)
{
    guard_point();
    const struct filter_log *log = view == NULL ? NULL : (const struct filter_log *)(uintptr_t)view->handle;
    if (log == NULL) return FG_OVER;
    return log->endpoint.len == 0 ? FG_NO : view_give(log->endpoint, out);
}

int
fg_log_reason(const struct fg_log_response *view, struct fg_slice *out)
{
    guard_point();
    const struct filter_log *log = view == NULL ? NULL : (const struct filter_log *)(uintptr_t)view->handle;
    if (log == NULL) return FG_OVER;
    return log->reason == REASON_NONE ? FG_NO : view_give(slice_of(reason_word(log->reason)), out);
}

double
fg_log_number(const struct fg_log_response *view, uint32_t which)
{
    guard_point();
    const struct filter_log *log = view == NULL ? NULL : (const struct filter_log *)(uintptr_t)view->handle;
    if (log == NULL) return -1;
    switch (which) {
    case FG_LOG_STATUS: return log->status;
    case FG_LOG_BYTES: return (double)log->bytes;
    case FG_LOG_DURATION: return (double)log->duration_us / 1e6;
    case FG_LOG_ATTEMPTS: return log->attempts;
    }
    return 0;
}
