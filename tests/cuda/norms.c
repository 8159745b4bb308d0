/* Norms, channels that are replaced and the gate of GatedNorm on the device, against their formulas in double;
 * gradients of norms against differences of these. Odd sizes, rows of every kernel's kind, and more of them than there
 * are partial sums. Two passes give the same bits. */
#include "cuda/gate.h"
#include "cuda/norm.h"

#include "matrix.h"

/* ---- norms */

enum { PLAIN, BOTH, OUTPUT, DENOMINATOR }; /* model.sink_nullify_mode, or nothing replaced */
enum { WEIGHT, BIAS, PRE, ALPHA, SHIFT, PARAMS };
typedef struct {
    const char *name;
    int kind;
    int64_t rows, dim;
    bool x_bf16, bf16, zero_centred, bias, pre, add, rounded;
    int mode;
    int64_t from, seq; /* rows of a window, the first of which is at POSITION, before `from` are not edited */
} norm_case;
enum { POSITION = 1 };

static const norm_case norm_cases[] = {
    {"rms", SLC_NORM_RMS, 2100, 36, .add = true},
    {"rms, odd", SLC_NORM_RMS, 523, 37, .bf16 = true, .zero_centred = true, .rounded = true},
    {"rms, bf16 and rounded", SLC_NORM_RMS, 7, 384, .bf16 = true, .add = true, .rounded = true},
    {"rms, bf16 both", SLC_NORM_RMS, 9, 768, .x_bf16 = true, .bf16 = true, .zero_centred = true, .add = true},
    {"rms, preaffine", SLC_NORM_RMS, 5, 132, .pre = true, .rounded = true},
    {"rms, long", SLC_NORM_RMS, 2, 1028, .pre = true, .add = true},
    {"layer", SLC_NORM_LAYER, 2100, 12, .add = true, .pre = true},
    {"layer, bf16", SLC_NORM_LAYER, 5, 640, .bf16 = true, .zero_centred = true},
    {"layer, most a warp holds", SLC_NORM_LAYER, 3, 1024, .add = true},
    {"layer, one channel", SLC_NORM_LAYER, 3, 1, .mode = PLAIN},
    {"layer, odd", SLC_NORM_LAYER, 6, 257, .x_bf16 = true, .pre = true, .add = true},
    {"none", SLC_NORM_NONE, 600, 36, .zero_centred = true, .pre = true, .rounded = true},
    {"none, bf16", SLC_NORM_NONE, 5, 260, .bf16 = true, .add = true},
    {"dyt", SLC_NORM_DYT, 2100, 36, .bias = true, .add = true},
    {"dyt, bf16", SLC_NORM_DYT, 5, 384, .bf16 = true, .pre = true, .rounded = true},
    {"dyt, bf16 both", SLC_NORM_DYT, 5, 768, .x_bf16 = true, .bf16 = true, .add = true},
    {"dyt, odd", SLC_NORM_DYT, 5, 37, .x_bf16 = true, .bf16 = true, .bias = true, .pre = true, .zero_centred = true},
    {"derf", SLC_NORM_DERF, 2100, 12, .bias = true, .pre = true, .zero_centred = true},
    {"dyt, long", SLC_NORM_DYT, 2, 1032, .bias = true},
    {"derf, odd", SLC_NORM_DERF, 600, 13, .bias = true, .pre = true, .add = true, .rounded = true},
    {"derf, bf16", SLC_NORM_DERF, 5, 260, .bf16 = true, .bias = true, .add = true, .rounded = true},
    {"rms, replaced", SLC_NORM_RMS, 600, 36, .pre = true, .mode = BOTH},
    {"layer, replaced", SLC_NORM_LAYER, 5, 37, .bf16 = true, .add = true, .mode = BOTH},
    {"dyt, replaced", SLC_NORM_DYT, 5, 36, .bias = true, .pre = true, .mode = BOTH},
    {"rms, outputs replaced", SLC_NORM_RMS, 600, 36, .zero_centred = true, .pre = true, .add = true, .mode = OUTPUT},
    {"layer, outputs replaced", SLC_NORM_LAYER, 5, 384, .bf16 = true, .rounded = true, .mode = OUTPUT},
    {"rms, denominators replaced", SLC_NORM_RMS, 5, 384, .bf16 = true, .mode = DENOMINATOR},
    {"layer, denominators replaced", SLC_NORM_LAYER, 600, 37, .pre = true, .add = true, .mode = DENOMINATOR},
    {"rms, replaced from 3", SLC_NORM_RMS, 602, 36, .pre = true, .mode = BOTH, .from = 3, .seq = 7},
    {"layer, outputs from 2", SLC_NORM_LAYER, 15, 37, .bf16 = true, .pre = true, .add = true, .mode = OUTPUT,
     .from = 2, .seq = 5},
    {"rms, denominators from 4", SLC_NORM_RMS, 15, 384, .add = true, .mode = DENOMINATOR, .from = 4, .seq = 5},
    {"dyt, replaced from 2", SLC_NORM_DYT, 6, 36, .bias = true, .pre = true, .mode = BOTH, .from = 2, .seq = 3}};

