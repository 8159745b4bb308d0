#include "cli/screen.h"

#include "base/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Alternate screen, no cursor, long lines are cut off; and back. */
#define ENTER "\x1b[?1049h\x1b[?25l\x1b[?7l"
#define LEAVE "\x1b[?7h\x1b[?25h\x1b[?1049l"

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH};
enum { SIGNALS = sizeof signals / sizeof *signals };
static volatile sig_atomic_t quit, stop, anew;

static struct {
    struct sigaction actions[SIGNALS];
    sigset_t mask; /* in which signals come, while it waits */
    struct termios terminal;
    bool keys; /* standard input is a terminal, whose settings are those */
} before;

static void on_signal(int s) {
    if (s == SIGTSTP)
        stop = 1;
    else if (s == SIGCONT || s == SIGWINCH)
        anew = 1;
    else
        quit = 1;
}

static void say(const char *sequence) {
    fputs(sequence, stdout);
    fflush(stdout);
}

static void enter(void) {
    if (before.keys) {
        struct termios t = before.terminal;
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
    }
    say(ENTER);
}

static void leave(void) {
    say(LEAVE);
    if (before.keys)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &before.terminal);
}

void sl_screen_open(void) {
    struct sigaction act = {.sa_handler = on_signal};
    sigset_t ours;
    quit = stop = anew = 0;
    sigemptyset(&ours);
    for (int i = 0; i < SIGNALS; i++)
        sigaddset(&ours, signals[i]);
    sigprocmask(SIG_BLOCK, &ours, &before.mask);
    for (int i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &act, &before.actions[i]);
    before.keys = tcgetattr(STDIN_FILENO, &before.terminal) == 0;
    enter();
}

void sl_screen_close(void) {
    leave();
    for (int i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &before.actions[i], NULL);
    sigprocmask(SIG_SETMASK, &before.mask, NULL);
}

void sl_screen_draw(const char *text) {
    int rows = sl_terminal_rows(STDOUT_FILENO);
    fputs("\x1b[H", stdout);
    while (*text && rows-- > 0) {
        int n = (int)strcspn(text, "\n");
        text += n;
        printf("%.*s\x1b[K", n, text - n);
        if (*text == '\n' && *++text && rows > 0)
            putchar('\n');
    }
    say("\x1b[J");
}

/* Ctrl-Z: the shell finds the terminal as it left it. */
static void be_stopped(void) {
    stop = 0;
    leave();
    raise(SIGSTOP);
    enter();
}

static bool key_quits(void) {
    char key = 0;
    return read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q';
}

enum sl_screen_event sl_screen_wait(double seconds) {
    struct timespec left = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    struct pollfd keys = {.fd = before.keys ? STDIN_FILENO : -1, .events = POLLIN};
    int ready = ppoll(&keys, 1, &left, &before.mask);
    if (stop)
        be_stopped();
    else if (anew)
        enter();
    anew = 0;
    return quit || (ready > 0 && key_quits()) || (ready < 0 && errno != EINTR) ? SL_SCREEN_QUIT : SL_SCREEN_TIME;
}
