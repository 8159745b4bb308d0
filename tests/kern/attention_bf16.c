#include "kern.h"

#include <math.h>
#include <string.h>

#define HALF 0x1.02p-8 /* rounding to 8 bits, and a little for its product with other errors */
#define EXP2_REL 0x1p-18
#define LEAST 0x1p-125 /* what an exponential is held above */
#define LOG2E 1.4426950408889634

struct tile {
    int64_t rows, n;
    sl_band band;
    float scale;
};

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    t->softmax_fwd_bf16(a->rows, a->n, k_f32(c, 0), k_ld(c, 0), a->band, a->scale, c->buf[1].p, k_ld(c, 1),
                        k_f32(c, 2), k_f32(c, 3));
}

static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    t->softmax_bwd_bf16(a->rows, a->n, k_f32(c, 0), k_f32(c, 1), k_ld(c, 0), a->band, a->scale, k_f32(c, 2),
                        k_f32(c, 3), c->buf[4].p, c->buf[5].p, k_ld(c, 4));
}

static int sees(const struct tile *a, int64_t row, int64_t column) {
    return column >= a->band.lo + row && column < a->band.hi + row;
}

/* Scores; what is not visible is never initialised in real use: NaN. */
static void fill_scores(k_case *c, const struct tile *a, k_buf *s, enum k_data kind) {
    if (kind == K_NORMAL)
        k_fill_normal(c, s, 0, 8);
    else
        k_fill(c, s, kind);
    for (int64_t i = 0; i < a->rows * a->n; i++)
        if (!sees(a, i / a->n, i % a->n))
            ((float *)s->init)[i] = NAN;
}

static void begin(k_case *c, k_call call, const struct tile *a, int64_t lds, enum k_data kind) {
    k_begin(c, call, a, "rows=%d n=%d lds=%d band=%d,%d scale=%g %s", (int)a->rows, (int)a->n, (int)lds,
            (int)a->band.lo, (int)a->band.hi, (double)a->scale, k_data_name(kind));
}

/* One row forward: z = scale*s. The exponent's error, in nats: the scale to base 2 (two roundings), the largest
 * score and the difference. */
static void want_row(k_case *c, const struct tile *a, int64_t i, k_buf *p, k_buf *inverse, k_buf *lse) {
    const float *s = (float *)c->buf[0].init + i * a->n;
    double m = -INFINITY, sum = 0, error = 0, depth = k_depth(c, a->n) + 1;
    for (int64_t j = 0; j < a->n; j++)
        if (sees(a, i, j) && (double)s[j] * (double)a->scale > m)
            m = (double)s[j] * (double)a->scale;
    for (int64_t j = 0; j < p->cols; j++) {
        if (j >= a->n || !sees(a, i, j)) {
            k_want(p, i * p->cols + j, 0, 0);
            continue;
        }
        double z = (double)s[j] * (double)a->scale, e = exp(z - m);
        double rel = U * (fabs(m) + 3 * fabs(z - m)) + EXP2_REL;
        k_want(p, i * p->cols + j, e, isfinite(z) ? e * (fmin(rel, 1) + HALF) + LEAST : LEAST);
        sum += e, error += e * fmin(rel, 1) + LEAST;
    }
    double rel = isfinite(sum) ? error / sum + depth * U : 0, l = (m + log(sum)) * LOG2E;
    k_want(inverse, i, 1 / sum, (rel + 2 * U) / sum);
    k_want(lse, i, l, isfinite(l) ? rel * LOG2E * 1.01 + U * (4 * fabs(m * LOG2E) + 4 * log2(sum) + fabs(l)) : 0);
}

static void forward_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n), wide = sl_bf16_kpad(a->n);
    begin(c, call_fwd, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *p = k_add(c, "p", K_BF16, K_OUT, a->rows, wide, k_stride(c, wide));
    k_buf *inverse = k_add(c, "inverse", K_F32, K_OUT, 1, a->rows, a->rows);
    k_buf *lse = k_add(c, "lse", K_F32, K_OUT, 1, a->rows, a->rows);
    fill_scores(c, a, s, kind);
    for (int64_t i = 0; i < a->rows; i++)
        want_row(c, a, i, p, inverse, lse);
    k_run(c);
}

static const float scales[] = {0.125f, 1.0f, 0.0883883461f};

