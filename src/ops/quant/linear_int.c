#include "ops/quant/linear_int.h"
#include "program/whole.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "ops/product/gemm.h"
#include "ops/product/gemm_int8.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "ops/rows.h"

#include <stdlib.h>
#include <string.h>

/* saved: codes of the activations; the activations rounded; where products are fp32, those of one part of the depth, and
 * the sums of parts as integers */
enum { CODES, ROUNDED, PART, SUM };

void sl_int_weights_free(sl_int_weights *w) {
    if (!w)
        return;
    sl_free(w->scale), sl_free(w->number), sl_free(w->panels), sl_free(w->sum);
    free(w);
}

bool sl_linear_is_int(const sl_program *b) {
    return b->quant && !b->quant->observe && b->quant->scheme && sl_scheme_is_integer(b->quant->scheme);
}

/* ---- activations */

static uint8_t *codes_of(const sl_op *op, const sl_exec *x) { return (uint8_t *)sl_buf_data(x, op->saved[CODES]); }

/* Codes without a sign are what the products take: those of symmetric formats are stored with 128. */
static sl_grid grid_of(const sl_quant_point *p) {
    sl_grid g = p->grid;
    if (p->range != SL_RANGE_AFFINE)
        g.zero = 128;
    return g;
}

/* One scale a row (*step = 1) or one for all (0). */
static const float *row_scales(const sl_quant_point *p, int64_t *step) {
    *step = !sl_range_is_static(p->range);
    if (p->range != SL_RANGE_WINDOW)
        return p->block_scale;
    for (int64_t i = 0; i < p->rows; i++)
        p->block_outer[i] = p->block_scale[i / p->q.block_rows];
    return p->block_outer;
}

/* Scales and codes of the input. */
static int quantise(const sl_op *op, const sl_exec *x, const float *in) {
    sl_quant_point *p = op->point[0];
    sl_grid g = grid_of(p);
    uint8_t *code = codes_of(op, x);
    int64_t ldc = sl_int8_ld(p->dim);
    if (p->range == SL_RANGE_TOKEN)
        return sl_quant_codes_by_row(x->k, &p->q, &g, p->label, p->rows, p->dim, in, p->dim, p->block_scale, code, ldc);
    if (sl_quant_point_scales(p, x->k, in, p->dim) < 0)
        return -1;
    return sl_quant_codes(x->k, &p->q, &g, p->label, p->rows, p->dim, in, p->dim, p->block_scale, code, ldc);
}

static int take_codes(const sl_op *op, const sl_exec *x) {
    sl_quant_point *p = op->point[0];
    const float *in = sl_buf_data(x, op->in[0]);
    if (quantise(op, x, in) < 0)
        return -1;
    if (!p->measure)
        return 0;
    float *y = sl_buf_data(x, op->saved[ROUNDED]);
    if (sl_quant_round(x->k, &p->q, &p->grid, p->label, p->rows, p->dim, in, p->dim, p->block_scale, y, p->dim) < 0)
        return -1;
    sl_quant_error_add(&p->error, p->rows, p->dim, in, p->dim, y, p->dim);
    return 0;
}

/* ---- products in fp32 */

static void numbers_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int zero = grid_of(op->point[0]).zero;
    for (int64_t i = sl_block_first(rows, block), end = i + sl_block_rows(rows, block); i < end; i++)
        for (int64_t j = 0; j < op->dim_in; j++)
            sl_buf_data(x, op->saved[ROUNDED])[i * op->dim_in + j] =
                (float)(codes_of(op, x)[i * sl_int8_ld(op->dim_in) + j] - zero);
}

/* Adds the products of a part of the depth, which are integers below 2^24. */
static void add_part_block(void *task, int64_t block, int thread) {
    (void)thread;
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block) * op->dim_out, n = sl_block_rows(rows, block) * op->dim_out;
    const float *part = sl_buf_data(x, op->saved[PART]) + first;
    int32_t *sum = (int32_t *)sl_buf_data(x, op->saved[SUM]) + first;
    for (int64_t i = 0; i < n; i++)
        sum[i] += (int32_t)part[i];
}

typedef struct {
    sl_task task;
    const float *scale; /* of rows, step apart */
    int64_t step;
} scaling;

static void scale_block(void *ctx, int64_t block, int thread) {
    (void)thread;
    const scaling *s = ctx;
    const sl_op *op = s->task.op;
    const sl_exec *x = s->task.x;
    sl_blocks rows = sl_op_blocks(op);
    int64_t first = sl_block_first(rows, block), n = op->dim_out;
    const float *residual = sl_buf_data(x, op->in[1]);
    x->k->scale_int32(sl_block_rows(rows, block), n, (const int32_t *)sl_buf_data(x, op->saved[SUM]) + first * n, n, 0,
                      op->integers->sum, s->scale + first * s->step, s->step, op->integers->scale, 1,
                      residual ? residual + first * n : NULL, sl_buf_data(x, op->out) + first * n, n);
}

