/* Number formats and scales: what a scheme is made of. A block of a matrix shares one scale; with amax the largest
 * |x| in it, an element becomes the number of the format nearest to x/scale, and stands for that number times the
 * scale (simd/kernels.h, quant_round). Everything here is plain IEEE arithmetic in the order that is written, so
 * that a reference gives the same bits.
 *
 * NaN and infinities have no place in any of it: functions over rows refuse them with an error. */
#ifndef SL_FORMATS_FORMAT_H
#define SL_FORMATS_FORMAT_H

#include "simd/kernels.h"

#include <stdbool.h>

typedef struct {
    const char *name, *help;
    int bits, mantissa, least_exponent;
    float max;
    bool integer;
} sl_format;
extern const sl_format sl_formats[SL_FORMATS];

/* What a scale is stored as, and so rounded to. */
enum sl_scale {
    SL_SCALE_F32,  /* amax / max */
    SL_SCALE_E8M0, /* MX: 2^(floor(log2 amax) - e), 2^e the format's last binade (2 for E2M1), within 2^+-127 */
    SL_SCALE_E4M3, /* NVFP4: E4M3(amax / max / outer) * outer, with an fp32 scale `outer` over many blocks */
    SL_SCALES
};
extern const char *const sl_scale_names[SL_SCALES]; /* "f32", "e8m0", "e4m3" */

/* ---- one number */
/* zero 0; a caller that wants bytes for gemm_int8 sets it to 128. */
sl_grid sl_grid_symmetric(enum sl_format f);
/* Integers with a zero point, 0 <= zero < 2^bits: codes 0..2^bits-1. */
sl_grid sl_grid_affine(enum sl_format f, int zero);
/* The nearest number of the format, ties to even, saturated; x finite. */
float sl_format_round(enum sl_format f, float x);
uint8_t sl_format_code(enum sl_format f, float x);      /* of that number; x finite */
float sl_format_value(enum sl_format f, uint8_t code);  /* exact; E4M3's two NaN codes give NaN */
/* What all codes of a grid mean, for quant_values: integers number + zero. */
void sl_grid_values(const sl_grid *g, float value[256]);

/* ---- scales */
/* The scale of a block (0 for one of zeros, and where amax/max/outer rounds to 0: its elements then are 0) and, if
 * code is not NULL, its byte (E8M0: exponent + 127, E4M3; F32 has none). outer: of E4M3 alone. amax is finite. */
float sl_scale_of(enum sl_scale kind, enum sl_format f, float amax, float outer, uint8_t *code);
float sl_scale_value(enum sl_scale kind, uint8_t code, float outer); /* from the byte: the same bits */
float sl_scale_outer(enum sl_format f, float amax); /* amax / (max * 448), amax over all its blocks */
/* Static asymmetric integers (arXiv 2306.12929): the range lo..hi, widened to hold 0, in 2^bits - 1 steps; the zero
 * point is the nearest code to -lo/scale. Of a range that is 0 alone: scale 0. */
float sl_scale_affine(enum sl_format f, float lo, float hi, int *zero);

/* ---- a matrix [rows, d]. Rows that begin where a block does (of outer scales, where there are such) may be given
 * alone: what is computed of them is what it is in the whole matrix, so that parts may be computed at once. */
typedef struct {
    enum sl_format format;
    enum sl_scale scale;
    int64_t block_rows, block_cols; /* share a scale; 0 = all. Tensor: 0, 0; row (token, output channel): 1, 0;
                                     * groups of 32: 1, 32; FP8 weights: 128, 128 */
    int64_t outer_rows;             /* E4M3: the rows that share an outer scale, 0 = all; a multiple of block_rows */
} sl_quantiser;

/* How the scales of a matrix lie: `down` rows of `across`; outer scales one under the other. */
typedef struct {
    int64_t down, across, outers;
} sl_scale_layout;
sl_scale_layout sl_quant_blocks(const sl_quantiser *q, int64_t rows, int64_t d);

/* The error of what is not finite, in `what`; returns -1. */
int sl_quant_refuse(const char *what);
/* amax[down*across] of the blocks. Fails where an x is not finite; `what` names the matrix in the message. */
int sl_quant_amax(const sl_kernels *kn, const sl_quantiser *q, const char *what, int64_t rows, int64_t d,
                  const float *x, int64_t ldx, float *amax);
/* Of scales as E4M3: outer[outers], from the amax of the blocks under each. */
void sl_quant_outer(const sl_quantiser *q, int64_t rows, int64_t d, const float *amax, float *outer);
/* scale[down*across] from amax (a smaller one clips) and, of E4M3, from outer (NULL otherwise). code: a byte for
 * each, or NULL. */
void sl_quant_scales(const sl_quantiser *q, int64_t rows, int64_t d, const float *amax, const float *outer,
                     float *scale, uint8_t *code);
/* y = the numbers that the elements of x stand for; y may be x. Fails where an x is not finite. grid: the format's
 * symmetric one, or one with a zero point. */
int sl_quant_round(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, float *y, int64_t ldy);
/* Their codes, a byte each whatever the bits (quant_pack4 packs those of 4). */
int sl_quant_codes(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, uint8_t *code, int64_t ldc);
/* What sl_quant_amax, sl_quant_scales and sl_quant_codes give, with x read from memory once: for blocks of one row
 * whose scales have no outer ones. */
int sl_quant_codes_by_row(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what,
                          int64_t rows, int64_t d, const float *x, int64_t ldx, float *scale, uint8_t *code,
                          int64_t ldc);
/* y from codes and scales: the bits that sl_quant_round gave. */
void sl_quant_values(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, int64_t rows, int64_t d,
                     const uint8_t *code, int64_t ldc, const float *scale, float *y, int64_t ldy);

#endif
