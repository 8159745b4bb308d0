#include "ops/attention/anchors.h"

#include "ops/ops.h"
#include "ops/rows.h"
#include "program/scratch.h"

#include <stdio.h>
#include <string.h>

enum { Q, K, V, QKV_PARTS = SL_ANCHOR_PARTS, GATE = QKV_PARTS, PARTS };
static const char *const part_names[] = {[Q] = "q", [K] = "k", [V] = "v", [GATE] = "gate"};

typedef sl_anchor_layout layout;

static layout qkv_layout(const sl_config *c) {
    int64_t h = c->model_heads, kv = sl_config_kv_heads(c);
    return (layout){QKV_PARTS, {0, h, h + kv, h + 2 * kv}, sl_config_head_dim(c)};
}
static layout gate_layout(const sl_config *c) { return (layout){1, {0, c->model_heads}, sl_config_head_dim(c)}; }

static int64_t columns(const layout *l) { return l->first[l->parts] * l->head_dim; }
static int64_t begin_of(const layout *l, int part) { return l->first[part] * l->head_dim; }
static int64_t width_of(const layout *l, int part) { return begin_of(l, part + 1) - begin_of(l, part); }

static bool has_gate(const sl_config *c) { return c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE; }

/* ---- anchors */

enum { RAW, RSTD };
typedef sl_anchoring anchoring;

static int anchor_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const anchoring *o = op->own;
    const layout *l = &o->at;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const float *in = sl_read_rows(x, op->in[0], r, 1, sl_worker_scratch(x, s->worker));
        float *out = sl_buf_data(x, op->out) + r * op->dim_out, *raw = sl_buf_data(x, op->saved[RAW]) + r * op->dim_in;
        memcpy(raw, in, (size_t)op->dim_in * sizeof *raw);
        for (int p = 0; p < l->parts; p++) {
            int64_t heads = l->first[p + 1] - l->first[p], at = begin_of(l, p);
            if (op->param[p] == SL_NONE)
                memcpy(out + at, raw + at, (size_t)width_of(l, p) * sizeof *out);
            else
                x->k->rmsnorm_fwd(heads, l->head_dim, raw + at, l->head_dim, sl_weight(op, x, p), o->eps, out + at,
                                  l->head_dim, sl_buf_data(x, op->saved[RSTD]) + r * l->first[l->parts] + l->first[p]);
        }
    }
    return 0;
}

/* One row; dw: where its block sums the gradients of the weights. */
static void anchor_backward_row(const sl_op *op, const sl_exec *x, int64_t r, float *din, float *dw) {
    const layout *l = &((const anchoring *)op->own)->at;
    const float *dout = sl_buf_data(x, op->dout) + r * op->dim_out,
                *raw = sl_buf_data(x, op->saved[RAW]) + r * op->dim_in,
                *rstd = sl_buf_data(x, op->saved[RSTD]) + r * l->first[l->parts];
    for (int p = 0; p < l->parts; p++) {
        int64_t heads = l->first[p + 1] - l->first[p], at = begin_of(l, p), hd = l->head_dim;
        if (op->param[p] == SL_NONE) {
            memcpy(din + at, dout + at, (size_t)width_of(l, p) * sizeof *din);
            continue;
        }
        x->k->rmsnorm_bwd(heads, hd, dout + at, hd, raw + at, hd, sl_weight(op, x, p), rstd + l->first[p], din + at, hd,
                          0, dw);
        dw += hd;
    }
    sl_write_columns(x, op->din[0], r, 1, 0, op->dim_in, din, op->dim_in);
}

static int anchor_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t floats = sl_op_params_floats(op, x->p);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        float *dw = x->shared + i * floats;
        memset(dw, 0, (size_t)floats * sizeof *dw);
        for (int64_t r = sl_block_first(blocks, i), stop = r + sl_block_rows(blocks, i); r < stop; r++)
            anchor_backward_row(op, x, r, sl_worker_scratch(x, s->worker), dw);
    }
    return 0;
}

