/* int8 GEMM in plain C: the reference of every tier and the whole of it where nothing better is there. Contract in
 * simd/kernels.h. */
#include "simd/tier.h"

#include <string.h>

enum { NR = SL_INT8_NR, MR = 4 };

/* mr <= MR rows; columns past n are computed on the panel's padding and dropped. */
static inline void block(int mr, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel, int32_t *c,
                         int64_t ldc, int add) {
    int32_t acc[MR][NR] = {{0}};
    if (add)
        for (int i = 0; i < mr; i++)
            memcpy(acc[i], c + i * ldc, (size_t)n * sizeof **acc);
    for (int64_t kk = 0; kk < k; kk += 4, panel += 4 * NR)
        for (int i = 0; i < mr; i++) {
            const uint8_t *x = a + i * lda + kk;
            for (int j = 0; j < NR; j++)
                acc[i][j] += x[0] * panel[4 * j] + x[1] * panel[4 * j + 1] + x[2] * panel[4 * j + 2] +
                             x[3] * panel[4 * j + 3];
        }
    for (int i = 0; i < mr; i++)
        memcpy(c + i * ldc, acc[i], (size_t)n * sizeof **acc);
}

void SL_UNIT_FN(gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t *c, int64_t ldc, int add) {
    int64_t i = 0;
    for (; i + MR <= m; i += MR)
        block(MR, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
    for (; i < m; i++)
        block(1, n, k, a + i * lda, lda, panel, c + i * ldc, ldc, add);
}

int64_t SL_UNIT_FN(peak_int8)(int64_t rounds) {
    enum { LANES = 64 };
    int32_t acc[LANES] = {0};
    volatile int8_t one = 1;
    int8_t a = one;
    for (int64_t r = 0; r < rounds; r++)
        for (int j = 0; j < LANES; j++)
            acc[j] = (acc[j] & 127) + a * (int8_t)j;
    one = (int8_t)acc[LANES - 1];
    return rounds * LANES * 2;
}
