/* Operations of a quantised model on the device beside the CPU's, each from the same inputs: every scheme, odd shapes,
 * one position and many, rotations, keys and values, mixtures, calibration. What is rounded has the same bits; errors
 * are sums in another order. Whole models: what is not finite, ranges between passes, the same bits again. */
#include "base/mem.h"
#include "base/threads.h"
#include "cuda/quant.h"
#include "cuda/run.h"
#include "matrix.h"
#include "model/model_internal.h"
#include "ops/moe/quantised.h"
#include "ops/quant/linear_int.h"
#include "ops/quant/quantise.h"
#include "ops/quant/rotate.h"
#include "program/stage.h"
#include "quant/weights.h"
#include "ref/variants.h"

static bool quick; /* where it is emulated: little of what is slow there */

static void check(bool ok, const char *what) {
    if (!ok)
        printf("FAIL %s: %s%s%s\n", now, what, *sl_error() ? "; " : "", sl_error()), failures++;
}

/* ---- the same model on both */

typedef struct {
    sl_model *cpu, *gpu;
    sl_exec host;
    void **buf; /* of the CPU's program, each apart */
    bool *set;
} pair;

static sl_model *create(const ref_variant *v, const sl_quant_options *o, int device) {
    sl_config c = v->config;
    c.device = device;
    sl_model *m = need(sl_model_create_quantised(&c, v->vocab, v->batch, v->seq, o));
    ref_randomise(sl_model_params(m), 3);
    done(sl_model_params_written(m));
    if (!o->scheme || o->observe)
        return m;
    sl_quant_weights *w = need(sl_quant_weights_new(sl_model_params(m), o));
    done(sl_quant_weights_round(w, sl_model_kernels(m), sl_model_params(m)));
    done(sl_quant_weights_apply(w, m));
    sl_quant_weights_free(w);
    sl_quant_place p;
    for (int i = 0; sl_model_quant_place(m, i, &p); i++)
        if (sl_range_is_static(p.point->range))
            sl_quant_set_range(&p, -1.5f, 2.5f);
    return m;
}

static pair open_pair(const ref_variant *v, const sl_quant_options *o) {
    pair p = {.cpu = create(v, o, SL_DEVICE_CPU), .gpu = create(v, o, SL_DEVICE_CUDA)};
    const sl_program *b = &p.cpu->program;
    p.host = p.cpu->exec;
    p.buf = need(calloc((size_t)b->buffers, sizeof *p.buf));
    p.set = need(calloc((size_t)b->buffers, sizeof *p.set));
    for (int i = 0; i < b->buffers; i++)
        p.buf[i] = need(sl_alloc((size_t)(b->buffer[i].rows * b->buffer[i].ld) * sizeof(float), "a buffer"));
    p.host.buf = p.buf;
    p.host.workers = sl_threads();
    check(b->ops == p.gpu->program.ops, "the programs are one");
    return p;
}

static void close_pair(pair *p) {
    for (int i = 0; i < p->cpu->program.buffers; i++)
        sl_free(p->buf[i]);
    free(p->buf), free(p->set);
    sl_model_free(p->cpu), sl_model_free(p->gpu);
}

static int64_t floats_of(const pair *p, sl_buf v) {
    return p->cpu->program.buffer[v].rows * p->cpu->program.buffer[v].cols;
}

/* Values of very different sizes, zeros among them. */
static void fill(pair *p, sl_buf v) {
    float *x = p->buf[v];
    for (int64_t i = 0; i < floats_of(p, v); i++)
        x[i] = (float)(sl_rng_normal(&rng) * (i % 7 == 3 ? 8 : i % 5 == 1 ? 0 : 1));
    p->set[v] = true;
}

static void upload_to(const pair *p, sl_buf from, sl_buf to) {
    done(slc_put(p->gpu->run->buf[to], p->buf[from], (size_t)floats_of(p, from) * sizeof(float)));
}

static void give_inputs(pair *p, int i) {
    const sl_op *host = &p->cpu->program.op[i], *dev = &p->gpu->program.op[i];
    for (int j = 0; j < host->inputs; j++) {
        if (host->in[j] == SL_NONE)
            continue;
        if (!p->set[host->in[j]])
            fill(p, host->in[j]);
        upload_to(p, host->in[j], dev->in[j]);
    }
}

