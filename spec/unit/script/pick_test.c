/* Who is offered to pick(), and what is told of it: core/script/pick.c, refresh.c. */
#include "spec/unit/script/picks.h"

#include "core/base/clock.h"

static void
gives_each_equal_backend_exactly_its_share_across_two_workers(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    uint32_t slots[3] = {fixture_endpoint(&f, 0, "x", SLOT_HEALTHY, 1),
        fixture_endpoint(&f, 0, "y", SLOT_HEALTHY, 1), fixture_endpoint(&f, 0, "z", SLOT_HEALTHY, 1)};
    fixture_load(&f);
    struct script *first = f.script;
    fixture_load(&f);
    struct script *both[2] = {first, f.script};
    int counts[3] = {0};
    for (int i = 0; i < 300; i++) {
        f.script = both[i * 7 % 10 < 4];
        uint32_t slot = fixture_pick(&f, 0);
        for (int j = 0; j < 3; j++)
            counts[j] += slot == slots[j];
    }
    assert_int_equal(counts[0], 100);
    assert_int_equal(counts[1], 100);
    assert_int_equal(counts[2], 100);
    script_free(first);
    f.script = both[1];
    fixture_fini(&f);
}

static void
gives_an_endpoint_that_is_half_warm_half_its_share(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    /* A machine that was just started has no 200 s behind it to have been up in. */
    uint64_t window = clock_now_us() / 2;
    f.services[0].slow_start_us = window;
    uint32_t old = fixture_endpoint(&f, 0, "old", SLOT_HEALTHY, 1);
    uint32_t young = fixture_endpoint(&f, 0, "young", SLOT_HEALTHY, 1);
    slot_at(f.shm, old)->up_us = clock_now_us() - window;
    fixture_load(&f);
    for (int tries = 0; f.script->by_slot[young]->effective_weight != 0.5; tries++) {
        assert_true(tries < 100); /* a step may end between the look at the clock and the refresh */
        slot_at(f.shm, young)->up_us = clock_now_us() - window / 2 - window / 100;
        f.script->ramp_due_us = 1;
        script_refresh(f.script);
    }
    int counts[2] = {0};
    for (int i = 0; i < 300; i++)
        counts[fixture_pick(&f, 0) == young]++;
    assert_int_equal(counts[0], 200);
    assert_int_equal(counts[1], 100);
    assert_true(f.script->ramp_due_us > clock_now_us());

    slot_at(f.shm, young)->up_us = clock_now_us() - window;
    f.script->ramp_due_us = 1; /* the step's time has come: nothing else tells the worker */
    script_refresh(f.script);
    assert_int_equal(f.script->ramp_due_us, 0);
    for (int i = 0; i < 200; i++)
        counts[fixture_pick(&f, 0) == young]++;
    assert_int_equal(counts[0], 300);
    assert_int_equal(counts[1], 200);

    slot_at(f.shm, young)->up_us = clock_now_us() - 1000;
    slot_set_state(f.shm, young, SLOT_SUSPECT, "its lease lapsed");
    uint64_t before = slot_at(f.shm, young)->up_us;
    slot_set_state(f.shm, young, SLOT_HEALTHY, "renewed");
    assert_true(slot_at(f.shm, young)->up_us == before); /* it was picked all the time */
    slot_set_state(f.shm, young, SLOT_UNHEALTHY, "gone bad");
    slot_set_state(f.shm, young, SLOT_HEALTHY, "good again");
    script_refresh(f.script);
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < 110; i++)
        counts[fixture_pick(&f, 0) == young]++;
    assert_int_equal(counts[1], 10); /* a tenth of a weight to begin with */
    fixture_fini(&f);
}

