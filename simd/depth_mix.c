#include "simd/reduce.h"
#include "simd/tier.h"

void SL_FN(depth_dots)(int64_t n, int64_t d, const float *v, int64_t ldv, const float *q, float *square, float *dot) {
    for (int64_t i = 0; i < n; i++, v += ldv) {
        vf sq[4] = {v_zero(), v_zero(), v_zero(), v_zero()}, at[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        V_REDUCE(sq, d, dot_term, v, v);
        V_REDUCE(at, d, dot_term, v, q);
        square[i] = v_fold_add(sq);
        dot[i] = v_fold_add(at);
    }
}

SL_VEC void mix_at(int64_t j, int c, int64_t n, const float *v, int64_t ldv, const float *a, int add, float *y) {
    vf sum = add ? v_load_n(y + j, c) : v_zero();
    for (int64_t i = 0; i < n; i++)
        sum = v_fma(v_set1(a[i]), v_load_n(v + i * ldv + j, c), sum);
    v_store_n(y + j, sum, c);
}

void SL_FN(depth_mix)(int64_t n, int64_t d, const float *v, int64_t ldv, const float *a, int add, float *y) {
    V_EACH(d, mix_at, n, v, ldv, a, add, y);
}

SL_VEC void mix_bwd_at(int64_t j, int c, int64_t n, const float *v, int64_t ldv, const float *dy, const float *q,
                       const float *a, const float *b, const float *k, int add, float *dv, int64_t lddv, float *dq) {
    vf g = v_load_n(dy + j, c), p = v_load_n(q + j, c), sum = v_load_n(dq + j, c);
    for (int64_t i = 0; i < n; i++) {
        vf x = v_load_n(v + i * ldv + j, c);
        vf t = v_fma(v_set1(k[i]), x, v_fma(v_set1(b[i]), p, v_mul(v_set1(a[i]), g)));
        sum = v_fma(v_set1(b[i]), x, sum);
        v_store_n(dv + i * lddv + j, add ? v_add(v_load_n(dv + i * lddv + j, c), t) : t, c);
    }
    v_store_n(dq + j, sum, c);
}

void SL_FN(depth_mix_bwd)(int64_t n, int64_t d, const float *v, int64_t ldv, const float *dy, const float *q,
                          const float *a, const float *b, const float *k, int add, float *dv, int64_t lddv,
                          float *dq) {
    if (add)
        V_EACH(d, mix_bwd_at, n, v, ldv, dy, q, a, b, k, 1, dv, lddv, dq);
    else
        V_EACH(d, mix_bwd_at, n, v, ldv, dy, q, a, b, k, 0, dv, lddv, dq);
}