static int run_on_host(pair *p, int i) {
    const sl_op *op = &p->cpu->program.op[i];
    sl_exec x = p->host;
    x.shared = (float *)(void *)((char *)x.shared + op->shared[SL_FORWARD]);
    x.sums = (float *)(void *)((char *)x.sums + op->sums[SL_FORWARD]);
    for (const sl_stage *s = op->kind->forward; s->cut != SL_CUT_END; s++)
        if (sl_stage_run(op, &x, s, 0, op->rows))
            return -1;
    if (op->out != SL_NONE)
        p->set[op->out] = true;
    return 0;
}

/* As a pass does it (run.c). */
static int run_on_device(pair *p, int i) {
    gpu *g = p->gpu->run;
    const sl_op *op = &p->gpu->program.op[i];
    char *states = p->gpu->exec.state;
    size_t bytes = p->gpu->program.state_bytes;
    done(g->kind[i]->before ? g->kind[i]->before(op, &g->x, states + op->state) : 0);
    done(slc_put(g->x.state, states, bytes));
    done(g->kind[i]->forward(op, &g->x));
    done(slc_sync(g->x.stream));
    done(slc_get(states, g->x.state, bytes));
    return g->kind[i]->after ? g->kind[i]->after(op, &g->x, states + op->state) : 0;
}

/* ---- one operation */

/* Numbers may differ by `within` of the largest; 0: not at all. */
static void compare_out(const pair *p, int i, double within_) {
    const sl_op *host = &p->cpu->program.op[i], *dev = &p->gpu->program.op[i];
    int64_t n = floats_of(p, host->out);
    float *got = need(malloc((size_t)n * sizeof *got));
    const float *want = p->buf[host->out];
    double error = 0, most = 0;
    done(slc_get(got, p->gpu->run->buf[dev->out], (size_t)n * sizeof *got));
    for (int64_t k = 0; k < n; k++) {
        double e = fabs((double)got[k] - (double)want[k]);
        error = e <= error ? error : isnan(e) ? HUGE_VAL : e;
        most = fmax(most, fabs((double)want[k]));
    }
    judge(host->kind->name, error, within_ * most, most);
    free(got);
}

/* n terms, each within 2^-53 of the sum of magnitudes, in either order. */
static void compare_errors(const sl_quant_error *a, const sl_quant_error *b, int64_t n) {
    double of = 2 * (double)n * 0x1p-53;
    judge("squared error", fabs(a->error - b->error), of * a->error, a->error);
    judge("x x", fabs(a->xx - b->xx), of * a->xx, a->xx);
    judge("y y", fabs(a->yy - b->yy), of * a->yy, a->yy);
    judge("x y", fabs(a->xy - b->xy), of * sqrt(a->xx * a->yy), a->xy);
    judge("largest error", fabs(a->max - b->max), 0, a->max);
}

static void compare_routes(const pair *p, int i) {
    const sl_op *host = &p->cpu->program.op[i], *dev = &p->gpu->program.op[i];
    const sl_moe *m = sl_moe_part_of(host);
    char *got = need(malloc((size_t)floats_of(p, host->out) * sizeof(float)));
    done(slc_get(got, p->gpu->run->buf[dev->out], (size_t)floats_of(p, host->out) * sizeof(float)));
    sl_moe_route a = sl_moe_route_at(m, &(sl_carver){p->buf[host->out], 0});
    sl_moe_route b = sl_moe_route_at(m, &(sl_carver){got, 0});
    size_t slots = (size_t)(m->rows * m->top);
    check(memcmp(a.expert, b.expert, slots * sizeof *a.expert) == 0, "choices");
    check(memcmp(a.place, b.place, slots * sizeof *a.place) == 0, "places");
    check(memcmp(a.slot, b.slot, slots * sizeof *a.slot) == 0, "slots");
    check(memcmp(a.offset, b.offset, (size_t)(m->experts + 1) * sizeof *a.offset) == 0, "offsets");
    double error = 0;
    for (size_t s = 0; s < slots; s++)
        error = fmax(error, fabs((double)a.weight[s] - (double)b.weight[s]));
    judge("weights", error, 1e-5, 1);
    free(got);
}

