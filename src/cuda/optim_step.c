/* The optimizers of train/ on the device. Muon's matrices of one shape are taken together, as batches of products. */
#include "base/err.h"
#include "cuda/optim.h"
#include "cuda/runtime.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 5 };
static const int64_t GROUP_BYTES = 256 << 20; /* of a group's matrices, unless one alone is larger */
enum { GROUP_MOST = 4096 };

/* Matrices of one shape. */
typedef struct {
    int64_t rows, cols, first, count; /* first: in the table */
} group;

struct slc_optim {
    slc_blocks b;
    slc_rates rates;
    slc_control *control;
    slc_chunk *chunk; /* device */
    int64_t chunks;
    double *part;     /* device; sums of squares of each */
    /* Muon */
    float mu;
    group *group;
    int64_t groups;
    slc_matrix *matrix;               /* device */
    float *x, *y, *gram, *power;      /* of a group */
    double *squares;
    size_t bytes;
};

static double decay_of(const sl_config *c, const sl_tensor *t) {
    bool on = t->decay == SL_DECAY_MATRIX || (t->decay == SL_DECAY_NORM && c->train_decay_norms);
    return on ? c->train_weight_decay : 0;
}

static bool is_muon(const sl_params *p, const sl_tensor *t) { return p->optimizer == SL_OPTIM_muon && t->moments == 1; }

static void *take(slc_optim *o, int64_t bytes) {
    void *p = slc_alloc((size_t)bytes + 1);
    o->bytes += p ? (size_t)bytes : 0;
    return p;
}

/* A table of the host, copied. NULL with a message. */
static void *take_copy(slc_optim *o, const void *host, int64_t bytes) {
    void *p = take(o, bytes);
    if (!p || slc_put(p, host, (size_t)bytes) == 0)
        return p;
    slc_free(p);
    return NULL;
}

/* ---- pieces of tensors */

/* The kernel that updates a tensor, by optimizer and moments. Muon's matrices, of one, have kernels of their own. */
static const int32_t UPDATES[][3] = {[SL_OPTIM_adamw] = {[2] = SLC_UPDATE_ADAMW},
                                     [SL_OPTIM_sgd] = {[1] = SLC_UPDATE_SGD},
                                     [SL_OPTIM_muon] = {[2] = SLC_UPDATE_ADAMW}};
_Static_assert(sizeof UPDATES / sizeof *UPDATES == SL_OPTIM_COUNT, "a row of optim.inc is missing here");

static int32_t how_of(const sl_params *p, const sl_tensor *t) { return UPDATES[p->optimizer][t->moments]; }

static int make_chunks(slc_optim *o, const sl_params *p, const sl_config *c) {
    for (int i = 0; i < p->count; i++)
        o->chunks += (p->tensor[i].size + SLC_CHUNK - 1) / SLC_CHUNK;
    slc_chunk *table = malloc((size_t)(o->chunks + 1) * sizeof *table), *next = table;
    if (!table)
        return sl_fail("out of memory for the optimizer");
    for (int i = 0; i < p->count; i++) {
        const sl_tensor *t = &p->tensor[i];
        for (int64_t at = 0; at < t->size; at += SLC_CHUNK)
            *next++ = (slc_chunk){t->offset + at, (int32_t)(t->size - at < SLC_CHUNK ? t->size - at : SLC_CHUNK),
                                  how_of(p, t), (float)decay_of(c, t), t->rate};
    }
    o->chunk = take_copy(o, table, o->chunks * (int64_t)sizeof *table);
    o->part = take(o, o->chunks * (int64_t)sizeof *o->part);
    free(table);
    return o->chunk && o->part ? 0 : -1;
}

/* ---- Muon's groups */

static bool has_room(const group *g) {
    return g->count < GROUP_MOST && (g->count + 1) * g->rows * g->cols * (int64_t)sizeof(float) <= GROUP_BYTES;
}

/* The group that a tensor joins, perhaps a new one. */
static group *group_of(slc_optim *o, const sl_tensor *t) {
    int64_t rows = t->shape[0], cols = t->size / rows;
    for (int64_t i = 0; i < o->groups; i++)
        if (o->group[i].rows == rows && o->group[i].cols == cols && has_room(&o->group[i]))
            return &o->group[i];
    o->group[o->groups] = (group){.rows = rows, .cols = cols};
    return &o->group[o->groups++];
}

/* Fills `in` with each tensor's group, and table with matrices in the order of the groups. */
static void make_groups(slc_optim *o, const sl_params *p, const sl_config *c, int64_t *in, slc_matrix *table) {
    int64_t first = 0;
    for (int i = 0; i < p->count; i++)
        if (is_muon(p, &p->tensor[i])) {
            group *g = group_of(o, &p->tensor[i]);
            in[i] = g - o->group;
            g->count++;
        }
    for (int64_t k = 0; k < o->groups; k++) {
        o->group[k].first = first;
        for (int i = 0; i < p->count; i++)
            if (is_muon(p, &p->tensor[i]) && in[i] == k)
                table[first++] = (slc_matrix){p->tensor[i].offset, (float)decay_of(c, &p->tensor[i])};
    }
}

