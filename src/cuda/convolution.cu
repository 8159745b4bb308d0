#include "cuda/convolution.h"

#include "cuda/cu.h"
#include "cuda/rows.h"

enum { THREADS = 128, ROWS = 16 }; /* of a block, which has neighbouring channels of some rows */
enum { SEGMENT = 64 };             /* rows whose gradients of weights are summed together */

static dim3 grid_of(const slc_convolution *c) {
    return dim3((unsigned)slc_div_up(c->windows * c->seq, ROWS), (unsigned)slc_div_up(c->channels, THREADS));
}
/* Each row and channel of a block; t: the row's position. */
#define EACH_ROW(c, row, t, i)                                                                                         \
    if (int i = (int)(blockIdx.y * THREADS + threadIdx.x); i < (c).channels)                                           \
        for (int64_t row = (int64_t)blockIdx.x * ROWS, end_ = row + ROWS, t = row % (c).seq;                           \
             row < end_ && row < (c).windows * (c).seq; row++, t = t + 1 == (c).seq ? 0 : t + 1)

static __device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* Before the SiLU. */
template <typename T>
static __device__ __forceinline__ float convolved(const slc_convolution &c, int64_t row, int64_t t, int i) {
    const T *before = (const T *)c.before + row * c.ld_before + i;
    const float *weight = c.weight + (i + 1) * c.width - 1;
    int taps = t + 1 < c.width ? (int)t + 1 : (int)c.width;
    float u = c.bias ? c.bias[i] : 0;
    for (int j = 0; j < taps; j++, weight--, before -= c.ld_before)
        u = fmaf(*weight, slc_load(before), u);
    return u;
}

template <typename T> __global__ void __launch_bounds__(THREADS) keep_kernel(slc_convolution c) {
    EACH_ROW(c, row, t, i) ((T *)c.before)[row * c.ld_before + i] = ((const T *)c.v)[row * c.ld + i];
}

