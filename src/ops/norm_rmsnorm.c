#include "ops/norm_rows.h"

/* saved[0]: 1 / rms */

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in) {
    int64_t d = op->dim_in, ld = x->info[op->out].ld;
    float *rstd = sl_buf_data(x, op->saved[0]) + first;
    const float *w = sl_weight(op, x, 0);
    if (x->info[op->out].bf16)
        x->k->rmsnorm_fwd_bf16(n, d, in, d, w, op->eps, sl_bf16_row(x, op->out, first), ld, rstd);
    else
        x->k->rmsnorm_fwd(n, d, in, d, w, op->eps, sl_buf_data(x, op->out) + first * ld, ld, rstd);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *din,
                     float *dw) {
    int64_t d = op->dim_in, ld = x->info[op->dout].ld;
    const float *w = sl_weight(op, x, 0), *rstd = sl_buf_data(x, op->saved[0]) + first;
    if (x->info[op->dout].bf16)
        x->k->rmsnorm_bwd_bf16(n, d, sl_bf16_row(x, op->dout, first), ld, in, d, w, rstd, din, d, op->acc, dw);
    else
        x->k->rmsnorm_bwd(n, d, sl_buf_data(x, op->dout) + first * ld, ld, in, d, w, rstd, din, d, op->acc, dw);
}

static const sl_row_norm rmsnorm = {1, forward, backward};

sl_norm_tap sl_build_rmsnorm(sl_program *b, const char *label, sl_buf in, const char *prefix, bool final) {
    (void)final;
    return sl_build_row_norm(b, &rmsnorm, label, in, prefix);
}
