#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static void make_c_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* This thread's locale becomes "C"; give the result to uselocale() to undo it. */
static locale_t enter_c_locale(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_c_locale);
    return uselocale(c_locale);
}

static const char *skip_digits(const char *s) {
    while (*s >= '0' && *s <= '9')
        s++;
    return s;
}

/* [+-] digits [. digits] [e [+-] digits] with a digit before or after the point; *whole: digits
 * only. */
static bool is_decimal(const char *s, bool *whole) {
    s += *s == '+' || *s == '-';
    const char *int_end = skip_digits(s), *end = int_end;
    int64_t digits = int_end - s;
    if (*end == '.') {
        end = skip_digits(end + 1);
        digits += end - int_end - 1;
    }
    if (digits == 0)
        return false;
    if (*end == 'e' || *end == 'E') {
        const char *exponent = end + 1 + (end[1] == '+' || end[1] == '-');
        end = skip_digits(exponent);
        if (end == exponent)
            return false;
    }
    *whole = end == int_end;
    return *end == '\0';
}

bool sl_parse_real(const char *text, double *v) {
    bool whole;
    if (!is_decimal(text, &whole))
        return false;
    locale_t old = enter_c_locale();
    double x = strtod(text, NULL);
    uselocale(old);
    if (!isfinite(x))
        return false;
    *v = x;
    return true;
}

bool sl_parse_int(const char *text, int64_t *v) {
    bool whole;
    if (!is_decimal(text, &whole))
        return false;
    if (whole) {
        errno = 0;
        long long x = strtoll(text, NULL, 10);
        if (errno)
            return false;
        *v = x;
        return true;
    }
    double x;
    if (!sl_parse_real(text, &x) || x != floor(x) || fabs(x) > 0x1p53)
        return false;
    *v = (int64_t)x;
    return true;
}

char *sl_format_real(char buf[SL_REAL_CHARS], double v) {
    locale_t old = enter_c_locale();
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, SL_REAL_CHARS, "%.*g", digits, v);
        if (strtod(buf, NULL) == v)
            break;
    }
    if (strchr(buf, 'e') && v == floor(v) && fabs(v) < 1e6) /* 10000 rather than 1e+04 */
        snprintf(buf, SL_REAL_CHARS, "%.0f", v);
    uselocale(old);
    return buf;
}

char *sl_quote(char buf[SL_QUOTE_CHARS], const char *text) {
    size_t n = 0;
    buf[n++] = '"';
    for (; *text && n < 64; text++) {
        unsigned char ch = (unsigned char)*text;
        if (ch < 0x20 || ch == 0x7f)
            n += (size_t)snprintf(buf + n, 5, "\\x%02x", ch);
        else
            buf[n++] = (char)ch;
    }
    while ((*text & 0xc0) == 0x80 && n < 80) /* to the end of a UTF-8 character, if it is one */
        buf[n++] = *text++;
    snprintf(buf + n, SL_QUOTE_CHARS - n, *text ? "...\"" : "\"");
    return buf;
}

const char *sl_format_shape(char buf[SL_SHAPE_CHARS], int ndim, const int64_t *shape) {
    size_t at = (size_t)snprintf(buf, SL_SHAPE_CHARS, "[");
    for (int i = 0; i < ndim; i++)
        at += (size_t)snprintf(buf + at, SL_SHAPE_CHARS - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(buf + at, SL_SHAPE_CHARS - at, "]");
    return buf;
}

static int min3(int a, int b, int c) { return a < b ? (a < c ? a : c) : (b < c ? b : c); }

int sl_edit_distance(const char *a, const char *b) {
    enum { MOST = 63, FAR = 1000 };
    size_t la = strlen(a), lb = strlen(b);
    if (la > MOST || lb > MOST)
        return FAR;
    int rows[3][MOST + 1]; /* of the usual table: the one being filled and the two before it */
    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = (int)j;
    for (size_t i = 1; i <= la; i++) {
        int *now = rows[i % 3], *before = rows[(i + 2) % 3], *before2 = rows[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = min3(before[j] + 1, now[j - 1] + 1, before[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]) && before2[j - 2] + 1 < now[j])
                now[j] = before2[j - 2] + 1;
        }
    }
    return rows[la % 3][lb];
}

const char *sl_nearest(const char *word, const void *table, size_t stride) {
    const char *best = NULL;
    int best_distance = INT_MAX;
    for (const char *p = table;; p += stride) {
        const char *name;
        memcpy(&name, p, sizeof name);
        if (!name)
            break;
        int d = sl_edit_distance(word, name);
        if (d < best_distance)
            best = name, best_distance = d;
    }
    size_t n = strlen(word);
    return best && best_distance <= (int)(n / 3) + 1 && (size_t)best_distance < n ? best : NULL;
}

void sl_print_wrapped(FILE *f, const char *text, int at, int indent, int width) {
    bool line_start = true;
    while (*text == ' ')
        text++;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (!line_start && at + 1 + word > width) {
            fprintf(f, "\n%*s", indent, "");
            at = indent;
            line_start = true;
        }
        at += fprintf(f, "%s%.*s", line_start ? "" : " ", word, text);
        line_start = false;
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}
