/* Config -> program: which operations a model is made of, in their order, and the names of its tensors. */
#include "model/model_internal.h"
#include "ops/depth.h"
#include "ops/mixer/mixer.h"
#include "ops/mixer/shift.h"
#include "ops/ops.h"
#include "ops/quant/quantise.h"
#include "ops/sigmoid_gate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static sl_scope at(int64_t layer, enum sl_half half, enum sl_part part) {
    return (sl_scope){(int)layer, half, part, SL_ROLE_SELF};
}

/* The layer's mixer of in, added to residual (SL_NONE, SL_APART: alone). */
static sl_buf build_mixer(sl_model *m, sl_program *b, int64_t i, sl_buf in, sl_buf residual) {
    const sl_config *c = b->config;
    sl_rotary r = sl_config_rotates(c, i) ? m->rotary[sl_config_rope_windowed(c, i)] : (sl_rotary){0};
    return sl_mixer_of(c, i)->build(b, &(sl_mixer_site){i, in, residual, r.cos, r.sin, &m->anchors, &m->values});
}

/* One feed-forward of width f, <prefix>.{gate,up,down}_proj, the parts of whose operations are given. */
typedef struct {
    enum sl_part in, act, out;
} ffn_parts;
static sl_buf build_dense(sl_program *b, int64_t i, const ffn_parts *part, const char *prefix, int64_t f, sl_buf in,
                          sl_buf residual) {
    const sl_config *c = b->config;
    int64_t d = c->model_dim;
    bool gated = sl_ffn_gated[c->model_ffn_kind];
    sl_scope read = at(i, SL_HALF_FFN, part->in), write = at(i, SL_HALF_FFN, part->out);
    int first = sl_build_matrix(b, read, prefix, gated ? "gate_proj.weight" : "up_proj.weight", f, d,
                                SL_MATRIX_LINEAR);
    if (gated)
        sl_build_matrix(b, read, prefix, "up_proj.weight", f, d, SL_MATRIX_JOINED | SL_MATRIX_LINEAR);
    int bias = SL_NONE, down_bias = SL_NONE;
    if (c->model_ffn_bias) {
        bias = sl_build_bias(b, prefix, gated ? "gate_proj.bias" : "up_proj.bias", f, false);
        if (gated)
            sl_build_bias(b, prefix, "up_proj.bias", f, true);
        down_bias = sl_build_bias(b, prefix, "down_proj.bias", d, false);
    }
    sl_buf gate_up = sl_build_linear(b, read, in, d, gated ? 2 * f : f, first, bias, SL_NONE);
    sl_buf h = sl_build_ffn(b, at(i, SL_HALF_FFN, part->act), c->model_ffn_kind, gate_up, f);
    int down = sl_build_matrix(b, write, prefix, "down_proj.weight", d, f, SL_MATRIX_OUTPUT | SL_MATRIX_LINEAR);
    return sl_build_linear(b, write, h, f, d, down, down_bias, residual);
}

/* The matrix and the biases of a router. */
static void declare_router(sl_program *b, int64_t i, sl_moe_params *p) {
    const sl_config *c = b->config;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.gate", (long long)i);
    p->router = sl_build_matrix(b, at(i, SL_HALF_FFN, SL_PART_router), prefix, "weight", c->model_experts,
                                c->model_dim, 0);
    if (c->model_router_bias)
        p->router_bias = sl_build_bias(b, prefix, "bias", c->model_experts, false);
    if (c->model_balance == SL_BALANCE_BIAS) {
        p->choice = sl_program_param(b, prefix,
                                     &(sl_param_spec){.name = "e_score_correction_bias", .rows = c->model_experts,
                                                      .init = SL_INIT_ZEROS, .decay = SL_DECAY_NONE});
        b->params->params -= c->model_experts; /* not learned */
    }
}

static void name_expert(char prefix[80], int64_t i, int64_t e) {
    snprintf(prefix, 80, "model.layers.%lld.mlp.experts.%lld", (long long)i, (long long)e);
}

