/* The whole screen of a terminal, for a verb that shows something while it changes. However the verb ends, the terminal
 * is as it was: also on Ctrl-C, SIGTERM and SIGHUP, and while it is stopped by Ctrl-Z. One at a time. */
#ifndef SL_CLI_SCREEN_H
#define SL_CLI_SCREEN_H

/* Standard output must be a terminal (base/terminal.h). Keys are read where standard input is one. */
void sl_screen_open(void);
void sl_screen_close(void);
/* Shows the lines of a text from the top on; those that do not fit are cut off. */
void sl_screen_draw(const char *text);
enum sl_screen_event {
    SL_SCREEN_TIME, /* it is over, or the screen wants to be drawn anew: another size, or it was stopped */
    SL_SCREEN_QUIT  /* q, Ctrl-C, SIGTERM, SIGHUP, or nobody is there */
};
enum sl_screen_event sl_screen_wait(double seconds);

#endif
