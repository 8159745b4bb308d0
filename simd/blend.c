#include "simd/tier.h"
#include "simd/vec.h"

SL_VEC void blend_fwd_at(int64_t i, int c, const float *a, const float *x, const float *b, const float *y, float *out) {
    vf by = v_mul(v_load_n(b + i, c), v_load_n(y + i, c));
    v_store_n(out + i, v_fma(v_load_n(a + i, c), v_load_n(x + i, c), by), c);
}
void SL_FN(blend_fwd)(int64_t n, const float *a, const float *x, const float *b, const float *y, float *out) {
    V_EACH(n, blend_fwd_at, a, x, b, y, out);
}

SL_VEC void blend_bwd_at(int64_t i, int c, const float *a, const float *x, const float *b, const float *y,
                         const float *dout, int add, float *dx, float *dy, float *da, float *db) {
    vf d = v_load_n(dout + i, c), from = add ? v_load_n(dx + i, c) : v_zero();
    v_store_n(da + i, v_fma(d, v_load_n(x + i, c), v_load_n(da + i, c)), c);
    v_store_n(db + i, v_fma(d, v_load_n(y + i, c), v_load_n(db + i, c)), c);
    v_store_n(dx + i, v_fma(v_load_n(a + i, c), d, from), c);
    v_store_n(dy + i, v_mul(v_load_n(b + i, c), d), c);
}
void SL_FN(blend_bwd)(int64_t n, const float *a, const float *x, const float *b, const float *y, const float *dout,
                      int add, float *dx, float *dy, float *da, float *db) {
    V_EACH(n, blend_bwd_at, a, x, b, y, dout, add, dx, dy, da, db);
}
