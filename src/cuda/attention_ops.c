/* Operations of attention on the device. */
#include "base/err.h"
#include "cuda/attention.h"
#include "cuda/heads.h"
#include "cuda/kind.h"
#include "ops/attention/attention.h"
#include "ops/attention/heads.h"
#include "ops/sigmoid_gate.h"

/* ---- attention, over windows and over a cache */

_Static_assert((int)SLC_ROWS_SOFTMAX == SL_ROWS_softmax && (int)SLC_ROWS_CLIPPED == SL_ROWS_clipped &&
                   (int)SLC_ROWS_SIGMOID == SL_ROWS_sigmoid && (int)SLC_ROWS_RELU == SL_ROWS_relu,
               "rows are numbered alike");

#define EXTRA_none SLC_EXTRA_NONE
#define EXTRA_zero SLC_EXTRA_ZERO
#define EXTRA_logit SLC_EXTRA_LOGIT
#define EXTRA_key SLC_EXTRA_KEY
#define EXTRA_key_value SLC_EXTRA_KEY_VALUE
static const struct {
    int rows, extra;
} attention_kinds[] = {
#define ATTENTION(name, rows, extra, ...) {SL_ROWS_##rows, EXTRA_##extra},
#include "simd/attention.inc"
#undef ATTENTION
};

/* Everything but data. */
static slc_attention shape_of(const sl_op *op) {
    const sl_attention *a = op->own;
    return (slc_attention){.batch = op->rows / op->seq, .seq = op->seq, .heads = a->heads, .kv_heads = a->kv_heads,
                           .head_dim = a->head_dim, .window = a->window, .rows = attention_kinds[a->kind].rows,
                           .extra = attention_kinds[a->kind].extra, .scale = a->attend.scale, .a = a->attend.a,
                           .b = a->attend.b};
}

static slc_attention describe(const sl_op *op, const slc_exec *x) {
    slc_attention p = shape_of(op);
    p.bf16 = x->info[op->in[0]].bf16;
    p.qkv = x->buf[op->in[0]], p.ld = x->info[op->in[0]].ld;
    p.out = x->buf[op->out], p.ldo = x->info[op->out].ld;
    p.nulls = slc_f32(x, op->saved[SL_ATTENTION_NULLS]);
    if (p.extra == SLC_EXTRA_LOGIT)
        p.sinks = slc_weight(op, x, 0);
    if (p.extra == SLC_EXTRA_KEY || p.extra == SLC_EXTRA_KEY_VALUE)
        p.bias_k = slc_weight(op, x, 0), p.bias_v = slc_weight(op, x, 1);
    return p;
}

static int attention_check(const sl_op *op) {
    const sl_attention *a = op->own;
    return a->cap.in == 0 ? 0 : sl_fail("device: cuda has no model.attention_opts.softcap; take device: cpu");
}

static int check_head_dim(const slc_attention *p) {
    return p->head_dim <= SLC_HEAD_DIM_MAX ? 0
                                           : sl_fail("device: cuda takes heads of up to %d columns, not %lld; take "
                                                     "device: cpu, or more heads",
                                                     SLC_HEAD_DIM_MAX, (long long)p->head_dim);
}

static int attention_forward(const sl_op *op, const slc_exec *x) {
    slc_attention p = describe(op, x);
    p.stat = slc_f32(x, op->saved[0]);
    if (check_head_dim(&p))
        return -1;
    slc_attention_forward(x->stream, &p);
    return 0;
}

/* Does attention, the operation behind a rotation (op), turn back the gradients of q and k itself? */
static bool turns_back(const sl_op *op, const slc_exec *x) {
    const sl_program *b = x->program;
    const sl_op *next = op + 1;
    if (x->apart || next >= b->op + b->ops || strcmp(op->kind->name, "rope") || strcmp(next->kind->name, "attention") ||
        next->in[0] != op->out || next->din[0] != op->dout || next->sum[0] != SL_NONE)
        return false;
    slc_attention p = shape_of(next);
    p.bf16 = x->info[next->in[0]].bf16;
    return slc_attention_turns(&p);
}

