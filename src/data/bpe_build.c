/* From what a file says to a tokenizer. */
#include "base/err.h"
#include "data/bpe_impl.h"
#include "data/nfc.h"
#include "data/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Of a token; where merges follow from scores, which looks up all parts of all tokens. */
enum { TOKEN_BYTES = 1 << 20, SCORED_BYTES = 512 };

int sl_vocabulary_bad(const sl_vocabulary *v, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_fail("%s: %s", v->name, text);
}

static int out_of_memory(const sl_vocabulary *v) { return sl_vocabulary_bad(v, "out of memory"); }

int sl_vocabulary_allocate(sl_vocabulary *v, int64_t count) {
    if (count < 1 || count > SL_VOCABULARY_MAX)
        return sl_vocabulary_bad(v, "%s has %lld tokens; 1 to %d are possible", v->tokens_field, (long long)count,
                                 SL_VOCABULARY_MAX);
    if (!(v->token = calloc((size_t)count, sizeof *v->token)))
        return out_of_memory(v);
    v->count = (int32_t)count;
    return 0;
}

void sl_vocabulary_free(sl_vocabulary *v) {
    free(v->token);
    free(v->merge);
    free(v->added);
}

/* ---- Tokens ------------------------------------------------------------------------------------- */

/* The inverse of sl_char_of_byte, -1 outside the alphabet. */
static int byte_of_char(uint32_t code) {
    if (code < 256)
        return sl_char_of_byte(code) == code ? (int)code : -1;
    uint32_t k = code - 256; /* the k-th of 0..32, 127..160, 173 */
    return k >= 68 ? -1 : (int)(k <= 32 ? k : k <= 66 ? k - 33 + 127 : 173);
}

/* Bytes that a token of GPT-2's alphabet stands for, to out, which has s.n. One with a character outside the alphabet
 * stands for its own text, as in the library, and *by_alphabet is false. */
static size_t bytes_of(sl_span s, char *out, bool *by_alphabet) {
    size_t n = 0;
    uint32_t code;
    *by_alphabet = true;
    for (size_t at = 0, len; at < s.n; at += len) {
        len = sl_utf8_get(s.p + at, s.n - at, &code);
        int byte = len ? byte_of_char(code) : -1;
        if (byte < 0) {
            *by_alphabet = false;
            memcpy(out, s.p, s.n);
            return s.n;
        }
        out[n++] = (char)byte;
    }
    return n;
}

/* The text of a token of characters, with spaces for marks. */
static size_t spaces_of(sl_span s, char *out) {
    size_t n = 0;
    for (size_t at = 0; at < s.n;) {
        bool mark = s.n - at >= SL_MARK_BYTES && memcmp(s.p + at, SL_MARK, SL_MARK_BYTES) == 0;
        out[n++] = mark ? ' ' : s.p[at];
        at += mark ? SL_MARK_BYTES : 1;
    }
    return n;
}

/* The byte of "<0x0A>", -1 of any other text. */
static int byte_token(sl_span s) {
    static const char digits[] = "0123456789ABCDEF";
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return -1;
    const char *high = memchr(digits, s.p[3], 16), *low = memchr(digits, s.p[4], 16);
    return high && low ? (int)((high - digits) << 4 | (low - digits)) : -1;
}

/* Writes what token id stands for to `out` and returns the bytes; notes the token of a byte. */
static size_t read_piece(sl_bpe *b, const sl_vocabulary_token *t, int32_t id, char *out) {
    bool by_alphabet;
    if (!b->chars) {
        size_t n = bytes_of(t->text, out, &by_alphabet);
        if (n == 1 && by_alphabet)
            b->byte_id[(unsigned char)*out] = id;
        return n;
    }
    int byte = t->type == SL_TOKEN_BYTE ? byte_token(t->text) : -1;
    if (byte < 0)
        return spaces_of(t->text, out);
    b->byte_id[byte] = id;
    *out = (char)byte;
    return 1;
}

/* Tokenizers of real models lack some control characters, and bytes that stand in no assigned character. */
static bool is_in_text(int c) {
    return c == '\t' || c == '\n' || c == '\r' || (c >= ' ' && c <= '~') || (c >= 0x80 && c <= 0xBF) ||
           (c >= 0xC2 && c <= 0xF0) || c == 0xF3 || c == 0xF4;
}

