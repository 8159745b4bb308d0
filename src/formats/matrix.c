#include "formats/format.h"

#include "base/err.h"
#include "program/op.h"

#include <math.h>

/* Blocks of `size` along n; 0: one block of all. */
static int64_t blocks_along(int64_t n, int64_t size) { return size ? sl_div_up(n, size) : n > 0; }

sl_scale_layout sl_quant_blocks(const sl_quantiser *q, int64_t rows, int64_t d) {
    return (sl_scale_layout){.down = blocks_along(rows, q->block_rows),
                             .across = blocks_along(d, q->block_cols),
                             .outers = q->scale == SL_SCALE_E4M3 ? blocks_along(rows, q->outer_rows) : 0};
}

/* Index of the block, or the outer scale, that a row is in. */
static int64_t block_of(int64_t row, int64_t size) { return size ? row / size : 0; }

/* Columns that share a scale. */
static int64_t group_of(const sl_quantiser *q, int64_t d) { return q->block_cols ? q->block_cols : d; }

int sl_quant_refuse(const char *what) {
    return sl_fail("cannot quantise %s: it has a NaN or an infinity; take an earlier checkpoint, or find with "
                   "'sinklab probe' where it begins", what);
}

enum { AT_ONCE = 64 };

/* amax[groups] of the rows of one block, at most AT_ONCE groups of columns; false where one is not finite. */
static bool block_amax(const sl_kernels *kn, int64_t rows, int64_t d, const float *x, int64_t ldx, int64_t group,
                       int64_t groups, float *amax) {
    float row[AT_ONCE];
    for (int64_t g = 0; g < groups; g++)
        amax[g] = 0;
    for (int64_t i = 0; i < rows; i++) {
        kn->quant_amax(1, d, x + i * ldx, ldx, group, row, groups);
        for (int64_t g = 0; g < groups; g++) {
            if (isnan(row[g]))
                return false;
            amax[g] = row[g] > amax[g] ? row[g] : amax[g];
        }
    }
    return true;
}

int sl_quant_amax(const sl_kernels *kn, const sl_quantiser *q, const char *what, int64_t rows, int64_t d,
                  const float *x, int64_t ldx, float *amax) {
    sl_scale_layout b = sl_quant_blocks(q, rows, d);
    int64_t group = group_of(q, d), block = q->block_rows ? q->block_rows : rows;
    for (int64_t i = 0; i < b.down; i++)
        for (int64_t g = 0; g < b.across; g += AT_ONCE) {
            int64_t groups = sl_min(b.across - g, AT_ONCE);
            if (!block_amax(kn, sl_min(block, rows - i * block), sl_min(d - g * group, groups * group),
                            x + i * block * ldx + g * group, ldx, group, groups, amax + i * b.across + g))
                return sl_quant_refuse(what);
        }
    return 0;
}

void sl_quant_outer(const sl_quantiser *q, int64_t rows, int64_t d, const float *amax, float *outer) {
    sl_scale_layout b = sl_quant_blocks(q, rows, d);
    for (int64_t o = 0; o < b.outers; o++)
        outer[o] = 0;
    for (int64_t i = 0; i < b.down; i++)
        for (int64_t g = 0; g < b.across; g++) {
            float *o = outer + block_of(i * q->block_rows, q->outer_rows);
            *o = fmaxf(*o, amax[i * b.across + g]);
        }
    for (int64_t o = 0; o < b.outers; o++)
        outer[o] = sl_scale_outer(q->format, outer[o]);
}

void sl_quant_scales(const sl_quantiser *q, int64_t rows, int64_t d, const float *amax, const float *outer,
                     float *scale, uint8_t *code) {
    sl_scale_layout b = sl_quant_blocks(q, rows, d);
    for (int64_t i = 0; i < b.down; i++)
        for (int64_t g = 0; g < b.across; g++) {
            int64_t at = i * b.across + g;
            float over = outer ? outer[block_of(i * q->block_rows, q->outer_rows)] : 0;
            scale[at] = sl_scale_of(q->scale, q->format, amax[at], over, code ? code + at : NULL);
        }
}

/* Rows whose scales lie one after the other (blocks of one row) or are the same, and where those begin. */
typedef struct {
    int64_t n, group, lds;
    const float *scale;
} strip;

static strip strip_at(const sl_quantiser *q, int64_t row, int64_t rows, int64_t d, const float *scale) {
    int64_t across = sl_quant_blocks(q, rows, d).across, left = rows - row, size = q->block_rows;
    return (strip){size > 1 ? sl_min(left, size - row % size) : left, group_of(q, d), size == 1 ? across : 0,
                   scale + block_of(row, size) * across};
}

int sl_quant_round(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, float *y, int64_t ldy) {
    for (int64_t row = 0; row < rows;) {
        strip s = strip_at(q, row, rows, d, scale);
        if (!kn->quant_round(grid, s.n, d, x + row * ldx, ldx, s.group, s.scale, s.lds, y + row * ldy, ldy))
            return sl_quant_refuse(what);
        row += s.n;
    }
    return 0;
}

int sl_quant_codes(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, uint8_t *code, int64_t ldc) {
    for (int64_t row = 0; row < rows;) {
        strip s = strip_at(q, row, rows, d, scale);
        if (!kn->quant_codes(grid, s.n, d, x + row * ldx, ldx, s.group, s.scale, s.lds, code + row * ldc, ldc))
            return sl_quant_refuse(what);
        row += s.n;
    }
    return 0;
}

int sl_quant_codes_by_row(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what,
                          int64_t rows, int64_t d, const float *x, int64_t ldx, float *scale, uint8_t *code,
                          int64_t ldc) {
    enum { ROWS = 32 }; /* that stay in a core's cache */
    int64_t across = sl_quant_blocks(q, rows, d).across;
    for (int64_t row = 0; row < rows; row += ROWS) {
        int64_t n = sl_min(rows - row, ROWS);
        float *of = scale + row * across;
        kn->quant_amax(n, d, x + row * ldx, ldx, group_of(q, d), of, across);
        for (int64_t i = 0; i < n * across; i++)
            of[i] = isnan(of[i]) ? 0 : sl_scale_of(q->scale, q->format, of[i], 0, NULL);
        if (sl_quant_codes(kn, q, grid, what, n, d, x + row * ldx, ldx, of, code + row * ldc, ldc) < 0)
            return -1;
    }
    return 0;
}

void sl_quant_values(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, int64_t rows, int64_t d,
                     const uint8_t *code, int64_t ldc, const float *scale, float *y, int64_t ldy) {
    float value[256];
    sl_grid_values(grid, value);
    for (int64_t row = 0; row < rows;) {
        strip s = strip_at(q, row, rows, d, scale);
        kn->quant_values(value, s.n, d, code + row * ldc, ldc, s.group, s.scale, s.lds, y + row * ldy, ldy);
        row += s.n;
    }
}
