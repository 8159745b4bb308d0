#include "ops/norm/rows.h"
#include "program/whole.h"

#include "ops/norm/nullify.h"
#include "ops/rows.h"

#include <string.h>

enum { GAIN = SL_OP_SAVED - 1 }; /* place in op->saved */
/* Rows that are converted at a time, so that they stay in the cache, and the buffers for them in private scratch. */
enum { ROW_TILE = 8, DOUT_TILE = 0, IN_TILE, OUT_TILE, PRE_TILE, DPRE_TILE, REPLACED_TILE, EDITED_TILE, TILES };

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
    return (float *)sl_worker_scratch(x, thread) + i * ROW_TILE * op->dim_in;
}

/* Rows of the input as the norm sees them: in scope, converted, or times the factors of preaffine. */
static const float *normed_rows(const sl_op *op, const sl_exec *x, const float *raw, int64_t n, float *scratch) {
    int64_t d = op->dim_in;
    if (!has(op, SL_NORM_PRE))
        return raw;
    x->k->channel_scale_fwd(n, d, raw, d, sl_weight(op, x, SL_NORM_PRE), scratch, d);
    return scratch;
}

/* ---- sink channels that are replaced (nullify.h) in what is normalised, a, but not in b, of which the statistics are, or
 * the other way round: the norm does row b, and the outputs of these channels are those of a. */

/* What channel k of the list is in row a, before the factors of preaffine. */
static float entry_of_a(const sl_nullify *s, const float *raw, int64_t k) {
    return s->statistics ? raw[s->channel[k]] : s->value[k];
}

static float pre_factor(const sl_op *op, const sl_exec *x, int64_t channel) {
    return has(op, SL_NORM_PRE) ? sl_weight(op, x, SL_NORM_PRE)[channel] : 1;
}

typedef struct {
    float mean, r;
} row_statistics;

static row_statistics statistics_of(const sl_op *op, const sl_exec *x, int64_t row) {
    int n = op->norm->statistics;
    return (row_statistics){n == 2 ? sl_buf_data(x, op->saved[0])[row] : 0, sl_buf_data(x, op->saved[n - 1])[row]};
}

static void set_output(const sl_exec *x, sl_buf b, int64_t row, int64_t channel, float y) {
    if (x->info[b].bf16)
        x->k->to_bf16(1, &y, sl_bf16_row(x, b, row) + channel);
    else
        sl_buf_data(x, b)[row * x->info[b].ld + channel] = y;
}

static void correct_outputs(const sl_op *op, const sl_exec *x, int64_t row, const float *raw) {
    const sl_nullify *s = op->nullify;
    row_statistics b = statistics_of(op, x, row);
    for (int64_t k = 0; k < s->count; k++) {
        int64_t j = s->channel[k];
        float z = pre_factor(op, x, j) * entry_of_a(s, raw, k);
        set_output(x, op->out, row, j, sl_norm_gain(op, x)[j] * (z - b.mean) * b.r);
    }
}

/* Through the corrected outputs of one row, dy the gradients of all outputs: adds to dz, the gradient of row b (z, after
 * preaffine), to that of the gains and to that of the factors of preaffine. With e_j = z'_j - m of row a, G_j = gain_j dy_j
 * and h = z - m: dz += -r^3/d h sum_j G_j e_j - [LayerNorm] r/d sum_j G_j. */
static void correct_backward(const sl_op *op, const sl_exec *x, int64_t row, const float *raw, const float *dy,
                             const float *z, float *dz, float *const *g) {
    const sl_nullify *s = op->nullify;
    int64_t d = op->dim_in;
    row_statistics b = statistics_of(op, x, row);
    float scale_sum = 0, mean_sum = 0;
    for (int64_t k = 0; k < s->count; k++) {
        int64_t j = s->channel[k];
        float a = entry_of_a(s, raw, k), e = pre_factor(op, x, j) * a - b.mean, dg = sl_norm_gain(op, x)[j] * dy[j];
        g[SL_NORM_WEIGHT][j] += dy[j] * e * b.r;
        if (has(op, SL_NORM_PRE))
            g[SL_NORM_PRE][j] += dg * b.r * a;
        scale_sum += dg * e;
        mean_sum += dg;
    }
    float slope = -b.r * b.r * b.r * scale_sum / (float)d;
    float shift = op->norm->statistics == 2 ? -b.r * mean_sum / (float)d : 0;
    for (int64_t i = 0; i < d; i++)
        dz[i] += slope * (z[i] - b.mean) + shift;
}

