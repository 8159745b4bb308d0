#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rows.h"

#include <string.h>

/* saved[0]: raw q and k of each row (the operation works in scope); saved[1]: 1/rms of each head. */

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t hd = op->head_dim, h = op->heads, kv = op->kv_heads, qk = (h + kv) * hd;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        sl_qk row = sl_edit_qk(x, op->out, r, h + kv, hd, sl_worker_scratch(x, thread));
        float *q = row.p, *raw = sl_buf_data(x, op->saved[0]) + r * qk;
        float *rstd = sl_buf_data(x, op->saved[1]) + r * (h + kv);
        memcpy(raw, q, (size_t)qk * sizeof(float));
        x->k->rmsnorm_fwd(h, hd, raw, hd, sl_weight(op, x, 0), op->eps, q, hd, rstd);
        x->k->rmsnorm_fwd(kv, hd, raw + h * hd, hd, sl_weight(op, x, 1), op->eps, q + h * hd, hd, rstd + h);
        sl_end_qk(x, op->out, r, row);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }

static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t hd = op->head_dim, h = op->heads, kv = op->kv_heads, qk = (h + kv) * hd;
    float *dw = x->shared + block * 2 * hd;
    memset(dw, 0, (size_t)(2 * hd) * sizeof *dw);
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        sl_qk row = sl_edit_qk(x, op->dout, r, h + kv, hd, sl_worker_scratch(x, thread));
        float *dq = row.p;
        const float *raw = sl_buf_data(x, op->saved[0]) + r * qk;
        const float *rstd = sl_buf_data(x, op->saved[1]) + r * (h + kv);
        x->k->rmsnorm_bwd(h, hd, dq, hd, raw, hd, sl_weight(op, x, 0), rstd, dq, hd, 0, dw);
        x->k->rmsnorm_bwd(kv, hd, dq + h * hd, hd, raw + h * hd, hd, sl_weight(op, x, 1), rstd + h,
                          dq + h * hd, hd, 0, dw + hd);
        sl_end_qk(x, op->dout, r, row);
    }
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, backward_block);
    for (int64_t i = 0, count = sl_op_blocks(op).count; i < count; i++)
        for (int w = 0; w < 2; w++)
            x->k->add(op->head_dim, x->shared + (2 * i + w) * op->head_dim, sl_weight_grad(op, x, w));
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind qk_norm = {.name = "qk_norm", .forward = forward_stages, .backward = backward_stages};

void sl_build_qk_norm(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c);
    sl_param_spec weight = {.name = "q_norm.weight", .rows = hd, .init = SL_INIT_ONES, .decay = SL_DECAY_NORM};
    int q = sl_program_param(b, prefix, &weight);
    weight.name = "k_norm.weight";
    int k = sl_program_param(b, prefix, &weight);
    sl_op *op = sl_program_op(b, &qk_norm, scope);
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    op->heads = c->model_heads;
    op->kv_heads = sl_config_kv_heads(c);
    op->head_dim = hd;
    op->eps = (float)c->norm_eps;
    op->param[0] = q;
    op->param[1] = k;
    op->saved[0] = sl_program_buffer(b, op->rows, (op->heads + op->kv_heads) * hd);
    op->saved[1] = sl_program_buffer(b, op->rows, op->heads + op->kv_heads);
    op->worker_bytes = (size_t)((op->heads + op->kv_heads) * hd) * sizeof(float);
    op->shared_bytes = (size_t)(sl_op_blocks(op).count * 2 * hd) * sizeof(float);
}
