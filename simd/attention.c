/* Rows of attention: raw scores to weights and back, in fp32 and for bf16 products. Contracts in simd/kernels.h. */
#include "simd/reduce.h"
#include "simd/tier.h"
#include "simd/vec_math.h"

#define LOG2E 0x1.715476p+0f

/* 2^-y for y from -126 up; 2^-125 or less from 125 up. A polynomial for 2^-q, |q| <= 1/2, exact at 0: a relative
 * error below 2^-18, for what is then rounded to bf16. */
SL_VEC vf exp2_neg(vf y) {
    const vf magic = v_set1(0x1.8p23f); /* adding it rounds to an integer */
    y = v_min(v_set1(125.0f), y);       /* this order keeps NaN */
    vf n = v_sub(magic, v_add(y, magic)), q = v_add(y, n); /* y = -n + q */
    vf p = v_fma(v_set1(0x1.3a02ccp-7f), q, v_set1(-0x1.c9fc46p-5f));
    p = v_fma(p, q, v_set1(0x1.ec0378p-3f));
    p = v_fma(p, q, v_set1(-0x1.62e12cp-1f));
    p = v_fma(p, q, v_set1(1.0f));
    return v_scale2(p, n);
}

/* at(i, count, ...) over [lo, hi), cut where i is a multiple of VL, so that vectors of aligned rows stay aligned. */
#define V_SPAN(lo, hi, at, ...)                                                                    \
    do {                                                                                           \
        int64_t j_ = (lo), next_ = (j_ / VL + 1) * VL;                                             \
        if (j_ % VL != 0 && next_ <= (hi)) {                                                       \
            at(j_, (int)(next_ - j_), __VA_ARGS__);                                                \
            j_ = next_;                                                                            \
        }                                                                                          \
        for (; j_ + VL <= (hi); j_ += VL)                                                          \
            at(j_, VL, __VA_ARGS__);                                                               \
        if (j_ < (hi))                                                                             \
            at(j_, (int)((hi)-j_), __VA_ARGS__);                                                   \
    } while (0)

typedef struct {
    int64_t lo, hi;
} span;

/* The columns of row i within the band, of n. */
static inline span visible(sl_band band, int64_t i, int64_t n) {
    int64_t lo = band.lo + i, hi = band.hi + i;
    lo = lo < 0 ? 0 : lo > n ? n : lo;
    hi = hi < lo ? lo : hi > n ? n : hi;
    return (span){lo, hi};
}

SL_VEC void zero_at(int64_t i, int c, float *p) { v_store_n(p + i, v_zero(), c); }
SL_VEC void zero_bf16_at(int64_t i, int c, sl_bf16 *p) { v_store_bf16_n(p + i, v_zero(), c); }

SL_VEC void zero_outside(span s, int64_t n, float *p) {
    V_EACH(s.lo, zero_at, p);
    V_SPAN(s.hi, n, zero_at, p);
}
SL_VEC void zero_outside_bf16(span s, int64_t n, sl_bf16 *p) {
    V_EACH(s.lo, zero_bf16_at, p);
    V_SPAN(s.hi, sl_bf16_kpad(n), zero_bf16_at, p);
}

/* ---- one element of each kind of rows: its weight p, and the gradient ds of scale*s, from the score, the gradient dp
 * of the weight, and stat and delta of its query. <rows>_short: stat is a logarithm of base 2, c.scale has its
 * factor. */
typedef struct {
    vf scale, a, b;
} constants;

#define ELEMENT(name) SL_VEC void name(vf s, vf dp, vf stat, vf delta, constants c, vf *p, vf *ds)

ELEMENT(softmax) {
    *p = v_exp(v_fma(s, c.scale, v_neg(stat)));
    *ds = v_mul(*p, v_sub(dp, delta));
}
ELEMENT(softmax_short) {
    *p = exp2_neg(v_fnma(s, c.scale, stat));
    *ds = v_mul(*p, v_sub(dp, delta));
}

