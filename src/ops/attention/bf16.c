/* The attention of attention.c on bf16 operands: q, k, v and the gradient of the output are bf16 as they lie; scores,
 * softmax and sums are fp32; probabilities and score gradients are rounded once, as operands of the next product.
 *
 * Forward, a block of query rows at a time: S = Q K^T, P = e^(S - max), O = P V / sum.
 * Backward, a block of keys at a time, transposed, so that P^T and dS^T are operands of dV = P^T dO and dK = dS^T Q as
 * the softmax writes them: S^T = K Q^T, dP^T = V dO^T; only dQ += dS K needs a transpose. Nothing above the diagonal is
 * computed but within squares of 32. */
#include "ops/attention/attention.h"

#include "ops/attention/extra.h"
#include "ops/product/gemm_bf16.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <math.h>
#include <string.h>

static const sl_attention *of(const sl_op *op) { return op->own; }

enum { NR = SL_BF16_NR, QB = 64, KB = 64 }; /* query rows of a block forward, keys of one backward; of 32 */

typedef struct {
    const sl_kernels *k;
    int64_t seq, hd, kseq, khd;     /* the last two padded to operands */
    int64_t heads, kv_heads, group; /* query heads of one key/value head */
    int64_t ld, ldo;                /* row strides of qkv and of the output */
    const sl_op *op;
} shape;

static shape shape_of(const sl_op *op, const sl_kernels *k) {
    shape s = {
        .k = k, .op = op, .seq = op->seq, .hd = of(op)->head_dim, .heads = of(op)->heads, .kv_heads = of(op)->kv_heads};
    s.kseq = sl_bf16_kpad(s.seq), s.khd = sl_bf16_kpad(s.hd);
    s.group = s.heads / s.kv_heads;
    s.ld = sl_bf16_ld((s.heads + 2 * s.kv_heads) * s.hd);
    s.ldo = sl_bf16_ld(s.heads * s.hd);
    return s;
}


/* Private scratch of a thread. */
typedef struct {
    sl_bf16 *rows[2], *p, *ds, *turned;
    sl_bf16 *in_depth, *in_keys;     /* panels with the head's dimensions as depth (K^T; Q^T), with keys (V; K) */
    sl_bf16 *dout_depth, *q_rows, *dout_rows; /* panels of dO^T; of Q and dO with queries as depth */
    float *score, *dscore, *tile, *inverse, *dq, *dk, *dv, *delta;
    float *extra, *row; /* of an extra: logits of a block, one row of q and of dout */
} scratch;

static int64_t panels_size(int64_t n, int64_t kpad) { return sl_round_up(n, NR) * kpad; }

static sl_bf16 *carve_bf16(sl_carver *at, int64_t n) { return sl_carve(at, n * (int64_t)sizeof(sl_bf16)); }

static scratch scratch_at(const shape *s, bool training, sl_carver *at) {
    scratch c = {.in_depth = carve_bf16(at, panels_size(s->seq, s->khd)),
                 .in_keys = carve_bf16(at, panels_size(s->hd, s->kseq))};
    c.rows[0] = carve_bf16(at, sl_max(QB, KB) * s->khd);
    c.p = carve_bf16(at, sl_max(QB, KB) * s->kseq);
    c.score = sl_carve_floats(at, sl_max(QB, KB) * s->kseq);
    c.tile = sl_carve_floats(at, QB * s->hd);
    c.inverse = sl_carve_floats(at, QB);
    c.extra = sl_carve_floats(at, QB);
    c.row = sl_carve_floats(at, 2 * s->hd);
    if (!training)
        return c;
    c.rows[1] = carve_bf16(at, KB * s->khd);
    c.ds = carve_bf16(at, KB * s->kseq);
    c.turned = carve_bf16(at, s->kseq * KB);
    c.dout_depth = carve_bf16(at, panels_size(s->seq, s->khd));
    c.q_rows = carve_bf16(at, panels_size(s->hd, s->kseq));
    c.dout_rows = carve_bf16(at, panels_size(s->hd, s->kseq));
    c.dscore = sl_carve_floats(at, KB * s->kseq);
    c.dq = sl_carve_floats(at, s->seq * s->hd);
    c.dk = sl_carve_floats(at, s->seq * s->hd);
    c.dv = sl_carve_floats(at, s->seq * s->hd);
    c.delta = sl_carve_floats(at, s->seq);
    return c;
}

