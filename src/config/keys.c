#include "config/keys.h"

#include "base/cpu.h"
#include "base/err.h"
#include "base/text.h"
#include "simd/kernels.h"

#include <math.h>
#include <float.h>
#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const sl_choice sl_choices_norm[] = {
#define NORM(name, traits, help) {#name, help},
#include "tables/norm.inc"
#undef NORM
    {NULL, NULL}};
const unsigned sl_norm_traits[] = {
#define NORM(name, traits, help) traits,
#include "tables/norm.inc"
#undef NORM
};
const unsigned sl_base_traits[] = {
#define NORM(...)
#define BASE(name, traits, help) traits,
#include "tables/norm.inc"
#undef NORM
};
const sl_choice sl_choices_norm_place[] = {
    [SL_PLACE_PRE] = {"pre", "h + f(norm(h)), the published baseline"},
    [SL_PLACE_POST] = {"post", "norm(h + f(h)) (Vaswani et al. 2017, arXiv 1706.03762)"},
    [SL_PLACE_SANDWICH] = {"sandwich", "h + norm(f(norm(h))) (Gemma 2, arXiv 2408.00118)"},
    [SL_PLACE_OUTPUT] = {"output", "h + norm(f(h)) (OLMo 2, arXiv 2501.00656)"},
    {NULL, NULL}};
const sl_choice sl_choices_anchors[] = {
    [SL_ANCHORS_NONE] = {"none", "each layer has its own alone"},
    [SL_ANCHORS_EXTERNAL] = {"external", "projections of the embeddings"},
    [SL_ANCHORS_INTERNAL] = {"internal", "those of the first layer of attention, mixed into the later ones"},
    {NULL, NULL}};
const sl_choice sl_choices_anchor_coefficients[] = {
    [SL_ANCHORS_SCALAR] = {"scalar", "queries, keys, values and gate inputs as wholes"},
    [SL_ANCHORS_HEADWISE] = {"headwise", "each head of them"},
    [SL_ANCHORS_ELEMENTWISE] = {"elementwise", "each channel of each head"},
    {NULL, NULL}};
const sl_choice sl_choices_residual[] = {
    [SL_RESIDUAL_PLAIN] = {"plain", "the sum of the embedding and all outputs"},
    [SL_RESIDUAL_ATTNRES] = {"attnres", "Attention Residuals: their mixture, with weights of its own for each token "
                                        "(arXiv 2603.15031)"},
    [SL_RESIDUAL_OASIS] = {"oasis", "attnres that turns from sources whose queries left attention unused: null "
                                    "evidence (arXiv 2605.17887)"},
    {NULL, NULL}};
const sl_choice sl_choices_depth_form[] = {
    [SL_DEPTH_OUTPUTS] = {"outputs", "of outputs, a query for each reader (arXiv 2603.15031; null evidence on it is "
                                     "ours)"},
    [SL_DEPTH_STATES] = {"states", "of states, behind each half, the query of the newest: the code of arXiv "
                                   "2605.17887"},
    {NULL, NULL}};
const sl_choice sl_choices_depth_softmax[] = {
    [SL_DEPTH_SOFTMAX] = {"softmax", "they sum to 1"},
    [SL_DEPTH_SOFTMAX1] = {"softmax1", "beside one more source, of score 0 and value 0 (arXiv 2605.17887)"},
    {NULL, NULL}};
const sl_choice sl_choices_nullify_mode[] = {
    [SL_NULLIFY_BOTH] = {"both", "the norm reads a stream without them (norms without statistics: the same as output)"},
    [SL_NULLIFY_OUTPUT] = {"output", "statistics of the whole row, only what is divided by them lacks them"},
    [SL_NULLIFY_DENOMINATOR] = {"denominator", "only the statistics lack them; they themselves pass"},
    {NULL, NULL}};
const sl_choice sl_choices_nullify_value[] = {
    [SL_NULLIFY_ZERO] = {"zero", "0"},
    [SL_NULLIFY_MEAN] = {"mean", "the channel's running mean"},
    [SL_NULLIFY_RMS] = {"rms", "the root of its running mean square, signed as the mean: denominators keep their mean"},
    [SL_NULLIFY_MEAN_OUTPUT] = {"mean_output", "mode output: its running mean behind the division, a constant"},
    {NULL, NULL}};
