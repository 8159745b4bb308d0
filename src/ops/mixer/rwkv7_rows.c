#include "ops/mixer/rwkv7_rows.h"

#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

/* A worker's, of one row: room for what is read, and for what comes out, of any of the operations. */
enum { ROOM = 5 };
typedef struct {
    float *read[ROOM], *made[ROOM], *dout, *old, *gate;
} scratch;

static scratch scratch_of(int64_t d, sl_carver *at) {
    scratch s;
    for (int i = 0; i < ROOM; i++) {
        s.read[i] = sl_carve_floats(at, d);
        s.made[i] = sl_carve_floats(at, d);
    }
    s.dout = sl_carve_floats(at, 3 * d);
    s.old = sl_carve_floats(at, 3 * d);
    s.gate = sl_carve_floats(at, d);
    return s;
}
static scratch scratch_at(const sl_op *op, const sl_exec *x, const sl_span *span) {
    return scratch_of(op->dim_in, &(sl_carver){sl_worker_scratch(x, span->worker), 0});
}
static void count_scratch(sl_op *op) {
    sl_carver size = {0};
    scratch_of(op->dim_in, &size);
    op->worker_bytes = size.used;
}

/* The first d columns of a row of input i. */
static const float *read(const sl_op *op, const sl_exec *x, int i, int64_t row, const scratch *s) {
    return sl_read_columns(x, op->in[i], row, 1, 0, op->dim_in, s->read[i]).p;
}
static void put(const sl_op *op, const sl_exec *x, int i, int64_t row, float *y, const scratch *s) {
    sl_write_gradient(x, op->din[i], row, 1, 0, op->dim_in, y, op->acc[i], s->old);
}

/* sigmoid(z + bias) of input i, a row of a projection of low rank and what is added to it, parameter `param`. */
static void squash(const sl_op *op, const sl_exec *x, int i, int param, int64_t row, const scratch *s, float *to) {
    x->k->sum(op->dim_in, read(op, x, i, row, s), sl_weight(op, x, param), to);
    x->k->sigmoid(op->dim_in, to, to);
}

/* Rows, block by block, that add to sums of the parameters' gradients, which FOLD takes. */
typedef void row_back(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s, float *dparam);
static int each_block(const sl_op *op, const sl_exec *x, const sl_span *span, row_back *back) {
    scratch s = scratch_at(op, x, span);
    sl_blocks blocks = sl_op_blocks(op);
    int64_t params = sl_op_params_floats(op, x->p);
    for (int64_t b = sl_block_at(blocks, span->first), end = sl_block_behind(blocks, span); b < end; b++) {
        float *dparam = x->shared + b * params;
        memset(dparam, 0, (size_t)params * sizeof *dparam);
        for (int64_t r = sl_block_first(blocks, b), last = r + sl_block_rows(blocks, b); r < last; r++)
            back(op, x, r, &s, dparam);
    }
    return 0;
}
#define FOLDED(run_)                                                                                                   \
    SL_STAGES({.cut = SL_CUT_ROWS, .run = run_}, {.cut = SL_CUT_FOLD, .run = sl_fold_params,                          \
                                                  .split = sl_fold_params_split})

/* ---- values */

enum { VALUE, FIRST, SHARE };

static int values_forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_at(op, x, span);
    for (int64_t row = span->first; row < span->first + span->n; row++) {
        const float *v = read(op, x, VALUE, row, &s), *first = read(op, x, FIRST, row, &s);
        squash(op, x, SHARE, 0, row, &s, s.gate);
        for (int64_t i = 0; i < op->dim_in; i++)
            s.made[0][i] = v[i] + (first[i] - v[i]) * s.gate[i];
        sl_write_columns(x, op->out, row, 1, 0, op->dim_in, s.made[0], op->dim_in);
    }
    return 0;
}

static void values_row_back(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s, float *dv0) {
    float *dv = s->made[VALUE], *dfirst = s->made[FIRST], *dz = s->made[SHARE];
    const float *v = read(op, x, VALUE, row, s), *first = read(op, x, FIRST, row, s), *q = s->gate;
    const float *dout = sl_read_rows(x, op->dout, row, 1, s->dout);
    squash(op, x, SHARE, 0, row, s, s->gate);
    for (int64_t i = 0; i < op->dim_in; i++) {
        dfirst[i] = dout[i] * q[i];
        dv[i] = dout[i] * (1 - q[i]);
        dz[i] = dout[i] * (first[i] - v[i]) * q[i] * (1 - q[i]);
        dv0[i] += dz[i];
    }
    for (int i = VALUE; i <= SHARE; i++)
        put(op, x, i, row, s->made[i], s);
}
static int values_backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    return each_block(op, x, span, values_row_back);
}

