/* saved[0]: raw q and k of each row (the operation works in place); saved[1]: 1/rms of each head. */
#include "ops/attention/heads.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <string.h>

static const sl_qk_norm *own_of(const sl_op *op) { return op->own; }

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_qk_norm *o = own_of(op);
    int64_t hd = o->head_dim, h = o->heads, kv = o->kv_heads, qk = (h + kv) * hd;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        sl_qk row = sl_edit_qk(x, op->out, r, h + kv, hd, sl_worker_scratch(x, s->worker));
        float *q = row.p, *raw = sl_buf_data(x, op->saved[0]) + r * qk;
        float *rstd = sl_buf_data(x, op->saved[1]) + r * (h + kv);
        memcpy(raw, q, (size_t)qk * sizeof(float));
        x->k->rmsnorm_fwd(h, hd, raw, hd, sl_weight(op, x, 0), o->eps, q, hd, rstd);
        x->k->rmsnorm_fwd(kv, hd, raw + h * hd, hd, sl_weight(op, x, 1), o->eps, q + h * hd, hd, rstd + h);
        sl_end_qk(x, op->out, r, row);
    }
    return 0;
}

/* One row; dw: where its block sums the gradients of both weights. */
static void backward_row(const sl_op *op, const sl_exec *x, int64_t r, float *scratch, float *dw) {
    const sl_qk_norm *o = own_of(op);
    int64_t hd = o->head_dim, h = o->heads, kv = o->kv_heads, qk = (h + kv) * hd;
    sl_qk row = sl_edit_qk(x, op->dout, r, h + kv, hd, scratch);
    float *dq = row.p;
    const float *raw = sl_buf_data(x, op->saved[0]) + r * qk, *rstd = sl_buf_data(x, op->saved[1]) + r * (h + kv);
    x->k->rmsnorm_bwd(h, hd, dq, hd, raw, hd, sl_weight(op, x, 0), rstd, dq, hd, 0, dw);
    x->k->rmsnorm_bwd(kv, hd, dq + h * hd, hd, raw + h * hd, hd, sl_weight(op, x, 1), rstd + h, dq + h * hd, hd, 0,
                      dw + hd);
    sl_end_qk(x, op->dout, r, row);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t floats = sl_op_params_floats(op, x->p);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        float *dw = x->shared + i * floats;
        memset(dw, 0, (size_t)floats * sizeof *dw);
        for (int64_t r = sl_block_first(blocks, i), stop = r + sl_block_rows(blocks, i); r < stop; r++)
            backward_row(op, x, r, sl_worker_scratch(x, s->worker), dw);
    }
    return 0;
}

static const sl_op_kind qk_norm = {
    .name = "qk_norm",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

void sl_build_qk_norm(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), h = c->model_heads, kv = sl_config_kv_heads(c);
    sl_param_spec weight = {.name = "q_norm.weight", .rows = hd, .init = SL_INIT_ONES, .decay = SL_DECAY_NORM};
    sl_op *op = sl_program_op(b, &qk_norm, scope);
    sl_qk_norm *o = sl_program_own(b, op, sizeof *o);
    if (o)
        *o = (sl_qk_norm){.heads = h, .kv_heads = kv, .head_dim = hd, .eps = (float)c->norm_eps};
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    op->dim_in = op->dim_out = (h + 2 * kv) * hd;
    op->param[0] = sl_program_param(b, prefix, &weight);
    weight.name = "k_norm.weight";
    op->param[1] = sl_program_param(b, prefix, &weight);
    op->saved[0] = sl_program_buffer(b, op->rows, (h + kv) * hd);
    op->saved[1] = sl_program_buffer(b, op->rows, h + kv);
    op->worker_bytes = (size_t)((h + kv) * hd) * sizeof(float);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
}
