/* Mixtures over depth: depth_source, depth_mix. */
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

_Static_assert((int)SLC_DEPTH_APART == SL_DEPTH_APART, "as many sources stand apart");

static slc_depth depth_of(const sl_op *op, const slc_exec *x) {
    const sl_depth_mixture *m = sl_depth_mixture_of(op);
    sl_buf bank = op->in[SL_DEPTH_BANK], psi = op->in[SL_DEPTH_PSI];
    slc_depth d = {.rows = op->rows, .dim = op->dim_in, .n = m->depth.n, .bank = slc_f32(x, bank),
                   .ld_bank = x->info[bank].ld, .asked = slc_f32(x, op->in[SL_DEPTH_ASKED]),
                   .query = slc_weight(op, x, SL_DEPTH_QUERY), .norm = slc_weight(op, x, SL_DEPTH_NORM), .eps = m->eps,
                   .scale = m->scale, .score_most = SL_DEPTH_SCORE_MOST, .beta_most = SL_DEPTH_BETA_MOST,
                   .recency = slc_weight(op, x, SL_DEPTH_RECENCY), .psi = slc_f32(x, psi),
                   .coupling = slc_weight(op, x, SL_DEPTH_COUPLING), .layers = psi == SL_NONE ? 0 : x->info[psi].ld,
                   .halves = m->depth.halves, .of_source = m->of_source, .of_layer = m->of_layer, .null = m->null,
                   .weight = slc_f32(x, op->saved[SL_DEPTH_WEIGHT]), .rstd = slc_f32(x, op->saved[SL_DEPTH_RSTD]),
                   .product = slc_f32(x, op->saved[SL_DEPTH_PRODUCT])};
    for (int i = 0; i < SL_DEPTH_APART; i++)
        d.apart[i] = slc_f32(x, op->in[SL_DEPTH_IN_APART + i]);
    return d;
}

static int mix_forward(const sl_op *op, const slc_exec *x) {
    slc_depth d = depth_of(op, x);
    slc_depth_forward(x->stream, &d, slc_f32(x, op->out));
    return 0;
}

static int mix_backward(const sl_op *op, const slc_exec *x) {
    slc_depth d = depth_of(op, x);
    slc_depth_back b = {.dout = slc_f32(x, op->dout), .dbank = slc_f32(x, op->din[SL_DEPTH_BANK]),
                        .dasked = slc_f32(x, op->din[SL_DEPTH_ASKED]), .dpsi = slc_f32(x, op->din[SL_DEPTH_PSI]),
                        .add_bank = op->acc[SL_DEPTH_BANK], .add_asked = op->acc[SL_DEPTH_ASKED],
                        .add_psi = op->acc[SL_DEPTH_PSI], .dquery = slc_grad(op, x, SL_DEPTH_QUERY),
                        .dnorm = slc_grad(op, x, SL_DEPTH_NORM), .dcoupling = slc_grad(op, x, SL_DEPTH_COUPLING),
                        .drecency = slc_grad(op, x, SL_DEPTH_RECENCY), .scratch = x->scratch};
    for (int i = 0; i < SL_DEPTH_APART; i++) {
        b.dapart[i] = slc_f32(x, op->din[SL_DEPTH_IN_APART + i]);
        b.add_apart[i] = op->acc[SL_DEPTH_IN_APART + i];
    }
    slc_depth_backward(x->stream, &d, &b);
    return 0;
}

static size_t mix_scratch(const sl_op *op, const sl_program *b) {
    int64_t sources = sl_depth_sources(sl_depth_of(op));
    return b->training ? (size_t)slc_depth_floats(op->rows, op->dim_in, sources) * sizeof(float) : 0;
}

const slc_kind slc_depth_kinds[] = {
    {.name = "depth_source", .forward = source_forward, .backward = source_backward},
    {.name = "depth_mix", .forward = mix_forward, .backward = mix_backward, .scratch = mix_scratch},
    {0}};
