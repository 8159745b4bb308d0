#include "simd/tier.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define ENTRY(name) .name = SL_FN(name),

extern const sl_kernels SL_FN(sl_kernels);
const sl_kernels SL_FN(sl_kernels) = {
    .tier = STRING(SL_TIER),
    .vl = VL,
    .gemm_mr = SL_GEMM_MR,
    .gemm_nr = SL_GEMM_NRV * VL,
    SL_KERNELS(ENTRY)};
