/* Kernels of a quantised model (ops/quant/): rounding, observing, rotating, integer products. They give the bits of the
 * CPU: scales and numbers by the same IEEE operations, rotations in the same order in double, exact sums of integers.
 * Only sums of errors are taken in another order, in double: n of them are within n 2^-53 of the CPU's, relatively.
 * Device memory, enqueued on s. */
#ifndef SL_CUDA_QUANT_H
#define SL_CUDA_QUANT_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* sl_quant_range, sl_quant_error and sl_quant_state, to the byte. */
typedef struct {
    float lo, hi, scale, outer;
    int zero;
} slc_quant_range;
typedef struct {
    double error, xx, yy, xy, max;
} slc_quant_error;
typedef struct {
    slc_quant_range range;
    void *seen; /* the host's */
    slc_quant_error error;
    int32_t refused;
} slc_quant_state;

/* Numbers of a format (simd/kernels.h, sl_grid): floats of so many bits behind the point, or integers. */
typedef struct {
    bool integer;
    int codes, last; /* integers: how many; floats: exponent of the largest binade */
    float max;
    float least, up; /* floats: the least normal number, 2^(23 - mantissa) */
} slc_format;

enum { SLC_SCALE_F32, SLC_SCALE_E8M0, SLC_SCALE_E4M3 }; /* sl_scale */

/* How a matrix [rows, dim] is rounded. */
typedef struct {
    int64_t rows, dim;
    slc_format format, e4m3; /* the latter of scales */
    int scale;               /* SLC_SCALE_* */
    int64_t group;           /* columns that share a scale; dim: all */
    int64_t window;          /* rows that share one, of SLC_SCALE_E4M3 an outer one; rows is a multiple. 0: that of
                              * `range`, which then is one scale for all */
    bool affine;             /* integers have the range's zero point */
    const slc_quant_range *range;
    int32_t *refused;        /* set where a value is not finite */
} slc_quant;

/* Where rows of `dim` lie: row i begins at p + i / heads * ld + i % heads * dim. */
typedef struct {
    float *p;
    int64_t ld, heads;
} slc_heads;

/* Of row i: a scale for each group from p + i * step on. */
typedef struct {
    const float *p;
    int64_t step;
} slc_scales;

/* Floats of scratch that scales take; 0: they are the range's. */
int64_t slc_quant_scale_floats(const slc_quant *q);
slc_scales slc_quant_scales(slc_stream s, const slc_quant *q, slc_heads x, float *scratch);

/* part: NULL, or slc_quant_parts() sums of errors. y = the rounded x, and may be x; p NULL: the errors alone. */
int64_t slc_quant_parts(const slc_quant *q);
void slc_quant_round(slc_stream s, const slc_quant *q, slc_heads x, slc_scales scales, slc_heads y,
                     slc_quant_error *part);
/* code [rows, ldc] = codes of integers, less 128 where they have a zero point, and zeros from dim on. */
void slc_quant_codes(slc_stream s, const slc_quant *q, slc_heads x, slc_scales scales, int8_t *code, int64_t ldc,
                     slc_quant_error *part);
/* *to = or += the parts' sum. */
void slc_quant_fold(slc_stream s, const slc_quant *q, const slc_quant_error *part, bool add, slc_quant_error *to);

/* What calibration has seen (formats/seen.h), of the first *count rows. channel and bins are added to; row_lo and
 * row_hi [rows] are set. */
enum { SLC_SEEN_BINS = 1 << 16 };
typedef struct {
    const int64_t *count; /* < 0: nothing is wanted, and nothing looked at */
    float *channel, *row_lo, *row_hi;
    uint64_t *bins;
    int32_t *refused;
} slc_seen;
void slc_observe(slc_stream s, int64_t rows, int64_t dim, const float *x, const slc_seen *seen);

/* y = R x or (back) R^-1 x of rows of n (ops/quant/rotate.h), in double and rounded once; y may be x. */
typedef struct {
    int64_t n, power, odd; /* n = power * odd */
    double scale;          /* 1 / sqrt(power) */
    const double *hartley; /* [odd, odd] */
    const int8_t *sign;    /* [n] */
} slc_rotation;
size_t slc_rotate_bytes(int64_t n, int64_t rows); /* of scratch */
void slc_rotate(slc_stream s, const slc_rotation *r, int64_t rows, slc_heads x, slc_heads y, bool back, void *scratch);

/* y [m, n] = (float)(sum of (a - zero) w) * scale_a * scale_w + plus, from left to right (ops/quant/linear_int.h), from
 * codes as slc_quant_codes() leaves them. */
typedef struct {
    int64_t m, n, depth;   /* depth: whole 64s, all there; rows are aligned to 16 bytes */
    const int8_t *a, *w;   /* [m, lda], [n, depth] */
    int64_t lda;
    slc_scales scale_a;
    const slc_quant_range *range; /* NULL: no zero point */
    const int32_t *sum;    /* [n] of w's rows */
    const float *scale_w;  /* [n] */
    const float *plus;     /* as y, may be y; or NULL */
    float *y;
} slc_int_product;
void slc_multiply_int(slc_stream s, const slc_int_product *p);

#ifdef __cplusplus
}
#endif
#endif
