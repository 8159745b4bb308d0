/* Mixtures of experts on the device against their formulas in double (ops/moe/moe.h), given the device's choices, which
 * are checked by themselves: odd sizes, more experts than a warp has lanes, several tiles an expert, dropped rows. Two
 * passes give the same bits. */
#include "cuda/moe.h"

#include "matrix.h"

typedef struct {
    const char *name;
    slc_moe m;
    bool bias, residual, add;
} mixture;

static slc_moe_rows rows_of(const matrix *a) { return (slc_moe_rows){a->dev, a->ld}; }

static void check(const mixture *x, bool ok, const char *what) {
    if (!ok)
        printf("FAIL %s: %s\n", x->name, what), failures++;
}

/* ---- the routing */

typedef struct {
    slc_moe_route dev, host;
    void *block;
    char *copy;
    size_t bytes;
} routing;

static void *carve(char *base, size_t *at, int64_t words) {
    void *p = base ? base + *at : NULL;
    *at += ((size_t)words * 4 + 63) / 64 * 64;
    return p;
}

static slc_moe_route lay_out(const slc_moe *m, void *block, size_t *bytes) {
    int64_t slots = m->rows * m->top;
    slc_moe_route t;
    char *base = block;
    *bytes = 0;
    t.score = carve(base, bytes, m->rows * m->experts), t.lse = carve(base, bytes, m->rows);
    t.weight = carve(base, bytes, slots), t.dweight = carve(base, bytes, slots);
    t.expert = carve(base, bytes, slots), t.place = carve(base, bytes, slots), t.slot = carve(base, bytes, slots);
    t.offset = carve(base, bytes, m->experts + 1), t.count = carve(base, bytes, m->experts);
    return t;
}

static routing make_routing(const slc_moe *m) {
    routing r;
    lay_out(m, NULL, &r.bytes);
    r.block = need(slc_alloc(r.bytes)), r.copy = need(malloc(r.bytes));
    r.dev = lay_out(m, r.block, &r.bytes), r.host = lay_out(m, r.copy, &r.bytes);
    return r;
}

static double score_of(const slc_moe *m, const matrix *x, const matrix *w, int64_t row, double *s) {
    double most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < m->experts; e++) {
        s[e] = 0;
        for (int64_t k = 0; k < m->dim; k++)
            s[e] += x->host[row * m->dim + k] * w->host[e * m->dim + k];
        most = fmax(most, s[e]);
    }
    for (int64_t e = 0; e < m->experts; e++)
        sum += exp(s[e] - most);
    for (int64_t e = 0; e < m->experts; e++)
        s[e] = m->sigmoid ? 1 / (1 + exp(-s[e])) : exp(s[e] - most) / sum;
    return most + log(sum);
}

/* Choices are the largest, experts ascending; places follow experts and rows, up to the capacity. */
static void check_routing(const mixture *x, const routing *r, const matrix *in, const matrix *w, const matrix *bias) {
    const slc_moe *m = &x->m;
    const slc_moe_route *t = &r->host;
    double s[SLC_MOE_MAX_EXPERTS], error = 0;
    int64_t seen[SLC_MOE_MAX_EXPERTS] = {0};
    bool largest = true, ascending = true, placed = true;
    for (int64_t row = 0; row < m->rows; row++) {
        double least = INFINITY;
        bool taken[SLC_MOE_MAX_EXPERTS] = {false};
        score_of(m, in, w, row, s);
        for (int64_t j = row * m->top; j < (row + 1) * m->top; j++) {
            int32_t e = t->expert[j];
            ascending = ascending && (j == row * m->top || t->expert[j - 1] < e);
            taken[e] = true;
            least = fmin(least, s[e] + (bias ? bias->host[e] : 0));
            bool has = seen[e] < m->capacity;
            placed = placed && t->place[j] == (has ? t->offset[e] + seen[e] : -1) &&
                     (!has || t->slot[t->place[j]] == j);
            seen[e]++;
        }
        for (int64_t e = 0; e < m->experts; e++) {
            largest = largest && (taken[e] || s[e] + (bias ? bias->host[e] : 0) <= least + 1e-5);
            error = fmax(error, fabs(s[e] - (double)t->score[row * m->experts + e]));
        }
    }
    for (int64_t e = 0; e < m->experts; e++)
        placed = placed && t->count[e] == seen[e] &&
                 t->offset[e + 1] - t->offset[e] == (seen[e] < m->capacity ? seen[e] : m->capacity);
    check(x, error < 1e-5, "scores"), check(x, largest, "choices"), check(x, ascending, "order of choices");
    check(x, placed, "places");
}

