#include "cuda/anchors.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { WARPS = 8, THREADS = 128, SEGMENT = 32 }; /* SEGMENT: rows whose gradients of parameters are summed together */

static __host__ __device__ __forceinline__ int64_t heads_of(const slc_anchor_layout &l) { return l.first[l.parts]; }
static __host__ __device__ __forceinline__ int64_t columns_of(const slc_anchor_layout &l) {
    return heads_of(l) * l.head_dim;
}
static __device__ __forceinline__ int part_of(const slc_anchor_layout &l, int64_t head) {
    int p = 0;
    while (head >= l.first[p + 1])
        p++;
    return p;
}

/* ---- anchors: a warp has a head of a row */

#define HEAD_OF_WARP(a, row, head, lane)                                                                               \
    int64_t heads_ = heads_of((a).at), item_ = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;                         \
    int64_t row = item_ / heads_, head = item_ - row * heads_;                                                         \
    int lane = (int)threadIdx.x % 32

template <typename T> __global__ void __launch_bounds__(32 * WARPS) anchor_kernel(slc_anchor a, float *out) {
    HEAD_OF_WARP(a, row, head, lane);
    if (row >= a.rows)
        return;
    int64_t hd = a.at.head_dim, at = row * columns_of(a.at) + head * hd;
    const float *w = a.weight[part_of(a.at, head)];
    const T *in = (const T *)a.in + row * a.ld + head * hd;
    float sum = 0;
    for (int64_t j = lane; j < hd; j += 32) {
        float x = slc_load(in + j);
        a.raw[at + j] = x;
        sum = fmaf(x, x, sum);
    }
    float r = 1 / sqrtf(slc_warp_sum(sum) / (float)hd + a.eps);
    for (int64_t j = lane; j < hd; j += 32)
        out[at + j] = w ? w[j] * (slc_load(in + j) * r) : slc_load(in + j);
    if (lane == 0)
        a.rstd[row * heads_of(a.at) + head] = r;
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS) anchor_back_kernel(slc_anchor a, const float *dout, T *din) {
    HEAD_OF_WARP(a, row, head, lane);
    if (row >= a.rows)
        return;
    int64_t hd = a.at.head_dim, at = row * columns_of(a.at) + head * hd;
    const float *w = a.weight[part_of(a.at, head)];
    float sum = 0, r = a.rstd[row * heads_of(a.at) + head];
    for (int64_t j = lane; w && j < hd; j += 32)
        sum = fmaf(w[j] * dout[at + j], a.raw[at + j], sum);
    float mean = slc_warp_sum(sum) * r / (float)hd;
    for (int64_t j = lane; j < hd; j += 32) {
        float d = dout[at + j];
        slc_store(din + row * a.ld + head * hd + j, w ? r * (w[j] * d - a.raw[at + j] * r * mean) : d);
    }
}

/* Sums of a segment's rows for each column, whose gradients are shared by heads later. */
__global__ void __launch_bounds__(THREADS) anchor_weights_kernel(slc_anchor a, const float *dout, float *part) {
    int64_t cols = columns_of(a.at), first = (int64_t)blockIdx.x * SEGMENT;
    int64_t j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= cols)
        return;
    float sum = 0;
    for (int64_t row = first; row < first + SEGMENT && row < a.rows; row++)
        sum = fmaf(dout[row * cols + j], a.raw[row * cols + j] * a.rstd[row * heads_of(a.at) + j / a.at.head_dim], sum);
    part[blockIdx.x * cols + j] = sum;
}

static int64_t segments(int64_t rows) { return slc_div_up(rows, SEGMENT); }
static dim3 segment_grid(int64_t rows, int64_t cols) {
    return dim3((unsigned)segments(rows), (unsigned)slc_div_up(cols, THREADS));
}
static int64_t head_blocks(const slc_anchor *a) { return slc_div_up(a->rows * heads_of(a->at), WARPS); }

void slc_anchor_forward(slc_stream s, const slc_anchor *a, float *out) {
    auto kernel = a->bf16 ? anchor_kernel<slc_bf16> : anchor_kernel<float>;
    SLC_LAUNCH(kernel, head_blocks(a), 32 * WARPS, 0, s, *a, out);
}