static void
picks_the_unhealthy_too_where_fewer_than_its_panic_share_are_healthy(void **state)
{
    struct fixture f;
    uint32_t slots[4];
    (void)state;
    fixture_init(&f);
    f.services[0].panic_percent = 50;
    for (int i = 0; i < 4; i++)
        slots[i] = fixture_endpoint(&f, 0, (const char *[]){"p", "q", "r", "s"}[i], SLOT_HEALTHY, 1);
    uint32_t closed = fixture_endpoint(&f, 0, "closed", SLOT_MAINTENANCE, 1);
    slot_set_state(f.shm, slots[0], SLOT_UNHEALTHY, "bad");
    slot_set_state(f.shm, slots[1], SLOT_EJECTED, "bad");
    fixture_load(&f);
    int counts[4] = {0};
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 40; i++) {
            uint32_t slot = fixture_pick(&f, 0);
            assert_int_not_equal(slot, closed);
            for (int j = 0; j < 4; j++)
                counts[j] += slot == slots[j];
        }
        if (round > 0) break;
        assert_int_equal(counts[0] + counts[1], 0); /* half are healthy: not fewer than 50 % */
        slot_set_state(f.shm, slots[2], SLOT_UNHEALTHY, "bad");
        script_refresh(f.script);
        memset(counts, 0, sizeof counts);
    }
    for (int j = 0; j < 4; j++)
        assert_int_equal(counts[j], 10);
    slot_set_state(f.shm, slots[2], SLOT_HEALTHY, "good");
    script_refresh(f.script);
    for (int i = 0; i < 10; i++) {
        uint32_t slot = fixture_pick(&f, 0);
        assert_true(slot == slots[2] || slot == slots[3]);
    }
    fixture_fini(&f);
}

static void
offers_the_best_tier_that_has_anybody(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    uint32_t good = fixture_endpoint(&f, 0, "good", SLOT_HEALTHY, 1);
    uint32_t suspect = fixture_endpoint(&f, 0, "suspect", SLOT_SUSPECT, 1);
    uint32_t fresh = fixture_endpoint(&f, 0, "fresh", SLOT_UNPROVEN, 1);
    uint32_t ejected = fixture_endpoint(&f, 0, "ejected", SLOT_EJECTED, 1);
    fixture_endpoint(&f, 0, "sick", SLOT_UNHEALTHY, 1);
    fixture_endpoint(&f, 0, "drain", SLOT_DRAINING, 1);
    fixture_endpoint(&f, 0, "closed", SLOT_MAINTENANCE, 1);
    fixture_endpoint(&f, 0, "zero", SLOT_HEALTHY, 0);
    fixture_load(&f);
    for (int i = 0; i < 20; i++) {
        uint32_t slot = fixture_pick(&f, 0);
        assert_true(slot == good || slot == suspect);
    }
    slot_set_state(f.shm, good, SLOT_UNHEALTHY, "gone bad");
    slot_set_state(f.shm, suspect, SLOT_UNHEALTHY, "gone bad");
    script_refresh(f.script);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), fresh);
    slot_remove(f.shm, fresh);
    script_refresh(f.script);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), ejected);
    slot_remove(f.shm, ejected);
    script_refresh(f.script);
    uint32_t slot;
    enum reason reason;
    assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_NONE);
    assert_int_equal(reason, REASON_ALL_UNHEALTHY);
    assert_int_equal(script_pick(f.script, fixture_request(&f, 1), &slot, &reason), SCRIPT_NONE);
    assert_int_equal(reason, REASON_NO_ENDPOINTS);
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

/* One request for each trial, over all workers, and none more until control has heard of it. */
static void
gives_one_request_to_what_is_on_trial_and_no_other_until_it_is_known(void **state)
{
    struct fixture f;
    struct script *both[2];
    enum reason reason;
    (void)state;
    fixture_init(&f);
    uint32_t good = fixture_endpoint(&f, 0, "good", SLOT_HEALTHY, 1);
    uint32_t bad = fixture_endpoint(&f, 0, "bad", SLOT_HEALTHY, 1);
    for (int i = 0; i < 2; i++) {
        fixture_load(&f);
        both[i] = f.script;
    }
    slot_eject(f.shm, bad, 1, 1, "bad");
    for (int i = 0; i < 2; i++)
        script_refresh(both[i]);
    for (int i = 0; i < 10; i++) {
        f.script = both[i % 2];
        assert_int_equal(fixture_pick(&f, 0), good);
    }
    slot_offer_trial(f.shm, bad, "on trial");
    for (int i = 0; i < 2; i++)
        script_refresh(both[i]);
    struct script_request on_trial = {0};
    for (int round = 0; round < 3; round++) {
        unsigned count = 0;
        for (int i = 0; i < 40; i++) {
            uint32_t slot = SLOT_NONE;
            f.script = both[i % 2];
            struct script_request *request = fixture_request(&f, 0);
            assert_int_equal(script_pick(f.script, request, &slot, &reason), SCRIPT_PICKED);
            assert_int_equal(request->trial, slot == bad ? bad + 1 : 0);
            if (slot != bad) continue;
            count++;
            on_trial = *request;
        }
        assert_int_equal(count, 1);
        assert_int_equal(atomic_load(&slot_at(f.shm, bad)->trial), TRIAL_TAKEN);
        if (round == 0) script_request_done(both[0], &on_trial); /* its client left */
        if (round == 1) {
            uint32_t slot; /* it picks again: it was not for this endpoint that it waited */
            on_trial.tried[0] = bad;
            on_trial.tried_count = 1;
            assert_int_equal(script_pick(both[0], &on_trial, &slot, &reason), SCRIPT_PICKED);
            assert_int_equal(slot, good);
        }
        if (round == 2) script_trial_end(both[0], &on_trial, TRIAL_FAILED);
        assert_int_equal(on_trial.trial, 0);
    }
    assert_int_equal(atomic_load(&slot_at(f.shm, bad)->trial), TRIAL_FAILED);
    for (int i = 0; i < 10; i++)
        assert_int_equal(fixture_pick(&f, 0), good);
    assert_int_equal(
        atomic_load(&shm_totals(f.shm)->script_fallbacks), 0); /* its strategy was not overruled */
    script_free(both[0]);
    f.script = both[1];
    fixture_fini(&f);
}

