/* What does not depend on the precision of the gate's products: building, activations, its values. */
#include "ops/norm/gate.h"

#include "ops/norm/norm.h"
#include "ops/rows.h"

#include <string.h>

static void sigmoid_forward(const sl_kernels *k, int64_t n, const float *x, float *y) { k->sigmoid(n, x, y); }
static void sigmoid_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    k->sigmoid_bwd(n, x, dy, dx);
}
static void tanh_forward(const sl_kernels *k, int64_t n, const float *x, float *y) { k->tanh(n, x, y); }
static void tanh_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    k->tanh_bwd(n, x, dy, dx);
}
static void silu_forward(const sl_kernels *k, int64_t n, const float *x, float *y) { k->silu_fwd(n, x, y); }
static void silu_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    k->silu_bwd(n, x, dy, dx);
}
static void relu_forward(const sl_kernels *k, int64_t n, const float *x, float *y) {
    k->ffn[SL_FFN_relu].fwd(n, x, NULL, y);
}
static void relu_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    k->ffn[SL_FFN_relu].bwd(n, x, NULL, dy, dx, NULL);
}
static void identity_forward(const sl_kernels *k, int64_t n, const float *x, float *y) {
    (void)k;
    memmove(y, x, (size_t)n * sizeof *y);
}
static void identity_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    (void)k, (void)x;
    memmove(dx, dy, (size_t)n * sizeof *dx);
}

static const sl_act outer[] = {[SL_GATE_SIGMOID] = {sigmoid_forward, sigmoid_backward},
                               [SL_GATE_TANH] = {tanh_forward, tanh_backward},
                               [SL_GATE_SILU] = {silu_forward, silu_backward},
                               [SL_GATE_LINEAR] = {identity_forward, identity_backward}};
static const sl_act inner[] = {[SL_GATE_INNER_SILU] = {silu_forward, silu_backward},
                               [SL_GATE_INNER_RELU] = {relu_forward, relu_backward}};

/* b becomes q, but for the offset. */
static void activate(const sl_gate *g, const sl_kernels *k, int64_t n, float *b) {
    g->outer->forward(k, n * g->gates, b, b);
    if (g->factor != 1)
        k->scale(n * g->gates, g->factor, b);
}

/* out = (q + offset) * y with one q a row or a channel. */
static void multiply(const sl_op *op, const sl_kernels *k, int64_t n, const float *q, const float *y, float *out) {
    const sl_gate *g = sl_gate_of(op);
    int64_t d = op->dim_in;
    if (g->gates == d) {
        k->gate_mul(n * d, g->offset, q, y, out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        memmove(out + i * d, y + i * d, (size_t)d * sizeof *out);
        k->scale(d, q[i] + g->offset, out + i * d);
    }
}

void sl_gate_apply(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, float *out) {
    const sl_gate *g = sl_gate_of(op);
    if (g->fused) {
        k->gate_fwd(n * op->dim_in, g->factor, b, y, out);
        return;
    }
    activate(g, k, n, b);
    multiply(op, k, n, b, y, out);
}

void sl_gate_gradients(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y,
                       const float *dout, float *dy, float *db) {
    const sl_gate *g = sl_gate_of(op);
    int64_t d = op->dim_in;
    if (g->fused) {
        k->gate_bwd(n * d, g->factor, b, y, dout, dy, db);
        return;
    }
    if (g->gates == d)
        k->gate_mul(n * d, 0, dout, y, db);
    for (int64_t i = 0; g->gates == 1 && i < n; i++)
        db[i] = k->dot(d, dout + i * d, y + i * d);
    g->outer->backward(k, n * g->gates, b, db, db);
    if (g->factor != 1)
        k->scale(n * g->gates, g->factor, db);
    activate(g, k, n, b);
    multiply(op, k, n, b, dout, dy);
}

/* q for each channel of n rows, [n, dim]. */
static void spread(const sl_op *op, const sl_kernels *k, int64_t n, const float *b, float *dst) {
    const sl_gate *g = sl_gate_of(op);
    int64_t d = op->dim_in;
    for (int64_t i = 0; i < n * d; i++)
        dst[i] = b[g->gates == d ? i : i / d];
    g->outer->forward(k, n * d, dst, dst);
    for (int64_t i = 0; i < n * d; i++)
        dst[i] = g->factor * dst[i] + g->offset;
}

void sl_gate_values(const sl_op *op, const sl_exec *x, float *dst) {
    sl_blocks blocks = sl_op_blocks(op);
    for (int64_t i = 0; i < blocks.count; i++) {
        const float *b = sl_gate_of(op)->products->scores(op, x, i);
        spread(op, x->k, sl_block_rows(blocks, i), b, dst + sl_block_first(blocks, i) * op->dim_in);
    }
}

sl_buf sl_build_gate(sl_program *b, sl_scope scope, sl_buf y, const char *prefix) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim, r = c->norm_rank, gates = c->norm_granularity == SL_GATE_TENSORWISE ? 1 : d;
    bool identity = c->norm_init == SL_GATE_IDENTITY, sigmoid = c->norm_outer == SL_GATE_SIGMOID;
    const sl_gate_products *products = b->bf16 ? &sl_gate_bf16 : &sl_gate_fp32;
    sl_param_spec down = {.name = "gate_down.weight", .rows = r, .cols = d, .init = SL_INIT_NORMAL,
                          .start = c->model_init_std, .decay = SL_DECAY_MATRIX};
    sl_param_spec up = {.name = "gate_up.weight", .rows = gates, .cols = r,
                        .init = identity ? SL_INIT_ZEROS : SL_INIT_NORMAL, .start = c->model_init_std,
                        .decay = SL_DECAY_MATRIX};
    sl_op *op = sl_program_op(b, &products->kind, scope);
    sl_gate *own = sl_program_own(b, op, sizeof *own);
    if (!own)
        return y;
    *own = (sl_gate){.products = products, .rank = r, .gates = gates, .outer = &outer[c->norm_outer],
                     .inner = &inner[c->norm_inner], .factor = identity && sigmoid ? 2 : 1,
                     .offset = identity && !sigmoid ? 1 : 0, .fused = sigmoid && gates == d};
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = op->dim_out = d;
    op->param[0] = sl_program_param(b, prefix, &down);
    op->param[1] = sl_program_param(b, prefix, &up);
    op->saved[0] = sl_program_buffer(b, op->rows, r);
    op->out = sl_program_activation(b, op->rows, d);
    op->flops = 2.0 * (double)op->rows * (double)(r * (d + gates));
    op->shared_bytes = sl_fold_params_bytes(op, b->params);
    products->build(b, op);
    return op->out;
}
