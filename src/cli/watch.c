/* sinklab watch: a run while it trains. */
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/terminal.h"
#include "cli/args.h"
#include "cli/screen.h"
#include "cli/verbs.h"
#include "train/follow.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double LOOK = .5, SAY = 10; /* seconds between two looks; between two lines elsewhere than on a terminal */

/* ---- one line */

static void put_number(FILE *f, const char *head, const sl_series *s) {
    char number[SL_SHORT_CHARS];
    if (s->per)
        fprintf(f, "%s%s", head, sl_format_short(number, s->last));
}

/* "step 120/1000 12%", as much of it as is known. */
static void put_step(FILE *f, const sl_follow *w) {
    if (w->step < 0)
        fputs("no step yet", f);
    else if (w->steps == 0)
        fprintf(f, "step %lld", (long long)w->step);
    else
        fprintf(f, "step %lld/%lld %.0f%%", (long long)w->step, (long long)w->steps,
                floor(100 * (double)w->step / (double)w->steps));
}

static void put_times(FILE *f, const sl_follow *w) {
    char text[SL_DURATION_CHARS];
    if (isfinite(w->seconds))
        fprintf(f, ", %s of training", sl_format_duration(text, w->seconds));
    if (isfinite(sl_follow_eta(w)))
        fprintf(f, ", eta %s", sl_format_duration(text, sl_follow_eta(w)));
}

static void print_line(const sl_follow *w) {
    char number[SL_SHORT_CHARS];
    int64_t unreadable = w->metrics.unreadable + w->probes.unreadable;
    printf("%s: ", sl_follow_state_name(w->state));
    put_step(stdout, w);
    put_number(stdout, ", loss ", &w->loss);
    put_number(stdout, ", validation loss ", &w->val_loss);
    put_number(stdout, ", M2 ", &w->m2);
    put_number(stdout, ", max ", &w->most);
    if (isfinite(w->tokens_per_s))
        printf(", %s tokens/s", sl_format_short(number, w->tokens_per_s));
    put_times(stdout, w);
    if (unreadable)
        printf(", %lld lines cannot be read", (long long)unreadable);
    putchar('\n');
}

static int print(const sl_follow *w, bool json) {
    if (!json)
        print_line(w);
    json_t *o = json ? sl_follow_json(w) : NULL;
    if (json && (!o || json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9))))
        return json_decref(o), sl_fail("cannot write JSON: out of memory, the path is no UTF-8, or output closed");
    json_decref(o);
    if (json)
        putchar('\n');
    return fflush(stdout) ? sl_fail_errno("cannot write", "the standard output") : 0;
}

/* ---- the whole screen */

static void put_curve(FILE *f, const char *name, const sl_series *s) {
    enum { BESIDE = 26 }; /* columns of all but the curve */
    char number[SL_SHORT_CHARS] = "-", line[SL_SPARKLINE_CHARS];
    if (s->per)
        sl_format_short(number, s->last);
    int width = sl_terminal_columns(STDOUT_FILENO) - BESIDE;
    fprintf(f, "%-16s %-8s %s\n", name, number, sl_sparkline(line, s, width > 0 ? width : 0, sl_terminal_utf8()));
}

static void put_path(FILE *f, const char *path) {
    for (; *path; path++)
        fputc((unsigned char)*path < 0x20 || *path == 0x7f ? '?' : *path, f);
}

/* The text of the screen, to be freed; NULL with a message. */
static char *screen_text(const sl_follow *w) {
    char *text = NULL, number[SL_SHORT_CHARS];
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f)
        return sl_fail("out of memory for the screen"), NULL;
    put_path(f, w->path);
    fprintf(f, ": %s\n", sl_follow_state_name(w->state));
    put_step(f, w);
    put_times(f, w);
    fputs("\n\n", f);
    put_curve(f, "loss", &w->loss);
    put_curve(f, "validation loss", &w->val_loss);
    put_curve(f, "M2", &w->m2);
    put_curve(f, "largest |h|", &w->most);
    fprintf(f, "%-16s %s\n", "tokens/s", sl_format_short(number, w->tokens_per_s));
    if (w->probe_step >= 0)
        fprintf(f, "\nM2 and |h|: step %lld\n", (long long)w->probe_step);
    if (w->metrics.unreadable + w->probes.unreadable)
        fprintf(f, "%lld lines cannot be read\n", (long long)(w->metrics.unreadable + w->probes.unreadable));
    fputs("\nq ends", f);
    if (fclose(f)) {
        free(text);
        return sl_fail("out of memory for the screen"), NULL;
    }
    return text;
}

static int draw(const sl_follow *w) {
    char *text = screen_text(w);
    if (text)
        sl_screen_draw(text);
    free(text);
    return text ? 0 : -1;
}

static int watch_on_screen(sl_follow *w) {
    int rc = sl_follow_poll(w) < 0 ? -1 : 0;
    if (rc == 0 && w->state == SL_FOLLOW_RUNNING) {
        sl_screen_open();
        while (!(rc = draw(w)) && w->state == SL_FOLLOW_RUNNING && sl_screen_wait(LOOK) != SL_SCREEN_QUIT)
            if ((rc = sl_follow_poll(w) < 0 ? -1 : 0))
                break;
        sl_screen_close();
    }
    return rc ? -1 : print(w, false);
}

/* ---- elsewhere */

static int watch_in_lines(sl_follow *w, bool json) {
    double said = -INFINITY;
    for (bool more = false;;) {
        int news = sl_follow_poll(w);
        if (news < 0)
            return -1;
        bool ends = w->state != SL_FOLLOW_RUNNING;
        more = more || news;
        if (ends || (more && sl_now() - said >= SAY)) {
            if (print(w, json))
                return -1;
            said = sl_now(), more = false;
        }
        if (ends)
            return 0;
        nanosleep(&(struct timespec){0, (long)(1e9 * LOOK)}, NULL);
    }
}

int sl_verb_watch(int argc, char **argv) {
    bool once = false, json = false;
    const sl_flag flags[] = {SL_FLAG_BOOL("once", &once, "print how it stands, and end"),
                             SL_FLAG_BOOL("json", &json, "print JSON objects, one a line, in place of text"),
                             SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "watch",
        .operands = "RUN",
        .about = "Shows a run while it trains: step, loss, M2, the largest activation and their curves, read from its "
                 "metrics.jsonl and probe.jsonl. It ends with the run, by q or Ctrl-C, and leaves a line that says how "
                 "the run stands: running, finished, stopped (by its guard or an error), or ended (interrupted or "
                 "killed; train --resume goes on). Where the output is no terminal it is such a line every ten seconds "
                 "at most.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = 1,
        .examples = "sinklab watch runs/base\nsinklab watch runs/base --once --json\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    sl_follow w;
    if (sl_follow_open(&w, args.positional[0]))
        return -1;
    if (once)
        rc = sl_follow_poll(&w) < 0 ? -1 : print(&w, json);
    else if (!json && sl_terminal_is(STDOUT_FILENO))
        rc = watch_on_screen(&w);
    else
        rc = watch_in_lines(&w, json);
    sl_follow_close(&w);
    return rc;
}
