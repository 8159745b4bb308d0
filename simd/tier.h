/* The kernels' declarations with this tier's suffix, and the name of its table. */
#ifndef SL_SIMD_TIER_H
#define SL_SIMD_TIER_H

#include "simd/vec.h"

#ifndef SL_BF16_UNIT
#define SL_BF16_UNIT 0
#endif
#ifndef SL_INT8_UNIT
#define SL_INT8_UNIT 0
#endif
/* A tier that is another one (SL_TIER) but for its unit's kernels: -DSL_UNIT=amx. */
#ifndef SL_UNIT
#define SL_UNIT SL_TIER
#endif
#define SL_UNIT_FN(name) SL_PASTE(name, SL_UNIT)

#define SOURCE(name)
#define KERNEL(result, name, args) result SL_FN(name) args;
#define UNIT_KERNEL(result, name, args) result SL_UNIT_FN(name) args;
#include "simd/kernels.inc"
#define FFN(name, ...)                                                                             \
    sl_ffn_fwd SL_FN(name##_fwd);                                                                  \
    sl_ffn_bwd SL_FN(name##_bwd);                                                                  \
    sl_ffn_fwd_bf16 SL_FN(name##_fwd_bf16);                                                        \
    sl_ffn_bwd_bf16 SL_FN(name##_bwd_bf16);
#include "simd/ffn.inc"
#undef FFN

#define SL_DECLARE(name)                                                                           \
    sl_attention_fwd SL_FN(attend_##name##_fwd);                                                            \
    sl_attention_bwd SL_FN(attend_##name##_bwd);                                                            \
    sl_attention_fwd_bf16 SL_FN(attend_##name##_fwd_bf16);                                                  \
    sl_attention_bwd_bf16 SL_FN(attend_##name##_bwd_bf16);
SL_ATTENTION_ROWS(SL_DECLARE)
#undef SL_DECLARE
sl_attention_delta_bf16 SL_FN(attend_clipped_delta_bf16);

/* Micro-tile of gemm_f32: rows, and vectors across. */
#if defined SL_TIER_AVX512 || defined SL_TIER_AVX512BF16
#define SL_GEMM_MR 14
#define SL_GEMM_NRV 2
#elif defined SL_TIER_AVX2
#define SL_GEMM_MR 6
#define SL_GEMM_NRV 2
#elif defined SL_TIER_NEON
#define SL_GEMM_MR 8
#define SL_GEMM_NRV 2
#else
#define SL_GEMM_MR 4
#define SL_GEMM_NRV 8
#endif

#endif
