/* Figures of a recurrent mixer beside the matrix of its weights, written down whole in double. */
#include "base/rng.h"
#include "base/threads.h"
#include "probe/detail.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { WINDOWS = 2, SEQ = 19, HEADS = 4, P = 3, GROUPS = 2, N = 5, TOKENS = SL_RECURRENCE_TOKENS };
enum { LD = HEADS * P + 2 * GROUPS * N + 3 };

typedef struct {
    float rows[WINDOWS * SEQ * LD], gates[WINDOWS * HEADS * 2 * SEQ], skip[HEADS];
    sl_recurrence_rows r;
} example;

static void make(example *e) {
    sl_rng r = sl_rng_make(5, SL_STREAM_TEST, 0);
    for (int i = 0; i < WINDOWS * SEQ * LD; i++)
        e->rows[i] = (float)sl_rng_normal(&r);
    for (int i = 0; i < WINDOWS * HEADS * 2 * SEQ; i++)
        e->gates[i] = (float)(i / SEQ % 2 ? 0.5 + 0.5 * sl_rng_uniform(&r) : sl_rng_uniform(&r));
    for (int h = 0; h < HEADS; h++)
        e->skip[h] = (float)sl_rng_normal(&r);
    const float *x = e->rows + 1, *b = x + HEADS * P, *c = b + GROUPS * N;
    e->r = (sl_recurrence_rows){WINDOWS, SEQ, HEADS, P, GROUPS, N, x, b, c, LD, e->gates, e->skip};
}

static double norm(const double *x, int n) {
    double s = 0;
    for (int i = 0; i < n; i++)
        s += x[i] * x[i];
    return sqrt(s);
}

/* |S|_F^2 / |S|_2^2 of S [P, N] from the eigenvalues of S S^T by many squarings: trace(G^k)^(1/k) is the largest. */
static double rank_of(const double *s) {
    double g[P * P] = {0}, trace = 0, scale = 0, top = 0;
    for (int i = 0; i < P * P; i++)
        for (int j = 0; j < N; j++)
            g[i] += s[i / P * N + j] * s[i % P * N + j];
    for (int i = 0; i < P; i++)
        trace += g[i * P + i];
    for (int step = 0, power = 1; step < 12; step++, power *= 2) {
        double sum = 0, next[P * P] = {0};
        for (int i = 0; i < P; i++)
            sum += g[i * P + i];
        scale += log(sum) / power;
        for (int i = 0; i < P * P; i++)
            g[i] /= sum;
        top = exp(scale);
        for (int i = 0; i < P * P; i++)
            for (int k = 0; k < P; k++)
                next[i] += g[i / P * P + k] * g[k * P + i % P];
        memcpy(g, next, sizeof g);
    }
    return trace / top;
}

/* Adds what one head of one window is to give. */
static void expect(const example *e, int w, int h, sl_recurrence_sums *s) {
    const float *dt = e->gates + (w * HEADS + h) * 2 * SEQ, *decay = dt + SEQ;
    double state[P * N] = {0}, size[SEQ];
    int group = h / (HEADS / GROUPS);
    for (int t = 0; t < SEQ; t++) {
        const float *x = e->r.x + (w * SEQ + t) * LD + h * P, *b = e->r.b + (w * SEQ + t) * LD + group * N;
        double wide[P], sum = 0, valued = 0, a[SEQ];
        for (int i = 0; i < P; i++)
            wide[i] = x[i];
        size[t] = norm(wide, P);
        for (int i = 0; i < P * N; i++)
            state[i] = decay[t] * state[i] + (double)dt[t] * x[i / N] * b[i % N];
        for (int j = 0; j <= t; j++) {
            const float *bj = e->r.b + (w * SEQ + j) * LD + group * N, *c = e->r.c + (w * SEQ + t) * LD + group * N;
            double dot = 0, between = 1;
            for (int i = 0; i < N; i++)
                dot += (double)c[i] * bj[i];
            for (int i = j + 1; i <= t; i++)
                between *= decay[i];
            a[j] = fabs(dot * between * dt[j] + (j == t ? e->skip[h] : 0));
            sum += a[j], valued += a[j] * size[j];
        }
        for (int j = 0; t >= TOKENS && j < TOKENS; j++)
            s->share[j] += a[j] / sum / (SEQ - TOKENS);
        s->contribution += t >= TOKENS ? a[0] * size[0] / valued / (SEQ - TOKENS) : 0;
        s->log_decay += log(decay[t]) / SEQ;
        *(t ? &s->dt : &s->dt0) += t ? (double)dt[t] / (SEQ - 1) : dt[t];
        *(t ? &s->norm : &s->norm0) += t ? size[t] / (SEQ - 1) : size[t];
        s->state_half += t == SEQ / 2 - 1 ? norm(state, P * N) : 0;
    }
    s->state_end += norm(state, P * N);
    s->rank += rank_of(state);
}

static void add(const example *e, sl_recurrence *s) {
    double parts[1024], scratch[3 * P + N];
    float states[WINDOWS * HEADS * P * N];
    ck_assert(sl_recurrence_parts(WINDOWS, HEADS) <= 1024 && sl_recurrence_states(&e->r) == WINDOWS * HEADS * P * N);
    sl_recurrence_add(s, sl_kernels_select(SL_ISA_AUTO), &e->r, parts, states, scratch);
}

START_TEST(figures_are_those_of_the_whole_matrix) {
    static example e;
    sl_recurrence_sums got[HEADS] = {0}, want[HEADS] = {0};
    sl_recurrence s = {0, got};
    make(&e);
    add(&e, &s);
    add(&e, &s);
    ck_assert_int_eq(s.windows, 2 * WINDOWS);
    for (int h = 0; h < HEADS; h++) {
        for (int w = 0; w < 2 * WINDOWS; w++)
            expect(&e, w % WINDOWS, h, &want[h]);
        const double *a = (const double *)&got[h], *b = (const double *)&want[h];
        for (size_t i = 0; i < sizeof *want / sizeof(double); i++) /* fp32 sums of a few terms */
            ck_assert_msg(fabs(a[i] - b[i]) <= 1e-5 * (1 + fabs(b[i])), "head %d, figure %d: %g, not %g", h, (int)i,
                          a[i], b[i]);
    }
}
END_TEST

START_TEST(threads_do_not_matter) {
    static example e;
    sl_recurrence_sums one[HEADS] = {0}, many[HEADS] = {0};
    make(&e);
    sl_threads_set(1);
    add(&e, &(sl_recurrence){0, one});
    sl_threads_set(3);
    add(&e, &(sl_recurrence){0, many});
    ck_assert_mem_eq(one, many, sizeof one);
    sl_threads_set(0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("recurrence");
    TCase *t = tcase_create("recurrence");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, figures_are_those_of_the_whole_matrix);
    tcase_add_test(t, threads_do_not_matter);
    suite_add_tcase(s, t);
    return run_suite(s);
}