static int check_bytes(const sl_bpe *b, const sl_vocabulary *v) {
    for (int c = 0; c < 256; c++)
        if (b->byte_id[c] < 0 && (b->chars || is_in_text(c)))
            return sl_vocabulary_bad(v, "%s has no token for byte 0x%02X%s", v->tokens_field, c,
                                     b->chars ? "; only tokenizers with byte_fallback and <0x00> to <0xFF> are "
                                                "supported"
                                              : "; train with the byte-level alphabet (data/train_bpe.py does)");
    return 0;
}

static int read_tokens(sl_bpe *b, const sl_vocabulary *v) {
    size_t bytes = 0, used = 0, slots = 16;
    for (int32_t id = 0; id < v->count; id++) {
        if (v->token[id].text.n > TOKEN_BYTES)
            return sl_vocabulary_bad(v, "%s[%d] has %zu bytes, more than %d", v->tokens_field, id,
                                     v->token[id].text.n, TOKEN_BYTES);
        bytes += 2 * v->token[id].text.n;
    }
    while (slots < 2 * (size_t)v->count)
        slots *= 2;
    b->vocab = v->count;
    b->token = calloc((size_t)v->count, sizeof *b->token);
    b->bytes = malloc(bytes + 1);
    b->index = malloc(slots * sizeof *b->index);
    if (!b->token || !b->bytes || !b->index)
        return out_of_memory(v);
    b->index_mask = slots - 1;
    memset(b->index, 0xFF, slots * sizeof *b->index);
    memset(b->byte_id, 0xFF, sizeof b->byte_id);
    for (int32_t id = 0; id < v->count; id++) {
        const sl_vocabulary_token *t = &v->token[id];
        if (t->type == SL_TOKEN_NONE)
            continue;
        int32_t *place = sl_bpe_place(b, t->text.p, t->text.n);
        if (*place >= 0)
            return sl_vocabulary_bad(v, "%s: ids %d and %d are both \"%.*s\"", v->tokens_field, *place, id,
                                     (int)(t->text.n < 60 ? t->text.n : 60), t->text.p);
        *place = id;
        b->token[id].there = true;
        b->token[id].text = (sl_bpe_text){used, (uint32_t)t->text.n};
        memcpy(b->bytes + used, t->text.p, t->text.n);
        used += t->text.n;
        size_t n = read_piece(b, t, id, b->bytes + used);
        b->token[id].piece = (sl_bpe_text){used, (uint32_t)n};
        used += n;
    }
    return check_bytes(b, v);
}

/* ---- Merges ------------------------------------------------------------------------------------- */

static int allocate_merges(sl_bpe *b, const sl_vocabulary *v, size_t count) {
    size_t slots = 16;
    if (count > INT32_MAX / 4)
        return sl_vocabulary_bad(v, "%s has %zu entries, too many", v->merges_field, count);
    while (slots < 2 * count)
        slots *= 2;
    if (!(b->merge = malloc(slots * sizeof *b->merge)))
        return out_of_memory(v);
    b->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        b->merge[i].pair = UINT64_MAX;
    return 0;
}

static void put_merge(sl_bpe *b, int32_t left, int32_t right, int32_t whole, int32_t rank) {
    sl_bpe_merge *slot = sl_bpe_find(b, left, right);
    *slot = (sl_bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, whole};
}

static int unknown_part(const sl_vocabulary *v, size_t i, const char *p, size_t n) {
    return sl_vocabulary_bad(v, "%s[%zu]: \"%.*s\" isn't in %s", v->merges_field, i, (int)(n < 60 ? n : 60), p,
                             v->tokens_field);
}

static int read_merges(sl_bpe *b, const sl_vocabulary *v) {
    char *whole = NULL;
    int rc = allocate_merges(b, v, v->merges);
    for (size_t i = 0; !rc && i < v->merges; i++) {
        sl_span l = v->merge[i].left, r = v->merge[i].right;
        char *grown = realloc(whole, l.n + r.n + 1);
        if (!grown) {
            rc = out_of_memory(v);
            break;
        }
        whole = grown;
        memcpy(whole, l.p, l.n);
        memcpy(whole + l.n, r.p, r.n);
        int32_t left = *sl_bpe_place(b, l.p, l.n), right = *sl_bpe_place(b, r.p, r.n),
                id = *sl_bpe_place(b, whole, l.n + r.n);
        if (left < 0 || right < 0 || id < 0)
            rc = left < 0    ? unknown_part(v, i, l.p, l.n)
                 : right < 0 ? unknown_part(v, i, r.p, r.n)
                             : unknown_part(v, i, whole, l.n + r.n);
        else /* of a pair that is listed twice the library keeps the later rank, too */
            put_merge(b, left, right, id, (int32_t)i);
    }
    free(whole);
    return rc;
}

