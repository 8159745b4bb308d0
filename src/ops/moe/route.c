/* The router of a mixture of experts: scores, choice, permutation, and their backward. */
#include "ops/moe/moe.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 }; /* rows at a time */
static const float TINY = 1e-20f;

/* What a call works on. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    const sl_moe *m;
    sl_moe_route t;
    sl_moe_router_shared s;
    const float *dplace;
    float share[SL_MOE_MAX_EXPERTS]; /* backward: gradient of the aux loss by a row's share of an expert */
} run;

static void start(run *r, const sl_op *op, const sl_exec *x, bool backward) {
    r->op = op, r->x = x, r->m = op->own;
    r->t = sl_moe_route_of(op, x);
    r->s = sl_moe_router_shared_at(r->m, backward, &(sl_carver){(char *)x->shared, 0});
}

/* ---- memory */

sl_moe_route sl_moe_route_at(const sl_moe *m, sl_carver *b) {
    int64_t slots = m->rows * m->top, word = sizeof(int32_t);
    sl_moe_route t;
    t.score = sl_carve(b, m->rows * m->experts * word);
    t.lse = sl_carve(b, m->rows * word);
    t.weight = sl_carve(b, slots * word);
    t.dweight = sl_carve(b, slots * word);
    t.expert = sl_carve(b, slots * word);
    t.place = sl_carve(b, slots * word);
    t.slot = sl_carve(b, slots * word);
    t.offset = sl_carve(b, (m->experts + 1) * word);
    t.count = sl_carve(b, m->experts * word);
    return t;
}

sl_moe_route sl_moe_route_of(const sl_op *op, const sl_exec *x) {
    return sl_moe_route_at(op->own, &(sl_carver){(char *)sl_buf_data(x, op->saved[0]), 0});
}

static sl_blocks blocks_of(const sl_moe *m) { return sl_row_blocks(m->rows, m->seq); }

/* A block's sums for the gradients of the router's matrix and bias. */
static int64_t gradient_floats(const sl_moe *m) { return m->experts * m->dim + m->experts; }

sl_moe_router_shared sl_moe_router_shared_at(const sl_moe *m, bool backward, sl_carver *b) {
    int64_t blocks = blocks_of(m).count, n = backward ? m->dim : m->experts,
            depth = backward ? m->experts : m->dim;
    sl_moe_router_shared s = {0};
    s.operand = sl_carve(b, (int64_t)sl_grouped_bytes(m->k, false, n, depth));
    if (backward)
        s.dw = sl_carve(b, blocks * gradient_floats(m) * (int64_t)sizeof(float));
    else
        s.sums = sl_carve(b, blocks * (m->experts + 1) * (int64_t)sizeof(double));
    return s;
}

sl_moe_router_scratch sl_moe_router_scratch_at(const sl_moe *m, sl_carver *b) {
    int64_t row = m->dim * (int64_t)sizeof(float), deep = m->dim > m->experts ? m->dim : m->experts;
    sl_moe_router_scratch s;
    s.x = sl_carve(b, TILE * row);
    s.out = sl_carve(b, TILE * row);
    s.dscore = sl_carve(b, TILE * m->experts * (int64_t)sizeof(float));
    s.packed = sl_carve(b, (int64_t)sl_grouped_rows_bytes(m->k, false, TILE, deep));
    s.wgrad = sl_carve(b, (int64_t)sl_grouped_wgrad_bytes(m->k, false));
    return s;
}

static sl_moe_router_scratch scratch_of(const run *r, int thread) {
    return sl_moe_router_scratch_at(r->m, &(sl_carver){sl_worker_scratch(r->x, thread), 0});
}

sl_split sl_moe_router_panels(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    return (sl_split){.items = sl_grouped_panels(x->k, false, m->experts)};
}

int sl_moe_pack_router(const sl_op *op, const sl_exec *x, const sl_span *s) {
    run r;
    start(&r, op, x, false);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        sl_grouped_pack(x->k, false, r.m->experts, r.m->dim, (sl_mat){sl_weight(op, x, SL_MOE_ROUTER), r.m->dim, 1}, i,
                        r.s.operand);
    return 0;
}

sl_split sl_moe_router_back_panels(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    return (sl_split){.items = sl_grouped_panels(x->k, false, m->dim)};
}

int sl_moe_pack_router_back(const sl_op *op, const sl_exec *x, const sl_span *s) {
    run r;
    start(&r, op, x, true);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        sl_grouped_pack(x->k, false, r.m->dim, r.m->experts, (sl_mat){sl_weight(op, x, SL_MOE_ROUTER), 1, r.m->dim}, i,
                        r.s.operand);
    return 0;
}

