/* Gates of attention (arXiv 2505.06708): b = x W of the block's normed input x, for each element or one for a head; on
 * the heads' outputs before o_proj, or in place on the values. */
#include "ops/ops.h"
#include "ops/sigmoid_gate.h"

/* b = x W and the gate of n columns of y from col on, `group` of them to a gate value. */
static sl_buf build(sl_program *b, const sl_anchor_site *s, const char *name, sl_buf x, sl_buf y, int64_t col,
                    int64_t n, int64_t group) {
    sl_scope scope = {(int)s->layer, SL_HALF_ATTN, SL_PART_gate_in, SL_ROLE_SELF};
    const sl_config *c = b->config;
    int w = sl_program_param(b, s->prefix,
                             &(sl_param_spec){.name = name, .rows = n / group, .cols = c->model_dim, .linear = true,
                                              .init = SL_INIT_NORMAL, .start = c->model_init_std,
                                              .decay = SL_DECAY_MATRIX, .place = scope});
    sl_buf gate = sl_build_linear(b, scope, x, c->model_dim, n / group, w, SL_NONE, SL_NONE);
    sl_build_anchored_gate(b, s, gate);
    scope.part = SL_PART_gate;
    sl_sigmoid_gate how = {col, n, group, (float)(1 - c->attention_gate_floor), col > 0};
    return sl_build_sigmoid_gate(b, scope, y, gate, &how);
}

void sl_build_value_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf qkv) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), kv = sl_config_kv_heads(c) * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_VALUE)
        build(b, s, "v_gate_proj.weight", x, qkv, c->model_heads * hd + kv, kv, 1);
}

sl_buf sl_build_output_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf o) {
    const sl_config *c = b->config;
    int64_t hd = sl_config_head_dim(c), n = c->model_heads * hd;
    if (c->attention_gate == SL_ATTENTION_GATE_ELEMENTWISE)
        return build(b, s, "gate_proj.weight", x, o, 0, n, 1);
    if (c->attention_gate == SL_ATTENTION_GATE_HEADWISE)
        return build(b, s, "gate_proj.weight", x, o, 0, n, hd);
    return o;
}
