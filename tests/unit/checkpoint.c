/* Contents of checkpoints: exact round trip, refusal of everything damaged, foreign folders. */
#include "checkpoint_fixture.h"

#include "io/file.h"
#include "io/safetensors.h"
#include "suite.h"
#include "checkpoint/internal.h"
#include "checkpoint/hf_config.h"
#include "families/foreign.h"

#include <jansson.h>
#include <sys/stat.h>

static char run[128], dir[4096];

/* A run with checkpoints of steps 1 and 2; dir is that of step 2. */
static void start_run(void) {
    static int number;
    snprintf(run, sizeof run, "%s/run%d", scratch, number++);
    ck_assert_int_eq(fixture_save(run, 1, 1, 2), 0);
    ck_assert_int_eq(fixture_save(run, 2, 2, 2), 0);
    ck_assert_int_eq(sl_checkpoint_resolve(run, dir), 0);
}

static const char *in_dir(const char *name) {
    static char path[4][5000];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", dir, name);
    return path[next];
}

static const char *const files[] = {"model.safetensors", "optimizer.safetensors",
                                    "config.json",       "config.yaml",
                                    "state.json",        "DONE"};
enum { N_FILES = sizeof files / sizeof files[0] };

START_TEST(round_trip) {
    int64_t step = -1;
    start_run();
    ck_assert_int_eq(fixture_load(dir, &step), 2);
    ck_assert_int_eq(step, 2);
    ck_assert_int_eq(sl_checkpoint_list(run, &step), 2);
    ck_assert_int_eq(step, 2);
    ck_assert_str_eq(sl_checkpoint_passed_over(), "");

    sl_config c, d;
    sl_config_defaults(&d);
    int32_t vocab = 0;
    ck_assert_int_eq(sl_checkpoint_config(dir, &c, &vocab), 0);
    ck_assert_mem_eq(&c, &d, sizeof c);
    ck_assert_int_eq(vocab, 5);
    char same[4096];
    ck_assert_int_eq(sl_checkpoint_resolve(dir, same), 0); /* a checkpoint folder is meant itself */
    ck_assert_str_eq(same, dir);
}
END_TEST

START_TEST(keeps_the_newest) {
    start_run();
    int64_t step;
    for (int i = 3; i < 8; i++)
        ck_assert_int_eq(fixture_save(run, i, i, 3), 0);
    ck_assert_int_eq(sl_checkpoint_list(run, &step), 3);
    ck_assert_int_eq(step, 7);
    /* Going on from an older one: what was just saved is kept whatever lies ahead of it. */
    ck_assert_int_eq(fixture_save(run, 4, 4, 1), 0);
    ck_assert_int_eq(sl_checkpoint_list(run, &step), 1);
    ck_assert_int_eq(step, 4);
    ck_assert_int_eq(fixture_save(run, 123456789, 9, 1), 0);
    ck_assert_int_eq(sl_checkpoint_resolve(run, dir), 0);
    ck_assert_ptr_nonnull(strstr(dir, "/checkpoints/123456789"));
}
END_TEST

START_TEST(special_numbers_survive) {
    const double values[] = {
        NAN, INFINITY, -INFINITY, -0.0, 0x1p-1074, 0.1, 1.7976931348623157e308};
    start_run();
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        fixture f;
        sl_config c;
        sl_config_defaults(&c);
        fixture_make(&f);
        fixture_fill(&f, 1);
        sl_train_state s = {.step = 3, .loss_mean = values[i], .best_val_loss = 1}, t;
        ck_assert_int_eq(sl_checkpoint_save(run, &c, &f.p, &s, 1), 0);
        ck_assert_int_eq(sl_checkpoint_resolve(run, dir), 0);
        ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, &t), 0);
        ck_assert(isnan(values[i]) ? isnan(t.loss_mean)
                                   : !memcmp(&t.loss_mean, &values[i], sizeof(double)));
    }
}
END_TEST

