/* links: shm metrics config */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "spec/unit/proxy/fetch_rig.h"

#define OK2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

enum { TYPE_A = 1, TYPE_AAAA = 28, NXDOMAIN = 3 };

/* A name server that answers A with 127.0.0.1 and AAAA with ::1, where it is told to; in a file's words. */
struct names {
    int fd;
    uint16_t port;
    bool has_a, has_aaaa, is_silent;
    uint32_t ttl;
    unsigned asked;
    char folder[64], conf[96], hosts[96], last[256];
};

static void
write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

static void
names_open(struct names *names, struct rig *rig)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    char conf[128];
    *names = (struct names){.has_a = true, .ttl = 60};
    names->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(names->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(names->fd, (struct sockaddr *)&address, &len), 0);
    names->port = ntohs(address.sin_port);
    snprintf(names->folder, sizeof names->folder, "/tmp/fetch_name.XXXXXX");
    assert_non_null(mkdtemp(names->folder));
    snprintf(names->conf, sizeof names->conf, "%s/resolv.conf", names->folder);
    snprintf(names->hosts, sizeof names->hosts, "%s/hosts", names->folder);
    snprintf(conf, sizeof conf, "nameserver 127.0.0.1:%u\n", names->port);
    write_file(names->conf, conf);
    write_file(names->hosts, "# nobody\n192.0.2.1 other\n127.0.0.1\tmine Mine.Example # that is all\n");
    assert_true(resolver_use(fetcher_get(rig->proxy), names->conf, names->hosts));
}

static void
names_close(struct names *names)
{
    unlink(names->conf);
    unlink(names->hosts);
    rmdir(names->folder);
    close(names->fd);
}

/* Answers one question, if there is one. */
static bool
names_serve(struct names *names)
{
    static const unsigned char a[] = {127, 0, 0, 1}, aaaa[16] = {[15] = 1};
    unsigned char packet[512 + 64];
    struct sockaddr_in from;
    socklen_t from_len = sizeof from;
    ssize_t got = recvfrom(names->fd, packet, 512, 0, (struct sockaddr *)&from, &from_len);
    if (got < 17) return false;
    size_t at = 12, len = 0;
    while (packet[at] != 0) {
        for (size_t i = 1; i <= packet[at]; i++)
            names->last[len++] = (char)ascii_lower(packet[at + i]);
        names->last[len++] = '.';
        at += packet[at] + 1u;
    }
    names->last[len] = '\0';
    unsigned type = packet[at + 2];
    size_t end = at + 5;
    names->asked++;
    if (names->is_silent) return true;
    bool has = type == TYPE_A ? names->has_a : names->has_aaaa;
    packet[2] = 0x81;
    packet[3] = names->has_a || names->has_aaaa ? 0x80 : 0x80 | NXDOMAIN;
    packet[7] = has;
    packet[9] = packet[11] = 0;
    if (has) {
        unsigned char row[] = {0xc0, 12, 0, (unsigned char)type, 0, 1, 0, 0, 0, (unsigned char)names->ttl, 0,
            type == TYPE_A ? 4 : 16};
        memcpy(packet + end, row, sizeof row);
        end += sizeof row;
        memcpy(packet + end, type == TYPE_A ? a : aaaa, row[11]);
        end += row[11];
    }
    assert_int_equal(sendto(names->fd, packet, end, 0, (struct sockaddr *)&from, from_len), (ssize_t)end);
    return true;
}