static const slc_replaced replaced = {.count = 3, .channel = {5, 0, 11}, .value = {0.7f, -2, 0}};
static const double EPS = 1e-5;

/* Parameters p[dim, dim, dim, 1, 1], each at place_of(). */
static int64_t place_of(const norm_case *c, int param) {
    return param <= ALPHA ? param * c->dim : 3 * c->dim + 1;
}

static bool edited(const norm_case *c, int64_t row) {
    return c->mode != PLAIN && (c->from == 0 || POSITION + row % c->seq >= c->from);
}

static int listed(const norm_case *c, int64_t row, int64_t j) {
    for (int k = 0; edited(c, row) && k < replaced.count; k++)
        if (replaced.channel[k] == j)
            return k;
    return -1;
}

/* x, or what stands there instead. */
static double instead(const norm_case *c, int64_t row, int64_t j, double x) {
    int k = listed(c, row, j);
    return k < 0 ? x : (double)replaced.value[k];
}

static double function(const norm_case *c, const double *p, double z) {
    double u = p[place_of(c, ALPHA)] * z;
    return c->kind == SLC_NORM_DYT ? tanh(u) : c->kind == SLC_NORM_DERF ? erf(u + p[place_of(c, SHIFT)]) : z;
}

/* y of a row, unless NULL, and dy . y; x and dy are all rows. */
static double norm_row(const norm_case *c, const double *p, int64_t row, const double *x, const double *dy, double *y) {
    const double *pre = p + place_of(c, PRE);
    double mean = 0, square = 0, loss = 0;
    x += row * c->dim, dy += row * c->dim;
    for (int64_t j = 0; c->kind == SLC_NORM_LAYER && j < c->dim; j++)
        mean += pre[j] * (c->mode == OUTPUT ? x[j] : instead(c, row, j, x[j])) / (double)c->dim;
    for (int64_t j = 0; j < c->dim; j++) {
        double h = pre[j] * (c->mode == OUTPUT ? x[j] : instead(c, row, j, x[j])) - mean;
        square += h * h / (double)c->dim;
    }
    double r = c->kind == SLC_NORM_RMS || c->kind == SLC_NORM_LAYER ? 1 / sqrt(square + EPS) : 1;
    for (int64_t j = 0; j < c->dim; j++) {
        double z = pre[j] * (c->mode == DENOMINATOR ? x[j] : instead(c, row, j, x[j]));
        double v = (c->zero_centred + p[j]) * (function(c, p, z) - mean) * r + p[place_of(c, BIAS) + j];
        loss += dy[j] * v;
        if (y)
            y[j] = v;
    }
    return loss;
}

/* d (dy . y) / d *at, of all rows from `row` to `end` */
static double difference(const norm_case *c, const double *p, const matrix *x, const matrix *dy, int64_t row,
                         int64_t end, double *at) {
    const double step = 1e-5, was = *at;
    double sum = 0;
    for (int64_t i = row; i < end; i++)
        for (int side = -1; side <= 1; side += 2) {
            *at = was + side * step;
            sum += side * norm_row(c, p, i, x->host, dy->host, NULL);
        }
    *at = was;
    return sum / (2 * step);
}