int64_t slc_anchor_floats(int64_t rows, int64_t cols) { return segments(rows) * cols; }

void slc_anchor_backward(slc_stream s, const slc_anchor *a, const float *dout, void *din,
                         float *const dweight[SLC_ANCHOR_PARTS], float *part) {
    int64_t cols = columns_of(a->at), hd = a->at.head_dim;
    if (a->bf16)
        SLC_LAUNCH(anchor_back_kernel<slc_bf16>, head_blocks(a), 32 * WARPS, 0, s, *a, dout, (slc_bf16 *)din);
    else
        SLC_LAUNCH(anchor_back_kernel<float>, head_blocks(a), 32 * WARPS, 0, s, *a, dout, (float *)din);
    SLC_LAUNCH(anchor_weights_kernel, segment_grid(a->rows, cols), THREADS, 0, s, *a, dout, part);
    for (int p = 0; p < a->at.parts; p++)
        for (int64_t h = a->at.first[p]; dweight[p] && h < a->at.first[p + 1]; h++)
            slc_fold(s, segments(a->rows), hd, cols, part + h * hd, dweight[p]);
}

/* ---- the mixture */

static __device__ __forceinline__ int64_t coef_at(const slc_anchor_mix &m, int part, int64_t j) {
    return m.each ? j / m.each : part;
}
/* Factor i (0: of the anchor) of a part in a row. */
template <typename T>
static __device__ __forceinline__ float factor_at(const slc_anchor_mix &m, int64_t row, int part, int i) {
    if (!m.factors)
        return 1;
    float x = slc_load((const T *)m.factors + row * m.ld_factors + i * m.of + m.column + part);
    return 1 / (1 + expf(-x));
}

/* Each element. */
#define EACH_ELEMENT(m, row, j)                                                                                        \
    if (int64_t cols_ = columns_of((m).at), row = (int64_t)blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x; \
        j < cols_)

template <typename T> __global__ void __launch_bounds__(THREADS) mix_kernel(slc_anchor_mix m) {
    EACH_ELEMENT(m, row, j) {
        int part = part_of(m.at, j / m.at.head_dim);
        T *at = (T *)m.own + row * m.ld + j;
        float own = slc_load(at);
        ((T *)m.before)[row * m.ld_before + j] = *at;
        slc_store(at, factor_at<T>(m, row, part, 0) * m.coef[0][coef_at(m, part, j)] * m.anchor[row * cols_ + j] +
                          factor_at<T>(m, row, part, 1) * m.coef[1][coef_at(m, part, j)] * own);
    }
}

/* Of c1, or c2, of a segment's rows for each column. */
template <typename T>
__global__ void __launch_bounds__(THREADS) coefs_kernel(slc_anchor_mix m, const T *dout, float *sums) {
    int64_t cols = columns_of(m.at), first = (int64_t)blockIdx.x * SEGMENT;
    int64_t j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= cols)
        return;
    int part = part_of(m.at, j / m.at.head_dim);
    float sum[2] = {0, 0};
    for (int64_t row = first; row < first + SEGMENT && row < m.rows; row++) {
        float d = slc_load(dout + row * m.ld + j), own = slc_load((const T *)m.before + row * m.ld_before + j);
        sum[0] = fmaf(d * factor_at<T>(m, row, part, 0), m.anchor[row * cols + j], sum[0]);
        sum[1] = fmaf(d * factor_at<T>(m, row, part, 1), own, sum[1]);
    }
    for (int i = 0; i < 2; i++)
        sums[(blockIdx.x * 2 + i) * cols + j] = sum[i];
}

/* From columns to the coefficient that they share: a warp has one. */
__global__ void __launch_bounds__(32) share_kernel(slc_anchor_mix m, slc_anchor_mix_back b, const float *column) {
    int64_t k = blockIdx.x, hd = m.at.head_dim;
    int64_t from = m.each ? k * m.each : m.at.first[k] * hd, end = m.each ? from + m.each : m.at.first[k + 1] * hd;
    float sum = 0;
    for (int64_t j = from + threadIdx.x; j < end; j += 32)
        sum += column[blockIdx.y * columns_of(m.at) + j];
    sum = slc_warp_sum(sum);
    if (threadIdx.x == 0)
        b.dcoef[blockIdx.y][k] += sum;
}

