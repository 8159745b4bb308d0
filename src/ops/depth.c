#include "ops/depth.h"

#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

/* in[BANK] is also out of a source's operation: it writes its place there. */
enum { BANK = SL_DEPTH_BANK, APART = SL_DEPTH_IN_APART, PSI = SL_DEPTH_PSI, ASKED = SL_DEPTH_ASKED };
enum { QUERY = SL_DEPTH_QUERY, NORM = SL_DEPTH_NORM, COUPLING = SL_DEPTH_COUPLING, RECENCY = SL_DEPTH_RECENCY };
enum { WEIGHT = SL_DEPTH_WEIGHT, RSTD = SL_DEPTH_RSTD, PRODUCT = SL_DEPTH_PRODUCT };

sl_depth sl_build_depth(sl_program *b, int64_t sources) {
    sl_buf bank = sl_program_buffer(b, b->batch * b->seq, sources * b->config->model_dim);
    return (sl_depth){.bank = bank, .apart = {SL_NONE, SL_NONE}, .psi = SL_NONE};
}

/* ---- a source: in[1] to its place in in[BANK], in place */

int64_t sl_depth_place_of(const sl_op *op) { return *(const int64_t *)op->own; }

/* dim floats of a row of the bank, or of its gradient. */
static float *place_of(const sl_op *op, const sl_exec *x, sl_buf bank, int64_t row) {
    return sl_buf_data(x, bank) + row * x->info[bank].ld + sl_depth_place_of(op) * op->dim_in;
}

static int source_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t r = s->first; r < s->first + s->n; r++)
        memcpy(place_of(op, x, op->out, r), sl_buf_data(x, op->in[1]) + r * op->dim_in,
               (size_t)op->dim_in * sizeof(float));
    return 0;
}

static int source_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        float *din = sl_buf_data(x, op->din[1]) + r * op->dim_in, *dout = place_of(op, x, op->dout, r);
        if (op->acc[1])
            x->k->add(op->dim_in, dout, din);
        else
            memcpy(din, dout, (size_t)op->dim_in * sizeof *din);
    }
    return 0;
}

static const sl_op_kind source = {.name = "depth_source", .adds = true,
                                  .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = source_forward}),
                                  .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = source_backward})};

void sl_build_depth_source(sl_program *b, sl_scope scope, sl_depth *depth, sl_buf x) {
    sl_op *op = sl_program_op(b, &source, scope);
    int64_t *own = sl_program_own(b, op, sizeof *own);
    if (own)
        *own = depth->n;
    sl_op_reads(op, depth->bank, SL_INPUT_GRADIENT);
    sl_op_reads(op, x, SL_INPUT_GRADIENT);
    op->dim_in = b->config->model_dim;
    op->dim_out = b->buffer[depth->bank].cols;
    op->out = depth->bank;
    depth->n++;
}

/* ---- a mixture */

static const sl_depth_mixture *of(const sl_op *op) { return op->own; }

bool sl_depth_asks(const sl_op *op) { return op->in[ASKED] != SL_NONE; }

/* Private scratch of a worker. */
typedef struct {
    float *query;               /* g w: [dim] */
    float *dquery;              /* its gradient, of a block */
    float *square, *logit;      /* [sources] */
    float *of_dout, *of_query, *of_source; /* of a source's gradient; [sources] each */
    float *psi;                 /* of each source, less their mean: [sources] */
    float beta;
    float dbeta, drecency;      /* of a block */
} scratch;

static scratch scratch_at(const sl_op *op, sl_carver *c) {
    int64_t n = sl_depth_sources(&of(op)->depth);
    return (scratch){.query = sl_carve_floats(c, op->dim_in), .dquery = sl_carve_floats(c, op->dim_in),
                     .square = sl_carve_floats(c, n),         .logit = sl_carve_floats(c, n),
                     .of_dout = sl_carve_floats(c, n),        .of_query = sl_carve_floats(c, n),
                     .of_source = sl_carve_floats(c, n),      .psi = sl_carve_floats(c, n)};
}

/* ---- null evidence */

static bool couples(const sl_op *op) { return op->in[PSI] != SL_NONE; }

