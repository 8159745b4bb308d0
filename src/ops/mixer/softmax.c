/* Attention of every kind of model.attention, with its options. Tensors are named as Llama's and Qwen3's. */
#include "ops/mixer/mixer.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"
#include "ops/quant/quantise.h"

#include <stdio.h>

static sl_buf build(sl_program *b, const sl_mixer_site *s) {
    const sl_config *c = b->config;
    char prefix[64];
    int64_t d = c->model_dim, hd = sl_config_head_dim(c), q = c->model_heads * hd, kv = sl_config_kv_heads(c) * hd;
    sl_scope at = {(int)s->layer, SL_HALF_ATTN, SL_PART_qkv, SL_ROLE_SELF};
    snprintf(prefix, sizeof prefix, "model.layers.%lld.self_attn", (long long)s->layer);
    int wq = sl_build_matrix(b, at, prefix, "q_proj.weight", q, d, SL_MATRIX_LINEAR);
    sl_build_matrix(b, at, prefix, "k_proj.weight", kv, d, SL_MATRIX_JOINED | SL_MATRIX_LINEAR);
    sl_build_matrix(b, at, prefix, "v_proj.weight", kv, d, SL_MATRIX_JOINED | SL_MATRIX_LINEAR);
    int bq = SL_NONE;
    if (c->model_attention_bias != SL_ATTENTION_BIAS_NONE) {
        bq = sl_build_bias(b, prefix, "q_proj.bias", q, false);
        sl_build_bias(b, prefix, "k_proj.bias", kv, true);
        sl_build_bias(b, prefix, "v_proj.bias", kv, true);
    }
    sl_buf qkv = sl_build_linear(b, at, s->in, d, q + 2 * kv, wq, bq, SL_NONE);
    sl_anchor_site anchor = sl_build_anchor_site(b, s->anchors, prefix, s->layer, s->in);
    sl_build_anchored_qkv(b, &anchor, qkv);
    at.part = SL_PART_qk_norm;
    if (c->model_qk_norm)
        sl_build_qk_norm(b, at, qkv, prefix);
    sl_build_given_anchors(b, &anchor, qkv);
    at.part = SL_PART_rope;
    if (s->cos)
        sl_build_rope(b, at, qkv, s->cos, s->sin);
    sl_build_value_gate(b, &anchor, s->in, qkv);
    sl_build_kv_quantiser(b, s->layer, qkv);
    at.part = SL_PART_core;
    sl_buf o = b->cache ? sl_build_cached_attention(b, at, qkv, prefix) : sl_build_attention(b, at, qkv, prefix);
    o = sl_build_output_gate(b, &anchor, s->in, o);
    at.part = SL_PART_out;
    int wo = sl_build_matrix(b, at, prefix, "o_proj.weight", d, q, SL_MATRIX_OUTPUT | SL_MATRIX_LINEAR);
    bool all = c->model_attention_bias == SL_ATTENTION_BIAS_ALL;
    int bo = all ? sl_build_bias(b, prefix, "o_proj.bias", d, false) : SL_NONE;
    return sl_build_linear(b, at, o, q, d, wo, bo, s->residual);
}

/* Scores and weighted sums of the half of the window that a query sees on average. */
static double flops(const sl_config *c, int64_t seq) {
    return 6 * (double)(seq * c->model_heads * sl_config_head_dim(c));
}

static const sl_block_layer layers[] = {{SL_HALF_ATTN, SL_PART_qkv, SL_NORM_ATTN, true},
                                        {SL_HALF_ATTN, SL_PART_gate_in, SL_NORM_ATTN, true},
                                        {SL_HALF_ATTN, SL_PART_factors_in, SL_NORM_ATTN, false},
                                        {SL_HALF_ATTN, SL_PART_out, -1, true},
                                        {.part = SL_PART_none}};

const sl_mixer sl_mixer_softmax = {
    .name = "softmax", .build = build, .flops = flops, .layers = layers, .attends = true, .rewinds = true};