/* The first of the matrices of all experts. */
static int declare_experts(sl_program *b, int64_t i) {
    int64_t d = b->config->model_dim, f = sl_config_expert_ffn(b->config);
    sl_scope read = at(i, SL_HALF_FFN, SL_PART_experts_in), write = at(i, SL_HALF_FFN, SL_PART_experts_out);
    int first = SL_NONE;
    char prefix[80];
    for (int64_t e = 0; e < b->config->model_experts; e++) {
        name_expert(prefix, i, e);
        int gate = sl_build_matrix(b, read, prefix, "gate_proj.weight", f, d, e > 0 ? SL_MATRIX_JOINED : 0);
        sl_build_matrix(b, read, prefix, "up_proj.weight", f, d, SL_MATRIX_JOINED);
        sl_build_matrix(b, write, prefix, "down_proj.weight", d, f, SL_MATRIX_OUTPUT | SL_MATRIX_JOINED);
        first = e ? first : gate;
    }
    return first;
}

/* The first of their biases. */
static int declare_biases(sl_program *b, int64_t i) {
    int64_t d = b->config->model_dim, f = sl_config_expert_ffn(b->config);
    int first = SL_NONE;
    char prefix[80];
    for (int64_t e = 0; e < b->config->model_experts; e++) {
        name_expert(prefix, i, e);
        int gate = sl_build_bias(b, prefix, "gate_proj.bias", f, e > 0);
        sl_build_bias(b, prefix, "up_proj.bias", f, true);
        sl_build_bias(b, prefix, "down_proj.bias", d, true);
        first = e ? first : gate;
    }
    return first;
}

/* sigmoid(x w) y of the block's input x and what the shared experts give, all fp32. */
static sl_buf gate_shared(sl_program *b, int64_t i, sl_buf x, sl_buf y) {
    int64_t d = b->config->model_dim;
    sl_scope read = at(i, SL_HALF_FFN, SL_PART_shared_gate_in);
    char prefix[80];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.shared_expert_gate", (long long)i);
    int w = sl_build_matrix(b, read, prefix, "weight", 1, d, SL_MATRIX_LINEAR);
    sl_buf gate = sl_build_unquantised(b, read, x, d, 1, w, SL_APART);
    return sl_build_sigmoid_gate(b, at(i, SL_HALF_FFN, SL_PART_shared_gate), y, gate,
                                 &(sl_sigmoid_gate){.n = d, .group = d, .open = 1});
}

/* The shared experts of x, added to out. */
static sl_buf build_shared(sl_program *b, int64_t i, sl_buf x, sl_buf out) {
    const sl_config *c = b->config;
    const ffn_parts parts = {SL_PART_shared_in, SL_PART_shared_act, SL_PART_shared_out};
    int64_t f = c->model_shared_experts * sl_config_expert_ffn(c);
    char prefix[80];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.shared_experts", (long long)i);
    if (!c->model_shared_expert_gate)
        return build_dense(b, i, &parts, prefix, f, x, out);
    sl_buf y = build_dense(b, i, &parts, prefix, f, x, SL_APART);
    return sl_build_add(b, at(i, SL_HALF_FFN, SL_PART_add), gate_shared(b, i, x, y), out);
}

/* Tensors as Qwen3-MoE's; the bias of the choice and the shared experts, which it does not have, as DeepSeek-V3's, the
 * gate of these as Qwen2-MoE's. */
static sl_buf build_experts(sl_program *b, int64_t i, sl_buf x, sl_buf residual) {
    const sl_config *c = b->config;
    sl_moe_params p = {SL_NONE, SL_NONE, SL_NONE, SL_NONE, SL_NONE};
    declare_router(b, i, &p);
    p.experts = declare_experts(b, i);
    p.biases = c->model_ffn_bias ? declare_biases(b, i) : SL_NONE;
    sl_buf out = sl_build_moe(b, at(i, SL_HALF_FFN, SL_PART_experts), x, residual, &p);
    return c->model_shared_experts ? build_shared(b, i, x, out) : out;
}

static sl_buf build_ffn(sl_program *b, int64_t i, sl_buf in, sl_buf residual) {
    const ffn_parts parts = {SL_PART_in, SL_PART_act, SL_PART_out};
    char prefix[64];
    if (b->config->model_experts)
        return build_experts(b, i, in, residual);
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp", (long long)i);
    return build_dense(b, i, &parts, prefix, b->config->model_ffn, in, residual);
}

static const enum sl_half halves[] = {[SL_NORM_ATTN] = SL_HALF_ATTN, [SL_NORM_FFN] = SL_HALF_FFN};

