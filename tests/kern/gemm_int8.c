/* Integer sums are exact: every result is compared to the last bit. */
#include "kern.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { NR = SL_INT8_NR, KR = SL_INT8_KR };

static void random_bytes(k_case *c, k_buf *b) {
    uint8_t *x = b->init;
    static const uint8_t edge[] = {0, 1, 127, 128, 129, 255};
    for (int64_t i = 0; i < b->rows * b->cols; i++)
        x[i] = k_range(c, 0, 3) ? (uint8_t)sl_rng_u32(&c->rng) : edge[k_range(c, 0, 5)];
}

/* ---- packing */

static void call_pack(const sl_kernels *t, const k_case *c) {
    t->pack_int8(c->buf[0].rows, c->buf[0].cols, c->buf[0].p, k_ld(c, 0), c->buf[1].p, c->buf[2].p);
}

static void describe_pack(k_case *c, int64_t n, int64_t k) {
    int64_t kp = sl_int8_kpad(k);
    k_begin(c, call_pack, NULL, "n=%d k=%d", (int)n, (int)k);
    k_buf *src = k_add(c, "src", K_I8, K_IN, n, k, k_stride(c, k));
    k_buf *panel = k_add(c, "panel", K_I8, K_OUT, 1, kp * NR, kp * NR);
    k_buf *sum = k_add(c, "sum", K_I32, K_OUT, 1, n, n);
    panel->align = 64;
    random_bytes(c, src);
    for (int64_t j = 0; j < n; j++)
        for (int64_t kk = 0; kk < k; kk++) {
            int8_t b = ((int8_t *)src->init)[j * k + kk];
            k_want(panel, kk / 4 * 4 * NR + j * 4 + kk % 4, b, 0);
            sum->want[j] += b;
        }
}

static void check_pack(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int j = 0; j < 3; j++) {
            describe_pack(c, j == 0 && i < 3 ? i : k_range(c, 1, NR), k_count(c, i));
            k_run(c);
        }
}

static void bench_pack(k_case *c) {
    describe_pack(c, NR, 384);
    c->bytes = 2 * NR * 384;
    c->flops = 0;
}

/* ---- the product */

struct gemm {
    int64_t m, n, k;
    int add;
};

static void call_gemm(const sl_kernels *t, const k_case *c) {
    const struct gemm *g = c->arg;
    t->gemm_int8(g->m, g->n, g->k, k_u8(c, 0), k_ld(c, 0), c->buf[1].p, c->buf[2].p, k_ld(c, 2), g->add);
}

static void describe_gemm(k_case *c, struct gemm g) {
    static struct gemm arg;
    arg = g;
    k_begin(c, call_gemm, &arg, "m=%d n=%d k=%d add=%d", (int)g.m, (int)g.n, (int)g.k, g.add);
    k_buf *a = k_add(c, "a", K_U8, K_IN, g.m, g.k, k_stride(c, g.k));
    k_buf *panel = k_add(c, "panel", K_I8, K_IN, 1, g.k * NR, g.k * NR);
    k_buf *out = k_add(c, "c", K_I32, g.add ? K_INOUT : K_OUT, g.m, g.n, k_stride(c, g.n));
    panel->align = 64;
    random_bytes(c, a);
    random_bytes(c, panel);
    for (int64_t i = 0; i < g.m * g.n && g.add; i++)
        ((int32_t *)out->init)[i] = (int32_t)sl_rng_u32(&c->rng) / 4;
    for (int64_t i = 0; i < g.m; i++)
        for (int64_t j = 0; j < g.n; j++) {
            int64_t sum = g.add ? ((int32_t *)out->init)[i * g.n + j] : 0;
            for (int64_t k = 0; k < g.k; k++)
                sum += ((uint8_t *)a->init)[i * g.k + k] * ((int8_t *)panel->init)[k / 4 * 4 * NR + 4 * j + k % 4];
            k_want(out, i * g.n + j, (double)sum, 0);
        }
}

/* All factors at the same end: what saturates in 16 bits, or in 32, would. */
static void extreme_case(k_case *c, uint8_t a, int8_t b, int64_t k) {
    describe_gemm(c, (struct gemm){5, 9, k, 0});
    memset(c->buf[0].init, a, (size_t)(5 * k));
    memset(c->buf[1].init, b, (size_t)(k * NR));
    for (int64_t i = 0; i < 5 * 9; i++)
        k_want(&c->buf[2], i, (double)(k * a * b), 0);
    k_run(c);
}

