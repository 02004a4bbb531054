/* links: shm metrics config */
#include "core/shm/queue.h"
#include "spec/unit/proxy/rig.h"

#define WITH(limits)                                                                                         \
    "listeners: [ { address: 127.0.0.1:0 } ]\nworkers: 1\n"                                                  \
    "routes: [ { match: { path_prefix: / }, service: web } ]\n"                                              \
    "services: { web: { endpoints: [ \"127.0.0.1:1\" ], limits: { " limits " } } }\n"                        \
    "log: { level: info, format: logfmt, access: \"-\" }\n"
#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define OK  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

enum { P90_US = 300000 };

static uint32_t
service(struct rig *rig)
{
    return shm_name_find(rig->shm, SLICE_LIT("web"));
}

static void
know_p90(struct rig *rig, uint32_t p90_us)
{
    for (int i = 0; i < 2000; i++)
        latency_note(rig->proxy, service(rig), p90_us);
    assert_in_range(latency_p90_us(rig->proxy, service(rig)), p90_us, p90_us + p90_us / 10);
}

static void
follows_the_latency_that_one_of_ten_passes(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    uint32_t id = service(rig);
    (void)state;
    srandom(1);
    assert_int_equal(latency_p90_us(rig->proxy, id), 0);
    for (int i = 0; i < 20000; i++)
        latency_note(rig->proxy, id, (uint32_t)(random() % 100000));
    /* 5 sigma: the steps of 1/128 leave it within 4 % of its share of the uniform distribution */
    assert_in_range(latency_p90_us(rig->proxy, id), 72000, 100000);
    for (int i = 0; i < 20000; i++)
        latency_note(rig->proxy, id, (uint32_t)(random() % 1000));
    assert_in_range(latency_p90_us(rig->proxy, id), 720, 1000);
    for (int i = 0; i < 20000; i++)
        latency_note(rig->proxy, id, 0);
    assert_in_range(latency_p90_us(rig->proxy, id), 1, 2);
    for (int i = 0; i < 20000; i++)
        latency_note(rig->proxy, id, UINT32_MAX);
    assert_true(latency_p90_us(rig->proxy, id) > 1 << 29);
    rig_free(rig);
}

static void
a_failed_attempt_counts_as_the_p90_of_its_service(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    struct heard *client = rig_client(rig);
    (void)state;
    know_p90(rig, P90_US);
    close(rig->backend[0]);
    rig->backend[0] = -1;
    slot_observe(rig->shm, rig->slot[0], 100, false, clock_now_us() - 60000000); /* it was quick once */
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 1);
    rig_expect(rig, backend, "\r\n\r\n");
    assert_int_equal(slot_active(rig->shm, rig->slot[0]), 1); /* without a connection or a stream */
    assert_int_equal(rig->proxy->stay_count, 1);
    assert_true(slot_latency_us(rig->shm, rig->slot[0], clock_now_us()) > P90_US / 2);
    rig_say(rig, backend, OK);
    rig_expect(rig, client, "\r\n\r\nok");
    RIG_WAIT(rig, "the end of its stay", slot_active(rig->shm, rig->slot[0]) == 0);
    assert_int_equal(rig->proxy->stay_count, 0);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
an_answer_of_500_makes_nobody_look_quick(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    know_p90(rig, P90_US);
    uint32_t before = latency_p90_us(rig->proxy, service(rig));
    rig_say(rig, client, GET);
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend, "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno");
    rig_expect(rig, client, "\r\n\r\nno");
    assert_true(slot_latency_us(rig->shm, rig->slot[0], clock_now_us()) > P90_US / 2);
    assert_int_equal(latency_p90_us(rig->proxy, service(rig)), before);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
who_waits_for_the_place_gets_it_after_the_stay(void **state)
{
    struct rig *rig = rig_new(WITH("active_per_endpoint: 1, queue: 3, queue_timeout: 5s"), 1);
    struct heard *first = rig_client(rig), *second = rig_client(rig);
    (void)state;
    fake_limit = 1;
    know_p90(rig, P90_US);
    rig_say(rig, first, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\nhi");
    rig_hang_up(backend); /* its request may have been executed */
    rig_expect(rig, first, "HTTP/1.1 502 ");
    assert_int_equal(slot_active(rig->shm, rig->slot[0]), 1);
    rig_say(rig, second, GET);
    backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "GET / ");
    assert_int_equal(rig->proxy->stay_count, 0);
    assert_int_equal(slot_active(rig->shm, rig->slot[0]), 1);
    rig_say(rig, backend, OK);
    rig_expect(rig, second, "\r\n\r\nok");
    rig_hang_up(first);
    rig_hang_up(second);
    rig_hang_up(backend);
    rig_free(rig);
}

static void
many_that_stay_end_in_their_order_and_with_the_proxy(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    (void)state;
    uint64_t now = clock_now_us();
    rig->proxy->now_us = now;
    for (unsigned i = 0; i < 4096; i++) {
        slot_begin(rig->shm, rig->proxy->worker, rig->slot[i % 2]);
        assert_true(stay_begin(rig->proxy, rig->slot[i % 2], service(rig), now + (i * 7919) % 4096 * 1000));
    }
    assert_false(stay_begin(rig->proxy, rig->slot[0], service(rig), now));
    stays_end(rig->proxy, now + 1000 * 1000);
    assert_int_equal(rig->proxy->stay_count, 4095 - 1000);
    stays_end(rig->proxy, now + 2000 * 1000);
    assert_int_equal(rig->proxy->stay_count, 4095 - 2000);
    assert_int_equal(slot_active(rig->shm, 0) + slot_active(rig->shm, 1), 4095 - 2000);
    struct shm *shm = rig->shm;
    proxy_free(rig->proxy);
    assert_int_equal(slot_active(shm, 0) + slot_active(shm, 1), 0);
    rig->proxy = NULL;
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_latency_that_one_of_ten_passes),
        cmocka_unit_test(a_failed_attempt_counts_as_the_p90_of_its_service),
        cmocka_unit_test(an_answer_of_500_makes_nobody_look_quick),
        cmocka_unit_test(who_waits_for_the_place_gets_it_after_the_stay),
        cmocka_unit_test(many_that_stay_end_in_their_order_and_with_the_proxy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
