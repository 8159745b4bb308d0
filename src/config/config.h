/* Configuration: defaults < YAML file < dotted overrides. Read only after sl_config_check(). */
#ifndef SL_CONFIG_CONFIG_H
#define SL_CONFIG_CONFIG_H

#include "simd/kernels.h"
#include "sinklab.h" /* sl_config as others see it: create, read, override, check, dump */

#include <string.h>

enum { SL_CONFIG_STR = 1024, SL_LIST_MOST = 64 };

/* Of a LIST key: n choices, 1 to SL_LIST_MOST, as the shortest list that gives the same when it is repeated. */
typedef struct {
    uint8_t n, of[SL_LIST_MOST];
} sl_choice_list;

struct sl_config {
#define INT(key, field, def, min, max, help) int64_t field;
#define REAL(key, field, def, min, max, help) double field;
#define BOOL(key, field, def, help) bool field;
#define ENUM(key, field, def, choices, help) int field;
#define STR(key, field, def, help) char field[SL_CONFIG_STR];
#define PAIR(key, field, d0, d1, min, max, help) double field[2];
#define LIST(key, field, def, choices, help) sl_choice_list field;
#include "config/schema.inc"
};

/* A legal value of an ENUM or LIST key. */
typedef struct {
    const char *name, *help;
} sl_choice;
/* Lists end with a NULL name. Norms come from tables/norm.inc and feed-forwards from simd/ffn.inc, so a row
 * makes its value legal. */
extern const sl_choice sl_choices_norm[], sl_choices_norm_place[], sl_choices_nullify_mode[],
    sl_choices_nullify_value[], sl_choices_nullify_channels[], sl_choices_clip_backward[], sl_choices_base_norm[],
    sl_choices_gate_granularity[], sl_choices_gate_outer[], sl_choices_gate_inner[], sl_choices_gate_init[],
    sl_choices_mixer[], sl_choices_mamba2_norm[], sl_choices_gdn_gate[],
    sl_choices_gdn_unit[], sl_choices_attention[], sl_choices_attention_gate[],
    sl_choices_attention_bias[],
    sl_choices_window_layers[], sl_choices_rope_layers[], sl_choices_rope_scaling[], sl_choices_qk_norm_span[],
    sl_choices_block[], sl_choices_anchors[], sl_choices_anchor_coefficients[], sl_choices_residual[],
    sl_choices_depth_form[], sl_choices_depth_softmax[], sl_choices_ffn[], sl_choices_router[], sl_choices_balance[],
    sl_choices_bos_place[], sl_choices_synthetic[], sl_choices_optim[], sl_choices_schedule[], sl_choices_guard[],
    sl_choices_precision[], sl_choices_device[], sl_choices_gemm[], sl_choices_isa[], sl_choices_pin[];

/* What others ask of a norm, by model.norm; its row in tables/norm.inc says it. */
enum {
    SL_NORM_ROTATES = 1, /* quantised models are rotated in front of it: but for its weight, norm(Rx) = R norm(x) */
    SL_NORM_LLAMA = 2,   /* it is what Llama and Qwen3 of transformers compute */
    SL_NORM_GATES = 4,   /* it has the low-rank gate of model.norm_opts */
    SL_NORM_BIASES = 8   /* model.norm_opts.bias gives it a bias */
};
extern const unsigned sl_norm_traits[], sl_base_traits[]; /* by model.norm, by model.norm_opts.base */

