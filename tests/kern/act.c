#include "act_values.h"
#include "kern.h"

#include <string.h>

/* An elementwise kernel: its inputs, its outputs, and the formula of one element. */
struct elementwise {
    const char *in[3], *out[2]; /* up to NULL */
    k_call call;
    void (*ref)(const double in[3], struct value out[2]);
    unsigned kinds;      /* of the first input */
    double flops, bytes; /* an element */
    int limits;          /* infinite inputs give their limits; else NaN will do (-inf * 0) */
    const char *bf16;    /* one character for each input, then output: b bf16, f fp32; NULL: all fp32 */
};

/* ---- the functions of simd/vec_math.h, with the bounds that it states */

static struct value within(double want, double ulps, double more) {
    double ulp = isfinite(want) && want != 0 ? fmax(ldexp(1, ilogb(want) - 23), TINY) : TINY;
    return (struct value){want, ulps * ulp + more};
}

static void ref_exp(const double in[3], struct value out[2]) {
    out[0] = within(exp(in[0]), 1.2, SMALLEST);
}
static void ref_log(const double in[3], struct value out[2]) { out[0] = within(log(in[0]), 1, 0); }
static void ref_sigmoid(const double in[3], struct value out[2]) {
    out[0] = within(d_sigmoid(in[0]), 2.5, SMALLEST);
}
static void ref_tanh(const double in[3], struct value out[2]) {
    out[0] = within(tanh(in[0]), 2, 0);
}
static void ref_erf(const double in[3], struct value out[2]) { out[0] = within(erf(in[0]), 2, 0); }

#define GATE_FACTOR 2.0 /* a power of two: it rounds nothing */

/* ---- the formulas, inputs and outputs in the order of the descriptions below */

