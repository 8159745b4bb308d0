#include "ops/norm/rows.h"

/* saved[0]: mean; saved[1]: 1 / standard deviation */

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out) {
    int64_t d = op->dim_in;
    x->k->layernorm_fwd(n, d, in, d, sl_norm_gain(op, x), sl_norm_own_of(op)->eps, out, d,
                        sl_buf_data(x, op->saved[0]) + first, sl_buf_data(x, op->saved[1]) + first);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    x->k->layernorm_bwd(n, d, dout, d, in, d, sl_norm_gain(op, x), sl_buf_data(x, op->saved[0]) + first,
                        sl_buf_data(x, op->saved[1]) + first, din, d, add, g[SL_NORM_WEIGHT]);
}

static void forward_bf16(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, sl_bf16 *out,
                         int64_t ld) {
    int64_t d = op->dim_in;
    x->k->layernorm_fwd_bf16(n, d, in, d, sl_norm_gain(op, x), sl_norm_own_of(op)->eps, out, ld,
                             sl_buf_data(x, op->saved[0]) + first, sl_buf_data(x, op->saved[1]) + first);
}

static void backward_bf16(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const sl_bf16 *dout, int64_t ld,
                          const float *in, float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    x->k->layernorm_bwd_bf16(n, d, dout, ld, in, d, sl_norm_gain(op, x), sl_buf_data(x, op->saved[0]) + first,
                             sl_buf_data(x, op->saved[1]) + first, din, d, add, g[SL_NORM_WEIGHT]);
}

static const sl_row_norm layernorm = {SL_NORM_BY_DEVIATION, 2, forward, backward, forward_bf16, backward_bf16};

/* The same with a bias: a pass of its own over rows that are still in the cache. */

static void forward_biased(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out) {
    forward(op, x, first, n, in, out);
    for (int64_t i = 0; i < n; i++)
        x->k->add(op->dim_in, sl_norm_bias(op, x), out + i * op->dim_in);
}

static void backward_biased(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout,
                            const float *in, float *din, int add, float *const *g) {
    backward(op, x, first, n, dout, in, din, add, g);
    for (int64_t i = 0; i < n; i++)
        x->k->add(op->dim_in, dout + i * op->dim_in, g[SL_NORM_BIAS]);
}

static const sl_row_norm biased = {
    .form = SL_NORM_BY_DEVIATION, .saves = 2, .forward = forward_biased, .backward = backward_biased};

sl_norm_tap sl_build_layernorm(sl_program *b, sl_scope scope, sl_buf in, const char *prefix, enum sl_norm_site site) {
    (void)site;
    if (!b->config->norm_bias)
        return sl_build_row_norm(b, &layernorm, scope, in, prefix, NULL);
    int param[SL_NORM_PARAMS];
    for (int p = 0; p < SL_NORM_PARAMS; p++)
        param[p] = p == SL_NORM_BIAS ? sl_norm_bias_param(b, prefix) : SL_NONE;
    return sl_build_row_norm(b, &biased, scope, in, prefix, param);
}