/* ---- what is expected */

static double act_of(int act, double a, double *slope) {
    double q = act == SLC_MOE_GELU ? 0.5 * erfc(-a / sqrt(2)) : 1 / (1 + exp(-a));
    if (act == SLC_MOE_SIGMOID)
        return *slope = q * (1 - q), q;
    *slope = act == SLC_MOE_GELU ? q + a * exp(-a * a / 2) / sqrt(2 * acos(-1)) : q + a * q * (1 - q);
    return a * q;
}

typedef struct {
    matrix x, w, router, bias, residual, out, dout, din, dw, drouter, gate_up, h;
    routing r;
} tensors;

static double dot(int64_t n, const double *a, const double *b, int64_t step) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i * step];
    return sum;
}

/* One choice with a place: adds to out, dw, dx; returns the gradient of its weight. */
static double expect_expert(const slc_moe *m, tensors *t, int64_t row, int64_t e, double weight, double *dx) {
    int64_t d = m->dim, f = m->ffn;
    const double *x = t->x.host + row * d, *dout = t->dout.host + row * d, *w = t->w.host + e * 3 * f * d;
    double *dw = t->dw.host + e * 3 * f * d, *out = t->out.host + row * d, dweight = 0, slope;
    for (int64_t i = 0; i < f; i++) {
        double gate = dot(d, x, w + i * d, 1), up = dot(d, x, w + (f + i) * d, 1);
        double a = act_of(m->act, gate, &slope), dh = dot(d, dout, w + 2 * f * d + i, f);
        double dgate = weight * dh * up * slope, dup = weight * dh * a;
        dweight += dh * a * up;
        for (int64_t k = 0; k < d; k++) {
            out[k] += weight * a * up * w[2 * f * d + k * f + i];
            dx[k] += dgate * w[i * d + k] + dup * w[(f + i) * d + k];
            dw[i * d + k] += dgate * x[k];
            dw[(f + i) * d + k] += dup * x[k];
            dw[2 * f * d + k * f + i] += dout[k] * weight * a * up;
        }
    }
    return dweight;
}

/* The gradient by the router's products, from those of the weights and the losses of balance. */
static void expect_scores(const slc_moe *m, const slc_moe_route *t, int64_t row, const double *s, double lse,
                          const double *dweight, double sum, double *ds) {
    double mean = 0, whole = 0, inner = 0, slots = (double)(m->rows * m->top);
    for (int64_t j = 0; j < m->top; j++)
        mean += s[t->expert[row * m->top + j]] / sum * dweight[j];
    for (int64_t e = 0; e < m->experts; e++) {
        double share = m->aux * (double)m->grad_scale * (double)m->experts * t->count[e] / slots / (double)m->rows;
        ds[e] = 0, whole += s[e], inner += share * s[e];
    }
    for (int64_t j = 0; j < m->top; j++)
        ds[t->expert[row * m->top + j]] = m->top > 1 ? (dweight[j] - mean) / sum : dweight[j];
    for (int64_t e = 0; e < m->experts; e++) {
        double share = m->aux * (double)m->grad_scale * (double)m->experts * t->count[e] / slots / (double)m->rows;
        ds[e] += m->sigmoid ? (share - inner / whole) / whole : share;
    }
    mean = dot(m->experts, s, ds, 1);
    for (int64_t e = 0; e < m->experts; e++)
        ds[e] = m->sigmoid ? ds[e] * s[e] * (1 - s[e])
                           : s[e] * (ds[e] - mean + 2 * m->z * (double)m->grad_scale * lse / (double)m->rows);
}

