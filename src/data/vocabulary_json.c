/* Reading tokenizer.json. */
#include "base/text.h"
#include "data/bpe.h"
#include "data/vocabulary.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define bad sl_vocabulary_bad
enum { PATTERN_CHARS = 1024 };
static const char mark[] = "\u2581";

static sl_span span(const char *s) { return (sl_span){s, strlen(s)}; }

/* obj[key] is absent, null, false, 0 or "". */
static bool is_off(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return !v || json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
           (json_is_string(v) && !json_string_length(v));
}

static bool string_is(const json_t *obj, const char *key, const char *text) {
    const char *s = json_string_value(json_object_get(obj, key));
    return s && !strcmp(s, text);
}

static bool type_is(const json_t *obj, const char *type) { return string_is(obj, "type", type); }

static const char *type_name(const json_t *obj) {
    const char *s = json_string_value(json_object_get(obj, "type"));
    return s ? s : json_is_null(obj) || !obj ? "null" : "no type";
}

/* The steps of a normalizer, pre_tokenizer or post_processor: those of a Sequence, in its list `key`, or it alone. */
static size_t steps(const json_t *v, const char *key) {
    return !v || json_is_null(v) ? 0 : type_is(v, "Sequence") ? json_array_size(json_object_get(v, key)) : 1;
}

static const json_t *step(const json_t *v, const char *key, size_t i) {
    return type_is(v, "Sequence") ? json_array_get(json_object_get(v, key), i) : v;
}

/* ---- Normalizer --------------------------------------------------------------------------------- */

static bool replaces_spaces(const json_t *v) {
    return type_is(v, "Replace") && string_is(json_object_get(v, "pattern"), "String", " ") &&
           string_is(v, "content", mark);
}

static int read_normalizer(sl_vocabulary *v, const json_t *normalizer) {
    static const char key[] = "normalizers";
    size_t n = steps(normalizer, key);
    const json_t *first = step(normalizer, key, 0), *second = step(normalizer, key, 1);
    if (n == 0)
        v->normalizer = SL_NORMALIZE_NOT;
    else if (n == 1 && !v->chars && type_is(first, "NFC"))
        v->normalizer = SL_NORMALIZE_NFC;
    else if (n == 1 && v->chars && replaces_spaces(first))
        v->normalizer = SL_NORMALIZE_SPACES;
    else if (n == 2 && v->chars && type_is(first, "Prepend") && string_is(first, "prepend", mark) &&
             replaces_spaces(second))
        v->normalizer = SL_NORMALIZE_SPACES_FRONT;
    else if (v->chars)
        return bad(v, "normalizer is %.40s, with byte_fallback only null and Replace of \" \" by U+2581, also behind "
                      "Prepend of U+2581, are supported", type_name(first));
    else
        return bad(v, "normalizer is %.40s, only null and NFC are supported", type_name(n > 1 ? second : first));
    return 0;
}

/* ---- Pre-tokenizer ------------------------------------------------------------------------------ */

static int unknown_pattern(const sl_vocabulary *v, const char *pattern) {
    char quoted[SL_QUOTE_CHARS];
    return bad(v, "pre_tokenizer cuts with the pattern %s; only those of GPT-2, SmolLM, Qwen2 and Llama 3 are "
                  "supported (src/tables/pretokenizer.inc)", sl_quote(quoted, pattern));
}

/* Appends what a step before the last cuts with. */
static int add_pattern(const sl_vocabulary *v, const json_t *s, char patterns[PATTERN_CHARS]) {
    const char *p = json_string_value(json_object_get(json_object_get(s, "pattern"), "Regex"));
    size_t used = strlen(patterns);
    if (type_is(s, "Digits") && json_is_true(json_object_get(s, "individual_digits")))
        p = "\\p{N}";
    else if (!type_is(s, "Split") || !p || !string_is(s, "behavior", "Isolated") || !is_off(s, "invert"))
        return bad(v, "pre_tokenizer has the step %.40s; before ByteLevel only Digits with individual_digits and Split "
                      "by a Regex, Isolated, are supported", type_name(s));
    if (used + strlen(p) + 2 > PATTERN_CHARS)
        return unknown_pattern(v, p);
    snprintf(patterns + used, PATTERN_CHARS - used, "%s%s", used ? "\n" : "", p);
    return 0;
}

