#include "simd/tier.h"

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define ENTRY(name) .name = SL_FN(name),
#define UNIT_ENTRY(name) .name = SL_UNIT_FN(name),

extern const sl_kernels SL_UNIT_FN(sl_kernels);
const sl_kernels SL_UNIT_FN(sl_kernels) = {
    .tier = STRING(SL_UNIT),
    .vl = VL,
    .bf16_unit = SL_BF16_UNIT,
    .gemm_mr = SL_GEMM_MR,
    .gemm_nr = SL_GEMM_NRV * VL,
    .ffn = {
#define FFN(name, ...)                                                                             \
    {SL_FN(name##_fwd), SL_FN(name##_bwd), SL_FN(name##_fwd_bf16), SL_FN(name##_bwd_bf16)},
#include "simd/ffn.inc"
#undef FFN
    },
    SL_KERNELS(ENTRY) SL_UNIT_KERNELS(UNIT_ENTRY)};
