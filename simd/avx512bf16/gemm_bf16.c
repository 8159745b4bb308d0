/* bf16 GEMM on VDPBF16PS. Contract in simd/kernels.h. */
#define DOT(acc, a, b) ((__m512i)_mm512_dpbf16_ps((__m512)(acc), (__m512bh)(a), (__m512bh)(b)))
#include "simd/avx512/dot.h"

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    dot_product(m, n, 2 * k, (const char *)a, 2 * lda, (const char *)panel, c, ldc, add);
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) { return dot_peak(rounds, _mm512_set1_epi32(0x3f803f80)) * 16 * 4; }
