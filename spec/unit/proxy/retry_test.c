/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

static const struct config_retry usual_config = {
    .attempts = 2, .budget_percent = 20, .on = RETRY_ON_NEVER_SENT | RETRY_ON_IDEMPOTENT_RESET};

static struct retry_case
usual(enum reason reason)
{
    return (struct retry_case){
        .reason = reason, .idempotent = true, .kept = BODY_KEPT, .sent = 100, .attempts = 1};
}

static void
what_was_never_sent_goes_elsewhere_whatever_the_method(void **state)
{
    struct retry_case retry = usual(REASON_CONNECT_REFUSED);
    (void)state;
    retry.sent = 0;
    retry.idempotent = false;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
    retry.reason = REASON_CONNECT_TIMEOUT;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
    retry.reason = REASON_RESET_BEFORE_HEADERS;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
}

static void
what_may_have_run_is_sent_again_only_if_idempotent(void **state)
{
    struct retry_case retry = usual(REASON_RESET_BEFORE_HEADERS);
    (void)state;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
    retry.pooled = true;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_SAME);
    retry.idempotent = false;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
    retry.sent = 0;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_SAME);
}

static void
nothing_is_sent_again_after_an_answer_or_without_its_body(void **state)
{
    struct retry_case retry = usual(REASON_RESET_BEFORE_HEADERS);
    (void)state;
    retry.answered = true;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
    retry.answered = false;
    retry.kept = BODY_GONE;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
    retry = usual(REASON_RESPONSE_TIMEOUT);
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
    retry = usual(REASON_BAD_RESPONSE);
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
}

static void
three_attempts_are_all(void **state)
{
    struct retry_case retry = usual(REASON_CONNECT_REFUSED);
    (void)state;
    retry.sent = 0;
    retry.attempts = 2;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
    retry.attempts = 3;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
}

static void
on_names_the_failures_after_which_it_is_tried_again(void **state)
{
    struct config_retry config = usual_config;
    struct retry_case retry = usual(REASON_RESET_BEFORE_HEADERS);
    (void)state;
    config.on = RETRY_ON_NEVER_SENT;
    assert_int_equal(retry_decide(&config, &retry), RETRY_NO);
    retry.pooled = true;
    assert_int_equal(retry_decide(&config, &retry), RETRY_SAME);
    retry.pooled = false;
    retry.sent = 0;
    assert_int_equal(retry_decide(&config, &retry), RETRY_OTHER);
    config.on = RETRY_ON_IDEMPOTENT_RESET;
    assert_int_equal(retry_decide(&config, &retry), RETRY_NO);
    retry.reason = REASON_CONNECT_REFUSED;
    assert_int_equal(retry_decide(&config, &retry), RETRY_NO);
    config = usual_config;
    config.attempts = 0;
    assert_int_equal(retry_decide(&config, &retry), RETRY_NO);
}

static void
an_attempt_that_used_its_time_up_is_followed_by_another(void **state)
{
    struct retry_case retry = usual(REASON_RESPONSE_TIMEOUT);
    (void)state;
    retry.per_try = true;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_OTHER);
    retry.idempotent = false;
    assert_int_equal(retry_decide(&usual_config, &retry), RETRY_NO);
}

static void
the_same_endpoint_is_left_alone_for_longer_each_time(void **state)
{
    (void)state;
    for (uint64_t random = 0; random < 100000; random += 997) {
        uint64_t first_us = retry_backoff_us(1, random), late_us = retry_backoff_us(9, random);
        assert_in_range(first_us, 12500, 37501);
        assert_in_range(late_us, 100000, 300001);
    }
}

/* 20 % of 1,000 requests and 10 a second for 10 seconds. */
static void
the_budget_is_a_share_of_the_last_ten_seconds_over_all_workers(void **state)
{
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = 64});
    uint64_t now_us = 5000000000;
    unsigned taken = 0;
    (void)state;
    assert_non_null(shm);
    for (unsigned i = 0; i < 1000; i++)
        budget_count_request(&shm_worker(shm, i % 2)->budget, now_us + (uint64_t)i * 5000);
    now_us += 5000000;
    while (taken < 1000 && budget_take_retry(shm, taken % 3, 20, now_us))
        taken++;
    assert_int_equal(taken, 300);
    assert_false(budget_take_retry(shm, 0, 20, now_us + 1000000));
    assert_true(budget_take_retry(shm, 0, 50, now_us + 1000000));
    now_us += 20000000;
    for (taken = 0; taken < 1000 && budget_take_retry(shm, taken % 2, 20, now_us);)
        taken++;
    assert_int_equal(taken, 100);
    shm_destroy(shm);
}

static void
the_backends_keep_alive_shortens_ours(void **state)
{
    (void)state;
    assert_int_equal(upstream_idle_us(4000000, 0), 4000000);
    assert_int_equal(upstream_idle_us(4000000, 60), 4000000);
    assert_int_equal(upstream_idle_us(4000000, 3), 2000000);
    assert_int_equal(upstream_idle_us(4000000, 1), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_never_sent_goes_elsewhere_whatever_the_method),
        cmocka_unit_test(what_may_have_run_is_sent_again_only_if_idempotent),
        cmocka_unit_test(nothing_is_sent_again_after_an_answer_or_without_its_body),
        cmocka_unit_test(three_attempts_are_all),
        cmocka_unit_test(on_names_the_failures_after_which_it_is_tried_again),
        cmocka_unit_test(an_attempt_that_used_its_time_up_is_followed_by_another),
        cmocka_unit_test(the_same_endpoint_is_left_alone_for_longer_each_time),
        cmocka_unit_test(the_budget_is_a_share_of_the_last_ten_seconds_over_all_workers),
        cmocka_unit_test(the_backends_keep_alive_shortens_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
