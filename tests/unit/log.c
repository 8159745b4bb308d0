/* base/log: what arrives on stderr, as a file and as a terminal. */
#include "base/log.h"
#include "suite.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int saved_stderr, reader;
static char got[65536];

static void capture_into(int fd) {
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
    close(fd);
}

static void capture_pipe(void) {
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    reader = ends[0];
    capture_into(ends[1]);
}

static void capture_terminal(void) {
    reader = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert(reader >= 0 && grantpt(reader) == 0 && unlockpt(reader) == 0);
    int slave = open(ptsname(reader), O_RDWR | O_NOCTTY);
    ck_assert_int_ge(slave, 0);
    capture_into(slave);
}

/* Everything since the capture began. A terminal hands output on in pieces and late: read to a
 * marker. */
static const char *end_capture(void) {
    static const char marker[] = "<end of capture>";
    size_t n = 0;
    char *end;
    fputs(marker, stderr);
    fflush(stderr);
    do {
        ssize_t more = read(reader, got + n, sizeof got - 1 - n);
        ck_assert_int_gt(more, 0);
        n += (size_t)more;
        got[n] = '\0';
    } while (!(end = strstr(got, marker)));
    *end = '\0';
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(reader);
    return got;
}

/* Is the text head, a duration below ten seconds, tail? */
static bool is_timed(const char *text, const char *head, const char *tail) {
    size_t n = strlen(head), digits = strspn(text + (strlen(text) > n ? n : 0), "0123456789.");
    return strncmp(text, head, n) == 0 && digits == 3 && strcmp(text + n + digits, tail) == 0;
}

START_TEST(durations) {
    static const struct {
        double seconds;
        const char *text;
    } t[] = {{0, "0.0s"},        {9.94, "9.9s"},    {9.96, "10s"},     {59.4, "59s"},
             {59.6, "1m00s"},    {192, "3m12s"},    {3599.7, "1h00m"}, {7500, "2h05m"},
             {86399.6, "1d00h"}, {356400, "4d03h"}, {-1, "?"},         {INFINITY, "?"},
             {NAN, "?"},         {1e300, "?"}};
    char buf[SL_DURATION_CHARS];
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        ck_assert_str_eq(sl_format_duration(buf, t[i].seconds), t[i].text);
}
END_TEST

START_TEST(lines_to_a_file) {
    capture_pipe();
    sl_info("at %d", 5);
    sl_warn("careful");
    sl_log_quiet(true);
    sl_info("unheard");
    sl_warn("still");
    sl_log_quiet(false);
    ck_assert_str_eq(end_capture(), "at 5\nwarning: careful\nwarning: still\n");
}
END_TEST

/* Elsewhere than on a terminal there are whole lines only, few of them, and the last state is one.
 */
START_TEST(progress_to_a_file) {
    sl_progress p;
    capture_pipe();
    sl_progress_begin(&p, "train", 1000, 0);
    for (int i = 1; i <= 1000; i++)
        sl_progress_update(&p, i, "loss %d", i);
    sl_progress_end(&p);
    ck_assert(is_timed(end_capture(), "train 1000/1000 100% in ", "s, loss 1000\n"));
    capture_pipe();
    sl_progress_begin(&p, "train", 0, 0);
    sl_progress_update(&p, 7, "%s", "");
    sl_progress_end(&p);
    ck_assert(is_timed(end_capture(), "train 7, ", "s\n"));
    capture_pipe();
    sl_progress_begin(&p, "train", 0, 0);
    p.every = 0; /* each update is due */
    sl_progress_update(&p, 1, "%s", "a");
    sl_progress_update(&p, 2, "%s", "b");
    sl_progress_end(&p); /* has been shown: not again */
    const char *all = end_capture(), *last = strstr(all, "s, b\n");
    ck_assert(strstr(all, "s, a\ntrain 2, ") && last && !last[5]);
}
END_TEST

START_TEST(progress_on_a_terminal) {
    sl_progress p;
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    capture_terminal();
    sl_progress_begin(&p, "train", 4, 0);
    p.every = 0;
    sl_progress_update(&p, 2, "loss 1");
    sl_info("message");
    sl_progress_end(&p);
    const char *all = end_capture();
    ck_assert_ptr_nonnull(
        strstr(all, "\r\x1b[K[\x1b[32m###############\x1b[0m               ] train 2/4 50% eta "));
    ck_assert_ptr_nonnull(
        strstr(all, "\r\x1b[Kmessage\r\n")); /* on a line of its own, then the bar again */
    ck_assert_str_eq(all + strlen(all) - 2, "\r\n");

    setenv("NO_COLOR", "1", 1);
    capture_terminal();
    sl_progress_begin(&p, "train", 4, 0);
    p.every = 0;
    sl_progress_update(&p, 2, "loss 1");
    sl_log_break();
    all = end_capture();
    ck_assert_ptr_nonnull(strstr(all, "[###############               ] train 2/4"));
    ck_assert_ptr_null(strstr(all, "\x1b[32m"));

    setenv("TERM", "dumb", 1);
    capture_terminal();
    sl_progress_begin(&p, "train", 4, 0);
    sl_progress_update(&p, 4, "loss 1");
    sl_progress_end(&p);
    ck_assert(is_timed(end_capture(), "train 4/4 100% in ", "s, loss 1\r\n"));
}
END_TEST

