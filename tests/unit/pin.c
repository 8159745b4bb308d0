/* Threads stay where they are pinned, pinning changes no bits, and memory is zero wherever it lies. */
#include "base/threads.h"

#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"
#include "suite.h"
#include "train/optim.h"
#include "gradients.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3 };

typedef struct {
    sl_cpu_mask mask[THREADS];
    int cpu[THREADS];
} seen;

static void look(void *ctx, int64_t i, int thread) {
    seen *s = ctx;
    (void)thread;
    memset(s->mask[i], 0, sizeof s->mask[i]);
    sched_getaffinity(0, sizeof s->mask[i], (cpu_set_t *)s->mask[i]);
    s->cpu[i] = sched_getcpu();
}

static void ends_and_makes_threads(void) {
#pragma omp parallel num_threads(2)
    omp_get_thread_num();
}

static void check_pinned(enum sl_pin pin, int threads) {
    sl_place place[THREADS];
    seen s;
    ck_assert_int_eq(sl_threads_start(threads, pin), 0);
    ck_assert_int_ge(sl_cpu_places(place, threads, pin), 1);
    for (int pass = 0; pass < 2; pass++) {
        sl_each_thread(threads, look, &s);
        for (int i = 0; i < threads; i++) {
            sl_cpu_mask want = {0};
            want[place[i].cpu / 8] = (unsigned char)(1 << place[i].cpu % 8);
            ck_assert_msg(!memcmp(s.mask[i], want, sizeof want), "thread %d, pass %d", i, pass);
            ck_assert_int_eq(s.cpu[i], place[i].cpu);
        }
        ends_and_makes_threads();
    }
}

START_TEST(pinned_and_free_again) {
    sl_cpu_mask before, now;
    sl_cpu c;
    seen s;
    sl_cpu_allowed(before);
    for (int threads = 1; threads <= THREADS; threads++) {
        check_pinned(SL_PIN_COMPACT, threads);
        check_pinned(SL_PIN_SPREAD, threads);
    }
    sl_cpu_allowed(now); /* what the process may use is not what this thread is bound to */
    ck_assert(!memcmp(before, now, sizeof now));
    sl_cpu_detect(&c);
    int bits = 0;
    for (size_t i = 0; i < sizeof before; i++)
        bits += __builtin_popcount(before[i]);
    ck_assert_int_eq(c.logical, bits);
    sl_threads_set(THREADS);
    sl_each_thread(THREADS, look, &s);
    for (int i = 0; i < THREADS; i++)
        ck_assert_msg(!memcmp(s.mask[i], before, sizeof before), "thread %d is still bound", i);
}
END_TEST

START_TEST(environment_decides) {
    sl_cpu_mask before;
    seen s;
    sl_cpu_allowed(before);
    setenv("OMP_PROC_BIND", "spread", 1);
    ck_assert_str_eq(sl_threads_bound_by(), "OMP_PROC_BIND");
    ck_assert_int_eq(sl_threads_start(THREADS, SL_PIN_SPREAD), 0);
    unsetenv("OMP_PROC_BIND");
    sl_each_thread(THREADS, look, &s);
    for (int i = 0; i < THREADS; i++)
        ck_assert(!memcmp(s.mask[i], before, sizeof before));
    ck_assert_ptr_null(sl_threads_bound_by());
}
END_TEST

/* The weights after two steps of a model with a large arena. */
static void train(enum sl_pin pin, int threads, float **weights, int64_t *floats) {
    sl_config c;
    int32_t in[8 * 128], target[8 * 128];
    sl_config_defaults(&c);
    c.model_layers = 2, c.model_dim = 192, c.model_heads = 3, c.model_ffn = 512, c.model_seq = 128;
    for (int i = 0; i < 8 * 128; i++)
        in[i] = i * 37 % 251, target[i] = i * 11 % 241;
    ck_assert_int_eq(sl_threads_start(threads, pin), 0);
    sl_model *m = sl_model_create(&c, 257, 8, 128, SL_MODEL_TRAINING);
    ck_assert_msg(m != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_model_init(m, 7), 0);
    sl_optim *o = sl_optim_create(m);
    for (int step = 1; step <= 2; step++) {
        forward_backward(m, in, target, 1);
        sl_optim_step(o, 1e-3, 1, step);
    }
    *floats = sl_model_params(m)->floats;
    *weights = malloc((size_t)*floats * sizeof(float));
    memcpy(*weights, sl_model_params(m)->w, (size_t)*floats * sizeof(float));
    ck_assert(sl_model_activation_bytes(m) > 4 << 20); /* placed page by page */
    sl_optim_free(o);
    sl_model_free(m);
}

