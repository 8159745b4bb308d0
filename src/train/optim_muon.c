/* Muon (K. Jordan 2024; with weight decay and AdamW's scale arXiv 2502.16982) for the matrices of the blocks:
 *   m = mu m + g,  u = g + mu m,  w -= lr (0.2 sqrt(max(rows, columns)) O(u) + weight_decay w)
 * where O(u) takes the singular values of u to about 1 by five Newton-Schulz steps
 *   X = u / |u|,  X := a X + b (X X^T) X + c (X X^T)^2 X,  (a, b, c) = (3.4445, -4.7750, 2.0315)
 * in fp32. All else is AdamW's. A matrix is handled as n vectors of length `depth`, n the smaller side; it stays
 * as it lies, and the products read it along rows or along columns. */
#include "base/err.h"
#include "base/mem.h"
#include "base/threads.h"
#include "train/multiply.h"
#include "train/optim_kind.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 5, PIECE = 16384 };
static const double A = 3.4445, B = -4.7750, C = 2.0315;

typedef struct {
    sl_multiplier products;
    float *x, *y;        /* a matrix each */
    float *gram, *power; /* X X^T, and (X X^T)^2 turned into a I + b X X^T + c (X X^T)^2 */
    double *part;        /* of the pieces of a sum */
} muon;

/* One matrix in work. */
typedef struct {
    const sl_optim *o;
    const sl_tensor *t;
    float *x;
    const float *from;
    float *gram, *power;
    double *part;
    int64_t side;
    float factor;
} job;

static bool is_matrix(const sl_tensor *t) { return t->moments == 1; }

static int64_t pieces(int64_t n) { return (n + PIECE - 1) / PIECE; }
static int64_t piece_end(int64_t i, int64_t n) { return (i + 1) * PIECE < n ? (i + 1) * PIECE : n; }

/* ---- scratch */

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void destroy(sl_optim *o) {
    muon *s = o->own;
    if (!s)
        return;
    void *block[] = {s->x, s->y, s->gram, s->power, s->part};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        sl_free(block[i]);
    sl_multiplier_close(&s->products);
    free(s);
    o->own = NULL;
}

static int create(sl_optim *o) {
    int64_t size = 0, side = 0;
    size_t packed = 0;
    for (int i = 0; i < o->p->count; i++) {
        const sl_tensor *t = &o->p->tensor[i];
        if (!is_matrix(t))
            continue;
        int64_t n = t->shape[0] < t->shape[1] ? t->shape[0] : t->shape[1], depth = t->size / n;
        size_t gram = sl_gemm_packed_bytes(o->k, n, depth), wide = sl_gemm_packed_bytes(o->k, depth, n);
        size = most(size, t->size);
        side = most(side, n);
        packed = gram > packed ? gram : packed;
        packed = wide > packed ? wide : packed;
    }
    muon *s = o->own = calloc(1, sizeof *s);
    if (!s)
        return sl_fail("out of memory for the optimizer");
    s->x = sl_alloc((size_t)size * sizeof(float), "Muon's scratch");
    s->y = sl_alloc((size_t)size * sizeof(float), "Muon's scratch");
    s->gram = sl_alloc((size_t)(side * side) * sizeof(float), "Muon's scratch");
    s->power = sl_alloc((size_t)(side * side) * sizeof(float), "Muon's scratch");
    s->part = sl_alloc((size_t)(pieces(size) + 1) * sizeof(double), "Muon's scratch");
    if (sl_multiplier_open(&s->products, o->k, packed))
        return -1;
    return s->x && s->y && s->gram && s->power && s->part ? 0 : -1;
}

/* ---- element by element; plain C, for the products take nearly all the time */

/* Momentum, and u into x with its sum of squares. */
static void momentum_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const job *j = ctx;
    const sl_params *p = j->o->p;
    float *restrict g = p->g + j->t->offset, *restrict m = p->m + j->t->offset, *restrict u = j->x;
    float gscale = (float)j->o->grad_scale, mu = (float)j->o->config->train_muon_momentum;
    int64_t first = i * PIECE, end = piece_end(i, j->t->size);
    for (int64_t k = first; k < end; k++) {
        float x = gscale * g[k];
        m[k] = mu * m[k] + x;
        u[k] = x + mu * m[k];
        g[k] = 0;
    }
    j->part[i] = j->o->k->sumsq(end - first, u + first);
}

