/* Causal attention of every kind (simd/attention.inc), in blocks of query rows against all keys that they see:
 * scratch grows with the window, never with its square. Scores are computed again in the backward pass from q, k and
 * the saved statistic of a query, for the softmax its log-sum-exp (Dao et al. 2022, arXiv 2205.14135). One item is a
 * (window, key/value head): its group of query heads adds to the same dk, dv in a fixed order. */
#include "base/threads.h"
#include "ops/attention/attention.h"
#include "program/whole.h"
#include "ops/attention/extra.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

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
    shape s = {.k = k, .seq = op->seq, .hd = op->head_dim, .group = op->heads / op->kv_heads};
    s.qb = 4 * k->gemm_mr;
    s.ld = (op->heads + 2 * op->kv_heads) * op->head_dim;
    s.lds = sl_round_up(s.seq, 16);
    s.keys_n = sl_round_up(s.seq, k->gemm_nr) * s.hd;
    s.depth_n = sl_round_up(s.hd, k->gemm_nr) * s.seq;
    return s;
}

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Private scratch of a thread, in floats; the second line is of the backward pass only. */
typedef struct {
    float *keys, *values, *pack, *score, *extra;
    float *value_keys, *key_values, *pack_b, *dscore, *dk, *dv, *delta;
} scratch;

enum { PARTS = 12 };

static void part_sizes(const shape *s, bool training, int64_t size[PARTS]) {
    int64_t pack = sl_round_up(s->qb, s->k->gemm_mr) * max64(s->hd, s->seq);
    int64_t all[PARTS] = {s->keys_n,
                          s->depth_n,
                          max64(pack, sl_round_up(s->seq, s->k->gemm_mr) * s->qb),
                          s->qb * s->lds,
                          s->qb,
                          s->keys_n,
                          s->depth_n,
                          sl_round_up(s->hd, s->k->gemm_nr) * s->qb,
                          s->qb * s->lds,
                          s->seq * s->hd,
                          s->seq * s->hd,
                          s->qb};
    for (int i = 0; i < PARTS; i++)
        size[i] = training || i < 5 ? sl_round_up(all[i], 16) : 0;
}

static void carve(const shape *s, float *base, scratch *c) {
    int64_t size[PARTS];
    float **at[PARTS] = {&c->keys,       &c->values, &c->pack,   &c->score, &c->extra, &c->value_keys,
                         &c->key_values, &c->pack_b, &c->dscore, &c->dk,    &c->dv,    &c->delta};
    part_sizes(s, true, size);
    for (int i = 0; i < PARTS; i++) {
        *at[i] = base;
        base += size[i];
    }
}

static size_t thread_bytes(const shape *s, bool training) {
    int64_t size[PARTS], n = 0;
    part_sizes(s, training, size);
    for (int i = 0; i < PARTS; i++)
        n += size[i];
    return (size_t)n * sizeof(float);
}

/* c[m, n] (+)= A B from packed panels; a panel of B holds b_depth steps of which the first depth count. */
static void tile(const sl_kernels *k, int64_t m, int64_t n, int64_t depth, const float *a, const float *b,
                 int64_t b_depth, float *c, int64_t ldc, int add) {
    int64_t mr = k->gemm_mr, nr = k->gemm_nr;
    for (int64_t j = 0; j < n; j += nr)
        for (int64_t i = 0; i < m; i += mr)
            k->gemm_f32(depth, a + i * depth, b + j * b_depth, c + i * ldc + j, ldc,
                        (int)min64(mr, m - i), (int)min64(nr, n - j), add);
}

/* The query block that starts at row r0: how many rows; from which key on (a whole panel) it sees how many. */
typedef struct {
    int64_t r0, rows, k0, keys;
    sl_attend attend;
} block;

static block block_at(const sl_op *op, const shape *s, int64_t r0) {
    block b = {.r0 = r0, .rows = min64(s->qb, s->seq - r0), .attend = op->attend};
    b.k0 = max64(0, r0 + 1 - op->window) / s->k->gemm_nr * s->k->gemm_nr;
    b.keys = r0 + b.rows - b.k0;
    b.attend.band = (sl_band){r0 + 1 - op->window - b.k0, r0 + 1 - b.k0};
    return b;
}

