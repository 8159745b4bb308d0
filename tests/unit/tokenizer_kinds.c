/* Tokenizers of every kind: ids of the `tokenizers` library (kinds.json, from make_tokenizer_kinds.py) from a
 * tokenizer.json and from a GGUF with the same tokens; BOS; NFC; one message a mistake in a GGUF. */
#include "unhex.h"
#include "base/err.h"
#include "data/bpe.h"
#include "data/nfc.h"
#include "data/tokenizer.h"
#include "data/vocabulary.h"
#include "scratch.h"
#include "suite.h"

#include <jansson.h>

static json_t *kinds;

static void load(void) {
    json_error_t e;
    char path[1024];
    scratch_make();
    snprintf(path, sizeof path, "%s/unit/tokenizer/kinds.json", getenv("SL_TESTS"));
    kinds = json_load_file(path, 0, &e);
    ck_assert_msg(kinds != NULL, "%s: %s", path, e.text);
    ck_assert_uint_ge(json_array_size(kinds), 18);
}

static void unload(void) {
    json_decref(kinds);
    scratch_remove();
}

static const json_t *kind(const char *name) {
    json_t *k;
    size_t i;
    json_array_foreach(kinds, i, k) {
        if (strcmp(json_string_value(json_object_get(k, "name")), name) == 0)
            return k;
    }
    ck_abort_msg("no kind %s", name);
    return NULL;
}

static sl_bpe *parse(const json_t *tokenizer) {
    char *text = json_dumps(tokenizer, 0);
    sl_bpe *b = sl_bpe_parse(text, strlen(text), "t.json");
    free(text);
    return b;
}

static void expect(sl_bpe_encoder *e, const char *name, size_t i, const char *text, size_t n, const json_t *want) {
    sl_ids ids = {0};
    ck_assert_int_eq(sl_bpe_encode(e, text, n, &ids), 0);
    ck_assert_msg(ids.count == (int64_t)json_array_size(want), "%s %zu: %lld ids, want %zu", name, i,
                  (long long)ids.count, json_array_size(want));
    for (int64_t k = 0; k < ids.count; k++)
        ck_assert_msg(ids.id[k] == json_integer_value(json_array_get(want, (size_t)k)), "%s %zu: id %lld is %d", name,
                      i, (long long)k, ids.id[k]);
    sl_ids_free(&ids);
}

/* All texts of the kind, twice: words come from the cache the second time. */
static void compare(const sl_bpe *b, const json_t *k, bool literal) {
    char text[1 << 12];
    const json_t *cases = json_object_get(k, "cases"), *c;
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, 0, literal);
    ck_assert_ptr_nonnull(e);
    ck_assert_uint_gt(json_array_size(cases), 50);
    for (size_t i = 0; i < 2 * json_array_size(cases); i++) {
        c = json_array_get(cases, i / 2);
        size_t n = unhex(json_string_value(json_array_get(c, 0)), text);
        expect(e, json_string_value(json_object_get(k, "name")), i / 2, text, n,
               json_array_get(c, literal && json_array_size(c) > 2 ? 2 : 1));
    }
    sl_bpe_encoder_free(e);
}

START_TEST(ids_are_the_librarys) {
    json_t *k;
    size_t i;
    uint64_t before = 0;
    json_array_foreach(kinds, i, k) {
        sl_bpe *b = parse(json_object_get(k, "tokenizer")), *again = parse(json_object_get(k, "tokenizer"));
        ck_assert_msg(b && again, "%s", sl_error());
        compare(b, k, false);
        compare(b, k, true);
        ck_assert_uint_eq(sl_bpe_hash(b), sl_bpe_hash(again));
        ck_assert_uint_ne(sl_bpe_hash(b), before);
        before = sl_bpe_hash(b);
        sl_bpe_free(b);
        sl_bpe_free(again);
    }
}
END_TEST

