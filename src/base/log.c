#include "base/log.h"

#include "base/clock.h"
#include "base/terminal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool quiet;
static sl_warn_fn *warn_fn; /* NULL: lines go to stderr */
static void *warn_ctx;
static sl_progress *bar; /* the one on the screen, NULL if none */

static bool on_terminal(void) { return sl_terminal_is(STDERR_FILENO); }

static bool use_colour(void) { return sl_terminal_colours(STDERR_FILENO); }

void sl_log_quiet(bool q) { quiet = q; }

void sl_warn_to(sl_warn_fn *warn, void *ctx) {
    warn_fn = warn;
    warn_ctx = ctx;
    quiet = warn != NULL;
}

char *sl_format_duration(char buf[SL_DURATION_CHARS], double s) {
    if (!(s >= 0 && s < 1e9)) {
        strcpy(buf, "?");
        return buf;
    }
    long long n = llround(s);
    if (s < 9.95)
        snprintf(buf, SL_DURATION_CHARS, "%.1fs", s);
    else if (n < 60)
        snprintf(buf, SL_DURATION_CHARS, "%llds", n);
    else if (n < 3600)
        snprintf(buf, SL_DURATION_CHARS, "%lldm%02llds", n / 60, n % 60);
    else if (n < 86400)
        snprintf(buf, SL_DURATION_CHARS, "%lldh%02lldm", n / 3600, n / 60 % 60);
    else
        snprintf(buf, SL_DURATION_CHARS, "%lldd%02lldh", n / 86400, n / 3600 % 24);
    return buf;
}

/* ---- lines */

static void clear_bar(void) {
    if (bar && on_terminal())
        fputs("\r\x1b[K", stderr);
}

static void draw(sl_progress *p);

static void say(const char *colour, const char *head, const char *fmt, va_list ap) {
    bool coloured = *colour && use_colour();
    clear_bar();
    fprintf(stderr, "%s%s%s", coloured ? colour : "", head, coloured ? "\x1b[0m" : "");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    if (bar && on_terminal())
        draw(bar);
}

void sl_info(const char *fmt, ...) {
    if (quiet)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("", "", fmt, ap);
    va_end(ap);
}

void sl_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (warn_fn) {
        char line[2048];
        vsnprintf(line, sizeof line, fmt, ap);
        warn_fn(warn_ctx, line);
    } else
        say("\x1b[33m", "warning: ", fmt, ap);
    va_end(ap);
}

/* ---- progress */

double sl_progress_eta(const sl_progress *p) {
    int64_t made = p->done - p->first;
    if (p->total <= 0 || made <= 0)
        return NAN;
    return (double)(p->total - p->done) * (sl_now() - p->start) / (double)made;
}

/* "what 120/1000 12% eta 3m12s" (without total: "what 120, 45s"). */
static int head(const sl_progress *p, char *buf, size_t n) {
    char eta[SL_DURATION_CHARS];
    if (p->total <= 0)
        return snprintf(buf, n, "%s %lld, %s", p->what, (long long)p->done,
                        sl_format_duration(eta, sl_now() - p->start));
    int percent = (int)(100.0 * (double)p->done / (double)p->total);
    bool ended = p->done >= p->total;
    sl_format_duration(eta, ended ? sl_now() - p->start : sl_progress_eta(p));
    return snprintf(buf, n, "%s %lld/%lld %d%% %s %s", p->what, (long long)p->done, (long long)p->total, percent,
                    ended ? "in" : "eta", eta);
}

/* The same with the note behind it. */
static int summary(const sl_progress *p, char *buf, size_t n) {
    int at = head(p, buf, n);
    return at + snprintf(buf + at, n - (size_t)at, "%s%s", *p->note ? ", " : "", p->note);
}

