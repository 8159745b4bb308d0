/* bf16 GEMM on AMX tiles (TDPBF16PS). Contract in simd/kernels.h. */
#define TILE_DP(c, a, b) _tile_dpbf16ps(c, a, b)
#include "simd/amx/tiles.h"

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    tile_product(m, n, 2 * k, (const char *)a, 2 * lda, (const char *)panel, (char *)c, 4 * ldc, add);
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) { return 2 * tile_peak(rounds, 2); }
