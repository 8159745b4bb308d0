/* What a terminal can do. */
#ifndef SL_BASE_TERMINAL_H
#define SL_BASE_TERMINAL_H

#include <stdbool.h>

/* Whether fd is a terminal that can erase a line: one whose TERM is not dumb. */
bool sl_terminal_is(int fd);
/* ... and colours are wanted there: NO_COLOR is empty or not set (no-color.org). */
bool sl_terminal_colours(int fd);
/* Whether the locale of the environment is one of UTF-8 that this system has. */
bool sl_terminal_utf8(void);
/* Its size now; 80 and 24 where it does not tell. */
int sl_terminal_columns(int fd);
int sl_terminal_rows(int fd);

#endif
