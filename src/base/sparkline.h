/* A series of numbers of any length in little memory, and its curve in one line of text. */
#ifndef SL_BASE_SPARKLINE_H
#define SL_BASE_SPARKLINE_H

#include <stdbool.h>
#include <stdint.h>

/* Means of `per` successive numbers each; when there is no more room, neighbours are joined and per doubles. */
enum { SL_SERIES_POINTS = 256 };
typedef struct {
    double point[SL_SERIES_POINTS];
    int points;
    int64_t per, pending; /* per 0: nothing was added yet */
    double sum;           /* of the pending ones, which are less than per, over per */
    double last;          /* the number added last */
} sl_series;              /* zeros are an empty one */

/* Numbers that are not finite are left out. */
void sl_series_add(sl_series *s, double x);

enum { SL_SPARKLINE_CHARS = 256, SL_SPARKLINE_WIDTH = 64 };
/* The whole series in at most `width` columns (to SL_SPARKLINE_WIDTH), from its least number to its greatest; by their
 * logarithms where all are above 0 and the greatest is over ten times the least. utf8: eighths of a block, else ASCII
 * by the ink of a character. "" without a number. Returns buf. */
char *sl_sparkline(char buf[SL_SPARKLINE_CHARS], const sl_series *s, int width, bool utf8);

enum { SL_SHORT_CHARS = 16 };
/* Four digits or fewer in at most seven columns: "3.214", "123.4k", "1.5M", "1.2e-05"; "-" for what is not finite.
 * Returns buf. */
char *sl_format_short(char buf[SL_SHORT_CHARS], double x);

#endif
