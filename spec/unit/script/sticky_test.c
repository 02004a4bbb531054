#include "spec/unit/script/support.h"

/* HMAC-SHA256("fluxgate sticky_sessions: no secret was configured", "a\0x") by the openssl command,
 * base64url, 27 characters. */
static const char known_token[] = "ZkVKgdDCarASY5eE0OyQIIjt8UF";

static char file[600];

/* Endpoints x, y and z of service "a", in slots 0, 1 and 2. */
static void
setup(struct fixture *f, const char *options)
{
    fixture_init(f);
    snprintf(file, sizeof file, "%s/strategies/sticky_sessions.lua", bundle_share_dir());
    f->services[0].strategy.name = "sticky_sessions";
    f->services[0].strategy.file = file;
    f->services[0].strategy.options.json = options;
    static const char *const ids[] = {"x", "y", "z"};
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(fixture_endpoint(f, 0, ids[i], SLOT_HEALTHY, 1), i);
    fixture_load(f);
}

/* A pick with this Cookie header (NULL: none); *sent gets the Set-Cookie value, "" where there is none. */
static uint32_t
pick_with(struct fixture *f, const char *cookie, char sent[256])
{
    uint32_t slot;
    enum reason reason;
    f->headers.count = 0;
    f->headers.seen = 0;
    if (cookie != NULL) fixture_header(f, "Cookie", cookie);
    if (script_pick(f->script, fixture_request(f, 0), &slot, &reason) != SCRIPT_PICKED) slot = SLOT_NONE;
    sent[0] = '\0';
    if (f->request.set_cookies.count == 1) {
        struct slice value = f->request.set_cookies.rows[0].value;
        snprintf(sent, 256, "%.*s", (int)value.len, value.at);
    }
    return slot;
}

/* "SESSIONID=TOKEN; Path=…" → "SESSIONID=TOKEN" */
static void
cut(char *set_cookie)
{
    set_cookie[strcspn(set_cookie, ";")] = '\0';
}

static void
keeps_a_session_over_workers_restarts_and_gateways(void **state)
{
    struct fixture f, other;
    char cookie[256], sent[256];
    (void)state;
    setup(&f, "{\"secrets\": [\"one-secret\"]}");
    uint32_t slot = pick_with(&f, NULL, cookie);
    assert_non_null(strstr(cookie, "; Path=/; SameSite=Lax; HttpOnly"));
    cut(cookie);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(pick_with(&f, cookie, sent), slot);
        assert_string_equal(sent, "");
    }
    setup(&other, "{\"secrets\": [\"one-secret\"]}"); /* another gateway: its own segment, its own state */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(pick_with(&other, cookie, sent), slot);
        assert_string_equal(sent, "");
    }
    fixture_fini(&other);
    fixture_fini(&f);
}

static void
makes_the_token_that_its_page_describes(void **state)
{
    struct fixture f;
    char cookie[256], want[64];
    (void)state;
    setup(&f, "{}");
    slot_set_state(f.shm, 1, SLOT_UNHEALTHY, "test");
    slot_set_state(f.shm, 2, SLOT_UNHEALTHY, "test");
    script_refresh(f.script);
    assert_int_equal(pick_with(&f, NULL, cookie), 0);
    cut(cookie);
    snprintf(want, sizeof want, "SESSIONID=%s", known_token);
    assert_string_equal(cookie, want);
    fixture_fini(&f);
}

static void
keeps_a_session_on_a_draining_endpoint_and_moves_it_from_a_dead_one(void **state)
{
    struct fixture f;
    char cookie[256], sent[256];
    (void)state;
    setup(&f, "{}");
    uint32_t slot = pick_with(&f, NULL, cookie);
    cut(cookie);
    slot_set_state(f.shm, slot, SLOT_DRAINING, "test");
    script_refresh(f.script);
    assert_int_equal(pick_with(&f, cookie, sent), slot);
    assert_string_equal(sent, "");
    for (int i = 0; i < 6; i++)
        assert_int_not_equal(pick_with(&f, NULL, sent), slot);
    slot_set_state(f.shm, slot, SLOT_UNHEALTHY, "test");
    script_refresh(f.script);
    uint32_t next = pick_with(&f, cookie, sent);
    assert_int_not_equal(next, slot);
    cut(sent);
    assert_string_not_equal(sent, cookie);
    char again[256];
    slot_set_state(f.shm, slot, SLOT_HEALTHY, "test");
    script_refresh(f.script);
    assert_int_equal(pick_with(&f, sent, again), next);
    assert_string_equal(again, "");
    fixture_fini(&f);
}

static void
moves_sessions_from_a_draining_endpoint_where_the_config_says_so(void **state)
{
    struct fixture f;
    char cookie[256], sent[256];
    (void)state;
    setup(&f, "{}");
    f.config.drain.keep_sessions = false;
    uint32_t slot = pick_with(&f, NULL, cookie);
    cut(cookie);
    slot_set_state(f.shm, slot, SLOT_DRAINING, "test");
    script_refresh(f.script);
    assert_int_not_equal(pick_with(&f, cookie, sent), slot);
    fixture_fini(&f);
}

static void
replaces_a_cookie_of_the_old_secret(void **state)
{
    struct fixture before, after;
    char cookie[256], fresh[256], sent[256];
    (void)state;
    setup(&before, "{\"secrets\": [\"old-secret\"]}");
    uint32_t slot = pick_with(&before, NULL, cookie);
    cut(cookie);
    setup(&after, "{\"secrets\": [\"new-secret\", \"old-secret\"]}");
    assert_int_equal(pick_with(&after, cookie, fresh), slot);
    cut(fresh);
    assert_string_not_equal(fresh, "");
    assert_string_not_equal(fresh, cookie);
    assert_int_equal(pick_with(&after, fresh, sent), slot);
    assert_string_equal(sent, "");
    fixture_fini(&before);
    fixture_fini(&after);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_a_session_over_workers_restarts_and_gateways),
        cmocka_unit_test(makes_the_token_that_its_page_describes),
        cmocka_unit_test(keeps_a_session_on_a_draining_endpoint_and_moves_it_from_a_dead_one),
        cmocka_unit_test(moves_sessions_from_a_draining_endpoint_where_the_config_says_so),
        cmocka_unit_test(replaces_a_cookie_of_the_old_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