const sl_choice sl_choices_nullify_channels[] = {
    [SL_NULLIFY_LARGEST] = {"largest", "those of largest |running mean|"},
    [SL_NULLIFY_RANDOM] = {"random", "a control: as many of the others, drawn with `seed` for each norm"},
    {NULL, NULL}};
const sl_choice sl_choices_clip_backward[] = {
    [SL_CLIP_ZERO] = {"zero", "0, that of the clamp"},
    [SL_CLIP_THROUGH] = {"through", "that of the sum, as if nothing were clamped (straight-through, arXiv 1308.3432)"},
    {NULL, NULL}};
const sl_choice sl_choices_base_norm[] = {
#define NORM(...)
#define BASE(name, traits, help) {#name, help},
#include "tables/norm.inc"
#undef NORM
    {NULL, NULL}};
const sl_choice sl_choices_gate_granularity[] = {
    [SL_GATE_ELEMENTWISE] = {"elementwise", "its own channel"},
    [SL_GATE_TENSORWISE] = {"tensorwise", "all channels of the token (arXiv 2601.22966, ablation)"},
    {NULL, NULL}};
const sl_choice sl_choices_gate_outer[] = {
    [SL_GATE_SIGMOID] = {"sigmoid", "as published (arXiv 2601.22966)"},
    [SL_GATE_TANH] = {"tanh", "ablation of the same paper"},
    [SL_GATE_SILU] = {"silu", "ablation of the same paper"},
    [SL_GATE_LINEAR] = {"identity", "the score itself; ablation of the same paper"},
    {NULL, NULL}};
const sl_choice sl_choices_gate_inner[] = {
    [SL_GATE_INNER_SILU] = {"silu", "as published (arXiv 2601.22966)"},
    [SL_GATE_INNER_RELU] = {"relu", "max(0, a)"},
    {NULL, NULL}};
const sl_choice sl_choices_gate_init[] = {
    [SL_GATE_HALF] = {"half", "W_up ~ N(0, init_std): about 1/2 for sigmoid, about 0 for the others"},
    [SL_GATE_IDENTITY] = {"identity", "exactly 1: W_up = 0, and 2 sigmoid(b) or 1 + activation(b)"},
    {NULL, NULL}};
const sl_choice sl_choices_mixer[] = {
#define MIXER(name, help) {#name, help},
#include "tables/mixer.inc"
#undef MIXER
    {NULL, NULL}};
const sl_choice sl_choices_mamba2_norm[] = {
    [SL_MAMBA2_NORM_AFTER] = {"after", "norm(y silu(z)), as published"},
    [SL_MAMBA2_NORM_BEFORE] = {"before", "norm(y) silu(z), as Gated DeltaNet has it (arXiv 2412.06464)"},
    [SL_MAMBA2_NORM_NONE] = {"none", "y silu(z)"},
    {NULL, NULL}};
const sl_choice sl_choices_gdn_gate[] = {
    [SL_GDN_GATE_SILU] = {"silu", "silu(z), as published (arXiv 2412.06464)"},
    [SL_GDN_GATE_SIGMOID] = {"sigmoid", "sigmoid(z), as gated attention (arXiv 2505.06708)"},
    [SL_GDN_GATE_NONE] = {"none", "no gate, and no z"},
    {NULL, NULL}};
const sl_choice sl_choices_gdn_unit[] = {
    [SL_GDN_UNIT_RULE] = {"rule", "of gdn and deltanet, which are stable only so; of gla and retnet not, as in their "
                                  "papers"},
    [SL_GDN_UNIT_ALL] = {"all", "of gla and retnet too, so that they differ from gdn and deltanet in one part alone"},
    {NULL, NULL}};
const sl_choice sl_choices_attention[] = {
#define ATTENTION(name, rows, extra, a, b, help) {#name, help},
#include "simd/attention.inc"
#undef ATTENTION
    {NULL, NULL}};
const sl_choice sl_choices_attention_gate[] = {
    [SL_ATTENTION_GATE_NONE] = {"none", "no gate"},
    [SL_ATTENTION_GATE_ELEMENTWISE] = {"elementwise",
                                       "sigmoid(x W) on each element of the heads' outputs, before o_proj"},
    [SL_ATTENTION_GATE_HEADWISE] = {"headwise", "one sigmoid(x W) for each head's output, before o_proj"},
    [SL_ATTENTION_GATE_VALUE] = {"value", "sigmoid(x W) on each element of the values"},
    {NULL, NULL}};
