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
 * The level above, which the verbs and the Python package share: sl_open() and sl_open_data() for a checkpoint and
 * the text to measure it on, sl_measure_json(), sl_eval_json(), sl_quantize_json(), and sl_run for whole trainings.
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

/* The instruction set that kernels are taken for, "avx2"; sl_cuda: the GPU's name, or NULL with a message why `device:
 * cuda` cannot be had. */
SL_API const char *sl_tier(void);
SL_API const char *sl_cuda(void);

/* Gets each warning, one line without its end, in place of stderr, which then gets nothing else either (progress). NULL
 * (at first): stderr. */
typedef void sl_warn_fn(void *ctx, const char *line);
SL_API void sl_warn_to(sl_warn_fn *warn, void *ctx);
/* Asked between batches by whatever runs over many (probes, evaluations, calibrations, sl_run_step): true ends it,
 * which is a failure with the message "interrupted". NULL (at first): nobody is asked. */
typedef bool sl_stop_fn(void *ctx);
SL_API void sl_stop_when(sl_stop_fn *stop, void *ctx);

/* ---- configuration: `sinklab config` lists the keys. On failure *c is unchanged. */
typedef struct sl_config sl_config;

SL_API sl_config *sl_config_create(void); /* with the defaults */
SL_API sl_config *sl_config_copy(const sl_config *c);
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
/* The same as text, the values in force as a JSON object {key: value}, and the table of keys as a JSON array; to be
 * freed with free(). */
SL_API char *sl_config_yaml(const sl_config *c);
SL_API char *sl_config_json(const sl_config *c);
SL_API char *sl_config_keys_json(void);
/* JSON schemas (draft 2020-12), to be freed with free(): of a configuration, as sections or dotted keys, and of
 * what sl_measure_json() gives. */
SL_API char *sl_config_schema(void);
SL_API char *sl_measure_schema(void);

/* ---- models */
typedef struct sl_model sl_model;

enum {
    SL_MODEL_TRAINING = 1, /* has gradients and optimizer moments, and taps too */
    SL_MODEL_TAPS = 2,     /* activations stay readable after a forward pass; else they share memory */
    SL_MODEL_COMPACT = 4   /* not with the first. Where `precision` is bf16, or auto with a unit for it, matrices that
                            * linear layers alone read are kept in bf16, half as large; what is rounded cannot be
                            * saved. With such a unit logits are the same to the bit */
};
/* A model of *c (which must pass sl_config_check) for batches of `batch` windows of `seq`
 * positions; flags: SL_MODEL_*. All memory is allocated here. Weights are zero until sl_model_init or sl_model_load. */
SL_API sl_model *sl_model_create(const sl_config *c, int32_t vocab, int64_t batch, int64_t seq, unsigned flags);
/* A decoder: one new position for each of `batch` sequences a call, up to `cache` in all. */
SL_API sl_model *sl_model_create_decoder(const sl_config *c, int32_t vocab, int64_t batch,
                                         int64_t cache);
/* The same with SL_MODEL_COMPACT: it reads half the bytes a token. */
SL_API sl_model *sl_model_create_compact_decoder(const sl_config *c, int32_t vocab, int64_t batch, int64_t cache);
SL_API void sl_model_free(sl_model *m);
/* Initial weights: a function of seed and tensor name. */
SL_API int sl_model_init(sl_model *m, uint64_t seed);
/* The weights of another model: of other batches, windows and flags, or with other keys that leave the weights as they
 * are. What model.sink_nullify keeps is missing afterwards if `from` has none, as in sl_model_load(). Moments stay. */
SL_API int sl_model_take(sl_model *m, const sl_model *from);

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
/* Of a decoder: logits [batch, vocab] (NULL: none) after token[batch] at `position`: 0, 1, 2, ...; an earlier
 * one goes back. */
SL_API int sl_model_decode(sl_model *m, const int32_t *token, int64_t position, float *logits);
/* Positions 0 .. n - 1 of a decoder at once, tokens[batch, n], without their logits; position n is decoded next. Sums
 * are those of sl_model_forward, products of bf16 where it takes them. */
SL_API int sl_model_prompt(sl_model *m, const int32_t *tokens, int64_t n);

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

/* Attention weights of a head in block 0..layers-1, [batch, seq, seq], a row a query, into dst. Rows sum to less than 1
 * where something joins the keys (sink logits, softmax1). */
SL_API int sl_model_attention_weights(const sl_model *m, int layer, int head, float *dst);

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
 * the verbs eval, probe and generate measure what it lacks. */
SL_API int sl_model_load(sl_model *m, const char *dir, sl_train_state *s);

/* ---- tokenizers */
typedef struct sl_tokenizer sl_tokenizer;

/* spec: "bytes", "bpe:FILE" (a tokenizer.json), "gguf:FILE" or "ids:VOCABULARY[:BOS]" (BOS defaults to the last id).
 * NULL with a message. */
