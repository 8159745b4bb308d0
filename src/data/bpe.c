#include "data/bpe.h"

#include "base/err.h"
#include "base/mem.h"
#include "data/bpe_impl.h"
#include "data/nfc.h"
#include "data/utf8.h"

#include <stdlib.h>

int sl_ids_reserve(sl_ids *ids, int64_t more) {
    if (ids->capacity - ids->count >= more)
        return 0;
    int64_t want = ids->count + more;
    want = want + want / 2 + 64;
    int32_t *p = (uint64_t)want <= SIZE_MAX / sizeof *p
                     ? realloc(ids->id, (size_t)want * sizeof *p)
                     : NULL;
    if (!p)
        return sl_fail("out of memory: %lld tokens; tokenize smaller files", (long long)want);
    ids->id = p;
    ids->capacity = want;
    return 0;
}

void sl_ids_free(sl_ids *ids) {
    free(ids->id);
    *ids = (sl_ids){0};
}

/* ---- Merging one word -------------------------------------------------------------------------- */

/* The word is a linked list of symbols, of bytes or characters at first. rank[i] is that of the pair of
 * symbol i and the next one; the heap holds rank << 32 | i, so the lowest rank comes first and the
 * leftmost of equals. A heap entry whose rank isn't rank[i] any more is stale. */
typedef struct {
    int32_t *id, *prev, *next, *rank, *merged;
    uint64_t *heap;
    size_t heap_count, capacity;
} word_state;

/* Words that were met before: a direct-mapped table that newer words overwrite. */
enum { CACHED_BYTES = 30, CACHED_IDS = 8, CACHE_MAX = 1 << 16 };
typedef struct {
    uint8_t n, ids; /* n = 0: free */
    char word[CACHED_BYTES];
    int32_t id[CACHED_IDS];
} cached_word;

/* A text that was changed; used again for the next. */
typedef struct {
    char *text;
    size_t capacity;
} room;

struct sl_bpe_encoder {
    const sl_bpe *b;
    bool literal;
    sl_ids *out;
    const char *document; /* that is being encoded */
    sl_nfc_room nfc;
    room normal, words, word; /* normalized text, text that words are cut from, a word in the file's letters */
    word_state w;
    cached_word *cache;
    uint64_t cache_mask;
};
typedef sl_bpe_encoder encoder;

static int word_reserve(word_state *w, size_t n) {
    if (w->capacity >= n)
        return 0;
    size_t cap = n + n / 2 + 256;
    /* A merge adds at most two entries and takes one symbol away: n - 1 + 2 (n - 1) < 3 n entries. */
    char *p = n < INT32_MAX / 2 ? malloc(cap * (5 * sizeof(int32_t) + 3 * sizeof(uint64_t))) : NULL;
    if (!p)
        return sl_fail("out of memory for a word of %zu bytes; split the text into documents", n);
    free(w->heap);
    w->heap = (uint64_t *)p;
    w->id = (int32_t *)(w->heap + 3 * cap);
    w->prev = w->id + cap;
    w->next = w->prev + cap;
    w->rank = w->next + cap;
    w->merged = w->rank + cap;
    w->capacity = cap;
    return 0;
}

