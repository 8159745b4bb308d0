/* sl_parallel: every item once, whatever the numbers of items and threads; nobody waits for a slow item. */
#include "base/clock.h"
#include "base/threads.h"
#include "suite.h"

#include <stdatomic.h>

enum { MOST = 1000 };

typedef struct {
    atomic_int seen[MOST], done, wrong;
} record;

static void count_item(void *ctx, int64_t item, int thread) {
    record *r = ctx;
    if (item < 0 || item >= MOST || thread < 0 || thread >= sl_threads()) {
        atomic_fetch_add(&r->wrong, 1);
        return;
    }
    atomic_fetch_add(&r->seen[item], 1);
}

START_TEST(every_item_once) {
    static const int64_t items[] = {0, 1, 2, 3, 7, 64, MOST};
    for (int threads = 1; threads <= 5; threads++)
        for (size_t n = 0; n < sizeof items / sizeof *items; n++) {
            record r = {0};
            sl_threads_set(threads);
            sl_parallel(items[n], count_item, &r);
            ck_assert_int_eq(r.wrong, 0);
            for (int64_t i = 0; i < MOST; i++)
                ck_assert_int_eq(r.seen[i], i < items[n]);
        }
}
END_TEST

/* Item 0 ends only when all others have: its thread's share must have been taken by others. */
static void slow_first(void *ctx, int64_t item, int thread) {
    (void)thread;
    record *r = ctx;
    double start = sl_now();
    while (item == 0 && atomic_load(&r->done) < MOST - 1 && sl_now() - start < 20)
        ;
    atomic_fetch_add(&r->done, 1);
    if (item == 0)
        r->seen[0] = atomic_load(&r->done);
}

START_TEST(slow_item_holds_nobody_up) {
    record r = {0};
    sl_threads_set(2);
    sl_parallel(MOST, slow_first, &r);
    ck_assert_int_eq(r.seen[0], MOST);
}
END_TEST

int main(void) {
    Suite *s = suite_create("threads");
    TCase *t = tcase_create("threads");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, every_item_once);
    tcase_add_test(t, slow_item_holds_nobody_up);
    suite_add_tcase(s, t);
    return run_suite(s);
}