static void ref_silu_fwd(const double in[3], struct value out[2]) { out[0] = silu(in[0]); }
static void ref_silu_bwd(const double in[3], struct value out[2]) {
    out[0] = times(silu_slope(in[0]), in[1]);
}
/* Feed-forward kinds: gate, up, dy, or x, dy. */
#define FFN(name, gated, act, other, ...)                                                          \
    static void ref_##name##_fwd(const double in[3], struct value out[2]) {                        \
        out[0] = gated ? product(act(in[0]), other(in[1])) : act(in[0]);                           \
    }                                                                                              \
    static void ref_##name##_bwd(const double in[3], struct value out[2]) {                        \
        if (gated) {                                                                               \
            out[0] = times(product(act##_slope(in[0]), other(in[1])), in[2]);                      \
            out[1] = times(times(act(in[0]), in[2]), other##_slope(in[1]));                        \
        } else {                                                                                   \
            out[0] = times(act##_slope(in[0]), in[1]);                                             \
        }                                                                                          \
    }
#include "simd/ffn.inc"
#undef FFN
static void ref_gate_fwd(const double in[3], struct value out[2]) {
    out[0] = times(sigmoid(in[0]), GATE_FACTOR * in[1]);
}
static void ref_gate_bwd(const double in[3], struct value out[2]) { /* b, y, dout */
    out[0] = times(sigmoid(in[0]), GATE_FACTOR * in[2]);
    out[1] = times(times(sigmoid_slope(in[0]), in[1]), GATE_FACTOR * in[2]);
}
static void ref_sigmoid_bwd(const double in[3], struct value out[2]) { /* x, dy */
    double q = d_sigmoid(in[0]), t = d_sigmoid(-in[0]);
    struct value slope = {q * t, t * sigmoid_error(in[0]) + q * complement_error(in[0]) + 2 * U * q * t};
    out[0] = times(slope, in[1]);
}
/* 1 - t^2 with t off by 2 ulp, at most 4 u |t|, and one rounding. */
static void ref_tanh_bwd(const double in[3], struct value out[2]) {
    double t = tanh(in[0]), slope = 1 / (cosh(in[0]) * cosh(in[0]));
    out[0] = times((struct value){slope, 8 * U * t * t + U * slope + TINY}, in[1]);
}
static struct value gate_mul(double q, double offset, double y) {
    return times((struct value){q + offset, U * fabs(q + offset)}, y);
}
static void ref_gate_mul(const double in[3], struct value out[2]) { out[0] = gate_mul(in[0], 0, in[1]); }
static void ref_gate_mul1(const double in[3], struct value out[2]) { out[0] = gate_mul(in[0], 1, in[1]); }
static void ref_add(const double in[3], struct value out[2]) {
    out[0] = exactly((double)(float)(in[0] + in[1]));
}
static void ref_scale(const double in[3], struct value out[2]) {
    out[0] = exactly((double)(float)(in[0] * in[1]));
}

/* ---- the calls; buffers: inputs, then outputs */

#define N(c) ((c)->buf[0].cols)
#define P(i) k_f32(c, i)
#define H(i) ((sl_bf16 *)c->buf[i].p)
static void call_exp(const sl_kernels *t, const k_case *c) { t->exp(N(c), P(0), P(1)); }
static void call_log(const sl_kernels *t, const k_case *c) { t->log(N(c), P(0), P(1)); }
static void call_sigmoid(const sl_kernels *t, const k_case *c) { t->sigmoid(N(c), P(0), P(1)); }
static void call_tanh(const sl_kernels *t, const k_case *c) { t->tanh(N(c), P(0), P(1)); }
static void call_erf(const sl_kernels *t, const k_case *c) { t->erf(N(c), P(0), P(1)); }
static void call_silu_fwd(const sl_kernels *t, const k_case *c) { t->silu_fwd(N(c), P(0), P(1)); }
static void call_silu_bwd(const sl_kernels *t, const k_case *c) {
    t->silu_bwd(N(c), P(0), P(1), P(2));
}
/* What a kind without a gate must not touch is no address at all. */
#define FFN(name, gated, ...)                                                                      \
    static void call_##name##_fwd(const sl_kernels *t, const k_case *c) {                          \
        t->ffn[SL_FFN_##name].fwd(N(c), P(0), gated ? P(1) : NULL, P(1 + gated));                  \
    }                                                                                              \
    static void call_##name##_bwd(const sl_kernels *t, const k_case *c) {                          \
        t->ffn[SL_FFN_##name].bwd(N(c), P(0), gated ? P(1) : NULL, P(1 + gated), P(2 + gated),     \
                                  gated ? P(4) : NULL);                                            \
    }                                                                                              \
    static void call_##name##_fwd_bf16(const sl_kernels *t, const k_case *c) {                     \
        t->ffn[SL_FFN_##name].fwd_bf16(N(c), H(0), gated ? H(1) : NULL, H(1 + gated));             \
    }                                                                                              \
    static void call_##name##_bwd_bf16(const sl_kernels *t, const k_case *c) {                     \
        t->ffn[SL_FFN_##name].bwd_bf16(N(c), H(0), gated ? H(1) : NULL, H(1 + gated),              \
                                       H(2 + gated), gated ? H(4) : NULL);                         \
    }
#include "simd/ffn.inc"
#undef FFN
static void call_gate_fwd(const sl_kernels *t, const k_case *c) {
    t->gate_fwd(N(c), GATE_FACTOR, P(0), P(1), P(2));
}
static void call_gate_fwd_bf16(const sl_kernels *t, const k_case *c) {
    t->gate_fwd_bf16(N(c), GATE_FACTOR, P(0), H(1), H(2));
}
static void call_gate_bwd(const sl_kernels *t, const k_case *c) {
    t->gate_bwd(N(c), GATE_FACTOR, P(0), P(1), P(2), P(3), P(4));
}
static void call_gate_bwd_bf16(const sl_kernels *t, const k_case *c) {
    t->gate_bwd_bf16(N(c), GATE_FACTOR, P(0), H(1), H(2), P(3), H(4));
}
static void call_sigmoid_bwd(const sl_kernels *t, const k_case *c) { t->sigmoid_bwd(N(c), P(0), P(1), P(2)); }
static void call_tanh_bwd(const sl_kernels *t, const k_case *c) { t->tanh_bwd(N(c), P(0), P(1), P(2)); }
static void call_gate_mul(const sl_kernels *t, const k_case *c) { t->gate_mul(N(c), 0, P(0), P(1), P(2)); }
static void call_gate_mul1(const sl_kernels *t, const k_case *c) { t->gate_mul(N(c), 1, P(0), P(1), P(2)); }
static void call_add(const sl_kernels *t, const k_case *c) { t->add(N(c), P(0), P(1)); }
static void call_sum(const sl_kernels *t, const k_case *c) { t->sum(N(c), P(0), P(1), P(2)); }
static void call_scale(const sl_kernels *t, const k_case *c) {
    t->scale(N(c), *(const float *)c->arg, P(0));
}

#define SMOOTH (K_ALL & ~K_BIT(K_WIDE)) /* x^2 stays in range */
static const struct elementwise
    exp_fwd = {{"x"}, {"y"}, call_exp, ref_exp, K_ALL, 1, 8, 1, NULL},
    log_fwd = {{"x"}, {"y"}, call_log, ref_log, K_ALL, 1, 8, 1, NULL},
    sigmoid_fwd = {{"x"}, {"y"}, call_sigmoid, ref_sigmoid, K_ALL, 1, 8, 1, NULL},
    tanh_fwd = {{"x"}, {"y"}, call_tanh, ref_tanh, K_ALL, 1, 8, 1, NULL},
    erf_fwd = {{"x"}, {"y"}, call_erf, ref_erf, K_ALL, 1, 8, 1, NULL},
    silu_fwd = {{"x"}, {"y"}, call_silu_fwd, ref_silu_fwd, K_ALL, 4, 8, 0, NULL},
    silu_bwd = {{"x", "dy"}, {"dx"}, call_silu_bwd, ref_silu_bwd, K_ALL, 7, 12, 0, NULL},
    sum_of_two = {{"a", "b"}, {"y"}, call_sum, ref_add, K_ALL, 1, 12, 0, NULL},
    sigmoid_bwd = {{"x", "dy"}, {"dx"}, call_sigmoid_bwd, ref_sigmoid_bwd, K_ALL, 6, 12, 0, NULL},
    tanh_bwd = {{"x", "dy"}, {"dx"}, call_tanh_bwd, ref_tanh_bwd, K_ALL, 4, 12, 0, NULL},
    gate_mul_0 = {{"q", "y"}, {"out"}, call_gate_mul, ref_gate_mul, K_ALL, 2, 12, 0, NULL},
    gate_mul_1 = {{"q", "y"}, {"out"}, call_gate_mul1, ref_gate_mul1, K_ALL, 2, 12, 0, NULL},
    gate_fwd = {{"b", "y"}, {"out"}, call_gate_fwd, ref_gate_fwd, K_ALL, 4, 12, 0, NULL},
    gate_fwd_bf16 = {{"b", "y"}, {"out"}, call_gate_fwd_bf16, ref_gate_fwd, K_ALL, 4, 8, 0, "fbb"},
    gate_bwd = {{"b", "y", "dout"}, {"dy", "db"}, call_gate_bwd, ref_gate_bwd, K_ALL, 8, 20, 0, NULL},
    gate_bwd_bf16 = {{"b", "y", "dout"}, {"dy", "db"}, call_gate_bwd_bf16, ref_gate_bwd, K_ALL, 8, 14,
                     0, "fbbfb"};
#define FORWARD(name, suffix, gated, bytes, types)                                                 \
    {{"gate", gated ? "up" : NULL}, {"y"}, call_##name##_fwd##suffix, ref_##name##_fwd, SMOOTH, 5, \
     bytes, 0, types}
#define BACKWARD(name, suffix, gated, bytes, types)                                                \
    {{"gate", gated ? "up" : "dy", gated ? "dy" : NULL}, {"dgate", gated ? "dup" : NULL},          \
     call_##name##_bwd##suffix, ref_##name##_bwd, SMOOTH, 10, bytes, 0, types}
#define FFN(name, gated, ...)                                                                      \
    static const struct elementwise name##_fwd = FORWARD(name, , gated, gated ? 12 : 8, NULL),     \
                                    name##_bwd = BACKWARD(name, , gated, gated ? 20 : 12, NULL),   \
                                    name##_fwd_bf16 =                                              \
                                        FORWARD(name, _bf16, gated, gated ? 6 : 4, "bbb"),         \
                                    name##_bwd_bf16 =                                              \
                                        BACKWARD(name, _bf16, gated, gated ? 10 : 6, "bbbbb");
#include "simd/ffn.inc"
#undef FFN

static enum k_type type_of(const struct elementwise *e, int i) {
    return e->bf16 && e->bf16[i] == 'b' ? K_BF16 : K_F32;
}

/* What is not finite comes in through one input at a time, so that no product is 0 * inf by
 * accident; the limit (such as silu(-inf) = 0) and NaN are then both right. */
static void run_case(k_case *c, const struct elementwise *e, int64_t n, enum k_data kind) {
    int ins = 0, special = -1;
    while (ins < 3 && e->in[ins])
        ins++;
    if (!(K_BIT(kind) & K_FINITE))
        special = (int)k_range(c, 0, ins - 1);
    k_begin(c, e->call, NULL, "n=%d %s%s%s", (int)n, k_data_name(kind), special < 0 ? "" : " in ",
            special < 0 ? "" : e->in[special]);
    k_buf *in[3], *out[2];
    for (int i = 0; i < ins; i++) {
        in[i] = k_add(c, e->in[i], type_of(e, i), K_IN, 1, n, n);
        int plain = special >= 0 ? i != special : i > 0 && k_range(c, 0, 1);
        k_fill(c, in[i], plain || (i > 0 && kind == K_WIDE) ? K_NORMAL : kind);
    }
    int outs = 0;
    for (; outs < 2 && e->out[outs]; outs++) {
        out[outs] = k_add(c, e->out[outs], type_of(e, ins + outs), K_OUT, 1, n, n);
        for (int i = 0; i < ins; i++)
            if (in[i]->type == out[outs]->type)
                k_alias(c, out[outs], in[i]);
    }
    for (int64_t j = 0; j < n; j++) {
        double x[3] = {0};
        int infinite = 0;
        for (int i = 0; i < ins; i++) {
            x[i] = k_initial(in[i], j);
            infinite |= isinf(x[i]) != 0;
        }
        struct value v[2];
        e->ref(x, v);
        for (int o = 0; o < outs; o++) {
            if (infinite && !(v[o].bound < INFINITY))
                v[o].bound = 8 * U * fabs(v[o].want) + SMALLEST;
            double bound = isinf(v[o].want) ? 1 : v[o].bound;
            if (out[o]->type == K_BF16)
                k_want_bf16(c, out[o], j, v[o].want, bound);
            else
                k_want(out[o], j, v[o].want, bound);
            out[o]->nan_ok[j] = (uint8_t)(infinite && !e->limits);
        }
    }
    k_run(c);
}

static void check(k_case *c, const struct elementwise *e) {
    for (int i = 0; i < K_COUNTS; i++) {
        int64_t n = k_count(c, i);
        for (enum k_data kind = 0; kind < K_KINDS; kind++)
            if (e->kinds & K_BIT(kind))
                run_case(c, e, n, kind);
    }
    for (int i = 0; i < 20; i++) /* the interval where the digits are, more densely */
        run_case(c, e, 1100, K_NORMAL);
}

/* Functions of one number: random bits besides, so that every binade of either sign has its turn.
 */
static void check_function(k_case *c, const struct elementwise *e) {
    enum { N_BITS = 4096 };
    check(c, e);
    for (int round = 0; round < 10; round++) {
        k_begin(c, e->call, NULL, "n=%d random bits", N_BITS);
        k_buf *x = k_add(c, "x", K_F32, K_IN, 1, N_BITS, N_BITS),
              *y = k_add(c, "y", K_F32, K_OUT, 1, N_BITS, N_BITS);
        for (int j = 0; j < N_BITS; j++) {
            uint32_t bits = sl_rng_u32(&c->rng);
            struct value v[2];
            memcpy((float *)x->init + j, &bits, sizeof bits);
            e->ref((const double[3]){(double)((float *)x->init)[j], 0, 0}, v);
            k_want(y, j, v[0].want, isinf(v[0].want) ? 1 : v[0].bound);
        }
        k_run(c);
    }
}

/* Derivative of a formula of up to two arguments by each, against the slopes above. */
static void identity(k_case *c, const char *what,
                     double complex (*f)(double complex, double complex), const double slope[2],
                     double a, double b) {
    k_identity(c, what, slope[0], Z_SLOPE(f(Z_STEP(a), b)), 10);
    k_identity(c, what, slope[1], Z_SLOPE(f(a, Z_STEP(b))), 10);
}

static double complex z_tanh_times(double complex x, double complex dy) { return ctanh(x) * dy; }
#define FFN(name, gated, act, other, ...)                                                          \
    static double complex kind_##name(double complex gate, double complex up) {                    \
        return gated ? z_##act(gate) * z_##other(up) : z_##act(gate);                              \
    }
#include "simd/ffn.inc"
#undef FFN
static double complex z_gate(double complex b, double complex y) {
    return GATE_FACTOR * z_sigmoid(b) * y;
}

static void check_identities(k_case *c) {
    k_begin(c, NULL, NULL, "in double");
    for (int i = 0; i < 1000; i++) {
        double x[3] = {3 * sl_rng_normal(&c->rng), sl_rng_normal(&c->rng), 1};
        if (fabs(x[0]) > 7) /* the series of Phi serves up to 8 */
            continue;
        struct value v[2];
        ref_silu_bwd((const double[3]){x[0], 1, 0}, v);
        k_identity(c, "silu'", v[0].want, Z_SLOPE(z_silu(Z_STEP(x[0]))), 10);
        ref_sigmoid_bwd((const double[3]){x[0], 1, 0}, v);
        k_identity(c, "sigmoid'", v[0].want, Z_SLOPE(z_sigmoid(Z_STEP(x[0]))), 10);
        ref_tanh_bwd(x, v);
        identity(c, "tanh'", z_tanh_times, (const double[2]){v[0].want, tanh(x[0])}, x[0], x[1]);
#define FFN(name, gated, ...)                                                                      \
    ref_##name##_bwd((const double[3]){x[0], gated ? x[1] : 1, 1}, v);                             \
    identity(c, #name "'", kind_##name, (const double[2]){v[0].want, gated ? v[1].want : 0}, x[0], \
             x[1]);
#include "simd/ffn.inc"
#undef FFN
        ref_gate_bwd(x, v);
        identity(c, "gate'", z_gate, (const double[2]){v[1].want, v[0].want}, x[0], x[1]);
    }
}

static void check_exp(k_case *c) { check_function(c, &exp_fwd); }
static void check_log(k_case *c) { check_function(c, &log_fwd); }
static void check_sigmoid(k_case *c) { check_function(c, &sigmoid_fwd); }
static void check_tanh(k_case *c) { check_function(c, &tanh_fwd); }
static void check_erf(k_case *c) { check_function(c, &erf_fwd); }
static void check_silu_fwd(k_case *c) { check(c, &silu_fwd); }
#define FFN(name, ...)                                                                             \
    static void check_##name##_fwd(k_case *c) { check(c, &name##_fwd); }                           \
    static void check_##name##_bwd(k_case *c) { check_identities(c), check(c, &name##_bwd); }      \
    static void check_##name##_fwd_bf16(k_case *c) { check(c, &name##_fwd_bf16); }                 \
    static void check_##name##_bwd_bf16(k_case *c) { check(c, &name##_bwd_bf16); }
#include "simd/ffn.inc"
#undef FFN
static void check_sum(k_case *c) { check(c, &sum_of_two); }
static void check_gate_fwd(k_case *c) { check(c, &gate_fwd); }
static void check_gate_fwd_bf16(k_case *c) { check(c, &gate_fwd_bf16); }
static void check_gate_bwd_bf16(k_case *c) { check(c, &gate_bwd_bf16); }
static void check_silu_bwd(k_case *c) { check_identities(c), check(c, &silu_bwd); }
static void check_sigmoid_bwd(k_case *c) { check_identities(c), check(c, &sigmoid_bwd); }
static void check_tanh_bwd(k_case *c) { check_identities(c), check(c, &tanh_bwd); }
static void check_gate_mul(k_case *c) { check(c, &gate_mul_0), check(c, &gate_mul_1); }
static void check_gate_bwd(k_case *c) { check_identities(c), check(c, &gate_bwd); }

/* ---- in place by nature: y += x, x *= a; one rounding, so exact (binary64 rounds innocuously) */

static void check_add(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            k_begin(c, call_add, NULL, "n=%d %s", (int)n, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_IN, 1, n, n),
                  *y = k_add(c, "y", K_F32, K_INOUT, 1, n, n);
            k_fill(c, x, kind);
            k_fill(c, y, k_range(c, 0, 1) ? K_NORMAL : kind);
            for (int64_t j = 0; j < n; j++) {
                struct value v[2];
                ref_add((const double[3]){(double)((float *)x->init)[j],
                                          (double)((float *)y->init)[j], 0},
                        v);
                k_want(y, j, v[0].want, 0);
            }
            k_run(c);
        }
}