static const sl_op_kind anchor = {
    .name = "anchor",
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = anchor_forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = anchor_backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

/* Parts of `l` from `name` on in part_names; those before `normed` are left as they are. */
static sl_buf build_anchor(sl_program *b, int64_t layer, sl_buf in, const layout *l, int name, int normed) {
    const sl_config *c = b->config;
    sl_op *op = sl_program_op(b, &anchor, (sl_scope){(int)layer, SL_HALF_ATTN, SL_PART_anchors, SL_ROLE_SELF});
    anchoring *o = sl_program_own(b, op, sizeof *o);
    if (!o)
        return in;
    *o = (anchoring){*l, (float)c->norm_eps};
    sl_op_reads(op, in, SL_INPUT_GRADIENT);
    op->dim_in = op->dim_out = columns(l);
    for (int p = normed; c->anchors_norm && p < l->parts; p++) {
        char weight[32];
        snprintf(weight, sizeof weight, "%s_norm.weight", part_names[name + p]);
        op->param[p] = sl_program_param(b, "model.anchors",
                                        &(sl_param_spec){.name = weight, .rows = l->head_dim, .init = SL_INIT_ONES,
                                                         .decay = SL_DECAY_NORM});
    }
    op->saved[RAW] = sl_program_buffer(b, op->rows, op->dim_in);
    op->saved[RSTD] = sl_program_buffer(b, op->rows, l->first[l->parts]);
    op->worker_bytes = (size_t)op->dim_in * sizeof(float);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    return op->out = sl_program_buffer(b, op->rows, op->dim_out);
}

/* ---- the mixture */

enum { OWN, ANCHOR, FACTORS };
enum { ANCHOR_COEF, OWN_COEF };
typedef sl_anchor_mixture mixture;

static int64_t coefs_of(const mixture *m) {
    const layout *l = &m->at;
    return m->each == SL_ANCHORS_SCALAR ? l->parts : m->each == SL_ANCHORS_HEADWISE ? l->first[l->parts] : columns(l);
}

/* Which of them column j, of this part, has. */
static int64_t coef_at(const mixture *m, int part, int64_t j) {
    return m->each == SL_ANCHORS_SCALAR ? part : m->each == SL_ANCHORS_HEADWISE ? j / m->at.head_dim : j;
}

/* Of a worker; [n] but for factors. [2]: of the anchor, of the layer's own. */
typedef struct {
    float *coef[2], *scaled[2]; /* for each column: of the layer; times the factors of a row */
    float *dcoef[2], *dscaled[2]; /* sums of gradients: of a block, of a row */
    float *own, *dout, *result;
    float *read, *factor, *dfactor;
} scratch;

static scratch scratch_at(const sl_op *op, sl_carver *at) {
    const mixture *m = op->own;
    scratch c = {0};
    float **rows[] = {&c.coef[0],  &c.coef[1],    &c.scaled[0],  &c.scaled[1], &c.dcoef[0], &c.dcoef[1],
                      &c.dscaled[0], &c.dscaled[1], &c.own, &c.dout, &c.result};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        *rows[i] = sl_carve_floats(at, op->dim_in);
    c.read = sl_carve_floats(at, 2 * m->of);
    c.factor = sl_carve_floats(at, 2 * m->of);
    c.dfactor = sl_carve_floats(at, 2 * m->of);
    return c;
}

/* c1 and c2 for each column. */
static scratch begin(const sl_op *op, const sl_exec *x, int worker) {
    const mixture *m = op->own;
    scratch c = scratch_at(op, &(sl_carver){sl_worker_scratch(x, worker), 0});
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        for (int p = 0; p < m->at.parts; p++)
            for (int64_t j = begin_of(&m->at, p); j < begin_of(&m->at, p + 1); j++)
                c.coef[i][j] = sl_weight(op, x, i)[coef_at(m, p, j)];
    return c;
}

/* Times the factors of a row; those of the layer as they are without. */
static void scale_coefs(const sl_op *op, const sl_exec *x, int64_t row, scratch *c, const float *scaled[2]) {
    const mixture *m = op->own;
    scaled[0] = c->coef[0], scaled[1] = c->coef[1];
    if (op->in[FACTORS] == SL_NONE)
        return;
    x->k->sigmoid(2 * m->of, sl_read_rows(x, op->in[FACTORS], row, 1, c->read), c->factor);
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++) {
        memcpy(c->scaled[i], c->coef[i], (size_t)op->dim_in * sizeof(float));
        for (int p = 0; p < m->at.parts; p++)
            x->k->scale(width_of(&m->at, p), c->factor[i * m->of + m->column + p],
                        c->scaled[i] + begin_of(&m->at, p));
        scaled[i] = c->scaled[i];
    }
}

