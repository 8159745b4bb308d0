/* The measures of detail.h on passes of a model: memory and adding. */
#include "probe/detail_internal.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "ops/mixer/mixer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const sl_measure_info sl_measure_table[] = {
    {"contribution", "share of the attention output that comes through token 0, per head before the output projection "
                     "and in all after it"},
    {"norms", "share of the sink dimensions in the norm of each block norm's input and output"},
    {"dynamics", "sink dimensions over sequences and positions: constant share, correlations"},
    {"singular",
     "leading singular directions of each block (fitted linear map, chain of blocks, down projection) against the "
     "token of greatest norm (SINDER, arXiv 2407.16826)"},
    {"outliers", "max, max/median, kurtosis and channel outliers of norm outputs, q, k, v, attention output, "
                 "down-projection input"},
    {"gates", "gate score of gated norms against |activation|: correlations and binned means"},
    {"depth", "what each half of a block and the head read where model.residual mixes: the mixture, its newest source, "
              "the weights of all (arXiv 2603.15031)"},
    {"recurrence", "recurrent mixers: token 0 in the attention that they are the same as, decay, state, and sinks in "
                   "what their own norm reads"},
    {"anchors", "model.anchors: coefficients by part, and the share of a logit with token 0 that comes through the "
                "anchor (arXiv 2601.08131)"},
    {NULL, NULL},
};

/* Tokens that a block map is fitted to: a few times its width, and enough for small ones. */
static int64_t map_tokens(int64_t dim) { return 4096 + 4 * dim; }

static const int64_t map_bytes_limit = (int64_t)4 << 30;

/* ---- memory */

void *detail_take(sl_detail *d, int64_t n, size_t size) {
    if (d->blocks == d->block_capacity) {
        int capacity = d->block_capacity ? 2 * d->block_capacity : 64;
        void **grown = realloc(d->block, (size_t)capacity * sizeof *grown);
        if (!grown) {
            sl_fail("out of memory for the measures");
            d->failed = true;
            return NULL;
        }
        d->block = grown;
        d->block_capacity = capacity;
    }
    void *p = sl_alloc((size_t)n * size, "the measures; give fewer --measures");
    if (!p)
        d->failed = true;
    else
        d->block[d->blocks++] = p;
    return p;
}

static double *take_doubles(sl_detail *d, int64_t n) { return detail_take(d, n, sizeof(double)); }
static float *take_floats(sl_detail *d, int64_t n) { return detail_take(d, n, sizeof(float)); }

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Columns of a class at a layer, 0 if it has none. */
static int64_t class_width(const sl_detail *d, int64_t layer, enum detail_class c) {
    const sl_shape *s = &d->shape;
    bool block = layer < s->layers;
    switch (c) {
    case CLASS_NORM_ATTN:
        return sl_model_tap_width(d->model, (int)layer, SL_TAP_ATTN_NORM_IN) ? s->dim : 0;
    case CLASS_NORM_FFN:
        return sl_model_tap_width(d->model, (int)layer, SL_TAP_FFN_NORM_IN) ? s->dim : 0;
    case CLASS_Q:
        return block && sl_model_attends(d->model, (int)layer) ? s->heads * s->head_dim : 0;
    case CLASS_K:
    case CLASS_V:
        return block && sl_model_attends(d->model, (int)layer) ? s->kv_heads * s->head_dim : 0;
    case CLASS_OUT:
        return sl_model_tap_width(d->model, (int)layer, SL_TAP_OUT_IN);
    default:
        return sl_model_tap_width(d->model, (int)layer, SL_TAP_DOWN_IN);
    }
}

static sl_residual take_residual(sl_detail *d, int64_t dim) {
    return (sl_residual){.dim = dim, .seq = d->shape.seq, .sum_abs0 = take_doubles(d, dim),
                         .sum_sq0 = take_doubles(d, dim), .sum_abs = take_doubles(d, dim),
                         .sum_sq = take_doubles(d, dim), .led = take_doubles(d, dim), .max0 = take_floats(d, dim),
                         .max = take_floats(d, dim)};
}

static void take_mixture(sl_detail *d, mixture_detail *x, int64_t sources) {
    x->sums = (sl_depth_sums){.sources = sources, .weight = take_doubles(d, sources),
                              .square = take_doubles(d, sources), .norm = take_doubles(d, sources),
                              .weight0 = take_doubles(d, sources)};
    x->in = take_residual(d, d->shape.dim);
    x->last = take_residual(d, d->shape.dim);
}