/* SentencePiece merges only to tokens of these types: a text that reads like a control token isn't one. */
static bool merges_to(const sl_vocabulary_token *t) {
    return t->type == SL_TOKEN_NORMAL || t->type == SL_TOKEN_USER || t->type == SL_TOKEN_UNUSED;
}

typedef struct {
    float score;
    int32_t id;
} scored;

static int by_score(const void *x, const void *y) {
    const scored *a = x, *b = y;
    return a->score != b->score ? (a->score < b->score) - (a->score > b->score) : (a->id > b->id) - (a->id < b->id);
}

/* How token id can come of two others: counted, and put with their rank unless it is negative. */
static size_t merge_to(sl_bpe *b, const sl_vocabulary *v, int32_t id, int32_t rank) {
    sl_span s = v->token[id].text;
    size_t count = 0, len;
    uint32_t code;
    for (size_t at = 0; at < s.n; at += len) {
        len = sl_utf8_get(s.p + at, s.n - at, &code);
        len = len ? len : 1;
        int32_t left = at ? *sl_bpe_place(b, s.p, at) : -1, right = *sl_bpe_place(b, s.p + at, s.n - at);
        if (left < 0 || right < 0 || !merges_to(&v->token[left]) || !merges_to(&v->token[right]))
            continue;
        count++;
        if (rank >= 0)
            put_merge(b, left, right, id, rank);
    }
    return count;
}

/* A merge is done before others if the token that it makes has a higher score; of equals the leftmost is. */
static int score_merges(sl_bpe *b, const sl_vocabulary *v) {
    scored *order = malloc((size_t)v->count * sizeof *order);
    size_t n = 0, merges = 0;
    if (!order)
        return out_of_memory(v);
    int rc = 0;
    for (int32_t id = 0; !rc && id < v->count; id++) {
        if (!merges_to(&v->token[id]))
            continue;
        if (v->token[id].text.n > SCORED_BYTES)
            rc = sl_vocabulary_bad(v, "%s[%d] has %zu bytes, more than %d", v->tokens_field, id,
                                   v->token[id].text.n, SCORED_BYTES);
        order[n++] = (scored){v->token[id].score, id};
        merges += rc ? 0 : merge_to(b, v, id, -1);
    }
    if (!rc && !(rc = allocate_merges(b, v, merges)) && n) {
        qsort(order, n, sizeof *order, by_score);
        for (size_t i = 0, rank = 0; i < n; i++) {
            rank += i && order[i].score != order[i - 1].score;
            merge_to(b, v, order[i].id, (int32_t)rank);
        }
    }
    free(order);
    return rc;
}

/* Whether in all that merging can make marks stand only in front. */
static bool marks_come_first(const sl_bpe *b) {
    for (uint64_t i = 0; i <= b->merge_mask; i++) {
        if (b->merge[i].pair == UINT64_MAX)
            continue;
        const sl_bpe_text *t = &b->token[b->merge[i].id].text;
        const char *s = b->bytes + t->at;
        size_t at = 0;
        while (t->n - at >= SL_MARK_BYTES && memcmp(s + at, SL_MARK, SL_MARK_BYTES) == 0)
            at += SL_MARK_BYTES;
        if (memmem(s + at, t->n - at, SL_MARK, SL_MARK_BYTES))
            return false;
    }
    return true;
}

/* ---- Added tokens ------------------------------------------------------------------------------- */

/* Of equal texts the lower id comes last: it is the one that is found. */
static int by_bytes(const void *x, const void *y) {
    const sl_bpe_added *a = x, *b = y;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return c ? c : a->n != b->n ? (a->n > b->n) - (a->n < b->n) : (a->id < b->id) - (a->id > b->id);
}

static void index_added(sl_bpe_added_set *set) {
    if (set->count)
        qsort(set->token, (size_t)set->count, sizeof *set->token, by_bytes);
    for (int c = 0, k = 0; c <= 256; c++) {
        while (k < set->count && (unsigned char)set->token[k].text[0] < c)
            k++;
        set->first[c] = k;
    }
}