/* A strategy that keeps a table of its own cannot send a second one there. */
static void
puts_another_request_than_the_one_on_trial_elsewhere(void **state)
{
    struct fixture f;
    enum reason reason;
    uint32_t slot;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/keeps.lua",
        "return { new = function() return { on_change = function(self, b) self.kept = b[1] end, "
        "pick = function(self) return self.kept end } end }",
        "{}");
    uint32_t bad = fixture_endpoint(&f, 0, "a-bad", SLOT_HEALTHY, 1);
    uint32_t good = fixture_endpoint(&f, 0, "good", SLOT_HEALTHY, 1);
    slot_eject(f.shm, bad, 1, 1, "bad");
    slot_offer_trial(f.shm, bad, "on trial");
    fixture_load(&f);
    struct script_request first = *fixture_request(&f, 0);
    assert_int_equal(script_pick(f.script, &first, &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(slot, bad);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), good);
    slot_set_state(f.shm, good, SLOT_UNHEALTHY, "bad too"); /* then a trial is no reason to serve nobody */
    script_refresh(f.script);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), bad);
    script_trial_end(f.script, &first, TRIAL_OPEN);
    struct script_request *next = fixture_request(&f, 0);
    assert_int_equal(script_pick(f.script, next, &slot, &reason), SCRIPT_PICKED);
    assert_int_equal(next->trial, bad + 1);
    fixture_fini(&f);
}

static void
leaves_out_what_the_request_has_tried_and_then_asks_the_next_tier(void **state)
{
    struct fixture f;
    uint32_t slot;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    uint32_t fresh = fixture_endpoint(&f, 0, "fresh", SLOT_UNPROVEN, 1);
    fixture_load(&f);
    for (int i = 0; i < 10; i++) {
        struct script_request *request = fixture_request(&f, 0);
        request->tried[request->tried_count++] = a;
        assert_int_equal(script_pick(f.script, request, &slot, &reason), SCRIPT_PICKED);
        assert_int_equal(slot, b);
        request->tried[request->tried_count++] = b;
        assert_int_equal(script_pick(f.script, request, &slot, &reason), SCRIPT_PICKED);
        assert_int_equal(slot, fresh);
        request->tried[request->tried_count++] = fresh;
        assert_int_equal(script_pick(f.script, request, &slot, &reason), SCRIPT_NONE);
    }
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

static void
sees_the_active_requests_of_every_worker(void **state)
{
    struct fixture f;
    char file[600];
    (void)state;
    fixture_init(&f);
    snprintf(file, sizeof file, "%s/strategies/least_connections.lua", bundle_share_dir());
    f.services[0].strategy.file = file;
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    slot_begin(f.shm, 1, a);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), b);
    slot_end(f.shm, 1, a);
    slot_begin(f.shm, 2, b);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_pick(&f, 0), a);
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