START_TEST(pieces_are_text) {
    static const struct {
        const char *token, *piece;
    } want[] = {{"\u2581the", " the"}, {"<0x0A>", "\n"}, {"\u2581\u2581", "  "}, {"<s>", "<s>"}};
    sl_bpe *b = parse(json_object_get(kind("llama2"), "tokenizer"));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int32_t id = sl_bpe_id(b, want[i].token, strlen(want[i].token));
        size_t n;
        const char *p = sl_bpe_piece(b, id, &n);
        ck_assert_msg(p && n == strlen(want[i].piece) && !memcmp(p, want[i].piece, n), "%s", want[i].token);
    }
    ck_assert_int_eq(sl_bpe_id(b, "nowhere", 7), -1);
    sl_bpe_free(b);
}
END_TEST

/* Invalid bytes become byte tokens, one each. */
START_TEST(bytes_that_are_no_characters) {
    static const char text[] = "a\xff\xe4\xb8z\xf0\x9f";
    static const char *const want[] = {"a", "<0xFF>", "<0xE4>", "<0xB8>", "z", "<0xF0>", "<0x9F>"};
    sl_bpe *b = parse(json_object_get(kind("gemma"), "tokenizer"));
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, 0, false);
    sl_ids ids = {0};
    ck_assert_int_eq(sl_bpe_encode(e, text, sizeof text - 1, &ids), 0);
    ck_assert_int_eq(ids.count, sizeof want / sizeof *want);
    for (int64_t i = 0; i < ids.count; i++) {
        int32_t id = sl_bpe_id(b, want[i], strlen(want[i]));
        if (id < 0) /* "z" isn't in the small vocabulary */
            id = sl_bpe_id(b, "<0x7A>", 6);
        ck_assert_int_eq(ids.id[i], id);
    }
    sl_ids_free(&ids);
    sl_bpe_encoder_free(e);
    sl_bpe_free(b);
}
END_TEST

/* ---- GGUF --------------------------------------------------------------------------------------- */

static FILE *out;

static void put(const void *p, size_t n) { ck_assert_uint_eq(fwrite(p, 1, n, out), n); }
static void put_u32(uint32_t x) { put(&x, sizeof x); }
static void put_u64(uint64_t x) { put(&x, sizeof x); }

static void put_text(const char *s) {
    put_u64(strlen(s));
    put(s, strlen(s));
}

static void put_key(const char *key, enum sl_gguf_type type) {
    put_text(key);
    put_u32(type);
}

static void put_array(const char *key, enum sl_gguf_type type, uint64_t n) {
    put_key(key, SL_GGUF_ARRAY);
    put_u32(type);
    put_u64(n);
}

/* What a file may say otherwise than the kind does: NULL and -1 say nothing, "-" leaves a key out. */
typedef struct {
    const char *model, *pre;
    int64_t bos, type;
    bool no_types, short_types, nan_score, one_part, adds_eos;
} change;

static const char *text_of_token(const json_t *tokenizer, int32_t id, bool *added, bool *special) {
    const char *name;
    json_t *x;
    size_t i;
    *added = *special = false;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, x) {
        if (json_integer_value(json_object_get(x, "id")) == id) {
            *added = true;
            *special = json_is_true(json_object_get(x, "special"));
            return json_string_value(json_object_get(x, "content"));
        }
    }
    json_object_foreach(json_object_get(json_object_get(tokenizer, "model"), "vocab"), name, x) {
        if (json_integer_value(x) == id)
            return name;
    }
    ck_abort_msg("no token %d", id);
    return NULL;
}

static void put_tokens(const json_t *tokenizer, int32_t vocab, const change *c) {
    bool added, special;
    put_array("tokenizer.ggml.tokens", SL_GGUF_STRING, (uint64_t)vocab);
    for (int32_t id = 0; id < vocab; id++)
        put_text(text_of_token(tokenizer, id, &added, &special));
    int32_t types = c->no_types ? 0 : vocab - c->short_types;
    put_array("tokenizer.ggml.token_type", SL_GGUF_I32, (uint64_t)types);
    for (int32_t id = 0; id < types; id++) {
        const char *s = text_of_token(tokenizer, id, &added, &special);
        bool byte = strlen(s) == 6 && !strncmp(s, "<0x", 3);
        put_u32(id == 0 && c->type >= 0 ? (uint32_t)c->type
                : special               ? SL_TOKEN_CONTROL
                : added                 ? SL_TOKEN_USER
                : byte                  ? SL_TOKEN_BYTE
                                        : SL_TOKEN_NORMAL);
    }
}

