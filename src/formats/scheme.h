/* A scheme: a quantiser of weights and one of activations. The table is scheme.inc, which says what the words mean. */
#ifndef SL_FORMATS_SCHEME_H
#define SL_FORMATS_SCHEME_H

#include "formats/format.h"

/* Which activations share a scale, and whether they are there when it is chosen. */
enum sl_range { SL_RANGE_NONE, SL_RANGE_STATIC, SL_RANGE_AFFINE, SL_RANGE_WINDOW, SL_RANGE_TOKEN, SL_RANGE_BLOCK };

typedef struct {
    const char *name;
    sl_quantiser weights;    /* of each matrix */
    sl_quantiser activations; /* of a static range: blocks as they are without one */
    enum sl_range range;
} sl_scheme;

enum { SL_SCHEME_HELP = 256 };
int sl_schemes(void);
const sl_scheme *sl_scheme_at(int i);
/* NULL with a message that names the nearest. */
const sl_scheme *sl_scheme_find(const char *name);
/* One line in words. */
void sl_scheme_describe(const sl_scheme *s, char text[SL_SCHEME_HELP]);

/* Does it need calibration? */
static inline bool sl_range_is_static(enum sl_range r) { return r == SL_RANGE_STATIC || r == SL_RANGE_AFFINE; }
/* Are products sums of integers times one scale a row on either side? Then they are computed so
 * (ops/quant/linear_int.h). */
bool sl_scheme_is_integer(const sl_scheme *s);

#endif
