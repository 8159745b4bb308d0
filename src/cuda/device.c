
/* Programs on a CUDA device: memory, batches, passes, steps. */
#include "base/err.h"
#include "cuda/kind.h"
#include "cuda/measure.h"
#include "cuda/optim.h"
#include "cuda/rows.h"
#include "cuda/runtime.h"
#include "program/device.h"
#include "program/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the device */

static slc_device_info used;

static int wanted(const sl_config *c) {
    if (c->device == SL_DEVICE_CPU)
        return 0;
    if (slc_devices() < 0)
        return c->device == SL_DEVICE_AUTO ? 0 : sl_fail_prefix("device: cuda");
    if (!*used.name && slc_device(0, &used))
        return -1;
    if (used.major >= 8)
        return 1;
    return c->device == SL_DEVICE_AUTO ? 0
                                       : sl_fail("device: cuda: %s has compute capability %d.%d, and 8.0 is the least",
                                                 used.name, used.major, used.minor);
}

static const char *device_name(void) { return used.name; }

static int device_info(int i, sl_device_info *info) {
    slc_device_info d;
    int n = slc_devices();
    if (n < 0)
        return -1;
    if (i >= n)
        return sl_fail("there is no GPU %d, of %d", i, n);
    if (slc_device(i, &d) || slc_device_use(0))
        return -1;
    *info = (sl_device_info){.total = d.total, .free = d.free};
    snprintf(info->name, sizeof info->name, "%s", d.name);
    snprintf(info->detail, sizeof info->detail,
             "compute capability %d.%d, %d multiprocessors, driver for CUDA %d.%d, built with %d.%d", d.major, d.minor,
             d.sms, d.driver / 1000, d.driver % 1000 / 10, d.runtime / 1000, d.runtime % 1000 / 10);
    return 0;
}

/* ---- kinds */

static const slc_kind *const lists[] = {slc_rows_kinds, slc_norm_kinds, slc_attention_kinds, slc_product_kinds,
                                        slc_moe_kinds};
enum { LISTS = sizeof lists / sizeof *lists };

static const slc_kind *find_kind(const char *name) {
    for (int i = 0; i < LISTS; i++)
        for (const slc_kind *k = lists[i]; k->name; k++)
            if (strcmp(k->name, name) == 0)
                return k;
    return NULL;
}

static int refuse(const sl_op *op) {
    char names[1024] = "", scope[SL_SCOPE_CHARS];
    for (int i = 0; i < LISTS; i++)
        for (const slc_kind *k = lists[i]; k->name; k++) {
            size_t at = strlen(names);
            snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", k->name);
        }
    return sl_fail("device: cuda has no operation %s (%s); it has %s; take device: cpu", op->kind->name,
                   sl_scope_name(op->scope, scope), names);
}

/* ---- a program there */

/* Passes that are recorded, by what they are about. */
enum { WITH_TARGETS = 1, WITH_LOGITS = 2, MEASURING = 4, FORWARDS = 8 };

typedef struct sl_device_run gpu;
struct sl_device_run {
    const sl_program *b;
    sl_params *p;
    const slc_kind **kind; /* of each operation */
    void **buf;
    slc_exec x;
    char *arena;
    float *w, *m, *v;
    sl_bf16 *w16;
    int32_t *batch, *host_batch; /* of each batch of a step: tokens, targets, order; the host's is page-locked */
    int64_t batches;             /* that there is room for */
    int32_t *bins;               /* vocab + 1: for sorting tokens */
    int32_t *position, *host_position;
    float *logits, *host_loss;
    slc_control *control, *host_control;
    slc_optim *optim;
    slc_graph forward[FORWARDS], step;
    bool ran[FORWARDS];
    int64_t step_batches, steps; /* batches of a step, and how many such steps were done */
    int32_t *applied;
    unsigned newer;    /* blocks that a step has changed since the host's copies were taken */
    size_t bytes;      /* allocated */
    slc_event *event;  /* ops + 1, once a pass was timed */
};

static size_t element(const sl_buffer *v) { return v->bf16 ? sizeof(sl_bf16) : sizeof(float); }
static size_t buffer_bytes(const sl_buffer *v) { return (size_t)(v->rows * v->ld) * element(v); }
static int64_t rows_of(const gpu *g) { return g->b->batch * g->b->seq; }