static void put_merges(const json_t *tokenizer, bool one_part) {
    const json_t *merges = json_object_get(json_object_get(tokenizer, "model"), "merges"), *m;
    char text[256];
    put_array("tokenizer.ggml.merges", SL_GGUF_STRING, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        m = json_array_get(merges, i);
        snprintf(text, sizeof text, "%s%s%s", json_string_value(json_array_get(m, 0)), one_part ? "" : " ",
                 json_string_value(json_array_get(m, 1)));
        put_text(text);
    }
}

static void put_scores(int32_t vocab, bool nan) {
    put_array("tokenizer.ggml.scores", SL_GGUF_F32, (uint64_t)vocab);
    for (int32_t id = 0; id < vocab; id++) {
        float score = nan ? strtof("nan", NULL) : (float)-id;
        put(&score, sizeof score);
    }
}

/* The kind's tokens, merges or scores as a GGUF; a change takes keys away or spoils them. */
static sl_bpe *of_gguf(const json_t *k, const change *c) {
    const json_t *tokenizer = json_object_get(k, "tokenizer"), *g = json_object_get(k, "gguf");
    const char *pre = c->pre ? c->pre : json_string_value(json_object_get(g, "pre")),
               *model = c->model ? c->model : pre ? "gpt2" : "llama";
    sl_bpe *from = parse(tokenizer);
    int32_t vocab = sl_bpe_vocab(from);
    int64_t bos = c->bos != -1 ? c->bos : sl_bpe_bos(from);
    sl_bpe_free(from);
    char *bytes = NULL;
    size_t n = 0;
    out = open_memstream(&bytes, &n);
    ck_assert_ptr_nonnull(out);
    put("GGUF", 4);
    put_u32(3);
    put_u64(0);
    put_u64(7 + (uint64_t)c->adds_eos);
    put_key("tokenizer.ggml.model", SL_GGUF_STRING);
    put_text(model);
    put_key(pre && *pre != '-' ? "tokenizer.ggml.pre" : "another.key", SL_GGUF_STRING);
    put_text(pre ? pre : "");
    put_tokens(tokenizer, vocab, c);
    put_key("tokenizer.ggml.add_space_prefix", SL_GGUF_BOOL);
    put(&(char){json_is_true(json_object_get(g, "front"))}, 1);
    put_key("tokenizer.ggml.bos_token_id", SL_GGUF_I32);
    put_u32((uint32_t)bos);
    if (c->adds_eos) {
        put_key("tokenizer.ggml.add_eos_token", SL_GGUF_BOOL);
        put(&(char){1}, 1);
    }
    if (pre)
        put_merges(tokenizer, c->one_part);
    else
        put_scores(vocab, c->nan_score);
    ck_assert_int_eq(fclose(out), 0);
    sl_gguf *f = sl_gguf_open_memory(bytes, n, "t.gguf");
    ck_assert_msg(f != NULL, "%s", sl_error());
    sl_bpe *b = sl_bpe_of_gguf(f);
    sl_gguf_close(f);
    free(bytes);
    return b;
}

static const change none = {.bos = -1, .type = -1};

START_TEST(a_gguf_gives_the_same_ids) {
    json_t *k;
    size_t i;
    int compared = 0;
    json_array_foreach(kinds, i, k) {
        if (!json_is_object(json_object_get(k, "gguf")))
            continue;
        sl_bpe *b = of_gguf(k, &none), *json = parse(json_object_get(k, "tokenizer"));
        ck_assert_msg(b != NULL, "%s", sl_error());
        compare(b, k, false);
        compare(b, k, true);
        ck_assert_int_eq(sl_bpe_bos(b), sl_bpe_bos(json));
        sl_bpe_free(b);
        sl_bpe_free(json);
        compared++;
    }
    ck_assert_int_eq(compared, 7);
}
END_TEST