const sl_choice sl_choices_attention_bias[] = {
    [SL_ATTENTION_BIAS_NONE] = {"none", "none does (Llama)"},
    [SL_ATTENTION_BIAS_QKV] = {"qkv", "queries, keys and values (Qwen2, arXiv 2407.10671)"},
    [SL_ATTENTION_BIAS_ALL] = {"all", "those and the output projection (GPT-2, GPT-NeoX, Phi)"},
    {NULL, NULL}};
const sl_choice sl_choices_window_layers[] = {
    [SL_LAYER_WINDOW] = {"window", "a query sees model.attention_opts.window positions"},
    [SL_LAYER_FULL] = {"full", "it sees all"},
    {NULL, NULL}};
const sl_choice sl_choices_rope_layers[] = {
    [SL_LAYER_ROPE] = {"rope", "rotary"}, [SL_LAYER_NO_ROPE] = {"none", "none"}, {NULL, NULL}};
const sl_choice sl_choices_rope_scaling[] = {
    [SL_ROPE_SCALING_NONE] = {"none", "not at all"},
    [SL_ROPE_SCALING_LINEAR] = {"linear", "all by the factor (position interpolation, arXiv 2306.15595)"},
    [SL_ROPE_SCALING_LLAMA3] = {"llama3", "low ones by the factor, high ones not (Llama 3.1, arXiv 2407.21783)"},
    [SL_ROPE_SCALING_YARN] = {"yarn", "low ones by the factor, high ones not, by pairs of channels, and larger scores "
                                      "(arXiv 2309.00071)"},
    {NULL, NULL}};
const sl_choice sl_choices_qk_norm_span[] = {
    [SL_SPAN_HEAD] = {"head", "each head; heads share a weight (Qwen3)"},
    [SL_SPAN_PROJECTION] = {"projection", "all query heads of a position, and all its key heads (OLMo 2, arXiv "
                                          "2501.00656)"},
    {NULL, NULL}};
const sl_choice sl_choices_block[] = {
    [SL_BLOCK_SEQUENTIAL] = {"sequential", "the feed-forward reads what attention has added to (Vaswani et al. 2017)"},
    [SL_BLOCK_PARALLEL] = {"parallel", "both read the block's input, each behind a norm of its own (GPT-NeoX, arXiv "
                                       "2204.06745)"},
    [SL_BLOCK_PARALLEL_SHARED] = {"parallel_shared", "the same behind one norm (GPT-J, Phi)"},
    {NULL, NULL}};
const sl_choice sl_choices_ffn[] = {
#define FFN(name, gated, act, other, hf, help) {#name, help},
#include "simd/ffn.inc"
#undef FFN
    [SL_FFN_NONE] = {"none", "attention only, as with model.ffn = 0"},
    {NULL, NULL}};
const bool sl_ffn_gated[] = {
#define FFN(name, gated, ...) gated,
#include "simd/ffn.inc"
#undef FFN
};
const sl_choice sl_choices_router[] = {
    [SL_ROUTER_SOFTMAX] = {"softmax", "softmax over all experts (arXiv 2101.03961)"},
    [SL_ROUTER_SIGMOID] = {"sigmoid", "each expert's own sigmoid (DeepSeek-V3, arXiv 2412.19437)"},
    {NULL, NULL}};
const sl_choice sl_choices_balance[] = {
    [SL_BALANCE_NONE] = {"none", "nothing"},
    [SL_BALANCE_AUX] = {"aux", "a loss: experts times sum of load share times mean score (arXiv 2101.03961)"},
    [SL_BALANCE_BIAS] = {"bias", "a bias on the scores that choose, moved towards even loads (arXiv 2408.15664)"},
    {NULL, NULL}};
const sl_choice sl_choices_bos_place[] = {
    [SL_BOS_FIRST] = {"first", "at position 0"},
    [SL_BOS_RANDOM] = {"random", "anywhere in the window; it is an input only, never to be predicted"},
    {NULL, NULL}};
const sl_choice sl_choices_synthetic[] = {
#define SYNTHETIC(name, help) {#name, help},
#include "tables/synthetic.inc"
#undef SYNTHETIC
    {NULL, NULL}};
const sl_choice sl_choices_optim[] = {
#define OPTIM(name, matrix, other, help) {#name, help},
#include "tables/optim.inc"
#undef OPTIM
    {NULL, NULL}};