static const float *anchor_row(const sl_op *op, const sl_exec *x, int64_t row) {
    return sl_buf_data(x, op->in[ANCHOR]) + row * op->dim_in;
}

static int mix_forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = begin(op, x, s->worker);
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const float *scaled[2], *own = sl_read_rows(x, op->out, r, 1, c.own);
        scale_coefs(op, x, r, &c, scaled);
        sl_write_columns(x, op->saved[0], r, 1, 0, op->dim_in, own, op->dim_in);
        x->k->blend_fwd(op->dim_in, scaled[0], anchor_row(op, x, r), scaled[1], own, c.result);
        sl_write_columns(x, op->out, r, 1, 0, op->dim_in, c.result, op->dim_in);
    }
    return 0;
}

/* Gradients of a row's coefficients c f: those of c to the block's sums, those of f, through the sigmoid, to din. */
static void split_factors(const sl_op *op, const sl_exec *x, int64_t row, scratch *c) {
    const mixture *m = op->own;
    memset(c->dfactor, 0, (size_t)(2 * m->of) * sizeof(float));
    if (op->acc[FACTORS])
        memcpy(c->dfactor, sl_read_rows(x, op->din[FACTORS], row, 1, c->read), (size_t)(2 * m->of) * sizeof(float));
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        for (int p = 0; p < m->at.parts; p++) {
            int64_t at = begin_of(&m->at, p), n = width_of(&m->at, p), column = i * m->of + m->column + p;
            float f = c->factor[column];
            c->dfactor[column] += f * (1 - f) * x->k->dot(n, c->coef[i] + at, c->dscaled[i] + at);
            x->k->scale(n, f, c->dscaled[i] + at);
        }
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        x->k->add(op->dim_in, c->dscaled[i], c->dcoef[i]);
    sl_write_columns(x, op->din[FACTORS], row, 1, 0, 2 * m->of, c->dfactor, 2 * m->of);
}

static void mix_backward_row(const sl_op *op, const sl_exec *x, int64_t row, scratch *c) {
    bool factors = op->in[FACTORS] != SL_NONE;
    const float *scaled[2], *own = sl_read_rows(x, op->saved[0], row, 1, c->own);
    const float *dout = sl_read_rows(x, op->dout, row, 1, c->dout);
    float **sums = factors ? c->dscaled : c->dcoef;
    scale_coefs(op, x, row, c, scaled);
    for (int i = ANCHOR_COEF; factors && i <= OWN_COEF; i++)
        memset(c->dscaled[i], 0, (size_t)op->dim_in * sizeof(float));
    x->k->blend_bwd(op->dim_in, scaled[0], anchor_row(op, x, row), scaled[1], own, dout, op->acc[ANCHOR],
                    sl_buf_data(x, op->din[ANCHOR]) + row * op->dim_in, c->result, sums[0], sums[1]);
    sl_write_columns(x, op->din[OWN], row, 1, 0, op->dim_in, c->result, op->dim_in);
    if (factors)
        split_factors(op, x, row, c);
}

/* Sums of a block's columns to those of the coefficients. */
static void fold_columns(const sl_op *op, const scratch *c, float *sums) {
    const mixture *m = op->own;
    memset(sums, 0, (size_t)(2 * coefs_of(m)) * sizeof *sums);
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        for (int p = 0; p < m->at.parts; p++)
            for (int64_t j = begin_of(&m->at, p); j < begin_of(&m->at, p + 1); j++)
                sums[i * coefs_of(m) + coef_at(m, p, j)] += c->dcoef[i][j];
}

