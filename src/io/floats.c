#include "io/floats.h"

void sl_floats_from_f32(const unsigned char *src, int64_t n, float *dst) { memcpy(dst, src, (size_t)n * sizeof *dst); }

void sl_floats_from_f64(const unsigned char *src, int64_t n, float *dst) {
    double d;
    for (int64_t i = 0; i < n; i++) {
        memcpy(&d, src + 8 * i, sizeof d);
        dst[i] = (float)d;
    }
}

void sl_floats_from_f16(const unsigned char *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = sl_float_from_f16(src + 2 * i);
}

void sl_floats_from_bf16(const unsigned char *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = sl_float_from_bits((uint32_t)src[2 * i] << 16 | (uint32_t)src[2 * i + 1] << 24);
}
