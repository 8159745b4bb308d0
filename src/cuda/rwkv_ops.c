/* What RWKV-7 is made of: shift, squash, values, keys, output, wkv7. */
#include "base/err.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "cuda/rwkv.h"
#include "ops/mixer/rwkv7_rows.h"
#include "ops/mixer/shift.h"
#include "ops/mixer/squash.h"
#include "ops/mixer/wkv7.h"

static slc_rwkv_rows rows_of(const slc_exec *x, sl_buf b) {
    return b == SL_NONE ? (slc_rwkv_rows){0} : (slc_rwkv_rows){x->buf[b], x->info[b].ld, false};
}
static slc_rwkv_rows gradient_of(const sl_op *op, const slc_exec *x, int i) {
    slc_rwkv_rows v = rows_of(x, op->din[i]);
    v.add = op->acc[i];
    return v;
}

/* ---- shift */

static slc_shift shift_of(const sl_op *op, const slc_exec *x) {
    return (slc_shift){x->info[op->out].bf16, op->rows / op->seq, op->seq, op->dim_in, rows_of(x, op->in[0]),
                       rows_of(x, op->out), slc_weight(op, x, 0)};
}
static int shift_forward(const sl_op *op, const slc_exec *x) {
    slc_shift o = shift_of(op, x);
    slc_shift_forward(x->stream, &o);
    return 0;
}
static int shift_decode(const sl_op *op, const slc_exec *x) {
    slc_shift o = shift_of(op, x);
    slc_shift_step(x->stream, &o, slc_f32(x, op->saved[0]), x->position);
    return 0;
}
static int shift_backward(const sl_op *op, const slc_exec *x) {
    slc_shift o = shift_of(op, x);
    slc_shift_backward(x->stream, &o, rows_of(x, op->dout), gradient_of(op, x, 0), slc_grad(op, x, 0), x->scratch);
    return 0;
}
static size_t shift_scratch(const sl_op *op, const sl_program *b) {
    return b->training ? (size_t)slc_shift_floats(op->rows, op->dim_in) * sizeof(float) : 0;
}

/* ---- squash */

static int squash_forward(const sl_op *op, const slc_exec *x) {
    slc_squash_forward(x->stream, x->info[op->out].bf16, sl_squash_of(op) == SL_SQUASH_TANH, op->rows, op->dim_in,
                       rows_of(x, op->in[0]), rows_of(x, op->out));
    return 0;
}
static int squash_backward(const sl_op *op, const slc_exec *x) {
    slc_squash_backward(x->stream, x->info[op->out].bf16, sl_squash_of(op) == SL_SQUASH_TANH, op->rows, op->dim_in,
                        rows_of(x, op->in[0]), rows_of(x, op->dout), rows_of(x, op->din[0]));
    return 0;
}

/* ---- values, keys, output */

static slc_rwkv rwkv_of(const sl_op *op, const slc_exec *x) {
    slc_rwkv o = {.bf16 = x->info[op->out].bf16, .rows = op->rows, .dim = op->dim_in,
                  .head_dim = sl_rwkv7_head_dim(op), .eps = (float)SL_RWKV7_EPS, .out = rows_of(x, op->out),
                  .mean = slc_f32(x, op->saved[0]), .rstd = slc_f32(x, op->saved[1])};
    for (int i = 0; i < op->inputs; i++)
        o.in[i] = rows_of(x, op->in[i]);
    for (int i = 0; i < SLC_RWKV_PARAMS; i++)
        o.param[i] = slc_weight(op, x, i);
    return o;
}
static slc_rwkv_back back_of(const sl_op *op, const slc_exec *x) {
    slc_rwkv_back b = {.dout = rows_of(x, op->dout), .scratch = x->scratch};
    for (int i = 0; i < op->inputs; i++)
        b.din[i] = gradient_of(op, x, i);
    for (int i = 0; i < SLC_RWKV_PARAMS; i++)
        b.dparam[i] = slc_grad(op, x, i);
    return b;
}
static size_t rwkv_scratch(const sl_op *op, const sl_program *b) {
    int64_t head_dim = sl_rwkv7_head_dim(op);
    return b->training ? (size_t)slc_rwkv_floats(op->rows, op->dim_in, head_dim ? head_dim : op->dim_in) * sizeof(float)
                       : 0;
}

#define FORWARD(name)                                                                                                  \
    static int name##_forward(const sl_op *op, const slc_exec *x) {                                                   \
        slc_rwkv o = rwkv_of(op, x);                                                                                   \
        slc_rwkv_##name##_forward(x->stream, &o);                                                                      \
        return 0;                                                                                                      \
    }
