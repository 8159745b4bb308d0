#include "probe/detail.h"

#include <math.h>

void sl_anchor_sums_add(sl_anchor_sums *s, const sl_anchor_layout *l, int part, const float *const coef[2]) {
    for (int p = 0; p < l->parts; p++) {
        int64_t from = l->first[p] * l->head_dim, to = l->first[p + 1] * l->head_dim;
        for (int i = 0; i < 2; i++)
            for (int64_t j = from; j < to; j++)
                s->coef[i][part + p] += fabs((double)coef[i][j]) / (double)(to - from);
        s->rows[part + p]++;
    }
}

/* What an element of the key of token 0 has of x, where x + other became that key: the norm of keys and RoPE, which
 * turns nothing at position 0, multiply both by one number. */
static double share_of(float key, double x, double other) {
    double both = x + other;
    return both != 0 ? (double)key * x / both : 0;
}

void sl_anchor_sums_add_logits(sl_anchor_sums *s, const sl_attention_rows *a, int64_t window,
                               const float *const mixed[2]) {
    int64_t last = a->window > 0 && a->window < a->seq ? a->window : a->seq;
    for (int64_t h = 0; h < a->heads; h++) {
        int64_t kv = h / (a->heads / a->kv_heads);
        const float *key = a->k + window * a->seq * a->ld + kv * a->head_dim;
        for (int64_t t = 1; t < last; t++) {
            const float *q = a->q + (window * a->seq + t) * a->ld + h * a->head_dim;
            for (int64_t j = 0; j < a->head_dim; j++) {
                double x[2] = {mixed[0][kv * a->head_dim + j], mixed[1][kv * a->head_dim + j]};
                for (int i = 0; i < 2; i++)
                    s->logit[i] += (double)a->scale * (double)q[j] * share_of(key[j], x[i], x[1 - i]);
            }
            s->logits++;
        }
    }
}
