/* Neighbours of a row in 16 bytes, and of a warp in powers of two; numbers whose precision a flag says. */
#ifndef SL_CUDA_WIDE_H
#define SL_CUDA_WIDE_H

#include "cuda/cu.h"

/* V neighbours as floats: 16 bytes at once, or one. */
template <int V> static __device__ __forceinline__ void load(float x[V], const float *p) {
    if constexpr (V == 1) {
        x[0] = *p;
    } else {
        SLC_UNROLL
        for (int i = 0; i < V; i += 4) {
            float4 v = *(const float4 *)(p + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
    }
}
template <int V> static __device__ __forceinline__ void load(float x[V], const slc_bf16 *p) {
    if constexpr (V == 1) {
        x[0] = slc_load(p);
    } else {
        static_assert(V == 8, "16 bytes");
        uint4 v = *(const uint4 *)p;
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            x[2 * i] = __uint_as_float(w[i] << 16), x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
template <int V> static __device__ __forceinline__ void store(float *p, const float x[V]) {
    if constexpr (V == 1) {
        *p = x[0];
    } else {
        SLC_UNROLL
        for (int i = 0; i < V; i += 4)
            *(float4 *)(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
}
template <int V> static __device__ __forceinline__ void store(slc_bf16 *p, const float x[V]) {
    if constexpr (V == 1)
        slc_store(p, x[0]);
    else
        *(uint4 *)p = make_uint4(slc_pack_bf16(x[0], x[1]), slc_pack_bf16(x[2], x[3]), slc_pack_bf16(x[4], x[5]),
                                 slc_pack_bf16(x[6], x[7]));
}

/* Number i of rows of either precision. */
static __device__ __forceinline__ float value_at(const void *p, bool bf16, int64_t i) {
    return bf16 ? slc_load((const slc_bf16 *)p + i) : slc_load((const float *)p + i);
}
static __device__ __forceinline__ void put_value(void *p, bool bf16, int64_t i, bool add, float x) {
    x += add ? value_at(p, bf16, i) : 0;
    if (bf16)
        slc_store((slc_bf16 *)p + i, x);
    else
        slc_store((float *)p + i, x);
}

/* Sum over `lanes` neighbours of a warp, all lanes of which are here. */
static __device__ __forceinline__ float lanes_sum(float x, int lanes) {
    for (int i = lanes / 2; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

#endif
