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

/* ---- attention kinds (simd/attention.c), the rows of simd/attention.inc: a tile of raw scores s to weights p.
 * Row i of the tile is of one query (of the transposed tiles of bwd_bf16: of one key) and sees the columns from
 * max(0, lo + i) up to, not including, min(n, hi + i); what it does not see is 0 in every result and never read.
 * p = f(scale*s), with z = scale*s, of what a query sees:
 *   softmax   exp(z) / (sum exp(z) + exp(extra))     stat = log of that sum; ds = p (dp - delta)
 *   clipped   q = softmax(z), p = min(max(a q + b, 0), 1), with gradients only between the two; stat as above
 *   sigmoid   1 / (1 + exp(-z - a))                  stat = 0;          ds = p (1 - p) dp
 *   relu      max(z, 0) / columns that it sees       stat = 1/columns;  ds = dp stat where z > 0
 * delta is that of the query: sum_j p_j dp_j, which is dout . out. The clipped softmax has one of its own,
 * sum_j q_j g_j with g the gradient of q; it finds it itself in bwd, and adds it up in delta_bf16. A query of the
 * softmax sees at least one column or has an extra. extra: one logit a row, or NULL; the softmax alone has it. */
typedef struct {
    int64_t lo, hi;
} sl_band;
typedef struct {
    sl_band band;
    float scale, a, b;
} sl_attend;
/* In place; stat: one value a row. */
typedef void sl_attention_fwd(int64_t rows, int64_t n, float *s, int64_t lds, const sl_attend *a,
                              const float *extra, float *stat);
/* From raw scores and stat again: p over s, and ds*scale (the gradient of the raw scores) over dp. */
typedef void sl_attention_bwd(int64_t rows, int64_t n, float *s, float *dp, int64_t lds, const sl_attend *a,
                              const float *stat, const float *delta);
/* The same for bf16 products. Logarithms in stat are of base 2. Rows of p and ds are operands: zero up to
 * sl_bf16_kpad(n), ldp >= that. Before it is rounded to bf16, an exponential has a relative error of a few u and
 * 2^-18, and is held above 2^-125.5. fwd: the weights are inverse[i] * p, p = exp(z - max z) for the softmax;
 * bwd: a row is a key, a column a query, stat and delta go by columns; ds is the gradient of z, not of s. */
typedef void sl_attention_fwd_bf16(int64_t rows, int64_t n, const float *s, int64_t lds, const sl_attend *a,
                                   const float *extra, sl_bf16 *p, int64_t ldp, float *inverse, float *stat);
typedef void sl_attention_bwd_bf16(int64_t rows, int64_t n, const float *s, const float *dp, int64_t lds,
                                   const sl_attend *a, const float *stat, const float *delta, sl_bf16 *p,
                                   sl_bf16 *ds, int64_t ldp);
/* delta[column] += its sum over the rows */
typedef void sl_attention_delta_bf16(int64_t rows, int64_t n, const float *s, const float *dp, int64_t lds,
                                     const sl_attend *a, const float *stat, float *delta);
typedef struct {
    sl_attention_fwd *fwd;
    sl_attention_bwd *bwd;
    sl_attention_fwd_bf16 *fwd_bf16;
    sl_attention_bwd_bf16 *bwd_bf16;
    sl_attention_delta_bf16 *delta_bf16; /* NULL for the rows whose delta is dout . out */
} sl_attention_kernels;
#define SL_ATTENTION_ROWS(X) X(softmax) X(clipped) X(sigmoid) X(relu)
enum sl_attention_rows {
#define ROWS(name) SL_ROWS_##name,
    SL_ATTENTION_ROWS(ROWS)
#undef ROWS
    SL_ROWS_KINDS
};
enum sl_attention_kind {
#define ATTENTION(name, ...) SL_ATTENTION_##name,
#include "simd/attention.inc"
#undef ATTENTION
    SL_ATTENTION_KINDS
};

