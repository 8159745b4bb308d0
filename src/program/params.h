/* The parameter table: every trainable tensor by name, in one flat block, with gradients and the
 * optimizer's moments in blocks of the same layout. Tensors declared with `join` follow the one before without a
 * gap, so that q, k, v (and gate, up) are one matrix to the engine and three tensors to a checkpoint. In a compact
 * model, which is never trained, matrices of linear layers lie in a second block, rounded to bf16. */
#ifndef SL_PROGRAM_PARAMS_H
#define SL_PROGRAM_PARAMS_H

#include "base/rng.h"
#include "program/scope.h"
#include "simd/kernels.h"

#include <stdbool.h>
#include <stdint.h>

enum sl_init { SL_INIT_NORMAL, SL_INIT_ONES, SL_INIT_ZEROS, SL_INIT_VALUE, SL_INIT_UNIFORM, SL_INIT_DRAW };
enum sl_decay { SL_DECAY_MATRIX, SL_DECAY_NORM, SL_DECAY_NONE };

enum { SL_TENSOR_DIMS = 4 };
typedef struct sl_tensor sl_tensor;
/* Fills the values w of t, t->size of them, from a stream of its own. */
typedef void (*sl_draw)(const sl_tensor *t, sl_rng *rng, float *w);

struct sl_tensor {
    char name[112];   /* safetensors name, e.g. model.layers.0.self_attn.q_proj.weight */
    int ndim;         /* 1 to SL_TENSOR_DIMS */
    int64_t shape[SL_TENSOR_DIMS]; /* [out, in] of a matrix; [n] of a vector; 1 behind the last */
    int64_t size;     /* product of shape */
    int64_t offset;   /* values from the start of its block, w or w16 */
    bool bf16;        /* its values are in w16 */
    enum sl_init init;
    float init_std;   /* SL_INIT_NORMAL; the value itself of SL_INIT_VALUE; +- this of SL_INIT_UNIFORM */
    int64_t span;     /* SL_INIT_DRAW: values that belong together, as the channels of a head; 0: none */
    sl_draw draw;     /* SL_INIT_DRAW */
    enum sl_decay decay;
    float rate;       /* its learning rate over the run's; 1 of matrices */
    sl_scope place;   /* of the layer that multiplies by it; SL_PART_none: no linear layer */
    bool matrix;      /* multiplies activations of a block: one that Muon takes as a matrix */
    bool state;       /* no gradient: the run itself sets it (sl_program_state) */
    int moments;      /* blocks of the optimizer's state that it uses: 1 is m, 2 are m and v */
};

typedef struct {
    sl_tensor *tensor;
    int count;
    int64_t floats; /* length of each block but w16, gaps included */
    int64_t halves; /* length of w16, likewise; 0 but in a compact model */
    int64_t params; /* sum of sizes, those of states left out */
    bool state_missing;   /* a checkpoint without the states was loaded: they must be measured before a pass */
    int optimizer;        /* SL_OPTIM_* that m and v belong to */
    float *w, *g, *m, *v; /* g, m, v are NULL in a model made for inference, v where no tensor has two moments */
    sl_bf16 *w16;         /* NULL but in a compact model */
    const sl_kernels *kernels; /* round what goes to w16 */
} sl_params;

/* Memory for the values and, in training, for gradients and the optimizer's moments (SL_OPTIM_*), all zero. Returns
 * 0, or -1 with a message. */
int sl_params_allocate(sl_params *p, int optimizer, bool training);
/* Values first .. first + n - 1 of a tensor; those in bf16 are rounded when they are set. */
void sl_params_set(sl_params *p, const sl_tensor *t, int64_t first, int64_t n, const float *x);
void sl_params_get(const sl_params *p, const sl_tensor *t, int64_t first, int64_t n, float *x);
/* Draws the values: of each tensor a function of seed and name. */
void sl_params_init(sl_params *p, uint64_t seed);
/* The values of another table with the same tensors; states that it lacks are missing then. Returns 0, or -1 with a
 * message that names a tensor, and p as it was. */
int sl_params_take(sl_params *p, const sl_params *from);
/* All memory, and the table. */
void sl_params_free(sl_params *p);
/* How many moments the optimizer keeps of a tensor: the table is tables/optim.inc. */
int sl_params_moments(int optimizer, const sl_tensor *t);
/* Index of a tensor by name, or -1. */
int sl_params_find(const sl_params *p, const char *name);

#endif
