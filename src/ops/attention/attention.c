/* Causal attention of every kind (simd/attention.inc), in blocks of query rows against all keys that they see:
 * scratch grows with the window, never with its square. Scores are computed again in the backward pass from q, k and
 * the saved statistic of a query, for the softmax its log-sum-exp (Dao et al. 2022, arXiv 2205.14135). One item is a
 * (window, key/value head): its group of query heads adds to the same dk, dv in a fixed order. */
#include "ops/attention/attention.h"
#include "ops/attention/extra.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

static const sl_attention *of(const sl_op *op) { return op->own; }

/* Sizes of one item. */
typedef struct {
    const sl_kernels *k;
    int64_t seq, hd, group; /* query heads of one key/value head */
    int64_t qb;             /* query rows of a block */
    int64_t ld;             /* row stride of qkv */
    int64_t lds;            /* row stride of a score tile */
    int64_t keys_n, depth_n; /* packed floats of K^T or V^T panels; of K or V panels */
} shape;

static shape shape_of(const sl_op *op, const sl_kernels *k) {
    shape s = {.k = k, .seq = op->seq, .hd = of(op)->head_dim, .group = of(op)->heads / of(op)->kv_heads};
    s.qb = 4 * k->gemm_mr;
    s.ld = (of(op)->heads + 2 * of(op)->kv_heads) * of(op)->head_dim;
    s.lds = sl_round_up(s.seq, 16);
    s.keys_n = sl_round_up(s.seq, k->gemm_nr) * s.hd;
    s.depth_n = sl_round_up(s.hd, k->gemm_nr) * s.seq;
    return s;
}


/* Private scratch of a thread, in floats; the second line is of the backward pass only. */
typedef struct {
    float *keys, *values, *pack, *score, *extra;
    float *value_keys, *key_values, *pack_b, *dscore, *dk, *dv, *delta;
} scratch;

static scratch scratch_at(const shape *s, bool training, sl_carver *at) {
    scratch c = {.keys = sl_carve_floats(at, s->keys_n), .values = sl_carve_floats(at, s->depth_n)};
    c.pack = sl_carve_floats(at, sl_max(sl_round_up(s->qb, s->k->gemm_mr) * sl_max(s->hd, s->seq),
                                        sl_round_up(s->seq, s->k->gemm_mr) * s->qb));
    c.score = sl_carve_floats(at, s->qb * s->lds);
    c.extra = sl_carve_floats(at, s->qb);
    if (!training)
        return c;
    c.value_keys = sl_carve_floats(at, s->keys_n);
    c.key_values = sl_carve_floats(at, s->depth_n);
    c.pack_b = sl_carve_floats(at, sl_round_up(s->hd, s->k->gemm_nr) * s->qb);
    c.dscore = sl_carve_floats(at, s->qb * s->lds);
    c.dk = sl_carve_floats(at, s->seq * s->hd);
    c.dv = sl_carve_floats(at, s->seq * s->hd);
    c.delta = sl_carve_floats(at, s->qb);
    return c;
}

static size_t worker_bytes(const shape *s, bool training) {
    sl_carver at = {0};
    scratch_at(s, training, &at);
    return at.used;
}

/* c[m, n] (+)= A B from packed panels; a panel of B holds b_depth steps of which the first depth count. */
static void tile(const sl_kernels *k, int64_t m, int64_t n, int64_t depth, const float *a, const float *b,
                 int64_t b_depth, float *c, int64_t ldc, int add) {
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    for (int64_t j = 0; j < n; j += nr)
        for (int64_t i = 0; i < m; i += mr)
            k->gemm_f32(depth, a + i * depth, b + j * b_depth, c + i * ldc + j, ldc,
                        (int)sl_min(mr, m - i), (int)sl_min(nr, n - j), add);
}

/* The query block that starts at row r0: how many rows; from which key on (a whole panel) it sees how many. */
typedef struct {
    int64_t r0, rows, k0, keys;
    sl_attend attend;
} block;

