#include "eval/cloze.h"

#include "base/mem.h"
#include "eval/windows.h"

/* ---- words */

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80; }

typedef struct {
    bool space_first, space_last; /* white space in front; at the end, or alone */
    bool letters;                 /* nothing else behind the white space in front */
} look;

static look look_at(const sl_tokenizer *t, int32_t token) {
    size_t n = 0;
    const char *piece = token < 0 ? NULL : sl_tokenizer_piece(t, token, &n);
    if (!piece || n == 0)
        return (look){false, false, false};
    look l = {.space_first = is_space(piece[0]), .space_last = is_space(piece[n - 1])};
    l.letters = n > (size_t)l.space_first;
    for (size_t i = l.space_first; i < n; i++)
        l.letters = l.letters && is_letter(piece[i]);
    return l;
}

static void add_words(sl_cloze *c, const sl_tokenizer *t, int64_t seq, const int32_t *target, const bool *right) {
    bool in_word = false, counts = false, all_right = false, behind_space = false;
    for (int64_t i = 0; i < seq; i++) {
        look l = look_at(t, target[i]);
        bool begins = l.letters && (l.space_first || behind_space), goes_on = in_word && l.letters && !begins;
        if (in_word && !goes_on && counts) {
            c->words++;
            c->words_right += all_right;
        }
        all_right = (goes_on ? all_right : true) && right[i];
        counts = goes_on ? counts : i >= seq / 2;
        in_word = begins || goes_on;
        behind_space = l.space_last;
    }
}

void sl_cloze_add(sl_cloze *c, const sl_tokenizer *t, int64_t seq, const int32_t *target, const bool *right) {
    for (int64_t i = 0; i < seq; i++)
        if (target[i] >= 0) {
            c->tokens++;
            c->tokens_right += right[i];
        }
    if (t)
        add_words(c, t, seq, target, right);
}

/* ---- windows */

typedef struct {
    sl_cloze sum;
    const sl_tokenizer *tokenizer;
    float *logits;
    bool *right;
} job;

static bool is_first_choice(const float *logits, int64_t vocab, int32_t token) {
    float x = logits[token];
    for (int64_t v = 0; v < vocab; v++)
        if (v != token && !(logits[v] < x || (logits[v] == x && v > token)))
            return false; /* also where one is a NaN */
    return true;
}

static int add_batch(void *ctx, sl_model *m, const sl_batch *b) {
    job *j = ctx;
    sl_shape s = sl_model_shape(m);
    if (sl_model_logits(m, b->in, j->logits))
        return -1;
    for (int64_t i = 0; i < b->n * s.seq; i++)
        j->right[i] = b->target[i] >= 0 && is_first_choice(j->logits + i * s.vocab, s.vocab, b->target[i]);
    for (int64_t w = 0; w < b->n; w++)
        sl_cloze_add(&j->sum, j->tokenizer, s.seq, b->target + w * s.seq, j->right + w * s.seq);
    return 0;
}

int sl_cloze_windows(sl_model *m, const sl_dataset *d, int64_t windows, int64_t skip, sl_cloze *c) {
    sl_shape s = sl_model_shape(m);
    int64_t have = sl_dataset_windows(d, SL_VAL), rows = s.batch * s.seq;
    job j = {.tokenizer = sl_dataset_has_marks(d) ? NULL : sl_dataset_tokenizer(d),
             .logits = sl_alloc((size_t)(rows * s.vocab) * sizeof(float), "the logits of a batch"),
             .right = sl_alloc((size_t)rows * sizeof(bool), "the choices of a batch")};
    sl_windows w = {SL_VAL, windows < have ? windows : have, SL_FILL_NO_LOSS, skip};
    int rc = j.logits && j.right ? sl_each_batch(m, d, w, add_batch, &j) : -1;
    sl_free(j.logits);
    sl_free(j.right);
    if (rc == 0)
        *c = j.sum;
    return rc;
}
