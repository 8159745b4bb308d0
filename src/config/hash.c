#include "config/keys.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* The keys that do not decide what is trained: how many threads and where (results are the same bits), which
 * tier, device or library (the same up to rounding), how often one looks and saves, what else is written. */
static const char *const undecisive[] = {"threads",
                                         "pin",
                                         "isa",
                                         "device",
                                         "gemm",
                                         "train.eval_every",
                                         "train.probe_every",
                                         "train.probe_log",
                                         "train.checkpoint_every",
                                         "train.keep_checkpoints",
                                         "train.tensorboard"};

/* Keys younger than runs that are found by their hash: at its default such a key is not hashed. */
static const char *const added[] = {"model.mixer",
                                    "model.mamba2_opts.expand",
                                    "model.mamba2_opts.head_dim",
                                    "model.mamba2_opts.state",
                                    "model.mamba2_opts.groups",
                                    "model.mamba2_opts.conv",
                                    "model.mamba2_opts.norm",
                                    "model.gdn_opts.heads",
                                    "model.gdn_opts.key_heads",
                                    "model.gdn_opts.key_dim",
                                    "model.gdn_opts.value_dim",
                                    "model.gdn_opts.conv",
                                    "model.gdn_opts.norm",
                                    "model.gdn_opts.gate",
                                    "model.gdn_opts.unit",
                                    "model.gdn_opts.negative",
                                    "model.rwkv7_opts.head_dim",
                                    "model.rwkv7_opts.decay_rank",
                                    "model.rwkv7_opts.rate_rank",
                                    "model.rwkv7_opts.value_rank",
                                    "model.rwkv7_opts.gate_rank",
                                    "model.ffn_shift",
                                    "train.init",
                                    "model.attention_bias",
                                    "model.ffn_bias",
                                    "model.head_bias",
                                    "model.router_bias",
                                    "model.shared_expert_gate",
                                    "model.attention_opts.scale",
                                    "model.rope_dims",
                                    "model.rope_scaling",
                                    "model.rope_scaling_opts.factor",
                                    "model.rope_scaling_opts.low_freq_factor",
                                    "model.rope_scaling_opts.high_freq_factor",
                                    "model.rope_scaling_opts.original",
                                    "model.rope_scaling_opts.beta_fast",
                                    "model.rope_scaling_opts.beta_slow",
                                    "model.rope_scaling_opts.truncate",
                                    "model.rope_scaling_opts.attention_factor",
                                    "model.embed_multiplier",
                                    "model.attention_opts.window_layers",
                                    "model.rope_layers",
                                    "model.rope_base_window",
                                    "model.norm_opts.bias",
                                    "model.learned_positions",
                                    "model.block",
                                    "model.qk_norm_span",
                                    "model.attention_opts.softcap",
                                    "model.logit_softcap",
                                    "data.bos_token",
                                    "model.residual",
                                    "model.residual_opts.form",
                                    "model.residual_opts.recency",
                                    "model.residual_opts.block",
                                    "model.residual_opts.softmax",
                                    "model.residual_opts.key_norm",
                                    "model.residual_opts.coupling",
                                    "model.sink_nullify_channels",
                                    "model.sink_nullify_from",
                                    "model.anchors",
                                    "model.anchors_opts.coefficients",
                                    "model.anchors_opts.norm",
                                    "model.anchors_opts.dynamic",
                                    "model.clip_backward",
                                    "data.first_token"};

/* Keys of the model that may change on a finished checkpoint: the named interventions, how long a window is, and what
 * only training knows. Any other makes another model of the same weights. */
static const char *const afterwards[] = {"model.seq",
                                         "model.clip",
                                         "model.clip_baseline",
                                         "model.clip_backward",
                                         "model.sink_nullify",
                                         "model.sink_nullify_mode",
                                         "model.sink_nullify_value",
                                         "model.sink_nullify_channels",
                                         "model.sink_nullify_from",
                                         "model.sink_nullify_final",
                                         "model.balance_coef",
                                         "model.balance_rate",
                                         "model.router_z_loss",
                                         "model.expert_capacity",
                                         "model.init_std"};

#define NAMED(k, list) named(k, list, sizeof list / sizeof *list)
static bool named(const sl_key *k, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(k->name, list[i]) == 0)
            return true;
    return false;
}

bool sl_key_decides_result(const sl_key *k) { return !NAMED(k, undecisive); }

static bool makes_model(const sl_key *k) { return strncmp(k->name, "model.", 6) == 0 && !NAMED(k, afterwards); }

uint64_t sl_config_hash(const sl_config *c) {
    char text[SL_VALUE_CHARS], standard[SL_VALUE_CHARS];
    XXH64_hash_t h = 0;
    sl_config defaults;
    sl_config_defaults(&defaults);
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!sl_key_decides_result(k))
            continue;
        sl_key_format(text, k, c);
        if (NAMED(k, added) && strcmp(text, sl_key_format(standard, k, &defaults)) == 0)
            continue;
        /* Each with its NUL, so that key and value stay apart. */
        h = XXH64(k->name, strlen(k->name) + 1, h);
        h = XXH64(text, strlen(text) + 1, h);
    }
    return h;
}

static char *difference(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b,
                        bool (*counts)(const sl_key *k)) {
    char of_a[SL_VALUE_CHARS], of_b[SL_VALUE_CHARS];
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!counts(k) || strcmp(sl_key_format(of_a, k, a), sl_key_format(of_b, k, b)) == 0)
            continue;
        snprintf(buf, SL_DIFFERENCE_CHARS, "%s: %.80s and %.80s", k->name, of_a, of_b);
        return buf;
    }
    return NULL;
}

char *sl_config_difference(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b) {
    return difference(buf, a, b, sl_key_decides_result);
}

int sl_config_take_model(sl_config *c, const sl_config *from) {
    char value[SL_VALUE_CHARS], assignment[SL_VALUE_CHARS + 64];
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (!makes_model(k) && strcmp(k->name, "data.tokenizer") != 0)
            continue;
        snprintf(assignment, sizeof assignment, "%s=%s", k->name, sl_key_format(value, k, from));
        if (sl_config_override(c, assignment))
            return -1;
    }
    return 0;
}

char *sl_config_other_model(char buf[SL_DIFFERENCE_CHARS], const sl_config *a, const sl_config *b) {
    return difference(buf, a, b, makes_model);
}
