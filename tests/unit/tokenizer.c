/* Tokenizers: ids of the `tokenizers` library (golden.json, from make_tokenizer_golden.py), words, documents, and
 * one message a mistake in a tokenizer.json. */
#include "unhex.h"
#include "data/tokenizer.h"
#include "base/err.h"
#include "base/rng.h"
#include "data/bpe.h"
#include "data/pretokenizer.h"
#include "scratch.h"
#include "suite.h"

#include <jansson.h>

static char model_path[1024];
static json_t *golden;

static void load(void) {
    json_error_t e;
    char path[1024];
    scratch_make();
    snprintf(model_path, sizeof model_path, "%s/unit/tokenizer/bpe500.json", getenv("SL_TESTS"));
    snprintf(path, sizeof path, "%s/unit/tokenizer/golden.json", getenv("SL_TESTS"));
    golden = json_load_file(path, 0, &e);
    ck_assert_msg(golden != NULL, "%s: %s", path, e.text);
}

static void unload(void) {
    json_decref(golden);
    scratch_remove();
}

/* The committed model, to be changed and freed. */
static json_t *model(void) {
    json_t *m = json_load_file(model_path, 0, NULL);
    ck_assert_ptr_nonnull(m);
    return m;
}

static sl_bpe *parse_json(json_t *m) {
    char *text = json_dumps(m, 0);
    sl_bpe *b = sl_bpe_parse(text, strlen(text), "t.json");
    free(text);
    json_decref(m);
    return b;
}

static sl_ids encode(const sl_bpe *b, const char *text, size_t n) {
    sl_ids ids = {0};
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, n, false);
    ck_assert_ptr_nonnull(e);
    ck_assert_int_eq(sl_bpe_encode(e, text, n, &ids), 0);
    sl_bpe_encoder_free(e);
    return ids;
}

/* Every text of the variant gives the library's ids, and their pieces give the text back (with the blank that
 * prefix_space adds). */
static void compare(const sl_bpe *b, const char *variant, bool gives_text_back) {
    static char text[1 << 16], back[1 << 16];
    json_t *cases = json_object_get(golden, variant), *c;
    size_t i;
    ck_assert_uint_gt(json_array_size(cases), 50);
    json_array_foreach(cases, i, c) {
        const json_t *want = json_array_get(c, 1);
        size_t n = unhex(json_string_value(json_array_get(c, 0)), text), at = 0;
        sl_ids ids = encode(b, text, n);
        ck_assert_msg(ids.count == (int64_t)json_array_size(want), "%s %zu: %lld ids, want %zu", variant, i,
                      (long long)ids.count, json_array_size(want));
        for (int64_t k = 0; k < ids.count; k++) {
            size_t len;
            ck_assert_msg(ids.id[k] == json_integer_value(json_array_get(want, (size_t)k)), "%s %zu: id %lld",
                          variant, i, (long long)k);
            const char *p = sl_bpe_piece(b, ids.id[k], &len);
            ck_assert_ptr_nonnull(p);
            memcpy(back + at, p, len);
            at += len;
        }
        if (gives_text_back)
            ck_assert_msg(at == n && !memcmp(back, text, n), "%s %zu: text", variant, i);
        sl_ids_free(&ids);
    }
}

START_TEST(ids_are_the_librarys) {
    sl_bpe *b = parse_json(model());
    ck_assert_msg(b != NULL, "%s", sl_error());
    ck_assert_int_eq(sl_bpe_vocab(b), 757);
    ck_assert_int_eq(sl_bpe_bos(b), 0);
    compare(b, "base", true);
    sl_bpe_free(b);
}
END_TEST

START_TEST(without_the_word_pattern) {
    json_t *m = model();
    json_object_set_new(json_object_get(m, "pre_tokenizer"), "use_regex", json_false());
    sl_bpe *b = parse_json(m);
    compare(b, "no_regex", true);
    sl_bpe_free(b);
}
END_TEST

START_TEST(with_a_blank_in_front) {
    json_t *m = model();
    json_object_set_new(json_object_get(m, "pre_tokenizer"), "add_prefix_space", json_true());
    sl_bpe *b = parse_json(m);
    compare(b, "prefix_space", false);
    sl_bpe_free(b);
}
END_TEST

START_TEST(with_added_tokens) {
    json_t *m = model();
    json_object_set(m, "added_tokens", json_object_get(golden, "added_tokens"));
    sl_bpe *b = parse_json(m);
    ck_assert_msg(b != NULL, "%s", sl_error());
    compare(b, "added", true);
    sl_bpe_free(b);
}
END_TEST

