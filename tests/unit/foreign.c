/* Models of others: what is no model that is computed here is told in one line. */
#include "families/foreign.h"

#include "base/err.h"
#include "gguf_file.h"
#include "io/safetensors.h"
#include "io/tensors.h"
#include "model/model.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>
#include <sys/stat.h>

/* ---------------------------------------------------------------- several files */

static const float values[6] = {1, 2, 3, 4, 5, 6};

static void put_shard(const char *path, const char *a, const char *b) {
    const char *name[2] = {a, b};
    sl_st_entry e[2] = {{.data = values}, {.data = values}};
    for (int i = 0; i < 2; i++) {
        e[i].meta = (sl_st_tensor){.dtype = SL_F32, .ndim = 2, .shape = {2, 3}};
        strcpy(e[i].meta.name, name[i]);
    }
    ck_assert_int_eq(sl_st_write(path, e, 2, NULL, NULL, 0), 0);
}

static sl_tensors *open_index(const char *text) {
    mkdir(in_scratch("shards"), 0777);
    put_shard(in_scratch("shards/one.safetensors"), "a", "b");
    put_shard(in_scratch("shards/two.safetensors"), "c", "d");
    put_shard(in_scratch("outside.safetensors"), "c", "d");
    put_file(in_scratch("shards/model.safetensors.index.json"), text, strlen(text));
    return sl_tensors_open(in_scratch("shards"));
}

#define MAP(entries) "{\"metadata\":{\"total_size\":96},\"weight_map\":{" entries "}}"
#define ONE "\"a\":\"one.safetensors\",\"b\":\"one.safetensors\""
#define TWO "\"c\":\"two.safetensors\",\"d\":\"two.safetensors\""

static const struct {
    const char *text, *message;
} indexes[] = {
    {"[", "index.json:1: not a JSON object"},
    {"{}", "weight_map: an object"},
    {"[]", "weight_map: an object"},
    {"{\"weight_map\":{}}", "weight_map: an object"},
    {"{\"weight_map\":[\"one.safetensors\"]}", "weight_map: an object"},
    {MAP("\"a\":1"), "is not the name of a file in the folder"},
    {MAP(ONE ",\"c\":\"../outside.safetensors\",\"d\":\"../outside.safetensors\""),
     "\"c\": what it has is not the name"},
    {MAP(ONE ",\"c\":\"/etc/passwd\""), "is not the name of a file"},
    {MAP(ONE ",\"c\":\"..\""), "is not the name of a file"},
    {MAP(ONE ",\"c\":\"\""), "is not the name of a file"},
    {MAP(ONE ",\"c\":\"a\\nb\""), "is not the name of a file"},
    {MAP(ONE "," TWO ",\"a\":\"two.safetensors\""), "unique keys"},
    {MAP(ONE ",\"c\":\"three.safetensors\""), "cannot open"},
    {MAP(ONE ",\"c\":\"two.safetensors\""), "two.safetensors: tensor d is not in"},
    {MAP(ONE "," TWO ",\"e\":\"two.safetensors\""), "tensor \"e\" is not in two.safetensors, as it says"},
    {MAP("\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"," TWO),
     "tensor \"a\" is not in two.safetensors, as it says"},
};

START_TEST(hostile_indexes) {
    ck_assert_ptr_null(open_index(indexes[_i].text));
    ck_error(indexes[_i].message);
    ck_error(scratch);
}
END_TEST

START_TEST(doubled_tensors) {
    sl_tensors_close(open_index(MAP(ONE "," TWO)));
    put_shard(in_scratch("shards/two.safetensors"), "c", "a");
    ck_assert_ptr_null(sl_tensors_open(in_scratch("shards")));
    ck_error("tensor a is in ");
}
END_TEST

START_TEST(several_files_are_one_source) {
    sl_tensors *t = open_index(MAP(ONE "," TWO));
    ck_assert_msg(t != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_tensors_count(t), 4);
    const sl_tensor_view *v = sl_tensors_at(t, sl_tensors_find(t, "d"));
    float x[3] = {0};
    ck_assert(v->ndim == 2 && v->shape[0] == 2 && v->shape[1] == 3 && sl_tensor_rows(v) == 2);
    ck_assert_ptr_nonnull(strstr(v->file, "two.safetensors"));
    sl_tensor_read(v, 1, 1, x);
    ck_assert(x[0] == 4 && x[1] == 5 && x[2] == 6);
    ck_assert_int_eq(sl_tensors_find(t, "e"), -1);
    sl_tensors_close(t);
    put_shard(in_scratch("shards/model.safetensors"), "x", "y"); /* is taken in place of the others */
    t = sl_tensors_open(in_scratch("shards"));
    ck_assert_msg(t && sl_tensors_count(t) == 2, "%s", sl_error());
    sl_tensors_close(t);
    unlink(in_scratch("shards/model.safetensors"));
}
END_TEST

/* ---------------------------------------------------------------- parts of GGUF */

/* What a part says; a name of a tensor of [2, 3], whose values count up from 10 times its number, or NULL. */
typedef struct {
    uint32_t no, count, tensors;
    const char *tensor;
} part;

static void put_part(const char *path, const part *p, uint32_t number) {
    put_head(p->tensor != NULL, 3);
    put_u32("split.no", p->no);
    put_u32("split.count", p->count);
    put_u32("split.tensors.count", p->tensors);
    if (p->tensor)
        put_tensor(p->tensor, 0, 3, 2, 0);
    put_data(0);
    for (uint32_t i = 0; p->tensor && i < 6; i++) {
        float x = (float)(10 * number + i);
        put(&x, sizeof x);
    }
    put_file(path, file, size);
}

/* Three files, of which each takes what is given, or no file where count is 0; opened by the first. */
static sl_tensors *open_parts(const part of[3]) {
    char name[64];
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "part-%05u-of-00003.gguf", i + 1);
        unlink(in_scratch(name));
        if (of[i].count)
            put_part(in_scratch(name), &of[i], i);
    }
    return sl_tensors_open(in_scratch("part-00001-of-00003.gguf"));
}