typedef struct {
    matrix x, y, dy, dx, rounded, param[PARAMS], grad[PARAMS], mean, r;
    double *p;
    slc_replaced *list;
    int32_t *position;
    slc_norm n;
} norm_test;

static int32_t *on_device(int32_t value) {
    int32_t *p = need(slc_alloc(sizeof *p));
    done(slc_put(p, &value, sizeof value));
    return p;
}

static bool has(const norm_case *c, int param) {
    return param == WEIGHT || (param == BIAS && c->bias) || (param == PRE && c->pre) ||
           (param == ALPHA && c->kind >= SLC_NORM_DYT) || (param == SHIFT && c->kind == SLC_NORM_DERF);
}

static norm_test open_norm(const norm_case *c) {
    norm_test t = {.x = make(c->rows, c->dim, c->x_bf16), .y = make(c->rows, c->dim, c->bf16),
                   .dy = make(c->rows, c->dim, c->bf16), .dx = make(c->rows, c->dim, c->x_bf16),
                   .rounded = make(c->rows, c->dim, true), .mean = make(c->rows, 1, false),
                   .r = make(c->rows, 1, false), .p = need(calloc((size_t)(3 * c->dim + 2), 8)),
                   .list = need(slc_alloc(sizeof replaced)), .position = on_device(POSITION)};
    done(slc_put(t.list, &replaced, sizeof replaced));
    for (int i = 0; i < PARAMS; i++) {
        t.param[i] = make(1, i < ALPHA ? c->dim : 1, false), t.grad[i] = make(1, i < ALPHA ? c->dim : 1, false);
        for (int64_t j = 0; j < t.param[i].cols; j++)
            t.p[place_of(c, i) + j] = has(c, i) ? t.param[i].host[j] : i == PRE || i == ALPHA;
    }
    const float *param[PARAMS];
    for (int i = 0; i < PARAMS; i++)
        param[i] = has(c, i) ? t.param[i].dev : NULL;
    t.n = (slc_norm){.kind = c->kind, .x_bf16 = c->x_bf16, .bf16 = c->bf16, .zero_centred = c->zero_centred,
                     .rows = c->rows, .dim = c->dim, .ldx = t.x.ld, .ld = t.y.ld, .eps = (float)EPS, .x = t.x.dev,
                     .weight = param[WEIGHT], .bias = param[BIAS], .alpha = param[ALPHA], .shift = param[SHIFT],
                     .pre = param[PRE], .mean = c->kind == SLC_NORM_LAYER ? t.mean.dev : NULL,
                     .r = c->kind <= SLC_NORM_LAYER ? t.r.dev : NULL, .replaced = c->mode == PLAIN ? NULL : t.list,
                     .in_b = c->mode == BOTH || c->mode == DENOMINATOR,
                     .only_one = c->mode == OUTPUT || c->mode == DENOMINATOR, .from = c->from, .seq = c->seq,
                     .position = t.position};
    return t;
}

static void close_norm(norm_test *t) {
    matrix *all[] = {&t->x, &t->y, &t->dy, &t->dx, &t->rounded, &t->mean, &t->r};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    for (int i = 0; i < PARAMS; i++)
        drop(&t->param[i]), drop(&t->grad[i]);
    free(t->p), slc_free(t->list), slc_free(t->position);
}

static void run_norm_backward(const norm_case *c, norm_test *t) {
    float *part = need(slc_alloc((size_t)slc_norm_parts(c->rows, c->dim) * sizeof *part)), *grad[PARAMS];
    for (int i = 0; i < PARAMS; i++)
        grad[i] = has(c, i) ? t->grad[i].dev : NULL;
    slc_norm_grads g = {grad[WEIGHT], grad[BIAS], grad[ALPHA], grad[SHIFT], grad[PRE]};
    slc_norm_backward(NULL, &t->n, t->dy.dev, c->add, t->dx.dev, c->rounded ? t->rounded.dev : NULL, t->rounded.ld, &g,
                      part);
    done(slc_sync(NULL));
    slc_free(part);
}

