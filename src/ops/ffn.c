/* The activation between the two projections of a feed-forward, whatever its kind (simd/ffn.inc): rows of the input are
 * [gate | up], or [x] where the kind has no gate. */
#include "ops/ops.h"
#include "ops/rows.h"

typedef struct {
    const sl_ffn_kernels *k;
    enum sl_ffn kind;
} own;

static const sl_ffn_kernels *kernels(const sl_op *op) { return ((const own *)op->own)->k; }

enum sl_ffn sl_ffn_kind_of(const sl_op *op) { return ((const own *)op->own)->kind; }

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t f = op->dim_out;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const float *in = sl_buf_data(x, op->in[0]) + r * op->dim_in;
        kernels(op)->fwd(f, in, in + f, sl_buf_data(x, op->out) + r * f);
    }
    return 0;
}

static int backward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t f = op->dim_out;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const float *in = sl_buf_data(x, op->in[0]) + r * op->dim_in;
        float *din = sl_buf_data(x, op->din[0]) + r * op->dim_in;
        kernels(op)->bwd(f, in, in + f, sl_buf_data(x, op->dout) + r * f, din, din + f);
    }
    return 0;
}

static int forward_bf16(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t f = op->dim_out;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const sl_bf16 *in = sl_bf16_row(x, op->in[0], r);
        kernels(op)->fwd_bf16(f, in, in + f, sl_bf16_row(x, op->out, r));
    }
    sl_pad_rows(x, op->out, s->first, s->n);
    return 0;
}

static int backward_bf16(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t f = op->dim_out;
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        const sl_bf16 *in = sl_bf16_row(x, op->in[0], r);
        sl_bf16 *din = sl_bf16_row(x, op->din[0], r);
        kernels(op)->bwd_bf16(f, in, in + f, sl_bf16_row(x, op->dout, r), din, din + f);
    }
    sl_pad_rows(x, op->din[0], s->first, s->n);
    return 0;
}

static const sl_op_kind ffn = {.name = "ffn", .again = true,
                               .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}),
                               .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward})};
static const sl_op_kind ffn_bf16 = {.name = "ffn", .again = true,
                                    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward_bf16}),
                                    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = backward_bf16})};

sl_buf sl_build_ffn(sl_program *b, sl_scope scope, enum sl_ffn kind, sl_buf in, int64_t width) {
    sl_op *op = sl_program_op(b, b->bf16 ? &ffn_bf16 : &ffn, scope);
    own *o = sl_program_own(b, op, sizeof *o);
    if (o)
        *o = (own){&b->kernels->ffn[kind], kind};
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    op->dim_in = sl_ffn_gated[kind] ? 2 * width : width;
    op->dim_out = width;
    return op->out = sl_program_activation(b, op->rows, width);
}
