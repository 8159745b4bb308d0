/* Passes and steps of a program on a CUDA device. */
#include "cuda/run.h"

#include "base/err.h"
#include "cuda/rows.h"
#include "program/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- batches */

/* Room for the batches of a step; what was recorded with other room is recorded again. */
static int need_batches(gpu *g, int64_t n) {
    size_t bytes = (size_t)(3 * n * slc_rows_of(g)) * sizeof(int32_t);
    if (n <= g->batches)
        return 0;
    slc_free(g->batch), slc_free_host(g->host_batch);
    for (int i = 0; i < FORWARDS; i++)
        slc_graph_free(g->forward[i]), g->forward[i] = NULL;
    slc_graph_free(g->step), g->step = NULL;
    g->batches = 0;
    g->host_batch = NULL;
    if (!(g->batch = slc_take(g, bytes, "tokens")) || !(g->host_batch = slc_alloc_host(bytes)))
        return -1;
    g->batches = n;
    return 0;
}

/* Rows by token, and among equal ones by row: a counting sort. */
static int sort_rows(gpu *g, const int32_t *tokens, int32_t *order) {
    size_t vocab = (size_t)g->p->tensor[0].shape[0]; /* the embedding is declared first */
    if (!g->bins && !(g->bins = malloc((vocab + 1) * sizeof *g->bins)))
        return sl_fail("out of memory for sorting tokens");
    memset(g->bins, 0, (vocab + 1) * sizeof *g->bins);
    for (int64_t r = 0; r < slc_rows_of(g); r++)
        g->bins[tokens[r] + 1]++;
    for (size_t t = 0; t < vocab; t++)
        g->bins[t + 1] += g->bins[t];
    for (int64_t r = 0; r < slc_rows_of(g); r++)
        order[g->bins[tokens[r]]++] = (int32_t)r;
    return 0;
}

static int put_batches(gpu *g, const int32_t *tokens, const int32_t *targets, int64_t n, bool sorted) {
    int64_t rows = slc_rows_of(g);
    size_t bytes = (size_t)rows * sizeof(int32_t);
    if (need_batches(g, n))
        return -1;
    for (int64_t i = 0; i < n; i++) {
        int32_t *to = g->host_batch + 3 * i * rows;
        memcpy(to, tokens + i * rows, bytes);
        if (targets)
            memcpy(to + rows, targets + i * rows, bytes);
        if (sorted && sort_rows(g, to, to + 2 * rows))
            return -1;
    }
    slc_put_async(g->x.stream, g->batch, g->host_batch, (size_t)(3 * n) * bytes);
    return 0;
}

static void choose_batch(gpu *g, int64_t i, bool targets) {
    const int32_t *at = g->batch + 3 * i * slc_rows_of(g);
    g->x.tokens = at;
    g->x.targets = targets ? at + slc_rows_of(g) : NULL;
    g->x.order = at + 2 * slc_rows_of(g);
}

/* ---- enqueueing a pass */

/* dout to the gradients of added inputs that do not share it, as the schedule's pass_rows(). */
static void pass_rows(const sl_op *op, const slc_exec *x) {
    for (int i = 0; i < op->inputs; i++) {
        const sl_buffer *v = op->pass[i] ? &x->info[op->din[i]] : NULL;
        if (v && op->acc[i])
            slc_add_rows(x->stream, v->rows, v->cols, v->ld, false, x->buf[op->dout], x->buf[op->din[i]]);
        else if (v)
            slc_copy(x->stream, x->buf[op->din[i]], x->buf[op->dout], slc_buffer_bytes(v));
    }
}

static void sum_rows(const sl_op *op, const slc_exec *x) {
    for (int i = 0; i < op->inputs; i++) {
        const sl_buffer *v = op->sum[i] == SL_NONE ? NULL : &x->info[op->sum[i]];
        if (v)
            slc_add_rows(x->stream, v->rows, v->cols, v->ld, v->bf16, x->buf[op->din[i]], x->buf[op->sum[i]]);
    }
}

static int enqueue_op(gpu *g, int i, int direction) {
    const sl_op *op = &g->b->op[i];
    if (direction == SL_FORWARD)
        return g->kind[i]->forward ? g->kind[i]->forward(op, &g->x) : 0;
    pass_rows(op, &g->x);
    if (g->kind[i]->backward && g->kind[i]->backward(op, &g->x))
        return -1;
    sum_rows(op, &g->x);
    return 0;
}

static int open_events(gpu *g) {
    if (g->event)
        return 0;
    if (!(g->event = calloc((size_t)g->b->ops + 1, sizeof *g->event)))
        return sl_fail("out of memory for events");
    for (int i = 0; i <= g->b->ops; i++)
        if (slc_event_open(&g->event[i]))
            return -1;
    return 0;
}