static void expect_gradients(const norm_case *c, norm_test *t) {
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t j = 0; j < c->dim; j++) {
            double *dx = t->dx.host + i * c->dim + j;
            *dx = (c->add ? *dx : 0) + difference(c, t->p, &t->x, &t->dy, i, i + 1, t->x.host + i * c->dim + j);
            t->rounded.host[i * c->dim + j] = *dx;
        }
    for (int i = 0; i < PARAMS; i++)
        for (int64_t j = 0; has(c, i) && j < t->grad[i].cols; j++)
            t->grad[i].host[j] += difference(c, t->p, &t->x, &t->dy, 0, c->rows, t->p + place_of(c, i) + j);
}

static void test_norm(const norm_case *c) {
    static const char *const names[] = {"dweight", "dbias", "dpre", "dalpha", "dshift"};
    now = c->name;
    norm_test t = open_norm(c);
    slc_norm_forward(NULL, &t.n, t.y.dev);
    for (int64_t i = 0; i < c->rows; i++)
        norm_row(c, t.p, i, t.x.host, t.dy.host, t.y.host + i * c->dim);
    compare("y", &t.y, within(&t.y));
    run_norm_backward(c, &t);
    expect_gradients(c, &t);
    compare("dx", &t.dx, within(&t.dx));
    if (c->rounded)
        compare("dx, rounded", &t.rounded, IN_BF16);
    for (int i = 0; i < PARAMS; i++)
        if (has(c, i))
            compare(names[i], &t.grad[i], IN_F32);
    close_norm(&t);
}

static void test_norm_bits(const norm_case *c) {
    now = c->name;
    norm_test t = open_norm(c);
    size_t bytes = (size_t)c->dim * sizeof(float);
    char *got[2] = {need(malloc(bytes)), need(malloc(bytes))};
    slc_norm_forward(NULL, &t.n, t.y.dev);
    for (int i = 0; i < 2; i++) {
        upload(&t.grad[WEIGHT]);
        run_norm_backward(c, &t);
        done(slc_get(got[i], t.grad[WEIGHT].dev, bytes));
    }
    judge("a second pass", memcmp(got[0], got[1], bytes) != 0, 0, 1);
    free(got[0]), free(got[1]);
    close_norm(&t);
}

/* ---- channels that are replaced */

static void test_choice(int64_t dim, int64_t most, bool to_mean) {
    now = "choice of channels";
    matrix mean = make(1, dim, false);
    slc_replaced got, *list = need(slc_alloc(sizeof got));
    for (int64_t j = 0; j < dim; j++) /* many alike, of either sign, and zeros */
        mean.host[j] = (double)(j * 7 % 5) - 2;
    upload(&mean);
    slc_choose_channels(NULL, dim, most, to_mean, mean.dev, list);
    done(slc_sync(NULL)), done(slc_get(&got, list, sizeof got));
    int64_t count = 0;
    for (int size = 2; size > 0; size--)
        for (int64_t j = 0; j < dim && count < most; j++)
            if (fabs(mean.host[j]) == size) {
                judge("a channel", count < got.count ? fabs((double)(got.channel[count] - j)) : HUGE_VAL, 0, 1);
                judge("its value", fabs((double)got.value[count] - (to_mean ? mean.host[j] : 0)), 0, 1);
                count++;
            }
    judge("their number", fabs((double)(got.count - count)), 0, (double)count);
    drop(&mean), slc_free(list);
}

