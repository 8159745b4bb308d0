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

SL_VEC void zero_at(int64_t i, int c, float *x) { v_store_n(x + i, v_zero(), c); }

static float scaled_max(int64_t n, const float *s, float scale) {
    vf low = v_set1(-__builtin_inff()), acc[4] = {low, low, low, low};
    V_REDUCE(acc, n, scaled_max_term, s, scale);
    return v_fold_max(acc);
}

static float exp_row(int64_t n, float *s, float scale, float max) {
    vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    V_REDUCE(acc, n, exp_term, s, scale, max);
    return v_fold_add(acc);
}

SL_VEC void lse_at(int64_t i, int c, const float *max, const float *sum, float *lse) {
    v_store_n(lse + i, v_add(v_load_n(max + i, c), v_log(v_load_n(sum + i, c))), c);
}

/* Short rows are taken in groups, one pass over all of them after the other: the latency at the end
 * of a row's pass is then hidden behind the next row. */
#define GROUP 8
#define SHORT 1024 /* a group stays in the first-level cache */

void SL_FN(softmax_fwd)(int64_t rows, int64_t n, float *s, int64_t lds, int64_t valid0, float scale,
                        float *lse) {
    int64_t group = n <= SHORT ? GROUP : 1;
    float max[GROUP], sum[GROUP];
    for (int64_t i = 0; i < rows; i += group, s += group * lds) {
        int64_t count = rows - i < group ? rows - i : group;
        for (int64_t r = 0; r < count; r++)
            max[r] = scaled_max(visible(n, valid0, i + r), s + r * lds, scale);
        for (int64_t r = 0; r < count; r++)
            sum[r] = exp_row(visible(n, valid0, i + r), s + r * lds, scale, max[r]);
        for (int64_t r = 0; r < count; r++) {
            int64_t seen = visible(n, valid0, i + r);
            V_EACH(seen, scale_at, 1.0f / sum[r], s + r * lds);
            V_EACH(n - seen, zero_at, s + r * lds + seen);
        }
        V_EACH(count, lse_at, max, sum, lse + i);
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
        V_EACH(n - seen, zero_at, s + seen);
        V_EACH(n - seen, zero_at, dp + seen);
    }
}

float SL_FN(dot)(int64_t n, const float *x, const float *y) { return row_dot(n, x, y); }
