#include "spec/unit/proxy/rig.h"

static const char config[] = "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"
                             "routes:\n  - match: { path_prefix: / }\n    respond: { status: 204 }\n"
                             "log: { access: \"-\" }\n";

/* `len` letters with `odd` at `at`, and as the log has it. */
static void
make(char *path, char *logged, size_t len, size_t at, const char *odd, const char *escaped)
{
    *path++ = *logged++ = '/';
    for (size_t i = 0; i < len; i++) {
        const char *in = i == at ? odd : "a", *out = i == at ? escaped : "a";
        path = stpcpy(path, in);
        logged = stpcpy(logged, out);
    }
}

static void
no_byte_of_a_peer_ends_its_field(void **state)
{
    struct rig *rig = rig_new(config, 1);
    struct heard *client = rig_client(rig);
    char path[64], logged[64], request[160], line[160];
    (void)state;
    for (size_t len = 1; len <= 33; len++) {
        for (size_t at = 0; at <= len; at++) { /* at == len: none */
            make(path, logged, len, at, "\"", "\\x22");
            snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path);
            snprintf(line, sizeof line, " path=\"%s\" status=204 ", logged);
            rig_say(rig, client, request);
            rig_expect(rig, client, "\r\n\r\n");
            rig_forget(client);
            rig_expect_log(rig, line);
            rig->log_len = 0;
        }
    }
    rig_hang_up(client);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_byte_of_a_peer_ends_its_field)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