static const float thresholds[] = {1e-30f, 0.25f, 1, 3, 1e30f, INFINITY};

static void call_clip_fwd(const sl_kernels *t, const k_case *c) { t->clip_fwd(N(c), *(const float *)c->arg, P(0)); }
static void call_clip_bwd(const sl_kernels *t, const k_case *c) {
    t->clip_bwd(N(c), *(const float *)c->arg, P(0), P(1));
}

static void check_clip_fwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            float t = thresholds[k_range(c, 0, 5)];
            k_begin(c, call_clip_fwd, &t, "n=%d t=%g %s", (int)n, (double)t, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_INOUT, 1, n, n);
            k_fill(c, x, kind);
            for (int64_t j = 0; j < n; j++) {
                double a = (double)((float *)x->init)[j];
                k_want(x, j, fabs(a) > (double)t ? copysign((double)t, a) : a, 0);
            }
            k_run(c);
        }
}

/* y is what the forward kernel leaves, so that elements lie on the threshold itself. */
static void check_clip_bwd(k_case *c) {
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            float t = thresholds[k_range(c, 0, 5)];
            k_begin(c, call_clip_bwd, &t, "n=%d t=%g %s", (int)n, (double)t, k_data_name(kind));
            k_buf *y = k_add(c, "y", K_F32, K_IN, 1, n, n), *dy = k_add(c, "dy", K_F32, K_INOUT, 1, n, n);
            k_fill(c, y, kind);
            k_fill_normal(c, dy, 0, 1);
            for (int64_t j = 0; j < n; j++) {
                float *a = (float *)y->init + j;
                if (fabsf(*a) > t)
                    *a = copysignf(t, *a);
                k_want(dy, j, fabsf(*a) < t ? (double)((float *)dy->init)[j] : 0, 0);
            }
            k_run(c);
        }
}