static int mix_backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    scratch c = begin(op, x, s->worker);
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = sl_block_at(blocks, s->first), end = sl_block_behind(blocks, s); i < end; i++) {
        for (int k = ANCHOR_COEF; k <= OWN_COEF; k++)
            memset(c.dcoef[k], 0, (size_t)op->dim_in * sizeof(float));
        for (int64_t r = sl_block_first(blocks, i), stop = r + sl_block_rows(blocks, i); r < stop; r++)
            mix_backward_row(op, x, r, &c);
        fold_columns(op, &c, x->shared + i * sl_op_params_floats(op, x->p));
    }
    return 0;
}

static const sl_op_kind mix = {
    .name = "anchor_mix", .adds = true,
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = mix_forward}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = mix_backward},
                          {.cut = SL_CUT_FOLD, .run = sl_fold_params, .split = sl_fold_params_split})};

/* names: of the tensors of c1 and c2; column: of its first part among the factors. */
static void build_mix(sl_program *b, const sl_anchor_site *s, enum sl_part part, const layout *l, sl_buf own,
                      sl_buf anchors, const char *const names[2], int column) {
    const sl_config *c = b->config;
    sl_op *op = sl_program_op(b, &mix, (sl_scope){(int)s->layer, SL_HALF_ATTN, part, SL_ROLE_SELF});
    mixture *m = sl_program_own(b, op, sizeof *m);
    if (!m)
        return;
    *m = (mixture){*l, c->anchors_coefficients, column, has_gate(c) ? PARTS : QKV_PARTS};
    sl_op_reads(op, op->out = own, SL_INPUT_GRADIENT);
    sl_op_reads(op, anchors, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, s->factors, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = columns(l);
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        op->param[i] = sl_program_param(b, s->prefix,
                                        &(sl_param_spec){.name = names[i], .rows = coefs_of(m), .init = SL_INIT_VALUE,
                                                         .start = c->anchors_dynamic ? 1 : 0.5,
                                                         .decay = SL_DECAY_NONE});
    op->saved[0] = sl_program_activation(b, op->rows, op->dim_in);
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    sl_carver size = {0};
    scratch_at(op, &size);
    op->worker_bytes = size.used;
}

/* ---- what a model is made of */

sl_anchors sl_build_anchors(sl_program *b, sl_buf h) {
    static const sl_scope scope = {SL_NO_LAYER, SL_HALF_NONE, SL_PART_anchors, SL_ROLE_SELF};
    const sl_config *c = b->config;
    layout qkv = qkv_layout(c), gate = gate_layout(c);
    sl_buf in = sl_build_operand(b, (sl_scope){SL_NO_LAYER, SL_HALF_NONE, SL_PART_round, SL_ROLE_SELF}, h);
    int first = SL_NONE;
    b->layer = 0; /* matrices of blocks, though of no single one */
    for (int p = 0; p < QKV_PARTS; p++) {
        char name[32];
        snprintf(name, sizeof name, "%s_proj.weight", part_names[p]);
        int w = sl_build_matrix(b, scope, "model.anchors", name, width_of(&qkv, p), c->model_dim,
                                SL_MATRIX_LINEAR | (p ? SL_MATRIX_JOINED : 0));
        first = p ? first : w;
    }
    sl_anchors a = {.gate = SL_NONE};
    sl_buf x = sl_build_unquantised(b, scope, in, c->model_dim, columns(&qkv), first, SL_NONE);
    a.qkv = build_anchor(b, SL_NO_LAYER, x, &qkv, Q, 0);
    if (has_gate(c)) {
        int w = sl_build_matrix(b, scope, "model.anchors", "gate_proj.weight", columns(&gate), c->model_dim,
                                SL_MATRIX_LINEAR);
        x = sl_build_unquantised(b, scope, in, c->model_dim, columns(&gate), w, SL_NONE);
        a.gate = build_anchor(b, SL_NO_LAYER, x, &gate, GATE, 0);
    }
    b->layer = SL_NO_LAYER;
    return a;
}

/* W_up gelu(W_down x), W_up zero at first. */
static sl_buf build_factors(sl_program *b, const sl_anchor_site *s, sl_buf x) {
    enum { HIDDEN = 16 };
    const sl_config *c = b->config;
    sl_scope at = {(int)s->layer, SL_HALF_ATTN, SL_PART_factors_in, SL_ROLE_SELF};
    char prefix[80];
    int64_t n = 2 * (has_gate(c) ? PARTS : QKV_PARTS);
    snprintf(prefix, sizeof prefix, "%s.anchor_factors", s->prefix);
    int down = sl_build_matrix(b, at, prefix, "down_proj.weight", HIDDEN, c->model_dim, SL_MATRIX_LINEAR);
    sl_buf h = sl_build_unquantised(b, at, x, c->model_dim, HIDDEN, down, SL_NONE);
    at.part = SL_PART_factors_act;
    h = sl_build_ffn(b, at, SL_FFN_gelu, h, HIDDEN);
    at.part = SL_PART_factors_out;
    int up = sl_program_param(b, prefix,
                              &(sl_param_spec){.name = "up_proj.weight", .rows = n, .cols = HIDDEN, .linear = true,
                                               .init = SL_INIT_ZEROS, .decay = SL_DECAY_MATRIX, .place = at});
    return sl_build_unquantised(b, at, h, HIDDEN, n, up, SL_NONE);
}

sl_anchor_site sl_build_anchor_site(sl_program *b, sl_anchors *anchors, const char *prefix, int64_t layer, sl_buf x) {
    bool none = b->config->model_anchors == SL_ANCHORS_NONE;
    sl_anchor_site s = {none ? NULL : anchors, layer, prefix, SL_NONE, !none && anchors->qkv == SL_NONE};
    if (!none && !s.gives && b->config->anchors_dynamic)
        s.factors = build_factors(b, &s, x);
    return s;
}

void sl_build_anchored_qkv(sl_program *b, const sl_anchor_site *s, sl_buf qkv) {
    static const char *const names[] = {"anchor_coef", "own_coef"};
    layout l = qkv_layout(b->config);
    if (s->anchors && !s->gives)
        build_mix(b, s, SL_PART_anchor_qkv, &l, qkv, s->anchors->qkv, names, Q);
}

void sl_build_anchored_gate(sl_program *b, const sl_anchor_site *s, sl_buf gate) {
    static const char *const names[] = {"gate_anchor_coef", "gate_own_coef"};
    layout l = gate_layout(b->config);
    if (s->gives)
        s->anchors->gate = build_anchor(b, s->layer, gate, &l, GATE, 0);
    else if (s->anchors)
        build_mix(b, s, SL_PART_anchor_gate, &l, gate, s->anchors->gate, names, GATE);
}

void sl_build_given_anchors(sl_program *b, const sl_anchor_site *s, sl_buf qkv) {
    layout l = qkv_layout(b->config);
    if (s->gives)
        s->anchors->qkv = build_anchor(b, s->layer, qkv, &l, Q, b->config->model_qk_norm ? V : Q);
}

const sl_anchoring *sl_anchoring_of(const sl_op *op) { return op->kind == &anchor ? op->own : NULL; }
const sl_anchor_mixture *sl_anchor_mixture_of(const sl_op *op) { return op->kind == &mix ? op->own : NULL; }

void sl_anchor_mixture_row(const sl_op *op, const sl_exec *x, int64_t row, float *const coef[2],
                           float *const mixed[2]) {
    const mixture *m = op->own;
    const float *own = sl_read_rows(x, op->saved[0], row, 1, mixed[1]), *of[2] = {anchor_row(op, x, row), own};
    for (int i = ANCHOR_COEF; i <= OWN_COEF; i++)
        for (int p = 0; p < m->at.parts; p++) {
            float f = 1, read;
            if (op->in[FACTORS] != SL_NONE)
                x->k->sigmoid(
                    1, sl_read_columns(x, op->in[FACTORS], row, 1, i * m->of + m->column + p, 1, &read).p, &f);
            for (int64_t j = begin_of(&m->at, p); j < begin_of(&m->at, p + 1); j++) {
                coef[i][j] = f * sl_weight(op, x, i)[coef_at(m, p, j)];
                mixed[i][j] = coef[i][j] * of[i][j];
            }
        }
}