/* Tile state belongs to a thread: threads with other shapes side by side give what each gives alone. */
enum { THREADS = 4, SIDE_K = 128, SIDE_CALLS = 2000 };

typedef struct {
    const sl_kernels *k;
    const uint8_t *a;
    const int8_t *panel;
    int64_t m, n;
    int32_t want[40 * NR];
    int wrong;
} side;

static void *run_side(void *arg) {
    side *s = arg;
    int32_t got[40 * NR];
    for (int i = 0; i < SIDE_CALLS; i++) {
        s->k->gemm_int8(s->m, s->n, SIDE_K, s->a, SIDE_K, s->panel, got, s->n, 0);
        s->wrong |= memcmp(got, s->want, (size_t)(s->m * s->n) * sizeof *got) != 0;
    }
    return NULL;
}

static void check_threads(k_case *c) {
    static const int64_t m[THREADS] = {40, 5, 17, 32}, n[THREADS] = {32, 32, 7, 19};
    static _Alignas(64) uint8_t a[40 * SIDE_K];
    static _Alignas(64) int8_t panel[SIDE_K * NR];
    static side s[THREADS];
    pthread_t id[THREADS];
    int started = 0;
    for (int i = 0; i < 40 * SIDE_K; i++)
        a[i] = (uint8_t)sl_rng_u32(&c->rng);
    for (int i = 0; i < SIDE_K * NR; i++)
        panel[i] = (int8_t)sl_rng_u32(&c->rng);
    for (int t = 0; t < THREADS; t++) {
        s[t] = (side){.k = c->k, .a = a, .panel = panel, .m = m[t], .n = n[t]};
        c->k->gemm_int8(m[t], n[t], SIDE_K, a, SIDE_K, panel, s[t].want, n[t], 0);
    }
    while (started < THREADS && pthread_create(&id[started], NULL, run_side, &s[started]) == 0)
        started++;
    for (int t = 0; t < started; t++)
        pthread_join(id[t], NULL);
    for (int t = 0; t < THREADS; t++)
        if (t >= started || s[t].wrong)
            k_fail(c, t >= started ? "thread %d did not start" : "thread %d has other sums than alone", t);
}

static void check_gemm(k_case *c) {
    check_threads(c);
    for (int64_t n = 0; n <= NR; n++) /* every width, rows about the blocks of 4, 8, 12, 16 and 32 */
        for (int64_t m = 0; m <= 34; m += k_range(c, 1, 4)) {
            describe_gemm(c, (struct gemm){m, n, KR * k_range(c, 0, 3), (int)k_range(c, 0, 1)});
            k_run(c);
        }
    for (int64_t m = 30; m < 100; m++) {
        describe_gemm(c, (struct gemm){m, k_range(c, 1, NR), KR, (int)(m % 2)});
        k_run(c);
    }
    describe_gemm(c, (struct gemm){45, 27, 1152, 1});
    k_run(c);
    extreme_case(c, 255, 127, 256);
    extreme_case(c, 255, -128, 256);
    extreme_case(c, 255, 127, SL_INT8_MAX_K);
    extreme_case(c, 255, -127, SL_INT8_MAX_K);
}

static void bench_gemm(k_case *c) {
    struct gemm g = {96, NR, 384, 0};
    describe_gemm(c, g);
    c->bytes = (double)(g.m * g.k + g.k * NR + 4 * g.m * NR);
    c->flops = 2.0 * (double)(g.m * g.n * g.k);
}

/* ---- integers to numbers */

struct scaling {
    int32_t zero;
    int step_a, step_b, add, apart; /* apart: to another matrix than y */
};

static void call_scale(const sl_kernels *t, const k_case *c) {
    const struct scaling *s = c->arg;
    t->scale_int32(c->buf[0].rows, c->buf[0].cols, c->buf[0].p, k_ld(c, 0), s->zero, c->buf[1].p, k_f32(c, 2),
                   s->step_a, k_f32(c, 3), s->step_b, s->add ? k_f32(c, s->apart ? 5 : 4) : NULL, k_f32(c, 4),
                   k_ld(c, 4));
}

