/* Packing for the int8 GEMM; contract in simd/kernels.h. */
#include "simd/tier.h"

enum { NR = SL_INT8_NR };

void SL_FN(pack_int8)(int64_t n, int64_t k, const int8_t *src, int64_t ld, int8_t *panel, int32_t *sum) {
    int64_t kp = sl_int8_kpad(k);
    for (int64_t j = 0; j < NR; j++) {
        int32_t total = 0;
        for (int64_t kk = 0; kk < kp; kk++) {
            int8_t b = kk < k && j < n ? src[j * ld + kk] : 0;
            panel[kk / 4 * 4 * NR + j * 4 + kk % 4] = b;
            total += b;
        }
        if (j < n)
            sum[j] = total;
    }
}
