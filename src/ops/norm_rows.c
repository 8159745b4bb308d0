#include "ops/norm_rows.h"

#include "ops/rowwise.h"

#include <string.h>

enum { GAIN = SL_OP_SAVED - 1, TILES = 3 }; /* place in op->saved; tiles of private scratch */

const float *sl_norm_gain(const sl_op *op, const sl_exec *x) {
    return op->saved[GAIN] == SL_NONE ? sl_weight(op, x, SL_NORM_WEIGHT) : sl_buf_data(x, op->saved[GAIN]);
}

static bool has(const sl_op *op, int p) { return op->param[p] != SL_NONE; }

static int64_t param_size(const sl_op *op, int p) {
    return !has(op, p) ? 0 : p == SL_NORM_ALPHA || p == SL_NORM_SHIFT ? 1 : op->dim_in;
}

/* Gradients of one block of rows: the parameters' one after the other. */
static int64_t gradient_floats(const sl_op *op) {
    int64_t n = 0;
    for (int p = 0; p < SL_NORM_PARAMS; p++)
        n += param_size(op, p);
    return n;
}

static float *tile(const sl_op *op, const sl_exec *x, int thread, int i) {
    return (float *)sl_thread_scratch(x, thread) + i * SL_ROW_TILE * op->dim_in;
}

/* Rows of the input as the norm sees them: in place, converted, or times the factors of preaffine. */
static const float *normed_rows(const sl_op *op, const sl_exec *x, const float *raw, int64_t n, float *scratch) {
    int64_t d = op->dim_in;
    if (!has(op, SL_NORM_PRE))
        return raw;
    x->k->channel_scale_fwd(n, d, raw, d, sl_weight(op, x, SL_NORM_PRE), scratch, d);
    return scratch;
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t first = block * rows.size, end = first + sl_block_rows(rows, block);
    for (int64_t r = first; r < end; r += SL_ROW_TILE) {
        int64_t n = end - r < SL_ROW_TILE ? end - r : SL_ROW_TILE;
        const float *raw = sl_read_rows(x, op->in[0], r, n, tile(op, x, thread, 0));
        const float *in = normed_rows(op, x, raw, n, tile(op, x, thread, 1));
        float *out = sl_write_rows(x, op->out, r, tile(op, x, thread, 2));
        op->norm->forward(op, x, r, n, in, out);
        sl_end_write(x, op->out, r, n, out);
    }
}

static void forward(const sl_op *op, const sl_exec *x) {
    float *gain = sl_buf_data(x, op->saved[GAIN]);
    for (int64_t j = 0; gain && j < op->dim_in; j++)
        gain[j] = 1 + sl_weight(op, x, SL_NORM_WEIGHT)[j];
    sl_parallel_rows(op, x, forward_block);
}

/* Gradients of the rows r.. from dout; g: where the block sums those of the parameters. */
static void backward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread, float *const *g) {
    int64_t d = op->dim_in;
    const float *dout = sl_read_rows(x, op->dout, r, n, tile(op, x, thread, 0));
    /* The input is the residual stream, fp32 as its gradient is: both are used in place. */
    const float *raw = sl_buf_data(x, op->in[0]) + r * d;
    float *din = sl_buf_data(x, op->din) + r * d, *dz = tile(op, x, thread, 2);
    if (!has(op, SL_NORM_PRE)) {
        op->norm->backward(op, x, r, n, dout, raw, din, op->acc, g);
        return;
    }
    const float *z = normed_rows(op, x, raw, n, tile(op, x, thread, 1));
    op->norm->backward(op, x, r, n, dout, z, dz, 0, g);
    x->k->channel_scale_bwd(n, d, dz, d, raw, d, sl_weight(op, x, SL_NORM_PRE), din, d, op->acc, g[SL_NORM_PRE]);
}

static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t first = block * rows.size, end = first + sl_block_rows(rows, block), floats = gradient_floats(op);
    float *partial = x->shared + block * floats, *g[SL_NORM_PARAMS], *at = partial;
    memset(partial, 0, (size_t)floats * sizeof *partial);
    for (int p = 0; p < SL_NORM_PARAMS; p++) {
        g[p] = has(op, p) ? at : NULL;
        at += param_size(op, p);
    }
    for (int64_t r = first; r < end; r += SL_ROW_TILE)
        backward_rows(op, x, r, end - r < SL_ROW_TILE ? end - r : SL_ROW_TILE, thread, g);
}

static void backward(const sl_op *op, const sl_exec *x) {
    int64_t count = sl_row_blocks(op->rows).count, floats = gradient_floats(op);
    const float *partial = x->shared;
    sl_parallel_rows(op, x, backward_block);
    for (int p = 0; p < SL_NORM_PARAMS; p++) {
        if (has(op, p))
            sl_fold_partials(x, count, param_size(op, p), floats, partial, sl_weight_grad(op, x, p));
        partial += param_size(op, p);
    }
}

static const sl_op_kind row_norm = {"norm", forward, backward, true, false};

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, const char *label, sl_buf in, const char *prefix,
                              const int *param) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim;
    int weight = sl_program_param(b, prefix, "weight", d, 0, c->norm_zero_centred ? SL_INIT_ZEROS : SL_INIT_ONES, 0,
                                  SL_DECAY_NORM, false);
    int pre = SL_NONE;
    if (c->norm_preaffine)
        pre = sl_program_param(b, prefix, "pre_affine", d, 0, SL_INIT_ONES, 0, SL_DECAY_NORM, false);
    sl_op *op = sl_program_op(b, &row_norm, label);
    op->norm = norm;
    op->in[0] = in;
    op->dim_in = op->dim_out = d;
    op->eps = (float)c->norm_eps;
    for (int p = 0; param && p < SL_NORM_PARAMS; p++)
        op->param[p] = param[p];
    op->param[SL_NORM_WEIGHT] = weight;
    op->param[SL_NORM_PRE] = pre;
    for (int i = 0; i < norm->statistics; i++)
        op->saved[i] = sl_program_buffer(b, op->rows, 1);
    if (c->norm_zero_centred)
        op->saved[GAIN] = sl_program_buffer(b, 1, d);
    op->out = sl_program_activation(b, op->rows, d);
    op->thread_bytes = (size_t)(TILES * SL_ROW_TILE * d) * sizeof(float);
    op->shared_bytes = (size_t)(sl_row_blocks(op->rows).count * gradient_floats(op)) * sizeof(float);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