/* Of positions from `from` on, of windows of 7. */
static void test_means(int32_t applied, bool first, int64_t from) {
    now = "means of channels";
    enum { ROWS = 700, DIM = 37, SEQ = 7 };
    int64_t count = 0, *dev_count = need(slc_alloc(sizeof count)), rows = ROWS / SEQ * (SEQ - from);
    int32_t *flag = on_device(applied), *position = on_device(0);
    matrix x = make(ROWS, DIM, false), sum = make(1, DIM, false), mean = make(1, DIM, false);
    slc_norm n = {.rows = ROWS, .dim = DIM, .ldx = DIM, .x = x.dev, .from = from, .seq = SEQ, .position = position};
    float *part = need(slc_alloc((size_t)slc_norm_parts(ROWS, DIM) * sizeof *part));
    for (int j = 0; j < DIM; j++) {
        sum.host[j] = 0;
        mean.host[j] = first ? 0 : mean.host[j];
    }
    upload(&sum), upload(&mean);
    done(slc_put(dev_count, &count, sizeof count));
    for (int pass = 0; pass < 2; pass++)
        slc_sum_channels(NULL, &n, part, sum.dev, dev_count);
    for (int64_t i = 0; i < ROWS * DIM; i++)
        sum.host[i % DIM] += i / DIM % SEQ >= from ? 2 * x.host[i] : 0;
    compare("sums", &sum, IN_F32);
    slc_move_means(NULL, DIM, 0.25f, flag, mean.dev, sum.dev, dev_count);
    for (int j = 0; j < DIM; j++) {
        mean.host[j] += applied * (first ? 1 : 0.25) * (sum.host[j] / (double)(2 * rows) - mean.host[j]);
        sum.host[j] = 0;
    }
    compare("means", &mean, IN_F32), compare("sums afterwards", &sum, 0);
    done(slc_get(&count, dev_count, sizeof count));
    judge("rows afterwards", (double)count, 0, 0);
    drop(&x), drop(&sum), drop(&mean), slc_free(part), slc_free(flag), slc_free(position), slc_free(dev_count);
}

/* ---- the gate of GatedNorm */

static double gate_act(int kind, double x) {
    switch (kind) {
    case SLC_GATE_SIGMOID: return 1 / (1 + exp(-x));
    case SLC_GATE_TANH: return tanh(x);
    case SLC_GATE_SILU: return x / (1 + exp(-x));
    case SLC_GATE_RELU: return x > 0 ? x : 0;
    default: return x;
    }
}
static double gate_slope(int kind, double x) {
    const double h = 1e-6;
    return (gate_act(kind, x + h) - gate_act(kind, x - h)) / (2 * h);
}
static double gate_of(const slc_norm_gate *g, double b) {
    return (double)g->factor * gate_act(g->outer, b) + (double)g->offset;
}

