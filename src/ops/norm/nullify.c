/* Row norms with sink channels replaced (model.sink_nullify): the K channels whose running mean is largest in |.|, or
 * as a control K others drawn at random. What is normalised, a, and what the statistics are taken from, b, are each the
 * row as it is or the row with these channels replaced; y = gain (a - mean(b)) r(b):
 *   both: a and b are replaced, as if the stream had no sink; output: only a; denominator: only b.
 * What stands there instead, x being the channel and E its running mean over tokens:
 *   zero: 0; mean: E x; rms: sqrt(E x^2) with the sign of E x, so that the mean square of a row keeps what the channel
 *   gives it on average, where the square of a mean would lack its variance; mean_output: E (x - mean(b)) r(b) is what
 *   stands behind the division, a constant, where a mean before it still varies with the token's r.
 * The norm does row b, and the outputs of these channels are made those of a. Running means are tensors of the
 * checkpoint without gradient, <prefix>.channel_mean and for the last two <prefix>.channel_mean_{square,output}. A
 * training step uses those of the steps before it and then moves them towards the means of its own batch, so that a
 * pass, a resumed run and decoding see constants. A channel whose mean is 0 is never chosen: nothing is replaced in the
 * first step. Positions of a window before model.sink_nullify_from stay as they are, and the means are of the others;
 * their names then end in _from_<it>, so that means of other positions are none of this model's. */
#include "base/err.h"
#include "base/rng.h"
#include "ops/norm/frame.h"
#include "ops/rows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHANNELS = 64 }; /* most channels of a norm; model.sink_nullify has the same bound */

static const float rate = SL_NULLIFY_RATE;

typedef sl_norm_nullified own;

/* Laid out as cuda/norm.h has it. */
typedef struct {
    int64_t count, channel[CHANNELS]; /* those of the pass, the largest first, */
    float value[CHANNELS];            /* and what stands there instead */
    int64_t rows;                     /* in sum */
    float sum[]; /* [dim] over the passes since the last step, and behind it that of the second running mean */
} state;

static const own *own_of(const sl_op *op) { return op->own; }
static state *state_of(const sl_op *op, const sl_exec *x) { return sl_op_state(op, x); }
static float *means(const sl_op *op, const sl_exec *x) { return x->p->w + x->p->tensor[own_of(op)->means].offset; }
static bool has_second(const sl_op *op) { return own_of(op)->second != SL_NONE; }
static float *second(const sl_op *op, const sl_exec *x) { return x->p->w + x->p->tensor[own_of(op)->second].offset; }
static int64_t sums(const sl_op *op) { return (1 + has_second(op)) * op->dim_in; }
static bool edited(const sl_op *op, const sl_exec *x, int64_t row) {
    return x->position + row % op->seq >= own_of(op)->from;
}

typedef struct {
    sl_norm_tiles t;
    float *replaced, *without;
} scratch;

static scratch carve(const sl_op *op, sl_carver *c) {
    scratch t;
    t.t = sl_norm_carve(op, c);
    t.replaced = sl_norm_carve_tile(op, c);
    t.without = sl_norm_carve_tile(op, c);
    return t;
}

static scratch scratch_of(const sl_op *op, const sl_exec *x, int worker) {
    return carve(op, &(sl_carver){.base = sl_worker_scratch(x, worker)});
}

/* ---- the channels of a pass */

typedef struct {
    int64_t count, channel[CHANNELS];
    float score[CHANNELS];
} ranking;

/* Insertion into the list so far: of equal scores the lower channel comes first. */
static void rank(ranking *r, int64_t most, int64_t channel, float score) {
    int64_t at = r->count;
    while (at > 0 && r->score[at - 1] < score)
        at--;
    if (at >= most)
        return;
    r->count += r->count < most;
    memmove(r->channel + at + 1, r->channel + at, (size_t)(r->count - 1 - at) * sizeof *r->channel);
    memmove(r->score + at + 1, r->score + at, (size_t)(r->count - 1 - at) * sizeof *r->score);
    r->channel[at] = channel;
    r->score[at] = score;
}

