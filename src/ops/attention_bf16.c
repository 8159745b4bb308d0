/* The attention of attention.c on bf16 operands: q, k, v and the gradient of the output are bf16 as they lie; scores,
 * softmax and sums are fp32; probabilities and score gradients are rounded once, as operands of the next product. */
#include "ops/attention_bf16.h"

#include "base/threads.h"
#include "ops/gemm_bf16.h"
#include "ops/rowwise.h"

#include <string.h>

enum { NR = SL_BF16_NR, QB = 64 }; /* query rows of a block, a multiple of SL_BF16_KR */

typedef struct {
    const sl_kernels *k;
    int64_t seq, hd, kseq, khd;     /* the last two padded to operands */
    int64_t heads, kv_heads, group; /* query heads of one key/value head */
    int64_t ld, ldo;                /* row strides of qkv and of the output */
} shape;

static shape shape_of(const sl_op *op) {
    shape s = {.seq = op->seq, .hd = op->head_dim, .heads = op->heads, .kv_heads = op->kv_heads};
    s.kseq = sl_bf16_kpad(s.seq), s.khd = sl_bf16_kpad(s.hd);
    s.group = s.heads / s.kv_heads;
    s.ld = sl_bf16_ld((s.heads + 2 * s.kv_heads) * s.hd);
    s.ldo = sl_bf16_ld(s.heads * s.hd);
    return s;
}

/* Private scratch of a thread. The panels hold all keys or values of an item; the rest is of one query block. */
typedef struct {
    sl_bf16 *keys, *values;            /* panels of K^T and V */
    sl_bf16 *value_keys, *key_values;  /* panels of V^T and K */
    sl_bf16 *q, *dout, *p, *ds, *turned, *panels;
    float *score, *dscore, *tile, *dk, *dv, *delta, *row;
} scratch;

static int64_t panels_size(int64_t n, int64_t kpad) { return sl_round_up(n, NR) * kpad; }

/* Lays the scratch out from base (NULL: only counts) and returns its bytes. */
static size_t carve(const shape *s, char *base, scratch *c) {
    size_t at = 0;
#define PART(member, count)                                                                                            \
    do {                                                                                                               \
        if (base)                                                                                                      \
            c->member = (void *)(base + at);                                                                           \
        at += (size_t)sl_round_up((count) * (int64_t)sizeof *c->member, 64);                                           \
    } while (0)
    PART(keys, panels_size(s->seq, s->khd));
    PART(values, panels_size(s->hd, s->kseq));
    PART(value_keys, panels_size(s->seq, s->khd));
    PART(key_values, panels_size(s->hd, s->kseq));
    PART(q, QB * s->khd);
    PART(dout, QB * s->khd);
    PART(p, QB * s->kseq);
    PART(ds, QB * s->kseq);
    PART(turned, s->seq * QB);
    PART(panels, panels_size(s->hd, QB));
    PART(score, QB * s->kseq);
    PART(dscore, QB * s->kseq);
    PART(tile, QB * s->hd);
    PART(dk, s->seq * s->hd);
    PART(dv, s->seq * s->hd);
    PART(delta, QB);
    PART(row, 2 * s->hd);
#undef PART
    return at;
}