/* ---- feed-forward kinds (simd/ffn.c), the rows of simd/ffn.inc. fwd: y = act(gate)*up, or act(gate) where
 * the kind is not gated; bwd: dgate and dup from dy. up is not read, and dup not written, where the kind is
 * not gated. Rows are all fp32 or all bf16; outputs may be inputs. */
typedef void sl_ffn_fwd(int64_t n, const float *gate, const float *up, float *y);
typedef void sl_ffn_bwd(int64_t n, const float *gate, const float *up, const float *dy, float *dgate,
                        float *dup);
typedef void sl_ffn_fwd_bf16(int64_t n, const sl_bf16 *gate, const sl_bf16 *up, sl_bf16 *y);
typedef void sl_ffn_bwd_bf16(int64_t n, const sl_bf16 *gate, const sl_bf16 *up, const sl_bf16 *dy,
                             sl_bf16 *dgate, sl_bf16 *dup);
typedef struct {
    sl_ffn_fwd *fwd;
    sl_ffn_bwd *bwd;
    sl_ffn_fwd_bf16 *fwd_bf16;
    sl_ffn_bwd_bf16 *bwd_bf16;
} sl_ffn_kernels;
enum sl_ffn {
#define FFN(name, ...) SL_FFN_##name,
#include "simd/ffn.inc"
#undef FFN
    SL_FFN_KINDS
};

/* ---- number formats of quantised elements, the rows of simd/quant.inc */
enum sl_format {
#define FORMAT(name, ...) SL_FORMAT_##name,
#include "simd/quant.inc"
#undef FORMAT
    SL_FORMATS
};
/* The numbers of a format that a quantiser uses, lo to hi (both among them), and how they are coded in a byte. */
typedef struct {
    int mantissa, least_exponent; /* of the format */
    float lo, hi;                 /* symmetric but for integers with a zero point: -zero, 2^bits - 1 - zero */
    int sign;                     /* of floats: the sign's bit in a code (0x80, 0x08) beside the magnitude; */
    int zero;                     /* integers: sign is 0, a code is number + zero, two's complement */
} sl_grid;

