/* Datasets: where a corpus is found, windows, order, split, token cache, and one message a mistake. */
#include "data/dataset.h"
#include "base/err.h"
#include "base/rng.h"
#include "data/bin.h"
#include "data/permute.h"
#include "data/token_array.h"
#include "scratch.h"
#include "suite.h"

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>

static sl_config config;

static void setup(void) {
    scratch_make();
    setenv("SINKLAB_DATA", scratch, 1);
}

/* A configuration of the test's corpus: path below the scratch folder unless it starts with '=' . */
static const sl_config *with(const char *corpus, int64_t seq, bool bos, double val) {
    sl_config_defaults(&config);
    snprintf(config.data_corpus, sizeof config.data_corpus, "%s", *corpus == '=' ? corpus + 1 : in_scratch(corpus));
    config.model_seq = seq;
    config.data_bos = bos;
    config.data_val_fraction = val;
    return &config;
}

static void put_text(const char *name, const char *text) { put_file(in_scratch(name), text, strlen(text)); }

static void make_folder(const char *name) { ck_assert_int_eq(mkdir(in_scratch(name), 0777), 0); }

static sl_dataset *open_ok(const sl_config *c) {
    sl_dataset *d = sl_dataset_open(c);
    ck_assert_msg(d != NULL, "%s", sl_error());
    return d;
}

/* n bytes of a text in which every window is different. */
static void put_numbers(const char *name, size_t n) {
    char *text = malloc(n + 16);
    for (size_t i = 0; i < n; i += 8)
        snprintf(text + i, 9, "%07zu ", i);
    put_file(in_scratch(name), text, n);
    free(text);
}

/* ---- Windows ----------------------------------------------------------------------------------- */

START_TEST(windows_with_bos) {
    put_text("w.txt", "abcdefghijklmnopqrstuvwxyz");
    sl_dataset *d = open_ok(with("w.txt", 4, true, 0.31)); /* 8 of 26 tokens are for validation */
    int32_t in[4], target[4];
    ck_assert_int_eq(sl_dataset_tokens(d, SL_TRAIN), 18);
    ck_assert_int_eq(sl_dataset_tokens(d, SL_VAL), 8);
    ck_assert_int_eq(sl_dataset_windows(d, SL_TRAIN), 4);
    ck_assert_int_eq(sl_dataset_windows(d, SL_VAL), 2);
    ck_assert_int_eq(sl_dataset_vocab(d), 257);
    sl_dataset_val_window(d, 0, in, target);
    ck_assert_mem_eq(in, ((int32_t[]){256, 's', 't', 'u'}), sizeof in);
    ck_assert_mem_eq(target, ((int32_t[]){'s', 't', 'u', 'v'}), sizeof in);
    sl_dataset_val_window(d, 1, in, target);
    ck_assert_mem_eq(in, ((int32_t[]){256, 'w', 'x', 'y'}), sizeof in);
    ck_assert_mem_eq(target, ((int32_t[]){'w', 'x', 'y', 'z'}), sizeof in);
    ck_assert_double_eq(sl_dataset_bytes_per_token(d, SL_VAL), 1);
    sl_dataset_close(d);
}
END_TEST

START_TEST(another_bos_token) {
    put_text("w.txt", "abcdefghijklmnopqrstuvwxyz");
    with("w.txt", 4, true, 0.31);
    strcpy(config.data_bos_token, "10");
    sl_dataset *d = open_ok(&config);
    int32_t in[4], target[4];
    sl_dataset_val_window(d, 1, in, target);
    ck_assert_mem_eq(in, ((int32_t[]){'\n', 'w', 'x', 'y'}), sizeof in);
    ck_assert_mem_eq(target, ((int32_t[]){'w', 'x', 'y', 'z'}), sizeof in);
    sl_dataset_close(d);
}
END_TEST

/* bpe500.json with a boundary token of another name, which is no BOS. */
static void use_tokenizer_without_bos(sl_config *c) {
    char path[1024];
    size_t n;
    snprintf(path, sizeof path, "%s/unit/tokenizer/bpe500.json", getenv("SL_TESTS"));
    unsigned char *text = get_file(path, &n);
    for (char *p; (p = memmem(text, n, "<|endoftext|>", 13));)
        memcpy(p, "<|text__end|>", 13);
    put_file(in_scratch("nobos.json"), text, n);
    free(text);
    snprintf(c->data_tokenizer, sizeof c->data_tokenizer, "bpe:%s", in_scratch("nobos.json"));
}

