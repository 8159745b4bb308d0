/* RWKV-7's time mix (arXiv 2503.14456; its starts as in RWKV-LM, RWKV-v7/train_temp/src/model.py). Tensors are behind
 * model.layers.N.att, named as there; x_* is x shifted by a share of its own:
 *   r, k, v = W x_r, W x_k, W x_v,   w = w0 + W2 tanh(W1 x_w),   a = sigmoid(a0 + A2 A1 x_a),   g = G2 sigmoid(G1 x_g)
 *   v = v + (v_first - v) sigmoid(v0 + V2 V1 x_v), but in the model's first layer of this mixer, whose v is v_first,
 *   W_o (output(wkv7(r, w, k, v, a), r, k, v) g)
 * It has no positions but the order of the recurrence. */
#include "ops/mixer/mixer.h"
#include "ops/mixer/rwkv7_rows.h"
#include "ops/mixer/shift.h"
#include "ops/mixer/squash.h"
#include "ops/mixer/wkv7.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"

#include <math.h>
#include <stdio.h>

/* What a layer is built from. */
typedef struct {
    sl_program *b;
    const sl_mixer_site *site;
    sl_rwkv7_sizes n;
    char prefix[64];
    double depth; /* 0 at the first layer, 1 at the last */
    double left;  /* 1 at the first, 1 / layers at the last */
} layer;

static sl_scope at(const layer *l, enum sl_part part) {
    return (sl_scope){(int)l->site->layer, SL_HALF_ATTN, part, SL_ROLE_SELF};
}

/* ---- starts */

/* Of channel i of n, in heads of `head`: from -1/2 to 1/2 over all, and x |x| of x from -1 to 1 over a head. */
static double linear(int64_t i, int64_t n) { return (double)i / (double)(n - 1) - .5; }
static double zigzag(int64_t i, int64_t head) {
    double middle = (double)(head - 1) / 2, x = ((double)(i % head) - middle) / middle;
    return x * fabs(x);
}

/* start: the exponent. From -6 to 0 over the channels, so that some forget within a few positions. */
static void draw_w0(const sl_tensor *t, sl_rng *rng, float *w) {
    (void)rng;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(-5.5 + 6 * pow(linear(i, t->size) + .5, (double)t->init_std) + 2.5 * zigzag(i, t->span));
}
static void draw_a0(const sl_tensor *t, sl_rng *rng, float *w) {
    (void)rng;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(-.19 + .3 * zigzag(i, t->span) + .4 * linear(i, t->size));
}
static void draw_v0(const sl_tensor *t, sl_rng *rng, float *w) {
    (void)rng;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(.73 - .4 * linear(i, t->size));
}

/* Vectors of length n, `step` apart from number to number and `next` from one to the next, become orthogonal, of length
 * 1 (Gram-Schmidt, twice, which fp32 needs). */
static void orthogonalise(int64_t count, int64_t n, int64_t step, int64_t next, float *w) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j <= 2 * i; j++) {
            const float *other = w + j % (i + 1) * next;
            float *own = w + i * next;
            bool itself = j % (i + 1) == i;
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (double)own[k * step] * (double)other[k * step];
            for (int64_t k = 0; k < n; k++)
                own[k * step] = itself ? (float)((double)own[k * step] / sqrt(sum))
                                       : (float)((double)own[k * step] - sum * (double)other[k * step]);
        }
}

/* A tenth of an orthogonal matrix [out, rank]; where it has more columns than rows sqrt(rank / out) times that. */
static void draw_orthogonal(const sl_tensor *t, sl_rng *rng, float *w) {
    int64_t out = t->shape[0], rank = t->shape[1];
    double gain = rank > out ? .1 * sqrt((double)rank / (double)out) : .1;
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)sl_rng_normal(rng);
    if (rank > out)
        orthogonalise(out, rank, 1, rank, w);
    else
        orthogonalise(rank, out, rank, 1, w);
    for (int64_t i = 0; i < t->size; i++)
        w[i] = (float)(gain * (double)w[i]);
}