/* Each byte of each file: refused, and the run goes on from the checkpoint before. */
START_TEST(any_wrong_byte_is_refused) {
    start_run();
    size_t n;
    unsigned char *p = get_file(in_dir(files[_i]), &n);
    for (size_t at = 0; at < n; at++) {
        p[at] ^= (unsigned char)(1 << at % 8);
        put_file(in_dir(files[_i]), p, n);
        ck_assert_msg(fixture_load(dir, NULL) == -1, "byte %zu of %s", at, files[_i]);
        p[at] ^= (unsigned char)(1 << at % 8);
    }
    put_file(in_dir(files[_i]), p, n);
    ck_assert_int_eq(fixture_load(dir, NULL), 2);
    p[n / 2] ^= 1;
    put_file(in_dir(files[_i]), p, n);
    char other[4096];
    ck_assert_int_eq(sl_checkpoint_resolve(run, other), 0);
    ck_assert_int_eq(fixture_load(other, NULL), 1);
    ck_assert_ptr_nonnull(strstr(sl_checkpoint_passed_over(), "00000002: "));
    free(p);
}
END_TEST

START_TEST(any_wrong_size_is_refused) {
    start_run();
    size_t n;
    int64_t step;
    unsigned char *p = get_file(in_dir(files[_i]), &n);
    p[n] = ' ';
    for (size_t size = 0; size <= n + 1; size += size + 10 < n ? 7 : 1) {
        put_file(in_dir(files[_i]), p, size);
        ck_assert_msg((fixture_load(dir, NULL) == 2) == (size == n), "%zu bytes of %s", size,
                      files[_i]);
        ck_assert_int_eq(sl_checkpoint_list(run, &step), size == n ? 2 : 1);
    }
    put_file(in_dir(files[_i]), p, n - 1);
    if (strcmp(files[_i], "DONE")) {
        fixture_load(dir, NULL);
        ck_error(files[_i]);
        ck_error("bytes where DONE says");
    }
    unlink(in_dir(files[_i]));
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_assert_int_eq(sl_checkpoint_list(run, &step), 1);
    ck_assert_int_eq(step, 1);
    free(p);
}
END_TEST

START_TEST(without_done_it_is_not_there) {
    start_run();
    sl_config c;
    int32_t vocab;
    char same[4096];
    unlink(in_dir("DONE"));
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_error("no DONE");
    ck_assert_int_eq(sl_checkpoint_config(dir, &c, &vocab), -1);
    ck_assert_int_eq(sl_checkpoint_resolve(dir, same), -1);
    ck_error("unfinished checkpoint");
    ck_assert_int_eq(sl_checkpoint_resolve(run, same), 0);
    ck_assert_int_eq(fixture_load(same, NULL), 1);
}
END_TEST

/* DONE as a writer would have made it after changing `file`. */
static void seal(enum sl_done_file file, const char *text) {
    sl_done d;
    sl_writer w;
    ck_assert_int_eq(sl_done_read(dir, &d), 0);
    ck_assert_int_eq(sl_writer_open(&w, in_dir(sl_done_name[file])), 0);
    ck_assert_int_eq(sl_writer_put(&w, text, strlen(text)), 0);
    d.size[file] = w.size;
    ck_assert_int_eq(sl_writer_finish(&w, &d.hash[file]), 0);
    ck_assert_int_eq(sl_done_write(dir, &d), 0);
}

START_TEST(newer_version_is_refused) {
    char same[4096];
    start_run();
    seal(SL_DONE_STATE, "{\"version\": 2, \"state\": []}");
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_error("made by a newer sinklab");
    seal(SL_DONE_STATE, "{\"version\": 0, \"step\": 1, \"tokens\": 1, \"skipped\": 0, \"loss_mean\": \"1\", "
                        "\"best_val_loss\": \"1\", \"train_seconds\": \"1\", \"data_hash\": \"0000000000000000\"}");
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_error("format 0 has never been written");
    seal(SL_DONE_STATE, "{\"version\": 1, \"step\": 1}");
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_error("state.json: a value is missing");
    const char newer[] = "sinklab checkpoint 2\nno lines that we know\n";
    put_file(in_dir("DONE"), newer, sizeof newer - 1);
    ck_assert_int_eq(fixture_load(dir, NULL), -1);
    ck_error("made by a newer sinklab: checkpoint format 2, this one reads up to 1");
    ck_assert_int_eq(sl_checkpoint_resolve(dir, same), -1);
    ck_error("newer");
}
END_TEST

START_TEST(other_models_are_refused) {
    fixture f;
    sl_train_state s;
    start_run();
    fixture_make(&f);
    f.tensor[1].shape[0] = f.tensor[1].size = 3;
    ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, &s), -1);
    ck_error("input_layernorm.weight has shape [4] where [3] is needed");
    fixture_make(&f);
    strcpy(f.tensor[2].name, "model.other");
    ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, &s), -1);
    ck_error("tensor model.other is missing");
    fixture_make(&f);
    f.p.count--;
    ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, NULL), -1);
    ck_error("k_proj.weight is not one of this model");
    for (int i = 0; i < FIXTURE_FLOATS; i++)
        ck_assert(f.block[0][i] == fixture_gap);
}
END_TEST

