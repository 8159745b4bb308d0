/* SLEEF's expf over an array, compiled once a tier: the yardstick of `kern bench exp`. */
#include "yard.h"

#include <immintrin.h>
#include <sleef.h>

#ifdef YARD_AVX512
void yard_sleef_exp_avx512(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, Sleef_expf16_u10avx512f(_mm512_loadu_ps(x + i)));
}
#else
void yard_sleef_exp_avx2(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, Sleef_expf8_u10avx2(_mm256_loadu_ps(x + i)));
}
#endif
