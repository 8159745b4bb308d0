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
/* Raw scores s that are capped are out tanh(in s) before the functions below see them. in 0: they are not. */
typedef struct {
    float in, out;
} sl_softcap;
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

/* ---- what becomes of the sums T[m,n] of gemm_bf16_store */
typedef struct {
    const void *p;
    int64_t rows, bytes, stride; /* of a row; from row to row, in bytes */
} sl_ahead;
typedef struct {
    sl_bf16 *y; /* T, or with `add` y + T, rounded once; columns from n to sl_bf16_kpad(n) are set to zero. Or NULL: */
    int64_t ldy; /* >= sl_bf16_kpad(n) */
    float *c;    /* T; or with `add` T summed from c on, as by gemm_bf16; or T + residual */
    int64_t ldc, ldp; /* from row to row; from 32 columns to the next 32: 32 where rows are whole, or panel by panel */
    const float *residual; /* laid out as c; may be c; NULL where y is not, and with `add` */
    int add;
    const float *bias; /* [n], added to each row of T first; NULL for none, and with `add` */
    const sl_ahead *ahead; /* two areas that are wanted next: a hint to bring them into L2 meanwhile; or NULL */
} sl_bf16_store;

typedef struct sl_kernels {
    const char *tier; /* "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon", "neondot", "neonbf16" */
    int vl;           /* floats in a vector */
    int bf16_unit;    /* gemm_bf16 runs on a unit for it (AMX, VDPBF16PS, BFDOT), faster than gemm_f32 */
    int int8_unit;    /* gemm_int8 does (AMX, VPDPBUSD, SDOT) */
    int gemm_mr, gemm_nr; /* micro-tile of gemm_f32; its panels are this wide */
    sl_ffn_kernels ffn[SL_FFN_KINDS];
    sl_attention_kernels attention[SL_ROWS_KINDS];
#define SOURCE(name)
#define KERNEL(result, name, args) result(*name) args;
#define UNIT_KERNEL KERNEL
#include "simd/kernels.inc"
} sl_kernels;

enum { SL_DELTA_GROUP = 8 }; /* rows of the delta rule that share a pass over its state */
/* floats of work of delta_fwd and delta_bwd */
static inline int64_t sl_delta_work(int64_t m, int64_t n) { return m * n + SL_DELTA_GROUP * (2 * m + 5 * n); }

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