static void expect(const mixture *x, tensors *t) {
    const slc_moe *m = &x->m;
    double s[SLC_MOE_MAX_EXPERTS], ds[SLC_MOE_MAX_EXPERTS], dweight[16], *dx = need(malloc((size_t)m->dim * 8));
    for (int64_t row = 0; row < m->rows; row++) {
        double lse = score_of(m, &t->x, &t->router, row, s), sum = m->top > 1 ? 1e-20 : 1;
        memset(dx, 0, (size_t)m->dim * 8);
        for (int64_t j = 0; j < m->top && m->top > 1; j++)
            sum += s[t->r.host.expert[row * m->top + j]];
        for (int64_t k = 0; k < m->dim; k++)
            t->out.host[row * m->dim + k] = x->residual ? t->residual.host[row * m->dim + k] : 0;
        for (int64_t j = 0; j < m->top; j++) {
            int64_t slot = row * m->top + j, e = t->r.host.expert[slot];
            dweight[j] = t->r.host.place[slot] < 0 ? 0 : expect_expert(m, t, row, e, s[e] / sum, dx);
        }
        expect_scores(m, &t->r.host, row, s, lse, dweight, sum, ds);
        for (int64_t e = 0; e < m->experts; e++)
            for (int64_t k = 0; k < m->dim; k++) {
                dx[k] += ds[e] * t->router.host[e * m->dim + k];
                t->drouter.host[e * m->dim + k] += ds[e] * t->x.host[row * m->dim + k];
            }
        for (int64_t k = 0; k < m->dim; k++)
            t->din.host[row * m->dim + k] = dx[k] + (x->add ? t->din.host[row * m->dim + k] : 0);
    }
    free(dx);
}

/* ---- a mixture */

static void open_tensors(const mixture *x, tensors *t) {
    const slc_moe *m = &x->m;
    int64_t slots = m->rows * m->top, w = 3 * m->experts;
    double small = 1 / sqrt((double)m->dim);
    t->x = sized(m->rows, m->dim, m->bf16, m->bf16, 1), t->w = sized(w, m->ffn * m->dim, m->bf16, false, small);
    t->router = sized(m->experts, m->dim, false, false, small), t->bias = sized(1, m->experts, false, false, 0.2);
    t->residual = sized(m->rows, m->dim, false, false, 1), t->out = sized(m->rows, m->dim, false, false, 1);
    t->dout = sized(m->rows, m->dim, false, false, 1), t->din = sized(m->rows, m->dim, m->bf16, m->bf16, 1);
    t->dw = sized(w, m->ffn * m->dim, false, false, 1), t->drouter = sized(m->experts, m->dim, false, false, 1);
    t->gate_up = sized(2 * slots, m->ffn, m->bf16, m->bf16, 1), t->h = sized(slots, m->ffn, m->bf16, m->bf16, 1);
    t->r = make_routing(m);
}

static void close_tensors(tensors *t) {
    matrix *all[] = {&t->x, &t->w, &t->router, &t->bias, &t->residual, &t->out, &t->dout, &t->din, &t->dw, &t->drouter,
                     &t->gate_up, &t->h};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    slc_free(t->r.block), free(t->r.copy);
}

static void pass(const mixture *x, tensors *t, slc_moe_state *state, void *scratch) {
    const float *bias = x->bias ? t->bias.dev : NULL, *residual = x->residual ? t->residual.dev : NULL;
    slc_moe_route_rows(NULL, &x->m, rows_of(&t->x), t->router.dev, bias, &t->r.dev, state, scratch);
    slc_moe_forward(NULL, &x->m, rows_of(&t->x), t->w.dev, &t->r.dev, rows_of(&t->gate_up), rows_of(&t->h), residual,
                    t->out.dev, scratch);
    slc_moe_backward(NULL, &x->m, rows_of(&t->x), t->w.dev, t->router.dev, &t->r.dev, rows_of(&t->gate_up),
                     rows_of(&t->h), t->dout.dev, rows_of(&t->din), x->add, t->dw.dev, t->drouter.dev, scratch);
    done(slc_sync(NULL));
}