SL_API sl_tokenizer *sl_tokenizer_open(const char *spec);
/* The one of a configuration: data.tokenizer with data.bos_token, or the ids of a synthetic corpus. NULL with a
 * message, also where data.bos is wanted of a tokenizer without BOS. */
SL_API sl_tokenizer *sl_dataset_open_tokenizer(const sl_config *c);
SL_API void sl_tokenizer_close(sl_tokenizer *t);
SL_API int32_t sl_tokenizer_vocab(const sl_tokenizer *t);
SL_API int32_t sl_tokenizer_bos(const sl_tokenizer *t); /* -1: it has none */
/* Whether texts begin with BOS by the tokenizer's own rule. Encoding never adds it: windows do (data.bos). */
SL_API bool sl_tokenizer_adds_bos(const sl_tokenizer *t);
/* The id of a token that is given as an id, or as the tokenizer's file writes it. */
SL_API int sl_tokenizer_find(const sl_tokenizer *t, const char *token, int32_t *id);
/* Makes another token BOS, given so. */
SL_API int sl_tokenizer_set_bos(sl_tokenizer *t, const char *token);
/* From now on special tokens that stand in a text ("<s>") are text like any other. */
SL_API void sl_tokenizer_take_literally(sl_tokenizer *t);
/* Tokens of n bytes of text; a line that holds only "<|endoftext|>" becomes, with its line end, one BOS, and fails if
 * there is none. *out is to be freed with free(). Any bytes are legal (invalid UTF-8 too). Between such lines BPE gives
 * what tokenizers' encode(add_special_tokens=False) gives, so an added token inside a line is that token as well. */
SL_API int sl_tokenizer_encode(const sl_tokenizer *t, const char *text, size_t n, int32_t **out, int64_t *count);
/* Bytes of one token (not terminated), NULL for BOS or an id outside the vocabulary. */
SL_API const char *sl_tokenizer_piece(const sl_tokenizer *t, int32_t id, size_t *n);

/* ---- a checkpoint to be used */
typedef struct {
    const char *const *key; /* `keys` assignments "train.batch=4", in their order; NULL if there are none */
    int keys;
    const char *bos; /* what windows begin with: NULL: as the run, or by the rule of a tokenizer of others; "none"; an
                        id, or a token as the tokenizer's file writes it */
} sl_open_options;

/* sl_checkpoint_open(), and what the verbs do with it: the assignments, which must not make another model; BOS; text
 * and tokenizer of a run are found again where the run found them; device is cpu unless a key says otherwise; to a
 * model of others all of a text that has no val part is one. Sets the threads. */
SL_API int sl_open(const char *path, const sl_open_options *o, sl_config *c, char dir[SL_DIR_CHARS], int32_t *vocab);
/* The same assignments, and BOS, on the configuration of a model that is open; `name` stands for it in messages. On
 * failure *c is unchanged. */
SL_API int sl_config_change(sl_config *c, const sl_open_options *o, const char *name);

/* Windows of tokens to train on, and to measure on. */
typedef struct sl_dataset sl_dataset;
enum sl_split { SL_TRAIN, SL_VAL };

/* data.corpus in windows of model.seq; fails if it has not the vocabulary of the checkpoint at `dir`. */
SL_API sl_dataset *sl_open_data(const sl_config *c, const char *dir, int32_t vocab);
/* n tokens as a val part, at least one window of them, and no training part. */
SL_API sl_dataset *sl_dataset_of_tokens(const sl_config *c, const int32_t *tokens, int64_t n);
SL_API void sl_dataset_close(sl_dataset *d);
SL_API int64_t sl_dataset_windows(const sl_dataset *d, enum sl_split s);

/* What `sinklab probe --json` says of a model with taps, over `windows` val windows, spread over the text (all, if
 * fewer). measures: NULL, or names of `probe --measures` with commas between. Whole batches alone are measured: the
 * model's batch must divide the windows, as the largest that sl_measure_batch() gives does. Where the model lacks what
 * model.sink_nullify keeps, it is measured first. To be freed with free(). */
SL_API char *sl_measure_json(sl_model *m, const sl_dataset *d, int64_t windows, const char *measures, bool profile);
SL_API int64_t sl_measure_batch(int64_t windows);
/* What `sinklab eval --json` says, over `windows` val windows, spread over the text, 0: all; any batch. cloze: and what
 * `--cloze` adds. */
SL_API char *sl_eval_json(sl_model *m, const sl_dataset *d, int64_t windows, bool cloze);
/* Measures what model.sink_nullify keeps of channels where the model lacks it, so that passes can be run. */
SL_API int sl_measure_states(sl_model *m, const sl_dataset *d);