static block block_at(const sl_op *op, const shape *s, int64_t r0) {
    block b = {.r0 = r0, .rows = sl_min(s->qb, s->seq - r0), .attend = of(op)->attend};
    b.k0 = sl_max(0, r0 + 1 - of(op)->window) / s->k->gemm_nr * s->k->gemm_nr;
    b.keys = r0 + b.rows - b.k0;
    b.attend.band = (sl_band){r0 + 1 - of(op)->window - b.k0, r0 + 1 - b.k0};
    return b;
}

/* score = Q K^T of one block, raw but for the cap. */
static void scores(const sl_op *op, const shape *s, const block *b, const float *q, scratch *c) {
    const sl_kernels *k = s->k;
    k->pack_f32(b->rows, s->hd, q + b->r0 * s->ld, s->ld, 1, k->gemm_mr, c->pack);
    tile(k, b->rows, b->keys, s->hd, c->pack, c->keys + b->k0 * s->hd, s->hd, c->score, s->lds, 0);
    sl_attention_cap(op, k, b->attend.band, b->rows, b->keys, c->score, s->lds);
}

typedef struct {
    const float *q, *k, *v, *out, *dout;
    float *o, *dq, *dk, *dv, *lse;
    float *null, *dnull; /* of the group's first head, of the window; NULL where nobody asks */
    int64_t ldo;
} pointers; /* of one (window, kv head); q, o, ... at the first head of the group */

static pointers locate(const sl_op *op, const sl_exec *x, const shape *s, sl_attention_item item) {
    int64_t row = item.window * op->seq, kv = item.kv, h = kv * s->group;
    int64_t at_q = row * s->ld + h * s->hd, at_k = row * s->ld + (of(op)->heads + kv) * s->hd;
    int64_t at_v = at_k + of(op)->kv_heads * s->hd, ldo = of(op)->heads * s->hd, at_o = row * ldo + h * s->hd;
    const float *qkv = sl_buf_data(x, op->in[0]);
    pointers p = {.q = qkv + at_q, .k = qkv + at_k, .v = qkv + at_v, .ldo = ldo};
    p.o = sl_buf_data(x, op->out) + at_o;
    p.out = p.o;
    p.lse = sl_buf_data(x, op->saved[SL_ATTENTION_STAT]) + (item.window * of(op)->heads + h) * op->seq;
    if (op->saved[SL_ATTENTION_NULLS] != SL_NONE)
        p.null = sl_buf_data(x, op->saved[SL_ATTENTION_NULLS]) + (item.window * of(op)->heads + h) * op->seq;
    if (op->saved[SL_ATTENTION_DNULL] != SL_NONE)
        p.dnull = sl_buf_data(x, op->saved[SL_ATTENTION_DNULL]) + row;
    if (op->din[0] != SL_NONE && x->training) {
        float *dqkv = sl_buf_data(x, op->din[0]);
        p.dout = sl_buf_data(x, op->dout) + at_o;
        p.dq = dqkv + at_q, p.dk = dqkv + at_k, p.dv = dqkv + at_v;
    }
    return p;
}

/* The weight of the extra in row i of a block. */
static float extra_weight(const scratch *c, const float *lse, int64_t i) { return expf(c->extra[i] - lse[i]); }

static void extra_logits(const sl_extra_kind *kind, const sl_extra *e, const shape *s, const block *b, const float *q,
                         scratch *c) {
    for (int64_t i = 0; i < b->rows; i++)
        c->extra[i] = kind->logit(e, q + (b->r0 + i) * s->ld);
}