static void check_scale(k_case *c) {
    static const float factors[] = {0.0f, -0.0f,  1.0f,  -1.0f,     0.125f,
                                    0.3f, 1e-30f, 1e30f, -INFINITY, NAN};
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            float a = factors[k_range(c, 0, 9)];
            k_begin(c, call_scale, &a, "n=%d a=%g %s", (int)n, (double)a, k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_INOUT, 1, n, n);
            k_fill(c, x, kind);
            for (int64_t j = 0; j < n; j++) {
                struct value v[2];
                ref_scale((const double[3]){(double)((float *)x->init)[j], (double)a, 0}, v);
                k_want(x, j, v[0].want, 0);
            }
            k_run(c);
        }
}

/* out tanh(in x): tanh is off by 2 ulp, its argument by one rounding. */
struct softcap {
    float in, out;
    int step;
};

static void call_softcap_fwd(const sl_kernels *t, const k_case *c) {
    const struct softcap *s = c->arg;
    t->softcap_fwd(N(c), s->in, s->out, P(0));
}

static void call_softcap_bwd(const sl_kernels *t, const k_case *c) {
    const struct softcap *s = c->arg;
    t->softcap_bwd(N(c), s->out, P(0), P(1), s->step, P(2));
}

static void check_softcap_fwd(k_case *c) {
    static struct softcap s;
    for (int i = 0; i < K_COUNTS; i++)
        for (enum k_data kind = 0; kind < K_KINDS; kind++) {
            int64_t n = k_count(c, i);
            s = (struct softcap){ldexpf(1.25f, (int)k_range(c, -6, 3)), ldexpf(1.5f, (int)k_range(c, -3, 6)), 0};
            k_begin(c, call_softcap_fwd, &s, "n=%d in=%g out=%g %s", (int)n, (double)s.in, (double)s.out,
                    k_data_name(kind));
            k_buf *x = k_add(c, "x", K_F32, K_INOUT, 1, n, n);
            k_fill(c, x, kind);
            for (int64_t j = 0; j < n; j++) {
                double z = (double)s.in * (double)((float *)x->init)[j], t = tanh(z);
                double moved = fabs(z) < 100 ? fabs(z) / (cosh(z) * cosh(z)) : 0;
                k_want(x, j, (double)s.out * t,
                       (double)s.out * U * (5 * fabs(t) + moved) + 2 * TINY * (1 + (double)s.out));
            }
            k_run(c);
        }
}