START_TEST(without_moments) {
    fixture f;
    sl_config c;
    start_run();
    sl_config_defaults(&c);
    fixture_make(&f);
    fixture_fill(&f, 3);
    float *m = f.p.m, *v = f.p.v;
    f.p.m = f.p.v = NULL;
    sl_train_state s = fixture_state(3, 3), t = {0};
    ck_assert_int_eq(sl_checkpoint_save(run, &c, &f.p, &s, 2), 0);
    ck_assert_int_eq(sl_checkpoint_resolve(run, dir), 0);
    ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, &t), 0);
    ck_assert_int_eq(t.step, 3);
    f.p.m = m;
    f.p.v = v;
    ck_assert_int_eq(sl_checkpoint_load(dir, &f.p, &t), -1);
    ck_error("without optimizer state");
}
END_TEST

START_TEST(unwritable_and_missing_folders) {
    char out[4096];
    ck_assert_int_eq(fixture_save("/proc/sinklab-run", 1, 1, 1), -1);
    ck_error("checkpoint of step 1 not saved: cannot create folder /proc/sinklab-run");
    put_file(in_scratch("file"), "x", 1);
    ck_assert_int_eq(fixture_save(in_scratch("file"), 1, 1, 1), -1);
    ck_error("Not a directory");
    if (geteuid() != 0) { /* root may write anywhere */
        mkdir(in_scratch("locked"), 0500);
        ck_assert_int_eq(fixture_save(in_scratch("locked"), 1, 1, 1), -1);
        ck_error("Permission denied");
    }
    int64_t step;
    ck_assert_int_eq(sl_checkpoint_list(in_scratch("nothing"), &step), 0);
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("nothing"), out), -1);
    ck_error("No such file");
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("file"), out), -1);
    ck_error("give the folder");
    mkdir(in_scratch("empty"), 0777);
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("empty"), out), -1);
    ck_error("no checkpoint there");
    mkdir(in_scratch("empty/checkpoints"), 0777);
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("empty"), out), -1);
    ck_error("no checkpoint in");
    mkdir(in_scratch("shards"), 0777);
    put_file(in_scratch("shards/model.safetensors.index.json"), "{}", 2);
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("shards"), out), -1);
    ck_error("without a config.json");
}
END_TEST

/* ---------------------------------------------------------------- config.json */

static const char *config_field(const json_t *root, const char *key) {
    return json_string_value(json_object_get(root, key));
}

static json_t *hf_text(const sl_config *c) {
    char *text = sl_hf_config_text(c, 257);
    json_t *v = json_loads(text, 0, NULL);
    ck_assert_ptr_nonnull(v);
    free(text);
    return v;
}

