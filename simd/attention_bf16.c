/* Attention rows with bf16 results. Probabilities end in 8 bits, so the exponential is a short one: 2^t with a
 * relative error below 2^-18 before it is rounded. Contracts in simd/kernels.h. */
#include "simd/reduce.h"
#include "simd/tier.h"
#include "simd/vec_math.h"

#define LOG2E 0x1.715476p+0f

/* 2^-y for y from -126 up; 2^-125 or less from 125 up. A polynomial for 2^-q, |q| <= 1/2, exact at 0. */
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

SL_VEC void zero_at(int64_t i, int c, sl_bf16 *p) { v_store_bf16_n(p + i, v_zero(), c); }

SL_VEC void zero_outside(span s, int64_t padded, sl_bf16 *p) {
    V_EACH(s.lo, zero_at, p);
    V_SPAN(s.hi, padded, zero_at, p);
}

SL_VEC void exp_at(int64_t i, int c, const float *s, vf scale, vf max, sl_bf16 *p, vf *sum) {
    vf e = exp2_neg(v_fnma(v_load_n(s + i, c), scale, max));
    v_store_bf16_n(p + i, e, c);
    *sum = v_add(*sum, v_head(e, c, v_zero()));
}

SL_VEC void finish_at(int64_t i, int c, const float *max, float *inverse, float *lse) {
    vf sum = v_load_n(inverse + i, c);
    v_store_n(lse + i, v_fma(v_log(sum), v_set1(LOG2E), v_load_n(max + i, c)), c);
    v_store_n(inverse + i, v_div(v_set1(1.0f), sum), c);
}

/* Rows go in groups, one pass over all of them after the other: the latency at the end of a row's pass is hidden. */
enum { GROUP = 8 };

void SL_FN(softmax_fwd_bf16)(int64_t rows, int64_t n, const float *s, int64_t lds, sl_band band, float scale,
                                  sl_bf16 *p, int64_t ldp, float *inverse, float *lse) {
    float max[GROUP], scale2 = scale * LOG2E;
    for (int64_t i = 0; i < rows; i += GROUP) {
        int64_t count = rows - i < GROUP ? rows - i : GROUP;
        for (int64_t r = 0; r < count; r++) {
            span v = visible(band, i + r, n);
            max[r] = scale2 * row_max(v.hi - v.lo, s + (i + r) * lds + v.lo);
        }
        for (int64_t r = 0; r < count; r++) {
            span v = visible(band, i + r, n);
            vf sum = v_zero(), top = v_set1(max[r]), factor = v_set1(scale2);
            V_SPAN(v.lo, v.hi, exp_at, s + (i + r) * lds, factor, top, p + (i + r) * ldp, &sum);
            zero_outside(v, sl_bf16_kpad(n), p + (i + r) * ldp);
            inverse[i + r] = v_reduce_add(sum);
        }
        V_EACH(count, finish_at, max, inverse + i, lse + i);
    }
}

SL_VEC void gradient_at(int64_t i, int c, const float *s, const float *dp, vf scale, const float *lse,
                        const float *delta, sl_bf16 *p, sl_bf16 *ds) {
    vf e = exp2_neg(v_fnma(v_load_n(s + i, c), scale, v_load_n(lse + i, c)));
    v_store_bf16_n(p + i, e, c);
    v_store_bf16_n(ds + i, v_mul(e, v_sub(v_load_n(dp + i, c), v_load_n(delta + i, c))), c);
}

void SL_FN(softmax_bwd_bf16)(int64_t rows, int64_t n, const float *s, const float *dp, int64_t lds, sl_band band,
                                  float scale, const float *lse, const float *delta, sl_bf16 *p, sl_bf16 *ds,
                                  int64_t ldp) {
    const vf scale2 = v_set1(scale * LOG2E);
    for (int64_t i = 0; i < rows; i++, s += lds, dp += lds, p += ldp, ds += ldp) {
        span v = visible(band, i, n);
        V_SPAN(v.lo, v.hi, gradient_at, s, dp, scale2, lse, delta, p, ds);
        zero_outside(v, sl_bf16_kpad(n), p);
        zero_outside(v, sl_bf16_kpad(n), ds);
    }
}

SL_VEC void scaled_at(int64_t i, int c, const float *x, vf factor, sl_bf16 *y) {
    v_store_bf16_n(y + i, v_mul(v_load_n(x + i, c), factor), c);
}

void SL_FN(scale_rows_bf16)(int64_t rows, int64_t n, const float *x, int64_t ldx, const float *factor,
                                 int64_t step, sl_bf16 *y, int64_t ldy) {
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
