#include "families/foreign.h"

#include "base/err.h"
#include "base/text.h"
#include "families/foreign_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 256 };

static const sl_family_row rows[] = {
#define FAMILY(name, architecture, model_type, gguf) {#name, architecture, model_type, gguf, &sl_family_##name},
#include "tables/family.inc"
#undef FAMILY
};
enum { ROWS = sizeof rows / sizeof *rows };

/* ---------------------------------------------------------------- recognising */

static const char *list_names(char list[512], bool gguf) {
    size_t at = 0;
    *list = 0;
    for (int i = 0; i < ROWS; i++) {
        const char *name = gguf ? rows[i].gguf : rows[i].architecture;
        if (name)
            at += (size_t)snprintf(list + at, 512 - at, "%s%s", at ? ", " : "", name);
    }
    return list;
}

static const sl_family_row *find_row_of_gguf(const sl_gguf *f) {
    char list[512], quoted[SL_QUOTE_CHARS], text[SL_QUOTE_CHARS];
    sl_gguf_string s = {NULL, 0};
    if (sl_gguf_text(f, "general.architecture", &s))
        return NULL;
    for (int i = 0; s.p && i < ROWS; i++)
        if (rows[i].gguf && sl_gguf_is(s, rows[i].gguf))
            return &rows[i];
    snprintf(text, sizeof text, "%.*s", (int)(s.n < 64 ? s.n : 64), s.p ? s.p : "");
    sl_fail("%s: general.architecture: %s is not supported; %s are", sl_gguf_name(f),
            s.p ? sl_quote(quoted, text) : "none given, which", list_names(list, true));
    return NULL;
}

static const sl_family_row *find_row_of_hf(const sl_hf *s) {
    char list[512], quoted[SL_QUOTE_CHARS];
    const char *arch = json_string_value(json_array_get(json_object_get(s->v, "architectures"), 0));
    const char *type = json_string_value(json_object_get(s->v, "model_type"));
    const sl_family_row *r = NULL;
    for (int i = 0; arch && i < ROWS; i++)
        r = strcmp(arch, rows[i].architecture) ? r : &rows[i];
    if (!r)
        sl_fail("%s: architectures: %s is not supported; %s are", s->name,
                arch ? sl_quote(quoted, arch) : "none given, which", list_names(list, false));
    if (!r || !type || !strcmp(type, r->model_type))
        return r;
    sl_fail("%s: model_type: %s, but %s is a %s", s->name, sl_quote(quoted, type), arch, r->model_type);
    return NULL;
}

/* ---------------------------------------------------------------- configuration */

/* Python writes an infinite number as Infinity, which is no JSON: in its place, the largest of as many characters. */
static void replace_infinities(char *text, size_t n) {
    static const char infinity[] = "Infinity", largest[] = "1.79e308";
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"')
            quoted = !quoted;
        else if (text[i] == '\\' && quoted)
            i++;
        else if (!quoted && n - i >= strlen(infinity) && !memcmp(text + i, infinity, strlen(infinity)))
            memcpy(text + i, largest, strlen(largest));
    }
}

static json_t *parse_json(const void *text, size_t n, const char *name) {
    json_error_t e = {.line = 0};
    char *copy = malloc(n + 1);
    json_t *v = NULL;
    if (!copy) {
        sl_fail("%s: out of memory", name);
        return NULL;
    }
    memcpy(copy, text, n);
    replace_infinities(copy, n);
    v = json_loadb(copy, n, JSON_REJECT_DUPLICATES, &e);
    free(copy);
    if (json_is_object(v))
        return v;
    json_decref(v);
    sl_fail("%s:%d: not a JSON object with unique keys", name, e.line);
    return NULL;
}

/* Files of some families are quantised in one way that is read. */
static int check_quantisation(const sl_hf *s, const sl_family *kind) {
    static const char *const off[] = {"quantization_config", NULL};
    const char *method = json_string_value(json_object_get(sl_hf_get(s, off[0]), "quant_method"));
    return method && kind->quant_method && !strcmp(method, kind->quant_method) ? 0 : sl_hf_off(s, off);
}

static int hf_config(const sl_hf *s, const sl_family_row *r, sl_config *c, int64_t *vocab) {
    if (check_quantisation(s, r->kind) || r->kind->from_hf(s, c) || sl_hf_whole(s, "vocab_size", 0, vocab))
        return -1;
    *vocab = *vocab ? *vocab : -1; /* no table has 0 rows */
    return 0;
}

/* What our own parser checks as it reads. */
static int check(sl_config *c, const char *name) {
    if (sl_config_check_ranges(c, name))
        return -1;
    c->model_seq = c->model_seq < WINDOW ? c->model_seq : WINDOW;
    return sl_config_check(c) ? sl_fail_prefix("%s", name) : 0;
}

static int parse(const void *text, size_t n, const char *name, sl_config *c, int64_t *vocab) {
    json_t *v = parse_json(text, n, name);
    sl_hf s = {v, name};
    const sl_family_row *r = v ? find_row_of_hf(&s) : NULL;
    sl_config_defaults(c);
    int rc = r ? hf_config(&s, r, c, vocab) : -1;
    json_decref(v);
    return rc;
}

