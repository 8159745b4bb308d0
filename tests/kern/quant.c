/* The reference knows a grid as the sorted list of its numbers and searches in it for the nearest one. */
#include "kern.h"

#include <math.h>
#include <string.h>

enum { MOST = 512 };

/* A format and the part of it that is used: symmetric, or integers with a zero point. */
typedef struct {
    const char *name;
    sl_grid grid;
    double number[MOST]; /* magnitudes, rising from 0 */
    int numbers;
} format;

static format formats[SL_FORMATS];

/* Numbers as the format's definition counts them: fraction by fraction, binade by binade. */
static void list_numbers(format *f, int bits, int integer, double max) {
    int per_binade = 1 << f->grid.mantissa;
    f->numbers = 0;
    for (int code = 0; code < 1 << bits && f->numbers < MOST; code++) {
        int binade = code / per_binade, fraction = code % per_binade;
        double unit = ldexp(1, f->grid.least_exponent - f->grid.mantissa + (binade ? binade - 1 : 0));
        double x = integer ? code : unit * (binade ? per_binade + fraction : fraction);
        if (x <= max)
            f->number[f->numbers++] = x;
    }
}

static const format *format_at(k_case *c, int i, int affine) {
    static const struct {
        const char *name;
        int bits, mantissa, least;
        float max;
    } row[] = {
#define FORMAT(name, bits, mantissa, least, max, help) {#name, bits, mantissa, least, max},
#include "simd/quant.inc"
#undef FORMAT
    };
    format *f = &formats[i];
    int integer = row[i].mantissa == row[i].least, zero = (int)k_range(c, 0, (1 << row[i].bits) - 1);
    f->name = row[i].name;
    f->grid = (sl_grid){.mantissa = row[i].mantissa,
                        .least_exponent = row[i].least,
                        .lo = -row[i].max,
                        .hi = row[i].max,
                        .sign = integer ? 0 : 1 << (row[i].bits - 1)};
    if (integer && affine == 1)
        f->grid.lo = (float)-zero, f->grid.hi = (float)((1 << row[i].bits) - 1 - zero), f->grid.zero = zero;
    if (integer && affine == 2)
        f->grid.zero = 128;
    list_numbers(f, row[i].bits, integer, integer ? 255 : (double)row[i].max);
    return f;
}

/* Index of the nearest of the numbers; in the middle of two, the even index. */
static int nearest(const format *f, double a) {
    int lo = 0, hi = f->numbers - 1;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (f->number[mid] <= a)
            lo = mid;
        else
            hi = mid;
    }
    double below = a - f->number[lo], above = f->number[hi] - a;
    return below < above || (below == above && lo % 2 == 0) ? lo : hi;
}

/* q(x) of kernels.h, and its code; NaN for a NaN. */
static double quantise(const format *f, float x, float scale, int *code) {
    const sl_grid *g = &f->grid;
    float q = scale > 0 ? x / scale : isfinite(x) ? copysignf(0, x) : NAN;
    *code = 0;
    if (isnan(q))
        return NAN;
    double v = fmin(fmax((double)q, (double)g->lo), (double)g->hi);
    int at = nearest(f, fabs(v));
    double y = f->number[at];
    if (!g->sign) {
        *code = (int)(v < 0 ? -y : y) + g->zero;
        return v < 0 && y != 0 ? -y : y;
    }
    *code = at | (signbit(q) ? g->sign : 0);
    return signbit(q) ? -y : y;
}

/* ---- rounding and codes */

struct call {
    const format *f;
    int64_t rows, d, group;
    int one; /* the same scales for all rows */
};

enum { X, SCALE, Y, SOUND };

static void call_round(const sl_kernels *t, const k_case *c) {
    const struct call *a = c->arg;
    int32_t *sound = c->buf[SOUND].p;
    *sound = t->quant_round(&a->f->grid, a->rows, a->d, k_f32(c, X), k_ld(c, X), a->group, k_f32(c, SCALE),
                            a->one ? 0 : k_ld(c, SCALE), k_f32(c, Y), k_ld(c, Y));
}

static void call_codes(const sl_kernels *t, const k_case *c) {
    const struct call *a = c->arg;
    int32_t *sound = c->buf[SOUND].p;
    *sound = t->quant_codes(&a->f->grid, a->rows, a->d, k_f32(c, X), k_ld(c, X), a->group, k_f32(c, SCALE),
                            a->one ? 0 : k_ld(c, SCALE), k_u8(c, Y), k_ld(c, Y));
}