static bool is_of_quantised(const sl_op *op) {
    return sl_quant_point_of(op) || sl_rotation_of(op) || sl_moe_part_of(op);
}

static void test_op(pair *p, int i) {
    const sl_op *op = &p->cpu->program.op[i];
    sl_quant_place host = {0}, dev = {0};
    give_inputs(p, i);
    done(run_on_device(p, i));
    done(run_on_host(p, i));
    if (sl_quant_place_of(op, &p->host, &host) &&
        sl_quant_place_of(&p->gpu->program.op[i], &p->gpu->exec, &dev))
        compare_errors(&host.state->error, &dev.state->error, host.point->rows * host.point->dim);
    if (sl_moe_part_of(op) && op->out == op->saved[0])
        compare_routes(p, i);
    else if (op->out != SL_NONE)
        compare_out(p, i, sl_moe_part_of(op) ? IN_F32 : 0);
}

static int test_model(const ref_variant *v, const sl_quant_options *o) {
    pair p = open_pair(v, o);
    int n = 0;
    for (int i = 0; i < p.cpu->program.ops; i++)
        if (is_of_quantised(&p.cpu->program.op[i]))
            test_op(&p, i), n++;
    close_pair(&p);
    return n;
}

/* ---- schemes */

typedef struct {
    int64_t dim, ffn, batch, seq;
} shape;

static ref_variant variant_of(const shape *s) {
    ref_variant v = {.vocab = 23, .batch = s->batch, .seq = s->seq};
    sl_config *c = &v.config;
    sl_config_defaults(c);
    c->model_layers = 1, c->model_heads = 2, c->model_dim = s->dim, c->model_ffn = s->ffn, c->model_seq = s->seq;
    c->train_batch = s->batch;
    c->precision = SL_PRECISION_FP32;
    return v;
}

static void test_schemes(void) {
    static const shape shapes[] = {{36, 100, 1, 257}, {36, 100, 3, 1}, {64, 152, 2, 19}};
    for (int i = 0; i < sl_schemes(); i++)
        for (int k = 0; k < 3; k++) {
            if (quick && ((k == 0 && i % 9) || (k == 2 && i % 3)))
                continue;
            ref_variant v = variant_of(&shapes[k]);
            bool rounds = sl_scheme_at(i)->range != SL_RANGE_NONE;
            sl_quant_options o = {.scheme = sl_scheme_at(i), .smooth = -1, .head = i % 2, .kv = rounds && k != i % 3,
                                  .rotate = (i + k) % 2, .seed = 5, .real = i % 2, .errors = k > 0};
            v.config.model_norm_place = i % 4 == 1 ? SL_PLACE_SANDWICH : SL_PLACE_PRE; /* then norms are not folded */
            now = o.scheme->name;
            check(test_model(&v, &o) > 0 || !rounds, "operations were tested");
        }
}

static void test_mixtures(void) {
    ref_variant v;
    for (int i = 0; ref_variant_moe(i, &v); i++) {
        if (quick && v.config.model_dim > 8)
            continue;
        sl_quant_options o = {.scheme = sl_scheme_find(i % 2 ? "w8a8-channel-window" : "nvfp4-token"), .smooth = -1,
                              .rotate = i % 3 == 0, .errors = true};
        now = v.name;
        check(test_model(&v, &o) >= 2 * 5, "operations were tested");
    }
}

/* ---- calibration */

static void compare_seen(const sl_seen *a, const sl_seen *b) {
    size_t rows = (size_t)a->rows * sizeof *a->row_lo;
    check(a->rows == b->rows, "rows");
    check(a->lo <= b->lo && a->lo >= b->lo && a->hi <= b->hi && a->hi >= b->hi, "extremes");
    check(memcmp(a->channel, b->channel, (size_t)a->dim * sizeof *a->channel) == 0, "channels");
    check(memcmp(a->row_lo, b->row_lo, rows) == 0 && memcmp(a->row_hi, b->row_hi, rows) == 0, "rows' extremes");
    check(memcmp(a->bins, b->bins, SL_SEEN_BINS * sizeof *a->bins) == 0, "bins");
}