/* Norm of a block; `name` is its tensors' prefix in the layer, as Llama has it, or Gemma 2 where norms stand behind. */
static sl_norm_tap block_norm(sl_program *b, int64_t i, enum sl_norm_site half, enum sl_part part, const char *name,
                              sl_buf x) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.%s", (long long)i, name);
    return sl_norm_builders[b->config->model_norm](b, at(i, halves[half], part), x, prefix, half);
}

/* The norm behind a half of a block joins the residual stream: fp32. */
static sl_norm_tap norm_behind(sl_program *b, int64_t i, enum sl_norm_site half, enum sl_part part, sl_buf x) {
    bool bf16 = b->bf16;
    b->bf16 = false;
    sl_norm_tap tap = block_norm(b, i, half, part,
                                 half == SL_NORM_ATTN ? "post_attention_layernorm" : "post_feedforward_layernorm", x);
    b->bf16 = bf16;
    return tap;
}

/* What the feed-forward reads of in, as RWKV-7's channel mix. */
static sl_buf shift_ffn(sl_program *b, int64_t i, sl_buf in) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp", (long long)i);
    double left = 1 - (double)i / (double)b->config->model_layers;
    return !b->config->model_ffn_shift
               ? in
               : sl_build_shift(b, at(i, SL_HALF_FFN, SL_PART_shift), prefix, "x_k", pow(left, 4), in);
}

/* The mixer or the feed-forward of in, added to residual (SL_NONE, SL_APART: alone). */
static sl_buf build_inner(sl_model *m, sl_program *b, int64_t i, enum sl_norm_site half, sl_buf in, sl_buf residual) {
    return half == SL_NORM_ATTN ? build_mixer(m, b, i, in, residual) : build_ffn(b, i, shift_ffn(b, i, in), residual);
}

static void build_clip(sl_program *b, int64_t i, enum sl_norm_site half, sl_buf x) {
    if (sl_config_clip(b->config) > 0)
        sl_build_clip(b, at(i, halves[half], SL_PART_clip), x, sl_config_clip(b->config),
                      b->config->model_clip_backward);
}

/* One half of a block, with its norms where model.norm_place has them: it reads h, and what it gives is added to `sum`
 * (SL_NONE: alone), both fp32, as is what is returned. */
static sl_buf build_half(sl_model *m, sl_program *b, int64_t i, enum sl_norm_site half, sl_buf h, sl_buf sum) {
    const sl_config *c = b->config;
    sl_norm_tap *tap = &m->layer[i].norm[half];
    int place = c->model_norm_place;
    bool post = place == SL_PLACE_POST, sandwich = place == SL_PLACE_SANDWICH, output = place == SL_PLACE_OUTPUT;
    const char *name = half == SL_NORM_ATTN ? "input_layernorm"
                       : sandwich           ? "pre_feedforward_layernorm"
                                            : "post_attention_layernorm";
    sl_buf in = post || output ? sl_build_operand(b, at(i, halves[half], SL_PART_round), h)
                               : (*tap = block_norm(b, i, half, SL_PART_norm, name, h)).out;
    sl_buf x = build_inner(m, b, i, half, in, sandwich || output ? SL_NONE : sum == SL_NONE ? SL_APART : sum);
    if (sandwich || output) {
        sl_norm_tap behind = norm_behind(b, i, half, SL_PART_out_norm, x);
        *tap = output ? behind : *tap;
        x = sum == SL_NONE ? behind.out : sl_build_add(b, at(i, halves[half], SL_PART_add), behind.out, sum);
    }
    build_clip(b, i, half, x);
    return post ? (*tap = norm_behind(b, i, half, SL_PART_norm, x)).out : x;
}

static sl_buf build_sequential(sl_model *m, sl_program *b, int64_t i, sl_buf h) {
    h = build_half(m, b, i, SL_NORM_ATTN, h, h);
    if (!sl_config_has_ffn(b->config))
        return h;
    m->layer[i].mid = h;
    return build_half(m, b, i, SL_NORM_FFN, h, h);
}