static void describe(k_case *c, struct call a, int codes, const char *data) {
    static struct call arg;
    arg = a;
    int64_t across = a.d ? (a.d + a.group - 1) / a.group : 0;
    k_begin(c, codes ? call_codes : call_round, &arg, "%s %g..%g rows=%d d=%d group=%d%s %s", a.f->name,
            (double)a.f->grid.lo, (double)a.f->grid.hi, (int)a.rows, (int)a.d, (int)a.group,
            a.one ? " one scale row" : "", data);
    k_buf *x = k_add(c, "x", K_F32, K_IN, a.rows, a.d, k_stride(c, a.d));
    k_add(c, "scale", K_F32, K_IN, a.one ? 1 : a.rows, across, k_stride(c, across));
    k_buf *y = k_add(c, "y", codes ? K_U8 : K_F32, K_OUT, a.rows, a.d, k_stride(c, a.d));
    k_add(c, "sound", K_I32, K_OUT, 1, 1, 1);
    if (!codes)
        k_alias(c, y, x);
}

static void run(k_case *c, int codes) {
    const struct call *a = c->arg;
    k_buf *x = &c->buf[X], *scale = &c->buf[SCALE], *y = &c->buf[Y];
    int sound = 1, code;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->d; j++) {
            float v = ((float *)x->init)[i * a->d + j];
            float s = ((float *)scale->init)[(a->one ? 0 : i * scale->cols) + j / a->group];
            double q = quantise(a->f, v, s, &code);
            sound &= isfinite(v) != 0;
            if (codes) /* what a NaN becomes is not said */
                k_want(y, i * a->d + j, isnan(q) ? 128 : code & 255, isnan(q) ? 128 : 0);
            else
                k_want(y, i * a->d + j, (double)((float)q * s), 0);
            if (!codes && isinf(v))
                y->nan_ok[i * a->d + j] = 1; /* infinity * 0 */
        }
    k_want(&c->buf[SOUND], 0, sound, 0);
    k_run(c);
}

/* About what makes the block's amax the largest number, sometimes far smaller or larger, subnormal or 0. */
static void fill_scales(k_case *c, k_buf *scale) {
    for (int64_t i = 0; i < scale->rows * scale->cols; i++) {
        double s = exp2(8 * sl_rng_uniform(&c->rng) - 8);
        int64_t odd = k_range(c, 0, 15);
        ((float *)scale->init)[i] = (float)(odd == 0 ? 0 : odd == 1 ? ldexp(s, -135) : odd == 2 ? ldexp(s, 30) : s);
    }
}

static int64_t some_group(k_case *c, int64_t d) {
    static const int64_t group[] = {16, 32, 64, 128};
    int64_t i = k_range(c, 0, 6);
    return i < 4 ? group[i] : i == 4 ? k_range(c, 1, 40) : d ? d : 1;
}

/* x is a number of the format, the middle of two, or next to either, times a power of two, which is the scale. */
static void ties_case(k_case *c, const format *f, int codes) {
    int64_t d = 2 * f->numbers, points = 4;
    describe(c, (struct call){f, points, d, d, 0}, codes, "numbers and ties");
    float *x = c->buf[X].init, *scale = c->buf[SCALE].init;
    for (int64_t i = 0; i < points; i++) {
        scale[i] = (float)ldexp(1, (int)k_range(c, -120, 100));
        for (int64_t j = 0; j < d; j++) {
            int at = (int)(j / 2), next = at + 1 < f->numbers ? at + 1 : at;
            double v = j % 2 ? (f->number[at] + f->number[next]) / 2 : f->number[at];
            float p = (float)v * scale[i];
            p = i == 1 ? nextafterf(p, INFINITY) : i == 2 ? nextafterf(p, 0) : p;
            x[i * d + j] = k_range(c, 0, 1) ? -p : p;
        }
    }
    run(c, codes);
}

/* Every upper half of a binary32, with lower halves about the places where rounding turns. */
static void bits_case(k_case *c, const format *f, int codes) {
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (size_t l = 0; l < sizeof low / sizeof *low; l++)
        for (uint32_t part = 0; part < 16; part++) {
            describe(c, (struct call){f, 1, 4096, 4096, 0}, codes, "bits");
            for (uint32_t i = 0; i < 4096; i++) {
                uint32_t u = (part << 12 | i) << 16 | low[l];
                memcpy((float *)c->buf[X].init + i, &u, sizeof u);
            }
            *(float *)c->buf[SCALE].init = 1;
            run(c, codes);
        }
}

static void check_quantiser(k_case *c, int codes) {
    static const int rows[] = {1, 3, 0, 2, 5};
    for (int f = 0; f < SL_FORMATS; f++) {
        bits_case(c, format_at(c, f, 0), codes);
        for (int affine = 0; affine < 3; affine++)
            ties_case(c, format_at(c, f, affine), codes);
        for (int i = 0; i < K_COUNTS; i++)
            for (enum k_data kind = 0; kind < K_KINDS; kind++) {
                int64_t d = k_count(c, i);
                const format *used = format_at(c, f, (int)k_range(c, 0, 2));
                describe(c, (struct call){used, rows[k_range(c, 0, 4)], d, some_group(c, d), (int)k_range(c, 0, 1)},
                         codes, k_data_name(kind));
                k_fill(c, &c->buf[X], kind);
                fill_scales(c, &c->buf[SCALE]);
                run(c, codes);
            }
    }
}

