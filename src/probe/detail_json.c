/* The measures of detail.h as JSON. */
#include "probe/detail_internal.h"

#include "base/err.h"
#include "ops/mixer/mixer.h"
#include "probe/put.h"

static const char *const parts[2] = {"attn", "ffn"};

static json_t *contribution(sl_detail *d, int64_t i) {
    const sl_contribution *c = &d->layer[i].contribution;
    json_t *o = json_object(), *head = json_array();
    for (int64_t h = 0; h < d->shape.heads; h++)
        json_array_append_new(head, real(sl_share_of(c->head[h])));
    put(o, "head", head);
    put(o, "projected", real(sl_share_of(c->projected)));
    return o;
}

static json_t *norms(sl_detail *d, int64_t i) {
    json_t *o = json_object();
    for (int w = 0; w < 2; w++) {
        const layer_detail *l = &d->layer[i];
        bool there = sl_model_tap_width(d->model, (int)i, SL_TAP_ATTN_NORM_IN + w) > 0;
        put(o, parts[w], there ? json_pack("{s:o, s:o}", "in", real(sl_share_of(l->norm_in[w])), "out",
                                           real(sl_share_of(l->norm_out[w])))
                               : json_null());
    }
    return o;
}

static json_t *dynamics(sl_detail *d, int64_t i) {
    int64_t windows = d->windows < d->kept_windows ? d->windows : d->kept_windows, seq = d->shape.seq;
    double *scratch = detail_take(d, windows * seq + windows + seq, sizeof *scratch);
    json_t *dims = json_array();
    for (int k = 0; scratch && k < d->sinks[i].count; k++) {
        sl_dynamics y = sl_dynamics_measure(windows, seq, d->layer[i].sink + k * d->kept_windows * seq, scratch);
        json_array_append_new(dims, json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "dim",
                                              (json_int_t)d->sinks[i].dim[k], "strength",
                                              real(d->sinks[i].strength[k]), "mean", real(y.mean), "constant_share",
                                              real(y.constant_share), "same_sign", real(y.same_sign),
                                              "across_sequences", real(y.across_sequences), "across_positions",
                                              real(y.across_positions), "agreement", real(y.agreement)));
    }
    return json_pack("{s:o}", "dims", dims);
}

static json_t *direction(const sl_detail *d, int64_t i, const sl_linear *map, double *u, double *scratch) {
    const extreme_row *row = &d->layer[i].row;
    sl_singular s = sl_leading_singular(map, u, scratch);
    return json_pack("{s:o, s:o, s:b, s:o, s:o}", "sigma", real(s.sigma), "second", real(s.second), "converged",
                     s.converged, "cos_state", real(sl_alignment(map->rows, u, row->state)), "cos_update",
                     real(sl_alignment(map->rows, u, row->update)));
}

/* Layers come in order: the maps of all earlier blocks are solved. */
static json_t *singular(sl_detail *d, int64_t i) {
    int64_t dim = d->shape.dim;
    sl_matrix down = {sl_model_projection(d->model, (int)i, SL_TAP_DOWN_IN), dim,
                      sl_model_tap_width(d->model, (int)i, SL_TAP_DOWN_IN)};
    double *u = detail_take(d, 5 * dim + down.cols, sizeof *u);
    json_t *o = json_object();
    if (!u)
        return o;
    sl_linear matrix = sl_linear_matrix(&down), block = sl_linear_block(&d->map[i]);
    sl_block_chain all = {d->map, i + 1, u + dim};
    sl_linear chain = sl_linear_chain(&all);
    bool solved = d->layer[i].row.norm >= 0 && sl_block_map_solve(&d->map[i]);
    d->map[i].tokens = solved ? d->map[i].tokens : 0;
    bool chained = solved;
    for (int64_t b = 0; b < i; b++)
        chained = chained && d->map[b].tokens > 0;
    put(o, "token", d->layer[i].row.norm >= 0
                        ? json_pack("{s:I, s:o}", "position", (json_int_t)d->layer[i].row.position, "norm",
                                    real(d->layer[i].row.norm))
                        : json_null());
    put(o, "down", down.w ? direction(d, i, &matrix, u, u + 2 * dim) : json_null());
    put(o, "block", solved ? direction(d, i, &block, u, u + 2 * dim) : json_null());
    put(o, "chain", chained ? direction(d, i, &chain, u, u + 2 * dim) : json_null());
    return o;
}

