/* Attention of one new position a window over cached keys and values. saved[0]: keys, saved[1]: values
 * transposed; both [batch * kv_heads][...]. The caches live as long as the program. */
#include "ops/attention/attention.h"
#include "ops/attention/extra.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

static const sl_attention *of(const sl_op *op) { return op->own; }

/* item: of all windows' key/value heads. */
static void store(const sl_op *op, const sl_exec *x, int64_t item, int64_t position, const float *k, const float *v) {
    int64_t hd = of(op)->head_dim, cap = of(op)->cache;
    memcpy(sl_buf_data(x, op->saved[0]) + (item * cap + position) * hd, k, (size_t)hd * sizeof(float));
    for (int64_t j = 0; j < hd; j++)
        sl_buf_data(x, op->saved[1])[(item * hd + j) * cap + position] = v[j];
}

void sl_cached_attention_store(const sl_op *op, const sl_exec *x, int64_t window, int64_t position, const float *kv) {
    int64_t heads = of(op)->kv_heads, hd = of(op)->head_dim;
    for (int64_t h = 0; h < heads; h++)
        store(op, x, window * heads + h, position, kv + h * hd, kv + (heads + h) * hd);
}

static void forward_item(const sl_op *op, const sl_exec *x, sl_attention_item at, int worker) {
    int64_t hd = of(op)->head_dim, cap = of(op)->cache, keys = x->position + 1;
    int64_t window = at.window, kv = at.kv, item = window * of(op)->kv_heads + kv,
            group = of(op)->heads / of(op)->kv_heads;
    const float *row = sl_buf_data(x, op->in[0]) + window * (of(op)->heads + 2 * of(op)->kv_heads) * hd;
    const float *k = row + (of(op)->heads + kv) * hd, *v = k + of(op)->kv_heads * hd;
    store(op, x, item, x->position, k, v);
    float *p = sl_worker_scratch(x, worker), lse, logit = 0;
    sl_attend a = of(op)->attend;
    a.band = (sl_band){keys - of(op)->window, keys};
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
        const float *q = row + h * hd;
        float *out = sl_buf_data(x, op->out) + (window * of(op)->heads + h) * hd;
        sl_extra extra;
        if (of(op)->extra) {
            extra = sl_extra_of_head(op, x, window, h, false);
            logit = of(op)->extra->logit(&extra, q);
        }
        for (int64_t t = sl_max(0, keys - of(op)->window); t < keys; t++)
            p[t] = x->k->dot(hd, q, sl_buf_data(x, op->saved[0]) + (item * cap + t) * hd);
        sl_attention_cap(op, x->k, a.band, 1, keys, p, cap);
        of(op)->kernels->fwd(1, keys, p, cap, &a, of(op)->extra ? &logit : NULL, &lse);
        if (op->saved[SL_ATTENTION_NULLS] != SL_NONE)
            sl_buf_data(x, op->saved[SL_ATTENTION_NULLS])[window * of(op)->heads + h] = expf(logit - lse);
        for (int64_t j = 0; j < hd; j++)
            out[j] = x->k->dot(keys, p, sl_buf_data(x, op->saved[1]) + (item * hd + j) * cap);
        if (of(op)->extra && of(op)->extra->output)
            of(op)->extra->output(&extra, expf(logit - lse), out);
    }
}

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = 0; i < sl_attention_items(op, s); i++)
        forward_item(op, x, sl_attention_item_at(op, s, i), s->worker);
    return 0;
}

static const sl_op_kind cached_attention = {
    .name = "cached_attention",
    .forward = SL_STAGES({.cut = SL_CUT_WINDOWS, .run = forward, .split = sl_attention_split})};

sl_buf sl_build_cached_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    sl_op *op = sl_program_op(b, &cached_attention, scope);
    const sl_attention *a = sl_attention_describe(b, op);
    if (!a)
        return 0;
    sl_op_reads(op, qkv, 0);
    sl_extra_build(b, op, prefix);
    for (int i = 0; i < 2; i++)
        op->saved[i] = sl_program_lasting(b, b->batch * a->kv_heads, a->cache * a->head_dim);
    op->worker_bytes = (size_t)a->cache * sizeof(float);
    return op->out = sl_program_buffer(b, op->rows, op->dim_out);
}
