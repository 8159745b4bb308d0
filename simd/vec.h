/* The vector operations that simd/<name>.c are written over, one header a tier; -DSL_TIER_<T> picks
 * it.
 *
 *   VL            floats in a vector (1, 4, 8, 16)
 *   vf vi vm      float vector; int32 vector; result of a comparison
 *   vd            VL doubles
 *   *_n(p, ..., n)  the first n lanes, 0 <= n <= VL: the memory of the others is not touched, and
 * loads give 0 there. A constant n == VL is the plain load or store. v_head(a, n, rest)  a in the
 * first n lanes, rest in the others
 *   v_store2_bf16(p, a, b)  2 VL of them, where that can be one store of a whole line
 *
 * Contract that makes element-wise results the same bits in all tiers: every operation is one
 * correctly rounded IEEE operation (v_fma is a true fma, in software where there is none),
 * v_max(a,b) is a > b ? a : b and v_min(a,b) is a < b ? a : b (so b when either is NaN), and no
 * compiler may contract a*b + c (-ffp-contract=off). The exceptions: v_muladd rounds twice where
 * fma is no instruction, and sums depend on VL; v_reduce_* fold lane i with lane i + VL/2, then
 * VL/4, ... */
#ifndef SL_SIMD_VEC_H
#define SL_SIMD_VEC_H

#include "simd/kernels.h"

#include <string.h>

#define SL_VEC static inline __attribute__((always_inline, unused))
#define SL_FULL(n) (__builtin_constant_p(n) && (n) == VL)
#define SL_PASTE_(a, b) a##_##b
#define SL_PASTE(a, b) SL_PASTE_(a, b)
/* The name of a kernel in this tier: SL_FN(dot) is dot_avx2 when SL_TIER is avx2. */
#define SL_FN(name) SL_PASTE(name, SL_TIER)

#if defined SL_TIER_AVX512BF16
#define SL_TIER avx512bf16
#include "simd/vec_avx512.h"
#elif defined SL_TIER_AVX512
#define SL_TIER avx512
#include "simd/vec_avx512.h"
#elif defined SL_TIER_AVX2
#define SL_TIER avx2
#include "simd/vec_avx2.h"
#elif defined SL_TIER_NEON
#define SL_TIER neon
#include "simd/vec_neon.h"
#elif defined SL_TIER_SCALAR
#define SL_TIER scalar
#include "simd/vec_scalar.h"
#else
#error "define SL_TIER_SCALAR, SL_TIER_AVX2, SL_TIER_AVX512, SL_TIER_AVX512BF16 or SL_TIER_NEON"
#endif

#ifndef SL_STORE2_BF16
SL_VEC void v_store2_bf16(sl_bf16 *p, vf a, vf b) {
    v_store_bf16_n(p, a, VL);
    v_store_bf16_n(p + VL, b, VL);
}
#endif

/* v_load_n and v_store_n, or v_load_bf16_n and v_store_bf16_n, by the type of p: arithmetic is fp32
 * whatever rows hold. */
#define v_get_n(p, n)                                                                              \
    _Generic(*(p), float: v_load_n, sl_bf16: v_load_bf16_n)((const void *)(p), n)
#define v_put_n(p, a, n)                                                                           \
    _Generic(*(p), float: v_store_n, sl_bf16: v_store_bf16_n)((void *)(p), a, n)

/* Calls at(i, VL, ...) for each whole vector of [0, n) and at(i, rest, ...) for the tail. */
#define V_EACH(n, at, ...)                                                                         \
    do {                                                                                           \
        int64_t i_ = 0;                                                                            \
        for (; i_ + VL <= (n); i_ += VL)                                                           \
            at(i_, VL, __VA_ARGS__);                                                               \
        if (i_ < (n))                                                                              \
            at(i_, (int)((n)-i_), __VA_ARGS__);                                                    \
    } while (0)

#endif