const sl_choice sl_choices_schedule[] = {
    [SL_SCHEDULE_COSINE] = {"cosine", "half a cosine from lr to min_lr_ratio times lr"},
    [SL_SCHEDULE_WSD] =
        {"wsd", "constant, then linear to min_lr_ratio times lr over the last decay_fraction"},
    [SL_SCHEDULE_CONSTANT] = {"constant", "lr to the end"},
    {NULL, NULL}};
const sl_choice sl_choices_guard[] = {
    [SL_GUARD_STOP] = {"stop", "stop with an error; the last good checkpoint is kept"},
    [SL_GUARD_SKIP] = {"skip", "leave the step out, say so and go on"},
    [SL_GUARD_OFF] = {"off", "train on through spikes; what is not a number still stops"},
    {NULL, NULL}};
const sl_choice sl_choices_precision[] = {
    [SL_PRECISION_AUTO] = {"auto", "bf16 where the device has a unit for it, else fp32"},
    [SL_PRECISION_FP32] = {"fp32", "binary32 throughout"},
    [SL_PRECISION_BF16] = {"bf16", "inputs of matrix products rounded to bf16, sums in fp32"},
    {NULL, NULL}};
const sl_choice sl_choices_device[] = {
    [SL_DEVICE_CPU] = {"cpu", "the CPU"},
    [SL_DEVICE_CUDA] = {"cuda", "the first NVIDIA GPU of CUDA_VISIBLE_DEVICES"},
    [SL_DEVICE_AUTO] = {"auto", "a GPU where one can be used, else the CPU"},
    {NULL, NULL}};
const sl_choice sl_choices_gemm[] = {
    [SL_GEMM_OWN] = {"own", "the engine: the same bits for any number of threads"},
    [SL_GEMM_BLAS] = {"blas", "a CBLAS library that is there: OpenBLAS, BLIS, MKL, or that of SINKLAB_BLAS; no promise "
                              "about bits. Needs precision fp32"},
    {NULL, NULL}};
const sl_choice sl_choices_isa[] = {[SL_ISA_AUTO] = {"auto", "the best that CPU and system have"},
                                    [SL_ISA_SCALAR] = {"scalar", "plain C"},
                                    [SL_ISA_NEON] = {"neon", "AArch64 Advanced SIMD"},
                                    [SL_ISA_AVX2] = {"avx2", "AVX2 with FMA"},
                                    [SL_ISA_AVX512] = {"avx512", "AVX-512 F, BW, DQ and VL"},
                                    [SL_ISA_AVX512VNNI] = {"avx512vnni", "AVX-512 with AVX512_VNNI"},
                                    [SL_ISA_AVX512BF16] = {"avx512bf16", "the same with AVX512_BF16"},
                                    [SL_ISA_AMX] = {"amx", "the same with AMX tiles (AMX-BF16, AMX-INT8)"},
                                    [SL_ISA_NEONDOT] = {"neondot", "NEON with FEAT_DotProd (SDOT)"},
                                    [SL_ISA_NEONBF16] = {"neonbf16", "the same with FEAT_BF16 (BFDOT)"},
                                    {NULL, NULL}};
const sl_choice sl_choices_pin[] = {
    [SL_PIN_OFF] = {"off", "the system moves threads as it likes"},
    [SL_PIN_COMPACT] = {"compact",
                        "one NUMA node after the other is filled, in each the cores before their SMT siblings"},
    [SL_PIN_SPREAD] = {"spread", "physical cores before SMT siblings, over sockets and nodes in turn"},
    {NULL, NULL}};

