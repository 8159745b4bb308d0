/* Kernels broken on purpose: each must be caught, and for the right reason. */
#include "kern.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static float sink(float x) { /* keeps a read */
    static volatile float s;
    return s = x;
}

static const sl_kernels *good(void) { return sl_kernels_tier(SL_ISA_SCALAR); }

static void over_read(int64_t n, float a, float *x) {
    sink(x[n]);
    good()->scale(n, a, x);
}
static void under_read(int64_t n, float a, float *x) {
    sink(x[-1]);
    good()->scale(n, a, x);
}
static void over_write(int64_t n, float a, float *x) {
    good()->scale(n, a, x);
    if (n)
        x[n] = 1;
}
static void under_write(int64_t n, float a, float *x) {
    good()->scale(n, a, x);
    x[-1] = 1;
}
static void short_tail(int64_t n, float a, float *x) { good()->scale(n > 4 ? n - 1 : n, a, x); }
static void no_nan(int64_t n, float a, float *x) {
    good()->scale(n, a, x);
    for (int64_t i = 0; i < n; i++)
        x[i] = isnan(x[i]) ? 0 : x[i];
}
static void illegal(int64_t n, float a, float *x) {
    good()->scale(n, a, x);
    raise(SIGILL);
}
static void division(int64_t n, float a, float *x) {
    good()->scale(n, a, x);
    raise(SIGFPE);
}
static void input_changed(int64_t n, const float *x, float *y) {
    good()->add(n, x, y);
    if (n)
        ((float *)(uintptr_t)x)[n / 2] = 7;
}
static void zero_sign(int64_t n, const float *x, float *y) {
    good()->add(n, x, y);
    for (int64_t i = 0; i < n; i++)
        y[i] += 0.0f;
}
static void unwritten(int64_t n, const float *x, float *y) {
    if (n)
        good()->silu_fwd(n - 1, x, y);
}
static void not_in_place(int64_t n, const float *x, float *y) {
    if (n)
        memset(y, 0, (size_t)n * sizeof *y);
    good()->silu_fwd(n, x, y);
}
static void byte_unwritten(int64_t n, const uint8_t *code, uint8_t *packed) {
    good()->quant_pack4(n - n % 2, code, packed);
}
static void rounded_better(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)exp((double)x[i]);
}
static float unsteady(int64_t n, const float *x, const float *y) {
    static int calls;
    float r = good()->dot(n, x, y);
    return n > 30 && ++calls % 2 ? nextafterf(r, INFINITY) : r;
}
static float by_address(int64_t n, const float *x, const float *y) {
    float r = good()->dot(n, x, y);
    return n > 30 && (uintptr_t)x % 64 == 4 ? nextafterf(r, INFINITY) : r;
}
static void gap_write(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                      float eps, float *y, int64_t ldy, float *rstd) {
    good()->rmsnorm_fwd(rows, d, x, ldx, w, eps, y, ldy, rstd);
    if (rows > 1 && d && ldy > d)
        y[d] = 0;
}
static void eps_outside(int64_t rows, int64_t d, const float *x, int64_t ldx, const float *w,
                        float eps, float *y, int64_t ldy, float *rstd) {
    good()->rmsnorm_fwd(rows, d, x, ldx, w, 0, y, ldy, rstd);
    for (int64_t i = 0; i < rows; i++) {
        float r = 1 / (1 / rstd[i] + eps);
        for (int64_t j = 0; j < d; j++)
            y[i * ldy + j] *= r / rstd[i];
        rstd[i] = r;
    }
}

#define BROKEN(what, kernel, fn, says)                                                             \
    { what, #kernel, offsetof(sl_kernels, kernel), (void (*)(void))fn, says }
static const struct {
    const char *what, *kernel;
    size_t member;
    void (*fn)(void);
    const char *says; /* part of the failure */
} broken[] = {
    BROKEN("reads one past the end", scale, over_read, "the byte 0 past the end of 'x'"),
    BROKEN("reads one before", scale, under_read, "before 'x'"),
    BROKEN("writes one past the end", scale, over_write, "past the end of"),
    BROKEN("writes one before", scale, under_write, "wrote the byte -"),
    BROKEN("leaves out the last element", scale, short_tail, "exactly"),
    BROKEN("swallows NaN", scale, no_nan, "nan exactly"),
    BROKEN("raises SIGILL", scale, illegal, "llegal instruction"),
    BROKEN("raises SIGFPE", scale, division, "loating point exception"),
    BROKEN("changes its input", add, input_changed, "changed row 0 of its input 'x'"),
    BROKEN("loses the sign of zero", add, zero_sign, "want -0 exactly"),
    BROKEN("leaves an output unwritten", silu_fwd, unwritten, "was not written"),
    BROKEN("leaves an odd code out", quant_pack4, byte_unwritten, "packed[0][0]"),
    BROKEN("cannot work in place", silu_fwd, not_in_place, "alias y=x"),
    BROKEN("differs from another tier", exp, rounded_better, "differ from the first tier"),
    BROKEN("differs from call to call", dot, unsteady, "in the first run"),
    BROKEN("depends on the alignment", dot, by_address, "in the first run"),
    BROKEN("writes between rows", rmsnorm_fwd, gap_write, "past the end of row 0 of"),
    BROKEN("eps outside the root", rmsnorm_fwd, eps_outside, "times the bound"),
    BROKEN("is missing", rmsnorm_fwd, NULL, "missing"),
};

static const k_kernel *find(const char *name) {
    const k_kernel *const lists[] = {k_act, k_norm, k_attention, k_quant};
    for (size_t l = 0; l < sizeof lists / sizeof *lists; l++)
        for (const k_kernel *k = lists[l]; k->name; k++)
            if (strcmp(k->name, name) == 0)
                return k;
    return NULL;
}

int k_selftest(uint64_t seed) {
    int caught = 0, missed = 0;
    printf("kern: seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        sl_kernels tier = *good();
        memcpy((char *)&tier + broken[i].member, &broken[i].fn, sizeof broken[i].fn);
        const k_kernel *kernel = find(broken[i].kernel);
        k_result right, wrong;
        k_check(kernel, good(), seed, 1, 1, &right);
        k_check(kernel, &tier, seed, 1, 0, &wrong);
        int ok = !right.failure[0] && strstr(wrong.failure, broken[i].says) != NULL;
        printf("  %-12s %-28s %s  %s\n", broken[i].kernel, broken[i].what, ok ? "caught" : "MISSED",
               wrong.failure);
        ok ? caught++ : missed++;
    }
    printf("%d passed, %d failed\n", caught, missed);
    return missed != 0;
}