START_TEST(tokenizer_without_bos) {
    put_text("w.txt", "abcdefghijklmnopqrstuvwxyz and more of it");
    with("w.txt", 4, true, 0.31);
    sl_config *c = &config;
    use_tokenizer_without_bos(c);
    ck_assert_ptr_null(sl_dataset_open(c));
    ck_error("has no BOS; set data.bos=false, or name one of its tokens with data.bos_token");
    c->data_bos = false;
    sl_dataset *d = open_ok(c);
    sl_dataset_close(d);
    c->data_bos = true;
    strcpy(c->data_bos_token, "<|text__end|>");
    d = open_ok(c);
    int32_t in[4], target[4];
    sl_dataset_val_window(d, 0, in, target);
    ck_assert_int_eq(in[0], 0);
    sl_dataset_close(d);
    strcpy(c->data_bos_token, "nowhere");
    ck_assert_ptr_null(sl_dataset_open(c));
    ck_error("data.bos_token: the tokenizer has no token \"nowhere\"");
}
END_TEST

START_TEST(windows_without_bos) {
    put_text("w.txt", "abcdefghijklmnopqrstuvwxyz");
    sl_dataset *d = open_ok(with("w.txt", 4, false, 0.31));
    int32_t in[4], target[4];
    ck_assert_int_eq(sl_dataset_windows(d, SL_TRAIN), 4);
    ck_assert_int_eq(sl_dataset_windows(d, SL_VAL), 1); /* the second has no last target */
    sl_dataset_val_window(d, 0, in, target);
    ck_assert_mem_eq(in, ((int32_t[]){'s', 't', 'u', 'v'}), sizeof in);
    ck_assert_mem_eq(target, ((int32_t[]){'t', 'u', 'v', 'w'}), sizeof in);
    sl_dataset_close(d);
}
END_TEST

/* Each epoch holds every window once; epochs and seeds have orders of their own; the same place is the same window. */
START_TEST(training_order) {
    put_numbers("n.txt", 8 * 400);
    sl_dataset *d = open_ok(with("n.txt", 8, _i != 0, 0.1));
    int64_t windows = sl_dataset_windows(d, SL_TRAIN);
    ck_assert_int_eq(windows, _i ? 360 : 359);
    int32_t in[8], target[8], other[8], again[8], order[3][360];
    int differ = 0, seeds_differ = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        bool seen[400] = {false};
        for (int64_t k = 0; k < windows; k++) {
            sl_dataset_train_window(d, 5, epoch * windows + k, in, target);
            int w = 0; /* "0000120 ": the number of the window times 8; without BOS the text is one further */
            const int32_t *digits = _i ? target : in;
            for (int c = 0; c < 7; c++)
                w = 10 * w + digits[c] - '0';
            ck_assert_int_eq(w % 8, 0);
            ck_assert(!seen[w / 8]);
            seen[w / 8] = true;
            order[epoch][k] = w / 8;
            if (_i)
                ck_assert_int_eq(in[0], 256);
            ck_assert_mem_eq(in + 1, target, 7 * sizeof *in);
            sl_dataset_train_window(d, 6, epoch * windows + k, other, again);
            seeds_differ += memcmp(again, target, sizeof again) != 0;
        }
    }
    for (int64_t k = 0; k < windows; k++)
        differ += order[0][k] != order[1][k];
    ck_assert_int_gt(differ, 300); /* a fixed point has probability 1 / 360: about one expected */
    ck_assert_int_gt(seeds_differ, 900);
    sl_dataset_close(d);
}
END_TEST

/* ---- The permutation --------------------------------------------------------------------------- */

static void check_bijection(uint64_t seed, uint64_t epoch, int64_t n) {
    unsigned char *seen = calloc((size_t)n, 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t x = sl_permute(seed, epoch, n, i);
        ck_assert_msg(x >= 0 && x < n && !seen[x], "n %lld: %lld -> %lld", (long long)n, (long long)i, (long long)x);
        seen[x] = 1;
    }
    free(seen);
}