/* ---- parts */

static sl_buf shift(layer *l, const char *name, double power) {
    return sl_build_shift(l->b, at(l, SL_PART_shift), l->prefix, name, power * l->left, l->site->in);
}

/* W x, W uniform in +-width / sqrt(dim). */
static sl_buf project(layer *l, enum sl_part part, const char *name, double width, sl_buf x) {
    int64_t d = l->b->config->model_dim;
    int w = sl_program_param(l->b, l->prefix, &(sl_param_spec){.name = name, .rows = d, .cols = d,
                                                               .init = SL_INIT_UNIFORM,
                                                               .start = width / sqrt((double)d), .place = at(l, part),
                                                               .decay = SL_DECAY_MATRIX, .linear = true});
    return sl_build_linear(l->b, at(l, part), x, d, d, w, SL_NONE, SL_NONE);
}

/* A projection of low rank: its parts, and names of its tensors; squash -1: nothing between. */
typedef struct {
    enum sl_part in, act, out;
    const char *first, *second;
    int squash;
} low_rank;

static sl_buf project_low(layer *l, const low_rank *how, int64_t rank, sl_buf x) {
    int64_t d = l->b->config->model_dim;
    sl_program *b = l->b;
    int first = sl_program_param(b, l->prefix, &(sl_param_spec){.name = how->first, .rows = rank, .cols = d,
                                                                .init = SL_INIT_ZEROS, .place = at(l, how->in),
                                                                .decay = SL_DECAY_NONE, .linear = true});
    sl_buf h = sl_build_unquantised(b, at(l, how->in), x, d, rank, first, SL_NONE);
    if (how->squash >= 0)
        h = sl_build_squash(b, at(l, how->act), (enum sl_squash)how->squash, h);
    int second = sl_program_param(b, l->prefix, &(sl_param_spec){.name = how->second, .rows = d, .cols = rank,
                                                                 .init = SL_INIT_DRAW, .draw = draw_orthogonal,
                                                                 .decay = SL_DECAY_NONE});
    return sl_build_unquantised(b, at(l, how->out), h, rank, d, second, SL_NONE);
}

/* Declares what is added to such a projection; start: as draw has it; rate: of the learning rate. */
static int vector(layer *l, const char *name, sl_draw draw, double start, double rate) {
    sl_param_spec spec = {.name = name, .rows = l->b->config->model_dim, .init = SL_INIT_DRAW, .draw = draw,
                          .start = start, .span = l->n.head_dim, .decay = SL_DECAY_NONE, .rate = rate};
    return sl_program_param(l->b, l->prefix, &spec);
}

/* v of this layer, or, behind the first one, its mixture with v of the first. */
static sl_buf build_values(layer *l, sl_buf x) {
    sl_buf v = project(l, SL_PART_v, "value.weight", .5, x);
    if (*l->site->values == SL_NONE)
        return *l->site->values = v;
    sl_buf share = project_low(l, &(low_rank){SL_PART_v_in, SL_PART_none, SL_PART_v_out, "v1.weight", "v2.weight", -1},
                               l->n.value_rank, x);
    int v0 = vector(l, "v0", draw_v0, 0, 1);
    return sl_build_rwkv7_values(l->b, at(l, SL_PART_v_mix), v, *l->site->values, share, v0);
}

static layer layer_of(sl_program *b, const sl_mixer_site *s) {
    int64_t layers = b->config->model_layers;
    layer l = {.b = b, .site = s, .n = sl_config_rwkv7(b->config),
               .depth = layers > 1 ? (double)s->layer / (double)(layers - 1) : 0,
               .left = 1 - (double)s->layer / (double)layers};
    snprintf(l.prefix, sizeof l.prefix, "model.layers.%lld.att", (long long)s->layer);
    return l;
}

