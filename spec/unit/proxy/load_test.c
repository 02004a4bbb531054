/* links: shm metrics config */
#include "spec/unit/proxy/rig.h"

#include "core/http/load.h"

static void
reads_what_a_backend_reports_of_itself(void **state)
{
    static const struct {
        const char *value;
        int milli; /* -1: nothing */
    } cases[] = {
        {"TEXT cpu_utilization=0.35", 350},
        {"cpu_utilization=0.35, mem_utilization=0.9", 350},
        {"TEXT cpu_utilization=0.35,application_utilization=1.25", 1250},
        {"TEXT application_utilization=0, cpu_utilization=0.5", 500},
        {"TEXT mem_utilization=.5", 500},
        {"TEXT named_metrics.load=3", 3000},
        {"TEXT named_metrics.load=3,cpu_utilization=0.0019", 1},
        {"TEXT cpu_utilization=99999999999999999999999", 1000000},
        {"TEXT rps_fractional=7", -1},
        {"TEXT cpu_utilization=-1", -1},
        {"TEXT cpu_utilization=1e3", -1},
        {"TEXT cpu_utilization=nan", -1},
        {"TEXT cpu_utilization=.", -1},
        {"TEXT cpu_utilization=", -1},
        {"TEXT cpu_utilization", -1},
        {"TEXT =1", -1},
        {"JSON {\"cpu_utilization\": 0.3}", -1},
        {"TEXT ", -1},
        {"", -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t milli = 7;
        bool is_there = load_read(slice_of(cases[i].value), &milli);
        if (is_there != (cases[i].milli >= 0) || (is_there && milli != (uint32_t)cases[i].milli))
            fail_msg("%s: %d %u", cases[i].value, is_there, milli);
    }
}

static void
the_reported_load_stands_in_the_slot(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct heard *client = rig_client(rig);
    (void)state;
    rig_say(rig, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    struct heard *backend = rig_backend(rig, 0);
    rig_expect(rig, backend, "\r\n\r\n");
    rig_say(rig, backend,
        "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.42\r\nContent-Length: 2\r\n\r\nok");
    rig_expect(rig, client, "\r\n\r\nok");
    assert_int_equal(atomic_load(&slot_at(rig->shm, rig->slot[0])->load_milli), 420);
    rig_hang_up(client);
    rig_hang_up(backend);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_a_backend_reports_of_itself),
        cmocka_unit_test(the_reported_load_stands_in_the_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
