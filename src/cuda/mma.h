/* Instructions of sm_80 and later that C++ has no words for. Fragments are those of PTX: lane l of a warp, g = l / 4,
 * t = l % 4, two bf16 a register, the lower column in the lower half. */
#ifndef SL_CUDA_MMA_H
#define SL_CUDA_MMA_H

#include "cuda/cu.h"

#ifndef SL_CUDA_EMU
/* d[16, 8] += a[16, 16] b[16, 8]. a: rows g, g + 8 of columns 2t (a[0], a[1]) and 2t + 8 (a[2], a[3]); b: rows 2t
 * (b[0]) and 2t + 8 (b[1]) of column g; d: row g of columns 2t, 2t + 1 (d[0], d[1]), row g + 8 (d[2], d[3]). */
static __device__ __forceinline__ void slc_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same of bytes: d[16, 8] += a[16, 32] b[32, 8], four to a register where there were two. */
static __device__ __forceinline__ void slc_mma_int8(int d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8 x 8 matrices of bf16; lane l gives the address (of 16 bytes, in shared memory) of row l % 8 of matrix l / 8,
 * and gets in r[i] row g, columns 2t, 2t + 1 of matrix i; trans: of its transpose. */
static __device__ __forceinline__ void slc_ldmatrix(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
static __device__ __forceinline__ void slc_ldmatrix_trans(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
/* An 8 x 8 matrix of bf16, of which lane l gives row g, columns 2t, 2t + 1, and gets those of its transpose. */
static __device__ __forceinline__ uint32_t slc_transpose(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
/* 16 bytes to shared memory, both aligned to 16, in the background; `bytes` (0 to 16) of them, zeros behind. */
static __device__ __forceinline__ void slc_copy_async(void *shared, const void *global, int bytes) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void slc_copy_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most n groups are on their way; __syncthreads() shows them to the block. */
template <int n> static __device__ __forceinline__ void slc_copy_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
#endif

#endif