START_TEST(merges_may_be_strings) {
    json_t *m = model(), *merges = json_object_get(json_object_get(m, "model"), "merges"), *pair;
    size_t i;
    json_array_foreach(merges, i, pair) {
        ck_assert_uint_eq(json_array_size(pair), 2);
        json_array_set_new(merges, i,
                           json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)),
                                        json_string_value(json_array_get(pair, 1))));
    }
    sl_bpe *b = parse_json(m);
    ck_assert_msg(b != NULL, "%s", sl_error());
    compare(b, "base", true);
    sl_bpe_free(b);
}
END_TEST

/* Merging by the definition: again and again the leftmost pair of lowest rank. */
static int64_t merge_slowly(const json_t *merges, const json_t *vocab, char (*piece)[64], int64_t n, int32_t *id) {
    for (;;) {
        size_t best = SIZE_MAX, rank;
        int64_t at = 0;
        json_t *m;
        json_array_foreach(merges, rank, m) {
            for (int64_t i = 0; i + 1 < n && best == SIZE_MAX; i++)
                if (!strcmp(piece[i], json_string_value(json_array_get(m, 0))) &&
                    !strcmp(piece[i + 1], json_string_value(json_array_get(m, 1))))
                    best = rank, at = i;
            if (best != SIZE_MAX)
                break;
        }
        if (best == SIZE_MAX)
            break;
        char right[64];
        memcpy(right, piece[at + 1], sizeof right);
        strcat(piece[at], right);
        memmove(piece + at + 1, piece + at + 2, (size_t)(n - at - 2) * sizeof *piece);
        n--;
    }
    for (int64_t i = 0; i < n; i++)
        id[i] = (int32_t)json_integer_value(json_object_get(vocab, piece[i]));
    return n;
}

START_TEST(merging_is_as_defined) {
    json_t *m = model(), *vocab = json_object_get(json_object_get(m, "model"), "vocab");
    const json_t *merges = json_object_get(json_object_get(m, "model"), "merges");
    sl_bpe *b = parse_json(json_incref(m));
    sl_rng r = sl_rng_make(7, SL_STREAM_TEST, 0);
    for (int trial = 0; trial < 60; trial++) {
        static char piece[64][64];
        char word[64];
        int32_t want[64];
        int64_t n = 1 + (int64_t)sl_rng_below(&r, 40);
        for (int64_t i = 0; i < n; i++) {
            word[i] = "etaonhisrd"[sl_rng_below(&r, 10)];
            snprintf(piece[i], sizeof piece[i], "%c", word[i]);
        }
        sl_ids ids = encode(b, word, (size_t)n);
        ck_assert_int_eq(ids.count, merge_slowly(merges, vocab, piece, n, want));
        ck_assert_mem_eq(ids.id, want, (size_t)ids.count * sizeof *want);
        sl_ids_free(&ids);
    }
    sl_bpe_free(b);
    json_decref(m);
}
END_TEST

/* A text and its words, apart by '|'. */
static const char *const words[] = {
    "a|\xff| b",
    "\xe4\xb8|a",
    "a|\xc0\x80|b",
    "\xed\xa0\x80| x",
    "a|\xf5\x80\x80\x80|b",
    "\xe4\xb8\xad|\xe4| a",
    "a|\xf0\x9f|b",
    " \xc2| a",
    " \xc2",
    "a|  | b",
    "a|\n|\n|b",
    "it|'s|'|S",
    "he|'ll|x|'ve|'re|'m|'d|'t|'|l",
    "x|\xe3\x80\x80|\xe3\x80\x80|y",
};

START_TEST(words_of_any_bytes) {
    const char *s = words[_i];
    char text[64];
    size_t n = 0, end[32], count = 0;
    for (const char *p = s; *p; p++) {
        if (*p == '|')
            end[count++] = n;
        else
            text[n++] = *p;
    }
    end[count++] = n;
    size_t at = 0;
    for (size_t k = 0; k < count; k++) {
        at = sl_pretokenizer_named("gpt2")->word_end(text, n, at);
        ck_assert_msg(at == end[k], "\"%s\" word %zu ends at %zu, not %zu", s, k, at, end[k]);
    }
}
END_TEST

