#include "simd/reduce.h"
#include "simd/tier.h"

static inline float inverse_root(float square_sum, int64_t d, float eps) {
    return 1.0f / __builtin_sqrtf(square_sum / (float)d + eps);
}

SL_VEC vf spread_term(vf acc, int64_t i, int c, const float *x, float mean) {
    vf t = v_head(v_sub(v_load_n(x + i, c), v_set1(mean)), c, v_zero());
    return v_muladd(t, t, acc);
}

#define T float
#define NAME(name) name
#include "simd/norm.inc"
#undef T
#undef NAME

#define T sl_bf16
#define NAME(name) name##_bf16
#include "simd/norm.inc"