static bool holds(const ranking *r, int64_t channel) {
    for (int64_t i = 0; i < r->count; i++)
        if (r->channel[i] == channel)
            return true;
    return false;
}

/* As many channels besides those of `largest`, the same in every pass. */
static ranking drawn(const sl_op *op, const float *mean, const ranking *largest) {
    const own *o = own_of(op);
    sl_rng rng = sl_rng_make(o->seed, SL_STREAM_NULLIFY, o->sub);
    ranking r = {0};
    for (int64_t j = 0; j < op->dim_in; j++) {
        float score = (float)sl_rng_uniform(&rng);
        if (mean[j] != 0 && !holds(largest, j))
            rank(&r, o->most, j, score);
    }
    return r;
}

/* What stands in a channel. */
static float value_of(const sl_op *op, const sl_exec *x, int64_t channel) {
    float mean = means(op, x)[channel];
    switch (own_of(op)->value) {
    case SL_NULLIFY_MEAN: return mean;
    case SL_NULLIFY_RMS: return copysignf(sqrtf(second(op, x)[channel]), mean);
    case SL_NULLIFY_MEAN_OUTPUT: return second(op, x)[channel];
    default: return 0;
    }
}

static int choose(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)s;
    state *c = state_of(op, x);
    const float *mean = means(op, x);
    ranking r = {0};
    for (int64_t j = 0; j < op->dim_in; j++)
        if (mean[j] != 0)
            rank(&r, own_of(op)->most, j, fabsf(mean[j]));
    if (own_of(op)->random)
        r = drawn(op, mean, &r);
    c->count = r.count;
    for (int64_t i = 0; i < r.count; i++) {
        c->channel[i] = r.channel[i];
        c->value[i] = value_of(op, x, r.channel[i]);
    }
    return 0;
}

/* n rows, r of the batch on, with `value` in the channels of the list where they are edited, or 0 without values, in
 * scratch. */
static const float *with_channels(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, const float *rows,
                                  const float *value, float *to) {
    const state *c = state_of(op, x);
    memcpy(to, rows, (size_t)(n * op->dim_in) * sizeof *to);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; edited(op, x, r + i) && k < c->count; k++)
            to[i * op->dim_in + c->channel[k]] = value ? value[k] : 0;
    return to;
}

/* Rows b, of which the norm is taken. */
static const float *rows_b(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, const float *raw, float *to) {
    return own_of(op)->in_b ? with_channels(op, x, r, n, raw, state_of(op, x)->value, to) : raw;
}

/* Are outputs of this row made apart, of a row a that is not b? */
static bool apart(const sl_op *op, const sl_exec *x, int64_t row) {
    return own_of(op)->only_one && edited(op, x, row);
}

static bool constant_output(const sl_op *op) { return own_of(op)->value == SL_NULLIFY_MEAN_OUTPUT; }

/* What channel k of the list is in row a, before the factors of preaffine. */
static float entry_of_a(const sl_op *op, const sl_exec *x, const float *raw, int64_t k) {
    const state *c = state_of(op, x);
    return own_of(op)->in_b ? raw[c->channel[k]] : c->value[k];
}

static float pre_factor(const sl_op *op, const sl_exec *x, int64_t channel) {
    return sl_norm_has(op, SL_NORM_PRE) ? sl_weight(op, x, SL_NORM_PRE)[channel] : 1;
}

typedef struct {
    float mean, r;
} row_statistics;

static row_statistics statistics_of(const sl_op *op, const sl_exec *x, int64_t row) {
    bool mean = own_of(op)->base.norm->form == SL_NORM_BY_DEVIATION;
    return (row_statistics){mean ? sl_buf_data(x, op->saved[0])[row] : 0, sl_buf_data(x, op->saved[mean])[row]};
}

/* ---- forward */

static void set_output(const sl_exec *x, sl_buf b, int64_t row, int64_t channel, float y) {
    if (x->info[b].bf16)
        x->k->to_bf16(1, &y, sl_bf16_row(x, b, row) + channel);
    else
        sl_buf_data(x, b)[row * x->info[b].ld + channel] = y;
}