static int64_t side_of(const group *g) { return g->rows < g->cols ? g->rows : g->cols; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int take_scratch(slc_optim *o) {
    int64_t floats = 0, square = 0, parts = 0;
    for (int64_t i = 0; i < o->groups; i++) {
        const group *g = &o->group[i];
        floats = most(floats, g->count * g->rows * g->cols);
        square = most(square, g->count * side_of(g) * side_of(g));
        parts = most(parts, g->count * slc_muon_parts(g->rows * g->cols));
    }
    float **const to[] = {&o->x, &o->y, &o->gram, &o->power};
    for (int i = 0; i < 4; i++)
        if (!(*to[i] = take(o, (i < 2 ? floats : square) * (int64_t)sizeof(float))))
            return -1;
    return (o->squares = take(o, parts * (int64_t)sizeof *o->squares)) ? 0 : -1;
}

static int make_muon(slc_optim *o, const sl_params *p, const sl_config *c) {
    int64_t n = 0;
    for (int i = 0; i < p->count; i++)
        n += is_muon(p, &p->tensor[i]);
    if (n == 0)
        return 0;
    o->mu = (float)c->train_muon_momentum;
    o->group = calloc((size_t)n, sizeof *o->group);
    int64_t *in = malloc((size_t)p->count * sizeof *in);
    slc_matrix *table = malloc((size_t)n * sizeof *table);
    int rc = -1;
    if (!o->group || !in || !table) {
        sl_fail("out of memory for the optimizer");
    } else {
        make_groups(o, p, c, in, table);
        o->matrix = take_copy(o, table, n * (int64_t)sizeof *table);
        rc = o->matrix ? take_scratch(o) : -1;
    }
    free(in), free(table);
    return rc;
}

/* ---- one step of a group: X := power X five times, as optim_muon.c */

static int multiply_grams(const slc_optim *o, slc_blas *b, slc_stream s, const group *g, const float *x) {
    bool wide = g->rows <= g->cols;
    int64_t n = side_of(g), size = g->rows * g->cols;
    slc_product gram = {.m = n, .n = n, .k = wide ? g->cols : g->rows, .ta = !wide, .tb = wide, .a = x, .b = x,
                        .lda = g->cols, .ldb = g->cols, .y = o->gram, .ldy = n, .scale = 1, .batch = g->count,
                        .stride_a = size, .stride_b = size, .stride_y = n * n};
    slc_product power = {.m = n, .n = n, .k = n, .tb = true, .a = o->gram, .b = o->gram, .lda = n, .ldb = n,
                         .y = o->power, .ldy = n, .scale = 1, .batch = g->count, .stride_a = n * n, .stride_b = n * n,
                         .stride_y = n * n};
    return slc_multiply(b, s, &gram) || slc_multiply(b, s, &power) ? -1 : 0;
}

/* power is symmetric up to rounding, so for columns X power does the same. */
static int multiply_power(const slc_optim *o, slc_blas *b, slc_stream s, const group *g, const float *x, float *y) {
    bool wide = g->rows <= g->cols;
    int64_t n = side_of(g), size = g->rows * g->cols;
    slc_product p = {.m = g->rows, .n = g->cols, .k = n, .a = o->power, .b = x, .lda = n, .ldb = g->cols, .y = y,
                     .ldy = g->cols, .scale = 1, .batch = g->count, .stride_a = n * n, .stride_b = size,
                     .stride_y = size};
    if (!wide) {
        p.a = x, p.b = o->power, p.lda = g->cols, p.ldb = n;
        p.stride_a = size, p.stride_b = n * n;
    }
    return slc_multiply(b, s, &p);
}

static int step_group(const slc_optim *o, slc_blas *b, slc_stream s, const group *g) {
    const slc_matrix *t = o->matrix + g->first;
    int64_t size = g->rows * g->cols;
    float *x = o->x, *y = o->y, *other;
    slc_muon_momentum(s, g->count, size, t, o->b, o->mu, x, o->squares, o->control);
    slc_muon_normalise(s, g->count, size, x, o->squares);
    for (int i = 0; i < STEPS; i++) {
        if (multiply_grams(o, b, s, g, x))
            return -1;
        slc_muon_polynomial(s, g->count, side_of(g), o->gram, o->power);
        if (multiply_power(o, b, s, g, x, y))
            return -1;
        other = x, x = y, y = other;
    }
    slc_muon_apply(s, g->count, size, t, o->b, (float)(0.2 * sqrt((double)most(g->rows, g->cols))), x, o->control);
    return 0;
}

/* ---- whole */

slc_optim *slc_optim_open(const sl_params *p, const sl_config *c, float *w, float *g, float *m, float *v,
                          uint16_t *w16, slc_control *control) {
    slc_optim *o = calloc(1, sizeof *o);
    if (!o) {
        sl_fail("out of memory for the optimizer");
        return NULL;
    }
    o->b = (slc_blocks){w, g, m, v, w16};
    o->rates = (slc_rates){(float)c->train_betas[0], (float)c->train_betas[1], (float)c->train_eps,
                           (float)c->train_momentum};
    o->control = control;
    if (make_chunks(o, p, c) == 0 && make_muon(o, p, c) == 0)
        return o;
    slc_optim_close(o);
    return NULL;
}

void slc_optim_close(slc_optim *o) {
    if (!o)
        return;
    void *device[] = {o->chunk, o->part, o->matrix, o->x, o->y, o->gram, o->power, o->squares};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        slc_free(device[i]);
    free(o->group);
    free(o);
}

size_t slc_optim_bytes(const slc_optim *o) { return o ? o->bytes : 0; }

int slc_optim_judge(slc_optim *o, slc_stream s) {
    slc_sum_squares(s, o->chunks, o->chunk, o->b.g, o->part);
    slc_judge(s, o->chunks, o->part, o->control);
    return 0;
}

int slc_optim_update(slc_optim *o, slc_blas *b, slc_stream s) {
    slc_update(s, o->chunks, o->chunk, o->b, o->rates, o->control);
    for (int64_t i = 0; i < o->groups; i++)
        if (step_group(o, b, s, &o->group[i]))
            return -1;
    return 0;
}
