#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/text.h"
#include "core/shm/shm_internal.h"

static struct shm *
make(uint32_t max_endpoints)
{
    struct shm *shm = shm_create(&(struct shm_params){.max_endpoints = max_endpoints});
    assert_non_null(shm);
    return shm;
}

static void
fill(struct slot_text *text, const char *id, char letter)
{
    memset(text, 0x5a, sizeof(*text)); /* what lies behind the NULs is the caller's rubbish */
    snprintf(text->id, sizeof(text->id), "%s", id);
    snprintf(text->host, sizeof(text->host), "10.0.0.1");
    snprintf(text->zone, sizeof(text->zone), "a");
    snprintf(text->reason, sizeof(text->reason), "new");
    memset(text->path_prefix, letter, sizeof(text->path_prefix) - 1);
    text->path_prefix[sizeof(text->path_prefix) - 1] = '\0';
    text->health_path[0] = '\0';
    memset(text->metadata, letter, sizeof(text->metadata) - 1);
    text->metadata[sizeof(text->metadata) - 1] = '\0';
    text->address_len = sizeof(text->address.v4);
    text->origin = 1;
    memset(&text->address, 0, sizeof(text->address.v4));
    text->address.v4.sin_family = AF_INET;
}

static uint32_t
claim(struct shm *shm, uint32_t service, const char *id)
{
    struct slot_text text;
    fill(&text, id, 'a');
    return slot_claim(shm, service, SLOT_UNPROVEN, 1, 80, &text);
}

static pid_t
child(void (*run)(struct shm *, unsigned), struct shm *shm, unsigned arg)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
        run(shm, arg);
        _exit(0);
    }
    return pid;
}