static const sl_op_kind values = {.name = "rwkv7_values",
                                  .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = values_forward}),
                                  .backward = FOLDED(values_backward), .adds = true};

sl_buf sl_build_rwkv7_values(sl_program *b, sl_scope scope, sl_buf v, sl_buf first, sl_buf z, int v0) {
    sl_op *op = sl_program_op(b, &values, scope);
    const sl_buf reads[] = {[VALUE] = v, [FIRST] = first, [SHARE] = z};
    for (int i = VALUE; i <= SHARE; i++)
        sl_op_reads(op, reads[i], SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = b->buffer[v].cols;
    op->param[0] = v0;
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    count_scratch(op);
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

/* ---- keys */

static const int64_t *head_dim_of(const sl_op *op) { return op->own; }

enum { KEY, RATE };

/* kappa of a row, k k_k of each head over its length, which is saved the other way up. */
static void normalise(const sl_op *op, const sl_exec *x, const float *k, float *kappa, float *inverse) {
    int64_t d = *head_dim_of(op);
    const float *k_k = sl_weight(op, x, SL_RWKV7_K_K);
    for (int64_t i = 0; i < op->dim_in; i++)
        kappa[i] = k[i] * k_k[i];
    for (int64_t h = 0; h < op->dim_in / d; h++) {
        float length = sqrtf(x->k->dot(d, kappa + h * d, kappa + h * d));
        inverse[h] = 1 / (length > 1e-12f ? length : 1e-12f);
        x->k->scale(d, inverse[h], kappa + h * d);
    }
}

static int keys_forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_at(op, x, span);
    int64_t d = op->dim_in;
    const float *k_a = sl_weight(op, x, SL_RWKV7_K_A);
    float *write = s.made[0], *kappa = s.made[1], *taken = s.made[2], *a = s.gate;
    for (int64_t row = span->first; row < span->first + span->n; row++) {
        const float *k = read(op, x, KEY, row, &s);
        squash(op, x, RATE, SL_RWKV7_A0, row, &s, a);
        normalise(op, x, k, kappa, s.old);
        for (int64_t i = 0; i < d; i++) {
            write[i] = k[i] * (1 + (a[i] - 1) * k_a[i]);
            taken[i] = kappa[i] * a[i];
        }
        for (int i = 0; i < 3; i++)
            sl_write_columns(x, op->out, row, 1, i * d, d, s.made[i], d);
    }
    return 0;
}

/* Of a row: dout [3 d], then dk to made[0], dz to made[1]; adds to dparam [k_k, k_a, a0]. */
static void key_back(const sl_op *op, const sl_exec *x, int64_t row, const float *dout, const scratch *s,
                     float *dparam) {
    int64_t d = op->dim_in, head_dim = *head_dim_of(op);
    const float *k_k = sl_weight(op, x, SL_RWKV7_K_K), *k_a = sl_weight(op, x, SL_RWKV7_K_A);
    const float *k = read(op, x, KEY, row, s);
    float *dk = s->made[0], *dz = s->made[1], *kappa = s->made[2], *dkappa = s->made[3], *a = s->gate;
    squash(op, x, RATE, SL_RWKV7_A0, row, s, a);
    normalise(op, x, k, kappa, s->old);
    for (int64_t i = 0; i < d; i++) {
        float write = dout[i], taken = dout[2 * d + i];
        dkappa[i] = dout[d + i] + taken * a[i];
        dk[i] = write * (1 + (a[i] - 1) * k_a[i]);
        dz[i] = (taken * kappa[i] + write * k[i] * k_a[i]) * a[i] * (1 - a[i]);
        dparam[d + i] += write * k[i] * (a[i] - 1);
        dparam[2 * d + i] += dz[i];
    }
    for (int64_t h = 0; h < d / head_dim; h++) {
        int64_t at = h * head_dim;
        float along = s->old[h] < .99e12f ? x->k->dot(head_dim, kappa + at, dkappa + at) : 0;
        for (int64_t i = at; i < at + head_dim; i++) {
            float du = s->old[h] * (dkappa[i] - kappa[i] * along);
            dk[i] += du * k_k[i];
            dparam[i] += du * k[i];
        }
    }
}

static void keys_row_back(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s, float *dparam) {
    key_back(op, x, row, sl_read_rows(x, op->dout, row, 1, s->dout), s, dparam);
    put(op, x, KEY, row, s->made[0], s);
    put(op, x, RATE, row, s->made[1], s);
}
static int keys_backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    return each_block(op, x, span, keys_row_back);
}

