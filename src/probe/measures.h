/* The measurements, over plain arrays. A window is `seq` consecutive rows; its position 0 is "token 0": the
 * BOS token with data.bos and data.bos_place first, and else whatever token the window starts with (the causal
 * mask makes it special all the same: every query sees it). All means run over every window added. Adding is spread
 * over threads by shape and folded in fixed order, so results are bit-equal for any number of threads. A NaN
 * in the activations makes the figures that depend on it NaN.
 *
 * Sources: MP = arXiv 2601.22966; the other arXiv numbers stand at the definitions. */
#ifndef SL_PROBE_MEASURES_H
#define SL_PROBE_MEASURES_H

#include "simd/kernels.h"

#include <stdbool.h>
#include <stdint.h>

/* ---- residual stream at one place (residual.c) */

/* Totals per channel, token 0 apart from the others; arrays of `dim` values, zero at the start. */
typedef struct {
    int64_t dim, seq, windows;
    double *sum_abs0, *sum_sq0, *sum_abs, *sum_sq;
    double *led; /* tokens other than token 0 whose largest |h_j| is this channel's, the lowest of equals */
    float *max0, *max;
    double norm0, norm_others; /* sums of Euclidean norms over windows, over windows x (seq - 1) */
} sl_residual;

typedef struct {
    double max;           /* max |h| over all tokens and channels ("Max Activation Value" of MP) */
    double max_no_token0; /* the same without token 0, whose massive activation hides the rest */
    double m2;            /* sl_m2 of mean_t |h_j|, token 0 left out */
    int64_t m2_dim;       /* the channel of that maximum, the lowest of equals; -1 if there is none */
    double m2_share;      /* share of the tokens other than token 0 whose largest |h_j| is that channel's: M2 is of
                           * means, which a few tokens can make; near 1 the channel leads at every token */
    double top1_permille; /* sl_top1_permille of mean_t |h_j| over all tokens */
    double kurtosis_h;    /* sl_kurtosis_h of mean_t h_j^2 over all tokens */
    double kurtosis_h_no_token0; /* the same without token 0, whose massive activation may be most of it */
    double token0_norm_ratio; /* mean norm of token 0 over mean norm of the others (arXiv 2410.10781) */
} sl_residual_figures;

/* h: windows x seq rows of dim. Scratch: window_norms, 2*windows; leaders, windows*seq. */
void sl_residual_add(sl_residual *r, const sl_kernels *k, int64_t windows, const float *h, double *window_norms,
                     int32_t *leaders);
/* What cannot be told (one-token windows, nothing added, a median of 0) is NaN. scratch: 2*dim. */
sl_residual_figures sl_residual_measure(const sl_residual *r, double *scratch);
/* mean_t |h_j| into mean (dim values); with_token0: over all tokens, else without token 0. */
void sl_residual_mean_abs(const sl_residual *r, bool with_token0, double *mean);

/* M2, the residual-sink score: max_j / median_j of mean_abs (github.com/takuma104/OutliersInLLM); the
 * median of an even number is the mean of the middle two. 1 = flat; a sink from about 5-10 on. *dim
 * as m2_dim. scratch: n values. */
double sl_m2(int64_t n, const double *mean_abs, double *scratch, int64_t *dim);
/* "First 1 per mille activation ratio" of MP: 1000 * (sum of the largest ceil(n/1000)) / (sum of all).
 * MP does not print its formula; this one gives 1000*ceil(n/1000)/n for a flat profile. scratch: n. */
double sl_top1_permille(int64_t n, const double *mean_abs, double *scratch);
/* The median of n values (of an even number the mean of the middle two), NaN if one is NaN or n is 0. Leaves them
 * sorted in scratch, n values, unless one is NaN. */
double sl_median(int64_t n, const double *x, double *scratch);

/* The residual sink dimensions of a layer: channels j, lowest first, whose strength mean_abs_j / median_j mean_abs is
 * at least SL_SINK_STRENGTH; the strongest where there are more than SL_SINK_DIMS. M2 is the largest strength. The
 * repository that M2 comes from calls a sink what reaches 10 in models of 600 M parameters and more; at 5 a channel
 * stands clear of the spread of channels in models of some millions, whose widths bound what is possible (kurtosis-H
 * at most dim). */
enum { SL_SINK_DIMS = 16 };
#define SL_SINK_STRENGTH 5.0
typedef struct {
    int count;
    int64_t dim[SL_SINK_DIMS];
    double strength[SL_SINK_DIMS];
} sl_sink_dims;
sl_sink_dims sl_find_sink_dims(int64_t n, const double *mean_abs, double *scratch);