START_TEST(parts_are_one_source) {
    sl_tensors *t = open_parts((part[]){{0, 3, 2, NULL}, {1, 3, 2, "b"}, {2, 3, 2, "a"}});
    ck_assert_msg(t != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_tensors_count(t), 2);
    ck_assert_ptr_nonnull(strstr(sl_tensors_name(t), "part-00001-of-00003.gguf"));
    for (int i = 0; i < 2; i++) {
        const sl_tensor_view *v = sl_tensors_at(t, i);
        float x[3] = {0};
        ck_assert_str_eq(v->name, i ? "b" : "a");
        ck_assert_ptr_nonnull(strstr(v->file, i ? "part-00002-of" : "part-00003-of"));
        sl_tensor_read(v, 1, 1, x);
        ck_assert(x[0] == (i ? 13 : 23) && x[2] == x[0] + 2);
    }
    sl_tensors_close(t);
}
END_TEST

static const struct {
    part of[3];
    const char *message;
} splits[] = {
    {{{1, 3, 3, "a"}}, "part-00001-of-00003.gguf: key split.no is 1: not the first part of its model; give the one "
                       "that ends in -00001-of-00003.gguf"},
    {{{0, 2, 3, "a"}}, "the first of 2 parts, whose name must end in -00001-of-00002.gguf"},
    {{{0, 1000000, 3, "a"}}, "key split.count is 1000000; at most 4096 parts are read"},
    {{{0, 3, 3, "a"}, {1, 3, 3, "b"}}, "part-00003-of-00003.gguf"},
    {{{0, 3, 3, "a"}, {0, 3, 3, "a"}, {2, 3, 3, "c"}},
     "part-00002-of-00003.gguf: keys split.no, split.count, split.tensors.count say 0, 3, 3 where the first part and "
     "the name need 1, 3, 3"},
    {{{0, 3, 3, "a"}, {1, 3, 3, "b"}, {1, 3, 3, "b"}}, "part-00003-of-00003.gguf: keys split.no"},
    {{{0, 3, 3, "a"}, {1, 2, 3, "b"}, {2, 3, 3, "c"}}, "say 1, 2, 3 where"},
    {{{0, 3, 3, "a"}, {1, 3, 2, "b"}, {2, 3, 3, "c"}}, "say 1, 3, 2 where"},
    {{{0, 3, 4, "a"}, {1, 3, 4, "b"}, {2, 3, 4, "c"}}, "split.tensors.count is 4, but the parts have 3 tensors"},
    {{{0, 3, 3, "a"}, {1, 3, 3, "b"}, {2, 3, 3, "a"}}, "tensor a is in "},
};

START_TEST(hostile_parts) {
    ck_assert_ptr_null(open_parts(splits[_i].of));
    ck_error(splits[_i].message);
    ck_error(scratch);
}
END_TEST

/* ---------------------------------------------------------------- GGUF */

enum { VOCAB = 5, DIM = 4, FFN = 8 };

/* What a test changes of a llama of one layer. */
typedef struct {
    const char *architecture, *skip_key, *more_key; /* more_key: a u32 of more_value */
    uint32_t more_value;
    const char *skip_tensor, *more_tensor;
    uint32_t type; /* of the output projection */
    uint64_t query_rows;
} variant;

static int pairs, tensors;
static uint64_t offset;

static void key_u32(const variant *v, const char *key, uint32_t x) {
    if (v->skip_key && !strcmp(v->skip_key, key))
        return;
    put_u32(key, x);
    pairs++;
}

static void key_real(const variant *v, const char *key, float x) {
    if (v->skip_key && !strcmp(v->skip_key, key))
        return;
    put_string(key);
    put32(SL_GGUF_F32);
    put(&x, sizeof x);
    pairs++;
}

