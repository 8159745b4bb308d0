#include "kern.h"
#include "ref.h"

#include <math.h>
#include <string.h>

#define HALF 0x1.02p-8 /* rounding to 8 bits, and a little for its product with other errors */
#define EXP2_REL 0x1p-18
#define LEAST 0x1p-125 /* what the short exponential is held above */
#define LOG2E 1.4426950408889634

/* A kind that stands for each family of rows. */
enum family { SOFTMAX = SL_ROWS_softmax, CLIPPED = SL_ROWS_clipped,
              SIGMOID = SL_ROWS_sigmoid, RELU = SL_ROWS_relu };

struct tile {
    enum family family;
    int64_t rows, n;
    sl_attend a;
    int extra; /* with one extra logit a row */
};

static double value(sl_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

static const sl_attention_kernels *of(const sl_kernels *t, const struct tile *a) { return &t->attention[a->family]; }

static void call_fwd(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    of(t, a)->fwd(a->rows, a->n, k_f32(c, 0), k_ld(c, 0), &a->a, a->extra ? k_f32(c, 2) : NULL, k_f32(c, 1));
}
static void call_bwd(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    of(t, a)->bwd(a->rows, a->n, k_f32(c, 0), k_f32(c, 1), k_ld(c, 0), &a->a, k_f32(c, 2), k_f32(c, 3));
}
static void call_fwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    of(t, a)->fwd_bf16(a->rows, a->n, k_f32(c, 0), k_ld(c, 0), &a->a, a->extra ? k_f32(c, 4) : NULL, c->buf[1].p,
                       k_ld(c, 1), k_f32(c, 2), k_f32(c, 3));
}
static void call_bwd_bf16(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    of(t, a)->bwd_bf16(a->rows, a->n, k_f32(c, 0), k_f32(c, 1), k_ld(c, 0), &a->a, k_f32(c, 2), k_f32(c, 3),
                       c->buf[4].p, c->buf[5].p, k_ld(c, 4));
}
static void call_delta(const sl_kernels *t, const k_case *c) {
    const struct tile *a = c->arg;
    of(t, a)->delta_bf16(a->rows, a->n, k_f32(c, 0), k_f32(c, 1), k_ld(c, 0), &a->a, k_f32(c, 2), k_f32(c, 3));
}

static int sees(const struct tile *a, int64_t row, int64_t column) {
    return column >= a->a.band.lo + row && column < a->a.band.hi + row;
}

static int64_t count_seen(const struct tile *a, int64_t row) {
    int64_t seen = 0;
    for (int64_t j = 0; j < a->n; j++)
        seen += sees(a, row, j);
    return seen;
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
    k_begin(c, call, a, "kind=%d rows=%d n=%d lds=%d band=%d,%d scale=%g extra=%d %s", (int)a->family, (int)a->rows,
            (int)a->n, (int)lds, (int)a->a.band.lo, (int)a->a.band.hi, (double)a->a.scale, a->extra,
            k_data_name(kind));
}

static double at(const k_buf *b, int64_t i) { return (double)((float *)b->init)[i]; }

/* ---- references. The exponent's error in nats before exp is the relative error of exp: of rounding scale*s, and of
 * the difference with m; exps: the short exponential, whose scale to base 2 has two roundings of its own. */
static double exponent_error(double z, double m, int exps) {
    return U * (exps ? fabs(m) + 3 * fabs(z - m) + 2 * fabs(z) : fabs(z) + 3 * fabs(z - m));
}
static double exp_rel(int exps) { return exps ? EXP2_REL : EXP_REL; }

/* One element from its score, the gradient of its weight, and its query's statistic (natural) and delta. */
typedef struct {
    double p, ds, p_error, ds_error; /* ds: gradient of z */
    double q_g, q_g_error;           /* clipped: the term of delta */
} element;

static element clipped_of(const struct tile *a, double q, double q_error, double dp, double delta) {
    double y = (double)a->a.a * q + (double)a->a.b;
    double y_error = fabs((double)a->a.a) * q_error + U * (fabs((double)a->a.a * q) + fabs((double)a->a.b));
    double g = y > 0 && y < 1 ? (double)a->a.a * dp : 0, most = fabs((double)a->a.a * dp);
    double unsure = fabs(y) <= y_error || fabs(y - 1) <= y_error ? most : 0; /* on the other side of an edge? */
    element e = {.p = y < 0 ? 0 : y > 1 ? 1 : y, .p_error = y_error, .q_g = q * g};
    e.q_g_error = (q + q_error) * unsure + (q_error + 3 * U * q) * fabs(g);
    e.ds = q * (g - delta);
    e.ds_error = e.q_g_error + (q_error + 4 * U * q) * (fabs(g) + fabs(delta)) + 4 * TINY;
    return e;
}