size_t sl_attention_bf16_bytes(const sl_op *op) {
    shape s = shape_of(op);
    scratch c;
    return carve(&s, NULL, &c);
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

/* Rounds a block [rows, n] of scores (stride kseq) into operand rows, zeros up to the padding of n. */
static void round_rows(const shape *s, int64_t rows, int64_t n, const float *x, sl_bf16 *y) {
    for (int64_t i = 0; i < rows; i++) {
        s->k->to_bf16(n, x + i * s->kseq, y + i * s->kseq);
        memset(y + i * s->kseq + n, 0, (size_t)(sl_bf16_kpad(n) - n) * sizeof *y);
    }
}

typedef struct {
    const sl_bf16 *q, *k, *v, *dout; /* of the item's first row and the group's first head */
    sl_bf16 *out, *dq, *dk, *dv;
    float *lse;
    bool last; /* the item has the last columns of its rows, and so their padding */
} pointers;

static pointers locate(const sl_op *op, const sl_exec *x, const shape *s, int64_t item) {
    int64_t window = item / s->kv_heads, kv = item % s->kv_heads, row = window * s->seq, h = kv * s->group;
    int64_t q = row * s->ld + h * s->hd, k = row * s->ld + (s->heads + kv) * s->hd, v = k + s->kv_heads * s->hd;
    int64_t o = row * s->ldo + h * s->hd;
    const sl_bf16 *qkv = sl_buf_bf16(x, op->in[0]);
    pointers p = {.q = qkv + q, .k = qkv + k, .v = qkv + v, .out = sl_buf_bf16(x, op->out) + o,
                  .lse = sl_buf_data(x, op->saved[0]) + (window * s->heads + h) * s->seq,
                  .last = kv == s->kv_heads - 1};
    if (op->din != SL_NONE) {
        sl_bf16 *d = sl_buf_bf16(x, op->din);
        p.dout = sl_buf_bf16(x, op->dout) + o;
        p.dq = d + q, p.dk = d + k, p.dv = d + v;
    }
    return p;
}

/* score = Q K^T of the block of query rows, raw. */
static void scores(const shape *s, int64_t rows, int64_t keys, const sl_bf16 *q, scratch *c) {
    int64_t lda;
    const sl_bf16 *a = operand(s, rows, q, s->ld, c->q, &lda);
    product(s->k, rows, keys, s->khd, a, lda, c->keys, s->khd, c->score, s->kseq, 0);
}

static void forward_rows(const sl_op *op, const shape *s, const pointers *p, int64_t h, int64_t r0, scratch *c) {
    int64_t rows = s->seq - r0 < QB ? s->seq - r0 : QB, keys = r0 + rows;
    sl_bf16 *out = p->out + h * s->hd + r0 * s->ldo;
    scores(s, rows, keys, p->q + h * s->hd + r0 * s->ld, c);
    s->k->softmax_fwd(rows, keys, c->score, s->kseq, r0 + 1, op->factor, p->lse + h * s->seq + r0);
    round_rows(s, rows, keys, c->score, c->p);
    product(s->k, rows, s->hd, sl_bf16_kpad(keys), c->p, s->kseq, c->values, s->kseq, c->tile, s->hd, 0);
    for (int64_t i = 0; i < rows; i++)
        s->k->to_bf16(s->hd, c->tile + i * s->hd, out + i * s->ldo);
}

static void zero_padding(int64_t rows, sl_bf16 *from, int64_t used, int64_t ld) {
    for (int64_t i = 0; i < rows; i++)
        memset(from + i * ld, 0, (size_t)(sl_bf16_kpad(used) - used) * sizeof *from);
}

static void forward_item(void *task, int64_t item, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    shape s = shape_of(op);
    scratch c;
    s.k = x->k;
    carve(&s, sl_thread_scratch(x, thread), &c);
    pointers p = locate(op, x, &s, item);
    pack(x->k->pack_bt_bf16, s.seq, s.hd, p.k, s.ld, s.ld, c.keys);
    pack(x->k->pack_b_bf16, s.hd, s.seq, p.v, s.ld, 1, c.values);
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += QB)
            forward_rows(op, &s, &p, h, r0, &c);
    if (p.last)
        zero_padding(s.seq, p.out + s.group * s.hd, s.heads * s.hd, s.ldo);
}

static void forward(const sl_op *op, const sl_exec *x) {
    sl_parallel(op->rows / op->seq * op->kv_heads, forward_item, &(sl_task){op, x});
}

/* delta = rowwise dout . out */
static void deltas(const shape *s, int64_t rows, const sl_bf16 *dout, const sl_bf16 *out, scratch *c) {
    for (int64_t i = 0; i < rows; i++) {
        s->k->from_bf16(s->hd, dout + i * s->ldo, c->row);
        s->k->from_bf16(s->hd, out + i * s->ldo, c->row + s->hd);
        c->delta[i] = s->k->dot(s->hd, c->row, c->row + s->hd);
    }
}

