/* Shared by operations that work row by row and sum parameter gradients over rows. */
#ifndef SL_OPS_ROWWISE_H
#define SL_OPS_ROWWISE_H

#include "program/op.h"

/* Row operations on activations compute in fp32 and round once, when a row is stored; the kernels that read and write
 * bf16 rows do both. Here: rows as fp32, whatever their buffer holds, in place or converted into scratch ([n, cols]
 * floats). */
const float *sl_read_rows(const sl_exec *x, sl_buf b, int64_t row, int64_t n, float *scratch);
/* Rounds c[rows, cols] (stride ldc) into rows row0.., columns col0.. of a bf16 buffer, zeroing the padding behind the
 * last column. */
void sl_store_bf16(const sl_exec *x, sl_buf b, int64_t row0, int64_t rows, int64_t col0, int64_t cols, const float *c,
                   int64_t ldc);

/* Columns col.. of n rows as fp32, in place or converted into scratch ([n, cols] floats); and the other way, y
 * [n, cols] with stride ldy, rounded where the buffer is bf16. */
typedef struct {
    const float *p;
    int64_t ld;
} sl_columns;
sl_columns sl_read_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols,
                           float *scratch);
void sl_write_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols, const float *y,
                      int64_t ldy);
/* Gradients y [n, cols] of such columns: added to those that are there, if `add`, by way of scratch (as above), and y
 * is changed. */
void sl_write_gradient(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t col, int64_t cols, float *y,
                       bool add, float *scratch);
/* Zeros columns from..to of n rows. */
void sl_clear_columns(const sl_exec *x, sl_buf b, int64_t row, int64_t n, int64_t from, int64_t to);

/* Zeros the padding behind the last column of n rows of a bf16 buffer. */
void sl_pad_rows(const sl_exec *x, sl_buf b, int64_t row, int64_t n);

/* The q and k part of one qkv row, `heads` heads of hd, to be changed in place: fp32 at p until sl_end_qk rounds it
 * back if need be. */
typedef struct {
    float *p;
    int64_t n;
} sl_qk;
sl_qk sl_edit_qk(const sl_exec *x, sl_buf b, int64_t row, int64_t heads, int64_t hd, float *scratch);
void sl_end_qk(const sl_exec *x, sl_buf b, int64_t row, sl_qk qk);

/* g[j] += partial[0][j] + partial[1][j] + ... of `count` partial sums, for n columns from `from` on, in this order;
 * they lie `stride` apart. A fold over many columns is cut into items of SL_FOLD_COLUMNS. */
enum { SL_FOLD_COLUMNS = 2048 };
void sl_fold_columns(const sl_exec *x, int64_t from, int64_t n, int64_t count, int64_t stride, const float *partial,
                     float *g);

/* Stages of FOLD: fold the sums that every block of sl_op_blocks() has left in x->shared: the gradients of
 * op->param[0], of param[1] ..., one behind the other; of these params the operation has those that are not SL_NONE. */
int sl_fold_params(const sl_op *op, const sl_exec *x, const sl_span *s);
sl_split sl_fold_params_split(const sl_op *op, const sl_exec *x);
/* Floats of one parameter, 0 of SL_NONE; of a block's sums; bytes of those of all blocks. */
int64_t sl_op_param_floats(const sl_op *op, const sl_params *p, int i);
int64_t sl_op_params_floats(const sl_op *op, const sl_params *p);
size_t sl_fold_params_bytes(const sl_op *op, const sl_params *p);

#endif
