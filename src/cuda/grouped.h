/* Tiles of matrix products for kernels that fetch operands and use results in their own ways (moe.cu). A block of
 * TILE_THREADS computes TILE x TILE of sum_k a(i, k) b(j, k) into registers: by tensor cores from bf16 (bf16_tile), or
 * in fp32 (fp32_tile).
 *
 * An operand is stored in lines: of an index each, along the depth, or, turned, of a depth each, along the indices. It
 * is a function f(line) that tells where line i (of the tile: 0 to TILE - 1; turned: the depth) begins, NULL if there
 * is none, and `length`: how many elements lines have, from there on. What is not there is 0, and is not read. `wide`:
 * all lines are aligned to 16 bytes.
 *
 * PAIRED tiles hold two products for the same results: half of the columns of b belong to each. pair_of(j, &which) says
 * what a column of the tile is. Results come in twos, of columns that follow each other, the first one even. */
#ifndef SL_CUDA_GROUPED_H
#define SL_CUDA_GROUPED_H

#include "cuda/mma.h"

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

    enum { CHUNKS = TILE * DEPTH / 8 / TILE_THREADS }; /* of 8 elements, that a thread fetches of an operand */

    /* The lines that a thread fetches from do not change with the depth unless they are turned. */
    template <bool turned, typename F> struct operand {
        F f;
        int64_t length;
        bool wide;
        const slc_bf16 *line[CHUNKS];

        __device__ __forceinline__ operand(F f_, int64_t length_, bool wide_) : f(f_), length(length_), wide(wide_) {
            SLC_UNROLL
            for (int c = 0; c < CHUNKS && !turned; c++)
                line[c] = f(((int)threadIdx.x + c * TILE_THREADS) / (DEPTH / 8));
        }

        __device__ __forceinline__ void fetch(slc_bf16 *to, int64_t k, int64_t depth) {
            SLC_UNROLL
            for (int c = 0; c < CHUNKS; c++) {
                int at = (int)threadIdx.x + c * TILE_THREADS;
                int i = turned ? at % (TILE / 8) * 8 : at / (DEPTH / 8);
                int d = turned ? at / (TILE / 8) : at % (DEPTH / 8) * 8;
                const slc_bf16 *p = turned ? (k + d < depth ? f(k + d) : nullptr) : line[c];
                int64_t from = turned ? i : k + d, left = p ? length - from : 0;
                put(to + (turned ? d * LD_TURNED + i : i * LD + d), p + from, left < 0 ? 0 : left > 8 ? 8 : (int)left);
            }
        }
        __device__ __forceinline__ void put(slc_bf16 *to, const slc_bf16 *from, int n) {
            if (wide)
                slc_copy_async(to, n ? (const void *)from : (const void *)to, 2 * n);
            else
                for (int j = 0; j < 8; j++)
                    to[j] = j < n ? from[j] : (slc_bf16)0;
        }
    };

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
    __device__ __forceinline__ void add(int64_t depth, A a_line, int64_t a_length, bool a_wide, B b_line,
                                        int64_t b_length, bool b_wide) {
        SLC_DYNAMIC(slc_bf16, shared);
        operand<ta, A> a(a_line, a_length, a_wide);
        operand<tb, B> b(b_line, b_length, b_wide);
        int steps = (int)((depth + DEPTH - 1) / DEPTH);
        auto fetch = [&](int step) {
            slc_bf16 *to = shared + step % STAGES * 2 * OPERAND;
            a.fetch(to, (int64_t)step * DEPTH, depth);
            b.fetch(to + OPERAND, (int64_t)step * DEPTH, depth);
        };
        __syncthreads(); /* shared memory may still be read from the last product */
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < steps)
                fetch(s);
            slc_copy_commit();
        }
        for (int s = 0; s < steps; s++) {
            slc_copy_wait<STAGES - 2>();
            __syncthreads();
            if (s + STAGES - 1 < steps)
                fetch(s + STAGES - 1);
            slc_copy_commit();
            const slc_bf16 *at = shared + s % STAGES * 2 * OPERAND;
            multiply<ta, tb>(at, at + OPERAND);
        }
    }

    /* f(row, column, values of two columns) of all that the thread has. */
    template <typename F> __device__ __forceinline__ void each(F f) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 32 + lane % 4 * 2;
        SLC_UNROLL
        for (int i = 0; i < 32; i++) {
            const float *v = acc[i / 8][i % 4] + i / 4 % 2 * 2;
            f(row + i / 8 * 16 + i / 4 % 2 * 8, col + i % 4 * 8, v[0], v[1]);
        }
    }
    /* f(row, column of the pair, w, two values of the first product, two of the second), w = of_row(row). */
    template <typename W, typename F> __device__ __forceinline__ void pairs(W of_row, F f) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 16 + lane % 4 * 2;
        float w[8];
        SLC_UNROLL
        for (int i = 0; i < 8; i++)
            w[i] = of_row(row + 8 * i);
        SLC_UNROLL
        for (int i = 0; i < 16; i++) {
            const float *a = acc[i / 4][i % 2] + i / 2 % 2 * 2, *b = acc[i / 4][i % 2 + 2] + i / 2 % 2 * 2;
            f(row + i / 2 * 8, col + i % 2 * 8, w[i / 2], a[0], a[1], b[0], b[1]);
        }
    }
    /* Sums of f(row, column, w, four, two values) over each part of a row: g(row, part, sum), by one thread. four =
     * load(row, column): what f reads before it writes, so that loads do not wait for stores. */
    template <typename W, typename L, typename F, typename G>
    __device__ __forceinline__ void row_sums(W of_row, L load, F f, G g) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp / 4 * 64 + lane / 4, col = warp % 4 * 32 + lane % 4 * 2;
        float w[8];
        SLC_UNROLL
        for (int i = 0; i < 8; i++)
            w[i] = of_row(row + 8 * i);
        SLC_UNROLL
        for (int i = 0; i < 8; i++) {
            float sum = 0;
            float4 four[4];
            int r = row + 8 * i;
            SLC_UNROLL
            for (int j = 0; j < 4; j++)
                four[j] = load(r, col + j * 8);
            SLC_UNROLL
            for (int j = 0; j < 4; j++)
                sum += f(r, col + j * 8, w[i], four[j], acc[i / 2][j][i % 2 * 2], acc[i / 2][j][i % 2 * 2 + 1]);
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

    /* Thread tx has columns 2 tx, 2 tx + 1, and those 32 behind. */
    static __device__ __forceinline__ int column(int c) { return 2 * ((int)threadIdx.x % 16) + c % 2 + c / 2 * 32; }
    static __device__ __forceinline__ int pair_of(int j, int *which) {
        *which = j / 32;
        return j % 32;
    }

    template <bool turned, typename F>
    static __device__ __forceinline__ void load(float (*to)[TILE + 1], int64_t k, int64_t depth, F f, int64_t length) {
        for (int c = (int)threadIdx.x; c < TILE * DEPTH; c += TILE_THREADS) {
            int i = turned ? c % TILE : c / DEPTH, d = turned ? c / TILE : c % DEPTH;
            const float *p = k + d < depth ? f(turned ? k + d : i) : nullptr;
            int64_t at = turned ? i : k + d;
            to[d][i] = p && at < length ? p[at] : 0;
        }
    }

    __device__ __forceinline__ void clear() {
        for (int i = 0; i < 16; i++)
            acc[i / 4][i % 4] = 0;
    }

    template <bool ta, bool tb, typename A, typename B>
    __device__ __forceinline__ void add(int64_t depth, A a, int64_t a_length, bool, B b, int64_t b_length, bool) {
        __shared__ float as[DEPTH][TILE + 1], bs[DEPTH][TILE + 1];
        int ty = (int)threadIdx.x / 16;
        for (int64_t k = 0; k < depth; k += DEPTH) {
            __syncthreads();
            load<ta>(as, k, depth, a, a_length);
            load<tb>(bs, k, depth, b, b_length);
            __syncthreads();
            for (int d = 0; d < DEPTH; d++)
                SLC_UNROLL
                for (int i = 0; i < 16; i++)
                    acc[i / 4][i % 4] = fmaf(as[d][ty + 16 * (i / 4)], bs[d][column(i % 4)], acc[i / 4][i % 4]);
        }
    }

    template <typename F> __device__ __forceinline__ void each(F f) {
        int ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 8; i++)
            f(ty + 16 * (i / 2), column(i % 2 * 2), acc[i / 2][i % 2 * 2], acc[i / 2][i % 2 * 2 + 1]);
    }
    template <typename W, typename F> __device__ __forceinline__ void pairs(W of_row, F f) {
        int ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 4; i++)
            f(ty + 16 * i, column(0), of_row(ty + 16 * i), acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    }
    template <typename W, typename L, typename F, typename G>
    __device__ __forceinline__ void row_sums(W of_row, L load, F f, G g) {
        int ty = (int)threadIdx.x / 16;
        SLC_UNROLL
        for (int i = 0; i < 4; i++) {
            int r = ty + 16 * i;
            float w = of_row(r), sum = f(r, column(0), w, load(r, column(0)), acc[i][0], acc[i][1]);
            sum += f(r, column(2), w, load(r, column(2)), acc[i][2], acc[i][3]);
            for (int j = 8; j > 0; j /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, j);
            if (threadIdx.x % 16 == 0)
                g(r, 0, sum);
        }
    }
};

#endif