int sl_foreign_parse(const void *text, size_t n, const char *name, sl_config *c, int64_t *vocab) {
    return parse(text, n, name, c, vocab) || check(c, name) ? -1 : 0;
}

/* As the file has it, unchecked. */
static int read_config(const sl_foreign *f, sl_config *c, int64_t *said) {
    const sl_gguf *g = sl_tensors_gguf(f->tensors);
    if (!g)
        return parse(f->json.p, f->json.n, f->json_name, c, said);
    sl_gguf_keys k = {g, f->row->gguf};
    sl_config_defaults(c);
    return f->row->kind->from_gguf(&k, c);
}

static const char *name_of_config(const sl_foreign *f) {
    const sl_gguf *g = sl_tensors_gguf(f->tensors);
    return g ? sl_gguf_name(g) : f->json_name;
}

int sl_foreign_context(const sl_foreign *f, int64_t *context) {
    sl_config c;
    int64_t said = -1;
    if (read_config(f, &c, &said) || sl_config_check_ranges(&c, name_of_config(f)))
        return -1;
    *context = c.model_seq;
    return 0;
}

/* Rows and columns of the embedding, before a model is made for as many as the file claims. */
static int read_vocab(const sl_foreign *f, const sl_config *c, int64_t said, int32_t *vocab) {
    sl_places places = sl_foreign_places(f);
    sl_found_place found;
    sl_places_find(&places, "model.embed_tokens.weight", 0, &found);
    const char *name = found.name;
    int i = sl_foreign_find(f, name);
    const sl_tensor_view *v = i < 0 ? NULL : sl_tensors_at(f->tensors, i);
    if (!v || v->ndim != 2 || v->shape[0] < 1 || v->shape[0] > INT32_MAX)
        return sl_fail("%s: no embedding matrix %s in it: not a language model of a known kind",
                       sl_tensors_name(f->tensors), name);
    if (v->shape[1] != c->model_dim || (said >= 0 && said != v->shape[0]))
        return sl_fail("%s: tensor %s has shape [%" PRId64 ", %" PRId64 "] where the configuration has %" PRId64
                       " channels%s",
                       v->file, name, v->shape[0], v->shape[1], c->model_dim,
                       v->shape[1] != c->model_dim ? "" : " and another vocab_size");
    *vocab = (int32_t)v->shape[0];
    return 0;
}

/* That of the GGUF file, or of the folder where it has one; else it is the caller's to say. */
static int set_tokenizer(const sl_foreign *f, sl_config *c) {
    static const char json[] = "tokenizer.json";
    const sl_gguf *g = sl_tensors_gguf(f->tensors);
    char path[SL_FOREIGN_PATH + sizeof json];
    const char *name = g ? sl_gguf_name(g) : f->json_name;
    int folder = g ? 0 : (int)(strrchr(name, '/') - name + 1);
    snprintf(path, sizeof path, "%.*s%s", folder, name, g ? name : json);
    if (g ? !sl_gguf_has(g, "tokenizer.ggml.model") : access(path, F_OK) != 0)
        return 0;
    int n = snprintf(c->data_tokenizer, sizeof c->data_tokenizer, "%s:%s", g ? "gguf" : "bpe", path);
    return n < SL_CONFIG_STR ? 0 : sl_fail("path too long: %.200s...", path);
}

int sl_foreign_config(const sl_foreign *f, sl_config *c, int32_t *vocab) {
    int64_t said = -1;
    if (read_config(f, c, &said) || check(c, name_of_config(f)) || set_tokenizer(f, c))
        return -1;
    return read_vocab(f, c, said, vocab);
}

/* ---------------------------------------------------------------- opening */

static int recognise(sl_foreign *f, const char *path) {
    const sl_gguf *g = sl_tensors_gguf(f->tensors);
    if (g) {
        f->row = find_row_of_gguf(g);
        return f->row ? 0 : -1;
    }
    int n = snprintf(f->json_name, sizeof f->json_name, "%s/config.json", path);
    if (n < 0 || n >= SL_FOREIGN_PATH)
        return sl_fail("path too long: %.200s...", path);
    if (sl_map_open(&f->json, f->json_name))
        return -1;
    json_t *v = parse_json(f->json.p, f->json.n, f->json_name);
    sl_hf s = {v, f->json_name};
    f->row = v ? find_row_of_hf(&s) : NULL;
    json_decref(v);
    return f->row ? 0 : -1;
}

sl_foreign *sl_foreign_open(const char *path) {
    sl_foreign *f = calloc(1, sizeof *f);
    if (!f)
        sl_fail("%s: out of memory", path);
    if (f && (f->tensors = sl_tensors_open(path)) && recognise(f, path) == 0)
        return f;
    sl_foreign_close(f);
    return NULL;
}

void sl_foreign_close(sl_foreign *f) {
    if (!f)
        return;
    sl_tensors_close(f->tensors);
    sl_map_close(&f->json);
    free(f);
}

const sl_place *sl_foreign_hf_places(const char *architecture) {
    for (int i = 0; i < ROWS; i++)
        if (!strcmp(rows[i].architecture, architecture))
            return rows[i].kind->hf_places;
    return NULL;
}