/* All operations of a direction; seconds: NULL, or their times are added, and it waits. */
static int enqueue_all(gpu *g, int direction, double *seconds) {
    int n = g->b->ops;
    if (seconds && open_events(g))
        return -1;
    for (int k = 0; k < n; k++) {
        if (seconds)
            slc_event_record(g->event[k], g->x.stream);
        if (enqueue_op(g, direction == SL_FORWARD ? k : n - 1 - k, direction))
            return -1;
    }
    if (seconds)
        slc_event_record(g->event[n], g->x.stream);
    for (int k = 0; seconds && k < n; k++)
        seconds[SL_TIMES * (direction == SL_FORWARD ? k : n - 1 - k) + direction] +=
            slc_event_seconds(g->event[k], g->event[k + 1]);
    return 0;
}

/* Records what enqueue(g, arg) enqueues, and runs it; the first time it is not recorded, so that what it needs once is
 * there. */
static int replay(gpu *g, slc_graph *graph, bool first, int (*enqueue)(gpu *, int64_t), int64_t arg) {
    if (*graph)
        return slc_graph_run(*graph, g->x.stream);
    int recording = first ? 1 : slc_capture_begin(g->x.stream);
    if (recording < 0)
        return -1;
    int rc = enqueue(g, arg);
    if (recording == 1)
        return rc;
    if (rc) {
        slc_capture_end(g->x.stream, graph);
        return -1;
    }
    return slc_capture_end(g->x.stream, graph) || slc_graph_run(*graph, g->x.stream) ? -1 : 0;
}

/* ---- passes */

static int enqueue_forward(gpu *g, double *seconds) {
    if (enqueue_all(g, SL_FORWARD, seconds))
        return -1;
    if (g->x.targets)
        slc_get_async(g->x.stream, g->host_loss, g->x.token_loss, (size_t)slc_rows_of(g) * sizeof(float));
    return 0;
}

/* The variant is in g->x. */
static int enqueue_variant(gpu *g, int64_t variant) {
    (void)variant;
    return enqueue_forward(g, NULL);
}

static int need_logits(gpu *g) {
    size_t bytes = (size_t)(slc_rows_of(g) * g->p->tensor[0].shape[0]) * sizeof(float);
    return g->logits || (g->logits = slc_take(g, bytes, "logits; use a smaller batch")) ? 0 : -1;
}

/* Of a quantised model the host has the states between passes: ranges are set there, and errors read. */
static int lend_states(gpu *g, const sl_device_pass *p) {
    if (!g->b->quant)
        return 0;
    for (int i = 0; i < g->b->ops; i++)
        if (g->kind[i]->before && g->kind[i]->before(&g->b->op[i], &g->x, (char *)p->state + g->b->op[i].state))
            return -1;
    return slc_put(g->x.state, p->state, g->b->state_bytes);
}

/* The message is that of the first operation that has one, as the CPU's. */
static int return_states(gpu *g, const sl_device_pass *p) {
    if (!g->b->quant)
        return 0;
    if (slc_get(p->state, g->x.state, g->b->state_bytes))
        return -1;
    for (int i = 0; i < g->b->ops; i++)
        if (g->kind[i]->after && g->kind[i]->after(&g->b->op[i], &g->x, (char *)p->state + g->b->op[i].state))
            return -1;
    return 0;
}

int slc_forward(gpu *g, const sl_device_pass *p) {
    size_t losses = (size_t)slc_rows_of(g) * sizeof(float);
    if ((p->logits && need_logits(g)) || put_batches(g, p->tokens, p->targets, 1, false) || lend_states(g, p))
        return -1;
    choose_batch(g, 0, p->targets);
    g->x.training = false;
    g->x.measuring = p->measuring;
    g->x.logits = p->logits ? g->logits : NULL;
    *g->host_position = (int32_t)p->position;
    slc_put_async(g->x.stream, g->position, g->host_position, sizeof *g->host_position);
    int variant = (p->targets ? WITH_TARGETS : 0) | (p->logits ? WITH_LOGITS : 0) | (p->measuring ? MEASURING : 0);
    int rc = p->seconds ? enqueue_forward(g, p->seconds)
                        : replay(g, &g->forward[variant], !g->ran[variant], enqueue_variant, variant);
    if (rc || slc_sync(g->x.stream) || return_states(g, p))
        return -1;
    g->ran[variant] = true;
    if (p->targets)
        memcpy(p->token_loss, g->host_loss, losses);
    return p->logits ? slc_get(p->logits, g->logits, losses * (size_t)g->p->tensor[0].shape[0]) : 0;
}

static void begin_training(gpu *g, int64_t batch, float scale) {
    choose_batch(g, batch, true);
    g->x.training = true, g->x.measuring = false;
    g->x.logits = NULL;
    g->x.grad_scale = scale;
}

