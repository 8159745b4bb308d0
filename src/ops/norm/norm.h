/* The norm table: a norm is a row of tables/norm.inc and a file, src/ops/norm/<name>.c, with its builder. */
#ifndef SL_OPS_NORM_H
#define SL_OPS_NORM_H

#include "program/program.h"

/* What a norm leaves for probes. */
typedef struct {
    sl_buf out;
    int weight;     /* parameter index of the per-channel weight, SL_NONE if there is none */
    int gate_op;    /* index of the gate operation in the program, SL_NONE if there is none */
} sl_norm_tap;

/* What a norm belongs to: attention, the feed-forward (both as indices of a layer's halves), the head. */
enum sl_norm_site { SL_NORM_ATTN, SL_NORM_FFN, SL_NORM_FINAL };

/* Appends the norm of x [rows, dim]; tensors are named <prefix>.weight, ... */
typedef sl_norm_tap (*sl_norm_builder)(sl_program *b, sl_scope scope, sl_buf x, const char *prefix,
                                       enum sl_norm_site site);

#define NORM(name, ...) \
    sl_norm_tap sl_build_##name(sl_program *b, sl_scope scope, sl_buf x, const char *prefix, enum sl_norm_site site);
#include "tables/norm.inc"
#undef NORM

extern const sl_norm_builder sl_norm_builders[]; /* indexed by config's model.norm */
extern const sl_norm_builder sl_base_builders[]; /* indexed by config's model.norm_opts.base */

/* Gate values q of a gate operation after a forward: [rows, dim] into dst. */
void sl_gate_values(const sl_op *op, const sl_exec *x, float *dst);

#endif
