/* Operations: the vocabulary of the static program (program.h). An operation is a description that passes only read:
 * shapes, values, parameters. Its kind says in stages what there is to compute and how each may be cut; the schedule
 * (schedule.h) cuts, calls from its threads and stands the barriers between. No operation starts a thread. */
#ifndef SL_PROGRAM_OP_H
#define SL_PROGRAM_OP_H

#include "program/params.h"
#include "program/scope.h"
#include "simd/kernels.h"

typedef int sl_buf; /* index of a planned buffer; SL_NONE = none */
enum {
    SL_NONE = -1,
    SL_APART = -2 /* as the residual that a builder is given: none, but the result is fp32 as if there were one */
};

/* Row stride of bf16 buffers: padded to whole lines of 64 bytes, an odd number of them, so that the rows of a tile do
 * not fall on the same few sets of L1. */
static inline int64_t sl_bf16_ld(int64_t k) { return sl_bf16_kpad(k) | SL_BF16_KR; }

/* A planned buffer: [rows, cols] row-major, fp32 (ld = cols) or bf16 (ld = sl_bf16_ld(cols); columns from
 * cols to sl_bf16_kpad(cols) are zero, so that rows are operands of the matrix products as they lie). */
typedef struct {
    int64_t rows, cols, ld;
    bool bf16;
    int first, last; /* first and last use on the timeline (forward op i at i, backward at 2n-1-i) */
    bool summed[2];  /* a stage of SUMS, forward or backward, reads all of its rows */
    bool kept;       /* it can be read after a pass */
    bool lasting;    /* nobody else has its place in any pass */
    int64_t local;   /* > 0: all uses are in one segment; each worker has so many rows, those of its call */
    size_t offset;   /* bytes in the activation arena; local: in a worker's */
    sl_buf id;       /* by which operations know it: its own, or, going back, that of the value that it holds again */
    sl_buf back;     /* SL_NONE, or the buffer that holds the value going back */
} sl_buffer;

typedef struct sl_op sl_op;

/* All that an operation sees while it runs. */
typedef struct {
    const sl_kernels *k;
    const sl_params *p;
    const sl_buffer *info;   /* shape of each buffer */
    void *const *buf;        /* data of each buffer, in arena; of a local one only within a segment. In memory those of
                              * backward follow those of forward */
    size_t buffers;
    char *arena;
    size_t arena_bytes;
    const int32_t *tokens;   /* rows of the batch */
    const int32_t *targets;  /* the same number; < 0: no loss here; NULL: no loss wanted */
    float *token_loss;       /* rows; set by the loss */
    float *logits;           /* rows x vocab, or NULL; set by the loss */
    bool training;           /* the loss computes its gradients too */
    bool measuring;          /* statistics that a training step would take are taken in this pass too */
    float grad_scale;        /* gradients are those of loss * grad_scale */
    int64_t position;        /* of the first row of each window (decoding: how many are cached) */
    char *state;             /* what operations keep from pass to pass: sl_op_state() */
    char *scratch;           /* private scratch of worker t: scratch + t*scratch_bytes */
    size_t scratch_bytes;
    char *local;             /* local buffers of worker t: local + t*local_bytes */
    size_t local_bytes;
    void **worker_buf;       /* buf of worker t within a segment: worker_buf + 2 * t * buffers */
    float *shared;           /* scratch of one operation, of all workers: from its first stage to its last */
    float *sums;             /* the same, but from its first stage of SUMS on */
    int workers;
} sl_exec;

/* ---- stages */

/* What one call of a stage is given. */
enum sl_cut {
    SL_CUT_END,     /* no stage: the end of a list */
    SL_CUT_PARAMS,  /* some of its items. They read parameters alone, and so may run before anything else of the pass */
    SL_CUT_ROWS,    /* some rows of the batch, and perhaps a part of their columns */
    SL_CUT_WINDOWS, /* whole windows, whose rows see each other, and perhaps a part of their heads */
    SL_CUT_BATCH,   /* some of its items, once every row has been through the stages before */
    /* The same, of what no other operation of this pass reads, gradients of parameters above all: the schedule may go
     * on to other operations' rows first. Nothing but SUMS and FOLD comes behind. */
    SL_CUT_SUMS, /* reads rows of inputs, of saved and of temp, or of dout where there is no temp */
    SL_CUT_FOLD  /* reads none, but what stages before left in shared scratch */
};

/* What a call is to compute. Calls of one stage run at once and in any order, and must not see each other. */
typedef struct {
    int64_t first, n;    /* rows, or items */
    int64_t part, parts; /* of ROWS and WINDOWS: this share of the columns, or of the heads */
    int64_t row0, rows;  /* the rows that the stage as a whole is about: the batch, or a chunk of it */
    int worker;
} sl_span;

/* How a stage may be cut. Results must not depend on where it is. */
typedef struct {
    int64_t items;         /* PARAMS, BATCH, SUMS, FOLD: how many there are. ROWS: */
    int64_t unit;          /* calls begin at multiples of so many rows, */
    int64_t least, most;   /* want at least and have at most so many, */
    int64_t parts, parts_most; /* and columns may be cut into this many shares up to that many */
} sl_split;

typedef struct {
    enum sl_cut cut;
    /* Returns 0, or -1 with a message, which ends the pass. */
    int (*run)(const sl_op *op, const sl_exec *x, const sl_span *s);
    /* NULL: one item; whole blocks of sl_op_blocks(), uncut; window by window. Asked when the stage begins; of ROWS not
     * within a segment (program.h), where a call is several whole blocks, uncut. */
    sl_split (*split)(const sl_op *op, const sl_exec *x);
} sl_stage;
/* A list of them, for the table entry of a kind. */
#define SL_STAGES(...) ((const sl_stage[]){__VA_ARGS__, {0}})

