#include "base/sparkline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void halve(sl_series *s) {
    for (int i = 0; i < SL_SERIES_POINTS / 2; i++)
        s->point[i] = (s->point[2 * i] + s->point[2 * i + 1]) / 2;
    s->points = SL_SERIES_POINTS / 2;
    s->per *= 2;
}

void sl_series_add(sl_series *s, double x) {
    if (!isfinite(x))
        return;
    if (s->per == 0)
        s->per = 1;
    if (s->points == SL_SERIES_POINTS)
        halve(s);
    s->last = x;
    s->sum += x / (double)s->per; /* in parts: the sum of large numbers may overflow */
    if (++s->pending < s->per)
        return;
    s->point[s->points++] = s->sum;
    s->pending = 0, s->sum = 0;
}

/* The series in `width` columns or fewer: means of the points that fall into each. */
static int columns_of(const sl_series *s, int width, double column[SL_SPARKLINE_WIDTH]) {
    int n = s->points < width ? s->points : width;
    for (int i = 0; i < n; i++) {
        int from = s->points * i / n, to = s->points * (i + 1) / n;
        column[i] = 0;
        for (int j = from; j < to; j++)
            column[i] += s->point[j] / (to - from);
    }
    return n;
}

static void range_of(const double *x, int n, double *least, double *greatest) {
    *least = INFINITY, *greatest = -INFINITY;
    for (int i = 0; i < n; i++)
        *least = fmin(*least, x[i]), *greatest = fmax(*greatest, x[i]);
}

char *sl_sparkline(char buf[SL_SPARKLINE_CHARS], const sl_series *s, int width, bool utf8) {
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ink[] = {"_", ".", "-", ":", "=", "+", "*", "#"};
    enum { LEVELS = sizeof blocks / sizeof *blocks };
    double column[SL_SPARKLINE_WIDTH], least, greatest;
    int n = columns_of(s, width < SL_SPARKLINE_WIDTH ? width : SL_SPARKLINE_WIDTH, column);
    range_of(column, n, &least, &greatest);
    bool logarithmic = least > 0 && greatest / 10 > least;
    *buf = '\0';
    for (int i = 0; i < n; i++) {
        double share = logarithmic ? log(column[i] / least) / log(greatest / least)
                                   : (column[i] / 2 - least / 2) / (greatest / 2 - least / 2);
        int level = (int)(share * LEVELS);
        level = !(share > 0) ? 0 : level < LEVELS ? level : LEVELS - 1; /* NaN: all are equal */
        strcat(buf, (utf8 ? blocks : ink)[level]);
    }
    return buf;
}

char *sl_format_short(char buf[SL_SHORT_CHARS], double x) {
    static const struct {
        double from, unit;
        const char *letter;
    } units[] = {{1e12, 1e12, "T"}, {1e9, 1e9, "G"}, {1e6, 1e6, "M"}, {9999.5, 1e3, "k"}, {0, 1, ""}};
    enum { MOST = 7 };
    double size = fabs(x);
    size_t i = 0;
    strcpy(buf, "-");
    if (!isfinite(x))
        return buf;
    while (size < units[i].from)
        i++;
    if ((size > 0 && size < .01) || size >= 1e16) {
        if (snprintf(buf, SL_SHORT_CHARS, "%.1e", x) > MOST)
            snprintf(buf, SL_SHORT_CHARS, "%.0e", x);
    } else
        snprintf(buf, SL_SHORT_CHARS, "%.*g%s", size < .1 ? 3 : 4, x / units[i].unit, units[i].letter);
    return buf;
}
