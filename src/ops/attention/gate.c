/* Gates of attention (arXiv 2505.06708): y times floor + (1 - floor) sigmoid(b), b = x W of the block's normed input x, for
 * each element or one for a head; on the heads' outputs before o_proj, or in place on the values. */
#include "ops/ops.h"
#include "program/whole.h"
#include "ops/rows.h"

#include <string.h>

/* dim_in: columns that are gated, from column dim_out of in[0] on; head_dim: how many of them share a gate value; in[1]:
 * b; factor: 1 - floor; saved[0]: the ungated columns, where the gate is in place. */

/* Private scratch of a thread: one row each. */
typedef struct {
    float *whole, *b, *dout, *y, *db, *out;
} scratch;

static int64_t whole_columns(const sl_op *op) { return sl_round_up(op->dim_in + op->dim_out, 16); }

static scratch carve(const sl_op *op, float *base) {
    int64_t n = sl_round_up(op->dim_in, 16), w = whole_columns(op);
    return (scratch){base, base + w, base + w + n, base + 2 * w + n, base + 2 * w + 2 * n, base + 2 * w + 3 * n};
}

static size_t scratch_bytes(const sl_op *op) {
    return (size_t)(2 * whole_columns(op) + 4 * sl_round_up(op->dim_in, 16)) * sizeof(float);
}

/* One value for each gated column. */
static const float *gate_inputs(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s) {
    const float *b = sl_read_rows(x, op->in[1], row, 1, op->head_dim > 1 ? s->db : s->b);
    if (op->head_dim == 1)
        return b;
    for (int64_t j = 0; j < op->dim_in; j++)
        s->b[j] = b[j / op->head_dim];
    return s->b;
}

static void add_floor(const sl_op *op, const float *from, float *to) {
    for (int64_t j = 0; op->factor != 1 && j < op->dim_in; j++)
        to[j] += (1 - op->factor) * from[j];
}

/* Columns col.. of a row of either precision. */
static void put(const sl_exec *x, sl_buf to, int64_t row, int64_t col, int64_t n, const float *y) {
    if (x->info[to].bf16)
        sl_store_bf16(x, to, row, 1, col, n, y, n);
    else
        memcpy(sl_buf_data(x, to) + row * x->info[to].ld + col, y, (size_t)n * sizeof *y);
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    scratch s = carve(op, sl_worker_scratch(x, thread));
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *y = sl_read_rows(x, op->in[0], r, 1, s.whole) + op->dim_out, *b = gate_inputs(op, x, r, &s);
        if (op->saved[0] != SL_NONE)
            put(x, op->saved[0], r, 0, op->dim_in, y);
        x->k->gate_fwd(op->dim_in, op->factor, b, y, s.out);
        add_floor(op, y, s.out);
        put(x, op->out, r, op->dim_out, op->dim_in, s.out);
    }
}

/* Sums the gradients of columns that share a gate value. */
static void fold(const sl_op *op, float *db) {
    for (int64_t j = 0; op->head_dim > 1 && j < op->dim_in / op->head_dim; j++) {
        float sum = 0;
        for (int64_t i = 0; i < op->head_dim; i++)
            sum += db[j * op->head_dim + i];
        db[j] = sum;
    }
}

static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    scratch s = carve(op, sl_worker_scratch(x, thread));
    bool in_place = op->saved[0] != SL_NONE;
    for (int64_t r = sl_block_first(rows, block), end = r + sl_block_rows(rows, block); r < end; r++) {
        const float *b = gate_inputs(op, x, r, &s);
        const float *y = in_place ? sl_read_rows(x, op->saved[0], r, 1, s.y) : sl_read_rows(x, op->in[0], r, 1, s.y);
        const float *dout = sl_read_rows(x, op->dout, r, 1, s.whole) + op->dim_out;
        x->k->gate_bwd(op->dim_in, op->factor, b, y, dout, s.out, s.db);
        add_floor(op, dout, s.out);
        fold(op, s.db);
        put(x, op->din[0], r, op->dim_out, op->dim_in, s.out);
        put(x, op->din[1], r, 0, op->dim_in / op->head_dim, s.db);
    }
}

static void forward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, forward_block); }
static void backward(const sl_op *op, const sl_exec *x) { sl_parallel_rows(op, x, backward_block); }

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind attention_gate = {.name = "attention_gate", .forward = forward_stages, .backward = backward_stages};

/* b = x W and the gate of n columns of y from col on, `group` of them to a gate value. */
static sl_buf build(sl_program *b, const char *prefix, const char *name, int64_t layer, sl_buf x, sl_buf y, int64_t col,
                    int64_t n, int64_t group) {
    sl_scope scope = {(int)layer, SL_HALF_ATTN, SL_PART_gate_in, SL_ROLE_SELF};
    const sl_config *c = b->config;
    int w = sl_program_param(b, prefix,
                             &(sl_param_spec){.name = name, .rows = n / group, .cols = c->model_dim,
                                              .init = SL_INIT_NORMAL, .start = c->model_init_std,
                                              .decay = SL_DECAY_MATRIX});
    sl_buf gate = sl_build_linear(b, scope, x, c->model_dim, n / group, w, SL_NONE);
    scope.part = SL_PART_gate;
    sl_op *op = sl_program_op(b, &attention_gate, scope);
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, gate, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = n;
    op->dim_out = col;
    op->head_dim = group;
    op->factor = (float)(1 - c->attention_gate_floor);
    bool in_place = col > 0;
    if (in_place)
        op->saved[0] = sl_program_activation(b, op->rows, n);
    op->worker_bytes = scratch_bytes(op);
    return op->out = in_place ? y : sl_program_activation(b, op->rows, n);
}

void sl_build_value_gate(sl_program *b, const char *prefix, int64_t layer, sl_buf x, sl_buf qkv) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), kv = sl_config_kv_heads(c) * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_VALUE)
        build(b, prefix, "v_gate_proj.weight", layer, x, qkv, c->model_heads * hd + kv, kv, 1);
}

sl_buf sl_build_output_gate(sl_program *b, const char *prefix, int64_t layer, sl_buf x, sl_buf o) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), n = c->model_heads * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE)
        return build(b, prefix, "gate_proj.weight", layer, x, o, 0, n, 1);
    if (c->attention_gate == SL_ATTENTION_GATE_HEADWISE)
        return build(b, prefix, "gate_proj.weight", layer, x, o, 0, n, hd);
    return o;
}
