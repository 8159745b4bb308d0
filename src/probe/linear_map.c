/* Linear maps that singular.c takes apart: a weight matrix, a block fitted to its tokens, a chain of blocks. */
#include "probe/detail.h"

#include "base/threads.h"

#include <math.h>
#include <string.h>

enum { ROWS = 16 }; /* rows (columns) of one item; a cut by shape alone */

static int64_t items_of(int64_t n) { return (n + ROWS - 1) / ROWS; }
static int64_t end_of(int64_t item, int64_t n) { return (item + 1) * ROWS < n ? (item + 1) * ROWS : n; }

/* ---- a weight matrix */

typedef struct {
    const sl_matrix *m;
    const double *in;
    double *out;
} product;

static void rows_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const product *p = ctx;
    for (int64_t r = item * ROWS; r < end_of(item, p->m->rows); r++) {
        const float *w = p->m->w + r * p->m->cols;
        double s = 0;
        for (int64_t c = 0; c < p->m->cols; c++)
            s += w[c] * p->in[c];
        p->out[r] = s;
    }
}

static void columns_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const product *p = ctx;
    int64_t first = item * ROWS, end = end_of(item, p->m->cols);
    memset(p->out + first, 0, (size_t)(end - first) * sizeof(double));
    for (int64_t r = 0; r < p->m->rows; r++)
        for (int64_t c = first; c < end; c++)
            p->out[c] += p->m->w[r * p->m->cols + c] * p->in[r];
}

static void matrix_apply(const void *map, const double *x, double *y) {
    const sl_matrix *m = map;
    sl_parallel(items_of(m->rows), rows_item, &(product){m, x, y});
}

static void matrix_transposed(const void *map, const double *y, double *x) {
    const sl_matrix *m = map;
    sl_parallel(items_of(m->cols), columns_item, &(product){m, y, x});
}

sl_linear sl_linear_matrix(const sl_matrix *m) {
    return (sl_linear){m->rows, m->cols, matrix_apply, matrix_transposed, m};
}

/* ---- a block */

typedef struct {
    sl_block_map *m;
    int64_t windows, seq;
    const float *h, *next;
} fit;

static void fit_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const fit *f = ctx;
    int64_t d = f->m->dim;
    for (int64_t t = 0; t < f->windows * f->seq; t++) {
        const float *restrict h = f->h + t * d, *next = f->next + t * d;
        if (t % f->seq == 0)
            continue;
        for (int64_t r = item * ROWS; r < end_of(item, d); r++) {
            double *restrict gram = f->m->gram + r * d, *restrict cross = f->m->cross + r * d;
            double x = h[r], dx = (double)next[r] - h[r];
            for (int64_t c = 0; c < d; c++) {
                gram[c] += x * h[c];
                cross[c] += dx * h[c];
            }
        }
    }
}

void sl_block_map_add(sl_block_map *m, int64_t windows, int64_t seq, const float *h, const float *next) {
    sl_parallel(items_of(m->dim), fit_item, &(fit){m, windows, seq, h, next});
    m->tokens += windows * (seq - 1);
}

/* One row of the Cholesky factor's column j, below the diagonal. */
typedef struct {
    double *l;
    int64_t d, column;
} factor;

static void factor_item(void *ctx, int64_t item, int thread) {
    (void)thread;
    const factor *f = ctx;
    int64_t d = f->d, j = f->column, first = j + 1 + item * ROWS, end = first + ROWS < d ? first + ROWS : d;
    const double *lj = f->l + j * d;
    for (int64_t i = first; i < end; i++) {
        double *li = f->l + i * d, s = li[j];
        for (int64_t c = 0; c < j; c++)
            s -= li[c] * lj[c];
        li[j] = s / lj[j];
    }
}

bool sl_block_map_solve(sl_block_map *m) {
    int64_t d = m->dim;
    double trace = 0, *l = m->gram;
    for (int64_t i = 0; i < d; i++)
        trace += l[i * d + i];
    for (int64_t j = 0; j < d; j++) {
        double s = l[j * d + j] + 1e-3 * trace / (double)d;
        for (int64_t c = 0; c < j; c++)
            s -= l[j * d + c] * l[j * d + c];
        if (!(s > 0) || !isfinite(s))
            return false;
        l[j * d + j] = sqrt(s);
        sl_parallel(items_of(d - j - 1), factor_item, &(factor){l, d, j});
    }
    return true;
}

/* x = (L L^T)^-1 b; in place allowed. */
static void solve(const sl_block_map *m, const double *b, double *x) {
    int64_t d = m->dim;
    const double *l = m->gram;
    for (int64_t i = 0; i < d; i++) {
        double s = b[i];
        for (int64_t c = 0; c < i; c++)
            s -= l[i * d + c] * x[c];
        x[i] = s / l[i * d + i];
    }
    for (int64_t i = d - 1; i >= 0; i--) { /* by rows of L: each solved value leaves the equations above */
        x[i] /= l[i * d + i];
        for (int64_t c = 0; c < i; c++)
            x[c] -= l[i * d + c] * x[i];
    }
}

static void block_apply(const void *map, const double *x, double *y) {
    const sl_block_map *m = map;
    int64_t d = m->dim;
    solve(m, x, m->solved);
    for (int64_t r = 0; r < d; r++) {
        double s = x[r];
        for (int64_t c = 0; c < d; c++)
            s += m->cross[r * d + c] * m->solved[c];
        y[r] = s;
    }
}

static void block_transposed(const void *map, const double *y, double *x) {
    const sl_block_map *m = map;
    int64_t d = m->dim;
    memset(m->solved, 0, (size_t)d * sizeof(double));
    for (int64_t r = 0; r < d; r++)
        for (int64_t c = 0; c < d; c++)
            m->solved[c] += m->cross[r * d + c] * y[r];
    solve(m, m->solved, m->solved);
    for (int64_t c = 0; c < d; c++)
        x[c] = y[c] + m->solved[c];
}

sl_linear sl_linear_block(const sl_block_map *m) {
    return (sl_linear){m->dim, m->dim, block_apply, block_transposed, m};
}

/* ---- a chain of blocks */

static void chain_apply(const void *map, const double *x, double *y) {
    const sl_block_chain *c = map;
    size_t bytes = (size_t)c->block->dim * sizeof(double);
    memcpy(y, x, bytes);
    for (int64_t i = 0; i < c->count; i++) {
        memcpy(c->scratch, y, bytes);
        block_apply(&c->block[i], c->scratch, y);
    }
}

static void chain_transposed(const void *map, const double *y, double *x) {
    const sl_block_chain *c = map;
    size_t bytes = (size_t)c->block->dim * sizeof(double);
    memcpy(x, y, bytes);
    for (int64_t i = c->count - 1; i >= 0; i--) {
        memcpy(c->scratch, x, bytes);
        block_transposed(&c->block[i], c->scratch, x);
    }
}

sl_linear sl_linear_chain(const sl_block_chain *c) {
    return (sl_linear){c->block->dim, c->block->dim, chain_apply, chain_transposed, c};
}