/* ---- scores and choice */

/* The largest of score + bias, experts ascending. A score that is no number is taken only where nothing else is left.
 * */
static void choose_row(const run *r, int64_t row, const float *bias) {
    const sl_moe *m = r->m;
    const float *score = r->t.score + row * m->experts;
    int32_t *expert = r->t.expert + row * m->top;
    float *weight = r->t.weight + row * m->top, sum = TINY;
    bool taken[SL_MOE_MAX_EXPERTS] = {false};
    for (int64_t j = 0; j < m->top; j++) {
        int64_t best = -1;
        float most = 0;
        for (int64_t e = 0; e < m->experts; e++) {
            float v = bias ? score[e] + bias[e] : score[e];
            if (!taken[e] && (best < 0 || v > most || isnan(most)))
                best = e, most = v;
        }
        taken[best] = true;
    }
    for (int64_t e = 0, j = 0; e < m->experts; e++)
        if (taken[e]) {
            expert[j] = (int32_t)e;
            weight[j++] = score[e];
            sum += score[e];
        }
    for (int64_t j = 0; j < m->top && m->top > 1; j++)
        weight[j] /= sum;
}

/* Adds a row's shares of the scores, and the square of its lse. */
static void add_sums(const run *r, int64_t row, double *sums) {
    const sl_moe *m = r->m;
    const float *score = r->t.score + row * m->experts;
    double whole = m->sigmoid ? TINY : 1;
    for (int64_t e = 0; e < m->experts && m->sigmoid; e++)
        whole += score[e];
    for (int64_t e = 0; e < m->experts; e++)
        sums[e] += score[e] / whole;
    if (!m->sigmoid)
        sums[m->experts] += (double)r->t.lse[row] * r->t.lse[row];
}

static void choose_tile(const run *r, int64_t row, int64_t n, const float *bias, const sl_moe_router_scratch *s) {
    const sl_moe *m = r->m;
    const sl_attend every = {.band = {-TILE, m->experts}, .scale = 1}; /* a row sees all experts */
    float *score = r->t.score + row * m->experts;
    const float *in = sl_read_rows(r->x, r->op->in[0], row, n, s->x);
    sl_grouped_rows a = sl_grouped_take_rows(m->k, false, n, m->dim, in, m->dim, s->packed);
    sl_grouped_product(&a, r->s.operand, 0, m->experts, score, m->experts, false);
    for (int64_t i = 0; r->op->param[SL_MOE_ROUTER_BIAS] != SL_NONE && i < n; i++)
        m->k->add(m->experts, sl_weight(r->op, r->x, SL_MOE_ROUTER_BIAS), score + i * m->experts);
    if (m->sigmoid)
        m->k->sigmoid(n * m->experts, score, score);
    else
        m->k->attention[SL_ROWS_softmax].fwd(n, m->experts, score, m->experts, &every, NULL, r->t.lse + row);
    for (int64_t i = row; i < row + n; i++)
        choose_row(r, i, bias);
}

int sl_moe_choose(const sl_op *op, const sl_exec *x, const sl_span *span) {
    run r;
    start(&r, op, x, false);
    const sl_moe *m = r.m;
    sl_moe_router_scratch s = scratch_of(&r, span->worker);
    sl_blocks blocks = blocks_of(m);
    const float *bias = m->bias == SL_NONE ? NULL : x->p->w + x->p->tensor[m->bias].offset;
    for (int64_t b = sl_block_at(blocks, span->first); b < sl_block_behind(blocks, span); b++) {
        double *sums = r.s.sums + b * (m->experts + 1);
        int64_t first = sl_block_first(blocks, b), end = first + sl_block_rows(blocks, b);
        memset(sums, 0, (size_t)(m->experts + 1) * sizeof *sums);
        for (int64_t row = first; row < end; row += TILE)
            choose_tile(&r, row, sl_min(TILE, end - row), bias, &s);
        for (int64_t row = first; row < end; row++)
            add_sums(&r, row, sums);
    }
    return 0;
}

/* ---- places */

static void permute(const sl_moe *m, const sl_moe_route *t, int64_t capacity) {
    int64_t slots = m->rows * m->top;
    int32_t next[SL_MOE_MAX_EXPERTS];
    memset(t->count, 0, (size_t)m->experts * sizeof *t->count);
    for (int64_t s = 0; s < slots; s++)
        t->count[t->expert[s]]++;
    t->offset[0] = 0;
    for (int64_t e = 0; e < m->experts; e++) {
        next[e] = t->offset[e];
        t->offset[e + 1] = (int32_t)(t->offset[e] + sl_min(t->count[e], capacity));
    }
    for (int64_t s = 0; s < slots; s++) {
        int32_t e = t->expert[s];
        t->place[s] = next[e] < t->offset[e + 1] ? next[e]++ : -1;
        if (t->place[s] >= 0)
            t->slot[t->place[s]] = (int32_t)s;
        else
            t->dweight[s] = 0;
    }
}