/* into[keys, hd] += x^T y for a block: x [rows, keys] rounded scores, y [rows, hd] in place. */
static void add_transposed(const shape *s, int64_t rows, int64_t keys, const sl_bf16 *x, const sl_bf16 *y, int64_t ldy,
                           scratch *c, float *into) {
    s->k->transpose_bf16(rows, keys, x, s->kseq, c->turned, QB);
    pack(s->k->pack_b_bf16, s->hd, rows, y, ldy, 1, c->panels);
    product(s->k, keys, s->hd, sl_bf16_kpad(rows), c->turned, QB, c->panels, sl_bf16_kpad(rows), into, s->hd, 1);
}

static void backward_rows(const sl_op *op, const shape *s, const pointers *p, int64_t h, int64_t r0, scratch *c) {
    int64_t rows = s->seq - r0 < QB ? s->seq - r0 : QB, keys = r0 + rows, lda;
    const sl_bf16 *q = p->q + h * s->hd + r0 * s->ld, *dout = p->dout + h * s->hd + r0 * s->ldo;
    deltas(s, rows, dout, p->out + h * s->hd + r0 * s->ldo, c);
    scores(s, rows, keys, q, c);
    const sl_bf16 *a = operand(s, rows, dout, s->ldo, c->dout, &lda);
    product(s->k, rows, keys, s->khd, a, lda, c->value_keys, s->khd, c->dscore, s->kseq, 0);
    s->k->softmax_bwd(rows, keys, c->score, c->dscore, s->kseq, r0 + 1, op->factor, p->lse + h * s->seq + r0, c->delta);
    round_rows(s, rows, keys, c->score, c->p);
    round_rows(s, rows, keys, c->dscore, c->ds);
    product(s->k, rows, s->hd, sl_bf16_kpad(keys), c->ds, s->kseq, c->key_values, s->kseq, c->tile, s->hd, 0);
    for (int64_t i = 0; i < rows; i++)
        s->k->to_bf16(s->hd, c->tile + i * s->hd, p->dq + h * s->hd + (r0 + i) * s->ld);
    add_transposed(s, rows, keys, c->p, dout, s->ldo, c, c->dv);
    add_transposed(s, rows, keys, c->ds, q, s->ld, c, c->dk);
}

static void backward_item(void *task, int64_t item, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    shape s = shape_of(op);
    scratch c;
    s.k = x->k;
    carve(&s, sl_thread_scratch(x, thread), &c);
    pointers p = locate(op, x, &s, item);
    pack(x->k->pack_bt_bf16, s.seq, s.hd, p.k, s.ld, s.ld, c.keys);
    pack(x->k->pack_bt_bf16, s.seq, s.hd, p.v, s.ld, s.ld, c.value_keys);
    pack(x->k->pack_b_bf16, s.hd, s.seq, p.k, s.ld, 1, c.key_values);
    memset(c.dk, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    memset(c.dv, 0, (size_t)(s.seq * s.hd) * sizeof(float));
    for (int64_t h = 0; h < s.group; h++)
        for (int64_t r0 = 0; r0 < s.seq; r0 += QB)
            backward_rows(op, &s, &p, h, r0, &c);
    for (int64_t t = 0; t < s.seq; t++) {
        x->k->to_bf16(s.hd, c.dk + t * s.hd, p.dk + t * s.ld);
        x->k->to_bf16(s.hd, c.dv + t * s.hd, p.dv + t * s.ld);
    }
    if (p.last)
        zero_padding(s.seq, p.dv + s.hd, (s.heads + 2 * s.kv_heads) * s.hd, s.ld);
}

static void backward(const sl_op *op, const sl_exec *x) {
    sl_parallel(op->rows / op->seq * op->kv_heads, backward_item, &(sl_task){op, x});
}

const sl_op_kind sl_attention_bf16 = {"attention", forward, backward, true, true};
