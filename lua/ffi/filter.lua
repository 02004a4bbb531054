-- ffi/filter.lua: core/script/filter_view.h for LuaJIT. Every field is const: what a script sees, only C
-- writes.
local ffi = require "ffi"
local view = require "ffi.view"

ffi.cdef [[
struct fg_response { const uint64_t handle; };
struct fg_log_request { const uint64_t handle; const double serial; };
struct fg_log_response { const uint64_t handle; };

int fg_filter_text(const struct fg_request *request, uint32_t which, struct fg_slice *out);
int fg_request_field(const struct fg_request *request, uint32_t *at, struct fg_slice *name,
    struct fg_slice *value);
int fg_request_edit(const struct fg_request *request, uint32_t edit, const char *name, size_t len,
    const char *value, size_t value_len);
int fg_request_change(const struct fg_request *request, uint32_t what, const char *text, size_t len);
int fg_request_body(const struct fg_request *request, struct fg_slice *out);
int fg_request_answer(const struct fg_request *request, double status, const char *body, size_t len);
int fg_response_answer(const struct fg_response *response, double status, const char *body, size_t len);
int fg_answer_field(struct script *script, const char *name, size_t len, const char *value, size_t value_len);
int fg_answer_commit(struct script *script);
int fg_response_status(const struct fg_response *response);
int fg_response_has_body(const struct fg_response *response);
double fg_response_slot(const struct fg_response *response);
int fg_response_reason(const struct fg_response *response, struct fg_slice *out);
int fg_response_header(const struct fg_response *response, const char *name, size_t len,
    struct fg_slice *out);
int fg_response_field(const struct fg_response *response, uint32_t *at, struct fg_slice *name,
    struct fg_slice *value);
int fg_response_edit(const struct fg_response *response, uint32_t edit, const char *name, size_t len,
    const char *value, size_t value_len);
int fg_response_set_status(const struct fg_response *response, double status);
int fg_response_on_body(const struct fg_response *response, uint32_t number);
int fg_response_compress(const struct fg_response *response, uint32_t encoding, uint32_t level);
int fg_stage_chunk(struct script *script, struct fg_slice *out);
int fg_log_text(const struct fg_log_request *request, uint32_t which, struct fg_slice *out);
int fg_log_endpoint(const struct fg_log_response *response, struct fg_slice *out);
int fg_log_reason(const struct fg_log_response *response, struct fg_slice *out);
double fg_log_number(const struct fg_log_response *response, uint32_t which);
]]

return {
    ID = 0, SCHEME = 1, ROUTE = 2, SERVICE = 3,                              -- enum fg_filter_text
    LOG_METHOD = 0, LOG_PATH = 1, LOG_HOST = 2, LOG_CLIENT_IP = 3, LOG_ID = 4, LOG_ROUTE = 5,
    LOG_SERVICE = 6, LOG_QUERY = 7,                                          -- enum fg_log_text
    LOG_STATUS = 0, LOG_BYTES = 1, LOG_DURATION = 2, LOG_ATTEMPTS = 3,       -- enum fg_log_number
    SET = 0, ADD = 1, REMOVE = 2,                                            -- enum fg_edit
    SET_PATH = 0, SET_QUERY = 1, SET_HOST = 2, SET_METHOD = 3, SET_SERVICE = 4, SET_ROUTE = 5,
    SET_BODY = 6,                                                            -- enum fg_change
    DONE = 1, NO = 0, OVER = -1, NO_FILTER = -2, NAME = -3, OWNED = -4, VALUE = -5, MEMORY = -6, STATUS = -7,
    UNKNOWN = -8, PHASE = -9,                                                -- enum fg_filter_error
    check = view.check,
}
