/* Which words count, and which of them are right. */
#include "eval/cloze.h"
#include "base/err.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

/* Window after window of these targets; marks: '1' under a token whose first choice is right. */
static sl_cloze count(const sl_tokenizer *t, int64_t n, const int32_t *target, const char *marks) {
    sl_cloze c = {0};
    bool right[MOST];
    ck_assert_int_eq((int64_t)strlen(marks), n);
    for (int64_t i = 0; i < n; i++)
        right[i] = marks[i] == '1';
    sl_cloze_add(&c, t, n, target, right);
    return c;
}

static void check(sl_cloze c, int64_t tokens, int64_t tokens_right, int64_t words, int64_t words_right) {
    ck_assert_int_eq(c.tokens, tokens);
    ck_assert_int_eq(c.tokens_right, tokens_right);
    ck_assert_int_eq(c.words, words);
    ck_assert_int_eq(c.words_right, words_right);
}

START_TEST(words_of_bytes) {
    const struct {
        const char *text, *marks;
        int64_t words, right;
    } rows[] = {
        /* only what begins in the second half counts */
        {"ab cd ef gh ij.", "111111111111111", 2, 2},
        {"ab cd ef gh ij.", "000000000000000", 2, 0},
        {"........ cat ...", "1111111110111111", 1, 0},  /* each letter must be right */
        {"........ cat ...", "0000000001110000", 1, 1},  /* and nothing else */
        {"......... cat", "1111111111111", 0, 0},        /* where it ends is not known */
        {".......... 4th", "11111111111111", 0, 0},      /* begins with no letter */
        {".......... it's", "111111111111111", 1, 1},    /* ends where letters end */
        {"........... \n\tab \n", "111111111111111111", 1, 1},
        {"......... \xc3\xa4" "b..", "111111111111111", 1, 1},
        {"..... on.(off)..", "1111111111111111", 0, 0},  /* on: first half; off: not behind white space */
    };
    sl_tokenizer *t = sl_tokenizer_open("bytes");
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        int32_t target[MOST];
        int64_t n = (int64_t)strlen(rows[r].text), right = 0;
        for (int64_t i = 0; i < n; i++) {
            target[i] = (unsigned char)rows[r].text[i];
            right += rows[r].marks[i] == '1';
        }
        check(count(t, n, target, rows[r].marks), n, right, rows[r].words, rows[r].right);
        check(count(NULL, n, target, rows[r].marks), n, right, 0, 0);
    }
    sl_tokenizer_close(t);
}
END_TEST

START_TEST(words_of_a_bpe) {
    char spec[1024];
    const char *text = "xx xx xx the strange; and 7 of\n\nit.";
    int32_t *target;
    int64_t n;
    size_t bytes = 0, piece;
    snprintf(spec, sizeof spec, "bpe:%s/unit/tokenizer/bpe500.json", getenv("SL_TESTS"));
    sl_tokenizer *t = sl_tokenizer_open(spec);
    ck_assert_msg(t && sl_tokenizer_encode(t, text, strlen(text), &target, &n) == 0, "%s", sl_error());
    ck_assert(n < MOST);
    char all[MOST + 1] = "", strange[MOST + 1] = "";
    for (int64_t i = 0; i < n; i++) { /* "strange" is of several tokens, and one of them is wrong */
        all[i] = '1', strange[i] = bytes == strlen("xx xx xx the stra") ? '0' : '1';
        ck_assert_ptr_nonnull(sl_tokenizer_piece(t, target[i], &piece));
        bytes += piece;
    }
    int64_t wrong = (int64_t)strlen(strange) - (strchr(strange, '0') ? 1 : 0);
    int64_t late = 0; /* words that begin in the second half of the tokens */
    bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        sl_tokenizer_piece(t, target[i], &piece);
        const char *at = text + bytes;
        late += i >= n / 2 && (!strncmp(at, " the", 4) || !strncmp(at, " strange", 8) || !strncmp(at, " and", 4) ||
                               !strncmp(at, " of", 3) || !strncmp(at, "it.", 3));
        bytes += piece;
    }
    ck_assert_int_ge(late, 3);
    check(count(t, n, target, all), n, n, late, late);
    check(count(t, n, target, strange), n, wrong, late, late - (wrong < n));
    free(target);
    sl_tokenizer_close(t);
}
END_TEST

/* A target that is none, and BOS, end a word and are none. */
START_TEST(no_targets) {
    sl_tokenizer *t = sl_tokenizer_open("bytes");
    const int32_t target[] = {-1, -1, -1, ' ', 'a', 256, ' ', 'b', -1};
    check(count(t, 9, target, "111110111"), 5, 4, 2, 2);
    sl_tokenizer_close(t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("cloze");
    TCase *t = tcase_create("cloze");
    tcase_add_test(t, words_of_bytes);
    tcase_add_test(t, words_of_a_bpe);
    tcase_add_test(t, no_targets);
    suite_add_tcase(s, t);
    return run_suite(s);
}