static float beta_of(const sl_op *op, const sl_exec *x) {
    float c = *sl_weight(op, x, COUPLING);
    return fminf(fmaxf(c, 0) + log1pf(expf(-fabsf(c))), SL_DEPTH_BETA_MOST);
}

/* The halves whose outputs are in source i of a mixture, [first, end): none of the embedding. Of a state that which
 * has the psi of its layer; those apart are of the newest. */
typedef struct {
    int64_t first, end;
} range;
static range halves_of(const sl_op *op, int64_t i) {
    int64_t of_source = of(op)->of_source, halves = of(op)->depth.halves, of_layer = of(op)->of_layer;
    if (i == 0)
        return (range){0, 0};
    if (sl_depth_asks(op)) {
        int64_t first = sl_min(i - 1, (halves - 1) / of_layer) * of_layer;
        return (range){first, first + 1};
    }
    return (range){(i - 1) * of_source, sl_min(i * of_source, halves)};
}

/* psi of each source less their mean, from those of the layers. */
static void source_psi(const sl_op *op, const sl_exec *x, int64_t row, float *psi) {
    int64_t n = sl_depth_sources(&of(op)->depth);
    const float *layer = sl_buf_data(x, op->in[PSI]) + row * x->info[op->in[PSI]].ld;
    float mean = 0;
    for (int64_t i = 0; i < n; i++) {
        range r = halves_of(op, i);
        psi[i] = 0;
        for (int64_t h = r.first; h < r.end; h++)
            psi[i] += layer[h / of(op)->of_layer] / (float)(r.end - r.first);
        mean += psi[i] / (float)n;
    }
    for (int64_t i = 0; i < n; i++)
        psi[i] -= mean;
}

/* From the gradients z of the logits: of psi, -beta (z_i - mean z), on to the layers, and of beta. */
static void source_psi_backward(const sl_op *op, const sl_exec *x, int64_t row, const float *z, scratch *c) {
    int64_t n = sl_depth_sources(&of(op)->depth), layers = x->info[op->din[PSI]].ld;
    float *dlayer = sl_buf_data(x, op->din[PSI]) + row * layers, mean = 0;
    if (!op->acc[PSI])
        memset(dlayer, 0, (size_t)layers * sizeof *dlayer);
    source_psi(op, x, row, c->psi);
    for (int64_t i = 0; i < n; i++) {
        mean += z[i] / (float)n;
        c->dbeta -= z[i] * c->psi[i];
    }
    for (int64_t i = 0; i < n; i++) {
        range r = halves_of(op, i);
        for (int64_t h = r.first; h < r.end; h++)
            dlayer[h / of(op)->of_layer] -= c->beta * (z[i] - mean) / (float)(r.end - r.first);
    }
}

/* dbeta/dc = sigmoid(c), and 0 at its most. */
static float coupling_gradient(const sl_op *op, const sl_exec *x, float dbeta) {
    return beta_of(op, x) < SL_DEPTH_BETA_MOST ? dbeta / (1 + expf(-*sl_weight(op, x, COUPLING))) : 0;
}

/* ---- scores */

/* Where source i of a mixture of states stands, from 0 for the embedding to 1 for the newest. */
static float age_of(const sl_op *op, int64_t i) {
    return (float)i / (float)(sl_depth_sources(&of(op)->depth) - 1);
}

/* Of a row, from what it saves; of states before they are clamped. */
static void scores(const sl_op *op, const sl_exec *x, int64_t row, const scratch *c, const float *rstd,
                   const float *product, float *logit) {
    int64_t n = sl_depth_sources(&of(op)->depth);
    for (int64_t i = 0; i < n; i++)
        logit[i] = rstd[i] * product[i];
    if (couples(op))
        source_psi(op, x, row, c->psi);
    for (int64_t i = 0; couples(op) && i < n; i++)
        logit[i] -= c->beta * c->psi[i];
    for (int64_t i = 0; sl_depth_asks(op) && i < n; i++)
        logit[i] += *sl_weight(op, x, RECENCY) * age_of(op, i);
}

