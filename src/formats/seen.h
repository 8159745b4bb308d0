/* What calibration learns of the activations at one scope, and errors of rounding them. */
#ifndef SL_FORMATS_SEEN_H
#define SL_FORMATS_SEEN_H

#include <stdbool.h>
#include <stdint.h>

enum { SL_SEEN_BINS = 1 << 16, SL_CLIP_TRIALS = 50 };

/* Of the rows of the passes so far. */
typedef struct sl_seen {
    int64_t dim, rows, capacity; /* rows that there is room for */
    float lo, hi;                /* least and largest value, and 0 */
    float *channel;              /* [dim] largest |x| */
    float *row_lo, *row_hi;      /* [rows], of each */
    uint64_t *bins;              /* values by the upper half of their bits: sign, exponent, 7 bits of the fraction */
    double *trial;               /* NULL, or squared error with the range times 1 - i/SL_CLIP_TRIALS, [SL_CLIP_TRIALS]
                                  * */
} sl_seen;

/* NULL with a message. */
sl_seen *sl_seen_new(int64_t dim, int64_t capacity);
void sl_seen_free(sl_seen *s);
/* Adds x [rows, dim], finite. */
void sl_seen_add(sl_seen *s, int64_t rows, const float *x, int64_t ldx);
/* The value below which a share p of all values, or (magnitudes) of all |x|, lies: linear within a bin, of which
 * there are 128 between a number and its double. */
double sl_seen_quantile(const sl_seen *s, double p, bool magnitudes);

/* Of y, which stands for x. */
typedef struct {
    double error, xx, yy, xy; /* sums of (y-x)^2, x^2, y^2, xy */
    double max;               /* |y-x| */
} sl_quant_error;
/* Adds rows [rows, d], element by element. */
void sl_quant_error_add(sl_quant_error *e, int64_t rows, int64_t d, const float *x, int64_t ldx, const float *y,
                        int64_t ldy);
/* Adds n errors of parts. */
void sl_quant_error_fold(sl_quant_error *e, int n, const sl_quant_error *part);
double sl_quant_error_relative(const sl_quant_error *e); /* |y-x| / |x|; 0 of nothing */
double sl_quant_error_cosine(const sl_quant_error *e);   /* x.y / |x||y|; 1 of nothing */

#endif