const sl_key sl_keys[] = {
#define AT(key, type_, field_, help_)                                                              \
    .name = key, .type = type_, .offset = offsetof(sl_config, field_), .help = help_
#define INT(key, field, def, min, max, help)                                                       \
    {AT(key, SL_KEY_INT, field, help), .int_default = def, .int_min = min, .int_max = max},
#define REAL(key, field, def, min, max, help)                                                      \
    {AT(key, SL_KEY_REAL, field, help), .real_default = {def}, .real_min = min, .real_max = max},
#define BOOL(key, field, def, help) {AT(key, SL_KEY_BOOL, field, help), .int_default = def},
#define ENUM(key, field, def, list, help)                                                          \
    {AT(key, SL_KEY_ENUM, field, help), .text_default = def, .choices = sl_choices_##list},
#define STR(key, field, def, help) {AT(key, SL_KEY_STR, field, help), .text_default = def},
#define PAIR(key, field, d0, d1, min, max, help)                                                   \
    {AT(key, SL_KEY_PAIR, field, help), .real_default = {d0, d1}, .real_min = min, .real_max = max},
#define LIST(key, field, def, list, help)                                                          \
    {AT(key, SL_KEY_LIST, field, help), .text_default = def, .choices = sl_choices_##list},
#include "config/schema.inc"
    {.name = NULL}};

/* ---- names */

const sl_key *sl_key_find(const char *name) {
    for (const sl_key *k = sl_keys; k->name; k++)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

bool sl_key_matches(const sl_key *k, const char *name) {
    size_t n = strlen(name);
    return strncmp(k->name, name, n) == 0 && (k->name[n] == '\0' || k->name[n] == '.');
}

bool sl_key_is_section(const char *name) {
    for (const sl_key *k = sl_keys; k->name; k++)
        if (sl_key_matches(k, name) && k->name[strlen(name)] == '.')
            return true;
    return false;
}

char *sl_key_list(char buf[SL_KEY_LIST_CHARS], const char *section) {
    size_t skip = *section ? strlen(section) + 1 : 0, used = 0;
    const char *last = "";
    size_t last_n = 0;
    buf[0] = '\0';
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (skip && !(sl_key_matches(k, section) && k->name[skip - 1] == '.'))
            continue;
        const char *member = k->name + skip;
        size_t n = strcspn(member, ".");
        if (n == last_n && memcmp(member, last, n) == 0) /* another key of the same subsection */
            continue;
        last = member, last_n = n;
        int more = snprintf(buf + used, SL_KEY_LIST_CHARS - used, "%s%.*s", used ? ", " : "",
                            (int)n, member);
        if (more < 0 || (size_t)more >= SL_KEY_LIST_CHARS - used)
            break;
        used += (size_t)more;
    }
    return buf;
}

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* The key that was probably meant: spelled nearly so, or with the right last part ("lr"). */
static const char *nearest_key(const char *name) {
    const char *best = NULL;
    int least = INT_MAX;
    for (const sl_key *k = sl_keys; k->name; k++) {
        int whole = sl_edit_distance(name, k->name);
        int part = sl_edit_distance(last_part(name), last_part(k->name)) + 1;
        int d = whole < part ? whole : part;
        if (d < least)
            least = d, best = k->name;
    }
    return least <= (int)(strlen(name) / 3) + 1 ? best : NULL;
}

int sl_key_fail_unknown(const char *name) {
    char section[128], list[SL_KEY_LIST_CHARS], quoted[SL_QUOTE_CHARS], hint[128] = "";
    const char *near = nearest_key(name);
    if (near)
        snprintf(hint, sizeof hint, "; did you mean %s?", near);
    sl_quote(quoted, name);
    snprintf(section, sizeof section, "%s", name);
    char *dot;
    while ((dot = strrchr(section, '.'))) { /* innermost part of the name that is a section */
        *dot = '\0';
        if (sl_key_is_section(section))
            return sl_fail_usage("unknown key %s%s%s keys of %s: %s", quoted, hint, near ? "" : ";",
                                 section, sl_key_list(list, section));
    }
    return sl_fail_usage("unknown key %s%s%s keys: %s", quoted, hint, near ? "" : ";",
                         sl_key_list(list, ""));
}

/* ---- values */

static void *field(sl_config *c, const sl_key *k) { return (char *)c + k->offset; }
static const void *const_field(const sl_config *c, const sl_key *k) {
    return (const char *)c + k->offset;
}

static int find_choice(const sl_choice *choices, const char *name) {
    for (int i = 0; choices[i].name; i++)
        if (strcmp(choices[i].name, name) == 0)
            return i;
    return -1;
}

sl_config *sl_config_create(void) {
    sl_config c;
    sl_config_defaults(&c);
    return sl_config_copy(&c);
}

sl_config *sl_config_copy(const sl_config *c) {
    sl_config *copy = malloc(sizeof *copy);
    if (copy)
        *copy = *c;
    else
        sl_fail("out of memory for a configuration");
    return copy;
}

void sl_config_free(sl_config *c) { free(c); }

void sl_config_defaults(sl_config *c) {
    /* Padding and string tails too: equal configurations are equal bytes. */
    memset(c, 0, sizeof *c);
    for (const sl_key *k = sl_keys; k->name; k++) {
        void *p = field(c, k);
        switch (k->type) {
        case SL_KEY_INT: *(int64_t *)p = k->int_default; break;
        case SL_KEY_REAL: *(double *)p = k->real_default[0]; break;
        case SL_KEY_BOOL: *(bool *)p = k->int_default != 0; break;
        case SL_KEY_ENUM: *(int *)p = find_choice(k->choices, k->text_default); break;
        case SL_KEY_STR: snprintf(p, SL_CONFIG_STR, "%s", k->text_default); break;
        case SL_KEY_PAIR: memcpy(p, k->real_default, sizeof k->real_default); break;
        case SL_KEY_LIST:
            *(sl_choice_list *)p = (sl_choice_list){1, {(uint8_t)find_choice(k->choices, k->text_default)}};
            break;
        }
    }
}

static bool in_range(const sl_config *c, const sl_key *k) {
    const void *field = const_field(c, k);
    if (k->type == SL_KEY_INT)
        return *(const int64_t *)field >= k->int_min && *(const int64_t *)field <= k->int_max;
    return k->type != SL_KEY_REAL ||
           (*(const double *)field >= k->real_min && *(const double *)field <= k->real_max);
}

int sl_config_check_ranges(const sl_config *c, const char *file) {
    char value[SL_REAL_CHARS], legal[SL_LEGAL_CHARS];
    for (const sl_key *k = sl_keys; k->name; k++) {
        if (in_range(c, k))
            continue;
        const void *field = const_field(c, k);
        if (k->type == SL_KEY_INT)
            snprintf(value, sizeof value, "%lld", (long long)*(const int64_t *)field);
        else
            sl_format_real(value, *(const double *)field);
        return sl_fail("%s: what stands for our %s is %s; %s is supported", file, k->name, value,
                       sl_key_legal(legal, k));
    }
    return 0;
}

char *sl_key_legal(char buf[SL_LEGAL_CHARS], const sl_key *k) {
    char lo[SL_REAL_CHARS], hi[SL_REAL_CHARS];
    size_t used = 0;
    switch (k->type) {
    case SL_KEY_INT:
        snprintf(buf, SL_LEGAL_CHARS, "%lld to %lld", (long long)k->int_min, (long long)k->int_max);
        break;
    case SL_KEY_REAL:
    case SL_KEY_PAIR:
        snprintf(buf, SL_LEGAL_CHARS, "%s%s to %s", k->type == SL_KEY_PAIR ? "[a, b], " : "",
                 sl_format_real(lo, k->real_min), sl_format_real(hi, k->real_max));
        break;
    case SL_KEY_BOOL: snprintf(buf, SL_LEGAL_CHARS, "true or false"); break;
    case SL_KEY_STR: snprintf(buf, SL_LEGAL_CHARS, "text"); break;
    case SL_KEY_ENUM:
    case SL_KEY_LIST:
        for (const sl_choice *ch = k->choices; ch->name && used < SL_LEGAL_CHARS; ch++)
            used += (size_t)snprintf(buf + used, SL_LEGAL_CHARS - used, "%s%s",
                                     used ? ", " : k->type == SL_KEY_LIST ? "one or a list of " : "one of ", ch->name);
        break;
    }
    return buf;
}

int sl_key_fail_type(const sl_key *k, const char *found) {
    char legal[SL_LEGAL_CHARS];
    const char *what[] = {[SL_KEY_INT] = "a whole number, ",
                          [SL_KEY_REAL] = "a number, ",
                          [SL_KEY_BOOL] = "",
                          [SL_KEY_ENUM] = "",
                          [SL_KEY_STR] = "",
                          [SL_KEY_PAIR] = "a pair of numbers ",
                          [SL_KEY_LIST] = ""};
    return sl_fail_usage("%s: expected %s%s; found %s", k->name, what[k->type],
                         sl_key_legal(legal, k), found);
}

static int fail_scalar(const sl_key *k, sl_scalar v) {
    char quoted[SL_QUOTE_CHARS], found[SL_QUOTE_CHARS + 16];
    sl_quote(quoted, v.text);
    if (sl_scalar_is_null(v))
        return sl_key_fail_type(k, "nothing");
    if (v.plain)
        snprintf(found, sizeof found, "%.*s", (int)strlen(quoted) - 2, quoted + 1);
    else
        snprintf(found, sizeof found, "the text %s", quoted);
    return sl_key_fail_type(k, found);
}

/* The choice of that name; -1 with a message. */
static int choice_of(const sl_key *k, sl_scalar v) {
    int i = find_choice(k->choices, v.text);
    if (i >= 0)
        return i;
    const char *near = sl_nearest(v.text, k->choices, sizeof *k->choices);
    if (!near || sl_scalar_is_null(v))
        return fail_scalar(k, v);
    char quoted[SL_QUOTE_CHARS], legal[SL_LEGAL_CHARS];
    return sl_fail_usage("%s: unknown value %s; did you mean %s? It is %s", k->name,
                         sl_quote(quoted, v.text), near, sl_key_legal(legal, k));
}

static int set_enum(const sl_key *k, sl_scalar v, int *p) {
    int i = choice_of(k, v);
    *p = i < 0 ? *p : i;
    return i < 0 ? -1 : 0;
}

/* The shortest list of which n choices are whole repetitions. */
static int period_of(const uint8_t *of, int n) {
    int p = 1;
    while (p < n && (n % p || memcmp(of, of + p, (size_t)(n - p)) != 0))
        p++;
    return p;
}

static int set_list(const sl_key *k, const sl_scalar *v, int n, sl_choice_list *p) {
    sl_choice_list list = {0};
    char found[64];
    snprintf(found, sizeof found, "a list of more than %d", SL_LIST_MOST);
    if (n == 0 || n > SL_LIST_MOST)
        return sl_key_fail_type(k, n == 0 ? "an empty list" : found);
    for (int i = 0; i < n; i++) {
        int choice = choice_of(k, v[i]);
        if (choice < 0)
            return -1;
        list.of[i] = (uint8_t)choice;
    }
    list.n = (uint8_t)period_of(list.of, n);
    memset(list.of + list.n, 0, (size_t)(n - list.n));
    *p = list;
    return 0;
}

/* Characters that YAML takes as breaks or not at all, or that would spoil a one-line message. */
static bool has_controls(const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        if (*s < 0x20 || *s == 0x7f)
            return true;
        if (*s == 0xc2 && s[1] < 0xa0) /* U+0080 to U+009F */
            return true;
        if (*s == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9)) /* U+2028, U+2029 */
            return true;
        if (*s == 0xef && ((s[1] == 0xbb && s[2] == 0xbf) || (s[1] == 0xbf && s[2] >= 0xbe)))
            return true; /* U+FEFF, U+FFFE, U+FFFF */
    }
    return false;
}