static int64_t capacity(const sl_moe *m, bool training) {
    double slots = (double)(m->rows * m->top), most = ceil(m->capacity * slots / (double)m->experts);
    return training && m->capacity > 0 && most < slots ? (int64_t)most : m->rows * m->top;
}

/* What a training pass adds to the sums of its step. */
static void note(const sl_moe *m, sl_moe_state *state, const sl_moe_route *t, const double *sums) {
    sl_moe_load *l = &state->now;
    int64_t slots = m->rows * m->top, blocks = blocks_of(m).count;
    double aux = 0, z = 0;
    for (int64_t e = 0; e <= m->experts; e++) {
        double sum = 0;
        for (int64_t i = 0; i < blocks; i++)
            sum += sums[i * (m->experts + 1) + e];
        if (e < m->experts) {
            aux += (double)m->experts * (double)t->count[e] / (double)slots * sum / (double)m->rows;
            l->count[e] += t->count[e];
        } else {
            z = sum / (double)m->rows;
        }
    }
    l->passes++;
    l->choices += slots;
    l->dropped += slots - t->offset[m->experts];
    l->aux += aux;
    l->z += z;
    state->extra = m->aux * aux + m->z * z;
}

int sl_moe_place(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)s;
    run r;
    start(&r, op, x, false);
    permute(r.m, &r.t, capacity(r.m, x->training));
    if (x->training)
        note(r.m, sl_op_state(op, x), &r.t, r.s.sums);
    return 0;
}

/* ---- backward */

/* Adds to ds the gradient by the row's scores that comes through its weights: w = s / sum, or s. */
static void through_weights(const run *r, int64_t row, float *ds) {
    const sl_moe *m = r->m;
    const sl_moe_route *t = &r->t;
    float sum = TINY, mean = 0;
    for (int64_t j = row * m->top; j < (row + 1) * m->top; j++) {
        sum += t->score[row * m->experts + t->expert[j]];
        mean += t->weight[j] * t->dweight[j];
    }
    for (int64_t j = row * m->top; j < (row + 1) * m->top; j++)
        ds[t->expert[j]] += m->top > 1 ? (t->dweight[j] - mean) / sum : t->dweight[j];
}

/* Adds the gradient of the aux loss by the row's scores, shares being s or s / sum. */
static void through_shares(const run *r, const float *score, float *ds) {
    const sl_moe *m = r->m;
    float whole = TINY, mean = 0;
    if (m->sigmoid) {
        for (int64_t e = 0; e < m->experts; e++) {
            whole += score[e];
            mean += r->share[e] * score[e];
        }
        mean /= whole;
    }
    for (int64_t e = 0; e < m->experts; e++)
        ds[e] += m->sigmoid ? (r->share[e] - mean) / whole : r->share[e];
}

/* ds: 0, becomes the gradient by the row's z. */
static void score_gradient(const run *r, int64_t row, float *ds) {
    const sl_moe *m = r->m;
    const float *score = r->t.score + row * m->experts;
    float mean = 0;
    through_weights(r, row, ds);
    if (m->aux > 0)
        through_shares(r, score, ds);
    if (m->sigmoid) {
        for (int64_t e = 0; e < m->experts; e++)
            ds[e] *= score[e] * (1 - score[e]);
        return;
    }
    float z = (float)(m->z * 2 / (double)m->rows) * r->x->grad_scale * r->t.lse[row];
    for (int64_t e = 0; e < m->experts; e++)
        mean += score[e] * ds[e];
    for (int64_t e = 0; e < m->experts; e++)
        ds[e] = score[e] * (ds[e] - mean + z);
}

/* out[n, dim] (the router's share of din): adds the places' rows and, where din holds a gradient, that; stores it. */
static void store_rows(const run *r, int64_t row, int64_t n, float *out, float *old) {
    const sl_moe *m = r->m;
    for (int64_t i = 0; i < n; i++) {
        float *y = out + i * m->dim;
        const int32_t *place = r->t.place + (row + i) * m->top;
        for (int64_t j = 0; j < m->top; j++)
            if (place[j] >= 0)
                m->k->add(m->dim, r->dplace + place[j] * m->dim, y);
        if (r->op->acc[0])
            m->k->add(m->dim, sl_read_rows(r->x, r->op->din[0], row + i, 1, old), y);
        if (m->bf16)
            sl_store_bf16(r->x, r->op->din[0], row + i, 1, 0, m->dim, y, m->dim);
        else
            memcpy(sl_buf_data(r->x, r->op->din[0]) + (row + i) * m->dim, y, (size_t)m->dim * sizeof *y);
    }
}

