#include "ops/depth.h"

#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

/* in[BANK] is also out of a source's operation: it writes its place there. */
enum { BANK, PARTIAL, PSI };
enum { QUERY, NORM, COUPLING };
/* What a mixture saves, each [rows, sources]: a; 1 / rms of the sources (1 without a norm of keys); their products
 * with g w. */
enum { WEIGHT, RSTD, PRODUCT };

sl_depth sl_build_depth(sl_program *b, int64_t sources) {
    sl_buf bank = sl_program_buffer(b, b->batch * b->seq, sources * b->config->model_dim);
    return (sl_depth){.bank = bank, .partial = SL_NONE, .psi = SL_NONE};
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

typedef struct {
    sl_depth depth; /* as it stood when the operation was built */
    float eps;
    bool null; /* softmax1: one more source, of logit 0 and value 0 */
    int64_t of_source, of_layer; /* halves of one source, of one layer */
} mixture;
static const mixture *of(const sl_op *op) { return op->own; }

/* Private scratch of a worker. */
typedef struct {
    float *query;               /* g w: [dim] */
    float *dquery;              /* its gradient, of a block */
    float *square, *logit;      /* [sources] */
    float *of_dout, *of_query, *of_source; /* of a source's gradient; [sources] each */
    float *psi;                 /* of each source, less their mean: [sources] */
    float beta, dbeta;          /* the latter of a block */
} scratch;

static scratch scratch_at(const sl_op *op, sl_carver *c) {
    int64_t n = sl_depth_sources(&of(op)->depth);
    return (scratch){.query = sl_carve_floats(c, op->dim_in), .dquery = sl_carve_floats(c, op->dim_in),
                     .square = sl_carve_floats(c, n),         .logit = sl_carve_floats(c, n),
                     .of_dout = sl_carve_floats(c, n),        .of_query = sl_carve_floats(c, n),
                     .of_source = sl_carve_floats(c, n),      .psi = sl_carve_floats(c, n)};
}

/* ---- null evidence */

#define BETA_MOST 10.0f

static bool couples(const sl_op *op) { return op->in[PSI] != SL_NONE; }

static float beta_of(const sl_op *op, const sl_exec *x) {
    float c = *sl_weight(op, x, COUPLING);
    return fminf(fmaxf(c, 0) + log1pf(expf(-fabsf(c))), BETA_MOST);
}

/* The halves whose outputs are in source i of a mixture, [first, end): none of the embedding. */
typedef struct {
    int64_t first, end;
} range;
static range halves_of(const sl_op *op, int64_t i) {
    int64_t of_source = of(op)->of_source;
    return i ? (range){(i - 1) * of_source, sl_min(i * of_source, of(op)->depth.halves)} : (range){0, 0};
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
    return beta_of(op, x) < BETA_MOST ? dbeta / (1 + expf(-*sl_weight(op, x, COUPLING))) : 0;
}

/* ---- both */

static scratch scratch_of(const sl_op *op, const sl_exec *x, int worker) {
    scratch c = scratch_at(op, &(sl_carver){.base = sl_worker_scratch(x, worker)});
    memcpy(c.query, sl_weight(op, x, QUERY), (size_t)op->dim_in * sizeof *c.query);
    if (op->param[NORM] != SL_NONE)
        x->k->channel_scale_fwd(1, op->dim_in, c.query, op->dim_in, sl_weight(op, x, NORM), c.query, op->dim_in);
    c.beta = couples(op) ? beta_of(op, x) : 0;
    return c;
}

static float *bank_row(const sl_exec *x, sl_buf bank, int64_t row) {
    return sl_buf_data(x, bank) + row * x->info[bank].ld;
}
/* The partial sum of a row or its gradient, NULL where there is none. */
static float *partial_row(const sl_op *op, const sl_exec *x, sl_buf partial, int64_t row) {
    return partial == SL_NONE ? NULL : sl_buf_data(x, partial) + row * op->dim_in;
}
static float *saved_row(const sl_op *op, const sl_exec *x, int which, int64_t row) {
    return sl_buf_data(x, op->saved[which]) + row * x->info[op->saved[which]].ld;
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

static void mix_row(const sl_op *op, const sl_exec *x, int64_t row, const scratch *c) {
    int64_t d = op->dim_in, n = of(op)->depth.n;
    const float *bank = bank_row(x, op->in[BANK], row), *partial = partial_row(op, x, op->in[PARTIAL], row);
    float *a = saved_row(op, x, WEIGHT, row), *rstd = saved_row(op, x, RSTD, row),
          *product = saved_row(op, x, PRODUCT, row), *out = sl_buf_data(x, op->out) + row * d;
    x->k->depth_dots(n, d, bank, d, c->query, c->square, product);
    if (partial)
        x->k->depth_dots(1, d, partial, d, c->query, c->square + n, product + n);
    for (int64_t i = 0; i < n + (partial != NULL); i++) {
        rstd[i] = op->param[NORM] == SL_NONE ? 1 : 1 / sqrtf(c->square[i] / (float)d + of(op)->eps);
        c->logit[i] = rstd[i] * product[i];
    }
    if (couples(op)) {
        source_psi(op, x, row, c->psi);
        for (int64_t i = 0; i < n + (partial != NULL); i++)
            c->logit[i] -= c->beta * c->psi[i];
    }
    softmax(x->k, n + (partial != NULL), of(op)->null, c->logit, a);
    x->k->depth_mix(n, d, bank, d, a, 0, out);
    if (partial)
        x->k->depth_mix(1, d, partial, d, a + n, 1, out);
}

static int mix_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = scratch_of(op, x, s->worker);
    for (int64_t r = s->first; r < s->first + s->n; r++)
        mix_row(op, x, r, &c);
    return 0;
}

/* With e_i = dout . v_i and z_i = a_i (e_i - sum_k a_k e_k), the gradient of logit i, r_i = 1 / rms and q = g w:
 *     dv_i = a_i dout + z_i r_i q - z_i r_i^3 (q . v_i) / dim v_i,   dq = sum_i z_i r_i v_i. */
static void mix_row_backward(const sl_op *op, const sl_exec *x, int64_t row, scratch *c) {
    int64_t d = op->dim_in, n = of(op)->depth.n;
    const float *bank = bank_row(x, op->in[BANK], row), *partial = partial_row(op, x, op->in[PARTIAL], row);
    const float *a = saved_row(op, x, WEIGHT, row), *rstd = saved_row(op, x, RSTD, row),
                *product = saved_row(op, x, PRODUCT, row), *dout = sl_buf_data(x, op->dout) + row * d;
    float mean = 0, *e = c->of_dout;
    for (int64_t i = 0; i < n + (partial != NULL); i++) {
        e[i] = x->k->dot(d, dout, i < n ? bank + i * d : partial);
        mean += a[i] * e[i];
    }
    for (int64_t i = 0; i < n + (partial != NULL); i++) {
        e[i] = a[i] * (e[i] - mean);
        c->of_query[i] = e[i] * rstd[i];
        c->of_source[i] =
            op->param[NORM] == SL_NONE ? 0 : -c->of_query[i] * rstd[i] * rstd[i] * product[i] / (float)d;
    }
    if (couples(op))
        source_psi_backward(op, x, row, e, c);
    x->k->depth_mix_bwd(n, d, bank, d, dout, c->query, a, c->of_query, c->of_source, op->acc[BANK],
                        bank_row(x, op->din[BANK], row), d, c->dquery);
    if (partial)
        x->k->depth_mix_bwd(1, d, partial, d, dout, c->query, a + n, c->of_query + n, c->of_source + n,
                            op->acc[PARTIAL], partial_row(op, x, op->din[PARTIAL], row), d, c->dquery);
}

/* Gradients of w and g from that of q, and of c, into the block's sums. */
static void parameter_sums(const sl_op *op, const sl_exec *x, const scratch *c, float *sums) {
    int64_t d = op->dim_in;
    bool normed = op->param[NORM] != SL_NONE;
    for (int64_t j = 0; j < d; j++) {
        sums[j] = c->dquery[j] * (normed ? sl_weight(op, x, NORM)[j] : 1);
        if (normed)
            sums[d + j] = c->dquery[j] * sl_weight(op, x, QUERY)[j];
    }
    if (couples(op))
        sums[normed ? 2 * d : d] = coupling_gradient(op, x, c->dbeta);
}

static int mix_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = scratch_of(op, x, s->worker);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        int64_t first = sl_block_first(blocks, i);
        memset(c.dquery, 0, (size_t)op->dim_in * sizeof *c.dquery);
        c.dbeta = 0;
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

sl_buf sl_build_depth_mix(sl_program *b, sl_scope scope, const sl_depth *depth, const char *prefix) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim, n = sl_depth_sources(depth);
    sl_param_spec query = {.name = "query", .rows = d, .init = SL_INIT_ZEROS, .decay = SL_DECAY_NONE};
    sl_param_spec norm = {.name = "norm.weight", .rows = d, .init = SL_INIT_ONES, .decay = SL_DECAY_NORM};
    sl_param_spec coupling = {.name = "coupling", .rows = 1, .init = SL_INIT_VALUE, .start = c->residual_coupling,
                              .decay = SL_DECAY_NONE};
    sl_op *op = sl_program_op(b, &mix, scope);
    mixture *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return 0;
    *own = (mixture){*depth, (float)c->norm_eps, c->residual_softmax == SL_DEPTH_SOFTMAX1, c->residual_block,
                     sl_config_has_ffn(c) ? 2 : 1};
    sl_op_reads(op, depth->bank, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, depth->partial, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, depth->psi, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    op->param[QUERY] = sl_program_param(b, prefix, &query);
    op->param[NORM] = c->residual_key_norm ? sl_program_param(b, prefix, &norm) : SL_NONE;
    if (depth->psi != SL_NONE)
        op->param[COUPLING] = sl_program_param(b, prefix, &coupling);
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

int64_t sl_depth_sources(const sl_depth *depth) { return depth->n + (depth->partial != SL_NONE); }
