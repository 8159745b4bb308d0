/* Attention of one new position a window over cached keys and values. saved[0]: keys, saved[1]: values
 * transposed; both [batch * kv_heads][...]. The caches live as long as the program. */
#include "base/threads.h"
#include "ops/attention/attention.h"
#include "program/whole.h"
#include "ops/attention/extra.h"
#include "ops/ops.h"
#include "ops/rows.h"

#include <math.h>
#include <string.h>

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t capacity(const sl_op *op) { return op->dim_in; }

static void store(const sl_op *op, const sl_exec *x, int64_t item, const float *k, const float *v) {
    int64_t hd = op->head_dim, cap = capacity(op);
    memcpy(sl_buf_data(x, op->saved[0]) + (item * cap + x->position) * hd, k, (size_t)hd * sizeof(float));
    for (int64_t j = 0; j < hd; j++)
        sl_buf_data(x, op->saved[1])[(item * hd + j) * cap + x->position] = v[j];
}

static void forward_item(void *task, int64_t item, int thread) {
    const sl_op *op = ((sl_task *)task)->op;
    const sl_exec *x = ((sl_task *)task)->x;
    int64_t hd = op->head_dim, cap = capacity(op), keys = x->position + 1;
    int64_t window = item / op->kv_heads, kv = item % op->kv_heads, group = op->heads / op->kv_heads;
    const float *row = sl_buf_data(x, op->in[0]) + window * (op->heads + 2 * op->kv_heads) * hd;
    store(op, x, item, row + (op->heads + kv) * hd, row + (op->heads + op->kv_heads + kv) * hd);
    float *p = sl_worker_scratch(x, thread), lse, logit = 0;
    sl_attend a = op->attend;
    a.band = (sl_band){keys - op->window, keys};
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
        const float *q = row + h * hd;
        float *out = sl_buf_data(x, op->out) + (window * op->heads + h) * hd;
        sl_extra extra;
        if (op->extra) {
            extra = sl_extra_of_head(op, x, window, h, false);
            logit = op->extra->logit(&extra, q);
        }
        for (int64_t t = max64(0, keys - op->window); t < keys; t++)
            p[t] = x->k->dot(hd, q, sl_buf_data(x, op->saved[0]) + (item * cap + t) * hd);
        op->attention->fwd(1, keys, p, cap, &a, op->extra ? &logit : NULL, &lse);
        for (int64_t j = 0; j < hd; j++)
            out[j] = x->k->dot(keys, p, sl_buf_data(x, op->saved[1]) + (item * hd + j) * cap);
        if (op->extra && op->extra->output)
            op->extra->output(&extra, expf(logit - lse), out);
    }
}

static void forward(const sl_op *op, const sl_exec *x) {
    sl_parallel(op->rows * op->kv_heads, forward_item, &(sl_task){op, x});
}

SL_WHOLE(forward)
static const sl_op_kind cached_attention = {.name = "cached_attention", .forward = forward_stages, .backward = NULL};

sl_buf sl_build_cached_attention(sl_program *b, sl_scope scope, sl_buf qkv, const char *prefix) {
    sl_op *op = sl_program_op(b, &cached_attention, scope);
    sl_op_reads(op, qkv, 0);
    sl_attention_kind(b, op);
    sl_extra_build(b, op, prefix);
    op->dim_in = b->cache;
    for (int i = 0; i < 2; i++) {
        op->saved[i] = sl_program_lasting(b, b->batch * op->kv_heads, b->cache * op->head_dim);
    }
    op->worker_bytes = (size_t)b->cache * sizeof(float);
    return op->out = sl_program_buffer(b, op->rows, op->heads * op->head_dim);
}