static int set_text(const sl_key *k, sl_scalar v, char *p) {
    size_t n = strlen(v.text);
    if (n >= SL_CONFIG_STR)
        return sl_fail_usage("%s: text of %zu bytes; at most %d are possible", k->name, n,
                             SL_CONFIG_STR - 1);
    if (has_controls(v.text))
        return sl_fail_usage("%s: text with a line break or control character", k->name);
    memset(p, 0, SL_CONFIG_STR);
    memcpy(p, v.text, n);
    return 0;
}

static int set_real(const sl_key *k, sl_scalar v, double *p) {
    double x;
    /* The engine computes with fp32: what is 0 there is refused as if it were out of range. */
    if (!v.plain || !sl_parse_real(v.text, &x) || x < k->real_min || x > k->real_max || (x != 0 && fabs(x) < FLT_MIN))
        return fail_scalar(k, v);
    *p = x;
    return 0;
}

static int set_int(const sl_key *k, sl_scalar v, int64_t *p) {
    int64_t x;
    if (!v.plain || !sl_parse_int(v.text, &x) || x < k->int_min || x > k->int_max)
        return fail_scalar(k, v);
    *p = x;
    return 0;
}

static int set_bool(const sl_key *k, sl_scalar v, bool *p) {
    bool yes = strcasecmp(v.text, "true") == 0;
    if (!v.plain || (!yes && strcasecmp(v.text, "false") != 0))
        return fail_scalar(k, v);
    *p = yes;
    return 0;
}

