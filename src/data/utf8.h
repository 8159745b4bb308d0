/* Characters of UTF-8 (RFC 3629: no overlong form, no surrogate, at most U+10FFFF). */
#ifndef SL_DATA_UTF8_H
#define SL_DATA_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { SL_UTF8_MAX = 4 };

/* Bytes of the well-formed character at s, n > 0 bytes long at most, and its code; 0 if there is none. */
static inline size_t sl_utf8_get(const char *text, size_t n, uint32_t *code) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
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

/* Writes the character of a code and returns its bytes. */
static inline size_t sl_utf8_put(char out[SL_UTF8_MAX], uint32_t code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(0xF00 >> len | code);
    return len;
}

#endif
