#include "ops/gemm.h"
#include "ops/linear_bf16.h"
#include "ops/linear_int.h"
#include "ops/ops.h"
#include "ops/quantise.h"

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
            (sl_mat){sl_weight(op, x, 0), 1, op->dim_in}, sl_buf_data(x, op->din), op->dim_in, op->acc,
            NULL);
}

static const sl_op_kind linear = {"linear", forward, backward, true, false};

static void scratch_fp32(sl_program *b, sl_op *op) {
    size_t fwd = sl_gemm_shared_bytes(b->kernels, op->dim_out, op->dim_in),
           dx = sl_gemm_shared_bytes(b->kernels, op->dim_in, op->dim_out),
           dw = sl_gemm_shared_bytes(b->kernels, op->dim_in, op->rows);
    op->shared_bytes = fwd > dx ? fwd : dx;
    if (b->training && dw > op->shared_bytes)
        op->shared_bytes = dw;
    op->thread_bytes = sl_gemm_thread_bytes(b->kernels);
}

sl_buf sl_build_linear(sl_program *b, const char *label, sl_buf in, int64_t dim_in, int64_t dim_out,
                       int weight, sl_buf residual) {
    if (sl_linear_is_int(b))
        return sl_build_linear_int(b, label, in, dim_in, dim_out, weight, residual);
    in = sl_build_quantiser(b, label, in, dim_in);
    sl_op *op = sl_program_op(b, b->bf16 ? &sl_linear_bf16 : &linear, label);
    op->in[0] = in;
    op->in[1] = residual;
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
