/* Every kernel tier; sl_kernels_tier() gives NULL for those that are not on this machine. */
#ifndef SL_TESTS_TIERS_H
#define SL_TESTS_TIERS_H

#include "simd/kernels.h"

static const enum sl_isa tiers[] = {SL_ISA_SCALAR, SL_ISA_NEON,       SL_ISA_NEONDOT,    SL_ISA_NEONBF16, SL_ISA_AVX2,
                                    SL_ISA_AVX512, SL_ISA_AVX512VNNI, SL_ISA_AVX512BF16, SL_ISA_AMX};
enum { TIERS = sizeof tiers / sizeof *tiers };

#endif