/* logit[n] to weights a. */
static void softmax(const sl_kernels *k, int64_t n, bool null, float *logit, float *a) {
    float top = null ? 0 : logit[0], sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = logit[i] > top ? logit[i] : top;
    for (int64_t i = 0; i < n; i++)
        logit[i] -= top;
    k->exp(n, logit, a);
    for (int64_t i = 0; i < n; i++)
        sum += a[i];
    k->scale(n, 1 / (null ? sum + expf(-top) : sum), a);
}

/* Gradients z of the clamped logits become those of the logits; also of the recency. */
static void unclamp(const sl_op *op, const sl_exec *x, int64_t row, const float *rstd, const float *product, float *z,
                    scratch *c) {
    scores(op, x, row, c, rstd, product, c->logit);
    for (int64_t i = 0; i < sl_depth_sources(&of(op)->depth); i++) {
        z[i] = fabsf(c->logit[i]) <= SL_DEPTH_SCORE_MOST ? z[i] : 0;
        c->drecency += z[i] * age_of(op, i);
    }
}

/* ---- all of it */

static scratch scratch_of(const sl_op *op, const sl_exec *x, int worker) {
    scratch c = scratch_at(op, &(sl_carver){.base = sl_worker_scratch(x, worker)});
    if (!sl_depth_asks(op))
        memcpy(c.query, sl_weight(op, x, QUERY), (size_t)op->dim_in * sizeof *c.query);
    if (op->param[NORM] != SL_NONE)
        x->k->channel_scale_fwd(1, op->dim_in, c.query, op->dim_in, sl_weight(op, x, NORM), c.query, op->dim_in);
    c.beta = couples(op) ? beta_of(op, x) : 0;
    return c;
}

static float *row_of(const sl_exec *x, sl_buf b, int64_t row) { return sl_buf_data(x, b) + row * x->info[b].ld; }

static const float *query_of(const sl_op *op, const sl_exec *x, int64_t row, const scratch *c) {
    return sl_depth_asks(op) ? row_of(x, op->in[ASKED], row) : c->query;
}

/* What the gradient of a row's query is added to. */
static float *dquery_of(const sl_op *op, const sl_exec *x, int64_t row, const scratch *c) {
    if (!sl_depth_asks(op))
        return c->dquery;
    float *dquery = row_of(x, op->din[ASKED], row);
    if (!op->acc[ASKED])
        memset(dquery, 0, (size_t)op->dim_in * sizeof *dquery);
    return dquery;
}

/* Sources first to first + n - 1 lie side by side in a row of in[of]. */
typedef struct {
    int of;
    int64_t first, n;
} place;
/* The next of the places that sources are in; its of is past APART behind the last. */
static place first_place(const sl_op *op) { return (place){BANK, 0, of(op)->depth.n}; }
static place next_place(const sl_op *op, place p) {
    place next = {p.of + 1, p.first + p.n, 1};
    return next.of < PSI && op->in[next.of] == SL_NONE ? (place){PSI, 0, 0} : next;
}

static void mix_row(const sl_op *op, const sl_exec *x, int64_t row, const scratch *c) {
    int64_t d = op->dim_in, n = sl_depth_sources(&of(op)->depth);
    float *a = row_of(x, op->saved[WEIGHT], row), *rstd = row_of(x, op->saved[RSTD], row),
          *product = row_of(x, op->saved[PRODUCT], row), *out = row_of(x, op->out, row);
    for (place p = first_place(op); p.of < PSI; p = next_place(op, p))
        x->k->depth_dots(p.n, d, row_of(x, op->in[p.of], row), d, query_of(op, x, row, c), c->square + p.first,
                         product + p.first);
    for (int64_t i = 0; i < n; i++)
        rstd[i] = op->param[NORM] == SL_NONE ? of(op)->scale : 1 / sqrtf(c->square[i] / (float)d + of(op)->eps);
    scores(op, x, row, c, rstd, product, c->logit);
    for (int64_t i = 0; sl_depth_asks(op) && i < n; i++)
        c->logit[i] = fminf(fmaxf(c->logit[i], -SL_DEPTH_SCORE_MOST), SL_DEPTH_SCORE_MOST);
    softmax(x->k, n, of(op)->null, c->logit, a);
    for (place p = first_place(op); p.of < PSI; p = next_place(op, p))
        x->k->depth_mix(p.n, d, row_of(x, op->in[p.of], row), d, a + p.first, p.of != BANK, out);
}

