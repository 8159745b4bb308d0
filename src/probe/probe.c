#include "probe/probe.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "ops/mixer/mixer.h"
#include "probe/put.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Accumulators of h_i and of the block that reads it; after the last block gate[0] is the final norm's. */
typedef struct {
    sl_residual residual, mid; /* mid: of the stream between the block's halves, if it has such */
    sl_attention attention;
    sl_gate gate[2];
} layer_sums;

struct sl_probe {
    const sl_kernels *kernels;
    const sl_model *model;
    int threads; /* that there is scratch for */
    int64_t layers, dim, heads, kv_heads, head_dim, batch, seq;
    int norms; /* of a block: 1 without a feed-forward */
    layer_sums *layer; /* layers + 1 */
    double *doubles;   /* block: sums, then scratch */
    float *floats;     /* block: maxima, then scratch */
    size_t sum_doubles, sum_floats;
    double *parts;     /* scratch of the sl_*_add functions */
    float *gate_values, *rows;
    int32_t *leaders;  /* block: scratch of sl_residual_add */
};

static int norms_of(const sl_probe *p, int64_t layer) { return layer == p->layers ? 1 : p->norms; }

static float extra(const void *model, int layer, int64_t head, const float *q) {
    return sl_model_attention_extra(model, layer, head, q);
}

sl_attention_rows sl_probe_attention_rows(const sl_model *m, int64_t layer) {
    sl_shape s = sl_model_shape(m);
    sl_attention_rows rows = {.windows = s.batch, .seq = s.seq, .heads = s.heads, .kv_heads = s.kv_heads,
                              .head_dim = s.head_dim};
    if (layer < 0 || !sl_model_attends(m, (int)layer))
        return rows;
    sl_qkv_tap tap = sl_model_qkv(m, (int)layer);
    rows.q = tap.q;
    rows.k = tap.k;
    rows.v = tap.v;
    rows.ld = tap.ld;
    rows.scale = tap.scale;
    sl_attention_tap how = sl_model_attention(m, (int)layer);
    rows.kind = how.kind;
    rows.attend = how.attend;
    rows.window = how.window;
    rows.cap = how.cap;
    rows.extra = how.extra ? extra : NULL;
    rows.ctx = m;
    rows.layer = (int)layer;
    return rows;
}

typedef struct {
    const sl_kernels *kernels;
    const sl_attention_rows *a;
    int64_t window, head;
    float *map, *rows;
} map_job;

static void map_row(void *ctx, int64_t t, int thread) {
    const map_job *j = ctx;
    const sl_attention_rows *a = j->a;
    int64_t kv = j->head / (a->heads / a->kv_heads);
    const float *q = a->q + (j->window * a->seq + t) * a->ld + j->head * a->head_dim;
    const float *keys = a->k + j->window * a->seq * a->ld + kv * a->head_dim;
    float *row = j->map + t * a->seq, *s = j->rows + thread * sl_attention_thread_floats(a->seq);
    sl_attention_row(a, j->kernels, j->head, q, keys, t + 1, s, row);
    memset(row + t + 1, 0, (size_t)(a->seq - t - 1) * sizeof *row);
}

void sl_probe_attention_map(const sl_kernels *k, const sl_attention_rows *a, int64_t window, int64_t head, float *map,
                            float *rows) {
    sl_parallel(a->seq, map_row, &(map_job){k, a, window, head, map, rows});
}

int sl_model_attention_weights(const sl_model *m, int layer, int head, float *dst) {
    if (!sl_model_qkv(m, layer).q)
        return -1;
    sl_attention_rows a = sl_probe_attention_rows(m, layer);
    if (head < 0 || head >= a.heads)
        return sl_fail("layer %d has no head %d: there are %lld", layer, head, (long long)a.heads);
    const sl_kernels *k = sl_kernels_select((enum sl_isa)sl_model_config(m)->isa);
    float *rows = sl_alloc((size_t)sl_threads() * (size_t)sl_attention_thread_floats(a.seq) * sizeof *rows,
                           "attention weights");
    for (int64_t w = 0; rows && w < a.windows; w++)
        sl_probe_attention_map(k, &a, w, head, dst + w * a.seq * a.seq, rows);
    sl_free(rows);
    return rows ? 0 : -1;
}

static double *take(double **at, int64_t n) {
    double *p = *at;
    *at += n;
    return p;
}

