/* Reference operations for tests: the formulas written straight down in double complex, one loop
 * per sum sign, nothing shared with src/ or simd/. Complex so that a derivative is one forward away
 * (complex step: f(x + ih) = f(x) + ih f'(x) + O(h^2); Squire & Trapp 1998, SIAM Review 40). With
 * REF_STEP the O(h^2) terms are below the rounding of double, so the derivative is as exact as f
 * itself. Rows are contiguous; outputs must not overlap inputs unless said. */
#ifndef REF_OPS_H
#define REF_OPS_H

#include <complex.h>
#include <stdbool.h>
#include <stdint.h>

typedef double complex ref_c;

#define REF_STEP 1e-40

/* n zeros; a test program that is out of memory ends. */
ref_c *ref_alloc(int64_t n);

/* y[rows, out] = x[rows, in] W^T, W [out, in]. */
void ref_linear(int64_t rows, int64_t in, int64_t out, const ref_c *x, const ref_c *w, ref_c *y);
/* y[i] = table[token[i]], table [vocab, d]. */
void ref_embedding(int64_t rows, int64_t d, const int32_t *token, const ref_c *table, ref_c *y);
/* y += x: the residual connection; y += the row b of each: a bias. */
void ref_add(int64_t n, const ref_c *x, ref_c *y);
void ref_add_row(int64_t rows, int64_t d, const ref_c *b, ref_c *y);
/* y = w x / sqrt(mean(x^2) + eps) (arXiv 1910.07467). y may be x. */
void ref_rmsnorm(int64_t rows, int64_t d, const ref_c *x, const ref_c *w, double eps, ref_c *y);
/* y = w (x - mean) / sqrt(var + eps), biased variance, no bias (arXiv 1607.06450). y may be x. */
void ref_layernorm(int64_t rows, int64_t d, const ref_c *x, const ref_c *w, double eps, ref_c *y);
/* y_j *= w_j in each row. */
void ref_scale_channels(int64_t rows, int64_t d, const ref_c *w, ref_c *y);
/* y = w f(alpha x + shift) + bias, f erf or tanh; bias may be NULL (arXiv 2503.10622, 2512.10938). Imaginary parts
 * must be infinitesimal for erf. */
void ref_dyt(int64_t rows, int64_t d, const ref_c *x, bool erf_form, ref_c alpha, ref_c shift, const ref_c *w,
             const ref_c *bias, ref_c *y);
/* y *= outer(W_up inner(W_down y)) with W_down [rank, d] and W_up [gates, rank], gates = d or 1 for the whole row
 * (arXiv 2601.22966). identity: 2 sigmoid, or 1 + the other activations. */
typedef struct {
    int64_t rank, gates;
    const char *outer, *inner; /* names of the choices of model.norm_opts */
    bool identity;
} ref_gate_kind;
void ref_gate(int64_t rows, int64_t d, const ref_gate_kind *kind, const ref_c *down, const ref_c *up, ref_c *y);
/* Turns pairs (j, j + n/2) of each head's first n channels by position / base^(2j/n), position = row % seq (arXiv
 * 2104.09864, half-split). In place. dims: n, or 0 for all. scaling "linear": angles are divided by the factor.
 * "llama3": those of wavelength above original / low are, those below original / high are not, and between the two
 * frequencies are blended by (original / wavelength - low) / (high - low). "yarn": pair j is
 * slowed by the factor in the share (j - a) / (b - a), a and b the pairs that turn fast and slow times in the original
 * window, or the whole numbers around them, at least 0 and at most n - 1; all is multiplied by growth. NULL: as they
 * are. */
typedef struct {
    int64_t dims;
    double base;
    const char *scaling;
    double factor, low, high, original, fast, slow, growth;
    bool whole;
} ref_rotary;
void ref_rope(int64_t rows, int64_t seq, int64_t heads, int64_t hd, const ref_rotary *r, ref_c *x);
/* y_t = bias + sum_{j < width} w[c][width - 1 - j] x_{t-j} for each channel c of d, x_{t-j} = 0 before the window of
 * seq positions; silu: y sigmoid(y) of that. bias: NULL for none. */
void ref_convolution(int64_t rows, int64_t seq, int64_t d, int64_t width, const ref_c *x, const ref_c *w,
                     const ref_c *bias, bool silu, ref_c *y);
