#include "ops/norm/rows.h"

/* saved[0]: 1 / rms */

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out) {
    int64_t d = op->dim_in;
    x->k->rmsnorm_fwd(n, d, in, d, sl_norm_gain(op, x), sl_norm_own_of(op)->eps, out, d,
                      sl_buf_data(x, op->saved[0]) + first);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    x->k->rmsnorm_bwd(n, d, dout, d, in, d, sl_norm_gain(op, x), sl_buf_data(x, op->saved[0]) + first, din, d, add,
                      g[SL_NORM_WEIGHT]);
}

static void forward_bf16(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, sl_bf16 *out,
                         int64_t ld) {
    int64_t d = op->dim_in;
    x->k->rmsnorm_fwd_bf16(n, d, in, d, sl_norm_gain(op, x), sl_norm_own_of(op)->eps, out, ld,
                           sl_buf_data(x, op->saved[0]) + first);
}

static void backward_bf16(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const sl_bf16 *dout, int64_t ld,
                          const float *in, float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    x->k->rmsnorm_bwd_bf16(n, d, dout, ld, in, d, sl_norm_gain(op, x), sl_buf_data(x, op->saved[0]) + first, din, d,
                           add, g[SL_NORM_WEIGHT]);
}

static const sl_row_norm rmsnorm = {SL_NORM_BY_RMS, 1, forward, backward, forward_bf16, backward_bf16};

sl_norm_tap sl_build_rmsnorm(sl_program *b, sl_scope scope, sl_buf in, const char *prefix, enum sl_norm_site site) {
    (void)site;
    return sl_build_row_norm(b, &rmsnorm, scope, in, prefix, NULL);
}
