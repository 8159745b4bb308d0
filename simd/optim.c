#include "simd/tier.h"

typedef struct {
    float gscale, lr, b1, b2, eps, wd, inv_c1, inv_c2;
} adamw_args;

SL_VEC void adamw_at(int64_t i, int c, float *w, const float *g, float *m, float *v,
                     const adamw_args *a) {
    vf x = v_mul(v_load_n(g + i, c), v_set1(a->gscale)), p = v_load_n(w + i, c);
    vf m1 = v_fma(v_set1(a->b1), v_load_n(m + i, c), v_mul(v_set1(1.0f - a->b1), x));
    vf v1 = v_fma(v_set1(a->b2), v_load_n(v + i, c), v_mul(v_mul(v_set1(1.0f - a->b2), x), x));
    vf root = v_add(v_sqrt(v_mul(v1, v_set1(a->inv_c2))), v_set1(a->eps));
    vf step = v_div(v_mul(m1, v_set1(a->inv_c1)), root);
    step = v_fma(v_set1(a->wd), p, step);
    v_store_n(m + i, m1, c);
    v_store_n(v + i, v1, c);
    v_store_n(w + i, v_fnma(v_set1(a->lr), step, p), c);
}

void SL_FN(adamw)(int64_t n, float *w, const float *g, float *m, float *v, float gscale, float lr,
                  float b1, float b2, float eps, float wd, float c1, float c2) {
    const adamw_args a = {gscale, lr, b1, b2, eps, wd, 1.0f / c1, 1.0f / c2};
    V_EACH(n, adamw_at, w, g, m, v, &a);
}

double SL_FN(sumsq)(int64_t n, const float *x) {
    vd acc[4] = {vd_zero(), vd_zero(), vd_zero(), vd_zero()};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        acc[0] = vd_add_square(acc[0], v_load(x + i));
        acc[1] = vd_add_square(acc[1], v_load(x + i + VL));
        acc[2] = vd_add_square(acc[2], v_load(x + i + 2 * VL));
        acc[3] = vd_add_square(acc[3], v_load(x + i + 3 * VL));
    }
    for (; i + VL <= n; i += VL)
        acc[0] = vd_add_square(acc[0], v_load(x + i));
    acc[1] = vd_add_square(acc[1], v_load_n(x + i, (int)(n - i)));
    return vd_reduce_add(vd_add(vd_add(acc[0], acc[1]), vd_add(acc[2], acc[3])));
}
