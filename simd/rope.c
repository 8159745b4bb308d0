#include "simd/tier.h"

#define ROPE(T, suffix)                                                                            \
    SL_VEC void rope##suffix##_at(int64_t i, int c, const float *cos, const float *sin,            \
                                  float sign, T *lo, T *hi) {                                      \
        vf co = v_load_n(cos + i, c), si = v_mul(v_load_n(sin + i, c), v_set1(sign));              \
        vf a = v_get_n(lo + i, c), b = v_get_n(hi + i, c);                                         \
        v_put_n(lo + i, v_fnma(b, si, v_mul(a, co)), c);                                           \
        v_put_n(hi + i, v_fma(a, si, v_mul(b, co)), c);                                            \
    }                                                                                              \
    void SL_FN(rope##suffix)(int64_t heads, int64_t hd, const float *cos, const float *sin,        \
                             float sign, T *x) {                                                   \
        int64_t half = hd / 2;                                                                     \
        for (int64_t h = 0; h < heads; h++, x += hd)                                               \
            V_EACH(half, rope##suffix##_at, cos, sin, sign, x, x + half);                          \
    }
ROPE(float, )
ROPE(sl_bf16, _bf16)
