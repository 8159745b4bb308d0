/* The linear operation in bf16, and what it shares with the head. */
#ifndef SL_OPS_LINEAR_BF16_H
#define SL_OPS_LINEAR_BF16_H

#include "program/program.h"

extern const sl_op_kind sl_linear_bf16;

/* saved[0], saved[1]: panels of W for the forward product and the input gradient; temp: dout as bf16 where it comes
 * from the fp32 residual stream. */
void sl_linear_bf16_buffers(sl_program *b, sl_op *op, bool residual);

/* Buffer for the panels of a [k, n] operand. */
sl_buf sl_panels_buffer(sl_program *b, int64_t n, int64_t k);
/* Packs weights [dim_out, dim_in] for both directions; back may be SL_NONE. */
void sl_pack_weights(const sl_op *op, const sl_exec *x, const float *w, sl_buf forward, sl_buf back);
/* y[m rows from row0, n] = a panels, rounded into the bf16 buffer y. */
void sl_product_bf16(const sl_exec *x, int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda, sl_buf panels,
                     sl_buf y, int64_t row0);

#endif
