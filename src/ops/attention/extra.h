/* What joins the keys that a query sees: a logit in the softmax's denominator, perhaps with a value of its own. Rows
 * are fp32, of one head. */
#ifndef SL_OPS_ATTENTION_EXTRA_H
#define SL_OPS_ATTENTION_EXTRA_H

#include "program/program.h"

/* The tensors' share of one head. */
typedef struct {
    const sl_kernels *k;
    int64_t hd;
    float scale;
    const float *w[SL_OP_PARAMS];
    float *dw[SL_OP_PARAMS]; /* in backward: partial sums, zero at the start */
} sl_extra;

typedef struct sl_extra_kind {
    int params;
    struct {
        const char *name;
        bool per_head; /* a number for each query head; else head_dim numbers for each key/value head */
        enum sl_init init;
    } param[SL_OP_PARAMS];
    float (*logit)(const sl_extra *e, const float *q);             /* natural, scaled */
    void (*output)(const sl_extra *e, float p, float *o);          /* o += p value; NULL: no value */
    /* From the weight p of the extra and delta = dout . out; dq += dq_scale * (gradient of the logit) * key. NULL:
     * nothing to learn. */
    void (*gradient)(const sl_extra *e, const float *q, const float *dout, float p, float delta, float dq_scale,
                     float *dq);
} sl_extra_kind;

extern const sl_extra_kind *const sl_extra_kinds[]; /* by enum sl_attention_kind */

/* Declares the tensors of op's kind, prefix.name, and the shared scratch of their gradients. */
void sl_extra_build(sl_program *b, sl_op *op, const char *prefix);
/* Query head h of a window; backward: with the partial sums of that window. */
sl_extra sl_extra_of_head(const sl_op *op, const sl_exec *x, int64_t window, int64_t h, bool backward);
/* Zeros the partial sums of a (window, key/value head). */
void sl_extra_begin(const sl_op *op, const sl_exec *x, int64_t window, int64_t kv);
/* A stage that adds them to the gradients; an item is a tensor. */
int sl_extra_fold(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_extra_fold_items(const sl_op *op, const sl_exec *x);

#endif