int slc_forward_backward(gpu *g, const sl_device_pass *p, float scale) {
    size_t losses = (size_t)slc_rows_of(g) * sizeof(float);
    if (put_batches(g, p->tokens, p->targets, 1, true))
        return -1;
    begin_training(g, 0, scale);
    if (enqueue_all(g, SL_FORWARD, p->seconds) || enqueue_all(g, SL_BACKWARD, p->seconds))
        return -1;
    slc_get_async(g->x.stream, g->host_loss, g->x.token_loss, losses);
    if (slc_sync(g->x.stream))
        return -1;
    g->newer |= SL_BLOCK_G;
    memcpy(p->token_loss, g->host_loss, losses);
    return 0;
}

/* ---- steps */

static int enqueue_passes(gpu *g, int64_t accumulate, double *seconds) {
    slc_begin_step(g->x.stream, g->control);
    for (int64_t i = 0; i < accumulate; i++) {
        begin_training(g, i, 1 / (float)accumulate);
        if (enqueue_all(g, SL_FORWARD, seconds) || enqueue_all(g, SL_BACKWARD, seconds))
            return -1;
        slc_mean_loss(g->x.stream, slc_rows_of(g), g->x.token_loss, g->x.targets, 1 / (double)accumulate, g->control);
    }
    return 0;
}

/* Operations take over what a step has left, if it was applied. */
static int enqueue_end_step(gpu *g) {
    slc_copy(g->x.stream, g->applied, &g->control->applied, sizeof *g->applied);
    for (int i = 0; i < g->b->ops; i++)
        if (g->kind[i]->end_step && g->kind[i]->end_step(&g->b->op[i], &g->x, g->applied))
            return -1;
    return 0;
}

static int enqueue_step(gpu *g, int64_t accumulate) {
    if (enqueue_passes(g, accumulate, NULL) || slc_optim_judge(g->optim, g->x.stream) ||
        slc_optim_update(g->optim, g->x.blas, g->x.stream))
        return -1;
    return enqueue_end_step(g);
}

/* What changes from step to step, to where the kernels read it. */
static void put_control(gpu *g, const sl_device_step *s) {
    const sl_config *c = g->b->config;
    *g->host_control = (slc_control){.lr = (float)s->lr,
                                     .c1 = (float)(1 - pow(c->train_betas[0], (double)s->step)),
                                     .c2 = (float)(1 - pow(c->train_betas[1], (double)s->step)),
                                     .clip_norm = c->train_clip_norm,
                                     .most_loss = s->most_loss};
    slc_put_async(g->x.stream, g->control, g->host_control, sizeof *g->host_control);
}

static int get_control(gpu *g) {
    slc_get_async(g->x.stream, g->host_control, g->control, sizeof *g->host_control);
    return slc_sync(g->x.stream);
}

/* In two parts, with the caller's word between them. */
static int step_asking(gpu *g, const sl_device_step *s) {
    if (enqueue_passes(g, s->accumulate, s->seconds) || slc_optim_judge(g->optim, g->x.stream) || get_control(g))
        return -1;
    if (!g->host_control->skipped && s->apply && !s->apply(s->ctx, g->host_control->loss, g->host_control->grad_norm)) {
        g->host_control->skipped = true;
        slc_put_async(g->x.stream, g->control, g->host_control, sizeof *g->host_control);
    }
    return slc_optim_update(g->optim, g->x.blas, g->x.stream) || enqueue_end_step(g) ? -1 : 0;
}

int slc_train(gpu *g, const int32_t *tokens, const int32_t *targets, const sl_device_step *s, sl_device_result *r) {
    if (put_batches(g, tokens, targets, s->accumulate, true))
        return -1;
    if (s->accumulate != g->step_batches) {
        slc_graph_free(g->step), g->step = NULL;
        g->step_batches = s->accumulate, g->steps = 0;
    }
    put_control(g, s);
    if (s->apply || s->seconds ? step_asking(g, s) : replay(g, &g->step, g->steps++ == 0, enqueue_step, s->accumulate))
        return -1;
    g->newer = SL_BLOCK_W | SL_BLOCK_G | SL_BLOCK_M | SL_BLOCK_V;
    if (s->meanwhile)
        s->meanwhile(s->meanwhile_ctx);
    if (get_control(g))
        return -1;
    *r = (sl_device_result){g->host_control->loss, g->host_control->grad_norm, g->host_control->skipped};
    return 0;
}

int slc_end_step(gpu *g, bool applied) {
    int32_t flag = applied;
    if (slc_put(g->applied, &flag, sizeof flag))
        return -1;
    for (int i = 0; i < g->b->ops; i++)
        if (g->kind[i]->end_step && g->kind[i]->end_step(&g->b->op[i], &g->x, g->applied))
            return -1;
    g->newer |= SL_BLOCK_W;
    return slc_sync(g->x.stream);
}
