/* A GGUF file as llama.cpp opens it. */
#include "base/err.h"
#include "checkpoint/export.h"
#include "data/synthetic.h"
#include "data/vocabulary_gguf_write.h"
#include "families/foreign.h"
#include "families/kind.h"
#include "ops/mixer/mixer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { F32 = 0, ROW_BYTES = 4 }; /* its number in tables/ggml_type.inc; the widest value's bytes */

typedef struct {
    const char *name;
    uint32_t id;
    sl_floats_to_fn *put;
} number;

static const number numbers[] = {
    {"f32", F32, sl_floats_to_f32}, {"f16", 1, sl_floats_to_f16}, {"bf16", 30, sl_floats_to_bf16}, {NULL, 0, NULL}};

static const number *number_named(const char *name) {
    for (const number *n = numbers; n->name; n++)
        if (!strcmp(n->name, name))
            return n;
    return NULL;
}

bool sl_export_type(const char *type) { return number_named(type) != NULL; }

/* Vectors stay as they are: they are small, and llama.cpp wants them so. */
static const number *number_of(const sl_tensor *t, const number *matrices) {
    return t->ndim == 1 ? &numbers[0] : matrices;
}

/* ---------------------------------------------------------------- keys */

/* "<architecture>.<key>" */
static const char *full(char buf[128], const char *architecture, const char *key) {
    snprintf(buf, 128, "%s.%s", architecture, key);
    return buf;
}

static void add_model(sl_gguf_plan *g, const sl_export *e, const char *architecture) {
    const sl_config *c = e->config;
    char buf[128];
    const struct {
        const char *key;
        int64_t value;
    } whole[] = {{"context_length", c->model_seq},
                 {"embedding_length", c->model_dim},
                 {"block_count", c->model_layers},
                 {"feed_forward_length", c->model_ffn},
                 {"attention.head_count", c->model_heads},
                 {"attention.head_count_kv", sl_config_kv_heads(c)},
                 {"attention.key_length", sl_config_head_dim(c)},
                 {"attention.value_length", sl_config_head_dim(c)},
                 {"rope.dimension_count", sl_config_head_dim(c)},
                 {"vocab_size", e->vocab}};
    sl_gguf_add_text(g, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        sl_gguf_add_u32(g, full(buf, architecture, whole[i].key), (uint32_t)whole[i].value);
    sl_gguf_add_f32(g, full(buf, architecture, "attention.layer_norm_rms_epsilon"), (float)c->norm_eps);
    sl_gguf_add_f32(g, full(buf, architecture, "rope.freq_base"), (float)c->model_rope_base);
}

/* general.name is the file's, without ".gguf". */
static int add_name(sl_gguf_plan *g, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *end = strstr(name, ".gguf");
    char *text = end ? strndup(name, (size_t)(end - name)) : strdup(name);
    if (!text)
        return sl_fail("out of memory for a GGUF file");
    sl_gguf_add_text(g, "general.name", text);
    free(text);
    return 0;
}

/* ---------------------------------------------------------------- tensors */

static int add_tensors(sl_gguf_plan *g, const sl_params *p, const sl_places *places, const number *matrices) {
    sl_found_place found;
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        if (!sl_places_find(places, t->name, 0, &found))
            return sl_fail("tensor %s has no name in GGUF", t->name);
        sl_gguf_add_tensor(g, found.name, sl_ggml_type_of(number_of(t, matrices)->id), t->ndim, t->shape);
    }
    return 0;
}

/* Our row that is row r of the file. */
static int64_t row_of(const sl_place *how, int64_t head, int64_t r) {
    int64_t in_head = r % head;
    return how->how & SL_PLACE_PAIRS ? r - in_head + in_head / 2 + in_head % 2 * (head / 2) : r;
}

static int check_range(const sl_tensor *t, const float *w, const char *type) {
    if (strcmp(type, "f16") != 0)
        return 0;
    for (int64_t i = 0; i < t->size; i++)
        if (fabsf(w[i]) >= 65520)
            return sl_fail("tensor %s: %g is beyond f16; give --type bf16 or f32", t->name, (double)w[i]);
    return 0;
}

static int put_tensor(sl_writer *w, const sl_export *e, int i, const sl_place *how, const number *matrices) {
    const sl_tensor *t = &e->params->tensor[i];
    const number *of = number_of(t, matrices);
    const float *from = e->params->w + t->offset;
    int64_t rows = t->ndim == 1 ? 1 : t->shape[0], columns = t->size / rows;
    size_t bytes = (size_t)(columns * sl_ggml_type_of(of->id)->bytes);
    unsigned char *row = malloc((size_t)columns * ROW_BYTES);
    int rc = row ? 0 : sl_fail("out of memory for a row of %s", t->name);
    if (rc || check_range(t, from, of->name)) {
        free(row);
        return sl_writer_abandon(w);
    }
    for (int64_t r = 0; !rc && r < rows; r++) {
        of->put(from + row_of(how, sl_config_head_dim(e->config), r) * columns, columns, row);
        rc = sl_writer_put(w, row, bytes);
    }
    free(row);
    return rc || sl_gguf_put_padding(w) ? -1 : 0;
}

static int write_file(sl_gguf_plan *g, const sl_export *e, const sl_places *places, const number *matrices,
                      const char *path) {
    sl_found_place found;
    sl_writer w;
    if (sl_writer_open(&w, path) || sl_gguf_put_head(g, &w))
        return -1;
    for (int i = 0; i < e->params->count; i++) {
        sl_places_find(places, e->params->tensor[i].name, 0, &found);
        if (put_tensor(&w, e, i, &found.how, matrices))
            return -1;
    }
    return sl_writer_finish(&w, NULL);
}

/* ---------------------------------------------------------------- all */

static int add_tokenizer(sl_gguf_plan *g, const sl_export *e) {
    const sl_config *c = e->config;
    sl_gguf_tokenizer t = {.rows = e->vocab, .bos = e->bos, .adds_bos = e->bos >= 0};
    if (sl_synthetic_named(c->data_corpus))
        return sl_fail_usage("data.corpus=%s has no tokenizer, which a GGUF must have; export with --format hf",
                             c->data_corpus);
    return sl_gguf_add_tokenizer(g, c->data_tokenizer, &t);
}

int sl_export_gguf(const sl_export *e, const char *type, const char *path) {
    bool qwen3 = e->config->model_qk_norm;
    const sl_family *family = qwen3 ? &sl_family_qwen3 : &sl_family_llama;
    const sl_places places = {family->gguf_places, sl_gguf_places, false};
    const number *matrices = number_named(type);
    sl_gguf_plan g;
    if (sl_mixer_first(e->config, false) >= 0)
        return sl_fail_usage("model.mixer stands in the way: of other mixers than softmax no GGUF is written; export "
                             "with --format hf");
    if (strcmp(sl_hf_activation[e->config->model_ffn_kind], "silu") != 0)
        return sl_fail_usage("model.ffn_kind stands in the way: a GGUF can't say another than swiglu; export with "
                             "--format hf");
    int rc = sl_gguf_plan_open(&g);
    if (rc == 0) {
        add_model(&g, e, qwen3 ? "qwen3" : "llama");
        rc = add_name(&g, path) || add_tokenizer(&g, e) || add_tensors(&g, e->params, &places, matrices) ||
                     write_file(&g, e, &places, matrices, path)
                 ? -1
                 : 0;
    }
    sl_gguf_plan_close(&g);
    return rc;
}
