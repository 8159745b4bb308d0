#include "config/keys.h"

#include <string.h>

/* The keys of section model that a variant and its baseline share: sizes, those of experts too, and how positions
 * are told. Every other one makes a variant, so that a new variant's key needs no mention here. */
static const char *const shared[] = {"model.layers",   "model.dim",  "model.heads", "model.kv_heads",
                                     "model.head_dim", "model.ffn",  "model.seq",   "model.tie_embeddings",
                                     "model.rope_base", "model.experts", "model.experts_per_token",
                                     "model.expert_ffn", "model.shared_experts", "model.learned_positions",
                                     "model.rope_dims", "model.rope_layers", "model.rope_scaling",
                                     "model.rope_scaling_opts.factor", "model.rope_scaling_opts.low_freq_factor",
                                     "model.rope_scaling_opts.high_freq_factor", "model.rope_scaling_opts.original",
                                     "model.rope_scaling_opts.beta_fast", "model.rope_scaling_opts.beta_slow",
                                     "model.rope_scaling_opts.truncate",
                                     "model.rope_scaling_opts.attention_factor"};

static bool is_shared(const char *name) {
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (strcmp(name, shared[i]) == 0)
            return true;
    return strncmp(name, "model.", 6) != 0;
}

static size_t size_of(const sl_key *k) {
    switch (k->type) {
    case SL_KEY_INT: return sizeof(int64_t);
    case SL_KEY_REAL: return sizeof(double);
    case SL_KEY_BOOL: return sizeof(bool);
    case SL_KEY_ENUM: return sizeof(int);
    case SL_KEY_STR: return SL_CONFIG_STR;
    case SL_KEY_PAIR: return 2 * sizeof(double);
    case SL_KEY_LIST: return sizeof(sl_choice_list);
    }
    return 0;
}

void sl_config_baseline(sl_config *baseline, const sl_config *c) {
    sl_config defaults;
    sl_config_defaults(&defaults);
    *baseline = *c;
    for (const sl_key *k = sl_keys; k->name; k++)
        if (!is_shared(k->name))
            memcpy((char *)baseline + k->offset, (const char *)&defaults + k->offset, size_of(k));
}