static void check_end_step(const mixture *x, tensors *t, slc_moe_state *dev) {
    slc_moe_state s;
    int64_t n = x->m.experts, slots = x->m.rows * x->m.top;
    int32_t yes = 1, *applied = need(slc_alloc(sizeof *applied));
    done(slc_put(applied, &yes, sizeof yes));
    slc_moe_end_step(NULL, &x->m, dev, x->bias ? t->bias.dev : NULL, applied);
    done(slc_get(&s, dev, sizeof s));
    check(x, s.last.passes == 1 && s.now.passes == 0 && s.last.choices == slots && s.now.count[0] == 0,
          "sums of a step");
    check(x, s.last.dropped == slots - t->r.host.offset[n] && s.last.count[n - 1] == t->r.host.count[n - 1], "loads");
    for (int64_t e = 0; e < n && x->bias; e++) {
        int64_t below = slots - n * t->r.host.count[e];
        t->bias.host[e] += x->m.rate * ((below > 0) - (below < 0));
    }
    compare("bias", &t->bias, 1e-6);
    slc_free(applied);
}

static void run(const mixture *x) {
    tensors t;
    open_tensors(x, &t);
    void *scratch = need(slc_alloc(slc_moe_scratch_bytes(&x->m)));
    slc_moe_state *state = need(slc_alloc(sizeof *state));
    slc_zero(NULL, state, sizeof *state);
    pass(x, &t, state, scratch);
    done(slc_get(t.r.copy, t.r.block, t.r.bytes));
    check_routing(x, &t.r, &t.x, &t.router, x->bias ? &t.bias : NULL);
    expect(x, &t);
    double within = x->m.bf16 ? 0x1p-6 : 1e-5;
    compare("out", &t.out, within), compare("gradient of the input", &t.din, within);
    compare("gradient of the experts", &t.dw, within), compare("gradient of the router", &t.drouter, within);
    check_end_step(x, &t, state);
    close_tensors(&t);
    slc_free(scratch), slc_free(state);
}

/* Bits of out, din and the gradients. */
static void run_twice(const mixture *x) {
    char *first[4] = {0};
    for (int i = 0; i < 2; i++) {
        tensors t;
        rng = sl_rng_make(9, 9, 9);
        open_tensors(x, &t);
        void *scratch = need(slc_alloc(slc_moe_scratch_bytes(&x->m)));
        slc_moe_state *state = need(slc_alloc(sizeof *state));
        slc_zero(NULL, state, sizeof *state);
        pass(x, &t, state, scratch);
        const matrix *all[] = {&t.out, &t.din, &t.dw, &t.drouter};
        for (int j = 0; j < 4; j++) {
            char *got = need(malloc(bytes_of(all[j])));
            done(slc_get(got, all[j]->dev, bytes_of(all[j])));
            check(x, i == 0 || memcmp(first[j], got, bytes_of(all[j])) == 0, "two passes differ");
            free(first[j]);
            first[j] = got;
        }
        close_tensors(&t);
        slc_free(scratch), slc_free(state);
    }
    for (int j = 0; j < 4; j++)
        free(first[j]);
}

int main(void) {
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
#define SIZES(r, d, e, t, f) .rows = r, .dim = d, .experts = e, .top = t, .ffn = f
    static const mixture all[] = {
        {"softmax", {SIZES(150, 36, 3, 2, 70), .act = SLC_MOE_SILU, .aux = 0.5, .z = 0.1}, false, true, false},
        {"sigmoid with biases",
         {SIZES(70, 20, 40, 6, 17), .act = SLC_MOE_GELU, .sigmoid = true, .aux = 0.3, .rate = 0.01},
         true, false, true},
        {"one expert a row, dropping",
         {SIZES(257, 12, 2, 1, 9), .capacity = 90, .act = SLC_MOE_SIGMOID},
         true, true, true},
        {"one row", {SIZES(1, 8, 256, 2, 8), .act = SLC_MOE_SILU, .aux = 1}, false, false, false},
        {"wide", {SIZES(300, 136, 2, 2, 144), .act = SLC_MOE_SILU, .z = 0.2}, false, true, true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            mixture x = all[i];
            char name[64];
            snprintf(name, sizeof name, "%s, %s", all[i].name, bf16 ? "bf16" : "fp32");
            x.name = name, x.m.bf16 = bf16, x.m.training = x.m.measured = true, x.m.grad_scale = 0.5f;
            if (x.m.capacity == 0)
                x.m.capacity = x.m.rows * x.m.top;
            now = name;
            rng = sl_rng_make(1, 2, 3 + i);
            run(&x);
            if (i == 0)
                run_twice(&x);
        }
    return failures != 0;
}
