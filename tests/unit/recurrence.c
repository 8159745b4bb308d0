/* Figures of mixers with a state beside the matrix of their weights, written down whole in double: from the decays
 * between two positions and, of the delta rule, the solution of a triangular system, which the probe never makes. */
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "probe/detail.h"
#include "suite.h"

#include <math.h>
#include <string.h>

enum { WINDOWS = 2, SEQ = 19, HEADS = 2, V = 3, K = 5, FIRST = 7, TOKENS = SL_RECURRENCE_TOKENS };

/* Heads of all windows, one after the other. */
typedef struct {
    float q[SEQ * K], k[SEQ * K], v[SEQ * V], decay[SEQ], weight[SEQ], length[SEQ], skip;
} head;
typedef struct {
    head of[WINDOWS * HEADS];
    sl_recurrence_rows r;
} example;

static void read_head(const void *ctx, int64_t window, int64_t h, sl_recurrence_head *to) {
    const head *from = &((const example *)ctx)->of[window * HEADS + h];
    memcpy(to->q, from->q, sizeof from->q), memcpy(to->k, from->k, sizeof from->k);
    memcpy(to->v, from->v, sizeof from->v), memcpy(to->decay, from->decay, sizeof from->decay);
    memcpy(to->weight, from->weight, sizeof from->weight), memcpy(to->length, from->length, sizeof from->length);
    to->skip = from->skip;
}

static void fill(sl_rng *r, int n, float *x) {
    for (int i = 0; i < n; i++)
        x[i] = (float)sl_rng_normal(r);
}

/* With the rule keys have length 1, so that nothing grows. */
static void make(example *e, bool rule) {
    sl_rng r = sl_rng_make(5, SL_STREAM_TEST, 0);
    for (int i = 0; i < WINDOWS * HEADS; i++) {
        head *h = &e->of[i];
        fill(&r, SEQ * K, h->q), fill(&r, SEQ * K, h->k), fill(&r, SEQ * V, h->v), fill(&r, 1, &h->skip);
        for (int t = 0; t < SEQ; t++) {
            double square = 0;
            for (int c = 0; c < K; c++)
                square += (double)h->k[t * K + c] * h->k[t * K + c];
            h->length[t] = (float)sqrt(square);
            for (int c = 0; rule && c < K; c++)
                h->k[t * K + c] /= h->length[t];
            h->decay[t] = (float)(0.5 + 0.5 * sl_rng_uniform(&r));
            h->weight[t] = (float)(2 * sl_rng_uniform(&r));
        }
    }
    e->r = (sl_recurrence_rows){.of = {.heads = HEADS, .key_dim = K, .value_dim = V, .rule = rule, .decays = true,
                                       .weighs = true},
                                .windows = WINDOWS, .seq = SEQ, .first = FIRST,
                                .eps = 0.3, .read = read_head, .ctx = e};
}

