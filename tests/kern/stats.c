#include "kern.h"
#include "ref.h"

enum { X, ABS, SQ, MAX };

static void call_abs_stats(const sl_kernels *t, const k_case *c) {
    t->abs_stats(c->buf[X].rows, c->buf[X].cols, k_f32(c, X), k_ld(c, X), k_f64(c, ABS),
                 k_f64(c, SQ), k_f32(c, MAX));
}

static void stats_case(k_case *c, int64_t rows, int64_t d, enum k_data kind) {
    int64_t ldx = k_stride(c, d);
    k_begin(c, call_abs_stats, NULL, "rows=%d d=%d ldx=%d %s", (int)rows, (int)d, (int)ldx,
            k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, rows, d, ldx);
    k_buf *abs = k_add(c, "sum_abs", K_F64, K_INOUT, 1, d, d);
    k_buf *sq = k_add(c, "sum_sq", K_F64, K_INOUT, 1, d, d);
    k_buf *max = k_add(c, "max_abs", K_F32, K_INOUT, 1, d, d);
    k_fill(c, x, kind);
    for (int64_t j = 0; j < d; j++) {
        ((double *)abs->init)[j] = 10 * sl_rng_uniform(&c->rng);
        ((double *)sq->init)[j] = 10 * sl_rng_uniform(&c->rng);
        /* a maximum that is NaN stays so */
        ((float *)max->init)[j] =
            kind == K_NAN && k_range(c, 0, 7) == 0 ? NAN : (float)sl_rng_uniform(&c->rng);
        long double a = (long double)((double *)abs->init)[j],
                    s = (long double)((double *)sq->init)[j];
        double m = (double)((float *)max->init)[j];
        for (int64_t i = 0; i < rows; i++) {
            double v = fabs((double)((float *)x->init)[i * d + j]);
            a += (long double)v, s += (long double)v * (long double)v;
            m = v > m || isnan(v) ? v : m;
        }
        double u = 0x1p-53 * (double)(rows + 1); /* rows additions and that of the old sum */
        k_want(abs, j, (double)a, isinf((double)a) ? 1 : rows ? u * (double)a : 0);
        k_want(sq, j, (double)s, isinf((double)s) ? 1 : rows ? u * (double)s : 0);
        k_want(max, j, m, 0);
    }
    k_run(c);
}

static void check_abs_stats(k_case *c) {
    static const int rows[] = {1, 3, 0, 2, 9, 17};
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++)
            stats_case(c, rows[k_range(c, 0, 5)], k_count(c, i), kind);
}

static void bench_abs_stats(k_case *c) {
    int64_t rows = 16, d = 768;
    k_begin(c, call_abs_stats, NULL, "16 rows of 768");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, rows, d, d), 0, 1);
    k_add(c, "sum_abs", K_F64, K_INOUT, 1, d, d);
    k_add(c, "sum_sq", K_F64, K_INOUT, 1, d, d);
    k_add(c, "max_abs", K_F32, K_INOUT, 1, d, d);
    c->bytes = (double)(4 * rows * d);
    c->flops = (double)(4 * rows * d);
}

const k_kernel k_stats[] = {K_KERNEL(abs_stats, check_abs_stats, bench_abs_stats, 0), {0}};
