#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rows.h"

static void rotate(const sl_op *op, const sl_exec *x, sl_buf buf, int64_t block, float sign) {
    const sl_buffer *v = &x->info[buf];
    sl_blocks rows = sl_op_blocks(op);
    int64_t hd = op->head_dim, heads = op->heads + op->kv_heads;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        int64_t at = (x->position + r % op->seq) * (hd / 2);
        if (v->bf16)
            x->k->rope_bf16(heads, hd, op->cos + at, op->sin + at, sign, sl_bf16_row(x, buf, r));
        else
            x->k->rope(heads, hd, op->cos + at, op->sin + at, sign, sl_buf_data(x, buf) + r * v->ld);
    }
}

static void forward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_task *t = task;
    rotate(t->op, t->x, t->op->out, block, 1);
}

static void backward_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_task *t = task;
    rotate(t->op, t->x, t->op->dout, block, -1);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind rope = {.name = "rope", .forward = forward_stages, .backward = backward_stages};

void sl_build_rope(sl_program *b, sl_scope scope, sl_buf qkv, const float *cos, const float *sin) {
    sl_op *op = sl_program_op(b, &rope, scope);
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    op->heads = b->config->model_heads;
    op->kv_heads = sl_config_kv_heads(b->config);
    op->head_dim = sl_config_head_dim(b->config);
    op->cos = cos;
    op->sin = sin;
}