static json_t *outliers(sl_detail *d, int64_t i) {
    static const char *const names[CLASSES] = {"norm_attn", "norm_ffn",         "q",         "k",
                                               "v",         "attention_output", "down_input"};
    json_t *o = json_object();
    for (int c = 0; c < CLASSES; c++) {
        const sl_outliers *sums = &d->layer[i].outliers[c];
        double *scratch = sums->dim ? detail_take(d, 2 * sums->dim, sizeof *scratch) : NULL;
        if (!scratch) {
            put(o, names[c], json_null());
            continue;
        }
        sl_outlier_figures f = sl_outliers_measure(sums, scratch);
        put(o, names[c],
            json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "max", real(f.max), "max_no_token0",
                      real(f.max_no_token0), "max_over_median", real(f.max_over_median), "kurtosis", real(f.kurtosis),
                      "kurtosis_h", real(f.kurtosis_h), "channel_max_over_median", real(f.channel_max_over_median),
                      "channel", f.channel < 0 ? json_null() : json_integer(f.channel), "channels_over_6",
                      real(f.channels_over_6)));
    }
    return o;
}

static json_t *gate_bins(const sl_gate_sums *s) {
    json_t *a = json_array();
    for (int b = 0; b < SL_GATE_BINS; b++)
        json_array_append_new(a, json_pack("[f, o, o]", sl_gate_bin_edge(b), real(s->bin_count[b] / s->n),
                                           real(s->bin_gate[b] / s->bin_count[b])));
    return a;
}

static json_t *gates(sl_detail *d, int64_t i) {
    json_t *o = json_object();
    for (int w = 0; w < 2; w++) {
        const sl_gate_score *g = &d->layer[i].gate[w];
        put(o, parts[w], g->dim ? json_pack("{s:o, s:o, s:o}", "elements", real(sl_gate_score_elements(g)), "channels",
                                            real(sl_gate_score_channels(g)), "bins", gate_bins(&g->sums))
                                : json_null());
    }
    return o;
}

static json_t *stream_figures(sl_detail *d, const sl_residual *r) {
    double *scratch = detail_take(d, 2 * r->dim, sizeof *scratch);
    if (!scratch)
        return json_null();
    sl_residual_figures f = sl_residual_measure(r, scratch);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "max", real(f.max), "max_no_token0", real(f.max_no_token0), "m2",
                     real(f.m2), "m2_dim", f.m2_dim < 0 ? json_null() : json_integer(f.m2_dim), "kurtosis_h",
                     real(f.kurtosis_h), "token0_norm_ratio", real(f.token0_norm_ratio));
}

/* sums[n] over what they are divided by. */
static json_t *shares(int64_t n, const double *sums, double whole) {
    json_t *a = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(a, real(sums[i] / whole));
    return a;
}

static json_t *mixture(sl_detail *d, const mixture_detail *x) {
    const sl_depth_sums *s = &x->sums;
    double n = (double)s->tokens, norms = 0;
    bool null = sl_model_config(d->model)->residual_softmax == SL_DEPTH_SOFTMAX1;
    for (int64_t i = 0; i < s->sources; i++)
        norms += s->norm[i];
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "in", stream_figures(d, &x->in), "last",
                     stream_figures(d, &x->last), "weight", shares(s->sources, s->weight, n), "weight_token0",
                     shares(s->sources, s->weight0, (double)s->windows), "contribution",
                     shares(s->sources, s->norm, norms), "entropy", real(s->entropy / n), "top1", real(s->top / n),
                     "null", null ? real(s->null / n) : json_null(), "constant_share",
                     real(sl_depth_constant_share(s)));
}

