/* vec.h for AVX-512 F, BW, DQ, VL. */
#ifndef SL_SIMD_VEC_AVX512_H
#define SL_SIMD_VEC_AVX512_H

#if !defined __AVX512F__ || !defined __AVX512BW__ || !defined __AVX512DQ__ || !defined __AVX512VL__
#error "the avx512 tier needs -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

#include <immintrin.h>

#define VL 16

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
typedef struct {
    __m512d lo, hi;
} vd;

SL_VEC __mmask16 v_first(int n) { return (__mmask16)((1u << n) - 1); }

SL_VEC vf v_zero(void) { return _mm512_setzero_ps(); }
SL_VEC vf v_set1(float a) { return _mm512_set1_ps(a); }
SL_VEC vf v_load(const float *p) { return _mm512_loadu_ps(p); }
SL_VEC void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
SL_VEC vf v_load_n(const float *p, int n) {
    return SL_FULL(n) ? v_load(p) : _mm512_maskz_loadu_ps(v_first(n), p);
}
SL_VEC void v_store_n(float *p, vf a, int n) {
    if (SL_FULL(n))
        v_store(p, a);
    else
        _mm512_mask_storeu_ps(p, v_first(n), a);
}

SL_VEC vi vi_load_n(const int32_t *p, int n) {
    return SL_FULL(n) ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(v_first(n), p);
}
SL_VEC void vi_store_low8_n(uint8_t *p, vi a, int n) {
    _mm_mask_storeu_epi8(p, v_first(n), _mm512_cvtepi32_epi8(a));
}

SL_VEC vi v_bits(vf a) { return _mm512_castps_si512(a); }
SL_VEC vf v_float(vi a) { return _mm512_castsi512_ps(a); }
SL_VEC vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
SL_VEC vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
SL_VEC vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
SL_VEC vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
#define vi_sra(a, k) _mm512_srai_epi32(a, k)
SL_VEC vf v_from_int(vi a) { return _mm512_cvtepi32_ps(a); }

SL_VEC vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
SL_VEC vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
SL_VEC vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
SL_VEC vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
SL_VEC vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
SL_VEC vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
SL_VEC vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
SL_VEC vf v_muladd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

SL_VEC vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
SL_VEC vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
SL_VEC vf v_abs(vf a) { return _mm512_abs_ps(a); }
SL_VEC vf v_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
SL_VEC vf v_copysign(vf mag, vf sign) {
    __m512i s = _mm512_set1_epi32(INT32_MIN); /* bit select: s ? sign : mag */
    return v_float(_mm512_ternarylogic_epi32(s, v_bits(sign), v_bits(mag), 0xca));
}

SL_VEC vm v_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SL_VEC vm v_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
SL_VEC vm v_isnan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
SL_VEC vf v_sel(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
SL_VEC vf v_head(vf a, int n, vf rest) {
    return SL_FULL(n) ? a : _mm512_mask_blend_ps(v_first(n), rest, a);
}

SL_VEC vf v_scale2(vf a, vf e) { return _mm512_scalef_ps(a, e); }

SL_VEC float v_reduce_add(vf a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SL_VEC float v_reduce_max(vf a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

SL_VEC vf v_load_bf16_n(const sl_bf16 *p, int n) {
    __m256i h = SL_FULL(n) ? _mm256_loadu_si256((const __m256i *)p)
                           : _mm256_maskz_loadu_epi16(v_first(n), p);
    return v_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
SL_VEC __m256i v_to_bf16(vf a) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(a); /* reads subnormals as 0 */
#else
    __m512i u = v_bits(a), hi = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(hi, _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    r = _mm512_mask_or_epi32(_mm512_srli_epi32(r, 16), v_isnan(a), hi, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(r);
#endif
}
SL_VEC void v_store_bf16_n(sl_bf16 *p, vf a, int n) {
    __m256i h = v_to_bf16(a);
    if (SL_FULL(n))
        _mm256_storeu_si256((__m256i *)p, h);
    else
        _mm256_mask_storeu_epi16(p, v_first(n), h);
}
#define SL_STORE2_BF16
SL_VEC void v_store2_bf16(sl_bf16 *p, vf a, vf b) {
#ifdef __AVX512BF16__
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a); /* rounds as the other does */
#else
    __m512i h = _mm512_inserti64x4(_mm512_castsi256_si512(v_to_bf16(a)), v_to_bf16(b), 1);
#endif
    _mm512_storeu_si512(p, h);
}

SL_VEC vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
SL_VEC vd vd_load_n(const double *p, int n) {
    __mmask16 m = v_first(n);
    return (vd){_mm512_maskz_loadu_pd((__mmask8)m, p),
                _mm512_maskz_loadu_pd((__mmask8)(m >> 8), p + 8)};
}
SL_VEC void vd_store_n(double *p, vd a, int n) {
    __mmask16 m = v_first(n);
    _mm512_mask_storeu_pd(p, (__mmask8)m, a.lo);
    _mm512_mask_storeu_pd(p + 8, (__mmask8)(m >> 8), a.hi);
}
SL_VEC vd vd_add(vd a, vd b) { return (vd){_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)}; }
SL_VEC vd vd_from_float(vf x) {
    return (vd){_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}
SL_VEC vd vd_add_float(vd a, vf x) { return vd_add(a, vd_from_float(x)); }
SL_VEC vd vd_add_square(vd a, vf x) {
    vd b = vd_from_float(x);
    return (vd){_mm512_fmadd_pd(b.lo, b.lo, a.lo), _mm512_fmadd_pd(b.hi, b.hi, a.hi)};
}
SL_VEC double vd_reduce_add(vd a) {
    __m512d b = _mm512_add_pd(a.lo, a.hi);
    __m256d c = _mm256_add_pd(_mm512_castpd512_pd256(b), _mm512_extractf64x4_pd(b, 1));
    __m128d d = _mm_add_pd(_mm256_castpd256_pd128(c), _mm256_extractf128_pd(c, 1));
    return _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)));
}

SL_VEC void v_transpose(vf r[VL]) {
    vf t[VL];
    /* 4x4 blocks inside each 128-bit lane ... */
    for (int i = 0; i < 16; i += 4) {
        vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    /* ... then a 4x4 transpose of the lanes. */
    for (int j = 0; j < 4; j++) {
        vf a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x44);
        vf b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xee);
        vf c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x44);
        vf d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xee);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[8 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
