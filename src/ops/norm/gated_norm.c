/* GatedNorm (arXiv 2601.22966, section 3.4): out = q * y, q = sigmoid(W_up silu(W_down y)), y the output of the base
 * norm, weight included; no bias. Other activations and one score for the whole row are the ablations of its section
 * on gates. Start "half": both matrices N(0, init_std), so that q is act of nearly 0: about 1/2 for sigmoid. Start
 * "identity": W_up = 0, and 2 sigmoid(b) or 1 + act(b), so that q is exactly 1. */
#include "ops/norm/gate.h"
#include "ops/norm/norm.h"

sl_norm_tap sl_build_gated_norm(sl_program *b, sl_scope scope, sl_buf in, const char *prefix,
                                enum sl_norm_site site) {
    const sl_config *c = b->config;
    sl_norm_tap tap = sl_base_builders[c->norm_base](b, scope, in, prefix, site);
    if (site == SL_NORM_FINAL && !c->norm_gate_final)
        return tap;
    tap.out = sl_build_gate(b, sl_scope_as(scope, SL_ROLE_GATE), tap.out, prefix);
    tap.gate_op = b->ops - 1;
    return tap;
}