static element element_of(const struct tile *a, double s, double dp, double stat, double delta, int exps) {
    double z = s * (double)a->a.scale;
    if (a->family == RELU) {
        double p = z > 0 ? z * stat : z > 0 || z <= 0 ? 0 : NAN, ds = z > 0 ? dp * stat : 0;
        return (element){p, ds, 3 * U * fabs(p) + TINY, 2 * U * fabs(ds) + TINY, 0, 0};
    }
    if (a->family == SIGMOID) {
        double y = z + (double)a->a.a, p = d_sigmoid(y), ds = p * d_sigmoid(-y) * dp, rel = 12 * U + U * fabs(y);
        return (element){p, ds, p * rel + SMALLEST, fabs(ds) * 2 * rel + (fabs(dp) + 1) * SMALLEST, 0, 0};
    }
    double q = exp(z - stat), least = exps ? LEAST : SMALLEST;
    double error = isfinite(z) ? q * (fmin(exponent_error(z, stat, exps) + exp_rel(exps) + U, 1)) + least : least;
    if (a->family == CLIPPED)
        return clipped_of(a, q, error, dp, delta);
    return (element){q, q * (dp - delta), error, fabs(dp - delta) * (error + 4 * U * q) + 4 * TINY, 0, 0};
}

/* Log of the sum of one row, and its error: of the sum, and of the logarithm. */
typedef struct {
    double max, lse, sum_error, lse_error;
} row_sum;

static row_sum sum_of(k_case *c, const struct tile *a, int64_t i, const k_buf *s, const double *extra, int exps) {
    double m = extra ? *extra : -INFINITY, sum = 0, error = 0;
    for (int64_t j = 0; j < a->n; j++)
        if (sees(a, i, j) && at(s, i * a->n + j) * (double)a->a.scale > m)
            m = at(s, i * a->n + j) * (double)a->a.scale;
    for (int64_t j = -1; j < a->n; j++) {
        if (j < 0 ? !extra : !sees(a, i, j))
            continue;
        double z = j < 0 ? *extra : at(s, i * a->n + j) * (double)a->a.scale, e = exp(z - m);
        sum += e;
        error += e == 0 ? LEAST : e * fmin(exponent_error(z, m, exps) + exp_rel(exps), 1) + LEAST;
    }
    row_sum r = {m, m + log(sum), error / sum + (k_depth(c, a->n) + 2) * U, 0};
    r.lse_error = r.sum_error * 1.01 + U * (2 * fabs(r.lse) + 6 * fabs(m) + 6 * log(sum));
    return r;
}

/* ---- forward, both precisions; finite kinds of scores and -inf, NaN where the softmax says what comes of them */

static const float scales[] = {0.125f, 1.0f, 0.0883883461f};

static struct tile tile_of(k_case *c, enum family family, int i) {
    struct tile a = {.family = family, .n = k_count(c, i) ? k_count(c, i) : 5, .extra = 0};
    a.a.scale = scales[k_range(c, 0, 2)];
    if (family == CLIPPED)
        a.a.a = 1.2f, a.a.b = -1.0f / (float)(2 * a.n);
    if (family == SIGMOID)
        a.a.a = -logf((float)a.n);
    return a;
}

/* Causal or windowed; each row sees something: hi >= 1 and lo + rows <= n. */
static struct tile forward_tile(k_case *c, enum family family, int i) {
    struct tile a = tile_of(c, family, i);
    a.rows = k_range(c, 0, 2) ? k_range(c, 0, 5) : k_range(c, 6, 20);
    if (a.rows > a.n)
        a.rows = a.n;
    a.a.band.hi = k_range(c, 0, 2) == 0 ? a.n : k_range(c, 1, a.n);
    a.a.band.lo = k_range(c, 0, 1) ? -a.rows - a.n : k_range(c, -a.n, a.n - a.rows);
    if (a.a.band.lo >= a.a.band.hi)
        a.a.band.lo = a.a.band.hi - 1;
    a.extra = family == SOFTMAX && k_range(c, 0, 1);
    return a;
}

