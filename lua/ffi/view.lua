-- ffi/view.lua: core/script/view.h for LuaJIT. Every field is const: what a script sees, only C writes.
local ffi = require "ffi"

ffi.cdef [[
struct script;
struct fg_backend {
    const uint32_t slot, incarnation;
    const uint32_t weight, port;
    const double effective_weight;
    const uint64_t handle;
};
struct fg_request {
    const uint32_t attempt;
    const uint32_t service_index;
    const uint64_t handle, script, filter;
};
struct fg_result {
    const int32_t status;
    const uint32_t failure_number;
    const double latency;
    const uint64_t handle;
};
struct fg_counter { const uint64_t handle; };
struct fg_slice { const char *at; size_t len; };

uint32_t fg_backend_active(const struct fg_backend *backend);
uint32_t fg_backend_failures(const struct fg_backend *backend);
double fg_backend_latency(const struct fg_backend *backend);
double fg_backend_load(const struct fg_backend *backend);
int fg_backend_full(const struct fg_backend *backend);
int fg_backend_text(const struct fg_backend *backend, uint32_t which, struct fg_slice *out);
int fg_request_text(const struct fg_request *request, uint32_t which, struct fg_slice *out);
int fg_request_header(const struct fg_request *request, const char *name, size_t len, struct fg_slice *out);
int fg_request_cookie(const struct fg_request *request, const char *name, size_t len, struct fg_slice *out);
int fg_request_cookie_at(const struct fg_request *request, const char *name, size_t len, uint32_t skip,
    struct fg_slice *out);
double fg_request_hash(const struct fg_request *request, const char *key, size_t len);
int fg_request_set_cookie(const struct fg_request *request, const char *name, size_t name_len,
    const char *value, size_t value_len, const char *path, size_t path_len,
    const char *domain, size_t domain_len, const char *same_site,
    double max_age, uint32_t flags);
int fg_request_bind(const struct fg_request *request, const struct fg_backend *backend);
int fg_request_ctx(const struct fg_request *request);
int fg_request_set_ctx(const struct fg_request *request, int ctx);
int fg_result_header(const struct fg_result *result, const char *name, size_t len, struct fg_slice *out);
const char *fg_reason_word(uint32_t reason);
double fg_now(void);
int fg_stack_is_deep(void);
double fg_random(struct script *script);
int fg_counter_open(struct script *script, const char *name, size_t len, struct fg_counter *counter);
double fg_counter_next(const struct fg_counter *counter);
double fg_counter_get(const struct fg_counter *counter);
void fg_log(struct script *script, int level, const char *text, size_t len);
int fg_sha256(const char *data, size_t len, uint8_t *out);
int fg_hmac_sha256(const char *key, size_t key_len, const char *data, size_t len, uint8_t *out);
]]

local view = {
    METHOD = 0, PATH = 1, QUERY = 2, HOST = 3, CLIENT_IP = 4, -- enum fg_request_text
    ID = 0, HOST_NAME = 1, ZONE = 2, METADATA = 3, STATE = 4, HEALTH_PATH = 5, -- enum fg_backend_text
}

-- Compares the structs above with what C was compiled with: "name=size field=offset ...;". Raises on a
-- difference.
function view.check(layout)
    for row in layout:gmatch("[^;]+") do
        local name, size, fields = row:match("^(%S+)=(%d+)(.*)$")
        local ours = ffi.sizeof("struct " .. name)
        if ours ~= tonumber(size) then
            error(("struct %s has %d bytes in Lua and %s in C"):format(name, ours, size), 0)
        end
        for field, offset in fields:gmatch("(%S+)=(%d+)") do
            if ffi.offsetof("struct " .. name, field) ~= tonumber(offset) then
                error(("field %s of struct %s stands elsewhere in C"):format(field, name), 0)
            end
        end
    end
end

return view