static void correct_outputs(const sl_op *op, const sl_exec *x, int64_t row, const float *raw) {
    const state *c = state_of(op, x);
    row_statistics b = statistics_of(op, x, row);
    for (int64_t k = 0; k < c->count; k++) {
        int64_t j = c->channel[k];
        float z = pre_factor(op, x, j) * entry_of_a(op, x, raw, k);
        float gain = sl_norm_gain(op, x)[j];
        float y = constant_output(op) ? gain * c->value[k] : gain * (z - b.mean) * b.r;
        set_output(x, op->out, row, j, sl_norm_bias(op, x) ? y + sl_norm_bias(op, x)[j] : y);
    }
}

/* Adds what running means are of in a row whose norm is done. A mean output belongs to row a as it is, which b is. */
static void add_to_sums(const sl_op *op, const sl_exec *x, int64_t row, const float *raw, float *sum) {
    int64_t d = op->dim_in;
    x->k->add(d, raw, sum);
    if (!has_second(op))
        return;
    row_statistics b = constant_output(op) ? statistics_of(op, x, row) : (row_statistics){0}; /* not every norm has */
    for (int64_t j = 0; j < d; j++)
        sum[d + j] += constant_output(op) ? (pre_factor(op, x, j) * raw[j] - b.mean) * b.r : raw[j] * raw[j];
}

/* n <= SL_NORM_TILE rows; sum: NULL, or the channels of those that are edited are added to it. */
static void forward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, const scratch *t, float *sum) {
    int64_t d = op->dim_in;
    const float *raw = sl_read_rows(x, op->in[0], r, n, t->t.in);
    const float *b = rows_b(op, x, r, n, raw, t->replaced);
    sl_norm_write(op, x, r, n, sl_norm_factored(op, x, n, b, t->t.pre), t->t.out);
    for (int64_t i = 0; i < n; i++) {
        if (apart(op, x, r + i))
            correct_outputs(op, x, r + i, raw + i * d);
        if (sum && edited(op, x, r + i))
            add_to_sums(op, x, r + i, raw + i * d, sum);
    }
}

static bool collects(const sl_exec *x) { return x->training || x->measuring; }

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch t = scratch_of(op, x, s->worker);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        int64_t first = sl_block_first(blocks, i), n = sl_block_rows(blocks, i);
        float *sum = collects(x) ? x->shared + i * sums(op) : NULL;
        if (sum)
            memset(sum, 0, (size_t)sums(op) * sizeof *sum);
        for (int64_t r = 0; r < n; r += SL_NORM_TILE)
            forward_rows(op, x, first + r, sl_min(n - r, SL_NORM_TILE), &t, sum);
    }
    return 0;
}

static sl_split sums_split(const sl_op *op, const sl_exec *x) {
    (void)op;
    return (sl_split){.items = collects(x)};
}

/* How many rows of a pass are edited. */
static int64_t rows_edited(const sl_op *op, const sl_exec *x) {
    int64_t kept = sl_min(sl_max(own_of(op)->from - x->position, 0), op->seq);
    return op->rows / op->seq * (op->seq - kept);
}

static int fold_sums(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)s;
    state *c = state_of(op, x);
    sl_fold_columns(x, 0, sums(op), sl_op_blocks(op).count, sums(op), x->shared, c->sum);
    c->rows += rows_edited(op, x);
    return 0;
}

/* If the step was applied, the means move towards those of its rows. The first ones are taken as they are. */
static void end_step(const sl_op *op, const sl_exec *x, bool applied) {
    state *c = state_of(op, x);
    float *mean = means(op, x);
    bool first = true;
    for (int64_t j = 0; j < op->dim_in; j++)
        first = first && mean[j] == 0;
    for (int64_t j = 0; applied && c->rows > 0 && j < sums(op); j++) {
        float *m = j < op->dim_in ? &mean[j] : &second(op, x)[j - op->dim_in];
        *m += (first ? 1 : rate) * (c->sum[j] / (float)c->rows - *m);
    }
    memset(c->sum, 0, (size_t)sums(op) * sizeof *c->sum);
    c->rows = 0;
}

/* ---- backward */