/* NULL with a message. */
static void *take(gpu *g, size_t bytes, const char *what) {
    void *p = slc_alloc(bytes);
    if (!p)
        sl_fail_prefix("%s (%.2f GiB so far)", what, (double)g->bytes / (1 << 30));
    else
        g->bytes += bytes;
    return p;
}

static void *take_zeroed(gpu *g, size_t bytes, const char *what) {
    void *p = take(g, bytes, what);
    if (p)
        slc_zero(g->x.stream, p, bytes);
    return p;
}

static int open_kinds(gpu *g) {
    g->kind = calloc((size_t)g->b->ops + 1, sizeof *g->kind);
    if (!g->kind)
        return sl_fail("out of memory for the program");
    for (int i = 0; i < g->b->ops; i++) {
        const sl_op *op = &g->b->op[i];
        if (!(g->kind[i] = find_kind(op->kind->name)))
            return refuse(op);
        size_t bytes = g->kind[i]->scratch ? g->kind[i]->scratch(op, g->b) : 0;
        g->x.scratch_bytes = bytes > g->x.scratch_bytes ? bytes : g->x.scratch_bytes;
    }
    return 0;
}

static int open_params(gpu *g) {
    size_t bytes = (size_t)g->p->floats * sizeof(float);
    bool training = g->b->training;
    if (!(g->w = take(g, bytes, "parameters")) ||
        (g->b->bf16 && !(g->w16 = take(g, bytes / 2, "parameters in bf16"))) ||
        (training && !(g->x.g = take_zeroed(g, bytes, "gradients"))) ||
        (training && !(g->m = take_zeroed(g, bytes, "optimizer moments"))) ||
        (g->p->v && !(g->v = take_zeroed(g, bytes, "optimizer moments"))))
        return -1;
    g->x.w = g->w, g->x.w16 = g->w16;
    return gpu_put_params(g, SL_BLOCK_W);
}

static int open_activations(gpu *g, size_t arena_bytes) {
    size_t rows = (size_t)rows_of(g);
    if (!(g->buf = calloc((size_t)g->b->buffers + 1, sizeof *g->buf)))
        return sl_fail("out of memory for the program");
    /* Lasting buffers begin as zeros. */
    if (!(g->arena = take_zeroed(g, arena_bytes, "activations; use a smaller train.batch")) ||
        !(g->x.scratch = take(g, g->x.scratch_bytes, "scratch")) ||
        !(g->x.state = take_zeroed(g, g->b->state_bytes + 1, "the state of operations")) ||
        !(g->x.token_loss = take(g, rows * sizeof(float), "losses")) ||
        !(g->position = take_zeroed(g, sizeof *g->position, "the position")) ||
        !(g->applied = take_zeroed(g, sizeof *g->applied, "the end of a step")) ||
        !(g->host_position = slc_alloc_host(sizeof *g->host_position)) ||
        !(g->host_loss = slc_alloc_host(rows * sizeof(float))))
        return -1;
    for (int i = 0; i < g->b->buffers; i++)
        g->buf[i] = g->arena + g->b->buffer[i].offset;
    g->x.buf = g->buf, g->x.position = g->position;
    return 0;
}

static int open_training(gpu *g) {
    if (!g->b->training)
        return 0;
    if (!(g->control = take_zeroed(g, sizeof *g->control, "the optimizer")) ||
        !(g->host_control = slc_alloc_host(sizeof *g->host_control)))
        return -1;
    g->optim = slc_optim_open(g->p, g->b->config, g->w, g->x.g, g->m, g->v, g->w16, g->control);
    return g->optim ? 0 : -1;
}

static gpu *gpu_open(const sl_program *b, size_t arena_bytes, sl_params *p) {
    gpu *g = calloc(1, sizeof *g);
    if (!g) {
        sl_fail("out of memory for the device");
        return NULL;
    }
    g->b = b, g->p = p;
    g->x = (slc_exec){.program = b, .info = b->buffer, .grad_scale = 1, .sms = used.sms};
    if (slc_device_use(0) || slc_stream_open(&g->x.stream) || slc_blas_open(&g->x.blas) || open_kinds(g) ||
        open_params(g) || open_activations(g, arena_bytes) || open_training(g) || slc_sync(g->x.stream)) {
        gpu_close(g);
        return NULL;
    }
    return g;
}

