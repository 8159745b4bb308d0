#include "ops/ops.h"
#include "ops/rowwise.h"

static void rotate(const sl_op *op, const sl_exec *x, sl_buf buf, int64_t block, int thread, float sign) {
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t hd = op->head_dim;
    float *scratch = sl_thread_scratch(x, thread);
    for (int64_t r = block * rows.size, end = r + sl_block_rows(rows, block); r < end; r++) {
        int64_t at = (x->position + r % op->seq) * (hd / 2);
        sl_qk row = sl_edit_qk(x, buf, r, op->heads + op->kv_heads, hd, scratch);
        x->k->rope(op->heads + op->kv_heads, hd, op->cos + at, op->sin + at, sign, row.p);
        sl_end_qk(x, buf, r, row);
    }
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_task *t = task;
    rotate(t->op, t->x, t->op->out, block, thread, 1);
}

static void backward_block(void *task, int64_t block, int thread) {
    const sl_task *t = task;
    rotate(t->op, t->x, t->op->dout, block, thread, -1);
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

static const sl_op_kind rope = {"rope", forward, backward, false, false};

void sl_build_rope(sl_program *b, const char *label, sl_buf qkv, const float *cos, const float *sin) {
    sl_op *op = sl_program_op(b, &rope, label);
    op->in[0] = op->out = qkv;
    op->heads = b->config->model_heads;
    op->kv_heads = sl_config_kv_heads(b->config);
    op->head_dim = sl_config_head_dim(b->config);
    op->thread_bytes = (size_t)((op->heads + op->kv_heads) * op->head_dim) * sizeof(float);
    op->cos = cos;
    op->sin = sin;
}