START_TEST(config_json_names_the_architecture) {
    static const struct {
        const char *overrides[2], *architecture;
    } cases[] = {{{NULL, NULL}, "LlamaForCausalLM"},
                 {{"model.qk_norm=true", "model.kv_heads=2"}, "Qwen3ForCausalLM"},
                 {{"model.norm=gated_norm", NULL}, "SinklabForCausalLM"},
                 {{"model.norm=layernorm", NULL}, "SinklabForCausalLM"},
                 {{"model.norm_place=sandwich", NULL}, "SinklabForCausalLM"},
                 {{"model.norm_opts.preaffine=true", NULL}, "SinklabForCausalLM"},
                 {{"model.norm_opts.zero_centred=true", NULL}, "SinklabForCausalLM"},
                 {{"model.embed_scale=true", NULL}, "SinklabForCausalLM"},
                 {{"model.attention_bias=qkv", NULL}, "SinklabForCausalLM"},
                 {{"model.ffn_bias=true", NULL}, "SinklabForCausalLM"},
                 {{"model.ffn_kind=swiglu_clamped", NULL}, "SinklabForCausalLM"},
                 {{"model.head_bias=true", NULL}, "SinklabForCausalLM"},
                 {{"model.experts=4", "model.router_bias=true"}, "SinklabForCausalLM"},
                 {{"model.rope_dims=2", NULL}, "SinklabForCausalLM"},
                 {{"model.rope_scaling=llama3", NULL}, "SinklabForCausalLM"},
                 {{"model.rope_layers=[rope, none]", NULL}, "SinklabForCausalLM"},
                 {{"model.attention_opts.scale=1", NULL}, "SinklabForCausalLM"},
                 {{"model.embed_multiplier=2", NULL}, "SinklabForCausalLM"},
                 {{"model.learned_positions=1000", NULL}, "SinklabForCausalLM"},
                 {{"model.attention_opts.softcap=50", NULL}, "SinklabForCausalLM"},
                 {{"model.logit_softcap=30", NULL}, "SinklabForCausalLM"},
                 {{"model.block=parallel", NULL}, "SinklabForCausalLM"},
                 {{"model.qk_norm=true", "model.qk_norm_span=projection"}, "SinklabForCausalLM"},
                 {{"model.norm_place=output", NULL}, "SinklabForCausalLM"},
                 {{"model.clip=1", NULL}, "SinklabForCausalLM"},
                 {{"model.sink_nullify=1", NULL}, "SinklabForCausalLM"},
                 {{"model.sink_nullify_mode=output", "model.sink_nullify_final=true"}, "LlamaForCausalLM"},
                 {{"model.clip_baseline=7", "model.norm_opts.base=dyt"}, "LlamaForCausalLM"},
                 {{"model.ffn_kind=gelu", NULL}, "SinklabForCausalLM"},
                 {{"model.ffn=0", NULL}, "SinklabForCausalLM"},
                 {{"model.ffn_kind=none", NULL}, "SinklabForCausalLM"},
                 {{"model.ffn_kind=geglu", NULL}, "LlamaForCausalLM"},
                 {{"model.rope_base=0", NULL}, "SinklabForCausalLM"},
                 {{"model.mixer=gdn", NULL}, "SinklabForCausalLM"}, /* by our names of tensors, as the next */
                 {{"model.mixer=mamba2", "model.ffn=0"}, "SinklabForCausalLM"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sl_config c, back;
        sl_config_defaults(&c);
        for (int k = 0; k < 2 && cases[i].overrides[k]; k++)
            ck_assert_msg(sl_config_override(&c, cases[i].overrides[k]) == 0, "%s", sl_error());
        json_t *v = hf_text(&c);
        const char *arch =
            json_string_value(json_array_get(json_object_get(v, "architectures"), 0));
        ck_assert_str_eq(arch, cases[i].architecture);
        json_decref(v);

        int64_t said;
        char *text = sl_hf_config_text(&c, 257);
        int rc = sl_foreign_parse(text, strlen(text), "config.json", &back, &said);
        if (*cases[i].architecture == 'S') {
            ck_assert_int_eq(rc, -1);
            ck_error("SinklabForCausalLM\" is not supported");
        } else {
            ck_assert_msg(rc == 0, "%s", sl_error());
            ck_assert_int_eq(back.model_qk_norm, c.model_qk_norm);
            ck_assert_int_eq(back.model_ffn_kind, c.model_ffn_kind);
            ck_assert_int_eq(sl_config_kv_heads(&back), sl_config_kv_heads(&c));
            ck_assert_int_eq(sl_config_head_dim(&back), sl_config_head_dim(&c));
            ck_assert(back.norm_eps == c.norm_eps && back.model_rope_base == c.model_rope_base);
        }
        free(text);
    }
}
END_TEST

START_TEST(config_json_has_the_fields) {
    sl_config c;
    sl_config_defaults(&c);
    c.model_tie_embeddings = true;
    json_t *v = hf_text(&c);
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"hidden_size", 384},       {"intermediate_size", 1024},
                   {"num_attention_heads", 6}, {"num_hidden_layers", 6},
                   {"num_key_value_heads", 6}, {"head_dim", 64},
                   {"rms_norm_eps", 1e-6},     {"rope_theta", 10000},
                   {"vocab_size", 257},        {"max_position_embeddings", 256},
                   {"bos_token_id", 256}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ck_assert_msg(json_number_value(json_object_get(v, numbers[i].key)) == numbers[i].value,
                      "%s", numbers[i].key);
    ck_assert_str_eq(config_field(v, "hidden_act"), "silu");
    ck_assert_str_eq(config_field(v, "model_type"), "llama");
    ck_assert_str_eq(config_field(v, "torch_dtype"), "float32");
    ck_assert(json_is_true(json_object_get(v, "tie_word_embeddings")));
    ck_assert(json_is_false(json_object_get(v, "attention_bias")));
    ck_assert(json_is_false(json_object_get(v, "mlp_bias")));
    json_decref(v);
}
END_TEST

