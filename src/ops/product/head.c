/* Logits, cross-entropy and, in training, their gradients, for one chunk of rows after the other: all in forward. */
#include "ops/ops.h"
#include "ops/product/layer.h"
#include "ops/rows.h"

#include <string.h>

enum { LOGITS = 4 << 20, DEVICE_LOGITS = 64 << 20, CHUNK_MIN = 256, XENT_ROWS = 16 };

/* saved[SL_LAYER_Y]: logits of a chunk of rows, which dlogits overwrite; bf16: saved[SL_LAYER_DY]: dlogits rounded to
 * operands. */
static int64_t rows_with(const sl_op *op, int64_t logits) {
    return sl_min(sl_max(logits / op->dim_out, CHUNK_MIN), op->rows);
}
static int64_t chunk_rows(const sl_op *op) { return rows_with(op, LOGITS); }
/* Large products are what a device is good at. */
static int64_t device_chunk_rows(const sl_op *op) {
    return rows_with(op, sl_max(DEVICE_LOGITS / op->dim_out / CHUNK_MIN, 1) * CHUNK_MIN * op->dim_out);
}

/* The state: gradients are those of the mean over rows with a target. */
static float *gradient_scale(const sl_op *op, const sl_exec *x) { return sl_op_state(op, x); }

static int count_targets(const sl_op *op, const sl_exec *x, const sl_span *s) {
    if (s->row0 > 0 || !x->targets)
        return 0;
    int64_t count = 0;
    for (int64_t r = 0; r < op->rows; r++)
        count += x->targets[r] >= 0;
    *gradient_scale(op, x) = count ? x->grad_scale / (float)count : 0;
    return 0;
}

static sl_split by_rows(const sl_op *op, const sl_exec *x) {
    (void)op, (void)x;
    return (sl_split){.unit = XENT_ROWS, .least = XENT_ROWS, .most = XENT_ROWS, .parts = 1, .parts_most = 1};
}

/* Losses of rows and, in training, dlogits over their logits. */
static void lose(const sl_op *op, const sl_exec *x, int64_t first, int64_t n, float *logits) {
    int64_t v = op->dim_out;
    x->k->xent(n, v, logits, v, x->targets + first, *gradient_scale(op, x), x->training, x->token_loss + first);
}

/* The same of capped logits: their slopes are taken from a copy, row by row. */
static void lose_capped(const sl_op *op, const sl_exec *x, const sl_span *s, float *logits) {
    const float none = 0;
    int64_t v = op->dim_out;
    float *capped = sl_worker_scratch(x, s->worker);
    for (int64_t r = 0; r < s->n; r++, logits += v) {
        memcpy(capped, logits, (size_t)v * sizeof *capped);
        lose(op, x, s->first + r, 1, logits);
        if (x->training)
            x->k->softcap_bwd(v, sl_layer_of(op)->softcap, capped, &none, 0, logits);
    }
}

/* Hands out logits that are asked for, then turns them into losses and dlogits. */
static int xent(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t v = op->dim_out, at = (s->first - s->row0) * v;
    float *logits = sl_buf_data(x, op->saved[SL_LAYER_Y]) + at, cap = sl_layer_of(op)->softcap;
    if (cap > 0)
        x->k->softcap_fwd(s->n * v, 1 / cap, cap, logits);
    if (x->logits)
        memcpy(x->logits + s->first * v, logits, (size_t)(s->n * v) * sizeof *logits);
    if (!x->targets)
        return 0;
    if (cap > 0)
        lose_capped(op, x, s, logits);
    else
        lose(op, x, s->first, s->n, logits);
    if (x->training && op->saved[SL_LAYER_DY] != SL_NONE)
        sl_store_bf16(x, op->saved[SL_LAYER_DY], s->first - s->row0, s->n, 0, v, logits, v);
    return 0;
}

#define LOSS {.cut = SL_CUT_ROWS, .run = xent, .split = by_rows}
#define COUNT {.cut = SL_CUT_BATCH, .run = count_targets}
enum form { FP32, FEW, BF16, DEVICE, FORMS };
/* The forms of the head; the rest: what the gradient of a bias needs. Stages of DEVICE are those of cuda/product_ops.c.
 */
#define KINDS(name_, ...)                                                                                              \
    {[FP32] = {.name = name_, .chunk = chunk_rows,                                                                     \
               .forward = SL_STAGES(SL_LAYER(PARAMS, pack), SL_LAYER(PARAMS, pack_back), COUNT,                        \
                                    SL_LAYER(ROWS, forward), LOSS, __VA_ARGS__ SL_LAYER(BATCH, pack_rows),             \
                                    SL_LAYER(BATCH, weight_gradient), SL_LAYER(ROWS, input_gradient))},                \
     [FEW] = {.name = name_, .chunk = chunk_rows, .forward = SL_STAGES(COUNT, SL_LAYER(ROWS, few_forward), LOSS)},     \
     [BF16] = {.name = name_, .chunk = chunk_rows,                                                                     \
               .forward = SL_STAGES(SL_LAYER(PARAMS, bf16_pack), SL_LAYER(PARAMS, bf16_pack_back), COUNT,              \
                                    SL_LAYER(ROWS, bf16_forward), LOSS, __VA_ARGS__                                    \
                                    SL_LAYER(BATCH, bf16_weight_gradient), SL_LAYER(BATCH, bf16_fold),                 \
                                    SL_LAYER(ROWS, bf16_input_gradient))},                                             \
     [DEVICE] = {.name = name_, .chunk = device_chunk_rows}}
static const sl_op_kind kinds[2][FORMS] = {KINDS("head", ), KINDS("head_bias", SL_LAYER(BATCH, bias_gradient), )};

static const sl_op_kind *kind_of(const sl_program *b, bool bias) {
    if (b->device)
        return &kinds[bias][DEVICE];
    return &kinds[bias][sl_layer_is_few(b, b->batch * b->seq) ? FEW : b->bf16 ? BF16 : FP32];
}

void sl_build_head(sl_program *b, sl_buf in, int weight, int bias, int64_t vocab) {
    sl_op *op = sl_program_op(b, kind_of(b, bias != SL_NONE), (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_head});
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = b->config->model_dim;
    op->dim_out = vocab;
    op->param[SL_LAYER_WEIGHT] = weight;
    op->param[SL_LAYER_BIAS] = bias;
    op->state_bytes = sizeof(float);
    int64_t rows = sl_layer_chunk(op);
    op->saved[SL_LAYER_Y] = sl_program_buffer(b, rows, vocab);
    if (b->bf16 && b->training)
        op->saved[SL_LAYER_DY] = sl_program_activation(b, rows, vocab);
    sl_layer_build(b, op);
    if (b->config->model_logit_softcap > 0 && op->own) {
        ((sl_layer *)op->own)->softcap = (float)b->config->model_logit_softcap;
        op->worker_bytes = (size_t)sl_max((int64_t)op->worker_bytes, vocab * (int64_t)sizeof(float));
    }
}