/* Through the corrected outputs of one row, dy the gradients of all outputs: adds to dz, the gradient of row b (z,
 * after preaffine), to that of the gains and to that of the factors of preaffine. With e_j = z'_j - m of row a, G_j =
 * gain_j dy_j and h = z - m: dz += -r^3/d h sum_j G_j e_j - [LayerNorm] r/d sum_j G_j. A constant output goes to the
 * gains alone. */
static void correct_backward(const sl_op *op, const sl_exec *x, int64_t row, const float *raw, const float *dy,
                             const float *z, float *dz, float *const *g) {
    const state *c = state_of(op, x);
    int64_t d = op->dim_in;
    row_statistics b = statistics_of(op, x, row);
    float scale_sum = 0, mean_sum = 0;
    for (int64_t k = 0; k < c->count; k++) {
        int64_t j = c->channel[k];
        float a = entry_of_a(op, x, raw, k), e = pre_factor(op, x, j) * a - b.mean;
        float dg = sl_norm_gain(op, x)[j] * dy[j];
        g[SL_NORM_WEIGHT][j] += constant_output(op) ? dy[j] * a : dy[j] * e * b.r;
        if (sl_norm_has(op, SL_NORM_BIAS))
            g[SL_NORM_BIAS][j] += dy[j];
        if (constant_output(op))
            continue;
        if (sl_norm_has(op, SL_NORM_PRE))
            g[SL_NORM_PRE][j] += dg * b.r * a;
        scale_sum += dg * e;
        mean_sum += dg;
    }
    float slope = -b.r * b.r * b.r * scale_sum / (float)d;
    float shift = own_of(op)->base.norm->form == SL_NORM_BY_DEVIATION ? -b.r * mean_sum / (float)d : 0;
    for (int64_t i = 0; i < d; i++)
        dz[i] += slope * (z[i] - b.mean) + shift;
}

/* The gradient of a row's channels in the list, given that of row b in dx: only what was not replaced has one. */
static void pass_gradients(const sl_op *op, const sl_exec *x, int64_t row, const float *dy, float *dx) {
    const state *c = state_of(op, x);
    for (int64_t k = 0; own_of(op)->in_b && edited(op, x, row) && k < c->count; k++) {
        int64_t j = c->channel[k];
        dx[j] = own_of(op)->only_one
                    ? pre_factor(op, x, j) * sl_norm_gain(op, x)[j] * dy[j] * statistics_of(op, x, row).r
                    : 0;
    }
}

static void backward_rows(const sl_op *op, const sl_exec *x, int64_t r, int64_t n, int worker, float *const *g) {
    scratch s = scratch_of(op, x, worker);
    int64_t d = op->dim_in;
    const float *raw = sl_read_rows(x, op->in[0], r, n, s.t.in);
    const float *dy = sl_read_rows(x, op->dout, r, n, s.t.dout), *dout = dy;
    const float *b = rows_b(op, x, r, n, raw, s.replaced), *z = sl_norm_factored(op, x, n, b, s.t.pre);
    float *dz = s.t.dpre, *dx = dz;
    if (own_of(op)->only_one)
        dout = with_channels(op, x, r, n, dy, NULL, s.without);
    own_of(op)->base.norm->backward(op, x, r, n, dout, z, dz, 0, g);
    for (int64_t i = 0; i < n; i++)
        if (apart(op, x, r + i))
            correct_backward(op, x, r + i, raw + i * d, dy + i * d, z + i * d, dz + i * d, g);
    if (sl_norm_has(op, SL_NORM_PRE))
        x->k->channel_scale_bwd(n, d, dz, d, b, d, sl_weight(op, x, SL_NORM_PRE), dx = s.t.out, d, 0, g[SL_NORM_PRE]);
    for (int64_t i = 0; i < n; i++)
        pass_gradients(op, x, r + i, dy + i * d, dx + i * d);
    float *din = sl_buf_data(x, op->din[0]) + r * d;
    if (op->acc[0])
        x->k->add(n * d, dx, din);
    else
        memcpy(din, dx, (size_t)(n * d) * sizeof *din);
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    return sl_norm_backward_blocks(op, x, s, backward_rows);
}

/* ---- building */

