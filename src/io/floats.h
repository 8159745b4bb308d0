/* Numbers of files as floats. */
#ifndef SL_IO_FLOATS_H
#define SL_IO_FLOATS_H

#include <stdint.h>
#include <string.h>

/* Makes n floats of what begins at src, at any alignment; dst must not overlap it. Of types in blocks n is a multiple
 * of the block. */
typedef void sl_floats_fn(const unsigned char *src, int64_t n, float *dst);

static inline float sl_float_from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Of the two bytes at p, little-endian, IEEE binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits; every value is a
 * float. */
static inline float sl_float_from_f16(const unsigned char *p) {
    uint32_t h = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    uint32_t sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31)
        return sl_float_from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent)
        return sl_float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float x = (float)fraction * 0x1p-24f; /* subnormal or zero */
    return sign ? -x : x;
}

/* F32, IEEE binary16 and bfloat16 (all exact), and F64 (rounded). */
sl_floats_fn sl_floats_from_f32, sl_floats_from_f16, sl_floats_from_bf16, sl_floats_from_f64;

/* The inverse: n floats as they lie in files, each rounded to the nearest value, to even where two are as near (a
 * NaN stays one). Beyond binary16's range, 65504, is infinity. dst must not overlap src. */
typedef void sl_floats_to_fn(const float *src, int64_t n, unsigned char *dst);
sl_floats_to_fn sl_floats_to_f32, sl_floats_to_f16, sl_floats_to_bf16;

#endif
