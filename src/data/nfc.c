#include "data/nfc.h"

#include "base/err.h"
#include "data/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Any other character stays what it is, composed or not with those that follow it. */
static const struct {
    uint32_t first, last;
    uint8_t class; /* combining class; 0: none, but may be replaced or composed with the one before it */
} unstable[] = {
#define COMBINING_CLASSES
#include "data/unicode_nfc.inc"
#undef COMBINING_CLASSES
};

typedef struct {
    uint32_t whole, first, second; /* second 0: of one character, which is never composed again */
} decomposition;

static const decomposition decompositions[] = {
#define DECOMPOSITIONS
#include "data/unicode_nfc.inc"
#undef DECOMPOSITIONS
};

static const uint16_t compositions[] = {
#define COMPOSITIONS
#include "data/unicode_nfc.inc"
#undef COMPOSITIONS
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Hangul syllables are composed by arithmetic (The Unicode Standard, 3.12). */
enum {
    SYLLABLES = 0xAC00, LEADS = 0x1100, VOWELS = 0x1161, TAILS = 0x11A7,
    LEAD_COUNT = 19, VOWEL_COUNT = 21, TAIL_COUNT = 28, SYLLABLE_COUNT = LEAD_COUNT * VOWEL_COUNT * TAIL_COUNT,
    FIRST_UNSTABLE = 0x300, STABLE = -1,
};

static bool is_among(uint32_t code, uint32_t first, uint32_t count) { return code >= first && code - first < count; }

/* Combining class, or STABLE. */
static int class_of(uint32_t code) {
    size_t lo = 0, hi = COUNT(unstable);
    if (code < FIRST_UNSTABLE)
        return STABLE;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (code > unstable[middle].last)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo < COUNT(unstable) && code >= unstable[lo].first ? unstable[lo].class : STABLE;
}

static const decomposition *find(uint32_t code) {
    size_t lo = 0, hi = COUNT(decompositions);
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (decompositions[middle].whole < code)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo < COUNT(decompositions) && decompositions[lo].whole == code ? &decompositions[lo] : NULL;
}

/* What the two are composed to, 0 if nothing. */
static uint32_t compose(uint32_t first, uint32_t second) {
    if (is_among(first, LEADS, LEAD_COUNT) && is_among(second, VOWELS, VOWEL_COUNT))
        return SYLLABLES + ((first - LEADS) * VOWEL_COUNT + second - VOWELS) * TAIL_COUNT;
    if (is_among(first, SYLLABLES, SYLLABLE_COUNT) && (first - SYLLABLES) % TAIL_COUNT == 0 &&
        is_among(second, TAILS + 1, TAIL_COUNT - 1))
        return first + second - TAILS;
    size_t lo = 0, hi = COUNT(compositions);
    uint64_t pair = (uint64_t)first << 32 | second;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        const decomposition *d = &decompositions[compositions[middle]];
        if (((uint64_t)d->first << 32 | d->second) < pair)
            lo = middle + 1;
        else
            hi = middle;
    }
    const decomposition *d = lo < COUNT(compositions) ? &decompositions[compositions[lo]] : NULL;
    return d && d->first == first && d->second == second ? d->whole : 0;
}

/* ---- A stretch: a character and the unstable ones behind it -------------------------------------- */

/* A character as room->chars has it: class << 56 | code; while marks are sorted, their order in between. */
enum { CLASS_SHIFT = 56, ORDER_SHIFT = 24, CODE_MASK = (1 << ORDER_SHIFT) - 1 };

static uint64_t entry(uint32_t code) {
    int class = class_of(code);
    return (uint64_t)(class > 0 ? class : 0) << CLASS_SHIFT | code;
}

static int push(sl_nfc_room *room, size_t at, uint64_t x) {
    if (at == room->chars_capacity) {
        size_t want = 2 * at + 64;
        uint64_t *p = want < SIZE_MAX / sizeof *p ? realloc(room->chars, want * sizeof *p) : NULL;
        if (!p)
            return sl_fail("out of memory: %zu characters to normalize", want);
        room->chars = p;
        room->chars_capacity = want;
    }
    room->chars[at] = x;
    return 0;
}