static int set_pair(const sl_key *k, const sl_scalar *v, int n, double *p) {
    double pair[2];
    if (n != 2)
        return sl_key_fail_type(k, n == 0   ? "an empty list"
                                   : n == 1 ? "a list of one"
                                            : "a longer list");
    if (set_real(k, v[0], &pair[0]) != 0 || set_real(k, v[1], &pair[1]) != 0)
        return -1;
    memcpy(p, pair, sizeof pair);
    return 0;
}

bool sl_scalar_is_null(sl_scalar v) {
    return v.plain && (!*v.text || strcmp(v.text, "~") == 0 || strcasecmp(v.text, "null") == 0);
}

int sl_key_set(sl_config *c, const sl_key *k, const sl_scalar *v, int n, bool list) {
    void *p = field(c, k);
    if (list != (k->type == SL_KEY_PAIR) && k->type != SL_KEY_LIST)
        return list ? sl_key_fail_type(k, "a list") : fail_scalar(k, v[0]);
    if (!list && sl_scalar_is_null(v[0]))
        return fail_scalar(k, v[0]);
    switch (k->type) {
    case SL_KEY_INT: return set_int(k, v[0], p);
    case SL_KEY_REAL: return set_real(k, v[0], p);
    case SL_KEY_BOOL: return set_bool(k, v[0], p);
    case SL_KEY_ENUM: return set_enum(k, v[0], p);
    case SL_KEY_STR: return set_text(k, v[0], p);
    case SL_KEY_PAIR: return set_pair(k, v, n, p);
    case SL_KEY_LIST: return set_list(k, v, n, p);
    }
    return -1;
}

