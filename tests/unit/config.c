/* config/: the schema, YAML, overrides, checks, dump and hash. The keys under test come from the
 * JSON help, so that a new key is covered without a new line here. */
#include "config/config.h"
#include "base/err.h"
#include "suite.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static sl_config c;

static int parse(const char *text) {
    sl_config_defaults(&c);
    return sl_config_parse(&c, text, strlen(text), "t.yaml");
}

static void refused(const char *text, const char *message) {
    ck_assert_int_eq(parse(text), -1);
    ck_assert_str_eq(sl_error(), message);
    ck_assert_int_eq(sl_error_exit_code(), SL_EXIT_USAGE);
    sl_config d;
    sl_config_defaults(&d);
    ck_assert_mem_eq(&c, &d, sizeof c); /* unchanged */
}

/* What writes to a FILE, as a string to be freed. */
static char *written(int (*write)(const sl_config *, FILE *), const sl_config *from) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    ck_assert_int_eq(write(from, f), 0);
    fclose(f);
    return text;
}
static int write_help_json(const sl_config *unused, FILE *f) {
    (void)unused;
    return sl_config_help(f, NULL, 0, true);
}
static int write_changes(const sl_config *from, FILE *f) {
    return sl_config_show(from, f, NULL, 0, false);
}

static json_t *schema(void) {
    char *text = written(write_help_json, NULL);
    json_t *keys = json_loads(text, 0, NULL);
    ck_assert(json_is_array(keys));
    free(text);
    return keys;
}
static const char *string(json_t *o, const char *member) {
    return json_string_value(json_object_get(o, member));
}
static double number(json_t *o, const char *member) {
    return json_number_value(json_object_get(o, member));
}

/* A legal value other than the default, as an override; false if there is only one value. */
static bool other_value(json_t *key, char *buf, size_t n) {
    const char *name = string(key, "key"), *type = string(key, "type");
    json_t *standard = json_object_get(key, "default");
    if (strcmp(type, "int") == 0)
        snprintf(buf, n, "%s=%.0f", name,
                 json_number_value(standard) == number(key, "max")
                     ? number(key, "min")
                     : json_number_value(standard) + 1);
    else if (strcmp(type, "real") == 0)
        snprintf(buf, n, "%s=%.17g", name,
                 (number(key, "min") + json_number_value(standard)) / 3 + 1e-7);
    else if (strcmp(type, "bool") == 0)
        snprintf(buf, n, "%s=%s", name, json_is_true(standard) ? "false" : "true");
    else if (strcmp(type, "pair") == 0)
        snprintf(buf, n, "%s=[%.17g, %.17g]", name, number(key, "min"), 1.0 / 3);
    else if (strcmp(type, "text") == 0)
        snprintf(buf, n, "%s='a \"b\" \\ #c: d'", name);
    else {
        json_t *list = json_object_get(key, "choices"),
               *last = json_array_get(list, json_array_size(list) - 1);
        bool is_default = strcmp(string(last, "value"), json_string_value(standard)) == 0;
        if (is_default && json_array_size(list) == 1)
            return false;
        snprintf(buf, n, "%s=%s", name,
                 string(is_default ? json_array_get(list, 0) : last, "value"));
    }
    return true;
}

/* ---- defaults and the schema */

START_TEST(defaults_are_consistent) {
    sl_config_defaults(&c);
    ck_assert_int_eq(sl_config_check(&c), 0);
    ck_assert_int_eq(c.model_dim, 384);
    ck_assert_str_eq(sl_choices_norm[c.model_norm].name, "rmsnorm");
    ck_assert_double_eq(c.train_betas[1], 0.95);
    json_t *keys = schema(), *key;
    size_t i;
    json_array_foreach(keys, i, key) { /* each default is legal as its own override */
        char text[256];
        json_t *v = json_object_get(key, "default");
        char *value =
            json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY);
        snprintf(text, sizeof text, "%s=%s", string(key, "key"), value);
        free(value);
        sl_config before = c;
        ck_assert_msg(sl_config_override(&c, text) == 0, "%s: %s", text, sl_error());
        ck_assert_mem_eq(&before, &c, sizeof c);
        ck_assert_msg(strlen(string(key, "help")) > 0, "%s", text);
    }
    ck_assert_uint_gt(i, 40);
    json_decref(keys);
}
END_TEST

