#pragma once
#include "simd/kernels.h"
#define C3(a,b) sl_##a##_##b
#define C2(a,b) C3(a,b)
#define SL_TIER(n) C2(n,SL_TIER_NAME)
void sl_gemm_bf16_table_scalar(sl_kernels*);void sl_gemm_bf16_table_avx2(sl_kernels*);void sl_gemm_bf16_table_avx512(sl_kernels*);
void sl_pack_bf16_table_avx512(sl_kernels*);void sl_gemm_bf16_table_avx512bf16(sl_kernels*);void sl_gemm_bf16_table_amx(sl_kernels*);void sl_gemm_bf16_table_neonbf16(sl_kernels*);