/* score = Q K^T of one block, raw. */
static void scores(const shape *s, const block *b, const float *q, scratch *c) {
    const sl_kernels *k = s->k;
    k->pack_f32(b->rows, s->hd, q + b->r0 * s->ld, s->ld, 1, k->gemm_mr, c->pack);
    tile(k, b->rows, b->keys, s->hd, c->pack, c->keys + b->k0 * s->hd, s->hd, c->score, s->lds, 0);
}

typedef struct {
    const float *q, *k, *v, *out, *dout;
    float *o, *dq, *dk, *dv, *lse;
    int64_t ldo;
} pointers; /* of one (window, kv head); q, o, ... at the first head of the group */

static pointers locate(const sl_op *op, const sl_exec *x, const shape *s, int64_t item) {
    int64_t row = item / op->kv_heads * op->seq, kv = item % op->kv_heads, h = kv * s->group;
    int64_t at_q = row * s->ld + h * s->hd, at_k = row * s->ld + (op->heads + kv) * s->hd;
    int64_t at_v = at_k + op->kv_heads * s->hd, ldo = op->heads * s->hd, at_o = row * ldo + h * s->hd;
    const float *qkv = sl_buf_data(x, op->in[0]);
    pointers p = {.q = qkv + at_q, .k = qkv + at_k, .v = qkv + at_v, .ldo = ldo};
    p.o = sl_buf_data(x, op->out) + at_o;
    p.out = p.o;
    p.lse = sl_buf_data(x, op->saved[0]) + (item / op->kv_heads * op->heads + h) * op->seq;
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
    scores(s, b, p->q + h * s->hd, c);
    if (e)
        extra_logits(op->extra, e, s, b, p->q + h * s->hd, c);
    op->attention->fwd(b->rows, b->keys, c->score, s->lds, &b->attend, e ? c->extra : NULL, lse);
    k->pack_f32(b->rows, b->keys, c->score, s->lds, 1, k->gemm_mr, c->pack);
    tile(k, b->rows, s->hd, b->keys, c->pack, c->values + b->k0 * k->gemm_nr, s->seq, o, p->ldo, 0);
    for (int64_t i = 0; e && op->extra->output && i < b->rows; i++)
        op->extra->output(e, extra_weight(c, lse, i), o + i * p->ldo);
}

/* The extra of head h of an item's group into e; NULL without one. */
static const sl_extra *extra_of(const sl_op *op, const sl_exec *x, int64_t item, int64_t h, bool backward, sl_extra *e) {
    if (!op->extra)
        return NULL;
    int64_t head = item % op->kv_heads * (op->heads / op->kv_heads) + h;
    *e = sl_extra_of_head(op, x, item / op->kv_heads, head, backward);
    return e;
}

static void forward_item(void *task, int64_t item, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    shape s = shape_of(op, x->k);
    pointers p = locate(op, x, &s, item);
    scratch c;
    sl_extra extra;
    carve(&s, sl_worker_scratch(x, thread), &c);
    x->k->pack_f32(s.seq, s.hd, p.k, s.ld, 1, x->k->gemm_nr, c.keys);
    x->k->pack_f32(s.hd, s.seq, p.v, 1, s.ld, x->k->gemm_nr, c.values);
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += s.qb) {
            block b = block_at(op, &s, r0);
            forward_rows(op, &s, &p, h, &b, extra_of(op, x, item, h, false, &extra), &c);
        }
}

static void forward(const sl_op *op, const sl_exec *x) {
    sl_parallel(op->rows / op->seq * op->kv_heads, forward_item, &(sl_task){op, x});
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
    scores(s, b, q, c);
    k->pack_f32(b->rows, s->hd, dout, p->ldo, 1, (int)mr, c->pack);
    tile(k, b->rows, b->keys, s->hd, c->pack, c->value_keys + b->k0 * s->hd, s->hd, c->dscore, s->lds, 0);
    op->attention->bwd(b->rows, b->keys, c->score, c->dscore, s->lds, &b->attend, lse, c->delta);
    k->pack_f32(b->rows, b->keys, c->dscore, s->lds, 1, (int)mr, c->pack);
    tile(k, b->rows, s->hd, b->keys, c->pack, c->key_values + b->k0 * nr, s->seq, dq, s->ld, 0);
    k->pack_f32(b->keys, b->rows, c->score, 1, s->lds, (int)mr, c->pack);
    k->pack_f32(s->hd, b->rows, dout, 1, p->ldo, (int)nr, c->pack_b);
    tile(k, b->keys, s->hd, b->rows, c->pack, c->pack_b, b->rows, c->dv + b->k0 * s->hd, s->hd, 1);
    k->pack_f32(b->keys, b->rows, c->dscore, 1, s->lds, (int)mr, c->pack);
    k->pack_f32(s->hd, b->rows, q + b->r0 * s->ld, 1, s->ld, (int)nr, c->pack_b);
    tile(k, b->keys, s->hd, b->rows, c->pack, c->pack_b, b->rows, c->dk + b->k0 * s->hd, s->hd, 1);
    if (!e || !op->extra->gradient)
        return;
    extra_logits(op->extra, e, s, b, q, c);
    for (int64_t i = 0; i < b->rows; i++)
        op->extra->gradient(e, q + (b->r0 + i) * s->ld, dout + i * p->ldo, extra_weight(c, lse, i), c->delta[i],
                            op->factor, dq + i * s->ld);
}