START_TEST(ranges_hold_at_both_ends) {
    json_t *keys = schema(), *key;
    size_t i;
    int tried = 0;
    json_array_foreach(keys, i, key) {
        bool whole = strcmp(string(key, "type"), "int") == 0;
        if (!whole && strcmp(string(key, "type"), "real") != 0)
            continue;
        double lo = number(key, "min"), hi = number(key, "max");
        double step = whole ? 1 : 1e-3;
        const double good[] = {lo, hi}, bad[] = {lo - step, hi + (hi > 1e6 ? hi / 1e6 : step)};
        for (int k = 0; k < 2; k++, tried++) {
            char text[128];
            sl_config_defaults(&c);
            snprintf(text, sizeof text, "%s=%.17g", string(key, "key"), good[k]);
            ck_assert_msg(sl_config_override(&c, text) == 0, "%s: %s", text, sl_error());
            snprintf(text, sizeof text, "%s=%.17g", string(key, "key"), bad[k]);
            ck_assert_msg(sl_config_override(&c, text) == -1, "%s is accepted", text);
            ck_assert_msg(strstr(sl_error(), " to ") != NULL, "%s", sl_error());
        }
    }
    ck_assert_int_gt(tried, 40);
    json_decref(keys);
}
END_TEST

/* ---- YAML */

START_TEST(nested_and_dotted_agree) {
    ck_assert_int_eq(
        parse("model: {dim: 64, norm_opts: {rank: 8}}\ntrain:\n  betas: [0.5, 0.75]\n"), 0);
    sl_config nested = c;
    ck_assert_int_eq(parse("model.dim: 64\nmodel.norm_opts: {rank: 8}\ntrain.betas: [0.5, 0.75]\n"),
                     0);
    ck_assert_mem_eq(&nested, &c, sizeof c);
    ck_assert_int_eq(parse("model:\n  dim: 64\n  norm_opts.rank: 8\ntrain: {betas: [0.5, 0.75]}\n"),
                     0);
    ck_assert_mem_eq(&nested, &c, sizeof c);
    ck_assert_int_eq(c.model_dim, 64);
    ck_assert_int_eq(c.norm_rank, 8);
    ck_assert_double_eq(c.train_betas[0], 0.5);
}
END_TEST

START_TEST(empty_files_are_legal) {
    static const char *const texts[] = {"",         "# only a comment\n", "---\n", "---\n...\n",
                                        "model:\n", "train: {}\n",        "~"};
    sl_config d;
    sl_config_defaults(&d);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ck_assert_msg(parse(texts[i]) == 0, "%s: %s", texts[i], sl_error());
        ck_assert_mem_eq(&c, &d, sizeof c);
    }
}
END_TEST

START_TEST(scalars) {
    ck_assert_int_eq(
        parse("train: {steps: 1e3, lr: 1e-3, guard: \"off\"}\ndata: {bos: False, corpus: '007'}"
              "\nseed: 9007199254740991\n"),
        0);
    ck_assert_int_eq(c.train_steps, 1000);
    ck_assert_double_eq(c.train_lr, 1e-3);
    ck_assert_int_eq(c.train_guard, SL_GUARD_OFF);
    ck_assert(!c.data_bos);
    ck_assert_str_eq(c.data_corpus, "007");
    ck_assert_int_eq(c.seed, 9007199254740991);
}
END_TEST

#define MIXERS "softmax, mamba2, gdn, deltanet, gla, retnet, rwkv7"
#define PLACES "one of pre, post, sandwich, output"
#define NORM_OPTS                                                                                  \
    "eps, zero_centred, preaffine, bias, alpha_attn, alpha_ffn, alpha_final, beta, base, rank, "          \
    "granularity, outer, inner, init, gate_final"
