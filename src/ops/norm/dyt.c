/* DyT (arXiv 2503.10622): y = weight * tanh(alpha x) + bias; alpha is one number. */
#include "ops/norm/dyt.h"

static void forward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *out) {
    int64_t d = op->dim_in;
    (void)first;
    x->k->dyt_fwd(n, d, in, d, *sl_weight(op, x, SL_NORM_ALPHA), sl_norm_gain(op, x), sl_norm_bias(op, x), out, d);
}

static void backward(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *dout, const float *in,
                     float *din, int add, float *const *g) {
    int64_t d = op->dim_in;
    (void)first;
    x->k->dyt_bwd(n, d, dout, d, in, d, *sl_weight(op, x, SL_NORM_ALPHA), sl_norm_gain(op, x), din, d, add,
                  g[SL_NORM_WEIGHT], g[SL_NORM_BIAS], g[SL_NORM_ALPHA]);
}

static const sl_row_norm dyt = {.form = SL_NORM_BY_CHANNEL, .forward = forward, .backward = backward};

sl_norm_tap sl_build_dyt(sl_program *b, sl_scope scope, sl_buf in, const char *prefix, enum sl_norm_site site) {
    int param[SL_NORM_PARAMS];
    sl_dyt_params(b, prefix, site, param);
    return sl_build_row_norm(b, &dyt, scope, in, prefix, param);
}

void sl_dyt_params(sl_program *b, const char *prefix, enum sl_norm_site site, int param[SL_NORM_PARAMS]) {
    const sl_config *c = b->config;
    double alpha = site == SL_NORM_ATTN  ? c->norm_alpha_attn
                   : site == SL_NORM_FFN ? c->norm_alpha_ffn
                                         : c->norm_alpha_final;
    for (int p = 0; p < SL_NORM_PARAMS; p++)
        param[p] = SL_NONE;
    param[SL_NORM_ALPHA] = sl_program_param(b, prefix,
                                            &(sl_param_spec){.name = "alpha", .rows = 1, .init = SL_INIT_VALUE,
                                                             .start = alpha, .decay = SL_DECAY_NORM});
    if (c->norm_beta)
        param[SL_NORM_BIAS] = sl_norm_bias_param(b, prefix);
}