/* f = 1 - t^2, t = y / out off by two roundings; delta + (dy - delta) f */
static void check_softcap_bwd(k_case *c) {
    static struct softcap s;
    for (int i = 0; i < 2 * K_COUNTS; i++) {
        int64_t n = k_count(c, i / 2);
        s = (struct softcap){0, ldexpf(1.3f, (int)k_range(c, -3, 6)), i % 2};
        k_begin(c, call_softcap_bwd, &s, "n=%d out=%g step=%d", (int)n, (double)s.out, s.step);
        k_buf *y = k_add(c, "y", K_F32, K_IN, 1, n, n);
        k_buf *delta = k_add(c, "delta", K_F32, K_IN, 1, s.step ? n : 1, s.step ? n : 1);
        k_buf *dy = k_add(c, "dy", K_F32, K_INOUT, 1, n, n);
        k_fill_normal(c, y, 0, 1), k_fill_normal(c, delta, 0, 1), k_fill_normal(c, dy, 0, 1);
        for (int64_t j = 0; j < n; j++) {
            float *at = (float *)y->init + j;
            *at = s.out * tanhf(*at);
            double t = (double)*at / (double)s.out, f = 1 - t * t, d = (double)((float *)delta->init)[s.step ? j : 0];
            double above = (double)((float *)dy->init)[j] - d, want = d + above * f;
            k_want(dy, j, want, U * (fabs(above) * (6 * t * t + 3 * f) + 2 * fabs(want)) + TINY);
        }
        k_run(c);
    }
}