static const struct {
    const char *text, *message;
} mistakes[] = {
    {"seed: 1\nmodell: {dim: 1}\n",
     "t.yaml:2: unknown key \"modell\"; keys: model, data, train, precision, device, gemm, seed, threads, pin, isa"},
    {"model:\n  norm_opts:\n    rnak: 4\n",
     "t.yaml:3: unknown key \"model.norm_opts.rnak\"; did you mean model.norm_opts.rank? keys of "
     "model.norm_opts: " NORM_OPTS},
    {"model.norm_opts.zzzzzzzzzzzzzzzz: 4\n",
     "t.yaml:1: unknown key \"model.norm_opts.zzzzzzzzzzzzzzzz\"; keys of model.norm_opts: " NORM_OPTS},
    {"lr: 1\n",
     "t.yaml:1: unknown key \"lr\"; did you mean train.lr? keys: model, data, train, precision, "
     "device, gemm, seed, threads, pin, isa"},
    {"model: {dim: wide}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found wide"},
    {"model: {dim: \"64\"}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found the text \"64\""},
    {"model: {dim: 64.5}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found 64.5"},
    {"model: {dim: 1_000}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found 1_000"},
    {"model: {dim: 0}\n", "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found 0"},
    {"model: {dim: 99999999999999999999}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found 99999999999999999999"},
    {"model:\n  dim:\n", "t.yaml:2: model.dim: expected a whole number, 1 to 65536; found nothing"},
    {"model: {dim: [64]}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found a list"},
    {"model: {dim: {a: 1}}\n",
     "t.yaml:1: model.dim: expected a whole number, 1 to 65536; found a section"},
    {"train: {lr: .nan}\n", "t.yaml:1: train.lr: expected a number, 0 to 100; found .nan"},
    {"train: {lr: .inf}\n", "t.yaml:1: train.lr: expected a number, 0 to 100; found .inf"},
    {"train: {lr: -1e-9}\n", "t.yaml:1: train.lr: expected a number, 0 to 100; found -1e-9"},
    {"data: {bos: yes}\n", "t.yaml:1: data.bos: expected true or false; found yes"},
    {"data: {bos: 1}\n", "t.yaml:1: data.bos: expected true or false; found 1"},
    {"data: {corpus: ~}\n", "t.yaml:1: data.corpus: expected text; found nothing"},
    {"data: {corpus: [a]}\n", "t.yaml:1: data.corpus: expected text; found a list"},
    {"data: {corpus: \"a\\nb\"}\n",
     "t.yaml:1: data.corpus: text with a line break or control character"},
    {"data: {corpus: \"a\\u2028b\"}\n",
     "t.yaml:1: data.corpus: text with a line break or control character"},
    {"data: {corpus: \"a\\0b\"}\n", "t.yaml:1: a NUL character in a value"},
    {"model: {norm_place: sandwhich}\n",
     "t.yaml:1: model.norm_place: unknown value \"sandwhich\"; did you mean sandwich? It is " PLACES},
    {"model: {norm_place: 5}\n", "t.yaml:1: model.norm_place: expected " PLACES "; found 5"},
    {"model: {mixer: []}\n", "t.yaml:1: model.mixer: expected one or a list of " MIXERS "; found an empty list"},
    {"model: {mixer: [softmax, ~]}\n", "t.yaml:1: model.mixer: expected one or a list of " MIXERS "; found nothing"},
    {"model: {mixer: [softmx]}\n",
     "t.yaml:1: model.mixer: unknown value \"softmx\"; did you mean softmax? It is one or a list of " MIXERS},
    {"model: {mixer: {a: softmax}}\n", "t.yaml:1: model.mixer: expected one or a list of " MIXERS "; found a section"},
    {"train: {betas: 0.9}\n",
     "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 to 1; found 0.9"},
    {"train: {betas: []}\n",
     "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 to 1; found an empty list"},
    {"train: {betas: [0.9]}\n",
     "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 to 1; found a list of one"},
    {"train: {betas: [0, 0, 0, 0]}\n",
     "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 to 1; found a longer list"},
    {"train: {betas: [0.9, 2]}\n",
     "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 to 1; found 2"},
    {"train: {betas: [[0.9], 2]}\n", "t.yaml:1: train.betas: expected a pair of numbers [a, b], 0 "
                                     "to 1; found a list of lists or sections"},
    {"model: {dim: 1}\nmodel.dim: 2\n",
     "t.yaml:2: model.dim is given twice, first in line 1; merge the two"},
    {"data: {bos: true}\nmodel: {dim: 1}\ndata: {bos: true}\n",
     "t.yaml:3: data is given twice, first in line 1; merge the two"},
    {"model: 5\n", "t.yaml:1: model: expected a section with keys among layers, dim, heads, "
                   "kv_heads, head_dim, ffn, match_params, norm, norm_place, block, "
                   "residual, residual_opts, norm_opts, mixer, mamba2_opts, gdn_opts, rwkv7_opts, attention, "
                   "attention_opts, anchors, anchors_opts, attention_bias, ffn_kind, ffn_shift, ffn_bias, experts, "
                   "experts_per_token, expert_ffn, shared_experts, shared_expert_gate, router, router_bias, balance, "
                   "balance_coef, balance_rate, router_z_loss, expert_capacity, qk_norm, qk_norm_span, rope_base, "
                   "rope_base_window, rope_layers, rope_dims, rope_scaling, rope_scaling_opts, clip, clip_baseline, "
                   "clip_backward, embed_multiplier, embed_scale, learned_positions, sink_nullify, sink_nullify_mode, "
                   "sink_nullify_value, sink_nullify_channels, sink_nullify_from, sink_nullify_final, tie_embeddings, "
                   "logit_softcap, head_bias, seq, init_std; found a single value"},
    {"- 1\n", "t.yaml:1: expected keys among model, data, train, precision, device, gemm, seed, threads, pin, isa; "
              "found a list"},
    {"just words\n", "t.yaml:1: expected keys among model, data, train, precision, device, gemm, seed, threads, pin, "
                     "isa; found a single value"},
    {"? [a]\n: b\n", "t.yaml:1: a list or section in the place of a key"},
    {"model: &m {dim: 1}\n", "t.yaml:1: YAML anchors and aliases are not used here; write the "
                             "value itself (quote text that starts with & or *)"},
    {"model: *m\n", "t.yaml:1: YAML anchors and aliases are not used here; write the value itself "
                    "(quote text that starts with & or *)"},
    {"seed: !!int 5\n", "t.yaml:1: YAML tags are not used here; write the value itself (quote text "
                        "that starts with !)"},
    {"seed: 1\n---\nseed: 2\n", "t.yaml:2: a second YAML document; a configuration is one"},
    {"model:\n\tdim: 5\n", "t.yaml:2: not valid YAML: while scanning for the next token, found "
                           "character that cannot start any token"},
    {"seed: 1\nmodel: {dim: 5\n",
     "t.yaml:3: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'"},
    {"seed: 1\n# \xff\n", "t.yaml:2: not valid YAML: invalid leading UTF-8 octet"},
};
START_TEST(messages) { refused(mistakes[_i].text, mistakes[_i].message); }
END_TEST

