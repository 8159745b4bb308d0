/* Tiles of matrix products for kernels that fetch operands and use results in their own ways (moe.cu). A block of
 * TILE_THREADS computes TILE x TILE of sum_k a(i, k) b(j, k) into registers: by tensor cores from bf16 (bf16_tile), or
 * in fp32 (fp32_tile).
 *
 * An operand is a function p = f(i, k, &n): where the elements of index i (0 to TILE - 1) and depth k on lie, of which n
 * (<= 0: none, all are 0) are there; along the depth, or, turned, along i. p is never read beyond n. `wide` says
 * that all p are aligned to 16 bytes where n > 0; k (turned: i) is a multiple of 8.
 *
 * PAIRED tiles hold two products for the same results: half of the columns of b belong to each. pair_of(j, &which) says
 * what a column of the tile is. */
#ifndef SL_CUDA_GROUPED_H
#define SL_CUDA_GROUPED_H

#include "cuda/mma.h"

#ifdef SL_CUDA_EMU
#define SLC_UNROLL
#else
#define SLC_UNROLL _Pragma("unroll")
#endif

enum { TILE_THREADS = 256 };

struct bf16_tile {
    typedef slc_bf16 T;
    enum { TILE = 128, HALF = 64, PARTS = 4 }; /* PARTS: sums over parts of a row, see row_sums() */
    enum { DEPTH = 32, STAGES = 3, LD = DEPTH + 8, LD_TURNED = TILE + 8, OPERAND = TILE * LD };
    enum { SHARED = STAGES * 2 * OPERAND * 2 }; /* bytes, dynamic */
    float acc[4][4][4];                        /* 8 warps, 2 x 4, of 64 x 32 each: blocks of rows, of columns, mma's */

    static __device__ __forceinline__ int pair_of(int j, int *which) {
        *which = j % 32 / 16;
        return j / 32 * 16 + j % 16;
    }

    template <bool turned, typename F>
    static __device__ __forceinline__ void load(slc_bf16 *to, int64_t k, F f, bool wide) {
        for (int c = (int)threadIdx.x; c < TILE * DEPTH / 8; c += TILE_THREADS) {
            int i = turned ? c % (TILE / 8) * 8 : c / (DEPTH / 8), d = turned ? c / (TILE / 8) : c % (DEPTH / 8) * 8;
            int64_t n;
            const slc_bf16 *p = f(i, k + d, &n);
            slc_bf16 *x = to + (turned ? d * LD_TURNED + i : i * LD + d);
            int there = n < 0 ? 0 : n > 8 ? 8 : (int)n;
            if (wide)
                slc_copy_async(x, p, 2 * there);
            else
                for (int j = 0; j < 8; j++)
                    x[j] = j < there ? p[j] : (slc_bf16)0;
        }
    }