static void describe_scale(k_case *c, int64_t m, int64_t n, struct scaling s) {
    static struct scaling arg;
    arg = s;
    k_begin(c, call_scale, &arg, "m=%d n=%d zero=%d steps %d %d add=%d apart=%d", (int)m, (int)n, (int)s.zero,
            s.step_a, s.step_b, s.add, s.apart);
    k_buf *in = k_add(c, "c", K_I32, K_IN, m, n, k_stride(c, n)), *sum = k_add(c, "sum", K_I32, K_IN, 1, n, n);
    k_buf *a = k_add(c, "scale_a", K_F32, K_IN, 1, s.step_a ? m : 1, s.step_a ? m : 1);
    k_buf *b = k_add(c, "scale_b", K_F32, K_IN, 1, s.step_b ? n : 1, s.step_b ? n : 1);
    int64_t ldy = k_stride(c, n);
    k_buf *y = k_add(c, "y", K_F32, s.add && !s.apart ? K_INOUT : K_OUT, m, n, ldy);
    k_buf *plus = s.add && s.apart ? k_add(c, "plus", K_F32, K_IN, m, n, ldy) : y;
    k_fill_normal(c, a, 0, 1);
    k_fill_normal(c, b, 0, 1);
    if (s.add)
        k_fill_normal(c, plus, 0, 100);
    for (int64_t j = 0; j < n; j++)
        ((int32_t *)sum->init)[j] = (int32_t)k_range(c, -127 * SL_INT8_MAX_K, 127 * SL_INT8_MAX_K);
    for (int64_t i = 0; i < m * n; i++) {
        int64_t off = (int64_t)s.zero * ((int32_t *)sum->init)[i % n];
        int64_t exact = k_range(c, 0, 1) ? k_range(c, -1000, 1000) : k_range(c, -(1 << 30), 1 << 30);
        if (exact + off > INT32_MAX || exact + off < INT32_MIN)
            exact = 0;
        ((int32_t *)in->init)[i] = (int32_t)(exact + off);
        float v = (float)exact * ((float *)a->init)[i / n * s.step_a] * ((float *)b->init)[i % n * s.step_b];
        k_want(y, i, (double)(s.add ? v + ((float *)plus->init)[i] : v), 0);
    }
}

static void check_scale(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int j = 0; j < 16; j++) {
            static const int32_t zero[] = {0, 128, 255, 3};
            describe_scale(c, k_range(c, 0, 5), k_count(c, i),
                           (struct scaling){zero[k_range(c, 0, 3)], j & 1, j >> 1 & 1, j >> 2 & 1, j >> 3});
            k_run(c);
        }
}

static void bench_scale(k_case *c) {
    describe_scale(c, 96, 384, (struct scaling){128, 1, 1, 0, 0});
    c->bytes = 8 * 96 * 384;
    c->flops = 3 * 96 * 384;
}

/* ---- the yardstick */

enum { ROUNDS = 1000 };

static void call_peak(const sl_kernels *t, const k_case *c) {
    (void)c;
    t->peak_int8(ROUNDS);
}

static void check_peak(k_case *c) {
    int64_t one = c->k->peak_int8(1), many = c->k->peak_int8(ROUNDS);
    k_begin(c, call_peak, NULL, "rounds=%d", ROUNDS);
    if (one <= 0 || many != one * ROUNDS)
        k_fail(c, "%lld operations in one round, %lld in %d", (long long)one, (long long)many, ROUNDS);
    k_run(c);
}

static void bench_peak(k_case *c) {
    k_begin(c, call_peak, NULL, "%d rounds", ROUNDS);
    c->bytes = 0;
    c->flops = (double)c->k->peak_int8(ROUNDS);
}

const k_kernel k_gemm_int8[] = {
    K_KERNEL(gemm_int8, check_gemm, bench_gemm, K_SAME_BITS),
    K_KERNEL(pack_int8, check_pack, bench_pack, K_SAME_BITS),
    K_KERNEL(scale_int32, check_scale, bench_scale, K_SAME_BITS),
    K_KERNEL(peak_int8, check_peak, bench_peak, K_BY_TILE),
    {0},
};