enum { BENCH_N = 4096 };

static void bench(k_case *c, const struct elementwise *e) {
    int ins = 0;
    k_begin(c, e->call, NULL, "n=%d", BENCH_N);
    for (int i = 0; i < 3 && e->in[i]; i++)
        k_fill(c, k_add(c, e->in[i], type_of(e, ins++), K_IN, 1, BENCH_N, BENCH_N), K_NORMAL);
    for (int i = 0; i < 2 && e->out[i]; i++)
        k_add(c, e->out[i], type_of(e, ins + i), K_OUT, 1, BENCH_N, BENCH_N);
    c->bytes = e->bytes * BENCH_N;
    c->flops = e->flops * BENCH_N;
}

static void bench_exp(k_case *c) { bench(c, &exp_fwd); }
static void bench_log(k_case *c) { bench(c, &log_fwd); }
static void bench_sigmoid(k_case *c) { bench(c, &sigmoid_fwd); }
static void bench_tanh(k_case *c) { bench(c, &tanh_fwd); }
static void bench_erf(k_case *c) { bench(c, &erf_fwd); }
static void bench_silu_fwd(k_case *c) { bench(c, &silu_fwd); }
static void bench_silu_bwd(k_case *c) { bench(c, &silu_bwd); }
#define FFN(name, ...)                                                                             \
    static void bench_##name##_fwd(k_case *c) { bench(c, &name##_fwd); }                           \
    static void bench_##name##_bwd(k_case *c) { bench(c, &name##_bwd); }                           \
    static void bench_##name##_fwd_bf16(k_case *c) { bench(c, &name##_fwd_bf16); }                 \
    static void bench_##name##_bwd_bf16(k_case *c) { bench(c, &name##_bwd_bf16); }
