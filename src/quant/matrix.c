#include "quant/format.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"

#include <math.h>

enum { ITEM_ROWS = 32 };

static int64_t at_most(int64_t x, int64_t hi) { return x < hi ? x : hi; }
static int64_t div_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

/* Blocks of `size` along n; 0: one block of all. */
static int64_t blocks_along(int64_t n, int64_t size) { return size ? div_up(n, size) : n > 0; }

sl_scale_layout sl_quant_blocks(const sl_quantiser *q, int64_t rows, int64_t d) {
    return (sl_scale_layout){.down = blocks_along(rows, q->block_rows),
                       .across = blocks_along(d, q->block_cols),
                       .outers = q->scale == SL_SCALE_E4M3 ? blocks_along(rows, q->outer_rows) : 0};
}

/* Index of the block, or the outer scale, that a row is in. */
static int64_t block_of(int64_t row, int64_t size) { return size ? row / size : 0; }

/* What a threaded pass over the rows of a matrix works on. */
typedef struct {
    const sl_kernels *kn;
    const sl_quantiser *q;
    const sl_grid *grid;
    int64_t rows, d, group, across, ldx, ldy;
    const float *x, *scale, *value;
    float *y, *own; /* own: where to put the scales of blocks of one row, which are to be taken from x */
    uint8_t *code;
    int bad; /* an x was not finite */
} pass;

static pass pass_of(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, int64_t rows, int64_t d) {
    return (pass){.kn = kn, .q = q, .grid = grid, .rows = rows, .d = d, .group = q->block_cols ? q->block_cols : d,
                  .across = sl_quant_blocks(q, rows, d).across};
}

static int refuse(const char *what) {
    return sl_fail("cannot quantise %s: it has a NaN or an infinity; take an earlier checkpoint, or find with "
                   "'sinklab probe' where it begins", what);
}

static void amax_item(void *ctx, int64_t item, int thread) {
    const pass *p = ctx;
    (void)thread;
    int64_t row = item * ITEM_ROWS, rows = at_most(p->rows - row, ITEM_ROWS);
    p->kn->quant_amax(rows, p->d, p->x + row * p->ldx, p->ldx, p->group, p->y + row * p->across, p->across);
}

/* amax of the rows of each block from those of each row, which may be the same memory. */
static int fold(const sl_quantiser *q, int64_t rows, int64_t across, const float *of_rows, float *amax) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t g = 0; g < across; g++) {
            float a = of_rows[i * across + g];
            float *to = amax + block_of(i, q->block_rows) * across + g;
            if (isnan(a))
                return -1;
            *to = i == 0 || block_of(i - 1, q->block_rows) != block_of(i, q->block_rows) || a > *to ? a : *to;
        }
    return 0;
}

int sl_quant_amax(const sl_kernels *kn, const sl_quantiser *q, const char *what, int64_t rows, int64_t d,
                  const float *x, int64_t ldx, float *amax) {
    pass p = pass_of(kn, q, NULL, rows, d);
    float *of_rows = q->block_rows == 1 ? amax : sl_alloc((size_t)(rows * p.across) * sizeof *of_rows, "row maxima");
    if (!of_rows)
        return -1;
    p.x = x;
    p.ldx = ldx;
    p.y = of_rows;
    sl_parallel(div_up(rows, ITEM_ROWS), amax_item, &p);
    int failed = fold(q, rows, p.across, of_rows, amax);
    if (of_rows != amax)
        sl_free(of_rows);
    return failed ? refuse(what) : 0;
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

/* Rows from `row` on, at most `rows`, whose scales lie one after the other (blocks of one row) or are the same. */
static int64_t same_scales(const sl_quantiser *q, int64_t row, int64_t rows) {
    return q->block_rows > 1 ? at_most(rows, q->block_rows - row % q->block_rows) : rows;
}

static void take_scales(const pass *p, int64_t row, int64_t rows) {
    float *scale = p->own + row * p->across;
    p->kn->quant_amax(rows, p->d, p->x + row * p->ldx, p->ldx, p->group, scale, p->across);
    for (int64_t i = 0; i < rows * p->across; i++)
        scale[i] = isnan(scale[i]) ? 0 : sl_scale_of(p->q->scale, p->q->format, scale[i], 0, NULL);
}

static void quantise_item(void *ctx, int64_t item, int thread) {
    pass *p = ctx;
    (void)thread;
    int64_t row = item * ITEM_ROWS, last = at_most(row + ITEM_ROWS, p->rows), rows;
    if (p->own)
        take_scales(p, row, last - row);
    int64_t lds = p->q->block_rows == 1 ? p->across : 0;
    for (; row < last; row += rows) {
        rows = same_scales(p->q, row, last - row);
        const float *scale = p->scale + block_of(row, p->q->block_rows) * p->across, *x = p->x + row * p->ldx;
        int finite = 1;
        if (p->value)
            p->kn->quant_values(p->value, rows, p->d, p->code + row * p->ldx, p->ldx, p->group, scale, lds,
                                p->y + row * p->ldy, p->ldy);
        else if (p->code)
            finite = p->kn->quant_codes(p->grid, rows, p->d, x, p->ldx, p->group, scale, lds, p->code + row * p->ldy,
                                        p->ldy);
        else
            finite = p->kn->quant_round(p->grid, rows, p->d, x, p->ldx, p->group, scale, lds, p->y + row * p->ldy,
                                        p->ldy);
        if (!finite)
            __atomic_store_n(&p->bad, 1, __ATOMIC_RELAXED);
    }
}

int sl_quant_round(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, float *y, int64_t ldy) {
    pass p = pass_of(kn, q, grid, rows, d);
    p.x = x;
    p.ldx = ldx;
    p.scale = scale;
    p.y = y;
    p.ldy = ldy;
    sl_parallel(div_up(rows, ITEM_ROWS), quantise_item, &p);
    return p.bad ? refuse(what) : 0;
}

static int codes(pass *p, const char *what, const float *x, int64_t ldx, const float *scale, uint8_t *code, int64_t ldc) {
    p->x = x;
    p->ldx = ldx;
    p->scale = scale;
    p->code = code;
    p->ldy = ldc;
    sl_parallel(div_up(p->rows, ITEM_ROWS), quantise_item, p);
    return p->bad ? refuse(what) : 0;
}

int sl_quant_codes(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                   int64_t d, const float *x, int64_t ldx, const float *scale, uint8_t *code, int64_t ldc) {
    pass p = pass_of(kn, q, grid, rows, d);
    return codes(&p, what, x, ldx, scale, code, ldc);
}

int sl_quant_codes_by_row(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, const char *what, int64_t rows,
                          int64_t d, const float *x, int64_t ldx, float *scale, uint8_t *code, int64_t ldc) {
    pass p = pass_of(kn, q, grid, rows, d);
    p.own = scale;
    return codes(&p, what, x, ldx, scale, code, ldc);
}

void sl_quant_values(const sl_kernels *kn, const sl_quantiser *q, const sl_grid *grid, int64_t rows, int64_t d,
                     const uint8_t *code, int64_t ldc, const float *scale, float *y, int64_t ldy) {
    float value[256];
    sl_grid_values(grid, value);
    pass p = pass_of(kn, q, grid, rows, d);
    p.value = value;
    p.code = (uint8_t *)(uintptr_t)code;
    p.ldx = ldc;
    p.scale = scale;
    p.y = y;
    p.ldy = ldy;
    sl_parallel(div_up(rows, ITEM_ROWS), quantise_item, &p);
}