/* Causal or windowed; each row sees something: hi >= 1 and lo + rows <= n. */
static struct tile forward_tile(k_case *c, int i) {
    struct tile a = {.n = k_count(c, i) ? k_count(c, i) : 5, .scale = scales[k_range(c, 0, 2)]};
    a.rows = k_range(c, 0, 2) ? k_range(c, 0, 5) : k_range(c, 6, 20);
    if (a.rows > a.n)
        a.rows = a.n;
    a.band.hi = k_range(c, 0, 2) == 0 ? a.n : k_range(c, 1, a.n);
    a.band.lo = k_range(c, 0, 1) ? -a.rows - a.n : k_range(c, -a.n, a.n - a.rows);
    if (a.band.lo >= a.band.hi)
        a.band.lo = a.band.hi - 1;
    return a;
}

static const enum k_data kinds[] = {K_NORMAL, K_CONST,   K_OUTLIER, K_OFFSET, K_DENORMAL,
                                    K_ZEROS,  K_EXPEDGE, K_NEGINF,  K_NAN,    K_POSINF};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void check_fwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int v = 0; v < KINDS; v++) {
            struct tile a = forward_tile(c, i);
            forward_case(c, &a, kinds[v]);
        }
}

/* lse: above every finite score of the column, as it is. */
static void fill_lse(k_case *c, const struct tile *a, const k_buf *s, k_buf *lse) {
    for (int64_t j = 0; j < a->n; j++) {
        double most = 0;
        for (int64_t i = 0; i < a->rows; i++) {
            double z = (double)((float *)s->init)[i * a->n + j] * (double)a->scale;
            if (sees(a, i, j) && isfinite(z) && (most == 0 || z > most))
                most = z;
        }
        ((float *)lse->init)[j] = (float)(most * LOG2E + (double)k_range(c, 0, 12) / 4);
    }
}

static void backward_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n), wide = sl_bf16_kpad(a->n), ldp = k_stride(c, wide);
    begin(c, call_bwd, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *dp = k_add(c, "dp", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *lse = k_add(c, "lse", K_F32, K_IN, 1, a->n, a->n);
    k_buf *delta = k_add(c, "delta", K_F32, K_IN, 1, a->n, a->n);
    k_buf *p = k_add(c, "p", K_BF16, K_OUT, a->rows, wide, ldp);
    k_buf *ds = k_add(c, "ds", K_BF16, K_OUT, a->rows, wide, ldp);
    fill_scores(c, a, s, kind);
    fill_scores(c, a, dp, K_ZEROS);
    fill_lse(c, a, s, lse);
    k_fill_normal(c, delta, 0, 0.5);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < wide; j++) {
            if (j >= a->n || !sees(a, i, j)) {
                k_want(p, i * wide + j, 0, 0);
                k_want(ds, i * wide + j, 0, 0);
                continue;
            }
            double z = (double)((float *)s->init)[i * a->n + j] * (double)a->scale * LOG2E;
            double y = (double)((float *)lse->init)[j] - z, e = exp2(-y);
            double g = (double)((float *)dp->init)[i * a->n + j] - (double)((float *)delta->init)[j];
            double rel = isfinite(z) ? fmin(0.7 * U * (2 * fabs(z) + fabs(y)) + EXP2_REL, 1) : 0;
            k_want(p, i * wide + j, e, e * (rel + HALF) + LEAST);
            k_want(ds, i * wide + j, e * g, fabs(g) * (e * (rel + 2 * U + HALF) + LEAST) + SMALLEST);
        }
    k_run(c);
}

static void check_bwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int v = 0; v < KINDS; v++) {
            struct tile a = {.rows = k_range(c, 0, 9), .n = k_count(c, i), .scale = scales[k_range(c, 0, 2)]};
            a.band.lo = k_range(c, -3, 40); /* rows may also see nothing */
            a.band.hi = k_range(c, 0, 1) ? a.n : a.band.lo + k_range(c, 0, 50);
            if (kinds[v] != K_POSINF) /* there is no lse above it */
                backward_case(c, &a, kinds[v]);
        }
}

/* ---- scale_rows_bf16: rounded as to_bf16, after one product */

static void call_scale(const sl_kernels *t, const k_case *c) {
    const k_buf *x = &c->buf[0];
    t->scale_rows_bf16(x->rows, x->cols, x->p, x->ld, k_f32(c, 1), c->buf[1].cols > 1 || x->rows == 1, c->buf[2].p,
                       k_ld(c, 2));
}

static void check_scale(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i), rows = k_range(c, 2, 6), factors = k_range(c, 0, 1) ? rows : 1;
            k_begin(c, call_scale, NULL, "rows=%d n=%d factors=%d %s", (int)rows, (int)n, (int)factors,
                    k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, rows, n, k_stride(c, n));
            k_buf *f = k_add(c, "factor", K_F32, K_IN, 1, factors, factors);
            k_buf *y = k_add(c, "y", K_BF16, K_OUT, rows, n, k_stride(c, n));
            k_fill(c, x, kind);
            k_fill_normal(c, f, 1, 0.3);
            for (int64_t j = 0; j < rows * n; j++) {
                double want = (double)((float *)x->init)[j] * (double)((float *)f->init)[factors > 1 ? j / n : 0];
                k_want(y, j, want, isfinite(want) ? fabs(want) * HALF + SMALLEST : 0);
            }
            k_run(c);
        }
}

