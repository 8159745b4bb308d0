/* int8 GEMM on SDOT: 4 rows x 16 columns in registers, 4 bytes of A by lane. SDOT takes signed bytes alone: A's have
 * 128 taken off, and the sums start from 128 times the panel's column sums. Contract in simd/kernels.h. */
#include "simd/tier.h"

#include <arm_neon.h>
#include <string.h>

enum { NR = SL_INT8_NR, MR = 4, VEC = 4 }; /* VEC vectors of 4 columns */

static inline int8x16_t less_128(const uint8_t *a) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a), vdupq_n_u8(0x80)));
}

/* 128 times the sum of each of 16 columns. */
static inline void column_sums(int64_t k, const int8_t *panel, int32x4_t sum[VEC]) {
    for (int v = 0; v < VEC; v++)
        sum[v] = vdupq_n_s32(0);
    for (int64_t kk = 0; kk < k; kk += 4, panel += 4 * NR)
        for (int v = 0; v < VEC; v++)
            sum[v] = vdotq_s32(sum[v], vld1q_s8(panel + 16 * v), vdupq_n_s8(1));
    for (int v = 0; v < VEC; v++)
        sum[v] = vshlq_n_s32(sum[v], 7);
}

/* Columns j..j+15; n: how many of them exist. */
static inline __attribute__((always_inline)) void block(const int mr, int64_t n, int64_t k, const uint8_t *a,
                                                        int64_t lda, const int8_t *panel, const int32x4_t sum[VEC],
                                                        int32_t *c, int64_t ldc, int add) {
    int32x4_t acc[MR][VEC];
    int32_t edge[4 * VEC] = {0}; /* a short row on its way in or out */
    for (int i = 0; i < mr; i++) {
        const int32_t *row = c + i * ldc;
        if (add && n < 4 * VEC) {
            memcpy(edge, row, (size_t)n * sizeof *edge);
            row = edge;
        }
        for (int v = 0; v < VEC; v++)
            acc[i][v] = add ? vaddq_s32(sum[v], vld1q_s32(row + 4 * v)) : sum[v];
    }
    for (int64_t kk = 0; kk < k; kk += 16, panel += 16 * NR) {
        int8x16_t x[MR];
        for (int i = 0; i < mr; i++)
            x[i] = less_128(a + i * lda + kk);
#define FOUR(p)                                                                                    \
    for (int v = 0; v < VEC; v++) {                                                                \
        int8x16_t b = vld1q_s8(panel + (p)*4 * NR + 16 * v);                                       \
        for (int i = 0; i < mr; i++)                                                               \
            acc[i][v] = vdotq_laneq_s32(acc[i][v], b, x[i], p);                                    \
    }
        FOUR(0)
        FOUR(1)
        FOUR(2)
        FOUR(3)
#undef FOUR
    }
    for (int i = 0; i < mr; i++) {
        int32_t *row = n < 4 * VEC ? edge : c + i * ldc;
        for (int v = 0; v < VEC; v++)
            vst1q_s32(row + 4 * v, acc[i][v]);
        if (n < 4 * VEC)
            memcpy(c + i * ldc, edge, (size_t)n * sizeof *edge);
    }
}

void SL_UNIT_FN(gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t *c, int64_t ldc, int add) {
    for (int64_t j = 0; j < n; j += 4 * VEC) {
        int64_t w = n - j < 4 * VEC ? n - j : 4 * VEC, i = 0;
        int32x4_t sum[VEC];
        column_sums(k, panel + 4 * j, sum);
        for (; i + MR <= m; i += MR)
            block(MR, w, k, a + i * lda, lda, panel + 4 * j, sum, c + i * ldc + j, ldc, add);
        for (; i < m; i++)
            block(1, w, k, a + i * lda, lda, panel + 4 * j, sum, c + i * ldc + j, ldc, add);
    }
}

int64_t SL_UNIT_FN(peak_int8)(int64_t rounds) {
    int32x4_t acc[16];
    for (int i = 0; i < 16; i++)
        acc[i] = vdupq_n_s32(0);
    int8x16_t x = vdupq_n_s8(1);
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(x)); /* not to be hoisted */
        for (int i = 0; i < 16; i++)
            acc[i] = vdotq_s32(acc[i], x, x);
    }
    for (int i = 0; i < 16; i++)
        __asm__ volatile("" ::"w"(acc[i]));
    return rounds * 16 * 4 * 8;
}