/* The kernels between products, each by itself. */
static void test_gate_parts(int inner, int outer, bool bf16, bool tensorwise) {
    enum { ROWS = 13, DIM = 37, RANK = 5 };
    now = "parts of the gate";
    int64_t gates = tensorwise ? 1 : DIM;
    matrix a = make(ROWS, RANK, false), h = make(ROWS, RANK, bf16), dh = make(ROWS, RANK, false);
    matrix da = make(ROWS, RANK, bf16), b = make(ROWS, gates, false), y = make(ROWS, DIM, bf16);
    matrix out = make(ROWS, DIM, bf16), dout = make(ROWS, DIM, bf16), dy = make(ROWS, DIM, false);
    matrix db = make(ROWS, gates, bf16);
    if (tensorwise)
        db.ld = 1; /* what was allocated is more */
    slc_norm_gate g = {inner, outer, bf16, ROWS, DIM, y.ld, RANK, h.ld, gates, 1.5f, 0.25f};
    slc_gate_inner(NULL, &g, a.dev, h.dev);
    slc_gate_inner_back(NULL, &g, a.dev, dh.dev, da.dev);
    slc_gate_apply(NULL, &g, b.dev, y.dev, out.dev);
    slc_gate_back(NULL, &g, b.dev, y.dev, dout.dev, dy.dev, db.dev);
    for (int i = 0; i < ROWS * RANK; i++) {
        h.host[i] = gate_act(inner, a.host[i]);
        da.host[i] = dh.host[i] * gate_slope(inner, a.host[i]);
    }
    memset(db.host, 0, (size_t)(ROWS * gates) * sizeof *db.host);
    for (int i = 0; i < ROWS * DIM; i++) {
        int64_t at = tensorwise ? i / DIM : i;
        out.host[i] = gate_of(&g, b.host[at]) * y.host[i], dy.host[i] = gate_of(&g, b.host[at]) * dout.host[i];
        db.host[at] += (double)g.factor * gate_slope(outer, b.host[at]) * y.host[i] * dout.host[i];
    }
    compare("h", &h, within(&h)), compare("da", &da, within(&da)), compare("out", &out, within(&out));
    compare("dy", &dy, within(&dy)), compare("db", &db, within(&db));
    matrix *all[] = {&a, &h, &dh, &da, &b, &y, &out, &dout, &dy, &db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

typedef struct {
    matrix y, down, up, a, out, dout, dy, ddown, dup;
} gate_test;

/* One row's, and what it adds to the gradients. */
static void expect_gate_row(const slc_norm_gate *g, gate_test *t, int64_t i) {
    const double *y = t->y.host + i * g->dim, *dout = t->dout.host + i * g->dim;
    double *a = t->a.host + i * g->rank, h[64], da[64] = {0};
    for (int64_t k = 0; k < g->rank; k++) {
        a[k] = 0;
        for (int64_t j = 0; j < g->dim; j++)
            a[k] += t->down.host[k * g->dim + j] * y[j];
        h[k] = gate_act(g->inner, a[k]);
    }
    for (int64_t j = 0; j < g->dim; j++) {
        double b = 0, db;
        for (int64_t k = 0; k < g->rank; k++)
            b += t->up.host[j * g->rank + k] * h[k];
        t->out.host[i * g->dim + j] = gate_of(g, b) * y[j], t->dy.host[i * g->dim + j] = gate_of(g, b) * dout[j];
        db = (double)g->factor * gate_slope(g->outer, b) * y[j] * dout[j];
        for (int64_t k = 0; k < g->rank; k++)
            da[k] += t->up.host[j * g->rank + k] * db, t->dup.host[j * g->rank + k] += h[k] * db;
    }
    for (int64_t k = 0; k < g->rank; k++) {
        da[k] *= gate_slope(g->inner, a[k]);
        for (int64_t j = 0; j < g->dim; j++) {
            t->dy.host[i * g->dim + j] += t->down.host[k * g->dim + j] * da[k];
            t->ddown.host[k * g->dim + j] += da[k] * y[j];
        }
    }
}

static void shrink(matrix *a, double by) {
    for (int64_t i = 0; i < a->rows * a->cols; i++)
        a->host[i] *= by;
    upload(a);
}

/* In one kernel a direction. h, db and da are rounded on the way, so outputs are a few roundings off. Two passes give
 * the same bits. */
static void test_gate(int inner, int outer, int64_t rows, int64_t dim, int64_t rank) {
    char name[96];
    snprintf(name, sizeof name, "the gate in a kernel, %d x %d, rank %d", (int)rows, (int)dim, (int)rank);
    now = name;
    gate_test t = {make(rows, dim, true), make(rank, dim, true), make(dim, rank, true), make(rows, rank, false),
                   make(rows, dim, true), make(rows, dim, true), make(rows, dim, true), make(rank, dim, false),
                   make(dim, rank, false)};
    t.up.ld = rank; /* matrices lie dense; what was allocated is as much or more */
    shrink(&t.down, 1 / sqrt((double)dim)), shrink(&t.up, 1 / sqrt((double)rank));
    slc_norm_gate g = {inner, outer, true, rows, dim, t.y.ld, rank, 0, dim, 1.5f, 0.25f};
    slc_gate_weights w = {t.down.dev, t.up.dev};
    judge("fitting", !slc_gate_fits(&g), 0, 1);
    float *part = need(slc_alloc((size_t)slc_norm_gate_parts(&g) * sizeof *part));
    char *got[2] = {need(malloc(bytes_of(&t.dup))), need(malloc(bytes_of(&t.dup)))};
    for (int i = 0; i < 2; i++) {
        upload(&t.ddown), upload(&t.dup);
        slc_norm_gate_forward(NULL, &g, w, t.y.dev, t.a.dev, t.out.dev);
        slc_norm_gate_backward(NULL, &g, w, t.y.dev, t.a.dev, t.dout.dev, t.dy.dev, t.ddown.dev, t.dup.dev, part);
        done(slc_sync(NULL)), done(slc_get(got[i], t.dup.dev, bytes_of(&t.dup)));
    }
    judge("a second pass", memcmp(got[0], got[1], bytes_of(&t.dup)) != 0, 0, 1);
    free(got[0]), free(got[1]), slc_free(part);
    for (int64_t i = 0; i < rows; i++)
        expect_gate_row(&g, &t, i);
    compare("a", &t.a, IN_F32), compare("out", &t.out, 2 * IN_BF16), compare("dy", &t.dy, 2 * IN_BF16);
    compare("dW_down", &t.ddown, 2 * IN_BF16), compare("dW_up", &t.dup, 2 * IN_BF16);
    matrix *all[] = {&t.y, &t.down, &t.up, &t.a, &t.out, &t.dout, &t.dy, &t.ddown, &t.dup};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
}

/* Shapes whose kernels there are not. */
static void test_gate_fits(void) {
    const slc_norm_gate no[] = {{.bf16 = false, .dim = 384, .rank = 16, .gates = 384},
                                {.bf16 = true, .dim = 36, .rank = 16, .gates = 36},
                                {.bf16 = true, .dim = 384, .rank = 16, .gates = 1},
                                {.bf16 = true, .dim = 384, .rank = 40, .gates = 384},
                                {.bf16 = true, .dim = 392, .rank = 17, .gates = 392},
                                {.bf16 = true, .dim = 1160, .rank = 16, .gates = 1160}};
    now = "shapes of the gate's kernels";
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        judge("fitting", slc_gate_fits(&no[i]), 0, 0);
}

static void test_norms(void) {
    for (size_t i = 0; i < sizeof norm_cases / sizeof *norm_cases; i++)
        test_norm(&norm_cases[i]);
    test_norm_bits(&norm_cases[0]), test_norm_bits(&norm_cases[13]);
    test_choice(36, 4, true), test_choice(37, 64, false), test_choice(7, 64, true), test_choice(1000, 64, true);
    test_means(1, true, 0), test_means(1, false, 0), test_means(0, false, 0), test_means(1, true, 2);
}

static void test_gates(void) {
    for (int outer = SLC_GATE_SIGMOID; outer <= SLC_GATE_LINEAR; outer++)
        for (int k = 0; k < 4; k++)
            test_gate_parts(k % 2 ? SLC_GATE_SILU : SLC_GATE_RELU, outer, k / 2, k % 2);
    test_gate_fits();
    test_gate(SLC_GATE_SILU, SLC_GATE_SIGMOID, 257, 384, 16);
    test_gate(SLC_GATE_SILU, SLC_GATE_SIGMOID, 17, 1024, 16);
    test_gate(SLC_GATE_RELU, SLC_GATE_SIGMOID, 1, 776, 6);
    test_gate(SLC_GATE_SILU, SLC_GATE_SIGMOID, 33, 768, 16);
    test_gate(SLC_GATE_SILU, SLC_GATE_TANH, 1, 40, 5);
    test_gate(SLC_GATE_SILU, SLC_GATE_SIGMOID, 2060, 320, 1); /* more rows than a batch for every part */
    test_gate(SLC_GATE_SILU, SLC_GATE_SILU, 19, 104, 24);
    test_gate(SLC_GATE_SILU, SLC_GATE_TANH, 17, 384, 17);
    test_gate(SLC_GATE_SILU, SLC_GATE_LINEAR, 257, 8, 32);
}

int main(void) {
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    rng = sl_rng_make(11, SL_STREAM_TEST, 0);
    test_norms();
    test_gates();
    return failures != 0;
}