static void put_keys(const variant *v) {
    put_string("general.architecture");
    put32(SL_GGUF_STRING);
    put_string(v->architecture ? v->architecture : "llama");
    pairs = 1;
    key_u32(v, "llama.block_count", 1);
    key_u32(v, "llama.embedding_length", DIM);
    key_u32(v, "llama.feed_forward_length", FFN);
    key_u32(v, "llama.attention.head_count", 2);
    key_u32(v, "llama.context_length", 4096);
    key_real(v, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (v->more_key)
        key_u32(v, v->more_key, v->more_value);
}

static void tensor(const variant *v, const char *name, uint32_t type, uint64_t row, uint64_t rows) {
    if (v->skip_tensor && !strcmp(v->skip_tensor, name))
        return;
    put_tensor(name, type, row, rows, offset);
    const sl_ggml_type *t = sl_ggml_type_of(type);
    offset = (offset + row * rows / (uint64_t)t->values * (uint64_t)t->bytes + 31) / 32 * 32;
    tensors++;
}

static void vector(const variant *v, const char *name, uint64_t n) {
    if (v->skip_tensor && !strcmp(v->skip_tensor, name))
        return;
    put_string(name);
    put32(1);
    put64(n);
    put32(0);
    put64(offset);
    offset = (offset + 4 * n + 31) / 32 * 32;
    tensors++;
}

static void put_tensors(const variant *v) {
    offset = 0;
    tensors = 0;
    tensor(v, "token_embd.weight", 0, DIM, VOCAB);
    vector(v, "output_norm.weight", DIM);
    vector(v, "blk.0.attn_norm.weight", DIM);
    tensor(v, "blk.0.attn_q.weight", 0, DIM, v->query_rows ? v->query_rows : DIM);
    tensor(v, "blk.0.attn_k.weight", 0, DIM, DIM);
    tensor(v, "blk.0.attn_v.weight", 0, DIM, DIM);
    tensor(v, "blk.0.attn_output.weight", v->type, DIM, DIM);
    vector(v, "blk.0.ffn_norm.weight", DIM);
    tensor(v, "blk.0.ffn_gate.weight", 0, DIM, FFN);
    tensor(v, "blk.0.ffn_up.weight", 0, DIM, FFN);
    tensor(v, "blk.0.ffn_down.weight", 0, FFN, DIM);
    if (v->more_tensor)
        vector(v, v->more_tensor, DIM);
}

/* The file's path; its values count up, one float after the other. */
static const char *write_variant(const variant *v) {
    const char *path = in_scratch("model.gguf");
    put_head(0, 0);
    put_keys(v);
    put_tensors(v);
    uint64_t counts[2] = {(uint64_t)tensors, (uint64_t)pairs};
    memcpy(file + 8, counts, sizeof counts);
    put_data(0);
    for (uint64_t i = 0; i < offset / 4; i++) {
        float x = (float)i;
        put(&x, sizeof x);
    }
    put_file(path, file, size);
    return path;
}

/* Opens, makes a model, loads. */
static int load(const variant *v, sl_model **m) {
    sl_config c;
    int32_t vocab;
    sl_foreign *f = sl_foreign_open(write_variant(v));
    int rc = f ? sl_foreign_config(f, &c, &vocab) : -1;
    *m = NULL;
    if (rc == 0) {
        ck_assert_int_eq(vocab, VOCAB);
        ck_assert_int_eq(c.model_seq, 256);
        *m = sl_model_create(&c, vocab, 1, 2, 0);
        ck_assert_msg(*m != NULL, "%s", sl_error());
        rc = sl_foreign_load(f, sl_model_params(*m));
    }
    sl_foreign_close(f);
    return rc;
}

static const float *weights(const sl_model *m, const char *name) {
    const sl_params *p = sl_model_params((sl_model *)(uintptr_t)m);
    int i = sl_params_find(p, name);
    ck_assert_msg(i >= 0, "%s", name);
    return p->w + p->tensor[i].offset;
}

START_TEST(a_llama_is_read) {
    sl_model *m;
    variant v = {.more_tensor = NULL};
    ck_assert_msg(load(&v, &m) == 0, "%s", sl_error());
    const float *q = weights(m, "model.layers.0.self_attn.q_proj.weight"), *w;
    /* Data of 20, 4, 4 floats stand before it, each padded to 8. Heads are two rows wide: none moves. */
    ck_assert(q[0] == 40 && q[15] == 55);
    w = weights(m, "model.layers.0.self_attn.v_proj.weight");
    ck_assert(w[0] == 72 && w[15] == 87);
    sl_model_free(m);
}
END_TEST

static const struct {
    variant v;
    const char *message;
} wrong[] = {
    {{.architecture = "mamba"},
     "general.architecture: \"mamba\" is not supported; llama, qwen2, qwen3, qwen3moe, gemma2"},
    {{.architecture = "qwen2"}, "key qwen2.block_count is missing"},
    {{.skip_key = "llama.block_count"}, "key llama.block_count is missing"},
    {{.skip_key = "llama.attention.layer_norm_rms_epsilon"}, "layer_norm_rms_epsilon is missing"},
    {{.more_key = "llama.attention.key_length", .more_value = 6}, "blk.0.attn_q.weight has shape [4, 4] where [12, 4]"},
    {{.more_key = "llama.attention.value_length", .more_value = 6}, "only values as wide as keys"},
    {{.more_key = "llama.rope.dimension_count", .more_value = 1}, "only whole heads"},
    {{.more_key = "llama.rope.dimension_count", .more_value = 4}, "1 to the 2 channels of a head"},
    {{.more_key = "llama.expert_count", .more_value = 8}, "mixtures of experts"},
    {{.more_key = "llama.logit_scale", .more_value = 8}, "key llama.logit_scale is not known"},
    {{.more_key = "llama.rope.scaling.type", .more_value = 8}, "llama.rope.scaling.type: u32 where strings are needed"},
    {{.more_key = "llama.attention.head_count_kv", .more_value = 3}, "kv_heads"},
    {{.skip_key = "llama.attention.head_count", .more_key = "llama.attention.head_count "}, "head_count is missing"},
    {{.more_key = "split.count", .more_value = 3}, "split.no is -1: not the first part of its model"},
    {{.skip_tensor = "token_embd.weight"}, "no embedding matrix token_embd.weight"},
    {{.skip_tensor = "blk.0.attn_v.weight"}, "model.gguf: tensor blk.0.attn_v.weight is missing"},
    {{.skip_tensor = "blk.0.ffn_norm.weight"}, "tensor blk.0.ffn_norm.weight is missing"},
    {{.more_tensor = "blk.0.attn_rel_b.weight"}, "tensor blk.0.attn_rel_b.weight is not one of this model"},
    {{.more_tensor = "blk.1.attn_norm.weight"}, "tensor blk.1.attn_norm.weight is not one of this model"},
    {{.more_tensor = "blk.0.attn_q.bias"}, "tensor blk.0.attn_k.bias is missing"},
    {{.more_tensor = "rope_freqs.weight"}, "rope_freqs.weight: half as many values"},
    {{.type = 24}, "tensor blk.0.attn_output.weight is I8, which is not supported; F32, F16, BF16"},
    {{.query_rows = 6}, "tensor blk.0.attn_q.weight has shape [6, 4] where [4, 4] is needed"},
};

START_TEST(wrong_models) {
    sl_model *m;
    ck_assert_int_eq(load(&wrong[_i].v, &m), -1);
    ck_error(wrong[_i].message);
    ck_error("model.gguf");
    for (int64_t i = 0; m && i < sl_model_params(m)->floats; i++)
        ck_assert(sl_model_params(m)->w[i] == 0); /* nothing was read before everything was checked */
    sl_model_free(m);
}
END_TEST

/* Only what the configuration is read from: heads of 8 channels at base 500,000 and four divisors. */
static int config_of_divisors(const float divisor[4], sl_config *c) {
    static const variant v = {.more_key = "llama.attention.key_length", .more_value = 8};
    int32_t vocab;
    put_head(2, 0);
    put_keys(&v);
    key_real(&v, "llama.rope.freq_base", 500000);
    uint64_t count = (uint64_t)pairs;
    memcpy(file + 16, &count, sizeof count);
    offset = 0;
    tensor(&v, "token_embd.weight", 0, DIM, VOCAB);
    vector(&v, "rope_freqs.weight", 4);
    put_data(96);
    put(divisor, 4 * sizeof *divisor);
    put_file(in_scratch("llama3.gguf"), file, size);
    sl_foreign *f = sl_foreign_open(in_scratch("llama3.gguf"));
    ck_assert_msg(f != NULL, "%s", sl_error());
    int rc = sl_foreign_config(f, c, &vocab);
    sl_foreign_close(f);
    return rc;
}

/* Llama 3.1 divides by 8 with limits of 1 and 4 waves in 8192 positions: waves of 6, 167, 4443 and 118,000 positions
 * fit 1304, 49, 1.844 and .07 times; between the limits the frequency is blended, 1 / ((1 - b) / 8 + b) with b = .844
 * / 3. */
START_TEST(divisors_of_llama3) {
    sl_config c;
    double b = (8192 / (2 * M_PI * sqrt(500000)) - 1) / 3, blended = 1 / ((1 - b) / 8 + b);
    ck_assert_msg(config_of_divisors((const float[]){1, 1, (float)blended, 8}, &c) == 0, "%s", sl_error());
    ck_assert_int_eq(c.model_rope_scaling, SL_ROPE_SCALING_LLAMA3);
    ck_assert(c.rope_scaling_factor == 8 && c.rope_scaling_low == 1 && c.rope_scaling_high == 4);
    ck_assert_int_eq(c.rope_scaling_original, 8192);
    ck_assert_int_eq(config_of_divisors((const float[]){1, 1, (float)blended * 1.001f, 8}, &c), -1);
    ck_error("rope_freqs.weight: other than Llama 3's scaling is not supported");
    ck_assert_int_eq(config_of_divisors((const float[]){1, NAN, (float)blended, 8}, &c), -1);
    ck_assert_int_eq(config_of_divisors((const float[]){1, 1, (float)blended, NAN}, &c), -1);
}
END_TEST

/* ---------------------------------------------------------------- config.json */

/* Two layers of 2 heads and 8 channels. */
#define CONFIG_OF(class, more)                                                                                         \
    "{\"architectures\":[\"" class "ForCausalLM\"],\"hidden_size\":8,\"intermediate_size\":16,\"ffn_dim\":16,"         \
                                   "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"max_position_embeddings\":"    \
                                   "64" more "}"
#define GEMMA2(more) CONFIG_OF("Gemma2", ",\"sliding_window\":4" more)

#define GPT_OSS(top, more) CONFIG_OF("GptOss", ",\"num_local_experts\":4,\"num_experts_per_tok\":" #top more)
#define WINDOW ",\"sliding_window\":4"
#define YARN                                                                                                           \
    ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32,\"truncate\":false," \
    "\"original_max_position_embeddings\":4096}"
#define QUANTISED(method) ",\"quantization_config\":{\"quant_method\":" method "}"
/* Every second layer full, and no experts. */
#define NEXT(more) CONFIG_OF("Qwen3Next", ",\"full_attention_interval\":2,\"num_experts\":0" more)
#define NEXT_EXPERTS(more) CONFIG_OF("Qwen3Next", ",\"num_experts\":12" more)
#define MAMBA2(more) CONFIG_OF("Mamba2", ",\"n_groups\":2,\"num_heads\":4,\"head_dim\":4" more)

static int parse(const char *text, sl_config *c) {
    int64_t said;
    return sl_foreign_parse(text, strlen(text), "config.json", c, &said);
}

static const struct {
    const char *text, *message;
} refused[] = {
    {CONFIG_OF("Gemma2", ""), "sliding_window: a whole number is needed"},
    {GEMMA2(",\"use_bidirectional_attention\":true"), "use_bidirectional_attention is not supported"},
    {GEMMA2(",\"query_pre_attn_scalar\":0"), "query_pre_attn_scalar: a number above 0"},
    {GEMMA2(",\"attn_logit_softcapping\":\"50\""), "attn_logit_softcapping: a number is needed"},
    {GEMMA2(",\"final_logit_softcapping\":-1"), "model.logit_softcap"},
    {CONFIG_OF("SmolLM3", ",\"use_sliding_window\":true"), "use_sliding_window is not supported"},
    {CONFIG_OF("SmolLM3", ",\"no_rope_layer_interval\":0"), "no_rope_layer_interval: 1 or more"},
    {CONFIG_OF("SmolLM3", ",\"no_rope_layers\":[1]"), "no_rope_layers: a list of num_hidden_layers"},
    {CONFIG_OF("SmolLM3", ",\"no_rope_layers\":1"), "no_rope_layers: a list of num_hidden_layers"},
    {CONFIG_OF("SmolLM3", ",\"no_rope_layers\":[1,2]"), "no_rope_layers: 1 (with positions)"},
    {CONFIG_OF("SmolLM3", ",\"no_rope_layers\":[1,true]"), "no_rope_layers: 1 (with positions)"},
    {CONFIG_OF("OPT", ",\"do_layer_norm_before\":false"), "do_layer_norm_before: only true is supported"},
    {CONFIG_OF("OPT", ",\"enable_bias\":false"), "enable_bias: only true is supported"},
    {CONFIG_OF("OPT", ",\"layer_norm_elementwise_affine\":false"), "layer_norm_elementwise_affine: only true"},
    {CONFIG_OF("OPT", ",\"_remove_final_layer_norm\":true"), "_remove_final_layer_norm is not supported"},
    {CONFIG_OF("OPT", ",\"word_embed_proj_dim\":4"), "word_embed_proj_dim: only hidden_size is supported"},
    {CONFIG_OF("OPT", ",\"activation_function\":\"silu\""), "activation_function: \"silu\" is not supported"},
    {CONFIG_OF("Phi", ",\"qk_layernorm\":true"), "qk_layernorm is not supported"},
    {CONFIG_OF("Phi", ",\"layer_norm_eps\":-1"), "model.norm_opts.eps is -1; 0 to 1 is supported"},
    {CONFIG_OF("Phi", ",\"partial_rotary_factor\":2"), "partial_rotary_factor, rotary_pct: a number above 0"},
    {CONFIG_OF("Phi", ",\"hidden_act\":\"silu\""), "hidden_act: \"silu\" is not supported"},
    {CONFIG_OF("GptOss", ""), "num_local_experts: a whole number is needed"},
    {GPT_OSS(2, ""), "sliding_window: a whole number is needed"},
    {GPT_OSS(2, WINDOW ",\"swiglu_limit\":5"), "swiglu_alpha, swiglu_limit: only 1.702 and 7"},
    {GPT_OSS(2, WINDOW ",\"swiglu_alpha\":1"), "swiglu_alpha, swiglu_limit: only 1.702 and 7"},
    {GPT_OSS(2, WINDOW ",\"hidden_act\":\"gelu\""), "only \"silu\" is supported"},
    {GPT_OSS(2, WINDOW), "rope_scaling or rope_parameters is needed"},
    {GPT_OSS(1, WINDOW YARN), "at least 2 experts a token are supported"},
    {GPT_OSS(5, WINDOW YARN), "model.experts_per_token = 5 is more than model.experts = 4"},
    {GPT_OSS(2, WINDOW YARN QUANTISED("\"awq\"")), "quantization_config is not supported"},
    {GPT_OSS(2, WINDOW YARN QUANTISED("4")), "quantization_config is not supported"},
    {CONFIG_OF("OPT", QUANTISED("\"mxfp4\"")), "quantization_config is not supported"},
    {CONFIG_OF("Qwen3Next", ""), "what stands for our model.experts is 512; 0 to 256 is supported"},
    {NEXT_EXPERTS(",\"mlp_only_layers\":[0,0,2,-1,\"1\"]"), "mlp_only_layers: only mixtures in every layer"},
    {NEXT_EXPERTS(",\"decoder_sparse_step\":2"), "mlp_only_layers: only mixtures in every layer, or in none"},
    {NEXT_EXPERTS(",\"decoder_sparse_step\":0"), "decoder_sparse_step: 1 or more is needed"},
    {NEXT_EXPERTS(",\"norm_topk_prob\":false"), "norm_topk_prob: only true is supported"},
    {NEXT_EXPERTS(",\"num_experts_per_tok\":1"), "norm_topk_prob: only true is supported (false with one"},
    {NEXT_EXPERTS(",\"shared_expert_intermediate_size\":700"),
     "shared_expert_intermediate_size = 700 is not a multiple of moe_intermediate_size = 512"},
    {NEXT_EXPERTS(",\"shared_expert_intermediate_size\":0"),
     "shared_expert_intermediate_size = 0 is not a multiple of moe_intermediate_size = 512"},
    {NEXT_EXPERTS(",\"moe_intermediate_size\":0"), "is not a multiple of moe_intermediate_size = 0"},
    {NEXT_EXPERTS(",\"moe_intermediate_size\":2"), "model.shared_experts is 256; 0 to 16 is supported"},
    {CONFIG_OF("Qwen3Next", ",\"num_experts\":0,\"full_attention_interval\":0"), "full_attention_interval: 1 or more"},
    {NEXT(",\"layer_types\":[\"full_attention\"]"), "layer_types: a list of num_hidden_layers kinds"},
    {NEXT(",\"layer_types\":[\"full_attention\",\"sliding_attention\"]"), "layer_types: only \"full_attention\" and"},
    {NEXT(",\"layer_types\":[\"linear_attention\",1]"), "layer_types: only \"full_attention\" and"},
    {NEXT(",\"attention_bias\":true"), "attention_bias is not supported"},
    {NEXT(",\"hidden_act\":\"gelu\""), "hidden_act: only \"silu\" is supported"},
    {NEXT(",\"linear_conv_kernel_dim\":1"), "linear_conv_kernel_dim: 2 or more"},
    {NEXT(",\"linear_num_key_heads\":0"), "linear_value_head_dim: 1 or more is needed"},
    {NEXT(",\"linear_num_key_heads\":3"), "model.gdn_opts.key_heads = 3 does not divide the 32 heads"},
    {NEXT(",\"head_dim\":2"), "partial_rotary_factor, rotary_pct: less than a channel of a head"},
    {MAMBA2(",\"expand\":3"), "num_heads: num_heads times head_dim must be expand times hidden_size"},
    {MAMBA2(",\"use_bias\":true"), "use_bias is not supported"},
    {MAMBA2(",\"use_conv_bias\":false"), "use_conv_bias: only true is supported"},
    {MAMBA2(",\"conv_kernel\":1"), "model.mamba2_opts.conv is 1; 2 to 16 is supported"},
    {MAMBA2(",\"state_size\":0"), "model.mamba2_opts.state is 0"},
    {MAMBA2(",\"hidden_act\":\"relu\""), "hidden_act: only \"silu\" is supported"},
    {MAMBA2(",\"time_step_limit\":[0.001, Infinity]"), "time_step_limit: only [0, infinity] is supported"},
    {MAMBA2(",\"time_step_limit\":[0, 0.1]"), "time_step_limit: only [0, infinity] is supported"},
    {MAMBA2(",\"time_step_limit\":\"Infinity\""), "time_step_limit: only [0, infinity] is supported"},
    {CONFIG_OF("Mamba2", ",\"n_groups\":3,\"num_heads\":4,\"head_dim\":4"), "model.mamba2_opts.groups = 3 does not"},
    {CONFIG_OF("Mamba2", ",\"num_heads\":0,\"head_dim\":0,\"expand\":0"), "model.mamba2_opts.expand is 0"},
};

START_TEST(refused_configs) {
    sl_config c;
    ck_assert_int_eq(parse(refused[_i].text, &c), -1);
    ck_error(refused[_i].message);
    ck_error("config.json");
}
END_TEST

/* What a file leaves out is as in the released models; null turns a cap off. */
START_TEST(what_gemma2_does_not_say) {
    sl_config c;
    ck_assert_msg(parse(GEMMA2(""), &c) == 0, "%s", sl_error());
    ck_assert(c.attention_softcap == 50 && c.model_logit_softcap == 30 && c.attention_scale == 1.0 / 16);
    ck_assert(sl_config_window(&c, 0) == 4 && sl_config_window(&c, 1) == 0 && !c.model_qk_norm);
    ck_assert_msg(parse(GEMMA2(",\"attn_logit_softcapping\":null,\"final_logit_softcapping\":7"), &c) == 0, "%s",
                  sl_error());
    ck_assert(c.attention_softcap == 0 && c.model_logit_softcap == 7);
}
END_TEST

START_TEST(layers_of_smollm3_without_positions) {
    sl_config c;
    ck_assert_msg(parse(CONFIG_OF("SmolLM3", ",\"no_rope_layer_interval\":2"), &c) == 0, "%s", sl_error());
    ck_assert(sl_config_rotates(&c, 0) && !sl_config_rotates(&c, 1));
    ck_assert(c.model_rope_base == 2e6 && c.model_tie_embeddings);
    ck_assert_msg(parse(CONFIG_OF("SmolLM3", ",\"no_rope_layers\":[0,1]"), &c) == 0, "%s", sl_error());
    ck_assert(!sl_config_rotates(&c, 0) && sl_config_rotates(&c, 1));
    ck_assert_msg(parse(CONFIG_OF("SmolLM3", ""), &c) == 0, "%s", sl_error());
    ck_assert(sl_config_rotates(&c, 0) && sl_config_rotates(&c, 1));
}
END_TEST

START_TEST(part_of_a_head_that_phi_turns) {
    sl_config c;
    ck_assert_msg(parse(CONFIG_OF("Phi", ""), &c) == 0, "%s", sl_error());
    ck_assert(sl_config_rope_dims(&c) == 2 && c.model_rope_base == 10000);
    ck_assert_msg(parse(CONFIG_OF("Phi", ",\"partial_rotary_factor\":1,\"rope_theta\":7"), &c) == 0, "%s", sl_error());
    ck_assert(sl_config_rope_dims(&c) == 4 && c.model_rope_base == 7);
}
END_TEST

START_TEST(what_gpt_oss_has) {
    sl_config c;
    ck_assert_msg(parse(GPT_OSS(2, WINDOW YARN QUANTISED("\"mxfp4\"")), &c) == 0, "%s", sl_error());
    ck_assert(sl_config_window(&c, 0) == 4 && sl_config_window(&c, 1) == 0);
    ck_assert(c.model_rope_base == 150000 && !c.rope_scaling_truncate && c.model_expert_ffn == 16);
    ck_assert(c.model_ffn_bias && c.model_router_bias && c.model_attention_bias == SL_ATTENTION_BIAS_ALL);
    ck_assert_msg(parse(GPT_OSS(2, YARN ",\"layer_types\":[\"full_attention\",\"full_attention\"]"), &c) == 0, "%s",
                  sl_error());
    ck_assert(sl_config_window(&c, 0) == 0);
}
END_TEST

/* ---------------------------------------------------------------- MXFP4 */

#define DOWN "model.layers.1.mlp.experts.down_proj"

/* A change of one tensor of the golden folder, whose down projections are [4 experts, 64, 32]. */
static const struct {
    const char *tensor;
    bool left_out;
    enum sl_dtype dtype;
    int ndim;
    int64_t shape[4];
    const char *message;
} packed[] = {
    {DOWN "_blocks", true, SL_U8, 0, {0}, "tensor " DOWN " is missing"},
    {DOWN "_scales", true, SL_U8, 0, {0}, "tensor " DOWN "_scales is missing"},
    {DOWN "_blocks", false, SL_I8, 4, {4, 64, 1, 16}, "tensor " DOWN "_blocks is I8 where U8 is needed"},
    {DOWN "_scales", false, SL_I8, 3, {4, 64, 1}, "tensor " DOWN "_scales is I8 where U8 is needed"},
    {DOWN "_blocks", false, SL_U8, 3, {4, 64, 16}, "has shape [4, 64, 16] where [4, 64, 1, 16] is needed"},
    {DOWN "_scales", false, SL_U8, 3, {4, 32, 2}, "has shape [4, 32, 2] where [4, 64, 1] is needed"},
    {DOWN "_bias", false, SL_F32, 2, {64, 4}, "has shape [64, 4] where [4, 64] is needed"},
};

static void copy_changed(const sl_st_file *from, int change) {
    sl_st_entry e[64];
    int n = 0;
    ck_assert_int_le(sl_st_count(from), 64);
    for (int i = 0; i < sl_st_count(from); i++) {
        e[n] = (sl_st_entry){*sl_st_at(from, i), sl_st_data(from, sl_st_at(from, i))};
        bool changed = !strcmp(e[n].meta.name, packed[change].tensor);
        if (changed && packed[change].left_out)
            continue;
        if (changed) {
            e[n].meta.dtype = packed[change].dtype;
            e[n].meta.ndim = packed[change].ndim;
            memcpy(e[n].meta.shape, packed[change].shape, sizeof packed[change].shape);
        }
        n++;
    }
    ck_assert_int_eq(sl_st_write(in_scratch("packed/model.safetensors"), e, n, NULL, NULL, 0), 0);
}

START_TEST(wrong_blocks) {
    char path[4200];
    sl_config c;
    int32_t vocab;
    sl_map config;
    mkdir(in_scratch("packed"), 0777);
    snprintf(path, sizeof path, "%s/golden/transformers/gpt_oss_mxfp4/config.json", getenv("SL_TESTS"));
    ck_assert_int_eq(sl_map_open(&config, path), 0);
    put_file(in_scratch("packed/config.json"), config.p, config.n);
    sl_map_close(&config);
    snprintf(path, sizeof path, "%s/golden/transformers/gpt_oss_mxfp4/model.safetensors", getenv("SL_TESTS"));
    sl_st_file *from = sl_st_open(path);
    ck_assert_msg(from != NULL, "%s", sl_error());
    copy_changed(from, _i);
    sl_st_close(from);

    sl_foreign *f = sl_foreign_open(in_scratch("packed"));
    ck_assert_msg(f && sl_foreign_config(f, &c, &vocab) == 0, "%s", sl_error());
    sl_model *m = sl_model_create(&c, vocab, 1, 2, 0);
    ck_assert_int_eq(sl_foreign_load(f, sl_model_params(m)), -1);
    ck_error(packed[_i].message);
    sl_model_free(m);
    sl_foreign_close(f);
}
END_TEST

/* What a file leaves out is as in Qwen3-Next-80B. */
START_TEST(layers_of_qwen3_next) {
    sl_config c;
    static const char *const texts[] = {
        NEXT(""), NEXT(",\"layer_types\":[\"linear_attention\",\"full_attention\"]"),
        CONFIG_OF("Qwen3Next", ",\"full_attention_interval\":2,\"mlp_only_layers\":[1,0,7]"),
        CONFIG_OF("Qwen3Next", ",\"full_attention_interval\":2,\"decoder_sparse_step\":3")};
    for (int i = 0; i < 4; i++) {
        ck_assert_msg(parse(texts[i], &c) == 0, "%s", sl_error());
        ck_assert_str_eq(sl_choices_mixer[sl_config_mixer(&c, 0)].name, "gdn");
        ck_assert_str_eq(sl_choices_mixer[sl_config_mixer(&c, 1)].name, "softmax");
        ck_assert(c.gdn_heads == 32 && c.gdn_key_heads == 16 && c.gdn_key_dim == 128 && c.gdn_value_dim == 128);
        ck_assert(c.gdn_conv == 4 && c.model_head_dim == 256 && c.model_kv_heads == 2 && c.model_rope_dims == 64);
        ck_assert(c.norm_zero_centred && c.model_qk_norm && c.attention_gate == SL_ATTENTION_GATE_ELEMENTWISE);
        ck_assert(c.model_experts == 0 && !c.model_shared_expert_gate);
    }
}
END_TEST

START_TEST(experts_of_qwen3_next) {
    sl_config c;
    ck_assert_msg(parse(NEXT_EXPERTS(""), &c) == 0, "%s", sl_error());
    ck_assert(c.model_experts == 12 && c.model_experts_per_token == 10 && c.model_expert_ffn == 512);
    ck_assert(c.model_shared_experts == 1 && c.model_shared_expert_gate);
    ck_assert_msg(parse(NEXT_EXPERTS(",\"shared_expert_intermediate_size\":1536,\"num_experts_per_tok\":1,"
                                     "\"norm_topk_prob\":false,\"mlp_only_layers\":[9]"), &c) == 0, "%s", sl_error());
    ck_assert(c.model_shared_experts == 3 && c.model_experts_per_token == 1);
}
END_TEST

/* transformers 4 wrote Infinity, which is no JSON, 5 an object. */
START_TEST(limits_of_mamba2_that_are_none) {
    sl_config c;
    static const char *const texts[] = {MAMBA2(""),
                                        MAMBA2(",\"time_step_limit\":[0.0, Infinity],\"x\":\"\\\"Infinity\""),
                                        MAMBA2(",\"time_step_limit\":[0,{\"__float__\":\"Infinity\"}]")};
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(parse(texts[i], &c) == 0, "%s", sl_error());
        ck_assert(c.mamba2_groups == 2 && c.mamba2_head_dim == 4 && c.mamba2_state == 128 && !sl_config_has_ffn(&c));
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("foreign");
    TCase *t = tcase_create("foreign");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_loop_test(t, hostile_indexes, 0, sizeof indexes / sizeof *indexes);
    tcase_add_test(t, doubled_tensors);
    tcase_add_test(t, several_files_are_one_source);
    tcase_add_test(t, parts_are_one_source);
    tcase_add_loop_test(t, hostile_parts, 0, sizeof splits / sizeof *splits);
    tcase_add_test(t, a_llama_is_read);
    tcase_add_loop_test(t, wrong_models, 0, sizeof wrong / sizeof *wrong);
    tcase_add_test(t, divisors_of_llama3);
    tcase_add_test(t, layers_of_qwen3_next);
    tcase_add_test(t, experts_of_qwen3_next);
    tcase_add_test(t, limits_of_mamba2_that_are_none);
    tcase_add_loop_test(t, refused_configs, 0, sizeof refused / sizeof *refused);
    tcase_add_test(t, what_gemma2_does_not_say);
    tcase_add_test(t, layers_of_smollm3_without_positions);
    tcase_add_test(t, part_of_a_head_that_phi_turns);
    tcase_add_test(t, what_gpt_oss_has);
    tcase_add_loop_test(t, wrong_blocks, 0, sizeof packed / sizeof *packed);
    suite_add_tcase(s, t);
    return run_suite(s);
}
