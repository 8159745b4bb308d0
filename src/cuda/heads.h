/* What is done to heads beside attention: rotary embedding, norms of q and k, gates. Rows are bf16 or fp32; of bf16, ld
 * is a multiple of 8 and pointers are aligned to 16 bytes (fp32: 4). Formulas: simd/rope.c, simd/norm.c, simd/act.c. */
#ifndef SL_CUDA_HEADS_H
#define SL_CUDA_HEADS_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In place on the first `heads` heads of each row: pairs (j, j + head_dim/2), head_dim even, turned by sign * t *
 * base^(-2j/head_dim), t = *position + row % seq. table holds cosine and sine, [positions, head_dim/2, 2], and begins
 * as zeros: what is still missing is put there by the first kernel that reads it. */
typedef struct {
    int64_t rows, seq, heads, head_dim;
    bool bf16;
    void *x;
    int64_t ld;
    float sign;
    double base;
    float *table;
    const int32_t *position;
} slc_rope;
void slc_rope_turn(slc_stream s, const slc_rope *p);

/* RMSNorm of each q and k head by itself, in place on x; raw [rows, (heads + kv_heads) * head_dim] fp32 gets what was
 * there, rstd [rows, heads + kv_heads] 1/rms. Backward: the gradient in place on x; adds to dw. Scratch:
 * slc_qk_norm_scratch() bytes. */
typedef struct {
    int64_t rows, heads, kv_heads, head_dim;
    bool bf16;
    void *x;
    int64_t ld;
    float eps;
    const float *weight[2]; /* [head_dim] of q, of k */
    float *raw, *rstd;
    float *dweight[2];
    float *scratch;
} slc_qk_norm;
void slc_qk_norm_forward(slc_stream s, const slc_qk_norm *p);
void slc_qk_norm_backward(slc_stream s, const slc_qk_norm *p);
size_t slc_qk_norm_scratch(const slc_qk_norm *p); /* reads sizes and bf16 alone */

/* out = y (1 - open + open sigmoid(b)), n columns of each row, `group` of them side by side to a column of b. Pointers
 * are at the first column. keep: gets y, where out may be y; or NULL. Backward, from y as it was: dy, which may be
 * dout, and db. */
typedef struct {
    int64_t rows, n, group;
    bool bf16;
    float open;
    const void *y, *b, *dout;
    void *out, *keep, *dy, *db;
    int64_t ld_y, ld_b, ld_dout, ld_out, ld_keep, ld_dy, ld_db;
} slc_gate;
void slc_gate_forward(slc_stream s, const slc_gate *p);
void slc_gate_backward(slc_stream s, const slc_gate *p);

#ifdef __cplusplus
}
#endif
#endif