/* The row's statistic, natural, in double, and its error as the kernel stores it. */
static double statistic(k_case *c, const struct tile *a, int64_t i, const k_buf *s, const k_buf *extra, int exps,
                        row_sum *sum) {
    double logit = extra ? at(extra, i) : 0;
    *sum = (row_sum){0};
    if (a->family == SIGMOID)
        return 0;
    if (a->family == RELU)
        return sum->lse_error = U, 1 / (double)count_seen(a, i);
    *sum = sum_of(c, a, i, s, extra ? &logit : NULL, exps && a->family == SOFTMAX);
    return sum->lse;
}

static void forward_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n);
    begin(c, call_fwd, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, a->rows, a->n, lds);
    k_buf *stat = k_add(c, "stat", K_F32, K_OUT, 1, a->rows, a->rows);
    k_buf *extra = a->extra ? k_add(c, "extra", K_F32, K_IN, 1, a->rows, a->rows) : NULL;
    fill_scores(c, a, s, kind);
    if (extra)
        k_fill_normal(c, extra, 0, 3);
    for (int64_t i = 0; i < a->rows; i++) {
        row_sum sum;
        double l = statistic(c, a, i, s, extra, 0, &sum);
        k_want(stat, i, l, sum.lse_error);
        for (int64_t j = 0; j < a->n; j++) {
            element e = element_of(a, at(s, i * a->n + j), 0, l, 0, 0);
            double p = e.p, more = a->family == RELU ? 0 : fabs(p) * sum.lse_error * 2;
            if (a->family == CLIPPED)
                more = (fabs(p) + fabs((double)a->a.b)) * sum.lse_error * 2;
            k_want(s, i * a->n + j, sees(a, i, j) ? p : 0, sees(a, i, j) ? e.p_error + more + 4 * U * fabs(p) : 0);
        }
    }
    k_run(c);
}

static void forward_bf16_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n), wide = sl_bf16_kpad(a->n);
    begin(c, call_fwd_bf16, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *p = k_add(c, "p", K_BF16, K_OUT, a->rows, wide, k_stride(c, wide));
    k_buf *inverse = k_add(c, "inverse", K_F32, K_OUT, 1, a->rows, a->rows);
    k_buf *stat = k_add(c, "stat", K_F32, K_OUT, 1, a->rows, a->rows);
    k_buf *extra = a->extra ? k_add(c, "extra", K_F32, K_IN, 1, a->rows, a->rows) : NULL;
    fill_scores(c, a, s, kind);
    if (extra)
        k_fill_normal(c, extra, 0, 3);
    for (int64_t i = 0; i < a->rows; i++) {
        row_sum sum;
        double l = statistic(c, a, i, s, extra, 1, &sum);
        double base = a->family == SOFTMAX || a->family == CLIPPED ? LOG2E : 1;
        double own = a->family == SOFTMAX ? exp(sum.max - l) : 1; /* the rows of the softmax are not divided */
        k_want(inverse, i, own, a->family == SOFTMAX ? own * (sum.sum_error * 1.01 + 2 * U) : 0);
        k_want(stat, i, l * base, base * (sum.lse_error + (base > 1 ? 2 * U * fabs(l) : 0)));
        for (int64_t j = 0; j < wide; j++) {
            if (j >= a->n || !sees(a, i, j)) {
                k_want(p, i * wide + j, 0, 0);
                continue;
            }
            element e = element_of(a, at(s, i * a->n + j), 0, a->family == SOFTMAX ? sum.max : l, 0, 1);
            double more = 2 * (fabs(e.p) + fabs((double)a->a.b)) * (sum.lse_error + 4 * U * fabs(l));
            k_want(p, i * wide + j, e.p, e.p_error + (a->family == CLIPPED ? more : 0) + fabs(e.p) * HALF + SMALLEST);
        }
    }
    k_run(c);
}

/* Scores that the softmax and the others have a value for. */
static const enum k_data kinds[] = {K_NORMAL, K_CONST, K_OUTLIER, K_OFFSET, K_ZEROS, K_EXPEDGE, K_NEGINF};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void each_case(k_case *c, enum family family, struct tile (*shape)(k_case *, enum family, int),
                      void (*check)(k_case *, const struct tile *, enum k_data)) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int v = 0; v < KINDS - (family != SOFTMAX); v++) {
            struct tile a = shape(c, family, i);
            check(c, &a, kinds[v]);
        }
}

