/* Causal attention of every kind of model.attention on a CUDA device; formulas and meaning of a, b, window and extras
 * are those of simd/kernels.h and ops/attention/extra.h. Nothing of size seq x seq is stored: scores are computed again
 * in the backward pass (Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691). */
#ifndef SL_CUDA_ATTENTION_H
#define SL_CUDA_ATTENTION_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLC_ROWS_SOFTMAX, SLC_ROWS_CLIPPED, SLC_ROWS_SIGMOID, SLC_ROWS_RELU }; /* as enum sl_attention_rows */
enum { SLC_EXTRA_NONE, SLC_EXTRA_ZERO, SLC_EXTRA_LOGIT, SLC_EXTRA_KEY, SLC_EXTRA_KEY_VALUE };

/* Rows are positions: [q heads | k kv_heads | v kv_heads] of head_dim in qkv and dqkv, heads of head_dim in out and
 * dout. All four are bf16, or all fp32; no two may overlap. bf16: ld and ldo multiples of 8, pointers aligned to 16
 * bytes. Softmax alone has an extra. */
typedef struct {
    int64_t batch, seq, heads, kv_heads, head_dim;
    int64_t window;       /* positions that a query sees at most, >= 1 */
    int rows, extra;
    float scale, a, b;
    bool bf16;
    const void *qkv;
    void *out;
    int64_t ld, ldo;      /* elements from row to row of qkv and dqkv; of out and dout */
    float *stat;          /* [batch * heads, seq]: log of the sum of exponentials (softmax and clipped alone) */
    float *nulls;         /* NULL, or of an extra of logit 0 its weight: [batch * heads, seq] */
    const float *sinks;   /* [heads], LOGIT */
    const float *bias_k, *bias_v; /* [kv_heads, head_dim], KEY and KEY_VALUE; KEY_VALUE */
    /* Backward: out and stat are as forward left them. dqkv is written whole; d* are added to. */
    const void *dout;
    void *dqkv;
    const float *dnull;   /* NULL, or [batch, seq]: gradient of the nulls, the same of all heads */
    float *dsinks, *dbias_k, *dbias_v;
    const float *turn;    /* NULL, or the table of heads.h: dq and dk are turned back, if slc_attention_turns() */
    void *scratch;        /* slc_attention_scratch() bytes, 256-byte aligned */
} slc_attention;

/* May be larger than this on no device (shared memory). */
enum { SLC_HEAD_DIM_MAX = 848 };

void slc_attention_forward(slc_stream s, const slc_attention *p);
void slc_attention_backward(slc_stream s, const slc_attention *p);
/* Can backward turn the gradients of q and k? Reads head_dim and bf16 alone. */
bool slc_attention_turns(const slc_attention *p);
/* Bytes that backward needs; reads sizes, extra and bf16 alone. */
size_t slc_attention_scratch(const slc_attention *p);

/* Decoding: seq is 1, rows are windows. Row i's k and v go to position *position of its window in keys and values
 * ([batch * kv_heads, cache, head_dim] fp32), and its queries see that position and those before it. qkv is bf16 where
 * p->bf16, out where out_bf16. No stat, no backward. */
void slc_attention_cached(slc_stream s, const slc_attention *p, bool out_bf16, float *keys, float *values,
                          int64_t cache, const int32_t *position);

/* psi[row] = mean over heads of nulls, 0 where they are NULL, of rows that are ld apart; and dnull of dpsi. */
void slc_null_evidence(slc_stream s, int64_t batch, int64_t seq, int64_t heads, const float *nulls, float *psi,
                       int64_t ld);
void slc_null_evidence_back(slc_stream s, int64_t rows, int64_t heads, const float *dpsi, int64_t ld, float *dnull);

#ifdef __cplusplus
}
#endif
#endif
