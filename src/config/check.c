#include "base/err.h"
#include "base/text.h"
#include "config/config.h"

#include <math.h>
#include <string.h>

typedef long long ll;

bool sl_synthetic_named(const char *corpus) {
    return strncmp(corpus, SL_SYNTHETIC_PREFIX, sizeof SL_SYNTHETIC_PREFIX - 1) == 0;
}

bool sl_bos_is_own(const sl_config *c) { return strcmp(c->data_bos_token, "own") == 0; }

static int check_heads(const sl_config *c) {
    int64_t kv = sl_config_kv_heads(c);
    if (c->model_head_dim == 0 && c->model_dim % c->model_heads != 0)
        return sl_fail_usage(
            "model.dim = %lld is not a multiple of model.heads = %lld; change one or "
            "set model.head_dim",
            (ll)c->model_dim, (ll)c->model_heads);
    int64_t width = sl_config_head_dim(c);
    if (width % 2 != 0)
        return sl_fail_usage("%s = %lld must be even: rotary embedding turns pairs",
                             c->model_head_dim ? "model.head_dim" : "model.dim / model.heads",
                             (ll)width);
    if (c->model_heads % kv != 0)
        return sl_fail_usage("model.heads = %lld is not a multiple of model.kv_heads = %lld",
                             (ll)c->model_heads, (ll)kv);
    return 0;
}

static int check_norm(const sl_config *c) {
    if (sl_norm_traits[c->model_norm] & SL_NORM_GATES && c->norm_rank > c->model_dim)
        return sl_fail_usage("model.norm_opts.rank = %lld is more than model.dim = %lld",
                             (ll)c->norm_rank, (ll)c->model_dim);
    unsigned base = sl_norm_traits[c->model_norm] & SL_NORM_GATES ? sl_base_traits[c->norm_base]
                                                                  : sl_norm_traits[c->model_norm];
    if (c->norm_bias && !(base & SL_NORM_BIASES))
        return sl_fail_usage("model.norm_opts.bias is layernorm's: set model.norm=layernorm, or leave it out (the bias "
                             "of dyt and derf is model.norm_opts.beta)");
    if (c->model_block != SL_BLOCK_SEQUENTIAL && c->model_norm_place != SL_PLACE_PRE)
        return sl_fail_usage("model.block=%s has its norms before both halves: it needs model.norm_place=pre",
                             sl_choices_block[c->model_block].name);
    return 0;
}

static int check_rope(const sl_config *c) {
    if (c->model_rope_base > 0 && c->model_rope_base < 1)
        return sl_fail_usage("model.rope_base must be 0 (no position embedding) or at least 1");
    if (c->model_rope_base_window > 0 && c->model_rope_base_window < 1)
        return sl_fail_usage("model.rope_base_window must be 0 (that of all layers) or at least 1");
    if (c->model_rope_base_window > 0 && (c->attention_window == 0 || c->model_rope_base == 0))
        return sl_fail_usage("model.rope_base_window needs layers with a window and with RoPE: set "
                             "model.attention_opts.window and model.rope_base, or leave it out");
    if (c->model_rope_dims % 2 != 0 || c->model_rope_dims > sl_config_head_dim(c))
        return sl_fail_usage("model.rope_dims = %lld must be even and at most the %lld channels of a head",
                             (ll)c->model_rope_dims, (ll)sl_config_head_dim(c));
    if (c->model_rope_scaling == SL_ROPE_SCALING_LLAMA3 && c->rope_scaling_high <= c->rope_scaling_low)
        return sl_fail_usage("model.rope_scaling_opts.high_freq_factor must be above low_freq_factor");
    if (c->model_rope_scaling == SL_ROPE_SCALING_YARN && c->rope_scaling_beta_fast <= c->rope_scaling_beta_slow)
        return sl_fail_usage("model.rope_scaling_opts.beta_fast must be above beta_slow");
    if (c->model_rope_scaling == SL_ROPE_SCALING_YARN && c->model_rope_base == 1)
        return sl_fail_usage("model.rope_scaling=yarn needs a model.rope_base above 1");
    return 0;
}