/* Squared errors in another order. */
static void compare_trials(const sl_seen *a, const sl_seen *b, int64_t n) {
    double error = 0;
    for (int i = 0; i < SL_CLIP_TRIALS; i++)
        error = fmax(error, fabs(a->trial[i] - b->trial[i]) / a->trial[i]);
    judge("trials", error, 2 * (double)n * 0x1p-53, 1);
}

/* Passes add up; rows beyond the room for them are left out. */
static void observe_twice(pair *p, int i) {
    sl_quant_place at[2];
    sl_seen *seen[2];
    const sl_op *host = &p->cpu->program.op[i];
    sl_quant_place_of(host, &p->host, &at[0]);
    sl_quant_place_of(&p->gpu->program.op[i], &p->gpu->exec, &at[1]);
    give_inputs(p, i);
    done(run_on_device(p, i)); /* nobody has asked */
    for (int k = 0; k < 2; k++)
        at[k].state->seen = seen[k] = need(sl_seen_new(host->dim_in, host->rows + host->rows / 2));
    for (int pass = 0; pass < 2; pass++) {
        fill(p, host->in[0]);
        give_inputs(p, i);
        done(run_on_host(p, i)), done(run_on_device(p, i));
        compare_seen(seen[0], seen[1]);
    }
    for (int k = 0; k < 2; k++)
        seen[k]->trial = need(calloc(SL_CLIP_TRIALS, sizeof *seen[k]->trial));
    if (sl_range_is_static(at[0].point->range))
        for (int pass = 1; pass <= 2; pass++) {
            done(run_on_host(p, i)), done(run_on_device(p, i));
            compare_trials(seen[0], seen[1], pass * host->rows * host->dim_in);
            compare_seen(seen[0], seen[1]);
        }
    sl_seen_free(seen[0]), sl_seen_free(seen[1]);
}

static void test_observers(void) {
    static const shape shapes[] = {{36, 100, 1, 257}, {36, 100, 3, 1}};
    static const char *const names[] = {NULL, "w8a8-tensor-affine", "w4a4-channel-static", "nvfp4-static"};
    for (int i = 0; i < 8; i++) {
        ref_variant v = variant_of(&shapes[i % 2]);
        const char *name = names[i / 2];
        if (quick && name && i % 2 == 0)
            continue;
        sl_quant_options o = {.scheme = name ? sl_scheme_find(name) : NULL, .smooth = -1, .observe = true,
                              .rotate = i % 4 == 1};
        now = name ? name : "observer";
        pair p = open_pair(&v, &o);
        for (int k = 0, n = 0; k < p.cpu->program.ops && n < 2; k++)
            if (sl_quant_point_of(&p.cpu->program.op[k]))
                observe_twice(&p, k), n++;
        close_pair(&p);
    }
}

/* ---- sizes that no model here has */

static void test_rotation(int64_t n, int64_t rows) {
    sl_rotation *r = need(sl_rotation_new(9, (sl_scope){.layer = 1, .part = SL_PART_in}, n));
    matrix x = sized(rows, n, false, false, 1);
    float *got = need(malloc(bytes_of(&x))), *want = need(malloc((size_t)n * sizeof *want));
    size_t square = (size_t)(r->odd * r->odd) * sizeof(double);
    double *work = need(malloc((size_t)(2 * n) * sizeof *work)), *hartley = need(slc_alloc(square));
    int8_t *sign = need(slc_alloc((size_t)n));
    void *scratch = need(slc_alloc(slc_rotate_bytes(n, rows)));
    done(slc_put(hartley, r->hartley, square)), done(slc_put(sign, r->sign, (size_t)n));
    slc_rotation d = {n, r->power, r->odd, 1 / sqrt((double)r->power), hartley, sign};
    slc_heads at = {x.dev, n, 1};
    now = "rotation";
    for (int back = 0; back < 2; back++) {
        upload(&x);
        slc_rotate(NULL, &d, rows, at, at, back, scratch);
        done(slc_sync(NULL)), done(slc_get(got, x.dev, bytes_of(&x)));
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < n; j++)
                want[j] = (float)x.host[i * n + j];
            (back ? sl_rotate_row_back : sl_rotate_row)(r, want, want, work);
            check(memcmp(want, got + i * n, (size_t)n * sizeof *want) == 0, "a row");
        }
    }
    drop(&x), free(got), free(want), free(work), slc_free(hartley), slc_free(sign), slc_free(scratch);
    sl_rotation_free(r);
}