/* Both halves read the stream h, and their outputs join it; the stream is what is behind both. */
static sl_buf build_parallel(sl_model *m, sl_program *b, int64_t i, sl_buf h) {
    const sl_config *c = b->config;
    sl_norm_tap *tap = m->layer[i].norm;
    sl_buf in = (tap[SL_NORM_ATTN] = block_norm(b, i, SL_NORM_ATTN, SL_PART_norm, "input_layernorm", h)).out;
    sl_buf x = build_inner(m, b, i, SL_NORM_ATTN, in, h);
    if (sl_config_has_ffn(c) && c->model_block == SL_BLOCK_PARALLEL)
        in = (tap[SL_NORM_FFN] = block_norm(b, i, SL_NORM_FFN, SL_PART_norm, "post_attention_layernorm", h)).out;
    if (sl_config_has_ffn(c))
        x = build_inner(m, b, i, SL_NORM_FFN, in, x);
    build_clip(b, i, SL_NORM_FFN, x);
    return x;
}

static sl_buf build_plain(sl_model *m, sl_program *b, sl_buf x) {
    for (int64_t i = 0; i < b->config->model_layers; i++) {
        b->layer = (int)i;
        m->layer[i].residual = x;
        x = b->config->model_block == SL_BLOCK_SEQUENTIAL ? build_sequential(m, b, i, x) : build_parallel(m, b, i, x);
    }
    return x;
}

/* So many sources at most, and the first of them: x. */
static sl_depth begin_depth(sl_program *b, int64_t sources, sl_buf x) {
    sl_depth depth = sl_build_depth(b, sources);
    sl_build_depth_source(b, at(SL_NO_LAYER, SL_HALF_NONE, SL_PART_source), &depth, x);
    if (b->config->model_residual == SL_RESIDUAL_OASIS)
        depth.psi = sl_program_buffer(b, b->batch * b->seq, b->config->model_layers);
    return depth;
}

/* The mixture that belongs to a half of a block. */
static sl_buf build_mixture(sl_program *b, int64_t i, enum sl_norm_site half, const sl_depth *depth) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%lld.%s_residual", (long long)i,
             half == SL_NORM_ATTN ? "attn" : "mlp");
    return sl_build_depth_mix(b, at(i, halves[half], SL_PART_mix), depth, prefix);
}

/* A half, whose output belongs to the sources from here on. */
static sl_buf build_half_of_depth(sl_model *m, sl_program *b, int64_t i, enum sl_norm_site half, sl_buf h, sl_buf sum,
                                  sl_depth *depth) {
    sl_buf x = build_half(m, b, i, half, h, sum);
    if (half == SL_NORM_ATTN && depth->psi != SL_NONE)
        sl_build_null_evidence(b, at(i, SL_HALF_ATTN, SL_PART_null), sl_mixer_of(b->config, i)->attends, depth->psi);
    depth->halves++;
    return x;
}

/* Attention Residuals: each half reads a mixture of its own, and so does the final norm. A block of the mixture's
 * sources is whole before the half that begins the next one. */
static sl_buf build_outputs(sl_model *m, sl_program *b, sl_buf x) {
    const sl_config *c = b->config;
    int64_t of_block = sl_config_has_ffn(c) ? 2 : 1, all = c->model_layers * of_block;
    sl_depth depth = begin_depth(b, 1 + (all - 1) / c->residual_block, x);
    for (int64_t k = 0; k < all; k++) {
        int64_t i = k / of_block;
        enum sl_norm_site half = k % of_block ? SL_NORM_FFN : SL_NORM_ATTN;
        b->layer = (int)i;
        if (k > 0 && k % c->residual_block == 0) {
            sl_build_depth_source(b, at(i, halves[half], SL_PART_source), &depth, depth.apart[0]);
            depth.apart[0] = SL_NONE;
        }
        sl_buf h = build_mixture(b, i, half, &depth);
        *(half == SL_NORM_ATTN ? &m->layer[i].residual : &m->layer[i].mid) = h;
        depth.apart[0] = build_half_of_depth(m, b, i, half, h, depth.apart[0], &depth);
    }
    b->layer = SL_NO_LAYER;
    return sl_build_depth_mix(b, at(SL_NO_LAYER, SL_HALF_NONE, SL_PART_mix), &depth, "model.final_residual");
}

/* As the code of OASIS has it: a mixture behind each half, which the next one reads and adds to; that behind a block
 * becomes a source. */
