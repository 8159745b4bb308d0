#include "simd/tier.h"

#include <stddef.h>

#define STRING_(x) #x
#define STRING(x) STRING_(x)

extern const sl_kernels SL_UNIT_FN(sl_kernels);
const sl_kernels SL_UNIT_FN(sl_kernels) = {
    .tier = STRING(SL_UNIT),
    .vl = VL,
    .bf16_unit = SL_BF16_UNIT,
    .int8_unit = SL_INT8_UNIT,
    .gemm_mr = SL_GEMM_MR,
    .gemm_nr = SL_GEMM_NRV * VL,
    .ffn = {
#define FFN(name, ...)                                                                             \
    {SL_FN(name##_fwd), SL_FN(name##_bwd), SL_FN(name##_fwd_bf16), SL_FN(name##_bwd_bf16)},
#include "simd/ffn.inc"
#undef FFN
    },
    .attention = {
#define DELTA_softmax NULL
#define DELTA_sigmoid NULL
#define DELTA_relu NULL
#define DELTA_clipped SL_FN(attend_clipped_delta_bf16)
#define ROWS(rows)                                                                                 \
    {SL_FN(attend_##rows##_fwd), SL_FN(attend_##rows##_bwd), SL_FN(attend_##rows##_fwd_bf16),      \
     SL_FN(attend_##rows##_bwd_bf16), DELTA_##rows},
        SL_ATTENTION_ROWS(ROWS)
#undef ROWS
    },
#define SOURCE(name)
#define KERNEL(result, name, args) .name = SL_FN(name),
#define UNIT_KERNEL(result, name, args) .name = SL_UNIT_FN(name),
#include "simd/kernels.inc"
};
