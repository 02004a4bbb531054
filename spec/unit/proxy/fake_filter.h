/* spec/unit/proxy/fake_filter.h: core/script/filter.h as a test says: each phase is a function of the test's.
 * Included by rig.h. */
#ifndef FLUXGATE_SPEC_PROXY_FAKE_FILTER_H
#define FLUXGATE_SPEC_PROXY_FAKE_FILTER_H
#include "core/script/filter.h"

struct filter_chain {
    struct filter_request *request;
    struct filter_response *response;
};

static struct {
    /* the test's */
    bool is_needed, wants_log, is_busy;
    enum filter_verdict (*on_request)(struct filter_request *request, unsigned nth);
    enum filter_verdict (*on_response)(struct filter_request *request, struct filter_response *response);
    bool (*on_body)(struct slice chunk, bool is_last, struct slice *out);
    enum filter_verdict verdict, expired; /* after host->moved; of filter_expire */
    /* what was seen */
    unsigned begun, ended, request_runs, response_runs, expires, retired;
    struct filter_chain *chain; /* the last one begun */
    struct script_host host;
    unsigned logs;
    int log_status;
    enum reason log_reason;
    uint32_t log_route;
    char log_path[256];
    unsigned bodies;
    bool body_ok;
    char body_why[32];
    size_t body_len;
    char body[1 << 17]; /* its begin */
} fake;

static char fake_task; /* its address is the task that waits for a body */
#define FAKE_TASK ((struct script_task *)(void *)&fake_task)

static inline void
fake_reset(void)
{
    memset(&fake, 0, sizeof fake);
}

bool
filter_is_needed(const struct script *script, uint32_t route, uint32_t service)
{
    (void)script, (void)route, (void)service;
    return fake.is_needed;
}
bool
filter_wants_log(const struct script *script, uint32_t route, uint32_t service)
{
    (void)script, (void)route, (void)service;
    return fake.wants_log;
}

struct filter_chain *
filter_begin(struct script *script, struct filter_request *request)
{
    (void)script;
    fake.begun++;
    fake.chain = arena_calloc(request->pick->arena, sizeof *fake.chain);
    assert_non_null(fake.chain);
    fake.chain->request = request;
    return fake.chain;
}

enum filter_verdict
filter_run_request(struct filter_chain *chain)
{
    unsigned nth = fake.request_runs++;
    return fake.on_request == NULL ? FILTER_GO : fake.on_request(chain->request, nth);
}

enum filter_verdict
filter_run_response(struct filter_chain *chain, struct filter_response *response)
{
    fake.response_runs++;
    chain->response = response;
    return fake.on_response == NULL ? FILTER_GO : fake.on_response(chain->request, response);
}

enum filter_verdict
filter_verdict(const struct filter_chain *chain)
{
    (void)chain;
    return fake.verdict;
}

enum filter_verdict
filter_expire(struct filter_chain *chain)
{
    (void)chain;
    fake.expires++;
    return fake.expired;
}

bool
filter_body(struct filter_chain *chain, struct slice chunk, bool is_last, struct slice *out)
{
    assert_ptr_equal(chain, fake.chain);
    return fake.on_body(chunk, is_last, out);
}

const char *
filter_ctx(struct filter_chain *chain, struct arena *arena)
{
    (void)chain, (void)arena;
    return "{}";
}

void
filter_end(struct filter_chain *chain)
{
    if (chain != NULL) fake.ended++;
}

void
filter_run_log(struct script *script, const struct filter_log *log)
{
    (void)script;
    fake.logs++;
    fake.log_status = log->status;
    fake.log_reason = log->reason;
    fake.log_route = log->route_index;
    snprintf(fake.log_path, sizeof fake.log_path, "%.*s", (int)log->path.len, log->path.at);
}

void
script_task_body(struct script_task *task, bool ok, struct slice body, const char *why)
{
    assert_ptr_equal(task, FAKE_TASK);
    fake.bodies++;
    fake.body_ok = ok;
    fake.body_len = body.len;
    snprintf(fake.body_why, sizeof fake.body_why, "%s", why == NULL ? "" : why);
    size_t len = body.len < sizeof fake.body ? body.len : sizeof fake.body;
    if (len > 0) memcpy(fake.body, body.at, len);
    fake.host.moved(fake.chain->request->stream);
}

bool
script_set_host(struct script *script, const struct script_host *host)
{
    (void)script;
    fake.host = *host;
    return true;
}
void
script_retire(struct script *script)
{
    (void)script;
    fake.retired++;
}
bool
script_is_busy(const struct script *script)
{
    (void)script;
    return fake.is_busy;
}
#endif