static void backward_item(void *task, int64_t item, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    shape s = shape_of(op, x->k);
    pointers p = locate(op, x, &s, item);
    scratch c;
    sl_extra extra;
    carve(&s, sl_worker_scratch(x, thread), &c);
    int nr = x->k->gemm_nr;
    x->k->pack_f32(s.seq, s.hd, p.k, s.ld, 1, nr, c.keys);
    x->k->pack_f32(s.seq, s.hd, p.v, s.ld, 1, nr, c.value_keys);
    x->k->pack_f32(s.hd, s.seq, p.k, 1, s.ld, nr, c.key_values);
    memset(c.dk, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    memset(c.dv, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    sl_extra_begin(op, x, item / op->kv_heads, item % op->kv_heads);
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

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel(op->rows / op->seq * op->kv_heads, backward_item, &(sl_task){op, x});
    sl_extra_fold(op, x);
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind attention = {.name = "attention", .forward = forward_stages, .backward = backward_stages, .keeps_out = true};

/* The constants of each kind, from the configuration. */
#define ATTENTION(name, rows, extra, a_, b_, help)                                                                     \
    static double name##_a(const sl_config *c) { return (void)c, a_; }                                                 \
    static double name##_b(const sl_config *c) { return (void)c, b_; }
#include "simd/attention.inc"
#undef ATTENTION

void sl_attention_kind(const sl_program *b, sl_op *op) {
    const sl_config *c = b->config;
    static const struct {
        enum sl_attention_rows rows;
        double (*a)(const sl_config *), (*b)(const sl_config *);
    } kinds[] = {
#define ATTENTION(name, rows, ...) {SL_ROWS_##rows, name##_a, name##_b},
#include "simd/attention.inc"
#undef ATTENTION
    };
    op->heads = c->model_heads;
    op->kv_heads = sl_config_kv_heads(c);
    op->head_dim = sl_config_head_dim(c);
    op->factor = (float)(1 / sqrt((double)op->head_dim));
    op->window = c->attention_window ? c->attention_window : INT32_MAX;
    op->attention = &b->kernels->attention[kinds[c->model_attention].rows];
    op->extra = sl_extra_kinds[c->model_attention];
    op->attend.scale = op->factor;
    op->attend.a = (float)kinds[c->model_attention].a(c);
    op->attend.b = (float)kinds[c->model_attention].b(c);
}

/* Pairs of a query and a key that it sees, per query. */
static double mean_visible(const sl_op *op) {
    double w = (double)min64(op->window, op->seq), t = (double)op->seq;
    return w < t ? w - w * (w - 1) / (2 * t) : t / 2;
}

sl_buf sl_build_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    sl_op *op = sl_program_op(b, b->bf16 ? &sl_attention_bf16 : &attention, scope);
    sl_op_reads(op, qkv, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_attention_kind(b, op);
    op->saved[0] = sl_program_buffer(b, b->batch * op->heads, op->seq); /* the rows' statistic */
    sl_extra_build(b, op, prefix);
    shape s = shape_of(op, b->kernels);
    op->worker_bytes = b->bf16 ? sl_attention_bf16_bytes(op, b->training) : thread_bytes(&s, b->training);
    op->flops = 4.0 * (double)op->rows * mean_visible(op) * (double)(op->heads * op->head_dim);
    return op->out = sl_program_activation(b, op->rows, op->heads * op->head_dim);
}