static int mix_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = scratch_of(op, x, s->worker);
    for (int64_t r = s->first; r < s->first + s->n; r++)
        mix_row(op, x, r, &c);
    return 0;
}

/* With e_i = dout . v_i and z_i = a_i (e_i - sum_k a_k e_k), the gradient of logit i, r_i = 1 / rms and q = g w:
 *     dv_i = a_i dout + z_i r_i q - z_i r_i^3 (q . v_i) / dim v_i,   dq = sum_i z_i r_i v_i.
 * Without a norm of keys dv_i lacks the last of them. */
static void mix_row_backward(const sl_op *op, const sl_exec *x, int64_t row, scratch *c) {
    int64_t d = op->dim_in, n = sl_depth_sources(&of(op)->depth);
    const float *a = row_of(x, op->saved[WEIGHT], row), *rstd = row_of(x, op->saved[RSTD], row),
                *product = row_of(x, op->saved[PRODUCT], row), *dout = row_of(x, op->dout, row);
    float mean = 0, *z = c->of_dout, *dquery = dquery_of(op, x, row, c);
    for (place p = first_place(op); p.of < PSI; p = next_place(op, p))
        for (int64_t i = 0; i < p.n; i++)
            z[p.first + i] = x->k->dot(d, dout, row_of(x, op->in[p.of], row) + i * d);
    for (int64_t i = 0; i < n; i++)
        mean += a[i] * z[i];
    for (int64_t i = 0; i < n; i++)
        z[i] = a[i] * (z[i] - mean);
    if (sl_depth_asks(op))
        unclamp(op, x, row, rstd, product, z, c);
    for (int64_t i = 0; i < n; i++) {
        c->of_query[i] = z[i] * rstd[i];
        c->of_source[i] =
            op->param[NORM] == SL_NONE ? 0 : -c->of_query[i] * rstd[i] * rstd[i] * product[i] / (float)d;
    }
    if (couples(op))
        source_psi_backward(op, x, row, z, c);
    for (place p = first_place(op); p.of < PSI; p = next_place(op, p))
        x->k->depth_mix_bwd(p.n, d, row_of(x, op->in[p.of], row), d, dout, query_of(op, x, row, c), a + p.first,
                            c->of_query + p.first, c->of_source + p.first, op->acc[p.of],
                            row_of(x, op->din[p.of], row), d, dquery);
}

/* Gradients of w and g from that of q = g w, of c and of the recency, into the block's sums. */
static void parameter_sums(const sl_op *op, const sl_exec *x, const scratch *c, float *sums) {
    int64_t d = op->dim_in;
    bool normed = op->param[NORM] != SL_NONE;
    for (int64_t j = 0; !sl_depth_asks(op) && j < d; j++) {
        sums[j] = c->dquery[j] * (normed ? sl_weight(op, x, NORM)[j] : 1);
        if (normed)
            sums[d + j] = c->dquery[j] * sl_weight(op, x, QUERY)[j];
    }
    sums += sl_depth_asks(op) ? 0 : normed ? 2 * d : d;
    if (couples(op))
        *sums++ = coupling_gradient(op, x, c->dbeta);
    if (sl_depth_asks(op))
        *sums = c->drecency;
}

static int mix_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = scratch_of(op, x, s->worker);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        int64_t first = sl_block_first(blocks, i);
        memset(c.dquery, 0, (size_t)op->dim_in * sizeof *c.dquery);
        c.dbeta = c.drecency = 0;
        for (int64_t r = first; r < first + sl_block_rows(blocks, i); r++)
            mix_row_backward(op, x, r, &c);
        parameter_sums(op, x, &c, x->shared + i * sl_op_params_floats(op, x->p));
    }
    return 0;
}