static void
expect_served(struct rig *rig, struct names *names, struct told *told, const char *host)
{
    int fd = -1;
    RIG_WAIT(rig, "a connection",
        (names_serve(names), fd = accept4(rig->backend[0], NULL, NULL, SOCK_NONBLOCK)) != -1);
    struct heard *server = rig_hear(fd);
    rig_expect(rig, server, "\r\n\r\n");
    if (strstr(server->text, host) == NULL) fail_msg("no %s in %s", host, server->text);
    rig_say(rig, server, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_hang_up(server);
    rig_turn(rig);
}

static void
asks_once_and_remembers_for_a_while(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names;
    (void)state;
    names_open(&names, rig);
    struct told *one = fetch_url(rig, "http://Keys.Example:%u/", rig->backend_port[0]);
    struct told *two = fetch_url(rig, "http://keys.example.:%u/", rig->backend_port[0]);
    expect_served(rig, &names, one, "Host: ");
    expect_served(rig, &names, two, "Host: ");
    assert_string_equal(names.last, "keys.example.");
    RIG_WAIT(
        rig, "both questions", (names_serve(&names), names.asked) == 2); /* A and AAAA, for both fetches */
    expect_served(
        rig, &names, fetch_url(rig, "http://keys.example:%u/", rig->backend_port[0]), "Host: keys.example:");
    assert_int_equal(names.asked, 2);
    rig_free(rig);
    names_close(&names);
}

static void
says_that_a_name_has_no_address(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names;
    (void)state;
    names_open(&names, rig);
    names.has_a = false;
    struct told *told = fetch_url(rig, "http://none.example/");
    RIG_WAIT(rig, "its end", (names_serve(&names), told->calls) == 1);
    expect_told(rig, told, REASON_NO_ENDPOINTS, "none.example has no address: name does not exist");
    unsigned asked = names.asked;
    expect_told(
        rig, fetch_url(rig, "http://none.example/"), REASON_NO_ENDPOINTS, "none.example has no address");
    assert_int_equal(names.asked, asked); /* remembered, for a moment */
    rig_free(rig);
    names_close(&names);
}

static void
goes_on_to_the_next_address(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 0);
    struct names names;
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof address;
    (void)state;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1 || bind(fd, (struct sockaddr *)&address, len) == -1) { /* a machine without IPv6 */
        if (fd != -1) close(fd);
        rig_free(rig);
        skip();
    }
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    names_open(&names, rig);
    names.has_aaaa = true;
    int dead = -1;
    struct told *told = fetch_url(rig, "http://two.example:%u/", ntohs(address.sin6_port));
    RIG_WAIT(rig, "a connection over the second family",
        (names_serve(&names), dead = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) != -1);
    struct heard *server = rig_hear(dead);
    rig_expect(rig, server, "Host: two.example:");
    rig_say(rig, server, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_hang_up(server);
    close(fd);
    rig_free(rig);
    names_close(&names);
}

static void
honours_hosts_localhost_and_literals_without_asking(void **state)
{
    static const char *const known[] = {"mine", "MINE.example", "localhost", "a.localhost", "127.0.0.1"};
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names;
    (void)state;
    names_open(&names, rig);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        expect_served(rig, &names, fetch_url(rig, "http://%s:%u/", known[i], rig->backend_port[0]), known[i]);
    assert_int_equal(names.asked, 0);
    assert_false(names_serve(&names));
    rig_free(rig);
    names_close(&names);
}

static void
cancels_and_times_out_while_the_server_is_silent(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names;
    (void)state;
    names_open(&names, rig);
    names.is_silent = true;
    struct told *told = fetch_url(rig, "http://slow.example/");
    RIG_WAIT(rig, "the question", names_serve(&names));
    proxy_enter(rig->proxy);
    fetch_cancel(told->fetch);
    proxy_leave(rig->proxy);
    assert_int_equal(told->calls, 0);
    free(told);
    expect_told(rig,
        fetch_with(rig, (struct asked){.url = "http://slow.example/", .timeout_us = 30000}, REASON_NONE),
        REASON_CONNECT_TIMEOUT, "slow.example was not resolved within 30 ms");
    told = fetch_url(rig, "http://slow.example/"); /* its proxy ends before the answer */
    rig_free(rig);
    assert_int_equal(told->calls, 0);
    free(told);
    names_close(&names);
}

static void
asks_again_where_no_descriptor_was_left_for_asking(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names;
    struct rlimit limit, low;
    (void)state;
    names_open(&names, rig);
    int next = dup(names.fd);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = (struct rlimit){(rlim_t)next, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    expect_told(rig, fetch_url(rig, "http://a.example/"), REASON_SHED, "a.example cannot be looked up");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    expect_served(rig, &names, fetch_url(rig, "http://a.example:%u/", rig->backend_port[0]), "a.example");
    rig_free(rig);
    names_close(&names);
}

/* resolv.conf names another server: a container's network came up after us. */
static void
reads_its_servers_again_when_the_file_changes(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct names names, later;
    (void)state;
    names_open(&names, rig);
    names.has_a = false;
    struct told *told = fetch_url(rig, "http://one.example/");
    RIG_WAIT(rig, "its end", (names_serve(&names), told->calls) == 1);
    RIG_WAIT(rig, "all answers", (names_serve(&names), names.asked) == 2);
    free(told);
    names_open(&later, rig);
    assert_int_equal(rename(later.conf, names.conf), 0);
    assert_true(resolver_use(fetcher_get(rig->proxy), names.conf, names.hosts));
    expect_served(rig, &later, fetch_url(rig, "http://two.example:%u/", rig->backend_port[0]), "two.example");
    rig_free(rig);
    names_close(&names);
    names_close(&later);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_once_and_remembers_for_a_while),
        cmocka_unit_test(says_that_a_name_has_no_address),
        cmocka_unit_test(goes_on_to_the_next_address),
        cmocka_unit_test(honours_hosts_localhost_and_literals_without_asking),
        cmocka_unit_test(cancels_and_times_out_while_the_server_is_silent),
        cmocka_unit_test(asks_again_where_no_descriptor_was_left_for_asking),
        cmocka_unit_test(reads_its_servers_again_when_the_file_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
