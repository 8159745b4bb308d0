/* Attention, its rotary embedding, q and k norms and gates on the device, against sums in double. */
#include "base/err.h"
#include "cuda/attention.h"
#include "cuda/heads.h"
#include "cuda/runtime.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

/* ---- numbers in either precision */

static uint32_t seed = 1;
static double random_number(void) {
    seed = seed * 1664525u + 1013904223u;
    return (double)(seed >> 8) / (1 << 23) - 1;
}

static float from_bf16(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, sizeof y);
    return y;
}
static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* rows x cols numbers on the host, as the device has them. */
typedef struct {
    int64_t rows, cols, ld;
    bool bf16;
    double *x;
    void *device;
} array;

static size_t bytes_of(const array *a) { return (size_t)(a->rows * a->ld) * (a->bf16 ? 2 : 4); }

static void put(array *a) {
    void *host = calloc(1, bytes_of(a) + 1);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            double *x = &a->x[i * a->cols + j];
            float f = (float)*x;
            if (a->bf16)
                *x = from_bf16(((uint16_t *)host)[i * a->ld + j] = to_bf16(f));
            else
                *x = ((float *)host)[i * a->ld + j] = f;
        }
    if (slc_put(a->device, host, bytes_of(a)))
        failures++;
    free(host);
}

static array make(int64_t rows, int64_t cols, bool bf16, double size) {
    array a = {.rows = rows, .cols = cols, .ld = bf16 ? (cols + 7) / 8 * 8 : cols, .bf16 = bf16};
    a.x = calloc((size_t)(rows * cols) + 1, sizeof *a.x);
    a.device = slc_alloc(bytes_of(&a) + 1);
    for (int64_t i = 0; i < rows * cols; i++)
        a.x[i] = size * random_number();
    put(&a);
    return a;
}

static void drop(array *a) {
    slc_free(a->device);
    free(a->x);
}

/* Is what the device has near what it should be, relative to its largest? */
static void compare(const char *name, const char *what, const array *a, const double *want, double tolerance) {
    void *host = malloc(bytes_of(a) + 1);
    double most = 0, worst = 0;
    if (slc_sync(NULL) || slc_get(host, a->device, bytes_of(a))) {
        printf("%s: %s: %s\n", name, what, sl_error());
        failures++;
    }
    for (int64_t i = 0; i < a->rows * a->cols; i++) {
        int64_t at = i / a->cols * a->ld + i % a->cols;
        double got = a->bf16 ? from_bf16(((uint16_t *)host)[at]) : ((float *)host)[at];
        double error = fabs(got - want[i]);
        most = fmax(most, fabs(want[i]));
        worst = error <= worst ? worst : error; /* NaN is worst */
        if (!(error == error))
            worst = INFINITY;
    }
    if (!(worst <= tolerance * most + 1e-6)) {
        printf("%s: %s is off by %.3g, largest %.3g\n", name, what, worst, most);
        failures++;
    }
    free(host);
}

/* ---- attention */

typedef struct {
    const char *name;
    int rows, extra;
    bool bf16;
    int64_t batch, seq, heads, kv_heads, hd, window;
} trial;

/* Of one query: score and weights of what it sees. */
typedef struct {
    const trial *t;
    const slc_attention *p;
    const array *qkv, *sinks, *bias_k, *bias_v;
    double *z, *weight, *soft, *slope, stat, extra; /* slope: of the weight, where it is not softmax's */
} query;

static const double *at(const array *a, int64_t row, int64_t col) { return a->x + row * a->cols + col; }