static void heap_push(word_state *w, uint64_t x) {
    size_t i = w->heap_count++;
    for (; i && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

static uint64_t heap_pop(word_state *w) {
    uint64_t top = w->heap[0], x = w->heap[--w->heap_count];
    size_t i = 0, n = w->heap_count;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && w->heap[child + 1] < w->heap[child])
            child++;
        if (w->heap[child] >= x)
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = x;
    return top;
}

/* Looks up the pair that starts at symbol i (no pair if it is the last) and queues it. */
static void queue_pair(encoder *e, int32_t i, int32_t n) {
    word_state *w = &e->w;
    w->rank[i] = SL_BPE_NO_RANK;
    if (w->next[i] >= n)
        return;
    const sl_bpe_merge *m = sl_bpe_find(e->b, w->id[i], w->id[w->next[i]]);
    if (m->pair == UINT64_MAX)
        return;
    w->rank[i] = m->rank;
    w->merged[i] = m->id;
    heap_push(w, (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)i);
}

static int room_reserve(room *r, size_t n) {
    if (r->capacity >= n)
        return 0;
    size_t capacity = n + n / 2 + 256;
    char *p = capacity > n ? malloc(capacity) : NULL;
    if (!p)
        return sl_fail("out of memory: a text of %zu bytes", n);
    free(r->text);
    *r = (room){p, capacity};
    return 0;
}

/* The symbols of a word before any merge: the token of each character, else those of its bytes. Their number. */
static int32_t first_symbols(const sl_bpe *b, const char *text, size_t n, int32_t *id) {
    int32_t count = 0;
    uint32_t code;
    bool unknown = false; /* the last one */
    for (size_t at = 0, len; at < n; at += len) {
        len = b->chars ? sl_utf8_get(text + at, n - at, &code) : 0;
        int32_t whole = len ? *sl_bpe_place(b, text + at, len) : -1;
        len = len ? len : 1;
        for (size_t i = 0; i < (whole < 0 ? len : 1); i++) {
            int32_t x = whole < 0 ? b->byte_id[(unsigned char)text[at + i]] : whole;
            if (x >= 0)
                id[count++] = x;
            else if (b->unknown >= 0 && !(unknown && b->fuse_unknown))
                id[count++] = b->unknown;
            unknown = x < 0;
        }
    }
    return count;
}

static int merge_word(encoder *e, const char *text, size_t bytes) {
    word_state *w = &e->w;
    if (word_reserve(w, bytes) || sl_ids_reserve(e->out, (int64_t)bytes))
        return -1;
    int32_t n = first_symbols(e->b, text, bytes, w->id);
    w->heap_count = 0;
    for (int32_t i = 0; i < n; i++) {
        w->prev[i] = i - 1;
        w->next[i] = i + 1;
    }
    for (int32_t i = 0; i < n; i++)
        queue_pair(e, i, n);
    while (w->heap_count) {
        uint64_t top = heap_pop(w);
        int32_t i = (int32_t)(uint32_t)top;
        if (w->rank[i] != (int32_t)(top >> 32))
            continue;
        int32_t gone = w->next[i];
        w->id[i] = w->merged[i];
        w->rank[gone] = SL_BPE_NO_RANK;
        w->next[i] = w->next[gone];
        if (w->next[i] < n)
            w->prev[w->next[i]] = i;
        queue_pair(e, i, n);
        if (w->prev[i] >= 0)
            queue_pair(e, w->prev[i], n);
    }
    for (int32_t i = 0; i < n; i = w->next[i])
        e->out->id[e->out->count++] = w->id[i];
    return 0;
}

/* The token that a word of bytes is, -1 if it is none. */
static int whole_word(encoder *e, const char *word, size_t n, int32_t *id) {
    size_t letters = 0;
    if (room_reserve(&e->word, 2 * n))
        return -1;
    for (size_t i = 0; i < n; i++)
        letters += sl_utf8_put(e->word.text + letters, sl_char_of_byte((unsigned char)word[i]));
    *id = *sl_bpe_place(e->b, e->word.text, letters);
    return 0;
}

static int make_word(encoder *e, const char *word, size_t n) {
    int32_t id = -1;
    if (e->b->whole_words && whole_word(e, word, n, &id))
        return -1;
    if (id < 0)
        return merge_word(e, word, n);
    if (sl_ids_reserve(e->out, 1))
        return -1;
    e->out->id[e->out->count++] = id;
    return 0;
}

static int encode_word(encoder *e, const char *word, size_t n) {
    if (n > CACHED_BYTES)
        return make_word(e, word, n);
    cached_word *c = &e->cache[XXH3_64bits(word, n) & e->cache_mask];
    if (c->n == n && !memcmp(c->word, word, n)) {
        if (sl_ids_reserve(e->out, c->ids))
            return -1;
        memcpy(e->out->id + e->out->count, c->id, c->ids * sizeof *c->id);
        e->out->count += c->ids;
        return 0;
    }
    int64_t before = e->out->count;
    if (make_word(e, word, n))
        return -1;
    int64_t made = e->out->count - before;
    if (made > 0 && made <= CACHED_IDS) {
        c->n = (uint8_t)n;
        c->ids = (uint8_t)made;
        memcpy(c->word, word, n);
        memcpy(c->id, e->out->id + before, (size_t)made * sizeof *c->id);
    }
    return 0;
}

/* ---- From text to words ------------------------------------------------------------------------ */

/* Where the next mark begins at or after `at`, n if nowhere. */
static size_t next_mark(const char *text, size_t n, size_t at) {
    const char *p = at < n ? memmem(text + at, n - at, SL_MARK, SL_MARK_BYTES) : NULL;
    return p ? (size_t)(p - text) : n;
}

static bool starts_with_mark(const char *text, size_t n) {
    return n >= SL_MARK_BYTES && memcmp(text, SL_MARK, SL_MARK_BYTES) == 0;
}

/* Words of characters: as the tokenizer cuts them, else as merging may be cut without changing what comes out. */
static size_t chars_word_end(const sl_bpe *b, const char *text, size_t n, size_t at) {
    if (b->split_spaces)
        return next_mark(text, n, at + (starts_with_mark(text + at, n - at) ? SL_MARK_BYTES : 1));
    if (!b->cut_at_marks)
        return n;
    while (starts_with_mark(text + at, n - at))
        at += SL_MARK_BYTES;
    return next_mark(text, n, at);
}

static int encode_words(encoder *e, const char *text, size_t n) {
    const sl_bpe *b = e->b;
    for (size_t at = 0, end; at < n; at = end) {
        end = b->chars ? chars_word_end(b, text, n, at) : b->words ? b->words->word_end(text, n, at) : n;
        if (encode_word(e, text + at, end - at))
            return -1;
    }
    return 0;
}

size_t sl_bpe_mark_spaces(char *out, const char *text, size_t n, bool front) {
    size_t used = 0;
    if (front) {
        memcpy(out, SL_MARK, SL_MARK_BYTES);
        used = SL_MARK_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            out[used++] = text[i];
        } else {
            memcpy(out + used, SL_MARK, SL_MARK_BYTES);
            used += SL_MARK_BYTES;
        }
    }
    return used;
}

