/* int8 GEMM on VPDPBUSD. Contract in simd/kernels.h. The instruction is written out since gcc 12 keeps half the sums in
 * memory when they go through the intrinsic, which costs 30 % of the speed (Zen 4). */
#include <immintrin.h>

static inline __attribute__((always_inline)) __m512i dot(__m512i acc, __m512i a, __m512i b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
#define DOT(acc, a, b) dot(acc, a, b)
#include "simd/avx512/dot.h"

void SL_UNIT_FN(gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t *c, int64_t ldc, int add) {
    dot_product(m, n, k, (const char *)a, lda, (const char *)panel, c, ldc, add);
}

int64_t SL_UNIT_FN(peak_int8)(int64_t rounds) { return dot_peak(rounds, _mm512_set1_epi8(1)) * 16 * 8; }