static int read_byte_level(sl_vocabulary *v, const json_t *pre) {
    static const char key[] = "pretokenizers";
    char patterns[PATTERN_CHARS] = "";
    size_t n = steps(pre, key);
    const json_t *last = step(pre, key, n - 1);
    if (n == 0 || !type_is(last, "ByteLevel"))
        return bad(v, "pre_tokenizer is %.40s, only ByteLevel, also as the last of a Sequence, is supported without "
                      "model.byte_fallback; train with data/train_bpe.py", type_name(n ? last : pre));
    for (size_t i = 0; i + 1 < n; i++)
        if (add_pattern(v, step(pre, key, i), patterns))
            return -1;
    const char *gpt2 = sl_pretokenizer_named("gpt2")->patterns;
    size_t used = strlen(patterns);
    if (!json_is_false(json_object_get(last, "use_regex")))
        snprintf(patterns + used, sizeof patterns - used, "%s%s", used ? "\n" : "", gpt2);
    v->words = *patterns ? sl_pretokenizer_of_patterns(patterns) : NULL;
    if (*patterns && !v->words)
        return unknown_pattern(v, patterns);
    v->front = json_is_true(json_object_get(last, "add_prefix_space")) ? SL_FRONT_EACH : SL_FRONT_NEVER;
    return v->front && n > 1 ? bad(v, "pre_tokenizer: add_prefix_space is set behind another step, which isn't "
                                      "supported") : 0;
}

static int read_metaspace(sl_vocabulary *v, const json_t *pre) {
    const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
    bool never = scheme && !strcmp(scheme, "never"), first = scheme && !strcmp(scheme, "first");
    if (v->normalizer != SL_NORMALIZE_NOT || !string_is(pre, "replacement", mark) ||
        (scheme && !never && !first && strcmp(scheme, "always")) ||
        (!scheme && json_is_false(json_object_get(pre, "add_prefix_space"))))
        return bad(v, "pre_tokenizer Metaspace is only supported without a normalizer, with replacement U+2581 and "
                      "prepend_scheme always, first or never");
    v->metaspace = true;
    v->front = never ? SL_FRONT_NEVER : first ? SL_FRONT_FIRST : SL_FRONT_EACH;
    v->split_spaces = !json_is_false(json_object_get(pre, "split"));
    return 0;
}

static int read_pre_tokenizer(sl_vocabulary *v, const json_t *pre) {
    if (!v->chars)
        return read_byte_level(v, pre);
    /* Gemma's: there are no spaces to split at any more. */
    bool nothing = type_is(pre, "Split") && string_is(json_object_get(pre, "pattern"), "String", " ") &&
                   v->normalizer != SL_NORMALIZE_NOT;
    if (!pre || json_is_null(pre) || nothing)
        return 0;
    return type_is(pre, "Metaspace")
               ? read_metaspace(v, pre)
               : bad(v, "pre_tokenizer is %.40s, with byte_fallback only null and Metaspace are supported",
                     type_name(pre));
}

static int read_kind(sl_vocabulary *v, const json_t *root) {
    const json_t *model = json_object_get(root, "model");
    /* Files of old versions leave the type of a BPE model out. */
    if (!json_is_object(model) || (json_object_get(model, "type") && !type_is(model, "BPE")))
        return bad(v, "model is %.40s, only BPE is supported", type_name(model));
    v->chars = !is_off(model, "byte_fallback");
    v->whole_words = !is_off(model, "ignore_merges");
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (!is_off(model, off[i]))
            return bad(v, "model.%s is set, which isn't supported", off[i]);
    if (v->chars && v->whole_words)
        return bad(v, "model.ignore_merges is set with byte_fallback, which isn't supported");
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return bad(v, "model.vocab must be an object and model.merges an array");
    return read_normalizer(v, json_object_get(root, "normalizer")) ||
                   read_pre_tokenizer(v, json_object_get(root, "pre_tokenizer"))
               ? -1
               : 0;
}

/* ---- Tokens ------------------------------------------------------------------------------------- */