static void gpu_close(gpu *g) {
    if (!g)
        return;
    for (int i = 0; i < FORWARDS; i++)
        slc_graph_free(g->forward[i]);
    slc_graph_free(g->step);
    for (int i = 0; g->event && i <= g->b->ops; i++)
        slc_event_close(g->event[i]);
    slc_optim_close(g->optim);
    void *device[] = {g->arena, g->w, g->w16, g->x.g, g->m, g->v, g->x.scratch, g->x.state, g->x.token_loss, g->batch,
                      g->position, g->logits, g->control, g->applied};
    void *host[] = {g->host_batch, g->host_position, g->host_loss, g->host_control};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        slc_free(device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        slc_free_host(host[i]);
    slc_blas_close(g->x.blas);
    slc_stream_close(g->x.stream);
    free(g->kind), free(g->buf), free(g->event), free(g->bins);
    free(g);
}

static size_t gpu_bytes(const gpu *g) { return g->bytes; }

/* ---- batches */

/* Room for the batches of a step; what was recorded with other room is recorded again. */
static int need_batches(gpu *g, int64_t n) {
    size_t bytes = (size_t)(3 * n * rows_of(g)) * sizeof(int32_t);
    if (n <= g->batches)
        return 0;
    slc_free(g->batch), slc_free_host(g->host_batch);
    for (int i = 0; i < FORWARDS; i++)
        slc_graph_free(g->forward[i]), g->forward[i] = NULL;
    slc_graph_free(g->step), g->step = NULL;
    g->batches = 0;
    g->host_batch = NULL;
    if (!(g->batch = take(g, bytes, "tokens")) || !(g->host_batch = slc_alloc_host(bytes)))
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
    for (int64_t r = 0; r < rows_of(g); r++)
        g->bins[tokens[r] + 1]++;
    for (size_t t = 0; t < vocab; t++)
        g->bins[t + 1] += g->bins[t];
    for (int64_t r = 0; r < rows_of(g); r++)
        order[g->bins[tokens[r]]++] = (int32_t)r;
    return 0;
}

static int put_batches(gpu *g, const int32_t *tokens, const int32_t *targets, int64_t n, bool sorted) {
    int64_t rows = rows_of(g);
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
    const int32_t *at = g->batch + 3 * i * rows_of(g);
    g->x.tokens = at;
    g->x.targets = targets ? at + rows_of(g) : NULL;
    g->x.order = at + 2 * rows_of(g);
}

/* ---- enqueueing a pass */

/* dout to the gradients of added inputs that do not share it, as the schedule's pass_rows(). */
static void pass_rows(const sl_op *op, const slc_exec *x) {
    for (int i = 0; i < op->inputs; i++) {
        const sl_buffer *v = op->pass[i] ? &x->info[op->din[i]] : NULL;
        if (v && op->acc[i])
            slc_add_rows(x->stream, v->rows, v->cols, v->ld, false, x->buf[op->dout], x->buf[op->din[i]]);
        else if (v)
            slc_copy(x->stream, x->buf[op->din[i]], x->buf[op->dout], buffer_bytes(v));
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

static int enqueue_forward(gpu *g, int64_t variant) {
    (void)variant;
    if (enqueue_all(g, SL_FORWARD, NULL))
        return -1;
    if (g->x.targets)
        slc_get_async(g->x.stream, g->host_loss, g->x.token_loss, (size_t)rows_of(g) * sizeof(float));
    return 0;
}

static int forward_timed(gpu *g, double *seconds) {
    if (enqueue_all(g, SL_FORWARD, seconds))
        return -1;
    if (g->x.targets)
        slc_get_async(g->x.stream, g->host_loss, g->x.token_loss, (size_t)rows_of(g) * sizeof(float));
    return 0;
}

static int need_logits(gpu *g) {
    size_t bytes = (size_t)(rows_of(g) * g->p->tensor[0].shape[0]) * sizeof(float);
    return g->logits || (g->logits = take(g, bytes, "logits; use a smaller batch")) ? 0 : -1;
}

static int gpu_forward(gpu *g, const sl_device_pass *p) {
    size_t losses = (size_t)rows_of(g) * sizeof(float);
    if ((p->logits && need_logits(g)) || put_batches(g, p->tokens, p->targets, 1, false))
        return -1;
    choose_batch(g, 0, p->targets);
    g->x.training = false;
    g->x.measuring = p->measuring;
    g->x.logits = p->logits ? g->logits : NULL;
    *g->host_position = (int32_t)p->position;
    slc_put_async(g->x.stream, g->position, g->host_position, sizeof *g->host_position);
    int variant = (p->targets ? WITH_TARGETS : 0) | (p->logits ? WITH_LOGITS : 0) | (p->measuring ? MEASURING : 0);
    int rc = p->seconds ? forward_timed(g, p->seconds)
                        : replay(g, &g->forward[variant], !g->ran[variant], enqueue_forward, variant);
    if (rc || slc_sync(g->x.stream))
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

static int gpu_forward_backward(gpu *g, const sl_device_pass *p, float scale) {
    size_t losses = (size_t)rows_of(g) * sizeof(float);
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
        slc_mean_loss(g->x.stream, rows_of(g), g->x.token_loss, g->x.targets, 1 / (double)accumulate, g->control);
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

static int gpu_train(gpu *g, const int32_t *tokens, const int32_t *targets, const sl_device_step *s, sl_device_result *r) {
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
    if (get_control(g))
        return -1;
    *r = (sl_device_result){g->host_control->loss, g->host_control->grad_norm, g->host_control->skipped};
    return 0;
}

static int gpu_end_step(gpu *g, bool applied) {
    int32_t flag = applied;
    if (slc_put(g->applied, &flag, sizeof flag))
        return -1;
    for (int i = 0; i < g->b->ops; i++)
        if (g->kind[i]->end_step && g->kind[i]->end_step(&g->b->op[i], &g->x, g->applied))
            return -1;
    g->newer |= SL_BLOCK_W;
    return slc_sync(g->x.stream);
}

/* ---- between host and device */

static float *device_block(const gpu *g, unsigned block) {
    return block == SL_BLOCK_W ? g->w : block == SL_BLOCK_G ? g->x.g : block == SL_BLOCK_M ? g->m : g->v;
}
static float *host_block(const gpu *g, unsigned block) {
    return block == SL_BLOCK_W ? g->p->w : block == SL_BLOCK_G ? g->p->g : block == SL_BLOCK_M ? g->p->m : g->p->v;
}

static int gpu_get_params(gpu *g, unsigned blocks) {
    for (unsigned block = SL_BLOCK_W; block <= SL_BLOCK_V; block *= 2) {
        if (!(blocks & g->newer & block) || !device_block(g, block))
            continue;
        if (slc_get(host_block(g, block), device_block(g, block), (size_t)g->p->floats * sizeof(float)))
            return -1;
        g->newer &= ~block;
    }
    return 0;
}

static int gpu_put_params(gpu *g, unsigned blocks) {
    for (unsigned block = SL_BLOCK_W; block <= SL_BLOCK_V; block *= 2) {
        if (!(blocks & block) || !device_block(g, block))
            continue;
        if (slc_put(device_block(g, block), host_block(g, block), (size_t)g->p->floats * sizeof(float)))
            return -1;
        g->newer &= ~block;
    }
    if (blocks & SL_BLOCK_W && g->w16)
        slc_round_weights(g->x.stream, g->p->floats, g->w, g->w16);
    return slc_sync(g->x.stream);
}

static int gpu_get_buffer(gpu *g, sl_buf v, void *host) {
    return slc_get(host, g->buf[v], buffer_bytes(&g->b->buffer[v]));
}
static int gpu_get_states(gpu *g, void *host) { return slc_get(host, g->x.state, g->b->state_bytes); }

static const sl_device cuda = {.key = "cuda", .name = device_name, .info = device_info,
                               .gflops = slc_measured_gflops, .bandwidth = slc_measured_bandwidth, .open = gpu_open, .close = gpu_close,
                               .bytes = gpu_bytes, .forward = gpu_forward, .forward_backward = gpu_forward_backward,
                               .train = gpu_train, .end_step = gpu_end_step, .get_params = gpu_get_params,
                               .put_params = gpu_put_params, .get_buffer = gpu_get_buffer,
                               .get_states = gpu_get_states};

int sl_device_of(const sl_config *c, const sl_device **d) {
    int rc = wanted(c);
    *d = rc > 0 ? &cuda : NULL;
    return rc < 0 ? -1 : 0;
}
