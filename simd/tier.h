/* The list of kernels, their declarations with this tier's suffix, and the name of its table. */
#ifndef SL_SIMD_TIER_H
#define SL_SIMD_TIER_H

#include "simd/vec.h"

/* clang-format off */
#define SL_KERNELS(X) \
    X(pack_f32) X(gemm_f32) X(to_bf16) X(from_bf16) \
    X(rmsnorm_fwd) X(rmsnorm_fwd_bf16) X(rmsnorm_bwd) X(rmsnorm_bwd_bf16) \
    X(layernorm_fwd) X(layernorm_fwd_bf16) X(layernorm_bwd) X(layernorm_bwd_bf16) \
    X(channel_scale_fwd) X(channel_scale_bwd) X(dyt_fwd) X(dyt_bwd) X(derf_fwd) X(derf_bwd) \
    X(exp) X(log) X(sigmoid) X(tanh) X(erf) \
    X(silu_fwd) X(silu_bwd) X(gate_fwd) X(gate_fwd_bf16) X(gate_bwd) X(gate_bwd_bf16) \
    X(sigmoid_bwd) X(tanh_bwd) X(relu_fwd) X(relu_bwd) X(gate_mul) X(clip_fwd) X(clip_bwd) \
    X(add) X(sum) X(scale) X(rope) X(rope_bf16) \
    X(dot) X(scale_rows_bf16) X(dot_rows_bf16) X(xent) X(adamw) X(sumsq) X(abs_stats) \
    X(pack_bt_f32) X(pack_b_f32) X(pack_bt_bf16) X(pack_b_bf16) X(transpose_bf16) X(transpose_f32) \
    X(quant_round) X(quant_codes) X(quant_values) X(quant_pack4) X(quant_unpack4) X(quant_amax) X(quant_range) \
    X(pack_int8) X(scale_int32)
/* Kernels on a unit for bf16 or int8, where there is one. */
#define SL_UNIT_KERNELS(X) X(gemm_bf16) X(peak_bf16) X(gemm_int8) X(peak_int8)
/* clang-format on */

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

#define SL_DECLARE(name) __typeof__(*((sl_kernels *)0)->name) SL_FN(name);
SL_KERNELS(SL_DECLARE)
#undef SL_DECLARE
#define SL_DECLARE(name) __typeof__(*((sl_kernels *)0)->name) SL_UNIT_FN(name);
SL_UNIT_KERNELS(SL_DECLARE)
#undef SL_DECLARE
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
