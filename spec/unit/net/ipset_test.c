#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <arpa/inet.h>
#include <cmocka.h>

#include "core/net/ipset.h"

static uint64_t seed = 7;

static uint32_t
roll(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

static bool
has(struct ipset *set, uint32_t ip)
{
    char text[INET_ADDRSTRLEN];
    struct in_addr address = {htonl(ip)};
    assert_non_null(inet_ntop(AF_INET, &address, text, sizeof(text)));
    return ipset_has(set, slice_of(text));
}

/* Against the plain definition of a prefix, over nested, equal and neighbouring ones. */
static void
a_set_holds_what_one_of_its_prefixes_holds(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        struct ipset *set = ipset_new();
        struct {
            uint32_t address, mask;
        } prefixes[24];
        assert_non_null(set);
        size_t count = roll(24);
        for (size_t i = 0; i < count; i++) {
            char text[64];
            unsigned bits = roll(4) == 0 ? roll(33) : 20 + roll(13);
            uint32_t ip = 0x0a000000 + roll(4096) * (roll(2) == 0 ? 1 : 64);
            prefixes[i].mask = bits == 0 ? 0 : UINT32_MAX << (32 - bits);
            prefixes[i].address = ip & prefixes[i].mask;
            snprintf(text, sizeof(text), "%u.%u.%u.%u/%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255,
                bits);
            assert_int_equal(ipset_add(set, slice_of(text)), IPSET_OK);
            if (i == count / 2) (void)has(set, ip); /* sorted in between, and added to again */
        }
        for (int question = 0; question < 300; question++) {
            uint32_t ip = 0x0a000000 + roll(question % 2 == 0 ? 4096 : 300000) - (question % 10 == 0);
            bool expected = false;
            for (size_t i = 0; i < count; i++)
                expected = expected || (ip & prefixes[i].mask) == prefixes[i].address;
            assert_int_equal(has(set, ip), expected);
        }
        ipset_free(set);
    }
}

static void
every_prefix_of_ipv6_ends_where_it_should(void **state)
{
    (void)state;
    static const char ip[] = "2001:db8:5555:aaaa:3333:cccc:1234:8001";
    uint8_t bytes[16];
    assert_int_equal(inet_pton(AF_INET6, ip, bytes), 1);
    for (unsigned bits = 0; bits <= 128; bits++) {
        char text[96], other[INET6_ADDRSTRLEN];
        struct ipset *set = ipset_new();
        assert_non_null(set);
        snprintf(text, sizeof(text), "%s/%u", ip, bits);
        assert_int_equal(ipset_add(set, slice_of(text)), IPSET_OK);
        assert_true(ipset_has(set, slice_of(ip)));
        for (unsigned flipped = 0; flipped < 128; flipped++) {
            uint8_t changed[16];
            memcpy(changed, bytes, sizeof(changed));
            changed[flipped / 8] ^= (uint8_t)(0x80 >> flipped % 8);
            assert_non_null(inet_ntop(AF_INET6, changed, other, sizeof(other)));
            assert_int_equal(ipset_has(set, slice_of(other)), flipped >= bits);
        }
        ipset_free(set);
    }
}

static void
what_is_no_prefix_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1",
        "10.0.0.0/8x", "10.0.0/8", "10.0.0.0/ 8", " 10.0.0.0", "10.0.0.0/8/8", "::/129", "::g", "1::2::3",
        "::ffff:10.0.0.0/95", "fe80::1%eth0", "1111:2222:3333:4444:5555:6666:7777:8888:9999",
        "10.0.0.0/99999999999999999999"};
    struct ipset *set = ipset_new();
    assert_non_null(set);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        assert_int_equal(ipset_add(set, slice_of(wrong[i])), IPSET_BAD);
        assert_false(ipset_has(set, slice_of(wrong[i])));
    }
    assert_int_equal(ipset_add(set, (struct slice){"10.0.0.1\0", 9}), IPSET_BAD);
    assert_false(ipset_has(set, SLICE_LIT("10.0.0.1")));
    assert_int_equal(ipset_add(set, SLICE_LIT("::ffff:10.0.0.0/104")), IPSET_OK);
    assert_true(ipset_has(set, SLICE_LIT("10.9.9.9")));
    assert_false(ipset_has(set, SLICE_LIT("11.0.0.0")));
    ipset_free(set);
    ipset_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_holds_what_one_of_its_prefixes_holds),
        cmocka_unit_test(every_prefix_of_ipv6_ends_where_it_should),
        cmocka_unit_test(what_is_no_prefix_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