/* Of a layer of softmax1; else null, with a reason in why. */
static void put_null_evidence(const sl_detail *d, int64_t i, json_t *o) {
    const sl_null_evidence *x = &d->layer[i].null;
    const char *why = i == d->shape.layers                       ? "the head has no attention"
                      : !sl_model_attends(d->model, (int)i)      ? "the mixer has no attention"
                                                                 : "only model.attention=softmax1 leaves any";
    double n = (double)x->windows;
    bool leaves = detail_leaves(d, i);
    put(o, "null_evidence", leaves ? json_pack("{s:o, s:o}", "token0", real(x->token0 / n), "others",
                                               real(x->others / (n * (double)(x->seq - 1))))
                                   : json_null());
    put(o, "why", leaves ? json_object() : json_pack("{s:s}", "null_evidence", why));
}

static json_t *depth(sl_detail *d, int64_t i) {
    json_t *o = json_object();
    put_null_evidence(d, i, o);
    put(o, "residual", json_string(sl_choices_residual[sl_model_config(d->model)->model_residual].name));
    for (int w = 0; w < 2; w++) {
        const mixture_detail *x = &d->layer[i].mixture[w];
        put(o, parts[w], x->sums.sources ? mixture(d, x) : json_null());
    }
    return o;
}

/* Of a head, or of all heads' sums: means. */
static json_t *recurrent_head(const sl_recurrence_sums *h, const sl_recurrence_sizes *of, bool normed) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "att0", real(h->share[0] / h->queries),
                     "contribution", real(h->contribution / h->queries),
                     "over_output", real(h->over_output / h->queries),
                     "half_life", of->decays ? real(log(.5) * h->tokens / h->log_decay) : json_null(),
                     "weight_token0", of->weighs ? real(h->weight0 / h->windows) : json_null(),
                     "weight", of->weighs ? real(h->weight / h->tokens) : json_null(),
                     "key_token0_ratio", real(h->key0 / h->windows / (h->key / h->tokens)),
                     "input_token0_ratio", real(h->value0 / h->windows / (h->value / h->tokens)),
                     "rms_token0", real(h->rms0 / h->windows),
                     "rms", real(h->rms / h->tokens),
                     "below_eps", normed ? real(h->below_eps / (h->tokens + h->windows)) : json_null(),
                     "state_half", real(h->half / h->states),
                     "state_end", real(h->end / h->states),
                     "state_token0", real(h->token0 / h->states),
                     "state_peak", real(h->peak / h->states),
                     "stable_rank", real(h->rank / h->states));
}

/* Does a norm read each head's output before a gate? */
static bool norms_heads(const sl_recurrence_sizes *of, const sl_gate_norm *g) {
    return of->eps > 0 || (g && g->place == SL_GATE_NORM_BEFORE);
}

static json_t *own_norm(sl_detail *d, const layer_detail *l) {
    int64_t n = l->own_norm_in.dim;
    double *scratch = detail_take(d, 2 * n + 1, sizeof *scratch), *weight = detail_take(d, n + 1, sizeof *weight);
    if (n == 0 || !scratch || !weight || l->own_norm_in.windows == 0)
        return json_null();
    sl_residual_figures f = sl_residual_measure(&l->own_norm_in, scratch);
    for (int64_t j = 0; j < n; j++)
        weight[j] = fabs((double)l->own_norm_weight[j]);
    double ratio = f.m2_dim < 0 ? NAN : weight[f.m2_dim] / sl_median(n, weight, scratch);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "max", real(f.max), "max_no_token0", real(f.max_no_token0), "m2",
                     real(f.m2), "m2_dim", f.m2_dim < 0 ? json_null() : json_integer(f.m2_dim), "kurtosis_h",
                     real(f.kurtosis_h), "weight_ratio", real(ratio));
}

static json_t *own_gate(const own_gate_sums *g) {
    return g->n + g->n0 > 0 ? json_pack("{s:o, s:o, s:o}", "token0", real(g->sum0 / g->n0), "mean", real(g->sum / g->n),
                                        "closed", real(g->closed / g->n))
                            : json_null();
}