typedef struct sl_kernels {
    const char *tier; /* "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon", "neondot", "neonbf16" */
    int vl;           /* floats in a vector */
    int bf16_unit;    /* gemm_bf16 runs on a unit for it (AMX, VDPBF16PS, BFDOT), faster than gemm_f32 */
    int int8_unit;    /* gemm_int8 does (AMX, VPDPBUSD, SDOT) */

    /* ---- GEMM (simd/gemm.c). C[m,n] (+)= sum_k A[m,k] B[k,n]; k runs in order, one accumulator per
     * element, which starts from C when adding: no blocking, cut of K or thread count matters. */
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
    /* Rounding to bf16, here and wherever a kernel stores one: to nearest even, NaN stays NaN, and tiers
     * with VCVTNEPS2BF16 (avx512bf16, amx) read subnormals as 0 of their sign. */
    void (*to_bf16)(int64_t n, const float *x, sl_bf16 *y);
    void (*from_bf16)(int64_t n, const sl_bf16 *x, float *y); /* exact */

    /* ---- bf16 GEMM (simd/gemm_bf16.c, simd/pack_bf16.c): bf16 operands, fp32 accumulators.
     *
     * B travels in panels of 32 columns, k-pairs interleaved: element B[kk][j] of a panel is
     * panel[(kk/2)*64 + j*2 + kk%2]. k is padded to kp = sl_bf16_kpad(k), a multiple of 32, and columns to
     * 32, both with zeros; a panel is kp*32 elements, 64-byte aligned. The same packing feeds AMX
     * tiles (16 pairs x 16 columns, 128-byte row stride), VDPBF16PS, BFDOT and plain C. Columns
     * j..j+32 of a wider B are panel j/32; rows kk..  (kk a multiple of 32) of a panel start at
     * panel + kk*32 and are a panel of their own.
     *
     * Rounding. A product of two bf16 is exact in fp32, so only sums round: |error| <= c*u*S with
     * S = sum_k |a||b| and c = k + 2, and u = 2^-24 (scalar, avx2, avx512, VDPBF16PS and TDPBF16PS:
     * nearest even) or 2^-23 (BFDOT: to odd). VDPBF16PS, TDPBF16PS and BFDOT read subnormal inputs as 0
     * and flush subnormal sums to 0, whatever MXCSR or FPCR say: add |ab| for each subnormal factor
     * and 2^-126 for each sum. The order of the sums differs between tiers, but within one it depends
     * on kk alone: cutting m, n, or k at multiples of 32 (adding onto c) never changes a bit. */
    /* C[m,n] (+)= A[m,k] * panel, n <= 32, k a multiple of 32. A: rows of k consecutive elements, row
     * stride lda; its padding up to k must be finite (zero, to be plain). add: onto c, else overwrite. */
    void (*gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                      const sl_bf16 *panel, float *c, int64_t ldc, int add);
    /* Packs one panel, n <= 32 columns and k rows (any), zeros in the padding; fp32 is rounded as by
     * to_bf16. pack_bt: from B transposed, B[kk][j] = src[j*ld + kk] (weights [N,K]
     * going forward, keys). pack_b: B[kk][j] = src[kk*ld + j] (weights [N,K] for the input gradient,
     * k = N; activations for the weight gradient, k = rows; values). */
    void (*pack_bt_f32)(int64_t n, int64_t k, const float *src, int64_t ld, sl_bf16 *panel);
    void (*pack_b_f32)(int64_t n, int64_t k, const float *src, int64_t ld, sl_bf16 *panel);
    void (*pack_bt_bf16)(int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, sl_bf16 *panel);
    void (*pack_b_bf16)(int64_t n, int64_t k, const sl_bf16 *src, int64_t ld, sl_bf16 *panel);
    /* dst[j*ldd + i] = src[i*lds + j] for i < rows, j < cols; 0 for rows <= i < sl_bf16_kpad(rows): makes
     * the A operand whose k runs over the rows of src. ldd >= sl_bf16_kpad(rows). */
    void (*transpose_bf16)(int64_t rows, int64_t cols, const sl_bf16 *src, int64_t lds, sl_bf16 *dst,
                           int64_t ldd);
    /* (simd/transpose.c) dst[j*ldd + i] (+)= src[i*lds + j], i < rows, j < cols. */
    void (*transpose_f32)(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                          int64_t ldd, int add);
    /* Yardstick: runs `rounds` rounds of the tier's bf16 multiply-add on registers alone; FLOP done. */
    int64_t (*peak_bf16)(int64_t rounds);

    /* ---- norms over rows of d (simd/norm.c). eps is inside the root. _bf16: y and dy are bf16. */
    /* RMSNorm (arXiv 1910.07467): r = 1/sqrt(mean(x^2)+eps), y = w * x * r; saves r per row. y may be x. */
    void (*rmsnorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                        float eps, float *y, int64_t ldy, float *rstd);
    void (*rmsnorm_fwd_bf16)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                        float eps, sl_bf16 *y, int64_t ldy, float *rstd);
    /* g = w*dy, u = x*r: dx (+)= r*(g - u*mean(g*u)); dw += sum_rows dy*u. add: accumulate onto dx.
     * dx may be dy. */
    void (*rmsnorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                        int64_t ldx, const float *w, const float *rstd, float *dx, int64_t lddx,
                        int add, float *dw);
    void (*rmsnorm_bwd_bf16)(int64_t rows, int64_t d, const sl_bf16 *dy, int64_t lddy, const float *x,
                        int64_t ldx, const float *w, const float *rstd, float *dx, int64_t lddx,
                        int add, float *dw);
    /* LayerNorm without bias (arXiv 1607.06450): biased variance; saves mean and r. y may be x. */
    void (*layernorm_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                          float eps, float *y, int64_t ldy, float *mean, float *rstd);
    void (*layernorm_fwd_bf16)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                          float eps, sl_bf16 *y, int64_t ldy, float *mean, float *rstd);
    void (*layernorm_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x,
                          int64_t ldx, const float *w, const float *mean, const float *rstd,
                          float *dx, int64_t lddx, int add, float *dw);
    void (*layernorm_bwd_bf16)(int64_t rows, int64_t d, const sl_bf16 *dy, int64_t lddy, const float *x,
                          int64_t ldx, const float *w, const float *mean, const float *rstd,
                          float *dx, int64_t lddx, int add, float *dw);
    /* A factor on each channel (simd/norm_scale.c): y = w * x, y may be x; dx (+)= w*dy, dx may be dy unless adding;
     * dw += sum_rows dy*x. */
    void (*channel_scale_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                              float *y, int64_t ldy);
    void (*channel_scale_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy,
                              const float *x, int64_t ldx, const float *w, float *dx, int64_t lddx,
                              int add, float *dw);
    /* DyT (arXiv 2503.10622) and Derf (arXiv 2512.10938), simd/norm_dyt.c: z = alpha*x (+ shift), y = w*f(z) + b with f
     * tanh or erf; y may be x. b, db: NULL without a bias. Backward: dz = w*dy*f'(z), dx (+)= alpha*dz (dx may be dy
     * unless adding), dw += sum_rows dy*f(z), db += sum_rows dy, *dalpha += sum dz*x, *dshift += sum dz. */
    void (*dyt_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, float alpha, const float *w,
                    const float *b, float *y, int64_t ldy);
    void (*dyt_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                    float alpha, const float *w, float *dx, int64_t lddx, int add, float *dw, float *db,
                    float *dalpha);
    void (*derf_fwd)(int64_t rows, int64_t d, const float *x, int64_t ldx, float alpha, float shift,
                     const float *w, const float *b, float *y, int64_t ldy);
    void (*derf_bwd)(int64_t rows, int64_t d, const float *dy, int64_t lddy, const float *x, int64_t ldx,
                     float alpha, float shift, const float *w, float *dx, int64_t lddx, int add, float *dw,
                     float *db, float *dalpha, float *dshift);

    /* ---- elementwise (simd/act.c); outputs may be inputs of their type. The first five are simd/vec_math.h, whose
     * bounds they meet, and give the same bits in every tier; exp and erf, inlined wherever they are needed, are here to
     * be tested and timed by themselves. */
    void (*exp)(int64_t n, const float *x, float *y);
    void (*log)(int64_t n, const float *x, float *y);
    void (*sigmoid)(int64_t n, const float *x, float *y);
    void (*tanh)(int64_t n, const float *x, float *y);
    void (*erf)(int64_t n, const float *x, float *y);
    void (*silu_fwd)(int64_t n, const float *x, float *y);                     /* x*sigmoid(x) */
    void (*silu_bwd)(int64_t n, const float *x, const float *dy, float *dx);   /* dx = dy*silu'(x) */
    void (*sigmoid_bwd)(int64_t n, const float *x, const float *dy, float *dx); /* dy*q*(1-q) */
    void (*tanh_bwd)(int64_t n, const float *x, const float *dy, float *dx);    /* dy*(1-tanh^2) */
    void (*relu_fwd)(int64_t n, const float *x, float *y);                     /* x > 0 ? x : 0; NaN stays */
    void (*relu_bwd)(int64_t n, const float *x, const float *dy, float *dx);   /* x > 0 ? dy : 0 */
    sl_ffn_kernels ffn[SL_FFN_KINDS];
    /* GatedNorm's gate (arXiv 2601.22966): q = factor*sigmoid(b). fwd: out = q*y. bwd: dy = q*dout and
     * db = dout*y*q*(1-sigmoid(b)). */
    void (*gate_fwd)(int64_t n, float factor, const float *b, const float *y, float *out);
    void (*gate_fwd_bf16)(int64_t n, float factor, const float *b, const sl_bf16 *y, sl_bf16 *out);
    void (*gate_bwd)(int64_t n, float factor, const float *b, const float *y, const float *dout,
                     float *dy, float *db);
    void (*gate_bwd_bf16)(int64_t n, float factor, const float *b, const sl_bf16 *y,
                          const sl_bf16 *dout, float *dy, sl_bf16 *db);
    /* Residual clipping, in place: x = min(max(x, -t), t), NaN stays; then dy = 0 where |y| >= t. t > 0. */
    void (*clip_fwd)(int64_t n, float t, float *x);
    void (*clip_bwd)(int64_t n, float t, const float *y, float *dy);
    void (*gate_mul)(int64_t n, float offset, const float *q, const float *y, float *out); /* (q+offset)*y */
    void (*add)(int64_t n, const float *x, float *y);                          /* y += x */
    void (*sum)(int64_t n, const float *a, const float *b, float *y);          /* y = a + b */
    void (*scale)(int64_t n, float a, float *x);                               /* x *= a */

    /* ---- rotary embedding (simd/rope.c), half-split ("rotate_half"): pairs (j, j+hd/2) of each head,
     * cos/sin: hd/2 values of this row's position. sign -1 applies the transpose (backward). In place,
     * `heads` consecutive heads of hd floats. */
    void (*rope)(int64_t heads, int64_t hd, const float *cos, const float *sin, float sign, float *x);
    void (*rope_bf16)(int64_t heads, int64_t hd, const float *cos, const float *sin, float sign,
                      sl_bf16 *x);

    /* ---- attention (simd/attention.c) */
    sl_attention_kernels attention[SL_ROWS_KINDS];
    float (*dot)(int64_t n, const float *x, const float *y);
    /* y = factor[i*step] * x for row i, rounded; step is 1, or 0: one factor for all. */
    void (*scale_rows_bf16)(int64_t rows, int64_t n, const float *x, int64_t ldx, const float *factor, int64_t step,
                            sl_bf16 *y, int64_t ldy);
    /* out[i] = x_i . y_i */
    void (*dot_rows_bf16)(int64_t rows, int64_t n, const sl_bf16 *x, int64_t ldx, const sl_bf16 *y, int64_t ldy,
                          float *out);

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

    /* ---- quantisation of rows (simd/quant.c): the same bits in every tier.
     * q(x) = x/scale in fp32, saturated to lo..hi, rounded to the nearest number of the grid, ties to even. Column j
     * of row i has scale[i*lds + j/group] (lds 0: all rows the same; group >= d: one a row), which is >= 0; where it is
     * 0, so is q. An integer 0 has no sign. Returns 0 if an x is not finite, else 1: q of a NaN is NaN, and its code
     * any. */
    int (*quant_round)(const sl_grid *g, int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group,
                       const float *scale, int64_t lds, float *y, int64_t ldy); /* y = q(x) * scale; y may be x */
    int (*quant_codes)(const sl_grid *g, int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group,
                       const float *scale, int64_t lds, uint8_t *code, int64_t ldc);
    /* y = value[code] * scale: with the 256 numbers that codes mean, what quant_round gave */
    void (*quant_values)(const float *value, int64_t rows, int64_t d, const uint8_t *code, int64_t ldc, int64_t group,
                         const float *scale, int64_t lds, float *y, int64_t ldy);
    /* Codes of 4 bits, two a byte, the first in the lower half; an odd last one beside 0. */
    void (*quant_pack4)(int64_t n, const uint8_t *code, uint8_t *packed);
    void (*quant_unpack4)(int64_t n, const uint8_t *packed, uint8_t *code); /* upper halves 0 */
    /* amax[i*lda + g] = the largest |x| of group g of row i, NaN if one is not finite. */
    void (*quant_amax)(int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group, float *amax, int64_t lda);
    /* The least and largest of each row, d >= 1; both NaN if one is not finite. */
    void (*quant_range)(int64_t rows, int64_t d, const float *x, int64_t ldx, float *lo, float *hi);

    /* ---- int8 GEMM (simd/gemm_int8.c): u8 by s8, sums in s32, exact. k is at most SL_INT8_MAX_K.
     *
     * B travels in panels of 32 columns, k in fours: element B[kk][j] of a panel is panel[(kk/4)*128 + j*4 + kk%4].
     * k is padded to sl_int8_kpad(k), a multiple of 64, and columns to 32, both with zeros; a panel is kpad*32 bytes,
     * 64-byte aligned. It feeds AMX tiles (16 fours x 16 columns), VPDPBUSD, SDOT and plain C alike. */
    /* C[m,n] (+)= A[m,k] * panel, n <= 32, k a multiple of 64. A: rows of k consecutive bytes, any in the padding. */
    void (*gemm_int8)(int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, const int8_t *panel, int32_t *c,
                      int64_t ldc, int add);
    /* Packs one panel from n <= 32 rows of k codes (weights [N,K]): B[kk][j] = src[j*ld + kk]; sum[j]: of row j < n. */
    void (*pack_int8)(int64_t n, int64_t k, const int8_t *src, int64_t ld, int8_t *panel, int32_t *sum);
    /* y[i][j] = (float)(c[i][j] - zero*sum[j]) * scale_a[i*step_a] * scale_b[j*step_b], from left to right, plus
     * plus[i*ldy + j] unless that is NULL; it may be y. Steps are 1 or 0. That is the product of the numbers that the
     * codes stand for: the integers are exact up to their one rounding to float. */
    void (*scale_int32)(int64_t m, int64_t n, const int32_t *c, int64_t ldc, int32_t zero, const int32_t *sum,
                        const float *scale_a, int64_t step_a, const float *scale_b, int64_t step_b,
                        const float *plus, float *y, int64_t ldy);
    /* Yardstick: runs `rounds` rounds of the tier's int8 multiply-add on registers alone; operations (2 a product). */
    int64_t (*peak_int8)(int64_t rounds);
} sl_kernels;