static void forward(const sl_op *op, const sl_exec *x) {
    int64_t k = op->dim_in, n = op->dim_out;
    scaling s = {.task = {op, x}};
    float *a = sl_buf_data(x, op->saved[ROUNDED]);
    if (take_codes(op, x) < 0) {
        op->point[0]->failed = true;
        return;
    }
    sl_parallel_rows(op, x, numbers_block);
    memset(sl_buf_data(x, op->saved[SUM]), 0, (size_t)(op->rows * n) * sizeof(int32_t));
    for (int64_t k0 = 0; k0 < k; k0 += SL_GEMM_KC) {
        sl_gemm(x, op->rows, n, k - k0 < SL_GEMM_KC ? k - k0 : SL_GEMM_KC, (sl_mat){a + k0, k, 1},
                (sl_mat){op->integers->number + k0, k, 1}, sl_buf_data(x, op->saved[PART]), n, false, NULL);
        sl_parallel_rows(op, x, add_part_block);
    }
    s.scale = row_scales(op->point[0], &s.step);
    sl_parallel(sl_op_blocks(op).count, scale_block, &s);
}

/* ---- products on the int8 unit */

static void real_forward(const sl_op *op, const sl_exec *x) {
    const sl_int_weights *w = op->integers;
    if (take_codes(op, x) < 0) {
        op->point[0]->failed = true;
        return;
    }
    sl_gemm_int8_args g = {.k = x->k, .m = op->rows, .n = op->dim_out, .depth = op->dim_in, .a = codes_of(op, x),
                           .lda = sl_int8_ld(op->dim_in), .zero = grid_of(op->point[0]).zero, .b = w->panels, .sum = w->sum,
                           .scale_b = w->scale, .step_b = 1, .plus = sl_buf_data(x, op->in[1]),
                           .y = sl_buf_data(x, op->out), .ldy = op->dim_out};
    g.scale_a = row_scales(op->point[0], &g.step_a);
    sl_gemm_int8(x->scratch, x->scratch_bytes, &g);
}

SL_WHOLE(forward)
static const sl_op_kind linear_int = {.name = "linear_int", .forward = forward_stages, .backward = NULL};
SL_WHOLE(real_forward)
static const sl_op_kind linear_int8 = {.name = "linear_int8", .forward = real_forward_stages, .backward = NULL};

/* ---- building */

static sl_int_weights *new_weights(int64_t n, int64_t k, bool real) {
    sl_int_weights *w = calloc(1, sizeof *w);
    if (!w) {
        sl_fail("out of memory for integer weights");
        return NULL;
    }
    w->n = n;
    w->k = k;
    w->scale = sl_alloc((size_t)n * sizeof *w->scale, "integer weights");
    w->sum = sl_alloc((size_t)sl_round_up(n, SL_INT8_NR) * sizeof *w->sum, "integer weights");
    if (real)
        w->panels = sl_alloc_shared((size_t)sl_int8_panels_size(n, k), "integer weights");
    else
        w->number = sl_alloc_shared((size_t)(n * k) * sizeof *w->number, "integer weights");
    if (w->scale && w->sum && (w->panels || w->number))
        return w;
    sl_int_weights_free(w);
    return NULL;
}

void sl_linear_int_weights(const sl_op *op, const sl_kernels *k, const int8_t *code, const float *scale) {
    sl_int_weights *w = op->integers;
    memcpy(w->scale, scale, (size_t)w->n * sizeof *scale);
    if (w->panels)
        sl_int8_pack(k, w->n, w->k, code, w->k, w->panels, w->sum);
    for (int64_t i = 0; w->number && i < w->n * w->k; i++)
        w->number[i] = code[i];
}

static void fp32_buffers(sl_program *b, sl_op *op) {
    op->saved[PART] = sl_program_buffer(b, op->rows, op->dim_out);
    op->saved[SUM] = sl_program_buffer(b, op->rows, op->dim_out);
    op->shared_bytes = sl_gemm_packed_bytes(b->kernels, op->dim_out, op->dim_in);
    op->worker_bytes = sl_gemm_scratch_bytes(b->kernels);
}

sl_buf sl_build_linear_int(sl_program *b, sl_scope scope, sl_buf in, int64_t dim_in, int64_t dim_out, int weight,
                           sl_buf residual) {
    bool real = b->quant->real;
    if (sl_rotates(b, sl_quant_class_of(scope)))
        in = sl_build_rotate(b, sl_scope_as(scope, SL_ROLE_ROTATE), in, dim_in);
    sl_op *op = sl_program_op(b, real ? &linear_int8 : &linear_int, scope);
    sl_op_reads(op, in, 0);
    sl_op_reads(op, residual, SL_INPUT_ADDED);
    op->dim_in = dim_in;
    op->dim_out = dim_out;
    op->param[0] = weight;
    op->flops = 2.0 * (double)op->rows * (double)dim_in * (double)dim_out;
    op->saved[CODES] = sl_program_buffer(b, op->rows, sl_int8_ld(dim_in) / (int64_t)sizeof(float));
    op->saved[ROUNDED] = sl_program_buffer(b, op->rows, dim_in);
    if (real)
        op->worker_bytes = sl_gemm_int8_scratch_bytes();
    else
        fp32_buffers(b, op);
    op->point[0] = sl_quant_point_new(b, scope, sl_quant_class_of(scope), op->rows, dim_in, op->seq);
    op->integers = new_weights(dim_out, dim_in, real);
    if (!op->point[0] || !op->integers)
        b->failed = true;
    return op->out = sl_program_buffer(b, op->rows, dim_out);
}