extern const bool sl_ffn_gated[]; /* by model.ffn_kind: two input projections; [SL_FFN_KINDS] */
enum { SL_FFN_NONE = SL_FFN_KINDS }; /* of model.ffn_kind, behind the rows of simd/ffn.inc */
enum { SL_PLACE_PRE, SL_PLACE_POST, SL_PLACE_SANDWICH, SL_PLACE_OUTPUT };
enum { SL_ANCHORS_NONE, SL_ANCHORS_EXTERNAL, SL_ANCHORS_INTERNAL };
enum { SL_ANCHORS_SCALAR, SL_ANCHORS_HEADWISE, SL_ANCHORS_ELEMENTWISE };
enum { SL_BLOCK_SEQUENTIAL, SL_BLOCK_PARALLEL, SL_BLOCK_PARALLEL_SHARED };
enum { SL_RESIDUAL_PLAIN, SL_RESIDUAL_ATTNRES, SL_RESIDUAL_OASIS };
enum { SL_DEPTH_OUTPUTS, SL_DEPTH_STATES };
enum { SL_DEPTH_SOFTMAX, SL_DEPTH_SOFTMAX1 };
enum { SL_NULLIFY_BOTH, SL_NULLIFY_OUTPUT, SL_NULLIFY_DENOMINATOR };
enum { SL_CLIP_ZERO, SL_CLIP_THROUGH };
enum { SL_NULLIFY_ZERO, SL_NULLIFY_MEAN, SL_NULLIFY_RMS, SL_NULLIFY_MEAN_OUTPUT };
enum { SL_NULLIFY_LARGEST, SL_NULLIFY_RANDOM };
enum { SL_ROUTER_SOFTMAX, SL_ROUTER_SIGMOID };
enum { SL_BALANCE_NONE, SL_BALANCE_AUX, SL_BALANCE_BIAS };
enum { SL_GATE_HALF, SL_GATE_IDENTITY };
enum {
    SL_ATTENTION_GATE_NONE,
    SL_ATTENTION_GATE_ELEMENTWISE,
    SL_ATTENTION_GATE_HEADWISE,
    SL_ATTENTION_GATE_VALUE
};
enum { SL_ATTENTION_BIAS_NONE, SL_ATTENTION_BIAS_QKV, SL_ATTENTION_BIAS_ALL };
enum { SL_MAMBA2_NORM_AFTER, SL_MAMBA2_NORM_BEFORE, SL_MAMBA2_NORM_NONE };
enum { SL_GDN_GATE_SILU, SL_GDN_GATE_SIGMOID, SL_GDN_GATE_NONE };
enum { SL_GDN_UNIT_RULE, SL_GDN_UNIT_ALL };
enum { SL_LAYER_WINDOW, SL_LAYER_FULL };
enum { SL_LAYER_ROPE, SL_LAYER_NO_ROPE };
enum { SL_ROPE_SCALING_NONE, SL_ROPE_SCALING_LINEAR, SL_ROPE_SCALING_LLAMA3, SL_ROPE_SCALING_YARN };
enum { SL_SPAN_HEAD, SL_SPAN_PROJECTION };
enum { SL_GATE_ELEMENTWISE, SL_GATE_TENSORWISE };
enum { SL_GATE_SIGMOID, SL_GATE_TANH, SL_GATE_SILU, SL_GATE_LINEAR };
enum { SL_GATE_INNER_SILU, SL_GATE_INNER_RELU };
enum {
#define OPTIM(name, matrix, other, help) SL_OPTIM_##name,
#include "tables/optim.inc"
#undef OPTIM
    SL_OPTIM_COUNT
};
enum { SL_SCHEDULE_COSINE, SL_SCHEDULE_WSD, SL_SCHEDULE_CONSTANT };
enum { SL_BOS_FIRST, SL_BOS_RANDOM };
enum { SL_GUARD_STOP, SL_GUARD_SKIP, SL_GUARD_OFF };
enum { SL_PRECISION_AUTO, SL_PRECISION_FP32, SL_PRECISION_BF16 };
enum { SL_DEVICE_CPU, SL_DEVICE_CUDA, SL_DEVICE_AUTO };
enum { SL_GEMM_OWN, SL_GEMM_BLAS };

#define SL_SYNTHETIC_PREFIX "synthetic:"
/* Does data.corpus name a synthetic corpus (data/synthetic.h)? */
bool sl_synthetic_named(const char *corpus);
/* Does data.bos_token leave BOS to the tokenizer? */
bool sl_bos_is_own(const sl_config *c);

void sl_config_defaults(sl_config *c);
/* Of values that came from elsewhere than sl_config_read() and sl_config_override(), which look at each: are all
 * numbers in the ranges of their keys? -1 with a message that begins with `file`, the one they came from. */
int sl_config_check_ranges(const sl_config *c, const char *file);
/* The table of `sinklab config`: key, default, range or choices, help; only the n keys or sections in
 * `keys` if n > 0. json: one array of objects. Fails on a name that is neither key nor section. */
int sl_config_help(FILE *f, const char *const *keys, int n, bool json);
/* What the table says of one key. */
enum { SL_KEY_VALUE_CHARS = 2 * SL_CONFIG_STR + 8, SL_KEY_LEGAL_CHARS = 512 };
typedef struct {
    const char *name, *help;
    char value[SL_KEY_VALUE_CHARS], legal[SL_KEY_LEGAL_CHARS]; /* the default as YAML; "0 to 1", "one of a, b" */
    const sl_choice *choices; /* the values that have names, true and false among them; NULL: there are none */
    bool text;                /* any text: a file more often than not */
} sl_key_info;
/* Of key i = 0, 1, ...; false beyond the last. */
bool sl_config_key(int i, sl_key_info *info);
/* Values in force, as lines key=value that sl_config_override takes: those of `keys` (as above), of all
 * that differ from the defaults if n is 0. json: one object {key: value}, with every key if n is 0. */
