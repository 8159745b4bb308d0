/* bf16 GEMM on VDPBF16PS: blocks of MR rows x 32 columns in registers, A broadcast from memory a
 * pair at a time. Contract in simd/kernels.h. */
#include "simd/tier.h"

#include <immintrin.h>
#include <string.h>

enum { NR = SL_BF16_NR, MR = 12 };

static inline __m512bh pair(const sl_bf16 *a) {
    int32_t u;
    memcpy(&u, a, sizeof u);
    return (__m512bh)_mm512_set1_epi32(u);
}

static inline __attribute__((always_inline)) void block(const int mr, int64_t n, int64_t k,
                                                        const sl_bf16 *a, int64_t lda,
                                                        const sl_bf16 *panel, float *c, int64_t ldc,
                                                        int add) {
    __mmask16 m0 = n >= 16 ? 0xffff : (__mmask16)((1U << n) - 1);
    __mmask16 m1 = n <= 16 ? 0 : (__mmask16)((1U << (n - 16)) - 1);
    __m512 acc[MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
        acc[i][0] = add ? _mm512_maskz_loadu_ps(m0, c + i * ldc) : _mm512_setzero_ps();
        acc[i][1] = add && m1 ? _mm512_maskz_loadu_ps(m1, c + i * ldc + 16) : _mm512_setzero_ps();
    }
    for (int64_t kk = 0; kk < k; kk += 2, a += 2, panel += 2 * NR) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel);
        __m512bh b1 = (__m512bh)_mm512_loadu_si512(panel + NR);
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
            __m512bh x = pair(a + i * lda);
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
        _mm512_mask_storeu_ps(c + i * ldc, m0, acc[i][0]);
        if (m1)
            _mm512_mask_storeu_ps(c + i * ldc + 16, m1, acc[i][1]);
    }
}

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    for (; m >= MR; m -= MR, a += MR * lda, c += MR * ldc)
        block(MR, n, k, a, lda, panel, c, ldc, add);
    for (; m >= 4; m -= 4, a += 4 * lda, c += 4 * ldc)
        block(4, n, k, a, lda, panel, c, ldc, add);
    for (; m > 0; m--, a += lda, c += ldc)
        block(1, n, k, a, lda, panel, c, ldc, add);
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) {
    __m512 acc[24];
    for (int i = 0; i < 24; i++)
        acc[i] = _mm512_setzero_ps();
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(x)); /* not to be hoisted */
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = _mm512_dpbf16_ps(acc[i], x, x);
    }
    for (int i = 0; i < 24; i++)
        __asm__ volatile("" ::"v"(acc[i]));
    return rounds * 24 * 16 * 4;
}