/* Of factors: a warp has a row and all columns of the factors' buffer in turn, 0 in those of another mixture. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS) factors_kernel(slc_anchor_mix m, const T *dout, T *dfactors, bool add) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, cols = columns_of(m.at), hd = m.at.head_dim;
    int lane = (int)threadIdx.x % 32;
    if (row >= m.rows)
        return;
    for (int c = 0; c < 2 * m.of; c++) {
        int i = c / m.of, part = c % m.of - m.column;
        float sum = 0;
        if (part >= 0 && part < m.at.parts) {
            for (int64_t j = m.at.first[part] * hd + lane; j < m.at.first[part + 1] * hd; j += 32) {
                float x = i ? slc_load((const T *)m.before + row * m.ld_before + j) : m.anchor[row * cols + j];
                sum = fmaf(m.coef[i][coef_at(m, part, j)] * x, slc_load(dout + row * m.ld + j), sum);
            }
            float f = factor_at<T>(m, row, part, i);
            sum = f * (1 - f) * slc_warp_sum(sum);
        }
        T *to = dfactors + row * m.ld_factors + c;
        if (lane == 0)
            slc_store(to, add ? slc_load(to) + sum : sum);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) mix_back_kernel(slc_anchor_mix m, slc_anchor_mix_back b) {
    EACH_ELEMENT(m, row, j) {
        int part = part_of(m.at, j / m.at.head_dim);
        float d = slc_load((const T *)b.dout + row * m.ld + j), *to = b.danchor + row * cols_ + j;
        float of_anchor = factor_at<T>(m, row, part, 0) * m.coef[0][coef_at(m, part, j)] * d;
        *to = b.add_anchor ? *to + of_anchor : of_anchor;
        slc_store((T *)b.down + row * m.ld + j, factor_at<T>(m, row, part, 1) * m.coef[1][coef_at(m, part, j)] * d);
    }
}

static dim3 element_grid(const slc_anchor_mix *m) {
    return dim3((unsigned)m->rows, (unsigned)slc_div_up(columns_of(m->at), THREADS));
}

void slc_anchor_mix_forward(slc_stream s, const slc_anchor_mix *m) {
    auto kernel = m->bf16 ? mix_kernel<slc_bf16> : mix_kernel<float>;
    SLC_LAUNCH(kernel, element_grid(m), THREADS, 0, s, *m);
}

int64_t slc_anchor_mix_floats(int64_t rows, int64_t cols) { return 2 * (segments(rows) + 1) * cols; }

/* down may be dout: it comes last. */
template <typename T> static void run_backward(slc_stream s, const slc_anchor_mix *m, const slc_anchor_mix_back *b) {
    int64_t cols = columns_of(m->at), coefs = m->each ? cols / m->each : m->at.parts;
    float *column = b->scratch, *sums = column + 2 * cols;
    const T *dout = (const T *)b->dout;
    SLC_LAUNCH(coefs_kernel<T>, segment_grid(m->rows, cols), THREADS, 0, s, *m, dout, sums);
    slc_zero_columns(s, 1, 0, 2 * cols, 2 * cols, false, column);
    slc_fold(s, segments(m->rows), 2 * cols, 2 * cols, sums, column);
    SLC_LAUNCH(share_kernel, dim3((unsigned)coefs, 2), 32, 0, s, *m, *b, column);
    if (m->factors)
        SLC_LAUNCH(factors_kernel<T>, slc_div_up(m->rows, WARPS), 32 * WARPS, 0, s, *m, dout, (T *)b->dfactors,
                   b->add_factors);
    SLC_LAUNCH(mix_back_kernel<T>, element_grid(m), THREADS, 0, s, *m, *b);
}

void slc_anchor_mix_backward(slc_stream s, const slc_anchor_mix *m, const slc_anchor_mix_back *b) {
    m->bf16 ? run_backward<slc_bf16>(s, m, b) : run_backward<float>(s, m, b);
}
