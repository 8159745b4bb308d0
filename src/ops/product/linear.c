#include "ops/product/gemm.h"
#include "program/whole.h"
#include "ops/product/linear_bf16.h"
#include "ops/quant/linear_int.h"
#include "ops/ops.h"
#include "ops/quant/quantise.h"

#include <string.h>

static void forward(const sl_op *op, const sl_exec *x) {
    sl_gemm(x, op->rows, op->dim_out, op->dim_in, (sl_mat){sl_buf_data(x, op->in[0]), op->dim_in, 1},
            (sl_mat){sl_weight(op, x, 0), op->dim_in, 1}, sl_buf_data(x, op->out), op->dim_out, false,
            sl_buf_data(x, op->in[1]));
}

static void backward(const sl_op *op, const sl_exec *x) {
    const float *dout = sl_buf_data(x, op->dout);
    sl_gemm(x, op->dim_out, op->dim_in, op->rows, (sl_mat){dout, 1, op->dim_out},
            (sl_mat){sl_buf_data(x, op->in[0]), 1, op->dim_in}, sl_weight_grad(op, x, 0), op->dim_in,
            true, NULL);
    sl_gemm(x, op->rows, op->dim_in, op->dim_out, (sl_mat){dout, op->dim_out, 1},
            (sl_mat){sl_weight(op, x, 0), 1, op->dim_in}, sl_buf_data(x, op->din[0]), op->dim_in, op->acc[0],
            NULL);
}

SL_WHOLE(forward)
SL_WHOLE(backward)
static const sl_op_kind linear = {.name = "linear", .adds = true, .forward = forward_stages, .backward = backward_stages};

static void scratch_fp32(sl_program *b, sl_op *op) {
    size_t fwd = sl_gemm_shared_bytes(b->kernels, op->dim_out, op->dim_in),
           dx = sl_gemm_shared_bytes(b->kernels, op->dim_in, op->dim_out),
           dw = sl_gemm_shared_bytes(b->kernels, op->dim_in, op->rows);
    op->shared_bytes = fwd > dx ? fwd : dx;
    if (b->training && dw > op->shared_bytes)
        op->shared_bytes = dw;
    op->worker_bytes = sl_gemm_thread_bytes(b->kernels);
}

sl_buf sl_build_linear(sl_program *b, sl_scope scope, sl_buf in, int64_t dim_in, int64_t dim_out,
                       int weight, sl_buf residual) {
    if (sl_linear_is_int(b))
        return sl_build_linear_int(b, scope, in, dim_in, dim_out, weight, residual);
    in = sl_build_quantiser(b, scope, in, dim_in);
    sl_op *op = sl_program_op(b, b->bf16 ? &sl_linear_bf16 : &linear, scope);
    sl_op_reads(op, in, SL_INPUT_GRADIENT | SL_INPUT_KEPT);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    op->dim_in = dim_in;
    op->dim_out = dim_out;
    op->param[0] = weight;
    op->flops = 2.0 * (double)op->rows * (double)dim_in * (double)dim_out;
    if (!b->bf16)
        scratch_fp32(b, op);
    else
        sl_linear_bf16_buffers(b, op, residual != SL_NONE);
    return op->out = residual == SL_NONE ? sl_program_activation(b, op->rows, dim_out)
                                         : sl_program_buffer(b, op->rows, dim_out);
}