size_t sl_attention_bf16_bytes(const sl_op *op, bool training) {
    shape s = shape_of(op, NULL);
    sl_carver at = {0};
    scratch_at(&s, training, &at);
    return at.used;
}

typedef void (*pack_fn)(int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, sl_bf16 *panel);

/* Panels of all n columns; step: elements of src from one column of B to the next. */
static void pack(pack_fn fn, int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, int64_t step, sl_bf16 *panels) {
    for (int64_t j = 0; j < n; j += NR)
        fn(n - j < NR ? n - j : NR, k, src + j * step, ld, panels + j * sl_bf16_kpad(k));
}

/* c[m, n] (+)= a B; kp rows of panels that hold panel_k. */
static void product(const sl_kernels *k, int64_t m, int64_t n, int64_t kp, const sl_bf16 *a, int64_t lda,
                    const sl_bf16 *panels, int64_t panel_k, float *c, int64_t ldc, int add) {
    for (int64_t j = 0; j < n; j += NR)
        k->gemm_bf16(m, n - j < NR ? n - j : NR, kp, a, lda, panels + j * panel_k, c + j, ldc, add);
}

/* Rows of a head as an operand: in place where the head's width needs no padding, else copied. */
static const sl_bf16 *operand(const shape *s, int64_t rows, const sl_bf16 *src, int64_t ld, sl_bf16 *copy,
                              int64_t *lda) {
    *lda = ld;
    if (s->hd == s->khd)
        return src;
    for (int64_t i = 0; i < rows; i++) {
        memcpy(copy + i * s->khd, src + i * ld, (size_t)s->hd * sizeof *copy);
        memset(copy + i * s->khd + s->hd, 0, (size_t)(s->khd - s->hd) * sizeof *copy);
    }
    *lda = s->khd;
    return copy;
}

typedef struct {
    const sl_bf16 *q, *k, *v, *dout; /* of the item's first row and the group's first head */
    sl_bf16 *out, *dq, *dk, *dv;
    float *lse;
    float *null, *dnull; /* of the group's first head, of the window; NULL where nobody asks */
    bool last; /* the item has the last columns of its rows, and so their padding */
} pointers;

static pointers locate(const sl_op *op, const sl_exec *x, const shape *s, sl_attention_item item) {
    int64_t window = item.window, kv = item.kv, row = window * s->seq, h = kv * s->group;
    int64_t q = row * s->ld + h * s->hd, k = row * s->ld + (s->heads + kv) * s->hd, v = k + s->kv_heads * s->hd;
    int64_t o = row * s->ldo + h * s->hd;
    const sl_bf16 *qkv = sl_buf_bf16(x, op->in[0]);
    pointers p = {.q = qkv + q, .k = qkv + k, .v = qkv + v, .out = sl_buf_bf16(x, op->out) + o,
                  .lse = sl_buf_data(x, op->saved[SL_ATTENTION_STAT]) + (window * s->heads + h) * s->seq,
                  .last = kv == s->kv_heads - 1};
    if (op->saved[SL_ATTENTION_NULLS] != SL_NONE)
        p.null = sl_buf_data(x, op->saved[SL_ATTENTION_NULLS]) + (window * s->heads + h) * s->seq;
    if (op->saved[SL_ATTENTION_DNULL] != SL_NONE)
        p.dnull = sl_buf_data(x, op->saved[SL_ATTENTION_DNULL]) + row;
    if (op->din[0] != SL_NONE) {
        sl_bf16 *d = sl_buf_bf16(x, op->din[0]);
        p.dout = sl_buf_bf16(x, op->dout) + o;
        p.dq = d + q, p.dk = d + k, p.dv = d + v;
    }
    return p;
}