enum { SL_BF16_NR = 32, SL_BF16_KR = 32 }; /* columns of a bf16 panel, granule of its k */
static inline int64_t sl_bf16_kpad(int64_t k) { return (k + SL_BF16_KR - 1) / SL_BF16_KR * SL_BF16_KR; }


enum { SL_INT8_NR = 32, SL_INT8_KR = 64, SL_INT8_MAX_K = 65536 }; /* the same of an int8 panel; 255*127*k < 2^31 */
static inline int64_t sl_int8_kpad(int64_t k) { return (k + SL_INT8_KR - 1) / SL_INT8_KR * SL_INT8_KR; }

/* In rising order on each architecture, so that a cap is a comparison. */
enum sl_isa {
    SL_ISA_AUTO, SL_ISA_SCALAR, SL_ISA_NEON, SL_ISA_AVX2, SL_ISA_AVX512,
    SL_ISA_AVX512VNNI, /* avx512 + AVX512_VNNI (Cascade Lake, Ice Lake) */
    SL_ISA_AVX512BF16, /* avx512vnni + AVX512_BF16 (Cooper Lake, Sapphire Rapids, Zen 4) */
    SL_ISA_AMX,        /* avx512bf16 + AMX-TILE, AMX-BF16, AMX-INT8, and the kernel's leave to use them */
    SL_ISA_NEONDOT,    /* neon + FEAT_DotProd (SDOT) */
    SL_ISA_NEONBF16,   /* neondot + FEAT_BF16 (BFDOT) */
};

/* Table of the best tier that this CPU and OS have, at most `cap` (SL_ISA_AUTO = no cap). A cap above
 * what is there gives what is there. Never fails: scalar is always built. */
const sl_kernels *sl_kernels_select(enum sl_isa cap);
/* Table of exactly this tier, NULL if not built or not supported here. For tests and benchmarks. */
const sl_kernels *sl_kernels_tier(enum sl_isa tier);
enum sl_isa sl_isa_detect(void); /* best tier supported (CPUID and XGETBV, or HWCAP) */

#endif