static bool mixes(const sl_config *c, const char *mixer) {
    bool found = false;
    for (int i = 0; i < c->model_mixer.n; i++)
        found = found || !strcmp(sl_choices_mixer[c->model_mixer.of[i]].name, mixer);
    return found;
}

static int check_mamba2(const sl_config *c) {
    int64_t inner = c->mamba2_expand * c->model_dim, heads = inner / c->mamba2_head_dim;
    if (!mixes(c, "mamba2"))
        return 0;
    if (inner % c->mamba2_head_dim != 0)
        return sl_fail_usage("model.mamba2_opts.expand times model.dim = %lld is not a multiple of "
                             "model.mamba2_opts.head_dim = %lld; change one",
                             (ll)inner, (ll)c->mamba2_head_dim);
    if (heads % c->mamba2_groups != 0)
        return sl_fail_usage("model.mamba2_opts.groups = %lld does not divide the %lld heads (expand times model.dim "
                             "by head_dim); change one",
                             (ll)c->mamba2_groups, (ll)heads);
    return 0;
}

bool sl_config_shifts(const sl_config *c) { return c->model_ffn_shift || mixes(c, "rwkv7"); }

static int64_t rank_of(int64_t given, double factor, int64_t dim) {
    int64_t rank = 32 * (int64_t)nearbyint(factor * sqrt((double)dim) / 32);
    return given ? given : rank > 32 ? rank : 32;
}

sl_rwkv7_sizes sl_config_rwkv7(const sl_config *c) {
    int64_t d = c->model_dim;
    return (sl_rwkv7_sizes){.heads = d / c->rwkv7_head_dim, .head_dim = c->rwkv7_head_dim,
                            .decay_rank = rank_of(c->rwkv7_decay_rank, 2.5, d),
                            .rate_rank = rank_of(c->rwkv7_rate_rank, 2.5, d),
                            .value_rank = rank_of(c->rwkv7_value_rank, 1.7, d),
                            .gate_rank = rank_of(c->rwkv7_gate_rank, 5, d)};
}

static int check_rwkv7(const sl_config *c) {
    if (mixes(c, "rwkv7") && c->model_dim % c->rwkv7_head_dim != 0)
        return sl_fail_usage("model.rwkv7_opts.head_dim = %lld does not divide model.dim = %lld; change one",
                             (ll)c->rwkv7_head_dim, (ll)c->model_dim);
    return 0;
}

/* Those whose decays are below 1. */
enum { RETNET_HEADS = 20 };

static int check_gdn(const sl_config *c) {
    sl_gdn_sizes n = sl_config_gdn(c);
    if (n.heads % n.key_heads != 0)
        return sl_fail_usage("model.gdn_opts.key_heads = %lld does not divide the %lld heads of values; change it or "
                             "model.gdn_opts.heads",
                             (ll)n.key_heads, (ll)n.heads);
    if (mixes(c, "retnet") && n.heads > RETNET_HEADS)
        return sl_fail_usage("model.mixer: retnet takes %d heads at most and there are %lld: 1 - 2^(-5-h) is 1 in fp32 "
                             "from h = %d on; set model.gdn_opts.heads",
                             RETNET_HEADS, (ll)n.heads, RETNET_HEADS);
    return 0;
}

/* A cap stands between scores and a softmax of them alone. */
static bool takes_softcap(int attention) {
    static const struct {
        const char *rows, *extra;
    } kinds[] = {
#define ATTENTION(name, rows, extra, ...) {#rows, #extra},
#include "simd/attention.inc"
#undef ATTENTION
    };
    return !strcmp(kinds[attention].rows, "softmax") && strncmp(kinds[attention].extra, "key", 3) != 0;
}

static int check_layers(const sl_config *c) {
    if (c->attention_softcap > 0 && !takes_softcap(c->model_attention))
        return sl_fail_usage("model.attention_opts.softcap is of softmax, softmax1 and sink_logit; leave it out with "
                             "model.attention=%s",
                             sl_choices_attention[c->model_attention].name);
    if (c->attention_window == 0 && (c->attention_window_layers.n > 1 || c->attention_window_layers.of[0]))
        return sl_fail_usage("model.attention_opts.window_layers needs model.attention_opts.window, the width");
    if (c->model_learned_positions > 0 && c->model_seq > c->model_learned_positions)
        return sl_fail_usage("model.seq = %lld is more than model.learned_positions = %lld; make one the other",
                             (ll)c->model_seq, (ll)c->model_learned_positions);
    return 0;
}