static int mark_spaces(room *r, const char **text, size_t *n, bool front) {
    size_t spaces = front;
    for (size_t i = 0; i < *n; i++)
        spaces += (*text)[i] == ' ';
    if (*n > SIZE_MAX / 8 || room_reserve(r, *n + SL_MARK_BYTES * spaces))
        return sl_fail("out of memory: a text of %zu bytes", *n);
    *n = sl_bpe_mark_spaces(r->text, *text, *n, front);
    *text = r->text;
    return 0;
}

/* A stretch of normalized text without added tokens. */
static int encode_plain(encoder *e, const char *text, size_t n) {
    const sl_bpe *b = e->b;
    bool front = n && (b->front == SL_FRONT_EACH || (b->front == SL_FRONT_FIRST && text == e->document)) &&
                 text[0] != ' ' && !(b->metaspace && starts_with_mark(text, n));
    if (n && b->metaspace) {
        if (mark_spaces(&e->words, &text, &n, front))
            return -1;
    } else if (front) {
        if (room_reserve(&e->words, n + 1))
            return -1;
        e->words.text[0] = ' ';
        memcpy(e->words.text + 1, text, n++);
        text = e->words.text;
    }
    return encode_words(e, text, n);
}

/* Does what the normalizer does to a stretch of raw text. */
static int normalize(encoder *e, const char **text, size_t *n) {
    switch (e->b->normalizer) {
    case SL_NORMALIZE_NOT: return 0;
    case SL_NORMALIZE_NFC:
        if (sl_nfc_is_done(*text, *n))
            return 0;
        if (sl_nfc(&e->nfc, *text, *n))
            return -1;
        *text = e->nfc.text;
        *n = e->nfc.n;
        return 0;
    case SL_NORMALIZE_SPACES: return mark_spaces(&e->normal, text, n, false);
    case SL_NORMALIZE_SPACES_FRONT: return mark_spaces(&e->normal, text, n, *n > 0);
    }
    return 0;
}