static int check_id(const sl_vocabulary *v, const json_t *x, const char *field, const char *token, int64_t *vocab) {
    if (!json_is_integer(x) || json_integer_value(x) < 0 || json_integer_value(x) >= SL_VOCABULARY_MAX)
        return bad(v, "%s: id of \"%.60s\" must be an integer in 0..%d", field, token, SL_VOCABULARY_MAX - 1);
    *vocab = json_integer_value(x) >= *vocab ? json_integer_value(x) + 1 : *vocab;
    return 0;
}

static int read_unknown(sl_vocabulary *v, const json_t *model) {
    const json_t *name = json_object_get(model, "unk_token");
    const json_t *id = json_object_get(json_object_get(model, "vocab"), json_string_value(name));
    if (is_off(model, "unk_token"))
        return 0;
    if (!json_is_integer(id))
        return bad(v, "model.unk_token is not in model.vocab");
    v->unknown = (int32_t)json_integer_value(id);
    v->fuse_unknown = !is_off(model, "fuse_unk");
    return 0;
}

/* Largest id + 1, and the fields of each added token checked. */
static int measure(const sl_vocabulary *v, json_t *tokens, const json_t *added, int64_t *vocab) {
    const char *token;
    json_t *x;
    size_t i;
    json_object_foreach(tokens, token, x) {
        if (check_id(v, x, v->tokens_field, token, vocab))
            return -1;
    }
    json_array_foreach(added, i, x) {
        token = json_string_value(json_object_get(x, "content"));
        if (!token || !*token)
            return bad(v, "added_tokens[%zu].content must be a text that isn't empty", i);
        if (check_id(v, json_object_get(x, "id"), "added_tokens", token, vocab))
            return -1;
        if (!is_off(x, "single_word"))
            return bad(v, "added_tokens[%zu].single_word is set, which isn't supported", i);
    }
    return 0;
}

static int new_token(sl_vocabulary *v, int32_t id, const char *s, enum sl_token_type type) {
    if (v->token[id].type != SL_TOKEN_NONE)
        return bad(v, "id %d stands for two tokens, one of them \"%.60s\"", id, s);
    v->token[id] = (sl_vocabulary_token){.text = span(s), .type = (uint8_t)type};
    return 0;
}

static int read_tokens(sl_vocabulary *v, json_t *tokens) {
    const char *token;
    json_t *x;
    json_object_foreach(tokens, token, x) {
        bool byte = v->chars && !strncmp(token, "<0x", 3) && strlen(token) == 6;
        if (new_token(v, (int32_t)json_integer_value(x), token, byte ? SL_TOKEN_BYTE : SL_TOKEN_NORMAL))
            return -1;
    }
    return 0;
}

static int read_added(sl_vocabulary *v, const json_t *tokens, const json_t *added) {
    json_t *x;
    size_t i, n = json_array_size(added);
    if (n && !(v->added = calloc(n, sizeof *v->added)))
        return bad(v, "out of memory");
    json_array_foreach(added, i, x) {
        const char *content = json_string_value(json_object_get(x, "content"));
        int32_t id = (int32_t)json_integer_value(json_object_get(x, "id"));
        const json_t *known = json_object_get(tokens, content);
        if (known && json_integer_value(known) != id)
            return bad(v, "added_tokens[%zu]: \"%.60s\" has another id in %s", i, content, v->tokens_field);
        if (!known && new_token(v, id, content, SL_TOKEN_USER))
            return -1;
        v->added[v->addeds++] = (sl_vocabulary_added){
            .id = id,
            .special = json_is_true(json_object_get(x, "special")),
            .lstrip = !is_off(x, "lstrip"),
            .rstrip = !is_off(x, "rstrip"),
            .normalized = json_is_true(json_object_get(x, "normalized")),
        };
    }
    return 0;
}

/* ---- Merges ------------------------------------------------------------------------------------- */

/* From "a b" or ["a", "b"]. */
static int read_merge(sl_vocabulary *v, const json_t *m, size_t i) {
    const char *a = NULL, *z = NULL;
    size_t n = 0;
    if (json_is_string(m)) {
        a = json_string_value(m);
        z = strchr(a, ' ');
        n = z ? (size_t)(z - a) : 0;
        z = z ? z + 1 : NULL;
    } else if (json_array_size(m) == 2) {
        a = json_string_value(json_array_get(m, 0));
        z = json_string_value(json_array_get(m, 1));
        n = a ? strlen(a) : 0;
    }
    if (!a || !z || !n || !*z || (json_is_string(m) && strchr(z, ' ')))
        return bad(v, "%s[%zu] must be \"a b\" or [\"a\", \"b\"]", v->merges_field, i);
    v->merge[i] = (sl_vocabulary_merge){{a, n}, span(z)};
    return 0;
}