static const struct {
    const char *kind;
    change change;
    const char *message;
} bad[] = {
    {"qwen2", {.pre = "deepseek-v9", .bos = -1, .type = -1}, "tokenizer.ggml.pre is \"deepseek-v9\""},
    {"qwen2", {.pre = "default", .bos = -1, .type = -1}, "smollm, starcoder"},
    {"qwen2", {.pre = "-", .bos = -1, .type = -1}, "tokenizer.ggml.pre is missing"},
    {"qwen2", {.model = "bert", .bos = -1, .type = -1}, "tokenizer.ggml.model is \"bert\""},
    {"qwen2", {.model = "llama", .bos = -1, .type = -1}, "tokenizer.ggml.scores"},
    {"qwen2", {.bos = 361, .type = -1}, "tokenizer.ggml.bos_token_id is 361"},
    {"qwen2", {.bos = -2, .type = -1}, "tokenizer.ggml.bos_token_id is -2"},
    {"qwen2", {.bos = -1, .type = 7}, "tokenizer.ggml.token_type[0] is 7"},
    {"qwen2", {.bos = -1, .type = 0}, "tokenizer.ggml.token_type[0] is 0"},
    {"qwen2", {.bos = -1, .type = -1, .no_types = true}, "tokenizer.ggml.token_type must have an element"},
    {"qwen2", {.bos = -1, .type = -1, .short_types = true}, "for each of the 343 tokens, it has 342"},
    {"qwen2", {.bos = -1, .type = -1, .one_part = true}, "tokenizer.ggml.merges[0] must be two tokens"},
    {"qwen2", {.bos = -1, .type = -1, .adds_eos = true}, "tokenizer.ggml.add_eos_token is set"},
    {"llama2", {.bos = -1, .type = -1, .nan_score = true}, "tokenizer.ggml.scores"},
    {"llama2", {.model = "gpt2", .bos = -1, .type = -1}, "tokenizer.ggml.pre is missing"},
};

START_TEST(bad_ggufs_are_refused) {
    ck_assert_ptr_null(of_gguf(kind(bad[_i].kind), &bad[_i].change));
    ck_error("t.gguf: ");
    ck_error(bad[_i].message);
}
END_TEST

/* ---- BOS ---------------------------------------------------------------------------------------- */

static sl_tokenizer *open_kind(const char *name) {
    char spec[1100];
    snprintf(spec, sizeof spec, "bpe:%s", in_scratch("kind.json"));
    ck_assert_int_eq(json_dump_file(json_object_get(kind(name), "tokenizer"), spec + 4, 0), 0);
    sl_tokenizer *t = sl_tokenizer_open(spec);
    ck_assert_msg(t != NULL, "%s", sl_error());
    return t;
}

START_TEST(bos_is_the_tokenizers_own) {
    static const struct {
        const char *kind;
        int32_t bos;
        bool adds;
    } want[] = {{"llama2", 1, true}, {"gemma", 1, false}, {"llama3", 343, true}, {"few bytes", -1, false}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        sl_tokenizer *t = open_kind(want[i].kind);
        ck_assert_int_eq(sl_tokenizer_bos(t), want[i].bos);
        ck_assert_int_eq(sl_tokenizer_adds_bos(t), want[i].adds);
        sl_tokenizer_close(t);
    }
}
END_TEST

START_TEST(another_bos) {
    static const char text[] = "a\n<|endoftext|>\nb";
    sl_tokenizer *t = open_kind("few bytes");
    int32_t *id;
    int64_t count;
    uint64_t hash = sl_tokenizer_hash(t);
    ck_assert_int_eq(sl_tokenizer_encode(t, text, strlen(text), &id, &count), -1);
    ck_error("no BOS");
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "nowhere"), -1);
    ck_error("no token \"nowhere\"; give one of its tokens");
    char id_text[2][16];
    for (int i = 0; i < 2; i++)
        snprintf(id_text[i], sizeof id_text[i], "%d", sl_tokenizer_vocab(t) - i);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, id_text[0]), -1);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "-1"), -1);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, id_text[1]), 0);
    ck_assert_int_eq(sl_tokenizer_bos(t), sl_tokenizer_vocab(t) - 1);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "Z"), 0);
    ck_assert_uint_ne(sl_tokenizer_hash(t), hash);
    int32_t bos = sl_tokenizer_bos(t);
    ck_assert_int_eq(sl_tokenizer_encode(t, text, strlen(text), &id, &count), 0);
    ck_assert_int_eq(count, 4);
    ck_assert_int_eq(id[2], bos);
    free(id);
    sl_tokenizer_close(t);
    t = sl_tokenizer_open("bytes");
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "10"), 0);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "a"), -1);
    ck_assert_int_eq(sl_tokenizer_set_bos(t, "257"), -1);
    sl_tokenizer_close(t);
}
END_TEST

