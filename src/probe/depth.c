#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>

/* A token's row: row t of the weights. Its contributions are norms of a_i v_i, relative to their sum. */
static void add_row(sl_depth_sums *s, const sl_kernels *k, const sl_depth_rows *x, int64_t t) {
    const float *a = x->weight + t * s->sources;
    double entropy = 0, top = 0, sum = 0;
    for (int64_t i = 0; i < s->sources; i++) {
        const float *v = i < x->banked ? x->bank + t * x->ld + i * x->dim : x->apart[i - x->banked] + t * x->dim;
        s->weight[i] += (double)a[i];
        s->square[i] += (double)a[i] * (double)a[i];
        s->norm[i] += (double)a[i] * sqrt(k->sumsq(x->dim, v));
        entropy -= a[i] > 0 ? (double)a[i] * log((double)a[i]) : 0;
        top = (double)a[i] > top ? (double)a[i] : top;
        sum += (double)a[i];
    }
    s->entropy += entropy;
    s->top += top;
    s->null += 1 - sum;
    s->tokens++;
}

void sl_depth_add(sl_depth_sums *s, const sl_kernels *k, const sl_depth_rows *x) {
    for (int64_t w = 0; w < x->windows; w++) {
        for (int64_t t = w * x->seq + 1; t < (w + 1) * x->seq; t++)
            add_row(s, k, x, t);
        for (int64_t i = 0; i < s->sources; i++)
            s->weight0[i] += (double)x->weight[w * x->seq * s->sources + i];
    }
    s->windows += x->windows;
}

double sl_depth_constant_share(const sl_depth_sums *s) {
    double constant = 0, all = 0, n = (double)s->tokens;
    for (int64_t i = 0; i < s->sources; i++) {
        constant += s->weight[i] / n * (s->weight[i] / n);
        all += s->square[i] / n;
    }
    return constant / all;
}

/* ---- null evidence */

typedef struct {
    const sl_attention_rows *a;
    const sl_kernels *k;
    double *parts;
    float *rows;
} evidence_job;

/* A head of a window. */
static void evidence_item(void *ctx, int64_t item, int thread) {
    const evidence_job *j = ctx;
    const sl_attention_rows *a = j->a;
    int64_t first = item / a->heads * a->seq, head = item % a->heads, kv = head / (a->heads / a->kv_heads);
    float *s = j->rows + thread * sl_attention_thread_floats(a->seq), *p = s + sl_attention_thread_floats(a->seq) / 2;
    double *part = j->parts + 2 * item;
    part[0] = part[1] = 0;
    for (int64_t t = 0; t < a->seq; t++) {
        double left = 1;
        sl_attention_row(a, j->k, head, a->q + (first + t) * a->ld + head * a->head_dim,
                         a->k + first * a->ld + kv * a->head_dim, t + 1, s, p);
        for (int64_t i = 0; i <= t; i++)
            left -= (double)p[i];
        part[t > 0] += left;
    }
}

void sl_null_evidence_add(sl_null_evidence *s, const sl_kernels *k, const sl_attention_rows *a, double *parts,
                          float *rows) {
    evidence_job j = {a, k, parts, rows};
    sl_parallel(a->windows * a->heads, evidence_item, &j);
    for (int64_t i = 0; i < a->windows * a->heads; i++) {
        s->token0 += parts[2 * i] / (double)a->heads;
        s->others += parts[2 * i + 1] / (double)a->heads;
    }
    s->windows += a->windows;
    s->seq = a->seq;
}
