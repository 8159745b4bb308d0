/* What a run says while it works, on stderr; results go to stdout. For one thread at a time. */
#ifndef SL_BASE_LOG_H
#define SL_BASE_LOG_H

#include "base/sparkline.h"
#include "sinklab.h" /* sl_warn_to() */

#include <stdbool.h>
#include <stdint.h>

/* One line; a progress bar that is being shown makes room and comes back. */
void sl_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same after "warning: ". */
void sl_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Leaves out sl_info and progress (not warnings); for --quiet and libraries. */
void sl_log_quiet(bool quiet);

enum { SL_DURATION_CHARS = 24 };
/* "0.8s" (below ten seconds), "45s", "3m12s", "2h05m", "4d03h"; "?" for NaN, infinite, negative.
 * Returns buf. */
char *sl_format_duration(char buf[SL_DURATION_CHARS], double seconds);

/* Progress of `total` equal units (0: unknown), with an ETA. On a terminal one line, redrawn ten times a second at
 * most: a bar and the note, or, where there are curves (sl_progress_curve), these in their place. Elsewhere (and with
 * TERM=dumb) a plain line with the note at most every ten seconds, and the last one. No colour if NO_COLOR is set
 * (no-color.org). One at a time. */
enum { SL_PROGRESS_CURVES = 3 };
typedef struct {
    const char *what;
    int64_t total, first, done;
    int64_t shown_done; /* `done` of the last showing */
    double start, shown; /* times of sl_now() */
    double every;        /* seconds between two showings */
    char note[160];
    int curves;
    struct {
        const char *name;
        sl_series values;
    } curve[SL_PROGRESS_CURVES];
} sl_progress;

/* first: units that were there already (a resumed run); they don't count for the speed. */
void sl_progress_begin(sl_progress *p, const char *what, int64_t total, int64_t first);
/* note: what to show besides ("loss 3.21 ..."). Cheap enough for every step. */
void sl_progress_update(sl_progress *p, int64_t done, const char *note, ...)
    __attribute__((format(printf, 3, 4)));
/* The next number of the curve called `name` (kept, not copied); one that is not finite is none, but holds the curve's
 * place. Where the terminal is narrow, curves that were named later are left out first. Drawn with the next update. */
void sl_progress_curve(sl_progress *p, const char *name, double value);
void sl_progress_end(sl_progress *p);
/* After a failure: what is on the screen stays, the next output starts on a line of its own. */
void sl_log_break(void);
/* Seconds still to go at the speed so far; NaN while unknown. */
double sl_progress_eta(const sl_progress *p);

#endif
