/* The measures that `sinklab probe --measures` adds, over plain arrays; training takes none of them. Terms and
 * promises are those of measures.h: windows of `seq` rows, token 0 first, bit-equal for any number of threads, NaN
 * where a figure cannot be told. Sums, and what is derived from them, are in double; attention probabilities and
 * products with a weight matrix are the engine's own, fp32. "Share" is always a ratio of two sums of Euclidean norms
 * over the same tokens: rows with nothing to say weigh nothing. MP = arXiv 2601.22966, which gives no formula for
 * contributions; these are ours. */
#ifndef SL_PROBE_DETAIL_H
#define SL_PROBE_DETAIL_H

#include "ops/attention/anchors.h"
#include "ops/mixer/recurrence.h"
#include "probe/measures.h"

typedef struct {
    double part, whole; /* sums of norms, zero at the start */
} sl_share;
static inline double sl_share_of(sl_share s) { return s.part / s.whole; }

/* ---- share of the attention output that comes through token 0 (contribution.c)
 * Before the output projection, per head: sum_t |p_t0 v_0| / sum_t |o_t|, o_t = sum_s p_ts v_s, over queries t = 1..
 * and windows. After it, all heads together: sum_t |W_o (g_t * [p_t0 v_0])| / sum_t |W_o (g_t * o_t)| with the gate
 * g_t on the attention output if there is one. 0: token 0 only takes attention away (MP: the sink contributes
 * little); near or above 1: it is the output (parts may cancel). */
typedef struct {
    sl_attention_rows rows;
    const float *core;   /* o: [windows*seq, heads*head_dim] */
    const float *out_in; /* g * o; core itself where there is no gate */
    const float *w_out;  /* [dim, heads*head_dim] */
    int64_t dim;
} sl_contribution_rows;
typedef struct {
    sl_share *head; /* per head */
    sl_share projected;
} sl_contribution;
int64_t sl_contribution_parts(const sl_contribution_rows *c);         /* doubles of scratch */
int64_t sl_contribution_thread_floats(const sl_contribution_rows *c); /* floats of scratch a thread */
void sl_contribution_add(sl_contribution *s, const sl_kernels *k, const sl_contribution_rows *c, double *parts,
                         float *scratch);

/* ---- sink dimensions S in rows x of dim (sink_dims.c): sum_t |x_S| / sum_t |x| over tokens other than token 0. Of a
 * norm's input it says how much of the norm is taken by the sink; of RMSNorm's output before its weight it is the
 * same number, since all channels are scaled alike. Of the norm's output, weight and gate included: what is left of
 * the sink for the block. */
void sl_share_add(sl_share *s, const sl_kernels *k, int64_t windows, int64_t seq, int64_t dim, const float *x,
                  const sl_sink_dims *sinks);

/* ---- is a sink dimension static or dynamic (sink_dims.c)? x_wt: the channel's value in window w at position t >= 1.
 * */
typedef struct {
    double mean;
    double constant_share;   /* mean(x)^2 / mean(x^2): 1 = a constant, a bias; 0 = centred */
    double same_sign;        /* share of the values with the commoner sign */
    double across_sequences; /* mean over pairs of windows of the correlation of x_w. with x_w'. : 1 = a function of the
                                position, 0 = of the text */
    double across_positions; /* mean over pairs of positions of the correlation of x_.t with x_.t' : 1 = a function of
                              * the
                                window, 0 = of the token */
    double agreement;        /* mean over pairs of windows of x_w.x_w' / |x_w||x_w'| (Tucker's congruence): 1 where each
                                window has the same values up to a positive factor; a constant too, of which the
                                correlations tell nothing */
} sl_dynamics;
/* x: windows x seq values; constant rows have no correlation and are left out. scratch: windows*seq + windows + seq
 * doubles. */
sl_dynamics sl_dynamics_measure(int64_t windows, int64_t seq, const float *x, double *scratch);

/* ---- outliers of a class of tensors (outliers.c) */
enum { SL_OUTLIER_BINS = 1 << 15 };
typedef struct { /* sums, zero at the start */
    int64_t dim, windows, rows;
    double *sum_sq; /* per channel */
    uint64_t *bins; /* SL_OUTLIER_BINS: counts of |x| by the upper half of its bits */
    double max, max_no_token0, kurtosis;
} sl_outliers;
typedef struct {
    const float *x; /* row t at x + t*ld */
    int64_t windows, seq, dim, ld;
} sl_outlier_rows;
typedef struct {
    double max, max_no_token0; /* of |x| */
    double max_over_median;    /* max |x| over the median |x| of all elements (massive activations: about 1000 and
                                * more, arXiv
                                  2402.17762); the median is known to 1/128 */
    double kurtosis;           /* 4th standardised moment of each window's values, mean over windows (arXiv
                                * 2306.12929); 3: normal */
    double kurtosis_h;         /* sl_kurtosis_h of the channels' mean squares (arXiv 2405.19279) */
    double channel_max_over_median; /* largest over median channel RMS (github.com/takuma104/OutliersInLLM) */
    double channels_over_6;    /* share of channels whose RMS exceeds 6 times the median one (the same) */
    int64_t channel;           /* the channel of the largest RMS, -1 if none */
} sl_outlier_figures;
/* window: scratch of 3*windows; bins: scratch of sl_threads() * SL_OUTLIER_BINS. */
void sl_outliers_add(sl_outliers *o, const sl_outlier_rows *x, double *window, uint64_t *bins);
sl_outlier_figures sl_outliers_measure(const sl_outliers *o, double *scratch); /* scratch: 2*dim */