static sl_residual place_residual(const sl_probe *p, double **d, float **f) {
    sl_residual r = {.dim = p->dim, .seq = p->seq, .sum_abs0 = take(d, p->dim), .sum_sq0 = take(d, p->dim),
                     .sum_abs = take(d, p->dim), .sum_sq = take(d, p->dim), .led = take(d, p->dim), .max0 = *f,
                     .max = *f + p->dim};
    *f += 2 * p->dim;
    return r;
}

/* Hands out the sums' places. */
static void place(sl_probe *p) {
    double *d = p->doubles;
    float *f = p->floats;
    for (int64_t i = 0; i <= p->layers; i++) {
        layer_sums *l = &p->layer[i];
        l->residual = place_residual(p, &d, &f);
        l->mid = place_residual(p, &d, &f);
        l->attention = (sl_attention){.att0 = take(&d, p->heads), .entropy = take(&d, p->heads),
                                      .att0_marked = take(&d, p->heads), .att0_unmarked = take(&d, p->heads),
                                      .v0 = take(&d, p->kv_heads), .v_others = take(&d, p->kv_heads)};
        for (int n = 0; n < 2; n++)
            l->gate[n] = (sl_gate){.dim = p->dim, .sum = take(&d, p->dim),
                                   .sum_sq = take(&d, p->dim)};
    }
    p->parts = d;
    p->gate_values = f;
    p->rows = f + p->batch * p->seq * p->dim;
}

static int allocate(sl_probe *p) {
    sl_attention_rows rows = sl_probe_attention_rows(p->model, -1);
    int64_t parts = sl_attention_parts(&rows);
    size_t scratch = (size_t)(parts > 2 * p->batch ? parts : 2 * p->batch);
    size_t values = (size_t)(p->batch * p->seq * p->dim);
    size_t layers = (size_t)p->layers + 1;
    p->sum_doubles = layers * (size_t)(14 * p->dim + 4 * p->heads + 2 * p->kv_heads);
    p->sum_floats = layers * (size_t)(4 * p->dim);
    values += (size_t)sl_threads() * (size_t)sl_attention_thread_floats(p->seq);
    p->layer = sl_alloc(layers * sizeof *p->layer, "the probe");
    p->doubles = sl_alloc((p->sum_doubles + scratch) * sizeof(double), "the probe");
    p->floats = sl_alloc((p->sum_floats + values) * sizeof(float), "the probe");
    p->leaders = sl_alloc((size_t)(p->batch * p->seq) * sizeof *p->leaders, "the probe");
    return p->layer && p->doubles && p->floats && p->leaders ? 0 : -1;
}

sl_probe *sl_probe_create(const sl_model *m) {
    if (!m) {
        sl_fail("cannot probe a model that is NULL; was its creation checked?");
        return NULL;
    }
    const sl_config *c = sl_model_config(m);
    sl_shape s = sl_model_shape(m);
    sl_probe *p = sl_alloc(sizeof *p, "the probe");
    if (!p)
        return NULL;
    *p = (sl_probe){.kernels = sl_kernels_select((enum sl_isa)c->isa),
                    .model = m,
                    .threads = sl_threads(),
                    .layers = s.layers,
                    .dim = s.dim,
                    .heads = s.heads,
                    .kv_heads = s.kv_heads,
                    .head_dim = s.head_dim,
                    .batch = s.batch,
                    .seq = s.seq,
                    .norms = sl_config_has_ffn(c) && c->model_block != SL_BLOCK_PARALLEL_SHARED ? 2 : 1};
    if (allocate(p) < 0) {
        sl_probe_free(p);
        return NULL;
    }
    place(p);
    return p;
}

void sl_probe_free(sl_probe *p) {
    if (!p)
        return;
    sl_free(p->layer);
    sl_free(p->doubles);
    sl_free(p->floats);
    sl_free(p->leaders);
    sl_free(p);
}

/* Is this a probe, of this model? */
static int check(const sl_probe *p, const sl_model *m) {
    if (!p)
        return sl_fail("the probe is NULL; was its creation checked?");
    return p->model == m ? 0 : sl_fail("the probe was made for another model");
}

int sl_probe_reset(sl_probe *p) {
    if (check(p, p ? p->model : NULL))
        return -1;
    memset(p->doubles, 0, p->sum_doubles * sizeof(double));
    memset(p->floats, 0, p->sum_floats * sizeof(float));
    place(p);
    return 0;
}