/* A line longer than the terminal would wrap and leave its beginning behind at the next drawing. */
START_TEST(bar_fits_the_line) {
    sl_progress p;
    char note[160];
    memset(note, 'n', sizeof note - 1);
    note[sizeof note - 1] = '\0';
    setenv("TERM", "xterm", 1);
    capture_terminal();
    sl_progress_begin(&p, "train", 4, 0);
    p.every = 0;
    sl_progress_update(&p, 2, "%s", note);
    sl_progress_end(&p);
    for (char *line = strtok((char *)(uintptr_t)end_capture(), "\r\n"); line;
         line = strtok(NULL, "\r\n"))
        ck_assert_uint_le(strlen(line), 79 + strlen("\x1b[K"));
}
END_TEST

static void set_columns(int columns) {
    struct winsize w = {.ws_row = 24, .ws_col = (unsigned short)columns};
    ck_assert_int_eq(ioctl(STDERR_FILENO, TIOCSWINSZ, &w), 0);
}

/* What a line with two curves, one of them without a number yet, is in a window of so many columns. */
static const char *line_with_curves(int columns) {
    static sl_progress p;
    capture_terminal();
    set_columns(columns);
    sl_progress_begin(&p, "step", 4, 0);
    p.every = 0;
    p.start -= 3600; /* what the ETA shows is the same for any speed */
    sl_progress_curve(&p, "loss", NAN);
    sl_progress_curve(&p, "M2", NAN);
    sl_progress_curve(&p, "tok/s", 12345);
    sl_progress_curve(&p, "loss", 2);
    sl_progress_curve(&p, "loss", 1);
    sl_progress_update(&p, 2, "loss 1, all of it");
    sl_log_break();
    return end_capture();
}

START_TEST(curves_in_place_of_the_note) {
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "1", 1);
    setenv("LC_ALL", "C", 1);
    ck_assert_str_eq(line_with_curves(100), "\r\x1b[Kstep 2/4 50% eta 1h00m  loss 1       #_  tok/s 12.35k  _\r\n");
    setenv("LC_ALL", "C.UTF-8", 1);
    ck_assert_str_eq(line_with_curves(100), "\r\x1b[Kstep 2/4 50% eta 1h00m  loss 1       █▁  tok/s 12.35k  ▁\r\n");
    ck_assert_str_eq(line_with_curves(50), "\r\x1b[Kstep 2/4 50% eta 1h00m  loss 1       █▁\r\n");
    ck_assert_str_eq(line_with_curves(11), "\r\x1b[Kstep 2/4 5\r\n");
    unsetenv("NO_COLOR");
    ck_assert_str_eq(line_with_curves(50), "\r\x1b[Kstep 2/4 50% eta 1h00m  loss 1       \x1b[32m█▁\x1b[0m\r\n");
    setenv("TERM", "dumb", 1); /* a plain line has the note */
    ck_assert_str_eq(line_with_curves(100), "step 2/4 50% eta 1h00m, loss 1, all of it\r\n");
    unsetenv("LC_ALL");
}
END_TEST

START_TEST(eta_counts_only_this_run) {
    sl_progress p;
    sl_log_quiet(true);
    sl_progress_begin(&p, "train", 1000, 900);
    ck_assert(isnan(sl_progress_eta(&p)));
    p.start -= 10; /* ten seconds ago */
    sl_progress_update(&p, 950, "%s", "");
    ck_assert_double_eq_tol(sl_progress_eta(&p), 10, 0.5); /* 50 units in 10 s, 50 to go */
    sl_progress_end(&p);
    sl_log_quiet(false);
}
END_TEST

int main(void) {
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    tcase_add_test(t, durations);
    tcase_add_test(t, lines_to_a_file);
    tcase_add_test(t, progress_to_a_file);
    tcase_add_test(t, progress_on_a_terminal);
    tcase_add_test(t, bar_fits_the_line);
    tcase_add_test(t, curves_in_place_of_the_note);
    tcase_add_test(t, eta_counts_only_this_run);
    suite_add_tcase(s, t);
    return run_suite(s);
}