/* One block of queries of head h of the group; e: NULL without an extra. */
static void forward_rows(const sl_op *op, const shape *s, const pointers *p, int64_t h, const block *b,
                         const sl_extra *e, scratch *c) {
    const sl_kernels *k = s->k;
    float *lse = p->lse + h * s->seq + b->r0, *o = p->o + h * s->hd + b->r0 * p->ldo;
    scores(op, s, b, p->q + h * s->hd, c);
    if (e)
        extra_logits(of(op)->extra, e, s, b, p->q + h * s->hd, c);
    of(op)->kernels->fwd(b->rows, b->keys, c->score, s->lds, &b->attend, e ? c->extra : NULL, lse);
    for (int64_t i = 0; p->null && i < b->rows; i++)
        p->null[h * s->seq + b->r0 + i] = extra_weight(c, lse, i);
    k->pack_f32(b->rows, b->keys, c->score, s->lds, 1, k->gemm_mr, c->pack);
    tile(k, b->rows, s->hd, b->keys, c->pack, c->values + b->k0 * k->gemm_nr, s->seq, o, p->ldo, 0);
    for (int64_t i = 0; e && of(op)->extra->output && i < b->rows; i++)
        of(op)->extra->output(e, extra_weight(c, lse, i), o + i * p->ldo);
}

/* The extra of head h of an item's group into e; NULL without one. */
static const sl_extra *extra_of(const sl_op *op, const sl_exec *x, sl_attention_item item, int64_t h, bool backward,
                                sl_extra *e) {
    if (!of(op)->extra)
        return NULL;
    *e = sl_extra_of_head(op, x, item.window, item.kv * (of(op)->heads / of(op)->kv_heads) + h, backward);
    return e;
}

static void forward_item(const sl_op *op, const sl_exec *x, sl_attention_item item, int worker) {
    shape s = shape_of(op, x->k);
    pointers p = locate(op, x, &s, item);
    scratch c = scratch_at(&s, x->training, &(sl_carver){sl_worker_scratch(x, worker), 0});
    sl_extra extra;
    x->k->pack_f32(s.seq, s.hd, p.k, s.ld, 1, x->k->gemm_nr, c.keys);
    x->k->pack_f32(s.hd, s.seq, p.v, 1, s.ld, x->k->gemm_nr, c.values);
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += s.qb) {
            block b = block_at(op, &s, r0);
            forward_rows(op, &s, &p, h, &b, extra_of(op, x, item, h, false, &extra), &c);
        }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = 0; i < sl_attention_items(op, s); i++)
        forward_item(op, x, sl_attention_item_at(op, s, i), s->worker);
    return 0;
}

/* One block of queries of head h: dq of its rows; adds to dk, dv of the keys that they see. */
static void backward_rows(const sl_op *op, const shape *s, const pointers *p, int64_t h, const block *b,
                          const sl_extra *e, scratch *c) {
    const sl_kernels *k = s->k;
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    const float *q = p->q + h * s->hd, *dout = p->dout + h * s->hd + b->r0 * p->ldo, *lse = p->lse + h * s->seq + b->r0;
    float *dq = p->dq + h * s->hd + b->r0 * s->ld;
    for (int64_t i = 0; i < b->rows; i++)
        c->delta[i] = k->dot(s->hd, dout + i * p->ldo, p->out + h * s->hd + (b->r0 + i) * p->ldo);
    for (int64_t i = b->r0; p->dnull && i < b->r0 + b->rows; i++) /* dn/ds_j = -n p_j: as if the zero had that value */
        c->delta[i - b->r0] += p->dnull[i] * p->null[h * s->seq + i];
    scores(op, s, b, q, c);
    k->pack_f32(b->rows, s->hd, dout, p->ldo, 1, (int)mr, c->pack);
    tile(k, b->rows, b->keys, s->hd, c->pack, c->value_keys + b->k0 * s->hd, s->hd, c->dscore, s->lds, 0);
    sl_attention_cap_back(op, k, b->attend.band, b->rows, b->keys, c->score, c->dscore, s->lds, c->delta, false);
    of(op)->kernels->bwd(b->rows, b->keys, c->score, c->dscore, s->lds, &b->attend, lse, c->delta);
    k->pack_f32(b->rows, b->keys, c->dscore, s->lds, 1, (int)mr, c->pack);
    tile(k, b->rows, s->hd, b->keys, c->pack, c->key_values + b->k0 * nr, s->seq, dq, s->ld, 0);
    k->pack_f32(b->keys, b->rows, c->score, 1, s->lds, (int)mr, c->pack);
    k->pack_f32(s->hd, b->rows, dout, 1, p->ldo, (int)nr, c->pack_b);
    tile(k, b->keys, s->hd, b->rows, c->pack, c->pack_b, b->rows, c->dv + b->k0 * s->hd, s->hd, 1);
    k->pack_f32(b->keys, b->rows, c->dscore, 1, s->lds, (int)mr, c->pack);
    k->pack_f32(s->hd, b->rows, q + b->r0 * s->ld, 1, s->ld, (int)nr, c->pack_b);
    tile(k, b->keys, s->hd, b->rows, c->pack, c->pack_b, b->rows, c->dk + b->k0 * s->hd, s->hd, 1);
    if (!e || !of(op)->extra->gradient)
        return;
    extra_logits(of(op)->extra, e, s, b, q, c);
    for (int64_t i = 0; i < b->rows; i++)
        of(op)->extra->gradient(e, q + (b->r0 + i) * s->ld, dout + i * p->ldo, extra_weight(c, lse, i), c->delta[i],
                            of(op)->attend.scale, dq + i * s->ld);
}

