#include "ops/attention/heads.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <math.h>

/* One row: whole heads in one call, or the first channels of each by themselves. */
static void rotate_row(const sl_rope *o, const sl_exec *x, sl_buf buf, int64_t row, int64_t at, float sign) {
    bool whole = o->dims == o->head_dim;
    for (int64_t h = 0; h < (whole ? 1 : o->heads); h++) {
        int64_t col = h * o->head_dim, heads = whole ? o->heads : 1;
        if (x->info[buf].bf16)
            x->k->rope_bf16(heads, o->dims, o->cos + at, o->sin + at, sign, sl_bf16_row(x, buf, row) + col);
        else
            x->k->rope(heads, o->dims, o->cos + at, o->sin + at, sign,
                       sl_buf_data(x, buf) + row * x->info[buf].ld + col);
    }
}

static void rotate(const sl_op *op, const sl_exec *x, sl_buf buf, const sl_span *s, float sign) {
    const sl_rope *o = op->own;
    for (int64_t r = s->first; r < s->first + s->n; r++)
        rotate_row(o, x, buf, r, (x->position + r % op->seq) * (o->dims / 2), sign);
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    rotate(op, x, op->out, s, 1);
    return 0;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    rotate(op, x, op->dout, s, -1);
    return 0;
}

static const sl_op_kind rope = {.name = "rope",
                                .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                                .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};

/* Llama 3.1 (transformers' rope_type llama3): waves longer than original / low are slowed by the factor, those shorter
 * than original / high are not, and between the share grows with the number of waves in the original window. */
static double kept_by_llama3(const sl_config *c, double frequency) {
    double waves = (double)c->rope_scaling_original * frequency / (2 * M_PI);
    return (waves - c->rope_scaling_low) / (c->rope_scaling_high - c->rope_scaling_low);
}

/* The pair of channels, with a fraction, that turns so many times in the original window. */
static double pair_that_turns(const sl_config *c, double times) {
    double wave = (double)c->rope_scaling_original / (2 * M_PI * times);
    return (double)sl_config_rope_dims(c) * log(wave) / (2 * log(c->model_rope_base));
}

/* YaRN (arXiv 2309.00071, 3.2, as transformers' rope_type yarn has it): between the pairs that turn beta_fast and
 * beta_slow times the share falls by pairs. */
static double kept_by_yarn(const sl_config *c, int64_t pair) {
    double from = pair_that_turns(c, c->rope_scaling_beta_fast), to = pair_that_turns(c, c->rope_scaling_beta_slow);
    if (c->rope_scaling_truncate)
        from = floor(from), to = ceil(to);
    from = fmax(from, 0);
    to = fmin(to, (double)(sl_config_rope_dims(c) - 1));
    return 1 - ((double)pair - from) / (from == to ? 0.001 : to - from);
}

/* What the frequency of a pair is multiplied by. */
static double slowed(const sl_config *c, int64_t pair, double frequency) {
    double kept = 0; /* linear */
    switch (c->model_rope_scaling) {
    case SL_ROPE_SCALING_NONE: return 1;
    case SL_ROPE_SCALING_LLAMA3: kept = kept_by_llama3(c, frequency); break;
    case SL_ROPE_SCALING_YARN: kept = kept_by_yarn(c, pair); break;
    }
    kept = fmin(fmax(kept, 0), 1);
    return kept + (1 - kept) / c->rope_scaling_factor;
}

/* What queries and keys are multiplied by. */
static double grown(const sl_config *c) {
    if (c->model_rope_scaling != SL_ROPE_SCALING_YARN)
        return 1;
    return c->rope_scaling_attention_factor > 0 ? c->rope_scaling_attention_factor
                                                : 0.1 * log(c->rope_scaling_factor) + 1;
}

void sl_rope_table(const sl_config *c, bool windowed, int64_t positions, float *cos_of, float *sin_of) {
    int64_t half = sl_config_rope_dims(c) / 2;
    double base = windowed ? c->model_rope_base_window : c->model_rope_base, size = windowed ? 1 : grown(c);
    for (int64_t t = 0; t < positions; t++)
        for (int64_t j = 0; j < half; j++) {
            double frequency = pow(base, -2.0 * (double)j / (double)(2 * half));
            double angle = (double)t * frequency * (windowed ? 1 : slowed(c, j, frequency));
            cos_of[t * half + j] = (float)(size * cos(angle));
            sin_of[t * half + j] = (float)(size * sin(angle));
        }
}

void sl_build_rope(sl_program *b, sl_scope scope, sl_buf qkv, const float *cos, const float *sin) {
    const sl_config *c = b->config;
    bool windowed = sl_config_rope_windowed(c, scope.layer);
    sl_op *op = sl_program_op(b, &rope, scope);
    sl_rope *o = sl_program_own(b, op, sizeof *o);
    sl_op_reads(op, op->out = qkv, SL_INPUT_GRADIENT);
    if (o)
        *o = (sl_rope){.heads = c->model_heads + sl_config_kv_heads(c), .head_dim = sl_config_head_dim(c),
                       .dims = sl_config_rope_dims(c), .cos = cos, .sin = sin,
                       .base = windowed ? c->model_rope_base_window : c->model_rope_base,
                       .scaled = !windowed && c->model_rope_scaling != SL_ROPE_SCALING_NONE};
    if (b->device) /* its own table, which it makes itself: cosine and sine of each pair */
        op->saved[0] = sl_program_lasting(b, b->cache ? b->cache : b->seq, sl_config_head_dim(c));
}