START_TEST(texts_up_to_the_limit) {
    char text[SL_CONFIG_STR + 64] = "data.corpus: ";
    size_t head = strlen(text);
    memset(text + head, 'x', SL_CONFIG_STR - 1);
    ck_assert_int_eq(parse(text), 0);
    ck_assert_uint_eq(strlen(c.data_corpus), SL_CONFIG_STR - 1);
    text[head + SL_CONFIG_STR - 1] = 'x';
    refused(text, "t.yaml:1: data.corpus: text of 1024 bytes; at most 1023 are possible");
}
END_TEST

START_TEST(files) {
    char path[] = "/tmp/sinklab-config-XXXXXX", message[256];
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    sl_config_defaults(&c);
    ck_assert_int_eq(sl_config_read(&c, path), 0);
    ck_assert_int_eq(write(fd, "seed: 7\n", 8), 8);
    ck_assert_int_eq(sl_config_read(&c, path), 0);
    ck_assert_int_eq(c.seed, 7);
    ck_assert_int_eq(ftruncate(fd, (1 << 20) + 1), 0);
    ck_assert_int_eq(sl_config_read(&c, path), -1);
    snprintf(message, sizeof message, "%s: more than 1 MiB; this cannot be a configuration", path);
    ck_assert_str_eq(sl_error(), message);
    close(fd);
    unlink(path);
    ck_assert_int_eq(sl_config_read(&c, path), -1);
    snprintf(message, sizeof message, "cannot open %s: No such file or directory",
             path);
    ck_assert_str_eq(sl_error(), message);
    ck_assert_int_eq(sl_config_read(&c, "/tmp"), -1);
    ck_assert_str_eq(sl_error(), "cannot read /tmp: not a regular file");
}
END_TEST

/* ---- overrides */

