#include "formats/seen.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

sl_seen *sl_seen_new(int64_t dim, int64_t capacity) {
    sl_seen *s = calloc(1, sizeof *s);
    if (s) {
        *s = (sl_seen){.dim = dim, .capacity = capacity};
        s->channel = calloc((size_t)dim, sizeof *s->channel);
        s->row_lo = malloc((size_t)capacity * sizeof *s->row_lo);
        s->row_hi = malloc((size_t)capacity * sizeof *s->row_hi);
        s->bins = calloc(SL_SEEN_BINS, sizeof *s->bins);
    }
    if (s && s->channel && s->row_lo && s->row_hi && s->bins)
        return s;
    sl_seen_free(s);
    sl_fail("out of memory for calibration");
    return NULL;
}

void sl_seen_free(sl_seen *s) {
    if (!s)
        return;
    free(s->channel), free(s->row_lo), free(s->row_hi), free(s->bins), free(s->trial);
    free(s);
}

static uint32_t bin_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 16;
}

static void add_row(sl_seen *s, const float *x) {
    float lo = x[0], hi = x[0];
    for (int64_t j = 0; j < s->dim; j++) {
        float a = fabsf(x[j]);
        lo = x[j] < lo ? x[j] : lo;
        hi = x[j] > hi ? x[j] : hi;
        s->channel[j] = a > s->channel[j] ? a : s->channel[j];
        s->bins[bin_of(x[j])]++;
    }
    s->row_lo[s->rows] = lo;
    s->row_hi[s->rows] = hi;
    s->lo = lo < s->lo ? lo : s->lo;
    s->hi = hi > s->hi ? hi : s->hi;
    s->rows++;
}

void sl_seen_add(sl_seen *s, int64_t rows, const float *x, int64_t ldx) {
    for (int64_t i = 0; i < rows && s->rows < s->capacity; i++)
        add_row(s, x + i * ldx);
}

/* The smaller magnitude of a bin's values. */
static double edge(uint32_t bin) {
    uint32_t bits = bin << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

enum { SIGN = SL_SEEN_BINS / 2 }; /* bins from here on are of negative values */

double sl_seen_quantile(const sl_seen *s, double p, bool magnitudes) {
    double wanted = p * (double)s->rows * (double)s->dim, below = 0;
    for (uint32_t i = SIGN; !magnitudes && i-- > 0;) {
        double n = (double)s->bins[SIGN + i];
        if (n > 0 && below + n >= wanted)
            return -(edge(i + 1) - (edge(i + 1) - edge(i)) * (wanted - below) / n);
        below += n;
    }
    for (uint32_t i = 0; i < SIGN; i++) {
        double n = (double)s->bins[i] + (magnitudes ? (double)s->bins[SIGN + i] : 0);
        if (n > 0 && below + n >= wanted)
            return edge(i) + (edge(i + 1) - edge(i)) * (wanted - below) / n;
        below += n;
    }
    return magnitudes ? fmax((double)s->hi, -(double)s->lo) : (double)s->hi;
}

/* ---- errors */

void sl_quant_error_add(sl_quant_error *e, int64_t rows, int64_t d, const float *x, int64_t ldx, const float *y,
                        int64_t ldy) {
    sl_quant_error t = *e;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++) {
            double a = x[i * ldx + j], b = y[i * ldy + j], r = b - a;
            t.error += r * r;
            t.xx += a * a;
            t.yy += b * b;
            t.xy += a * b;
            t.max = fabs(r) > t.max ? fabs(r) : t.max;
        }
    *e = t;
}

void sl_quant_error_fold(sl_quant_error *e, int n, const sl_quant_error *part) {
    for (int i = 0; i < n; i++) {
        e->error += part[i].error;
        e->xx += part[i].xx;
        e->yy += part[i].yy;
        e->xy += part[i].xy;
        e->max = part[i].max > e->max ? part[i].max : e->max;
    }
}

double sl_quant_error_relative(const sl_quant_error *e) { return e->xx > 0 ? sqrt(e->error / e->xx) : 0; }

double sl_quant_error_cosine(const sl_quant_error *e) {
    double norms = sqrt(e->xx) * sqrt(e->yy);
    return norms > 0 ? e->xy / norms : e->error > 0 ? 0 : 1;
}