static void backward_tile(const run *r, int64_t row, int64_t n, float *dw, const sl_moe_router_scratch *s) {
    const sl_moe *m = r->m;
    memset(s->dscore, 0, (size_t)(n * m->experts) * sizeof *s->dscore);
    for (int64_t i = 0; i < n; i++) {
        score_gradient(r, row + i, s->dscore + i * m->experts);
        m->k->add(m->experts, s->dscore + i * m->experts, dw + m->experts * m->dim);
    }
    const float *in = sl_read_rows(r->x, r->op->in[0], row, n, s->x);
    for (int64_t j = 0; j < m->dim; j += SL_GROUPED_WGRAD_M)
        sl_grouped_wgrad(m->k, false, n, m->experts, sl_min(SL_GROUPED_WGRAD_M, m->dim - j), s->dscore, m->experts,
                         in + j, m->dim, dw + j, m->dim, s->wgrad);
    sl_grouped_rows a = sl_grouped_take_rows(m->k, false, n, m->experts, s->dscore, m->experts, s->packed);
    sl_grouped_product(&a, r->s.operand, 0, m->dim, s->out, m->dim, false);
    store_rows(r, row, n, s->out, s->x);
}

void sl_moe_choose_back(const sl_op *op, const sl_exec *x, const sl_span *span, const float *dplace) {
    run r = {.dplace = dplace};
    start(&r, op, x, true);
    const sl_moe *m = r.m;
    sl_moe_router_scratch s = scratch_of(&r, span->worker);
    sl_blocks blocks = blocks_of(m);
    double per = m->aux * x->grad_scale * (double)m->experts / ((double)(m->rows * m->top) * (double)m->rows);
    for (int64_t e = 0; e < m->experts; e++)
        r.share[e] = m->aux > 0 ? (float)(per * (double)r.t.count[e]) : 0;
    for (int64_t b = sl_block_at(blocks, span->first); b < sl_block_behind(blocks, span); b++) {
        float *dw = r.s.dw + b * gradient_floats(m);
        int64_t first = sl_block_first(blocks, b), end = first + sl_block_rows(blocks, b);
        memset(dw, 0, (size_t)gradient_floats(m) * sizeof *dw);
        for (int64_t row = first; row < end; row += TILE)
            backward_tile(&r, row, sl_min(TILE, end - row), dw, &s);
    }
}

/* Items that fold the matrix's gradient; one more folds the bias's. */
static int64_t matrix_folds(const sl_moe *m) { return sl_div_up(m->experts * m->dim, SL_FOLD_COLUMNS); }

sl_split sl_moe_fold_router_split(const sl_op *op, const sl_exec *x) {
    const sl_moe *m = op->own;
    (void)x;
    return (sl_split){.items = matrix_folds(m) + (op->param[SL_MOE_ROUTER_BIAS] != SL_NONE)};
}

int sl_moe_fold_router(const sl_op *op, const sl_exec *x, const sl_span *s) {
    run r;
    start(&r, op, x, true);
    int64_t size = r.m->experts * r.m->dim, from = s->first * SL_FOLD_COLUMNS, all = gradient_floats(r.m),
            blocks = blocks_of(r.m).count;
    if (from < size)
        sl_fold_columns(x, from, sl_min(s->n * SL_FOLD_COLUMNS, size - from), blocks, all, r.s.dw,
                        sl_weight_grad(op, x, SL_MOE_ROUTER));
    if (s->first + s->n > matrix_folds(r.m))
        sl_fold_columns(x, 0, r.m->experts, blocks, all, r.s.dw + size, sl_weight_grad(op, x, SL_MOE_ROUTER_BIAS));
    return 0;
}

/* ---- between steps */

static void update_bias(const sl_moe *m, const sl_moe_load *l, float *bias) {
    for (int64_t e = 0; e < m->experts; e++) {
        int64_t below = l->choices - l->count[e] * m->experts; /* experts times (mean - count) */
        bias[e] += (float)m->rate * (float)((below > 0) - (below < 0));
    }
}

void sl_moe_end_step(const sl_op *op, const sl_exec *x, bool applied) {
    const sl_moe *m = op->own;
    sl_moe_state *state = sl_op_state(op, x);
    if (applied && m->bias != SL_NONE)
        update_bias(m, &state->now, x->p->w + x->p->tensor[m->bias].offset);
    state->last = state->now;
    state->now = (sl_moe_load){0};
}
