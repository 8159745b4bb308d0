/* sinklab: trains small transformers and measures their attention sinks and residual sinks, on
 * CPUs. The one public header of libsinklab; tests/api/embed.c is a whole program on it.
 *
 *     sl_config *c = sl_config_create();                 // train:
 *     sl_config_override(c, "model.norm=gated_norm");
 *     sl_model *m = sl_model_create(c, vocab, batch, seq, SL_MODEL_TRAINING);
 *     sl_optim *o = sl_optim_create(m);
 *     sl_model_init(m, seed);
 *     for (int64_t step = 0; step < steps; step++)
 *         sl_train_step(o, in, target, 1, step, NULL, NULL, &result);
 *
 *     sl_checkpoint_open("runs/baseline", dir, c, &vocab);  // measure:
 *     sl_model *m = sl_model_create(c, vocab, batch, seq, SL_MODEL_TAPS);
 *     sl_model_load(m, dir, NULL);
 *     sl_model_forward(m, in, target, &loss, NULL);
 *     const float *h = sl_model_residual(m, layer);
 *
 * Errors: functions return 0, or a pointer; on failure -1, or NULL, and sl_error() says in one line
 * what is wrong, where, and how to mend it. Nothing is printed and the process is never ended.
 * Every model, optimizer and probe may be NULL: that is a failure like any other, so that a chain
 * of calls needs no check after each create; *_free(NULL) does nothing. Other pointers must be
 * valid unless NULL is said to be allowed. A failed call leaves models, files and results as they
 * were unless it says otherwise.
 *
 * Memory: what *_create returns is freed with the *_free of its type, what was made from a model
 * before the model. Arguments are only read during the call and never kept, except that a model
 * outlives what is made from it. Output arrays must not overlap inputs. Nothing is allocated in a
 * pass or a step.
 *
 * Threads: the library makes its own (sl_threads_set); a program may call it from one thread at a
 * time. The message of sl_error() belongs to the thread that called. Results have the same bits for
 * any number of threads.
 *
 * Units and layout: losses in nats a token; matrices in rows, the last dimension without gaps;
 * tokens are int32 in 0..vocab-1, [batch, seq]: `batch` windows one after the other. Numbers are
 * fp32 where a float says so. */
#ifndef SINKLAB_H
#define SINKLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#define SL_API __attribute__((visibility("default")))
#else
#define SL_API
#endif

SL_API const char *sl_version(void); /* "0.1.0" */
/* The message of this thread's last failure, "" before the first. */
SL_API const char *sl_error(void);

/* Worker threads; n = 0: one for each core that this process may use. Returns the number in force
 * (at most 512; 1 until the first call). To be called before models and probes are made: these have
 * scratch for the number then in force, and fail when there are more. The key `threads` of a
 * configuration is the caller's to pass on; threads move as the system likes unless OMP_PROC_BIND binds them. */
SL_API int sl_threads_set(int n);
SL_API int sl_threads(void);

/* ---- configuration: `sinklab config` lists the keys. On failure *c is unchanged. */
typedef struct sl_config sl_config;

SL_API sl_config *sl_config_create(void); /* with the defaults */
SL_API void sl_config_free(sl_config *c);
/* Reads a YAML file over *c; nested sections and dotted keys are the same. Unknown key, wrong type,
 * out of range, duplicate key, an alias, a second document, a file over 1 MiB: fails with
 * file:line, the key and the legal values. */
SL_API int sl_config_read(sl_config *c, const char *path);
/* The same from n bytes of memory; `name` stands for the file in messages. */
SL_API int sl_config_parse(sl_config *c, const char *text, size_t n, const char *name);
/* One override "model.norm=gated_norm". A value is read as YAML would: a scalar or [a, b]. */
SL_API int sl_config_override(sl_config *c, const char *assignment);
/* Checks what one key cannot: dim against heads, kv_heads dividing heads, even head width, rank
 * against dim, warm-up against steps, products of sizes that would overflow. Resolves nothing: 0
 * stays "derived". Messages name the keys. */
SL_API int sl_config_check(const sl_config *c);
/* Effective configuration as YAML that sl_config_read takes back to the same. */
SL_API int sl_config_dump(const sl_config *c, FILE *f);

/* ---- models */
typedef struct sl_model sl_model;

enum {
    SL_MODEL_TRAINING = 1, /* has gradients and optimizer moments, and taps too */
    SL_MODEL_TAPS = 2      /* activations stay readable after a forward pass; else they share memory */
};
/* A model of *c (which must pass sl_config_check) for batches of `batch` windows of `seq`
 * positions; flags: SL_MODEL_*. All memory is allocated here. Weights are zero until sl_model_init or sl_model_load. */