static sl_buf build_states(sl_model *m, sl_program *b, sl_buf h) {
    const sl_config *c = b->config;
    enum sl_norm_site last = sl_config_has_ffn(c) ? SL_NORM_FFN : SL_NORM_ATTN;
    sl_depth depth = begin_depth(b, c->model_layers, h);
    for (int64_t i = 0; i < c->model_layers; i++) {
        b->layer = (int)i;
        if (i > 0)
            sl_build_depth_source(b, at(i, SL_HALF_ATTN, SL_PART_source), &depth, h);
        depth.apart[1] = SL_NONE;
        for (enum sl_norm_site half = SL_NORM_ATTN; half <= last; half++) {
            *(half == SL_NORM_ATTN ? &m->layer[i].residual : &m->layer[i].mid) = h;
            depth.apart[half] = build_half_of_depth(m, b, i, half, h, h, &depth);
            h = build_mixture(b, i, half, &depth);
        }
    }
    b->layer = SL_NO_LAYER;
    return h;
}

/* Keeps what sl_model_norm_gate() reads: the input and the saved state of gate operations. */
static void keep_gates(sl_model *m) {
    for (int i = 0; i < m->program.ops; i++) {
        const sl_op *op = &m->program.op[i];
        if (op->scope.role == SL_ROLE_GATE)
            for (int s = 0; s < SL_OP_SAVED; s++)
                if (op->saved[s] != SL_NONE)
                    sl_program_keep(&m->program, op->saved[s]);
    }
}

static void keep_qkv(sl_model *m) {
    for (int64_t i = 0; i < m->config.model_layers; i++)
        if (sl_mixer_of(&m->config, i)->attends)
            sl_program_keep(&m->program, sl_model_qkv_buffer(m, (int)i));
}

static void keep_taps(sl_model *m) {
    for (int64_t i = 0; i <= m->config.model_layers; i++) {
        sl_program_keep(&m->program, m->layer[i].residual);
        if (m->layer[i].mid != SL_NONE)
            sl_program_keep(&m->program, m->layer[i].mid);
        for (int w = 0; w < 2; w++)
            if (m->layer[i].norm[w].out != SL_NONE)
                sl_program_keep(&m->program, m->layer[i].norm[w].out);
    }
    keep_gates(m);
    if (m->part_taps)
        sl_model_keep_taps(m);
}

void sl_model_build(sl_model *m, enum sl_keep keep) {
    sl_program *b = &m->program;
    const sl_config *c = &m->config;
    int64_t layers = c->model_layers;
    int embed = sl_build_matrix(b, at(SL_NO_LAYER, SL_HALF_NONE, SL_PART_embed), "model", "embed_tokens.weight",
                                m->vocab, c->model_dim, 0);
    sl_buf x = sl_build_embed(b, embed);
    if (c->model_embed_multiplier > 0)
        sl_build_embed_multiplier(b, x);
    if (c->model_embed_scale)
        x = sl_build_embed_scale(b, x);
    if (c->model_learned_positions > 0)
        x = sl_build_positions(b, x);
    m->anchors = c->model_anchors == SL_ANCHORS_EXTERNAL ? sl_build_anchors(b, x) : (sl_anchors){SL_NONE, SL_NONE};
    m->values = SL_NONE;
    static sl_buf (*const mixed[])(sl_model *, sl_program *, sl_buf) = {[SL_DEPTH_OUTPUTS] = build_outputs,
                                                                        [SL_DEPTH_STATES] = build_states};
    x = c->model_residual == SL_RESIDUAL_PLAIN ? build_plain(m, b, x) : mixed[c->residual_form](m, b, x);
    b->layer = SL_NO_LAYER;
    m->layer[layers].residual = x;
    m->layer[layers].norm[0] = sl_norm_builders[c->model_norm](
        b, (sl_scope){.layer = SL_NO_LAYER, .part = SL_PART_norm}, x, "model.norm", SL_NORM_FINAL);
    int head = c->model_tie_embeddings ? embed
                                       : sl_build_matrix(b, at(SL_NO_LAYER, SL_HALF_NONE, SL_PART_head), "lm_head",
                                                         "weight", m->vocab, c->model_dim, SL_MATRIX_LINEAR);
    int bias = c->model_head_bias ? sl_build_bias(b, "lm_head", "bias", m->vocab, false) : SL_NONE;
    if (keep != SL_KEEP_QKV)
        sl_build_head(b, sl_build_head_quantiser(b, m->layer[layers].norm[0].out), head, bias, m->vocab);
    if (keep != SL_KEEP_NONE)
        keep_qkv(m);
    if (keep == SL_KEEP_TAPS)
        keep_taps(m);
}
