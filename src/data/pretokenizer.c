#include "data/pretokenizer.h"

#include "data/utf8.h"

#include <string.h>

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

/* Class of the character at s and its length. */
static int next(const char *s, size_t n, size_t *len) {
    *len = 1;
    if ((unsigned char)s[0] < 0x80)
        return ascii_class((unsigned char)s[0]);
    uint32_t code;
    size_t l = sl_utf8_get(s, n, &code);
    if (!l)
        return OTHER;
    *len = l;
    return class_of(code);
}

/* End of the characters of a class from `at` on, at most `most` of them. */
static size_t run_end(const char *s, size_t n, size_t at, int class, size_t most) {
    size_t len;
    for (; at < n && most > 0 && next(s + at, n - at, &len) == class; most--)
        at += len;
    return at;
}

static bool is_line_end(char c) { return c == '\n' || c == '\r'; }

/* ---- Parts of the patterns ---------------------------------------------------------------------- */

/* Length of 's|'t|'m|'d|'re|'ve|'ll at s, 0 if there is none. */
static size_t contraction(const char *s, size_t n) {
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

/* The same in upper and lower case; U+017F is a lower-case s, too. */
static size_t contraction_of_any_case(const char *s, size_t n) {
    char lower[3] = "";
    for (size_t i = 0; i < n && i < sizeof lower; i++)
        lower[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] | 32 : s[i]);
    return n >= 3 && !memcmp(s, "'\u017F", 3) ? 3 : contraction(lower, n < sizeof lower ? n : sizeof lower);
}

/* \s+(?!\S)|\s+ : white space up to the end of the text is one word; before a word its last character is left to that
 * word. */
static size_t space_end(const char *s, size_t n, size_t at) {
    size_t i, len, last = at;
    for (i = at; i < n && next(s + i, n - i, &len) == SPACE; i += len)
        last = i;
    return i == n || last == at ? i : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t space_or_lines_end(const char *s, size_t n, size_t at) {
    size_t end = run_end(s, n, at, SPACE, n), line = end;
    while (line > at && !is_line_end(s[line - 1]))
        line--;
    return line > at ? line : space_end(s, n, at);
}

/* ---- The rows ------------------------------------------------------------------------------------ */

static size_t gpt2(const char *s, size_t n, size_t at) {
    size_t len = contraction(s + at, n - at);
    if (len)
        return at + len;
    size_t i = at + (s[at] == ' ' && at + 1 < n);
    int class = next(s + i, n - i, &len);
    return class == SPACE ? space_end(s, n, at) : run_end(s, n, i, class, n);
}

/* Where a number comes GPT-2's pattern sees the end of the text: of white space before it nothing is left over. */
static size_t smollm(const char *s, size_t n, size_t at) {
    size_t len, end;
    int class = next(s + at, n - at, &len);
    if (class == NUMBER)
        return at + len;
    if (class == SPACE && (end = run_end(s, n, at, SPACE, n)) < n && next(s + end, n - end, &len) == NUMBER)
        return end;
    return gpt2(s, n, at);
}

static size_t cl100k(const char *s, size_t n, size_t at, size_t most_digits) {
    size_t len, behind = contraction_of_any_case(s + at, n - at);
    if (behind)
        return at + behind;
    int class = next(s + at, n - at, &len);
    if (class == LETTER)
        return run_end(s, n, at, LETTER, n);
    if (class == NUMBER)
        return run_end(s, n, at, NUMBER, most_digits);
    size_t letters = at + len;
    if (!is_line_end(s[at]) && (behind = run_end(s, n, letters, LETTER, n)) > letters)
        return behind;
    size_t other = s[at] == ' ' ? at + 1 : at;
    if ((behind = run_end(s, n, other, OTHER, n)) > other) {
        while (behind < n && is_line_end(s[behind]))
            behind++;
        return behind;
    }
    return space_or_lines_end(s, n, at);
}

static size_t qwen2(const char *s, size_t n, size_t at) { return cl100k(s, n, at, 1); }
static size_t llama3(const char *s, size_t n, size_t at) { return cl100k(s, n, at, 3); }

static const sl_pretokenizer rows[] = {
#define PRETOKENIZER(name, patterns) {#name, patterns, name},
#include "tables/pretokenizer.inc"
#undef PRETOKENIZER
};

const sl_gguf_pre sl_gguf_pres[] = {
#define PRETOKENIZER(...)
#define GGUF_PRE(name, pretokenizer, nfc, whole_words, adds_bos) {name, #pretokenizer, nfc, whole_words, adds_bos},
#include "tables/pretokenizer.inc"
    {0}};

const sl_pretokenizer *sl_pretokenizer_of_patterns(const char *patterns) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(patterns, rows[i].patterns) == 0)
            return &rows[i];
    return NULL;
}

const sl_pretokenizer *sl_pretokenizer_named(const char *name) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].name) == 0)
            return &rows[i];
    return NULL;
}

/* ---- White space --------------------------------------------------------------------------------- */

size_t sl_space_before(const char *text, size_t n) { return run_end(text, n, 0, SPACE, n); }

size_t sl_space_behind(const char *text, size_t n) {
    size_t space = 0, len;
    for (size_t at = n; at > 0;) {
        size_t from = at - 1;
        while (from > 0 && at - from < SL_UTF8_MAX && ((unsigned char)text[from] & 0xC0) == 0x80)
            from--;
        if (next(text + from, at - from, &len) != SPACE || len != at - from)
            break;
        space += len;
        at = from;
    }
    return space;
}