/* ---- gate score against |activation| (gate_score.c): q, the gate's values, against |y|, y its input (the norm's
 * output), over tokens other than token 0. MP and its neighbours see lower scores where |y| is large. */
enum { SL_GATE_BINS = 16 };
typedef struct {
    double n, y, gate, yy, gate_gate, y_gate; /* sums over elements */
    double bin_count[SL_GATE_BINS], bin_gate[SL_GATE_BINS];
} sl_gate_sums;
typedef struct { /* zero at the start */
    int64_t dim;
    sl_gate_sums sums;
    double *channel_y, *channel_gate; /* sums per channel */
} sl_gate_score;
int64_t sl_gate_score_parts(int64_t dim); /* sums of scratch */
void sl_gate_score_add(sl_gate_score *g, int64_t windows, int64_t seq, const float *y, const float *gate,
                       sl_gate_sums *parts);
double sl_gate_score_elements(const sl_gate_score *g); /* Pearson's correlation of |y| with q over all elements */
double sl_gate_score_channels(const sl_gate_score *g); /* of their means over tokens, over channels */
/* Bin b holds edge(b) <= |y| < edge(b+1), edges 0, 2^-7, 2^-6 .. 2^7; the last is open. */
double sl_gate_bin_edge(int bin);

/* ---- attention over depth (depth.c): weights a_i of the sources v_i that a mixture is of. Sums are over tokens other
 * than token 0, whose weights stand apart. */
typedef struct {
    int64_t sources, tokens, windows;
    double *weight, *square, *norm; /* of each source: sums of a_i, of a_i^2, of |a_i v_i| */
    double *weight0;                /* of token 0: sums over windows of a_i */
    double entropy, top, null;      /* sums of -sum a log a, in nats; of the largest a_i; of 1 - sum a */
} sl_depth_sums;                    /* zero at the start */
typedef struct {
    int64_t windows, seq, dim, banked;
    const float *weight;          /* [windows*seq, sources] */
    const float *bank, *apart[2]; /* source i of row t: bank + t*ld + i*dim; from banked on apart[i-banked] + t*dim */
    int64_t ld;
} sl_depth_rows;
void sl_depth_add(sl_depth_sums *s, const sl_kernels *k, const sl_depth_rows *x);
/* Null evidence of a layer of softmax1 (arXiv 2605.17887): 1 - sum_j p_j of each query, mean over heads. */
typedef struct {
    double token0, others; /* sums over windows, and over the queries behind token 0 */
    int64_t windows, seq;
} sl_null_evidence;
/* parts: scratch, [windows, heads, 2]; rows: as sl_attention_add's. */
void sl_null_evidence_add(sl_null_evidence *s, const sl_kernels *k, const sl_attention_rows *a, double *parts,
                          float *rows);
/* sum_i mean(a_i)^2 / sum_i mean(a_i^2): 1 where the weights are the same for every token, a fixed sum over depth. */
double sl_depth_constant_share(const sl_depth_sums *s);
/* ---- anchors (anchors.c): coefficients f c of S' = f1 c1 anchor + f2 c2 S (ops/attention/anchors.h), and what of a
 * later query's logit with token 0's key comes through either: q.k of each's part of that key. [2]: anchor, own. */
enum { SL_ANCHORED = 4 }; /* q, k, v, gate */
typedef struct {
    double coef[2][SL_ANCHORED], rows[SL_ANCHORED]; /* sums over rows of the mean |f c| of the part's columns */
    double logit[2], logits;                        /* sums over queries 1.. that see token 0, and heads */
} sl_anchor_sums;                                   /* zero at the start */
/* A row; coef: f c of each column. part: the first of the layout's. */
void sl_anchor_sums_add(sl_anchor_sums *s, const sl_anchor_layout *l, int part, const float *const coef[2]);
/* A window. mixed: f1 c1 anchor and f2 c2 S of token 0's keys, [kv_heads head_dim]. Logits are before a softcap. */
void sl_anchor_sums_add_logits(sl_anchor_sums *s, const sl_attention_rows *a, int64_t window,
                               const float *const mixed[2]);

/* ---- mixers that keep a state (recurrence.c), as the attention that they are the same as: o_t = sum_j A_tj v_j of
 * the form in ops/mixer/recurrence.h, A_tj = q_t.p_t with p_j = weight_j k_j and p_t = decay_t (p - weight_t k_t
 * (k_t.p)), without the delta rule decay_t p; skip on the diagonal. Weights have signs, and no row sums to 1. The first
 * SL_RECURRENCE_TOKENS tokens are looked at by the queries behind them, from `first` on; with a decay, near 0 is the
 * rule for them all, and what tells a sink is token 0 beside the others. Softmax layers, whose A are their
 * probabilities, give the first three figures. Arithmetic is double. */