static void
join(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
claims_reads_updates_and_finds(void **state)
{
    (void)state;
    struct shm *shm = make(16);
    struct slot cold;
    struct slot_text text;
    uint64_t version = shm_endpoints_version(shm);
    uint32_t slot = claim(shm, 7, "users-1");
    assert_int_equal(slot, 0);
    assert_true(shm_endpoints_version(shm) > version);
    assert_int_equal(shm_slots(shm), 1);
    assert_true(slot_read(shm, slot, &cold, &text));
    assert_int_equal(cold.state, SLOT_UNPROVEN);
    assert_int_equal(cold.incarnation, 1);
    assert_int_equal(cold.service, 7);
    assert_true(cold.up_us != 0 && cold.up_us == cold.since_us);
    assert_string_equal(text.id, "users-1");
    assert_string_equal(text.health_path, "");

    uint64_t hash = cold.text_hash;
    version = shm_endpoints_version(shm);
    slot_update(shm, slot, 1, 80, &text);
    assert_int_equal(shm_endpoints_version(shm), version); /* nothing changed, nothing published */
    snprintf(text.host, sizeof(text.host), "10.0.0.2");
    slot_update(shm, slot, 5, 81, &text);
    assert_true(slot_read(shm, slot, &cold, &text));
    assert_int_equal(cold.weight, 5);
    assert_int_equal(cold.port, 81);
    assert_true(cold.text_hash != hash);
    assert_string_equal(text.host, "10.0.0.2");

    hash = cold.text_hash;
    version = shm_endpoints_version(shm);
    slot_set_state(shm, slot, SLOT_HEALTHY, "2 probes passed");
    assert_true(slot_read(shm, slot, &cold, &text));
    assert_int_equal(cold.state, SLOT_HEALTHY);
    assert_string_equal(text.reason, "2 probes passed");
    assert_true(cold.text_hash == hash && shm_endpoints_version(shm) == version + 1);
    slot_set_state(shm, slot, SLOT_HEALTHY, "3 probes passed");
    assert_int_equal(shm_endpoints_version(shm), version + 1);

    assert_int_equal(slot_find(shm, 7, slice_of("users-1")), slot);
    assert_int_equal(slot_find(shm, 8, slice_of("users-1")), SLOT_NONE);
    assert_int_equal(slot_find(shm, 7, slice_of("users")), SLOT_NONE);
    assert_null(slot_at(shm, 16));
    assert_false(slot_read(shm, 3, &cold, NULL));
    assert_false(slot_read(shm, UINT32_MAX, &cold, NULL));
    shm_destroy(shm);
}

static void
a_full_table_refuses(void **state)
{
    (void)state;
    struct shm *shm = make(3);
    char id[16];
    for (int i = 0; i < 3; i++) {
        snprintf(id, sizeof(id), "e%d", i);
        assert_int_equal(claim(shm, 0, id), i);
    }
    assert_int_equal(claim(shm, 0, "e3"), SLOT_NONE);
    shm_destroy(shm);
}

static void
a_gone_slot_waits_for_requests_and_views(void **state)
{
    (void)state;
    struct shm *shm = make(8);
    struct slot cold;
    uint32_t slot = claim(shm, 0, "a");
    struct shm_worker *worker = shm_worker(shm, 0);
    atomic_store(&worker->pid, 1234);
    atomic_store(&worker->endpoints_seen, shm_endpoints_version(shm));
    slot_begin(shm, 0, slot);
    slot_remove(shm, slot);
    assert_true(slot_read(shm, slot, &cold, NULL));
    assert_int_equal(cold.state, SLOT_GONE);
    assert_int_equal(slot_find(shm, 0, slice_of("a")), SLOT_NONE);
    assert_int_equal(shm_reap(shm), 0); /* neither seen nor idle */
    slot_end(shm, 0, slot);
    assert_int_equal(shm_reap(shm), 0); /* idle, not seen */
    uint32_t again = claim(shm, 0, "a");
    assert_int_not_equal(again, slot); /* the same id comes back elsewhere meanwhile */
    atomic_store(&worker->endpoints_seen, shm_endpoints_version(shm));
    assert_int_equal(shm_reap(shm), 1);
    assert_false(slot_read(shm, slot, &cold, NULL));
    assert_int_equal(slot_find(shm, 0, slice_of("a")), again);
    assert_int_equal(claim(shm, 0, "b"), slot);
    assert_true(slot_read(shm, slot, &cold, NULL));
    assert_int_equal(cold.incarnation, 2);
    shm_destroy(shm);
}

static void
a_dead_worker_holds_back_nothing(void **state)
{
    (void)state;
    struct shm *shm = make(8);
    uint32_t slot = claim(shm, 0, "a");
    atomic_store(&shm_worker(shm, 1)->pid, 99);
    for (int i = 0; i < 3; i++)
        slot_begin(shm, 1, slot);
    slot_begin(shm, 2, slot);
    assert_int_equal(slot_active(shm, slot), 4);
    shm_worker_reap(shm, 1);
    assert_int_equal(slot_active(shm, slot), 1);
    assert_int_equal(atomic_load(&shm_worker(shm, 1)->pid), 0);
    slot_end(shm, 1, slot); /* what the dead one held is not taken twice */
    assert_int_equal(slot_active(shm, slot), 1);
    slot_end(shm, 2, slot);
    slot_end(shm, 2, slot);
    assert_int_equal(slot_active(shm, slot), 0);
    slot_remove(shm, slot);
    assert_int_equal(shm_reap(shm), 1);
    assert_int_equal(shm_slots(shm), 0);
    shm_destroy(shm);
}

/* Against a model: find, claim and remove at random, the index always agrees. */
static void
the_index_agrees_with_a_model(void **state)
{
    (void)state;
    enum { IDS = 200 };
    struct shm *shm = make(128);
    uint32_t model[IDS], seed = 12345, live = 0;
    for (int i = 0; i < IDS; i++)
        model[i] = SLOT_NONE;
    for (int step = 0; step < 20000; step++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t which = (seed >> 8) % IDS;
        char id[16];
        snprintf(id, sizeof(id), "id-%u", which);
        assert_int_equal(slot_find(shm, which & 3, slice_of(id)), model[which]);
        if (model[which] == SLOT_NONE) {
            model[which] = claim(shm, which & 3, id);
            if (live >= 128) assert_int_equal(model[which], SLOT_NONE);
            if (model[which] != SLOT_NONE) live++;
        } else {
            slot_remove(shm, model[which]);
            model[which] = SLOT_NONE;
            live--;
            assert_int_equal(shm_reap(shm), 1);
        }
        if (step % 5000 == 2500) shm_control_adopt(shm);
    }
    shm_destroy(shm);
}

static void
hammer(struct shm *shm, unsigned worker)
{
    for (int i = 0; i < 20000; i++) {
        slot_begin(shm, worker, 0);
        slot_observe(shm, 0, 1000, false, clock_now_us());
        atomic_fetch_add(shm_counter(shm, slice_of("shared")), 1);
        if (i % 2 == 0) slot_end(shm, worker, 0);
    }
    for (int i = 0; i < 10000; i++)
        slot_end(shm, worker, 0);
}

static void
counts_are_exact_over_processes(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    pid_t pids[3];
    assert_int_equal(claim(shm, 0, "a"), 0);
    for (unsigned i = 0; i < 3; i++)
        pids[i] = child(hammer, shm, i);
    for (unsigned i = 0; i < 3; i++)
        join(pids[i]);
    assert_int_equal(slot_active(shm, 0), 0);
    assert_int_equal(atomic_load(&slot_at(shm, 0)->requests), 60000);
    assert_int_equal(atomic_load(shm_counter(shm, slice_of("shared"))), 60000);
    shm_destroy(shm);
}

static void
begin_for_ever(struct shm *shm, unsigned worker)
{
    for (uint32_t i = 0;; i++) {
        slot_begin(shm, worker, i & 1);
        if (i >= 64) slot_end(shm, worker, (i + 1) & 1);
    }
}

static void
a_killed_worker_leaves_no_count_behind(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    assert_int_equal(claim(shm, 0, "a"), 0);
    assert_int_equal(claim(shm, 0, "b"), 1);
    for (int round = 0; round < 30; round++) {
        pid_t pid = child(begin_for_ever, shm, 5);
        while (slot_active(shm, 0) == 0)
            sched_yield();
        for (int spin = 0; spin < round * 37; spin++)
            sched_yield();
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        shm_worker_reap(shm, 5);
        assert_int_equal(slot_active(shm, 0), 0);
        assert_int_equal(slot_active(shm, 1), 0);
    }
    shm_destroy(shm);
}

static void
rewrite_for_ever(struct shm *shm, unsigned arg)
{
    (void)arg;
    struct slot_text text;
    for (uint32_t i = 0;; i++) {
        fill(&text, "a", (char)('a' + i % 26));
        slot_update(shm, 0, i % 26, 1000 + i % 26, &text);
    }
}

static void
check_whole(const struct slot *cold, const struct slot_text *text)
{
    char letter = text->path_prefix[0];
    assert_int_equal(cold->weight + 1000, cold->port);
    assert_int_equal(strlen(text->path_prefix), sizeof(text->path_prefix) - 1);
    for (size_t i = 0; i < sizeof(text->path_prefix) - 1; i++)
        assert_int_equal(text->path_prefix[i], letter);
    for (size_t i = 0; i < sizeof(text->metadata) - 1; i++)
        assert_int_equal(text->metadata[i], letter);
    assert_int_equal(letter, 'a' + (char)cold->weight);
}

static void
readers_never_see_a_torn_row(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    struct slot cold;
    struct slot_text text;
    fill(&text, "a", 'a');
    assert_int_equal(slot_claim(shm, 0, SLOT_HEALTHY, 0, 1000, &text), 0);
    pid_t pid = child(rewrite_for_ever, shm, 0);
    uint64_t until = clock_now_us() + 300000, reads = 0;
    while (clock_now_us() < until || reads < 1000) {
        if (!slot_read(shm, 0, &cold, &text)) continue;
        check_whole(&cold, &text);
        reads++;
    }
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    shm_destroy(shm);
}

/* Control is killed at a random instruction, over and over; its successor finds every row whole or gone. */
static void
a_killed_control_is_repaired(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    struct slot cold;
    struct slot_text text;
    for (int round = 0; round < 40; round++) {
        shm_control_adopt(shm);
        uint32_t slot = slot_find(shm, 0, slice_of("a"));
        if (slot == SLOT_NONE) {
            fill(&text, "a", 'a');
            slot = slot_claim(shm, 0, SLOT_HEALTHY, 0, 1000, &text);
            if (slot != 0) break; /* torn once: the row went, as promised */
        }
        assert_true(slot_read(shm, slot, &cold, &text));
        check_whole(&cold, &text);
        uint64_t version = shm_endpoints_version(shm);
        pid_t pid = child(rewrite_for_ever, shm, 0);
        while (shm_endpoints_version(shm) < version + 10)
            sched_yield();
        for (int spin = 0; spin < round * 13; spin++)
            sched_yield();
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
    shm_destroy(shm);
}

static void
a_write_cut_off_is_kept_or_dropped_by_its_text(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    struct slot cold;
    struct slot_text *texts = shm_at(shm, shm->texts_at);
    uint32_t whole = claim(shm, 0, "whole"), torn = claim(shm, 0, "torn");
    atomic_fetch_add(&slot_at(shm, whole)->seq, 1);
    atomic_fetch_add(&slot_at(shm, torn)->seq, 1);
    texts[torn].metadata[10] ^= 1;
    assert_false(slot_read(shm, whole, &cold, NULL));
    assert_int_equal(atomic_load(&cold.seq) & 1, 1);
    uint64_t version = shm_endpoints_version(shm);
    shm_control_adopt(shm);
    assert_true(shm_endpoints_version(shm) > version);
    assert_true(slot_read(shm, whole, &cold, NULL));
    assert_int_equal(cold.state, SLOT_UNPROVEN);
    assert_int_equal(slot_find(shm, 0, slice_of("whole")), whole);
    assert_true(slot_read(shm, torn, &cold, NULL));
    assert_int_equal(cold.state, SLOT_GONE);
    assert_int_equal(slot_find(shm, 0, slice_of("torn")), SLOT_NONE);
    assert_int_equal(shm_reap(shm), 1);
    shm_destroy(shm);
}

static void
latency_follows_and_failures_never_flatter(void **state)
{
    (void)state;
    struct shm *shm = make(4);
    uint64_t now = 1000000000;
    assert_int_equal(claim(shm, 0, "a"), 0);
    slot_observe(shm, 0, 50000, false, now);
    assert_int_equal(slot_latency_us(shm, 0, now), 50000);
    slot_observe(shm, 0, 100, true, now += 5000000); /* refused at once */
    assert_true(slot_latency_us(shm, 0, now) >= 50000);
    assert_int_equal(atomic_load(&slot_at(shm, 0)->failures), 1);
    assert_int_equal(atomic_load(&slot_at(shm, 0)->errors), 1);
    slot_observe(shm, 0, 900000, true, now += 5000000);
    assert_true(slot_latency_us(shm, 0, now) > 200000);
    /* 1 ms apart at 2 ms of latency: five time constants bring it within 2 % of the truth, rounding included
     */
    for (int i = 0; i < 50000; i++)
        slot_observe(shm, 0, 2000, false, now += 1000);
    assert_in_range(slot_latency_us(shm, 0, now), 1900, 8000);
    for (int i = 0; i < 50000; i++)
        slot_observe(shm, 0, 2000, false, now += 1000);
    assert_in_range(slot_latency_us(shm, 0, now), 1900, 2100);
    assert_int_equal(atomic_load(&slot_at(shm, 0)->failures), 0);
    assert_true(slot_latency_us(shm, 0, now + 30000000) < 300); /* decays while nobody asks */
    uint32_t fresh = claim(shm, 0, "b");
    slot_observe(shm, fresh, 50, true, now);
    assert_true(slot_latency_us(shm, fresh, now) >= 1000000);
    shm_destroy(shm);
}

static void
an_ejection_has_an_end_and_one_trial(void **state)
{
    struct shm *shm = make(4);
    struct slot cold;
    struct slot_text text;
    (void)state;
    uint32_t slot = claim(shm, 1, "a");
    assert_false(slot_take_trial(shm, slot));
    slot_offer_trial(shm, slot, "not ejected");
    assert_false(slot_take_trial(shm, slot));
    slot_eject(shm, slot, 1234, 3, "bad");
    assert_true(slot_read(shm, slot, &cold, &text));
    assert_int_equal(cold.state, SLOT_EJECTED);
    assert_int_equal(cold.until_us, 1234);
    assert_int_equal(cold.ejections, 3);
    assert_string_equal(text.reason, "bad");
    assert_false(slot_take_trial(shm, slot));

    uint64_t version = shm_endpoints_version(shm);
    slot_offer_trial(shm, slot, "on trial");
    assert_true(shm_endpoints_version(shm) > version); /* the state is the same, yet workers must look */
    assert_true(slot_take_trial(shm, slot));
    assert_false(slot_take_trial(shm, slot));
    slot_end_trial(shm, slot, TRIAL_OPEN);
    assert_true(slot_take_trial(shm, slot));
    slot_end_trial(shm, slot, TRIAL_FAILED);
    slot_end_trial(shm, slot, TRIAL_PASSED); /* a late one says nothing any more */
    assert_int_equal(atomic_load(&slot_at(shm, slot)->trial), TRIAL_FAILED);
    version = shm_endpoints_version(shm);
    slot_eject(shm, slot, 5678, 4, "bad");
    assert_true(shm_endpoints_version(shm) > version);
    assert_int_equal(atomic_load(&slot_at(shm, slot)->trial), TRIAL_NONE);

    slot_offer_trial(shm, slot, "on trial");
    slot_set_state(shm, slot, SLOT_HEALTHY, "well");
    assert_true(slot_read(shm, slot, &cold, NULL));
    assert_int_equal(cold.until_us, 0);
    assert_int_equal(cold.ejections, 4); /* how long the next one lasts */
    assert_false(slot_take_trial(shm, slot));
    slot_remove(shm, slot);
    assert_int_equal(shm_reap(shm), 1);
    slot = claim(shm, 1, "b");
    assert_true(slot_read(shm, slot, &cold, NULL));
    assert_int_equal(cold.ejections, 0);
    shm_destroy(shm);
}

static void
counts_answers_of_5xx_apart_from_failures(void **state)
{
    struct shm *shm = make(4);
    (void)state;
    uint32_t at = claim(shm, 1, "a");
    struct slot *slot = slot_at(shm, at);
    slot_observe(shm, at, 1000, true, 1000000);
    slot_observe_error(shm, at, 1000, 2000000);
    slot_observe_error(shm, at, 1000, 3000000);
    assert_int_equal(atomic_load(&slot->requests), 3);
    assert_int_equal(atomic_load(&slot->errors), 1);
    assert_int_equal(atomic_load(&slot->server_errors), 2);
    assert_int_equal(atomic_load(&slot->error_row), 3);
    assert_int_equal(atomic_load(&slot->failures), 0);           /* it was there, and spoke HTTP */
    assert_true(atomic_load(&slot->latency_ewma_us) >= 1000000); /* none of this is a quick answer */
    slot_observe(shm, at, 1000, true, 4000000);
    assert_int_equal(atomic_load(&slot->failures), 1);
    slot_observe(shm, at, 1000, false, 5000000);
    assert_int_equal(atomic_load(&slot->failures), 0);
    assert_int_equal(atomic_load(&slot->error_row), 0);
    shm_destroy(shm);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_reads_updates_and_finds),
        cmocka_unit_test(a_full_table_refuses),
        cmocka_unit_test(a_gone_slot_waits_for_requests_and_views),
        cmocka_unit_test(a_dead_worker_holds_back_nothing),
        cmocka_unit_test(the_index_agrees_with_a_model),
        cmocka_unit_test(counts_are_exact_over_processes),
        cmocka_unit_test(a_killed_worker_leaves_no_count_behind),
        cmocka_unit_test(readers_never_see_a_torn_row),
        cmocka_unit_test(a_killed_control_is_repaired),
        cmocka_unit_test(a_write_cut_off_is_kept_or_dropped_by_its_text),
        cmocka_unit_test(latency_follows_and_failures_never_flatter),
        cmocka_unit_test(an_ejection_has_an_end_and_one_trial),
        cmocka_unit_test(counts_answers_of_5xx_apart_from_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
