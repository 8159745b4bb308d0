/* Packing and transposes for the bf16 GEMM in plain C; contracts in simd/kernels.h. */
#include "simd/tier.h"

#include <string.h>

enum { NR = SL_BF16_NR };

static inline sl_bf16 round_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (sl_bf16)(u >> 16 | 0x40); /* keep it a NaN, and quiet */
    return (sl_bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* The four packings differ in where an element lies and whether it needs rounding. */
#define PACK(name, type, element)                                                                  \
    void SL_FN(name)(int64_t n, int64_t k, const type *src, int64_t ld, sl_bf16 *panel) {          \
        int64_t kp = sl_bf16_kpad(k);                                                              \
        for (int64_t kk = 0; kk < kp; kk++)                                                        \
            for (int64_t j = 0; j < NR; j++)                                                       \
                panel[kk / 2 * 2 * NR + j * 2 + kk % 2] = kk < k && j < n ? (element) : 0;         \
    }
PACK(pack_bt_f32, float, round_bf16(src[j * ld + kk]))
PACK(pack_b_f32, float, round_bf16(src[kk * ld + j]))
PACK(pack_bt_bf16, sl_bf16, src[j * ld + kk])
PACK(pack_b_bf16, sl_bf16, src[kk * ld + j])

enum { BLOCK = 32 }; /* square that keeps both sides of a transpose in L1 */

void SL_FN(transpose_bf16)(int64_t rows, int64_t cols, const sl_bf16 *src, int64_t lds,
                           sl_bf16 *dst, int64_t ldd) {
    int64_t padded = sl_bf16_kpad(rows);
    for (int64_t i0 = 0; i0 < padded; i0 += BLOCK)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t i = i0; i < i0 + BLOCK; i++)
                dst[j * ldd + i] = i < rows ? src[i * lds + j] : 0;
}
