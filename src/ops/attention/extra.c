#include "ops/attention/extra.h"

#include "ops/attention/attention.h"
#include "ops/rows.h"

#include <string.h>

/* ---- kinds */

static float zero_logit(const sl_extra *e, const float *q) {
    (void)e, (void)q;
    return 0;
}
static const sl_extra_kind zero = {.logit = zero_logit};

static float sink_logit(const sl_extra *e, const float *q) {
    (void)q;
    return *e->w[0];
}
static void sink_gradient(const sl_extra *e, const float *q, const float *dout, float p, float delta, float dq_scale,
                          float *dq) {
    (void)q, (void)dout, (void)dq_scale, (void)dq;
    *e->dw[0] -= p * delta;
}
static const sl_extra_kind logit = {1, {{"sinks", true, SL_INIT_ZEROS}}, sink_logit, NULL, sink_gradient};

static float key_logit(const sl_extra *e, const float *q) { return e->scale * e->k->dot(e->hd, q, e->w[0]); }

/* y += a x */
static void add_scaled(int64_t n, float a, const float *x, float *y) {
    for (int64_t j = 0; j < n; j++)
        y[j] += a * x[j];
}

/* ds: gradient of the logit */
static void key_shares(const sl_extra *e, const float *q, float ds, float dq_scale, float *dq) {
    add_scaled(e->hd, dq_scale * ds, e->w[0], dq);
    add_scaled(e->hd, e->scale * ds, q, e->dw[0]);
}
static void key_gradient(const sl_extra *e, const float *q, const float *dout, float p, float delta, float dq_scale,
                         float *dq) {
    (void)dout;
    key_shares(e, q, -p * delta, dq_scale, dq);
}
static const sl_extra_kind key = {1, {{"bias_k", false, SL_INIT_NORMAL}}, key_logit, NULL, key_gradient};

static void value_output(const sl_extra *e, float p, float *o) { add_scaled(e->hd, p, e->w[1], o); }
static void key_value_gradient(const sl_extra *e, const float *q, const float *dout, float p, float delta,
                               float dq_scale, float *dq) {
    key_shares(e, q, p * (e->k->dot(e->hd, dout, e->w[1]) - delta), dq_scale, dq);
    add_scaled(e->hd, p, dout, e->dw[1]);
}
static const sl_extra_kind key_value = {2,
                                        {{"bias_k", false, SL_INIT_NORMAL}, {"bias_v", false, SL_INIT_NORMAL}},
                                        key_logit,
                                        value_output,
                                        key_value_gradient};

#define EXTRA_none NULL
#define EXTRA_zero &zero
#define EXTRA_logit &logit
#define EXTRA_key &key
#define EXTRA_key_value &key_value
const sl_extra_kind *const sl_extra_kinds[] = {
#define ATTENTION(name, rows, extra, ...) EXTRA_##extra,
#include "simd/attention.inc"
#undef ATTENTION
};

static const sl_attention *of(const sl_op *op) { return op->own; }

/* ---- their tensors. Partial sums of a window: those of one tensor after the other, laid out as the tensor. */

static int64_t width(const sl_op *op, int i) { return of(op)->extra->param[i].per_head ? 1 : of(op)->head_dim; }
static int64_t size(const sl_op *op, int i) {
    return of(op)->extra->param[i].per_head ? of(op)->heads : of(op)->kv_heads * of(op)->head_dim;
}

static int64_t partial_floats(const sl_op *op) {
    int64_t n = 0;
    for (int i = 0; i < of(op)->extra->params; i++)
        n += size(op, i);
    return n;
}

void sl_extra_build(sl_program *b, sl_op *op, const char *prefix) {
    if (!of(op)->extra)
        return;
    for (int i = 0; i < of(op)->extra->params; i++) {
        bool per_head = of(op)->extra->param[i].per_head;
        op->param[i] = sl_program_param(b, prefix,
                                        &(sl_param_spec){.name = of(op)->extra->param[i].name,
                                                         .rows = per_head ? of(op)->heads : of(op)->kv_heads,
                                                         .cols = per_head ? 0 : of(op)->head_dim,
                                                         .init = of(op)->extra->param[i].init,
                                                         .start = b->config->model_init_std,
                                                         .decay = SL_DECAY_NONE});
    }
    if (b->training)
        op->shared_bytes = (size_t)(op->rows / op->seq * partial_floats(op)) * sizeof(float);
}

static int64_t unit_of(const sl_op *op, int i, int64_t h) {
    return of(op)->extra->param[i].per_head ? h : h / (of(op)->heads / of(op)->kv_heads);
}

sl_extra sl_extra_of_head(const sl_op *op, const sl_exec *x, int64_t window, int64_t h, bool backward) {
    sl_extra e = {.k = x->k, .hd = of(op)->head_dim, .scale = of(op)->attend.scale};
    float *partial = backward ? x->shared + window * partial_floats(op) : NULL;
    for (int i = 0; i < of(op)->extra->params; i++) {
        int64_t at = unit_of(op, i, h) * width(op, i);
        e.w[i] = sl_weight(op, x, i) + at;
        if (backward) {
            e.dw[i] = partial + at;
            partial += size(op, i);
        }
    }
    return e;
}

void sl_extra_begin(const sl_op *op, const sl_exec *x, int64_t window, int64_t kv) {
    int64_t group = of(op)->heads / of(op)->kv_heads;
    for (int64_t h = kv * group; of(op)->extra && h < (kv + 1) * group; h++) {
        sl_extra e = sl_extra_of_head(op, x, window, h, true);
        for (int i = 0; i < of(op)->extra->params; i++)
            memset(e.dw[i], 0, (size_t)width(op, i) * sizeof(float));
    }
}

sl_split sl_extra_fold_items(const sl_op *op, const sl_exec *x) {
    (void)x;
    return (sl_split){.items = of(op)->extra ? of(op)->extra->params : 0};
}

int sl_extra_fold(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const float *partial = x->shared;
    for (int i = 0; i < s->first + s->n; i++) {
        if (i >= s->first)
            sl_fold_columns(x, 0, size(op, i), op->rows / op->seq, partial_floats(op), partial,
                            sl_weight_grad(op, x, i));
        partial += size(op, i);
    }
    return 0;
}