/* ---- backward */

/* Like forward_tile, but a row may also see nothing. */
static struct tile backward_tile(k_case *c, enum family family, int i) {
    struct tile a = tile_of(c, family, i);
    a.rows = k_range(c, 0, 9);
    a.a.band.lo = k_range(c, -3, 40);
    a.a.band.hi = k_range(c, 0, 1) ? a.n : a.a.band.lo + k_range(c, 0, 50);
    return a;
}

/* A statistic for each query (rows of the fp32 tile, columns of the other): not below its scores. */
static void fill_stat(k_case *c, const struct tile *a, const k_buf *s, int columns, double base, k_buf *stat) {
    for (int64_t q = 0; q < stat->cols; q++) {
        double most = 0;
        for (int64_t k = 0; k < (columns ? a->rows : a->n); k++) {
            int64_t i = columns ? k : q, j = columns ? q : k;
            double z = at(s, i * a->n + j) * (double)a->a.scale;
            if (sees(a, i, j) && isfinite(z) && (most == 0 || z > most))
                most = z;
        }
        double l = most + (double)k_range(c, 0, 12) / 4;
        ((float *)stat->init)[q] = (float)(l * base);
        if (a->family == RELU || a->family == SIGMOID)
            ((float *)stat->init)[q] = 1.0f / (float)k_range(c, 1, 99);
    }
}

static void backward_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n);
    begin(c, call_bwd, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_INOUT, a->rows, a->n, lds);
    k_buf *dp = k_add(c, "dp", K_F32, K_INOUT, a->rows, a->n, lds);
    k_buf *stat = k_add(c, "stat", K_F32, K_IN, 1, a->rows, a->rows);
    k_buf *delta = k_add(c, "delta", K_F32, K_IN, 1, a->rows, a->rows);
    fill_scores(c, a, s, kind);
    fill_scores(c, a, dp, K_ZEROS);
    fill_stat(c, a, s, 0, 1, stat);
    k_fill_normal(c, delta, 0, 0.5);
    double scale = (double)a->a.scale;
    for (int64_t i = 0; i < a->rows; i++) {
        double del = at(delta, i), del_error = 0, size = 0;
        if (a->family == CLIPPED) {
            del = 0;
            for (int64_t j = 0; j < a->n; j++) {
                element e = element_of(a, at(s, i * a->n + j), at(dp, i * a->n + j), at(stat, i), 0, 0);
                if (sees(a, i, j))
                    del += e.q_g, del_error += e.q_g_error, size += fabs(e.q_g);
            }
            del_error += (k_depth(c, a->n) + 1) * U * size;
        }
        for (int64_t j = 0; j < a->n; j++) {
            element e = element_of(a, at(s, i * a->n + j), at(dp, i * a->n + j), at(stat, i), del, 0);
            int seen = sees(a, i, j);
            double q = a->family == CLIPPED ? exp(at(s, i * a->n + j) * scale - at(stat, i)) : 0;
            k_want(s, i * a->n + j, seen ? e.p : 0, seen ? e.p_error : 0);
            k_want(dp, i * a->n + j, seen ? e.ds * scale : 0,
                   seen ? scale * (e.ds_error + 1.01 * q * del_error + 2 * U * fabs(e.ds)) + 4 * TINY + SMALLEST : 0);
        }
    }
    k_run(c);
}

static void backward_bf16_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n), wide = sl_bf16_kpad(a->n), ldp = k_stride(c, wide);
    double base = a->family == SOFTMAX || a->family == CLIPPED ? LOG2E : 1;
    begin(c, call_bwd_bf16, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *dp = k_add(c, "dp", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *stat = k_add(c, "stat", K_F32, K_IN, 1, a->n, a->n);
    k_buf *delta = k_add(c, "delta", K_F32, K_IN, 1, a->n, a->n);
    k_buf *p = k_add(c, "p", K_BF16, K_OUT, a->rows, wide, ldp);
    k_buf *ds = k_add(c, "ds", K_BF16, K_OUT, a->rows, wide, ldp);
    fill_scores(c, a, s, kind);
    fill_scores(c, a, dp, K_ZEROS);
    fill_stat(c, a, s, 1, base, stat);
    k_fill_normal(c, delta, 0, 0.5);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < wide; j++) {
            element e = {0};
            int seen = j < a->n && sees(a, i, j);
            if (seen)
                e = element_of(a, at(s, i * a->n + j), at(dp, i * a->n + j), at(stat, j) / base, at(delta, j), 1);
            k_want(p, i * wide + j, e.p, seen ? e.p_error + fabs(e.p) * HALF + SMALLEST : 0);
            k_want(ds, i * wide + j, e.ds, seen ? e.ds_error * 1.01 + fabs(e.ds) * HALF + SMALLEST : 0);
        }
    k_run(c);
}