/* The bar takes what the text leaves of the line, up to 30 columns. */
static void draw_bar(const sl_progress *p, int room) {
    char text[512];
    int n = summary(p, text, sizeof text);
    int width = room - n - 3 < 30 ? room - n - 3 : 30;
    if (p->total > 0 && width >= 5) {
        int full = (int)((double)width * (double)p->done / (double)p->total);
        full = full < 0 ? 0 : full > width ? width : full;
        bool colour = use_colour();
        fprintf(stderr, "[%s%.*s%s%*s] ", colour ? "\x1b[32m" : "", full,
                "##############################", colour ? "\x1b[0m" : "", width - full, "");
        room -= width + 3;
    }
    fprintf(stderr, "%.*s", room > 0 ? room : 0, text);
}

/* Those that have a number, as many as there is room for; they share what their names and numbers leave. */
static void draw_curves(const sl_progress *p, int room) {
    enum { LEAST = 4, MOST = 30, NUMBER = 7 };
    char text[512], number[SL_SHORT_CHARS], line[SL_SPARKLINE_CHARS];
    int shown[SL_PROGRESS_CURVES], n = 0, used = head(p, text, sizeof text);
    for (int i = 0; i < p->curves; i++) {
        int more = 2 + (int)strlen(p->curve[i].name) + 1 + NUMBER + 1;
        if (p->curve[i].values.per == 0)
            continue;
        if (used + more + LEAST * (n + 1) > room)
            break;
        used += more;
        shown[n++] = i;
    }
    int width = n ? (room - used) / n : 0;
    bool colour = use_colour(), utf8 = sl_terminal_utf8();
    fprintf(stderr, "%.*s", room > 0 ? room : 0, text);
    for (int i = 0; i < n; i++) {
        const sl_series *values = &p->curve[shown[i]].values;
        sl_sparkline(line, values, width < MOST ? width : MOST, utf8);
        fprintf(stderr, "  %s %-*s %s%s%s", p->curve[shown[i]].name, NUMBER, sl_format_short(number, values->last),
                colour ? "\x1b[32m" : "", line, colour ? "\x1b[0m" : "");
    }
}

/* One column stays free, since some terminals break the line on the last. */
static void draw(sl_progress *p) {
    int room = sl_terminal_columns(STDERR_FILENO) - 1;
    fputs("\r\x1b[K", stderr);
    if (p->curves)
        draw_curves(p, room);
    else
        draw_bar(p, room);
    fflush(stderr);
}

static void show(sl_progress *p) {
    p->shown = sl_now();
    p->shown_done = p->done;
    if (on_terminal()) {
        draw(p);
        return;
    }
    char text[512];
    summary(p, text, sizeof text);
    fprintf(stderr, "%s\n", text);
}

void sl_progress_begin(sl_progress *p, const char *what, int64_t total, int64_t first) {
    double now = sl_now();
    *p = (sl_progress){.what = what,
                       .total = total,
                       .first = first,
                       .done = first,
                       .shown_done = -1,
                       .start = now,
                       .shown = now,
                       .every = on_terminal() ? 0.1 : 10};
    if (!quiet)
        bar = p;
}

void sl_progress_update(sl_progress *p, int64_t done, const char *note, ...) {
    va_list ap;
    va_start(ap, note);
    /* Even if it isn't shown now: it may be the last one. */
    vsnprintf(p->note, sizeof p->note, note, ap);
    va_end(ap);
    p->done = done;
    if (bar == p && sl_now() - p->shown >= p->every)
        show(p);
}

void sl_progress_curve(sl_progress *p, const char *name, double value) {
    int i = 0;
    while (i < p->curves && strcmp(p->curve[i].name, name) != 0)
        i++;
    if (i == SL_PROGRESS_CURVES)
        return;
    p->curve[i].name = name;
    p->curves = i < p->curves ? p->curves : i + 1;
    sl_series_add(&p->curve[i].values, value);
}

void sl_progress_end(sl_progress *p) {
    if (bar != p)
        return;
    if (on_terminal() || p->shown_done != p->done)
        show(p);
    sl_log_break();
}

void sl_log_break(void) {
    if (bar && on_terminal())
        fputc('\n', stderr);
    bar = NULL;
}