/* Mean over windows of token 0's largest |h| behind block i. */
static double spike(const sl_detail *d, int64_t i) { return d->layer[i + 1].stream0 / (double)d->windows; }

/* The layers without attention before block i, back to the attention before them, or to the first. */
static int64_t run_before(const sl_detail *d, int64_t i) {
    int64_t n = 0;
    while (n < i && !sl_model_attends(d->model, (int)(i - 1 - n)))
        n++;
    return n;
}

/* Of attention behind two layers or more that have none (arXiv 2608.12149): is token 0 largest just before it, and how
 * large, by the smaller of that spike and the one before the last attention, if there is one, in the layers between? */
static json_t *alignment(const sl_detail *d, int64_t i) {
    int64_t n = run_before(d, i), last = i - n - 1;
    double right = spike(d, i - 1), left = last > 0 ? spike(d, last - 1) : right, small = fmin(left, right), sum = 0;
    bool peaks = true;
    for (int64_t k = i - n; k < i - 1; k++) {
        peaks = peaks && spike(d, k) < right;
        sum += fmin(1, spike(d, k) / small);
    }
    return json_pack("{s:b, s:o, s:o}", "peaks_before", peaks, "spike", real(right), "between",
                     real(sum / (double)(n - 1)));
}

/* Why a figure is null, by its name. */
static json_t *reasons(const sl_detail *d, int64_t i, const sl_recurrence_sizes *of, const sl_gate_norm *g) {
    bool attends = sl_model_attends(d->model, (int)i), told = d->layer[i].recurrence != NULL;
    bool queries = d->layer[i].recurrence && d->layer[i].recurrence->queries > 0;
    const struct {
        bool stands;
        const char *figure, *why;
    } all[] = {
        {!told, "share", "the mixer has neither attention nor a state"},
        {told && !queries, "share", "no query behind the first tokens and their convolution reads anything"},
        {!of, "head", attends ? "attention keeps no state" : "the mixer keeps no state"},
        {of && !of->decays, "half_life", "nothing decays"},
        {of && !of->weighs, "weight", "values are added whole"},
        {of && !norms_heads(of, g), "below_eps", "no norm reads the output before the gate"},
        {!of || !g || g->gate == SL_GATE_NORM_OPEN, "gate", of && of->eps > 0 ? "the mixer's gate has no bounds"
                                                                 : "the mixer has no gate of its own"},
        {!of || !g || g->place == SL_GATE_NORM_OFF, "norm_in",
         of && of->eps > 0 ? "the mixer's norm is of each head, with its mean taken away; rms and below_eps tell of it"
                           : "the mixer has no norm of its own"},
        {!attends || run_before(d, i) < 2, "alignment", attends ? "fewer than two layers without attention before it"
                                                                : "it is told where there is attention"}};
    json_t *o = json_object();
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        if (all[k].stands)
            put(o, all[k].figure, json_string(all[k].why));
    return o;
}

static json_t *recurrence(sl_detail *d, int64_t i) {
    const layer_detail *l = &d->layer[i];
    const float *weight;
    sl_recurrence_sizes of;
    bool is = sl_model_recurrence(d->model, (int)i, &of) && l->recurrence;
    const sl_gate_norm *g = is ? sl_model_gate_norm(d->model, (int)i, &weight, NULL) : NULL;
    double share[SL_RECURRENCE_TOKENS] = {0}, queries = 0, uniform = 0, rows = 0;
    int64_t heads = is ? of.heads : d->shape.heads, first = d->first_query;
    json_t *o = json_object(), *head = json_array();
    for (int64_t h = 0; l->recurrence && h < heads; h++) {
        for (int j = 0; j < SL_RECURRENCE_TOKENS; j++)
            share[j] += l->recurrence[h].share[j];
        queries += l->recurrence[h].queries;
        if (is)
            json_array_append_new(head, recurrent_head(&l->recurrence[h], &of, norms_heads(&of, g)));
    }
    for (int64_t t = first; t < d->shape.seq; t++, rows++)
        uniform += 1 / (double)(t + 1);
    for (int j = 0; j < SL_RECURRENCE_TOKENS; j++)
        share[j] /= queries;
    put(o, "mixer", json_string(sl_mixer_of(sl_model_config(d->model), i)->name));
    put(o, "share", json_null());
    if (queries > 0)
        put_doubles(o, "share", SL_RECURRENCE_TOKENS, share);
    put(o, "uniform", queries > 0 ? real(uniform / rows) : json_null());
    put(o, "head", is ? json_incref(head) : json_null());
    put(o, "gate", own_gate(&l->own_gate));
    put(o, "norm_in", own_norm(d, l));
    bool aligned = sl_model_attends(d->model, (int)i) && run_before(d, i) >= 2;
    put(o, "alignment", aligned ? alignment(d, i) : json_null());
    put(o, "why", reasons(d, i, is ? &of : NULL, g));
    json_decref(head);
    return o;
}

