/* Synthetic corpora: the rules of each task, its figures where they are known, windows with and without BOS. */
#include "base/err.h"
#include "data/dataset.h"
#include "data/synthetic.h"
#include "scratch.h"
#include "suite.h"

#include <math.h>

enum { SEQ = 256, NONE = -1 };
static sl_config config;
static int32_t in[SEQ], target[SEQ];
static uint8_t mark[SEQ];

static sl_config *with(const char *corpus, int64_t seq) {
    sl_config_defaults(&config);
    snprintf(config.data_corpus, sizeof config.data_corpus, "%s", corpus);
    config.model_seq = seq;
    return &config;
}

static sl_dataset *open_ok(const sl_config *c) {
    ck_assert_msg(sl_config_check(c) == 0, "%s", sl_error());
    sl_dataset *d = sl_dataset_open(c);
    ck_assert_msg(d != NULL, "%s", sl_error());
    return d;
}

/* For inner loops: Check writes a message of every ck_assert to a file. */
static void must(bool ok, int64_t t) {
    if (!ok)
        ck_abort_msg("wrong at position %lld", (long long)t);
}

static void put_text(const char *name, const char *text) { put_file(in_scratch(name), text, strlen(text)); }

/* ---- backcopy */

enum { SYMBOLS = 65, BOS = SYMBOLS, TRIGGERS = 3 };
static int64_t one[256], two[256][256], row[256];
static int byte_of[SYMBOLS];
static bool trigger[SYMBOLS];

/* The built-in counts, and the space, e and t as triggers. */
static void read_counts(void) {
    int n = 0;
#define CHAR(a, n) one[a] = n;
#define PAIR(a, b, n) two[a][b] = n;
#include "data/char_pairs.inc"
#undef PAIR
#undef CHAR
    for (int a = 0; a < 256; a++)
        if (one[a]) {
            ck_assert_int_lt(n, SYMBOLS);
            trigger[n] = a == ' ' || a == 'e' || a == 't';
            byte_of[n++] = a;
        }
    ck_assert_int_eq(n, SYMBOLS);
    memset(row, 0, sizeof row);
    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++)
            row[a] += two[a][b];
}

/* Probability of b after a under the bigram, both symbols. */
static double bigram(int a, int b) { return (double)two[byte_of[a]][byte_of[b]] / (double)row[byte_of[a]]; }

/* Figures of the text that are known: its length, the entropies of a character and of one after another. */
START_TEST(built_in_counts) {
    double total = 0, h1 = 0, h2 = 0;
    for (int a = 0; a < 256; a++)
        total += (double)one[a];
    ck_assert_double_eq(total, 1115394);
    for (int a = 0; a < 256; a++) {
        double p = (double)one[a] / total;
        h1 -= one[a] ? p * log(p) : 0;
        for (int b = 0; b < 256; b++)
            h2 -= two[a][b] ? (double)two[a][b] / total * log((double)two[a][b] / (double)row[a]) : 0;
    }
    ck_assert_double_eq_tol(h1, 3.3128, 5e-5);
    ck_assert_double_eq_tol(h2, 2.4526, 5e-5);
}
END_TEST

/* Rules of one window; adds the loss of the best prediction where no trigger is. */
static void check_backcopy(int64_t *triggers, int64_t *others, double *loss) {
    ck_assert_int_eq(in[0], BOS);
    ck_assert(!trigger[target[0]]);
    for (int t = 1; t < SEQ; t++) {
        must(in[t] == target[t - 1] && in[t] >= 0 && in[t] < SYMBOLS && mark[t] == trigger[in[t]], t);
        if (trigger[in[t]]) {
            must(target[t] == in[t - 1], t);
            ++*triggers;
            continue;
        }
        must(bigram(in[t], target[t]) > 0, t);
        *loss -= log(bigram(in[t], target[t]));
        ++*others;
    }
}

/* The reference figures (3000 sequences drawn with another program): 25.5 % triggers, floor 2.226 nats elsewhere, of
 * another 400: 25.6 % and 2.218. A loss has a deviation of about 1.2 nats: 500,000 of them, neighbours not quite
 * independent, leave about .004; of 1500 windows each with about 64 triggers the share has a deviation of .0003. */
START_TEST(backcopy) {
    sl_dataset *d = open_ok(with("synthetic:backcopy", SEQ));
    int64_t triggers = 0, others = 0;
    double loss = 0;
    ck_assert_int_eq(sl_dataset_vocab(d), SYMBOLS + 1);
    ck_assert(sl_dataset_has_marks(d) && !sl_dataset_tokenizer(d));
    for (int64_t i = 0; i < 3000; i++) {
        if (i % 2)
            sl_dataset_val_window(d, i, in, target);
        else
            sl_dataset_train_window(d, 9, i, in, target);
        sl_dataset_mark(d, in, mark);
        check_backcopy(&triggers, &others, &loss);
    }
    ck_assert_double_eq_tol((double)triggers / (double)(triggers + others), .2555, .002);
    ck_assert_double_eq_tol(loss / (double)others, 2.222, .015);
    sl_dataset_close(d);
}
END_TEST

