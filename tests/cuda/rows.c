/* The feed-forward's activation, the embedding, the stream and the loss on the device, against their formulas in
 * double; gradients of activations against differences of these. */
#include "cuda/rows.h"
#include "cuda/xent.h"

#include "matrix.h"

/* ---- the activation of a feed-forward */

enum {
#define FFN(name, ...) FFN_##name,
#include "simd/ffn.inc"
#undef FFN
    FFNS
};
static const bool gated[] = {
#define FFN(name, gate, ...) gate,
#include "simd/ffn.inc"
#undef FFN
};

static double ffn_act(int kind, double x) {
    switch (kind) {
    case FFN_swiglu: return x / (1 + exp(-x));
    case FFN_glu: return 1 / (1 + exp(-x));
    case FFN_geglu_tanh:
    case FFN_gelu_tanh: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case FFN_swiglu_clamped: return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7)));
    case FFN_relu: return x > 0 ? x : 0;
    case FFN_relu2: return x > 0 ? x * x : 0;
    default: return x * (0.5 + 0.5 * erf(x * sqrt(0.5)));
    }
}

static double ffn_other(int kind, double x) { return kind == FFN_swiglu_clamped ? 1 + fmax(-7, fmin(7, x)) : x; }

/* By a difference. */
static double slope(double (*f)(int kind, double x), int kind, double x) {
    const double step = 1e-6;
    return (f(kind, x + step) - f(kind, x - step)) / (2 * step);
}

static void test_ffn(int kind, bool bf16, int64_t rows, int64_t width) {
    now = "ffn";
    int64_t wide = gated[kind] ? 2 * width : width;
    matrix in = make(rows, wide, bf16), y = make(rows, width, bf16), dy = make(rows, width, bf16);
    matrix din = make(rows, wide, bf16);
    in.host[0] = 60, in.host[wide - 1] = -60; /* far out */
    upload(&in);
    slc_ffn f = {kind, bf16, rows, width, in.ld, y.ld};
    slc_ffn_forward(NULL, &f, in.dev, y.dev);
    slc_ffn_backward(NULL, &f, in.dev, dy.dev, din.dev);
    for (int64_t i = 0; i < rows * width; i++) {
        int64_t at = i / width * wide + i % width;
        double x = in.host[at], other = gated[kind] ? ffn_other(kind, in.host[at + width]) : 1;
        y.host[i] = ffn_act(kind, x) * other;
        din.host[at] = dy.host[i] * other * slope(ffn_act, kind, x);
        if (gated[kind])
            din.host[at + width] = dy.host[i] * ffn_act(kind, x) * slope(ffn_other, kind, in.host[at + width]);
    }
    compare("y", &y, within(&y)), compare("din", &din, within(&din));
    drop(&in), drop(&y), drop(&dy), drop(&din);
}

/* ---- the stream */

static void test_stream(int64_t rows, int64_t cols) {
    now = "the stream";
    int64_t n = rows * cols;
    matrix a = make(rows, cols, false), b = make(rows, cols, false), out = make(rows, cols, false);
    matrix r = make(rows, cols, true), r2 = make(rows, cols, true), scale = make(1, 1, false), dot = make(1, 1, false);
    float *part = need(slc_alloc((size_t)slc_dot_parts(n) * sizeof *part));
    slc_sum(NULL, n, a.dev, b.dev, out.dev);
    slc_add_rows(NULL, rows, cols, cols, false, b.dev, out.dev);
    for (int64_t i = 0; i < n; i++)
        out.host[i] = a.host[i] + 2 * b.host[i];
    compare("sums", &out, IN_F32);
    slc_scale(NULL, n, scale.dev, a.dev, out.dev);
    slc_dot(NULL, n, a.dev, b.dev, part), slc_fold(NULL, slc_dot_parts(n), 1, 1, part, dot.dev);
    for (int64_t i = 0; i < n; i++)
        out.host[i] = *scale.host * a.host[i], *dot.host += a.host[i] * b.host[i];
    compare("scaled", &out, IN_F32);
    compare("a product", &dot, 1e-4);
    slc_add_rows(NULL, rows, cols, r.ld, true, r2.dev, r.dev);
    for (int64_t i = 0; i < n; i++)
        r.host[i] += r2.host[i];
    compare("sums in bf16", &r, IN_BF16);
    slc_round_rows(NULL, rows, cols, a.dev, r.dev, r.ld), slc_round_weights(NULL, n, a.dev, (uint16_t *)r2.dev);
    memcpy(r.host, a.host, (size_t)n * sizeof *r.host), memcpy(r2.host, a.host, (size_t)n * sizeof *r2.host);
    compare("rounded", &r, IN_BF16);
    r2.ld = cols;
    compare("rounded weights", &r2, IN_BF16);
    upload(&r), upload(&b);
    slc_widen_rows(NULL, rows, cols, r.dev, r.ld, false, out.dev);
    memcpy(out.host, r.host, (size_t)n * sizeof *out.host);
    compare("widened", &out, 0);
    slc_widen_rows(NULL, rows, cols, r.dev, r.ld, true, b.dev);
    for (int64_t i = 0; i < n; i++)
        b.host[i] += r.host[i];
    compare("widened and added", &b, IN_F32);
    upload(&b);
    slc_clip(NULL, n, 0.5f, a.dev), slc_clip_back(NULL, n, 0.5f, a.dev, b.dev);
    for (int64_t i = 0; i < n; i++) {
        b.host[i] = fabs(a.host[i]) < 0.5 ? b.host[i] : 0;
        a.host[i] = fmax(fmin(a.host[i], 0.5), -0.5);
    }
    compare("clipped", &a, 0), compare("gradients of clipped", &b, 0);
    drop(&a), drop(&b), drop(&out), drop(&r), drop(&r2), drop(&scale), drop(&dot), slc_free(part);
}

