/* CUDA C++ on a CPU, as far as src/cuda uses it: the tests run its kernels where no GPU is. The threads of a block are
 * fibers of one CPU thread; they go on in turn, and stop at barriers and where a warp exchanges values. Blocks run one
 * after the other. Slow, and exact but for functions that the GPU approximates (__expf ...). */
#ifndef SL_CUDA_EMU_H
#define SL_CUDA_EMU_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __constant__ static
#define __restrict__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(int64_t x_ = 1, int64_t y_ = 1, int64_t z_ = 1) : x((unsigned)x_), y((unsigned)y_), z((unsigned)z_) {}
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

/* ---- of the emulation (emu.cpp) */
extern unsigned char *emu_dynamic; /* dynamic shared memory */
void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);
void emu_barrier(); /* of the block */
/* Every lane of the calling warp gives `bytes` (at most 64) and gets those of all lanes, 64 bytes apart. Lanes that
 * have returned give zeros. */
const unsigned char *emu_exchange(const void *mine, size_t bytes);
int emu_lane();

#define SLC_LAUNCH(kernel, grid, block, shared, stream, ...)                                                           \
    ((void)(stream), emu_launch(dim3(grid), dim3(block), (size_t)(shared), [&] { kernel(__VA_ARGS__); }))
#define SLC_MORE_SHARED(kernel, bytes) ((void)(kernel), (void)(bytes))
static inline int slc_most_shared(void) { return 227 << 10; }
#define SLC_DYNAMIC(type, name) type *name = (type *)emu_dynamic

static inline void __syncthreads() { emu_barrier(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emu_exchange("", 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <typename T> static inline T emu_from(T x, int lane) {
    T y;
    memcpy(&y, emu_exchange(&x, sizeof x) + 64 * (lane & 31), sizeof y);
    return y;
}
template <typename T> static inline T __shfl_sync(unsigned, T x, int from, int width = 32) {
    int base = emu_lane() / width * width;
    return emu_from(x, base + (from & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T x, int mask, int = 32) {
    return emu_from(x, emu_lane() ^ mask);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T x, int by, int width = 32) {
    int to = emu_lane() % width + by;
    return emu_from(x, to < width ? emu_lane() + by : emu_lane());
}
template <typename T> static inline T __shfl_up_sync(unsigned, T x, int by, int width = 32) {
    int to = emu_lane() % width - by;
    return emu_from(x, to >= 0 ? emu_lane() - by : emu_lane());
}
static inline unsigned __ballot_sync(unsigned, int p) {
    int mine = p != 0;
    const unsigned char *all = emu_exchange(&mine, sizeof mine);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) {
        int v;
        memcpy(&v, all + 64 * i, sizeof v);
        bits |= (unsigned)(v != 0) << i;
    }
    return bits;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
static inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, !p) == 0; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T> static inline T atomicAdd(T *p, T x) {
    T old = *p;
    *p = (T)(old + x);
    return old;
}
template <typename T> static inline T atomicMax(T *p, T x) {
    T old = *p;
    *p = old > x ? old : x;
    return old;
}
template <typename T> static inline T atomicMin(T *p, T x) {
    T old = *p;
    *p = old < x ? old : x;
    return old;
}

static inline uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __int_as_float(int x) { return __uint_as_float((uint32_t)x); }
static inline float emu_expf(float x) { return expf(x); }
#define __expf emu_expf /* glibc has one of its own */
static inline float emu_logf(float x) { return logf(x); }
#define __logf emu_logf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float rsqrtf(float x) { return (float)(1 / sqrt((double)x)); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T x) { *p = x; }
static inline int min(int x, int y) { return x < y ? x : y; }
static inline int max(int x, int y) { return x > y ? x : y; }

/* ---- mma.h */
void slc_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);
void slc_mma_int8(int d[4], const uint32_t a[4], const uint32_t b[2]);
void slc_ldmatrix(uint32_t r[4], const void *row);
void slc_ldmatrix_trans(uint32_t r[4], const void *row);
uint32_t slc_transpose(uint32_t x);
static inline void slc_copy_async(void *shared, const void *global, int bytes) {
    memset(shared, 0, 16);
    if (bytes > 0)
        memcpy(shared, global, (size_t)bytes);
}
static inline void slc_copy_commit(void) {}
template <int n> static inline void slc_copy_wait(void) {}

#endif