/* Queries that are told begin behind the tokens that are looked at and what their convolution carries on of them. */
static int64_t first_query(const sl_model *m) {
    const sl_config *c = sl_model_config(m);
    sl_recurrence_sizes of;
    int64_t first = SL_RECURRENCE_TOKENS;
    for (int i = 0; i < (int)c->model_layers; i++)
        if (sl_model_recurrence(m, i, &of))
            first = max64(first, SL_RECURRENCE_TOKENS - 1 + sl_mixer_of(c, i)->reach(c));
    return first;
}

/* eps of the norm that stands before the gate, under which a row counts as nothing. */
static sl_recurrence_rows recurrence_rows(const sl_detail *d, int64_t i, sl_recurrence_sizes of) {
    const float *weight;
    const sl_gate_norm *g = sl_model_gate_norm(d->model, (int)i, &weight, NULL);
    return (sl_recurrence_rows){.of = of, .windows = d->shape.batch, .seq = d->shape.seq,
                                .first = d->first_query,
                                .eps = g && g->place == SL_GATE_NORM_BEFORE ? (double)g->eps
                                       : of.eps > 0                         ? of.eps
                                                                            : NAN};
}

static void take_recurrence(sl_detail *d, int64_t i) {
    layer_detail *l = &d->layer[i];
    sl_recurrence_sizes of;
    bool recurrent = sl_model_recurrence(d->model, (int)i, &of);
    const float *weight = NULL;
    int64_t heads = recurrent ? of.heads : sl_model_attends(d->model, (int)i) ? d->shape.heads : 0;
    if (heads == 0 || !sl_model_tap_width(d->model, (int)i, SL_TAP_CORE))
        return;
    l->recurrence = detail_take(d, heads, sizeof *l->recurrence);
    if (!recurrent || !sl_model_gate_norm(d->model, (int)i, &weight, NULL) || !weight)
        return;
    l->own_norm_in = take_residual(d, heads * of.value_dim);
    l->own_norm_weight = take_floats(d, heads * of.value_dim);
}

/* Room for the layer that needs most. */
static void take_recurrence_scratch(sl_detail *d) {
    const sl_shape *s = &d->shape;
    sl_recurrence_room most = {s->batch * s->heads, d->threads * sl_recurrence_attention_floats(s->seq), 0};
    sl_recurrence_sizes of;
    for (int64_t i = 0; i < s->layers; i++) {
        if (!sl_model_recurrence(d->model, (int)i, &of))
            continue;
        sl_recurrence_rows r = recurrence_rows(d, i, of);
        sl_recurrence_room one = sl_recurrence_needs(&r);
        most = (sl_recurrence_room){max64(most.parts, one.parts), max64(most.floats, one.floats),
                                    max64(most.doubles, one.doubles)};
    }
    d->recurrence = (sl_recurrence_scratch){detail_take(d, most.parts, sizeof *d->recurrence.parts),
                                            take_floats(d, most.floats), take_doubles(d, most.doubles)};
}

static void take_layer(sl_detail *d, int64_t i) {
    const sl_shape *s = &d->shape;
    layer_detail *l = &d->layer[i];
    bool block = i < s->layers;
    if (detail_wants(d, SL_MEASURE_CONTRIBUTION) && block)
        l->contribution.head = detail_take(d, s->heads, sizeof(sl_share));
    for (int c = 0; detail_wants(d, SL_MEASURE_OUTLIERS) && c < CLASSES; c++) {
        int64_t width = class_width(d, i, c);
        if (width)
            l->outliers[c] = (sl_outliers){.dim = width, .sum_sq = take_doubles(d, width),
                                           .bins = detail_take(d, SL_OUTLIER_BINS, sizeof(uint64_t))};
    }
    for (int w = 0; detail_wants(d, SL_MEASURE_GATES) && w < 2; w++)
        if (sl_model_tap_width(d->model, (int)i, SL_TAP_ATTN_GATE_IN + w))
            l->gate[w] = (sl_gate_score){.dim = s->dim, .channel_y = take_doubles(d, s->dim),
                                         .channel_gate = take_doubles(d, s->dim)};
    for (int w = 0; detail_wants(d, SL_MEASURE_DEPTH) && w < 2; w++)
        if (sl_model_depth_sources(d->model, (int)i, w))
            take_mixture(d, &l->mixture[w], sl_model_depth_sources(d->model, (int)i, w));
    if (detail_wants(d, SL_MEASURE_RECURRENCE) && block)
        take_recurrence(d, i);
    if (detail_wants(d, SL_MEASURE_DYNAMICS))
        l->sink = take_floats(d, d->sinks[i].count * d->kept_windows * s->seq);
    if (detail_wants(d, SL_MEASURE_SINGULAR) && block) {
        l->row = (extreme_row){.norm = -1, .state = take_floats(d, s->dim), .update = take_floats(d, s->dim)};
        d->map[i] = (sl_block_map){.dim = s->dim, .gram = take_doubles(d, s->dim * s->dim),
                                   .cross = take_doubles(d, s->dim * s->dim), .solved = take_doubles(d, s->dim)};
    }
}