static const struct {
    const char *text, *message;
} override_mistakes[] = {
    {"seed", "\"seed\" is not of the form key=value"},
    {"=5", "\"=5\" is not of the form key=value"},
    {"train.lrr=5", NULL}, /* begins "unknown key", checked below */
    {"train=5", NULL},
    {"train.lr=fast", "train.lr: expected a number, 0 to 100; found fast"},
    {"train.lr=", "train.lr: expected a number, 0 to 100; found nothing"},
    {"train.lr=[1]", "train.lr: expected a number, 0 to 100; found a list"},
    {"train.lr={a: 1}", "train.lr: expected a number, 0 to 100; found a section"},
    {"train.lr=1\nseed: 5", NULL},
    {"train.betas=0.9,0.95",
     "train.betas: expected a pair of numbers [a, b], 0 to 1; found 0.9,0.95"},
    {"train.betas=[0.9", "train.betas: not valid YAML: while parsing a flow sequence, did not find "
                         "expected ',' or ']'"},
    {"train.guard=stpo",
     "train.guard: unknown value \"stpo\"; did you mean stop? It is one of stop, skip, off"},
};
START_TEST(override_messages) {
    sl_config before;
    sl_config_defaults(&c);
    before = c;
    ck_assert_int_eq(sl_config_override(&c, override_mistakes[_i].text), -1);
    if (override_mistakes[_i].message)
        ck_assert_str_eq(sl_error(), override_mistakes[_i].message);
    ck_assert_ptr_null(strchr(sl_error(), '\n'));
    ck_assert_ptr_nonnull(
        strstr(sl_error(), override_mistakes[_i].text[0] == 't' ? "train" : "key=value"));
    ck_assert_int_eq(sl_error_exit_code(), SL_EXIT_USAGE);
    ck_assert_mem_eq(&before, &c, sizeof c);
}
END_TEST

START_TEST(override_values) {
    sl_config_defaults(&c);
    ck_assert_int_eq(sl_config_override(&c, "train.betas=[0.8, 0.9]"), 0);
    ck_assert_int_eq(sl_config_override(&c, "data.corpus=my file=x.txt"), 0);
    ck_assert_int_eq(sl_config_override(&c, "model.norm=gated_norm"), 0);
    ck_assert_double_eq(c.train_betas[1], 0.9);
    ck_assert_str_eq(c.data_corpus, "my file=x.txt");
    ck_assert_str_eq(sl_choices_norm[c.model_norm].name, "gated_norm");
}
END_TEST

/* ---- checks across keys */