static int attention_backward(const sl_op *op, const slc_exec *x) {
    slc_attention p = describe(op, x);
    if (op > x->program->op && turns_back(op - 1, x))
        p.turn = slc_f32(x, (op - 1)->saved[0]);
    p.stat = slc_f32(x, op->saved[0]);
    p.dout = x->buf[op->dout], p.dqkv = x->buf[op->din[0]];
    p.dnull = slc_f32(x, op->saved[SL_ATTENTION_DNULL]);
    if (p.extra == SLC_EXTRA_LOGIT)
        p.dsinks = slc_grad(op, x, 0);
    if (p.extra == SLC_EXTRA_KEY || p.extra == SLC_EXTRA_KEY_VALUE)
        p.dbias_k = slc_grad(op, x, 0), p.dbias_v = slc_grad(op, x, 1);
    p.scratch = x->scratch;
    slc_attention_backward(x->stream, &p);
    return 0;
}

static size_t attention_scratch(const sl_op *op, const sl_program *b) {
    slc_attention p = shape_of(op);
    p.bf16 = b->buffer[op->in[0]].bf16;
    p.ld = b->buffer[op->in[0]].ld, p.ldo = b->buffer[op->out].ld;
    return b->training ? slc_attention_scratch(&p) : 0;
}

static int cached_attention_forward(const sl_op *op, const slc_exec *x) {
    const sl_attention *a = op->own;
    slc_attention p = describe(op, x);
    if (check_head_dim(&p))
        return -1;
    slc_attention_cached(x->stream, &p, x->info[op->out].bf16, slc_f32(x, op->saved[0]), slc_f32(x, op->saved[1]),
                         a->cache, x->position);
    return 0;
}

/* ---- null evidence */

static int evidence_forward(const sl_op *op, const slc_exec *x) {
    const sl_evidence *e = op->own;
    slc_null_evidence(x->stream, op->rows / op->seq, op->seq, e->heads, slc_f32(x, op->saved[SL_EVIDENCE_NULLS]),
                      slc_f32(x, op->out) + e->layer, op->dim_out);
    return 0;
}

static int evidence_backward(const sl_op *op, const slc_exec *x) {
    const sl_evidence *e = op->own;
    float *dnull = slc_f32(x, op->saved[SL_EVIDENCE_DNULL]);
    if (dnull)
        slc_null_evidence_back(x->stream, op->rows, e->heads, slc_f32(x, op->dout) + e->layer, op->dim_out, dnull);
    return 0;
}

/* ---- heads */

static int rope(const sl_op *op, const slc_exec *x, sl_buf v, float sign) {
    const sl_rope *o = op->own;
    slc_rope_turn(x->stream, &(slc_rope){.rows = op->rows, .seq = op->seq, .heads = o->heads,
                                         .head_dim = o->head_dim, .bf16 = x->info[v].bf16, .x = x->buf[v],
                                         .ld = x->info[v].ld, .sign = sign,
                                         .base = o->base,
                                         .table = slc_f32(x, op->saved[0]), .position = x->position});
    return 0;
}
static int rope_check(const sl_op *op) {
    const sl_rope *o = op->own;
    return o->dims == o->head_dim && !o->scaled ? 0
                                                : sl_fail("device: cuda has neither model.rope_dims nor "
                                                          "model.rope_scaling; take device: cpu");
}
static int rope_forward(const sl_op *op, const slc_exec *x) { return rope(op, x, op->out, 1); }
static int rope_backward(const sl_op *op, const slc_exec *x) {
    return turns_back(op, x) ? 0 : rope(op, x, op->dout, -1);
}

static int qk_norm_check(const sl_op *op) {
    const sl_qk_norm *o = op->own;
    return o->q_span == 1 && o->k_span == 1
               ? 0
               : sl_fail("device: cuda has model.qk_norm_span=head alone; take device: cpu");
}