static void take_scratch(sl_detail *d) {
    const sl_shape *s = &d->shape;
    sl_contribution_rows c = {.rows = sl_probe_attention_rows(d->model, -1), .dim = s->dim};
    int64_t widest = max64(s->dim, s->heads * s->head_dim);
    for (int64_t i = 0; i < s->layers; i++)
        widest = max64(widest, max64(class_width(d, i, CLASS_OUT), class_width(d, i, CLASS_DOWN)));
    if (detail_wants(d, SL_MEASURE_RECURRENCE))
        take_recurrence_scratch(d);
    int64_t qkv = (s->heads + 2 * s->kv_heads) * s->head_dim; /* a row of the anchors, twice */
    d->a = take_floats(d, max64(s->batch * s->seq * widest, 2 * qkv));
    d->b = take_floats(d, max64(s->batch * s->seq * widest, 2 * qkv));
    d->rows = take_floats(d, d->threads * sl_contribution_thread_floats(&c));
    d->leaders = detail_take(d, s->batch * s->seq, sizeof *d->leaders);
    d->doubles = take_doubles(d, max64(sl_contribution_parts(&c), 3 * s->batch));
    if (detail_wants(d, SL_MEASURE_OUTLIERS))
        d->bins = detail_take(d, (int64_t)d->threads * SL_OUTLIER_BINS, sizeof *d->bins);
    d->gate_parts = detail_take(d, sl_gate_score_parts(s->dim), sizeof *d->gate_parts);
}

static int check_map_size(const sl_shape *s) {
    int64_t bytes = s->dim * s->dim * 2 * (int64_t)sizeof(double);
    if (bytes <= map_bytes_limit / s->layers)
        return 0;
    return sl_fail("--measures singular would need %.0f GB for %lld blocks of width %lld; leave it out",
                   (double)bytes * (double)s->layers / 1e9, (long long)s->layers, (long long)s->dim);
}

sl_detail *sl_detail_create(const sl_model *m, unsigned measures, int64_t windows, const sl_sink_dims *sinks) {
    sl_shape s = sl_model_shape(m);
    if (measures >> SL_MEASURE_SINGULAR & 1 && check_map_size(&s))
        return NULL;
    sl_detail *d = sl_alloc(sizeof *d, "the measures");
    if (!d)
        return NULL;
    *d = (sl_detail){.model = m, .kernels = sl_kernels_select((enum sl_isa)sl_model_config(m)->isa),
                     .measures = measures, .threads = sl_threads(), .shape = s,
                     .first_query = first_query(m)};
    d->kept_windows = windows < SL_DYNAMICS_WINDOWS ? windows : SL_DYNAMICS_WINDOWS;
    d->layer = detail_take(d, s.layers + 1, sizeof *d->layer);
    d->map = detail_take(d, s.layers, sizeof *d->map);
    d->sinks = detail_take(d, s.layers + 1, sizeof *d->sinks);
    if (!d->failed) {
        memcpy(d->sinks, sinks, ((size_t)s.layers + 1) * sizeof *sinks);
        for (int64_t i = 0; i <= s.layers && !d->failed; i++)
            take_layer(d, i);
        take_scratch(d);
    }
    if (d->failed) {
        sl_detail_free(d);
        return NULL;
    }
    return d;
}

