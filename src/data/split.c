#include "data/split.h"

#include <stdint.h>

enum { OTHER, LETTER, NUMBER, SPACE };

static const struct {
    uint32_t first, last;
    int class;
} ranges[] = {
#include "data/unicode_classes.inc"
};

static int class_of(uint32_t code) {
    int lo = 0, hi = (int)(sizeof ranges / sizeof *ranges);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (code > ranges[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < (int)(sizeof ranges / sizeof *ranges) && code >= ranges[lo].first
               ? ranges[lo].class
               : OTHER;
}

static int ascii_class(unsigned char c) {
    if ((c | 32) >= 'a' && (c | 32) <= 'z')
        return LETTER;
    if (c >= '0' && c <= '9')
        return NUMBER;
    return c == ' ' || (c >= '\t' && c <= '\r') ? SPACE : OTHER;
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629: no overlong form, no surrogate, at most U+10FFFF) and
 * its code; 0 if there is none. */
static size_t utf8(const unsigned char *s, size_t n, uint32_t *code) {
    size_t len = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (!len || len > n)
        return 0;
    uint32_t c = s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if ((len == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) ||
        (len == 4 && (c < 0x10000 || c > 0x10FFFF)))
        return 0;
    *code = c;
    return len;
}

/* Class of the character at s and its length. */
static int next(const unsigned char *s, size_t n, size_t *len) {
    *len = 1;
    if (s[0] < 0x80)
        return ascii_class(s[0]);
    uint32_t code;
    size_t l = utf8(s, n, &code);
    if (!l)
        return OTHER;
    *len = l;
    return class_of(code);
}

/* Length of 's 't 'm 'd 're 've 'll at s, 0 if there is none. */
static size_t contraction(const unsigned char *s, size_t n) {
    if (n < 2 || s[0] != '\'')
        return 0;
    if (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd')
        return 2;
    if (n < 3)
        return 0;
    return (s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l')
               ? 3
               : 0;
}

size_t sl_split_word(const char *text, size_t n, size_t at) {
    const unsigned char *s = (const unsigned char *)text;
    size_t len = contraction(s + at, n - at);
    if (len)
        return at + len;
    size_t i = at + (s[at] == ' ' && at + 1 < n);
    int class = next(s + i, n - i, &len);
    if (class != SPACE) {
        do
            i += len;
        while (i < n && next(s + i, n - i, &len) == class);
        return i;
    }
    /* White space up to the end of the text is one word; before a word its last character is left to that word. */
    size_t last = at;
    for (i = at; i < n && next(s + i, n - i, &len) == SPACE; i += len)
        last = i;
    return i == n || last == at ? i : last;
}