/* At a trigger a copy comes with the probability asked for; where the bigram gives the same character it does too. */
START_TEST(backcopy_interpolates) {
    with("synthetic:backcopy", SEQ)->synthetic_copy_probability = _i * .5;
    sl_dataset *d = open_ok(&config);
    int64_t triggers = 0, copies = 0;
    double chance = 0;
    for (int64_t i = 0; i < 500; i++) {
        sl_dataset_val_window(d, i, in, target);
        for (int t = 2; t < SEQ; t++) {
            if (!trigger[in[t]])
                continue;
            chance += bigram(in[t], in[t - 1]);
            copies += target[t] == in[t - 1];
            triggers++;
        }
    }
    double p = config.synthetic_copy_probability, want = p + (1 - p) * chance / (double)triggers;
    ck_assert_double_eq_tol((double)copies / (double)triggers, want, 5 * sqrt(.25 / (double)triggers));
    sl_dataset_close(d);
}
END_TEST

/* Characters of a given text: a, b and c, no pair across a boundary line; c ends it and is followed by anything. */
START_TEST(backcopy_of_a_text) {
    put_text("t.txt", "aaab\n<|endoftext|>\nbc");
    with("synthetic:backcopy", SEQ)->synthetic_triggers = 1; /* a */
    snprintf(config.synthetic_text, sizeof config.synthetic_text, "%s", in_scratch("t.txt"));
    sl_dataset *d = open_ok(&config);
    enum { LF, A, B, C, ALL };
    int64_t seen[ALL][ALL] = {{0}};
    ck_assert_int_eq(sl_dataset_vocab(d), ALL + 1);
    for (int64_t i = 0; i < 100; i++) {
        sl_dataset_val_window(d, i, in, target);
        ck_assert(target[0] != A);
        for (int t = 1; t < SEQ; t++)
            seen[in[t]][target[t]]++;
    }
    ck_assert_int_eq(seen[A][A], 0); /* it copies what stood before */
    for (int x = 0; x < ALL; x++) {
        ck_assert(seen[C][x] > 0 && seen[LF][x] > 0); /* both are last in a document */
        ck_assert((seen[B][x] > 0) == (x == LF || x == C));
    }
    sl_dataset_close(d);
}
END_TEST

/* ---- the other tasks */

START_TEST(mean) {
    enum { LEVELS = 10, NOTHING = 2 * LEVELS };
    with("synthetic:mean", SEQ)->synthetic_symbols = LEVELS;
    sl_dataset *d = open_ok(&config);
    int64_t places[SEQ] = {0};
    ck_assert_int_eq(sl_dataset_vocab(d), NOTHING + 2);
    for (int64_t i = 0; i < 4000; i++) {
        int place = 0, sum = 0;
        sl_dataset_train_window(d, 3, i, in, target);
        sl_dataset_mark(d, in, mark);
        ck_assert(in[0] == NOTHING + 1 && target[0] == NOTHING && !mark[0]);
        for (int t = 1; t < SEQ; t++) {
            bool here = in[t] >= LEVELS;
            must(in[t] >= 0 && in[t] < NOTHING && mark[t] == here && (!here || !place), t);
            sum += place ? 0 : in[t] % LEVELS;
            place = here ? t : place;
            must(target[t] == (here ? (int)floor((double)sum / t + .5) : NOTHING), t);
        }
        places[place]++;
    }
    ck_assert(places[0] == 0 && places[1] == 0);
    for (int t = 2; t < SEQ; t++) /* 15.7 expected, a deviation of 4 */
        ck_assert(places[t] > 0 && places[t] < 40);
    sl_dataset_close(d);
}
END_TEST

static void check_row(int64_t n, const int32_t *have, const int32_t *want) {
    for (int64_t i = 0; i < n; i++)
        ck_assert_int_eq(have[i], want[i]);
}

START_TEST(copy) {
    enum { SEP = 50, B = 51 };
    for (int64_t seq = 6; seq <= 7; seq++)
        for (int bos = 0; bos < 2; bos++) {
            with("synthetic:copy", seq)->synthetic_symbols = SEP;
            config.data_bos = bos;
            sl_dataset *d = open_ok(&config);
            ck_assert_int_eq(sl_dataset_vocab(d), B + 1);
            sl_dataset_val_window(d, 5, in, target);
            sl_dataset_mark(d, in, mark);
            int64_t n = seq - bos, m = n / 2;
            const int32_t *x = in + bos;
            ck_assert(!bos || (in[0] == B && target[0] == NONE && !mark[0]));
            for (int64_t i = 0; i < n; i++) {
                ck_assert_int_eq(x[i], i < m ? x[i] % SEP : i == m ? SEP : x[i - m - 1]);
                ck_assert_int_eq(target[bos + i], i < m || i == 2 * m ? NONE : x[i - m]);
                ck_assert_int_eq(mark[bos + i], i >= m);
            }
            sl_dataset_close(d);
        }
}
END_TEST