/* The gradient of a row's channels in the list, given that of row b in dx: only what was not replaced has one. */
static void pass_gradients(const sl_op *op, const sl_exec *x, int64_t row, const float *dy, float *dx) {
    const sl_nullify *s = op->nullify;
    for (int64_t k = 0; s->statistics && k < s->count; k++) {
        int64_t j = s->channel[k];
        dx[j] = s->outputs ? pre_factor(op, x, j) * sl_norm_gain(op, x)[j] * dy[j] * statistics_of(op, x, row).r : 0;
    }
}

/* n rows of gradients with 0 for the channels in the list, in scratch. */
static const float *without_channels(const sl_nullify *s, int64_t n, int64_t d, const float *dy, float *scratch) {
    memcpy(scratch, dy, (size_t)(n * d) * sizeof *scratch);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < s->count; k++)
            scratch[i * d + s->channel[k]] = 0;
    return scratch;
}

/* Rows b, of which the norm is taken. */
static const float *rows_b(const sl_op *op, const float *raw, int64_t n, float *scratch) {
    return op->nullify && op->nullify->statistics ? sl_nullify_rows(op, n, raw, scratch) : raw;
}

/* ---- forward */

static void forward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread) {
    const sl_buffer *out = &x->info[op->out];
    const float *raw = sl_read_rows(x, op->in[0], r, n, tile(op, x, thread, IN_TILE));
    const float *b = rows_b(op, raw, n, tile(op, x, thread, REPLACED_TILE));
    const float *in = normed_rows(op, x, b, n, tile(op, x, thread, PRE_TILE));
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
    for (int64_t i = 0; op->nullify && op->nullify->outputs && i < n; i++)
        correct_outputs(op, x, r + i, raw + i * op->dim_in);
}

/* Sums of the channels over a block of rows, for their means. */
static void sum_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block), end = first + sl_block_rows(rows, block), d = op->dim_in;
    float *partial = x->shared + block * d;
    memset(partial, 0, (size_t)d * sizeof *partial);
    for (int64_t r = first; r < end; r++)
        x->k->add(d, sl_read_rows(x, op->in[0], r, 1, tile(op, x, thread, IN_TILE)), partial);
}

static void collect_means(const sl_op *op, const sl_exec *x) {
    sl_parallel_rows(op, x, sum_block);
    sl_fold_partials(x, sl_op_blocks(op).count, op->dim_in, op->dim_in, x->shared, op->nullify->sum);
    op->nullify->rows += op->rows;
}

static void forward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block), end = first + sl_block_rows(rows, block);
    for (int64_t r = first; r < end; r += ROW_TILE)
        forward_rows(op, ((sl_task *)task)->x, r, end - r < ROW_TILE ? end - r : ROW_TILE, thread);
}

static void forward(const sl_op *op, const sl_exec *x) {
    float *gain = sl_buf_data(x, op->saved[GAIN]);
    for (int64_t j = 0; gain && j < op->dim_in; j++)
        gain[j] = 1 + sl_weight(op, x, SL_NORM_WEIGHT)[j];
    if (op->nullify)
        sl_nullify_choose(op, x);
    sl_parallel_rows(op, x, forward_block);
    if (op->nullify && (x->training || x->measuring))
        collect_means(op, x);
}

/* ---- backward */

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
    bool direct = !x->info[op->din[0]].bf16; /* of the residual stream */
    float *din = direct ? sl_buf_data(x, op->din[0]) + r * d : tile(op, x, thread, OUT_TILE);
    if (!direct && op->acc[0])
        sl_read_rows(x, op->din[0], r, n, din);
    if (!has(op, SL_NORM_PRE)) {
        norm_backward(op, x, r, n, thread, raw, din, op->acc[0], g);
    } else {
        const float *z = normed_rows(op, x, raw, n, tile(op, x, thread, PRE_TILE));
        float *dz = tile(op, x, thread, DPRE_TILE);
        norm_backward(op, x, r, n, thread, z, dz, 0, g);
        x->k->channel_scale_bwd(n, d, dz, d, raw, d, sl_weight(op, x, SL_NORM_PRE), din, d, op->acc[0], g[SL_NORM_PRE]);
    }
    if (!direct)
        sl_store_bf16(x, op->din[0], r, n, 0, d, din, d);
}

