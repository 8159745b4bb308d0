#include "formats/scheme.h"

#include "base/err.h"
#include "base/text.h"

#include <stdio.h>
#include <string.h>

/* format, scale, rows and columns of a block, rows of a second scale */
#define GRAIN_tensor(f) {SL_FORMAT_##f, SL_SCALE_F32, 0, 0, 0}
#define GRAIN_channel(f) {SL_FORMAT_##f, SL_SCALE_F32, 1, 0, 0}
#define GRAIN_g32(f) {SL_FORMAT_##f, SL_SCALE_F32, 1, 32, 0}
#define GRAIN_g64(f) {SL_FORMAT_##f, SL_SCALE_F32, 1, 64, 0}
#define GRAIN_g128(f) {SL_FORMAT_##f, SL_SCALE_F32, 1, 128, 0}
#define GRAIN_block(f) {SL_FORMAT_##f, SL_SCALE_F32, 128, 128, 0}
#define GRAIN_nvfp4(f) {SL_FORMAT_##f, SL_SCALE_E4M3, 1, 16, 0}
#define GRAIN_mxfp4(f) {SL_FORMAT_##f, SL_SCALE_E8M0, 1, 32, 0}
/* Blocks of activations follow the weights' where a format has them, and are rows elsewhere. */
#define ROWS_tensor(f) GRAIN_channel(f)
#define ROWS_channel(f) GRAIN_channel(f)
#define ROWS_g32(f) GRAIN_channel(f)
#define ROWS_g64(f) GRAIN_channel(f)
#define ROWS_g128(f) GRAIN_channel(f)
#define ROWS_block(f) GRAIN_channel(f)
#define ROWS_nvfp4(f) GRAIN_nvfp4(f)
#define ROWS_mxfp4(f) GRAIN_mxfp4(f)

static const sl_scheme table[] = {
#define SCHEME(name, weights, grain, activations, range)                                                              \
    {name, GRAIN_##grain(weights), ROWS_##grain(activations), SL_RANGE_##range},
#include "tables/scheme.inc"
#undef SCHEME
    {.name = NULL}};

int sl_schemes(void) { return (int)(sizeof table / sizeof *table) - 1; }
const sl_scheme *sl_scheme_at(int i) { return &table[i]; }

const sl_scheme *sl_scheme_find(const char *name) {
    char quoted[SL_QUOTE_CHARS];
    for (const sl_scheme *s = table; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    const char *near = sl_nearest(name, table, sizeof *table);
    if (near)
        sl_fail_usage("unknown scheme %s; did you mean %s?", sl_quote(quoted, name), near);
    else
        sl_fail_usage("unknown scheme %s; `sinklab quantize --list` has them all", sl_quote(quoted, name));
    return NULL;
}

static void blocks_in_words(const sl_quantiser *q, const char *row, char *text, size_t size) {
    const char *scale = q->scale == SL_SCALE_F32 ? "" : sl_scale_names[q->scale];
    if (q->block_rows == 0)
        snprintf(text, size, "a scale per tensor");
    else if (q->block_cols == 0)
        snprintf(text, size, "a scale per %s", row);
    else if (q->block_rows == 1)
        snprintf(text, size, "a scale %s%s%sper %lld columns", *scale ? "in " : "", scale, *scale ? " " : "",
                 (long long)q->block_cols);
    else
        snprintf(text, size, "a scale per block of %lld x %lld", (long long)q->block_rows, (long long)q->block_cols);
}

void sl_scheme_describe(const sl_scheme *s, char text[SL_SCHEME_HELP]) {
    static const char *const range[] = {
        [SL_RANGE_NONE] = "", [SL_RANGE_STATIC] = "per tensor, from calibration",
        [SL_RANGE_AFFINE] = "and zero point per tensor, from calibration", [SL_RANGE_WINDOW] = "per window",
        [SL_RANGE_TOKEN] = "per token", [SL_RANGE_BLOCK] = ""};
    char weights[64], blocks[64];
    blocks_in_words(&s->weights, "output channel", weights, sizeof weights);
    const char *second = s->weights.scale == SL_SCALE_E4M3 ? ", a second one per tensor" : "";
    int n = snprintf(text, SL_SCHEME_HELP, "weights %s, %s%s; activations ", sl_formats[s->weights.format].name,
                     weights, second);
    if (s->range == SL_RANGE_NONE) {
        snprintf(text + n, SL_SCHEME_HELP - (size_t)n, "as they are");
        return;
    }
    n += snprintf(text + n, SL_SCHEME_HELP - (size_t)n, "%s, ", sl_formats[s->activations.format].name);
    if (s->activations.block_cols) {
        blocks_in_words(&s->activations, "token", blocks, sizeof blocks);
        n += snprintf(text + n, SL_SCHEME_HELP - (size_t)n, "%s%s", blocks, *range[s->range] ? ", a second one " : "");
    } else {
        n += snprintf(text + n, SL_SCHEME_HELP - (size_t)n, "a scale ");
    }
    snprintf(text + n, SL_SCHEME_HELP - (size_t)n, "%s", range[s->range]);
}

bool sl_scheme_is_integer(const sl_scheme *s) {
    return s->range != SL_RANGE_NONE && sl_formats[s->weights.format].integer && s->weights.block_cols == 0 &&
           sl_formats[s->activations.format].integer;
}
