#include "formats/format.h"

#include <math.h>
#include <string.h>

const sl_format sl_formats[SL_FORMATS] = {
#define FORMAT(name, bits, mantissa, least_exponent, max, help)                                                        \
    {#name, help, bits, mantissa, least_exponent, max, (mantissa) == (least_exponent)},
#include "simd/quant.inc"
#undef FORMAT
};
const char *const sl_scale_names[SL_SCALES] = {
    [SL_SCALE_F32] = "f32", [SL_SCALE_E8M0] = "e8m0", [SL_SCALE_E4M3] = "e4m3"};

enum { E8M0_BIAS = 127 };

sl_grid sl_grid_symmetric(enum sl_format f) {
    const sl_format *t = &sl_formats[f];
    return (sl_grid){.mantissa = t->mantissa,
                     .least_exponent = t->least_exponent,
                     .lo = -t->max,
                     .hi = t->max,
                     .sign = t->integer ? 0 : 1 << (t->bits - 1)};
}

sl_grid sl_grid_affine(enum sl_format f, int zero) {
    sl_grid g = sl_grid_symmetric(f);
    g.lo = (float)-zero;
    g.hi = (float)((1 << sl_formats[f].bits) - 1 - zero);
    g.zero = zero;
    return g;
}

/* Spacing of the grid at |x|. */
static float spacing(const sl_format *t, float x) {
    int e = x == 0 ? t->least_exponent : ilogbf(x);
    return ldexpf(1, (e > t->least_exponent ? e : t->least_exponent) - t->mantissa);
}

float sl_format_round(enum sl_format f, float x) {
    const sl_format *t = &sl_formats[f];
    float a = fminf(fabsf(x), t->max), unit = spacing(t, a), y = rintf(a / unit) * unit;
    return t->integer && y == 0 ? 0 : copysignf(y, x);
}

uint8_t sl_format_code(enum sl_format f, float x) {
    const sl_format *t = &sl_formats[f];
    float y = sl_format_round(f, x), a = fabsf(y), unit = spacing(t, a);
    if (t->integer)
        return (uint8_t)(int)y;
    int binade = ilogbf(unit) + t->mantissa - t->least_exponent;
    return (uint8_t)((int)(a / unit) + (binade << t->mantissa) + (signbit(y) ? 1 << (t->bits - 1) : 0));
}

float sl_format_value(enum sl_format f, uint8_t code) {
    const sl_format *t = &sl_formats[f];
    if (t->integer)
        return (float)(t->bits == 8 ? (int8_t)code : (code & 15) - ((code & 8) << 1));
    int sign = 1 << (t->bits - 1), magnitude = code & (sign - 1), exponent = magnitude >> t->mantissa;
    int fraction = magnitude & ((1 << t->mantissa) - 1);
    float unit = ldexpf(1, t->least_exponent - t->mantissa + (exponent ? exponent - 1 : 0));
    float a = unit * (float)(exponent ? fraction + (1 << t->mantissa) : fraction);
    return a > t->max ? NAN : code & sign ? -a : a;
}

static enum sl_format format_of(const sl_grid *g) {
    for (int f = 0; f < SL_FORMATS; f++)
        if (sl_formats[f].mantissa == g->mantissa && sl_formats[f].least_exponent == g->least_exponent)
            return (enum sl_format)f;
    return SL_FORMATS;
}

void sl_grid_values(const sl_grid *g, float value[256]) {
    enum sl_format f = format_of(g);
    bool bytes = !g->sign && (float)g->zero + g->lo >= 0; /* no code is negative */
    for (int code = 0; code < 256; code++)
        value[code] = bytes ? (float)(code - g->zero) : sl_format_value(f, (uint8_t)code);
}

/* ---- scales */

/* Exponent of the power of two of an MX block. */
static int e8m0_exponent(const sl_format *t, float amax) {
    int e = amax > 0 ? ilogbf(amax) - ilogbf(t->max) : -E8M0_BIAS;
    return e < -E8M0_BIAS ? -E8M0_BIAS : e > E8M0_BIAS ? E8M0_BIAS : e;
}

float sl_scale_of(enum sl_scale kind, enum sl_format f, float amax, float outer, uint8_t *code) {
    const sl_format *t = &sl_formats[f];
    uint8_t byte = 0;
    float scale = amax / t->max;
    if (kind == SL_SCALE_E8M0) {
        byte = (uint8_t)(e8m0_exponent(t, amax) + E8M0_BIAS);
        scale = sl_scale_value(kind, byte, 0);
    } else if (kind == SL_SCALE_E4M3) {
        byte = outer > 0 ? sl_format_code(SL_FORMAT_e4m3, scale / outer) : 0;
        scale = sl_scale_value(kind, byte, outer);
    }
    if (code)
        *code = byte;
    return scale;
}

float sl_scale_value(enum sl_scale kind, uint8_t code, float outer) {
    return kind == SL_SCALE_E8M0 ? ldexpf(1, code - E8M0_BIAS) : sl_format_value(SL_FORMAT_e4m3, code) * outer;
}

float sl_scale_outer(enum sl_format f, float amax) {
    return amax / (sl_formats[f].max * sl_formats[SL_FORMAT_e4m3].max);
}

float sl_scale_affine(enum sl_format f, float lo, float hi, int *zero) {
    int last = (1 << sl_formats[f].bits) - 1;
    lo = fminf(lo, 0);
    hi = fmaxf(hi, 0);
    float scale = hi / (float)last - lo / (float)last; /* hi - lo could overflow */
    float z = scale > 0 ? rintf(-lo / scale) : 0;
    *zero = (int)fminf(z, (float)last);
    return scale;
}
