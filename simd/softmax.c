#include "simd/reduce.h"
#include "simd/tier.h"
#include "simd/vec_math.h"

static inline int64_t visible(int64_t n, int64_t valid0, int64_t row) {
    return valid0 + row < n ? valid0 + row : n;
}

SL_VEC vf scaled_max_term(vf acc, int64_t i, int c, const float *s, float scale) {
    return v_max(v_head(v_mul(v_load_n(s + i, c), v_set1(scale)), c, acc), acc);
}

/* s := e^(scale s - max), returns its sum */
SL_VEC vf exp_term(vf acc, int64_t i, int c, float *s, float scale, float max) {
    vf e = v_exp(v_fma(v_load_n(s + i, c), v_set1(scale), v_set1(-max)));
    v_store_n(s + i, e, c);
    return v_add(acc, v_head(e, c, v_zero()));
}

SL_VEC void scale_at(int64_t i, int c, float a, float *x) {
    v_store_n(x + i, v_mul(v_load_n(x + i, c), v_set1(a)), c);
}

SL_VEC float log1(float x) {
    float y;
    v_store_n(&y, v_log(v_set1(x)), 1);
    return y;
}

void SL_FN(softmax_fwd)(int64_t rows, int64_t n, float *s, int64_t lds, int64_t valid0, float scale,
                        float *lse) {
    for (int64_t i = 0; i < rows; i++, s += lds) {
        int64_t seen = visible(n, valid0, i);
        vf low = v_set1(-__builtin_inff()), top[4] = {low, low, low, low};
        V_REDUCE(top, seen, scaled_max_term, s, scale);
        float max = v_fold_max(top);
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(acc, seen, exp_term, s, scale, max);
        float sum = v_fold_add(acc), inv = 1.0f / sum;
        V_EACH(seen, scale_at, inv, s);
        memset(s + seen, 0, (size_t)(n - seen) * sizeof *s);
        lse[i] = max + log1(sum);
    }
}

SL_VEC void softmax_bwd_at(int64_t i, int c, float *s, float *dp, float scale, float lse,
                           float delta) {
    vf p = v_exp(v_fma(v_load_n(s + i, c), v_set1(scale), v_set1(-lse)));
    vf g = v_sub(v_load_n(dp + i, c), v_set1(delta));
    v_store_n(s + i, p, c);
    v_store_n(dp + i, v_mul(v_mul(p, g), v_set1(scale)), c);
}

void SL_FN(softmax_bwd)(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, int64_t valid0,
                        float scale, const float *lse, const float *delta) {
    for (int64_t i = 0; i < rows; i++, s += lds, dp += lds) {
        int64_t seen = visible(n, valid0, i);
        V_EACH(seen, softmax_bwd_at, s, dp, scale, lse[i], delta[i]);
        memset(s + seen, 0, (size_t)(n - seen) * sizeof *s);
        memset(dp + seen, 0, (size_t)(n - seen) * sizeof *dp);
    }
}

float SL_FN(dot)(int64_t n, const float *x, const float *y) { return row_dot(n, x, y); }