static void delta_case(k_case *c, const struct tile *a, enum k_data kind) {
    int64_t lds = k_stride(c, a->n);
    begin(c, call_delta, a, lds, kind);
    k_buf *s = k_add(c, "s", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *dp = k_add(c, "dp", K_F32, K_IN, a->rows, a->n, lds);
    k_buf *stat = k_add(c, "stat", K_F32, K_IN, 1, a->n, a->n);
    k_buf *delta = k_add(c, "delta", K_F32, K_INOUT, 1, a->n, a->n);
    fill_scores(c, a, s, kind);
    fill_scores(c, a, dp, K_ZEROS);
    fill_stat(c, a, s, 1, LOG2E, stat);
    k_fill_normal(c, delta, 0, 0.5);
    for (int64_t j = 0; j < a->n; j++) {
        double sum = at(delta, j), size = fabs(sum), error = 0;
        for (int64_t i = 0; i < a->rows; i++) {
            if (!sees(a, i, j))
                continue;
            element e = element_of(a, at(s, i * a->n + j), at(dp, i * a->n + j), at(stat, j) / LOG2E, 0, 1);
            sum += e.q_g, error += e.q_g_error, size += fabs(e.q_g);
        }
        k_want(delta, j, sum, error * 1.01 + (double)(a->rows + 1) * U * size);
    }
    k_run(c);
}

/* The softmax's ds against the complex step, in double. */
static void identity(k_case *c) {
    enum { D = 11 };
    double s[D], dp[D], p[D], delta = 0, scale = 0.25;
    struct tile a = {.family = SOFTMAX, .a = {.scale = (float)scale}};
    k_begin(c, NULL, NULL, "n=%d, in double", D);
    for (int j = 0; j < D; j++)
        s[j] = 4 * sl_rng_normal(&c->rng), dp[j] = sl_rng_normal(&c->rng);
    double lse = d_softmax(D, s, scale, p);
    for (int j = 0; j < D; j++)
        delta += p[j] * dp[j];
    for (int v = 0; v < D; v++) {
        double complex z[D], zp[D], loss = 0;
        for (int j = 0; j < D; j++)
            z[j] = j == v ? Z_STEP(s[j]) : s[j];
        z_softmax(D, z, scale, zp);
        for (int j = 0; j < D; j++)
            loss += dp[j] * zp[j];
        k_identity(c, "ds", element_of(&a, s[v], dp[v], lse, delta, 0).ds * scale, Z_SLOPE(loss), 10);
    }
}

#define CHECKS(name, family)                                                                                           \
    static void check_##name##_fwd(k_case *c) { each_case(c, family, forward_tile, forward_case); }                    \
    static void check_##name##_bwd(k_case *c) { identity(c), each_case(c, family, backward_tile, backward_case); }     \
    static void check_##name##_fwd_bf16(k_case *c) { each_case(c, family, forward_tile, forward_bf16_case); }          \
    static void check_##name##_bwd_bf16(k_case *c) { each_case(c, family, backward_tile, backward_bf16_case); }
CHECKS(softmax, SOFTMAX)
CHECKS(clipped, CLIPPED)
CHECKS(sigmoid, SIGMOID)
CHECKS(relu, RELU)
static void check_delta(k_case *c) { each_case(c, CLIPPED, backward_tile, delta_case); }

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

static void call_dot_rows(const sl_kernels *t, const k_case *c) {
    const k_buf *x = &c->buf[0];
    t->dot_rows_bf16(x->rows, x->cols, x->p, x->ld, c->buf[1].p, k_ld(c, 1), k_f32(c, 2));
}

static void fill_bf16(k_case *c, k_buf *b) {
    sl_bf16 *x = b->init;
    for (int64_t i = 0; i < b->rows * b->cols; i++) /* both signs, about 2^-8 to 2^8, some zeros */
        x[i] =
            k_range(c, 0, 9) ? (sl_bf16)(k_range(c, 0, 1) << 15 | k_range(c, 119, 135) << 7 | k_range(c, 0, 127)) : 0;
}

static void check_dot_rows(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i), rows = k_range(c, 0, 7);
        k_begin(c, call_dot_rows, NULL, "rows=%d n=%d", (int)rows, (int)n);
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

static void call_dot_rows_mixed(const sl_kernels *t, const k_case *c) {
    const k_buf *y = &c->buf[1];
    t->dot_rows_mixed(y->rows, y->cols, k_f32(c, 0), y->p, y->ld, k_f32(c, 2));
}

static void check_dot_rows_mixed(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i), rows = k_range(c, 0, 11);
        k_begin(c, call_dot_rows_mixed, NULL, "rows=%d n=%d", (int)rows, (int)n);
        k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n);
        k_buf *y = k_add(c, "y", K_BF16, K_IN, rows, n, k_stride(c, n));
        k_buf *r = k_add(c, "out", K_F32, K_OUT, 1, rows, rows);
        k_fill(c, x, K_NORMAL);
        fill_bf16(c, y);
        for (int64_t row = 0; row < rows; row++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < n; j++) {
                double term = (double)((float *)x->init)[j] * value(((sl_bf16 *)y->init)[row * n + j]);
                sum += term, size += fabs(term);
            }
            k_want(r, row, sum, (k_depth(c, n) + 1) * U * size); /* additions, and one product */
        }
        k_run(c);
    }
}

