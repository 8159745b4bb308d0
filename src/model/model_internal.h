/* What the files of src/model share: the model, and its building from a config. */
#ifndef SL_MODEL_MODEL_INTERNAL_H
#define SL_MODEL_MODEL_INTERNAL_H

#include "model/model.h"
#include "program/program.h"
#include "ops/attention/anchors.h"
#include "ops/norm/norm.h"
#include "formats/options.h"

typedef struct {
    sl_buf residual; /* h_i, the input of the block */
    sl_buf mid;      /* the stream between its halves; SL_NONE of a block without two, one after the other */
    sl_norm_tap norm[2];
} layer_tap;

typedef struct {
    float *cos, *sin; /* NULL without */
} sl_rotary;

struct sl_model {
    sl_config config, given; /* in force; as it was asked for */
    sl_quant_options quant;  /* of a quantised model, else unused */
    int32_t vocab;
    sl_params params;
    sl_program program;
    sl_exec exec;
    const sl_device *device; /* NULL: it runs on the CPU, in exec */
    sl_device_run *run;
    bool *fetched; /* of each buffer: has exec.buf what the last pass left on the device */
    layer_tap *layer; /* layers + 1: the last one has only residual and norm[0] (the final norm) */
    sl_anchors anchors;
    sl_buf values; /* sl_mixer_site */
    sl_rotary rotary[2]; /* tables of all layers; of those with model.rope_base_window */
    float *tap; /* a bf16 program's activations as fp32, for sl_model_qkv and sl_model_norm_output */
    float *projection; /* a matrix that is kept in bf16 as fp32, for sl_model_projection */
    float *gain; /* 1 + weight of zero-centred norms, for sl_model_norm_weight: [layers + 1][2][dim] */
    bool taps, part_taps, tapped; /* does it keep taps, those of sl_tap too; do they hold a pass */
    int threads;       /* that there is scratch for */
    int64_t decoded;   /* positions in a decoder's cache */
    double *seconds; /* NULL, or SL_TIMES of each operation (program/schedule.h) */
};

/* Appends the operations and parameters of m->config to m->program and fills m->layer. What is kept keeps its place
 * to the end of a forward pass. Failure is left in m->program.failed. */
enum sl_keep {
    SL_KEEP_NONE,
    SL_KEEP_QKV, /* queries, keys and values; and there is no head */
    SL_KEEP_TAPS /* what probes read */
};
void sl_model_build(sl_model *m, enum sl_keep keep);
/* The model of prompt.c: that of a decoder for windows of seq positions, without memory. */
sl_model *sl_model_compile_prompt(const sl_model *decoder, int64_t seq);
/* [q | k | v] of a layer whose mixer is attention. */
sl_buf sl_model_qkv_buffer(const sl_model *m, int layer);
/* "WHAT: the model is NULL ...". Returns -1. */
int sl_model_fail_null(const char *what);
/* ---- of a model on a device (on_device.c) */
/* Memory there and the parameters' values. Returns 0, or -1 with a message. */
int sl_model_open_device(sl_model *m);
void sl_model_close_device(sl_model *m);
/* One forward pass of what m->exec says, losses and logits to where that says. */
int sl_model_forward_on_device(sl_model *m);
/* Lets the host read what is on a device, and does nothing on the CPU: a buffer of the last pass (true: m->exec.buf has
 * it), the inputs of a gate's values too, states of operations. false, -1 with a message. */
bool sl_model_fetch(const sl_model *m, sl_buf v);
bool sl_model_fetch_gate(const sl_model *m, const sl_op *gate);
int sl_model_fetch_states(const sl_model *m);
int sl_model_read_weights(const sl_model *m);

/* Keeps what sl_model_tap() reads (taps.c). */
void sl_model_keep_taps(sl_model *m);

#endif
