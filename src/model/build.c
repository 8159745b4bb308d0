/* Config -> program: which operations a model is made of, in their order, and the names of its tensors. */
#include "model/model_internal.h"
#include "ops/ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int matrix(sl_program *b, const char *prefix, const char *name, int64_t out, int64_t in, bool output,
                  bool join) {
    const sl_config *c = b->config;
    double std = c->model_init_std / (output ? sqrt(2.0 * (double)c->model_layers) : 1);
    return sl_program_param(b, prefix, name, out, in, SL_INIT_NORMAL, std, SL_DECAY_MATRIX, join);
}

static sl_buf build_attention(sl_model *m, sl_program *b, int64_t i, sl_buf x) {
    const sl_config *c = b->config;
    char prefix[64], label[64];
    int64_t d = c->model_dim, hd = sl_config_head_dim(c), q = c->model_heads * hd, kv = sl_config_kv_heads(c) * hd;
    snprintf(prefix, sizeof prefix, "model.layers.%lld.input_layernorm", (long long)i);
    snprintf(label, sizeof label, "layers.%lld.attn.norm", (long long)i);
    m->layer[i].norm[0] = sl_norm_builders[c->model_norm](b, label, x, prefix, false);
    snprintf(prefix, sizeof prefix, "model.layers.%lld.self_attn", (long long)i);
    int wq = matrix(b, prefix, "q_proj.weight", q, d, false, false);
    matrix(b, prefix, "k_proj.weight", kv, d, false, true);
    matrix(b, prefix, "v_proj.weight", kv, d, false, true);
    snprintf(label, sizeof label, "layers.%lld.attn.qkv", (long long)i);
    sl_buf qkv = sl_build_linear(b, label, m->layer[i].norm[0].out, d, q + 2 * kv, wq, SL_NONE);
    m->layer[i].qkv = qkv;
    snprintf(label, sizeof label, "layers.%lld.attn.qk_norm", (long long)i);
    if (c->model_qk_norm)
        sl_build_qk_norm(b, label, qkv, prefix);
    snprintf(label, sizeof label, "layers.%lld.attn.rope", (long long)i);
    if (m->cos)
        sl_build_rope(b, label, qkv, m->cos, m->sin);
    snprintf(label, sizeof label, "layers.%lld.attn.core", (long long)i);
    sl_buf o = b->cache ? sl_build_cached_attention(b, label, qkv) : sl_build_attention(b, label, qkv);
    int wo = matrix(b, prefix, "o_proj.weight", d, q, true, false);
    snprintf(label, sizeof label, "layers.%lld.attn.out", (long long)i);
    return sl_build_linear(b, label, o, q, d, wo, x);
}

/* Tensors as Qwen3-MoE's; the bias and the shared experts, which it does not have, as DeepSeek-V3's. */
static sl_buf build_experts(sl_program *b, int64_t i, sl_buf x, sl_buf residual) {
    const sl_config *c = b->config;
    char prefix[80], label[64];
    int64_t d = c->model_dim, f = sl_config_expert_ffn(c), shared = c->model_shared_experts * f;
    int bias = SL_NONE, first = SL_NONE;
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.gate", (long long)i);
    int router = matrix(b, prefix, "weight", c->model_experts, d, false, false);
    if (c->model_balance == SL_BALANCE_BIAS) {
        bias = sl_program_param(b, prefix, "e_score_correction_bias", c->model_experts, 0, SL_INIT_ZEROS, 0,
                                SL_DECAY_NONE, false);
        b->params->params -= c->model_experts; /* not learned */
    }
    for (int64_t e = 0; e < c->model_experts; e++) {
        snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.experts.%lld", (long long)i, (long long)e);
        int gate = matrix(b, prefix, "gate_proj.weight", f, d, false, e > 0);
        matrix(b, prefix, "up_proj.weight", f, d, false, true);
        matrix(b, prefix, "down_proj.weight", d, f, true, true);
        first = e ? first : gate;
    }
    snprintf(label, sizeof label, "layers.%lld.ffn.experts", (long long)i);
    sl_buf out = sl_build_moe(b, label, x, residual, router, bias, first);
    if (!shared)
        return out;
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.shared_experts", (long long)i);
    int gate = matrix(b, prefix, "gate_proj.weight", shared, d, false, false);
    matrix(b, prefix, "up_proj.weight", shared, d, false, true);
    snprintf(label, sizeof label, "layers.%lld.ffn.shared.in", (long long)i);
    sl_buf in = sl_build_linear(b, label, x, d, 2 * shared, gate, SL_NONE);
    snprintf(label, sizeof label, "layers.%lld.ffn.shared.act", (long long)i);
    sl_buf h = sl_build_ffn(b, label, c->model_ffn_kind, in, shared);
    int down = matrix(b, prefix, "down_proj.weight", d, shared, true, false);
    snprintf(label, sizeof label, "layers.%lld.ffn.shared.out", (long long)i);
    return sl_build_linear(b, label, h, shared, d, down, out);
}