/* The largest sum that there can be, and one row of many. */
static void test_product(int64_t m, int64_t n, int64_t depth, bool largest) {
    size_t an = (size_t)(m * depth), wn = (size_t)(n * depth);
    int8_t *a = need(malloc(an)), *w = need(malloc(wn)), *da = need(slc_alloc(an)), *dw = need(slc_alloc(wn));
    matrix sa = sized(m, 1, false, false, 1), sw = sized(n, 1, false, false, 1), plus = sized(m, n, false, false, 1);
    matrix y = sized(m, n, false, false, 0);
    int32_t *sum = need(calloc((size_t)n, sizeof *sum)), *dsum = need(slc_alloc((size_t)n * sizeof *sum));
    slc_quant_range range = {.zero = largest ? 255 : 97}, *drange = need(slc_alloc(sizeof range));
    now = "product of integers";
    for (size_t i = 0; i < an; i++)
        a[i] = largest ? -128 : (int8_t)sl_rng_u32(&rng);
    for (size_t i = 0; i < wn; i++)
        w[i] = largest ? -127 : (int8_t)(sl_rng_u32(&rng) % 255 - 127);
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < depth; k++)
            sum[j] += w[j * depth + k];
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int64_t s = 0;
            for (int64_t k = 0; k < depth; k++)
                s += (int64_t)(a[i * depth + k] + 128 - range.zero) * w[j * depth + k];
            float v = (float)s * (float)sa.host[i];
            v = v * (float)sw.host[j];
            y.host[i * n + j] = (double)(v + (float)plus.host[i * n + j]);
        }
    done(slc_put(da, a, an)), done(slc_put(dw, w, wn)), done(slc_put(dsum, sum, (size_t)n * sizeof *sum));
    done(slc_put(drange, &range, sizeof range));
    slc_int_product p = {m, n, depth, da, dw, depth, {sa.dev, 1}, drange, dsum, sw.dev, plus.dev, y.dev};
    slc_multiply_int(NULL, &p);
    compare("sums", &y, 0);
    drop(&sa), drop(&sw), drop(&plus), drop(&y);
    free(a), free(w), free(sum), slc_free(da), slc_free(dw), slc_free(dsum), slc_free(drange);
}

/* ---- whole models */

typedef struct {
    ref_variant v;
    int32_t *in;
    int64_t values;
    float *logits[3];
} passes;

static passes open_passes(const shape *s) {
    passes t = {.v = variant_of(s), .values = s->batch * s->seq * 23};
    t.in = need(malloc((size_t)(s->batch * s->seq) * sizeof *t.in));
    ref_random_tokens(s->batch * s->seq, t.v.vocab, 11, t.in);
    for (int i = 0; i < 3; i++)
        t.logits[i] = need(malloc((size_t)t.values * sizeof(float)));
    return t;
}
static void close_passes(passes *t) { free(t->in), free(t->logits[0]), free(t->logits[1]), free(t->logits[2]); }

static bool same(const passes *t, int i, int j) {
    return memcmp(t->logits[i], t->logits[j], (size_t)t->values * sizeof(float)) == 0;
}