static void add_streams(sl_probe *p, const sl_model *m, int64_t layer) {
    const float *mid = sl_model_mid(m, (int)layer);
    sl_residual_add(&p->layer[layer].residual, p->kernels, p->batch, sl_model_residual(m, (int)layer), p->parts,
                    p->leaders);
    if (mid)
        sl_residual_add(&p->layer[layer].mid, p->kernels, p->batch, mid, p->parts, p->leaders);
}

static void add_block(sl_probe *p, const sl_model *m, int64_t layer, const uint8_t *mark) {
    sl_attention_rows rows = sl_probe_attention_rows(m, layer);
    rows.mark = mark;
    sl_attention_add(&p->layer[layer].attention, p->kernels, &rows, p->parts, p->rows);
}

int sl_probe_add(sl_probe *p, const sl_model *m) { return sl_probe_add_marked(p, m, NULL); }

int sl_probe_add_marked(sl_probe *p, const sl_model *m, const uint8_t *mark) {
    if (check(p, m) || sl_model_check_taps(m))
        return -1;
    if (sl_threads() > p->threads)
        return sl_fail("the probe was made for %d threads and there are %d; call sl_threads_set "
                       "before it is made",
                       p->threads, sl_threads());
    for (int64_t i = 0; i <= p->layers; i++) {
        layer_sums *l = &p->layer[i];
        add_streams(p, m, i);
        if (i < p->layers && sl_model_attends(m, (int)i))
            add_block(p, m, i, mark);
        for (int n = 0; n < norms_of(p, i); n++)
            if (sl_model_norm_gate(m, (int)i, n, p->gate_values))
                sl_gate_add(&l->gate[n], p->batch * p->seq, p->gate_values);
    }
    return 0;
}

/* ---- result */

/* What the top level takes from the layers. */
typedef struct {
    double max, max_no_token0, m2, m2_share, kurtosis_h, kurtosis_h_no_token0, token0_norm_ratio;
    double max_mid, m2_mid, kurtosis_h_mid, lambda_min, lambda_at_sink;
    double att0, entropy, sink_rate, value_ratio, top1_permille;
    int64_t m2_layer, m2_dim;
    sl_gate_figures gate;
} summary;

/* The larger of two, NaN if either is. */
static double larger(double a, double b) { return isnan(a) || a > b ? a : b; }
static double smaller(double a, double b) { return isnan(a) || a < b ? a : b; }

