#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>

typedef struct {
    const sl_contribution_rows *c;
    const sl_kernels *k;
    double *parts; /* per window: part and whole of each head, then of the projection */
    float *scratch;
} job;

static int64_t lines(int64_t floats) { return (floats + 15) / 16 * 16; }

int64_t sl_contribution_parts(const sl_contribution_rows *c) {
    return c->rows.windows * 2 * (c->rows.heads + 1);
}

int64_t sl_contribution_thread_floats(const sl_contribution_rows *c) {
    const sl_attention_rows *a = &c->rows;
    return sl_attention_thread_floats(a->seq) + lines(a->heads * a->seq) + lines(a->heads * a->head_dim) +
           lines(c->dim);
}

/* Probability of token 0 for each query of a head into p0. */
static void add_head(const job *j, int64_t window, int64_t head, float *scratch, float *p0) {
    const sl_attention_rows *a = &j->c->rows;
    int64_t kv = head / (a->heads / a->kv_heads), first = window * a->seq, width = a->heads * a->head_dim;
    const float *q = a->q + first * a->ld + head * a->head_dim, *keys = a->k + first * a->ld + kv * a->head_dim;
    double value = sqrt(j->k->sumsq(a->head_dim, a->v + first * a->ld + kv * a->head_dim));
    double *part = j->parts + 2 * (window * (a->heads + 1) + head);
    float *p = scratch + sl_attention_thread_floats(a->seq) / 2;
    part[0] = part[1] = 0;
    for (int64_t t = 1; t < a->seq; t++) {
        sl_attention_row(a, j->k, head, q + t * a->ld, keys, t + 1, scratch, p);
        p0[t] = p[0];
        part[0] += p[0] * value;
        part[1] += sqrt(j->k->sumsq(a->head_dim, j->c->core + (first + t) * width + head * a->head_dim));
    }
}

/* |W x| */
static double projected_norm(const job *j, const float *x, float *y) {
    int64_t width = j->c->rows.heads * j->c->rows.head_dim;
    for (int64_t i = 0; i < j->c->dim; i++)
        y[i] = j->k->dot(width, j->c->w_out + i * width, x);
    return sqrt(j->k->sumsq(j->c->dim, y));
}

/* The part of a query's attention output that is token 0's, behind the gate (which multiplies each element). */
static void part_of(const sl_contribution_rows *c, int64_t window, int64_t t, const float *p0, float *part) {
    const sl_attention_rows *a = &c->rows;
    int64_t width = a->heads * a->head_dim, row = (window * a->seq + t) * width;
    for (int64_t i = 0; i < width; i++) {
        int64_t head = i / a->head_dim, kv = head / (a->heads / a->kv_heads);
        float core = c->core[row + i], gate = c->out_in == c->core ? 1 : core != 0 ? c->out_in[row + i] / core : 0;
        part[i] = gate * p0[head * a->seq + t] *
                  a->v[window * a->seq * a->ld + kv * a->head_dim + i % a->head_dim];
    }
}

static void window_item(void *ctx, int64_t window, int thread) {
    const job *j = ctx;
    const sl_attention_rows *a = &j->c->rows;
    float *s = j->scratch + thread * sl_contribution_thread_floats(j->c);
    float *p0 = s + sl_attention_thread_floats(a->seq), *part = p0 + lines(a->heads * a->seq);
    float *y = part + lines(a->heads * a->head_dim);
    double *sums = j->parts + 2 * (window * (a->heads + 1) + a->heads);
    for (int64_t head = 0; head < a->heads; head++)
        add_head(j, window, head, s, p0 + head * a->seq);
    sums[0] = sums[1] = 0;
    for (int64_t t = 1; t < a->seq; t++) {
        part_of(j->c, window, t, p0, part);
        sums[0] += projected_norm(j, part, y);
        sums[1] += projected_norm(j, j->c->out_in + (window * a->seq + t) * a->heads * a->head_dim, y);
    }
}

void sl_contribution_add(sl_contribution *s, const sl_kernels *k, const sl_contribution_rows *c, double *parts,
                         float *scratch) {
    job j = {c, k, parts, scratch};
    int64_t heads = c->rows.heads;
    sl_parallel(c->rows.windows, window_item, &j);
    for (int64_t w = 0; w < c->rows.windows; w++)
        for (int64_t h = 0; h <= heads; h++) {
            sl_share *share = h < heads ? &s->head[h] : &s->projected;
            share->part += parts[2 * (w * (heads + 1) + h)];
            share->whole += parts[2 * (w * (heads + 1) + h) + 1];
        }
}