static int64_t layers_that_attend(const sl_config *c) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->model_layers; i++)
        n += strcmp(sl_choices_mixer[sl_config_mixer(c, i)].name, "softmax") == 0;
    return n;
}

static int check_anchors(const sl_config *c) {
    if (c->model_anchors == SL_ANCHORS_NONE)
        return 0;
    if (c->attention_gate == SL_ATTENTION_GATE_HEADWISE || c->attention_gate == SL_ATTENTION_GATE_VALUE)
        return sl_fail_usage("model.anchors are of a gate of each channel of the outputs: set "
                             "model.attention_opts.gate=elementwise or none, not %s",
                             sl_choices_attention_gate[c->attention_gate].name);
    int64_t attend = layers_that_attend(c), least = c->model_anchors == SL_ANCHORS_INTERNAL ? 2 : 1;
    if (attend < least)
        return sl_fail_usage("model.anchors=%s needs %lld layers of model.mixer=softmax, and there are %lld; raise "
                             "model.layers, or leave it out",
                             sl_choices_anchors[c->model_anchors].name, (ll)least, (ll)attend);
    return 0;
}

static int check_null_evidence(const sl_config *c) {
    if (c->model_attention != SL_ATTENTION_softmax1)
        return sl_fail_usage("model.residual=oasis reads what queries leave unused, and of model.attention=%s it knows "
                             "none; set softmax1, or model.residual=attnres",
                             sl_choices_attention[c->model_attention].name);
    if (layers_that_attend(c) == 0)
        return sl_fail_usage("model.residual=oasis reads what queries leave unused, and no layer of model.mixer=%s has "
                             "any; give it layers of softmax, or set model.residual=attnres",
                             sl_choices_mixer[sl_config_mixer(c, 0)].name);
    return 0;
}

/* What stands where in a block that has no stream to add to, or more than one. */
static int check_residual(const sl_config *c) {
    const char *name = sl_choices_residual[c->model_residual].name;
    bool outputs = c->residual_form == SL_DEPTH_OUTPUTS;
    if (c->model_residual == SL_RESIDUAL_PLAIN)
        return 0;
    if (c->model_residual == SL_RESIDUAL_OASIS && check_null_evidence(c) != 0)
        return -1;
    if (!outputs && c->residual_block > 1)
        return sl_fail_usage("model.residual_opts.block sums outputs, and model.residual_opts.form=states mixes "
                             "states; leave one out");
    if (outputs && c->model_norm_place == SL_PLACE_POST)
        return sl_fail_usage("model.norm_place=post is the norm of a sum, and with model.residual=%s there is none; "
                             "set pre, sandwich or output",
                             name);
    if (c->model_block != SL_BLOCK_SEQUENTIAL)
        return sl_fail_usage("model.block=%s: its halves read the same, and with model.residual=%s each has a mixture "
                             "of its own; set model.block=sequential",
                             sl_choices_block[c->model_block].name, name);
    if (outputs && sl_config_clip(c) > 0)
        return sl_fail_usage("model.clip clamps the sums of a stream, and with model.residual=%s there are none; leave "
                             "one out",
                             name);
    return 0;
}

static int check_nullify(const sl_config *c) {
    if (c->model_sink_nullify > c->model_dim)
        return sl_fail_usage("model.sink_nullify = %lld channels are more than model.dim = %lld",
                             (ll)c->model_sink_nullify, (ll)c->model_dim);
    if (c->model_sink_nullify_channels == SL_NULLIFY_RANDOM && 2 * c->model_sink_nullify > c->model_dim)
        return sl_fail_usage("model.sink_nullify_channels=random draws among the other channels, and of model.dim = "
                             "%lld no %lld are left; lower model.sink_nullify",
                             (ll)c->model_dim, (ll)c->model_sink_nullify);
    if (c->model_sink_nullify > 0 && c->model_sink_nullify_value == SL_NULLIFY_MEAN_OUTPUT &&
        c->model_sink_nullify_mode != SL_NULLIFY_OUTPUT)
        return sl_fail_usage("model.sink_nullify_value=mean_output is what a norm gives, and only "
                             "model.sink_nullify_mode=output replaces that; set it, or take mean");
    if (c->model_sink_nullify > 0 && c->model_sink_nullify_from >= c->model_seq)
        return sl_fail_usage("model.sink_nullify_from = %lld leaves no position to edit in windows of model.seq = "
                             "%lld; lower it",
                             (ll)c->model_sink_nullify_from, (ll)c->model_seq);
    if (c->model_sink_nullify > 0 && c->model_norm_place == SL_PLACE_OUTPUT)
        return sl_fail_usage("model.sink_nullify replaces channels where norms read the stream, and with "
                             "model.norm_place=output those of the blocks do not; leave one out");
    return 0;
}

