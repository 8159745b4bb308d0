/* Products on the dot-product instructions of AVX-512, for gemm_*.c of tiers with them: blocks of MR rows x 32
 * columns in registers, A broadcast from memory 4 bytes of k at a time. What the bytes hold only DOT(acc, a, b),
 * which the including file defines on __m512i, knows. k and lda are in bytes. */
#ifndef SL_SIMD_AVX512_DOT_H
#define SL_SIMD_AVX512_DOT_H

#include "simd/tier.h"

#include <immintrin.h>
#include <stddef.h>

enum { MR = 12, PANEL_BYTES = 128 };

static inline __m512i broadcast4(const char *a) {
    int32_t u;
    memcpy(&u, a, sizeof u);
    return _mm512_set1_epi32(u);
}

#define DOT_INLINE static inline __attribute__((always_inline))

DOT_INLINE __mmask16 first_lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1U << n) - 1); }

/* mr rows of sums, from c on or from 0 (c NULL). */
DOT_INLINE void dot_begin(const int mr, int64_t n, const int32_t *c, int64_t ldc, __m512i acc[MR][2]) {
    __mmask16 m0 = first_lanes(n), m1 = first_lanes(n - 16);
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
        acc[i][0] = c ? _mm512_maskz_loadu_epi32(m0, c + i * ldc) : _mm512_setzero_si512();
        acc[i][1] = c && m1 ? _mm512_maskz_loadu_epi32(m1, c + i * ldc + 16) : _mm512_setzero_si512();
    }
}

DOT_INLINE void dot_sums(const int mr, int64_t k, const char *a, int64_t lda, const char *panel, __m512i acc[MR][2]) {
    for (int64_t kk = 0; kk < k; kk += 4, a += 4, panel += PANEL_BYTES) {
        __m512i b0 = _mm512_loadu_si512(panel), b1 = _mm512_loadu_si512(panel + PANEL_BYTES / 2);
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
            __m512i x = broadcast4(a + i * lda);
            acc[i][0] = DOT(acc[i][0], x, b0);
            acc[i][1] = DOT(acc[i][1], x, b1);
        }
    }
}

DOT_INLINE void block(const int mr, int64_t n, int64_t k, const char *a, int64_t lda, const char *panel, int32_t *c,
                      int64_t ldc, int add) {
    __mmask16 m0 = first_lanes(n), m1 = first_lanes(n - 16);
    __m512i acc[MR][2];
    dot_begin(mr, n, add ? c : NULL, ldc, acc);
    dot_sums(mr, k, a, lda, panel, acc);
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
        _mm512_mask_storeu_epi32(c + i * ldc, m0, acc[i][0]);
        if (m1)
            _mm512_mask_storeu_epi32(c + i * ldc + 16, m1, acc[i][1]);
    }
}

static inline void dot_product(int64_t m, int64_t n, int64_t k, const char *a, int64_t lda, const char *panel, void *to,
                               int64_t ldc, int add) {
    int32_t *c = to; /* the accesses above may alias anything */
    for (; m >= MR; m -= MR, a += MR * lda, c += MR * ldc)
        block(MR, n, k, a, lda, panel, c, ldc, add);
    for (; m >= 4; m -= 4, a += 4 * lda, c += 4 * ldc)
        block(4, n, k, a, lda, panel, c, ldc, add);
    for (; m > 0; m--, a += lda, c += ldc)
        block(1, n, k, a, lda, panel, c, ldc, add);
}

/* Instructions done, of 16 lanes each. */
static inline int64_t dot_peak(int64_t rounds, __m512i x) {
    __m512i acc[24];
    for (int i = 0; i < 24; i++)
        acc[i] = _mm512_setzero_si512();
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(x)); /* not to be hoisted */
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++)
            acc[i] = DOT(acc[i], x, x);
    }
#pragma GCC unroll 24 /* else the sums have to be in memory */
    for (int i = 0; i < 24; i++)
        __asm__ volatile("" ::"v"(acc[i]));
    return rounds * 24;
}

#endif
