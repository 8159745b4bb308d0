/* Row and tile kernels: one thread, no allocation, no global state. Each tier fills the same table
 * (simd/dispatch.c); generic sources simd/<name>.c are written once over simd/vec.h and compiled once a
 * tier; simd/<isa>/<name>.c holds hand-written overrides where they measurably win.
 *
 * Common contract. Pointers need only the alignment of their type unless said. Counts may be 0.
 * `ld*` are row strides in elements, >= the row length. Nothing outside the stated ranges is read or
 * written (a masked-off lane is not an access). Inputs and outputs may alias only where said. NaN and
 * infinity propagate. Sums are folded in an order that depends on sizes only, so a tier is bit-exact
 * from run to run; tiers may differ by rounding. FMA contraction is explicit (-ffp-contract=off). */
#ifndef SL_SIMD_KERNELS_H
#define SL_SIMD_KERNELS_H

#include <stdint.h>

typedef uint16_t sl_bf16; /* upper half of an IEEE binary32, rounded to nearest even */

typedef struct sl_kernels {
    const char *tier; /* "scalar", "avx2", "avx512", "neon" */
    int vl;           /* floats in a vector */

    /* ---- GEMM (simd/gemm.c). C[m,n] (+)= sum_k A[m,k] B[k,n]; k runs in order, one accumulator per
     * element, which starts from C when adding: no blocking, cut of K or thread count changes bits. */
    int gemm_mr, gemm_nr; /* micro-tile; panels are this wide */
    /* Packs n "long" x k elements src[i*is + kk*ks] into panels of width p (= gemm_mr or gemm_nr):
     * dst[(i/p)*p*k + kk*p + i%p], short last panel filled with zeros. dst: ceil(n/p)*p*k floats,
     * 64-byte aligned. One of is, ks is 1. */
    void (*pack_f32)(int64_t n, int64_t k, const float *src, int64_t is, int64_t ks, int p,
                     float *dst);
    /* One micro-tile: a: k x gemm_mr panel, b: k x gemm_nr panel (64-byte aligned), c: m x n corner
     * (m <= gemm_mr, n <= gemm_nr) of a row-major matrix. add: accumulate onto c, else overwrite. */
    void (*gemm_f32)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int m, int n,
                     int add);

    /* ---- bf16 <-> fp32 (simd/bf16.c) */
    void (*to_bf16)(int64_t n, const float *x, sl_bf16 *y);   /* nearest even; NaN stays NaN */
    void (*from_bf16)(int64_t n, const sl_bf16 *x, float *y); /* exact */

    /* ---- norms over rows of d (simd/norm.c). eps is inside the root. */
    /* RMSNorm (arXiv 1910.07467): r = 1/sqrt(mean(x^2)+eps), y = w * x * r; saves r per row. y may be x. */
    void (*rmsnorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                        float eps, float *y, int64_t ldy, float *rstd);
    /* g = w*dy, u = x*r: dx (+)= r*(g - u*mean(g*u)); dw += sum_rows dy*u. add: accumulate onto dx.
     * dx may be dy. */
    void (*rmsnorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                        int64_t ldx, const float *w, const float *rstd, float *dx, int64_t lddx,
                        int add, float *dw);
    /* LayerNorm without bias (arXiv 1607.06450): biased variance; saves mean and r. y may be x. */
    void (*layernorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                          float eps, float *y, int64_t ldy, float *mean, float *rstd);
    void (*layernorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                          int64_t ldx, const float *w, const float *mean, const float *rstd,
                          float *dx, int64_t lddx, int add, float *dw);

    /* ---- elementwise (simd/act.c); outputs may be inputs. The first five are simd/vec_math.h, whose
     * bounds they meet, and give the same bits in every tier. */
    void (*exp)(int64_t n, const float *x, float *y);
    void (*log)(int64_t n, const float *x, float *y);
    void (*sigmoid)(int64_t n, const float *x, float *y);
    void (*tanh)(int64_t n, const float *x, float *y);
    void (*erf)(int64_t n, const float *x, float *y);
    void (*silu_fwd)(int64_t n, const float *x, float *y);                     /* x*sigmoid(x) */
    void (*silu_bwd)(int64_t n, const float *x, const float *dy, float *dx);   /* dx = dy*silu'(x) */
    void (*gelu_fwd)(int64_t n, const float *x, float *y);                     /* exact, erf form */
    void (*gelu_bwd)(int64_t n, const float *x, const float *dy, float *dx);
    void (*swiglu_fwd)(int64_t n, const float *gate, const float *up, float *y); /* silu(gate)*up */
    void (*swiglu_bwd)(int64_t n, const float *gate, const float *up, const float *dy, float *dgate,
                       float *dup);
    /* GatedNorm's gate (arXiv 2601.22966): q = sigmoid(b). fwd: out = q*y. bwd: dy = q*dout and
     * db = dout*y*q*(1-q). */
    void (*gate_fwd)(int64_t n, const float *b, const float *y, float *out);
    void (*gate_bwd)(int64_t n, const float *b, const float *y, const float *dout, float *dy,
                     float *db);
    void (*add)(int64_t n, const float *x, float *y);                          /* y += x */
    void (*scale)(int64_t n, float a, float *x);                               /* x *= a */

    /* ---- rotary embedding (simd/rope.c), half-split ("rotate_half"): pairs (j, j+hd/2) of each head,
     * cos/sin: hd/2 values of this row's position. sign -1 applies the transpose (backward). In place,
     * `heads` consecutive heads of hd floats. */
    void (*rope)(int64_t heads, int64_t hd, const float *cos, const float *sin, float sign, float *x);

    /* ---- attention rows (simd/softmax.c). Row i of the tile holds raw scores for n keys of which
     * the first min(n, valid0 + i) are visible (causal); at least one is. */
    /* P = softmax(scale*s) over the visible keys, 0 elsewhere, in place; lse[i] = log sum exp. */
    void (*softmax_fwd)(int64_t rows, int64_t n, float *s, int64_t lds, int64_t valid0, float scale,
                        float *lse);
    /* From raw scores again: p = exp(scale*s - lse[i]) (written over s), dp := p*(dp - delta[i])*scale
     * (= gradient of the raw scores, written over dp); both 0 where not visible. */
    void (*softmax_bwd)(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, int64_t valid0,
                        float scale, const float *lse, const float *delta);
    float (*dot)(int64_t n, const float *x, const float *y);

    /* ---- loss (simd/xent.c): cross-entropy of logits rows; loss[i] = lse - logit[target] in nats;
     * logits := (softmax - onehot)*scale when grad, else left alone. target < 0: loss 0, gradient 0. */
    void (*xent)(int64_t rows, int64_t v, float *logits, int64_t ld, const int32_t *target,
                 float scale, int grad, float *loss);

    /* ---- optimizer and reductions (simd/optim.c) */
    /* AdamW (arXiv 1711.05101): g' = gscale*g; m,v updated; w -= lr*((m/c1)/(sqrt(v/c2)+eps) + wd*w),
     * c1 = 1-b1^t, c2 = 1-b2^t. */
    void (*adamw)(int64_t n, float *w, const float *g, float *m, float *v, float gscale, float lr,
                  float b1, float b2, float eps, float wd, float c1, float c2);
    double (*sumsq)(int64_t n, const float *x); /* sum of squares, accumulated in double */

    /* ---- probe statistics (simd/stats.c) over rows of d */
    void (*abs_stats)(int64_t rows, int64_t d, const float *x, int64_t ldx,
                      double *sum_abs, /* += |x_j|, d values */
                      double *sum_sq,  /* += x_j^2, d values */
                      float *max_abs); /* = max(old, |x_j|), d values */
} sl_kernels;

enum sl_isa { SL_ISA_AUTO, SL_ISA_SCALAR, SL_ISA_NEON, SL_ISA_AVX2, SL_ISA_AVX512 };

/* Table of the best tier that this CPU and OS have, at most `cap` (SL_ISA_AUTO = no cap). A cap above
 * what is there gives what is there. Never fails: scalar is always built. */
const sl_kernels *sl_kernels_select(enum sl_isa cap);
/* Table of exactly this tier, NULL if not built or not supported here. For tests and benchmarks. */
const sl_kernels *sl_kernels_tier(enum sl_isa tier);
enum sl_isa sl_isa_detect(void); /* best tier supported (CPUID and XGETBV, or HWCAP) */

#endif
