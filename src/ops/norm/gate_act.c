/* What does not depend on the precision of the gate's products: building, activations, sums. */
#include "ops/norm/gate.h"
#include "ops/norm/gate_bf16.h"
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
static void relu_forward(const sl_kernels *k, int64_t n, const float *x, float *y) { k->relu_fwd(n, x, y); }
static void relu_backward(const sl_kernels *k, int64_t n, const float *x, const float *dy, float *dx) {
    k->relu_bwd(n, x, dy, dx);
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

bool sl_gate_is_fused(const sl_op *op) { return op->act[0] == &outer[SL_GATE_SIGMOID] && op->gates == op->dim_in; }

/* b becomes q, but for the offset. */
static void activate(const sl_op *op, const sl_kernels *k, int64_t n, float *b) {
    op->act[0]->forward(k, n * op->gates, b, b);
    if (op->factor != 1)
        k->scale(n * op->gates, op->factor, b);
}

/* out = (q + offset) * y with one q a row or a channel. */
static void multiply(const sl_op *op, const sl_kernels *k, int64_t n, const float *q, const float *y, float *out) {
    int64_t d = op->dim_in;
    if (op->gates == d) {
        k->gate_mul(n * d, op->offset, q, y, out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        memmove(out + i * d, y + i * d, (size_t)d * sizeof *out);
        k->scale(d, q[i] + op->offset, out + i * d);
    }
}

void sl_gate_apply(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y, float *out) {
    if (sl_gate_is_fused(op)) {
        k->gate_fwd(n * op->dim_in, op->factor, b, y, out);
        return;
    }
    activate(op, k, n, b);
    multiply(op, k, n, b, y, out);
}

void sl_gate_gradients(const sl_op *op, const sl_kernels *k, int64_t n, float *b, const float *y,
                       const float *dout, float *dy, float *db) {
    int64_t d = op->dim_in, g = op->gates;
    if (sl_gate_is_fused(op)) {
        k->gate_bwd(n * d, op->factor, b, y, dout, dy, db);
        return;
    }
    if (g == d)
        k->gate_mul(n * d, 0, dout, y, db);
    for (int64_t i = 0; g == 1 && i < n; i++)
        db[i] = k->dot(d, dout + i * d, y + i * d);
    op->act[0]->backward(k, n * g, b, db, db);
    if (op->factor != 1)
        k->scale(n * g, op->factor, db);
    activate(op, k, n, b);
    multiply(op, k, n, b, dout, dy);
}

void sl_gate_fold(const sl_op *op, const sl_exec *x) {
    int64_t count = sl_op_blocks(op).count, n = op->dim_in * op->dim_out;
    sl_fold_partials(x, count, n, sl_gate_params(op), x->shared, sl_weight_grad(op, x, 0));
    sl_fold_partials(x, count, op->gates * op->dim_out, sl_gate_params(op), x->shared + n, sl_weight_grad(op, x, 1));
}

void sl_gate_spread(const sl_op *op, const sl_kernels *k, int64_t n, const float *b, float *dst) {
    int64_t d = op->dim_in;
    for (int64_t i = 0; i < n * d; i++)
        dst[i] = b[op->gates == d ? i : i / d];
    op->act[0]->forward(k, n * d, dst, dst);
    for (int64_t i = 0; i < n * d; i++)
        dst[i] = op->factor * dst[i] + op->offset;
}

sl_buf sl_build_gate(sl_program *b, sl_scope scope, sl_buf y, const char *prefix) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim, r = c->norm_rank, gates = c->norm_granularity == SL_GATE_TENSORWISE ? 1 : d;
    bool identity = c->norm_init == SL_GATE_IDENTITY, sigmoid = c->norm_outer == SL_GATE_SIGMOID;
    int down = sl_program_param(b, prefix,
                                &(sl_param_spec){.name = "gate_down.weight", .rows = r, .cols = d,
                                                 .init = SL_INIT_NORMAL, .start = c->model_init_std,
                                                 .decay = SL_DECAY_MATRIX});
    int up = sl_program_param(b, prefix,
                              &(sl_param_spec){.name = "gate_up.weight", .rows = gates, .cols = r,
                                               .init = identity ? SL_INIT_ZEROS : SL_INIT_NORMAL,
                                               .start = c->model_init_std, .decay = SL_DECAY_MATRIX});
    sl_op *op = sl_program_op(b, b->bf16 ? &sl_gate_bf16 : &sl_gate_fp32, scope);
    sl_op_reads(op, y, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = d;
    op->dim_out = r;
    op->gates = gates;
    op->act[0] = &outer[c->norm_outer];
    op->act[1] = &inner[c->norm_inner];
    op->factor = identity && sigmoid ? 2 : 1;
    op->offset = identity && !sigmoid ? 1 : 0;
    op->param[0] = down;
    op->param[1] = up;
    op->saved[0] = sl_program_buffer(b, op->rows, r);
    op->out = sl_program_activation(b, op->rows, d);
    op->flops = 2.0 * (double)op->rows * (double)sl_gate_params(op);
    if (b->bf16)
        sl_gate_bf16_buffers(b, op);
    else
        op->worker_bytes = sl_gate_fp32_scratch(op, b->kernels);
    op->shared_bytes = (size_t)(sl_op_blocks(op).count * sl_gate_params(op)) * sizeof(float);
    return op->out;
}