static double dot(int64_t n, const double *x, const double *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

static void weigh(query *w, int64_t b, int64_t h, int64_t i) {
    const trial *t = w->t;
    int64_t kv = h / (t->heads / t->kv_heads), first = i + 1 > t->window ? i + 1 - t->window : 0;
    const double *q = at(w->qkv, b * t->seq + i, h * t->hd);
    double max = -INFINITY, sum = 0, extra = 0;
    for (int64_t j = first; j <= i; j++) {
        w->z[j] = w->p->scale * dot(t->hd, q, at(w->qkv, b * t->seq + j, (t->heads + kv) * t->hd));
        max = fmax(max, w->z[j]);
    }
    if (t->extra == SLC_EXTRA_LOGIT)
        extra = w->sinks->x[h];
    if (t->extra >= SLC_EXTRA_KEY)
        extra = w->p->scale * dot(t->hd, q, at(w->bias_k, kv, 0));
    for (int64_t j = first; j <= i; j++)
        sum += exp(w->z[j] - max);
    sum += t->extra ? exp(extra - max) : 0;
    w->stat = max + log(sum);
    w->extra = t->extra ? exp(extra - w->stat) : 0;
    for (int64_t j = first; j <= i; j++) {
        double s = w->soft[j] = exp(w->z[j] - w->stat), y = w->p->a * s + w->p->b;
        double sigmoid = 1 / (1 + exp(-w->z[j] - w->p->a)), n = (double)(i + 1 - first);
        switch (t->rows) {
        case SLC_ROWS_SOFTMAX: w->weight[j] = s; break;
        case SLC_ROWS_CLIPPED:
            w->weight[j] = fmin(fmax(y, 0), 1);
            w->slope[j] = y > 0 && y < 1 ? w->p->a : 0;
            break;
        case SLC_ROWS_SIGMOID: w->weight[j] = sigmoid, w->slope[j] = sigmoid * (1 - sigmoid); break;
        default: w->weight[j] = fmax(w->z[j], 0) / n, w->slope[j] = w->z[j] > 0 ? 1 / n : 0;
        }
    }
}

/* Gradient of z[j] from that of every weight. */
static void slopes(const query *w, int64_t first, int64_t i, double *dp, double dextra, double *extra_ds) {
    bool soft = w->t->rows == SLC_ROWS_SOFTMAX || w->t->rows == SLC_ROWS_CLIPPED;
    double delta = w->extra * dextra;
    for (int64_t j = first; j <= i; j++) {
        if (w->t->rows != SLC_ROWS_SOFTMAX)
            dp[j] *= w->slope[j];
        delta += w->soft[j] * dp[j];
    }
    for (int64_t j = first; soft && j <= i; j++)
        dp[j] = w->soft[j] * (dp[j] - delta);
    *extra_ds = w->extra * (dextra - delta);
}

static void add(int64_t n, double a, const double *x, double *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

typedef struct {
    double *out, *dqkv, *dsinks, *dbias_k, *dbias_v;
} wanted;

static void reference(query *w, const array *dout, wanted *r) {
    const trial *t = w->t;
    int64_t hd = t->hd, group = t->heads / t->kv_heads, cols = w->qkv->cols;
    double *dp = calloc((size_t)t->seq, sizeof *dp), extra_ds;
    for (int64_t n = 0; n < t->batch * t->heads * t->seq; n++) {
        int64_t i = n % t->seq, h = n / t->seq % t->heads, b = n / t->seq / t->heads, kv = h / group;
        int64_t row = b * t->seq, first = i + 1 > t->window ? i + 1 - t->window : 0;
        double *o = r->out + (row + i) * dout->cols + h * hd, *dq = r->dqkv + (row + i) * cols + h * hd;
        const double *g = at(dout, row + i, h * hd), *q = at(w->qkv, row + i, h * hd);
        weigh(w, b, h, i);
        for (int64_t j = first; j <= i; j++) {
            const double *v = at(w->qkv, row + j, (t->heads + t->kv_heads + kv) * hd);
            add(hd, w->weight[j], v, o);
            dp[j] = dot(hd, g, v);
            add(hd, w->weight[j], g, r->dqkv + (row + j) * cols + (t->heads + t->kv_heads + kv) * hd);
        }
        bool value = t->extra == SLC_EXTRA_KEY_VALUE;
        if (value)
            add(hd, w->extra, at(w->bias_v, kv, 0), o);
        slopes(w, first, i, dp, value ? dot(hd, g, at(w->bias_v, kv, 0)) : 0, &extra_ds);
        for (int64_t j = first; j <= i; j++) {
            add(hd, w->p->scale * dp[j], at(w->qkv, row + j, (t->heads + kv) * hd), dq);
            add(hd, w->p->scale * dp[j], q, r->dqkv + (row + j) * cols + (t->heads + kv) * hd);
        }
        r->dsinks[h] += extra_ds;
        if (t->extra >= SLC_EXTRA_KEY) {
            add(hd, w->p->scale * extra_ds, at(w->bias_k, kv, 0), dq);
            add(hd, w->p->scale * extra_ds, q, r->dbias_k + kv * hd);
            add(hd, w->extra, g, r->dbias_v + kv * hd);
        }
    }
    free(dp);
}

static double *zeros(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }
static double *copied(const array *a) {
    double *x = zeros(a->rows * a->cols);
    memcpy(x, a->x, (size_t)(a->rows * a->cols) * sizeof *x);
    return x;
}

static slc_attention describe(const trial *t, const array *qkv, const array *out) {
    slc_attention p = {.batch = t->batch, .seq = t->seq, .heads = t->heads, .kv_heads = t->kv_heads,
                       .head_dim = t->hd, .window = t->window, .rows = t->rows, .extra = t->extra,
                       .scale = (float)(1 / sqrt((double)t->hd)), .bf16 = t->bf16, .qkv = qkv->device,
                       .out = out->device, .ld = qkv->ld, .ldo = out->ld};
    if (t->rows == SLC_ROWS_CLIPPED)
        p.a = 1.2f, p.b = -0.03f;
    if (t->rows == SLC_ROWS_SIGMOID)
        p.a = -(float)log((double)t->seq);
    return p;
}

static void attention(const trial *t) {
    int64_t rows = t->batch * t->seq, cols = (t->heads + 2 * t->kv_heads) * t->hd, wide = t->heads * t->hd;
    array qkv = make(rows, cols, t->bf16, 2), dout = make(rows, wide, t->bf16, 1), out = make(rows, wide, t->bf16, 1);
    array dqkv = make(rows, cols, t->bf16, 1), stat = make(t->batch * t->heads, t->seq, false, 1);
    array sinks = make(1, t->heads, false, 2), bias_k = make(t->kv_heads, t->hd, false, 1);
    array bias_v = make(t->kv_heads, t->hd, false, 1), dsinks = make(1, t->heads, false, 1);
    array dbias_k = make(t->kv_heads, t->hd, false, 1), dbias_v = make(t->kv_heads, t->hd, false, 1);
    slc_attention p = describe(t, &qkv, &out);
    p.stat = stat.device, p.sinks = sinks.device, p.bias_k = bias_k.device, p.bias_v = bias_v.device;
    p.dout = dout.device, p.dqkv = dqkv.device;
    p.dsinks = dsinks.device, p.dbias_k = dbias_k.device, p.dbias_v = dbias_v.device;
    p.scratch = slc_alloc(slc_attention_scratch(&p));
    query w = {.t = t, .p = &p, .qkv = &qkv, .sinks = &sinks, .bias_k = &bias_k, .bias_v = &bias_v,
               .z = zeros(t->seq), .weight = zeros(t->seq), .soft = zeros(t->seq), .slope = zeros(t->seq)};
    wanted r = {zeros(rows * wide), zeros(rows * cols), copied(&dsinks), copied(&dbias_k), copied(&dbias_v)};
    reference(&w, &dout, &r);
    slc_attention_forward(NULL, &p);
    double near = t->bf16 ? 0.015 : 1e-5;
    compare(t->name, "out", &out, r.out, near);
    slc_attention_backward(NULL, &p);
    compare(t->name, "dqkv", &dqkv, r.dqkv, near);
    compare(t->name, "dsinks", &dsinks, t->extra == SLC_EXTRA_LOGIT ? r.dsinks : dsinks.x, near);
    compare(t->name, "dbias_k", &dbias_k, t->extra >= SLC_EXTRA_KEY ? r.dbias_k : dbias_k.x, near);
    compare(t->name, "dbias_v", &dbias_v, t->extra == SLC_EXTRA_KEY_VALUE ? r.dbias_v : dbias_v.x, near);
    array *all[] = {&qkv, &dout, &out, &dqkv, &stat, &sinks, &bias_k, &bias_v, &dsinks, &dbias_k, &dbias_v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    double *mine[] = {w.z, w.weight, w.soft, w.slope, r.out, r.dqkv, r.dsinks, r.dbias_k, r.dbias_v};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
        free(mine[i]);
    slc_free(p.scratch);
}

/* Position by position what attention does at once. */
static void cached(const trial *t) {
    int64_t rows = t->batch * t->seq, cols = (t->heads + 2 * t->kv_heads) * t->hd, wide = t->heads * t->hd;
    array qkv = make(rows, cols, t->bf16, 2), dout = make(rows, wide, false, 1), sinks = make(1, t->heads, false, 2);
    array bias_k = make(t->kv_heads, t->hd, false, 1), bias_v = make(t->kv_heads, t->hd, false, 1);
    array keys = make(t->batch * t->kv_heads, t->seq * t->hd, false, 1), values = make(keys.rows, keys.cols, false, 1);
    array now = make(t->batch, cols, t->bf16, 1), out = make(t->batch, wide, false, 1);
    int32_t *position = slc_alloc(sizeof *position);
    slc_attention p = describe(t, &now, &out);
    p.seq = 1, p.sinks = sinks.device, p.bias_k = bias_k.device, p.bias_v = bias_v.device;
    query w = {.t = t, .p = &p, .qkv = &qkv, .sinks = &sinks, .bias_k = &bias_k, .bias_v = &bias_v,
               .z = zeros(t->seq), .weight = zeros(t->seq), .soft = zeros(t->seq), .slope = zeros(t->seq)};
    wanted r = {zeros(rows * wide), zeros(rows * cols), zeros(t->heads), zeros(keys.cols), zeros(keys.cols)};
    double *want = zeros(t->batch * wide);
    reference(&w, &dout, &r);
    for (int32_t i = 0; i < t->seq; i++) {
        for (int64_t b = 0; b < t->batch; b++) {
            memcpy(now.x + b * cols, at(&qkv, b * t->seq + i, 0), (size_t)cols * sizeof(double));
            memcpy(want + b * wide, r.out + (b * t->seq + i) * wide, (size_t)wide * sizeof(double));
        }
        put(&now);
        failures += slc_put(position, &i, sizeof i) != 0;
        slc_attention_cached(NULL, &p, false, keys.device, values.device, t->seq, position);
        compare(t->name, "cached out", &out, want, 1e-5);
    }
    array *all[] = {&qkv, &dout, &sinks, &bias_k, &bias_v, &keys, &values, &now, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    double *mine[] = {w.z, w.weight, w.soft, w.slope, r.out, r.dqkv, r.dsinks, r.dbias_k, r.dbias_v, want};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
        free(mine[i]);
    slc_free(position);
}

#define ALL 1 << 30
#define ROWS(name) SLC_ROWS_##name
#define EXTRA(name) SLC_EXTRA_##name
static const trial trials[] = {
    {"softmax", ROWS(SOFTMAX), EXTRA(NONE), false, 2, 70, 2, 2, 12, ALL},
    {"softmax1, window, groups", ROWS(SOFTMAX), EXTRA(ZERO), false, 1, 67, 4, 2, 20, 19},
    {"sink_logit, groups", ROWS(SOFTMAX), EXTRA(LOGIT), false, 2, 33, 4, 2, 8, ALL},
    {"k_bias, window", ROWS(SOFTMAX), EXTRA(KEY), false, 2, 45, 2, 1, 12, 7},
    {"kv_bias", ROWS(SOFTMAX), EXTRA(KEY_VALUE), false, 2, 40, 4, 2, 12, ALL},
    {"sigmoid", ROWS(SIGMOID), EXTRA(NONE), false, 1, 40, 2, 1, 12, 21},
    {"relu", ROWS(RELU), EXTRA(NONE), false, 1, 40, 2, 1, 12, 21},
    {"clipped_softmax", ROWS(CLIPPED), EXTRA(NONE), false, 1, 40, 2, 1, 12, 37},
    {"one position", ROWS(SOFTMAX), EXTRA(LOGIT), false, 1, 1, 1, 1, 12, ALL},
    {"window of one", ROWS(SOFTMAX), EXTRA(KEY_VALUE), false, 1, 5, 1, 1, 12, 1},
    {"a wide head", ROWS(SOFTMAX), EXTRA(KEY_VALUE), false, 1, 19, 1, 1, 201, ALL},
    {"general bf16", ROWS(SOFTMAX), EXTRA(KEY_VALUE), true, 2, 37, 2, 1, 12, 30},
    {"general bf16, clipped", ROWS(CLIPPED), EXTRA(NONE), true, 1, 37, 2, 1, 136, ALL},
    {"bf16 of 64", ROWS(SOFTMAX), EXTRA(NONE), true, 2, 257, 2, 1, 64, ALL},
    {"bf16 of 64, window", ROWS(SOFTMAX), EXTRA(NONE), true, 1, 300, 3, 1, 64, 100},
    {"bf16 of 64, narrow window", ROWS(SOFTMAX), EXTRA(ZERO), true, 1, 200, 1, 1, 64, 3},
    {"bf16 of 64, kv_bias", ROWS(SOFTMAX), EXTRA(KEY_VALUE), true, 2, 130, 4, 2, 64, 70},
    {"bf16 of 48, k_bias", ROWS(SOFTMAX), EXTRA(KEY), true, 1, 70, 2, 2, 48, ALL},
    {"bf16 of 16, sink_logit", ROWS(SOFTMAX), EXTRA(LOGIT), true, 3, 65, 4, 2, 16, ALL},
    {"bf16 of 32, one position", ROWS(SOFTMAX), EXTRA(LOGIT), true, 2, 1, 2, 1, 32, ALL},
    {"bf16 of 128", ROWS(SOFTMAX), EXTRA(KEY_VALUE), true, 1, 150, 2, 1, 128, 90},
    {"bf16 of 96", ROWS(SOFTMAX), EXTRA(NONE), true, 1, 64, 1, 1, 96, ALL},
    {"bf16 of 64, sigmoid", ROWS(SIGMOID), EXTRA(NONE), true, 1, 130, 2, 1, 64, 90},
    {"bf16 of 32, relu", ROWS(RELU), EXTRA(NONE), true, 1, 130, 2, 2, 32, 90},
    {"bf16 of 64, clipped", ROWS(CLIPPED), EXTRA(NONE), true, 1, 200, 2, 1, 64, 100},
    {"bf16 of 128, clipped", ROWS(CLIPPED), EXTRA(NONE), true, 1, 100, 1, 1, 128, ALL},
    {"bf16 of 128, relu", ROWS(RELU), EXTRA(NONE), true, 1, 70, 1, 1, 128, ALL}};
static const trial decoded[] = {{"softmax", ROWS(SOFTMAX), EXTRA(NONE), false, 2, 9, 2, 1, 12, ALL},
                                {"kv_bias in bf16", ROWS(SOFTMAX), EXTRA(KEY_VALUE), true, 2, 12, 4, 2, 20, 5},
                                {"sink_logit", ROWS(SOFTMAX), EXTRA(LOGIT), false, 1, 5, 2, 2, 8, ALL},
                                {"softmax1", ROWS(SOFTMAX), EXTRA(ZERO), false, 1, 5, 1, 1, 8, ALL},
                                {"clipped", ROWS(CLIPPED), EXTRA(NONE), false, 1, 8, 2, 1, 8, ALL},
                                {"sigmoid", ROWS(SIGMOID), EXTRA(NONE), false, 1, 6, 1, 1, 8, 4},
                                {"relu", ROWS(RELU), EXTRA(NONE), false, 1, 6, 1, 1, 8, 4}};

/* ---- heads */

typedef struct {
    bool bf16;
    int64_t rows, heads, kv_heads, hd; /* rows: three windows */
} sizes;

static void rope(const sizes *z) {
    int64_t turned = z->heads + z->kv_heads, cols = (turned + z->kv_heads) * z->hd, seq = z->rows / 3, half = z->hd / 2;
    int32_t start = 5, *position = slc_alloc(sizeof start);
    array x = make(z->rows, cols, z->bf16, 2), table = make(seq + start, z->hd, false, 0);
    slc_rope p = {.rows = z->rows, .seq = seq, .heads = turned, .head_dim = z->hd, .bf16 = z->bf16, .x = x.device,
                  .ld = x.ld, .sign = 1, .base = 10000, .table = table.device, .position = position};
    double *want = copied(&x), near = z->bf16 ? 0.01 : 1e-6;
    for (int64_t i = 0; i < z->rows * turned * half; i++) {
        int64_t j = i % half, h = i / half % turned, r = i / half / turned;
        double angle = (double)(start + r % seq) * pow(p.base, -2.0 * (double)j / (double)z->hd);
        const double *lo = at(&x, r, h * z->hd + j), *hi = lo + half;
        want[r * cols + h * z->hd + j] = *lo * cos(angle) - *hi * sin(angle);
        want[r * cols + h * z->hd + j + half] = *hi * cos(angle) + *lo * sin(angle);
    }
    failures += slc_put(position, &start, sizeof start) != 0;
    slc_rope_turn(NULL, &p);
    compare("rope", "out", &x, want, near);
    p.sign = -1;
    slc_rope_turn(NULL, &p);
    compare("rope", "turned back", &x, x.x, near);
    drop(&x), drop(&table), free(want), slc_free(position);
}

static void qk_norm(const sizes *z) {
    int64_t normed = z->heads + z->kv_heads, cols = (normed + z->kv_heads) * z->hd, hd = z->hd;
    array x = make(z->rows, cols, z->bf16, 2), dx = make(z->rows, cols, z->bf16, 2);
    array raw = make(z->rows, normed * hd, false, 1), rstd = make(z->rows, normed, false, 1);
    array w[2] = {make(1, hd, false, 1), make(1, hd, false, 1)}, dw[2] = {make(1, hd, false, 1), make(1, hd, false, 1)};
    slc_qk_norm p = {.rows = z->rows, .heads = z->heads, .kv_heads = z->kv_heads, .head_dim = hd, .bf16 = z->bf16,
                     .x = x.device, .ld = x.ld, .eps = 1e-5f, .weight = {w[0].device, w[1].device},
                     .raw = raw.device, .rstd = rstd.device, .dweight = {dw[0].device, dw[1].device}};
    p.scratch = slc_alloc(slc_qk_norm_scratch(&p));
    double *out = copied(&x), *din = copied(&dx), *want[2] = {copied(&dw[0]), copied(&dw[1])};
    double *want_raw = zeros(z->rows * normed * hd), near = z->bf16 ? 0.01 : 1e-5;
    for (int64_t i = 0; i < z->rows * normed; i++) {
        int64_t r = i / normed, h = i % normed, k = h >= z->heads;
        const double *a = at(&x, r, h * hd), *g = at(&dx, r, h * hd), *v = w[k].x;
        double rms = sqrt(dot(hd, a, a) / (double)hd + 1e-5), sum = 0;
        for (int64_t j = 0; j < hd; j++)
            sum += v[j] * g[j] * a[j] / rms / (double)hd;
        for (int64_t j = 0; j < hd; j++) {
            want_raw[i * hd + j] = a[j];
            out[r * cols + h * hd + j] = v[j] * a[j] / rms;
            din[r * cols + h * hd + j] = (v[j] * g[j] - a[j] / rms * sum) / rms;
            want[k][j] += g[j] * a[j] / rms;
        }
    }
    slc_qk_norm_forward(NULL, &p);
    compare("qk_norm", "out", &x, out, near);
    compare("qk_norm", "raw", &raw, want_raw, 0);
    p.x = dx.device;
    slc_qk_norm_backward(NULL, &p);
    compare("qk_norm", "din", &dx, din, near);
    compare("qk_norm", "dq_norm", &dw[0], want[0], 1e-5);
    compare("qk_norm", "dk_norm", &dw[1], want[1], 1e-5);
    array *all[] = {&x, &dx, &raw, &rstd, &w[0], &w[1], &dw[0], &dw[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    free(out), free(din), free(want[0]), free(want[1]), free(want_raw), slc_free(p.scratch);
}

/* Columns col.. + n of y, in place or not. */
static void gate(bool bf16, int64_t rows, int64_t col, int64_t n, int64_t group) {
    int64_t cols = col + n, bytes = bf16 ? 2 : 4;
    array y = make(rows, cols, bf16, 2), b = make(rows, n / group, bf16, 3), dout = make(rows, cols, bf16, 1);
    array out = make(rows, cols, bf16, 1), keep = make(rows, n, bf16, 1), db = make(rows, n / group, bf16, 1);
    array *to = col ? &y : &out;
    slc_gate p = {.rows = rows, .n = n, .group = group, .bf16 = bf16, .open = 0.75f, .b = b.device, .ld_b = b.ld};
    p.y = (char *)y.device + col * bytes, p.ld_y = y.ld;
    p.out = (char *)to->device + col * bytes, p.ld_out = to->ld;
    p.keep = col ? keep.device : NULL, p.ld_keep = keep.ld;
    double *want = copied(&y), *dy = copied(&dout), *want_db = zeros(rows * n), *kept = zeros(rows * n);
    double near = bf16 ? 0.01 : 1e-5;
    for (int64_t i = 0; i < rows * n; i++) {
        int64_t r = i / n, c = i % n, j = r * cols + col + c;
        double s = 1 / (1 + exp(-*at(&b, r, c / group)));
        kept[i] = y.x[j];
        want[j] = y.x[j] * (0.25 + 0.75 * s);
        dy[j] = dout.x[j] * (0.25 + 0.75 * s);
        want_db[r * (n / group) + c / group] += dout.x[j] * y.x[j] * 0.75 * s * (1 - s);
    }
    slc_gate_forward(NULL, &p);
    compare("gate", "out", to, want, near);
    if (col) {
        compare("gate", "kept", &keep, kept, 0);
        p.y = keep.device, p.ld_y = keep.ld;
    }
    p.dout = (char *)dout.device + col * bytes, p.ld_dout = dout.ld;
    p.dy = (char *)dout.device + col * bytes, p.ld_dy = dout.ld;
    p.db = db.device, p.ld_db = db.ld;
    slc_gate_backward(NULL, &p);
    compare("gate", "dy", &dout, dy, near);
    compare("gate", "db", &db, want_db, near);
    array *all[] = {&y, &b, &dout, &out, &keep, &db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(all[i]);
    free(want), free(dy), free(want_db), free(kept);
}

static void heads(void) {
    const sizes of_heads[] = {{false, 21, 3, 1, 12}, {true, 21, 3, 1, 12}, {false, 30, 6, 2, 64}, {true, 30, 6, 6, 64},
                              {true, 3, 5, 1, 128}, {false, 6, 2, 1, 18}, {true, 300, 1, 1, 272}};
    for (size_t i = 0; i < sizeof of_heads / sizeof *of_heads; i++)
        rope(&of_heads[i]), qk_norm(&of_heads[i]);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        gate(bf16, 9, 0, 36, 1), gate(bf16, 9, 0, 36, 12), gate(bf16, 40, 0, 192, 64), gate(bf16, 17, 0, 128, 1);
        gate(bf16, 9, 64, 32, 1), gate(bf16, 5, 36, 12, 1), gate(bf16, 3, 0, 600, 300);
    }
}

int main(void) {
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        attention(&trials[i]);
    for (size_t i = 0; i < sizeof decoded / sizeof *decoded; i++)
        cached(&decoded[i]);
    heads();
    return failures > 0;
}