static void backward_item(const sl_op *op, const sl_exec *x, sl_attention_item item, int worker) {
    shape s = shape_of(op, x->k);
    pointers p = locate(op, x, &s, item);
    scratch c = scratch_at(&s, true, &(sl_carver){sl_worker_scratch(x, worker), 0});
    sl_extra extra;
    int nr = x->k->gemm_nr;
    x->k->pack_f32(s.seq, s.hd, p.k, s.ld, 1, nr, c.keys);
    x->k->pack_f32(s.seq, s.hd, p.v, s.ld, 1, nr, c.value_keys);
    x->k->pack_f32(s.hd, s.seq, p.k, 1, s.ld, nr, c.key_values);
    memset(c.dk, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    memset(c.dv, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    sl_extra_begin(op, x, item.window, item.kv);
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += s.qb) {
            block b = block_at(op, &s, r0);
            backward_rows(op, &s, &p, h, &b, extra_of(op, x, item, h, true, &extra), &c);
        }
    for (int64_t t = 0; t < s.seq; t++) {
        memcpy(p.dk + t * s.ld, c.dk + t * s.hd, (size_t)s.hd * sizeof(float));
        memcpy(p.dv + t * s.ld, c.dv + t * s.hd, (size_t)s.hd * sizeof(float));
    }
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = 0; i < sl_attention_items(op, s); i++)
        backward_item(op, x, sl_attention_item_at(op, s, i), s->worker);
    return 0;
}

#define KIND(run_forward, run_backward)                                                                                \
    {.name = "attention",                                                                                              \
     .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = run_forward, .split = sl_attention_split}),                   \
     .backward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = run_backward, .split = sl_attention_split},                  \
                           {.cut = SL_CUT_FOLD, .run = sl_extra_fold, .split = sl_extra_fold_items}),                 \
     .keeps_out = true}
static const sl_op_kind attention = KIND(forward, backward);
static const sl_op_kind attention_bf16 = KIND(sl_attention_bf16_forward, sl_attention_bf16_backward);
#undef KIND

const sl_attention *sl_attention_of(const sl_op *op) {
    return op && (op->kind == &attention || op->kind == &attention_bf16) ? op->own : NULL;
}

/* ---- calls */

sl_split sl_attention_split(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.parts = of(op)->kv_heads};
}

static int64_t heads_before(const sl_op *op, const sl_span *s, int64_t part) {
    return part * of(op)->kv_heads / s->parts;
}