typedef struct {
    const char *name;
    /* In their order, with a barrier between any two. Forward writes out and saved[]. Backward reads dout, writes the
     * gradients of its inputs, din[i], and adds to those of its parameters, partial sums in an order that shapes
     * decide. An operation without an output is the loss: its forward writes the gradient of its input too. */
    const sl_stage *forward, *backward;
    /* The stages behind those of PARAMS are gone through again and again, for so many rows at a time. NULL: all rows.
     * */
    int64_t (*chunk)(const sl_op *op);
    /* After a step of one or more passes: was it applied? Takes over what passes have left in the state. NULL:
     * nothing. */
    void (*end_step)(const sl_op *op, const sl_exec *x, bool applied);
    void (*destroy)(void *own); /* NULL: free() */
    bool keeps_out;             /* backward reads out */
    bool adds;                  /* backward adds to din[i] where acc[i] says so; for other kinds the schedule adds */
    bool again;                 /* stages of ROWS are cheap and write nothing but out and saved[], as they did before:
                                 * they may run again going back, in place of keeping out */
} sl_op_kind;

/* ---- description */

enum { SL_OP_INPUTS = 5, SL_OP_SAVED = 5, SL_OP_PARAMS = 5 };

/* What an input is to its operation. */
enum {
    SL_INPUT_GRADIENT = 1, /* backward writes a gradient of it */
    SL_INPUT_KEPT = 2,     /* backward reads it */
    SL_INPUT_ADDED = 4     /* out = ... + this input: its gradient is dout, which the plan passes on by itself */
};

struct sl_op {
    const sl_op_kind *kind;
    sl_scope scope;
    int inputs;
    sl_buf in[SL_OP_INPUTS];
    unsigned use[SL_OP_INPUTS];  /* SL_INPUT_* */
    sl_buf out;                  /* may equal in[0]: in place */
    sl_buf saved[SL_OP_SAVED];   /* written by forward, read by backward */
    sl_buf temp;                 /* used by backward alone */
    int param[SL_OP_PARAMS];     /* indices of parameter tensors; SL_NONE */
    int64_t rows, seq;           /* of in and out: batch * seq; positions of a window */
    int64_t dim_in, dim_out;     /* columns */
    void *own;                   /* what its kind alone knows; destroyed with the program */
    size_t state_bytes, state;   /* of what changes from pass to pass, zero at first; where it lies */
    size_t worker_bytes, shared_bytes, sums_bytes; /* scratch that it needs */
    double flops;                /* of one forward */
    /* Set by the plan. */
    sl_buf dout, din[SL_OP_INPUTS];
    bool acc[SL_OP_INPUTS];      /* din[i] already holds a gradient: add */
    bool pass[SL_OP_INPUTS];     /* the schedule writes dout into din[i] (acc: adds it) before backward, */
    sl_buf sum[SL_OP_INPUTS];    /* or adds din[i] to this afterwards; SL_NONE */
    size_t shared[2], sums[2];   /* where its shared scratch begins, forward and backward */
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
/* The same of a parameter that may be in bf16: one of the two is NULL. */
typedef struct {
    const float *f32;
    const sl_bf16 *bf16;
} sl_matrix_weights;
static inline sl_matrix_weights sl_matrix_weight(const sl_op *op, const sl_exec *x, int i) {
    const sl_tensor *t = &x->p->tensor[op->param[i]];
    return t->bf16 ? (sl_matrix_weights){.bf16 = x->p->w16 + t->offset}
                   : (sl_matrix_weights){.f32 = x->p->w + t->offset};
}
static inline float *sl_weight_grad(const sl_op *op, const sl_exec *x, int i) {
    return x->p->g + x->p->tensor[op->param[i]].offset;
}
static inline void *sl_op_state(const sl_op *op, const sl_exec *x) { return x->state + op->state; }
static inline void *sl_worker_scratch(const sl_exec *x, int worker) {
    return x->scratch + (size_t)worker * x->scratch_bytes;
}

/* ---- blocks of rows: calls of ROWS without a split, and wherever partial sums are folded. A function of the shape
 * alone, so that sums do not depend on the number of threads. A block lies within a window or is made of whole ones. */
enum { SL_ROW_BLOCKS = 64, SL_ROW_BLOCK_MIN = 16 };
typedef struct {
    int64_t rows, count;
    int64_t span, size, per; /* spans of `span` rows are cut into `per` blocks of `size`, the last one shorter */
} sl_blocks;
sl_blocks sl_row_blocks(int64_t rows, int64_t seq);
static inline sl_blocks sl_op_blocks(const sl_op *op) { return sl_row_blocks(op->rows, op->seq); }
static inline int64_t sl_block_first(sl_blocks b, int64_t i) { return i / b.per * b.span + i % b.per * b.size; }
static inline int64_t sl_block_rows(sl_blocks b, int64_t i) {
    int64_t first = sl_block_first(b, i), end = i / b.per * b.span + b.span, stop = first + b.size;
    stop = stop < end ? stop : end;
    return (stop < b.rows ? stop : b.rows) - first;
}
/* The block of this row; the one behind the last row of a span. */
static inline int64_t sl_block_at(sl_blocks b, int64_t row) { return row / b.span * b.per + row % b.span / b.size; }
static inline int64_t sl_block_behind(sl_blocks b, const sl_span *s) { return sl_block_at(b, s->first + s->n - 1) + 1; }

static inline int64_t sl_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline int64_t sl_div_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
static inline int64_t sl_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t sl_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
