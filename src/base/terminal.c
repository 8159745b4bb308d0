#include "base/terminal.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool sl_terminal_is(int fd) {
    const char *term = getenv("TERM");
    return isatty(fd) && !(term && strcmp(term, "dumb") == 0);
}

bool sl_terminal_colours(int fd) {
    const char *no = getenv("NO_COLOR");
    return sl_terminal_is(fd) && !(no && *no);
}

bool sl_terminal_utf8(void) {
    locale_t own = newlocale(LC_CTYPE_MASK, "", (locale_t)0); /* the program itself stays in "C" */
    bool utf8 = own && strcmp(nl_langinfo_l(CODESET, own), "UTF-8") == 0;
    if (own)
        freelocale(own);
    return utf8;
}

int sl_terminal_columns(int fd) {
    struct winsize w;
    return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

int sl_terminal_rows(int fd) {
    struct winsize w;
    return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 ? w.ws_row : 24;
}