#include "simd/ffn.inc"
#undef FFN
static void bench_sum(k_case *c) { bench(c, &sum_of_two); }
static void bench_gate_fwd_bf16(k_case *c) { bench(c, &gate_fwd_bf16); }
static void bench_gate_bwd_bf16(k_case *c) { bench(c, &gate_bwd_bf16); }
static void bench_gate_fwd(k_case *c) { bench(c, &gate_fwd); }
static void bench_sigmoid_bwd(k_case *c) { bench(c, &sigmoid_bwd); }
static void bench_tanh_bwd(k_case *c) { bench(c, &tanh_bwd); }
static void bench_gate_mul(k_case *c) { bench(c, &gate_mul_1); }
static void bench_gate_bwd(k_case *c) { bench(c, &gate_bwd); }

static void bench_add(k_case *c) {
    k_begin(c, call_add, NULL, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1e-6);
    k_add(c, "y", K_F32, K_INOUT, 1, BENCH_N, BENCH_N);
    c->bytes = 12 * BENCH_N;
    c->flops = BENCH_N;
}

static void bench_clip_fwd(k_case *c) {
    static const float t = 1;
    k_begin(c, call_clip_fwd, &t, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "x", K_F32, K_INOUT, 1, BENCH_N, BENCH_N), 0, 1);
    c->bytes = 8 * BENCH_N;
    c->flops = 2 * BENCH_N;
}

