#include "simd/tier.h"

SL_VEC int64_t conv_taps(int64_t width, int64_t rows) { return rows < width ? rows : width; }

SL_VEC void conv_fwd_at(int64_t i, int c, int64_t d, int64_t taps, const float *x, int64_t ldx, const float *w,
                        const float *b, float *y) {
    vf s = b ? v_load_n(b + i, c) : v_zero();
    for (int64_t j = 0; j < taps; j++)
        s = v_muladd(v_load_n(w + j * d + i, c), v_load_n(x - j * ldx + i, c), s);
    v_store_n(y + i, s, c);
}

void SL_FN(conv_fwd)(int64_t rows, int64_t d, int64_t width, int64_t before, const float *x, int64_t ldx,
                     const float *w, const float *b, float *y, int64_t ldy) {
    for (int64_t t = 0; t < rows; t++, x += ldx, y += ldy) {
        int64_t taps = conv_taps(width, before + t + 1);
        V_EACH(d, conv_fwd_at, d, taps, x, ldx, w, b, y);
    }
}

SL_VEC void conv_bwd_x_at(int64_t i, int c, int64_t d, int64_t taps, const float *dy, int64_t lddy, const float *w,
                          float *dx) {
    vf s = v_zero();
    for (int64_t j = 0; j < taps; j++)
        s = v_muladd(v_load_n(w + j * d + i, c), v_load_n(dy + j * lddy + i, c), s);
    v_store_n(dx + i, s, c);
}

void SL_FN(conv_bwd_x)(int64_t rows, int64_t d, int64_t width, int64_t after, const float *dy, int64_t lddy,
                       const float *w, float *dx, int64_t lddx) {
    for (int64_t t = 0; t < rows; t++, dy += lddy, dx += lddx) {
        int64_t taps = conv_taps(width, rows - t + after);
        V_EACH(d, conv_bwd_x_at, d, taps, dy, lddy, w, dx);
    }
}

SL_VEC void conv_bwd_w_at(int64_t i, int c, int64_t d, int64_t taps, const float *dy, const float *x, int64_t ldx,
                          float *dw, float *db) {
    vf g = v_load_n(dy + i, c);
    for (int64_t j = 0; j < taps; j++) {
        float *to = dw + j * d + i;
        v_store_n(to, v_muladd(g, v_load_n(x - j * ldx + i, c), v_load_n(to, c)), c);
    }
    if (db)
        v_store_n(db + i, v_add(v_load_n(db + i, c), g), c);
}

void SL_FN(conv_bwd_w)(int64_t rows, int64_t d, int64_t width, int64_t before, const float *dy, int64_t lddy,
                       const float *x, int64_t ldx, float *dw, float *db) {
    for (int64_t t = 0; t < rows; t++, dy += lddy, x += ldx) {
        int64_t taps = conv_taps(width, before + t + 1);
        V_EACH(d, conv_bwd_w_at, d, taps, dy, x, ldx, dw, db);
    }
}