static sl_buf build_ffn(sl_model *m, sl_program *b, int64_t i, sl_buf x) {
    const sl_config *c = b->config;
    char prefix[64], label[64];
    int64_t d = c->model_dim, f = c->model_ffn;
    bool gated = sl_ffn_gated[c->model_ffn_kind];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.post_attention_layernorm", (long long)i);
    snprintf(label, sizeof label, "layers.%lld.ffn.norm", (long long)i);
    m->layer[i].norm[1] = sl_norm_builders[c->model_norm](b, label, x, prefix, false);
    if (c->model_experts)
        return build_experts(b, i, m->layer[i].norm[1].out, x);
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp", (long long)i);
    int first = matrix(b, prefix, gated ? "gate_proj.weight" : "up_proj.weight", f, d, false, false);
    if (gated)
        matrix(b, prefix, "up_proj.weight", f, d, false, true);
    snprintf(label, sizeof label, "layers.%lld.ffn.in", (long long)i);
    sl_buf in = sl_build_linear(b, label, m->layer[i].norm[1].out, d, gated ? 2 * f : f, first, SL_NONE);
    snprintf(label, sizeof label, "layers.%lld.ffn.act", (long long)i);
    sl_buf h = sl_build_ffn(b, label, c->model_ffn_kind, in, f);
    int down = matrix(b, prefix, "down_proj.weight", d, f, true, false);
    snprintf(label, sizeof label, "layers.%lld.ffn.out", (long long)i);
    return sl_build_linear(b, label, h, f, d, down, x);
}

/* Keeps what sl_model_norm_gate() reads: the input and the saved state of gate operations. */
static void keep_gates(sl_model *m) {
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        if (strcmp(op->kind->name, "gate") == 0)
            for (int s = 0; s < SL_OP_SAVED; s++)
                if (op->saved[s] != SL_NONE)
                    sl_program_keep(&m->program, op->saved[s]);
    }
}

void sl_model_build(sl_model *m, bool taps) {
    sl_program *b = &m->program;
    const sl_config *c = &m->config;
    int64_t layers = c->model_layers;
    int embed = matrix(b, "model", "embed_tokens.weight", m->vocab, c->model_dim, false, false);
    sl_buf x = sl_build_embed(b, embed);
    for (int64_t i = 0; i < layers; i++) {
        m->layer[i].residual = x;
        x = build_attention(m, b, i, x);
        if (sl_config_has_ffn(c))
            x = build_ffn(m, b, i, x);
    }
    m->layer[layers].residual = x;
    m->layer[layers].norm[0] = sl_norm_builders[c->model_norm](b, "norm", x, "model.norm", true);
    int head = c->model_tie_embeddings ? embed
                                       : matrix(b, "lm_head", "weight", m->vocab, c->model_dim, false, false);
    sl_build_head(b, m->layer[layers].norm[0].out, head, m->vocab);
    for (int64_t i = 0; taps && i <= layers; i++) {
        sl_program_keep(b, m->layer[i].residual);
        for (int w = 0; w < 2; w++)
            if (m->layer[i].norm[w].out != SL_NONE)
                sl_program_keep(b, m->layer[i].norm[w].out);
        if (i < layers)
            sl_program_keep(b, m->layer[i].qkv);
    }
    if (taps)
        keep_gates(m);
    if (taps && !b->training)
        sl_model_keep_taps(m);
}
