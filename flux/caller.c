#include "flux/internal.h"

#include <stdio.h>
#include <string.h>

#include "core/base/text.h"

/* A list of 65,536 instances with metadata of 256 bytes each is some 32 MiB. */
enum { BODY_LIMIT = 64 << 20 };

static size_t
on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct caller *caller = context;
    size_t len = size * count;
    if (caller->body.len + len > BODY_LIMIT) return 0;
    strbuf_add(&caller->body, bytes, len);
    return caller->body.failed ? 0 : len;
}

/* Headers and, for gRPC, the trailers: libcurl hands both to the same function. */
static size_t
on_header(char *bytes, size_t size, size_t count, void *context)
{
    struct caller *caller = context;
    struct slice line = {bytes, size * count}, value;
    const struct slice status = SLICE_LIT("grpc-status:"), message = SLICE_LIT("grpc-message:");
    uint64_t code;

    while (line.len > 0 && (line.at[line.len - 1] == '\n' || line.at[line.len - 1] == '\r'))
        line.len--;
    if (line.len >= status.len && slice_equal_nocase((struct slice){line.at, status.len}, status)) {
        value = slice_trim((struct slice){line.at + status.len, line.len - status.len});
        caller->grpc_status = text_parse_u64(value, 1000, &code) ? (int)code : 2; /* 2: UNKNOWN */
    } else if (line.len >= message.len && slice_equal_nocase((struct slice){line.at, message.len}, message)) {
        value = slice_trim((struct slice){line.at + message.len, line.len - message.len});
        snprintf(caller->grpc_message, sizeof caller->grpc_message, "%.*s", (int)value.len, value.at);
    }
    return size * count;
}

bool
caller_init(struct caller *caller)
{
    memset(caller, 0, sizeof *caller);
    caller->multi = curl_multi_init();
    caller->easy = curl_easy_init();
    if (caller->multi != NULL && caller->easy != NULL) return true;
    caller_fini(caller);
    return false;
}

void
caller_fini(struct caller *caller)
{
    curl_easy_cleanup(caller->easy);
    curl_multi_cleanup(caller->multi);
    strbuf_fini(&caller->body);
    caller->easy = NULL;
    caller->multi = NULL;
}

void
caller_cancel(struct caller *caller)
{
    atomic_store(&caller->cancelled, true);
    curl_multi_wakeup(caller->multi);
}

static enum flux_error
error_of(CURLcode code)
{
    switch ((int)code) {
    case CURLE_OK: return FLUX_OK;
    case CURLE_OPERATION_TIMEDOUT: return FLUX_TIMEOUT;
    case CURLE_OUT_OF_MEMORY: return FLUX_NO_MEMORY;
    default: return FLUX_UNREACHABLE;
    }
}

/* The multi interface, since curl_multi_wakeup ends a wait at once where curl_easy_perform would notice up to
 * a second later: flux_stop must not wait for a registry that hangs. */
static CURLcode
transfer(struct caller *caller)
{
    CURLcode code = CURLE_FAILED_INIT;
    int running = 1, left;
    CURLMsg *message;

    if (curl_multi_add_handle(caller->multi, caller->easy) != CURLM_OK) return CURLE_FAILED_INIT;
    while (running > 0 && !atomic_load(&caller->cancelled)) {
        if (curl_multi_perform(caller->multi, &running) != CURLM_OK) break;
        if (running > 0 && curl_multi_poll(caller->multi, NULL, 0, 1000, NULL) != CURLM_OK) break;
    }
    if (atomic_load(&caller->cancelled)) code = CURLE_ABORTED_BY_CALLBACK;
    while ((message = curl_multi_info_read(caller->multi, &left)) != NULL) {
        if (message->msg == CURLMSG_DONE) code = message->data.result;
    }
    curl_multi_remove_handle(caller->multi, caller->easy);
    return code;
}

static bool
add_line(struct curl_slist **list, const char *text)
{
    struct curl_slist *longer = curl_slist_append(*list, text);
    if (longer == NULL) return false;
    *list = longer;
    return true;
}

static bool
set_headers(struct curl_slist **list, const struct caller_request *request)
{
    char line[64];
    struct strbuf bearer = {0};
    bool ok = add_line(list, "Expect:"); /* a 100-continue round trip would only slow these small bodies */
    if (request->content_type != NULL) {
        snprintf(line, sizeof line, "Content-Type: %s", request->content_type);
        ok = ok && add_line(list, line);
    }
    if (request->grpc) {
        snprintf(line, sizeof line, "grpc-timeout: %um", request->timeout_ms);
        ok = ok && add_line(list, "te: trailers") && add_line(list, line);
    }
    if (request->token != NULL) {
        strbuf_printf(&bearer, "Authorization: Bearer %s", request->token);
        ok = ok && !bearer.failed && add_line(list, bearer.at);
    }
    strbuf_fini(&bearer);
    return ok;
}

/* libcurl before 8.0 (Debian 12 has 7.88.1) puts a second HTTP/2 layer on a kept prior-knowledge connection
 * and fails with CURLE_HTTP2 (curl issue 10634), so there each call takes a new one. */
static void
use_http2(CURL *easy, bool tls)
{
    if (tls) {
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
        return;
    }
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    if (curl_version_info(CURLVERSION_NOW)->version_num < 0x080000)
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
}

static void
set_options(
    struct caller *caller, const struct caller_request *request, struct curl_slist *headers, char *why)
{
    CURL *easy = caller->easy;
    curl_easy_reset(easy); /* keeps the connections */
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    if (request->content_type != NULL || strcmp(request->method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body.len == 0 ? "" : request->body.at);
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L); /* threads: no SIGALRM */
    curl_easy_setopt(
        easy, CURLOPT_PROXY, ""); /* a registry is a neighbour; http_proxy is for the world outside */
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L); /* an id may be ".." */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "flux/" FLUXGATE_VERSION);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)request->timeout_ms);
    if (request->grpc) use_http2(easy, strncmp(request->url, "https:", 6) == 0);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, caller);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, caller);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
}

enum flux_error
caller_perform(
    struct caller *caller, const struct caller_request *request, long *status, char detail[DETAIL_BYTES])
{
    struct curl_slist *headers = NULL;
    char why[CURL_ERROR_SIZE] = "";
    CURLcode code;

    if (!set_headers(&headers, request)) {
        curl_slist_free_all(headers);
        snprintf(detail, DETAIL_BYTES, "out of memory");
        return FLUX_NO_MEMORY;
    }
    strbuf_clear(&caller->body);
    caller->grpc_status = -1;
    caller->grpc_message[0] = '\0';
    set_options(caller, request, headers, why);
    code = transfer(caller);
    *status = 0;
    curl_easy_getinfo(caller->easy, CURLINFO_RESPONSE_CODE, status);
    curl_easy_setopt(caller->easy, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(caller->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    detail[0] = '\0';
    if (code != CURLE_OK) {
        snprintf(
            detail, DETAIL_BYTES, "%s: %s", request->url, why[0] != '\0' ? why : curl_easy_strerror(code));
    }
    return error_of(code);
}