static void check_round(k_case *c) { check_quantiser(c, 0); }
static void check_codes(k_case *c) { check_quantiser(c, 1); }

static void bench_quantiser(k_case *c, int which, int64_t group, int codes) {
    int64_t rows = 16, d = 768;
    describe(c, (struct call){format_at(c, which, 0), rows, d, group, 0}, codes, "");
    k_fill_normal(c, &c->buf[X], 0, 1);
    for (int64_t i = 0; i < c->buf[SCALE].rows * c->buf[SCALE].cols; i++)
        ((float *)c->buf[SCALE].init)[i] = 0.03f;
    c->bytes = (double)((codes ? 5 : 8) * rows * d);
    c->flops = 0;
}
static void bench_round(k_case *c) { bench_quantiser(c, SL_FORMAT_e2m1, 16, 0); }
static void bench_codes(k_case *c) { bench_quantiser(c, SL_FORMAT_int8, 768, 1); }

/* ---- back from codes */

static void call_values(const sl_kernels *t, const k_case *c) {
    const struct call *a = c->arg;
    t->quant_values(k_f32(c, 3), a->rows, a->d, k_u8(c, X), k_ld(c, X), a->group, k_f32(c, SCALE),
                    a->one ? 0 : k_ld(c, SCALE), k_f32(c, Y), k_ld(c, Y));
}

static void describe_values(k_case *c, struct call a) {
    static struct call arg;
    arg = a;
    int64_t across = a.d ? (a.d + a.group - 1) / a.group : 0;
    k_begin(c, call_values, &arg, "rows=%d d=%d group=%d", (int)a.rows, (int)a.d, (int)a.group);
    k_buf *code = k_add(c, "code", K_U8, K_IN, a.rows, a.d, k_stride(c, a.d));
    fill_scales(c, k_add(c, "scale", K_F32, K_IN, a.one ? 1 : a.rows, across, k_stride(c, across)));
    k_buf *y = k_add(c, "y", K_F32, K_OUT, a.rows, a.d, k_stride(c, a.d));
    k_buf *value = k_add(c, "value", K_F32, K_IN, 1, 256, 256);
    k_fill(c, value, K_ZEROS);
    for (int64_t i = 0; i < a.rows * a.d; i++) {
        ((uint8_t *)code->init)[i] = (uint8_t)sl_rng_u32(&c->rng);
        float s = ((float *)c->buf[SCALE].init)[(a.one ? 0 : i / a.d * across) + i % a.d / a.group];
        k_want(y, i, (double)(((float *)value->init)[((uint8_t *)code->init)[i]] * s), 0);
    }
}

static void check_values(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (int one = 0; one < 2; one++) {
            int64_t d = k_count(c, i);
            describe_values(c, (struct call){NULL, k_range(c, 0, 4), d, some_group(c, d), one});
            k_run(c);
        }
}

static void bench_values(k_case *c) {
    describe_values(c, (struct call){NULL, 16, 768, 32, 0});
    c->bytes = 5 * 16 * 768;
    c->flops = 0;
}

/* ---- codes of 4 bits */

static void call_pack4(const sl_kernels *t, const k_case *c) { t->quant_pack4(c->buf[0].cols, k_u8(c, 0), k_u8(c, 1)); }
static void call_unpack4(const sl_kernels *t, const k_case *c) {
    t->quant_unpack4(c->buf[1].cols, k_u8(c, 0), k_u8(c, 1));
}

static void describe_pack4(k_case *c, int64_t n, int unpack) {
    int64_t bytes = (n + 1) / 2;
    k_begin(c, unpack ? call_unpack4 : call_pack4, NULL, "n=%d", (int)n);
    k_buf *in = k_add(c, unpack ? "packed" : "code", K_U8, K_IN, 1, unpack ? bytes : n, unpack ? bytes : n);
    k_buf *out = k_add(c, unpack ? "code" : "packed", K_U8, K_OUT, 1, unpack ? n : bytes, unpack ? n : bytes);
    uint8_t *x = in->init;
    for (int64_t i = 0; i < in->cols; i++)
        x[i] = (uint8_t)sl_rng_u32(&c->rng); /* upper halves of codes count for nothing */
    for (int64_t i = 0; i < n; i++)
        if (unpack)
            k_want(out, i, i % 2 ? x[i / 2] / 16 : x[i / 2] % 16, 0);
        else
            k_want(out, i / 2, i % 2 ? out->want[i / 2] + 16 * (x[i] % 16) : x[i] % 16, 0);
}