static sl_buf build(sl_program *b, const sl_mixer_site *s) {
    layer l = layer_of(b, s);
    int64_t d = b->config->model_dim;
    sl_buf r = project(&l, SL_PART_r, "receptance.weight", .5, shift(&l, "x_r", .2));
    sl_buf k = project(&l, SL_PART_k, "key.weight", .05, shift(&l, "x_k", .7));
    sl_buf v = build_values(&l, shift(&l, "x_v", .7));
    sl_buf w = project_low(&l, &(low_rank){SL_PART_w_in, SL_PART_w_act, SL_PART_w_out, "w1.weight", "w2.weight",
                                           SL_SQUASH_TANH},
                           l.n.decay_rank, shift(&l, "x_w", .9));
    sl_buf a = project_low(&l, &(low_rank){SL_PART_a_in, SL_PART_none, SL_PART_a_out, "a1.weight", "a2.weight",
                                           -1},
                           l.n.rate_rank, shift(&l, "x_a", .9));
    sl_buf g = project_low(&l, &(low_rank){SL_PART_g_in, SL_PART_g_act, SL_PART_g_out, "g1.weight", "g2.weight",
                                           SL_SQUASH_SIGMOID},
                           l.n.gate_rank, shift(&l, "x_g", .2));
    sl_buf keys = sl_build_rwkv7_keys(b, at(&l, SL_PART_keys), l.prefix, k, a, vector(&l, "a0", draw_a0, 0, 1),
                                      l.n.head_dim);
    int w0 = vector(&l, "w0", draw_w0, 1 + pow(l.depth, .3), 2);
    sl_buf y = sl_build_wkv7(b, at(&l, SL_PART_core), &(sl_wkv7_inputs){r, w, v, keys},
                             &(sl_wkv7){l.n.heads, l.n.head_dim}, w0);
    y = sl_build_rwkv7_output(b, at(&l, SL_PART_gate), l.prefix, &(sl_rwkv7_outputs){y, r, keys, v, g}, l.n.head_dim,
                              pow((double)(1 + s->layer) / (double)b->config->model_layers, .7));
    sl_scope out = at(&l, SL_PART_out);
    int weight = sl_program_param(b, l.prefix, &(sl_param_spec){.name = "output.weight", .rows = d, .cols = d,
                                                                .init = SL_INIT_ZEROS, .place = out,
                                                                .decay = SL_DECAY_MATRIX, .linear = true});
    return sl_build_linear(b, out, y, d, d, weight, SL_NONE, s->residual);
}

/* Of a number of state forward 9: what is held at a key 2, the step 5, y 2; twice as many back. */
static double flops(const sl_config *c, int64_t seq) {
    (void)seq;
    return 27 * (double)(c->model_dim * c->rwkv7_head_dim);
}

static const sl_block_layer layers[] = {
    {SL_HALF_ATTN, SL_PART_r, SL_NORM_ATTN, true},     {SL_HALF_ATTN, SL_PART_k, SL_NORM_ATTN, true},
    {SL_HALF_ATTN, SL_PART_v, SL_NORM_ATTN, true},     {SL_HALF_ATTN, SL_PART_w_in, SL_NORM_ATTN, false},
    {SL_HALF_ATTN, SL_PART_a_in, SL_NORM_ATTN, false}, {SL_HALF_ATTN, SL_PART_v_in, SL_NORM_ATTN, false},
    {SL_HALF_ATTN, SL_PART_g_in, SL_NORM_ATTN, false}, {SL_HALF_ATTN, SL_PART_out, -1, true},
    {.part = SL_PART_none}};

/* The shift's. */
static int64_t reach(const sl_config *c) {
    (void)c;
    return 2;
}

const sl_mixer sl_mixer_rwkv7 = {.name = "rwkv7", .build = build, .flops = flops, .layers = layers,
                                 .recurrence = &sl_wkv7_recurrence, .reach = reach};