static double mean(int64_t n, const double *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

/* Smallest |weight| of the norms of blocks first..end-1 and mean |weight| at channel `dim` (NaN where they
 * have none, or dim is -1). */
static void lambdas(const sl_probe *p, const sl_model *m, int64_t first, int64_t end, int64_t dim,
                    double *least, double *at_dim) {
    double sum = 0;
    int count = 0;
    *least = INFINITY;
    for (int64_t i = first; i < end; i++)
        for (int n = 0; n < p->norms; n++) {
            const float *w = sl_model_norm_weight(m, (int)i, n);
            if (!w)
                continue;
            *least = smaller(sl_lambda_min(p->dim, w), *least);
            sum += dim < 0 ? NAN : fabs((double)w[dim]);
            count++;
        }
    *at_dim = sum / count;
}

sl_sink_dims sl_probe_sink_dims(const sl_probe *p, int64_t layer, double *scratch) {
    const sl_residual *r = &p->layer[layer].residual;
    if (r->windows == 0 || r->seq == 1)
        return (sl_sink_dims){0};
    sl_residual_mean_abs(r, false, scratch);
    return sl_find_sink_dims(r->dim, scratch, scratch + r->dim);
}

/* [[channel, strength], ...] */
static int put_sink_dims(json_t *o, const sl_sink_dims *s) {
    json_t *a = json_array();
    int rc = 0;
    for (int i = 0; i < s->count; i++)
        rc |= json_array_append_new(a, json_pack("[I, o]", (json_int_t)s->dim[i], real(s->strength[i])));
    return put(o, "sink_dims", a) | rc;
}

/* [[channel, layers in which it is a sink, largest strength], ...], lowest channel first. scratch: 2*dim */
static int put_all_sink_dims(const sl_probe *p, json_t *o, double *scratch, double *strength) {
    json_t *a = json_array();
    int rc = 0;
    int64_t *layers = sl_alloc((size_t)p->dim * sizeof *layers, "the probe's result");
    for (int64_t i = 0; layers && i <= p->layers; i++) {
        sl_sink_dims s = sl_probe_sink_dims(p, i, scratch);
        for (int j = 0; j < s.count; j++) {
            double *most = &strength[s.dim[j]];
            *most = layers[s.dim[j]]++ && *most > s.strength[j] ? *most : s.strength[j];
        }
    }
    for (int64_t j = 0; layers && j < p->dim; j++)
        if (layers[j])
            rc |= json_array_append_new(a, json_pack("[I, I, o]", (json_int_t)j, (json_int_t)layers[j],
                                                     real(strength[j])));
    rc |= layers ? 0 : -1;
    sl_free(layers);
    return put(o, "sink_dims", a) | rc;
}

/* Names of a stream's figures. */
typedef struct {
    const char *max, *max_no_token0, *m2, *m2_dim, *m2_share, *kurtosis_h, *kurtosis_h_no_token0;
} figure_names;
static const figure_names figures_here = {"max", "max_no_token0", "m2", "m2_dim", "m2_share", "kurtosis_h",
                                          "kurtosis_h_no_token0"};
static const figure_names figures_mid = {"max_mid", "max_no_token0_mid", "m2_mid", "m2_dim_mid", "m2_share_mid",
                                         "kurtosis_h_mid", "kurtosis_h_no_token0_mid"};

static int put_figures(json_t *o, const figure_names *name, const sl_residual_figures *f) {
    return put(o, name->max, real(f->max)) | put(o, name->max_no_token0, real(f->max_no_token0)) |
           put(o, name->m2, real(f->m2)) |
           put(o, name->m2_dim, f->m2_dim < 0 ? json_null() : json_integer(f->m2_dim)) |
           put(o, name->m2_share, real(f->m2_share)) | put(o, name->kurtosis_h, real(f->kurtosis_h)) |
           put(o, name->kurtosis_h_no_token0, real(f->kurtosis_h_no_token0));
}

/* Of the stream between the halves of a block; null where it has none. */
static int put_mid(const sl_probe *p, json_t *o, int64_t i, summary *s, double *scratch) {
    sl_residual_figures f = sl_residual_measure(&p->layer[i].mid, scratch);
    if (p->layer[i].mid.windows) {
        s->max_mid = larger(f.max, s->max_mid);
        s->m2_mid = larger(f.m2, s->m2_mid);
        s->kurtosis_h_mid = larger(f.kurtosis_h, s->kurtosis_h_mid);
    }
    return put_figures(o, &figures_mid, &f);
}

static int put_residual(const sl_probe *p, json_t *o, int64_t i, summary *s, double *scratch,
                        bool profile) {
    const sl_residual *r = &p->layer[i].residual;
    sl_residual_figures f = sl_residual_measure(r, scratch);
    s->max = larger(f.max, s->max);
    s->max_no_token0 = larger(f.max_no_token0, s->max_no_token0);
    s->kurtosis_h = larger(f.kurtosis_h, s->kurtosis_h);
    s->kurtosis_h_no_token0 = larger(f.kurtosis_h_no_token0, s->kurtosis_h_no_token0);
    s->token0_norm_ratio = larger(f.token0_norm_ratio, s->token0_norm_ratio);
    if (f.m2 > s->m2 || isnan(f.m2)) {
        s->m2 = f.m2;
        s->m2_share = f.m2_share;
        s->m2_layer = i;
        s->m2_dim = f.m2_dim;
    }
    int rc = put(o, "layer", json_integer(i)) | put_figures(o, &figures_here, &f) |
             put(o, "top1_permille", real(f.top1_permille)) |
             put(o, "token0_norm_ratio", real(f.token0_norm_ratio));
    sl_sink_dims sinks = sl_probe_sink_dims(p, i, scratch);
    rc |= put_sink_dims(o, &sinks);
    if (profile) {
        sl_residual_mean_abs(r, false, scratch);
        rc |= put_doubles(o, "channel_mean_abs", p->dim, scratch);
    }
    return rc;
}

/* Of another mixer all figures are null, and its name tells why. */
static int put_attention(const sl_probe *p, json_t *o, int64_t i, double *att0, double *entropy,
                         double *value_ratio) {
    const sl_attention *a = &p->layer[i].attention;
    int rc = 0;
    if (!sl_model_attends(p->model, (int)i))
        rc = put(o, "mixer", json_string(sl_mixer_of(sl_model_config(p->model), i)->name));
    for (int64_t h = 0; h < p->heads; h++) {
        att0[h] = sl_attention_att0(a, h);
        entropy[h] = sl_attention_entropy(a, h);
    }
    for (int64_t h = 0; h < p->kv_heads; h++)
        value_ratio[h] = sl_attention_value_ratio(a, h);
    return rc | put_doubles(o, "att0", p->heads, att0) | put_doubles(o, "entropy", p->heads, entropy) |
           put_doubles(o, "value_norm_ratios", p->kv_heads, value_ratio) |
           put(o, "value_norm_ratio", real(mean(p->kv_heads, value_ratio)));
}

/* Attention to token 0 of marked queries and of the others: an object's mean over blocks and heads, and each head's. */
static int put_marked(const sl_probe *p, json_t *o, json_t *layers) {
    static const char *const names[] = {"att0_other", "att0_trigger"};
    int rc = 0;
    for (int marked = 0; marked < 2; marked++) {
        double sum = 0;
        int64_t attending = 0;
        for (int64_t i = 0; i < p->layers; i++) {
            if (!sl_model_attends(p->model, (int)i))
                continue;
            attending++;
            json_t *heads = json_array();
            for (int64_t h = 0; h < p->heads; h++) {
                double x = sl_attention_att0_of(&p->layer[i].attention, h, marked);
                rc |= json_array_append_new(heads, real(x));
                sum += x;
            }
            rc |= put(json_array_get(layers, (size_t)i), names[marked], heads);
        }
        rc |= put(o, names[marked], real(sum / (double)(attending * p->heads)));
    }
    return rc;
}

static bool has_marks(const sl_probe *p) {
    int64_t rows = 0;
    for (int64_t i = 0; i < p->layers; i++)
        rows += p->layer[i].attention.marked + p->layer[i].attention.unmarked;
    return rows > 0;
}

static int put_norms(const sl_probe *p, const sl_model *m, json_t *o, int64_t i, bool profile) {
    static const char *const names[] = {"norm_weight_attn", "norm_weight_ffn"};
    double least, at_sink;
    const sl_gate *gates[2] = {&p->layer[i].gate[0], &p->layer[i].gate[1]};
    sl_gate_figures g = sl_gate_measure(2, gates);
    const json_t *dim = json_object_get(o, "m2_dim");
    lambdas(p, m, i, i + 1, json_is_integer(dim) ? json_integer_value(dim) : -1, &least, &at_sink);
    int rc = put(o, "lambda_min", real(least)) | put(o, "lambda_at_sink", real(at_sink)) |
             put(o, "gate_mean", real(g.mean)) | put(o, "gate_std", real(g.std)) |
             put(o, "gate_channel_min", real(g.channel_min)) |
             put(o, "gate_channel_max", real(g.channel_max));
    for (int n = 0; profile && n < p->norms; n++) {
        const float *w = sl_model_norm_weight(m, (int)i, n);
        rc |= w ? put_floats(o, names[n], p->dim, w) : put(o, names[n], json_null());
    }
    return rc;
}

/* "top-1 per mille" of the mean over layers of mean |h_j|; scratch: 3*dim. */
static double top1_of_all_layers(const sl_probe *p, double *scratch) {
    double *all = scratch, *one = scratch + p->dim, *sorted = one + p->dim;
    memset(all, 0, (size_t)p->dim * sizeof *all);
    for (int64_t i = 0; i <= p->layers; i++) {
        sl_residual_mean_abs(&p->layer[i].residual, true, one);
        for (int64_t j = 0; j < p->dim; j++)
            all[j] += one[j];
    }
    return sl_top1_permille(p->dim, all, sorted);
}

static sl_gate_figures all_gates(const sl_probe *p, const sl_gate **gates) {
    int count = 0;
    for (int64_t i = 0; i <= p->layers; i++)
        for (int n = 0; n < norms_of(p, i); n++)
            gates[count++] = &p->layer[i].gate[n];
    return sl_gate_measure(count, gates);
}

/* A largest figure that began below all: null where there was none. */
static json_t *real_of_any(double x) { return real(x < 0 ? NAN : x); }

static int put_summary(const sl_probe *p, json_t *o, const summary *s) {
    bool sink = s->m2_dim >= 0;
    int64_t tokens = p->layer[0].residual.windows * p->seq;
    return put(o, "max", real(s->max)) | put(o, "max_no_token0", real(s->max_no_token0)) |
           put(o, "m2", real(s->m2)) |
           put(o, "m2_layer", sink ? json_integer(s->m2_layer) : json_null()) |
           put(o, "m2_dim", sink ? json_integer(s->m2_dim) : json_null()) |
           put(o, "m2_share", real(s->m2_share)) | put(o, "max_mid", real_of_any(s->max_mid)) |
           put(o, "m2_mid", real_of_any(s->m2_mid)) | put(o, "kurtosis_h_mid", real_of_any(s->kurtosis_h_mid)) |
           put(o, "top1_permille", real(s->top1_permille)) |
           put(o, "kurtosis_h", real(s->kurtosis_h)) |
           put(o, "kurtosis_h_no_token0", real(s->kurtosis_h_no_token0)) |
           put(o, "lambda_min", real(s->lambda_min)) |
           put(o, "lambda_at_sink", real(s->lambda_at_sink)) | put(o, "att0", real(s->att0)) |
           put(o, "sink_rate", real(s->sink_rate)) |
           put(o, "attention_entropy", real(s->entropy)) |
           put(o, "value_norm_ratio", real(s->value_ratio)) |
           put(o, "token0_norm_ratio", real(s->token0_norm_ratio)) |
           put(o, "gate_mean", real(s->gate.mean)) | put(o, "gate_std", real(s->gate.std)) |
           put(o, "tokens", json_integer(tokens));
}

/* doubles: 3*dim + layers * (2*heads + kv_heads), of which layers that attend fill theirs; gates: 2*(layers + 1). */
static int build(const sl_probe *p, const sl_model *m, json_t *o, bool profile, double *doubles,
                 const sl_gate **gates) {
    int64_t heads = p->layers * p->heads;
    double *att0 = doubles + 3 * p->dim, *entropy = att0 + heads, *value_ratio = entropy + heads;
    summary s = {.max = -1, .max_no_token0 = -1, .m2 = -1, .kurtosis_h = -1,
                 .kurtosis_h_no_token0 = -1, .m2_dim = -1, .token0_norm_ratio = -1,
                 .max_mid = -1, .m2_mid = -1, .kurtosis_h_mid = -1, .m2_share = NAN};
    json_t *layers = json_array();
    int64_t attending = 0;
    int rc = 0;
    for (int64_t i = 0; i <= p->layers; i++) {
        json_t *l = json_object();
        rc |= put_residual(p, l, i, &s, doubles, profile);
        if (i < p->layers)
            rc |= put_mid(p, l, i, &s, doubles) |
                  put_attention(p, l, i, att0 + attending * p->heads, entropy + attending * p->heads,
                                value_ratio + attending * p->kv_heads) |
                  put_norms(p, m, l, i, profile);
        else if (profile && sl_model_norm_weight(m, (int)i, 0))
            rc |= put_floats(l, "norm_weight_final", p->dim, sl_model_norm_weight(m, (int)i, 0));
        rc |= json_array_append_new(layers, l);
        attending += i < p->layers && sl_model_attends(m, (int)i);
    }
    heads = attending * p->heads;
    lambdas(p, m, 0, p->layers, s.m2_dim, &s.lambda_min, &s.lambda_at_sink);
    s.top1_permille = top1_of_all_layers(p, doubles);
    s.att0 = mean(heads, att0);
    s.entropy = mean(heads, entropy);
    s.sink_rate = sl_sink_rate(heads, att0);
    s.value_ratio = mean(attending * p->kv_heads, value_ratio);
    s.gate = all_gates(p, gates);
    rc |= put_summary(p, o, &s);
    if (has_marks(p))
        rc |= put_marked(p, o, layers);
    rc |= put_all_sink_dims(p, o, doubles, doubles + 2 * p->dim);
    return put(o, "layers", layers) | rc;
}

json_t *sl_probe_result(const sl_probe *p, const sl_model *m, bool profile) {
    if (check(p, m))
        return NULL;
    size_t n = (size_t)(3 * p->dim + p->layers * (2 * p->heads + p->kv_heads));
    double *doubles = sl_alloc(n * sizeof *doubles, "the probe's result");
    const sl_gate **gates = sl_alloc(2 * ((size_t)p->layers + 1) * sizeof *gates, "the probe's result");
    json_t *o = json_object();
    if (!doubles || !gates || !o || build(p, m, o, profile, doubles, gates) != 0) {
        sl_fail("out of memory for the probe's result; close other programs");
        json_decref(o);
        o = NULL;
    }
    sl_free(doubles);
    sl_free(gates);
    return o;
}

char *sl_probe_json(const sl_probe *p, const sl_model *m, bool profile) {
    json_t *o = sl_probe_result(p, m, profile);
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (o && !text)
        sl_fail("out of memory for the probe's text");
    json_decref(o);
    return text;
}