static const struct {
    const char *text, *message;
} conflicts[] = {
    {"model: {dim: 100, heads: 3}",
     "model.dim = 100 is not a multiple of model.heads = 3; change one or set model.head_dim"},
    {"model: {dim: 9, heads: 3}",
     "model.dim / model.heads = 3 must be even: rotary embedding turns pairs"},
    {"model: {head_dim: 7}", "model.head_dim = 7 must be even: rotary embedding turns pairs"},
    {"model: {heads: 6, kv_heads: 4}", "model.heads = 6 is not a multiple of model.kv_heads = 4"},
    {"model: {heads: 6, kv_heads: 12}", "model.heads = 6 is not a multiple of model.kv_heads = 12"},
    {"model: {heads: 6, gdn_opts: {key_heads: 4}}",
     "model.gdn_opts.key_heads = 4 does not divide the 6 heads of values; change it or model.gdn_opts.heads"},
    {"model: {heads: 24, mixer: [gdn, retnet]}",
     "model.mixer: retnet takes 20 heads at most and there are 24: 1 - 2^(-5-h) is 1 in fp32 from h = 20 on; set "
     "model.gdn_opts.heads"},
    {"model: {norm: gated_norm, norm_opts: {rank: 500}}",
     "model.norm_opts.rank = 500 is more than model.dim = 384"},
    {"model: {rope_base: 0.5}", "model.rope_base must be 0 (no position embedding) or at least 1"},
    {"model: {rope_base_window: 0.5}", "model.rope_base_window must be 0 (that of all layers) or at least 1"},
    {"model: {rope_base_window: 500}",
     "model.rope_base_window needs layers with a window and with RoPE: set model.attention_opts.window and "
     "model.rope_base, or leave it out"},
    {"model: {rope_base_window: 500, attention_opts: {window: 9}, rope_base: 0}",
     "model.rope_base_window needs layers with a window and with RoPE: set model.attention_opts.window and "
     "model.rope_base, or leave it out"},
    {"model: {rope_base_window: 500, attention_opts: {window: 9, window_layers: [window, full]}}", NULL},
    {"model: {attention_opts: {window_layers: full}}",
     "model.attention_opts.window_layers needs model.attention_opts.window, the width"},
    {"model: {attention_opts: {window_layers: [window, full]}}",
     "model.attention_opts.window_layers needs model.attention_opts.window, the width"},
    {"model: {rope_dims: 5}", "model.rope_dims = 5 must be even and at most the 64 channels of a head"},
    {"model: {rope_dims: 66}", "model.rope_dims = 66 must be even and at most the 64 channels of a head"},
    {"model: {rope_dims: 64}", NULL},
    {"model: {rope_scaling: yarn, rope_scaling_opts: {beta_fast: 1}}",
     "model.rope_scaling_opts.beta_fast must be above beta_slow"},
    {"model: {rope_scaling: yarn, rope_base: 1}", "model.rope_scaling=yarn needs a model.rope_base above 1"},
    {"model: {rope_scaling: llama3, rope_scaling_opts: {low_freq_factor: 4}}",
     "model.rope_scaling_opts.high_freq_factor must be above low_freq_factor"},
    {"model: {learned_positions: 255}",
     "model.seq = 256 is more than model.learned_positions = 255; make one the other"},
    {"model: {learned_positions: 256}", NULL},
    {"model: {norm_opts: {bias: true}}",
     "model.norm_opts.bias is layernorm's: set model.norm=layernorm, or leave it out (the bias of dyt and derf is "
     "model.norm_opts.beta)"},
    {"model: {norm: gated_norm, norm_opts: {bias: true}}",
     "model.norm_opts.bias is layernorm's: set model.norm=layernorm, or leave it out (the bias of dyt and derf is "
     "model.norm_opts.beta)"},
    {"model: {norm: gated_norm, norm_opts: {bias: true, base: layernorm}}", NULL},
    {"model: {block: parallel, norm_place: sandwich}",
     "model.block=parallel has its norms before both halves: it needs model.norm_place=pre"},
    {"model: {norm_place: output, sink_nullify: 1}",
     "model.sink_nullify replaces channels where norms read the stream, and with model.norm_place=output those of the "
     "blocks do not; leave one out"},
    {"model: {attention: sigmoid, attention_opts: {softcap: 50}}",
     "model.attention_opts.softcap is of softmax, softmax1 and sink_logit; leave it out with model.attention=sigmoid"},
    {"model: {attention: k_bias, attention_opts: {softcap: 50}}",
     "model.attention_opts.softcap is of softmax, softmax1 and sink_logit; leave it out with model.attention=k_bias"},
    {"model: {attention: sink_logit, attention_opts: {softcap: 50}}", NULL},
    {"train: {batch: 1048576}\n",
     "train.batch = 1048576 windows of model.seq = 256 are more than 67108864 tokens in one pass; "
     "use train.accumulate"},
    {"train: {steps: 1000000000, accumulate: 65536, batch: 262144}\n",
     "train.steps = 1000000000 of train.accumulate = 65536 passes are too many tokens to count"},
    {"train: {steps: 50}", "train.warmup = 100 is more than train.steps = 50; e.g. train.warmup=5"},
    {"train: {schedule: wsd, decay_fraction: 0.95}",
     "train.warmup = 100 and train.decay_fraction = 0.95 of train.steps = 1000 overlap; make one "
     "smaller"},
    {"train: {betas: [0.9, 1]}", "train.betas must both be below 1"},
    {"train: {eps: 0}",
     "train.eps must be above 0: a weight that never had a gradient would become NaN"},
    {"data: {corpus: ''}", "data.corpus is empty; name a corpus, a file or a folder"},
    {"data: {tokenizer: words}", "data.tokenizer: \"words\" is not bytes, bpe:FILE, gguf:FILE or ids:VOCABULARY[:BOS]"},
    {"data: {tokenizer: 'bpe:'}", "data.tokenizer: \"bpe:\" is not bytes, bpe:FILE, gguf:FILE or ids:VOCABULARY[:BOS]"},
    {"model: {experts: 4, experts_per_token: 5}",
     "model.experts_per_token = 5 is more than model.experts = 4"},
    {"model: {experts: 4, ffn: 0}",
     "model.experts = 4 take the place of a feed-forward, and model.ffn = 0 has none"},
    {"model: {experts: 4, ffn_kind: gelu}",
     "model.ffn_kind: experts are of a gated kind, e.g. swiglu; set one, or model.experts=0"},
    {"model: {experts: 4, ffn_kind: none}",
     "model.experts = 4 take the place of a feed-forward, and model.ffn_kind: none has none"},
    {"model: {experts: 4, experts_per_token: 3}",
     "model.ffn = 1024 is not a multiple of experts_per_token + shared_experts = 3; change one or set "
     "model.expert_ffn"},
    {"model: {experts: 4, shared_expert_gate: true}",
     "model.shared_expert_gate gates what shared experts give, and model.shared_experts = 0; set it, or leave the gate "
     "out"},
    {"model: {shared_expert_gate: true, shared_experts: 1}",
     "model.shared_expert_gate gates what shared experts give, and model.experts = 0; set it, or leave the gate out"},
    {"model: {experts: 4, shared_experts: 2, shared_expert_gate: true}", NULL},
    {"model: {experts: 4, router: sigmoid, router_z_loss: 0.1}",
     "model.router_z_loss needs model.router: softmax: it keeps the log of its sum small"},
    {"model: {experts: 4, experts_per_token: 3, expert_ffn: 10, router_z_loss: 0.1}", NULL},
    {"model: {dim: 100, heads: 3, head_dim: 64, kv_heads: 1}", NULL},
    {"model: {norm_opts: {rank: 500}}", NULL},
    {"train: {steps: 0}", NULL},
    {"data: {tokenizer: 'bpe:tok.json'}", NULL},
};
START_TEST(checks) {
    ck_assert_int_eq(parse(conflicts[_i].text), 0);
    int rc = sl_config_check(&c);
    ck_assert_int_eq(rc, conflicts[_i].message ? -1 : 0);
    if (rc) {
        ck_assert_str_eq(sl_error(), conflicts[_i].message);
        ck_assert_int_eq(sl_error_exit_code(), SL_EXIT_USAGE);
    }
}
END_TEST

