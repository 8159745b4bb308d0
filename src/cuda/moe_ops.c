/* "moe" (ops/moe/moe.c) and its three parts in a quantised model (ops/moe/quantised.c) by the launchers of moe.h. */
#include "cuda/moe.h"

#include "base/err.h"
#include "cuda/kind.h"
#include "ops/moe/quantised.h"

#include <math.h>
#include <stddef.h>

_Static_assert(sizeof(slc_moe_state) == sizeof(sl_moe_state) && sizeof(slc_moe_load) == sizeof(sl_moe_load) &&
                   offsetof(slc_moe_state, last) == offsetof(sl_moe_state, last) &&
                   offsetof(slc_moe_load, aux) == offsetof(sl_moe_load, aux) &&
                   offsetof(slc_moe_load, count) == offsetof(sl_moe_load, count) &&
                   (int)SLC_MOE_MAX_EXPERTS == (int)SL_MOE_MAX_EXPERTS,
               "the state is that of ops/moe/moe.h");

static const sl_moe *mixture_of(const sl_op *op) { return sl_moe_of(op) ? sl_moe_of(op) : sl_moe_part_of(op); }

/* -1: none of a device. */
static int act_of(const sl_moe *m) {
    switch (m->act - m->k->ffn) {
    case SL_FFN_swiglu: return SLC_MOE_SILU;
    case SL_FFN_glu: return SLC_MOE_SIGMOID;
    case SL_FFN_geglu: return SLC_MOE_GELU;
    default: return -1;
    }
}

/* Of a quantised model's parts the router alone saves. */
static bool has_biases(const sl_op *op) {
    return sl_moe_of(op) || op->saved[0] != SL_NONE
               ? op->param[SL_MOE_ROUTER_BIAS] != SL_NONE || op->param[SL_MOE_BIASES] != SL_NONE
               : op->param[SL_MOE_PART_BIASES] != SL_NONE;
}

static int check(const sl_op *op) {
    const sl_moe *m = mixture_of(op);
    if (has_biases(op))
        return sl_fail("device: cuda has no biases of experts and routers (model.ffn_bias, model.router_bias); take "
                       "device: cpu");
    return act_of(m) >= 0 ? 0
                          : sl_fail("device: cuda has no experts of model.ffn_kind=%s; take device: cpu",
                                    sl_choices_ffn[m->act - m->k->ffn].name);
}

static int64_t capacity_of(const sl_moe *m, bool training) {
    double slots = (double)(m->rows * m->top), most = ceil(m->capacity * slots / (double)m->experts);
    return training && m->capacity > 0 && most < slots ? (int64_t)most : m->rows * m->top;
}

/* Of a pass that trains or not, in a program that does or does not. */
static slc_moe describe(const sl_op *op, bool training, float grad_scale) {
    const sl_moe *m = mixture_of(op);
    return (slc_moe){.rows = m->rows, .dim = m->dim, .experts = m->experts, .top = m->top, .ffn = m->ffn,
                     .capacity = capacity_of(m, training), .act = act_of(m), .bf16 = m->bf16, .sigmoid = m->sigmoid,
                     .training = m->training, .measured = training, .aux = m->aux, .z = m->z, .rate = m->rate,
                     .grad_scale = grad_scale};
}

/* The CPU's layout of saved[0], in a quantised model the router's. */
static slc_moe_route route_of(const sl_op *op, const slc_exec *x) {
    sl_buf at = op->saved[0] == SL_NONE ? op->in[1] : op->saved[0];
    sl_moe_route t = sl_moe_route_at(mixture_of(op), &(sl_carver){x->buf[at], 0});
    return (slc_moe_route){t.score, t.lse, t.weight, t.dweight, t.expert, t.place, t.slot, t.offset, t.count};
}

static slc_moe_rows rows_of(const slc_exec *x, sl_buf b) {
    return b == SL_NONE ? (slc_moe_rows){0} : (slc_moe_rows){x->buf[b], x->info[b].ld};
}

