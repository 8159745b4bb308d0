/* vec.h for AVX2 and FMA. */
#ifndef SL_SIMD_VEC_AVX2_H
#define SL_SIMD_VEC_AVX2_H

#if !defined __AVX2__ || !defined __FMA__
#error "the avx2 tier needs -mavx2 -mfma"
#endif

#include <immintrin.h>

#define VL 8

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
typedef struct {
    __m256d lo, hi;
} vd;

SL_VEC __m256i v_first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

SL_VEC vf v_zero(void) { return _mm256_setzero_ps(); }
SL_VEC vf v_set1(float a) { return _mm256_set1_ps(a); }
SL_VEC vf v_load(const float *p) { return _mm256_loadu_ps(p); }
SL_VEC void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
SL_VEC vf v_load_n(const float *p, int n) {
    return SL_FULL(n) ? v_load(p) : _mm256_maskload_ps(p, v_first(n));
}
SL_VEC void v_store_n(float *p, vf a, int n) {
    if (SL_FULL(n))
        v_store(p, a);
    else
        _mm256_maskstore_ps(p, v_first(n), a);
}

SL_VEC vi vi_load_n(const int32_t *p, int n) {
    return SL_FULL(n) ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskload_epi32(p, v_first(n));
}
SL_VEC void vi_store_low8_n(uint8_t *p, vi a, int n) {
    const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i b = _mm256_shuffle_epi8(a, low);
    __m128i h = _mm_unpacklo_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    memcpy(p, &h, (size_t)n);
}

SL_VEC vi v_bits(vf a) { return _mm256_castps_si256(a); }
SL_VEC vf v_float(vi a) { return _mm256_castsi256_ps(a); }
SL_VEC vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
SL_VEC vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
SL_VEC vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
SL_VEC vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
#define vi_sra(a, k) _mm256_srai_epi32(a, k)
SL_VEC vf v_from_int(vi a) { return _mm256_cvtepi32_ps(a); }

SL_VEC vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
SL_VEC vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
SL_VEC vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
SL_VEC vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
SL_VEC vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
SL_VEC vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
SL_VEC vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
SL_VEC vf v_muladd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

SL_VEC vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
SL_VEC vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
SL_VEC vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
SL_VEC vf v_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
SL_VEC vf v_copysign(vf mag, vf sign) {
    vf s = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_and_ps(s, sign), _mm256_andnot_ps(s, mag));
}

SL_VEC vm v_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SL_VEC vm v_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
SL_VEC vm v_isnan(vf a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
SL_VEC vf v_sel(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
SL_VEC vf v_head(vf a, int n, vf rest) {
    return SL_FULL(n) ? a : _mm256_blendv_ps(rest, a, _mm256_castsi256_ps(v_first(n)));
}

/* The conversion gives INT_MIN for NaN, whose shift is 0. */
SL_VEC vf v_scale2(vf a, vf e) {
    return v_float(vi_add(v_bits(a), _mm256_slli_epi32(_mm256_cvtps_epi32(e), 23)));
}

SL_VEC float v_reduce_add(vf a) {
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SL_VEC float v_reduce_max(vf a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

SL_VEC vf v_load_bf16_n(const sl_bf16 *p, int n) {
    __m128i h = _mm_setzero_si128();
    if (SL_FULL(n))
        h = _mm_loadu_si128((const __m128i *)p);
    else
        memcpy(&h, p, (size_t)n * sizeof *p);
    return v_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
SL_VEC void v_store_bf16_n(sl_bf16 *p, vf a, int n) {
    __m256i u = v_bits(a), hi = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(hi, _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(hi, _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(_mm256_srli_epi32(r, 16), quiet, v_bits(v_isnan(a)));
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    __m128i h = _mm256_castsi256_si128(r);
    if (SL_FULL(n))
        _mm_storeu_si128((__m128i *)p, h);
    else
        memcpy(p, &h, (size_t)n * sizeof *p);
}

SL_VEC __m256i vd_first(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
SL_VEC vd vd_zero(void) { return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
SL_VEC vd vd_load_n(const double *p, int n) {
    if (SL_FULL(n))
        return (vd){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
    return (vd){_mm256_maskload_pd(p, vd_first(n)), _mm256_maskload_pd(p + 4, vd_first(n - 4))};
}
SL_VEC void vd_store_n(double *p, vd a, int n) {
    if (SL_FULL(n)) {
        _mm256_storeu_pd(p, a.lo);
        _mm256_storeu_pd(p + 4, a.hi);
    } else {
        _mm256_maskstore_pd(p, vd_first(n), a.lo);
        _mm256_maskstore_pd(p + 4, vd_first(n - 4), a.hi);
    }
}
SL_VEC vd vd_add(vd a, vd b) { return (vd){_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)}; }
SL_VEC vd vd_from_float(vf x) {
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
SL_VEC vd vd_add_float(vd a, vf x) { return vd_add(a, vd_from_float(x)); }
SL_VEC vd vd_add_square(vd a, vf x) {
    vd b = vd_from_float(x);
    return (vd){_mm256_fmadd_pd(b.lo, b.lo, a.lo), _mm256_fmadd_pd(b.hi, b.hi, a.hi)};
}
SL_VEC double vd_reduce_add(vd a) {
    __m256d c = _mm256_add_pd(a.lo, a.hi);
    __m128d d = _mm_add_pd(_mm256_castpd256_pd128(c), _mm256_extractf128_pd(c, 1));
    return _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)));
}

SL_VEC void v_transpose(vf r[VL]) {
    vf t[VL];
    for (int i = 0; i < 8; i += 4) {
        vf a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}

#endif