/* score = Q K^T of a block of query rows, raw, below the diagonal; keys from k0 on, which is column 0. */
static void forward_scores(const shape *s, int64_t r0, int64_t rows, int64_t k0, const sl_bf16 *a, int64_t lda,
                           scratch *c) {
    int64_t keys = r0 + rows;
    for (int64_t j = k0; j < keys; j += NR) {
        int64_t skip = sl_max(j - r0, 0); /* rows before the first that sees key j */
        s->k->gemm_bf16(rows - skip, sl_min(NR, keys - j), s->khd, a + skip * lda, lda, c->in_depth + j * s->khd,
                        c->score + skip * s->kseq + j - k0, s->kseq, 0);
    }
}

/* The constants of the kind, for the tile whose row 0 sees columns from lo to hi. */
static sl_attend attend(const shape *s, int64_t lo, int64_t hi) {
    sl_attend a = of(s->op)->attend;
    a.band = (sl_band){lo, hi};
    return a;
}

/* The weight of an extra. */
static float extra_weight(float logit, float lse) { return exp2f(logit * 0x1.715476p+0f - lse); }

static const float *read_row(const shape *s, const sl_bf16 *src, float *row) {
    s->k->from_bf16(s->hd, src, row);
    return row;
}

/* tile += weight value, before the rows are scaled by their inverse sum */
static void add_extra(const shape *s, const sl_extra *e, int64_t rows, const float *lse, scratch *c) {
    for (int64_t i = 0; of(s->op)->extra->output && i < rows; i++)
        of(s->op)->extra->output(e, extra_weight(c->extra[i], lse[i]) / c->inverse[i], c->tile + i * s->hd);
}

/* e: NULL without an extra */
static void forward_rows(const shape *s, const pointers *p, int64_t h, int64_t r0, const sl_extra *e, scratch *c) {
    int64_t rows = sl_min(QB, s->seq - r0), k0 = sl_max(0, r0 + 1 - of(s->op)->window) / NR * NR, keys = r0 + rows - k0,
            lda;
    float *lse = p->lse + h * s->seq + r0;
    sl_attend a = attend(s, r0 + 1 - of(s->op)->window - k0, r0 + 1 - k0);
    const sl_bf16 *rows_q = p->q + h * s->hd + r0 * s->ld, *q = operand(s, rows, rows_q, s->ld, c->rows[0], &lda);
    forward_scores(s, r0, rows, k0, q, lda, c);
    sl_attention_cap(s->op, s->k, a.band, rows, keys, c->score, s->kseq);
    for (int64_t i = 0; e && i < rows; i++)
        c->extra[i] = of(s->op)->extra->logit(e, read_row(s, rows_q + i * s->ld, c->row));
    of(s->op)->kernels->fwd_bf16(rows, keys, c->score, s->kseq, &a, e ? c->extra : NULL, c->p, s->kseq, c->inverse,
                                 lse);
    for (int64_t i = 0; p->null && i < rows; i++)
        p->null[h * s->seq + r0 + i] = extra_weight(c->extra[i], lse[i]);
    product(s->k, rows, s->hd, sl_bf16_kpad(keys), c->p, s->kseq, c->in_keys + k0 * NR, s->kseq, c->tile, s->hd, 0);
    if (e)
        add_extra(s, e, rows, lse, c);
    s->k->scale_rows_bf16(rows, s->hd, c->tile, s->hd, c->inverse, 1, p->out + h * s->hd + r0 * s->ldo, s->ldo);
}

/* The extra of head h of an item's group into e; NULL without one. */
static const sl_extra *extra_of(const shape *s, const sl_exec *x, sl_attention_item item, int64_t h, bool backward,
                                sl_extra *e) {
    if (!of(s->op)->extra)
        return NULL;
    *e = sl_extra_of_head(s->op, x, item.window, item.kv * s->group + h, backward);
    return e;
}

static void zero_padding(int64_t rows, sl_bf16 *from, int64_t used, int64_t ld) {
    for (int64_t i = 0; i < rows; i++)
        memset(from + i * ld, 0, (size_t)(sl_bf16_kpad(used) - used) * sizeof *from);
}