enum { SL_RECURRENCE_TOKENS = 5 };
typedef struct { /* of a head: sums over all that was added, zero at the start */
    double queries;                     /* with a row of A that is not 0 throughout */
    double share[SL_RECURRENCE_TOKENS]; /* |A_tj| / sum_i |A_ti| */
    double contribution;                /* |A_t0| |v_0| / sum_i |A_ti| |v_i| */
    double over_output;                 /* |A_t0| |v_0| / |o_t| */
    double windows, tokens;             /* tokens: all but the first of each window, as in: */
    double decay, log_decay;
    double weight0, weight, key0, key, value0, value; /* weight, |k| before it is normalised, |v|: token 0, others */
    double rms0, rms, below_eps;                      /* of o_t; positions, 0 too, with a mean square below eps */
    double states;                                    /* windows whose state is not 0 at the end, as in: */
    double half, end;                                 /* |S|_F in the middle and at the end */
    double token0, peak, rank; /* at the end: |p| |v_0| / |S|_F; max |S_ij| by their rms; |S|_F^2 / |S|_2^2 */
} sl_recurrence_sums;
typedef struct {
    sl_recurrence_sizes of;
    int64_t windows, seq, first;
    double eps;
    void (*read)(const void *ctx, int64_t window, int64_t head, sl_recurrence_head *to);
    const void *ctx;
} sl_recurrence_rows;
/* What sl_recurrence_add takes: sums, floats and doubles. */
typedef struct {
    int64_t parts, floats, doubles;
} sl_recurrence_room;
typedef struct {
    sl_recurrence_sums *parts;
    float *floats;
    double *doubles;
} sl_recurrence_scratch;
sl_recurrence_room sl_recurrence_needs(const sl_recurrence_rows *r);
/* sums: of each head. Costs the square of the window times key_dim. */
void sl_recurrence_add(sl_recurrence_sums *sums, const sl_recurrence_rows *r, const sl_recurrence_scratch *scratch);
/* The same of softmax layers, `core` their output; rows: scratch of so many floats a thread, parts: of each window and
 * head. */
int64_t sl_recurrence_attention_floats(int64_t seq);
void sl_recurrence_add_attention(sl_recurrence_sums *sums, const sl_kernels *k, const sl_attention_rows *a,
                                 const float *core, int64_t first, sl_recurrence_sums *parts, float *rows);

/* ---- singular directions (singular.c, linear_map.c). SINDER (arXiv 2407.16826): the direction of tokens of extreme
 * norm is the leading left singular vector of the linearised blocks that made them. */
typedef struct {
    int64_t rows, cols;
    void (*apply)(const void *map, const double *x, double *y);     /* y[rows] = M x */
    void (*transposed)(const void *map, const double *y, double *x); /* x[cols] = M^T y */
    const void *map;
} sl_linear;
typedef struct {
    double sigma, second; /* the two largest singular values; near each other: the direction means little */
    bool converged;       /* of the first */
} sl_singular;
/* Power iteration on M M^T from a fixed start until the singular value changes by less than 1e-12 of itself (at most
 * 2,000 times). u[rows]: the leading left singular vector. Not to be called from parallel items. scratch: 2*rows +
 * cols. */
sl_singular sl_leading_singular(const sl_linear *m, double *u, double *scratch);
/* |cosine| of u and x (n values); NaN if one is zero. */
double sl_alignment(int64_t n, const double *u, const float *x);

typedef struct {
    const float *w; /* [rows, cols] */
    int64_t rows, cols;
} sl_matrix;
sl_linear sl_linear_matrix(const sl_matrix *m);

/* A block as a linear map of its own tokens: A = I + argmin_B sum_t |dh_t - B h_t|^2 + r |B|^2, dh = what the block
 * adds to h, tokens other than token 0, r = 1e-3 times the mean of the diagonal of sum h h^T (so that a direction in
 * which the stream hardly moves passes through). SINDER fits the feed-forward so on random inputs; here on the tokens
 * that the block sees, which needs no knowledge of what it is made of. */
typedef struct {
    int64_t dim, tokens;
    double *gram;  /* sum h h^T; after sl_block_map_solve its Cholesky factor */
    double *cross; /* sum dh h^T */
    double *solved; /* scratch: dim */
} sl_block_map;
/* h, next: stream before and after the block. */
void sl_block_map_add(sl_block_map *m, int64_t windows, int64_t seq, const float *h, const float *next);
/* false if the matrix is not positive definite (no tokens, NaN). */
bool sl_block_map_solve(sl_block_map *m);
sl_linear sl_linear_block(const sl_block_map *m);
/* M = last ... first: what `count` blocks make of the stream at the first one's input. scratch: dim. */
typedef struct {
    const sl_block_map *block;
    int64_t count;
    double *scratch;
} sl_block_chain;
sl_linear sl_linear_chain(const sl_block_chain *c);

#endif