static void
calls_on_change_when_a_weight_or_a_state_moves(void **state)
{
    struct fixture f;
    struct slot cold;
    static struct slot_text text;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/watch.lua",
        "local S = {} S.__index = S function S.new(o, s) return setmetatable({ service = s }, S) end "
        "function S:on_change(b) changes = (changes or 0) + 1 self.n = #b .. '/' .. "
        "#self.service:endpoints() end "
        "function S:pick(r, b) error(changes .. ' ' .. self.n .. ' ' .. b[1].weight, 0) end return S",
        "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_endpoint(&f, 1, "other", SLOT_HEALTHY, 1);
    fixture_load(&f);
    fixture_pick(&f, 0);
    assert_string_equal(last_error(&f), "pick: 1 2/2 1");
    assert_true(slot_read(f.shm, a, &cold, &text));
    slot_update(f.shm, a, 5, 8000, &text);
    script_refresh(f.script);
    fixture_pick(&f, 0);
    assert_string_equal(last_error(&f), "pick: 2 2/2 5");
    slot_set_state(f.shm, b, SLOT_UNHEALTHY, "test");
    script_refresh(f.script);
    fixture_pick(&f, 0);
    assert_string_equal(last_error(&f), "pick: 3 1/2 5");
    fixture_endpoint(&f, 1, "another service's", SLOT_HEALTHY, 1);
    script_refresh(f.script);
    fixture_pick(&f, 0);
    assert_string_equal(last_error(&f), "pick: 3 1/2 5");
    fixture_fini(&f);
}