/* A token that is looked for in normalized text is normalized itself. */
static int added_text(sl_bpe_added *a, const sl_vocabulary *v, bool normalized) {
    sl_span s = v->token[a->id].text;
    bool front = v->normalizer == SL_NORMALIZE_SPACES_FRONT;
    sl_nfc_room room = {0};
    if (normalized && v->normalizer == SL_NORMALIZE_NFC) {
        if (sl_nfc(&room, s.p, s.n))
            return -1;
        s = (sl_span){room.text, room.n};
    }
    bool marked = normalized && (front || v->normalizer == SL_NORMALIZE_SPACES);
    a->text = malloc(marked ? (s.n + 1) * SL_MARK_BYTES : s.n);
    if (a->text && marked)
        a->n = sl_bpe_mark_spaces(a->text, s.p, s.n, front);
    else if (a->text)
        memcpy(a->text, s.p, a->n = s.n);
    sl_nfc_room_free(&room);
    return a->text ? 0 : out_of_memory(v);
}

static int read_added(sl_bpe *b, const sl_vocabulary *v) {
    for (int pass = 0; pass < 2; pass++)
        if (v->addeds && !(b->added[pass].token = calloc(v->addeds, sizeof *b->added[pass].token)))
            return out_of_memory(v);
    for (size_t i = 0; i < v->addeds; i++) {
        const sl_vocabulary_added *from = &v->added[i];
        sl_bpe_added_set *set = &b->added[from->normalized];
        sl_bpe_added *a = &set->token[set->count];
        *a = (sl_bpe_added){
            .id = from->id, .special = from->special, .lstrip = from->lstrip, .rstrip = from->rstrip};
        if (added_text(a, v, from->normalized))
            return -1;
        set->count++;
    }
    for (int pass = 0; pass < 2; pass++)
        index_added(&b->added[pass]);
    return 0;
}

/* ---- All ---------------------------------------------------------------------------------------- */

static void hash_span(XXH3_state_t *h, sl_span s) {
    uint64_t n = s.n;
    XXH3_64bits_update(h, &n, sizeof n);
    XXH3_64bits_update(h, s.p, s.n);
}

static int hash_all(sl_bpe *b, const sl_vocabulary *v) {
    XXH3_state_t *h = XXH3_createState();
    if (!h)
        return out_of_memory(v);
    const char *words = v->words ? v->words->name : "";
    int32_t head[] = {v->count,       v->scored, v->chars,        v->whole_words, (int32_t)v->normalizer,
                      (int32_t)v->front, v->metaspace,  v->split_spaces, v->bos,         v->adds_bos,
                      v->unknown,        v->fuse_unknown};
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, head, sizeof head);
    hash_span(h, (sl_span){words, strlen(words)});
    for (int32_t id = 0; id < v->count; id++) {
        hash_span(h, v->token[id].text);
        XXH3_64bits_update(h, &v->token[id].type, 1);
        XXH3_64bits_update(h, &v->token[id].score, sizeof v->token[id].score);
    }
    for (size_t i = 0; i < v->merges; i++) {
        hash_span(h, v->merge[i].left);
        hash_span(h, v->merge[i].right);
    }
    for (size_t i = 0; i < v->addeds; i++) {
        const sl_vocabulary_added *a = &v->added[i];
        int32_t added[] = {a->id, a->special, a->lstrip, a->rstrip, a->normalized};
        XXH3_64bits_update(h, added, sizeof added);
    }
    b->hash = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return 0;
}

static int build(sl_bpe *b, const sl_vocabulary *v) {
    if (read_tokens(b, v) || (v->scored ? score_merges(b, v) : read_merges(b, v)) || read_added(b, v) ||
        hash_all(b, v))
        return -1;
    b->cut_at_marks = b->chars && marks_come_first(b);
    return 0;
}

sl_bpe *sl_bpe_build(const sl_vocabulary *v) {
    sl_bpe *b = calloc(1, sizeof *b);
    if (!b) {
        out_of_memory(v);
        return NULL;
    }
    b->bos = v->bos;
    b->adds_bos = v->adds_bos;
    b->chars = v->chars;
    b->whole_words = v->whole_words;
    b->metaspace = v->metaspace;
    b->split_spaces = v->split_spaces;
    b->normalizer = v->normalizer;
    b->front = v->front;
    b->words = v->words;
    b->unknown = v->unknown;
    b->fuse_unknown = v->fuse_unknown;
    if (build(b, v)) {
        sl_bpe_free(b);
        return NULL;
    }
    return b;
}