void sl_detail_free(sl_detail *d) {
    if (!d)
        return;
    for (int i = 0; i < d->blocks; i++)
        sl_free(d->block[i]);
    free(d->block);
    sl_free(d);
}

/* ---- adding */

static void add_contribution(sl_detail *d, int64_t i) {
    if (!sl_model_attends(d->model, (int)i))
        return; /* no weight of token 0: null */
    bool gated = sl_model_tap(d->model, (int)i, SL_TAP_OUT_IN, d->b);
    const float *w = sl_model_projection(d->model, (int)i, SL_TAP_OUT_IN);
    if (!sl_model_tap(d->model, (int)i, SL_TAP_CORE, d->a) || !gated || !w)
        return;
    gated = memcmp(d->a, d->b, (size_t)(d->shape.batch * d->shape.seq * d->shape.heads * d->shape.head_dim) *
                                   sizeof *d->a) != 0;
    sl_contribution_rows c = {.rows = sl_probe_attention_rows(d->model, i), .core = d->a,
                              .out_in = gated ? d->b : d->a, .w_out = w, .dim = d->shape.dim};
    sl_contribution_add(&d->layer[i].contribution, d->kernels, &c, d->doubles, d->rows);
}

static void add_norms(sl_detail *d, int64_t i) {
    layer_detail *l = &d->layer[i];
    const sl_shape *s = &d->shape;
    for (int w = 0; w < 2; w++) {
        if (!sl_model_tap(d->model, (int)i, SL_TAP_ATTN_NORM_IN + w, d->a))
            continue;
        sl_share_add(&l->norm_in[w], d->kernels, s->batch, s->seq, s->dim, d->a, &d->sinks[i]);
        sl_share_add(&l->norm_out[w], d->kernels, s->batch, s->seq, s->dim,
                     sl_model_norm_output(d->model, (int)i, w), &d->sinks[i]);
    }
}

static void add_dynamics(sl_detail *d, int64_t i) {
    const sl_shape *s = &d->shape;
    const float *h = sl_model_residual(d->model, (int)i);
    int64_t left = d->kept_windows - d->windows, windows = left < s->batch ? left : s->batch;
    for (int k = 0; windows > 0 && k < d->sinks[i].count; k++) {
        float *to = d->layer[i].sink + (k * d->kept_windows + d->windows) * s->seq;
        for (int64_t t = 0; t < windows * s->seq; t++)
            to[t] = h[t * s->dim + d->sinks[i].dim[k]];
    }
}

static void add_class(sl_detail *d, int64_t i, enum detail_class c, const float *x, int64_t ld) {
    const sl_shape *s = &d->shape;
    sl_outlier_rows rows = {x, s->batch, s->seq, d->layer[i].outliers[c].dim, ld};
    if (rows.dim && x)
        sl_outliers_add(&d->layer[i].outliers[c], &rows, d->doubles, d->bins);
}

static void add_outliers(sl_detail *d, int64_t i) {
    for (int w = 0; w < 2; w++)
        if (d->layer[i].outliers[CLASS_NORM_ATTN + w].dim)
            add_class(d, i, CLASS_NORM_ATTN + w, sl_model_norm_output(d->model, (int)i, w), d->shape.dim);
    if (i == d->shape.layers)
        return;
    if (sl_model_attends(d->model, (int)i)) {
        sl_qkv_tap qkv = sl_model_qkv(d->model, (int)i);
        add_class(d, i, CLASS_Q, qkv.q, qkv.ld);
        add_class(d, i, CLASS_K, qkv.k, qkv.ld);
        add_class(d, i, CLASS_V, qkv.v, qkv.ld);
    }
    for (int p = 0; p < 2; p++)
        if (sl_model_tap(d->model, (int)i, SL_TAP_OUT_IN + p, d->a))
            add_class(d, i, CLASS_OUT + p, d->a, d->layer[i].outliers[CLASS_OUT + p].dim);
}

static void add_gates(sl_detail *d, int64_t i) {
    for (int w = 0; w < 2; w++)
        if (d->layer[i].gate[w].dim && sl_model_tap(d->model, (int)i, SL_TAP_ATTN_GATE_IN + w, d->a) &&
            sl_model_norm_gate(d->model, (int)i, w, d->b))
            sl_gate_score_add(&d->layer[i].gate[w], d->shape.batch, d->shape.seq, d->a, d->b, d->gate_parts);
}

