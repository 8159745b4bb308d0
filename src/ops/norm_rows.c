#include "ops/norm_rows.h"

#include "ops/rowwise.h"

#include <string.h>

enum { GAIN = SL_OP_SAVED - 1 }; /* place in op->saved */
/* Rows that are converted at a time, so that they stay in the cache, and the buffers for them in private scratch. */
enum { ROW_TILE = 8, DOUT_TILE = 0, IN_TILE, OUT_TILE, PRE_TILE, DPRE_TILE, TILES };

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
    return (float *)sl_thread_scratch(x, thread) + i * ROW_TILE * op->dim_in;
}

/* Rows of the input as the norm sees them: in place, converted, or times the factors of preaffine. */
static const float *normed_rows(const sl_op *op, const sl_exec *x, const float *raw, int64_t n, float *scratch) {
    int64_t d = op->dim_in;
    if (!has(op, SL_NORM_PRE))
        return raw;
    x->k->channel_scale_fwd(n, d, raw, d, sl_weight(op, x, SL_NORM_PRE), scratch, d);
    return scratch;
}

static void forward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread) {
    const sl_buffer *out = &x->info[op->out];
    const float *raw = sl_read_rows(x, op->in[0], r, n, tile(op, x, thread, IN_TILE));
    const float *in = normed_rows(op, x, raw, n, tile(op, x, thread, PRE_TILE));
    if (!out->bf16) {
        op->norm->forward(op, x, r, n, in, sl_buf_data(x, op->out) + r * out->ld);
    } else if (op->norm->forward_bf16) {
        op->norm->forward_bf16(op, x, r, n, in, sl_bf16_row(x, op->out, r), out->ld);
        sl_pad_rows(x, op->out, r, n);
    } else {
        float *rows = tile(op, x, thread, OUT_TILE);
        op->norm->forward(op, x, r, n, in, rows);
        sl_store_bf16(x, op->out, r, n, 0, op->dim_in, rows, op->dim_in);
    }
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    sl_blocks rows = sl_row_blocks(op->rows);
    int64_t first = block * rows.size, end = first + sl_block_rows(rows, block);
    for (int64_t r = first; r < end; r += ROW_TILE)
        forward_rows(op, ((sl_task *)task)->x, r, end - r < ROW_TILE ? end - r : ROW_TILE, thread);
}

static void forward(const sl_op *op, const sl_exec *x) {
    float *gain = sl_buf_data(x, op->saved[GAIN]);
    for (int64_t j = 0; gain && j < op->dim_in; j++)
        gain[j] = 1 + sl_weight(op, x, SL_NORM_WEIGHT)[j];
    sl_parallel_rows(op, x, forward_block);
}

static void norm_backward(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread, const float *in,
                          float *din, int add, float *const *g) {
    const sl_buffer *dout = &x->info[op->dout];
    if (dout->bf16 && op->norm->backward_bf16)
        op->norm->backward_bf16(op, x, r, n, sl_bf16_row(x, op->dout, r), dout->ld, in, din, add, g);
    else
        op->norm->backward(op, x, r, n, sl_read_rows(x, op->dout, r, n, tile(op, x, thread, DOUT_TILE)), in, din, add,
                           g);
}

/* Gradients of the rows r.. from dout; g: where the block sums those of the parameters. */
static void backward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread, float *const *g) {
    int64_t d = op->dim_in;
    const float *raw = sl_read_rows(x, op->in[0], r, n, tile(op, x, thread, IN_TILE));
    bool direct = !x->info[op->din].bf16; /* of the residual stream */
    float *din = direct ? sl_buf_data(x, op->din) + r * d : tile(op, x, thread, OUT_TILE);
    if (!direct && op->acc)
        sl_read_rows(x, op->din, r, n, din);
    if (!has(op, SL_NORM_PRE)) {
        norm_backward(op, x, r, n, thread, raw, din, op->acc, g);
    } else {
        const float *z = normed_rows(op, x, raw, n, tile(op, x, thread, PRE_TILE));
        float *dz = tile(op, x, thread, DPRE_TILE);
        norm_backward(op, x, r, n, thread, z, dz, 0, g);
        x->k->channel_scale_bwd(n, d, dz, d, raw, d, sl_weight(op, x, SL_NORM_PRE), din, d, op->acc, g[SL_NORM_PRE]);
    }
    if (!direct)
        sl_store_bf16(x, op->din, r, n, 0, d, din, d);
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
    for (int64_t r = first; r < end; r += ROW_TILE)
        backward_rows(op, x, r, end - r < ROW_TILE ? end - r : ROW_TILE, thread, g);
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
    op->thread_bytes = (size_t)(TILES * ROW_TILE * d) * sizeof(float);
    op->shared_bytes = (size_t)(sl_row_blocks(op->rows).count * gradient_floats(op)) * sizeof(float);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
