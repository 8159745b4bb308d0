/* Mamba-2 (Dao & Gu 2024, arXiv 2405.21060). Tensors are named as in transformers, behind model.layers.N.mixer:
 *   [z | x | B | C | dt] = x W_in,  x, B, C = silu(conv(x, B, C)),  y = ssd(x, B, C, dt),  norm(y silu(z)) W_out
 * It has no positions. */
#include "ops/mixer/convolution.h"
#include "ops/mixer/gate_norm.h"
#include "ops/mixer/mixer.h"
#include "ops/mixer/ssd.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"

#include <stdio.h>

/* Columns of a row of the input projection. */
typedef struct {
    int64_t inner, heads, convolved, all; /* z, and x; dt; x, B and C; a row */
} columns;

static columns columns_of(const sl_config *c) {
    columns n = {.inner = c->mamba2_expand * c->model_dim};
    n.heads = n.inner / c->mamba2_head_dim;
    n.convolved = n.inner + 2 * c->mamba2_groups * c->mamba2_state;
    n.all = n.inner + n.convolved + n.heads;
    return n;
}

static sl_buf build(sl_program *b, const sl_mixer_site *s) {
    const sl_config *c = b->config;
    columns n = columns_of(c);
    char prefix[64];
    sl_scope at = {(int)s->layer, SL_HALF_ATTN, SL_PART_in, SL_ROLE_SELF};
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mixer", (long long)s->layer);
    int in = sl_build_matrix(b, at, prefix, "in_proj.weight", n.all, c->model_dim, SL_MATRIX_LINEAR);
    sl_buf rows = sl_build_linear(b, at, s->in, c->model_dim, n.all, in, SL_NONE, SL_NONE);
    at.part = SL_PART_conv;
    sl_build_convolution(b, at, prefix, rows, &(sl_convolution){n.inner, n.convolved, c->mamba2_conv, true, true});
    at.part = SL_PART_core;
    sl_buf y = sl_build_ssd(b, at, prefix, rows,
                            &(sl_ssd){.heads = n.heads, .head_dim = c->mamba2_head_dim, .groups = c->mamba2_groups,
                                      .state = c->mamba2_state, .first = n.inner});
    at.part = SL_PART_gate;
    y = sl_build_gate_norm(b, at, prefix, y, rows,
                           &(sl_gate_norm){.place = (enum sl_gate_norm_place)c->mamba2_norm,
                                           .span = n.inner / c->mamba2_groups, .eps = (float)c->norm_eps});
    at.part = SL_PART_out;
    int out = sl_build_matrix(b, at, prefix, "out_proj.weight", c->model_dim, n.inner,
                              SL_MATRIX_OUTPUT | SL_MATRIX_LINEAR);
    return sl_build_linear(b, at, y, n.inner, c->model_dim, out, SL_NONE, s->residual);
}

/* Five of a number of state forward: h = a h + x b, y += h c; twice as many back. */
static double flops(const sl_config *c, int64_t seq) {
    (void)seq;
    return 15 * (double)(columns_of(c).inner * c->mamba2_state);
}

static const sl_block_layer layers[] = {{SL_HALF_ATTN, SL_PART_in, SL_NORM_ATTN, true},
                                        {SL_HALF_ATTN, SL_PART_out, -1, true},
                                        {.part = SL_PART_none}};

static int64_t reach(const sl_config *c) { return c->mamba2_conv; }

const sl_mixer sl_mixer_mamba2 = {.name = "mamba2", .build = build, .flops = flops, .layers = layers,
                                   .recurrence = &sl_ssd_recurrence, .reach = reach};
