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

void sl_floats_to_f32(const float *src, int64_t n, unsigned char *dst) { memcpy(dst, src, (size_t)n * sizeof *src); }

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* u without its last `drop` bits, rounded to even. */
static uint32_t round_off(uint32_t u, int drop) {
    uint32_t half = 1u << (drop - 1);
    return (u + half - 1 + (u >> drop & 1)) >> drop;
}

static uint32_t f16_of(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
    if (size > 0x7f800000)
        return sign | 0x7e00;
    if (size >= 0x477ff000) /* 65520, half a step above the largest */
        return sign | 0x7c00;
    if (size >= 0x38800000) /* 2^-14, the smallest normal one */
        return sign | round_off(size - (112u << 23), 13);
    /* The sum's last bit is 2^-24, that of binary16's subnormals: it rounds. */
    return sign | (bits_of(sl_float_from_bits(size) + 0.5f) - bits_of(0.5f));
}

static uint32_t bf16_of(float x) {
    uint32_t u = bits_of(x);
    return (u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : round_off(u, 16);
}

static void put16(uint32_t v, unsigned char *dst) {
    dst[0] = (unsigned char)v;
    dst[1] = (unsigned char)(v >> 8);
}

void sl_floats_to_f16(const float *src, int64_t n, unsigned char *dst) {
    for (int64_t i = 0; i < n; i++)
        put16(f16_of(src[i]), dst + 2 * i);
}

void sl_floats_to_bf16(const float *src, int64_t n, unsigned char *dst) {
    for (int64_t i = 0; i < n; i++)
        put16(bf16_of(src[i]), dst + 2 * i);
}