/* Mamba-2's recurrence (arXiv 2405.21060) for each of heads, of p channels with n numbers of state, heads / groups of
 * which share b and c: h = exp(dt a) h + dt x b^T, y = h c + skip x, h = 0 before the window; dt = softplus(dt + bias),
 * a = -exp(a_log). x and y [rows, heads, p], b and c [rows, groups, n], dt [rows, heads], bias, a_log and skip
 * [heads]. */
typedef struct {
    int64_t heads, p, groups, n;
    const ref_c *x, *b, *c, *dt, *bias, *a_log, *skip;
} ref_ssd;
void ref_ssd_run(int64_t rows, int64_t seq, const ref_ssd *s, ref_c *y);
/* The gated delta rule (arXiv 2412.06464) for each of heads, heads / key_heads of which share q and k, from a memory s
 * [n, m] that is 0 before the window: if unit q and k over sqrt(their square + 1e-6), q by n^-1/2, s = decay s,
 * s += k (beta (v - s^T k))^T, o = s^T q; without rule s += k v^T. q and k [rows, key_heads, n], v and o
 * [rows, heads, m], log_decay and beta [rows, heads]. */
typedef struct {
    int64_t heads, key_heads, n, m;
    bool rule, unit;
    const ref_c *q, *k, *v, *log_decay, *beta;
} ref_delta;
void ref_delta_run(int64_t rows, int64_t seq, const ref_delta *s, ref_c *o);
/* Attention of a kind, by its name in the configuration. A query sees itself and the window - 1 positions before it (0:
 * all). a, b: bias of sigmoid; zeta - gamma and gamma of clipped_softmax. sinks [heads], key, value [kv_heads, hd]:
 * learned tensors of the kinds that have them. softcap: 0, or scores z become softcap tanh(z / softcap). */
typedef struct {
    const char *kind;
    double scale, softcap;
    int64_t window;
    double a, b;
    const ref_c *sinks, *key, *value;
} ref_attend;
/* n scores to weights, in place; extra: the logit that joins them, NULL for none. Returns the weight of the extra. */
ref_c ref_attention_weights(const ref_attend *a, int64_t n, const ref_c *extra, ref_c *p);
/* Causal, in windows of seq rows, scores scaled by a->scale or, where that is 0, 1/sqrt(hd); query head h reads key
 * head h / (heads / kv_heads). q, y [rows, heads hd]; k, v [rows, kv_heads hd]. null: the extra's weight in each row,
 * mean over heads; or NULL. */
void ref_attention(int64_t rows, int64_t seq, int64_t heads, int64_t kv_heads, int64_t hd, const ref_attend *a,
                   const ref_c *q, const ref_c *k, const ref_c *v, ref_c *y, ref_c *null);
/* x = cap tanh(x / cap), or x itself where cap is 0 */
void ref_softcap(int64_t n, double cap, ref_c *x);
/* y[i, j] *= floor + (1 - floor) sigmoid(g[i, j / group]), y [rows, n] */
void ref_attention_gate(int64_t rows, int64_t n, int64_t group, double floor, const ref_c *g, ref_c *y);
/* Mixture of experts: y[i] = sum_e weight[i, e] expert_e(x[i]), weights from the router's products [rows, experts]:
 * scores softmax or sigmoid; the `top` largest of score + bias (NULL: 0) are chosen by their real parts, so that the
 * choice is held fixed in a derivative; weights score / (sum of the chosen + 1e-20), for top = 1 the score; an expert
 * takes its first `capacity` rows, the others weigh 0. aux: experts sum_e (share of the choices) (mean share of the
 * scores); z: mean of (log sum exp)^2. */
void ref_route(int64_t rows, int64_t experts, int64_t top, bool sigmoid, const ref_c *logits, const ref_c *bias,
               int64_t capacity, ref_c *weight, ref_c *aux, ref_c *z);
/* A row of simd/ffn.inc: y = act(gate) * other(up), or act(gate) if up is NULL. y may be either. */
void ref_ffn(int kind, int64_t n, const ref_c *gate, const ref_c *up, ref_c *y);
/* loss[i] = log sum_j exp(logits[i, j]) - logits[i, target[i]]; 0 where target[i] < 0. */
void ref_cross_entropy(int64_t rows, int64_t vocab, const ref_c *logits, const int32_t *target,
                       ref_c *loss);

#endif