static const sl_op_kind keys = {.name = "rwkv7_keys", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = keys_forward}),
                                .backward = FOLDED(keys_backward), .adds = true};

static void draw_k_k(const sl_tensor *t, sl_rng *rng, float *w) {
    (void)rng;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(.71 - .1 * ((double)i / (double)(t->size - 1) - .5));
}

sl_buf sl_build_rwkv7_keys(sl_program *b, sl_scope scope, const char *prefix, sl_buf k, sl_buf z, int a0,
                           int64_t head_dim) {
    sl_op *op = sl_program_op(b, &keys, scope);
    int64_t *own = sl_program_own(b, op, sizeof *own), d = b->buffer[k].cols;
    if (!own)
        return k;
    *own = head_dim;
    sl_op_reads(op, k, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, z, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = d, op->dim_out = 3 * d;
    const sl_param_spec k_k = {.name = "k_k", .rows = d, .init = SL_INIT_DRAW, .draw = draw_k_k,
                               .decay = SL_DECAY_NONE},
                        k_a = {.name = "k_a", .rows = d, .init = SL_INIT_VALUE, .start = 1.02,
                               .decay = SL_DECAY_NONE};
    op->param[SL_RWKV7_K_K] = sl_program_param(b, prefix, &k_k);
    op->param[SL_RWKV7_A0] = a0;
    op->param[SL_RWKV7_K_A] = sl_program_param(b, prefix, &k_a);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    count_scratch(op);
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

/* ---- output */

enum { Y, R, KEYS, V, G };

/* saved[0] and [1]: mean and 1 / deviation of each head. */
static void norm(const sl_op *op, const sl_exec *x, int64_t row, const float *y, float *to) {
    int64_t d = *head_dim_of(op), heads = op->dim_in / d;
    const float *w = sl_weight(op, x, SL_RWKV7_NORM_WEIGHT);
    float *mean = sl_buf_data(x, op->saved[0]) + row * heads, *rstd = sl_buf_data(x, op->saved[1]) + row * heads;
    for (int64_t h = 0; h < heads; h++)
        x->k->layernorm_fwd(1, d, y + h * d, d, w + h * d, (float)SL_RWKV7_EPS, to + h * d, d, mean + h, rstd + h);
}

/* What the gate multiplies, to to; <r k, r_k> of each head to bonus. */
static void before_gate(const sl_op *op, const sl_exec *x, int64_t row, const float *const in[ROOM], float *to,
                        float *bonus) {
    int64_t d = *head_dim_of(op);
    const float *bias = sl_weight(op, x, SL_RWKV7_NORM_BIAS), *r_k = sl_weight(op, x, SL_RWKV7_BONUS);
    norm(op, x, row, in[Y], to);
    for (int64_t h = 0; h < op->dim_in / d; h++) {
        float sum = 0;
        for (int64_t i = h * d; i < h * d + d; i++)
            sum += in[R][i] * in[KEYS][i] * r_k[i];
        for (int64_t i = h * d; i < h * d + d; i++)
            to[i] += bias[i] + sum * in[V][i];
        bonus[h] = sum;
    }
}

static void read_all(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s, const float *in[ROOM]) {
    for (int i = 0; i < ROOM; i++)
        in[i] = read(op, x, i, row, s);
}

static int output_forward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    scratch s = scratch_at(op, x, span);
    const float *in[ROOM];
    for (int64_t row = span->first; row < span->first + span->n; row++) {
        read_all(op, x, row, &s, in);
        before_gate(op, x, row, in, s.made[0], s.old);
        for (int64_t i = 0; i < op->dim_in; i++)
            s.made[0][i] *= in[G][i];
        sl_write_columns(x, op->out, row, 1, 0, op->dim_in, s.made[0], op->dim_in);
    }
    return 0;
}

/* Of the bonus of each head, with dt the gradient of what the gate multiplies. */
static void bonus_back(const sl_op *op, const sl_exec *x, const float *const in[ROOM], const float *bonus,
                       const float *dt, const scratch *s, float *dr_k) {
    int64_t d = *head_dim_of(op);
    const float *r_k = sl_weight(op, x, SL_RWKV7_BONUS);
    for (int64_t h = 0; h < op->dim_in / d; h++) {
        float along = x->k->dot(d, dt + h * d, in[V] + h * d);
        for (int64_t i = h * d; i < h * d + d; i++) {
            s->made[V][i] = bonus[h] * dt[i];
            s->made[R][i] = along * in[KEYS][i] * r_k[i];
            s->made[KEYS][i] = along * in[R][i] * r_k[i];
            dr_k[i] += along * in[R][i] * in[KEYS][i];
        }
    }
}

static void output_row_back(const sl_op *op, const sl_exec *x, int64_t row, const scratch *s, float *dparam) {
    int64_t n = op->dim_in, d = *head_dim_of(op), heads = n / d;
    const float *in[ROOM], *w = sl_weight(op, x, SL_RWKV7_NORM_WEIGHT);
    const float *mean = sl_buf_data(x, op->saved[0]) + row * heads, *rstd = sl_buf_data(x, op->saved[1]) + row * heads;
    float *dt = s->gate, *dbias = dparam + n;
    read_all(op, x, row, s, in);
    before_gate(op, x, row, in, s->made[G], s->old);
    const float *dout = sl_read_rows(x, op->dout, row, 1, s->dout);
    for (int64_t i = 0; i < n; i++) {
        dt[i] = dout[i] * in[G][i];
        s->made[G][i] *= dout[i];
        dbias[i] += dt[i];
    }
    bonus_back(op, x, in, s->old, dt, s, dparam + 2 * n);
    for (int64_t h = 0; h < heads; h++)
        x->k->layernorm_bwd(1, d, dt + h * d, d, in[Y] + h * d, d, w + h * d, mean + h, rstd + h, s->made[Y] + h * d, d,
                            0, dparam + h * d);
    for (int i = 0; i < ROOM; i++)
        put(op, x, i, row, s->made[i], s);
}

static int output_backward(const sl_op *op, const sl_exec *x, const sl_span *span) {
    if (!op->acc[KEYS])
        sl_clear_columns(x, op->din[KEYS], span->first, span->n, op->dim_in, x->info[op->din[KEYS]].ld);
    return each_block(op, x, span, output_row_back);
}

static const sl_op_kind output = {.name = "rwkv7_output",
                                  .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = output_forward}),
                                  .backward = FOLDED(output_backward), .adds = true};

