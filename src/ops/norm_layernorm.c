#include "ops/norm_rows.h"

/* saved[0]: mean; saved[1]: 1 / standard deviation */

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in) {
    int64_t d = op->dim_in, ld = x->info[op->out].ld;
    float *mean = sl_buf_data(x, op->saved[0]) + first, *rstd = sl_buf_data(x, op->saved[1]) + first;
    const float *w = sl_weight(op, x, 0);
    if (x->info[op->out].bf16)
        x->k->layernorm_fwd_bf16(n, d, in, d, w, op->eps, sl_bf16_row(x, op->out, first), ld, mean, rstd);
    else
        x->k->layernorm_fwd(n, d, in, d, w, op->eps, sl_buf_data(x, op->out) + first * ld, ld, mean, rstd);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *din,
                     float *dw) {
    int64_t d = op->dim_in, ld = x->info[op->dout].ld;
    const float *w = sl_weight(op, x, 0);
    const float *mean = sl_buf_data(x, op->saved[0]) + first, *rstd = sl_buf_data(x, op->saved[1]) + first;
    if (x->info[op->dout].bf16)
        x->k->layernorm_bwd_bf16(n, d, sl_bf16_row(x, op->dout, first), ld, in, d, w, mean, rstd, din, d, op->acc, dw);
    else
        x->k->layernorm_bwd(n, d, sl_buf_data(x, op->dout) + first * ld, ld, in, d, w, mean, rstd, din, d, op->acc, dw);
}

static const sl_row_norm layernorm = {2, forward, backward};

sl_norm_tap sl_build_layernorm(sl_program *b, const char *label, sl_buf in, const char *prefix, bool final) {
    (void)final;
    return sl_build_row_norm(b, &layernorm, label, in, prefix);
}
