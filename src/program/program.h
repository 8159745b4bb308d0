/* The static program: a flat list of operations over planned buffers, compiled once from the config.
 * schedule.h runs it. It knows no operation: builders (ops/) are handed one and append to it. */
#ifndef SL_PROGRAM_PROGRAM_H
#define SL_PROGRAM_PROGRAM_H

#include "config/config.h"
#include "program/op.h"

/* Operations that rows go through together: a worker takes some rows through all of them before it takes others, so
 * that what one leaves is still in the cache for the next. */
typedef struct {
    int first, end; /* forward in this order, backward in the reverse one */
    int64_t blocks; /* of sl_op_blocks() that a worker takes at a time; 0: one operation, cut as it likes */
    int local, local_end; /* its local buffers are those of the program's list from local on; */
    int again, again_end; /* backward: operations whose values it computes again, likewise */
    bool sums_apart;      /* sums of its operations share their scratch, and are taken one operation after the other */
} sl_segment;
enum { SL_FORWARD, SL_BACKWARD };
enum { SL_SEGMENT_OPS = 64 }; /* of a segment at most */

typedef struct {
    const sl_config *config;
    const sl_kernels *kernels;
    sl_params *params;
    int64_t batch, seq;
    int layer;    /* of the block that is built now; SL_NO_LAYER outside */
    bool training;
    bool device; /* it runs on a CUDA device (cuda/kind.h), not by the schedule */
    bool bf16; /* activations that feed matrix products, and their gradients, are bf16 */
    bool compact; /* matrices that linear layers alone read are kept in bf16 */
    const struct sl_quant_options *quant; /* NULL: the model is not quantised */
    int64_t cache; /* > 0: one-position decoding with a cache of this many positions */

    sl_op *op;
    int ops, op_capacity;
    sl_buffer *buffer;
    int buffers, buffer_capacity;
    int *keep;  /* buffers that stay readable after a forward */
    int keeps, keep_capacity;
    size_t state_bytes; /* of all operations */
    sl_segment *segment[2]; /* of each direction, in the order in which they run */
    int segments[2];
    sl_buf *local; /* local buffers, segment by segment */
    int *again;    /* operations, likewise */
    size_t shared_bytes, sums_bytes, local_bytes; /* of a segment's operations; of a worker's local buffers */
    bool failed; /* a builder failed; message set */
} sl_program;

/* New buffer of rows x cols floats; an activation is bf16 where the program is. */
sl_buf sl_program_buffer(sl_program *b, int64_t rows, int64_t cols);
sl_buf sl_program_activation(sl_program *b, int64_t rows, int64_t cols);
/* A buffer that keeps its place and its contents from pass to pass, zero at first. */
sl_buf sl_program_lasting(sl_program *b, int64_t rows, int64_t cols);
/* Appends an operation with all references set to SL_NONE; rows and seq filled in. The pointer is valid until the next
 * append. */
sl_op *sl_program_op(sl_program *b, const sl_op_kind *kind, sl_scope scope);
/* Its next input, SL_NONE of which an operation can do without; use: SL_INPUT_*. */
void sl_op_reads(sl_op *op, sl_buf v, unsigned use);
/* bytes of zeros as its own; NULL (and b->failed, with a message) if memory is out. */
void *sl_program_own(sl_program *b, sl_op *op, size_t bytes);
/* A parameter tensor, <prefix>.<name>. */
typedef struct {
    const char *name;
    int64_t rows, cols; /* [rows, cols]; cols = 0: a vector [rows] */
    int64_t more[SL_TENSOR_DIMS - 2]; /* dimensions behind them, as of a convolution [dim, 1, width]; 0: none */
    enum sl_init init;
    double start;       /* the standard deviation of SL_INIT_NORMAL, the value of SL_INIT_VALUE, the end of
                         * SL_INIT_UNIFORM; of SL_INIT_DRAW what its function takes it for, as span */
    int64_t span;
    sl_draw draw;       /* of SL_INIT_DRAW */
    bool elementwise;   /* of two dimensions, but no matrix that multiplies activations: none to Muon */
    enum sl_decay decay;
    double rate;        /* of a vector: its learning rate over the run's; 0: 1 */
    sl_scope place;     /* of a linear layer's matrix: where the layer stands */
    bool join;          /* directly behind the tensor declared last, one matrix with it (params.h) */
    bool linear;        /* linear layers alone read it: a compact program keeps it in bf16 */
} sl_param_spec;
/* Declares it and returns its index; 0 (and b->failed, with a message) if memory is out. */
int sl_program_param(sl_program *b, const char *prefix, const sl_param_spec *spec);
/* Declares a tensor [n] of zeros that no gradient reaches: checkpoints hold it, sizes of models leave it out. */
int sl_program_state(sl_program *b, const char *prefix, const char *name, int64_t n);
void sl_program_keep(sl_program *b, sl_buf v);
/* The first operation of this layer, half and part, in any role; NULL if there is none. */
const sl_op *sl_program_find(const sl_program *b, int layer, enum sl_half half, enum sl_part part);

/* Assigns gradient buffers (training), segments that suit so many threads, lifetimes and offsets, and places of states.
 * Returns the arena's bytes. */
size_t sl_program_plan(sl_program *b, int threads);
void sl_program_free(sl_program *b); /* ops and buffers; params belong to the model */

#endif
