/* What the files of the operation share, and what a model reads of it. */
#ifndef SL_OPS_ATTENTION_H
#define SL_OPS_ATTENTION_H

#include "program/program.h"

typedef struct {
    enum sl_attention_kind kind;
    int64_t heads, kv_heads, head_dim; /* rows are [q heads | k kv_heads | v kv_heads] of head_dim */
    int64_t window;                    /* positions that a query sees at most */
    const sl_attention_kernels *kernels;
    sl_attend attend;                  /* constants of the kind; its band is a tile's */
    const struct sl_extra_kind *extra; /* what joins the keys (extra.h), or NULL */
    int64_t cache;                     /* positions of a decoder's cache */
} sl_attention;

/* NULL of any other operation, and of none. */
const sl_attention *sl_attention_of(const sl_op *op);

/* ---- inside the operation */

/* Gives op sizes and kind of the program's configuration, as its own; NULL (and b->failed) if memory is out. */
sl_attention *sl_attention_describe(sl_program *b, sl_op *op);

/* One window and key/value head of a call. */
typedef struct {
    int64_t window, kv;
} sl_attention_item;
/* A stage of whole windows, cut across key/value heads: how, and the i-th item of a call, below sl_attention_items().
 * */
sl_split sl_attention_split(const sl_op *op, const sl_exec *x);
int64_t sl_attention_items(const sl_op *op, const sl_span *s);
sl_attention_item sl_attention_item_at(const sl_op *op, const sl_span *s, int64_t i);

/* Stages of the bf16 form, and the private scratch of a worker. */
int sl_attention_bf16_forward(const sl_op *op, const sl_exec *x, const sl_span *s);
int sl_attention_bf16_backward(const sl_op *op, const sl_exec *x, const sl_span *s);
size_t sl_attention_bf16_bytes(const sl_op *op, bool training);

#endif