static double dot(const float *a, const float *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static double between(const head *h, int j, int t) {
    double product = 1;
    for (int i = j + 1; i <= t; i++)
        product *= h->decay[i];
    return product;
}

/* What o_t holds of v_j. Column j of (I + L)^-1 diag(weight), by forward substitution, then the rows q k^T. */
static void whole_matrix(const head *h, bool rule, double a[SEQ][SEQ]) {
    for (int j = 0; j < SEQ; j++) {
        double u[SEQ] = {0};
        u[j] = h->weight[j];
        for (int t = j + 1; rule && t < SEQ; t++)
            for (int i = j; i < t; i++)
                u[t] -= h->weight[t] * dot(h->k + t * K, h->k + i * K, K) * between(h, i, t) * u[i];
        for (int t = 0; t < SEQ; t++) {
            a[t][j] = t == j ? h->skip : 0;
            for (int i = j; i <= t; i++)
                a[t][j] += dot(h->q + t * K, h->k + i * K, K) * between(h, i, t) * u[i];
        }
    }
}

/* S_t [V, K] from all that was written, v_j and, with the rule, less what was there. */
static void state_at(const head *h, bool rule, int end, double s[V * K]) {
    memset(s, 0, V * K * sizeof *s);
    for (int t = 0; t <= end; t++)
        for (int c = 0; c < V; c++) {
            double *row = s + c * K, had = 0;
            for (int i = 0; i < K; i++)
                had += (row[i] *= h->decay[t]) * h->k[t * K + i];
            for (int i = 0; i < K; i++)
                row[i] += h->weight[t] * (h->v[t * V + c] - (rule ? had : 0)) * h->k[t * K + i];
        }
}

static double norm(const double *x, int n) {
    double s = 0;
    for (int i = 0; i < n; i++)
        s += x[i] * x[i];
    return sqrt(s);
}

/* |S|_F^2 / |S|_2^2 of S [V, K] from the eigenvalues of S S^T by many squarings: trace(G^k)^(1/k) is the largest. */
static double rank_of(const double *s) {
    double g[V * V] = {0}, trace = 0, scale = 0, top = 0;
    for (int i = 0; i < V * V; i++)
        for (int j = 0; j < K; j++)
            g[i] += s[i / V * K + j] * s[i % V * K + j];
    for (int i = 0; i < V; i++)
        trace += g[i * V + i];
    for (int step = 0, power = 1; step < 12; step++, power *= 2) {
        double sum = 0, next[V * V] = {0};
        for (int i = 0; i < V; i++)
            sum += g[i * V + i];
        scale += log(sum) / power;
        for (int i = 0; i < V * V; i++)
            g[i] /= sum;
        top = exp(scale);
        for (int i = 0; i < V * V; i++)
            for (int k = 0; k < V; k++)
                next[i] += g[i / V * V + k] * g[k * V + i % V];
        memcpy(g, next, sizeof g);
    }
    return trace / top;
}

static void expect_row(const head *h, const double *a, int t, sl_recurrence_sums *s) {
    double o[V] = {0}, all = 0, whole = 0, value0 = sqrt(dot(h->v, h->v, V));
    for (int j = 0; j <= t; j++) {
        all += fabs(a[j]);
        whole += fabs(a[j]) * sqrt(dot(h->v + j * V, h->v + j * V, V));
        for (int c = 0; c < V; c++)
            o[c] += a[j] * h->v[j * V + c];
    }
    double square = norm(o, V) * norm(o, V) / V;
    *(t ? &s->rms : &s->rms0) += sqrt(square);
    s->below_eps += square < 0.3;
    if (t < FIRST)
        return;
    s->queries++;
    for (int j = 0; j < TOKENS; j++)
        s->share[j] += fabs(a[j]) / all;
    s->contribution += fabs(a[0]) * value0 / whole;
    s->over_output += fabs(a[0]) * value0 / norm(o, V);
}

/* What is left of v_0 in the last state, by v_0: the state of a window whose other values are 0. */
static double left_of_first(const head *h, bool rule) {
    head only = *h;
    double s[V * K];
    memset(only.v + V, 0, (SEQ - 1) * V * sizeof *only.v);
    state_at(&only, rule, SEQ - 1, s);
    return norm(s, V * K);
}

static void expect(const head *h, bool rule, sl_recurrence_sums *s) {
    double a[SEQ][SEQ], state[V * K], most = 0;
    whole_matrix(h, rule, a);
    s->windows++;
    for (int t = 0; t < SEQ; t++) {
        expect_row(h, a[t], t, s);
        *(t ? &s->weight : &s->weight0) += h->weight[t];
        *(t ? &s->key : &s->key0) += h->length[t];
        *(t ? &s->value : &s->value0) += sqrt(dot(h->v + t * V, h->v + t * V, V));
        s->tokens += t > 0, s->decay += t ? h->decay[t] : 0, s->log_decay += t ? log(h->decay[t]) : 0;
    }
    state_at(h, rule, SEQ / 2 - 1, state);
    s->half += norm(state, V * K);
    state_at(h, rule, SEQ - 1, state);
    s->states++, s->end += norm(state, V * K), s->rank += rank_of(state);
    for (int i = 0; i < V * K; i++)
        most = fmax(most, fabs(state[i]));
    s->peak += most * sqrt(V * K) / norm(state, V * K);
    s->token0 += left_of_first(h, rule) / norm(state, V * K);
}

static void add(const example *e, sl_recurrence_sums *sums) {
    sl_recurrence_room n = sl_recurrence_needs(&e->r);
    sl_recurrence_scratch s = {sl_alloc((size_t)n.parts * sizeof *s.parts, "parts"),
                               sl_alloc((size_t)n.floats * sizeof *s.floats, "floats"),
                               sl_alloc((size_t)n.doubles * sizeof *s.doubles, "doubles")};
    ck_assert(s.parts && s.floats && s.doubles);
    sl_recurrence_add(sums, &e->r, &s);
    sl_free(s.parts), sl_free(s.floats), sl_free(s.doubles);
}

/* Inputs are floats and all else is double; what is kept as float, |A|, |v| and the last state, rounds 1e-7 of itself,
 * and no sum cancels. Sums with differences, A and the state, lie within 1e3 of their parts. */
START_TEST(figures_are_those_of_the_whole_matrix) {
    static example e;
    sl_recurrence_sums got[HEADS] = {0}, want[HEADS] = {0};
    make(&e, _i);
    add(&e, got);
    add(&e, got);
    for (int h = 0; h < HEADS; h++) {
        for (int w = 0; w < 2 * WINDOWS; w++)
            expect(&e.of[w % WINDOWS * HEADS + h], _i, &want[h]);
        const double *a = (const double *)&got[h], *b = (const double *)&want[h];
        for (size_t i = 0; i < sizeof *want / sizeof(double); i++)
            ck_assert_msg(fabs(a[i] - b[i]) <= 1e-6 * (1 + fabs(b[i])), "head %d, figure %d: %g, not %g", h, (int)i,
                          a[i], b[i]);
    }
}
END_TEST

/* The same heads as decays of channels that are all alike: what is taken away is of the state before it fades. */
static void read_channels(const void *ctx, int64_t window, int64_t h, sl_recurrence_head *to) {
    read_head(ctx, window, h, to);
    for (int64_t i = 0; i < SEQ * K; i++) {
        int64_t t = i / K;
        to->fade[i] = to->decay[t], to->read[i] = to->k[i];
        to->erase[i] = to->decay[t] * to->weight[t] * to->k[i];
        to->k[i] *= to->weight[t];
    }
}

START_TEST(decays_of_channels_are_those_of_heads) {
    static example e;
    sl_recurrence_sums one[HEADS] = {0}, other[HEADS] = {0};
    make(&e, true);
    add(&e, one);
    e.r.of.channels = true, e.r.read = read_channels;
    add(&e, other);
    const double *a = (const double *)one, *b = (const double *)other;
    for (size_t i = 0; i < HEADS * (sizeof *one / sizeof(double)); i++)
        ck_assert_msg(fabs(a[i] - b[i]) <= 1e-5 * (1 + fabs(a[i])), "figure %d: %g, not %g", (int)i, b[i], a[i]);
}
END_TEST

/* A state that is never written to, and a NaN. */
START_TEST(what_cannot_be_told) {
    static example e;
    sl_recurrence_sums sums[HEADS] = {0};
    make(&e, true);
    for (int i = 0; i < WINDOWS; i++) {
        memset(e.of[i * HEADS].weight, 0, sizeof e.of[i * HEADS].weight);
        e.of[i * HEADS].skip = 0;
        e.of[i * HEADS + 1].v[3 * V] = NAN;
    }
    add(&e, sums);
    ck_assert(sums[0].queries == 0 && sums[0].states == 0 && sums[0].rank == 0 && sums[0].below_eps == WINDOWS * SEQ);
    ck_assert(isnan(sums[1].contribution) && isnan(sums[1].end) && isnan(sums[1].rms) && !isnan(sums[1].weight));
}
END_TEST

START_TEST(threads_do_not_matter) {
    static example e;
    sl_recurrence_sums one[HEADS] = {0}, many[HEADS] = {0};
    make(&e, true);
    sl_threads_set(1);
    add(&e, one);
    sl_threads_set(3);
    add(&e, many);
    ck_assert_mem_eq(one, many, sizeof one);
    sl_threads_set(0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("recurrence");
    TCase *t = tcase_create("recurrence");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, figures_are_those_of_the_whole_matrix, 0, 2);
    tcase_add_test(t, decays_of_channels_are_those_of_heads);
    tcase_add_test(t, what_cannot_be_told);
    tcase_add_test(t, threads_do_not_matter);
    suite_add_tcase(s, t);
    return run_suite(s);
}