static void forward_item(const sl_op *op, const sl_exec *x, sl_attention_item item, int worker) {
    shape s = shape_of(op, x->k);
    scratch c = scratch_at(&s, x->training, &(sl_carver){sl_worker_scratch(x, worker), 0});
    pointers p = locate(op, x, &s, item);
    sl_extra extra;
    pack(x->k->pack_bt_bf16, s.seq, s.hd, p.k, s.ld, s.ld, c.in_depth);
    pack(x->k->pack_b_bf16, s.hd, s.seq, p.v, s.ld, 1, c.in_keys);
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += QB)
            forward_rows(&s, &p, h, r0, extra_of(&s, x, item, h, false, &extra), &c);
    if (p.last)
        zero_padding(s.seq, p.out + s.group * s.hd, s.heads * s.hd, s.ldo);
}

int sl_attention_bf16_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = 0; i < sl_attention_items(op, s); i++)
        forward_item(op, x, sl_attention_item_at(op, s, i), s->worker);
    return 0;
}

/* into[keys, queries from k0 to end] = K Q^T or V dO^T of a block of keys, below the diagonal. */
static void transposed_scores(const shape *s, int64_t k0, int64_t keys, int64_t end, const sl_bf16 *a, int64_t lda,
                              const sl_bf16 *panels, float *into) {
    for (int64_t j = k0; j < end; j += NR)
        s->k->gemm_bf16(sl_min(keys, j + NR - k0), sl_min(NR, end - j), s->khd, a, lda, panels + j * s->khd,
                        into + j - k0, s->kseq, 0);
}

/* A block of keys, and the queries that see one of them. */
typedef struct {
    int64_t k0, keys, queries;
    sl_attend attend;
} key_block;

/* S^T and dP^T of a block, raw but for the cap. */
static key_block backward_scores(const shape *s, const pointers *p, int64_t k0, scratch *c) {
    key_block b = {.k0 = k0, .keys = sl_min(KB, s->seq - k0), .attend = attend(s, 0, of(s->op)->window)};
    int64_t end = sl_min(s->seq, k0 + b.keys - 1 + of(s->op)->window), lda;
    b.queries = end - k0;
    const sl_bf16 *k = operand(s, b.keys, p->k + k0 * s->ld, s->ld, c->rows[0], &lda);
    transposed_scores(s, k0, b.keys, end, k, lda, c->in_depth, c->score);
    sl_attention_cap(s->op, s->k, b.attend.band, b.keys, b.queries, c->score, s->kseq);
    const sl_bf16 *v = operand(s, b.keys, p->v + k0 * s->ld, s->ld, c->rows[1], &lda);
    transposed_scores(s, k0, b.keys, end, v, lda, c->dout_depth, c->dscore);
    return b;
}

/* A block of keys of head h: its rows of dk and dv, and its share of dq. */
static void backward_keys(const shape *s, const pointers *p, int64_t h, int64_t k0, scratch *c) {
    key_block b = backward_scores(s, p, k0, c);
    int64_t kq = sl_bf16_kpad(b.queries);
    sl_attention_cap_back(s->op, s->k, b.attend.band, b.keys, b.queries, c->score, c->dscore, s->kseq, c->delta + k0,
                          true);
    of(s->op)->kernels->bwd_bf16(b.keys, b.queries, c->score, c->dscore, s->kseq, &b.attend, p->lse + h * s->seq + k0,
                               c->delta + k0, c->p, c->ds, s->kseq);
    product(s->k, b.keys, s->hd, kq, c->p, s->kseq, c->dout_rows + k0 * NR, s->kseq, c->dv + k0 * s->hd, s->hd, h > 0);
    product(s->k, b.keys, s->hd, kq, c->ds, s->kseq, c->q_rows + k0 * NR, s->kseq, c->dk + k0 * s->hd, s->hd, h > 0);
    s->k->transpose_bf16(b.keys, b.queries, c->ds, s->kseq, c->turned, KB);
    product(s->k, b.queries, s->hd, sl_bf16_kpad(b.keys), c->turned, KB, c->in_keys + k0 * NR, s->kseq,
            c->dq + k0 * s->hd, s->hd, 1);
}

