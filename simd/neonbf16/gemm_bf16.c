/* bf16 GEMM on BFDOT: 4 rows x 16 columns in registers, a pair of A by lane. The panel's pairs are
 * BFDOT's operand as they lie. Contract in simd/kernels.h. */
#include "simd/store_bf16.h"

#include <arm_neon.h>
#include <string.h>

enum { NR = SL_BF16_NR, MR = 4, VEC = 4 }; /* VEC vectors of 4 columns */

static inline bfloat16x8_t load8(const sl_bf16 *p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }

/* Columns j..j+15; n: how many of them exist. */
static inline __attribute__((always_inline)) void block(const int mr, int64_t n, int64_t k,
                                                        const sl_bf16 *a, int64_t lda,
                                                        const sl_bf16 *panel, float *c, int64_t ldc,
                                                        int add) {
    float32x4_t acc[MR][VEC];
    float edge[4 * VEC] = {0}; /* a short row on its way in or out */
    for (int i = 0; i < mr; i++) {
        const float *row = c + i * ldc;
        if (add && n < 4 * VEC) {
            memcpy(edge, row, (size_t)n * sizeof(float));
            row = edge;
        }
        for (int v = 0; v < VEC; v++)
            acc[i][v] = add ? vld1q_f32(row + 4 * v) : vdupq_n_f32(0);
    }
    for (int64_t kk = 0; kk < k; kk += 8, panel += 8 * NR) {
        bfloat16x8_t x[MR];
        for (int i = 0; i < mr; i++)
            x[i] = load8(a + i * lda + kk);
#define PAIR(p)                                                                                    \
    for (int v = 0; v < VEC; v++) {                                                                \
        bfloat16x8_t b = load8(panel + (p)*2 * NR + 8 * v);                                        \
        for (int i = 0; i < mr; i++)                                                               \
            acc[i][v] = vbfdotq_laneq_f32(acc[i][v], b, x[i], p);                                  \
    }
        PAIR(0)
        PAIR(1)
        PAIR(2)
        PAIR(3)
#undef PAIR
    }
    for (int i = 0; i < mr; i++) {
        float *row = n < 4 * VEC ? edge : c + i * ldc;
        for (int v = 0; v < VEC; v++)
            vst1q_f32(row + 4 * v, acc[i][v]);
        if (n < 4 * VEC)
            memcpy(c + i * ldc, edge, (size_t)n * sizeof(float));
    }
}

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    for (int64_t j = 0; j < n; j += 4 * VEC) {
        int64_t w = n - j < 4 * VEC ? n - j : 4 * VEC, i = 0;
        for (; i + MR <= m; i += MR)
            block(MR, w, k, a + i * lda, lda, panel + 2 * j, c + i * ldc + j, ldc, add);
        for (; i < m; i++)
            block(1, w, k, a + i * lda, lda, panel + 2 * j, c + i * ldc + j, ldc, add);
    }
}

void SL_UNIT_FN(gemm_bf16_store)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                                 const sl_bf16 *panels, const sl_bf16_store *to) {
    store_product(m, n, k, a, lda, panels, to);
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) {
    float32x4_t acc[16];
    for (int i = 0; i < 16; i++)
        acc[i] = vdupq_n_f32(0);
    bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(0x3f81));
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+w"(x)); /* not to be hoisted */
        for (int i = 0; i < 16; i++)
            acc[i] = vbfdotq_f32(acc[i], x, x);
    }
    for (int i = 0; i < 16; i++)
        __asm__ volatile("" ::"w"(acc[i]));
    return rounds * 16 * 4 * 4;
}