/* The first of lo .. hi-1, which are alike up to `at` and longer than that, whose byte there is at least c. */
static int first_from(const sl_bpe_added_set *set, int lo, int hi, size_t at, int c) {
    while (lo < hi) {
        int middle = lo + (hi - lo) / 2;
        if ((unsigned char)set->token[middle].text[at] < c)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

/* The longest added token of the set at text[0], NULL if there is none. */
static const sl_bpe_added *added_at(const sl_bpe_added_set *set, const char *text, size_t n) {
    const sl_bpe_added *found = NULL;
    int lo = set->first[(unsigned char)text[0]], hi = set->first[(unsigned char)text[0] + 1];
    /* lo .. hi-1 agree with the first `depth` bytes of the text; those of just that length come first. */
    for (size_t depth = 1; lo < hi; depth++) {
        while (lo < hi && set->token[lo].n == depth)
            found = &set->token[lo++];
        if (depth == n)
            break;
        lo = first_from(set, lo, hi, depth, (unsigned char)text[depth]);
        hi = first_from(set, lo, hi, depth, (unsigned char)text[depth] + 1);
    }
    return found;
}

static int encode_stretch(encoder *e, const char *text, size_t n, int pass);

/* Cuts added tokens out of the text: those of set `pass`, and in between those of the sets after it. */
static int encode_added(encoder *e, const char *text, size_t n, int pass) {
    const sl_bpe_added_set *set = &e->b->added[pass];
    size_t done = 0;
    for (size_t at = 0; set->count && at < n;) {
        const sl_bpe_added *a = added_at(set, text + at, n - at);
        if (!a) {
            at++;
            continue;
        }
        size_t from = at;
        at += a->n;
        if (a->special && e->literal)
            continue;
        if (a->lstrip && from > done)
            from -= sl_space_behind(text + done, from - done);
        if ((from > done && encode_stretch(e, text + done, from - done, pass + 1)) || sl_ids_reserve(e->out, 1))
            return -1;
        e->out->id[e->out->count++] = a->id;
        done = at + (a->rstrip && at < n ? sl_space_before(text + at, n - at) : 0);
    }
    return done < n ? encode_stretch(e, text + done, n - done, pass + 1) : 0;
}

/* Text without the added tokens of the sets before `pass`. */
static int encode_stretch(encoder *e, const char *text, size_t n, int pass) {
    if (pass == 2)
        return encode_plain(e, text, n);
    return normalize(e, &text, &n) || encode_added(e, text, n, pass) ? -1 : 0;
}

sl_bpe_encoder *sl_bpe_encoder_new(const sl_bpe *b, size_t bytes, bool literal) {
    size_t slots = 64;
    while (slots < CACHE_MAX && slots < bytes / 4)
        slots *= 2;
    encoder *e = calloc(1, sizeof *e);
    if (!e || !(e->cache = sl_alloc(slots * sizeof *e->cache, "the tokenizer's cache of words"))) {
        sl_fail("out of memory: a tokenizer's cache");
        free(e);
        return NULL;
    }
    e->b = b;
    e->literal = literal;
    e->cache_mask = slots - 1;
    return e;
}

void sl_bpe_encoder_free(sl_bpe_encoder *e) {
    if (!e)
        return;
    sl_free(e->cache);
    free(e->w.heap);
    free(e->normal.text);
    free(e->words.text);
    free(e->word.text);
    sl_nfc_room_free(&e->nfc);
    free(e);
}

int sl_bpe_encode(sl_bpe_encoder *e, const char *text, size_t n, sl_ids *out) {
    e->out = out;
    e->document = text;
    return encode_added(e, text, n, 0);
}

/* ---- The model --------------------------------------------------------------------------------- */

int32_t sl_bpe_vocab(const sl_bpe *b) { return b->vocab; }
int32_t sl_bpe_bos(const sl_bpe *b) { return b->bos; }
bool sl_bpe_adds_bos(const sl_bpe *b) { return b->adds_bos; }
uint64_t sl_bpe_hash(const sl_bpe *b) { return b->hash; }
int32_t sl_bpe_id(const sl_bpe *b, const char *token, size_t n) { return *sl_bpe_place(b, token, n); }

const char *sl_bpe_piece(const sl_bpe *b, int32_t id, size_t *n) {
    if (id < 0 || id >= b->vocab || !b->token[id].there)
        return NULL;
    *n = b->token[id].piece.n;
    return b->bytes + b->token[id].piece.at;
}

void sl_bpe_free(sl_bpe *b) {
    if (!b)
        return;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; b->added[pass].token && k < b->added[pass].count; k++)
            free(b->added[pass].token[k].text);
        free(b->added[pass].token);
    }
    free(b->token);
    free(b->bytes);
    free(b->index);
    free(b->merge);
    free(b);
}
