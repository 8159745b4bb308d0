/* AVX-512 (F, BW, DQ, VL) packing and transposes for the bf16 GEMM; contracts in simd/kernels.h.
 * All of them are made of one network, the transpose of 16 x 16 dwords: a pair of bf16 along k is a
 * dword. */
#include "simd/tier.h"

#include <immintrin.h>

enum { NR = SL_BF16_NR };

static inline __mmask16 mask16(int64_t n) {
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1U << n) - 1);
}

static inline __mmask32 mask32(int64_t n) {
    return n >= 32 ? 0xffffffffU : n <= 0 ? 0 : (__mmask32)((1U << n) - 1);
}

/* round_pair: dword = bf16(lo) | bf16(hi) << 16. round_row: x0, then x1, in their order. */
#ifdef __AVX512BF16__
static inline __m512i round_row(__m512 x0, __m512 x1) {
    return (__m512i)_mm512_cvtne2ps_pbh(x1, x0);
}

static inline __m512i round_pair(__m512 lo, __m512 hi) {
    __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(lo));
    __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(hi));
    return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}
#else
/* Rounds to nearest even; the result is in the upper half of each dword, the lower half is junk. A
 * quiet bit is set in every NaN and its payload kept. */
static inline __m512i round_high(__m512 x) {
    __m512i u = _mm512_castps_si512(x);
    __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
}

static inline __m512i round_pair(__m512 lo, __m512 hi) {
    __m512i l = _mm512_srli_epi32(round_high(lo), 16);
    /* hi's upper half, l elsewhere: (mask & hi) | (~mask & l) */
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)0xffff0000), round_high(hi), l, 0xca);
}

static inline __m512i round_row(__m512 x0, __m512 x1) {
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    return round_pair(_mm512_permutex2var_ps(x0, even, x1), _mm512_permutex2var_ps(x0, odd, x1));
}
#endif

/* r[i] dword j <-> r[j] dword i. */
static inline void transpose_16x16(__m512i r[16]) {
    vf x[16];
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_castsi512_ps(r[i]);
    v_transpose(x);
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_castps_si512(x[i]);
}

static inline void store_pairs(const __m512i r[16], sl_bf16 *panel) {
    for (int p = 0; p < 16; p++)
        _mm512_storeu_si512(panel + (int64_t)p * 2 * NR, r[p]);
}

void SL_FN(pack_bt_f32)(int64_t n, int64_t k, const float *src, int64_t ld, sl_bf16 *panel) {
    for (int64_t kk = 0; kk < k; kk += 32)
        for (int64_t j = 0; j < NR; j += 16) {
            __m512i r[16];
            for (int64_t i = 0; i < 16; i++) {
                __m512 x0 = _mm512_setzero_ps(), x1 = x0;
                if (j + i < n) {
                    const float *p = src + (j + i) * ld + kk;
                    x0 = _mm512_maskz_loadu_ps(mask16(k - kk), p);
                    if (k - kk > 16)
                        x1 = _mm512_maskz_loadu_ps(mask16(k - kk - 16), p + 16);
                }
                r[i] = round_row(x0, x1);
            }
            transpose_16x16(r);
            store_pairs(r, panel + kk * NR + j * 2);
        }
}

void SL_FN(pack_bt_bf16)(int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, sl_bf16 *panel) {
    for (int64_t kk = 0; kk < k; kk += 32)
        for (int64_t j = 0; j < NR; j += 16) {
            __m512i r[16];
            for (int64_t i = 0; i < 16; i++)
                r[i] = j + i < n ? _mm512_maskz_loadu_epi16(mask32(k - kk), src + (j + i) * ld + kk)
                                 : _mm512_setzero_si512();
            transpose_16x16(r);
            store_pairs(r, panel + kk * NR + j * 2);
        }
}

static inline void zero_pairs(int64_t from, int64_t k, sl_bf16 *panel) {
    for (int64_t kk = from; kk < sl_bf16_kpad(k); kk += 2) {
        _mm512_storeu_si512(panel + kk * NR, _mm512_setzero_si512());
        _mm512_storeu_si512(panel + kk * NR + NR, _mm512_setzero_si512());
    }
}

