#include "ops/norm/rows.h"

#include "ops/norm/frame.h"
#include "ops/rows.h"

#include <string.h>

enum { GAIN = SL_OP_SAVED - 1 }; /* place in op->saved: 1 + weight */

sl_norm_tiles sl_norm_carve(const sl_op *op, sl_carver *c) {
    sl_norm_tiles t;
    t.in = sl_norm_carve_tile(op, c);
    t.dout = sl_norm_carve_tile(op, c);
    t.out = sl_norm_carve_tile(op, c);
    t.pre = sl_norm_carve_tile(op, c);
    t.dpre = sl_norm_carve_tile(op, c);
    return t;
}

static sl_norm_tiles tiles_of(const sl_op *op, const sl_exec *x, int worker) {
    return sl_norm_carve(op, &(sl_carver){.base = sl_worker_scratch(x, worker)});
}

const float *sl_norm_gain(const sl_op *op, const sl_exec *x) {
    return op->saved[GAIN] == SL_NONE ? sl_weight(op, x, SL_NORM_WEIGHT) : sl_buf_data(x, op->saved[GAIN]);
}

int sl_norm_gains(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)s;
    float *gain = sl_buf_data(x, op->saved[GAIN]);
    for (int64_t j = 0; j < op->dim_in; j++)
        gain[j] = 1 + sl_weight(op, x, SL_NORM_WEIGHT)[j];
    return 0;
}

sl_split sl_norm_gains_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = op->saved[GAIN] != SL_NONE};
}

const float *sl_norm_factored(const sl_op *op, const sl_exec *x, int64_t n, const float *raw, float *scratch) {
    int64_t d = op->dim_in;
    if (!sl_norm_has(op, SL_NORM_PRE))
        return raw;
    x->k->channel_scale_fwd(n, d, raw, d, sl_weight(op, x, SL_NORM_PRE), scratch, d);
    return scratch;
}

/* ---- forward */

void sl_norm_write(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, const float *in, float *scratch) {
    const sl_row_norm *norm = sl_norm_own_of(op)->norm;
    const sl_buffer *out = &x->info[op->out];
    if (!out->bf16) {
        norm->forward(op, x, first, n, in, sl_buf_data(x, op->out) + first * out->ld);
    } else if (norm->forward_bf16) {
        norm->forward_bf16(op, x, first, n, in, sl_bf16_row(x, op->out, first), out->ld);
        sl_pad_rows(x, op->out, first, n);
    } else {
        norm->forward(op, x, first, n, in, scratch);
        sl_store_bf16(x, op->out, first, n, 0, op->dim_in, scratch, op->dim_in);
    }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    sl_norm_tiles t = tiles_of(op, x, s->worker);
    for (int64_t r = s->first, end = r + s->n; r < end; r += SL_NORM_TILE) {
        int64_t n = sl_min(end - r, SL_NORM_TILE);
        const float *raw = sl_read_rows(x, op->in[0], r, n, t.in);
        sl_norm_write(op, x, r, n, sl_norm_factored(op, x, n, raw, t.pre), t.out);
    }
    return 0;
}

/* ---- backward */

/* This block's sums of the parameters' gradients, zeroed; g[p]: where those of parameter p are, NULL where it has
 * none. */
static void sums_of(const sl_op *op, const sl_exec *x, int64_t block, float *g[SL_NORM_PARAMS]) {
    int64_t floats = sl_op_params_floats(op, x->p);
    float *at = x->shared + block * floats;
    memset(at, 0, (size_t)floats * sizeof *at);
    for (int p = 0; p < SL_NORM_PARAMS; p++) {
        g[p] = sl_norm_has(op, p) ? at : NULL;
        at += sl_op_param_floats(op, x->p, p);
    }
}

int sl_norm_backward_blocks(const sl_op *op, const sl_exec *x, const sl_span *s, sl_norm_backward_fn *rows) {
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        int64_t first = sl_block_first(blocks, i), n = sl_block_rows(blocks, i);
        float *g[SL_NORM_PARAMS];
        sums_of(op, x, i, g);
        for (int64_t r = 0; r < n; r += SL_NORM_TILE)
            rows(op, x, first + r, sl_min(n - r, SL_NORM_TILE), s->worker, g);
    }
    return 0;
}