/* ---- NFC ---------------------------------------------------------------------------------------- */

/* Worked by hand from the Unicode Character Database. */
static const struct {
    const char *from, *to;
} normal[] = {
    {"", ""},
    {"plain", "plain"},
    {"e\u0301", "\u00e9"},
    {"a\u0315\u0300\u05ae\u0300b", "\u00e0\u05ae\u0300\u0315b"}, /* marks by class, the first above composes */
    {"\u0344", "\u0308\u0301"},                                  /* never composed again */
    {"\u0958", "\u0915\u093c"},
    {"\u212b", "\u00c5"},
    {"\u1100\u1161\u11a8", "\uac01"},
    {"\uac00\u11a8", "\uac01"},
    {"\uac00\u11a7", "\uac00\u11a7"},           /* U+11A7 is no tail */
    {"a\u030d\u0301", "a\u030d\u0301"},         /* a mark of the same class stands between */
    {"\u1100\u0334\u1161", "\u1100\u0334\u1161"}, /* any mark keeps starters apart */
    {"\u0308\u0301", "\u0308\u0301"},           /* there is nothing to compose with */
    {"e\xff\u0301", "e\xff\u0301"},             /* nor across a byte that is no character */
    {"\u1ac8\u0334", "\u1ac8\u0334"},           /* younger than the library's Unicode: stays */
    {"q\u0307\u0323 q\u0307\u0323", "q\u0323\u0307 q\u0323\u0307"},
};

START_TEST(nfc) {
    sl_nfc_room room = {0};
    const char *from = normal[_i].from, *to = normal[_i].to;
    ck_assert_int_eq(sl_nfc(&room, from, strlen(from)), 0);
    ck_assert_msg(room.n == strlen(to) && !memcmp(room.text ? room.text : "", to, room.n), "%s: %.*s", from,
                  (int)room.n, room.text);
    if (sl_nfc_is_done(from, strlen(from)))
        ck_assert_str_eq(from, to);
    sl_nfc_room_free(&room);
}
END_TEST

/* Sorting many marks takes no time that grows with their square. */
START_TEST(many_marks) {
    enum { MARKS = 1 << 19 };
    static char text[1 + 4 * MARKS];
    sl_nfc_room room = {0};
    *text = 'x';
    for (int i = 0; i < MARKS; i++) /* above and below by turns: all below come first */
        memcpy(text + 1 + 4 * i, "\u0301\u0323", 4);
    ck_assert_int_eq(sl_nfc(&room, text, sizeof text), 0);
    ck_assert_uint_eq(room.n, sizeof text);
    ck_assert_int_eq(memcmp(room.text, "x\u0323", 3), 0);
    ck_assert_int_eq(memcmp(room.text + room.n - 2, "\u0301", 2), 0);
    sl_nfc_room_free(&room);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tokenizer_kinds");
    TCase *t = tcase_create("tokenizer_kinds");
    tcase_add_unchecked_fixture(t, load, unload);
    tcase_add_test(t, ids_are_the_librarys);
    tcase_add_test(t, pieces_are_text);
    tcase_add_test(t, bytes_that_are_no_characters);
    tcase_add_test(t, a_gguf_gives_the_same_ids);
    tcase_add_loop_test(t, bad_ggufs_are_refused, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, bos_is_the_tokenizers_own);
    tcase_add_test(t, another_bos);
    tcase_add_loop_test(t, nfc, 0, sizeof normal / sizeof *normal);
    tcase_add_test(t, many_marks);
    suite_add_tcase(s, t);
    return run_suite(s);
}