/* Appends what the character is decomposed to. */
static int decompose(sl_nfc_room *room, size_t *count, uint32_t code) {
    if (is_among(code, SYLLABLES, SYLLABLE_COUNT)) {
        uint32_t k = code - SYLLABLES, tail = k % TAIL_COUNT;
        return push(room, (*count)++, LEADS + k / (VOWEL_COUNT * TAIL_COUNT)) ||
               push(room, (*count)++, VOWELS + k % (VOWEL_COUNT * TAIL_COUNT) / TAIL_COUNT) ||
               (tail && push(room, (*count)++, TAILS + tail));
    }
    const decomposition *d = find(code);
    if (!d)
        return push(room, (*count)++, entry(code));
    return decompose(room, count, d->first) || (d->second && decompose(room, count, d->second));
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Puts each run of marks in the order of their classes, those of one class as they stood. */
static void sort_marks(uint64_t *c, size_t n) {
    for (size_t at = 0, end; at < n; at = end + 1) {
        for (end = at; end < n && c[end] >> CLASS_SHIFT; end++)
            c[end] |= (uint64_t)(end - at) << ORDER_SHIFT;
        if (end - at > 1)
            qsort(c + at, end - at, sizeof *c, ascending);
    }
}

/* Composes in place and returns how many characters are left. */
static size_t compose_all(uint64_t *c, size_t n) {
    size_t starter = SIZE_MAX, out = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = (uint32_t)(c[i] & CODE_MASK), class = (uint32_t)(c[i] >> CLASS_SHIFT), whole = 0;
        /* A mark is cut off from its starter by another of its class, a starter by any mark. */
        bool reaches = starter != SIZE_MAX && (out == starter + 1 || c[out - 1] >> CLASS_SHIFT < class);
        if (reaches && (whole = compose((uint32_t)(c[starter] & CODE_MASK), code))) {
            c[starter] = whole;
            continue;
        }
        c[out] = c[i];
        if (!class)
            starter = out;
        out++;
    }
    return out;
}

static int reserve(sl_nfc_room *room, size_t more) {
    if (room->capacity - room->n >= more)
        return 0;
    size_t want = room->n + more;
    want += want / 2 + 256;
    char *p = want > room->n ? realloc(room->text, want) : NULL;
    if (!p)
        return sl_fail("out of memory: a text of %zu bytes to normalize", room->n + more);
    room->text = p;
    room->capacity = want;
    return 0;
}

/* Normalizes the stretch in text[0 .. n-1]. */
static int add_stretch(sl_nfc_room *room, const char *text, size_t n) {
    size_t count = 0;
    uint32_t code = 0;
    for (size_t at = 0; at < n;) {
        at += sl_utf8_get(text + at, n - at, &code);
        if (decompose(room, &count, code))
            return -1;
    }
    sort_marks(room->chars, count);
    count = compose_all(room->chars, count);
    if (reserve(room, count * SL_UTF8_MAX))
        return -1;
    for (size_t i = 0; i < count; i++)
        room->n += sl_utf8_put(room->text + room->n, (uint32_t)(room->chars[i] & CODE_MASK));
    return 0;
}

/* ---- A text -------------------------------------------------------------------------------------- */

/* Where the next unstable character at or after `at` stands, n if nowhere; *before: where the character before it
 * starts, or it itself where there is none to be composed with. */
static size_t find_unstable(const char *text, size_t n, size_t at, size_t *before) {
    *before = at;
    for (size_t len; at < n; at += len) {
        uint32_t code = 0;
        len = sl_utf8_get(text + at, n - at, &code);
        if (len && class_of(code) != STABLE)
            return at;
        *before = len ? at : at + 1;
        len = len ? len : 1;
    }
    return n;
}

static size_t stretch_end(const char *text, size_t n, size_t at) {
    for (size_t len; at < n; at += len) {
        uint32_t code;
        len = sl_utf8_get(text + at, n - at, &code);
        if (!len || class_of(code) == STABLE)
            return at;
    }
    return n;
}

static int add(sl_nfc_room *room, const char *text, size_t n) {
    if (reserve(room, n))
        return -1;
    if (n)
        memcpy(room->text + room->n, text, n);
    room->n += n;
    return 0;
}

bool sl_nfc_is_done(const char *text, size_t n) {
    size_t before;
    return find_unstable(text, n, 0, &before) == n;
}

int sl_nfc(sl_nfc_room *room, const char *text, size_t n) {
    room->n = 0;
    for (size_t at = 0, end, from; at < n; at = end) {
        size_t mark = find_unstable(text, n, at, &from);
        end = stretch_end(text, n, mark);
        if (mark == n)
            from = n;
        if (add(room, text + at, from - at) || add_stretch(room, text + from, end - from))
            return -1;
    }
    return 0;
}

void sl_nfc_room_free(sl_nfc_room *room) {
    free(room->text);
    free(room->chars);
    *room = (sl_nfc_room){0};
}