static const void *experts_of(const sl_op *op, const slc_exec *x) {
    return sl_moe_of(op)->bf16 ? (const void *)slc_weight16(op, x, 1) : (const void *)slc_weight(op, x, 1);
}

static slc_moe_state *state_of(const sl_op *op, const slc_exec *x) {
    return (slc_moe_state *)(void *)(x->state + op->state);
}

static const float *bias_of(const sl_op *op, const slc_exec *x) {
    int bias = mixture_of(op)->bias;
    return bias == SL_NONE ? NULL : x->w + slc_at(x, bias);
}

static int choose(const sl_op *op, const slc_exec *x) {
    slc_moe m = describe(op, x->training, x->grad_scale);
    slc_moe_route t = route_of(op, x);
    slc_moe_route_rows(x->stream, &m, rows_of(x, op->in[0]), slc_weight(op, x, 0), bias_of(op, x), &t, state_of(op, x),
                       x->scratch);
    return 0;
}

static int forward(const sl_op *op, const slc_exec *x) {
    slc_moe m = describe(op, x->training, x->grad_scale);
    slc_moe_route t = route_of(op, x);
    slc_moe_rows in = rows_of(x, op->in[0]);
    choose(op, x);
    slc_moe_forward(x->stream, &m, in, experts_of(op, x), &t, rows_of(x, op->saved[1]), rows_of(x, op->saved[2]),
                    slc_f32(x, op->in[1]), slc_f32(x, op->out), x->scratch);
    return 0;
}

static int backward(const sl_op *op, const slc_exec *x) {
    slc_moe m = describe(op, x->training, x->grad_scale);
    slc_moe_route t = route_of(op, x);
    slc_moe_backward(x->stream, &m, rows_of(x, op->in[0]), experts_of(op, x), slc_weight(op, x, 0), &t,
                     rows_of(x, op->saved[1]), rows_of(x, op->saved[2]), slc_f32(x, op->dout), rows_of(x, op->din[0]),
                     op->acc[0], slc_grad(op, x, 1), slc_grad(op, x, 0), x->scratch);
    return 0;
}

static size_t scratch(const sl_op *op, const sl_program *b) {
    slc_moe m = describe(op, b->training, 1);
    return slc_moe_scratch_bytes(&m);
}

static int end_step(const sl_op *op, const slc_exec *x, const int32_t *applied) {
    slc_moe m = describe(op, x->training, x->grad_scale);
    slc_moe_end_step(x->stream, &m, state_of(op, x), (float *)(uintptr_t)bias_of(op, x), applied);
    return 0;
}

/* ---- of a quantised model */

static int hidden(const sl_op *op, const slc_exec *x) {
    slc_moe m = describe(op, false, 1);
    slc_moe_route t = route_of(op, x);
    slc_moe_hidden(x->stream, &m, rows_of(x, op->in[0]), slc_weight(op, x, 0), &t, rows_of(x, op->out));
    return 0;
}

static int output(const sl_op *op, const slc_exec *x) {
    slc_moe m = describe(op, false, 1);
    slc_moe_route t = route_of(op, x);
    slc_moe_output(x->stream, &m, rows_of(x, op->in[0]), slc_weight(op, x, 0), &t, slc_f32(x, op->in[2]),
                   slc_f32(x, op->out), x->scratch);
    return 0;
}

const slc_kind slc_moe_kinds[] = {
    {.name = "moe", .check = check, .forward = forward, .backward = backward, .scratch = scratch, .end_step = end_step},
    {.name = "moe_router", .check = check, .forward = choose, .scratch = scratch, .end_step = end_step},
    {.name = "moe_hidden", .check = check, .forward = hidden},
    {.name = "moe_output", .check = check, .forward = output, .scratch = scratch},
    {.name = NULL}};
