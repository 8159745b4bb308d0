/* The router of a mixture of experts: scores, choice, permutation, and their backward. */
#include "base/threads.h"
#include "ops/moe/moe.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 }; /* rows at a time */
static const float TINY = 1e-20f;

typedef struct {
    const sl_op *op;
    const sl_exec *x;
    const sl_moe *m;
    const sl_moe_route *t;
    const sl_moe_router_shared *s;
    const float *dplace;
    float share[SL_MOE_MAX_EXPERTS]; /* backward: gradient of the aux loss by a row's share of an expert */
} run;

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

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
    return t;
}

sl_moe_router_shared sl_moe_router_shared_at(const sl_moe *m, bool backward, sl_carver *b) {
    int64_t blocks = sl_row_blocks(m->rows, 1).count, n = backward ? m->dim : m->experts,
            depth = backward ? m->experts : m->dim;
    sl_moe_router_shared s = {0};
    s.operand = sl_carve(b, (int64_t)sl_grouped_bytes(m->k, false, n, depth));
    if (backward)
        s.dw = sl_carve(b, blocks * m->experts * m->dim * (int64_t)sizeof(float));
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

static void pack_forward(void *ctx, int64_t panel, int thread) {
    (void)thread;
    const run *r = ctx;
    sl_grouped_pack(r->m->k, false, r->m->experts, r->m->dim, (sl_mat){sl_weight(r->op, r->x, 0), r->m->dim, 1}, panel,
                    r->s->operand);
}

static void pack_backward(void *ctx, int64_t panel, int thread) {
    (void)thread;
    const run *r = ctx;
    sl_grouped_pack(r->m->k, false, r->m->dim, r->m->experts, (sl_mat){sl_weight(r->op, r->x, 0), 1, r->m->dim}, panel,
                    r->s->operand);
}

/* ---- scores and choice */

/* The largest of score + bias, experts ascending. A score that is no number is taken only where nothing else is left. */
static void choose_row(const run *r, int64_t row, const float *bias) {
    const sl_moe *m = r->m;
    const float *score = r->t->score + row * m->experts;
    int32_t *expert = r->t->expert + row * m->top;
    float *weight = r->t->weight + row * m->top, sum = TINY;
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
    const float *score = r->t->score + row * m->experts;
    double whole = m->sigmoid ? TINY : 1;
    for (int64_t e = 0; e < m->experts && m->sigmoid; e++)
        whole += score[e];
    for (int64_t e = 0; e < m->experts; e++)
        sums[e] += score[e] / whole;
    if (!m->sigmoid)
        sums[m->experts] += (double)r->t->lse[row] * r->t->lse[row];
}

static void choose_block(void *ctx, int64_t block, int thread) {
    const run *r = ctx;
    const sl_moe *m = r->m;
    sl_moe_router_scratch s = scratch_of(r, thread);
    sl_blocks blocks = sl_row_blocks(m->rows, 1);
    double *sums = r->s->sums + block * (m->experts + 1);
    const float *bias = m->bias == SL_NONE ? NULL : r->x->p->w + r->x->p->tensor[m->bias].offset;
    const sl_attend every = {.band = {-TILE, m->experts}, .scale = 1}; /* a row sees all experts */
    memset(sums, 0, (size_t)(m->experts + 1) * sizeof *sums);
    for (int64_t row = block * blocks.size, end = row + sl_block_rows(blocks, block); row < end; row += TILE) {
        int64_t n = min64(TILE, end - row);
        float *score = r->t->score + row * m->experts;
        sl_grouped_rows a = sl_grouped_take_rows(m->k, false, n, m->dim, sl_read_rows(r->x, r->op->in[0], row, n, s.x),
                                                 m->dim, s.packed);
        sl_grouped_product(&a, r->s->operand, 0, m->experts, score, m->experts, false);
        if (m->sigmoid)
            m->k->sigmoid(n * m->experts, score, score);
        else
            m->k->attention[SL_ROWS_softmax].fwd(n, m->experts, score, m->experts, &every, NULL, r->t->lse + row);
        for (int64_t i = row; i < row + n; i++) {
            choose_row(r, i, bias);
            add_sums(r, i, sums);
        }
    }
}

/* ---- places */

static void permute(const sl_moe *m, const sl_moe_route *t, int64_t capacity, int64_t *count) {
    int64_t slots = m->rows * m->top;
    int32_t next[SL_MOE_MAX_EXPERTS];
    memset(count, 0, (size_t)m->experts * sizeof *count);
    for (int64_t s = 0; s < slots; s++)
        count[t->expert[s]]++;
    t->offset[0] = 0;
    for (int64_t e = 0; e < m->experts; e++) {
        next[e] = t->offset[e];
        t->offset[e + 1] = (int32_t)(t->offset[e] + min64(count[e], capacity));
    }
    for (int64_t s = 0; s < slots; s++) {
        int32_t e = t->expert[s];
        t->place[s] = next[e] < t->offset[e + 1] ? next[e]++ : -1;
        if (t->place[s] >= 0)
            t->slot[t->place[s]] = (int32_t)s;
    }
}

static int64_t capacity(const sl_moe *m, bool training) {
    double slots = (double)(m->rows * m->top), most = ceil(m->capacity * slots / (double)m->experts);
    return training && m->capacity > 0 && most < slots ? (int64_t)most : m->rows * m->top;
}

/* What a training pass adds to the sums of its step. */
static void note(sl_moe *m, const sl_moe_route *t, const int64_t *count, const double *sums) {
    sl_moe_load *l = &m->now;
    int64_t slots = m->rows * m->top, blocks = sl_row_blocks(m->rows, 1).count;
    double aux = 0, z = 0;
    for (int64_t e = 0; e <= m->experts; e++) {
        double sum = 0;
        for (int64_t i = 0; i < blocks; i++)
            sum += sums[i * (m->experts + 1) + e];
        if (e < m->experts) {
            aux += (double)m->experts * (double)count[e] / (double)slots * sum / (double)m->rows;
            l->count[e] += count[e];
        } else {
            z = sum / (double)m->rows;
        }
    }
    l->passes++;
    l->choices += slots;
    l->dropped += slots - t->offset[m->experts];
    l->aux += aux;
    l->z += z;
    m->extra = m->aux * aux + m->z * z;
}

void sl_moe_choose(const sl_op *op, const sl_exec *x, const sl_moe_route *t, const sl_moe_router_shared *s) {
    run r = {.op = op, .x = x, .m = op->moe, .t = t, .s = s};
    int64_t count[SL_MOE_MAX_EXPERTS];
    sl_parallel(sl_grouped_panels(r.m->k, false, r.m->experts), pack_forward, &r);
    sl_parallel(sl_row_blocks(r.m->rows, 1).count, choose_block, &r);
    permute(r.m, t, capacity(r.m, x->training), count);
    if (x->training)
        note(op->moe, t, count, s->sums);
}

/* ---- backward */

/* Adds to ds the gradient by the row's scores that comes through its weights: w = s / sum, or s. */
static void through_weights(const run *r, int64_t row, float *ds) {
    const sl_moe *m = r->m;
    const sl_moe_route *t = r->t;
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

/* ds: 0, becomes the gradient by the row's products with the router's matrix. */
static void score_gradient(const run *r, int64_t row, float *ds) {
    const sl_moe *m = r->m;
    const float *score = r->t->score + row * m->experts;
    float mean = 0;
    through_weights(r, row, ds);
    if (m->aux > 0)
        through_shares(r, score, ds);
    if (m->sigmoid) {
        for (int64_t e = 0; e < m->experts; e++)
            ds[e] *= score[e] * (1 - score[e]);
        return;
    }
    float z = (float)(m->z * 2 / (double)m->rows) * r->x->grad_scale * r->t->lse[row];
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
        const int32_t *place = r->t->place + (row + i) * m->top;
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

static void backward_block(void *ctx, int64_t block, int thread) {
    const run *r = ctx;
    const sl_moe *m = r->m;
    sl_moe_router_scratch s = scratch_of(r, thread);
    sl_blocks blocks = sl_row_blocks(m->rows, 1);
    float *dw = r->s->dw + block * m->experts * m->dim;
    memset(dw, 0, (size_t)(m->experts * m->dim) * sizeof *dw);
    for (int64_t row = block * blocks.size, end = row + sl_block_rows(blocks, block); row < end; row += TILE) {
        int64_t n = min64(TILE, end - row);
        memset(s.dscore, 0, (size_t)(n * m->experts) * sizeof *s.dscore);
        for (int64_t i = 0; i < n; i++)
            score_gradient(r, row + i, s.dscore + i * m->experts);
        const float *in = sl_read_rows(r->x, r->op->in[0], row, n, s.x);
        for (int64_t j = 0; j < m->dim; j += SL_GROUPED_WGRAD_M)
            sl_grouped_wgrad(m->k, false, n, m->experts, min64(SL_GROUPED_WGRAD_M, m->dim - j), s.dscore, m->experts,
                             in + j, m->dim, dw + j, m->dim, s.wgrad);
        sl_grouped_rows a = sl_grouped_take_rows(m->k, false, n, m->experts, s.dscore, m->experts, s.packed);
        sl_grouped_product(&a, r->s->operand, 0, m->dim, s.out, m->dim, false);
        store_rows(r, row, n, s.out, s.x);
    }
}

void sl_moe_choose_backward(const sl_op *op, const sl_exec *x, const sl_moe_route *t, const sl_moe_router_shared *s,
                            const float *dplace) {
    const sl_moe *m = op->moe;
    run r = {.op = op, .x = x, .m = m, .t = t, .s = s, .dplace = dplace};
    int64_t slots = m->rows * m->top, count[SL_MOE_MAX_EXPERTS] = {0};
    double per = m->aux * x->grad_scale * (double)m->experts / ((double)slots * (double)m->rows);
    for (int64_t i = 0; i < slots && m->aux > 0; i++)
        count[t->expert[i]]++;
    for (int64_t e = 0; e < m->experts; e++)
        r.share[e] = (float)(per * (double)count[e]);
    sl_parallel(sl_grouped_panels(m->k, false, m->dim), pack_backward, &r);
    sl_parallel(sl_row_blocks(m->rows, 1).count, backward_block, &r);
    sl_fold_partials(x, sl_row_blocks(m->rows, 1).count, m->experts * m->dim, m->experts * m->dim, s->dw,
                     sl_weight_grad(op, x, 0));
}

/* ---- between steps */

static void update_bias(const sl_moe *m, float *bias) {
    const sl_moe_load *l = &m->now;
    for (int64_t e = 0; e < m->experts; e++) {
        int64_t below = l->choices - l->count[e] * m->experts; /* experts times (mean - count) */
        bias[e] += (float)m->rate * (float)((below > 0) - (below < 0));
    }
}

void sl_moe_end_step(const sl_op *op, const sl_exec *x, bool applied) {
    sl_moe *m = op->moe;
    if (applied && m->bias != SL_NONE)
        update_bias(m, x->p->w + x->p->tensor[m->bias].offset);
    m->last = m->now;
    m->now = (sl_moe_load){0};
}