void SL_FN(pack_b_f32)(int64_t n, int64_t k, const float *src, int64_t ld, sl_bf16 *panel) {
    int64_t kk = 0;
    for (; kk < k; kk += 2)
        for (int64_t j = 0; j < NR; j += 16) {
            __mmask16 m = mask16(n - j);
            __m512 x0 = _mm512_setzero_ps(), x1 = x0;
            if (m) {
                x0 = _mm512_maskz_loadu_ps(m, src + kk * ld + j);
                if (kk + 1 < k)
                    x1 = _mm512_maskz_loadu_ps(m, src + (kk + 1) * ld + j);
            }
            _mm512_storeu_si512(panel + kk * NR + j * 2, round_pair(x0, x1));
        }
    zero_pairs(kk, k, panel);
}

void SL_FN(pack_b_bf16)(int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, sl_bf16 *panel) {
    /* Quadwords dealt out so that unpacking within 128-bit lanes leaves the columns in order. */
    const __m512i deal = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    __mmask32 m = mask32(n);
    int64_t kk = 0;
    for (; kk < k; kk += 2) {
        __m512i x0 = _mm512_maskz_loadu_epi16(m, src + kk * ld), x1 = _mm512_setzero_si512();
        if (kk + 1 < k)
            x1 = _mm512_maskz_loadu_epi16(m, src + (kk + 1) * ld);
        x0 = _mm512_permutexvar_epi64(deal, x0);
        x1 = _mm512_permutexvar_epi64(deal, x1);
        _mm512_storeu_si512(panel + kk * NR, _mm512_unpacklo_epi16(x0, x1));
        _mm512_storeu_si512(panel + kk * NR + NR, _mm512_unpackhi_epi16(x0, x1));
    }
    zero_pairs(kk, k, panel);
}

/* 32 x 32 block; rows and cols say how much of it exists. Unpacking pairs of rows within 128-bit
 * lanes leaves columns 8q..8q+3 in lane q of one half and 8q+4..8q+7 in the other: the order is put
 * right by where the rows of the result go. */
static inline void transpose_32x32(int64_t rows, int64_t cols, const sl_bf16 *src, int64_t lds,
                                   sl_bf16 *dst, int64_t ldd) {
    __mmask32 m = mask32(cols);
    __m512i lo[16], hi[16];
    for (int64_t p = 0; p < 16; p++) {
        __m512i x0 = _mm512_setzero_si512(), x1 = x0;
        if (2 * p < rows)
            x0 = _mm512_maskz_loadu_epi16(m, src + 2 * p * lds);
        if (2 * p + 1 < rows)
            x1 = _mm512_maskz_loadu_epi16(m, src + (2 * p + 1) * lds);
        lo[p] = _mm512_unpacklo_epi16(x0, x1);
        hi[p] = _mm512_unpackhi_epi16(x0, x1);
    }
    transpose_16x16(lo);
    transpose_16x16(hi);
    for (int64_t j = 0; j < 16; j++) {
        int64_t c = j / 4 * 8 + j % 4;
        if (c < cols)
            _mm512_storeu_si512(dst + c * ldd, lo[j]);
        if (c + 4 < cols)
            _mm512_storeu_si512(dst + (c + 4) * ldd, hi[j]);
    }
}

void SL_FN(transpose_bf16)(int64_t rows, int64_t cols, const sl_bf16 *src, int64_t lds,
                           sl_bf16 *dst, int64_t ldd) {
    for (int64_t j = 0; j < cols; j += 32)
        for (int64_t i = 0; i < rows; i += 32)
            if (rows - i >= 32 && cols - j >= 32)
                transpose_32x32(32, 32, src + i * lds + j, lds, dst + j * ldd + i, ldd);
            else
                transpose_32x32(rows - i, cols - j, src + i * lds + j, lds, dst + j * ldd + i, ldd);
}
