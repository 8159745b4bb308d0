/* The recurrence of ops/mixer/delta.h and ops/mixer/ssd.h. Of each head of a window, with a state S [value_dim,
 * key_dim]:
 *   e = v - decay S k with the rule, else v;  S = decay S + beta e k^T;  o = S q + skip v
 * ssd's is that without the rule, of v = x, k = B, q = C and beta = dt. Rows are fp32 or bf16, all else fp32. */
#ifndef SL_CUDA_SCAN_H
#define SL_CUDA_SCAN_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SLC_SCAN_CHUNK = 64 }; /* positions, from state to saved state */
enum { SLC_SCAN_KEYS = 256 };
/* The most that key_dim may be here: SLC_SCAN_KEYS, or half of it where blocks have little shared memory. */
int64_t slc_scan_keys(void);

/* log(decay) = fixed - rate softplus(sign a + bias) */
enum slc_decay {
    SLC_DECAY_SOFTPLUS, /* rate = exp(a_log), sign = 1 */
    SLC_DECAY_NONE,     /* 0 */
    SLC_DECAY_SIGMOID,  /* rate = 1/16, sign = -1, no bias */
    SLC_DECAY_FIXED     /* log(1 - 2^(-5-head)) alone */
};
enum slc_beta {
    SLC_BETA_ONE,
    SLC_BETA_SIGMOID, /* most sigmoid(b) */
    SLC_BETA_STEP     /* the decay's softplus */
};

/* Device pointers. */
typedef struct {
    bool bf16, rule;
    bool unit;   /* q and k are divided by the roots of their squares + 1e-6 first */
    float scale; /* a factor on q, behind that */
    int decay, beta;
    float most;
    int64_t windows, seq, heads, key_heads, key_dim, value_dim; /* key_heads divide heads; neighbours share q and k */
    const void *in; /* rows, ld apart; in them, of all heads side by side from these columns on: */
    int64_t ld, q, k, v, a, b;
    const float *bias, *a_log; /* [heads]; of SLC_DECAY_SOFTPLUS */
    const float *skip;         /* [heads]; NULL: 0 */
    float *gate[2];            /* decay and beta: [seq] of a head of a window, the next one's 2 seq behind */
    float *states;             /* those before each chunk, of each head of each window; NULL: not wanted */
    float *state;              /* NULL, or that of each head of each window, which goes on from here to here, but begins
                                * anew where *position is 0 */
    const int32_t *position;
    void *out; /* [rows, heads*value_dim], ld_out apart */
    int64_t ld_out;
} slc_scan;
void slc_scan_forward(slc_stream s, const slc_scan *p);

/* After a forward with states. Gradients of in's columns that it reads; those of parameters are added to. */
typedef struct {
    const void *dout; /* as out */
    void *din;        /* as in; add: added to what is there */
    bool add;
    float *dbias, *da_log, *dskip; /* [heads]; NULL where the parameter is */
    float *scratch;                /* slc_scan_floats() */
} slc_scan_back;
void slc_scan_backward(slc_stream s, const slc_scan *p, const slc_scan_back *b);
int64_t slc_scan_floats(const slc_scan *p); /* reads sizes alone */

#ifdef __cplusplus
}
#endif
#endif