START_TEST(permutation_is_a_bijection) {
    sl_rng r = sl_rng_make(11, SL_STREAM_TEST, 0);
    for (int64_t n = 1; n <= 2000; n++)
        check_bijection(sl_rng_u64(&r), sl_rng_u32(&r), n);
    for (int k = 0; k < 4; k++)
        check_bijection(sl_rng_u64(&r), sl_rng_u32(&r), 2001 + (int64_t)sl_rng_below(&r, 200000));
    check_bijection(1, 0, 1 << 18);       /* a power of 4: no cycle walking */
    check_bijection(1, 0, (1 << 18) + 1); /* the longest walks */
}
END_TEST

START_TEST(permutation_of_many) {
    sl_rng r = sl_rng_make(12, SL_STREAM_TEST, 0);
    int64_t n = (int64_t)1 << 61;
    for (int k = 0; k < 1000; k++) {
        int64_t m = n - (int64_t)sl_rng_below(&r, 1u << 30), x = sl_permute(3, (uint64_t)k, m, m - 1 - k);
        ck_assert(x >= 0 && x < m);
    }
}
END_TEST

/* Where the first of 8 goes: chi-square with 7 degrees of freedom; P(> 35) is about 1e-5, and the draw is fixed. */
START_TEST(permutation_is_fair) {
    int count[8] = {0};
    double chi = 0;
    for (uint64_t epoch = 0; epoch < 8000; epoch++)
        count[sl_permute(1, epoch, 8, 0)]++;
    for (int i = 0; i < 8; i++)
        chi += (count[i] - 1000.0) * (count[i] - 1000.0) / 1000.0;
    ck_assert_double_lt(chi, 35);
}
END_TEST

/* The order is part of "same seed, same bits": it must not change between versions. */
START_TEST(permutation_is_frozen) {
    static const int64_t want[10] = {3, 8, 5, 1, 2, 6, 4, 9, 7, 0};
    for (int64_t i = 0; i < 10; i++)
        ck_assert_int_eq(sl_permute(1, 0, 10, i), want[i]);
}
END_TEST

/* ---- Finding a corpus -------------------------------------------------------------------------- */

static void expect_text(const sl_config *c, int64_t train, int64_t val) {
    sl_dataset *d = open_ok(c);
    ck_assert_int_eq(sl_dataset_tokens(d, SL_TRAIN), train);
    ck_assert_int_eq(sl_dataset_tokens(d, SL_VAL), val);
    sl_dataset_close(d);
}

START_TEST(prepared_name_and_folders) {
    make_folder("prep");
    put_text("prep/train.txt", "0123456789");
    put_text("prep/val.txt", "01234");
    put_text("prep/other.txt", "not part of it");
    expect_text(with("=prep", 4, true, 0.5), 10, 5); /* $SINKLAB_DATA/prep; its val.txt goes before the fraction */
    expect_text(with("prep", 4, true, 0.5), 10, 5);
    make_folder("plain");
    put_text("plain/b.txt", "bbbb");
    put_text("plain/a.txt", "aaa\n");
    put_text("plain/.hidden.txt", "hhh");
    put_text("plain/c.md", "ccc");
    sl_dataset *d = open_ok(with("plain", 4, true, 0.5)); /* "aaa\n" BOS "bbbb\n" */
    ck_assert_int_eq(sl_dataset_tokens(d, SL_TRAIN) + sl_dataset_tokens(d, SL_VAL), 10);
    int32_t in[4], target[4];
    sl_dataset_train_window(d, 1, 0, in, target);
    ck_assert_mem_eq(target, ((int32_t[]){'a', 'a', 'a', '\n'}), sizeof target);
    ck_assert_double_eq(sl_dataset_bytes_per_token(d, SL_TRAIN), 4.0 / 5);
    sl_dataset_close(d);
}
END_TEST