/* ---- dump, changes, hash */

/* Each key away from its default survives the dump, and the list of changes is the override itself.
 */
START_TEST(dump_round_trip) {
    json_t *keys = schema(), *key;
    size_t i;
    sl_config all;
    sl_config_defaults(&all);
    json_array_foreach(keys, i, key) {
        char text[256];
        if (!other_value(key, text, sizeof text))
            continue;
        sl_config_defaults(&c);
        ck_assert_msg(sl_config_override(&c, text) == 0, "%s: %s", text, sl_error());
        ck_assert_int_eq(sl_config_override(&all, text), 0);
        char *dump = written(sl_config_dump, &c), *changes = written(write_changes, &c);
        sl_config back, again;
        sl_config_defaults(&back);
        again = back;
        ck_assert_msg(memcmp(&c, &back, sizeof c) != 0, "%s changes nothing", text);
        ck_assert_msg(sl_config_parse(&back, dump, strlen(dump), "dump") == 0, "%s", sl_error());
        ck_assert_msg(memcmp(&c, &back, sizeof c) == 0, "%s does not survive", text);
        ck_assert_uint_eq(strcspn(changes, "\n"), strlen(changes) - 1); /* one line */
        changes[strlen(changes) - 1] = '\0';
        ck_assert_msg(sl_config_override(&again, changes) == 0, "%s: %s", changes, sl_error());
        ck_assert_mem_eq(&c, &again, sizeof c);
        free(dump);
        free(changes);
    }
    char *dump = written(sl_config_dump, &all);
    sl_config_defaults(&c);
    ck_assert_int_eq(sl_config_parse(&c, dump, strlen(dump), "dump"), 0);
    ck_assert_mem_eq(&all, &c, sizeof c);
    free(dump);
    json_decref(keys);
}
END_TEST

START_TEST(texts_survive_a_dump) {
    static const char *const texts[] = {
        "",        " ",          "null",     "~",
        "true",    "Yes",        "off",      "12",
        "-",       "- a",        "a: b",     "a #b",
        "#",       "a:",         "[x]",      "{x}",
        "&a",      "*a",         "!t",       "%d",
        "@x",      "`x",         "'",        "\"",
        "\\",      "\\n",        "---",      "...",
        "?",       "? x",        "|",        ">",
        "C:\\dir", "/a/b c.txt", "\xc3\xbc", "\xf0\x9f\x98\x80",
        ".5",      "<<",         "0x1f",     "bpe:/x/tokenizer.json"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        sl_config_defaults(&c);
        snprintf(c.data_corpus, sizeof c.data_corpus, "%s%c", texts[i], 0);
        memset(c.data_corpus + strlen(texts[i]), 0, sizeof c.data_corpus - strlen(texts[i]));
        char *dump = written(sl_config_dump, &c);
        sl_config back;
        sl_config_defaults(&back);
        ck_assert_msg(sl_config_parse(&back, dump, strlen(dump), "dump") == 0, "%s: %s", texts[i],
                      sl_error());
        ck_assert_str_eq(back.data_corpus, texts[i]);
        free(dump);
    }
}
END_TEST