/* ---- dot_rows_bf16 */

static void call_dot(const sl_kernels *t, const k_case *c) {
    const k_buf *x = &c->buf[0];
    t->dot_rows_bf16(x->rows, x->cols, x->p, x->ld, c->buf[1].p, k_ld(c, 1), k_f32(c, 2));
}

static void fill_bf16(k_case *c, k_buf *b) {
    sl_bf16 *x = b->init;
    for (int64_t i = 0; i < b->rows * b->cols; i++) /* both signs, about 2^-8 to 2^8, some zeros */
        x[i] = k_range(c, 0, 9) ? (sl_bf16)(k_range(c, 0, 1) << 15 | k_range(c, 119, 135) << 7 | k_range(c, 0, 127)) : 0;
}

static void check_dot(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i), rows = k_range(c, 0, 7);
        k_begin(c, call_dot, NULL, "rows=%d n=%d", (int)rows, (int)n);
        k_buf *x = k_add(c, "x", K_BF16, K_IN, rows, n, k_stride(c, n));
        k_buf *y = k_add(c, "y", K_BF16, K_IN, rows, n, k_stride(c, n));
        k_buf *r = k_add(c, "out", K_F32, K_OUT, 1, rows, rows);
        fill_bf16(c, x);
        fill_bf16(c, y);
        for (int64_t row = 0; row < rows; row++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < n; j++) {
                double term = value(((sl_bf16 *)x->init)[row * n + j]) * value(((sl_bf16 *)y->init)[row * n + j]);
                sum += term, size += fabs(term);
            }
            k_want(r, row, sum, (k_depth(c, n) + 1) * U * size);
        }
        k_run(c);
    }
}

/* ---- benchmarks: a block of attention over 256 keys */

enum { ROWS = 64, N = 256 };
static const struct tile bench_tile = {ROWS, N, {-N, N}, 0.125f};

static void bench_fwd(k_case *c) {
    begin(c, call_fwd, &bench_tile, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_add(c, "p", K_BF16, K_OUT, ROWS, N, N);
    k_add(c, "inverse", K_F32, K_OUT, 1, ROWS, ROWS);
    k_add(c, "lse", K_F32, K_OUT, 1, ROWS, ROWS);
    c->bytes = 6 * ROWS * N;
    c->flops = 4 * ROWS * N;
}

static void bench_bwd(k_case *c) {
    begin(c, call_bwd, &bench_tile, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "dp", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "lse", K_F32, K_IN, 1, N, N), 8, 0.1);
    k_fill_normal(c, k_add(c, "delta", K_F32, K_IN, 1, N, N), 0, 0.1);
    k_add(c, "p", K_BF16, K_OUT, ROWS, N, N);
    k_add(c, "ds", K_BF16, K_OUT, ROWS, N, N);
    c->bytes = 12 * ROWS * N;
    c->flops = 6 * ROWS * N;
}

static void bench_scale(k_case *c) {
    k_begin(c, call_scale, NULL, "256 rows of 64");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, N, ROWS, ROWS), 0, 1);
    k_fill_normal(c, k_add(c, "factor", K_F32, K_IN, 1, N, N), 1, 0.1);
    k_add(c, "y", K_BF16, K_OUT, N, ROWS, ROWS);
    c->bytes = 6 * ROWS * N;
    c->flops = ROWS * N;
}

static void bench_dot(k_case *c) {
    k_begin(c, call_dot, NULL, "256 rows of 64");
    fill_bf16(c, k_add(c, "x", K_BF16, K_IN, N, ROWS, ROWS));
    fill_bf16(c, k_add(c, "y", K_BF16, K_IN, N, ROWS, ROWS));
    k_add(c, "out", K_F32, K_OUT, 1, N, N);
    c->bytes = 4 * ROWS * N;
    c->flops = 2 * ROWS * N;
}

const k_kernel k_attention_bf16[] = {
    K_KERNEL(softmax_fwd_bf16, check_fwd, bench_fwd, 0),
    K_KERNEL(softmax_bwd_bf16, check_bwd, bench_bwd, 0),
    K_KERNEL(scale_rows_bf16, check_scale, bench_scale, 0),
    K_KERNEL(dot_rows_bf16, check_dot, bench_dot, 0),
    {0},
};