START_TEST(token_bins) {
    uint16_t id[20];
    for (int i = 0; i < 20; i++)
        id[i] = (uint16_t)(100 + i);
    put_file(in_scratch("x_train.bin"), id, 2 * 20);
    put_file(in_scratch("x_val.bin"), id + 10, 2 * 6);
    expect_text(with("x_train.bin", 4, true, 0.5), 20, 6);
    expect_text(with("x", 4, true, 0.5), 20, 6);
    expect_text(with("x_val.bin", 3, true, 0.5), 3, 3);
    make_folder("nano");
    put_file(in_scratch("nano/train.bin"), id, 2 * 20);
    expect_text(with("nano", 4, true, 0.25), 15, 5);
    ck_assert_int_eq(sl_bin_write(in_scratch("marked.tokens"), &(sl_tokens){id, 2, 20}, NULL), 0);
    expect_text(with("marked.tokens", 4, true, 0.5), 10, 10);
    sl_dataset *d = open_ok(with("x", 4, true, 0));
    ck_assert_ptr_nonnull(sl_dataset_tokenizer(d)); /* bytes */
    ck_assert_double_eq(sl_dataset_bytes_per_token(d, SL_TRAIN), 1);
    sl_dataset_close(d);
    with("x", 4, true, 0);
    snprintf(config.data_tokenizer, sizeof config.data_tokenizer, "ids:120:7");
    d = open_ok(&config);
    ck_assert_ptr_null(sl_dataset_tokenizer(d));
    ck_assert_int_eq(sl_dataset_vocab(d), 120);
    ck_assert_double_eq(sl_dataset_bytes_per_token(d, SL_TRAIN), 0);
    int32_t in[4], target[4];
    sl_dataset_val_window(d, 0, in, target);
    ck_assert_mem_eq(in, ((int32_t[]){7, 110, 111, 112}), sizeof in);
    sl_dataset_close(d);
}
END_TEST

START_TEST(hash_is_of_the_tokens) {
    put_text("h1.txt", "the same text, the same hash");
    put_text("h2.txt", "the same text, the same hash");
    put_text("h3.txt", "the same text, the same hasH");
    uint64_t hash[4];
    static const char *const name[] = {"h1.txt", "h2.txt", "h3.txt", "h1.txt"};
    for (int i = 0; i < 4; i++) {
        sl_dataset *d = open_ok(with(name[i], 4, true, i == 3 ? 0.5 : 0.25));
        hash[i] = sl_dataset_hash(d);
        sl_dataset_close(d);
    }
    ck_assert_uint_eq(hash[0], hash[1]);
    ck_assert_uint_ne(hash[0], hash[2]);
    ck_assert_uint_ne(hash[0], hash[3]); /* another split */
}
END_TEST

/* ---- The token cache --------------------------------------------------------------------------- */

/* Path of the only cache file of the folder, "" if there is none. */
static const char *cache_file(const char *folder) {
    static char path[800];
    path[0] = 0;
    DIR *dir = opendir(in_scratch(folder));
    for (struct dirent *e; (e = readdir(dir));) {
        ck_assert_msg(!strstr(e->d_name, ".tmp"), "%s", e->d_name);
        if (!strncmp(e->d_name, ".sinklab-", 9)) {
            ck_assert_int_eq(path[0], 0);
            snprintf(path, sizeof path, "%s/%s", in_scratch(folder), e->d_name);
        }
    }
    closedir(dir);
    return path;
}

static uint64_t bpe_hash(const char *folder) {
    with(folder, 4, true, 0.5);
    snprintf(config.data_tokenizer, sizeof config.data_tokenizer, "bpe:%s/unit/tokenizer/bpe500.json",
             getenv("SL_TESTS"));
    sl_dataset *d = open_ok(&config);
    uint64_t hash = sl_dataset_hash(d);
    ck_assert_double_gt(sl_dataset_bytes_per_token(d, SL_TRAIN), 1.2);
    sl_dataset_close(d);
    return hash;
}

