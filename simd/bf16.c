#include "simd/tier.h"

SL_VEC void to_at(int64_t i, int c, const float *x, sl_bf16 *y) {
    v_store_bf16_n(y + i, v_load_n(x + i, c), c);
}
void SL_FN(to_bf16)(int64_t n, const float *x, sl_bf16 *y) { V_EACH(n, to_at, x, y); }

SL_VEC void from_at(int64_t i, int c, const sl_bf16 *x, float *y) {
    v_store_n(y + i, v_load_bf16_n(x + i, c), c);
}
void SL_FN(from_bf16)(int64_t n, const sl_bf16 *x, float *y) { V_EACH(n, from_at, x, y); }