static void scale_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const job *j = ctx;
    float *x = j->x, factor = j->factor;
    for (int64_t k = i * PIECE, end = piece_end(i, j->t->size); k < end; k++)
        x[k] *= factor;
}

/* power := a I + b gram + c power, a row an item. */
static void polynomial_item(void *ctx, int64_t row, int thread) {
    (void)thread;
    const job *j = ctx;
    float *restrict p = j->power + row * j->side;
    const float *restrict g = j->gram + row * j->side;
    for (int64_t k = 0; k < j->side; k++)
        p[k] = (float)C * p[k] + (float)B * g[k];
    p[row] += (float)A;
}

static void update_item(void *ctx, int64_t i, int thread) {
    (void)thread;
    const job *j = ctx;
    float *restrict w = j->o->p->w + j->t->offset, lr = (float)j->o->lr;
    const float *restrict from = j->from;
    float factor = j->factor, decay = (float)sl_optim_decay(j->o, j->t);
    for (int64_t k = i * PIECE, end = piece_end(i, j->t->size); k < end; k++)
        w[k] -= lr * (factor * from[k] + decay * w[k]);
}

/* ---- a matrix */

/* gram = X X^T of the n vectors, power = gram gram. */
static void grams(const muon *s, const sl_tensor *t, const float *x) {
    int64_t rows = t->shape[0], cols = t->shape[1];
    bool wide = rows <= cols;
    int64_t n = wide ? rows : cols, depth = wide ? cols : rows;
    sl_mat vectors = wide ? (sl_mat){x, cols, 1} : (sl_mat){x, 1, cols};
    sl_mat gram = {s->gram, n, 1};
    sl_multiply(&s->products,
                (sl_gemm_args){.m = n, .n = n, .depth = depth, .a = vectors, .b = vectors, .c = s->gram, .ldc = n});
    sl_multiply(&s->products,
                (sl_gemm_args){.m = n, .n = n, .depth = n, .a = gram, .b = gram, .c = s->power, .ldc = n});
}

/* y = power X; power is symmetric up to rounding, so for columns X power does the same. */
static void apply(const muon *s, const sl_tensor *t, const float *x, float *y) {
    int64_t rows = t->shape[0], cols = t->shape[1];
    sl_gemm_args g = {.m = rows, .n = cols, .depth = rows, .a = {s->power, rows, 1}, .b = {x, 1, cols}, .c = y,
                      .ldc = cols};
    if (rows > cols)
        g.depth = cols, g.a = (sl_mat){x, cols, 1}, g.b = (sl_mat){s->power, 1, cols};
    sl_multiply(&s->products, g);
}

static void matrix_step(sl_optim *o, const sl_tensor *t) {
    const muon *s = o->own;
    int64_t n = t->shape[0] < t->shape[1] ? t->shape[0] : t->shape[1], count = pieces(t->size);
    job j = {.o = o, .t = t, .x = s->x, .gram = s->gram, .power = s->power, .part = s->part, .side = n};
    double sum = 0;
    sl_parallel(count, momentum_item, &j);
    for (int64_t i = 0; i < count; i++)
        sum += s->part[i];
    j.factor = (float)(1 / (sqrt(sum) + 1e-7)); /* no singular value above 1; a gradient of zeros stays so */
    sl_parallel(count, scale_item, &j);
    float *x = s->x, *y = s->y;
    for (int i = 0; i < STEPS; i++) {
        grams(s, t, x);
        sl_parallel(n, polynomial_item, &j);
        apply(s, t, x, y);
        float *other = x;
        x = y, y = other;
    }
    j.from = x;
    j.factor = (float)(0.2 * sqrt((double)most(t->shape[0], t->shape[1])));
    sl_parallel(count, update_item, &j);
}

static void step(sl_optim *o) {
    sl_optim_adamw_step(o);
    for (int i = 0; i < o->p->count; i++)
        if (is_matrix(&o->p->tensor[i]))
            matrix_step(o, &o->p->tensor[i]);
}

const sl_optim_kind sl_optim_muon = {create, destroy, step};