static slc_qk_norm qk_norm_of(const sl_op *op, const sl_buffer *v) {
    const sl_qk_norm *o = op->own;
    return (slc_qk_norm){.rows = op->rows, .heads = o->heads, .kv_heads = o->kv_heads, .head_dim = o->head_dim,
                         .bf16 = v->bf16, .ld = v->ld, .eps = o->eps};
}

static slc_qk_norm qk_norm_at(const sl_op *op, const slc_exec *x, sl_buf v) {
    slc_qk_norm p = qk_norm_of(op, &x->info[v]);
    p.x = x->buf[v];
    p.raw = slc_f32(x, op->saved[0]), p.rstd = slc_f32(x, op->saved[1]);
    for (int i = 0; i < 2; i++)
        p.weight[i] = slc_weight(op, x, i), p.dweight[i] = slc_grad(op, x, i);
    p.scratch = x->scratch;
    return p;
}

static int qk_norm_forward(const sl_op *op, const slc_exec *x) {
    slc_qk_norm p = qk_norm_at(op, x, op->out);
    slc_qk_norm_forward(x->stream, &p);
    return 0;
}
static int qk_norm_backward(const sl_op *op, const slc_exec *x) {
    slc_qk_norm p = qk_norm_at(op, x, op->dout);
    slc_qk_norm_backward(x->stream, &p);
    return 0;
}
static size_t qk_norm_scratch(const sl_op *op, const sl_program *b) {
    slc_qk_norm p = qk_norm_of(op, &b->buffer[op->out]);
    return b->training ? slc_qk_norm_scratch(&p) : 0;
}

/* Column col of a buffer. */
static void *column(const slc_exec *x, sl_buf v, int64_t col) {
    return (char *)x->buf[v] + col * (x->info[v].bf16 ? (int64_t)sizeof(sl_bf16) : (int64_t)sizeof(float));
}

static slc_gate gate_of(const sl_op *op, const slc_exec *x) {
    const sl_sigmoid_gate *o = op->own;
    return (slc_gate){.rows = op->rows, .n = o->n, .group = o->group, .bf16 = x->info[op->in[0]].bf16,
                      .open = o->open, .y = column(x, op->in[0], o->first), .ld_y = x->info[op->in[0]].ld,
                      .b = x->buf[op->in[1]], .ld_b = x->info[op->in[1]].ld};
}

static int gate_forward(const sl_op *op, const slc_exec *x) {
    const sl_sigmoid_gate *o = op->own;
    slc_gate p = gate_of(op, x);
    p.out = column(x, op->out, o->first), p.ld_out = x->info[op->out].ld;
    if (o->in_place)
        p.keep = x->buf[op->saved[0]], p.ld_keep = x->info[op->saved[0]].ld;
    slc_gate_forward(x->stream, &p);
    return 0;
}

static int gate_backward(const sl_op *op, const slc_exec *x) {
    const sl_sigmoid_gate *o = op->own;
    slc_gate p = gate_of(op, x);
    if (o->in_place)
        p.y = x->buf[op->saved[0]], p.ld_y = x->info[op->saved[0]].ld;
    p.dout = column(x, op->dout, o->first), p.ld_dout = x->info[op->dout].ld;
    p.dy = column(x, op->din[0], o->first), p.ld_dy = x->info[op->din[0]].ld;
    p.db = x->buf[op->din[1]], p.ld_db = x->info[op->din[1]].ld;
    slc_gate_backward(x->stream, &p);
    return 0;
}

const slc_kind slc_attention_kinds[] = {
    {.name = "attention", .check = attention_check, .forward = attention_forward, .backward = attention_backward,
     .scratch = attention_scratch},
    {.name = "cached_attention", .check = attention_check, .forward = cached_attention_forward},
    {.name = "null_evidence", .forward = evidence_forward, .backward = evidence_backward},
    {.name = "rope", .check = rope_check, .forward = rope_forward, .backward = rope_backward},
    {.name = "qk_norm", .check = qk_norm_check, .forward = qk_norm_forward, .backward = qk_norm_backward,
     .scratch = qk_norm_scratch},
    {.name = "sigmoid_gate", .forward = gate_forward, .backward = gate_backward},
    {.name = NULL}};