/* y = a q + b of the softmax's q, clipped to [0, 1]: no gradient outside. */
SL_VEC void clip(vf q, vf dp, vf delta, constants c, vf *p, vf *ds) {
    vf y = v_fma(q, c.a, c.b), one = v_set1(1.0f), g = v_mul(dp, c.a);
    *p = v_min(one, v_max(v_zero(), y));
    g = v_sel(v_gt(y, v_zero()), v_sel(v_lt(y, one), g, v_zero()), v_zero());
    *ds = v_mul(q, v_sub(g, delta));
}
ELEMENT(clipped) { clip(v_exp(v_fma(s, c.scale, v_neg(stat))), dp, delta, c, p, ds); }
ELEMENT(clipped_short) { clip(exp2_neg(v_fnma(s, c.scale, stat)), dp, delta, c, p, ds); }

ELEMENT(sigmoid) {
    (void)stat, (void)delta;
    vf rest;
    *p = v_sigmoid_pair(v_fma(s, c.scale, c.a), &rest);
    *ds = v_mul(dp, v_mul(*p, rest));
}
ELEMENT(sigmoid_short) { sigmoid(s, dp, stat, delta, c, p, ds); }

ELEMENT(relu) {
    (void)delta;
    vf z = v_mul(s, c.scale);
    *p = v_mul(v_max(v_zero(), z), stat);
    *ds = v_sel(v_gt(z, v_zero()), v_mul(dp, stat), v_zero());
}
ELEMENT(relu_short) { relu(s, dp, stat, delta, c, p, ds); }

/* What the short exponential multiplies scores with. */
static inline float softmax_factor(float scale) { return scale * LOG2E; }
static inline float clipped_factor(float scale) { return scale * LOG2E; }
static inline float sigmoid_factor(float scale) { return scale; }
static inline float relu_factor(float scale) { return scale; }

SL_VEC constants constants_of(const sl_attend *a, float scale) {
    return (constants){v_set1(scale), v_set1(a->a), v_set1(a->b)};
}

