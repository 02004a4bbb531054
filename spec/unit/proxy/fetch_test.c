/* links: shm metrics config */
#include "spec/unit/proxy/fetch_rig.h"

#define OK2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"

/* The request that came on this connection, whole. */
static void
expect_request(struct rig *rig, struct heard *server, const char *text)
{
    rig_expect(rig, server, "\r\n\r\n");
    if (strcmp(server->text, text) != 0) fail_msg("expected \"%s\", got \"%s\"", text, server->text);
    rig_forget(server);
}

static struct heard *
served(struct rig *rig, unsigned i, const char *answer)
{
    struct heard *server = rig_backend(rig, i);
    rig_expect(rig, server, "\r\n\r\n");
    rig_forget(server);
    rig_say(rig, server, answer);
    return server;
}

static void
gets_an_answer_and_reuses_its_connection(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char expected[256];
    (void)state;
    struct told *told = fetch_url(rig, "http://127.0.0.1:%u/a//b?c=%%20d#e", rig->backend_port[0]);
    struct heard *server = rig_backend(rig, 0);
    snprintf(expected, sizeof expected,
        "GET /a//b?c=%%20d HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: fluxgate/" FLUXGATE_VERSION
        "\r\n\r\n",
        rig->backend_port[0]);
    expect_request(rig, server, expected);
    rig_say(rig, server, OK2);
    RIG_WAIT(rig, "the answer", told->calls == 1);
    assert_string_equal(told->header, "b");
    expect_answer(rig, told, 200, "ok");

    told = fetch_url(rig, "HTTP://127.0.0.1:%u?x", rig->backend_port[0]);
    rig_expect(rig, server, "GET /?x HTTP/1.1\r\n");
    rig_say(rig, server, "HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n");
    expect_answer(rig, told, 404, "");
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(server);
    rig_free(rig);
}

static void
sends_method_headers_and_body_and_no_framing_of_the_scripts(void **state)
{
    static const char *const dropped[] = {"Transfer-Encoding", "Content-Length", "Connection", "Upgrade",
        "Expect", "TE", "Keep-Alive", "Proxy-Connection"};
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64], expected[300];
    (void)state;
    snprintf(url, sizeof url, "http://localhost:%u/", rig->backend_port[0]);
    for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++) {
        struct told *told = fetch_with(rig,
            (struct asked){
                .method = "POST", .url = url, .name = dropped[i], .value = "5", .body = SLICE_LIT("hello")},
            REASON_NONE);
        struct heard *server = rig_backend(rig, 0);
        snprintf(expected, sizeof expected,
            "POST / HTTP/1.1\r\nHost: localhost:%u\r\nUser-Agent: fluxgate/" FLUXGATE_VERSION
            "\r\nContent-Length: 5\r\n\r\nhello",
            rig->backend_port[0]);
        rig_expect(rig, server, "hello");
        assert_string_equal(server->text, expected);
        rig_say(rig, server, OK2);
        expect_answer(rig, told, 200, "ok");
        rig_hang_up(server);
    }
    struct told *told = fetch_with(
        rig, (struct asked){.method = "PUT", .url = url, .name = "Host", .value = "a:1"}, REASON_NONE);
    struct heard *server = rig_backend(rig, 0);
    rig_expect(rig, server, "\r\n\r\n");
    assert_non_null(strstr(server->text, "\r\nHost: a:1\r\n"));
    assert_non_null(strstr(server->text, "\r\nContent-Length: 0\r\n"));
    rig_say(rig, server, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_hang_up(server);
    rig_free(rig);
}