static void call_dot(const sl_kernels *t, const k_case *c) {
    *k_f32(c, 2) = t->dot(c->buf[0].cols, k_f32(c, 0), k_f32(c, 1));
}

static void check_dot(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            k_begin(c, call_dot, NULL, "n=%d %s", (int)n, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n),
                  *y = k_add(c, "y", K_F32, K_IN, 1, n, n);
            k_buf *r = k_add(c, "result", K_F32, K_OUT, 1, 1, 1);
            k_fill(c, x, kind);
            k_fill(c, y, K_BIT(kind) & K_FINITE ? kind : K_NORMAL);
            double sum = 0, size = 0;
            for (int64_t j = 0; j < n; j++) {
                double term = (double)((float *)x->init)[j] * (double)((float *)y->init)[j];
                sum += term, size += fabs(term);
            }
            double depth = k_depth(c, n); /* of additions, and one product */
            k_want(r, 0, sum,
                   n == 0       ? 0
                   : isinf(sum) ? 1
                                : (depth + 1) * U * size + (double)n * TINY);
            k_run(c);
        }
}

/* ---- benchmarks: a block of attention over 256 keys */

enum { ROWS = 64, N = 256 };
#define BENCH_TILE(family) {family, ROWS, N, {{-N, N}, 0.125f, 1, 0}, 0}

static void bench_fwd(k_case *c, const struct tile *a) {
    begin(c, call_fwd, a, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, ROWS, N, N), 0, 1);
    k_add(c, "stat", K_F32, K_OUT, 1, ROWS, ROWS);
    c->bytes = 8 * ROWS * N;
    c->flops = 4 * ROWS * N;
}

static void bench_bwd(k_case *c, const struct tile *a) {
    begin(c, call_bwd, a, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_INOUT, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "dp", K_F32, K_INOUT, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "stat", K_F32, K_IN, 1, ROWS, ROWS), 5, 0.1);
    k_fill_normal(c, k_add(c, "delta", K_F32, K_IN, 1, ROWS, ROWS), 1, 0.1);
    c->bytes = 16 * ROWS * N;
    c->flops = 6 * ROWS * N;
}

