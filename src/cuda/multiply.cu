#include "cuda/multiply.h"

#include "cuda/cu.h"

namespace {

enum { TILE = 64, DEPTH = 16, THREADS = 256, SIDE = 16, EACH = TILE / SIDE };

/* Element (i, depth) of an operand, 0 beyond its edges. */
template <typename T>
__device__ __forceinline__ float element(const T *x, int64_t ld, bool turned, int64_t i, int64_t most, int64_t at,
                                         int64_t depth) {
    return i < most && at < depth ? slc_load(turned ? x + at * ld + i : x + i * ld + at) : 0;
}

template <typename T, typename Y>
__global__ void __launch_bounds__(THREADS) multiply(slc_product p) {
    __shared__ float a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    const T *x = (const T *)p.a + blockIdx.z * p.stride_a, *w = (const T *)p.b + blockIdx.z * p.stride_b;
    int64_t across = (p.n + TILE - 1) / TILE, row = blockIdx.x / across * TILE, col = blockIdx.x % across * TILE;
    int t = (int)threadIdx.x, tx = t % SIDE, ty = t / SIDE;
    float sum[EACH][EACH] = {};
    for (int64_t k = 0; k < p.k; k += DEPTH) {
        __syncthreads();
        for (int i = t; i < TILE * DEPTH; i += THREADS) {
            int ai = p.ta ? i % TILE : i / DEPTH, ak = p.ta ? i / TILE : i % DEPTH;
            int bi = p.tb ? i / DEPTH : i % TILE, bk = p.tb ? i % DEPTH : i / TILE;
            a[ak][ai] = element(x, p.lda, p.ta, row + ai, p.m, k + ak, p.k);
            b[bk][bi] = element(w, p.ldb, !p.tb, col + bi, p.n, k + bk, p.k);
        }
        __syncthreads();
        for (int j = 0; j < DEPTH; j++)
            for (int r = 0; r < EACH; r++)
                for (int c = 0; c < EACH; c++)
                    sum[r][c] = fmaf(a[j][ty + SIDE * r], b[j][tx + SIDE * c], sum[r][c]);
    }
    Y *y = (Y *)p.y + blockIdx.z * p.stride_y;
    const Y *add = p.add ? (const Y *)p.add + blockIdx.z * p.stride_y : nullptr;
    for (int r = 0; r < EACH; r++)
        for (int c = 0; c < EACH; c++) {
            int64_t i = row + ty + SIDE * r, j = col + tx + SIDE * c;
            if (i < p.m && j < p.n)
                slc_store(y + i * p.ldy + j, p.scale * sum[r][c] + (add ? slc_load(add + i * p.ldy + j) : 0));
        }
}

} // namespace

void slc_multiply_own(slc_stream s, const slc_product *p) {
    dim3 grid(slc_div_up(p->m, TILE) * slc_div_up(p->n, TILE), 1, p->batch > 1 ? p->batch : 1);
    if (p->m <= 0 || p->n <= 0)
        return;
    if (!p->bf16)
        SLC_LAUNCH((multiply<float, float>), grid, THREADS, 0, s, *p);
    else if (p->y_bf16)
        SLC_LAUNCH((multiply<slc_bf16, slc_bf16>), grid, THREADS, 0, s, *p);
    else
        SLC_LAUNCH((multiply<slc_bf16, float>), grid, THREADS, 0, s, *p);
}