START_TEST(same_bits) {
    float *a, *b;
    int64_t n, k;
    train(SL_PIN_OFF, 1, &a, &n);
    for (int i = 0; i < 3; i++) {
        train((enum sl_pin[]){SL_PIN_OFF, SL_PIN_COMPACT, SL_PIN_SPREAD}[i], 1 + i, &b, &k);
        ck_assert(n == k && !memcmp(a, b, (size_t)n * sizeof(float)));
        free(b);
    }
    free(a);
}
END_TEST

static void check_zero(char *p, size_t n) {
    ck_assert_msg(p != NULL, "%s", sl_error());
    ck_assert_uint_eq((uintptr_t)p % SL_ALIGN, 0);
    ck_assert_msg(n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1)), "%zu bytes", n);
    memset(p, 0xa5, n); /* all of it can be written; a block that follows must not see it */
    sl_free(p);
}

START_TEST(blocks) {
    static const size_t size[] = {0, 1, 63, 4096, 100001, (4 << 20) - 1, 4 << 20, (9 << 20) + 12345};
    for (int threads = 1; threads <= THREADS; threads += 2)
        for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
            sl_threads_set(threads);
            check_zero(sl_alloc(size[i], "a test"), size[i]);
            check_zero(sl_alloc_shared(size[i], "a test"), size[i]);
            check_zero(sl_alloc_threads(threads, size[i], "a test"), size[i] * (size_t)threads);
            char *p = sl_alloc_untouched(size[i], "a test");
            ck_assert_ptr_nonnull(p);
            sl_touch(p, size[i]);
            if (size[i] > 200)
                sl_touch(p + 64, size[i] - 100);
            check_zero(p, size[i]);
        }
    sl_free(NULL);
}
END_TEST

START_TEST(too_large) {
    ck_assert_ptr_null(sl_alloc(SIZE_MAX, "a test"));
    ck_assert_ptr_nonnull(strstr(sl_error(), "out of memory"));
    ck_assert_ptr_null(sl_alloc(SIZE_MAX / 2 - 4096, "a test"));
    ck_assert_ptr_null(sl_alloc_shared(SIZE_MAX - 64, "a test"));
    ck_assert_ptr_null(sl_alloc_threads(3, SIZE_MAX / 2, "a test"));
    ck_assert_ptr_null(sl_alloc_threads(0, 64, "a test"));
}
END_TEST

/* Of a large block every page has a node when it is handed out; of an untouched one no page has. */
START_TEST(pages_have_nodes) {
    enum { PAGES = 64, BYTES = 8 << 20 };
    char *block[3] = {sl_alloc(BYTES, "a test"), sl_alloc_shared(BYTES, "a test"),
                      sl_alloc_untouched(BYTES, "a test")};
    void *page[PAGES];
    int node[PAGES] = {0};
    const int *list;
    int nodes = sl_threads_nodes(&list);
    page[0] = node; /* on the stack: written */
    sl_page_nodes(1, page, node);
    bool told = node[0] >= 0; /* not without libnuma, nor in some containers */
    ck_assert_int_ge(nodes, 1);
    for (int b = 0; b < 3; b++) {
        for (int i = 0; i < PAGES; i++)
            page[i] = block[b] + (size_t)i * (BYTES / PAGES);
        sl_page_nodes(PAGES, page, node);
        for (int i = 0; i < PAGES; i++) {
            if (b == 2)
                ck_assert_int_eq(node[i], -1);
            else if (told)
                ck_assert_msg(node[i] >= 0, "block %d, page %d was not written", b, i);
            if (node[i] >= 0 && nodes == 1)
                ck_assert_int_eq(node[i], list[0]);
        }
        sl_free(block[b]);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("pin");
    TCase *t = tcase_create("pin");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, pinned_and_free_again);
    tcase_add_test(t, environment_decides);
    tcase_add_test(t, same_bits);
    tcase_add_test(t, blocks);
    tcase_add_test(t, too_large);
    tcase_add_test(t, pages_have_nodes);
    suite_add_tcase(s, t);
    return run_suite(s);
}
