/* Operations on a CUDA device: for each kind of operation of the program (op.h) a row that enqueues its kernels. The
 * program is planned for the device: each operation by itself, all rows at once, nothing local to a worker, nothing
 * computed again. */
#ifndef SL_CUDA_KIND_H
#define SL_CUDA_KIND_H

#include "cuda/product.h"
#include "program/program.h"

#include <string.h>

/* All that an operation sees while it is enqueued. Everything it points to but program and info is device memory. */
typedef struct {
    const sl_program *program;
    const sl_buffer *info;   /* of each buffer: rows, cols, ld, bf16. ld of bf16: a multiple of 8, >= cols; what lies
                              * behind cols is never read as a number */
    void *const *buf;        /* data of each buffer, 256-byte aligned */
    const float *w;          /* parameters, at the offsets of the table */
    const sl_bf16 *w16;      /* the same rounded, offset by offset; NULL in an fp32 program */
    float *g;                /* gradients: add to them; NULL unless training */
    const int32_t *tokens, *targets; /* targets NULL: no loss wanted */
    const int32_t *order;    /* rows of the batch sorted by token, stable (training) */
    float *token_loss;       /* rows; set by the loss: 0 where there is no target */
    float *logits;           /* rows x vocab, or NULL; set by the loss */
    bool training, measuring;
    float grad_scale;
    const int32_t *position; /* [1]: of the first row of each window (decoding) */
    char *state;             /* of operations, at op->state; laid out as the CPU's */
    void *const *kept;       /* of each operation: slc_kept() */
    void *scratch;           /* 256-byte aligned; of one operation from its first kernel to its last */
    size_t scratch_bytes;
    slc_blas *blas;
    slc_stream stream;
    int sms;                 /* multiprocessors */
    bool apart;              /* operations are enqueued one by one, in no order: none relies on another */
} slc_exec;

typedef struct {
    const char *name; /* that of the sl_op_kind's it stands for */
    /* Can this one be run? 0, or -1 with a message: it has an option that there are no kernels for. NULL: any can. */
    int (*check)(const sl_op *op);
    /* Enqueue, never wait, read back or allocate (a graph captures them). Backward writes din[i], or adds to it where
     * acc[i] and the CPU's kind adds; the core has done, or will do, what op->pass and op->sum ask for. Return 0, or -1
     * with a message. NULL: nothing to do. */
    int (*forward)(const sl_op *op, const slc_exec *x);
    int (*backward)(const sl_op *op, const slc_exec *x);
    size_t (*scratch)(const sl_op *op, const sl_program *b); /* bytes; NULL: none */
    /* As sl_op_kind's end_step; applied points to a flag in device memory. NULL: nothing. */
    int (*end_step)(const sl_op *op, const slc_exec *x, const int32_t *applied);
    /* Bytes that an operation keeps there from pass to pass beside its state; NULL: none. put fills them from what the
     * host knows of the operation, whenever parameters go there; it waits. NULL: nothing. */
    size_t (*kept)(const sl_op *op, const sl_program *b);
    int (*put)(const sl_op *op, const slc_exec *x);
    /* Before and after a pass of a quantised model, and waiting. state: the operation's on the host, which goes to the
     * device after `before` and has come back before `after`. Return 0, or -1 with a message. NULL: nothing. */
    int (*before)(const sl_op *op, const slc_exec *x, void *state);
    int (*after)(const sl_op *op, const slc_exec *x, void *state);
} slc_kind;

/* NULL-terminated lists by file; device.c has the list of lists. */
extern const slc_kind slc_rows_kinds[], slc_norm_kinds[], slc_gate_kinds[], slc_attention_kinds[],
    slc_mixer_kinds[], slc_rwkv_kinds[], slc_depth_kinds[], slc_anchor_kinds[], slc_product_kinds[], slc_moe_kinds[],
    slc_quant_kinds[];

/* Does the norm behind a linear layer (op), when it has made the gradient of the stream that is the layer's dout, leave
 * it rounded in op->temp too? */
static inline bool slc_norm_rounds(const sl_op *op, const slc_exec *x) {
    const sl_program *b = x->program;
    const sl_op *next = op + 1;
    return !x->apart && op->temp != SL_NONE && next < b->op + b->ops && strcmp(next->kind->name, "norm") == 0 &&
           next->din[0] == op->dout && next->sum[0] == SL_NONE;
}

static inline float *slc_f32(const slc_exec *x, sl_buf b) { return b == SL_NONE ? NULL : (float *)x->buf[b]; }
static inline sl_bf16 *slc_b16(const slc_exec *x, sl_buf b) { return b == SL_NONE ? NULL : (sl_bf16 *)x->buf[b]; }
static inline void *slc_kept(const sl_op *op, const slc_exec *x) { return x->kept[op - x->program->op]; }
static inline int64_t slc_at(const slc_exec *x, int param) { return x->program->params->tensor[param].offset; }
static inline const float *slc_weight(const sl_op *op, const slc_exec *x, int i) {
    return op->param[i] == SL_NONE ? NULL : x->w + slc_at(x, op->param[i]);
}
static inline const sl_bf16 *slc_weight16(const sl_op *op, const slc_exec *x, int i) {
    return op->param[i] == SL_NONE ? NULL : x->w16 + slc_at(x, op->param[i]);
}
static inline float *slc_grad(const sl_op *op, const slc_exec *x, int i) {
    return op->param[i] == SL_NONE || !x->g ? NULL : x->g + slc_at(x, op->param[i]);
}

#endif
