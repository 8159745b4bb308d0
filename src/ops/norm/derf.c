/* Derf (arXiv 2512.10938): y = weight * erf(alpha x + shift) + bias; alpha and shift are one number each. */
#include "ops/norm/dyt.h"

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out) {
    int64_t d = op->dim_in;
    (void)first;
    x->k->derf_fwd(n, d, in, d, *sl_weight(op, x, SL_NORM_ALPHA), *sl_weight(op, x, SL_NORM_SHIFT), sl_norm_gain(op, x),
                   sl_norm_bias(op, x), out, d);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    (void)first;
    x->k->derf_bwd(n, d, dout, d, in, d, *sl_weight(op, x, SL_NORM_ALPHA), *sl_weight(op, x, SL_NORM_SHIFT),
                   sl_norm_gain(op, x), din, d, add, g[SL_NORM_WEIGHT], g[SL_NORM_BIAS], g[SL_NORM_ALPHA],
                   g[SL_NORM_SHIFT]);
}

static const sl_row_norm derf = {.form = SL_NORM_BY_CHANNEL, .forward = forward, .backward = backward};

sl_norm_tap sl_build_derf(sl_program *b, sl_scope scope, sl_buf in, const char *prefix, enum sl_norm_site site) {
    int param[SL_NORM_PARAMS];
    sl_dyt_params(b, prefix, site, param);
    param[SL_NORM_SHIFT] = sl_program_param(b, prefix,
                                            &(sl_param_spec){.name = "shift", .rows = 1, .init = SL_INIT_ZEROS,
                                                             .decay = SL_DECAY_NORM});
    return sl_build_row_norm(b, &derf, scope, in, prefix, param);
}
