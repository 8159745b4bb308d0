/* bf16 GEMM on VDPBF16PS. Contract in simd/kernels.h. The instruction is written out since gcc 12 keeps sums in memory
 * when they go through the intrinsic. */
#include <immintrin.h>

static inline __attribute__((always_inline)) __m512i dot(__m512i acc, __m512i a, __m512i b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
#define DOT(acc, a, b) dot(acc, a, b)
#include "simd/avx512/dot.h"
#include "simd/store_bf16.h"

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    dot_product(m, n, 2 * k, (const char *)a, 2 * lda, (const char *)panel, c, ldc, add);
}

/* mr rows from `row` on of the panel of columns col.., stored from registers. k in elements. */
DOT_INLINE void stored_block(const int mr, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda, const sl_bf16 *panel,
                             const sl_bf16_store *to, int64_t row, int64_t col) {
    __m512i acc[MR][2];
    const void *start = !to->y && to->add ? to->c + store_place(to, row, col) : NULL;
    dot_begin(mr, n, start, to->ldc, acc);
    dot_sums(mr, 2 * k, (const char *)(a + row * lda), 2 * lda, (const char *)panel, acc);
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
        if (n == SL_BF16_NR) {
            store_pair(to, row + i, col, v_float(acc[i][0]), v_float(acc[i][1]));
            continue;
        }
        store_vector(to, row + i, col, (int)store_least(n, VL), v_float(acc[i][0]));
        if (n > VL)
            store_vector(to, row + i, col + VL, (int)n - VL, v_float(acc[i][1]));
        store_padding(to, row + i, col, n);
    }
}

void SL_UNIT_FN(gemm_bf16_store)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                                 const sl_bf16 *panels, const sl_bf16_store *to) {
    for (int64_t col = 0; col < n; col += SL_BF16_NR, panels += k * SL_BF16_NR) {
        int64_t row = 0, cols = store_least(n - col, SL_BF16_NR);
        for (; row + MR <= m; row += MR)
            stored_block(MR, cols, k, a, lda, panels, to, row, col);
        for (; row + 4 <= m; row += 4)
            stored_block(4, cols, k, a, lda, panels, to, row, col);
        for (; row < m; row++)
            stored_block(1, cols, k, a, lda, panels, to, row, col);
    }
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) { return dot_peak(rounds, _mm512_set1_epi32(0x3f803f80)) * 16 * 4; }
