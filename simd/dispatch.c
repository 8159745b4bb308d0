#include "simd/kernels.h"

#include <stddef.h>

#ifdef SL_BUILD_NEON
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

extern const sl_kernels sl_kernels_scalar, sl_kernels_neon, sl_kernels_avx2, sl_kernels_avx512;

/* The compiler's runtime asks CPUID for the unit and XGETBV whether the OS saves its registers. */
static int supported(enum sl_isa tier) {
    switch (tier) {
    case SL_ISA_SCALAR: return 1;
#ifdef SL_BUILD_NEON
    case SL_ISA_NEON: return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
#endif
#ifdef SL_BUILD_AVX2
    case SL_ISA_AVX2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef SL_BUILD_AVX512
    case SL_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#endif
    default: return 0;
    }
}

const sl_kernels *sl_kernels_tier(enum sl_isa tier) {
    if (!supported(tier))
        return NULL;
    switch (tier) {
#ifdef SL_BUILD_NEON
    case SL_ISA_NEON: return &sl_kernels_neon;
#endif
#ifdef SL_BUILD_AVX2
    case SL_ISA_AVX2: return &sl_kernels_avx2;
#endif
#ifdef SL_BUILD_AVX512
    case SL_ISA_AVX512: return &sl_kernels_avx512;
#endif
    default: return &sl_kernels_scalar;
    }
}

const sl_kernels *sl_kernels_select(enum sl_isa cap) {
    enum sl_isa best = sl_isa_detect();
    if (cap == SL_ISA_AUTO || cap > best)
        cap = best;
    while (!supported(cap))
        cap--; /* scalar ends it */
    return sl_kernels_tier(cap);
}

enum sl_isa sl_isa_detect(void) {
    enum sl_isa tier = SL_ISA_AVX512;
    while (!supported(tier))
        tier--;
    return tier;
}