/* What reads heads of a layer. */
typedef struct {
    const sl_model *model;
    int layer;
} layer_of;

static void read_head(const void *ctx, int64_t window, int64_t head, sl_recurrence_head *to) {
    const layer_of *l = ctx;
    sl_model_recurrence_head(l->model, l->layer, window, head, to);
}

/* y in d->a and g(z) in d->b of all rows: the gate, and what the norm reads, which is y where it stands before. */
static void add_own_norm(sl_detail *d, int64_t i, const sl_gate_norm *g, const float *weight) {
    layer_detail *l = &d->layer[i];
    int64_t n = sl_model_tap_width(d->model, (int)i, SL_TAP_CORE), rows = d->shape.batch * d->shape.seq;
    for (int64_t k = 0; g->gate != SL_GATE_NORM_OPEN && k < rows * n; k++) {
        double value = fabs((double)d->b[k]);
        bool first = k / n % d->shape.seq == 0;
        *(first ? &l->own_gate.n0 : &l->own_gate.n) += 1;
        *(first ? &l->own_gate.sum0 : &l->own_gate.sum) += value;
        l->own_gate.closed += !first && value < .05;
    }
    for (int64_t k = 0; g->place == SL_GATE_NORM_AFTER && k < rows * n; k++)
        d->a[k] *= d->b[k];
    if (!weight)
        return;
    for (int64_t c = 0; c < n; c++)
        l->own_norm_weight[c] = weight[g->shared ? c % g->span : c];
    sl_residual_add(&l->own_norm_in, d->kernels, d->shape.batch, d->a, d->doubles, d->leaders);
}

static void add_stream0(sl_detail *d, int64_t i) {
    const sl_shape *s = &d->shape;
    const float *h = sl_model_residual(d->model, (int)i);
    for (int64_t w = 0; w < s->batch; w++) {
        double most = 0;
        for (int64_t c = 0; c < s->dim; c++) {
            double x = fabs((double)h[w * s->seq * s->dim + c]);
            most = x > most || isnan(x) ? x : most;
        }
        d->layer[i].stream0 += most;
    }
}

static void add_recurrence(sl_detail *d, int64_t i) {
    layer_detail *l = &d->layer[i];
    layer_of layer = {d->model, (int)i};
    sl_recurrence_sizes of;
    const float *weight = NULL;
    add_stream0(d, i);
    if (i == d->shape.layers || !l->recurrence || !sl_model_tap(d->model, (int)i, SL_TAP_CORE, d->a))
        return;
    if (!sl_model_recurrence(d->model, (int)i, &of)) {
        sl_attention_rows a = sl_probe_attention_rows(d->model, i);
        sl_recurrence_add_attention(l->recurrence, d->kernels, &a, d->a, d->first_query, d->recurrence.parts,
                                    d->recurrence.floats);
        return;
    }
    if (sl_model_fetch_recurrence(d->model, (int)i))
        return;
    sl_recurrence_rows r = recurrence_rows(d, i, of);
    r.read = read_head, r.ctx = &layer;
    sl_recurrence_add(l->recurrence, &r, &d->recurrence);
    const sl_gate_norm *g = sl_model_gate_norm(d->model, (int)i, &weight, d->b);
    if (g)
        add_own_norm(d, i, g, weight);
}

/* The last source of each row, side by side in d->a. */
static const float *last_source(sl_detail *d, const sl_depth_tap *t) {
    const sl_shape *s = &d->shape;
    if (t->sources > t->banked)
        return t->apart[t->sources - t->banked - 1];
    for (int64_t r = 0; r < s->batch * s->seq; r++)
        memcpy(d->a + r * s->dim, t->bank + r * t->ld + (t->banked - 1) * s->dim, (size_t)s->dim * sizeof *d->a);
    return d->a;
}

bool detail_leaves(const sl_detail *d, int64_t i) {
    return i < d->shape.layers && sl_model_attends(d->model, (int)i) &&
           sl_model_config(d->model)->model_attention == SL_ATTENTION_softmax1;
}

