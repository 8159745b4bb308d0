/* Cross-entropy over rows of logits. */
#ifndef SL_CUDA_XENT_H
#define SL_CUDA_XENT_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* loss[r] = log(sum exp(logits[r, :])) - logits[r, targets[r]], 0 where targets[r] < 0. training: dlogits = scale *
 * (softmax - onehot), 0 of such rows; [rows, vocab] of stride ldd, bf16 (d_bf16) or fp32, which may be logits itself.
 * Both are aligned to 16 bytes. scale: in device memory. A logit of -infinity has no share; a NaN makes its row NaN. */
void slc_xent(slc_stream s, int64_t rows, int64_t vocab, int64_t ld, const float *logits, const int32_t *targets,
              const float *scale, bool training, float *loss, void *dlogits, bool d_bf16, int64_t ldd);
/* *scale = grad_scale / rows with targets[r] >= 0, or 0 without any. */
void slc_count_targets(slc_stream s, int64_t rows, const int32_t *targets, float grad_scale, float *scale);

#ifdef __cplusplus
}
#endif
#endif