/* A range that is set between passes, recorded ones too, is the next one's; and errors add up. */
static void test_ranges(void) {
    static const char *const schemes[] = {"w8a8-tensor-affine", "w8a8-channel-static", "nvfp4-static"};
    passes t = open_passes(&(shape){36, 100, 2, 9});
    for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
        sl_quant_options o = {.scheme = sl_scheme_find(now = schemes[k]), .smooth = -1, .errors = true};
        sl_model *m = create(&t.v, &o, SL_DEVICE_CUDA);
        sl_quant_place p;
        double xx[4];
        for (int pass = 0; pass < 4; pass++) {
            for (int i = 0; sl_model_quant_place(m, i, &p); i++)
                sl_quant_set_range(&p, pass == 2 ? -0.3f : -1.5f, pass == 2 ? 0.2f : 2.5f);
            done(sl_model_logits(m, t.in, t.logits[pass == 2 ? 2 : pass != 0]));
            sl_model_quant_place(m, 0, &p);
            xx[pass] = p.state->error.xx;
            check(pass != 1 || same(&t, 0, 1), "the second pass");
        }
        check(same(&t, 0, 1) && !same(&t, 0, 2), "ranges take effect");
        judge("errors of four passes", fabs(xx[3] - 4 * xx[0]), 1e-12 * xx[3], xx[3]);
        sl_model_free(m);
    }
    close_passes(&t);
}

/* Weights alone are rounded: up to the order of sums as on the CPU. */
static void test_weights(void) {
    passes t = open_passes(&(shape){36, 100, 2, 9});
    sl_quant_options o = {.scheme = sl_scheme_find(now = "w4a16-g32"), .smooth = -1, .head = true, .embedding = true};
    for (int device = 0; device < 2; device++) {
        sl_model *m = create(&t.v, &o, device ? SL_DEVICE_CUDA : SL_DEVICE_CPU);
        done(sl_model_logits(m, t.in, t.logits[device]));
        sl_model_free(m);
    }
    double error = 0, most = 0;
    for (int64_t i = 0; i < t.values; i++)
        error = fmax(error, fabs((double)t.logits[0][i] - (double)t.logits[1][i])),
        most = fmax(most, fabs((double)t.logits[0][i]));
    judge("logits", error, 1e-4 * most, most);
    close_passes(&t);
}

static void test_not_finite(void) {
    static const char *const schemes[] = {"w8a8-channel-token", "w8a8-tensor-static", "nvfp4-static", "mxfp4",
                                          "fp8-block-window"};
    passes t = open_passes(&(shape){36, 100, 2, 9});
    for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
        sl_quant_options o = {.scheme = sl_scheme_find(now = schemes[k]), .smooth = -1};
        char said[256];
        for (int device = 0; device < 2; device++) {
            sl_model *m = create(&t.v, &o, device ? SL_DEVICE_CUDA : SL_DEVICE_CPU);
            sl_params *p = sl_model_params(m);
            float *w = p->w + p->tensor[sl_params_find(p, "model.layers.0.post_attention_layernorm.weight")].offset;
            float was = w[3];
            w[3] = k % 2 ? NAN : INFINITY;
            done(sl_model_params_written(m));
            check(sl_model_forward(m, t.in, NULL, NULL, NULL) < 0, "is refused");
            check(device == 0 || strcmp(said, sl_error()) == 0, "the message is the CPU's");
            snprintf(said, sizeof said, "%s", sl_error());
            check(strstr(said, "layers.0.ffn.in: it has a NaN or an infinity"), "the message names the place");
            w[3] = was;
            done(sl_model_params_written(m));
            check(sl_model_forward(m, t.in, NULL, NULL, NULL) == 0, "the next pass is sound");
            sl_model_free(m);
        }
    }
    close_passes(&t);
}

/* quant [--quick] */
int main(int argc, char **argv) {
    quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    if (slc_devices() < 0) {
        printf("skipped: %s\n", sl_error());
        return 77;
    }
    sl_threads_set(2);
    rng = sl_rng_make(13, SL_STREAM_TEST, 0);
    test_schemes();
    test_mixtures();
    test_observers();
    test_rotation(6160, 2), test_rotation(27, 5), test_rotation(1, 3), test_rotation(512, 3);
    test_product(3, 2, quick ? 4096 : 65536, true), test_product(1, 257, 64, false), test_product(130, 131, 192, false);
    test_ranges();
    test_weights();
    test_not_finite();
    return failures != 0;
}