static const sl_op_kind nullified_norm = {
    .name = "norm", .adds = true,
    .forward = SL_STAGES({.cut = SL_CUT_PARAMS, .run = sl_norm_gains, .split = sl_norm_gains_split},
                         {.cut = SL_CUT_PARAMS, .run = choose}, {.cut = SL_CUT_ROWS, .run = forward},
                         {.cut = SL_CUT_FOLD, .run = fold_sums, .split = sums_split}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split}),
    .end_step = end_step};

const sl_norm_nullified *sl_norm_nullified_of(const sl_op *op) {
    return op->kind == &nullified_norm ? op->own : NULL;
}

static int running_mean(sl_program *b, const char *prefix, const char *name) {
    char behind[48];
    int64_t from = b->config->model_sink_nullify_from;
    snprintf(behind, sizeof behind, "%s_from_%lld", name, (long long)from);
    return sl_program_state(b, prefix, from ? behind : name, b->config->model_dim);
}

/* The running mean that the value goes by besides the channel's own: SL_NONE, or a parameter. */
static int second_mean(sl_program *b, const char *prefix) {
    switch (b->config->model_sink_nullify_value) {
    case SL_NULLIFY_RMS: return running_mean(b, prefix, "channel_mean_square");
    case SL_NULLIFY_MEAN_OUTPUT: return running_mean(b, prefix, "channel_mean_output");
    default: return SL_NONE;
    }
}

/* Can these channels be replaced so at this norm? 0, or -1 with a message. */
static int check_norm(const sl_config *c, const sl_row_norm *norm) {
    int mode = c->model_sink_nullify_mode;
    bool statistics = norm->form == SL_NORM_BY_RMS || norm->form == SL_NORM_BY_DEVIATION;
    bool apart = statistics || norm->form == SL_NORM_BY_CHANNEL; /* by channel "output" is "both" */
    if (mode == SL_NULLIFY_DENOMINATOR ? !statistics : mode == SL_NULLIFY_OUTPUT && !apart)
        return sl_fail_usage("model.sink_nullify_mode=%s needs a norm that divides by a statistic of the row, e.g. "
                             "rmsnorm or layernorm; with this model.norm take both",
                             sl_choices_nullify_mode[mode].name);
    if (c->model_sink_nullify_value == SL_NULLIFY_MEAN_OUTPUT && !statistics)
        return sl_fail_usage("model.sink_nullify_value=mean_output needs a norm that divides by a statistic of the "
                             "row, e.g. rmsnorm or layernorm; with this model.norm take mean");
    return 0;
}

sl_op *sl_append_nullified(sl_program *b, const sl_row_norm *norm, sl_scope scope, sl_buf in, const char *prefix,
                           const int *param) {
    const sl_config *c = b->config;
    int mode = c->model_sink_nullify_mode;
    bool statistics = norm->form == SL_NORM_BY_RMS || norm->form == SL_NORM_BY_DEVIATION;
    b->failed |= check_norm(c, norm) != 0;
    sl_op *op = sl_norm_append(b, &nullified_norm, sizeof(own), norm, scope, in, prefix, param);
    own *o = op->own;
    if (!o)
        return op;
    o->in_b = mode != SL_NULLIFY_OUTPUT || !statistics;
    o->only_one = mode != SL_NULLIFY_BOTH && statistics;
    o->value = c->model_sink_nullify_value;
    o->most = c->model_sink_nullify;
    o->from = c->model_sink_nullify_from;
    o->random = c->model_sink_nullify_channels == SL_NULLIFY_RANDOM;
    o->seed = (uint64_t)c->seed;
    o->sub = sl_hash64(prefix, strlen(prefix));
    o->means = running_mean(b, prefix, "channel_mean");
    o->second = second_mean(b, prefix);
    op->state_bytes = sizeof(state) + (size_t)sums(op) * sizeof(float);
    size_t shared = (size_t)(sl_op_blocks(op).count * sums(op)) * sizeof(float);
    op->shared_bytes = op->shared_bytes > shared ? op->shared_bytes : shared;
    sl_carver count = {0};
    carve(op, &count);
    op->worker_bytes = count.used;
    return op;
}
