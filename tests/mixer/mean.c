/* A mixer of tests, to show that a row of the table and its files are enough:
 *   v = x W_v,  m_t = (v_0 + ... + v_t) / (t + 1),  y_t = (a v_t + b m_t) W_o
 * with a and b of each channel in a tensor [dim, 1, 2]. A decoder keeps the sum alone. */
#include "ops/mixer/mixer.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <stdio.h>
#include <string.h>

/* One window, as fp32: its values, the gradients of what is made of them, and the result; a row of sums. */
typedef struct {
    float *values, *dout, *result, *sum;
} scratch;

static scratch scratch_of(sl_carver *at, const sl_op *op) {
    scratch s;
    s.values = sl_carve_floats(at, op->seq * op->dim_in);
    s.dout = sl_carve_floats(at, op->seq * op->dim_in);
    s.result = sl_carve_floats(at, op->seq * op->dim_in);
    s.sum = sl_carve_floats(at, op->dim_in);
    return s;
}

static scratch scratch_at(const sl_op *op, const sl_exec *x, int worker) {
    return scratch_of(&(sl_carver){.base = sl_worker_scratch(x, worker)}, op);
}

static void store(const sl_op *op, const sl_exec *x, sl_buf to, const sl_span *s, const float *rows) {
    if (x->info[to].bf16)
        sl_store_bf16(x, to, s->first, s->n, 0, op->dim_in, rows, op->dim_in);
    else
        memcpy(sl_buf_data(x, to) + s->first * op->dim_in, rows, (size_t)(s->n * op->dim_in) * sizeof *rows);
}

/* n positions from `from` on; sum holds the values before them, and then these too. */
static void mix(const sl_op *op, const sl_exec *x, int64_t from, int64_t n, const float *v, float *sum, float *y) {
    const float *w = sl_weight(op, x, 0);
    int64_t d = op->dim_in;
    for (int64_t t = 0; t < n; t++, v += d, y += d)
        for (int64_t j = 0; j < d; j++) {
            sum[j] += v[j];
            y[j] = w[2 * j] * v[j] + w[2 * j + 1] * (sum[j] / (float)(from + t + 1));
        }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = scratch_at(op, x, s->worker);
    memset(c.sum, 0, (size_t)op->dim_in * sizeof *c.sum);
    mix(op, x, 0, s->n, sl_read_rows(x, op->in[0], s->first, s->n, c.values), c.sum, c.result);
    store(op, x, op->out, s, c.result);
    return 0;
}

/* Of the window's values into result; of a and b, this window's part, into partial. */
static void unmix(const sl_op *op, const sl_exec *x, int64_t n, const float *v, const float *dy, const scratch *c,
                  float *partial) {
    const float *w = sl_weight(op, x, 0);
    int64_t d = op->dim_in;
    memset(partial, 0, (size_t)(2 * d) * sizeof *partial);
    for (int64_t j = 0; j < d; j++) {
        float sum = 0, later = 0;
        for (int64_t t = 0; t < n; t++) {
            sum += v[t * d + j];
            partial[2 * j] += dy[t * d + j] * v[t * d + j];
            partial[2 * j + 1] += dy[t * d + j] * (sum / (float)(t + 1));
        }
        for (int64_t t = n - 1; t >= 0; t--) {
            later += dy[t * d + j] / (float)(t + 1);
            c->result[t * d + j] = w[2 * j] * dy[t * d + j] + w[2 * j + 1] * later;
        }
    }
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_in;
    scratch c = scratch_at(op, x, s->worker);
    unmix(op, x, s->n, sl_read_rows(x, op->in[0], s->first, s->n, c.values),
          sl_read_rows(x, op->dout, s->first, s->n, c.dout), &c, x->shared + s->first / op->seq * 2 * d);
    store(op, x, op->din[0], s, c.result);
    return 0;
}

static int fold(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)s;
    int64_t n = 2 * op->dim_in;
    sl_fold_columns(x, 0, n, op->rows / op->seq, n, x->shared, sl_weight_grad(op, x, 0));
    return 0;
}

/* saved[0]: the sums of each window, which last. */
static int decode(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_in, at = s->first * d;
    float *sum = sl_buf_data(x, op->saved[0]) + at;
    if (x->position == 0)
        memset(sum, 0, (size_t)d * sizeof *sum);
    mix(op, x, x->position, 1, sl_buf_data(x, op->in[0]) + at, sum, sl_buf_data(x, op->out) + at);
    return 0;
}

static const sl_op_kind mean = {
    .name = "mean",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward}),
    .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = backward}, {.cut = SL_CUT_FOLD, .run = fold})};
static const sl_op_kind cached_mean = {
    .name = "cached_mean", .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = decode})};

static void draw(const sl_tensor *t, sl_rng *rng, float *w) {
    for (int64_t i = 0; i < t->size; i++)
        w[i] = i % 2 ? 1 : (float)sl_rng_uniform(rng);
}

static sl_buf build_mean(sl_program *b, sl_scope at, const char *prefix, sl_buf v) {
    int64_t d = b->config->model_dim;
    int weights = sl_program_param(b, prefix, &(sl_param_spec){.name = "mix", .rows = d, .cols = 1, .more = {2},
                                                               .init = SL_INIT_DRAW, .draw = draw,
                                                               .decay = SL_DECAY_NONE});
    sl_buf sums = b->cache ? sl_program_lasting(b, b->batch, d) : SL_NONE;
    sl_op *op = sl_program_op(b, b->cache ? &cached_mean : &mean, at);
    sl_op_reads(op, v, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    op->param[0] = weights;
    op->saved[0] = sums;
    sl_carver count = {0};
    scratch_of(&count, op);
    op->worker_bytes = count.used;
    op->shared_bytes = b->training ? (size_t)(b->batch * 2 * d) * sizeof(float) : 0;
    return op->out = sl_program_activation(b, op->rows, d);
}

static sl_buf build(sl_program *b, const sl_mixer_site *s) {
    char prefix[64];
    int64_t d = b->config->model_dim;
    sl_scope in = {(int)s->layer, SL_HALF_ATTN, SL_PART_in, SL_ROLE_SELF}, core = in, out = in;
    core.part = SL_PART_core, out.part = SL_PART_out;
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mean", (long long)s->layer);
    int wv = sl_build_matrix(b, in, prefix, "v_proj.weight", d, d, 0);
    sl_buf y = build_mean(b, core, prefix, sl_build_linear(b, in, s->in, d, d, wv, SL_NONE, SL_NONE));
    int wo = sl_build_matrix(b, out, prefix, "o_proj.weight", d, d, SL_MATRIX_OUTPUT);
    return sl_build_linear(b, out, y, d, d, wo, SL_NONE, s->residual);
}

static double flops(const sl_config *c, int64_t seq) {
    (void)seq;
    return 6 * (double)c->model_dim;
}

static const sl_block_layer layers[] = {{SL_HALF_ATTN, SL_PART_in, SL_NORM_ATTN, true},
                                        {SL_HALF_ATTN, SL_PART_out, -1, true},
                                        {.part = SL_PART_none}};

const sl_mixer sl_mixer_mean = {.name = "mean", .build = build, .flops = flops, .layers = layers};
