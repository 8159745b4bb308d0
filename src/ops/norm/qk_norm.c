/* saved[0]: raw q and k of each row (the operation works in place); saved[1]: 1/rms of each norm of a
 * row: of heads, or of all query heads and all key heads. */
#include "ops/attention/heads.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <string.h>

static const sl_qk_norm *own_of(const sl_op *op) { return op->own; }

/* Those of q, then those of k. */
static float *rstd_of(const sl_op *op, const sl_exec *x, int64_t row) {
    return sl_buf_data(x, op->saved[1]) + row * x->info[op->saved[1]].cols;
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const sl_qk_norm *o = own_of(op);
    int64_t hd = o->head_dim, q = o->heads * hd, qk = q + o->kv_heads * hd, norms = o->heads / o->q_span;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        sl_qk row = sl_edit_qk(x, op->out, r, o->heads + o->kv_heads, hd, sl_worker_scratch(x, s->worker));
        float *raw = sl_buf_data(x, op->saved[0]) + r * qk, *rstd = rstd_of(op, x, r);
        memcpy(raw, row.p, (size_t)qk * sizeof(float));
        x->k->rmsnorm_fwd(norms, o->q_span * hd, raw, o->q_span * hd, sl_weight(op, x, 0), o->eps, row.p,
                          o->q_span * hd, rstd);
        x->k->rmsnorm_fwd(o->kv_heads / o->k_span, o->k_span * hd, raw + q, o->k_span * hd, sl_weight(op, x, 1), o->eps,
                          row.p + q, o->k_span * hd, rstd + norms);
        sl_end_qk(x, op->out, r, row);
    }
    return 0;
}

/* One row; dw: where its block sums the gradients of both weights. */
static void backward_row(const sl_op *op, const sl_exec *x, int64_t r, float *scratch, float *dw) {
    const sl_qk_norm *o = own_of(op);
    int64_t hd = o->head_dim, q = o->heads * hd, qk = q + o->kv_heads * hd, norms = o->heads / o->q_span;
    int64_t wide_q = o->q_span * hd, wide_k = o->k_span * hd;
    sl_qk row = sl_edit_qk(x, op->dout, r, o->heads + o->kv_heads, hd, scratch);
    const float *raw = sl_buf_data(x, op->saved[0]) + r * qk, *rstd = rstd_of(op, x, r);
    float *dq = row.p, *dk = row.p + q;
    x->k->rmsnorm_bwd(norms, wide_q, dq, wide_q, raw, wide_q, sl_weight(op, x, 0), rstd, dq, wide_q, 0, dw);
    x->k->rmsnorm_bwd(o->kv_heads / o->k_span, wide_k, dk, wide_k, raw + q, wide_k, sl_weight(op, x, 1), rstd + norms,
                      dk, wide_k, 0, dw + wide_q);
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
    bool whole = c->model_qk_norm_span == SL_SPAN_PROJECTION;
    int64_t q_span = whole ? h : 1, k_span = whole ? kv : 1;
    sl_param_spec weight = {.name = "q_norm.weight", .rows = q_span * hd, .init = SL_INIT_ONES, .decay = SL_DECAY_NORM};
    sl_op *op = sl_program_op(b, &qk_norm, scope);
    sl_qk_norm *o = sl_program_own(b, op, sizeof *o);
    if (o)
        *o = (sl_qk_norm){.heads = h, .kv_heads = kv, .head_dim = hd, .q_span = q_span, .k_span = k_span,
                          .eps = (float)c->norm_eps};
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    op->dim_in = op->dim_out = (h + 2 * kv) * hd;
    op->param[0] = sl_program_param(b, prefix, &weight);
    weight.name = "k_norm.weight";
    weight.rows = k_span * hd;
    op->param[1] = sl_program_param(b, prefix, &weight);
    op->saved[0] = sl_program_buffer(b, op->rows, (h + kv) * hd);
    op->saved[1] = sl_program_buffer(b, op->rows, h / q_span + kv / k_span);
    op->worker_bytes = (size_t)((h + kv) * hd) * sizeof(float);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
}
