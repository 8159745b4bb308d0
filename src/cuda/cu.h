/* What the .cu files share: launching, shared memory, bf16, reductions. The same sources are compiled by nvcc, and by a
 * C++ compiler over tests/cuda/emu, where threads of a block are fibers of one CPU thread: so kernels are launched by
 * SLC_LAUNCH, take dynamic shared memory by SLC_DYNAMIC, and leave instructions of the tensor cores to mma.h.
 * No atomics on floats: sums have one order. */
#ifndef SL_CUDA_CU_H
#define SL_CUDA_CU_H

#ifdef SL_CUDA_EMU /* the compiler has included emu.h first */
#define SLC_UNROLL
#else
#include <cuda_runtime.h>
#define SLC_UNROLL _Pragma("unroll")
#define SLC_LAUNCH(kernel, grid, block, shared, stream, ...)                                                           \
    kernel<<<dim3(grid), dim3(block), (size_t)(shared), (cudaStream_t)(stream)>>>(__VA_ARGS__)
/* More than 48 KB of dynamic shared memory must be asked for, once a kernel. */
#define SLC_MORE_SHARED(kernel, bytes)                                                                                 \
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
/* The most bytes of it that a block can have here. */
static inline int slc_most_shared(void) {
    int device = 0, bytes = 48 << 10;
    if (cudaGetDevice(&device) == cudaSuccess)
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return bytes;
}
#define SLC_DYNAMIC(type, name)                                                                                        \
    extern __shared__ __align__(128) unsigned char slc_dynamic[];                                                      \
    type *name = (type *)slc_dynamic
#endif

#include <math.h>
#include <stdint.h>

typedef uint16_t slc_bf16; /* the upper half of a float, as sl_bf16 */

static __device__ __forceinline__ float slc_from_bf16(slc_bf16 x) { return __uint_as_float((uint32_t)x << 16); }
/* To nearest even; NaN stays NaN. */
static __device__ __forceinline__ slc_bf16 slc_to_bf16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    slc_bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
#else
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (slc_bf16)(u >> 16 | 0x40);
    return (slc_bf16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
#endif
}
/* lo in the lower half */
static __device__ __forceinline__ uint32_t slc_pack_bf16(float lo, float hi) {
    return (uint32_t)slc_to_bf16(lo) | (uint32_t)slc_to_bf16(hi) << 16;
}

/* An element of either precision. */
static __device__ __forceinline__ float slc_load(const float *p) { return *p; }
static __device__ __forceinline__ float slc_load(const slc_bf16 *p) { return slc_from_bf16(*p); }
static __device__ __forceinline__ void slc_store(float *p, float x) { *p = x; }
static __device__ __forceinline__ void slc_store(slc_bf16 *p, float x) { *p = slc_to_bf16(x); }

/* Sum over a warp, in every lane; the order is the same each time. */
static __device__ __forceinline__ float slc_warp_sum(float x) {
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}
static __device__ __forceinline__ float slc_warp_max(float x) {
    for (int i = 16; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}
/* Sum over a block of whole warps, in every thread. room: 33 floats of shared memory. */
static __device__ __forceinline__ float slc_block_sum(float x, float *room) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    x = slc_warp_sum(x);
    __syncthreads(); /* room may still be read from the last call */
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = slc_warp_sum(lane < warps ? room[lane] : 0);
        if (lane == 0)
            room[32] = x;
    }
    __syncthreads();
    return room[32];
}

static __device__ __host__ __forceinline__ int64_t slc_div_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
static inline int64_t slc_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t slc_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
