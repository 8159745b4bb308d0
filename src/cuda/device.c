/* device: cuda. What there is, and memory for a program there. */
#include "base/err.h"
#include "cuda/measure.h"
#include "cuda/rows.h"
#include "cuda/run.h"

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

static const slc_kind *const lists[] = {slc_rows_kinds, slc_norm_kinds, slc_gate_kinds, slc_attention_kinds,
                                        slc_mixer_kinds, slc_rwkv_kinds, slc_depth_kinds, slc_anchor_kinds,
                                        slc_product_kinds, slc_moe_kinds, slc_quant_kinds};
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

void *slc_take(gpu *g, size_t bytes, const char *what) {
    void *p = slc_alloc(bytes);
    if (!p)
        sl_fail_prefix("%s (%.2f GiB so far)", what, (double)g->bytes / (1 << 30));
    else
        g->bytes += bytes;
    return p;
}

static void *take_zeroed(gpu *g, size_t bytes, const char *what) {
    void *p = slc_take(g, bytes, what);
    if (p)
        slc_zero(g->x.stream, p, bytes);
    return p;
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
    for (int i = 0; blocks & SL_BLOCK_W && i < g->b->ops; i++)
        if (g->kind[i]->put && g->kind[i]->put(&g->b->op[i], &g->x))
            return -1;
    return slc_sync(g->x.stream);
}

static int gpu_get_buffer(gpu *g, sl_buf v, void *host) {
    return slc_get(host, g->buf[v], slc_buffer_bytes(&g->b->buffer[v]));
}
static int gpu_get_states(gpu *g, void *host) { return slc_get(host, g->x.state, g->b->state_bytes); }

/* ---- opening */

static int open_kinds(gpu *g) {
    g->kind = calloc((size_t)g->b->ops + 1, sizeof *g->kind);
    if (!g->kind)
        return sl_fail("out of memory for the program");
    for (int i = 0; i < g->b->ops; i++) {
        const sl_op *op = &g->b->op[i];
        if (!(g->kind[i] = find_kind(op->kind->name)))
            return refuse(op);
        if (g->kind[i]->check && g->kind[i]->check(op))
            return -1;
        size_t bytes = g->kind[i]->scratch ? g->kind[i]->scratch(op, g->b) : 0;
        g->x.scratch_bytes = bytes > g->x.scratch_bytes ? bytes : g->x.scratch_bytes;
    }
    return 0;
}

static size_t kept_bytes(const gpu *g, int i) {
    size_t n = g->kind[i]->kept ? g->kind[i]->kept(&g->b->op[i], g->b) : 0;
    return (n + 255) / 256 * 256;
}

static int open_kept(gpu *g) {
    size_t bytes = 0;
    if (!(g->kept = calloc((size_t)g->b->ops + 1, sizeof *g->kept)))
        return sl_fail("out of memory for the program");
    for (int i = 0; i < g->b->ops; i++)
        bytes += kept_bytes(g, i);
    if (!(g->keeps = slc_take(g, bytes + 1, "what operations keep")))
        return -1;
    for (int i = g->b->ops - 1; i >= 0; i--)
        g->kept[i] = g->keeps + (bytes -= kept_bytes(g, i));
    g->x.kept = g->kept;
    return 0;
}

static int open_params(gpu *g) {
    size_t bytes = (size_t)g->p->floats * sizeof(float);
    bool training = g->b->training;
    if (!(g->w = slc_take(g, bytes, "parameters")) ||
        (g->b->bf16 && !(g->w16 = slc_take(g, bytes / 2, "parameters in bf16"))) ||
        (training && !(g->x.g = take_zeroed(g, bytes, "gradients"))) ||
        (training && !(g->m = take_zeroed(g, bytes, "optimizer moments"))) ||
        (g->p->v && !(g->v = take_zeroed(g, bytes, "optimizer moments"))))
        return -1;
    g->x.w = g->w, g->x.w16 = g->w16;
    return gpu_put_params(g, SL_BLOCK_W);
}

/* What a batch takes grows with it, and all else is there already. */
static int fail_batch(const gpu *g, size_t arena_bytes) {
    slc_device_info d;
    size_t a_window = (arena_bytes + g->x.scratch_bytes) / (size_t)g->b->batch;
    if (slc_device(0, &d))
        return -1;
    return sl_fail("device: cuda: a batch of %lld windows takes %.2f GiB of the GPU's memory and %.2f are free; the "
                   "largest that fits is about train.batch=%lld",
                   (long long)g->b->batch, (double)(arena_bytes + g->x.scratch_bytes) / (1 << 30),
                   (double)d.free / (1 << 30), (long long)(d.free * 9 / 10 / a_window));
}

static int open_activations(gpu *g, size_t arena_bytes) {
    size_t rows = (size_t)slc_rows_of(g);
    if (!(g->buf = calloc((size_t)g->b->buffers + 1, sizeof *g->buf)))
        return sl_fail("out of memory for the program");
    /* Lasting buffers begin as zeros. */
    if (!(g->arena = take_zeroed(g, arena_bytes, "activations")) ||
        !(g->x.scratch = slc_take(g, g->x.scratch_bytes, "scratch")))
        return fail_batch(g, arena_bytes);
    if (!(g->x.state = take_zeroed(g, g->b->state_bytes + 1, "the state of operations")) ||
        !(g->x.token_loss = slc_take(g, rows * sizeof(float), "losses")) ||
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

static void gpu_close(gpu *g) {
    if (!g)
        return;
    for (int i = 0; i < FORWARDS; i++)
        slc_graph_free(g->forward[i]);
    slc_graph_free(g->step);
    for (int i = 0; g->event && i <= g->b->ops; i++)
        slc_event_close(g->event[i]);
    slc_optim_close(g->optim);
    void *device[] = {g->arena, g->keeps, g->w, g->w16, g->x.g, g->m, g->v, g->x.scratch, g->x.state, g->x.token_loss,
                      g->batch, g->position, g->logits, g->control, g->applied};
    void *host[] = {g->host_batch, g->host_position, g->host_loss, g->host_control};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        slc_free(device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        slc_free_host(host[i]);
    slc_blas_close(g->x.blas);
    slc_stream_close(g->x.stream);
    free(g->kind), free(g->buf), free(g->kept), free(g->event), free(g->bins);
    free(g);
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
        open_kept(g) || open_params(g) || open_activations(g, arena_bytes) || open_training(g) ||
        slc_sync(g->x.stream)) {
        gpu_close(g);
        return NULL;
    }
    return g;
}

static size_t gpu_bytes(const gpu *g) { return g->bytes + (g->optim ? slc_optim_bytes(g->optim) : 0); }

static const sl_device cuda = {.key = "cuda", .name = device_name, .info = device_info,
                               .gflops = slc_measured_gflops, .bandwidth = slc_measured_bandwidth,
                               .open = gpu_open, .close = gpu_close, .bytes = gpu_bytes,
                               .forward = slc_forward, .forward_backward = slc_forward_backward,
                               .train = slc_train, .end_step = slc_end_step, .get_params = gpu_get_params,
                               .put_params = gpu_put_params, .get_buffer = gpu_get_buffer,
                               .get_states = gpu_get_states};

int sl_device_of(const sl_config *c, const sl_device **d) {
    int rc = wanted(c);
    *d = rc > 0 ? &cuda : NULL;
    return rc < 0 ? -1 : 0;
}
