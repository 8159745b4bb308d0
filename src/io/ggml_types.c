/* Blocks of quantised numbers as floats. The layouts are those of ggml (ggml-common.h, docs/gguf.md of ggml-org/ggml);
 * each product and sum is rounded to a float on its own and in the order of the gguf package's NumPy, so that the bits
 * agree. */
#include "io/ggml_types.h"

#include <stdio.h>

enum { BLOCK = 32, SUPER = 256 };

/* ---- blocks of 32: a scale (and a minimum), then 4 bits of each value; byte i has value i low and i + 16 high */

static int nibble(const unsigned char *q, int i) { return i < BLOCK / 2 ? q[i] & 15 : q[i - BLOCK / 2] >> 4; }

/* Bit i of four bytes. */
static int fifth(const unsigned char *high, int i) { return high[i / 8] >> (i % 8) & 1; }

static void from_q4_0(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 18, dst += BLOCK) {
        float d = sl_float_from_f16(src);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = d * (float)(nibble(src + 2, i) - 8);
    }
}

static void from_q4_1(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 20, dst += BLOCK) {
        float d = sl_float_from_f16(src), m = sl_float_from_f16(src + 2);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = d * (float)nibble(src + 4, i) + m;
    }
}

static void from_q5_0(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 22, dst += BLOCK) {
        float d = sl_float_from_f16(src);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = d * (float)((nibble(src + 6, i) | fifth(src + 2, i) << 4) - 16);
    }
}

static void from_q5_1(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 24, dst += BLOCK) {
        float d = sl_float_from_f16(src), m = sl_float_from_f16(src + 2);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = d * (float)(nibble(src + 8, i) | fifth(src + 4, i) << 4) + m;
    }
}

static void from_q8_0(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 34, dst += BLOCK) {
        float d = sl_float_from_f16(src);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = d * (float)(int8_t)src[2 + i];
    }
}

/* 4-bit floats (E2M1: a sign, two bits of exponent, one of fraction) times 2^(e - 127), e being the first byte; OCP
 * Microscaling Formats 1.0. Here twice the value of each code and half the scale, which for e of 0 and 1 is subnormal.
 * Zero has no sign, and a scale of e = 255, which the standard calls NaN, is 2^128. */
static const float twice_e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static float half_e8m0(uint32_t e) { return sl_float_from_bits(e < 2 ? (uint32_t)0x00200000 << e : (e - 1) << 23); }

static void from_mxfp4(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= BLOCK, src += 17, dst += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            dst[i] = half_e8m0(src[0]) * twice_e2m1[nibble(src + 1, i)];
}

void sl_floats_from_mxfp4(const unsigned char *blocks, const unsigned char *scales, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = half_e8m0(scales[i / BLOCK]) * twice_e2m1[blocks[i / 2] >> (i % 2 ? 4 : 0) & 15];
}

/* ---- blocks of 256 with scales of their parts */

/* 6-bit scales and minima of the 8 parts, packed in 12 bytes. */
static void unpack_scales(const unsigned char *s, int scale[8], int min[8]) {
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[j + 4] & 63;
        scale[j + 4] = (s[j + 8] & 15) | (s[j] >> 6) << 4;
        min[j + 4] = (s[j + 8] >> 4) | (s[j + 4] >> 6) << 4;
    }
}

/* 8 parts of 32, d scale q - dmin min; 32 bytes hold a part in their low and the next one in their high halves. `high`,
 * NULL without: bit j of byte i is the fifth bit of value i of part j. */
static void from_super(const unsigned char *src, const unsigned char *high, const unsigned char *low, float *dst) {
    float d = sl_float_from_f16(src), dmin = sl_float_from_f16(src + 2);
    int scale[8], min[8];
    unpack_scales(src + 4, scale, min);
    for (int j = 0; j < 8; j++) {
        float step = d * (float)scale[j], below = dmin * (float)min[j];
        for (int i = 0; i < 32; i++) {
            int q = low[32 * (j / 2) + i] >> (j % 2 ? 4 : 0) & 15;
            q |= high ? (high[i] >> j & 1) << 4 : 0;
            dst[32 * j + i] = step * (float)q - below;
        }
    }
}

static void from_q4_k(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= SUPER, src += 144, dst += SUPER)
        from_super(src, NULL, src + 16, dst);
}

static void from_q5_k(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= SUPER, src += 176, dst += SUPER)
        from_super(src, src + 16, src + 48, dst);
}

/* 16 parts of 16, d scale (q - 32). Each half of the block has 64 bytes of low and 32 bytes of high bits: its four
 * quarters of 32 values take the low, then the high nibbles, and two bits each of the high ones. */
static void from_q6_k(const unsigned char *src, int64_t n, float *dst) {
    for (; n > 0; n -= SUPER, src += 210, dst += SUPER) {
        const unsigned char *scale = src + 192;
        float d = sl_float_from_f16(src + 208);
        for (int i = 0; i < SUPER; i++) {
            int half = i / 128, quarter = i / 32 % 4, l = i % 32;
            int low = src[64 * half + 32 * (quarter % 2) + l] >> (quarter < 2 ? 0 : 4) & 15;
            int high = src[128 + 32 * half + l] >> (2 * quarter) & 3;
            dst[i] = d * (float)(int8_t)scale[i / 16] * (float)((low | high << 4) - 32);
        }
    }
}

static const sl_ggml_type types[] = {
#define GGML(id, name, values, bytes, floats) {id, name, values, bytes, floats},
#include "tables/ggml_type.inc"
#undef GGML
};
enum { TYPES = sizeof types / sizeof *types };

const sl_ggml_type *sl_ggml_type_of(uint32_t id) {
    for (int i = 0; i < TYPES; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

const char *sl_ggml_supported(char buf[SL_GGML_NAMES_CHARS]) {
    size_t at = 0;
    for (int i = 0; i < TYPES; i++)
        if (types[i].floats)
            at += (size_t)snprintf(buf + at, SL_GGML_NAMES_CHARS - at, "%s%s", at ? ", " : "", types[i].name);
    return buf;
}