static void add_depth(sl_detail *d, int64_t i) {
    const sl_shape *s = &d->shape;
    if (detail_leaves(d, i)) {
        sl_attention_rows a = sl_probe_attention_rows(d->model, i);
        sl_null_evidence_add(&d->layer[i].null, d->kernels, &a, d->doubles, d->rows);
    }
    for (int w = 0; w < 2; w++) {
        mixture_detail *x = &d->layer[i].mixture[w];
        sl_depth_tap t = sl_model_depth(d->model, (int)i, w);
        if (!x->sums.sources || !t.sources)
            continue;
        sl_depth_add(&x->sums, d->kernels,
                     &(sl_depth_rows){s->batch, s->seq, s->dim, t.banked, t.weight, t.bank, {t.apart[0], t.apart[1]},
                                      t.ld});
        sl_residual_add(&x->in, d->kernels, s->batch, t.mixture, d->doubles, d->leaders);
        sl_residual_add(&x->last, d->kernels, s->batch, last_source(d, &t), d->doubles, d->leaders);
    }
}

static void add_anchors(sl_detail *d, int64_t i) {
    sl_anchor_sums *s = &d->layer[i].anchors;
    sl_attention_rows a = sl_probe_attention_rows(d->model, i);
    for (int gate = 0; gate < 2; gate++) {
        const sl_anchor_layout *l = sl_model_anchored(d->model, (int)i, gate);
        if (!l)
            continue;
        int64_t n = l->first[l->parts] * l->head_dim, key = gate ? 0 : l->first[1] * l->head_dim;
        float *coef[2] = {d->a, d->a + n}, *mixed[2] = {d->b, d->b + n};
        for (int64_t r = 0; r < d->shape.batch * d->shape.seq; r++) {
            if (!sl_model_anchored_row(d->model, (int)i, gate, r, coef, mixed))
                return;
            sl_anchor_sums_add(s, l, gate ? SL_ANCHORED - 1 : 0, (const float *const[]){coef[0], coef[1]});
            if (!gate && r % d->shape.seq == 0)
                sl_anchor_sums_add_logits(s, &a, r / d->shape.seq,
                                          (const float *const[]){mixed[0] + key, mixed[1] + key});
        }
    }
}

/* Of a stream to which blocks add: a mixture is no map of the one before it. */
static void add_singular(sl_detail *d, int64_t i) {
    const sl_shape *s = &d->shape;
    if (sl_model_config(d->model)->model_residual != SL_RESIDUAL_PLAIN)
        return;
    const float *h = sl_model_residual(d->model, (int)i), *next = sl_model_residual(d->model, (int)i + 1);
    extreme_row *row = &d->layer[i].row;
    int64_t left = (map_tokens(s->dim) - d->map[i].tokens + s->seq - 1) / s->seq;
    if (left > 0)
        sl_block_map_add(&d->map[i], left < s->batch ? left : s->batch, s->seq, h, next);
    for (int64_t t = 0; t < s->batch * s->seq; t++) {
        double norm = sqrt(d->kernels->sumsq(s->dim, next + t * s->dim));
        if (!(norm > row->norm))
            continue;
        row->norm = norm;
        row->position = t % s->seq;
        for (int64_t c = 0; c < s->dim; c++) {
            row->state[c] = next[t * s->dim + c];
            row->update[c] = next[t * s->dim + c] - h[t * s->dim + c];
        }
    }
}

int sl_detail_add(sl_detail *d, const sl_model *m) {
    static void (*const add[SL_MEASURES])(sl_detail *, int64_t) = {add_contribution, add_norms,    add_dynamics,
                                                                   add_singular,     add_outliers, add_gates,
                                                                   add_depth,        add_recurrence, add_anchors};
    static const bool of_blocks[SL_MEASURES] = {[SL_MEASURE_CONTRIBUTION] = true, [SL_MEASURE_SINGULAR] = true,
                                                [SL_MEASURE_ANCHORS] = true};
    if (m != d->model)
        return sl_fail("the measures were made for another model");
    if (sl_model_check_taps(m))
        return -1;
    if (sl_threads() > d->threads)
        return sl_fail("the measures were made for %d threads and there are %d", d->threads, sl_threads());
    for (int64_t i = 0; i <= d->shape.layers; i++)
        for (int measure = 0; measure < SL_MEASURES; measure++)
            if (detail_wants(d, measure) && (i < d->shape.layers || !of_blocks[measure]))
                add[measure](d, i);
    d->windows += d->shape.batch;
    return 0;
}
