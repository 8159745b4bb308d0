/* Quantisation of rows; contracts in simd/kernels.h. Adding a power of two whose last place is the spacing of the
 * grid rounds to that spacing, to nearest even as IEEE sums are, and subtracting it again is exact: 1.5 * 2^23 for
 * integers of both signs, for floats 2^(23 - mantissa) times the binade of |x|. */
#include "simd/tier.h"

#define INTEGERS 0x1.8p23f

/* The constants of a grid, in vectors. */
typedef struct {
    vf lo, hi, least, up; /* least normal number; 2^(23 - mantissa) */
    int mantissa, sign;
    vi zero, least_exponent; /* the latter with binary32's bias */
} grid;

SL_VEC grid grid_of(const sl_grid *g) {
    vf least = v_float(vi_set1((127 + g->least_exponent) << 23));
    return (grid){.lo = v_set1(g->lo),
                  .hi = v_set1(g->hi),
                  .least = least,
                  .up = v_float(vi_set1((127 + 23 - g->mantissa) << 23)),
                  .mantissa = g->mantissa,
                  .sign = g->sign,
                  .zero = vi_set1(g->zero),
                  .least_exponent = vi_set1(127 + g->least_exponent)};
}

/* x over the scale, within lo..hi; NaN stays. */
SL_VEC vf quotient(vf x, vf scale, const grid *g) {
    return v_max(g->lo, v_min(g->hi, v_div(x, scale)));
}

/* The binade of |x|, at least that of the least normal number. */
SL_VEC vf binade(vf x, const grid *g) {
    return v_max(v_float(vi_and(v_bits(x), vi_set1(0x7f800000))), g->least);
}

SL_VEC vf to_grid(vf q, const int integer, const grid *g) {
    if (integer)
        return v_sub(v_add(q, v_set1(INTEGERS)), v_set1(INTEGERS));
    vf unit = v_mul(binade(q, g), g->up);
    return v_copysign(v_sub(v_add(v_abs(q), unit), unit), q);
}

/* Integers: the last byte of the sum, two's complement. Floats: the sum less the power of two counts units of the
 * binade, 0..2^(mantissa + 1), and each binade begins 2^mantissa codes after the one below. */
SL_VEC vi to_code(vf q, const int integer, const grid *g) {
    if (integer)
        return vi_add(v_bits(v_add(q, v_set1(INTEGERS))), g->zero);
    vf low = binade(q, g), unit = v_mul(low, g->up);
    vi count = vi_sub(v_bits(v_add(v_abs(q), unit)), v_bits(unit));
    vi binades = vi_sub(vi_sra(v_bits(low), 23), g->least_exponent);
    for (int i = 0; i < g->mantissa; i++)
        binades = vi_add(binades, binades);
    vi negative = vi_and(vi_sra(v_bits(q), 31), vi_set1(g->sign));
    return vi_add(vi_add(count, binades), negative);
}

/* 0, or NaN once an x is not finite. */
SL_VEC vf still_finite(vf acc, vf x) { return v_add(acc, v_mul(x, v_zero())); }

/* What is divided by a scale of 0 becomes 0. */
static inline float divisor(float scale) { return scale > 0 ? scale : __builtin_inff(); }

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Calls at(j, n, group, ...) for each group of a row. */
#define EACH_GROUP(d, size, at, ...)                                                               \
    for (int64_t j_ = 0, g_ = 0; j_ < (d); j_ += (size), g_++)                                     \
    at(j_, least(size, (d)-j_), g_, __VA_ARGS__)

SL_VEC void round_at(int64_t i, int c, const int integer, const grid *g, vf scale, vf by, const float *x, float *y,
                     vf *sound) {
    vf v = v_load_n(x + i, c);
    *sound = still_finite(*sound, v);
    v_store_n(y + i, v_mul(to_grid(quotient(v, by, g), integer, g), scale), c);
}
SL_VEC void round_group(int64_t j, int64_t n, int64_t group, const int integer, const grid *g, const float *x,
                        const float *scale, float *y, vf *sound) {
    vf s = v_set1(scale[group]), by = v_set1(divisor(scale[group]));
    V_EACH(n, round_at, integer, g, s, by, x + j, y + j, sound);
}
SL_VEC int round_rows(const int integer, const sl_grid *format, int64_t rows, int64_t d, const float *x, int64_t ldx,
                      int64_t group, const float *scale, int64_t lds, float *y, int64_t ldy) {
    const grid g = grid_of(format);
    vf sound = v_zero();
    for (int64_t i = 0; i < rows; i++)
        EACH_GROUP(d, group, round_group, integer, &g, x + i * ldx, scale + i * lds, y + i * ldy, &sound);
    return v_reduce_add(sound) == 0;
}
int SL_FN(quant_round)(const sl_grid *g, int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group,
                       const float *scale, int64_t lds, float *y, int64_t ldy) {
    return g->sign ? round_rows(0, g, rows, d, x, ldx, group, scale, lds, y, ldy)
                   : round_rows(1, g, rows, d, x, ldx, group, scale, lds, y, ldy);
}