SL_API sl_model *sl_model_create(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq, unsigned flags);
/* A decoder: one new position for each of `batch` sequences a call, up to `cache` in all. */
SL_API sl_model *sl_model_create_decoder(const sl_config *c, int32_t vocab, int64_t batch,
                                         int64_t cache);
SL_API void sl_model_free(sl_model *m);
/* Initial weights: a function of seed and tensor name. */
SL_API int sl_model_init(sl_model *m, uint64_t seed);

typedef struct {
    int64_t layers, dim, heads, kv_heads, head_dim, vocab, batch, seq;
} sl_shape;
SL_API sl_shape sl_model_shape(const sl_model *m); /* zeros of NULL */

/* Runs the windows of `in`. *loss: mean cross-entropy of batch*seq targets; targets < 0 are left
 * out (if all are: 0). token_loss: NULL, or batch*seq values, 0 where the target is left out.
 * target may be NULL where only taps are wanted; loss and token_loss must be NULL then. A token or
 * target beyond the vocabulary is a failure. */
SL_API int sl_model_forward(sl_model *m, const int32_t *in, const int32_t *target, double *loss,
                            float *token_loss);
/* Logits of all positions [batch, seq, vocab]. */
SL_API int sl_model_logits(sl_model *m, const int32_t *in, float *logits);
/* Of a decoder: logits [batch, vocab] after token[batch] at `position`: 0, 1, 2, ...; an earlier
 * one goes back. */
SL_API int sl_model_decode(sl_model *m, const int32_t *token, int64_t position, float *logits);

/* ---- taps: what the last sl_model_forward or sl_model_logits computed, in the model's own memory;
 * valid until the next call that takes the model. Fails without taps, before a pass, or after a
 * training step. */
/* Residual stream h_0..h_layers, [batch*seq, dim]: h_0 embeddings, h_i output of block i-1. */
SL_API const float *sl_model_residual(const sl_model *m, int layer);
typedef struct {
    /* Row t: q + t*ld has heads*head_dim values, k + t*ld and v + t*ld kv_heads*head_dim. */
    const float *q, *k, *v;
    int64_t ld;
    float scale; /* attention scores are scale * q.k */
} sl_qkv_tap;
/* Queries, keys (after norm and rotary) and values of block 0..layers-1; q is NULL on failure, and of a block whose
 * mixer (model.mixer) has none. */
SL_API sl_qkv_tap sl_model_qkv(const sl_model *m, int layer);
/* Norms: which = 0 attention input, 1 feed-forward input of a block; layer = layers, which = 0: the
 * final norm. */
/* Its weights, dim values (needs no taps). NULL: no such norm, or one without weights. */
SL_API const float *sl_model_norm_weight(const sl_model *m, int layer, int which);
/* Its output, gate included, [batch*seq, dim]. */
SL_API const float *sl_model_norm_output(const sl_model *m, int layer, int which);
/* Gate values of a gated norm, [batch*seq, dim] into dst; false without a gate or on failure. */
SL_API bool sl_model_norm_gate(const sl_model *m, int layer, int which, float *dst);

/* ---- training */
typedef struct sl_optim sl_optim;

/* train.optimizer for a training model, with the train.* keys of its configuration. Weight decay is
 * decoupled (arXiv 1711.05101) and applies to matrices, and to norm weights if train.decay_norms. */
SL_API sl_optim *sl_optim_create(sl_model *m);
SL_API void sl_optim_free(sl_optim *o);

typedef struct {
    double loss;          /* mean over the step's windows, nats per token */
    double lr, grad_norm; /* before clipping */
    bool skipped;         /* parameters and moments are untouched */
    bool stopped;         /* it was broken off between batches (only inside `sinklab train`) */
    double norm_seconds, update_seconds; /* wall time of the gradient's norm, and of the optimizer's step */
} sl_step_result;

/* May be asked whether to apply a step of this loss and gradient norm; false skips it. */
typedef bool sl_apply_fn(void *ctx, double loss, double grad_norm);

/* One step: forward and backward over `accumulate` batches (in, target: accumulate*batch*seq
 * tokens, batch after batch), clipping to train.clip_norm, the optimizer with the learning rate of `step`
 * (from 0). A loss or gradient that is not finite skips the step, and so does apply() == false;
 * apply NULL: always. */
SL_API int sl_train_step(sl_optim *o, const int32_t *in, const int32_t *target, int64_t accumulate,
                         int64_t step, sl_apply_fn *apply, void *ctx, sl_step_result *r);

/* ---- checkpoints: folders as checkpoint/checkpoint.h of the source describes; safetensors with Hugging
 * Face names */