static void
tells_the_strategy_how_an_attempt_ended(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    fixture_strategy(&f, 0, "/mem/results.lua",
        "local S = {} S.__index = S function S.new() return setmetatable({}, S) end "
        "function S:on_result(q, b, r) error(table.concat({ q.path, b.id, r.status, tostring(r.failure), "
        "r.latency, "
        "  tostring(r:header('Server')), q.ctx.mark }, ' '), 0) end "
        "function S:pick(q, b) q.ctx.mark = 'same ctx' return b[1] end return S",
        "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1), slot;
    enum reason reason;
    fixture_load(&f);
    fixture_header(&f, "Server", "nginx");
    assert_int_equal(script_pick(f.script, fixture_request(&f, 0), &slot, &reason), SCRIPT_PICKED);
    struct script_result result = {.status = 204, .latency_us = 2500, .headers = &f.headers};
    script_result(f.script, &f.request, a, &result);
    assert_string_equal(last_error(&f), "on_result: /things a 204 nil 0.0025 nginx same ctx");
    result = (struct script_result){.failure = REASON_CONNECT_REFUSED};
    script_result(f.script, &f.request, a, &result);
    assert_string_equal(last_error(&f), "on_result: /things a 0 connect_refused 0 nil same ctx");
    script_result(f.script, &f.request, 400, &result); /* no such slot: nothing */
    assert_int_equal(errors_of(&f, "a"), 2);
    script_request_done(f.script, &f.request);
    fixture_fini(&f);
}

static void
serves_ten_thousand_endpoints(void **state)
{
    struct fixture f;
    char id[32];
    (void)state;
    fixture_init(&f);
    shm_destroy(f.shm);
    f.shm =
        shm_create(&(struct shm_params){.max_endpoints = 10000, .stats_bytes = 4096, .ring_bytes = 65536});
    assert_non_null(f.shm);
    for (int i = 0; i < FIXTURE_SERVICES; i++) {
        assert_int_not_equal(shm_name_add(f.shm, slice_of(f.services[i].name)), UINT32_MAX);
    }
    for (int i = 0; i < 10000; i++) {
        snprintf(id, sizeof id, "backend-%05d", i);
        fixture_endpoint(&f, 0, id, SLOT_HEALTHY, 1 + (uint32_t)i % 5);
    }
    fixture_load(&f);
    for (int i = 0; i < 10000; i++)
        assert_int_not_equal(fixture_pick(&f, 0), SLOT_NONE);
    slot_set_state(f.shm, 17, SLOT_UNHEALTHY, "test");
    script_refresh(f.script);
    for (int i = 0; i < 10000; i++)
        assert_int_not_equal(fixture_pick(&f, 0), 17);
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

static uint32_t
slot_of_verdict(struct fixture *f, enum script_verdict expected, enum reason *reason)
{
    uint32_t slot;
    assert_int_equal(script_pick(f->script, fixture_request(f, 0), &slot, reason), expected);
    return slot;
}

static void
does_not_see_what_is_full(void **state)
{
    struct fixture f;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    f.services[0].queue.active_per_endpoint = 2;
    fixture_strategy(&f, 0, "/mem/first.lua",
        PICK("for _, b in ipairs(backends) do if b.full then error('full') end end return backends[1]"),
        "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_endpoint(&f, 0, "c", SLOT_UNPROVEN, 1);
    fixture_load(&f);
    slot_begin(f.shm, 3, a);
    assert_int_equal(fixture_pick(&f, 0), a);
    slot_begin(f.shm, 5, a);
    assert_int_equal(fixture_pick(&f, 0), b);
    slot_begin(f.shm, 0, b);
    slot_begin(f.shm, 0, b);
    assert_int_equal(slot_of_verdict(&f, SCRIPT_NONE, &reason), SLOT_NONE);
    assert_int_equal(reason, REASON_ALL_FULL);
    uint32_t slot;
    struct script_request *retry = fixture_request(&f, 0);
    retry->tried[retry->tried_count++] = a;
    assert_int_equal(script_pick(f.script, retry, &slot, &reason), SCRIPT_NONE);
    assert_int_equal(reason, REASON_ALL_FULL);
    assert_int_equal(slot, b); /* what alone it can wait for */
    slot_end(f.shm, 5, a);
    assert_int_equal(fixture_pick(&f, 0), a);
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

static void
waits_for_the_full_one_that_a_session_is_bound_to(void **state)
{
    struct fixture f;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    f.services[0].queue.active_per_endpoint = 1;
    fixture_strategy(&f, 0, "/mem/bound.lua",
        PICK("local b = request:bound('b') if b.full ~= (b.active == 1) then error('full') end return b"),
        "{}");
    fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1);
    uint32_t b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    assert_int_equal(fixture_pick(&f, 0), b);
    slot_begin(f.shm, 1, b);
    assert_int_equal(slot_of_verdict(&f, SCRIPT_QUEUE, &reason), b);
    assert_int_equal(reason, REASON_ALL_FULL);
    slot_end(f.shm, 1, b);
    assert_int_equal(fixture_pick(&f, 0), b);
    assert_int_equal(errors_of(&f, "a"), 0);
    fixture_fini(&f);
}

static void
falls_back_among_those_with_room(void **state)
{
    struct fixture f;
    enum reason reason;
    (void)state;
    fixture_init(&f);
    f.services[0].queue.active_per_endpoint = 1;
    fixture_strategy(&f, 0, "/mem/broken.lua", PICK("error('no')"), "{}");
    uint32_t a = fixture_endpoint(&f, 0, "a", SLOT_HEALTHY, 1),
             b = fixture_endpoint(&f, 0, "b", SLOT_HEALTHY, 1);
    fixture_load(&f);
    slot_begin(f.shm, 1, a);
    for (int i = 0; i < 20; i++)
        assert_int_equal(fixture_pick(&f, 0), b);
    slot_begin(f.shm, 1, b);
    assert_int_equal(slot_of_verdict(&f, SCRIPT_NONE, &reason), SLOT_NONE);
    assert_int_equal(reason, REASON_ALL_FULL);
    fixture_fini(&f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_equal_backend_exactly_its_share_across_two_workers),
        cmocka_unit_test(gives_an_endpoint_that_is_half_warm_half_its_share),
        cmocka_unit_test(picks_the_unhealthy_too_where_fewer_than_its_panic_share_are_healthy),
        cmocka_unit_test(offers_the_best_tier_that_has_anybody),
        cmocka_unit_test(gives_one_request_to_what_is_on_trial_and_no_other_until_it_is_known),
        cmocka_unit_test(puts_another_request_than_the_one_on_trial_elsewhere),
        cmocka_unit_test(leaves_out_what_the_request_has_tried_and_then_asks_the_next_tier),
        cmocka_unit_test(sees_the_active_requests_of_every_worker),
        cmocka_unit_test(calls_on_change_when_a_weight_or_a_state_moves),
        cmocka_unit_test(tells_the_strategy_how_an_attempt_ended),
        cmocka_unit_test(does_not_see_what_is_full),
        cmocka_unit_test(waits_for_the_full_one_that_a_session_is_bound_to),
        cmocka_unit_test(falls_back_among_those_with_room),
        cmocka_unit_test(serves_ten_thousand_endpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
