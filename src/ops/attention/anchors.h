/* Anchors (ExoFormer, arXiv 2601.08131): queries, keys, values and inputs of the gate that are made once for a token
 * and that every layer of attention mixes into its own S,
 *     S' = f1 c1 anchor + f2 c2 S,
 * before the norm of queries and keys and before RoPE. External ones are projections of the embeddings, internal ones
 * those of the first layer of attention, which mixes none. c1 and c2 are parameters of the layer, one for each part (q,
 * k, v, gate), head or channel, of model.anchors_opts.coefficients; f1 and f2 are 1, or (dynamic) sigmoids of a small
 * network of what the layer reads, one for each part of a token. */
#ifndef SL_OPS_ATTENTION_ANCHORS_H
#define SL_OPS_ATTENTION_ANCHORS_H

#include "program/program.h"

/* Both fp32, whatever the program's precision: gradients of all layers are summed in them. SL_NONE: not there, or not
 * yet. */
typedef struct sl_anchors {
    sl_buf qkv;  /* [rows, (heads + 2 kv_heads) head_dim] */
    sl_buf gate; /* [rows, heads head_dim] */
} sl_anchors;

/* External anchors of h [rows, dim], fp32. Tensors model.anchors.{q,k,v,gate}_proj.weight, and with
 * model.anchors_opts.norm the weights [head_dim] of an RMSNorm of each head, model.anchors.{q,k,v,gate}_norm.weight. */
sl_anchors sl_build_anchors(sl_program *b, sl_buf h);

/* What a layer of attention has to do with anchors. */
typedef struct {
    sl_anchors *anchors; /* NULL: nothing */
    int64_t layer;
    const char *prefix;  /* of the layer's tensors */
    sl_buf factors;      /* [rows, 2 parts], before the sigmoid; SL_NONE: none */
    bool gives;          /* its own are the anchors */
} sl_anchor_site;

/* anchors: NULL without; they are given by the first layer that is built with them where they are SL_NONE. x [rows,
 * dim]: what the layer reads. Tensors <prefix>.anchor_factors.{down,up}_proj.weight of dynamic factors. */
sl_anchor_site sl_build_anchor_site(sl_program *b, sl_anchors *anchors, const char *prefix, int64_t layer, sl_buf x);
/* qkv rows as the projection leaves them, in place: the mixture. Tensors <prefix>.anchor_coef, <prefix>.own_coef. */
void sl_build_anchored_qkv(sl_program *b, const sl_anchor_site *s, sl_buf qkv);
/* The same of the gate's inputs [rows, heads head_dim]: <prefix>.gate_anchor_coef, <prefix>.gate_own_coef. Where the
 * layer gives, they become anchors. */
void sl_build_anchored_gate(sl_program *b, const sl_anchor_site *s, sl_buf gate);
/* Where the layer gives: anchors of qkv rows behind the norm of queries and keys, which are normed no second time. */
void sl_build_given_anchors(sl_program *b, const sl_anchor_site *s, sl_buf qkv);

/* ---- what their two operations are made from; NULL of any other operation */

/* Which columns belong to which part: part p has those of heads first[p] to first[p + 1] - 1. */
enum { SL_ANCHOR_PARTS = 3 };
typedef struct {
    int parts;
    int64_t first[SL_ANCHOR_PARTS + 1], head_dim;
} sl_anchor_layout;

/* Anchors: in[0] as fp32, heads of a part with a weight param[part] behind an RMSNorm. Others may change in[0] in
 * place, so that saved[0] has what was normed; saved[1]: 1/rms of each head. */
typedef struct {
    sl_anchor_layout at;
    float eps;
} sl_anchoring;
const sl_anchoring *sl_anchoring_of(const sl_op *op);

/* The mixture, in place on in[0], of the anchors in[1] and the factors in[2]; saved[0]: the layer's own before it. c1
 * is param[0], c2 is param[1]. */
typedef struct {
    sl_anchor_layout at;
    int each;       /* SL_ANCHORS_SCALAR ... */
    int column, of; /* in[2]: f1 of part p is column + p, f2 is `of` further */
} sl_anchor_mixture;
const sl_anchor_mixture *sl_anchor_mixture_of(const sl_op *op);
/* Of a row of the last pass: f1 c1 and f2 c2 of each column, and times these the anchor and the layer's own. [2][dim]
 * each. */
void sl_anchor_mixture_row(const sl_op *op, const sl_exec *x, int64_t row, float *const coef[2], float *const mixed[2]);

#endif
