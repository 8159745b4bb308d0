#include "program/exec.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"

#include <stdlib.h>
#include <string.h>

static size_t largest(size_t a, size_t b) { return a > b ? a : b; }

/* + 64: the workers' scratch must not share sets of the cache. */
static size_t worker_bytes(const sl_program *b) {
    size_t n = 0;
    for (int i = 0; i < b->ops; i++)
        n = largest(n, b->op[i].worker_bytes);
    return (size_t)sl_round_up((int64_t)n, 4096) + 64;
}

/* Each buffer's rows in the split of row operations. Where buffers share memory the first one decides. Nobody has a
 * local one as a whole. */
static void place_buffers(sl_exec *x, const sl_program *b, void **buf) {
    void **back = buf + x->buffers;
    for (int i = 0; i < b->buffers; i++) {
        const sl_buffer *v = &b->buffer[i];
        if (v->local)
            continue;
        buf[i] = x->arena + v->offset;
        sl_touch(buf[i], (size_t)(v->rows * v->ld) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float)));
    }
    for (int i = 0; i < b->buffers; i++)
        back[i] = buf[b->buffer[i].back == SL_NONE ? i : b->buffer[i].back];
    for (int t = 0; t < x->workers; t++)
        memcpy(x->worker_buf + 2 * (size_t)t * x->buffers, buf, 2 * x->buffers * sizeof *buf);
}

int sl_exec_open(sl_exec *x, sl_program *b, const sl_params *p) {
    *x = (sl_exec){.k = b->kernels, .p = p, .grad_scale = 1, .workers = sl_threads()};
    x->arena_bytes = sl_program_plan(b, x->workers);
    if (b->failed)
        return -1;
    x->info = b->buffer;
    x->buffers = (size_t)b->buffers;
    void **buf = calloc(2 * x->buffers + 1, sizeof *buf);
    x->buf = buf;
    x->worker_buf = calloc(2 * (size_t)x->workers * x->buffers + 1, sizeof *x->worker_buf);
    if (!buf || !x->worker_buf)
        return sl_fail("out of memory for the program");
    x->scratch_bytes = worker_bytes(b);
    x->scratch = sl_alloc_threads(x->workers, x->scratch_bytes, "scratch");
    x->local_bytes = (size_t)sl_round_up((int64_t)b->local_bytes, 4096) + 64;
    x->state = sl_alloc(b->state_bytes, "the state of operations");
    x->token_loss = sl_alloc((size_t)(b->batch * b->seq) * sizeof(float), "losses");
    if (!x->scratch || !x->state || !x->token_loss)
        return -1;
    if (b->device)
        return 0;
    x->local = sl_alloc_threads(x->workers, x->local_bytes, "activations of a worker");
    x->shared = sl_alloc_shared(b->shared_bytes, "scratch");
    x->sums = sl_alloc_shared(b->sums_bytes, "scratch");
    x->arena = sl_alloc_untouched(x->arena_bytes, "activations; use a smaller train.batch");
    if (!x->local || !x->shared || !x->sums || !x->arena)
        return -1;
    place_buffers(x, b, buf);
    return 0;
}

void sl_exec_close(sl_exec *x) {
    sl_free(x->scratch), sl_free(x->local), sl_free(x->shared), sl_free(x->sums);
    sl_free(x->state), sl_free(x->arena), sl_free(x->token_loss);
    free((void *)x->buf), free(x->worker_buf);
    *x = (sl_exec){0};
}
