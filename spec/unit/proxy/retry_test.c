/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

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
    assert_int_equal(retry_decide(&retry), RETRY_OTHER);
    retry.reason = REASON_CONNECT_TIMEOUT;
    assert_int_equal(retry_decide(&retry), RETRY_OTHER);
    retry.reason = REASON_RESET_BEFORE_HEADERS;
    assert_int_equal(retry_decide(&retry), RETRY_OTHER);
}

static void
what_may_have_run_is_sent_again_only_if_idempotent(void **state)
{
    struct retry_case retry = usual(REASON_RESET_BEFORE_HEADERS);
    (void)state;
    assert_int_equal(retry_decide(&retry), RETRY_OTHER);
    retry.pooled = true;
    assert_int_equal(retry_decide(&retry), RETRY_SAME);
    retry.idempotent = false;
    assert_int_equal(retry_decide(&retry), RETRY_NO);
    retry.sent = 0;
    assert_int_equal(retry_decide(&retry), RETRY_SAME);
}

static void
nothing_is_sent_again_after_an_answer_or_without_its_body(void **state)
{
    struct retry_case retry = usual(REASON_RESET_BEFORE_HEADERS);
    (void)state;
    retry.answered = true;
    assert_int_equal(retry_decide(&retry), RETRY_NO);
    retry.answered = false;
    retry.kept = BODY_GONE;
    assert_int_equal(retry_decide(&retry), RETRY_NO);
    retry = usual(REASON_RESPONSE_TIMEOUT);
    assert_int_equal(retry_decide(&retry), RETRY_NO);
    retry = usual(REASON_BAD_RESPONSE);
    assert_int_equal(retry_decide(&retry), RETRY_NO);
}

static void
three_attempts_are_all(void **state)
{
    struct retry_case retry = usual(REASON_CONNECT_REFUSED);
    (void)state;
    retry.sent = 0;
    retry.attempts = ATTEMPTS_MAX - 1;
    assert_int_equal(retry_decide(&retry), RETRY_OTHER);
    retry.attempts = ATTEMPTS_MAX;
    assert_int_equal(retry_decide(&retry), RETRY_NO);
}

/* 20 % of 1,000 requests and 10 a second for 10 seconds. */
static void
the_budget_is_a_share_of_the_last_ten_seconds(void **state)
{
    struct budget budget = {0};
    uint64_t now_us = 5000000000;
    unsigned taken = 0;
    (void)state;
    for (int i = 0; i < 1000; i++)
        budget_count_request(&budget, now_us + (uint64_t)i * 5000);
    now_us += 5000000;
    while (taken < 1000 && budget_take_retry(&budget, now_us))
        taken++;
    assert_int_equal(taken, 300);
    assert_false(budget_take_retry(&budget, now_us + 1000000));
    now_us += 20000000;
    for (taken = 0; taken < 1000 && budget_take_retry(&budget, now_us);)
        taken++;
    assert_int_equal(taken, 100);
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
        cmocka_unit_test(the_budget_is_a_share_of_the_last_ten_seconds),
        cmocka_unit_test(the_backends_keep_alive_shortens_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