/* delta of every query: dout . out, or what the kind adds up itself. */
static void deltas(const shape *s, const pointers *p, int64_t h, const sl_bf16 *dout, scratch *c) {
    if (!of(s->op)->kernels->delta_bf16) {
        s->k->dot_rows_bf16(s->seq, s->hd, dout, s->ldo, p->out + h * s->hd, s->ldo, c->delta);
        for (int64_t i = 0; p->dnull && i < s->seq; i++) /* dn/ds_j = -n p_j: as if the zero had that value */
            c->delta[i] += p->dnull[i] * p->null[h * s->seq + i];
        return;
    }
    memset(c->delta, 0, (size_t)s->seq * sizeof *c->delta);
    for (int64_t k0 = 0; k0 < s->seq; k0 += KB) {
        key_block b = backward_scores(s, p, k0, c);
        of(s->op)->kernels->delta_bf16(b.keys, b.queries, c->score, c->dscore, s->kseq, &b.attend,
                                     p->lse + h * s->seq + k0, c->delta + k0);
    }
}

/* The extra's own gradients and its share of dq. */
static void backward_extra(const shape *s, const pointers *p, int64_t h, const sl_bf16 *q, const sl_bf16 *dout,
                           const sl_extra *e, scratch *c) {
    const sl_extra_kind *kind = of(s->op)->extra;
    for (int64_t i = 0; kind->gradient && i < s->seq; i++) {
        const float *row = read_row(s, q + i * s->ld, c->row), *drow = read_row(s, dout + i * s->ldo, c->row + s->hd);
        float weight = extra_weight(kind->logit(e, row), p->lse[h * s->seq + i]);
        kind->gradient(e, row, drow, weight, c->delta[i], 1, c->dq + i * s->hd);
    }
}

static void backward_head(const shape *s, const pointers *p, int64_t h, const sl_extra *e, scratch *c) {
    const sl_bf16 *q = p->q + h * s->hd, *dout = p->dout + h * s->hd;
    pack(s->k->pack_bt_bf16, s->seq, s->hd, q, s->ld, s->ld, c->in_depth);
    pack(s->k->pack_bt_bf16, s->seq, s->hd, dout, s->ldo, s->ldo, c->dout_depth);
    pack(s->k->pack_b_bf16, s->hd, s->seq, q, s->ld, 1, c->q_rows);
    pack(s->k->pack_b_bf16, s->hd, s->seq, dout, s->ldo, 1, c->dout_rows);
    memset(c->dq, 0, (size_t)(s->seq * s->hd) * sizeof *c->dq);
    deltas(s, p, h, dout, c);
    for (int64_t k0 = 0; k0 < s->seq; k0 += KB)
        backward_keys(s, p, h, k0, c);
    if (e)
        backward_extra(s, p, h, q, dout, e, c);
    s->k->scale_rows_bf16(s->seq, s->hd, c->dq, s->hd, &of(s->op)->attend.scale, 0, p->dq + h * s->hd, s->ld);
}

static void backward_item(const sl_op *op, const sl_exec *x, sl_attention_item item, int worker) {
    const float one = 1;
    sl_extra extra;
    shape s = shape_of(op, x->k);
    scratch c = scratch_at(&s, true, &(sl_carver){sl_worker_scratch(x, worker), 0});
    pointers p = locate(op, x, &s, item);
    pack(x->k->pack_b_bf16, s.hd, s.seq, p.k, s.ld, 1, c.in_keys);
    sl_extra_begin(op, x, item.window, item.kv);
    for (int64_t h = 0; h < s.group; h++)
        backward_head(&s, &p, h, extra_of(&s, x, item, h, true, &extra), &c);
    x->k->scale_rows_bf16(s.seq, s.hd, c.dk, s.hd, &of(op)->attend.scale, 0, p.dk, s.ld);
    x->k->scale_rows_bf16(s.seq, s.hd, c.dv, s.hd, &one, 0, p.dv, s.ld);
    if (p.last)
        zero_padding(s.seq, p.dv + s.hd, (s.heads + 2 * s.kv_heads) * s.hd, s.ld);
}

int sl_attention_bf16_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = 0; i < sl_attention_items(op, s); i++)
        backward_item(op, x, sl_attention_item_at(op, s, i), s->worker);
    return 0;
}