/* Each answer split at every byte, on one connection or on as many as it takes. */
static void
reads_every_framing_whole_and_split_at_every_byte(void **state)
{
    static const struct {
        const char *method, *answer, *body;
        int status;
        bool ends;
    } cases[] = {
        {"GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: "
            "u\r\n\r\n",
            "abcde", 200, false},
        {"GET",
            "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: "
            "1\r\n\r\nx",
            "x", 201, false},
        {"GET", "HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end", 200, true},
        {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil", "until", 200, true},
        {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n", "", 200, false},
        {"GET", "HTTP/1.1 204 N\r\n\r\n", "", 204, false},
        {"GET", "HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n", "", 304, false},
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    struct heard *server = NULL;
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t len = strlen(cases[i].answer), cuts = cases[i].ends ? 2 : len;
        for (size_t cut = 0; cut < cuts; cut++) {
            struct told *told =
                fetch_with(rig, (struct asked){.method = cases[i].method, .url = url}, REASON_NONE);
            if (server == NULL) server = rig_backend(rig, 0);
            rig_expect(rig, server, "\r\n\r\n");
            rig_forget(server);
            rig_say_bytes(rig, server, cases[i].answer, cut);
            if (cut > 0) rig_turn(rig);
            rig_say_bytes(rig, server, cases[i].answer + cut, len - cut);
            if (cases[i].ends) {
                rig_hang_up(server);
                server = NULL;
            }
            expect_answer(rig, told, cases[i].status, cases[i].body);
        }
    }
    assert_false(rig_has_connection(rig, 0));
    rig_hang_up(server);
    rig_free(rig);
}

static void
refuses_answers_that_are_not_valid(void **state)
{
    static const struct {
        const char *answer;
        enum reason reason;
        const char *words;
    } cases[] = {
        {"SSH-2.0-x\r\n\r\n", REASON_BAD_RESPONSE, "status line"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", REASON_BAD_RESPONSE,
            "Length"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", REASON_BAD_RESPONSE,
            "together"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", REASON_BAD_RESPONSE, "chunked"},
        {"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", REASON_BAD_RESPONSE, "interim"},
        {"HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", REASON_BAD_RESPONSE, "header"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", REASON_LIMIT, "larger than 65536"},
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
        struct heard *server = served(rig, 0, cases[i].answer);
        expect_told(rig, told, cases[i].reason, cases[i].words);
        rig_expect_end(rig, server);
        rig_hang_up(server);
    }
    rig_free(rig);
}

static void
bounds_the_body_and_the_interim_answers(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct asked five = {.url = url, .max_body = 5};
    struct told *told = fetch_with(rig, five, REASON_NONE);
    struct heard *server = served(rig, 0, "HTTP/1.1 200 OK\r\n\r\nabcdef");
    expect_told(rig, told, REASON_LIMIT, "larger than 5");
    rig_hang_up(server);
    told = fetch_with(rig, five, REASON_NONE);
    server = served(rig, 0, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n1\r\nf\r\n");
    expect_told(rig, told, REASON_LIMIT, "larger than 5");
    rig_hang_up(server);
    told = fetch_with(rig, five, REASON_NONE);
    server = served(rig, 0, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
    expect_answer(rig, told, 200, "abcde");
    told = fetch_with(rig, five, REASON_NONE);
    for (int i = 0; i <= INTERIM_MAX; i++)
        rig_say(rig, server, "HTTP/1.1 102 P\r\n\r\n");
    expect_told(rig, told, REASON_BAD_RESPONSE, "interim");
    rig_hang_up(server);
    rig_free(rig);
}

static void
says_how_a_connection_failed(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    uint16_t closed;
    char words[64];
    (void)state;
    int fd = rig_listen(&closed);
    close(fd);
    snprintf(words, sizeof words, "connect refused by 127.0.0.1:%u", closed);
    expect_told(rig, fetch_url(rig, "http://127.0.0.1:%u/", closed), REASON_CONNECT_REFUSED, words);

    struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    rig_hang_up(served(rig, 0, ""));
    expect_told(rig, told, REASON_RESET_BEFORE_HEADERS, "before it answered");
    told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    rig_hang_up(served(rig, 0, "HTTP/1.1 200"));
    expect_told(rig, told, REASON_BAD_RESPONSE, "inside its answer's head");
    told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    rig_hang_up(served(rig, 0, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"));
    expect_told(rig, told, REASON_RESET_AFTER_HEADERS, "inside its answer");
    rig_free(rig);
}

static void
ends_at_its_timeout_whatever_it_waits_for(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct asked asked = {.url = url, .timeout_us = 300000};
    expect_told(
        rig, fetch_with(rig, asked, REASON_NONE), REASON_RESPONSE_TIMEOUT, "did not answer within 300 ms");
    struct heard *server = rig_backend(rig, 0);
    rig_expect_end(rig, server);
    rig_hang_up(server);
    struct told *told = fetch_with(rig, asked, REASON_NONE);
    server = served(rig, 0, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    expect_told(rig, told, REASON_RESPONSE_TIMEOUT, "did not answer within 300 ms");
    rig_hang_up(server);
    rig_free(rig);
}

static void
replays_on_a_fresh_connection_where_the_pooled_one_was_stale(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *told = fetch_url(rig, "%s", url);
    struct heard *server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    told = fetch_url(rig, "%s", url);
    rig_expect(rig, server, "\r\n\r\n");
    rig_hang_up(server); /* it has read the request: an RST or a FIN, and no answer */
    server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");

    /* What may have been executed is not sent twice. */
    told = fetch_with(rig, (struct asked){.method = "POST", .url = url}, REASON_NONE);
    rig_expect(rig, server, "POST");
    rig_hang_up(server);
    expect_told(rig, told, REASON_RESET_BEFORE_HEADERS, "");
    assert_false(rig_has_connection(rig, 0));
    rig_free(rig);
}

static struct wire *
idle_wire(struct rig *rig)
{
    assert_int_equal(rig->proxy->fetcher->idle_count, 1);
    return LINK_OF(rig->proxy->fetcher->idle.next, struct wire, link);
}

static void
posts_on_a_connection_that_idled_for_less_than_a_second(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *told = fetch_url(rig, "%s", url);
    struct heard *server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    idle_wire(rig)->idle_since_us -= FETCH_FRESH_US;
    told = fetch_with(rig, (struct asked){.method = "POST", .url = url}, REASON_NONE);
    struct heard *fresh = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    told = fetch_with(rig, (struct asked){.method = "POST", .url = url}, REASON_NONE);
    rig_expect(rig, fresh, "POST / ");
    rig_say(rig, fresh, OK2);
    expect_answer(rig, told, 200, "ok");
    assert_int_equal(server->len, 0);
    rig_hang_up(server);
    rig_hang_up(fresh);
    rig_free(rig);
}

static void
keeps_no_connection_that_is_not_to_be_trusted(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
        struct heard *server = served(rig, 0, answers[i]);
        expect_answer(rig, told, 200, "ok");
        assert_int_equal(rig->proxy->fetcher->idle_count, 0);
        rig_expect_end(rig, server);
        rig_hang_up(server);
    }
    struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct heard *server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_say(rig, server, "x"); /* idle, and it speaks */
    rig_expect_end(rig, server);
    rig_hang_up(server);
    assert_int_equal(rig->proxy->fetch_sockets, 0);
    rig_free(rig);
}

#define EVIL "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

static void
expect_no_idle_wire(struct told *told)
{
    assert_int_equal(told->rig->proxy->fetcher->idle_count, 0);
}

/* The next fetch would take it for its own, and may begin before the loop has looked at the connection. */
static void
takes_no_connection_on_which_an_answer_to_nobody_waits(void **state)
{
    enum { FIRST_READ = 4096 };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char full[FIRST_READ + sizeof EVIL], url[64];
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *told = fetch_url(rig, "%s", url);
    struct heard *server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_say(rig, server, EVIL);
    told = fetch_url(rig, "%s", url);
    struct heard *other = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_hang_up(other);

    int digits = FIRST_READ - (int)strlen("HTTP/1.1 200 OK\r\nX-A: \r\nContent-Length: 2\r\n\r\nok");
    snprintf(
        full, sizeof full, "HTTP/1.1 200 OK\r\nX-A: %0*d\r\nContent-Length: 2\r\n\r\nok" EVIL, digits, 0);
    RIG_WAIT(rig, "the connections' ends", rig->proxy->fetcher->idle_count == 0);
    told = fetch_url(rig, "%s", url);
    told->then = expect_no_idle_wire;
    other = served(rig, 0, full);
    expect_answer(rig, told, 200, "ok");
    rig_hang_up(server);
    rig_hang_up(other);
    rig_free(rig);
}

static void
moves_a_large_body_both_ways(void **state)
{
    enum { BYTES = 3 << 20 };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    char *body = malloc(BYTES), url[64], head[64];
    (void)state;
    memset(body, 'x', BYTES);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *told = fetch_with(rig,
        (struct asked){.method = "POST", .url = url, .body = {body, BYTES}, .max_body = BYTES}, REASON_NONE);
    struct heard *server = rig_backend(rig, 0);
    rig_expect(rig, server, "\r\n\r\n");
    for (size_t got = server->len; got < BYTES;) {
        rig_forget(server);
        heard_read(server);
        got += server->len;
        rig_turn(rig);
    }
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BYTES);
    rig_say(rig, server, head);
    rig_say_bytes(rig, server, body, BYTES);
    RIG_WAIT(rig, "the body", told->calls == 1);
    assert_int_equal(told->failure, REASON_NONE);
    assert_int_equal(told->body_len, BYTES);
    assert_int_equal(rig->proxy->fetcher->held, 0);
    free(told);
    free(body);
    rig_hang_up(server);
    rig_free(rig);
}

/* cancelling */

static void
cancel(struct told *told)
{
    proxy_enter(told->rig->proxy);
    fetch_cancel(told->fetch);
    proxy_leave(told->rig->proxy);
}

static void
cancels_in_every_state_without_a_word(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (int phase = 0; phase < 5; phase++) {
        struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
        struct heard *server = NULL;
        if (phase > 0) server = rig_backend(rig, 0);
        if (phase > 1) rig_expect(rig, server, "\r\n\r\n");
        if (phase == 2) rig_say(rig, server, "HTTP/1.1 200 OK\r\nCont");
        if (phase == 3) rig_say(rig, server, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        if (phase >= 2) rig_turn(rig);
        if (phase == 4) rig_say(rig, server, OK2);
        cancel(told);
        rig_turn(rig);
        assert_int_equal(told->calls, 0);
        free(told);
        if (server == NULL) server = rig_backend(rig, 0);
        rig_expect_end(rig, server);
        rig_hang_up(server);
    }
    struct told *told = fetch_url(rig, "http://127.0.0.1:1/"); /* refused: ended, and not told yet */
    RIG_WAIT(rig, "its turn", true);
    cancel(told);
    rig_turn(rig);
    assert_int_equal(told->calls, 0);
    assert_int_equal(rig->proxy->fetcher->count, 0);
    free(told);
    rig_free(rig);
}

static void
cancel_itself_and_the_other(struct told *told)
{
    fetch_cancel(told->fetch);
    fetch_cancel(told->other->fetch);
}

static void
cancels_from_within_done(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 2);
    (void)state;
    struct told *told = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    told->other = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[1]);
    told->then = cancel_itself_and_the_other;
    struct told *other = told->other;
    struct heard *server = served(rig, 0, OK2);
    expect_answer(rig, told, 200, "ok");
    rig_turn(rig);
    assert_int_equal(other->calls, 0);
    assert_int_equal(rig->proxy->fetcher->count, 0);
    free(other);
    rig_hang_up(server);
    rig_free(rig);
}

static void
ends_with_its_proxy(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    struct told *plain = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *service = fetch_url(rig, "service://web/");
    struct heard *one = rig_backend(rig, 0), *two = rig_backend(rig, 0);
    rig_free(rig);
    assert_int_equal(plain->calls + service->calls, 0);
    free(plain);
    free(service);
    rig_hang_up(one);
    rig_hang_up(two);
}

static void
begins_no_more_than_its_bound(void **state)
{
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    struct told *many[FETCHES_MAX];
    (void)state;
    for (unsigned i = 0; i < FETCHES_MAX; i++)
        many[i] = fetch_url(rig, "http://127.0.0.1:%u/", rig->backend_port[0]);
    struct told *refused = fetch_with(rig, (struct asked){.url = "http://127.0.0.1:1/"}, REASON_SHED);
    assert_non_null(strstr(refused->detail, "too many"));
    free(refused);
    for (unsigned i = 0; i < FETCHES_MAX; i++) {
        cancel(many[i]);
        free(many[i]);
    }
    expect_told(rig, fetch_url(rig, "http://127.0.0.1:1/"), REASON_CONNECT_REFUSED, "");
    assert_int_equal(rig->proxy->fetch_sockets, 0);
    rig_free(rig);
}

static void
begins_nothing_that_is_malformed(void **state)
{
    static const struct asked cases[] = {
        {.url = "ftp://a/"},
        {.url = "http://"},
        {.url = "http:///a"},
        {.url = "http://a b/"},
        {.url = "http://a/\r\nX: y"},
        {.url = "http://user:word@a/"},
        {.url = "http://a:0/"},
        {.url = "http://a:65536/"},
        {.url = "http://[::1/"},
        {.url = "http://a/\xc3\xa4"},
        {.url = "http://a/", .method = "GET /x"},
        {.url = "http://a/", .method = ""},
        {.url = "http://a/", .method = "CONNECT"},
        {.url = "http://a/", .name = "X y", .value = "z"},
        {.url = "http://a/", .name = "X", .value = "a\r\nb: c"},
        {.url = "http://a/", .name = "Host", .value = "a b"},
        {.url = "http://a/", .name = "Host", .value = ""},
    };
    struct rig *rig = rig_new(RIG_PLAIN, 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        free(fetch_with(rig, cases[i], REASON_BAD_REQUEST));
    assert_int_equal(rig->proxy->fetcher->count, 0);
    rig_free(rig);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gets_an_answer_and_reuses_its_connection),
        cmocka_unit_test(sends_method_headers_and_body_and_no_framing_of_the_scripts),
        cmocka_unit_test(reads_every_framing_whole_and_split_at_every_byte),
        cmocka_unit_test(refuses_answers_that_are_not_valid),
        cmocka_unit_test(bounds_the_body_and_the_interim_answers),
        cmocka_unit_test(says_how_a_connection_failed),
        cmocka_unit_test(ends_at_its_timeout_whatever_it_waits_for),
        cmocka_unit_test(replays_on_a_fresh_connection_where_the_pooled_one_was_stale),
        cmocka_unit_test(takes_no_connection_on_which_an_answer_to_nobody_waits),
        cmocka_unit_test(posts_on_a_connection_that_idled_for_less_than_a_second),
        cmocka_unit_test(keeps_no_connection_that_is_not_to_be_trusted),
        cmocka_unit_test(moves_a_large_body_both_ways),
        cmocka_unit_test(cancels_in_every_state_without_a_word),
        cmocka_unit_test(cancels_from_within_done),
        cmocka_unit_test(ends_with_its_proxy),
        cmocka_unit_test(begins_no_more_than_its_bound),
        cmocka_unit_test(begins_nothing_that_is_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