int sl_config_show(const sl_config *c, FILE *f, const char *const *keys, int n, bool json);
/* Hash of the values of the keys that decide the result, whatever file or order they came from: names a
 * run in studies. Left out: the keys listed in config/hash.c (threads, pin, isa, gemm, how often to evaluate, probe
 * and checkpoint, what else to write), which change when things are looked at, or the rounding, but not what is
 * trained; and keys that came later than runs, where they have their default: those runs keep their hash. */
uint64_t sl_config_hash(const sl_config *c);
/* The first key that decides the result and differs, as "train.lr: 0.001 and 0.002" in buf; NULL if the two
 * train the same. */
enum { SL_DIFFERENCE_CHARS = 256 };
char *sl_config_difference(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b);
/* The same of the keys that make another model of the same weights. */
char *sl_config_other_model(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b);

/* Gives c those keys of another configuration, and its tokenizer. */
int sl_config_take_model(sl_config *c, const sl_config *from);

/* What *c is compared with: the same sizes with the default (plain) norm, attention, feed-forward and no gates; of a
 * mixture of experts a mixture of as many. */
void sl_config_baseline(sl_config *baseline, const sl_config *c);

/* Derived sizes and values. */
/* The path of train.init; NULL: random weights. */
static inline const char *sl_config_init(const sl_config *c) {
    return strcmp(c->train_init, "random") ? c->train_init : NULL;
}
/* Threshold of residual clipping, 0 = none. */
static inline double sl_config_clip(const sl_config *c) {
    return c->model_clip * (c->model_clip_baseline > 0 ? c->model_clip_baseline : 1);
}
static inline int64_t sl_config_kv_heads(const sl_config *c) {
    return c->model_kv_heads ? c->model_kv_heads : c->model_heads;
}
static inline bool sl_config_has_ffn(const sl_config *c) {
    return c->model_ffn > 0 && c->model_ffn_kind != SL_FFN_NONE;
}
/* What a LIST key has for a layer. */
static inline int sl_config_of_layer(const sl_choice_list *list, int64_t layer) { return list->of[layer % list->n]; }
/* Row of tables/mixer.inc that mixes positions in this layer. */
static inline int sl_config_mixer(const sl_config *c, int64_t layer) {
    return sl_config_of_layer(&c->model_mixer, layer);
}
static inline int64_t sl_config_head_dim(const sl_config *c) {
    return c->model_head_dim ? c->model_head_dim : c->model_dim / c->model_heads;
}
/* Sizes of gdn and its relatives, those that are 0 in the configuration filled in. */
typedef struct {
    int64_t heads, key_heads, key_dim, value_dim;
} sl_gdn_sizes;
static inline sl_gdn_sizes sl_config_gdn(const sl_config *c) {
    sl_gdn_sizes n = {.heads = c->gdn_heads ? c->gdn_heads : c->model_heads,
                      .value_dim = c->gdn_value_dim ? c->gdn_value_dim : sl_config_head_dim(c)};
    n.key_heads = c->gdn_key_heads ? c->gdn_key_heads : n.heads;
    n.key_dim = c->gdn_key_dim ? c->gdn_key_dim : (n.value_dim + 1) / 2;
    return n;
}
/* Sizes of rwkv7, ranks that are 0 in the configuration filled in as RWKV-LM has them. */
typedef struct {
    int64_t heads, head_dim, decay_rank, rate_rank, value_rank, gate_rank;
} sl_rwkv7_sizes;
sl_rwkv7_sizes sl_config_rwkv7(const sl_config *c);
/* Does a mixer or a feed-forward read a position together with the one before, each channel by itself? */
bool sl_config_shifts(const sl_config *c);
/* Positions that a query of this layer sees at most; 0: all. */
static inline int64_t sl_config_window(const sl_config *c, int64_t layer) {
    return sl_config_of_layer(&c->attention_window_layers, layer) == SL_LAYER_WINDOW ? c->attention_window : 0;
}
/* Has this layer a rotary base of its own kind, model.rope_base_window? */
static inline bool sl_config_rope_windowed(const sl_config *c, int64_t layer) {
    return c->model_rope_base_window > 0 && sl_config_window(c, layer) > 0;
}
/* Has it a rotary embedding at all? */
static inline bool sl_config_rotates(const sl_config *c, int64_t layer) {
    return c->model_rope_base > 0 && sl_config_of_layer(&c->model_rope_layers, layer) == SL_LAYER_ROPE;
}
/* Channels of a head that it turns. */
static inline int64_t sl_config_rope_dims(const sl_config *c) {
    return c->model_rope_dims ? c->model_rope_dims : sl_config_head_dim(c);
}
/* Hidden width of one expert. */
static inline int64_t sl_config_expert_ffn(const sl_config *c) {
    return c->model_expert_ffn ? c->model_expert_ffn
                               : c->model_ffn / (c->model_experts_per_token + c->model_shared_experts);
}

#endif