FORWARD(values)
FORWARD(keys)
FORWARD(output)

#define BACKWARD(name)                                                                                                 \
    static int name##_backward(const sl_op *op, const slc_exec *x) {                                                  \
        slc_rwkv o = rwkv_of(op, x);                                                                                   \
        slc_rwkv_back b = back_of(op, x);                                                                              \
        slc_rwkv_##name##_backward(x->stream, &o, &b);                                                                 \
        return 0;                                                                                                      \
    }
BACKWARD(values)
BACKWARD(keys)
BACKWARD(output)

enum { KEYS = 2 };
/* Of keys it reads the first columns: the others' gradients begin at 0. */
static int output_backward_all(const sl_op *op, const slc_exec *x) {
    const sl_buffer *keys = &x->info[op->din[KEYS]];
    if (!op->acc[KEYS])
        slc_zero_columns(x->stream, keys->rows, op->dim_in, keys->cols, keys->ld, keys->bf16, x->buf[op->din[KEYS]]);
    return output_backward(op, x);
}

/* ---- wkv7 */

static slc_wkv7 wkv7_sizes(const sl_op *op) {
    const sl_wkv7 *how = sl_wkv7_of(op);
    return (slc_wkv7){.windows = op->rows / op->seq, .seq = op->seq, .heads = how->heads, .head_dim = how->head_dim,
                      .rate = (float)SL_WKV7_RATE};
}
static slc_wkv7 wkv7_of(const sl_op *op, const slc_exec *x) {
    slc_wkv7 o = wkv7_sizes(op);
    o.bf16 = x->info[op->out].bf16, o.out = rows_of(x, op->out), o.w0 = slc_weight(op, x, 0);
    for (int i = 0; i < op->inputs; i++)
        o.in[i] = rows_of(x, op->in[i]);
    return o;
}
static int wkv7_check(const sl_op *op) {
    return sl_wkv7_of(op)->head_dim <= slc_wkv7_head_dim()
               ? 0
               : sl_fail("device: cuda has model.rwkv7_opts.head_dim for at most %lld; take device: cpu",
                         (long long)slc_wkv7_head_dim());
}
static int wkv7_forward(const sl_op *op, const slc_exec *x) {
    slc_wkv7 o = wkv7_of(op, x);
    o.states = slc_f32(x, op->saved[0]);
    slc_wkv7_forward(x->stream, &o);
    return 0;
}
static int wkv7_decode(const sl_op *op, const slc_exec *x) {
    slc_wkv7 o = wkv7_of(op, x);
    o.state = slc_f32(x, op->saved[0]), o.position = x->position;
    slc_wkv7_forward(x->stream, &o);
    return 0;
}
static int wkv7_backward(const sl_op *op, const slc_exec *x) {
    slc_wkv7 o = wkv7_of(op, x);
    slc_rwkv_rows din[4];
    o.states = slc_f32(x, op->saved[0]);
    for (int i = 0; i < op->inputs; i++)
        din[i] = gradient_of(op, x, i);
    slc_wkv7_backward(x->stream, &o, rows_of(x, op->dout), din, slc_grad(op, x, 0), x->scratch);
    return 0;
}
static size_t wkv7_scratch(const sl_op *op, const sl_program *b) {
    slc_wkv7 o = wkv7_sizes(op);
    return b->training ? (size_t)slc_wkv7_floats(&o) * sizeof(float) : 0;
}

const slc_kind slc_rwkv_kinds[] = {
    {.name = "shift", .forward = shift_forward, .backward = shift_backward, .scratch = shift_scratch},
    {.name = "cached_shift", .forward = shift_decode},
    {.name = "squash", .forward = squash_forward, .backward = squash_backward},
    {.name = "rwkv7_values", .forward = values_forward, .backward = values_backward, .scratch = rwkv_scratch},
    {.name = "rwkv7_keys", .forward = keys_forward, .backward = keys_backward, .scratch = rwkv_scratch},
    {.name = "rwkv7_output", .forward = output_forward, .backward = output_backward_all, .scratch = rwkv_scratch},
    {.name = "wkv7", .check = wkv7_check, .forward = wkv7_forward, .backward = wkv7_backward, .scratch = wkv7_scratch},
    {.name = "cached_wkv7", .check = wkv7_check, .forward = wkv7_decode},
    {0}};
