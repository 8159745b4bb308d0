/* A device other than the CPU: a table of what it can do, and a program on it. Parameters, gradients, moments,
 * activations and states live there; the host's copies (params.h, sl_exec) are brought up to date when somebody asks.
 * Functions return 0, or -1 with a message; after a failed pass or step nothing on the device means anything. */
#ifndef SL_PROGRAM_DEVICE_H
#define SL_PROGRAM_DEVICE_H

#include "program/program.h"
#include "sinklab.h"

typedef struct sl_device_run sl_device_run; /* a program on a device */

/* What a pass is about, all on the host. */
typedef struct {
    const int32_t *tokens, *targets; /* targets: NULL, or no loss is wanted */
    float *token_loss;               /* rows; not read or written without targets */
    float *logits;                   /* rows x vocab, or NULL */
    int64_t position;                /* decoding */
    bool measuring;
    void *state;                     /* of operations: those of a quantised model go there before, and come back */
    double *seconds;                 /* NULL, or as of sl_schedule_forward() */
} sl_device_pass;

/* A whole step: `accumulate` batches, norm of the gradient, decision, update, and what operations keep of a step. */
typedef struct {
    int64_t accumulate;
    int64_t step;         /* from 1, for bias corrections */
    double lr, most_loss; /* a loss above this skips the step; INFINITY: none does */
    sl_apply_fn *apply;   /* NULL, or is asked besides: the device waits for it */
    void *ctx;
    void (*meanwhile)(void *ctx); /* NULL, or is called while the device works; the batches are its by then */
    void *meanwhile_ctx;
    double *seconds;      /* NULL, or as above, the update's left out */
} sl_device_step;
typedef struct {
    double loss, grad_norm; /* mean of the batches; before clipping */
    bool skipped;
} sl_device_result;

/* Blocks of the parameter table. */
enum { SL_BLOCK_W = 1, SL_BLOCK_G = 2, SL_BLOCK_M = 4, SL_BLOCK_V = 8 };

typedef struct {
    char name[128];   /* "NVIDIA H100 80GB HBM3" */
    char detail[160]; /* what else there is to say of it */
    size_t total, free; /* bytes of memory */
} sl_device_info;

typedef struct {
    const char *key; /* the value of `device` */
    /* Of the one that is used, and of the i-th there is; -1 with a message: there is none. */
    const char *(*name)(void);
    int (*info)(int i, sl_device_info *info);
    /* Of the one that is used, measured once: GFLOP/s of a large product, GB/s of its memory. 0: it cannot be
     * measured. */
    double (*gflops)(bool bf16);
    double (*bandwidth)(void);
    /* Memory for a planned program, all on the device; p has its host's values already. NULL with a message: an
     * operation has no kind there, or memory is out. */
    sl_device_run *(*open)(const sl_program *b, size_t arena_bytes, sl_params *p);
    void (*close)(sl_device_run *r); /* of NULL: nothing */
    size_t (*bytes)(const sl_device_run *r); /* of device memory, libraries' left out */
    /* They wait for the device. Gradients of loss * scale are added to those of the device. */
    int (*forward)(sl_device_run *r, const sl_device_pass *p);
    int (*forward_backward)(sl_device_run *r, const sl_device_pass *p, float scale);
    int (*train)(sl_device_run *r, const int32_t *tokens, const int32_t *targets, const sl_device_step *s,
                 sl_device_result *result);
    /* sl_op_kind.end_step of all operations. */
    int (*end_step)(sl_device_run *r, bool applied);
    /* The host's copies of these blocks become the device's, where those have changed since; and the other way, with W
     * what else operations multiply by (integer weights). */
    int (*get_params)(sl_device_run *r, unsigned blocks);
    int (*put_params)(sl_device_run *r, unsigned blocks);
    /* A buffer as the last pass left it, rows x ld; states of all operations. */
    int (*get_buffer)(sl_device_run *r, sl_buf v, void *host);
    int (*get_states)(sl_device_run *r, void *host);
} sl_device;

/* The device of this configuration, *d NULL: the CPU. -1 with a message: it is asked for and not there. */
int sl_device_of(const sl_config *c, const sl_device **d);

#endif