int64_t sl_attention_items(const sl_op *op, const sl_span *s) {
    return s->n / op->seq * (heads_before(op, s, s->part + 1) - heads_before(op, s, s->part));
}

sl_attention_item sl_attention_item_at(const sl_op *op, const sl_span *s, int64_t i) {
    int64_t first = heads_before(op, s, s->part), n = heads_before(op, s, s->part + 1) - first;
    return (sl_attention_item){s->first / op->seq + i / n, first + i % n};
}

/* ---- building */

/* The constants of each kind, from the configuration. */
#define ATTENTION(name, rows, extra, a_, b_, help)                                                                     \
    static double name##_a(const sl_config *c) { return (void)c, a_; }                                                 \
    static double name##_b(const sl_config *c) { return (void)c, b_; }
#include "simd/attention.inc"
#undef ATTENTION

sl_attention *sl_attention_describe(sl_program *b, sl_op *op) {
    const sl_config *c = b->config;
    static const struct {
        enum sl_attention_rows rows;
        double (*a)(const sl_config *), (*b)(const sl_config *);
    } kinds[] = {
#define ATTENTION(name, rows, ...) {SL_ROWS_##rows, name##_a, name##_b},
#include "simd/attention.inc"
#undef ATTENTION
    };
    sl_attention *a = sl_program_own(b, op, sizeof *a);
    if (!a)
        return NULL;
    a->kind = (enum sl_attention_kind)c->model_attention;
    a->heads = c->model_heads;
    a->kv_heads = sl_config_kv_heads(c);
    a->head_dim = sl_config_head_dim(c);
    a->window = sl_config_window(c, op->scope.layer) ? sl_config_window(c, op->scope.layer) : INT32_MAX;
    a->kernels = &b->kernels->attention[kinds[c->model_attention].rows];
    a->extra = sl_extra_kinds[c->model_attention];
    a->attend.scale = (float)(c->attention_scale > 0 ? c->attention_scale : 1 / sqrt((double)a->head_dim));
    if (c->attention_softcap > 0)
        a->cap = (sl_softcap){a->attend.scale / (float)c->attention_softcap,
                              (float)c->attention_softcap / a->attend.scale};
    a->attend.a = (float)kinds[c->model_attention].a(c);
    a->attend.b = (float)kinds[c->model_attention].b(c);
    a->cache = b->cache;
    if (c->model_residual == SL_RESIDUAL_OASIS)
        op->saved[SL_ATTENTION_NULLS] = sl_program_buffer(b, b->batch * a->heads, op->seq);
    if (c->model_residual == SL_RESIDUAL_OASIS && b->training)
        op->saved[SL_ATTENTION_DNULL] = sl_program_buffer(b, op->rows, 1);
    op->dim_in = (a->heads + 2 * a->kv_heads) * a->head_dim;
    op->dim_out = a->heads * a->head_dim;
    return a;
}

/* Pairs of a query and a key that it sees, per query. */
static double mean_visible(const sl_op *op) {
    double w = (double)sl_min(of(op)->window, op->seq), t = (double)op->seq;
    return w < t ? w - w * (w - 1) / (2 * t) : t / 2;
}

sl_buf sl_build_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    sl_op *op = sl_program_op(b, b->bf16 ? &attention_bf16 : &attention, scope);
    const sl_attention *a = sl_attention_describe(b, op);
    if (!a)
        return 0;
    sl_op_reads(op, qkv, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->saved[SL_ATTENTION_STAT] = sl_program_buffer(b, b->batch * a->heads, op->seq);
    sl_extra_build(b, op, prefix);
    shape s = shape_of(op, b->kernels);
    op->worker_bytes = b->bf16 ? sl_attention_bf16_bytes(op, b->training) : worker_bytes(&s, b->training);
    op->flops = 4.0 * (double)op->rows * mean_visible(op) * (double)op->dim_out;
    return op->out = sl_program_activation(b, op->rows, op->dim_out);
}
