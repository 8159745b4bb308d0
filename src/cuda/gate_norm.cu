#include "cuda/gate_norm.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { WARPS = 8, SEGMENT = 32 }; /* SEGMENT: rows whose gradients of weights are summed together */

/* g(z), and its slope. */
static __device__ __forceinline__ float gate_of(int gate, float z, float *slope) {
    float q = 1 / (1 + expf(-z));
    switch (gate) {
    case SLC_GATE_BY_SILU: *slope = q + z * q * (1 - q); return z * q;
    case SLC_GATE_BY_SIGMOID: *slope = q * (1 - q); return q;
    default: *slope = 0; return 1;
    }
}

/* A warp's row and span. */
struct piece {
    bool is;
    int64_t row, span, at; /* at: its first channel */
    int lane;
};
static __device__ __forceinline__ piece piece_at(const slc_gate_norm &n) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, spans = n.dim / n.span;
    piece p = {i < n.rows * spans, i / spans, i % spans, i % spans * n.span, (int)threadIdx.x % 32};
    return p;
}
static __device__ __forceinline__ const float *weight_at(const slc_gate_norm &n, const piece &p) {
    return n.weight + (n.shared ? 0 : p.at);
}
template <typename T> static __device__ __forceinline__ const T *y_at(const slc_gate_norm &n, const piece &p) {
    return (const T *)n.y + p.row * n.ld_y + p.at;
}
/* The gate of a piece's channel j. */
template <typename T>
static __device__ __forceinline__ float gate_at(const slc_gate_norm &n, const piece &p, int64_t j, float *slope) {
    float z = n.gate == SLC_GATE_OPEN ? 0 : slc_load((const T *)n.z + p.row * n.ld_z + p.at + j);
    return gate_of(n.gate, z, slope);
}

template <typename T> __global__ void __launch_bounds__(32 * WARPS) forward_kernel(slc_gate_norm n, T *out) {
    piece p = piece_at(n);
    if (!p.is)
        return;
    const T *y = y_at<T>(n, p);
    float sum = 0, slope, r = 1;
    if (n.place != SLC_NORM_OFF) {
        for (int64_t j = p.lane; j < n.span; j += 32) {
            float x = slc_load(y + j) * (n.place == SLC_NORM_AFTER_GATE ? gate_at<T>(n, p, j, &slope) : 1);
            sum = fmaf(x, x, sum);
        }
        r = 1 / sqrtf(slc_warp_sum(sum) / (float)n.span + n.eps);
        if (p.lane == 0)
            n.rstd[p.row * (n.dim / n.span) + p.span] = r;
    }
    for (int64_t j = p.lane; j < n.span; j += 32) {
        float w = n.place == SLC_NORM_OFF ? 1 : weight_at(n, p)[j];
        slc_store(out + p.row * n.ld + p.at + j, w * (slc_load(y + j) * gate_at<T>(n, p, j, &slope) * r));
    }
}

template <typename T> static __device__ __forceinline__ void put(T *at, bool add, float x) {
    slc_store(at, add ? slc_load(at) + x : x);
}

/* With x = y or y g what is normalised, and dn the gradient of x r: dx = r (dn - x r mean(dn x r)). */
template <typename T> __global__ void __launch_bounds__(32 * WARPS) back_kernel(slc_gate_norm n, slc_gate_norm_back b) {
    piece p = piece_at(n);
    if (!p.is)
        return;
    bool after = n.place == SLC_NORM_AFTER_GATE, off = n.place == SLC_NORM_OFF;
    const T *y_row = y_at<T>(n, p), *dout = (const T *)b.dout + p.row * n.ld + p.at;
    float sum = 0, slope, r = off ? 1 : n.rstd[p.row * (n.dim / n.span) + p.span];
    for (int64_t j = p.lane; !off && j < n.span; j += 32)
        sum = fmaf(slc_load(dout + j) * weight_at(n, p)[j], slc_load(y_row + j) * gate_at<T>(n, p, j, &slope), sum);
    float mean = slc_warp_sum(sum) * r / (float)n.span;
    for (int64_t j = p.lane; j < n.span; j += 32) {
        float y = slc_load(y_row + j), g = gate_at<T>(n, p, j, &slope), d = slc_load(dout + j), dz = d * y * slope;
        float w = off ? 1 : weight_at(n, p)[j], x = after ? y * g : y;
        float dx = r * (d * w * (after ? 1 : g) - x * r * mean);
        if (after)
            dz = dx * y * slope, dx *= g;
        else if (off)
            dx = d * g;
        else
            dz *= w * r;
        put((T *)b.dy + p.row * n.ld_y + p.at + j, b.add_y, dx);
        if (n.gate != SLC_GATE_OPEN)
            put((T *)b.dz + p.row * n.ld_z + p.at + j, b.add_z, dz);
    }
}

/* Sums of a segment's rows, a thread a channel. */
template <typename T>
__global__ void __launch_bounds__(128) weights_kernel(slc_gate_norm n, const T *dout, float *part) {
    int64_t j = (int64_t)blockIdx.y * 128 + threadIdx.x, first = (int64_t)blockIdx.x * SEGMENT;
    if (j >= n.dim)
        return;
    float sum = 0, slope;
    for (int64_t row = first; row < first + SEGMENT && row < n.rows; row++) {
        piece p = {true, row, j / n.span, j, 0};
        float x = slc_load(y_at<T>(n, p)) * gate_at<T>(n, p, 0, &slope) * n.rstd[row * (n.dim / n.span) + p.span];
        sum = fmaf(slc_load(dout + row * n.ld + j), x, sum);
    }
    part[blockIdx.x * n.dim + j] = sum;
}

static int64_t blocks_of(const slc_gate_norm *n) { return slc_div_up(n->rows * (n->dim / n->span), WARPS); }

void slc_gate_norm_forward(slc_stream s, const slc_gate_norm *n, void *out) {
    if (n->bf16)
        SLC_LAUNCH(forward_kernel<slc_bf16>, blocks_of(n), 32 * WARPS, 0, s, *n, (slc_bf16 *)out);
    else
        SLC_LAUNCH(forward_kernel<float>, blocks_of(n), 32 * WARPS, 0, s, *n, (float *)out);
}

static int64_t segments(int64_t rows) { return slc_div_up(rows, SEGMENT); }
int64_t slc_gate_norm_floats(int64_t rows, int64_t dim) { return segments(rows) * dim; }

template <typename T> static void run_backward(slc_stream s, const slc_gate_norm *n, const slc_gate_norm_back *b) {
    dim3 grid((unsigned)segments(n->rows), (unsigned)slc_div_up(n->dim, 128));
    SLC_LAUNCH(back_kernel<T>, blocks_of(n), 32 * WARPS, 0, s, *n, *b);
    if (n->place != SLC_NORM_OFF)
        SLC_LAUNCH(weights_kernel<T>, grid, 128, 0, s, *n, (const T *)b->dout, b->scratch);
}

void slc_gate_norm_backward(slc_stream s, const slc_gate_norm *n, const slc_gate_norm_back *b) {
    int64_t spans = n->dim / n->span;
    n->bf16 ? run_backward<slc_bf16>(s, n, b) : run_backward<float>(s, n, b);
    if (n->place == SLC_NORM_OFF)
        return;
    if (n->shared)
        slc_fold(s, segments(n->rows) * spans, n->span, n->span, b->scratch, b->dweight);
    else
        slc_fold(s, segments(n->rows), n->dim, n->dim, b->scratch, b->dweight);
}