static int check_experts(const sl_config *c) {
    int64_t parts = c->model_experts_per_token + c->model_shared_experts;
    if (c->model_shared_expert_gate && (c->model_experts == 0 || c->model_shared_experts == 0))
        return sl_fail_usage("model.shared_expert_gate gates what shared experts give, and %s = 0; set it, or leave "
                             "the gate out",
                             c->model_experts ? "model.shared_experts" : "model.experts");
    if (c->model_experts == 0)
        return 0;
    if (c->model_experts_per_token > c->model_experts)
        return sl_fail_usage("model.experts_per_token = %lld is more than model.experts = %lld",
                             (ll)c->model_experts_per_token, (ll)c->model_experts);
    if (!sl_config_has_ffn(c))
        return sl_fail_usage("model.experts = %lld take the place of a feed-forward, and %s has none",
                             (ll)c->model_experts, c->model_ffn ? "model.ffn_kind: none" : "model.ffn = 0");
    if (!sl_ffn_gated[c->model_ffn_kind])
        return sl_fail_usage("model.ffn_kind: experts are of a gated kind, e.g. swiglu; set one, or model.experts=0");
    if (c->model_expert_ffn == 0 && c->model_ffn % parts != 0)
        return sl_fail_usage(
            "model.ffn = %lld is not a multiple of experts_per_token + shared_experts = %lld; change one or set "
            "model.expert_ffn",
            (ll)c->model_ffn, (ll)parts);
    if (c->model_router_z_loss > 0 && c->model_router != SL_ROUTER_SOFTMAX)
        return sl_fail_usage("model.router_z_loss needs model.router: softmax: it keeps the log of its sum small");
    return 0;
}

static int check_match(const sl_config *c) {
    if (c->model_match_params && !sl_config_has_ffn(c))
        return sl_fail_usage("model.match_params changes the width of the feed-forward, and %s asks for none",
                             c->model_ffn ? "model.ffn_kind = none" : "model.ffn = 0");
    return 0;
}

/* Keeps sizes in bytes of all that a run holds, and counts of tokens, within 63 bits. */
static int check_sizes(const sl_config *c) {
    const int64_t most = (int64_t)1 << 26;
    if (c->train_batch > most / c->model_seq)
        return sl_fail_usage(
            "train.batch = %lld windows of model.seq = %lld are more than %lld tokens in "
            "one pass; use train.accumulate",
            (ll)c->train_batch, (ll)c->model_seq, (ll)most);
    double tokens = (double)c->train_steps * (double)c->train_accumulate * (double)c->train_batch *
                    (double)c->model_seq;
    if (tokens > 0x1p62)
        return sl_fail_usage(
            "train.steps = %lld of train.accumulate = %lld passes are too many tokens "
            "to count",
            (ll)c->train_steps, (ll)c->train_accumulate);
    return 0;
}

