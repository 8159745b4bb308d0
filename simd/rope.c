#include "simd/tier.h"

SL_VEC void rope_at(int64_t i, int c, const float *cos, const float *sin, float sign, float *lo,
                    float *hi) {
    vf co = v_load_n(cos + i, c), si = v_mul(v_load_n(sin + i, c), v_set1(sign));
    vf a = v_load_n(lo + i, c), b = v_load_n(hi + i, c);
    v_store_n(lo + i, v_fnma(b, si, v_mul(a, co)), c);
    v_store_n(hi + i, v_fma(a, si, v_mul(b, co)), c);
}

void SL_FN(rope)(int64_t heads, int64_t hd, const float *cos, const float *sin, float sign,
                 float *x) {
    int64_t half = hd / 2;
    for (int64_t h = 0; h < heads; h++, x += hd)
        V_EACH(half, rope_at, cos, sin, sign, x, x + half);
}
