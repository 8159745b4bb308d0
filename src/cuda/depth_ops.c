/* Attention over depth: depth_source, depth_mix. Without null_evidence, which attention would have to leave. */
#include "base/err.h"
#include "cuda/depth.h"
#include "cuda/kind.h"
#include "cuda/rows.h"
#include "ops/depth.h"

/* ---- depth_source */

static float *place_of(const sl_op *op, const slc_exec *x, sl_buf bank) {
    return slc_f32(x, bank) + sl_depth_place_of(op) * op->dim_in;
}

static int source_forward(const sl_op *op, const slc_exec *x) {
    slc_copy_rows(x->stream, op->rows, op->dim_in, slc_f32(x, op->in[1]), op->dim_in, false,
                  place_of(op, x, op->out), x->info[op->out].ld);
    return 0;
}

static int source_backward(const sl_op *op, const slc_exec *x) {
    slc_copy_rows(x->stream, op->rows, op->dim_in, place_of(op, x, op->dout), x->info[op->dout].ld, op->acc[1],
                  slc_f32(x, op->din[1]), op->dim_in);
    return 0;
}

/* ---- depth_mix */

enum { BANK, PARTIAL };
enum { QUERY, NORM };
enum { WEIGHT, RSTD, PRODUCT };

static slc_depth depth_of(const sl_op *op, const slc_exec *x) {
    const sl_config *c = x->program->config;
    return (slc_depth){.rows = op->rows, .dim = op->dim_in, .n = sl_depth_of(op)->n, .bank = slc_f32(x, op->in[BANK]),
                       .partial = slc_f32(x, op->in[PARTIAL]), .ld_bank = x->info[op->in[BANK]].ld,
                       .query = slc_weight(op, x, QUERY), .norm = slc_weight(op, x, NORM), .eps = (float)c->norm_eps,
                       .null = c->residual_softmax == SL_DEPTH_SOFTMAX1, .weight = slc_f32(x, op->saved[WEIGHT]),
                       .rstd = slc_f32(x, op->saved[RSTD]), .product = slc_f32(x, op->saved[PRODUCT])};
}

static int mix_check(const sl_op *op) {
    return sl_depth_asks(op)
               ? sl_fail("device: cuda has model.residual_opts.form=outputs alone; take device: cpu")
               : 0;
}

static int mix_forward(const sl_op *op, const slc_exec *x) {
    slc_depth d = depth_of(op, x);
    slc_depth_forward(x->stream, &d, slc_f32(x, op->out));
    return 0;
}

static int mix_backward(const sl_op *op, const slc_exec *x) {
    slc_depth d = depth_of(op, x);
    slc_depth_back b = {.dout = slc_f32(x, op->dout), .dbank = slc_f32(x, op->din[BANK]),
                        .dpartial = slc_f32(x, op->din[PARTIAL]), .add_bank = op->acc[BANK],
                        .add_partial = op->acc[PARTIAL], .dquery = slc_grad(op, x, QUERY),
                        .dnorm = slc_grad(op, x, NORM), .scratch = x->scratch};
    slc_depth_backward(x->stream, &d, &b);
    return 0;
}

static size_t mix_scratch(const sl_op *op, const sl_program *b) {
    int64_t sources = sl_depth_sources(sl_depth_of(op));
    return b->training ? (size_t)slc_depth_floats(op->rows, op->dim_in, sources) * sizeof(float) : 0;
}

const slc_kind slc_depth_kinds[] = {
    {.name = "depth_source", .forward = source_forward, .backward = source_backward},
    {.name = "depth_mix", .check = mix_check, .forward = mix_forward, .backward = mix_backward, .scratch = mix_scratch},
    {0}};
