#include "probe/measures.h"

#include "base/threads.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

typedef struct {
    const sl_attention_rows *a;
    const sl_kernels *k;
    double *parts; /* per (window, head): att0, entropy; then per (window, kv head): v0, v_others; then per (window,
                      head): att0 of unmarked queries and of marked ones, sums */
    float *rows;
} attention_job;

int64_t sl_attention_parts(const sl_attention_rows *a) {
    return 2 * a->windows * (2 * a->heads + a->kv_heads);
}

/* Whole cache lines, so that threads do not share one. */
static int64_t row_floats(int64_t seq) { return (seq + 15) / 16 * 16; }

int64_t sl_attention_thread_floats(int64_t seq) { return 2 * row_floats(seq); }

/* Weights of one query over keys 0..n-1 into p. Returns -sum p log p. Where no weight is above 1 (all kinds but relu)
 * its terms have one sign and nothing cancels. */
double sl_attention_row(const sl_attention_rows *a, const sl_kernels *k, int64_t head, const float *q,
                        const float *keys, int64_t n, float *s, float *p) {
    const sl_attention_kernels *kind = a->kind ? a->kind : &k->attention[SL_ROWS_softmax];
    sl_attend attend = a->attend;
    attend.scale = a->scale;
    attend.band = (sl_band){a->window && a->window < n ? n - a->window : 0, n};
    float stat, extra = a->extra ? a->extra(a->ctx, a->layer, head, q) : 0;
    for (int64_t t = attend.band.lo; t < n; t++)
        p[t] = k->dot(a->head_dim, q, keys + t * a->ld);
    if (a->cap.in > 0)
        k->softcap_fwd(n - attend.band.lo, a->cap.in, a->cap.out, p + attend.band.lo);
    kind->fwd(1, n, p, n, &attend, a->extra ? &extra : NULL, &stat);
    for (int64_t t = 0; t < n; t++)
        s[t] = p[t] < FLT_MIN ? FLT_MIN : p[t]; /* 0 log 0 = 0; a NaN stays */
    k->log(n, s, s);
    return -(double)k->dot(n, p, s);
}

static double *marked_parts(const attention_job *j) {
    return j->parts + 2 * j->a->windows * (j->a->heads + j->a->kv_heads);
}

static void attention_item(void *ctx, int64_t item, int thread) {
    const attention_job *j = ctx;
    const sl_attention_rows *a = j->a;
    int64_t window = item / a->heads, head = item % a->heads;
    int64_t kv_head = head / (a->heads / a->kv_heads);
    const float *q = a->q + window * a->seq * a->ld + head * a->head_dim;
    const float *keys = a->k + window * a->seq * a->ld + kv_head * a->head_dim;
    float *s = j->rows + thread * sl_attention_thread_floats(a->seq), *p = s + row_floats(a->seq);
    double att0 = 0, entropy = 0, *apart = marked_parts(j) + 2 * item;
    apart[0] = apart[1] = 0;
    for (int64_t t = 1; t < a->seq; t++) {
        entropy += sl_attention_row(a, j->k, head, q + t * a->ld, keys, t + 1, s, p);
        att0 += p[0];
        if (a->mark)
            apart[a->mark[window * a->seq + t]] += p[0];
    }
    j->parts[2 * item] = att0 / (double)(a->seq - 1);
    j->parts[2 * item + 1] = entropy / (double)(a->seq - 1);
}

static void value_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const attention_job *j = ctx;
    const sl_attention_rows *a = j->a;
    int64_t window = item / a->kv_heads, kv_head = item % a->kv_heads;
    const float *v = a->v + window * a->seq * a->ld + kv_head * a->head_dim;
    double *part = j->parts + 2 * (a->windows * a->heads + item), others = 0;
    for (int64_t t = 1; t < a->seq; t++)
        others += sqrt(j->k->sumsq(a->head_dim, v + t * a->ld));
    part[0] = sqrt(j->k->sumsq(a->head_dim, v));
    part[1] = others / (double)(a->seq - 1);
}

/* Adds windows x n pairs to two arrays of n sums, in order of the windows. */
static void fold(int64_t windows, int64_t n, const double *pairs, double *first, double *second) {
    for (int64_t w = 0; w < windows; w++)
        for (int64_t i = 0; i < n; i++) {
            first[i] += pairs[2 * (w * n + i)];
            second[i] += pairs[2 * (w * n + i) + 1];
        }
}

static void count_marks(sl_attention *s, const sl_attention_rows *a) {
    for (int64_t i = 0; i < a->windows * a->seq; i++)
        if (i % a->seq)
            *(a->mark[i] ? &s->marked : &s->unmarked) += 1;
}

void sl_attention_add(sl_attention *s, const sl_kernels *k, const sl_attention_rows *a, double *parts,
                      float *rows) {
    attention_job job = {a, k, parts, rows};
    sl_parallel(a->windows * a->heads, attention_item, &job);
    sl_parallel(a->windows * a->kv_heads, value_item, &job);
    fold(a->windows, a->heads, parts, s->att0, s->entropy);
    fold(a->windows, a->kv_heads, parts + 2 * a->windows * a->heads, s->v0, s->v_others);
    if (a->mark) {
        fold(a->windows, a->heads, marked_parts(&job), s->att0_unmarked, s->att0_marked);
        count_marks(s, a);
    }
    s->windows += a->windows;
}

double sl_attention_att0(const sl_attention *s, int64_t head) {
    return s->att0[head] / (double)s->windows;
}

double sl_attention_att0_of(const sl_attention *s, int64_t head, bool marked) {
    int64_t n = marked ? s->marked : s->unmarked;
    return n ? (marked ? s->att0_marked : s->att0_unmarked)[head] / (double)n : NAN;
}

double sl_attention_entropy(const sl_attention *s, int64_t head) {
    return s->entropy[head] / (double)s->windows;
}

double sl_attention_value_ratio(const sl_attention *s, int64_t kv_head) {
    return s->v0[kv_head] / s->v_others[kv_head];
}

double sl_sink_rate(int64_t n, const double *att0) {
    int64_t sinks = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(att0[i]))
            return NAN;
        sinks += att0[i] > .3;
    }
    return (double)sinks / (double)n;
}