static void norm_backward(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, float *scratch, const float *in,
                          float *din, int add, float *const *g) {
    const sl_row_norm *norm = sl_norm_own_of(op)->norm;
    const sl_buffer *dout = &x->info[op->dout];
    if (dout->bf16 && norm->backward_bf16)
        norm->backward_bf16(op, x, r, n, sl_bf16_row(x, op->dout, r), dout->ld, in, din, add, g);
    else
        norm->backward(op, x, r, n, sl_read_rows(x, op->dout, r, n, scratch), in, din, add, g);
}

static void backward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int worker, float *const *g) {
    sl_norm_tiles t = tiles_of(op, x, worker);
    int64_t d = op->dim_in;
    const float *raw = sl_read_rows(x, op->in[0], r, n, t.in);
    bool direct = !x->info[op->din[0]].bf16; /* of the residual stream */
    float *din = direct ? sl_buf_data(x, op->din[0]) + r * d : t.out;
    if (!direct && op->acc[0])
        sl_read_rows(x, op->din[0], r, n, din);
    if (!sl_norm_has(op, SL_NORM_PRE)) {
        norm_backward(op, x, r, n, t.dout, raw, din, op->acc[0], g);
    } else {
        const float *z = sl_norm_factored(op, x, n, raw, t.pre);
        norm_backward(op, x, r, n, t.dout, z, t.dpre, 0, g);
        x->k->channel_scale_bwd(n, d, t.dpre, d, raw, d, sl_weight(op, x, SL_NORM_PRE), din, d, op->acc[0],
                                g[SL_NORM_PRE]);
    }
    if (!direct)
        sl_store_bf16(x, op->din[0], r, n, 0, d, din, d);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    return sl_norm_backward_blocks(op, x, s, backward_rows);
}

/* ---- building */

int sl_norm_bias_param(sl_program *b, const char *prefix) {
    return sl_program_param(b, prefix, &(sl_param_spec){.name = "bias", .rows = b->config->model_dim,
                                                        .init = SL_INIT_ZEROS, .decay = SL_DECAY_NORM});
}

static const sl_op_kind row_norm = {
    .name = "norm", .adds = true, .again = true,
    .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = sl_norm_gains, .split = sl_norm_gains_split},
                         {.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

sl_op *sl_norm_append(sl_program *b, const sl_op_kind *kind, size_t own_bytes, const sl_row_norm *norm, sl_scope scope,
                      sl_buf in, const char *prefix, const int *param) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim;
    sl_param_spec weight = {.name = "weight", .rows = d, .decay = SL_DECAY_NORM,
                            .init = c->norm_zero_centred ? SL_INIT_ZEROS : SL_INIT_ONES};
    sl_param_spec pre = {.name = "pre_affine", .rows = d, .decay = SL_DECAY_NORM, .init = SL_INIT_ONES};
    sl_op *op = sl_program_op(b, kind, scope);
    sl_norm_own *own = sl_program_own(b, op, own_bytes);
    if (own)
        *own = (sl_norm_own){.norm = norm, .eps = (float)c->norm_eps};
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    for (int p = 0; param && p < SL_NORM_PARAMS; p++)
        op->param[p] = param[p];
    op->param[SL_NORM_WEIGHT] = sl_program_param(b, prefix, &weight);
    op->param[SL_NORM_PRE] = c->norm_preaffine ? sl_program_param(b, prefix, &pre) : SL_NONE;
    for (int i = 0; i < norm->saves; i++)
        op->saved[i] = sl_program_buffer(b, op->rows, 1);
    if (c->norm_zero_centred)
        op->saved[GAIN] = sl_program_buffer(b, 1, d);
    op->out = sl_program_activation(b, op->rows, d);
    sl_carver count = {0};
    sl_norm_carve(op, &count);
    op->worker_bytes = count.used;
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    return op;
}

/* Only norms that read the residual stream meet sink channels: not the one behind a half in a sandwich (out_norm). */
static bool nullifies(const sl_config *c, sl_scope scope) {
    return c->model_sink_nullify > 0 && scope.part == SL_PART_norm &&
           (scope.layer != SL_NO_LAYER || c->model_sink_nullify_final);
}

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, sl_scope scope, sl_buf in, const char *prefix,
                              const int *param) {
    const sl_op *op = nullifies(b->config, scope)
                          ? sl_append_nullified(b, norm, scope, in, prefix, param)
                          : sl_norm_append(b, &row_norm, sizeof(sl_norm_own), norm, scope, in, prefix, param);
    return (sl_norm_tap){op->out, op->param[SL_NORM_WEIGHT], SL_NONE};
}
