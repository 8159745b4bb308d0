/* A program on a CUDA device: what device.c makes and run.c runs. */
#ifndef SL_CUDA_RUN_H
#define SL_CUDA_RUN_H

#include "cuda/kind.h"
#include "cuda/optim.h"
#include "cuda/runtime.h"
#include "program/device.h"

/* Passes that are recorded, by what they are about. */
enum { WITH_TARGETS = 1, WITH_LOGITS = 2, MEASURING = 4, FORWARDS = 8 };

typedef struct sl_device_run gpu;
struct sl_device_run {
    const sl_program *b;
    sl_params *p;
    const slc_kind **kind; /* of each operation */
    void **buf, **kept;
    slc_exec x;
    char *arena, *keeps; /* keeps: what operations keep, one after the other */
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

static inline size_t slc_buffer_bytes(const sl_buffer *v) {
    return (size_t)(v->rows * v->ld) * (v->bf16 ? sizeof(sl_bf16) : sizeof(float));
}
static inline int64_t slc_rows_of(const gpu *g) { return g->b->batch * g->b->seq; }

/* Device memory, counted in g->bytes. NULL with a message that says for what. */
void *slc_take(gpu *g, size_t bytes, const char *what);

/* Those of sl_device (program/device.h). */
int slc_forward(gpu *g, const sl_device_pass *p);
int slc_forward_backward(gpu *g, const sl_device_pass *p, float scale);
int slc_train(gpu *g, const int32_t *tokens, const int32_t *targets, const sl_device_step *s, sl_device_result *r);
int slc_end_step(gpu *g, bool applied);

#endif
