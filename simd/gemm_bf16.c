/* bf16 GEMM in plain C: the reference of every tier and the whole of it where the CPU has no bf16
 * unit. Contracts and rounding: simd/kernels.h. Inner loops run over the 32 columns of a panel,
 * which the compiler vectorises for its tier. */
#include "simd/store_bf16.h"

#include <string.h>

enum { NR = SL_BF16_NR, MR = 4 };

static inline float bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
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

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    int64_t i = 0;
    for (; i + MR <= m; i += MR)
        block(MR, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
    for (; i < m; i++)
        block(1, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
}

void SL_UNIT_FN(gemm_bf16_store)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                                 const sl_bf16 *panels, const sl_bf16_store *to) {
    store_product(m, n, k, a, lda, panels, to);
}

/* Two products a lane and round, as the real inner loop. */
int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) {
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
