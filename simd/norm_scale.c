#include "simd/tier.h"

SL_VEC void scale_channels_at(int64_t i, int c, const float *x, const float *w, float *y) {
    v_store_n(y + i, v_mul(v_load_n(w + i, c), v_load_n(x + i, c)), c);
}

void SL_FN(channel_scale_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                              float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy)
        V_EACH(d, scale_channels_at, x, w, y);
}

SL_VEC void scale_channels_bwd_at(int64_t i, int c, const float *dy, const float *x, const float *w,
                                  float *dx, int add, float *dw) {
    vf g = v_load_n(dy + i, c), a = v_load_n(w + i, c);
    v_store_n(dw + i, v_muladd(g, v_load_n(x + i, c), v_load_n(dw + i, c)), c);
    v_store_n(dx + i, add ? v_muladd(a, g, v_load_n(dx + i, c)) : v_mul(a, g), c);
}

void SL_FN(channel_scale_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy,
                              const float *x, int64_t ldx, const float *w, float *dx, int64_t lddx,
                              int add, float *dw) {
    for (int64_t i = 0; i < rows; i++, dy += lddy, x += ldx, dx += lddx) {
        if (add)
            V_EACH(d, scale_channels_bwd_at, dy, x, w, dx, 1, dw);
        else
            V_EACH(d, scale_channels_bwd_at, dy, x, w, dx, 0, dw);
    }
}
