/* Sequence mixers: what a block has in the place of attention. model.mixer names one for each layer, a row of
 * tables/mixer.inc; what the rest of the program has to know of it stands here, so that nothing else knows a mixer. */
#ifndef SL_OPS_MIXER_H
#define SL_OPS_MIXER_H

#include "ops/mixer/recurrence.h"
#include "program/program.h"

/* A linear layer of a block. */
typedef struct {
    enum sl_half half;
    enum sl_part part;
    int norm;    /* whose output it reads: SL_NORM_ATTN, SL_NORM_FFN; -1: it reads another and writes to the stream */
    bool linear; /* false: it is never rounded or rotated on its own */
} sl_block_layer;

/* What a mixer is built from. */
typedef struct {
    int64_t layer;
    sl_buf in;              /* [rows, dim]: the norm's output (norm_place post, output: the stream), an operand of
                             * products */
    sl_buf residual;        /* [rows, dim], fp32, to add the result to; SL_NONE: the result alone, SL_APART: in
                             * fp32 */
    const float *cos, *sin; /* rotary tables of this layer (sl_rope_table); NULL: no position embedding */
    struct sl_anchors *anchors; /* of the model (ops/attention/anchors.h); those of qkv may be SL_NONE yet */
    sl_buf *values;             /* of the model: v of its first layer of rwkv7; SL_NONE yet */
} sl_mixer_site;

typedef struct {
    const char *name; /* as in model.mixer */
    /* Appends the operations, in SL_HALF_ATTN, and declares the tensors. Returns [rows, dim], fp32 with a residual or
     * SL_APART.
     * b->cache > 0: for one position of each window, x->position, whose earlier ones were passed before; what it needs
     * of those lies in buffers that last (sl_program_lasting), and position 0 begins anew. Probes find by their parts
     * what there is of: core, whose output the mixing itself makes, and out, the projection to the stream. */
    sl_buf (*build)(sl_program *b, const sl_mixer_site *site);
    /* FLOP of a token, forward and backward, beyond the 6 for each parameter in tensors of two dimensions or more. */
    double (*flops)(const sl_config *c, int64_t seq);
    /* Those of its matrices, whose tensors say their place (sl_param_spec); ended by SL_PART_none. */
    const sl_block_layer *layers;
    /* It is attention: part qkv makes rows [q heads | k kv_heads | v kv_heads], part core is an operation of
     * ops/attention/attention.h, and token 0's share in its outputs can be told. */
    bool attends;
    const sl_recurrence_kind *recurrence; /* of the operation of part core; NULL: it has no such state */
    int64_t (*reach)(const sl_config *c); /* of one with a state: positions that its short convolution sees, 1: none */
    /* A decoder can go back to any position that it was at, not only to 0. */
    bool rewinds;
} sl_mixer;

extern const sl_mixer *const sl_mixers[]; /* in the order of the table; ended by NULL */

/* The mixer of a layer. */
static inline const sl_mixer *sl_mixer_of(const sl_config *c, int64_t layer) {
    return sl_mixers[sl_config_mixer(c, layer)];
}
/* The first layer whose mixer attends, or does not; -1: there is none. */
int64_t sl_mixer_first(const sl_config *c, bool attends);

#endif
