/* bf16 GEMM in plain C: the reference of every tier and the whole of it where the CPU has no bf16 unit.
 * Contracts and rounding: simd/kernels.h. Inner loops run over the 32 columns of a panel, which the
 * compiler vectorises for its tier. */
#include "simd/tier.h"

#include <string.h>

enum { NR = SL_BF16_NR, MR = 4 };

static inline float bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline sl_bf16 round_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (sl_bf16)(u >> 16 | 0x40); /* keep it a NaN, and quiet */
    return (sl_bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* mr <= MR rows; columns past n are computed on the panel's padding and dropped. */
static inline void block(int mr, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                         const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    float acc[MR][NR] = {{0}};
    if (add)
        for (int i = 0; i < mr; i++)
            memcpy(acc[i], c + i * ldc, (size_t)n * sizeof(float));
    for (int64_t kk = 0; kk < k; kk += 2, panel += 2 * NR) {
        float b0[NR], b1[NR];
        for (int j = 0; j < NR; j++) {
            b0[j] = bits_f32((uint32_t)panel[2 * j] << 16);
            b1[j] = bits_f32((uint32_t)panel[2 * j + 1] << 16);
        }
        for (int i = 0; i < mr; i++) {
            float a0 = bits_f32((uint32_t)a[i * lda + kk] << 16);
            float a1 = bits_f32((uint32_t)a[i * lda + kk + 1] << 16);
            for (int j = 0; j < NR; j++)
                acc[i][j] = (acc[i][j] + a0 * b0[j]) + a1 * b1[j];
        }
    }
    for (int i = 0; i < mr; i++)
        memcpy(c + i * ldc, acc[i], (size_t)n * sizeof(float));
}

static void gemm_bf16(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                      const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    int64_t i = 0;
    for (; i + MR <= m; i += MR)
        block(MR, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
    for (; i < m; i++)
        block(1, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
}

/* The four packings differ in where an element lies and whether it needs rounding. */
#define PACK(name, type, element)                                                                  \
    static void name(int64_t n, int64_t k, const type *src, int64_t ld, sl_bf16 *panel) {          \
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

static void transpose_bf16(int64_t rows, int64_t cols, const sl_bf16 *src, int64_t lds, sl_bf16 *dst,
                           int64_t ldd) {
    int64_t padded = sl_bf16_kpad(rows);
    for (int64_t i0 = 0; i0 < padded; i0 += BLOCK)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t i = i0; i < i0 + BLOCK; i++)
                dst[j * ldd + i] = i < rows ? src[i * lds + j] : 0;
}

static void transpose_f32(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                          int64_t ldd, int add) {
    for (int64_t i0 = 0; i0 < rows; i0 += BLOCK)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t i = i0; i < i0 + BLOCK && i < rows; i++)
                dst[j * ldd + i] = (add ? dst[j * ldd + i] : 0.0F) + src[i * lds + j];
}

/* Two products a lane and round, as the real inner loop. */
static int64_t peak_bf16(int64_t rounds) {
    enum { LANES = 64 };
    float acc[LANES] = {0};
    volatile float one = 1;
    float a = one, b = one;
    for (int64_t r = 0; r < rounds; r++)
        for (int j = 0; j < LANES; j++)
            acc[j] = (acc[j] + a * (float)j) + b * acc[j];
    one = acc[LANES - 1];
    return rounds * LANES * 4;
}

void SL_TIER(gemm_bf16_table)(sl_kernels *t) {
    t->gemm_bf16 = gemm_bf16;
    t->pack_bt_f32 = pack_bt_f32;
    t->pack_b_f32 = pack_b_f32;
    t->pack_bt_bf16 = pack_bt_bf16;
    t->pack_b_bf16 = pack_b_bf16;
    t->transpose_bf16 = transpose_bf16;
    t->transpose_f32 = transpose_f32;
    t->peak_bf16 = peak_bf16;
}