START_TEST(hash_sees_what_decides) {
    json_t *keys = schema(), *key;
    size_t i;
    int undecisive = 0;
    sl_config_defaults(&c);
    uint64_t standard = sl_config_hash(&c);
    json_array_foreach(keys, i, key) {
        char text[256];
        if (!other_value(key, text, sizeof text))
            continue;
        sl_config_defaults(&c);
        ck_assert_int_eq(sl_config_override(&c, text), 0);
        bool decides = json_is_true(json_object_get(key, "decides_result"));
        ck_assert_msg((sl_config_hash(&c) != standard) == decides, "%s", text);
        undecisive += !decides;
    }
    ck_assert_int_eq(undecisive, 11); /* threads, pin, isa, device, gemm and the six of looking and saving */
    json_decref(keys);
}
END_TEST

/* A configuration without model.mixer has the hash that it had before there was such a key. */
START_TEST(hash_of_before_stays) {
    sl_config_defaults(&c);
    ck_assert_uint_eq(sl_config_hash(&c), 0x23d12c05630fb6df);
    ck_assert_int_eq(sl_config_override(&c, "model.norm=gated_norm"), 0);
    ck_assert_uint_eq(sl_config_hash(&c), 0x91eb15a53fc26e37);
}
END_TEST

/* A list is kept as what it repeats: the same model has one text and one hash. */
START_TEST(list_of_one_repeats) {
    char long_list[SL_LIST_MOST * 9 + 32] = "model.mixer=[softmax";
    sl_config_defaults(&c);
    sl_config standard = c;
    ck_assert_int_eq(sl_config_override(&c, "model.mixer=[softmax, softmax, softmax]"), 0);
    ck_assert_mem_eq(&c, &standard, sizeof c);
    for (int i = 1; i < SL_LIST_MOST; i++)
        strcat(long_list, ", softmax");
    strcat(long_list, "]");
    ck_assert_int_eq(sl_config_override(&c, long_list), 0);
    ck_assert_mem_eq(&c, &standard, sizeof c);
    strcpy(strchr(long_list, ']'), ", softmax]");
    ck_assert_int_ne(sl_config_override(&c, long_list), 0);
    ck_assert_str_eq(sl_error(), "model.mixer: expected one or a list of " MIXERS "; found a list of more than 64");
}
END_TEST

START_TEST(help_is_narrow_and_filtered) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    ck_assert_int_eq(sl_config_help(f, NULL, 0, false), 0);
    fclose(f);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        ck_assert_msg(strlen(line) <= 100, "%s", line);
    free(text);
    f = open_memstream(&text, &n);
    ck_assert_int_eq(sl_config_help(f, (const char *const[]){"model.norm", "data"}, 2, false), 0);
    fclose(f);
    ck_assert_ptr_nonnull(strstr(text, "  model.norm "));
    ck_assert_ptr_nonnull(strstr(text, "gated_norm"));
    ck_assert_ptr_nonnull(strstr(text, "  data.bos "));
    ck_assert_ptr_null(strstr(text, "norm_opts"));
    ck_assert_int_eq(sl_config_help(stderr, (const char *const[]){"model.nrom"}, 1, false), -1);
    ck_assert_ptr_nonnull(strstr(sl_error(), "did you mean model.norm?"));
    free(text);
}
END_TEST

int main(void) {
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_add_test(t, defaults_are_consistent);
    tcase_add_test(t, ranges_hold_at_both_ends);
    tcase_add_test(t, nested_and_dotted_agree);
    tcase_add_test(t, empty_files_are_legal);
    tcase_add_test(t, scalars);
    tcase_add_loop_test(t, messages, 0, sizeof mistakes / sizeof *mistakes);
    tcase_add_test(t, texts_up_to_the_limit);
    tcase_add_test(t, files);
    tcase_add_loop_test(t, override_messages, 0,
                        sizeof override_mistakes / sizeof *override_mistakes);
    tcase_add_test(t, override_values);
    tcase_add_loop_test(t, checks, 0, sizeof conflicts / sizeof *conflicts);
    tcase_add_test(t, dump_round_trip);
    tcase_add_test(t, texts_survive_a_dump);
    tcase_add_test(t, hash_sees_what_decides);
    tcase_add_test(t, hash_of_before_stays);
    tcase_add_test(t, list_of_one_repeats);
    tcase_add_test(t, help_is_narrow_and_filtered);
    suite_add_tcase(s, t);
    return run_suite(s);
}
