/* Attention over depth (Attention Residuals, arXiv 2603.15031): what a half of a block reads is no sum of all that
 * stands before it but a mixture with weights of its own, for each token,
 *     h = sum_i a_i v_i,   a = softmax_i(w . k_i),   k_i = g v_i / sqrt(mean(v_i^2) + eps),
 * of sources v_i: the embedding and the outputs of earlier halves, or their sums within blocks of several halves. w
 * is a parameter of the reader, which starts at 0, where a is the mean; g is the weight of its norm of keys.
 *
 * With null evidence psi (OASIS, arXiv 2605.17887) score i is lowered by beta (psi_i - mean_k psi_k). beta =
 * min(log(1 + e^c), 10) with a c of the reader's; psi of the embedding is 0, of an output that of its layer's attention
 * (null.c), of a sum of outputs their mean.
 *
 * model.residual_opts.form=states is the form that the code published with arXiv 2605.17887 has. A half adds its output
 * to what it reads, h, as in a plain model, and a mixture behind it gives what is read next. Its sources v_i are
 * states: the embedding, what each earlier layer has ended with, and of this layer the sum of h and the attention's
 * output, then also that of h and the feed-forward's. Of n sources, the newest last,
 *     a = softmax_i(clamp((W_q v_{n-1}) . (W_k v_i) / sqrt(r) + t i / (n - 1) - beta (psi_i - mean psi), -50, 50))
 * with r = max(dim / 4, 64), a number t (the recency), and the psi of a state that of its layer. Scores are computed as
 * products of v_i and u = W_k^T W_q v_{n-1}, so that there are no keys. */
#ifndef SL_OPS_DEPTH_H
#define SL_OPS_DEPTH_H

#include "program/program.h"

/* The sources of a token lie one behind the other in a row of one buffer, so that a mixture reads the first so many
 * as they lie. */
enum { SL_DEPTH_APART = 2 };
typedef struct {
    sl_buf bank;    /* [rows, sources * dim], fp32 */
    int64_t n;      /* sources that are there by now */
    /* [rows, dim], fp32: the newest sources, which are not there; SL_NONE: none. Of outputs the first alone, the sum of
     * a block that is not whole yet; of states one at least. */
    sl_buf apart[SL_DEPTH_APART];
    sl_buf psi;     /* [rows, layers]: null evidence of each layer's attention; SL_NONE: scores are without */
    int64_t halves; /* whose outputs are in the sources */
} sl_depth;

/* Room for so many sources; there is none yet. */
sl_depth sl_build_depth(sl_program *b, int64_t sources);
/* Appends x [rows, dim], fp32, to the sources. */
void sl_build_depth_source(sl_program *b, sl_scope scope, sl_depth *depth, sl_buf x);
/* Which one such an operation appends. */
int64_t sl_depth_place_of(const sl_op *op);
/* The mixture of the sources, those apart too: [rows, dim], fp32. Tensors <prefix>.query and, with
 * model.residual_opts.key_norm, <prefix>.norm.weight, both [dim]; of states <prefix>.to_query.weight [r, dim], W_q,
 * <prefix>.from_query.weight [dim, r], W_k^T, and <prefix>.recency [1], t; with psi <prefix>.coupling [1], c. */
sl_buf sl_build_depth_mix(sl_program *b, sl_scope scope, const sl_depth *depth, const char *prefix);

/* ---- what probes and devices read of a mixture's operation */

/* Its own, and the largest b and score. */
typedef struct {
    sl_depth depth; /* as it stood when the operation was built */
    float eps;
    bool null; /* softmax1: one more source, of logit 0 and value 0 */
    int64_t of_source, of_layer; /* halves of one source, of one layer */
    float scale; /* of states: 1 / sqrt(r) */
} sl_depth_mixture;
#define SL_DEPTH_BETA_MOST 10.0f
#define SL_DEPTH_SCORE_MOST 50.0f
/* What it reads, its parameters, and what it saves, each [rows, sources]: a; what products become scores by, 1 / rms of
 * the sources (1 without a norm of keys; of states 1 / sqrt(r)); products of sources and the query, g w or u. */
enum { SL_DEPTH_BANK, SL_DEPTH_IN_APART, SL_DEPTH_PSI = SL_DEPTH_IN_APART + SL_DEPTH_APART, SL_DEPTH_ASKED };
enum { SL_DEPTH_QUERY, SL_DEPTH_NORM, SL_DEPTH_COUPLING, SL_DEPTH_RECENCY };
enum { SL_DEPTH_WEIGHT, SL_DEPTH_RSTD, SL_DEPTH_PRODUCT };
const sl_depth_mixture *sl_depth_mixture_of(const sl_op *op); /* of such an operation */

/* Is it of states, with a query for each row? */
bool sl_depth_asks(const sl_op *op);
/* NULL of any other operation, and of none. */
const sl_depth *sl_depth_of(const sl_op *op);
/* The sources that it mixes, those apart last. Their weights a [rows, sources] are what it saves first. */
int64_t sl_depth_sources(const sl_depth *depth);

#endif