/* ---- backward, one template for all */
#define BACKWARD(name)                                                                                                 \
    SL_VEC void name##_bwd_at(int64_t i, int c, float *s, float *dp, constants k, vf scale, vf stat, vf delta) {       \
        vf p, ds;                                                                                                      \
        name(v_load_n(s + i, c), v_load_n(dp + i, c), stat, delta, k, &p, &ds);                                        \
        v_store_n(s + i, p, c);                                                                                        \
        v_store_n(dp + i, v_mul(ds, scale), c);                                                                        \
    }                                                                                                                  \
    static void name##_rows(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, const sl_attend *a,             \
                            const float *stat, const float *delta) {                                                   \
        constants k = constants_of(a, a->scale);                                                                       \
        for (int64_t i = 0; i < rows; i++, s += lds, dp += lds) {                                                      \
            span v = visible(a->band, i, n);                                                                           \
            V_SPAN(v.lo, v.hi, name##_bwd_at, s, dp, k, v_set1(a->scale), v_set1(stat[i]), v_set1(delta[i]));          \
            zero_outside(v, n, s);                                                                                     \
            zero_outside(v, n, dp);                                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    SL_VEC void name##_bwd_bf16_at(int64_t i, int c, const float *s, const float *dp, constants k, const float *stat,  \
                                   const float *delta, sl_bf16 *p, sl_bf16 *ds) {                                      \
        vf w, g;                                                                                                       \
        name##_short(v_load_n(s + i, c), v_load_n(dp + i, c), v_load_n(stat + i, c), v_load_n(delta + i, c), k, &w,    \
                     &g);                                                                                              \
        v_store_bf16_n(p + i, w, c);                                                                                   \
        v_store_bf16_n(ds + i, g, c);                                                                                  \
    }                                                                                                                  \
    void SL_FN(attend_##name##_bwd_bf16)(int64_t rows, int64_t n, const float *s, const float *dp, int64_t lds,        \
                                const sl_attend *a, const float *stat, const float *delta, sl_bf16 *p, sl_bf16 *ds,    \
                                int64_t ldp) {                                                                         \
        constants k = constants_of(a, name##_factor(a->scale));                                                        \
        for (int64_t i = 0; i < rows; i++, s += lds, dp += lds, p += ldp, ds += ldp) {                                 \
            span v = visible(a->band, i, n);                                                                           \
            V_SPAN(v.lo, v.hi, name##_bwd_bf16_at, s, dp, k, stat, delta, p, ds);                                      \
            zero_outside_bf16(v, n, p);                                                                                \
            zero_outside_bf16(v, n, ds);                                                                               \
        }                                                                                                              \
    }
BACKWARD(softmax)
BACKWARD(clipped)
BACKWARD(sigmoid)
BACKWARD(relu)

#define BACKWARD_ROWS(name)                                                                                            \
    void SL_FN(attend_##name##_bwd)(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, const sl_attend *a,     \
                           const float *stat, const float *delta) {                                                    \
        name##_rows(rows, n, s, dp, lds, a, stat, delta);                                                              \
    }
BACKWARD_ROWS(softmax)
BACKWARD_ROWS(sigmoid)
BACKWARD_ROWS(relu)

/* q g for the clipped softmax's delta = sum q g, g = a dp inside, 0 where clipped. */
SL_VEC vf clip_product(vf q, vf dp, constants c) {
    vf p, ds;
    clip(q, dp, v_zero(), c, &p, &ds);
    return ds;
}
SL_VEC void clipped_delta_at(int64_t i, int c, const float *s, const float *dp, constants k, vf stat, vf *sum) {
    vf q = v_exp(v_fma(v_load_n(s + i, c), k.scale, v_neg(stat)));
    *sum = v_add(*sum, v_head(clip_product(q, v_load_n(dp + i, c), k), c, v_zero()));
}
void SL_FN(attend_clipped_bwd)(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, const sl_attend *a,
                        const float *stat, const float *delta) {
    (void)delta;
    constants k = constants_of(a, a->scale);
    for (int64_t i = 0; i < rows; i++, s += lds, dp += lds) {
        span v = visible(a->band, i, n);
        sl_attend row = *a;
        vf sum = v_zero();
        V_SPAN(v.lo, v.hi, clipped_delta_at, s, dp, k, v_set1(stat[i]), &sum);
        float own = v_reduce_add(sum);
        row.band.lo += i, row.band.hi += i;
        clipped_rows(1, n, s, dp, lds, &row, stat + i, &own);
    }
}
SL_VEC void clipped_delta_bf16_at(int64_t i, int c, const float *s, const float *dp, constants k, const float *stat,
                                  float *delta) {
    vf q = exp2_neg(v_fnma(v_load_n(s + i, c), k.scale, v_load_n(stat + i, c)));
    v_store_n(delta + i, v_add(v_load_n(delta + i, c), clip_product(q, v_load_n(dp + i, c), k)), c);
}
void SL_FN(attend_clipped_delta_bf16)(int64_t rows, int64_t n, const float *s, const float *dp, int64_t lds,
                               const sl_attend *a, const float *stat, float *delta) {
    constants k = constants_of(a, clipped_factor(a->scale));
    for (int64_t i = 0; i < rows; i++, s += lds, dp += lds) {
        span v = visible(a->band, i, n);
        V_SPAN(v.lo, v.hi, clipped_delta_bf16_at, s, dp, k, stat, delta);
    }
}

/* ---- softmax forward */

/* Rows go in groups, one pass over all of them after the other: the latency at the end of a row's pass is hidden. */
enum { GROUP = 8 };

/* The largest scaled score, the extra one among them. */
static float top(span v, const float *s, float factor, const float *extra, float extra_factor) {
    float max = factor * row_max(v.hi - v.lo, s + v.lo);
    return extra && extra[0] * extra_factor > max ? extra[0] * extra_factor : max;
}

SL_VEC void exp_at(int64_t i, int c, float *s, vf scale, vf max, vf *sum) {
    vf e = v_exp(v_fma(v_load_n(s + i, c), scale, v_neg(max)));
    v_store_n(s + i, e, c);
    *sum = v_add(*sum, v_head(e, c, v_zero()));
}
SL_VEC void scale_at(int64_t i, int c, float *x, vf a) { v_store_n(x + i, v_mul(v_load_n(x + i, c), a), c); }

/* extra := e^(extra - max), and the rows' sums with it */
SL_VEC void add_extra_at(int64_t i, int c, const float *extra, const float *max, float *sum) {
    vf e = v_exp(v_sub(v_load_n(extra + i, c), v_load_n(max + i, c)));
    v_store_n(sum + i, v_add(v_load_n(sum + i, c), e), c);
}
SL_VEC void lse_at(int64_t i, int c, const float *max, const float *sum, float *lse) {
    v_store_n(lse + i, v_add(v_load_n(max + i, c), v_log(v_load_n(sum + i, c))), c);
}

void SL_FN(attend_softmax_fwd)(int64_t rows, int64_t n, float *s, int64_t lds, const sl_attend *a, const float *extra,
                        float *stat) {
    float max[GROUP], sums[GROUP];
    for (int64_t i = 0; i < rows; i += GROUP, s += GROUP * lds) {
        int64_t count = rows - i < GROUP ? rows - i : GROUP;
        for (int64_t r = 0; r < count; r++)
            max[r] = top(visible(a->band, i + r, n), s + r * lds, a->scale, extra ? extra + i + r : NULL, 1);
        for (int64_t r = 0; r < count; r++) {
            span v = visible(a->band, i + r, n);
            vf sum = v_zero();
            V_SPAN(v.lo, v.hi, exp_at, s + r * lds, v_set1(a->scale), v_set1(max[r]), &sum);
            sums[r] = v_reduce_add(sum);
        }
        if (extra)
            V_EACH(count, add_extra_at, extra + i, max, sums);
        for (int64_t r = 0; r < count; r++) {
            span v = visible(a->band, i + r, n);
            V_SPAN(v.lo, v.hi, scale_at, s + r * lds, v_set1(1.0f / sums[r]));
            zero_outside(v, n, s + r * lds);
        }
        V_EACH(count, lse_at, max, sums, stat + i);
    }
}

SL_VEC void exp_bf16_at(int64_t i, int c, const float *s, vf scale, vf max, sl_bf16 *p, vf *sum) {
    vf e = exp2_neg(v_fnma(v_load_n(s + i, c), scale, max));
    v_store_bf16_n(p + i, e, c);
    *sum = v_add(*sum, v_head(e, c, v_zero()));
}
SL_VEC void add_extra_bf16_at(int64_t i, int c, const float *extra, const float *max, float *sum) {
    vf e = exp2_neg(v_fnma(v_load_n(extra + i, c), v_set1(LOG2E), v_load_n(max + i, c)));
    v_store_n(sum + i, v_add(v_load_n(sum + i, c), e), c);
}
SL_VEC void finish_at(int64_t i, int c, const float *max, float *inverse, float *lse) {
    vf sum = v_load_n(inverse + i, c);
    v_store_n(lse + i, v_fma(v_log(sum), v_set1(LOG2E), v_load_n(max + i, c)), c);
    v_store_n(inverse + i, v_div(v_set1(1.0f), sum), c);
}

void SL_FN(attend_softmax_fwd_bf16)(int64_t rows, int64_t n, const float *s, int64_t lds, const sl_attend *a,
                             const float *extra, sl_bf16 *p, int64_t ldp, float *inverse, float *stat) {
    float max[GROUP], factor = softmax_factor(a->scale);
    for (int64_t i = 0; i < rows; i += GROUP) {
        int64_t count = rows - i < GROUP ? rows - i : GROUP;
        for (int64_t r = 0; r < count; r++)
            max[r] = top(visible(a->band, i + r, n), s + (i + r) * lds, factor, extra ? extra + i + r : NULL, LOG2E);
        for (int64_t r = 0; r < count; r++) {
            span v = visible(a->band, i + r, n);
            vf sum = v_zero(), most = v_set1(max[r]), scale = v_set1(factor);
            V_SPAN(v.lo, v.hi, exp_bf16_at, s + (i + r) * lds, scale, most, p + (i + r) * ldp, &sum);
            zero_outside_bf16(v, n, p + (i + r) * ldp);
            inverse[i + r] = v_reduce_add(sum);
        }
        if (extra)
            V_EACH(count, add_extra_bf16_at, extra + i, max, inverse + i);
        V_EACH(count, finish_at, max, inverse + i, stat + i);
    }
}

/* ---- the other kinds forward: a statistic of the row, then element by element; no extra */

SL_VEC void sum_at(int64_t i, int c, const float *s, vf scale, vf max, vf *sum) {
    vf e = v_exp(v_fma(v_load_n(s + i, c), scale, v_neg(max)));
    *sum = v_add(*sum, v_head(e, c, v_zero()));
}
SL_VEC float log_sum(float max, float sum) {
    float lse;
    v_store_n(&lse, v_add(v_set1(max), v_log(v_set1(sum))), 1);
    return lse;
}
SL_VEC float clipped_stat(span v, const float *s, const sl_attend *a) {
    float max = top(v, s, a->scale, NULL, 1);
    vf sum = v_zero();
    V_SPAN(v.lo, v.hi, sum_at, s, v_set1(a->scale), v_set1(max), &sum);
    return log_sum(max, v_reduce_add(sum));
}
SL_VEC float clipped_short_stat(span v, const float *s, const sl_attend *a) { return clipped_stat(v, s, a) * LOG2E; }
SL_VEC float sigmoid_stat(span v, const float *s, const sl_attend *a) {
    (void)v, (void)s, (void)a;
    return 0;
}
SL_VEC float sigmoid_short_stat(span v, const float *s, const sl_attend *a) { return sigmoid_stat(v, s, a); }
SL_VEC float relu_stat(span v, const float *s, const sl_attend *a) {
    (void)s, (void)a;
    return 1.0f / (float)(v.hi - v.lo);
}
SL_VEC float relu_short_stat(span v, const float *s, const sl_attend *a) { return relu_stat(v, s, a); }

#define FORWARD(name)                                                                                                  \
    SL_VEC void name##_fwd_at(int64_t i, int c, float *s, constants k, vf stat) {                                      \
        vf p, ds;                                                                                                      \
        name(v_load_n(s + i, c), v_zero(), stat, v_zero(), k, &p, &ds);                                                \
        v_store_n(s + i, p, c);                                                                                        \
    }                                                                                                                  \
    void SL_FN(attend_##name##_fwd)(int64_t rows, int64_t n, float *s, int64_t lds, const sl_attend *a,                \
                           const float *extra, float *stat) {                                                          \
        (void)extra;                                                                                                   \
        constants k = constants_of(a, a->scale);                                                                       \
        for (int64_t i = 0; i < rows; i++, s += lds) {                                                                 \
            span v = visible(a->band, i, n);                                                                           \
            stat[i] = name##_stat(v, s, a);                                                                            \
            V_SPAN(v.lo, v.hi, name##_fwd_at, s, k, v_set1(stat[i]));                                                  \
            zero_outside(v, n, s);                                                                                     \
        }                                                                                                              \
    }                                                                                                                  \
    SL_VEC void name##_fwd_bf16_at(int64_t i, int c, const float *s, constants k, vf stat, sl_bf16 *p) {               \
        vf w, ds;                                                                                                      \
        name##_short(v_load_n(s + i, c), v_zero(), stat, v_zero(), k, &w, &ds);                                        \
        v_store_bf16_n(p + i, w, c);                                                                                   \
    }                                                                                                                  \
    void SL_FN(attend_##name##_fwd_bf16)(int64_t rows, int64_t n, const float *s, int64_t lds, const sl_attend *a,     \
                                const float *extra, sl_bf16 *p, int64_t ldp, float *inverse, float *stat) {            \
        (void)extra;                                                                                                   \
        constants k = constants_of(a, name##_factor(a->scale));                                                        \
        for (int64_t i = 0; i < rows; i++, s += lds, p += ldp) {                                                       \
            span v = visible(a->band, i, n);                                                                           \
            inverse[i] = 1;                                                                                            \
            stat[i] = name##_short_stat(v, s, a);                                                                      \
            V_SPAN(v.lo, v.hi, name##_fwd_bf16_at, s, k, v_set1(stat[i]), p);                                          \
            zero_outside_bf16(v, n, p);                                                                                \
        }                                                                                                              \
    }
FORWARD(clipped)
FORWARD(sigmoid)
FORWARD(relu)

/* ---- beside them */

SL_VEC void scaled_at(int64_t i, int c, const float *x, vf factor, sl_bf16 *y) {
    v_store_bf16_n(y + i, v_mul(v_load_n(x + i, c), factor), c);
}

void SL_FN(scale_rows_bf16)(int64_t rows, int64_t n, const float *x, int64_t ldx, const float *factor, int64_t step,
                            sl_bf16 *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++)
        V_EACH(n, scaled_at, x + i * ldx, v_set1(factor[i * step]), y + i * ldy);
}

SL_VEC vf dot_bf16_term(vf acc, int64_t i, int c, const sl_bf16 *x, const sl_bf16 *y) {
    return v_muladd(v_load_bf16_n(x + i, c), v_load_bf16_n(y + i, c), acc);
}

void SL_FN(dot_rows_bf16)(int64_t rows, int64_t n, const sl_bf16 *x, int64_t ldx, const sl_bf16 *y, int64_t ldy,
                          float *out) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(acc, n, dot_bf16_term, x, y);
        out[i] = v_fold_add(acc);
    }
}

float SL_FN(dot)(int64_t n, const float *x, const float *y) { return row_dot(n, x, y); }

/* ---- dots of one vector with rows: two accumulators each, of four rows at once, so that x is loaded once for them */

typedef struct {
    vf even, odd;
} two_sums;

SL_VEC two_sums add_mixed(two_sums s, int64_t i, const float *x, const sl_bf16 *y) {
    s.even = v_muladd(v_load_n(x + i, VL), v_load_bf16_n(y + i, VL), s.even);
    s.odd = v_muladd(v_load_n(x + i + VL, VL), v_load_bf16_n(y + i + VL, VL), s.odd);
    return s;
}

SL_VEC float end_mixed(two_sums s, int64_t i, int64_t n, const float *x, const sl_bf16 *y) {
    for (; i < n; i += VL) {
        int c = n - i < VL ? (int)(n - i) : VL;
        s.even = v_muladd(v_load_n(x + i, c), v_load_bf16_n(y + i, c), s.even);
    }
    return v_reduce_add(v_add(s.even, s.odd));
}

SL_VEC void dots_mixed(int rows, int64_t n, const float *x, const sl_bf16 *y, int64_t ldy, float *out) {
    two_sums s[4];
    int64_t i = 0;
    for (int r = 0; r < rows; r++)
        s[r] = (two_sums){v_zero(), v_zero()};
    for (; i + 2 * VL <= n; i += 2 * VL)
        for (int r = 0; r < rows; r++)
            s[r] = add_mixed(s[r], i, x, y + r * ldy);
    for (int r = 0; r < rows; r++)
        out[r] = end_mixed(s[r], i, n, x, y + r * ldy);
}

void SL_FN(dot_rows_mixed)(int64_t rows, int64_t n, const float *x, const sl_bf16 *y, int64_t ldy, float *out) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        dots_mixed(4, n, x, y + r * ldy, ldy, out + r);
    for (; r < rows; r++)
        dots_mixed(1, n, x, y + r * ldy, ldy, out + r);
}