static int check_training(const sl_config *c) {
    if (c->train_steps > 0 && c->train_warmup > c->train_steps)
        return sl_fail_usage(
            "train.warmup = %lld is more than train.steps = %lld; e.g. train.warmup=%lld",
            (ll)c->train_warmup, (ll)c->train_steps, (ll)(c->train_steps / 10));
    double decay = c->train_decay_fraction * (double)c->train_steps;
    if (c->train_schedule == SL_SCHEDULE_WSD && c->train_steps > 0 &&
        (double)c->train_warmup + decay > (double)c->train_steps) {
        char fraction[SL_REAL_CHARS];
        return sl_fail_usage(
            "train.warmup = %lld and train.decay_fraction = %s of train.steps = %lld "
            "overlap; make one smaller",
            (ll)c->train_warmup, sl_format_real(fraction, c->train_decay_fraction),
            (ll)c->train_steps);
    }
    if (c->train_betas[0] >= 1 || c->train_betas[1] >= 1)
        return sl_fail_usage("train.betas must both be below 1");
    if (c->train_momentum >= 1 || c->train_muon_momentum >= 1)
        return sl_fail_usage("train.%smomentum must be below 1", c->train_momentum >= 1 ? "" : "muon_");
    if (c->train_eps == 0)
        return sl_fail_usage(
            "train.eps must be above 0: a weight that never had a gradient would become NaN");
    return 0;
}

static int check_synthetic(const sl_config *c) {
    const char *name = c->data_corpus + sizeof SL_SYNTHETIC_PREFIX - 1;
    char quoted[SL_QUOTE_CHARS], list[256] = "";
    for (const sl_choice *ch = sl_choices_synthetic; ch->name; ch++) {
        if (strcmp(name, ch->name) == 0)
            return strcmp(c->data_tokenizer, "bytes") == 0 && sl_bos_is_own(c)
                       ? 0
                       : sl_fail_usage("data.%s does not apply to data.corpus=%s, which has tokens of its own; leave "
                                       "it out", sl_bos_is_own(c) ? "tokenizer" : "bos_token", c->data_corpus);
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s%s", used ? ", " : "", SL_SYNTHETIC_PREFIX, ch->name);
    }
    return sl_fail_usage("data.corpus: unknown synthetic task %s; there are %s", sl_quote(quoted, c->data_corpus),
                         list);
}

static int check_data(const sl_config *c) {
    if (c->data_bos_place != SL_BOS_FIRST && !c->data_bos)
        return sl_fail_usage("data.bos_place=%s needs data.bos=true", sl_choices_bos_place[c->data_bos_place].name);
    if (!c->data_corpus[0])
        return sl_fail_usage("data.corpus is empty; name a corpus, a file or a folder");
    if (sl_synthetic_named(c->data_corpus))
        return check_synthetic(c);
    static const char *const with_file[] = {"bpe:", "gguf:", "ids:"};
    bool known = strcmp(c->data_tokenizer, "bytes") == 0;
    for (size_t i = 0; i < sizeof with_file / sizeof *with_file; i++) {
        size_t n = strlen(with_file[i]);
        known |= strncmp(c->data_tokenizer, with_file[i], n) == 0 && c->data_tokenizer[n];
    }
    if (!known) {
        char quoted[SL_QUOTE_CHARS];
        return sl_fail_usage("data.tokenizer: %s is not bytes, bpe:FILE, gguf:FILE or ids:VOCABULARY[:BOS]",
                             sl_quote(quoted, c->data_tokenizer));
    }
    return 0;
}

static int check_gemm(const sl_config *c) {
    if (c->gemm == SL_GEMM_BLAS && c->precision != SL_PRECISION_FP32)
        return sl_fail_usage("gemm: blas multiplies fp32 matrices alone, and precision is %s; set precision=fp32",
                             sl_choices_precision[c->precision].name);
    /* With `auto` it depends on the machine: the model sees to it. */
    if (c->gemm == SL_GEMM_BLAS && c->device == SL_DEVICE_CUDA)
        return sl_fail_usage("gemm: blas is a library of the CPU's; leave it out with device: cuda");
    return 0;
}

int sl_config_check(const sl_config *c) {
    if (check_heads(c) != 0 || check_norm(c) != 0 || check_rope(c) != 0 || check_layers(c) != 0 ||
        check_mamba2(c) != 0 || check_gdn(c) != 0 || check_rwkv7(c) != 0 || check_anchors(c) != 0 ||
        check_residual(c) != 0 || check_nullify(c) != 0 || check_experts(c) != 0 || check_match(c) != 0 ||
        check_sizes(c) != 0 || check_training(c) != 0 || check_gemm(c) != 0)
        return -1;
    return check_data(c);
}
