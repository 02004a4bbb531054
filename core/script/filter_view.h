/* core/script/filter_view.h: what filters see by FFI beside core/script/view.h: the request's changes, the
 * response, and the flat records of on_log. lua/ffi/filter.lua repeats the structs. Every fg_ function checks
 * every argument, begins with guard_point() and never enters Lua; what it keeps is copied into the stream's
 * arena. */
#ifndef FLUXGATE_SCRIPT_FILTER_VIEW_H
#define FLUXGATE_SCRIPT_FILTER_VIEW_H
#include <stddef.h>
#include <stdint.h>

#include "core/script/view.h"

/* handle is the struct filter_chain, 0 while no callback runs for it. */
struct fg_response {
    uint64_t handle;
};

/* handle is the struct filter_log, 0 outside on_log; serial tells one on_log's request from the next. */
struct fg_log_request {
    uint64_t handle;
    double serial;
};
struct fg_log_response {
    uint64_t handle;
};

enum fg_filter_text { FG_FILTER_ID, FG_FILTER_SCHEME, FG_FILTER_ROUTE, FG_FILTER_SERVICE };
enum fg_log_text {
    FG_LOG_METHOD,
    FG_LOG_PATH,
    FG_LOG_HOST,
    FG_LOG_CLIENT_IP,
    FG_LOG_ID,
    FG_LOG_ROUTE,
    FG_LOG_SERVICE,
    FG_LOG_QUERY
};
enum fg_log_number { FG_LOG_STATUS, FG_LOG_BYTES, FG_LOG_DURATION, FG_LOG_ATTEMPTS };
enum fg_edit { FG_SET, FG_ADD, FG_REMOVE };
enum fg_change {
    FG_SET_PATH,
    FG_SET_QUERY,
    FG_SET_HOST,
    FG_SET_METHOD,
    FG_SET_SERVICE,
    FG_SET_ROUTE,
    FG_SET_BODY
};

/* What fg_ functions answer that change something: 1 where it was done. */
enum fg_filter_error {
    FG_DONE = 1,
    FG_NO = 0,
    FG_OVER = -1,      /* the callback has ended */
    FG_NO_FILTER = -2, /* the request is one of pick() */
    FG_NAME = -3,      /* no token */
    FG_OWNED = -4,     /* framing and hop-by-hop fields */
    FG_VALUE = -5,     /* a control byte, or for fg_request_change: not valid */
    FG_MEMORY = -6,    /* out of memory, or past what a request may hold */
    FG_STATUS = -7,
    FG_UNKNOWN = -8, /* no such route or service */
    FG_PHASE = -9,   /* not in this callback */
};

const char *fg_filter_layout(void);

/* Requests. Hot. */
int fg_filter_text(const struct fg_request *request, uint32_t which, struct fg_slice *out);
/* The next field at or after *at, which moves past it; 0 at the end. */
int fg_request_field(
    const struct fg_request *request, uint32_t *at, struct fg_slice *name, struct fg_slice *value);
int fg_request_edit(const struct fg_request *request, uint32_t edit, const char *name, size_t len,
    const char *value, size_t value_len);
int fg_request_change(const struct fg_request *request, uint32_t what, const char *text, size_t len);
/* 1: the body is known and in *out; 0: it is to be waited for; below: enum fg_filter_error. */
int fg_request_body(const struct fg_request *request, struct fg_slice *out);
/* An answer in three steps: begin, any number of fields, commit. */
int fg_request_answer(const struct fg_request *request, double status, const char *body, size_t len);
int fg_response_answer(const struct fg_response *response, double status, const char *body, size_t len);
int fg_answer_field(struct script *script, const char *name, size_t len, const char *value, size_t value_len);
int fg_answer_commit(struct script *script);

/* Responses. Hot. */
int fg_response_status(const struct fg_response *response);
int fg_response_has_body(const struct fg_response *response);
double fg_response_slot(const struct fg_response *response); /* -1: of no endpoint; -2: over */
int fg_response_reason(const struct fg_response *response, struct fg_slice *out);
int fg_response_header(
    const struct fg_response *response, const char *name, size_t len, struct fg_slice *out);
int fg_response_field(
    const struct fg_response *response, uint32_t *at, struct fg_slice *name, struct fg_slice *value);
int fg_response_edit(const struct fg_response *response, uint32_t edit, const char *name, size_t len,
    const char *value, size_t value_len);
int fg_response_set_status(const struct fg_response *response, double status);
/* Stage `number` of runtime.lua's table sees the body. 0: there is none, and the stage is not needed. */
int fg_response_on_body(const struct fg_response *response, uint32_t number);
/* 0: it is not to be compressed. encoding: 1 gzip, 2 deflate, 3 zstd. */
int fg_response_compress(const struct fg_response *response, uint32_t encoding, uint32_t level);

/* The chunk of the stage that runs. */
int fg_stage_chunk(struct script *script, struct fg_slice *out);

/* on_log. 1, 0 or -1 as above. */
int fg_log_text(const struct fg_log_request *request, uint32_t which, struct fg_slice *out);
int fg_log_endpoint(const struct fg_log_response *response, struct fg_slice *out);
int fg_log_reason(const struct fg_log_response *response, struct fg_slice *out);
double fg_log_number(const struct fg_log_response *response, uint32_t which); /* -1: over */

/* For view.c: fg_request_header of a filter, with all lines of the field. */
struct filter_chain;
int filter_header(struct filter_chain *chain, const char *name, size_t len, struct fg_slice *out);

#endif