    template <bool ta, bool tb> __device__ __forceinline__ void multiply(const slc_bf16 *a, const slc_bf16 *b) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
        int low = lane % 8, mid = lane / 8 % 2 * 8, high = lane / 16 * 8;
        SLC_UNROLL
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t af[4][4], bf[2][4];
            SLC_UNROLL
            for (int i = 0; i < 4; i++)
                if (ta)
                    slc_ldmatrix_trans(af[i], a + (k + low + high) * LD_TURNED + wm + 16 * i + mid);
                else
                    slc_ldmatrix(af[i], a + (wm + 16 * i + low + mid) * LD + k + high);
            SLC_UNROLL
            for (int j = 0; j < 2; j++)
                if (tb)
                    slc_ldmatrix_trans(bf[j], b + (k + low + mid) * LD_TURNED + wn + 16 * j + high);
                else
                    slc_ldmatrix(bf[j], b + (wn + 16 * j + low + high) * LD + k + mid);
            SLC_UNROLL
            for (int i = 0; i < 4; i++)
                SLC_UNROLL
                for (int j = 0; j < 4; j++)
                    slc_mma(acc[i][j], af[i], bf[j / 2] + 2 * (j % 2));
        }
    }

    __device__ __forceinline__ void clear() {
        for (int i = 0; i < 64; i++)
            acc[i / 16][i / 4 % 4][i % 4] = 0;
    }

    /* Adds a product of this depth. */
    template <bool ta, bool tb, typename A, typename B>
    __device__ __forceinline__ void add(int64_t depth, A a, bool a_wide, B b, bool b_wide) {
        SLC_DYNAMIC(slc_bf16, shared);
        int64_t steps = (depth + DEPTH - 1) / DEPTH;
        auto fetch = [&](int64_t step) {
            slc_bf16 *to = shared + step % STAGES * 2 * OPERAND;
            load<ta>(to, step * DEPTH, a, a_wide);
            load<tb>(to + OPERAND, step * DEPTH, b, b_wide);
        };
        __syncthreads(); /* shared memory may still be read from the last product */
        for (int64_t s = 0; s < STAGES - 1; s++) {
            if (s < steps)
                fetch(s);
            slc_copy_commit();
        }
        for (int64_t s = 0; s < steps; s++) {
            slc_copy_wait<STAGES - 2>();
            __syncthreads();
            if (s + STAGES - 1 < steps)
                fetch(s + STAGES - 1);
            slc_copy_commit();
            const slc_bf16 *at = shared + s % STAGES * 2 * OPERAND;
            multiply<ta, tb>(at, at + OPERAND);
        }
    }

    /* f(row, column, value) of each that the thread has. */
    template <typename F> __device__ __forceinline__ void each(F f) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 32 + lane % 4 * 2;
        SLC_UNROLL
        for (int i = 0; i < 64; i++)
            f(row + i / 16 * 16 + i % 4 / 2 * 8, col + i / 4 % 4 * 8 + i % 2, acc[i / 16][i / 4 % 4][i % 4]);
    }
    /* f(row, column of the pair, first value, second) */
    template <typename F> __device__ __forceinline__ void pairs(F f) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 16 + lane % 4 * 2;
        SLC_UNROLL
        for (int i = 0; i < 32; i++)
            f(row + i / 8 * 16 + i % 4 / 2 * 8, col + i / 4 % 2 * 8 + i % 2, acc[i / 8][i / 4 % 2][i % 4],
              acc[i / 8][i / 4 % 2 + 2][i % 4]);
    }
    /* Sums of f(row, column, value) over each part of a row: g(row, part, sum), by one thread. */
    template <typename F, typename G> __device__ __forceinline__ void row_sums(F f, G g) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 32 + lane % 4 * 2;
        SLC_UNROLL
        for (int i = 0; i < 8; i++) {
            float sum = 0;
            int r = row + i / 2 * 16 + i % 2 * 8;
            SLC_UNROLL
            for (int j = 0; j < 8; j++)
                sum += f(r, col + j / 2 * 8 + j % 2, acc[i / 2][j / 2][i % 2 * 2 + j % 2]);
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (lane % 4 == 0)
                g(r, warp % 4, sum);
        }
    }
};

struct fp32_tile {
    typedef float T;
    enum { TILE = 64, HALF = 32, PARTS = 1, DEPTH = 16, SHARED = 0 };
    float acc[4][4]; /* 16 x 16 threads */

    static __device__ __forceinline__ int pair_of(int j, int *which) {
        *which = j / 32;
        return j % 32;
    }

    template <bool turned, typename F>
    static __device__ __forceinline__ void load(float (*to)[TILE + 1], int64_t k, F f) {
        for (int c = (int)threadIdx.x; c < TILE * DEPTH; c += TILE_THREADS) {
            int i = turned ? c % TILE : c / DEPTH, d = turned ? c / TILE : c % DEPTH;
            int64_t n;
            const float *p = f(i, k + d, &n);
            to[d][i] = n > 0 ? *p : 0;
        }
    }

    __device__ __forceinline__ void clear() {
        for (int i = 0; i < 16; i++)
            acc[i / 4][i % 4] = 0;
    }

    template <bool ta, bool tb, typename A, typename B>
    __device__ __forceinline__ void add(int64_t depth, A a, bool, B b, bool) {
        __shared__ float as[DEPTH][TILE + 1], bs[DEPTH][TILE + 1];
        int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
        for (int64_t k = 0; k < depth; k += DEPTH) {
            __syncthreads();
            load<ta>(as, k, a);
            load<tb>(bs, k, b);
            __syncthreads();
            for (int d = 0; d < DEPTH; d++)
                SLC_UNROLL
                for (int i = 0; i < 16; i++)
                    acc[i / 4][i % 4] = fmaf(as[d][ty + 16 * (i / 4)], bs[d][tx + 16 * (i % 4)], acc[i / 4][i % 4]);
        }
    }

    template <typename F> __device__ __forceinline__ void each(F f) {
        int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 16; i++)
            f(ty + 16 * (i / 4), tx + 16 * (i % 4), acc[i / 4][i % 4]);
    }
    template <typename F> __device__ __forceinline__ void pairs(F f) {
        int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 8; i++)
            f(ty + 16 * (i / 2), tx + 16 * (i % 2), acc[i / 2][i % 2], acc[i / 2][i % 2 + 2]);
    }
    template <typename F, typename G> __device__ __forceinline__ void row_sums(F f, G g) {
        int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            float sum = 0;
            SLC_UNROLL
            for (int j = 0; j < 4; j++)
                sum += f(ty + 16 * i, tx + 16 * j, acc[i][j]);
            for (int j = 8; j > 0; j /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, j);
            if (tx == 0)
                g(ty + 16 * i, 0, sum);
        }
    }
};

#endif