START_TEST(block) {
    with("synthetic:block", 12)->synthetic_block = 3;
    sl_dataset *d = open_ok(&config);
    sl_dataset_val_window(d, 5, in, target);
    sl_dataset_mark(d, in, mark);
    ck_assert_int_eq(in[0], 64);
    check_row(11, in + 1, target);
    check_row(9, target, target + 3);
    for (int t = 0; t < 12; t++)
        ck_assert_int_eq(mark[t], t >= 3);
    sl_dataset_close(d);
    with("synthetic:block", 12);
    d = open_ok(&config);
    sl_dataset_val_window(d, 5, in, target);
    check_row(6, target, target + 6); /* 11 inputs: blocks of 6 */
    sl_dataset_close(d);
    with("synthetic:block", 12)->synthetic_block = 1000;
    d = open_ok(&config);
    sl_dataset_val_window(d, 5, in, target);
    sl_dataset_mark(d, in, mark);
    for (int t = 0; t < 12; t++)
        ck_assert_int_eq(mark[t], 0);
    sl_dataset_close(d);
}
END_TEST

/* ---- streams */

static uint64_t hash(void) { return sl_hash64(target, 64 * sizeof *target); }

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Windows of both splits, of seeds 0 (that of validation's numbers) and 1, early and late: all different, and the
 * same again when asked for again. */
START_TEST(streams) {
    enum { N = 1000 };
    static uint64_t h[5 * N];
    sl_dataset *d = open_ok(with("synthetic:block", 64));
    for (int64_t i = 0; i < N; i++) {
        sl_dataset_val_window(d, i, in, target);
        h[5 * i] = hash();
        for (int k = 0; k < 4; k++) {
            sl_dataset_train_window(d, (uint64_t)k % 2, i + (k / 2 ? (int64_t)1 << 50 : 0), in, target);
            h[5 * i + 1 + k] = hash();
        }
        sl_dataset_val_window(d, i, in, target);
        ck_assert_uint_eq(hash(), h[5 * i]);
        sl_dataset_train_window(d, 1, i, in, target);
        ck_assert_uint_eq(hash(), h[5 * i + 2]);
    }
    qsort(h, 5 * N, sizeof *h, by_value);
    for (int i = 1; i < 5 * N; i++)
        ck_assert(h[i] != h[i - 1]);
    ck_assert_int_ge(sl_dataset_windows(d, SL_TRAIN), (int64_t)1 << 40);
    sl_dataset_close(d);
}
END_TEST

/* Other options, other data: a run does not go on with them. */
START_TEST(hash_is_of_the_task) {
    uint64_t h[6];
    for (int i = 0; i < 6; i++) {
        with(i < 3 ? "synthetic:backcopy" : "synthetic:block", 64);
        config.synthetic_triggers = i == 1 ? 5 : 3;
        config.synthetic_copy_probability = i == 2 ? .9 : 1;
        config.synthetic_symbols = i == 4 ? 63 : 64;
        config.synthetic_block = i == 5 ? 5 : 0;
        sl_dataset *d = open_ok(&config);
        h[i] = sl_dataset_hash(d);
        for (int j = 0; j < i; j++)
            ck_assert_uint_ne(h[i], h[j]);
        sl_dataset_close(d);
    }
}
END_TEST

/* ---- BOS at a random place */

START_TEST(bos_in_a_text) {
    enum { W = 4 };
    put_text("w.txt", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
    with(in_scratch("w.txt"), W)->data_bos_place = SL_BOS_RANDOM;
    config.data_val_fraction = .5;
    sl_dataset *d = open_ok(&config);
    int64_t places[W] = {0};
    for (int64_t i = 0; i < 400; i++) {
        int32_t x[W] = {0}, y[W] = {0}, first, r = 0, again[2][W];
        sl_dataset_train_window(d, 2, i, in, target);
        sl_dataset_train_window(d, 2, i, again[0], again[1]);
        check_row(W, in, again[0]);
        check_row(W, target, again[1]);
        while (in[r] != 256)
            r++;
        ck_assert_int_lt(r, W);
        places[r]++;
        first = r ? in[0] : target[0];
        for (int32_t k = 0; k < W; k++) { /* window "abcd": BOS before letter r, which is its target */
            x[k] = k == r ? 256 : first + k - (k > r);
            y[k] = k == r - 1 ? NONE : first + k + (k < r);
        }
        check_row(W, in, x);
        check_row(W, target, y);
    }
    for (int r = 0; r < W; r++)
        ck_assert(places[r] > 60 && places[r] < 140);
    sl_dataset_close(d);
}
END_TEST

/* Where the answer is not the next token each keeps its own, and BOS has that of a start. */
START_TEST(bos_in_a_task) {
    with("synthetic:mean", 16)->data_bos_place = SL_BOS_RANDOM;
    sl_dataset *d = open_ok(&config);
    int first = 0;
    for (int64_t i = 0; i < 200; i++) {
        int answers = 0;
        sl_dataset_val_window(d, i, in, target);
        sl_dataset_mark(d, in, mark);
        for (int t = 0; t < 16; t++) {
            ck_assert(mark[t] ? target[t] < 64 : target[t] == 128);
            ck_assert(in[t] != 129 || !mark[t]);
            answers += mark[t];
        }
        ck_assert_int_eq(answers, 1);
        first += in[0] == 129;
    }
    ck_assert(first > 0 && first < 40);
    sl_dataset_close(d);
}
END_TEST

START_TEST(no_bos) {
    with("synthetic:backcopy", 64)->data_bos = false;
    sl_dataset *d = open_ok(&config);
    for (int64_t i = 0; i < 100; i++) {
        sl_dataset_val_window(d, i, in, target);
        ck_assert(!trigger[in[0]]);
        for (int t = 0; t < 64; t++) {
            must(in[t] < BOS && (t == 63 || in[t + 1] == target[t]), t);
            must(!trigger[in[t]] || target[t] == in[t - 1], t);
        }
    }
    sl_dataset_close(d);
}
END_TEST

/* ---- mistakes */

static void refused(const sl_config *c, const char *part) {
    sl_dataset *d = sl_config_check(c) ? NULL : sl_dataset_open(c);
    ck_assert_ptr_null(d);
    ck_assert_int_eq(sl_error_exit_code(), SL_EXIT_USAGE);
    ck_error(part);
}

START_TEST(mistakes) {
    refused(with("synthetic:bakcopy", 64), "synthetic:backcopy, synthetic:mean, synthetic:copy, synthetic:block");
    refused(with("synthetic:", 64), "unknown synthetic task");
    with("synthetic:copy", 64);
    strcpy(config.data_tokenizer, "ids:70");
    refused(&config, "data.tokenizer does not apply to data.corpus=synthetic:copy");
    with("synthetic:copy", 64)->data_bos_place = SL_BOS_RANDOM;
    config.data_bos = false;
    refused(&config, "data.bos_place=random needs data.bos=true");
    refused(with("synthetic:copy", 2), "model.seq = 2 is too short for synthetic:copy; at least 3");
    with("synthetic:backcopy", 64)->synthetic_triggers = SYMBOLS;
    refused(&config, "data.synthetic.triggers = 65, but the text has only 65");
    with("synthetic:backcopy", 64);
    strcpy(config.synthetic_text, "no such text");
    refused(&config, "data.synthetic.text: data.corpus: \"no such text\" is neither");
    put_file(in_scratch("t.bin"), "\1\0\2\0", 4);
    snprintf(config.synthetic_text, sizeof config.synthetic_text, "%s", in_scratch("t.bin"));
    refused(&config, "t.bin holds tokens; a text is needed");
}
END_TEST

/* Every task is named where one looks for it. */
START_TEST(help_names_all) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    ck_assert_int_eq(sl_config_help(f, (const char *[]){"data.corpus"}, 1, false), 0);
    fclose(f);
    for (const sl_choice *c = sl_choices_synthetic; c->name; c++)
        ck_assert_msg(strstr(text, c->name) != NULL, "%s", text);
    free(text);
}
END_TEST

int main(void) {
    Suite *s = suite_create("synthetic");
    TCase *t = tcase_create("synthetic");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_unchecked_fixture(t, read_counts, NULL);
    tcase_add_test(t, built_in_counts);
    tcase_add_test(t, backcopy);
    tcase_add_loop_test(t, backcopy_interpolates, 0, 3);
    tcase_add_test(t, backcopy_of_a_text);
    tcase_add_test(t, mean);
    tcase_add_test(t, copy);
    tcase_add_test(t, block);
    tcase_add_test(t, streams);
    tcase_add_test(t, hash_is_of_the_task);
    tcase_add_test(t, bos_in_a_text);
    tcase_add_test(t, bos_in_a_task);
    tcase_add_test(t, no_bos);
    tcase_add_test(t, mistakes);
    tcase_add_test(t, help_names_all);
    suite_add_tcase(s, t);
    return run_suite(s);
}
