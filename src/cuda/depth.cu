#include "cuda/depth.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { WARPS = 8, THREADS = 128, SEGMENT = 32 }; /* SEGMENT: rows whose gradients of queries are summed together */

static __host__ __device__ __forceinline__ int64_t sources_of(const slc_depth &d) {
    return d.n + (d.apart[0] ? 1 : 0) + (d.apart[1] ? 1 : 0);
}
static __device__ __forceinline__ const float *source_at(const slc_depth &d, int64_t row, int64_t i) {
    return i < d.n ? d.bank + row * d.ld_bank + i * d.dim : d.apart[i - d.n] + row * d.dim;
}
/* Element j of the query, times the weight of the norm of keys. */
static __device__ __forceinline__ float query_at(const slc_depth &d, int64_t row, int64_t j) {
    return d.asked ? d.asked[row * d.dim + j] : d.query[j] * (d.norm ? d.norm[j] : 1);
}

/* ---- scores */

/* The halves [first, end) whose outputs are in source i: as halves_of() in ops/depth.c. */
struct halves {
    int64_t first, end;
};
static __device__ __forceinline__ halves halves_of(const slc_depth &d, int64_t i) {
    if (i == 0)
        return {0, 0};
    if (d.asked) {
        int64_t first = min(i - 1, (d.halves - 1) / d.of_layer) * d.of_layer;
        return {first, first + 1};
    }
    return {(i - 1) * d.of_source, min(i * d.of_source, d.halves)};
}
static __device__ float psi_at(const slc_depth &d, int64_t row, int64_t i) {
    halves r = halves_of(d, i);
    float sum = 0;
    for (int64_t h = r.first; h < r.end; h++)
        sum += d.psi[row * d.layers + h / d.of_layer] / (float)(r.end - r.first);
    return sum;
}
/* Their mean over the sources, in every lane; 0 without. */
static __device__ float mean_psi(const slc_depth &d, int64_t row, int lane) {
    float sum = 0;
    for (int64_t i = lane; d.psi && i < sources_of(d); i += 32)
        sum += psi_at(d, row, i);
    return slc_warp_sum(sum) / (float)sources_of(d);
}
static __device__ __forceinline__ float beta_of(const slc_depth &d) {
    float c = *d.coupling;
    return fminf(fmaxf(c, 0) + log1pf(expf(-fabsf(c))), d.beta_most);
}
static __device__ __forceinline__ float age_of(const slc_depth &d, int64_t i) {
    return (float)i / (float)(sources_of(d) - 1);
}
/* Before it is clamped, of what forward has saved. */
static __device__ __forceinline__ float score_at(const slc_depth &d, int64_t row, int64_t i, float psi) {
    int64_t at = row * sources_of(d) + i;
    float z = d.rstd[at] * d.product[at];
    if (d.psi)
        z -= beta_of(d) * (psi_at(d, row, i) - psi);
    return d.asked ? z + *d.recency * age_of(d, i) : z;
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
    float *a = d.weight + row * sources, top = -INFINITY, sum = 0, psi = mean_psi(d, row, lane);
    for (int64_t i = 0; i < sources; i++) {
        const float *v = source_at(d, row, i);
        float square = 0, product = 0;
        for (int64_t j = lane; j < d.dim; j += 32)
            square = fmaf(v[j], v[j], square), product = fmaf(v[j], query_at(d, row, j), product);
        square = slc_warp_sum(square), product = slc_warp_sum(product);
        float r = d.norm ? 1 / sqrtf(square / (float)d.dim + d.eps) : d.scale;
        if (lane == 0)
            d.rstd[row * sources + i] = r, d.product[row * sources + i] = product;
    }
    __syncwarp();
    for (int64_t i = lane; i < sources; i += 32) {
        float z = score_at(d, row, i, psi);
        a[i] = d.asked ? fminf(fmaxf(z, -d.score_most), d.score_most) : z;
        top = fmaxf(top, a[i]);
    }
    top = fmaxf(slc_warp_max(top), d.null ? 0 : -INFINITY);
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

/* ---- backward */

/* dpsi of a row from the gradients z of its scores: -beta (z_i - mean z) to the layers of source i. A lane a layer. */
static __device__ void psi_back(const slc_depth &d, const slc_depth_back &b, int64_t row, int lane, const float *z,
                                float mean) {
    int64_t sources = sources_of(d), newest = (d.halves - 1) / d.of_layer;
    float beta = beta_of(d), *to = b.dpsi + row * d.layers;
    for (int64_t layer = lane; layer < d.layers; layer += 32) {
        int64_t end = layer < newest ? layer + 2 : layer == newest ? sources : 0; /* the newest is in all the rest */
        float sum = b.add_psi ? to[layer] : 0;
        for (int64_t i = layer + 1; d.asked && i < end; i++)
            sum -= beta * (z[i] - mean);
        for (int64_t h = layer * d.of_layer; !d.asked && h < min((layer + 1) * d.of_layer, d.halves); h++) {
            int64_t i = h / d.of_source + 1;
            halves r = halves_of(d, i);
            sum -= beta * (z[i] - mean) / (float)(r.end - r.first);
        }
        to[layer] = sum;
    }
}

/* Gradients z of a row's scores as they were clamped become those of the scores; also of psi, and of coupling and
 * recency into of_row[2]. */
static __device__ void scores_back(const slc_depth &d, const slc_depth_back &b, int64_t row, int lane, float *z,
                                   float *of_row) {
    int64_t sources = sources_of(d);
    float psi = mean_psi(d, row, lane), mean = 0, beta = 0, recency = 0;
    for (int64_t i = lane; i < sources; i += 32) {
        if (d.asked && !(fabsf(score_at(d, row, i, psi)) <= d.score_most))
            z[i] = 0;
        mean += z[i] / (float)sources;
        beta -= d.psi ? z[i] * (psi_at(d, row, i) - psi) : 0;
        recency += d.asked ? z[i] * age_of(d, i) : 0;
    }
    mean = slc_warp_sum(mean), beta = slc_warp_sum(beta), recency = slc_warp_sum(recency);
    __syncwarp();
    if (d.psi)
        psi_back(d, b, row, lane, z, mean);
    if (lane == 0) { /* dbeta/dc = sigmoid(c), and 0 at its most */
        of_row[0] = d.psi && beta_of(d) < d.beta_most ? beta / (1 + expf(-*d.coupling)) : 0;
        of_row[1] = recency;
    }
    __syncwarp();
}

/* With e_i = dout . v_i and z_i = a_i (e_i - sum_k a_k e_k), the gradient of logit i, r_i = 1 / rms and q = g w:
 *     dv_i = a_i dout + z_i r_i q - z_i r_i^3 (q . v_i) / dim v_i,   dq = sum_i z_i r_i v_i.
 * of_query [rows, sources]: z_i r_i. of_row [rows, 2]. */
__global__ void __launch_bounds__(32 * WARPS)
    back_kernel(slc_depth d, slc_depth_back b, float *of_query, float *of_row) {
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
        z[i] = a[i] * (z[i] - mean);
    if (d.psi || d.asked)
        scores_back(d, b, row, lane, z, of_row + 2 * row);
    for (int64_t i = lane; i < sources; i += 32)
        z[i] *= d.rstd[row * sources + i];
    __syncwarp();
    for (int64_t j = lane; d.asked && j < d.dim; j += 32) {
        float *to = b.dasked + row * d.dim + j, sum = b.add_asked ? *to : 0;
        for (int64_t i = 0; i < sources; i++)
            sum = fmaf(z[i], source_at(d, row, i)[j], sum);
        *to = sum;
    }
    for (int64_t i = 0; i < sources; i++) {
        const float *v = source_at(d, row, i);
        float *dv = i < d.n ? b.dbank + row * d.ld_bank + i * d.dim : b.dapart[i - d.n] + row * d.dim;
        float r = d.rstd[row * sources + i], product = d.product[row * sources + i];
        float of_source = d.norm ? -z[i] * r * r * product / (float)d.dim : 0;
        bool add = i < d.n ? b.add_bank : b.add_apart[i - d.n];
        for (int64_t j = lane; j < d.dim; j += 32) {
            float g = fmaf(of_source, v[j], fmaf(z[i], query_at(d, row, j), a[i] * dout[j]));
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
    return rows * (sources + 2) + (segments(rows) + 1) * dim;
}

void slc_depth_backward(slc_stream s, const slc_depth *d, const slc_depth_back *b) {
    float *of_query = b->scratch, *of_row = of_query + d->rows * sources_of(*d), *dq = of_row + 2 * d->rows;
    float *part = dq + d->dim;
    dim3 grid((unsigned)segments(d->rows), (unsigned)slc_div_up(d->dim, THREADS));
    SLC_LAUNCH(back_kernel, slc_div_up(d->rows, WARPS), 32 * WARPS, 0, s, *d, *b, of_query, of_row);
    if (d->psi)
        slc_fold(s, d->rows, 1, 2, of_row, b->dcoupling);
    if (d->asked) {
        slc_fold(s, d->rows, 1, 2, of_row + 1, b->drecency);
        return;
    }
    SLC_LAUNCH(queries_kernel, grid, THREADS, 0, s, *d, of_query, part);
    slc_zero_columns(s, 1, 0, d->dim, d->dim, false, dq);
    slc_fold(s, segments(d->rows), d->dim, d->dim, part, dq);
    SLC_LAUNCH(params_kernel, slc_div_up(d->dim, THREADS), THREADS, 0, s, *d, *b, dq);
}
