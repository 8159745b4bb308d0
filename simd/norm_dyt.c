/* Norms without statistics: y = w f(alpha x + shift) + b, f = tanh (DyT) or erf (Derf). Backward computes f again: an
 * exponential costs less than reading a stored row would. The sums of the scalars' gradients run over all rows of a
 * call in two accumulators. */
#include "simd/tier.h"
#include "simd/vec_math.h"

/* w t + b; b may be NULL. */
SL_VEC vf affine_at(int64_t i, int c, vf t, const float *w, const float *b) {
    vf a = v_load_n(w + i, c);
    return b ? v_muladd(a, t, v_load_n(b + i, c)) : v_mul(a, t);
}

/* What both do once t = f(z) and slope = f'(z) are known; returns dy w f'(z), the gradient of z. */
SL_VEC vf back_at(int64_t i, int c, vf t, vf slope, const float *dy, const float *w, float alpha, float *dx, int add,
                  float *dw, float *db) {
    vf g = v_load_n(dy + i, c), dz = v_mul(v_mul(v_load_n(w + i, c), g), slope);
    v_store_n(dw + i, v_muladd(g, t, v_load_n(dw + i, c)), c);
    if (db)
        v_store_n(db + i, v_add(g, v_load_n(db + i, c)), c);
    v_store_n(dx + i, add ? v_muladd(v_set1(alpha), dz, v_load_n(dx + i, c)) : v_mul(v_set1(alpha), dz), c);
    return v_head(dz, c, v_zero());
}

SL_VEC void dyt_at(int64_t i, int c, const float *x, float alpha, const float *w, const float *b, float *y) {
    v_store_n(y + i, affine_at(i, c, v_tanh(v_mul(v_set1(alpha), v_load_n(x + i, c))), w, b), c);
}

void SL_FN(dyt_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, float alpha, const float *w, const float *b,
                    float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        if (b)
            V_EACH(d, dyt_at, x, alpha, w, b, y);
        else
            V_EACH(d, dyt_at, x, alpha, w, NULL, y);
    }
}

SL_VEC void dyt_bwd_at(int64_t i, int c, const float *dy, const float *x, float alpha, const float *w, float *dx,
                       int add, float *dw, float *db, vf *dalpha) {
    vf a = v_load_n(x + i, c), t = v_tanh(v_mul(v_set1(alpha), a)), slope = v_fnma(t, t, v_set1(1.0f));
    vf dz = back_at(i, c, t, slope, dy, w, alpha, dx, add, dw, db);
    *dalpha = v_muladd(dz, a, *dalpha);
}

void SL_FN(dyt_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x, int64_t ldx, float alpha,
                    const float *w, float *dx, int64_t lddx, int add, float *dw, float *db, float *dalpha) {
    vf sum = v_zero();
    for (int64_t i = 0; i < rows; i++, dy += lddy, x += ldx, dx += lddx) {
        if (add)
            V_EACH(d, dyt_bwd_at, dy, x, alpha, w, dx, 1, dw, db, &sum);
        else
            V_EACH(d, dyt_bwd_at, dy, x, alpha, w, dx, 0, dw, db, &sum);
    }
    *dalpha += v_reduce_add(sum);
}

SL_VEC vf derf_z(int64_t i, int c, const float *x, float alpha, float shift) {
    return v_muladd(v_set1(alpha), v_load_n(x + i, c), v_set1(shift));
}

SL_VEC void derf_at(int64_t i, int c, const float *x, float alpha, float shift, const float *w, const float *b,
                    float *y) {
    v_store_n(y + i, affine_at(i, c, v_erf(derf_z(i, c, x, alpha, shift)), w, b), c);
}

void SL_FN(derf_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, float alpha, float shift, const float *w,
                     const float *b, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        if (b)
            V_EACH(d, derf_at, x, alpha, shift, w, b, y);
        else
            V_EACH(d, derf_at, x, alpha, shift, w, NULL, y);
    }
}

/* erf'(z) = 2 / sqrt(pi) e^(-z^2) */
SL_VEC void derf_bwd_at(int64_t i, int c, const float *dy, const float *x, float alpha, float shift, const float *w,
                        float *dx, int add, float *dw, float *db, vf *dalpha, vf *dshift) {
    vf z = derf_z(i, c, x, alpha, shift), slope = v_mul(v_set1(0x1.20dd76p+0f), v_exp(v_neg(v_mul(z, z))));
    vf dz = back_at(i, c, v_erf(z), slope, dy, w, alpha, dx, add, dw, db);
    *dalpha = v_muladd(dz, v_load_n(x + i, c), *dalpha);
    *dshift = v_add(dz, *dshift);
}

void SL_FN(derf_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x, int64_t ldx, float alpha,
                     float shift, const float *w, float *dx, int64_t lddx, int add, float *dw, float *db,
                     float *dalpha, float *dshift) {
    vf a = v_zero(), s = v_zero();
    for (int64_t i = 0; i < rows; i++, dy += lddy, x += ldx, dx += lddx) {
        if (add)
            V_EACH(d, derf_bwd_at, dy, x, alpha, shift, w, dx, 1, dw, db, &a, &s);
        else
            V_EACH(d, derf_bwd_at, dy, x, alpha, shift, w, dx, 0, dw, db, &a, &s);
    }
    *dalpha += v_reduce_add(a);
    *dshift += v_reduce_add(s);
}