static const sl_op_kind mix = {
    .name = "depth_mix", .adds = true,
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = mix_forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = mix_backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

/* ---- building */

/* r */
static int64_t query_dim(const sl_config *c) { return sl_max(c->model_dim / 4, 64); }

/* u = W_k W_q v of the newest source, fp32. W_k stands as it multiplies here: [dim, r]. */
static sl_buf build_query(sl_program *b, sl_scope scope, sl_buf newest, const char *prefix) {
    int64_t d = b->config->model_dim, r = query_dim(b->config);
    sl_scope round = scope, query = scope, key = scope;
    round.part = SL_PART_round, query.part = SL_PART_query, key.part = SL_PART_key;
    int wq = sl_build_matrix(b, query, prefix, "to_query.weight", r, d, SL_MATRIX_LINEAR);
    int wk = sl_build_matrix(b, key, prefix, "from_query.weight", d, r, SL_MATRIX_LINEAR);
    sl_buf q = sl_build_unquantised(b, query, sl_build_operand(b, round, newest), d, r, wq, SL_NONE);
    return sl_build_unquantised(b, key, q, r, d, wk, SL_APART);
}

/* Of outputs a query, and perhaps a norm of keys; of states a recency. */
static void build_params(sl_program *b, sl_op *op, const sl_depth *depth, const char *prefix) {
    const sl_config *c = b->config;
    sl_param_spec query = {.name = "query", .rows = c->model_dim, .init = SL_INIT_ZEROS, .decay = SL_DECAY_NONE};
    sl_param_spec norm = {.name = "norm.weight", .rows = c->model_dim, .init = SL_INIT_ONES, .decay = SL_DECAY_NORM};
    sl_param_spec coupling = {.name = "coupling", .rows = 1, .init = SL_INIT_VALUE, .start = c->residual_coupling,
                              .decay = SL_DECAY_NONE};
    sl_param_spec recency = {.name = "recency", .rows = 1, .init = SL_INIT_VALUE, .start = c->residual_recency,
                             .decay = SL_DECAY_NONE};
    if (!sl_depth_asks(op))
        op->param[QUERY] = sl_program_param(b, prefix, &query);
    if (!sl_depth_asks(op) && c->residual_key_norm)
        op->param[NORM] = sl_program_param(b, prefix, &norm);
    if (depth->psi != SL_NONE)
        op->param[COUPLING] = sl_program_param(b, prefix, &coupling);
    if (sl_depth_asks(op))
        op->param[RECENCY] = sl_program_param(b, prefix, &recency);
}

sl_buf sl_build_depth_mix(sl_program *b, sl_scope scope, const sl_depth *depth, const char *prefix) {
    const sl_config *c = b->config;
    bool states = c->residual_form == SL_DEPTH_STATES;
    int64_t d = c->model_dim, n = sl_depth_sources(depth);
    sl_buf newest = depth->apart[depth->apart[1] != SL_NONE];
    sl_buf asked = states ? build_query(b, scope, newest, prefix) : SL_NONE;
    sl_op *op = sl_program_op(b, &mix, scope);
    sl_depth_mixture *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return 0;
    *own = (sl_depth_mixture){*depth, (float)c->norm_eps, c->residual_softmax == SL_DEPTH_SOFTMAX1, c->residual_block,
                     sl_config_has_ffn(c) ? 2 : 1, states ? 1 / sqrtf((float)query_dim(c)) : 1};
    sl_op_reads(op, depth->bank, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    for (int i = 0; i < SL_DEPTH_APART; i++)
        sl_op_reads(op, depth->apart[i], SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, depth->psi, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, asked, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    build_params(b, op, depth, prefix);
    for (int i = WEIGHT; i <= PRODUCT; i++)
        op->saved[i] = sl_program_buffer(b, op->rows, n);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    sl_carver count = {0};
    scratch_at(op, &count);
    op->worker_bytes = count.used;
    return op->out = sl_program_buffer(b, op->rows, d);
}

/* ---- for probes */

const sl_depth *sl_depth_of(const sl_op *op) { return op && op->kind == &mix ? &of(op)->depth : NULL; }

const sl_depth_mixture *sl_depth_mixture_of(const sl_op *op) { return of(op); }

int64_t sl_depth_sources(const sl_depth *depth) {
    return depth->n + (depth->apart[0] != SL_NONE) + (depth->apart[1] != SL_NONE);
}
