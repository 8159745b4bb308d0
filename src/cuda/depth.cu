#include "cuda/depth.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { WARPS = 8, THREADS = 128, SEGMENT = 32 }; /* SEGMENT: rows whose gradients of queries are summed together */

static __host__ __device__ __forceinline__ int64_t sources_of(const slc_depth &d) { return d.n + (d.partial ? 1 : 0); }
static __device__ __forceinline__ const float *source_at(const slc_depth &d, int64_t row, int64_t i) {
    return i < d.n ? d.bank + row * d.ld_bank + i * d.dim : d.partial + row * d.dim;
}
/* Element j of the query, times the weight of the norm of keys. */
static __device__ __forceinline__ float query_at(const slc_depth &d, int64_t j) {
    return d.query[j] * (d.norm ? d.norm[j] : 1);
}

/* A warp's row, and its lane. */
#define ROW_OF_WARP(row, lane)                                                                                         \
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;                                                      \
    int lane = (int)threadIdx.x % 32

__global__ void __launch_bounds__(32 * WARPS) mix_kernel(slc_depth d, float *out) {
    ROW_OF_WARP(row, lane);
    if (row >= d.rows)
        return;
    int64_t sources = sources_of(d);
    float *a = d.weight + row * sources, top = d.null ? 0 : -INFINITY, sum = 0;
    for (int64_t i = 0; i < sources; i++) {
        const float *v = source_at(d, row, i);
        float square = 0, product = 0;
        for (int64_t j = lane; j < d.dim; j += 32)
            square = fmaf(v[j], v[j], square), product = fmaf(v[j], query_at(d, j), product);
        square = slc_warp_sum(square), product = slc_warp_sum(product);
        float r = d.norm ? 1 / sqrtf(square / (float)d.dim + d.eps) : 1;
        top = fmaxf(top, r * product);
        if (lane == 0)
            a[i] = r * product, d.rstd[row * sources + i] = r, d.product[row * sources + i] = product;
    }
    __syncwarp();
    for (int64_t i = lane; i < sources; i += 32)
        sum += expf(a[i] - top);
    float scale = 1 / (slc_warp_sum(sum) + (d.null ? expf(-top) : 0));
    for (int64_t i = lane; i < sources; i += 32)
        a[i] = scale * expf(a[i] - top);
    __syncwarp();
    for (int64_t j = lane; j < d.dim; j += 32) {
        float y = 0;
        for (int64_t i = 0; i < sources; i++)
            y = fmaf(a[i], source_at(d, row, i)[j], y);
        out[row * d.dim + j] = y;
    }
}

void slc_depth_forward(slc_stream s, const slc_depth *d, float *out) {
    SLC_LAUNCH(mix_kernel, slc_div_up(d->rows, WARPS), 32 * WARPS, 0, s, *d, out);
}

/* With e_i = dout . v_i and z_i = a_i (e_i - sum_k a_k e_k), the gradient of logit i, r_i = 1 / rms and q = g w:
 *     dv_i = a_i dout + z_i r_i q - z_i r_i^3 (q . v_i) / dim v_i,   dq = sum_i z_i r_i v_i.
 * of_query [rows, sources]: z_i r_i. */
__global__ void __launch_bounds__(32 * WARPS) back_kernel(slc_depth d, slc_depth_back b, float *of_query) {
    ROW_OF_WARP(row, lane);
    if (row >= d.rows)
        return;
    int64_t sources = sources_of(d);
    const float *a = d.weight + row * sources, *dout = b.dout + row * d.dim;
    float *z = of_query + row * sources, mean = 0;
    for (int64_t i = 0; i < sources; i++) {
        const float *v = source_at(d, row, i);
        float e = 0;
        for (int64_t j = lane; j < d.dim; j += 32)
            e = fmaf(dout[j], v[j], e);
        e = slc_warp_sum(e);
        mean = fmaf(a[i], e, mean);
        if (lane == 0)
            z[i] = e;
    }
    __syncwarp();
    for (int64_t i = lane; i < sources; i += 32)
        z[i] = a[i] * (z[i] - mean) * d.rstd[row * sources + i];
    __syncwarp();
    for (int64_t i = 0; i < sources; i++) {
        const float *v = source_at(d, row, i);
        float *dv = i < d.n ? b.dbank + row * d.ld_bank + i * d.dim : b.dpartial + row * d.dim;
        float r = d.rstd[row * sources + i], product = d.product[row * sources + i];
        float of_source = d.norm ? -z[i] * r * r * product / (float)d.dim : 0;
        bool add = i < d.n ? b.add_bank : b.add_partial;
        for (int64_t j = lane; j < d.dim; j += 32) {
            float g = fmaf(of_source, v[j], fmaf(z[i], query_at(d, j), a[i] * dout[j]));
            dv[j] = add ? dv[j] + g : g;
        }
    }
}

/* dq of a segment's rows, a thread a channel. */
__global__ void __launch_bounds__(THREADS) queries_kernel(slc_depth d, const float *of_query, float *part) {
    int64_t j = (int64_t)blockIdx.y * THREADS + threadIdx.x, first = (int64_t)blockIdx.x * SEGMENT;
    int64_t sources = sources_of(d);
    if (j >= d.dim)
        return;
    float sum = 0;
    for (int64_t row = first; row < first + SEGMENT && row < d.rows; row++)
        for (int64_t i = 0; i < sources; i++)
            sum = fmaf(of_query[row * sources + i], source_at(d, row, i)[j], sum);
    part[blockIdx.x * d.dim + j] = sum;
}

/* From dq, of q = g w, to both. */
__global__ void __launch_bounds__(THREADS) params_kernel(slc_depth d, slc_depth_back b, const float *dq) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= d.dim)
        return;
    b.dquery[j] += dq[j] * (d.norm ? d.norm[j] : 1);
    if (d.norm)
        b.dnorm[j] += dq[j] * d.query[j];
}

static int64_t segments(int64_t rows) { return slc_div_up(rows, SEGMENT); }
int64_t slc_depth_floats(int64_t rows, int64_t dim, int64_t sources) {
    return rows * sources + (segments(rows) + 1) * dim;
}

void slc_depth_backward(slc_stream s, const slc_depth *d, const slc_depth_back *b) {
    float *of_query = b->scratch, *dq = of_query + d->rows * sources_of(*d), *part = dq + d->dim;
    dim3 grid((unsigned)segments(d->rows), (unsigned)slc_div_up(d->dim, THREADS));
    SLC_LAUNCH(back_kernel, slc_div_up(d->rows, WARPS), 32 * WARPS, 0, s, *d, *b, of_query);
    SLC_LAUNCH(queries_kernel, grid, THREADS, 0, s, *d, of_query, part);
    slc_zero_columns(s, 1, 0, d->dim, d->dim, false, dq);
    slc_fold(s, segments(d->rows), d->dim, d->dim, part, dq);
    SLC_LAUNCH(params_kernel, slc_div_up(d->dim, THREADS), THREADS, 0, s, *d, *b, dq);
}