#define HF_OF(dim, more)                                                                           \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":" dim ",\"intermediate_size\":16,"    \
    "\"num_hidden_layers\":1,\"num_attention_heads\":2" more "}"
#define HF(more) HF_OF("8", more)

static const struct {
    const char *text, *message; /* NULL: accepted */
} hf[] = {
    {HF(""), NULL},
    {HF(",\"rope_scaling\":null,\"attention_bias\":false,\"pretraining_tp\":1,\"head_dim\":null"),
     NULL},
    {HF(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e5}"), NULL},
    {HF(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":8}"), NULL},
    {HF(",\"rope_scaling\":{\"factor\":8}"), "rope_scaling"},
    {HF(",\"rope_scaling\":8"), "an object is needed"},
    {HF(",\"rope_scaling\":{\"rope_type\":\"linear\"}"), "rope factor"},
    {HF(",\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":8}"),
     "rope_type: \"dynamic\" is not supported; \"default\""},
    {HF(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8}"), "original_max_position_embeddings"},
    {HF(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":64,\"mscale\":1}"),
     "mscale is not supported"},
    {HF(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":64,"
        "\"beta_slow\":32}"),
     "beta_fast must be above beta_slow"},
    {HF(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":64}"), NULL},
    {HF(",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8}"), "original_max_position_embeddings"},
    {HF(",\"rope_theta\":\"x\""), "rope_theta"},
    {HF(",\"rope_theta\":0"), "rope_theta"},
    {HF(",\"partial_rotary_factor\":0.5"), "partial_rotary_factor"},
    {HF(",\"attention_bias\":true,\"mlp_bias\":true"), NULL},
    {HF(",\"attention_bias\":1"), "attention_bias"},
    {HF(",\"mlp_bias\":\"no\""), "mlp_bias"},
    {HF(",\"layer_types\":[\"sliding_attention\"],\"sliding_window\":3"), NULL},
    {HF(",\"layer_types\":[\"sliding_attention\"]"), "sliding_window"},
    {HF(",\"layer_types\":[\"sliding_attention\"],\"sliding_window\":0"), "sliding_window"},
    {HF(",\"layer_types\":[\"chunked_attention\"]"), "layer_types"},
    {HF(",\"layer_types\":[\"full_attention\",\"full_attention\"]"), "layer_types"},
    {HF(",\"hidden_act\":\"gelu\""), NULL},
    {HF(",\"hidden_act\":\"gelu_pytorch_tanh\""), NULL},
    {HF(",\"hidden_act\":\"relu\""), "hidden_act"},
    {HF(",\"hidden_act\":\"relu2\""), "hidden_act"},
    {HF(",\"quantization_config\":{}"), "quantization_config"},
    {HF(",\"num_key_value_heads\":-1"), "num_key_value_heads"},
    {HF(",\"num_key_value_heads\":3"), "kv_heads"},
    {HF(",\"rms_norm_eps\":2"), "rms_norm_eps"},
    {HF(",\"tie_word_embeddings\":1"), "tie_word_embeddings"},
    {HF(",\"max_position_embeddings\":1"), "model.seq"},
    {HF(",\"hidden_size\":8"), "unique keys"},
    {"{\"architectures\":[\"BloomForCausalLM\"]}", "\"BloomForCausalLM\" is not supported; LlamaForCausalLM, "},
    {"{}", "architectures"},
    {"{\"architectures\":[\"Qwen3ForCausalLM\"]}", "num_hidden_layers"},
    {"{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"llama\"}", "model_type: \"llama\", but"},
    {"[", "not a JSON object"},
};

START_TEST(foreign_configs) {
    sl_config c;
    int64_t said;
    int rc = sl_foreign_parse(hf[_i].text, strlen(hf[_i].text), "config.json", &c, &said);
    if (!hf[_i].message) {
        ck_assert_msg(rc == 0, "%s", sl_error());
        ck_assert_int_eq(c.model_dim, 8);
        ck_assert_int_eq(c.model_ffn, 16);
        ck_assert_int_eq(c.model_layers, 1);
        ck_assert(!c.model_qk_norm && c.model_rope_base == (_i == 2 ? 5e5 : 1e4));
        ck_assert_int_eq(c.model_seq, 256);
        return;
    }
    ck_assert_int_eq(rc, -1);
    ck_error(hf[_i].message);
    ck_error("config.json");
}
END_TEST

/* bf16 weights of another writer, with the tensors that such files have besides. */
START_TEST(foreign_folder) {
    fixture f;
    fixture_make(&f);
    uint16_t half[FIXTURE_FLOATS];
    for (int i = 0; i < FIXTURE_FLOATS; i++)
        half[i] = (uint16_t)(0x3f80 + i);
    sl_st_entry e[FIXTURE_TENSORS + 2] = {{.data = NULL}};
    for (int i = 0; i < FIXTURE_TENSORS + 2; i++) {
        const sl_tensor *t = &f.tensor[i < FIXTURE_TENSORS ? i : 0];
        e[i] = (sl_st_entry){.meta = {.dtype = SL_BF16, .ndim = t->ndim}, .data = half + t->offset};
        strcpy(e[i].meta.name, t->name);
        memcpy(e[i].meta.shape, t->shape, sizeof t->shape);
    }
    strcpy(e[FIXTURE_TENSORS].meta.name, "lm_head.weight");
    strcpy(e[FIXTURE_TENSORS + 1].meta.name, "model.layers.0.self_attn.rotary_emb.inv_freq");
    mkdir(in_scratch("hf"), 0777);
    ck_assert_int_eq(
        sl_st_write(in_scratch("hf/model.safetensors"), e, FIXTURE_TENSORS + 2, NULL, NULL, 0), 0);
    char where[4096];
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("hf"), where), -1);
    ck_error("without a config.json");
    put_file(in_scratch("hf/config.json"), HF(""), strlen(HF("")));
    ck_assert_int_eq(sl_checkpoint_resolve(in_scratch("hf"), where), 0);
    sl_config c;
    int32_t vocab;
    sl_train_state s;
    ck_assert_int_eq(sl_checkpoint_config(where, &c, &vocab), -1);
    ck_error("model.embed_tokens.weight has shape [5, 4] where the configuration has 8 channels");
    put_file(in_scratch("hf/config.json"), HF_OF("4", ""), strlen(HF_OF("4", "")));
    ck_assert_int_eq(sl_checkpoint_config(where, &c, &vocab), 0);
    ck_assert_int_eq(vocab, 5);
    ck_assert_int_eq(sl_checkpoint_load(where, &f.p, NULL), 0);
    ck_assert(f.block[0][0] == 1 && f.block[0][25] == 1 + 25.0f / 128 &&
              f.block[0][20] == fixture_gap);
    ck_assert(f.block[2][0] == fixture_gap);
    ck_assert_int_eq(sl_checkpoint_load(where, &f.p, &s), -1);
    ck_error("without optimizer state");
    strcpy(e[FIXTURE_TENSORS].meta.name, "model.layers.0.self_attn.q_proj.bias");
    ck_assert_int_eq(
        sl_st_write(in_scratch("hf/model.safetensors"), e, FIXTURE_TENSORS + 2, NULL, NULL, 0), 0);
    ck_assert_int_eq(sl_checkpoint_load(where, &f.p, NULL), -1);
    ck_error("q_proj.bias is not one of this model");
}
END_TEST

int main(void) {
    Suite *s = suite_create("checkpoint");
    TCase *t = tcase_create("checkpoint");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, round_trip);
    tcase_add_test(t, keeps_the_newest);
    tcase_add_test(t, special_numbers_survive);
    tcase_add_loop_test(t, any_wrong_byte_is_refused, 0, N_FILES);
    tcase_add_loop_test(t, any_wrong_size_is_refused, 0, N_FILES);
    tcase_add_test(t, without_done_it_is_not_there);
    tcase_add_test(t, newer_version_is_refused);
    tcase_add_test(t, other_models_are_refused);
    tcase_add_test(t, without_moments);
    tcase_add_test(t, unwritable_and_missing_folders);
    tcase_add_test(t, config_json_names_the_architecture);
    tcase_add_test(t, config_json_has_the_fields);
    tcase_add_loop_test(t, foreign_configs, 0, sizeof hf / sizeof hf[0]);
    tcase_add_test(t, foreign_folder);
    suite_add_tcase(s, t);
    return run_suite(s);
}