static int read_merges(sl_vocabulary *v, const json_t *merges) {
    json_t *m;
    size_t i;
    v->merges = json_array_size(merges);
    if (v->merges && !(v->merge = calloc(v->merges, sizeof *v->merge)))
        return bad(v, "out of memory");
    json_array_foreach(merges, i, m) {
        if (read_merge(v, m, i))
            return -1;
    }
    return 0;
}

/* ---- BOS ---------------------------------------------------------------------------------------- */

/* What TemplateProcessing puts around one text: a token in front, or nothing. */
static int read_template(sl_vocabulary *v, const json_t *post) {
    const json_t *single = json_object_get(post, "single");
    size_t n = json_array_size(single);
    const json_t *text = json_object_get(json_array_get(single, n - 1), "Sequence");
    const char *name = json_string_value(json_object_get(
        json_object_get(json_array_get(single, 0), "SpecialToken"), "id"));
    if (n < 1 || n > 2 || !text || (n == 2 && !name))
        return bad(v, "post_processor: only a TemplateProcessing that puts one token in front of a text, or none, is "
                      "supported");
    if (n == 1)
        return 0;
    const json_t *ids = json_object_get(json_object_get(json_object_get(post, "special_tokens"), name), "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= v->count || v->token[json_integer_value(id)].type == SL_TOKEN_NONE)
        return bad(v, "post_processor: special_tokens has no id of the vocabulary for \"%.60s\"", name);
    v->bos = (int32_t)json_integer_value(id);
    v->adds_bos = true;
    return 0;
}

static int read_bos(sl_vocabulary *v, const json_t *post) {
    static const char *const names[] = {"<|endoftext|>", "<s>"};
    static const char key[] = "processors";
    for (size_t k = 0; v->bos < 0 && k < sizeof names / sizeof *names; k++)
        for (size_t i = 0; i < v->addeds; i++) {
            sl_span s = v->token[v->added[i].id].text;
            if (s.n == strlen(names[k]) && !memcmp(s.p, names[k], s.n))
                v->bos = v->added[i].id;
        }
    for (size_t i = 0; i < steps(post, key); i++) {
        const json_t *s = step(post, key, i);
        if (type_is(s, "TemplateProcessing") ? read_template(v, s) != 0
                                             : !type_is(s, "ByteLevel") &&
                                                   bad(v, "post_processor is %.40s, only ByteLevel and "
                                                          "TemplateProcessing are supported", type_name(s)))
            return -1;
    }
    return 0;
}

/* ---- All ---------------------------------------------------------------------------------------- */

static int read_root(sl_vocabulary *v, const json_t *root) {
    if (!json_is_object(root))
        return bad(v, "not a tokenizer.json: the top is no object");
    if (read_kind(v, root))
        return -1;
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    json_t *tokens = json_object_get(model, "vocab");
    int64_t vocab = 0;
    return measure(v, tokens, added, &vocab) || sl_vocabulary_allocate(v, vocab) || read_tokens(v, tokens) ||
                   read_unknown(v, model) || read_added(v, tokens, added) ||
                   read_merges(v, json_object_get(model, "merges")) ||
                   read_bos(v, json_object_get(root, "post_processor"))
               ? -1
               : 0;
}

int sl_vocabulary_of_json(sl_vocabulary *v, const json_t *root, const char *name) {
    *v = (sl_vocabulary){.name = name,
                         .tokens_field = "model.vocab",
                         .merges_field = "model.merges",
                         .unknown = -1,
                         .bos = -1};
    return read_root(v, root);
}

sl_bpe *sl_bpe_parse(const char *json, size_t n, const char *name) {
    sl_vocabulary v = {.name = name};
    json_error_t error;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        bad(&v, "line %d: %.200s; is it a tokenizer.json?", error.line, error.text);
        return NULL;
    }
    sl_bpe *b = sl_vocabulary_of_json(&v, root, name) ? NULL : sl_bpe_build(&v);
    sl_vocabulary_free(&v);
    json_decref(root);
    return b;
}