/* ---- quantisation: `sinklab quantize --help` says what each of these does */
typedef struct {
    const char *scheme; /* names of `quantize --list` with commas between; NULL with grid, and of an exported model */
    bool grid;          /* all schemes */
    double smooth;      /* alpha of SmoothQuant; below 0: none */
    bool migrate, rotate, head, embedding, kv, real;
    uint64_t rotation_seed;
    const char *keep;   /* kinds of layers that stay fp32, names with commas between, or NULL */
    const char *clip;   /* absmax, percentile, mse or token; NULL: absmax */
    double percentile;  /* of clip percentile; NaN: 99.9 */
    int64_t calibration, windows; /* 0 windows: all */
    int64_t skip;       /* windows in front that are left out; below 0: none, and windows are spread over the text */
    const char *export_to, *corpus; /* or NULL */
    bool each_window; /* "window_loss" too, the loss of each window */
} sl_quantize_options;
/* What `sinklab quantize --json` says of the checkpoint at path; to be freed with free(). Of a text that has no val
 * part the second half is measured. */
SL_API char *sl_quantize_json(const char *path, const sl_quantize_options *o, const sl_open_options *keys);

/* ---- a training run, as `sinklab train` makes it, a step at a time */
typedef struct sl_run sl_run;

/* Gives *c the model of a run, a checkpoint or a model of others, and its weights to begin with, as `train --init`
 * does: the model's keys, its tokenizer and train.init. */
SL_API int sl_config_take_init(sl_config *c, const char *path);
/* Opens data and model and measures the model as it is, where train.probe_every says so. out: the run folder; NULL:
 * nothing is written. resume: goes on from the newest checkpoint there. Sets the threads. */
SL_API sl_run *sl_run_open(const sl_config *c, const char *out, bool resume);
SL_API void sl_run_close(sl_run *r);
/* One step and the evaluation, probe and checkpoint that are due after it. 1: done, and *line is the line of
 * metrics.jsonl, to be freed with free(), else NULL. 0: train.steps are done. -1: failed; where sl_stop_when()'s
 * function broke it off, the next call goes on, to the same bits; any other failure ends the run. */
SL_API int sl_run_step(sl_run *r, char **line);
SL_API int64_t sl_run_steps(const sl_run *r); /* done so far */
/* The model in training, for passes between steps; the run's. */
SL_API sl_model *sl_run_model(const sl_run *r);
/* What a probe of the run says now, as a line of probe.jsonl does (without "step"); to be freed with free(). */
SL_API char *sl_run_probe(sl_run *r, bool profile);
SL_API int sl_run_save(sl_run *r); /* a checkpoint of the steps done */
/* Writes result.json and gives its text, to be freed with free(). */
SL_API char *sl_run_result(sl_run *r);

/* ---- sampling */
typedef struct {
    double temperature; /* 0: the likeliest token (the lowest id of equals) */
    int64_t top_k;      /* 0 or less: all */
    double top_p;       /* 1: all; the smallest set of likeliest tokens whose probability reaches top_p (Holtzman
                           et al. 2020, arXiv 1904.09751), after top_k */
} sl_sampling;

typedef struct sl_sampler sl_sampler; /* scratch for one vocabulary, and random numbers of a seed */
SL_API sl_sampler *sl_sampler_create(int32_t vocab, uint64_t seed);
SL_API void sl_sampler_free(sl_sampler *s);
SL_API int32_t sl_sample(sl_sampler *s, const sl_sampling *how, const float *logits);

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
 *   m2_share             share of the tokens but token 0 whose largest |h_j| is channel m2_dim's there
 *   max_mid, m2_mid, kurtosis_h_mid  largest of the streams between the halves of blocks, which their feed-forwards
 *                        read; m2 and the others don't count these
 *   top1_permille        of mean |h_j| over tokens and layers 0..L (arXiv 2601.22966), not the
 *                        largest layer's
 *   kurtosis_h, kurtosis_h_no_token0  largest of layers 0..L
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
 * m2_dim, m2_share, top1_permille, kurtosis_h, kurtosis_h_no_token0, token0_norm_ratio, sink_dims (at most 16:
 * [channel, ratio]).
 * Those of blocks, 0..L-1, describe the block that reads this layer: att0 and entropy (an array, per
 * head), value_norm_ratio (mean over kv heads), value_norm_ratios (per kv head), lambda_min,
 * lambda_at_sink (mean over the block's norms of |weight| at the layer's own m2_dim), gate_mean,
 * gate_std, gate_channel_min, gate_channel_max (of the channels' means), and of the stream between its halves, null
 * where it has none, max_mid, max_no_token0_mid, m2_mid, m2_dim_mid, m2_share_mid, kurtosis_h_mid,
 * kurtosis_h_no_token0_mid.
 * profile: also channel_mean_abs (mean |h_j| without token 0: its max/median is m2),
 * norm_weight_attn and norm_weight_ffn of blocks, norm_weight_final of layer L. */
SL_API char *sl_probe_json(const sl_probe *p, const sl_model *m, bool profile);

#ifdef __cplusplus
}
#endif

#endif