/* kurtosis-H (arXiv 2405.19279): with s_j^2 = mean_t h_j^2, mean_j(s_j^4) / mean_j(s_j^2)^2. From 1 (all
 * channels alike) to n (one channel has everything). */
double sl_kurtosis_h(int64_t n, const double *mean_sq);

/* ---- attention of one block (attention.c) */

typedef struct {
    const float *q, *k, *v; /* row t: heads (kv_heads) x head_dim floats at q + t*ld, ... */
    int64_t ld;
    float scale; /* scores = scale * q.k, causal */
    /* How scores become weights; kind NULL: softmax over the whole window. extra: the logit that joins those of the
     * keys, of query q of a head; NULL: nothing does. */
    const sl_attention_kernels *kind;
    sl_attend attend;
    sl_softcap cap;
    int64_t window; /* positions that a query sees at most; 0: all */
    float (*extra)(const void *ctx, int layer, int64_t head, const float *q);
    const void *ctx;
    int layer;
    int64_t windows, seq, heads, kv_heads, head_dim; /* head h reads kv head h / (heads/kv_heads) */
    const uint8_t *mark; /* NULL, or 0 or 1 of each row: queries that are told apart */
} sl_attention_rows;

/* Sums over the windows added, zero at the start. */
typedef struct {
    int64_t windows;
    double *att0, *entropy;  /* per head: window means over queries 1.. */
    /* Where marks are given: sums per head of the attention to token 0 of marked queries 1.., and of the others. */
    double *att0_marked, *att0_unmarked;
    int64_t marked, unmarked; /* queries */
    double *v0, *v_others;   /* per kv head: norm of token 0; window mean of the others' norms */
} sl_attention;

/* Scratch of sl_attention_add: doubles for the windows' parts, floats for each thread. */
int64_t sl_attention_parts(const sl_attention_rows *a);           /* doubles */
int64_t sl_attention_thread_floats(int64_t seq);                  /* floats a thread */
/* Weights of query q of a head over its keys 0..n-1 (row t at keys + t*ld) into p; s: scratch of n. Returns
 * -sum p log p in nats, their entropy where they sum to 1. */
double sl_attention_row(const sl_attention_rows *a, const sl_kernels *k, int64_t head, const float *q,
                        const float *keys, int64_t n, float *s, float *p);
/* The probabilities are made row by row and never kept; parts and rows: scratch as above. */
void sl_attention_add(sl_attention *s, const sl_kernels *k, const sl_attention_rows *a, double *parts,
                      float *rows);
/* Mean attention to token 0 of a head over queries 1.. and windows. Query 0 is left out, for it can attend
 * only to itself (Sink_1 of arXiv 2410.10781 and MP's first-token score count it; that adds 1/seq).
 * Uniform attention would give mean_{q>=1} 1/(q+1). NaN for one-token windows. */
double sl_attention_att0(const sl_attention *s, int64_t head);
/* The same over the marked queries, or over the others, alone; NaN if there were none. */
double sl_attention_att0_of(const sl_attention *s, int64_t head, bool marked);
/* Mean of -sum p log p over a head's attention rows, nats, queries 1.. (the entropy where rows sum to 1); uniform:
 * mean of log(q+1). */
double sl_attention_entropy(const sl_attention *s, int64_t head);
/* |v| of token 0 over the mean |v| of the others, of a kv head (ratio of means over windows). Small where
 * token 0 is an attention sink (arXiv 2410.10781, 2402.17762). */
double sl_attention_value_ratio(const sl_attention *s, int64_t kv_head);
/* Sink^.3 (arXiv 2410.10781): share of n heads whose att0 exceeds .3. */
double sl_sink_rate(int64_t n, const double *att0);

/* ---- norms (norms.c) */

/* Totals of a gate's values per channel, zero at the start. */
typedef struct {
    int64_t dim, rows;
    double *sum, *sum_sq;
} sl_gate;

typedef struct {
    double mean, std;                /* over all elements: rows x dim */
    double channel_min, channel_max; /* of the channels' means over rows */
} sl_gate_figures;

void sl_gate_add(sl_gate *g, int64_t rows, const float *values);
/* Of `count` gates pooled; NaN when nothing was added. */
sl_gate_figures sl_gate_measure(int count, const sl_gate *const *gates);
/* Smallest |weight| of a norm: near 0 at a residual sink, whose output the norm suppresses (MP). */
double sl_lambda_min(int64_t dim, const float *weight);

#endif