/* ---- writing */

/* Would any YAML reader, of version 1.1 or 1.2, take the bare word as text? */
static bool plain_is_text(const char *s) {
    static const char *const meaning[] = {"null", "true", "false", "yes", "no",
                                          "on",   "off",  "y",     "n"};
    for (size_t i = 0; i < sizeof meaning / sizeof *meaning; i++)
        if (strcasecmp(s, meaning[i]) == 0)
            return false;
    if (!isalpha((unsigned char)*s) && *s != '/' && *s != '_')
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("_./-", *s) && !(*s == ':' && s[1]))
            return false;
    return true;
}

static void format_text(char *buf, const char *s) {
    if (plain_is_text(s)) {
        strcpy(buf, s);
        return;
    }
    *buf++ = '"';
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            *buf++ = '\\';
        *buf++ = *s;
    }
    strcpy(buf, "\"");
}

static void format_list(char buf[SL_VALUE_CHARS], const sl_choice *choices, const sl_choice_list *list) {
    if (list->n == 1) {
        format_text(buf, choices[list->of[0]].name);
        return;
    }
    for (int i = 0; i < list->n; i++) {
        *buf++ = i ? ' ' : '[';
        format_text(buf, choices[list->of[i]].name);
        buf += strlen(buf);
        *buf++ = i + 1 < list->n ? ',' : ']';
    }
    *buf = '\0';
}

/* As sl_format_real(), but 1.0e-06 for 1e-06: YAML 1.1 readers take a number without a point as
 * text. */
static char *format_real(char buf[SL_REAL_CHARS], double v) {
    char *exponent = strchr(sl_format_real(buf, v), 'e');
    if (exponent && !strchr(buf, '.')) {
        memmove(exponent + 2, exponent, strlen(exponent) + 1);
        memcpy(exponent, ".0", 2);
    }
    return buf;
}

char *sl_key_format(char buf[SL_VALUE_CHARS], const sl_key *k, const sl_config *c) {
    const void *p = const_field(c, k);
    char a[SL_REAL_CHARS], b[SL_REAL_CHARS];
    const double *r = p;
    switch (k->type) {
    case SL_KEY_INT: snprintf(buf, SL_VALUE_CHARS, "%lld", (long long)*(const int64_t *)p); break;
    case SL_KEY_REAL: format_real(buf, *r); break;
    case SL_KEY_BOOL: strcpy(buf, *(const bool *)p ? "true" : "false"); break;
    case SL_KEY_ENUM: format_text(buf, k->choices[*(const int *)p].name); break;
    case SL_KEY_STR: format_text(buf, p); break;
    case SL_KEY_PAIR:
        snprintf(buf, SL_VALUE_CHARS, "[%s, %s]", format_real(a, r[0]), format_real(b, r[1]));
        break;
    case SL_KEY_LIST: format_list(buf, k->choices, p); break;
    }
    return buf;
}
