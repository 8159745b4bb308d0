#include "kern.h"
#include "ref.h"

#include <string.h>

/* An elementwise kernel: its inputs, its outputs, and the formula of one element. */
struct value {
    double want, bound;
};

struct elementwise {
    const char *in[3], *out[2]; /* up to NULL */
    k_call call;
    void (*ref)(const double in[3], struct value out[2]);
    unsigned kinds;      /* of the first input */
    double flops, bytes; /* an element */
    int limits;          /* infinite inputs give their limits; else NaN will do (-inf * 0) */
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

/* ---- sigmoid and silu with the errors of 1/(1 + exp(-x)) in binary32. exp enters 1 + e with
 * weight e/(1 + e) = 1 - q; then an addition and a division. exp(-x) may overflow, or the result be
 * flushed, when q is below the least normal number. */
static double sigmoid_error(double x) {
    double q = d_sigmoid(x);
    return q * (EXP_REL * (1 - q) + 2 * U) + SMALLEST;
}

static struct value silu(double x) {
    if (isinf(x))
        return (struct value){x > 0 ? x : -0.0, SMALLEST};
    return (struct value){d_silu(x), fabs(x) * (sigmoid_error(x) + U * d_sigmoid(x)) + 4 * TINY};
}

/* 1 - q as e^-x q, which keeps its digits where q is near 1: the errors of both and a product. */
static double complement_error(double x) {
    double t = d_sigmoid(-x);
    return t * (2 * EXP_REL + 3 * U) + SMALLEST;
}

/* silu' = q + x q (1 - q) */
static struct value silu_slope(double x) {
    if (isinf(x))
        return (struct value){x > 0, 4 * U};
    double q = d_sigmoid(x), t = d_sigmoid(-x), dq = sigmoid_error(x), dt = complement_error(x);
    double y = q + x * q * t;
    return (struct value){y, dq + fabs(x) * (q * dt + t * dq + 3 * U * q * t) + U * fabs(y)};
}

/* Phi from (1 + erf(x/sqrt 2))/2: erf near 1 is off by 2 ulp = 2 u, rounding its argument by 2 u
 * moves it by at most 1 u (x erf' < 1/2), the addition by u; halved. Relative accuracy of the left
 * tail is not promised. */
#define CDF_ERROR (2 * U)

static struct value gelu(double x) {
    if (isinf(x))
        return (struct value){x > 0 ? x : -0.0, SMALLEST};
    double y = d_gelu(x);
    return (struct value){y, fabs(x) * CDF_ERROR + 2 * U * fabs(y) + 4 * TINY};
}

/* gelu' = Phi + x phi, phi = exp(-x^2/2)/sqrt(2 pi): rounding x^2/2 twice moves exp by x^2 u. */
static struct value gelu_slope(double x) {
    if (isinf(x))
        return (struct value){x > 0, 4 * U};
    double phi = exp(-x * x / 2) * 0.39894228040143267794, cdf = d_normal_cdf(x), y = cdf + x * phi;
    double phi_error = phi * (EXP_REL + x * x * U + 2 * U);
    return (struct value){y, CDF_ERROR + fabs(x) * (phi_error + U * phi + SMALLEST) + U * fabs(y)};
}

/* a * b, a with an error, b exact; one rounding. */
static struct value times(struct value a, double b) {
    double want = a.want * b;
    return (struct value){want, a.bound * fabs(b) + 2 * U * fabs(want) +
                                    TINY * (4 + fabs(b) + fabs(a.want))};
}

static struct value exactly(double x) { return (struct value){x, 0}; }

/* ---- the formulas, inputs and outputs in the order of the descriptions below */

static void ref_silu_fwd(const double in[3], struct value out[2]) { out[0] = silu(in[0]); }
static void ref_silu_bwd(const double in[3], struct value out[2]) {
    out[0] = times(silu_slope(in[0]), in[1]);
}
static void ref_gelu_fwd(const double in[3], struct value out[2]) { out[0] = gelu(in[0]); }
static void ref_gelu_bwd(const double in[3], struct value out[2]) {
    out[0] = times(gelu_slope(in[0]), in[1]);
}
static void ref_swiglu_fwd(const double in[3], struct value out[2]) {
    out[0] = times(silu(in[0]), in[1]);
}
static void ref_swiglu_bwd(const double in[3], struct value out[2]) { /* gate, up, dy */
    out[0] = times(times(silu_slope(in[0]), in[1]), in[2]);
    out[1] = times(silu(in[0]), in[2]);
}
static void ref_gate_fwd(const double in[3], struct value out[2]) {
    out[0] = times((struct value){d_sigmoid(in[0]), sigmoid_error(in[0])}, in[1]);
}
static void ref_gate_bwd(const double in[3], struct value out[2]) { /* b, y, dout */
    double q = d_sigmoid(in[0]), t = d_sigmoid(-in[0]), dq = sigmoid_error(in[0]);
    out[0] = times((struct value){q, dq}, in[2]);
    struct value slope = {q * t, t * dq + q * complement_error(in[0]) + 2 * U * q * t};
    out[1] = times(times(slope, in[1]), in[2]);
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
static void ref_relu_fwd(const double in[3], struct value out[2]) { out[0] = exactly(in[0] < 0 ? 0 : in[0]); }
static void ref_relu_bwd(const double in[3], struct value out[2]) { out[0] = exactly(in[0] > 0 ? in[1] : 0); }
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
static void call_exp(const sl_kernels *t, const k_case *c) { t->exp(N(c), P(0), P(1)); }
static void call_log(const sl_kernels *t, const k_case *c) { t->log(N(c), P(0), P(1)); }
static void call_sigmoid(const sl_kernels *t, const k_case *c) { t->sigmoid(N(c), P(0), P(1)); }
static void call_tanh(const sl_kernels *t, const k_case *c) { t->tanh(N(c), P(0), P(1)); }
static void call_erf(const sl_kernels *t, const k_case *c) { t->erf(N(c), P(0), P(1)); }
static void call_silu_fwd(const sl_kernels *t, const k_case *c) { t->silu_fwd(N(c), P(0), P(1)); }
static void call_silu_bwd(const sl_kernels *t, const k_case *c) {
    t->silu_bwd(N(c), P(0), P(1), P(2));
}
static void call_gelu_fwd(const sl_kernels *t, const k_case *c) { t->gelu_fwd(N(c), P(0), P(1)); }
static void call_gelu_bwd(const sl_kernels *t, const k_case *c) {
    t->gelu_bwd(N(c), P(0), P(1), P(2));
}
static void call_swiglu_fwd(const sl_kernels *t, const k_case *c) {
    t->swiglu_fwd(N(c), P(0), P(1), P(2));
}
static void call_swiglu_bwd(const sl_kernels *t, const k_case *c) {
    t->swiglu_bwd(N(c), P(0), P(1), P(2), P(3), P(4));
}
static void call_gate_fwd(const sl_kernels *t, const k_case *c) {
    t->gate_fwd(N(c), P(0), P(1), P(2));
}
static void call_gate_bwd(const sl_kernels *t, const k_case *c) {
    t->gate_bwd(N(c), P(0), P(1), P(2), P(3), P(4));
}
static void call_sigmoid_bwd(const sl_kernels *t, const k_case *c) { t->sigmoid_bwd(N(c), P(0), P(1), P(2)); }
static void call_tanh_bwd(const sl_kernels *t, const k_case *c) { t->tanh_bwd(N(c), P(0), P(1), P(2)); }
static void call_relu_fwd(const sl_kernels *t, const k_case *c) { t->relu_fwd(N(c), P(0), P(1)); }
static void call_relu_bwd(const sl_kernels *t, const k_case *c) { t->relu_bwd(N(c), P(0), P(1), P(2)); }
static void call_gate_mul(const sl_kernels *t, const k_case *c) { t->gate_mul(N(c), 0, P(0), P(1), P(2)); }
static void call_gate_mul1(const sl_kernels *t, const k_case *c) { t->gate_mul(N(c), 1, P(0), P(1), P(2)); }
static void call_add(const sl_kernels *t, const k_case *c) { t->add(N(c), P(0), P(1)); }
static void call_scale(const sl_kernels *t, const k_case *c) {
    t->scale(N(c), *(const float *)c->arg, P(0));
}

#define SMOOTH (K_ALL & ~K_BIT(K_WIDE)) /* x^2 stays in range */
static const struct elementwise
    exp_fwd = {{"x"}, {"y"}, call_exp, ref_exp, K_ALL, 1, 8, 1},
    log_fwd = {{"x"}, {"y"}, call_log, ref_log, K_ALL, 1, 8, 1},
    sigmoid_fwd = {{"x"}, {"y"}, call_sigmoid, ref_sigmoid, K_ALL, 1, 8, 1},
    tanh_fwd = {{"x"}, {"y"}, call_tanh, ref_tanh, K_ALL, 1, 8, 1},
    erf_fwd = {{"x"}, {"y"}, call_erf, ref_erf, K_ALL, 1, 8, 1},
    silu_fwd = {{"x"}, {"y"}, call_silu_fwd, ref_silu_fwd, K_ALL, 4, 8, 0},
    silu_bwd = {{"x", "dy"}, {"dx"}, call_silu_bwd, ref_silu_bwd, K_ALL, 7, 12, 0},
    gelu_fwd = {{"x"}, {"y"}, call_gelu_fwd, ref_gelu_fwd, K_ALL, 4, 8, 0},
    gelu_bwd = {{"x", "dy"}, {"dx"}, call_gelu_bwd, ref_gelu_bwd, SMOOTH, 8, 12, 0},
    swiglu_fwd = {{"gate", "up"}, {"y"}, call_swiglu_fwd, ref_swiglu_fwd, K_ALL, 5, 12, 0},
    swiglu_bwd =
        {{"gate", "up", "dy"}, {"dgate", "dup"}, call_swiglu_bwd, ref_swiglu_bwd, K_ALL, 10, 20, 0},
    sigmoid_bwd = {{"x", "dy"}, {"dx"}, call_sigmoid_bwd, ref_sigmoid_bwd, K_ALL, 6, 12, 0},
    tanh_bwd = {{"x", "dy"}, {"dx"}, call_tanh_bwd, ref_tanh_bwd, K_ALL, 4, 12, 0},
    relu_fwd = {{"x"}, {"y"}, call_relu_fwd, ref_relu_fwd, K_ALL, 1, 8, 0},
    relu_bwd = {{"x", "dy"}, {"dx"}, call_relu_bwd, ref_relu_bwd, K_ALL, 1, 12, 0},
    gate_mul_0 = {{"q", "y"}, {"out"}, call_gate_mul, ref_gate_mul, K_ALL, 2, 12, 0},
    gate_mul_1 = {{"q", "y"}, {"out"}, call_gate_mul1, ref_gate_mul1, K_ALL, 2, 12, 0},
    gate_fwd = {{"b", "y"}, {"out"}, call_gate_fwd, ref_gate_fwd, K_ALL, 4, 12, 0},
    gate_bwd = {{"b", "y", "dout"}, {"dy", "db"}, call_gate_bwd, ref_gate_bwd, K_ALL, 8, 20, 0};

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
        in[i] = k_add(c, e->in[i], K_F32, K_IN, 1, n, n);
        int plain = special >= 0 ? i != special : i > 0 && k_range(c, 0, 1);
        k_fill(c, in[i], plain || (i > 0 && kind == K_WIDE) ? K_NORMAL : kind);
    }
    int outs = 0;
    for (; outs < 2 && e->out[outs]; outs++) {
        out[outs] = k_add(c, e->out[outs], K_F32, K_OUT, 1, n, n);
        for (int i = 0; i < ins; i++)
            k_alias(c, out[outs], in[i]);
    }
    for (int64_t j = 0; j < n; j++) {
        double x[3] = {0};
        int infinite = 0;
        for (int i = 0; i < ins; i++) {
            x[i] = (double)((float *)in[i]->init)[j];
            infinite |= isinf(x[i]) != 0;
        }
        struct value v[2];
        e->ref(x, v);
        for (int o = 0; o < outs; o++) {
            if (infinite && !(v[o].bound < INFINITY))
                v[o].bound = 8 * U * fabs(v[o].want) + SMALLEST;
            k_want(out[o], j, v[o].want, isinf(v[o].want) ? 1 : v[o].bound);
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
static double complex z_gelu_times(double complex x, double complex dy) { return z_gelu(x) * dy; }

static void check_identities(k_case *c) {
    k_begin(c, NULL, NULL, "in double");
    for (int i = 0; i < 1000; i++) {
        double x[3] = {3 * sl_rng_normal(&c->rng), sl_rng_normal(&c->rng), 1};
        if (fabs(x[0]) > 7) /* the series of Phi serves up to 8 */
            continue;
        struct value v[2];
        ref_silu_bwd((const double[3]){x[0], 1, 0}, v);
        k_identity(c, "silu'", v[0].want, Z_SLOPE(z_silu(Z_STEP(x[0]))), 10);
        ref_gelu_bwd(x, v);
        identity(c, "gelu'", z_gelu_times, (const double[2]){v[0].want, gelu(x[0]).want}, x[0],
                 x[1]);
        ref_sigmoid_bwd((const double[3]){x[0], 1, 0}, v);
        k_identity(c, "sigmoid'", v[0].want, Z_SLOPE(z_sigmoid(Z_STEP(x[0]))), 10);
        ref_tanh_bwd(x, v);
        identity(c, "tanh'", z_tanh_times, (const double[2]){v[0].want, tanh(x[0])}, x[0], x[1]);
        ref_swiglu_bwd(x, v);
        identity(c, "swiglu'", z_swiglu, (const double[2]){v[0].want, v[1].want}, x[0], x[1]);
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
static void check_gelu_fwd(k_case *c) { check(c, &gelu_fwd); }
static void check_swiglu_fwd(k_case *c) { check(c, &swiglu_fwd); }
static void check_gate_fwd(k_case *c) { check(c, &gate_fwd); }
static void check_silu_bwd(k_case *c) { check_identities(c), check(c, &silu_bwd); }
static void check_gelu_bwd(k_case *c) { check_identities(c), check(c, &gelu_bwd); }
static void check_swiglu_bwd(k_case *c) { check_identities(c), check(c, &swiglu_bwd); }
static void check_sigmoid_bwd(k_case *c) { check_identities(c), check(c, &sigmoid_bwd); }
static void check_tanh_bwd(k_case *c) { check_identities(c), check(c, &tanh_bwd); }
static void check_relu_fwd(k_case *c) { check(c, &relu_fwd); }
static void check_relu_bwd(k_case *c) { check(c, &relu_bwd); }
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

enum { BENCH_N = 4096 };

static void bench(k_case *c, const struct elementwise *e) {
    k_begin(c, e->call, NULL, "n=%d", BENCH_N);
    for (int i = 0; i < 3 && e->in[i]; i++)
        k_fill_normal(c, k_add(c, e->in[i], K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1);
    for (int i = 0; i < 2 && e->out[i]; i++)
        k_add(c, e->out[i], K_F32, K_OUT, 1, BENCH_N, BENCH_N);
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
static void bench_gelu_fwd(k_case *c) { bench(c, &gelu_fwd); }
static void bench_gelu_bwd(k_case *c) { bench(c, &gelu_bwd); }
static void bench_swiglu_fwd(k_case *c) { bench(c, &swiglu_fwd); }
static void bench_swiglu_bwd(k_case *c) { bench(c, &swiglu_bwd); }
static void bench_gate_fwd(k_case *c) { bench(c, &gate_fwd); }
static void bench_sigmoid_bwd(k_case *c) { bench(c, &sigmoid_bwd); }
static void bench_tanh_bwd(k_case *c) { bench(c, &tanh_bwd); }
static void bench_relu_fwd(k_case *c) { bench(c, &relu_fwd); }
static void bench_relu_bwd(k_case *c) { bench(c, &relu_bwd); }
static void bench_gate_mul(k_case *c) { bench(c, &gate_mul_1); }
static void bench_gate_bwd(k_case *c) { bench(c, &gate_bwd); }

static void bench_add(k_case *c) {
    k_begin(c, call_add, NULL, "n=%d", BENCH_N);
    k_fill_normal(c, k_add(c, "x", K_F32, K_IN, 1, BENCH_N, BENCH_N), 0, 1e-6);
    k_add(c, "y", K_F32, K_INOUT, 1, BENCH_N, BENCH_N);
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

const k_kernel k_act[] = {
    K_KERNEL(exp, check_exp, bench_exp, K_SAME_BITS),
    K_KERNEL(log, check_log, bench_log, K_SAME_BITS),
    K_KERNEL(sigmoid, check_sigmoid, bench_sigmoid, K_SAME_BITS),
    K_KERNEL(tanh, check_tanh, bench_tanh, K_SAME_BITS),
    K_KERNEL(erf, check_erf, bench_erf, K_SAME_BITS),
    K_KERNEL(silu_fwd, check_silu_fwd, bench_silu_fwd, 0),
    K_KERNEL(silu_bwd, check_silu_bwd, bench_silu_bwd, 0),
    K_KERNEL(gelu_fwd, check_gelu_fwd, bench_gelu_fwd, 0),
    K_KERNEL(gelu_bwd, check_gelu_bwd, bench_gelu_bwd, 0),
    K_KERNEL(swiglu_fwd, check_swiglu_fwd, bench_swiglu_fwd, 0),
    K_KERNEL(swiglu_bwd, check_swiglu_bwd, bench_swiglu_bwd, 0),
    K_KERNEL(sigmoid_bwd, check_sigmoid_bwd, bench_sigmoid_bwd, 0),
    K_KERNEL(tanh_bwd, check_tanh_bwd, bench_tanh_bwd, 0),
    K_KERNEL(relu_fwd, check_relu_fwd, bench_relu_fwd, 0),
    K_KERNEL(relu_bwd, check_relu_bwd, bench_relu_bwd, 0),
    K_KERNEL(gate_mul, check_gate_mul, bench_gate_mul, 0),
    K_KERNEL(gate_fwd, check_gate_fwd, bench_gate_fwd, 0),
    K_KERNEL(gate_bwd, check_gate_bwd, bench_gate_bwd, 0),
    K_KERNEL(add, check_add, bench_add, 0),
    K_KERNEL(scale, check_scale, bench_scale, 0),
    {0},
};