static void check_pack4(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        describe_pack4(c, k_count(c, i), 0);
        k_run(c);
    }
}
static void check_unpack4(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++) {
        describe_pack4(c, k_count(c, i), 1);
        k_run(c);
    }
}
static void bench_pack4(k_case *c) {
    describe_pack4(c, 4096, 0);
    c->bytes = 6144;
    c->flops = 0;
}
static void bench_unpack4(k_case *c) {
    describe_pack4(c, 4096, 1);
    c->bytes = 6144;
    c->flops = 0;
}

/* ---- maxima and ranges */

static void call_amax(const sl_kernels *t, const k_case *c) {
    const struct call *a = c->arg;
    t->quant_amax(a->rows, a->d, k_f32(c, 0), k_ld(c, 0), a->group, k_f32(c, 1), k_ld(c, 1));
}

static void describe_amax(k_case *c, struct call a, enum k_data kind) {
    static struct call arg;
    arg = a;
    int64_t across = a.d ? (a.d + a.group - 1) / a.group : 0;
    k_begin(c, call_amax, &arg, "rows=%d d=%d group=%d %s", (int)a.rows, (int)a.d, (int)a.group, k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, a.rows, a.d, k_stride(c, a.d));
    k_buf *amax = k_add(c, "amax", K_F32, K_OUT, a.rows, across, k_stride(c, across));
    k_fill(c, x, kind);
    for (int64_t i = 0; i < a.rows * a.d; i++) {
        double v = fabs((double)((float *)x->init)[i]), *want = amax->want + i / a.d * across + i % a.d / a.group;
        *want = !isfinite(v) || isnan(*want) ? NAN : fmax(*want, v);
    }
}

static void check_amax(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t d = k_count(c, i);
            describe_amax(c, (struct call){NULL, k_range(c, 0, 4), d, some_group(c, d), 0}, kind);
            k_run(c);
        }
}

static void bench_amax(k_case *c) {
    describe_amax(c, (struct call){NULL, 16, 768, 32, 0}, K_NORMAL);
    c->bytes = 4 * 16 * 768;
    c->flops = 0;
}

static void call_range(const sl_kernels *t, const k_case *c) {
    t->quant_range(c->buf[0].rows, c->buf[0].cols, k_f32(c, 0), k_ld(c, 0), k_f32(c, 1), k_f32(c, 2));
}

static void describe_range(k_case *c, int64_t rows, int64_t d, enum k_data kind) {
    k_begin(c, call_range, NULL, "rows=%d d=%d %s", (int)rows, (int)d, k_data_name(kind));
    k_buf *x = k_add(c, "x", K_F32, K_IN, rows, d, k_stride(c, d));
    k_buf *lo = k_add(c, "lo", K_F32, K_OUT, 1, rows, rows), *hi = k_add(c, "hi", K_F32, K_OUT, 1, rows, rows);
    k_fill(c, x, kind);
    for (int64_t i = 0; i < rows; i++) {
        double least = INFINITY, most = -INFINITY, bad = 0;
        for (int64_t j = 0; j < d; j++) {
            float v = ((float *)x->init)[i * d + j];
            bad += v * 0.0f;
            least = fmin(least, (double)v);
            most = fmax(most, (double)v);
        }
        /* which of two zeros is the least is not said: both compare equal to a bound of the least positive number */
        k_want(lo, i, least + bad, least == 0 ? TINY / 2 : 0);
        k_want(hi, i, most + bad, most == 0 ? TINY / 2 : 0);
    }
}

static void check_range(k_case *c) {
    for (int i = 1; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            describe_range(c, k_range(c, 0, 5), k_count(c, i), kind);
            k_run(c);
        }
}

static void bench_range(k_case *c) {
    describe_range(c, 16, 768, K_NORMAL);
    c->bytes = 4 * 16 * 768;
    c->flops = 0;
}

const k_kernel k_quant[] = {
    K_KERNEL(quant_round, check_round, bench_round, K_SAME_BITS),
    K_KERNEL(quant_codes, check_codes, bench_codes, 0),
    K_KERNEL(quant_values, check_values, bench_values, K_SAME_BITS),
    K_KERNEL(quant_pack4, check_pack4, bench_pack4, K_SAME_BITS),
    K_KERNEL(quant_unpack4, check_unpack4, bench_unpack4, K_SAME_BITS),
    K_KERNEL(quant_amax, check_amax, bench_amax, K_SAME_BITS),
    K_KERNEL(quant_range, check_range, bench_range, 0),
    {0},
};
