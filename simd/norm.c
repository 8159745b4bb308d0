#include "simd/reduce.h"
#include "simd/tier.h"

static inline float inverse_root(float square_sum, int64_t d, float eps) {
    return 1.0f / __builtin_sqrtf(square_sum / (float)d + eps);
}

SL_VEC void rms_at(int64_t i, int c, const float *x, const float *w, float r, float *y) {
    vf u = v_mul(v_load_n(x + i, c), v_set1(r));
    v_store_n(y + i, v_mul(v_load_n(w + i, c), u), c);
}

void SL_FN(rmsnorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                        float eps, float *y, int64_t ldy, float *rstd) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        float r = inverse_root(row_dot(d, x, x), d, eps);
        V_EACH(d, rms_at, x, w, r, y);
        rstd[i] = r;
    }
}

/* sum of (w dy) x */
SL_VEC vf rms_bwd_term(vf acc, int64_t i, int c, const float *dy, const float *w, const float *x) {
    return v_muladd(v_mul(v_load_n(w + i, c), v_load_n(dy + i, c)), v_load_n(x + i, c), acc);
}

SL_VEC void rms_bwd_at(int64_t i, int c, const float *dy, const float *x, const float *w, float r,
                       float mean_gu, float *dx, int add, float *dw) {
    vf g = v_load_n(dy + i, c), u = v_mul(v_load_n(x + i, c), v_set1(r));
    vf t = v_mul(v_load_n(w + i, c), g);
    t = v_mul(v_set1(r), v_fnma(u, v_set1(mean_gu), t));
    v_store_n(dw + i, v_fma(g, u, v_load_n(dw + i, c)), c);
    v_store_n(dx + i, add ? v_add(v_load_n(dx + i, c), t) : t, c);
}

void SL_FN(rmsnorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                        int64_t ldx, const float *w, const float *rstd, float *dx, int64_t lddx,
                        int add, float *dw) {
    for (int64_t i = 0; i < rows; i++, dy += lddy, x += ldx, dx += lddx) {
        float r = rstd[i];
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(acc, d, rms_bwd_term, dy, w, x);
        float mean_gu = v_fold_add(acc) * r / (float)d;
        if (add)
            V_EACH(d, rms_bwd_at, dy, x, w, r, mean_gu, dx, 1, dw);
        else
            V_EACH(d, rms_bwd_at, dy, x, w, r, mean_gu, dx, 0, dw);
    }
}

SL_VEC vf spread_term(vf acc, int64_t i, int c, const float *x, float mean) {
    vf t = v_head(v_sub(v_load_n(x + i, c), v_set1(mean)), c, v_zero());
    return v_muladd(t, t, acc);
}

SL_VEC void layer_at(int64_t i, int c, const float *x, const float *w, float mean, float r,
                     float *y) {
    vf u = v_mul(v_sub(v_load_n(x + i, c), v_set1(mean)), v_set1(r));
    v_store_n(y + i, v_mul(v_load_n(w + i, c), u), c);
}

void SL_FN(layernorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                          float eps, float *y, int64_t ldy, float *mean, float *rstd) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        float mu = row_sum(d, x) / (float)d;
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(acc, d, spread_term, x, mu);
        float r = inverse_root(v_fold_add(acc), d, eps);
        V_EACH(d, layer_at, x, w, mu, r, y);
        mean[i] = mu;
        rstd[i] = r;
    }
}

/* sum of (w dy) (x - mean) */
SL_VEC vf layer_bwd_term(vf acc, int64_t i, int c, const float *dy, const float *w, const float *x,
                         float mean) {
    vf g = v_mul(v_load_n(w + i, c), v_load_n(dy + i, c));
    return v_muladd(g, v_sub(v_load_n(x + i, c), v_set1(mean)), acc);
}

SL_VEC void layer_bwd_at(int64_t i, int c, const float *dy, const float *x, const float *w,
                         float mean, float r, float mean_g, float mean_gu, float *dx, int add,
                         float *dw) {
    vf g = v_load_n(dy + i, c);
    vf u = v_mul(v_sub(v_load_n(x + i, c), v_set1(mean)), v_set1(r));
    vf t = v_sub(v_mul(v_load_n(w + i, c), g), v_set1(mean_g));
    t = v_mul(v_set1(r), v_fnma(u, v_set1(mean_gu), t));
    v_store_n(dw + i, v_fma(g, u, v_load_n(dw + i, c)), c);
    v_store_n(dx + i, add ? v_add(v_load_n(dx + i, c), t) : t, c);
}

void SL_FN(layernorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                          int64_t ldx, const float *w, const float *mean, const float *rstd,
                          float *dx, int64_t lddx, int add, float *dw) {
    for (int64_t i = 0; i < rows; i++, dy += lddy, x += ldx, dx += lddx) {
        float mu = mean[i], r = rstd[i], mean_g = row_dot(d, w, dy) / (float)d;
        vf acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(acc, d, layer_bwd_term, dy, w, x, mu);
        float mean_gu = v_fold_add(acc) * r / (float)d;
        if (add)
            V_EACH(d, layer_bwd_at, dy, x, w, mu, r, mean_g, mean_gu, dx, 1, dw);
        else
            V_EACH(d, layer_bwd_at, dy, x, w, mu, r, mean_g, mean_gu, dx, 0, dw);
    }
}
