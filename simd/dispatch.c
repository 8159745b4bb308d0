#include "simd/kernels.h"

#include <stddef.h>

#ifdef SL_BUILD_NEON
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#ifdef SL_BUILD_AVX512
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const sl_kernels sl_kernels_scalar, sl_kernels_neon, sl_kernels_neondot, sl_kernels_neonbf16, sl_kernels_avx2,
    sl_kernels_avx512, sl_kernels_avx512vnni, sl_kernels_avx512bf16, sl_kernels_amx;

#ifdef SL_BUILD_AVX512
/* AMX: the unit (CPUID leaf 7: TILE, BF16, INT8), the OS saving tiles (XCR0 bits 17, 18), and the
 * kernel's permission, which is asked for once and holds for all threads of the process. */
static int amx_permitted(void) {
    enum {
        AMX_BF16 = 1 << 22,
        AMX_TILE = 1 << 24,
        AMX_INT8 = 1 << 25,
        AMX_ALL = AMX_BF16 | AMX_TILE | AMX_INT8,
        XCR0_TILES = 3 << 17,
        ARCH_REQ_XCOMP_PERM = 0x1023,
        XTILEDATA = 18
    };
    static _Atomic int permitted = -1;
    if (permitted < 0) {
        unsigned a, b, c, d, xcr0;
        int unit = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_ALL) == AMX_ALL;
        if (unit) { /* AVX-512 has been found, so XGETBV may be used */
            __asm__("xgetbv" : "=a"(xcr0), "=d"(d) : "c"(0));
            unit = (xcr0 & XCR0_TILES) == XCR0_TILES;
        }
        permitted = unit && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
    }
    return permitted;
}
#endif

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
    case SL_ISA_AVX512VNNI: return supported(SL_ISA_AVX512) && __builtin_cpu_supports("avx512vnni");
    case SL_ISA_AVX512BF16: return supported(SL_ISA_AVX512VNNI) && __builtin_cpu_supports("avx512bf16");
    case SL_ISA_AMX: return supported(SL_ISA_AVX512BF16) && amx_permitted();
#endif
#ifdef SL_BUILD_NEONBF16
    case SL_ISA_NEONDOT: return supported(SL_ISA_NEON) && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    case SL_ISA_NEONBF16: return supported(SL_ISA_NEONDOT) && (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
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
    case SL_ISA_AVX512VNNI: return &sl_kernels_avx512vnni;
    case SL_ISA_AVX512BF16: return &sl_kernels_avx512bf16;
    case SL_ISA_AMX: return &sl_kernels_amx;
#endif
#ifdef SL_BUILD_NEONBF16
    case SL_ISA_NEONDOT: return &sl_kernels_neondot;
    case SL_ISA_NEONBF16: return &sl_kernels_neonbf16;
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
    enum sl_isa tier = SL_ISA_NEONBF16;
    while (!supported(tier))
        tier--;
    return tier;
}
