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
    sl_softcap cap;
    const struct sl_extra_kind *extra; /* what joins the keys (extra.h), or NULL */
    int64_t cache;                     /* positions of a decoder's cache */
} sl_attention;

/* What it saves: the rows' statistic (of a decoder keys and values), and with model.residual: oasis 1 - sum p of each
 * query, [windows * heads, seq], and the gradient of that, which null.c leaves there: [rows], the same of all heads. */
enum { SL_ATTENTION_STAT, SL_ATTENTION_NULLS = 2, SL_ATTENTION_DNULL };

/* Of null evidence (null.c), as its own: its column of psi. It saves the nulls and their gradient, SL_NONE of a mixer
 * that leaves nothing unused. */
typedef struct {
    int64_t layer, heads;
} sl_evidence;
enum { SL_EVIDENCE_NULLS, SL_EVIDENCE_DNULL };

/* NULL of any other operation, and of none. */
const sl_attention *sl_attention_of(const sl_op *op);

/* Keys and values of a position of a window into the caches of a decoder's attention: kv = [k kv_heads | v kv_heads].
 */
void sl_cached_attention_store(const sl_op *op, const sl_exec *x, int64_t window, int64_t position, const float *kv);

/* ---- inside the operation */

/* Gives op sizes and kind of the program's configuration, as its own; NULL (and b->failed) if memory is out. */
sl_attention *sl_attention_describe(sl_program *b, sl_op *op);

/* Caps raw scores [rows, n] of a tile, as far as they are in its band, where the operation has a cap. */
void sl_attention_cap(const sl_op *op, const sl_kernels *k, sl_band band, int64_t rows, int64_t n, float *s,
                      int64_t lds);
/* Makes the gradients dp of the weights such that the gradient of raw scores s (as the former has left them) follows by
 * the formula without a cap, p (dp - delta): delta one for each row, or for each column (by_column). */
void sl_attention_cap_back(const sl_op *op, const sl_kernels *k, sl_band band, int64_t rows, int64_t n, const float *s,
                           float *dp, int64_t lds, const float *delta, bool by_column);

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