/* All that a run needs besides parameters and moments to go on bit for bit. */
typedef struct {
    int64_t step;         /* optimizer steps done */
    int64_t tokens;       /* tokens trained on */
    int64_t skipped;      /* steps skipped by the guard */
    double loss_mean;     /* the guard's running mean, NaN before the first step */
    double best_val_loss; /* NaN before the first evaluation */
    double train_seconds; /* wall time of training so far */
    uint64_t data_hash;   /* of the tokens that it is trained on, 0 = unknown */
} sl_train_state;

/* Writes run_dir/checkpoints/<s->step>, atomically; run_dir is made if need be. Keeps the newest
 * `keep` of the run, this one always among them. On failure older checkpoints are untouched.
 * Optimizer moments are saved of a training model. */
SL_API int sl_model_save(sl_model *m, const char *run_dir, const sl_train_state *s, int keep);

enum { SL_DIR_CHARS = 4096 };
/* Finds what `path` means: a checkpoint folder, a run folder (its newest whole one), a folder as
 * Hugging Face transformers writes it (config.json with model.safetensors or its index), or a GGUF
 * file, of a supported architecture. Gives the folder or file, its configuration, and its
 * vocabulary. model.seq of a model of others is its context, but at most 256. *c and *vocab are
 * undefined on failure. */
SL_API int sl_checkpoint_open(const char *path, char dir[SL_DIR_CHARS], sl_config *c,
                              int32_t *vocab);
/* Weights from what sl_checkpoint_open gave; of our folders every size and hash is checked. s not NULL: also
 * the state and, into a training model, the optimizer moments: training then goes on bit for bit. With
 * model.sink_nullify from a folder that was trained without it, a model made for inference is loaded but runs no pass:
 * the verbs eval and probe measure what it lacks. */
SL_API int sl_model_load(sl_model *m, const char *dir, sl_train_state *s);

/* ---- probe: sink and outlier measurements on a model with taps */
typedef struct sl_probe sl_probe;

SL_API sl_probe *sl_probe_create(const sl_model *m);
SL_API void sl_probe_free(sl_probe *p);
SL_API int sl_probe_reset(sl_probe *p); /* forgets what was added */
/* Adds the activations of the pass that m has just done; m: the model of sl_probe_create. */
SL_API int sl_probe_add(sl_probe *p, const sl_model *m);
/* The figures over all that was added, as one JSON object (UTF-8, ends in 0), to be freed with
 * free(). A figure that cannot be told (NaN, infinite, no gate, no norm weights, nothing added) is
 * null. Nine digits: fp32 exactly. Each measure is defined, with its source, in probe/measures.h.
 *   max, max_no_token0   largest |h| of layers 0..L (h_0 = embeddings, h_L = last block's output)
 *   m2, m2_layer, m2_dim largest M2 of layers 0..L and where it is (the lowest layer of equals)
 *   top1_permille        of mean |h_j| over tokens and layers 0..L (arXiv 2601.22966), not the
 *                        largest layer's
 *   kurtosis_h           largest of layers 0..L
 *   token0_norm_ratio    largest of layers 0..L
 *   lambda_min           smallest |weight| of the block norms (two a block, without the final norm)
 *   lambda_at_sink       mean |weight| at channel m2_dim over the block norms
 *   att0, attention_entropy  mean over blocks and heads
 *   sink_rate            share of (block, head) with att0 above .3
 *   value_norm_ratio     mean over blocks and kv heads
 *   gate_mean, gate_std  over all elements of all gated norms, the final one's too if it has a gate
 *   tokens               tokens measured
 *   sink_dims            residual sink dimensions (mean |h_j| at least 5 times the median channel's),
 *                        lowest first: [channel, layers in which it is one, largest such ratio]
 * "layers": array of L+1 objects. All have the residual figures: layer, max, max_no_token0, m2,
 * m2_dim, top1_permille, kurtosis_h, token0_norm_ratio, sink_dims (at most 16: [channel, ratio]).
 * Those of blocks, 0..L-1, describe the block that reads this layer: att0 and entropy (an array, per
 * head), value_norm_ratio (mean over kv heads), value_norm_ratios (per kv head), lambda_min,
 * lambda_at_sink (mean over the block's norms of |weight| at the layer's own m2_dim), gate_mean,
 * gate_std, gate_channel_min, gate_channel_max (of the channels' means).
 * profile: also channel_mean_abs (mean |h_j| without token 0: its max/median is m2),
 * norm_weight_attn and norm_weight_ffn of blocks, norm_weight_final of layer L. */
SL_API char *sl_probe_json(const sl_probe *p, const sl_model *m, bool profile);

#ifdef __cplusplus
}
#endif

#endif