sl_buf sl_build_rwkv7_output(sl_program *b, sl_scope scope, const char *prefix, const sl_rwkv7_outputs *in,
                             int64_t head_dim, double gain) {
    sl_op *op = sl_program_op(b, &output, scope);
    int64_t *own = sl_program_own(b, op, sizeof *own), d = b->buffer[in->y].cols;
    if (!own)
        return in->y;
    *own = head_dim;
    const sl_buf reads[] = {[Y] = in->y, [R] = in->r, [KEYS] = in->keys, [V] = in->v, [G] = in->g};
    for (int i = 0; i < ROOM; i++)
        sl_op_reads(op, reads[i], SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    const sl_param_spec specs[] = {
        [SL_RWKV7_NORM_WEIGHT] = {.name = "ln_x.weight", .init = SL_INIT_VALUE, .start = gain, .decay = SL_DECAY_NORM},
        [SL_RWKV7_NORM_BIAS] = {.name = "ln_x.bias", .init = SL_INIT_ZEROS, .decay = SL_DECAY_NONE},
        [SL_RWKV7_BONUS] = {.name = "r_k", .init = SL_INIT_VALUE, .start = -.04, .decay = SL_DECAY_NONE}};
    for (int i = 0; i < (int)(sizeof specs / sizeof *specs); i++) {
        sl_param_spec spec = specs[i];
        spec.rows = d;
        op->param[i] = sl_program_param(b, prefix, &spec);
    }
    op->saved[0] = sl_program_buffer(b, op->rows, d / head_dim);
    op->saved[1] = sl_program_buffer(b, op->rows, d / head_dim);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    count_scratch(op);
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}

int64_t sl_rwkv7_head_dim(const sl_op *op) {
    return op && (op->kind == &keys || op->kind == &output) ? *head_dim_of(op) : 0;
}