static void bench_clip_bwd(k_case *c) {
    static const float t = 1;
    k_begin(c, call_clip_bwd, &t, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "y", K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1);
    k_fill_normal(c, k_add(c, "dy", K_F32, K_INOUT, 1, BENCH_N, BENCH_N), 0, 1);
    c->bytes = 12 * BENCH_N;
    c->flops = BENCH_N;
}

static void bench_scale(k_case *c) {
    static const float a = -1; /* repeated calls neither grow nor shrink */
    k_begin(c, call_scale, &a, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "x", K_F32, K_INOUT, 1, BENCH_N, BENCH_N), 0, 1);
    c->bytes = 8 * BENCH_N;
    c->flops = BENCH_N;
}

static void bench_softcap_fwd(k_case *c) {
    static const struct softcap s = {1, 1, 0};
    k_begin(c, call_softcap_fwd, &s, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "x", K_F32, K_INOUT, 1, BENCH_N, BENCH_N), 0, 1);
    c->bytes = 8 * BENCH_N;
    c->flops = 2 * BENCH_N;
}
static void bench_softcap_bwd(k_case *c) {
    static const struct softcap s = {0, 8, 0}; /* y is far below: repeated calls hardly shrink dy */
    k_begin(c, call_softcap_bwd, &s, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "y", K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1);
    k_fill_normal(c, k_add(c, "delta", K_F32, K_IN, 1, 1, 1), 0, 1);
    k_fill_normal(c, k_add(c, "dy", K_F32, K_INOUT, 1, BENCH_N, BENCH_N), 0, 1);
    c->bytes = 12 * BENCH_N;
    c->flops = 6 * BENCH_N;
}

const k_kernel k_act[] = {
    K_KERNEL(exp, check_exp, bench_exp, K_SAME_BITS),
    K_KERNEL(log, check_log, bench_log, K_SAME_BITS),
    K_KERNEL(sigmoid, check_sigmoid, bench_sigmoid, K_SAME_BITS),
    K_KERNEL(tanh, check_tanh, bench_tanh, K_SAME_BITS),
    K_KERNEL(erf, check_erf, bench_erf, K_SAME_BITS),
    K_KERNEL(silu_fwd, check_silu_fwd, bench_silu_fwd, 0),
    K_KERNEL(silu_bwd, check_silu_bwd, bench_silu_bwd, 0),
    K_KERNEL(sigmoid_bwd, check_sigmoid_bwd, bench_sigmoid_bwd, 0),
    K_KERNEL(tanh_bwd, check_tanh_bwd, bench_tanh_bwd, 0),
    K_KERNEL(gate_mul, check_gate_mul, bench_gate_mul, 0),
#define ROW(kind, way)                                                                             \
    {#kind "_" #way, offsetof(sl_kernels, ffn[SL_FFN_##kind].way), check_##kind##_##way,           \
     bench_##kind##_##way, 0},
#define FFN(name, ...) ROW(name, fwd) ROW(name, bwd) ROW(name, fwd_bf16) ROW(name, bwd_bf16)
#include "simd/ffn.inc"
#undef FFN
    K_KERNEL(gate_fwd, check_gate_fwd, bench_gate_fwd, 0),
    K_KERNEL(gate_fwd_bf16, check_gate_fwd_bf16, bench_gate_fwd_bf16, 0),
    K_KERNEL(gate_bwd, check_gate_bwd, bench_gate_bwd, 0),
    K_KERNEL(gate_bwd_bf16, check_gate_bwd_bf16, bench_gate_bwd_bf16, 0),
    K_KERNEL(clip_fwd, check_clip_fwd, bench_clip_fwd, 0),
    K_KERNEL(clip_bwd, check_clip_bwd, bench_clip_bwd, 0),
    K_KERNEL(add, check_add, bench_add, 0),
    K_KERNEL(sum, check_sum, bench_sum, 0),
    K_KERNEL(softcap_fwd, check_softcap_fwd, bench_softcap_fwd, 0),
    K_KERNEL(softcap_bwd, check_softcap_bwd, bench_softcap_bwd, 0),
    K_KERNEL(scale, check_scale, bench_scale, 0),
    {0},
};
