/* int8 GEMM on AMX tiles (TDPBUSD). Contract in simd/kernels.h. */
#define TILE_DP(c, a, b) _tile_dpbusd(c, a, b)
#include "simd/amx/tiles.h"

void SL_UNIT_FN(gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t *c, int64_t ldc, int add) {
    tile_product(m, n, k, (const char *)a, lda, (const char *)panel, (char *)c, 4 * ldc, add);
}

int64_t SL_UNIT_FN(peak_int8)(int64_t rounds) { return 2 * tile_peak(rounds, 1); }