static void bench_fwd_bf16(k_case *c, const struct tile *a) {
    begin(c, call_fwd_bf16, a, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_add(c, "p", K_BF16, K_OUT, ROWS, N, N);
    k_add(c, "inverse", K_F32, K_OUT, 1, ROWS, ROWS);
    k_add(c, "stat", K_F32, K_OUT, 1, ROWS, ROWS);
    c->bytes = 6 * ROWS * N;
    c->flops = 4 * ROWS * N;
}

static void bench_bwd_bf16(k_case *c, const struct tile *a) {
    begin(c, call_bwd_bf16, a, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "dp", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "stat", K_F32, K_IN, 1, N, N), 8, 0.1);
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

static void bench_dot_rows(k_case *c) {
    k_begin(c, call_dot_rows, NULL, "256 rows of 64");
    fill_bf16(c, k_add(c, "x", K_BF16, K_IN, N, ROWS, ROWS));
    fill_bf16(c, k_add(c, "y", K_BF16, K_IN, N, ROWS, ROWS));
    k_add(c, "out", K_F32, K_OUT, 1, N, N);
    c->bytes = 4 * ROWS * N;
    c->flops = 2 * ROWS * N;
}

static void bench_dot_rows_mixed(k_case *c) {
    int64_t n = 2048, rows = 16;
    k_begin(c, call_dot_rows_mixed, NULL, "16 rows of 2048");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, n, n), 0, 1);
    fill_bf16(c, k_add(c, "y", K_BF16, K_IN, rows, n, n));
    k_add(c, "out", K_F32, K_OUT, 1, rows, rows);
    c->bytes = (double)(2 * n * rows);
    c->flops = (double)(2 * n * rows);
}

static void bench_dot(k_case *c) {
    int64_t n = 4096;
    k_begin(c, call_dot, NULL, "n=4096");
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, n, n), 0, 1);
    k_fill_normal(c, k_add(c, "y", K_F32, K_IN, 1, n, n), 0, 1);
    k_add(c, "result", K_F32, K_OUT, 1, 1, 1);
    c->bytes = (double)(8 * n);
    c->flops = (double)(2 * n);
}

static void bench_delta(k_case *c) {
    static const struct tile a = BENCH_TILE(CLIPPED);
    begin(c, call_delta, &a, N, K_NORMAL);
    k_fill_normal(c, k_add(c, "s", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "dp", K_F32, K_IN, ROWS, N, N), 0, 1);
    k_fill_normal(c, k_add(c, "stat", K_F32, K_IN, 1, N, N), 8, 0.1);
    k_fill_normal(c, k_add(c, "delta", K_F32, K_INOUT, 1, N, N), 0, 0.1);
    c->bytes = 8 * ROWS * N;
    c->flops = 4 * ROWS * N;
}

#define BENCHES(rows, family)                                                                                          \
    static const struct tile tile_##rows = BENCH_TILE(family);                                                         \
    static void bench_##rows##_fwd(k_case *c) { bench_fwd(c, &tile_##rows); }                                          \
    static void bench_##rows##_bwd(k_case *c) { bench_bwd(c, &tile_##rows); }                                          \
    static void bench_##rows##_fwd_bf16(k_case *c) { bench_fwd_bf16(c, &tile_##rows); }                                \
    static void bench_##rows##_bwd_bf16(k_case *c) { bench_bwd_bf16(c, &tile_##rows); }
BENCHES(softmax, SOFTMAX)
BENCHES(clipped, CLIPPED)
BENCHES(sigmoid, SIGMOID)
BENCHES(relu, RELU)

#define K_ROW(rows, member)                                                                                      \
    {"attend_" #rows "_" #member, offsetof(sl_kernels, attention[SL_ROWS_##rows].member), check_##rows##_##member,     \
     bench_##rows##_##member, 0}
#define K_ROWS(rows)                                                                                             \
    K_ROW(rows, fwd), K_ROW(rows, bwd), K_ROW(rows, fwd_bf16), K_ROW(rows, bwd_bf16)
const k_kernel k_attention[] = {
    K_ROWS(softmax),
    K_ROWS(clipped),
    K_ROWS(sigmoid),
    K_ROWS(relu),
    {"attend_clipped_delta_bf16", offsetof(sl_kernels, attention[SL_ROWS_clipped].delta_bf16), check_delta,
     bench_delta, 0},
    K_KERNEL(scale_rows_bf16, check_scale, bench_scale, 0),
    K_KERNEL(dot_rows_bf16, check_dot_rows, bench_dot_rows, 0),
    K_KERNEL(dot_rows_mixed, check_dot_rows_mixed, bench_dot_rows_mixed, 0),
    K_KERNEL(dot, check_dot, bench_dot, 0),
    {0},
};