START_TEST(cache_is_made_used_and_mistrusted) {
    make_folder("c");
    put_text("c/a.txt", "The Lord is my shepherd; I shall not want. He maketh me to lie down in green pastures.\n");
    uint64_t hash = bpe_hash("c");
    char path[800];
    snprintf(path, sizeof path, "%s", cache_file("c"));
    ck_assert_int_ne(path[0], 0);
    struct stat before, after;
    ck_assert_int_eq(stat(path, &before), 0);
    ck_assert_uint_eq(bpe_hash("c"), hash);
    ck_assert_int_eq(stat(path, &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino); /* used, not written again */

    size_t n;
    unsigned char *good = get_file(path, &n);
    for (int damage = 0; damage < 4; damage++) {
        unsigned char *bad = malloc(n);
        memcpy(bad, good, n);
        if (damage == 0)
            bad[n - 1] ^= 1; /* a token */
        else if (damage == 1)
            bad[992] ^= 1; /* the version of the rules */
        else if (damage == 2)
            bad[1000] ^= 1; /* the tokenizer's hash */
        put_file(path, bad, damage == 3 ? n - 2 : n);
        free(bad);
        ck_assert_uint_eq(bpe_hash("c"), hash);
        size_t m;
        unsigned char *mended = get_file(path, &m);
        ck_assert_uint_eq(m, n);
        ck_assert_mem_eq(mended, good, n);
        free(mended);
    }
    free(good);
    unlink(path);
    put_text("c/a.txt", "Another text altogether, that must not take the tokens of the old one.\n");
    ck_assert_uint_ne(bpe_hash("c"), hash);
}
END_TEST

static int no_open(const char *path, int flags, mode_t mode) {
    (void)path, (void)flags, (void)mode;
    return -1;
}

START_TEST(cache_may_fail) {
    make_folder("ro");
    put_text("ro/a.txt", "The Lord is my shepherd; I shall not want. He maketh me to lie down.\n");
    sl_sys_calls saved = sl_sys;
    sl_sys.open = no_open;
    uint64_t hash = bpe_hash("ro");
    sl_sys = saved;
    ck_assert_str_eq(cache_file("ro"), "");
    ck_assert_uint_eq(bpe_hash("ro"), hash);
}
END_TEST

/* The committed model with the added token "g\nh", which a cut at any line end but a boundary's would break. */
static sl_tokenizer *make_fragile_tokenizer(void) {
    char path[1024], spec[600];
    snprintf(path, sizeof path, "%s/unit/tokenizer/bpe500.json", getenv("SL_TESTS"));
    json_t *m = json_load_file(path, 0, NULL);
    json_array_append_new(json_object_get(m, "added_tokens"), json_pack("{s:i, s:s}", "id", 757, "content", "g\nh"));
    ck_assert_int_eq(json_dump_file(m, in_scratch("fragile.json"), 0), 0);
    json_decref(m);
    snprintf(spec, sizeof spec, "bpe:%s", in_scratch("fragile.json"));
    sl_tokenizer *t = sl_tokenizer_open(spec);
    ck_assert_msg(t != NULL, "%s", sl_error());
    return t;
}

/* Long texts are tokenized in pieces of 8 MiB that end behind boundary lines: the same tokens as in one go. */
START_TEST(pieces_make_no_difference) {
    static const char line[] = "h, some words, g\n", mark[] = SL_DOCUMENT_LINE;
    size_t n = 0, capacity = (size_t)20 << 20;
    char *text = malloc(capacity);
    for (int k = 0; n + 100 < capacity; k++) {
        const char *next = k % 7000 == 6999 ? mark : line;
        memcpy(text + n, next, strlen(next));
        n += strlen(next);
    }
    sl_tokenizer *t = make_fragile_tokenizer();
    sl_token_array a = sl_token_array_make(t);
    int32_t *id;
    int64_t count;
    ck_assert_int_eq(sl_token_array_encode(&a, t, text, n), 0);
    ck_assert_int_eq(sl_tokenizer_encode(t, text, n, &id, &count), 0);
    ck_assert_int_eq(a.tokens.count, count);
    for (int64_t i = 0; i < count; i++)
        if (sl_tokens_at(&a.tokens, i) != id[i])
            ck_abort_msg("token %lld", (long long)i);
    free(id);
    sl_token_array_free(&a);
    sl_tokenizer_close(t);
    free(text);
}
END_TEST

/* ---- Mistakes ---------------------------------------------------------------------------------- */

static void refused(const sl_config *c, const char *message, int code) {
    ck_assert_ptr_null(sl_dataset_open(c));
    ck_error(message);
    ck_assert_int_eq(sl_error_exit_code(), code);
}

START_TEST(missing_corpora) {
    refused(with("=nosuchcorpus", 4, true, 0.1), "\"nosuchcorpus\" is neither a prepared corpus", SL_EXIT_USAGE);
    refused(with("=./nosuch", 4, true, 0.1), "neither", SL_EXIT_USAGE);
    refused(with("=", 4, true, 0.1), "data.corpus is empty", SL_EXIT_USAGE);
    make_folder("void");
    refused(with("void", 4, true, 0.1), "no text in this folder", SL_EXIT_FAILED);
    put_text("empty.txt", "");
    refused(with("empty.txt", 4, true, 0.1), "empty.txt: the file is empty", SL_EXIT_FAILED);
    put_text("empty.bin", "");
    refused(with("empty.bin", 4, true, 0.1), "holds no tokens", SL_EXIT_FAILED);
    refused(with("=/dev/zero", 4, true, 0.1), "not a regular file", SL_EXIT_FAILED);
    with("empty.txt", 4, true, 0.1);
    snprintf(config.data_tokenizer, sizeof config.data_tokenizer, "bpe:%s", in_scratch("none.json"));
    refused(&config, "data.tokenizer: cannot open", SL_EXIT_FAILED);
}
END_TEST

START_TEST(too_short) {
    put_text("s.txt", "0123456789");
    refused(with("s.txt", 16, true, 0.1), "the training part has 9 tokens, not enough for one window of model.seq=16",
            SL_EXIT_USAGE);
    refused(with("s.txt", 8, true, 0.1), "the validation part has 1 tokens", SL_EXIT_USAGE);
    ck_error("raise data.val_fraction");
    refused(with("s.txt", 4, true, 0), "the validation part has 0 tokens", SL_EXIT_USAGE);
    refused(with("s.txt", 5, false, 0.5), "the training part has 5 tokens", SL_EXIT_USAGE);
    expect_text(with("s.txt", 5, true, 0.5), 5, 5);
    make_folder("sv");
    put_text("sv/train.txt", "0123456789");
    put_text("sv/val.txt", "01");
    refused(with("sv", 4, true, 0.5), "sv/val.txt: the validation part has 2 tokens", SL_EXIT_USAGE);
}
END_TEST

START_TEST(vocabulary_mismatch) {
    const uint16_t id[] = {1, 2, 300, 4, 5, 6, 50256, 8};
    put_file(in_scratch("v.bin"), id, sizeof id);
    refused(with("v.bin", 2, true, 0.5),
            "token 50256 at place 6 is beyond the vocabulary (257) of data.tokenizer=bytes", SL_EXIT_USAGE);
    ck_error("ids:50257:50256");
    const uint32_t wide[] = {1, 2, 3, UINT32_MAX, 5, 6};
    ck_assert_int_eq(sl_bin_write(in_scratch("w.bin"), &(sl_tokens){wide, 4, 6}, NULL), 0);
    with("w.bin", 2, true, 0.5);
    snprintf(config.data_tokenizer, sizeof config.data_tokenizer, "ids:2147483647");
    refused(&config, "token 4294967295 at place 3", SL_EXIT_USAGE);
    put_file(in_scratch("odd.bin"), id, 3);
    refused(with("odd.bin", 2, true, 0.5), "odd number", SL_EXIT_FAILED);
    put_file(in_scratch("p_train.bin"), id, sizeof id);
    put_file(in_scratch("p_val.bin"), id, 5);
    with("p_train.bin", 2, true, 0.5);
    snprintf(config.data_tokenizer, sizeof config.data_tokenizer, "ids:50257");
    refused(&config, "p_val.bin: 5 bytes, an odd number", SL_EXIT_FAILED);
}
END_TEST

int main(void) {
    Suite *s = suite_create("dataset");
    TCase *t = tcase_create("dataset");
    tcase_add_unchecked_fixture(t, setup, scratch_remove);
    tcase_add_test(t, windows_with_bos);
    tcase_add_test(t, another_bos_token);
    tcase_add_test(t, tokenizer_without_bos);
    tcase_add_test(t, windows_without_bos);
    tcase_add_loop_test(t, training_order, 0, 2);
    tcase_add_test(t, permutation_is_a_bijection);
    tcase_add_test(t, permutation_of_many);
    tcase_add_test(t, permutation_is_fair);
    tcase_add_test(t, permutation_is_frozen);
    tcase_add_test(t, prepared_name_and_folders);
    tcase_add_test(t, token_bins);
    tcase_add_test(t, hash_is_of_the_tokens);
    tcase_add_test(t, cache_is_made_used_and_mistrusted);
    tcase_add_test(t, cache_may_fail);
    tcase_add_test(t, pieces_make_no_difference);
    tcase_add_test(t, missing_corpora);
    tcase_add_test(t, too_short);
    tcase_add_test(t, vocabulary_mismatch);
    suite_add_tcase(s, t);
    return run_suite(s);
}
