/* Builders of the operations, in the order of a forward pass. Each appends to the program and returns its
 * output buffer. `place` says where in the model, `prefix` its tensors in checkpoints. */
#ifndef SL_OPS_OPS_H
#define SL_OPS_OPS_H

#include "ops/attention/anchors.h"
#include "program/program.h"

/* x = E[token]: [rows, dim]. Parameter embed [vocab, dim]. */
sl_buf sl_build_embed(sl_program *b, int embed);

/* scale * x with one learned number, model.embed_scale, which starts at sqrt(dim). */
sl_buf sl_build_embed_scale(sl_program *b, sl_buf x);

/* m * x with the constant model.embed_multiplier, in place. */
void sl_build_embed_multiplier(sl_program *b, sl_buf x);

/* x + P[position] with the learned table model.embed_positions.weight [model.learned_positions, dim]. */
sl_buf sl_build_positions(sl_program *b, sl_buf x);

/* Declares a matrix [out, in] of the linear layer at `place`, from N(0, model.init_std); returns its index. */
enum {
    SL_MATRIX_OUTPUT = 1, /* it writes to the residual stream: the deviation is divided by sqrt(2 layers) */
    SL_MATRIX_JOINED = 2, /* directly behind the matrix declared last, one with it (program/params.h) */
    SL_MATRIX_LINEAR = 4  /* sl_build_linear or sl_build_head alone read it, so that it may be kept in bf16 */
};
int sl_build_matrix(sl_program *b, sl_scope place, const char *prefix, const char *name, int64_t out, int64_t in,
                    unsigned how);

/* Declares a bias [out] of zeros, which no weight decay reaches; joined: as SL_MATRIX_JOINED. */
int sl_build_bias(sl_program *b, const char *prefix, const char *name, int64_t out, bool joined);

/* y = x W^T (+ bias) (+ residual): W is the parameter `weight` and, when joined tensors follow it, dim_out rows
 * starting there; bias likewise dim_out numbers, or SL_NONE. residual: fp32, as y is then; SL_NONE or SL_APART. */
sl_buf sl_build_linear(sl_program *b, sl_scope scope, sl_buf x, int64_t dim_in, int64_t dim_out, int weight, int bias,
                       sl_buf residual);

/* The same without a bias, of a matrix that no scheme quantises. */
sl_buf sl_build_unquantised(sl_program *b, sl_scope scope, sl_buf x, int64_t dim_in, int64_t dim_out, int weight,
                            sl_buf residual);

/* Norms: see norm.h. */

/* RMSNorm with a weight on each query and key head (Qwen3), or on all query heads and all key heads of a row (OLMo 2,
 * model.qk_norm_span), in place on the q and k part of qkv rows. */
void sl_build_qk_norm(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix);
/* cosine and sine [positions, dims / 2] of the angles that position t turns pair j by, t base^(-2j/dims), lowered as
 * model.rope_scaling says, and times what yarn lets queries and keys grow by; windowed: of layers with
 * model.rope_base_window. */
void sl_rope_table(const sl_config *c, bool windowed, int64_t positions, float *cos, float *sin);
/* Rotary position embedding on the q and k part, in place (Su et al., arXiv 2104.09864), half-split, with the layer's
 * table. */
void sl_build_rope(sl_program *b, sl_scope scope, sl_buf qkv, const float *cos, const float *sin);
/* Causal attention of the configured kind over rows [q heads | k kv_heads | v kv_heads]; returns [rows,
 * heads*head_dim]. prefix: of the tensors of its own that a kind may have. */
sl_buf sl_build_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix);
/* The configured gate from the block's normed input x, if there is one: that of values on the v part of qkv, in place;
 * the others on heads' outputs o, whose result is returned (o itself without a gate). */
void sl_build_value_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf qkv);
sl_buf sl_build_output_gate(sl_program *b, const sl_anchor_site *s, sl_buf x, sl_buf o);
/* The same for one new position a window, with keys and values of earlier ones in a cache. */
sl_buf sl_build_cached_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix);

/* Null evidence of a layer's attention, which stands behind it, into its column of psi [rows, layers], fp32; zeros of a
 * mixer that does not attend. */
void sl_build_null_evidence(sl_program *b, sl_scope scope, bool attends, sl_buf psi);

/* The activation of a feed-forward kind over rows [gate | up], each of that width, or [x] if it has no gate. */
sl_buf sl_build_ffn(sl_program *b, sl_scope scope, enum sl_ffn kind, sl_buf in, int64_t width);
enum sl_ffn sl_ffn_kind_of(const sl_op *op); /* of such an operation */

/* Parameters of a mixture: the router's matrix [experts, dim]; the first of each expert's gate, up [ffn, dim] and down
 * [dim, ffn], all joined; or SL_NONE: the router's bias [experts]; the first of each expert's biases [ffn], [ffn] and
 * [dim], all joined; the bias of the choice [experts]. */
typedef struct {
    int router, experts, router_bias, biases, choice;
} sl_moe_params;
/* Mixture of gated experts (moe.h), fp32, added to the residual (SL_NONE, SL_APART: alone). */
sl_buf sl_build_moe(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual, const sl_moe_params *p);

/* On the residual stream (stream.c). x + residual, both fp32. */
sl_buf sl_build_add(sl_program *b, sl_scope scope, sl_buf x, sl_buf residual);
/* x as an input of products: rounded where the program is bf16, else x itself. */
sl_buf sl_build_operand(sl_program *b, sl_scope scope, sl_buf x);
/* Clamps x to [-threshold, threshold], in place; the gradient is 0 outside. */
void sl_build_clip(sl_program *b, sl_scope scope, sl_buf x, double threshold, int backward);
float sl_clip_of(const sl_op *op); /* the threshold of such an operation */

/* Logits, cross-entropy and, in training, their gradients, chunk by chunk of rows: never all logits at once. bias
 * [vocab] or SL_NONE. */
void sl_build_head(sl_program *b, sl_buf x, int weight, int bias, int64_t vocab);

#endif