/* The same with sink channels replaced. */
static void backward_nullified(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int thread, float *const *g) {
    const sl_nullify *s = op->nullify;
    int64_t d = op->dim_in;
    const float *raw = sl_read_rows(x, op->in[0], r, n, tile(op, x, thread, IN_TILE));
    const float *dy = sl_read_rows(x, op->dout, r, n, tile(op, x, thread, DOUT_TILE)), *dout = dy;
    const float *b = rows_b(op, raw, n, tile(op, x, thread, REPLACED_TILE));
    const float *z = normed_rows(op, x, b, n, tile(op, x, thread, PRE_TILE));
    float *dz = tile(op, x, thread, DPRE_TILE), *dx = dz;
    if (s->outputs)
        dout = without_channels(s, n, d, dy, tile(op, x, thread, EDITED_TILE));
    op->norm->backward(op, x, r, n, dout, z, dz, 0, g);
    for (int64_t i = 0; s->outputs && i < n; i++)
        correct_backward(op, x, r + i, raw + i * d, dy + i * d, z + i * d, dz + i * d, g);
    if (has(op, SL_NORM_PRE))
        x->k->channel_scale_bwd(n, d, dz, d, b, d, sl_weight(op, x, SL_NORM_PRE), dx = tile(op, x, thread, OUT_TILE), d,
                                0, g[SL_NORM_PRE]);
    for (int64_t i = 0; i < n; i++)
        pass_gradients(op, x, r + i, dy + i * d, dx + i * d);
    if (op->acc[0])
        x->k->add(n * d, dx, sl_buf_data(x, op->din[0]) + r * d);
    else
        memcpy(sl_buf_data(x, op->din[0]) + r * d, dx, (size_t)(n * d) * sizeof *dx);
}

static void backward_block(void *task, int64_t block, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block), end = first + sl_block_rows(rows, block), floats = gradient_floats(op);
    float *partial = x->shared + block * floats, *g[SL_NORM_PARAMS], *at = partial;
    memset(partial, 0, (size_t)floats * sizeof *partial);
    for (int p = 0; p < SL_NORM_PARAMS; p++) {
        g[p] = has(op, p) ? at : NULL;
        at += param_size(op, p);
    }
    for (int64_t r = first; r < end; r += ROW_TILE)
        (op->nullify ? backward_nullified : backward_rows)(op, x, r, end - r < ROW_TILE ? end - r : ROW_TILE, thread, g);
}

static void backward(const sl_op *op, const sl_exec *x) {
    int64_t count = sl_op_blocks(op).count, floats = gradient_floats(op);
    const float *partial = x->shared;
    sl_parallel_rows(op, x, backward_block);
    for (int p = 0; p < SL_NORM_PARAMS; p++) {
        if (has(op, p))
            sl_fold_partials(x, count, param_size(op, p), floats, partial, sl_weight_grad(op, x, p));
        partial += param_size(op, p);
    }
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static void end_step(const sl_op *op, const sl_exec *x, bool applied) {
    if (op->nullify)
        sl_nullify_end_step(op, x, applied);
}

static const sl_op_kind row_norm = {
    .name = "norm", .adds = true, .forward = forward_stages, .backward = backward_stages, .end_step = end_step};

sl_norm_tap sl_build_row_norm(sl_program *b, const sl_row_norm *norm, sl_scope scope, sl_buf in, const char *prefix,
                              const int *param) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim;
    int weight = sl_program_param(b, prefix,
                                  &(sl_param_spec){.name = "weight", .rows = d,
                                                   .init = c->norm_zero_centred ? SL_INIT_ZEROS : SL_INIT_ONES,
                                                   .decay = SL_DECAY_NORM});
    int pre = SL_NONE;
    if (c->norm_preaffine)
        pre = sl_program_param(b, prefix,
                               &(sl_param_spec){.name = "pre_affine", .rows = d, .init = SL_INIT_ONES,
                                                .decay = SL_DECAY_NORM});
    sl_op *op = sl_program_op(b, &row_norm, scope);
    op->norm = norm;
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
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
    op->worker_bytes = (size_t)(TILES * ROW_TILE * d) * sizeof(float);
    op->shared_bytes = (size_t)(sl_op_blocks(op).count * gradient_floats(op)) * sizeof(float);
    if (b->nullify)
        op->own = op->nullify = sl_nullify_new(b, op, prefix, norm->statistics > 0);
    return (sl_norm_tap){op->out, weight, SL_NONE};
}