template <typename T> __global__ void __launch_bounds__(THREADS) forward_kernel(slc_convolution c) {
    EACH_ROW(c, row, t, i) {
        float u = convolved<T>(c, row, t, i);
        slc_store((T *)c.v + row * c.ld + i, c.silu ? u * sigmoid(u) : u);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) step_kernel(slc_convolution c, float *state, const int32_t *position) {
    int i = (int)(blockIdx.y * THREADS + threadIdx.x), halo = (int)c.width - 1;
    if (i >= c.channels)
        return;
    T *v = (T *)c.v + blockIdx.x * c.ld + i;
    float now = slc_load(v), u = (c.bias ? c.bias[i] : 0) + c.weight[i * c.width + halo] * now;
    float *at = state + blockIdx.x * halo * c.channels + i;
    for (int j = 0; j < halo; j++) {
        float x = at[j * c.channels];
        if (halo - j <= *position)
            u = fmaf(c.weight[i * c.width + j], x, u);
        if (j > 0)
            at[(j - 1) * c.channels] = x;
    }
    at[(halo - 1) * c.channels] = now;
    slc_store(v, c.silu ? u * sigmoid(u) : u);
}

/* ---- backward: du [rows, channels], before the SiLU, to scratch, since din may be dout */

template <typename T>
__global__ void __launch_bounds__(THREADS) slope_kernel(slc_convolution c, const T *dout, float *du) {
    EACH_ROW(c, row, t, i) {
        float g = slc_load(dout + row * c.ld + i);
        if (c.silu) {
            float u = convolved<T>(c, row, t, i), q = sigmoid(u);
            g *= q + u * q * (1 - q);
        }
        du[row * c.channels + i] = g;
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) back_kernel(slc_convolution c, const float *du, T *din) {
    EACH_ROW(c, row, t, i) {
        const float *weight = c.weight + (i + 1) * c.width - 1, *at = du + row * c.channels + i;
        int taps = c.seq - t < c.width ? (int)(c.seq - t) : (int)c.width;
        float g = 0;
        for (int j = 0; j < taps; j++, weight--, at += c.channels)
            g = fmaf(*weight, *at, g);
        slc_store(din + row * c.ld + i, g);
    }
}

/* Sums of a segment's rows, [channels * width | channels, with a bias], to part: a warp has 32 channels of a tap, or
 * of the bias behind all taps. */
template <typename T> __global__ void weights_kernel(slc_convolution c, const float *du, float *part) {
    int64_t first = (int64_t)blockIdx.x * SEGMENT;
    int i = (int)(blockIdx.y * 32 + threadIdx.x % 32), j = (int)threadIdx.x / 32;
    if (i >= c.channels)
        return;
    float sum = 0;
    for (int64_t row = first, t = first % c.seq; row < first + SEGMENT && row < c.windows * c.seq; row++) {
        float x = 1;
        if (j < c.width)
            x = t >= j ? slc_load((const T *)c.before + (row - j) * c.ld_before + i) : 0;
        t = t + 1 == c.seq ? 0 : t + 1;
        sum = fmaf(du[row * c.channels + i], x, sum);
    }
    part += (int64_t)blockIdx.x * c.channels * (c.width + (c.bias ? 1 : 0));
    part[j < c.width ? i * c.width + c.width - 1 - j : c.channels * c.width + i] = sum;
}

template <typename T> static void run_forward(slc_stream s, const slc_convolution *c) {
    SLC_LAUNCH(keep_kernel<T>, grid_of(c), THREADS, 0, s, *c);
    SLC_LAUNCH(forward_kernel<T>, grid_of(c), THREADS, 0, s, *c);
}
void slc_convolution_forward(slc_stream s, const slc_convolution *c) {
    c->bf16 ? run_forward<slc_bf16>(s, c) : run_forward<float>(s, c);
}

void slc_convolution_step(slc_stream s, const slc_convolution *c, float *state, const int32_t *position) {
    auto kernel = c->bf16 ? step_kernel<slc_bf16> : step_kernel<float>;
    SLC_LAUNCH(kernel, dim3((unsigned)c->windows, grid_of(c).y), THREADS, 0, s, *c, state, position);
}

static int64_t segments(const slc_convolution *c) { return slc_div_up(c->windows * c->seq, SEGMENT); }
static int64_t sums_of(const slc_convolution *c, bool bias) { return c->channels * (c->width + bias); }
int64_t slc_convolution_floats(const slc_convolution *c, bool bias) {
    return c->windows * c->seq * c->channels + segments(c) * sums_of(c, bias);
}

template <typename T>
static void run_backward(slc_stream s, const slc_convolution *c, const T *dout, T *din, float *du, float *part) {
    dim3 grid((unsigned)segments(c), (unsigned)slc_div_up(c->channels, 32));
    SLC_LAUNCH(slope_kernel<T>, grid_of(c), THREADS, 0, s, *c, dout, du);
    SLC_LAUNCH(back_kernel<T>, grid_of(c), THREADS, 0, s, *c, du, din);
    SLC_LAUNCH(weights_kernel<T>, grid, 32 * (c->width + (c->bias ? 1 : 0)), 0, s, *c, du, part);
}

void slc_convolution_backward(slc_stream s, const slc_convolution *c, const void *dout, void *din, float *dweight,
                              float *dbias, float *scratch) {
    int64_t weights = c->channels * c->width, sums = sums_of(c, c->bias);
    float *part = scratch + c->windows * c->seq * c->channels;
    if (c->bf16)
        run_backward(s, c, (const slc_bf16 *)dout, (slc_bf16 *)din, scratch, part);
    else
        run_backward(s, c, (const float *)dout, (float *)din, scratch, part);
    slc_fold(s, segments(c), weights, sums, part, dweight);
    if (dbias)
        slc_fold(s, segments(c), c->channels, sums, part + weights, dbias);
}