/* ---- the embedding */

/* Every other token is the same one, and some do not appear. */
static void test_embed(int64_t rows, int64_t dim) {
    enum { VOCAB = 41 };
    now = "embed";
    int32_t *token = need(malloc((size_t)(2 * rows) * sizeof *token)), *order = token + rows, at = 0;
    matrix e = make(VOCAB, dim, false), g = make(VOCAB, dim, false), out = make(rows, dim, false);
    matrix dout = make(rows, dim, false);
    for (int64_t r = 0; r < rows; r++)
        token[r] = r % 2 ? 7 : (int32_t)sl_rng_below(&rng, VOCAB);
    for (int32_t t = 0; t < VOCAB; t++)
        for (int32_t r = 0; r < rows; r++)
            if (token[r] == t)
                order[at++] = r;
    int32_t *dev = need(slc_alloc((size_t)(2 * rows) * sizeof *dev));
    float *part = need(slc_alloc((size_t)(slc_embed_parts(rows) * dim) * sizeof *part));
    done(slc_put(dev, token, (size_t)(2 * rows) * sizeof *dev));
    slc_embed(NULL, rows, dim, dev, e.dev, out.dev);
    slc_embed_back(NULL, rows, dim, dev, dev + rows, dout.dev, part, g.dev);
    for (int64_t i = 0; i < rows * dim; i++) {
        out.host[i] = e.host[token[i / dim] * dim + i % dim];
        g.host[token[i / dim] * dim + i % dim] += dout.host[i];
    }
    compare("rows", &out, 0), compare("gradients", &g, IN_F32);
    drop(&e), drop(&g), drop(&out), drop(&dout), slc_free(part), slc_free(dev), free(token);
}

/* ---- the loss */

typedef struct {
    matrix x, loss, d;
    int32_t *target, *dev_target;
    float *scale;
} loss_test;

static loss_test open_loss(int64_t rows, int64_t vocab, bool bf16) {
    loss_test t = {make(rows, vocab, false), make(rows, 1, false), make(rows, vocab, bf16),
                   need(malloc((size_t)rows * sizeof *t.target)), need(slc_alloc((size_t)rows * sizeof *t.target)),
                   need(slc_alloc(sizeof(float)))};
    for (int64_t i = 0; i < rows * vocab; i++)
        t.x.host[i] = 6 * t.x.host[i] + (double)(i / vocab % 3) * 300; /* e^x is beyond fp32 in some rows */
    upload(&t.x);
    for (int64_t i = 0; i < rows; i++)
        t.target[i] = i % 4 == 2 ? -1 : i % 4 == 3 ? (int32_t)vocab - 1 : (int32_t)sl_rng_below(&rng, (uint64_t)vocab);
    done(slc_put(t.dev_target, t.target, (size_t)rows * sizeof *t.target));
    slc_count_targets(NULL, rows, t.dev_target, 3, t.scale);
    return t;
}

