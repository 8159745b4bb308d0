#include "probe/detail.h"

#include "base/threads.h"
#include "simd/kernels.h"

#include <math.h>
#include <string.h>

/* What a head of a window comes to; summed over windows in their order. */
enum {
    SHARE,
    CONTRIBUTION = SHARE + SL_RECURRENCE_TOKENS,
    LOG_DECAY,
    DT0,
    DT,
    NORM0,
    NORM,
    NORM_HALF,
    NORM_END,
    PARTS
};

int64_t sl_recurrence_parts(int64_t windows, int64_t heads) { return windows * heads * PARTS; }
int64_t sl_recurrence_states(const sl_recurrence_rows *x) {
    return x->windows * x->heads * x->head_dim * x->state;
}

typedef struct {
    const sl_recurrence_rows *x;
    const sl_kernels *k;
    double *parts;
    float *states;
} adding;

/* The rows of one head in one window. */
typedef struct {
    const float *x, *b, *c, *dt, *decay;
    double skip;
} head_rows;

static head_rows rows_of(const sl_recurrence_rows *x, int64_t window, int64_t head) {
    int64_t row = window * x->seq * x->ld, group = head / (x->heads / x->groups);
    const float *dt = x->gates + (window * x->heads + head) * 2 * x->seq;
    return (head_rows){x->x + row + head * x->head_dim, x->b + row + group * x->state, x->c + row + group * x->state,
                       dt, dt + x->seq, x->skip[head]};
}

/* |A_tj| of query t for all j, from t back: the decay between only grows. Their sum, and with values. */
static void add_query(const adding *a, const head_rows *r, int64_t t, double *p) {
    const sl_recurrence_rows *x = a->x;
    double decay = 1, sum = 0, valued = 0, token[SL_RECURRENCE_TOKENS] = {0}, value0 = 0;
    for (int64_t j = t; j >= 0; j--) {
        double w = decay * r->dt[j] * a->k->dot(x->state, r->c + t * x->ld, r->b + j * x->ld);
        double size = fabs(j == t ? w + r->skip : w);
        double value = size * sqrt(a->k->sumsq(x->head_dim, r->x + j * x->ld));
        sum += size, valued += value;
        if (j < SL_RECURRENCE_TOKENS)
            token[j] = size;
        value0 = value;
        decay *= r->decay[j];
    }
    double queries = (double)(x->seq - SL_RECURRENCE_TOKENS);
    for (int j = 0; j < SL_RECURRENCE_TOKENS; j++)
        p[SHARE + j] += token[j] / sum / queries;
    p[CONTRIBUTION] += value0 / valued / queries;
}

static void add_gates(const adding *a, const head_rows *r, double *p) {
    int64_t n = a->x->seq;
    p[DT0] = r->dt[0];
    p[NORM0] = sqrt(a->k->sumsq(a->x->head_dim, r->x));
    for (int64_t t = 0; t < n; t++)
        p[LOG_DECAY] += log(fmax(r->decay[t], 0x1p-149)) / (double)n;
    for (int64_t t = 1; t < n; t++) {
        p[DT] += r->dt[t] / (double)(n - 1);
        p[NORM] += sqrt(a->k->sumsq(a->x->head_dim, r->x + t * a->x->ld)) / (double)(n - 1);
    }
}

static void add_state(const adding *a, const head_rows *r, float *h, double *p) {
    const sl_recurrence_rows *x = a->x;
    int64_t half = x->seq / 2, size = x->head_dim * x->state;
    memset(h, 0, (size_t)size * sizeof *h);
    a->k->ssd_fwd(half, x->head_dim, x->state, r->x, x->ld, r->dt, r->decay, r->b, r->c, x->ld, 0, h, 0, NULL, 0);
    p[NORM_HALF] = sqrt(a->k->sumsq(size, h));
    int64_t at = half * x->ld;
    a->k->ssd_fwd(x->seq - half, x->head_dim, x->state, r->x + at, x->ld, r->dt + half, r->decay + half, r->b + at,
                  r->c + at, x->ld, 0, h, 0, NULL, 0);
    p[NORM_END] = sqrt(a->k->sumsq(size, h));
}

static void add_item(void *ctx, int64_t item, int thread) {
    const adding *a = ctx;
    (void)thread;
    head_rows r = rows_of(a->x, item / a->x->heads, item % a->x->heads);
    double *p = a->parts + item * PARTS;
    memset(p, 0, PARTS * sizeof *p);
    for (int64_t t = SL_RECURRENCE_TOKENS; t < a->x->seq; t++)
        add_query(a, &r, t, p);
    add_gates(a, &r, p);
    add_state(a, &r, a->states + item * a->x->head_dim * a->x->state, p);
}

/* |S|_F^2 / |S|_2^2 of a state; scratch: 3*head_dim + state. */
static double stable_rank(const sl_recurrence_rows *x, const float *state, double norm, double *scratch) {
    sl_matrix m = {state, x->head_dim, x->state};
    sl_linear map = sl_linear_matrix(&m);
    double top = sl_leading_singular(&map, scratch, scratch + x->head_dim).sigma;
    return norm * norm / (top * top);
}

void sl_recurrence_add(sl_recurrence *s, const sl_kernels *k, const sl_recurrence_rows *x, double *parts, float *states,
                       double *scratch) {
    adding a = {x, k, parts, states};
    sl_parallel(x->windows * x->heads, add_item, &a);
    for (int64_t i = 0; i < x->windows * x->heads; i++) {
        const double *p = parts + i * PARTS;
        sl_recurrence_sums *h = &s->head[i % x->heads];
        for (int j = 0; j < SL_RECURRENCE_TOKENS; j++)
            h->share[j] += p[SHARE + j];
        h->contribution += p[CONTRIBUTION];
        h->log_decay += p[LOG_DECAY];
        h->dt0 += p[DT0], h->dt += p[DT];
        h->norm0 += p[NORM0], h->norm += p[NORM];
        h->state_half += p[NORM_HALF], h->state_end += p[NORM_END];
        h->rank += stable_rank(x, states + i * x->head_dim * x->state, p[NORM_END], scratch);
    }
    s->windows += x->windows;
}
