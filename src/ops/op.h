/* Operations: the vocabulary of the static program (model/program.h). An operation reads and writes
 * planned buffers; its kind supplies forward and backward. Threads and blocking live here, in src/ops;
 * arithmetic on rows and tiles lives in simd/. One file per kind: <kind>.c has the kind's table entry and the
 * builder function sl_build_<kind>() that declares parameters, buffers and scratch. */
#ifndef SL_OPS_OP_H
#define SL_OPS_OP_H

#include "config/config.h"
#include "model/params.h"
#include "simd/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int sl_buf; /* index of a planned buffer; SL_NONE = none */
enum { SL_NONE = -1 };

/* A planned buffer: [rows, cols] row-major, fp32 (ld = cols) or bf16 (ld = sl_bf16_ld(cols); columns from
 * cols to sl_bf16_kpad(cols) are zero, so that rows are operands of the matrix products as they lie). */
typedef struct {
    int64_t rows, cols, ld;
    bool bf16;
    int first, last; /* first and last use on the timeline (forward op i at i, backward at 2n-1-i) */
    size_t offset;   /* bytes in the activation arena */
} sl_buffer;

typedef struct sl_op sl_op;

/* All that an operation sees while it runs. */
typedef struct {
    const sl_kernels *k;
    const sl_params *p;
    const sl_buffer *info;   /* shape of each buffer */
    void *const *buf;        /* data of each buffer */
    const int32_t *tokens;   /* rows of the batch */
    const int32_t *targets;  /* the same number; < 0: no loss here; NULL: no loss wanted */
    float *token_loss;       /* rows; set by the head */
    float *logits;           /* rows x vocab, or NULL; set by the head */
    bool training;           /* the head computes its gradients with the loss */
    float grad_scale;        /* gradients are those of loss * grad_scale */
    int64_t position;        /* of the first row of each window (decoding: how many are cached) */
    char *scratch;           /* private scratch of thread t: scratch + t*scratch_bytes */
    size_t scratch_bytes;
    float *shared;           /* scratch shared by all threads */
    struct sl_gemm_bf16_work *work; /* scratch of the bf16 products; NULL in fp32 */
} sl_exec;

typedef struct {
    const char *name;
    void (*forward)(const sl_op *op, const sl_exec *x);
    /* Reads dout, writes (or, where acc says so, adds to) din; adds to the gradients of its parameters. */
    void (*backward)(const sl_op *op, const sl_exec *x);
    bool keeps_in, keeps_out; /* backward reads in[] / out */
} sl_op_kind;

enum { SL_OP_INPUTS = 2, SL_OP_SAVED = 5, SL_OP_PARAMS = 5 };

struct sl_op {
    const sl_op_kind *kind;
    const struct sl_row_norm *norm; /* of a row norm (norm_rows.h) */
    struct sl_nullify *nullify;     /* and its sink channels (nullify.h), or NULL */
    struct sl_moe *moe;       /* of a mixture of experts (moe.h); freed with the program */
    /* Of a quantised model (quantise.h, rotate.h, linear_int.h); freed with the program. A mixture has two of the first: of
     * what experts read, and of what their down projections do. */
    struct sl_quant_point *point[2];
    struct sl_rotation *rotation[2];
    struct sl_int_weights *integers;
    const struct sl_act *act[2];    /* of a gate (gate.h): of its scores, of its hidden layer */
    int64_t gates;            /* scores a row: dim_in or 1 */
    const sl_ffn_kernels *ffn;      /* of a feed-forward */
    const sl_attention_kernels *attention; /* of attention, */
    const struct sl_extra_kind *extra;     /* NULL: nothing joins the keys (attention_extra.h), */
    sl_attend attend;                      /* its constants, */
    int64_t window;                        /* and how many positions a query sees at most */
    char label[64];           /* e.g. "layers.3.attn.qkv" */
    sl_buf in[SL_OP_INPUTS];  /* in[0] the input; in[1] a residual that is added to the output */
    sl_buf out;               /* may equal in[0]: in place */
    sl_buf saved[SL_OP_SAVED];/* written by forward, read by backward */
    sl_buf temp;              /* used by backward alone */
    sl_buf din, dout;         /* gradients of in[0] and out; that of in[1] is dout itself, */
    sl_buf din1;              /* but where in[1] is no residual: */
    bool second;              /* in[1] is read going back too, has no other reader, and a gradient of its own */
    bool acc;                 /* din already holds a gradient: add */
    int param[SL_OP_PARAMS];  /* indices of parameter tensors */
    int64_t rows;             /* of in and out: batch * seq */
    int64_t seq;              /* positions of a window */
    int64_t dim_in, dim_out;  /* columns */
    int64_t heads, kv_heads, head_dim;
    const float *cos, *sin;   /* rotary tables [positions, head_dim/2] */
    float eps, factor;        /* norm epsilon; gate factor (q = factor act(b) + offset) or attention scale */
    float offset;
    size_t thread_bytes, shared_bytes; /* scratch that it needs */
    double flops;             /* of one forward */
};

/* Data of a buffer that is fp32 by construction (residual stream, statistics, logits), or of one that the
 * operation knows to be bf16. NULL of SL_NONE. */
static inline float *sl_buf_data(const sl_exec *x, sl_buf b) {
    return b == SL_NONE ? NULL : x->buf[b];
}
static inline sl_bf16 *sl_buf_bf16(const sl_exec *x, sl_buf b) {
    return b == SL_NONE ? NULL : x->buf[b];
}
static inline sl_bf16 *sl_bf16_row(const sl_exec *x, sl_buf b, int64_t row) {
    return (sl_bf16 *)x->buf[b] + row * x->info[b].ld;
}
static inline float *sl_weight(const sl_op *op, const sl_exec *x, int i) {
    return x->p->w + x->p->tensor[op->param[i]].offset;
}
static inline float *sl_weight_grad(const sl_op *op, const sl_exec *x, int i) {
    return x->p->g + x->p->tensor[op->param[i]].offset;
}
static inline void *sl_thread_scratch(const sl_exec *x, int thread) {
    return x->scratch + (size_t)thread * x->scratch_bytes;
}

/* Rows are cut into this many blocks at most wherever per-block partial sums are folded: a function of
 * the shape alone, so that sums do not depend on the number of threads. */
enum { SL_ROW_BLOCKS = 64, SL_ROW_BLOCK_MIN = 16 };
typedef struct {
    int64_t rows, count, size; /* count blocks of `size` rows, the last one shorter */
} sl_blocks;
static inline sl_blocks sl_row_blocks(int64_t rows) {
    int64_t size = (rows + SL_ROW_BLOCKS - 1) / SL_ROW_BLOCKS;
    if (size < SL_ROW_BLOCK_MIN)
        size = SL_ROW_BLOCK_MIN;
    return (sl_blocks){rows, (rows + size - 1) / size, size};
}
static inline int64_t sl_block_rows(sl_blocks b, int64_t i) {
    int64_t left = b.rows - i * b.size;
    return left < b.size ? left : b.size;
}

static inline int64_t sl_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#endif