START_TEST(any_bytes_come_back) {
    sl_bpe *b = parse_json(model());
    sl_rng r = sl_rng_make(3, SL_STREAM_TEST, 0);
    for (int trial = 0; trial < 200; trial++) {
        char text[300], back[300];
        size_t n = sl_rng_below(&r, sizeof text), at = 0;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)sl_rng_u32(&r);
        sl_ids ids = encode(b, text, n);
        for (int64_t k = 0; k < ids.count; k++) {
            size_t len;
            const char *p = sl_bpe_piece(b, ids.id[k], &len);
            memcpy(back + at, p, len);
            at += len;
        }
        ck_assert_uint_eq(at, n);
        ck_assert_mem_eq(back, text, n);
        sl_ids_free(&ids);
    }
    sl_bpe_free(b);
}
END_TEST

/* ---- Documents, and the other kinds ------------------------------------------------------------ */

static void check_bytes(const char *text, const int32_t *want, int64_t n) {
    sl_tokenizer *t = sl_tokenizer_open("bytes");
    int32_t *id;
    int64_t count;
    ck_assert_int_eq(sl_tokenizer_encode(t, text, strlen(text), &id, &count), 0);
    ck_assert_int_eq(count, n);
    ck_assert_mem_eq(id, want, (size_t)n * sizeof *id);
    free(id);
    sl_tokenizer_close(t);
}
#define CHECK_BYTES(text, ...)                                                                                         \
    check_bytes(text, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

START_TEST(boundary_lines) {
    CHECK_BYTES("a\n<|endoftext|>\nb", 'a', '\n', 256, 'b');
    CHECK_BYTES("<|endoftext|>\n<|endoftext|>\nb", 256, 256, 'b');
    CHECK_BYTES("a\n<|endoftext|>", 'a', '\n', 256);
    CHECK_BYTES("<|endoftext|>", 256);
    CHECK_BYTES("\n<|endoftext|>\n\n", '\n', 256, '\n');
    CHECK_BYTES("a<|endoftext|>\n", 'a', '<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>', '\n');
    CHECK_BYTES("<|endoftext|> \n", '<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>', ' ', '\n');
}
END_TEST

START_TEST(documents_of_bpe) {
    char spec[1100];
    snprintf(spec, sizeof spec, "bpe:%s", model_path);
    sl_tokenizer *t = sl_tokenizer_open(spec);
    ck_assert_msg(t != NULL, "%s", sl_error());
    int32_t *id, *a, *b;
    int64_t count, n_a, n_b;
    const char one[] = "the Lord\n", two[] = " and more", both[] = "the Lord\n<|endoftext|>\n and more";
    ck_assert_int_eq(sl_tokenizer_encode(t, one, strlen(one), &a, &n_a), 0);
    ck_assert_int_eq(sl_tokenizer_encode(t, two, strlen(two), &b, &n_b), 0);
    ck_assert_int_eq(sl_tokenizer_encode(t, both, strlen(both), &id, &count), 0);
    ck_assert_int_eq(count, n_a + 1 + n_b);
    ck_assert_mem_eq(id, a, (size_t)n_a * sizeof *id);
    ck_assert_int_eq(id[n_a], sl_tokenizer_bos(t));
    ck_assert_mem_eq(id + n_a + 1, b, (size_t)n_b * sizeof *id);
    free(id), free(a), free(b);
    size_t n;
    ck_assert_ptr_null(sl_tokenizer_piece(t, sl_tokenizer_bos(t), &n));
    ck_assert_ptr_null(sl_tokenizer_piece(t, sl_tokenizer_vocab(t), &n));
    ck_assert_ptr_null(sl_tokenizer_piece(t, -1, &n));
    sl_tokenizer_close(t);
}
END_TEST

START_TEST(kinds) {
    size_t n;
    int32_t *id;
    int64_t count;
    sl_tokenizer *t = sl_tokenizer_open("bytes");
    ck_assert_int_eq(sl_tokenizer_vocab(t), 257);
    ck_assert_int_eq(sl_tokenizer_bos(t), 256);
    ck_assert_int_eq(*sl_tokenizer_piece(t, 0, &n), 0);
    ck_assert_int_eq((unsigned char)*sl_tokenizer_piece(t, 255, &n), 255);
    ck_assert_ptr_null(sl_tokenizer_piece(t, 256, &n));
    uint64_t hash = sl_tokenizer_hash(t);
    sl_tokenizer_close(t);
    t = sl_tokenizer_open("ids:50257");
    ck_assert_int_eq(sl_tokenizer_vocab(t), 50257);
    ck_assert_int_eq(sl_tokenizer_bos(t), 50256);
    ck_assert(!sl_tokenizer_has_text(t));
    ck_assert_uint_ne(sl_tokenizer_hash(t), hash);
    ck_assert_int_eq(sl_tokenizer_encode(t, "a", 1, &id, &count), -1);
    ck_error("cannot encode");
    sl_tokenizer_close(t);
    t = sl_tokenizer_open("ids:66:65");
    ck_assert_int_eq(sl_tokenizer_bos(t), 65);
    sl_tokenizer_close(t);
}
END_TEST

static const char *const bad_specs[] = {"",
                                        "byte",
                                        "bpe:",
                                        "ids:",
                                        "ids:1",
                                        "ids:10:10",
                                        "ids:10:-1",
                                        "ids:x",
                                        "ids:10:",
                                        "ids:99999999999",
                                        "bytes ",
                                        "bpe:/nonexistent/t.json",
                                        "bpe:/dev/null",
                                        "bpe:/"};

START_TEST(bad_specs_are_refused) {
    ck_assert_ptr_null(sl_tokenizer_open(bad_specs[_i]));
    ck_error("");
    ck_assert_uint_gt(strlen(sl_error()), 10);
}
END_TEST

/* ---- Bad files --------------------------------------------------------------------------------- */

/* A part of bpe500.json, the JSON that replaces it ("-": nothing), and the message. */
static const struct {
    const char *where[3], *value, *message;
} bad[] = {
    {{"normalizer"}, "{\"type\": \"NFKC\"}", "normalizer is NFKC, only null and NFC"},
    {{"normalizer"}, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Lowercase\"}]}",
     "normalizer is Lowercase"},
    {{"pre_tokenizer"}, "{\"type\": \"Sequence\", \"pretokenizers\": []}", "pre_tokenizer is Sequence"},
    {{"pre_tokenizer"},
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": "
     "{\"Regex\": \"\\\\w+\"}}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}",
     "pre_tokenizer cuts with the pattern"},
    {{"pre_tokenizer"},
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": "
     "{\"Regex\": \"\\\\p{N}\"}}, {\"type\": \"ByteLevel\"}]}",
     "pre_tokenizer has the step Split"},
    {{"pre_tokenizer"},
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": "
     "\"ByteLevel\", \"add_prefix_space\": true}]}",
     "add_prefix_space is set behind another step"},
    {{"post_processor"}, "{\"type\": \"BertProcessing\"}", "post_processor is BertProcessing"},
    {{"post_processor"}, "{\"type\": \"TemplateProcessing\", \"single\": []}", "puts one token in front"},
    {{"post_processor"},
     "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": "
     "\"e\"}}]}",
     "puts one token in front"},
    {{"post_processor"},
     "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"e\"}}, {\"Sequence\": {}}], "
     "\"special_tokens\": {\"e\": {\"ids\": [757]}}}",
     "no id of the vocabulary for \"e\""},
    {{"model", "unk_token"}, "\"nowhere\"", "model.unk_token is not in model.vocab"},
    {{"pre_tokenizer"}, "null", "pre_tokenizer is null"},
    {{"pre_tokenizer"}, "-", "pre_tokenizer is null"},
    {{"pre_tokenizer", "type"}, "\"Metaspace\"", "pre_tokenizer is Metaspace"},
    {{"pre_tokenizer", "type"}, "3", "pre_tokenizer is no type"},
    {{"model"}, "[]", "model is no type"},
    {{"model", "type"}, "\"WordPiece\"", "model is WordPiece"},
    {{"model", "dropout"}, "0.1", "model.dropout"},
    {{"model", "continuing_subword_prefix"}, "\"##\"", "model.continuing_subword_prefix"},
    {{"model", "end_of_word_suffix"}, "\"</w>\"", "model.end_of_word_suffix"},
    {{"model", "byte_fallback"}, "true", "pre_tokenizer is ByteLevel, with byte_fallback only null and Metaspace"},
    {{"model", "vocab"}, "[]", "model.vocab must be an object"},
    {{"model", "vocab"}, "{}", "has no token for byte"},
    {{"model", "vocab", "a"}, "-", "has no token for byte 0x61"},
    {{"model", "vocab", "\u0120"}, "-", "has no token for byte 0x20"},
    {{"model", "vocab", " "}, "900", NULL}, /* a raw blank is not the token of byte 0x20 */
    {{"model", "vocab", "a"}, "5", "stands for two tokens"},
    {{"model", "vocab", "a"}, "-1", "must be an integer in 0.."},
    {{"model", "vocab", "a"}, "2097152", "must be an integer in 0.."},
    {{"model", "vocab", "a"}, "1e300", "must be an integer in 0.."},
    {{"model", "vocab", "a"}, "\"1\"", "must be an integer in 0.."},
    {{"model", "merges"}, "{}", "model.merges an array"},
    {{"model", "merges"}, "[[\"a\", \"b\", \"c\"]]", "model.merges[0] must be"},
    {{"model", "merges"}, "[\"ab\"]", "model.merges[0] must be"},
    {{"model", "merges"}, "[\"a b c\"]", "model.merges[0] must be"},
    {{"model", "merges"}, "[\" b\"]", "model.merges[0] must be"},
    {{"model", "merges"}, "[[\"a\", 1]]", "model.merges[0] must be"},
    {{"model", "merges"}, "[3]", "model.merges[0] must be"},
    {{"model", "merges"}, "[[\"h\", \"e\"], [\"q\", \"zq\"]]", "model.merges[1]: \"zq\" isn't in model.vocab"},
    {{"model", "merges"}, "[[\"q\", \"z\"]]", "\"qz\" isn't in model.vocab"},
    {{"added_tokens"}, "[{\"id\": 0}]", "added_tokens[0].content"},
    {{"added_tokens"}, "[{\"id\": 0, \"content\": \"\"}]", "added_tokens[0].content"},
    {{"added_tokens"}, "[{\"id\": 5, \"content\": \"<|endoftext|>\"}]", "another id in model.vocab"},
    {{"added_tokens"}, "[{\"id\": 5, \"content\": \"<s>\"}]", "stands for two tokens"},
    {{"added_tokens"}, "[{\"id\": 0, \"content\": \"<|endoftext|>\", \"single_word\": true}]",
     "added_tokens[0].single_word"},
    {{"added_tokens"}, "[{\"content\": \"<|endoftext|>\"}]", "must be an integer in 0.."},
};

START_TEST(bad_models_are_refused) {
    json_t *m = model(), *at = m;
    const char *const *where = bad[_i].where;
    int depth = 0;
    for (; depth < 2 && where[depth + 1]; depth++)
        at = json_object_get(at, where[depth]);
    if (!strcmp(bad[_i].value, "-"))
        json_object_del(at, where[depth]);
    else
        json_object_set_new(at, where[depth], json_loads(bad[_i].value, JSON_DECODE_ANY, NULL));
    sl_bpe *b = parse_json(m);
    if (!bad[_i].message) {
        ck_assert_msg(b != NULL, "%s", sl_error());
        sl_ids ids = encode(b, "q q", 3);
        size_t n;
        ck_assert_int_lt(ids.id[1], 757);
        ck_assert_int_eq(*sl_bpe_piece(b, ids.id[1], &n), ' ');
        sl_ids_free(&ids);
        sl_bpe_free(b);
        return;
    }
    ck_assert_ptr_null(b);
    ck_error("t.json: ");
    ck_error(bad[_i].message);
}
END_TEST

static const char *const bad_json[] = {
    "", "{", "[]", "3", "nonsense", "{\"a\": 1, \"a\": 2}", "\xff\xfe", "{\"model\": \"\xff\"}"};

START_TEST(bad_json_is_refused) {
    ck_assert_ptr_null(sl_bpe_parse(bad_json[_i], strlen(bad_json[_i]), "t.json"));
    ck_error("t.json: ");
}
END_TEST

START_TEST(truncated_model_is_refused) {
    size_t n;
    unsigned char *text = get_file(model_path, &n);
    while (n && text[n - 1] != '}')
        n--;
    for (size_t k = 0; k < n; k += 97)
        ck_assert_ptr_null(sl_bpe_parse((const char *)text, k, "t.json"));
    free(text);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tokenizer");
    TCase *t = tcase_create("tokenizer");
    tcase_add_unchecked_fixture(t, load, unload);
    tcase_add_test(t, ids_are_the_librarys);
    tcase_add_test(t, without_the_word_pattern);
    tcase_add_test(t, with_a_blank_in_front);
    tcase_add_test(t, with_added_tokens);
    tcase_add_test(t, merges_may_be_strings);
    tcase_add_test(t, merging_is_as_defined);
    tcase_add_loop_test(t, words_of_any_bytes, 0, sizeof words / sizeof *words);
    tcase_add_test(t, any_bytes_come_back);
    tcase_add_test(t, boundary_lines);
    tcase_add_test(t, documents_of_bpe);
    tcase_add_test(t, kinds);
    tcase_add_loop_test(t, bad_specs_are_refused, 0, sizeof bad_specs / sizeof *bad_specs);
    tcase_add_loop_test(t, bad_models_are_refused, 0, sizeof bad / sizeof *bad);
    tcase_add_loop_test(t, bad_json_is_refused, 0, sizeof bad_json / sizeof *bad_json);
    tcase_add_test(t, truncated_model_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