static void expect_loss(loss_test *t, double scale) {
    int64_t v = t->x.cols;
    for (int64_t i = 0; i < t->x.rows; i++) {
        double most = -INFINITY, sum = 0, *x = t->x.host + i * v, *d = t->d.host + i * v;
        for (int64_t j = 0; j < v; j++)
            most = fmax(most, x[j]);
        for (int64_t j = 0; j < v; j++)
            sum += exp(x[j] - most);
        bool counts = t->target[i] >= 0;
        t->loss.host[i] = counts ? log(sum) + most - x[t->target[i]] : 0;
        for (int64_t j = 0; j < v; j++)
            d[j] = counts ? scale * (exp(x[j] - most) / sum - (j == t->target[i])) : 0;
    }
}

enum { TO_BF16, TO_FP32, IN_PLACE }; /* dlogits: over the logits */
static void test_loss(int64_t rows, int64_t vocab, int to) {
    now = "the loss";
    loss_test t = open_loss(rows, vocab, to == TO_BF16);
    float scale;
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++)
        count += t.target[i] >= 0;
    done(slc_sync(NULL)), done(slc_get(&scale, t.scale, sizeof scale));
    judge("the scale", fabs((double)scale - (count ? 3.0 / (double)count : 0)), 1e-7, 1);
    expect_loss(&t, (double)scale);
    slc_xent(NULL, rows, vocab, t.x.ld, t.x.dev, t.dev_target, t.scale, false, t.loss.dev, NULL, to == TO_BF16, 0);
    compare("losses of an evaluation", &t.loss, IN_F32);
    matrix *d = to == IN_PLACE ? &t.x : &t.d;
    slc_xent(NULL, rows, vocab, t.x.ld, t.x.dev, t.dev_target, t.scale, true, t.loss.dev, d->dev, to == TO_BF16, d->ld);
    compare("losses", &t.loss, IN_F32);
    if (to == IN_PLACE)
        memcpy(t.x.host, t.d.host, (size_t)(rows * vocab) * sizeof *t.x.host);
    compare("gradients", d, within(d));
    drop(&t.x), drop(&t.loss), drop(&t.d), free(t.target), slc_free(t.dev_target), slc_free(t.scale);
}

/* A logit of -infinity has no share; a NaN is not lost. */
static void test_loss_limits(int64_t vocab) {
    now = "limits of the loss";
    loss_test t = open_loss(2, vocab, false);
    float loss[2];
    for (int64_t j = 0; j < vocab; j++)
        if (j % 2 == 0 && j != t.target[0])
            t.x.host[j] = -INFINITY;
    t.x.host[vocab + (t.target[1] + 1) % vocab] = NAN;
    upload(&t.x);
    expect_loss(&t, 1.5);
    slc_xent(NULL, 2, vocab, t.x.ld, t.x.dev, t.dev_target, t.scale, true, t.loss.dev, t.d.dev, false, t.d.ld);
    done(slc_sync(NULL)), done(slc_get(loss, t.loss.dev, sizeof loss));
    judge("of -infinity", fabs((double)loss[0] - *t.loss.host), 1e-4 * (1 + *t.loss.host), *t.loss.host);
    judge("of a NaN", !isnan(loss[1]), 0, 1);
    t.d.rows = 1;
    compare("gradients", &t.d, IN_F32);
    drop(&t.x), drop(&t.loss), drop(&t.d), free(t.target), slc_free(t.dev_target), slc_free(t.scale);
}

static void test_losses(void) {
    static const int64_t vocabs[] = {17, 256, 257, 1000, 1028, 4100, 8192, 8196, 130001, 130004};
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        int64_t rows = vocabs[i] < 10000 ? 7 : 3;
        test_loss(rows, vocabs[i], TO_BF16), test_loss(rows, vocabs[i], TO_FP32), test_loss(rows, vocabs[i], IN_PLACE);
        test_loss_limits(vocabs[i]);
    }
}

int main(void) {
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    rng = sl_rng_make(11, SL_STREAM_TEST, 0);
    for (int kind = 0; kind < FFNS; kind++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            test_ffn(kind, bf16, 7, 96), test_ffn(kind, bf16, 1, 257), test_ffn(kind, bf16, 5, 36);
    test_stream(9, 36), test_stream(1, 1), test_stream(1001, 37);
    test_embed(1001, 36), test_embed(1, 37), test_embed(64, 130);
    test_losses();
    return failures != 0;
}