/* Means over tokens of the coefficients of one of both. */
static json_t *coefficients(const sl_anchor_sums *s, int i) {
    static const char *const names[SL_ANCHORED] = {"q", "k", "v", "gate"};
    json_t *o = json_object();
    for (int p = 0; p < SL_ANCHORED; p++)
        put(o, names[p], s->rows[p] > 0 ? real(s->coef[i][p] / s->rows[p]) : json_null());
    return o;
}

static json_t *anchors(sl_detail *d, int64_t i) {
    const sl_anchor_sums *s = &d->layer[i].anchors;
    double both = s->logit[0] + s->logit[1];
    bool mixes = s->rows[0] > 0, sees = s->logits > 0;
    json_t *o = json_object(), *why = json_object();
    put(o, "anchor", mixes ? coefficients(s, 0) : json_null());
    put(o, "own", mixes ? coefficients(s, 1) : json_null());
    put(o, "sink_logit", sees ? json_pack("{s:o, s:o, s:o}", "all", real(both / s->logits), "anchor",
                                          real(s->logit[0] / s->logits), "own", real(s->logit[1] / s->logits))
                              : json_null());
    put(o, "share", sees ? real(s->logit[0] / both) : json_null());
    if (!mixes)
        put(why, "anchor", json_string(sl_model_config(d->model)->model_anchors == SL_ANCHORS_NONE
                                           ? "model.anchors is none"
                                       : !sl_model_attends(d->model, (int)i) ? "the mixer has no attention"
                                                                             : "its own are the anchors"));
    if (mixes && !sees)
        put(why, "sink_logit", json_string("no later query sees token 0"));
    if (mixes && s->rows[SL_ANCHORED - 1] == 0)
        put(why, "gate", json_string("attention has no gate of each channel"));
    put(o, "why", why);
    return o;
}

json_t *sl_detail_result(sl_detail *d) {
    static json_t *(*const make[SL_MEASURES])(sl_detail *, int64_t) = {contribution, norms,    dynamics,
                                                                       singular,     outliers, gates,
                                                                       depth,        recurrence, anchors};
    json_t *o = json_object();
    bool ok = o != NULL;
    for (int measure = 0; ok && measure < SL_MEASURES; measure++) {
        bool of_blocks = measure == SL_MEASURE_CONTRIBUTION || measure == SL_MEASURE_SINGULAR ||
                         measure == SL_MEASURE_RECURRENCE || measure == SL_MEASURE_ANCHORS;
        json_t *layers = json_array();
        if (!detail_wants(d, measure)) {
            json_decref(layers);
            continue;
        }
        for (int64_t i = 0; ok && i < d->shape.layers + !of_blocks; i++) {
            json_t *l = make[measure](d, i);
            ok = l && put(l, "layer", json_integer(i)) == 0 && json_array_append_new(layers, l) == 0;
        }
        ok = put(o, sl_measure_table[measure].name, layers) == 0 && ok;
    }
    if (ok && !d->failed)
        return o;
    json_decref(o);
    sl_fail("out of memory for the measures' result; close other programs");
    return NULL;
}
