#include "simd/tier.h"

/* Rows a pass: the double sums are loaded and stored once for so many rows. */
#define ROWS 8

SL_VEC void stats_at(int64_t i, int c, int64_t rows, const float *x, int64_t ldx, double *sum_abs,
                     double *sum_sq, float *max_abs) {
    vd abs = vd_load_n(sum_abs + i, c), sq = vd_load_n(sum_sq + i, c);
    vf max = v_load_n(max_abs + i, c);
    for (int64_t r = 0; r < rows; r++) {
        vf a = v_abs(v_load_n(x + r * ldx + i, c));
        abs = vd_add_float(abs, a);
        sq = vd_add_square(sq, a);
        max = v_sel(v_isnan(a), a, v_max(a, max));
    }
    vd_store_n(sum_abs + i, abs, c);
    vd_store_n(sum_sq + i, sq, c);
    v_store_n(max_abs + i, max, c);
}

void SL_FN(abs_stats)(int64_t rows, int64_t d, const float *x, int64_t ldx, double *sum_abs,
                      double *sum_sq, float *max_abs) {
    for (int64_t r = 0; r < rows; r += ROWS, x += ROWS * ldx) {
        int64_t count = rows - r < ROWS ? rows - r : ROWS;
        V_EACH(d, stats_at, count, x, ldx, sum_abs, sum_sq, max_abs);
    }
}