SL_VEC void codes_at(int64_t i, int c, const int integer, const grid *g, vf by, const float *x, uint8_t *code,
                     vf *sound) {
    vf v = v_load_n(x + i, c);
    *sound = still_finite(*sound, v);
    vi_store_low8_n(code + i, to_code(quotient(v, by, g), integer, g), c);
}
SL_VEC void codes_group(int64_t j, int64_t n, int64_t group, const int integer, const grid *g, const float *x,
                        const float *scale, uint8_t *code, vf *sound) {
    vf by = v_set1(divisor(scale[group]));
    V_EACH(n, codes_at, integer, g, by, x + j, code + j, sound);
}
SL_VEC int codes_rows(const int integer, const sl_grid *format, int64_t rows, int64_t d, const float *x, int64_t ldx,
                      int64_t group, const float *scale, int64_t lds, uint8_t *code, int64_t ldc) {
    const grid g = grid_of(format);
    vf sound = v_zero();
    for (int64_t i = 0; i < rows; i++)
        EACH_GROUP(d, group, codes_group, integer, &g, x + i * ldx, scale + i * lds, code + i * ldc, &sound);
    return v_reduce_add(sound) == 0;
}
int SL_FN(quant_codes)(const sl_grid *g, int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group,
                       const float *scale, int64_t lds, uint8_t *code, int64_t ldc) {
    return g->sign ? codes_rows(0, g, rows, d, x, ldx, group, scale, lds, code, ldc)
                   : codes_rows(1, g, rows, d, x, ldx, group, scale, lds, code, ldc);
}

static inline void values_group(int64_t j, int64_t n, int64_t group, const float *value, const uint8_t *code,
                                const float *scale, float *y) {
    for (int64_t i = j; i < j + n; i++)
        y[i] = value[code[i]] * scale[group];
}
void SL_FN(quant_values)(const float *value, int64_t rows, int64_t d, const uint8_t *code, int64_t ldc, int64_t group,
                         const float *scale, int64_t lds, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++)
        EACH_GROUP(d, group, values_group, value, code + i * ldc, scale + i * lds, y + i * ldy);
}

void SL_FN(quant_pack4)(int64_t n, const uint8_t *code, uint8_t *packed) {
    for (int64_t i = 0; i < n / 2; i++)
        packed[i] = (uint8_t)((code[2 * i] & 15) | code[2 * i + 1] << 4);
    if (n % 2)
        packed[n / 2] = code[n - 1] & 15;
}
void SL_FN(quant_unpack4)(int64_t n, const uint8_t *packed, uint8_t *code) {
    for (int64_t i = 0; i < n / 2; i++) {
        code[2 * i] = packed[i] & 15;
        code[2 * i + 1] = packed[i] >> 4;
    }
    if (n % 2)
        code[n - 1] = packed[n / 2] & 15;
}

SL_VEC void amax_at(int64_t i, int c, const float *x, vf *max, vf *sound) {
    vf v = v_load_n(x + i, c);
    *sound = still_finite(*sound, v);
    *max = v_max(v_abs(v), *max);
}
SL_VEC void amax_group(int64_t j, int64_t n, int64_t group, const float *x, float *amax) {
    vf max = v_zero(), sound = v_zero();
    V_EACH(n, amax_at, x + j, &max, &sound);
    amax[group] = v_reduce_max(max) + v_reduce_add(sound);
}
void SL_FN(quant_amax)(int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group, float *amax, int64_t lda) {
    for (int64_t i = 0; i < rows; i++)
        EACH_GROUP(d, group, amax_group, x + i * ldx, amax + i * lda);
}

SL_VEC void range_at(int64_t i, int c, const float *x, vf *lo, vf *hi, vf *sound) {
    vf v = v_load_n(x + i, c);
    *sound = still_finite(*sound, v);
    *lo = v_min(v_head(v, c, *lo), *lo);
    *hi = v_max(v_head(v, c, *hi), *hi);
}
void SL_FN(quant_range)(int64_t rows, int64_t d, const float *x, int64_t ldx, float *lo, float *hi) {
    for (int64_t i = 0; i < rows; i++) {
        vf low = v_set1(x[i * ldx]), high = low, sound = v_zero();
        V_EACH(d, range_at, x + i * ldx, &low, &high, &sound);
        float bad = v_reduce_add(sound);
        lo[i] = -v_reduce_max(v_neg(low)) + bad;
        hi[i] = v_reduce_max(high) + bad;
    }
}

enum { STRIP = 128 }; /* columns whose offsets are found once for all rows */

SL_VEC void scale_at(int64_t j, int n, const int32_t *c, const int32_t *off, vf a, const float *b, const float *plus,
                     float *y) {
    vf v = v_from_int(vi_sub(vi_load_n(c + j, n), vi_load_n(off + j, n)));
    v = v_mul(v_mul(v, a), v_load_n(b + j, n));
    v_store_n(y + j, plus ? v_add(v, v_load_n(plus + j, n)) : v, n);
}
/* Along the rows, which are longer than a line of the cache and lie pages apart. */
void SL_FN(scale_int32)(int64_t m, int64_t n, const int32_t *c, int64_t ldc, int32_t zero, const int32_t *sum,
                        const float *scale_a, int64_t step_a, const float *scale_b, int64_t step_b,
                        const float *plus, float *y, int64_t ldy) {
    for (int64_t j = 0; j < n; j += STRIP) {
        int64_t cols = least(STRIP, n - j);
        int32_t off[STRIP];
        float b[STRIP];
        for (int64_t i = 0; i < cols; i++) {
            off[i] = zero * sum[j + i];
            b[i] = scale_b[(j + i) * step_b];
        }
        for (int64_t i = 0; i < m; i++)
            V_EACH(cols, scale_at, c + i * ldc + j, off, v_set1(scale_a[i * step_a]), b,
                   plus ? plus + i * ldy + j : NULL, y + i * ldy + j);
    }
}
