#include "simd/tier.h"

SL_VEC void transpose_block(int down, int across, const float *src, int64_t lds, float *dst, int64_t ldd, int add) {
    vf r[VL];
    for (int p = 0; p < VL; p++)
        r[p] = p < down ? v_load_n(src + p * lds, across) : v_zero();
    v_transpose(r);
    for (int p = 0; p < across; p++) {
        float *d = dst + p * ldd;
        v_store_n(d, add ? v_add(v_load_n(d, down), r[p]) : r[p], down);
    }
}

void SL_FN(transpose_f32)(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                          int64_t ldd, int add) {
    for (int64_t j = 0; j < cols; j += VL)
        for (int64_t i = 0; i < rows; i += VL) {
            int across = cols - j < VL ? (int)(cols - j) : VL,
                down = rows - i < VL ? (int)(rows - i) : VL;
            if (across == VL && down == VL)
                transpose_block(VL, VL, src + i * lds + j, lds, dst + j * ldd + i, ldd, add);
            else
                transpose_block(down, across, src + i * lds + j, lds, dst + j * ldd + i, ldd, add);
        }
}
