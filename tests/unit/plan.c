/* The plan and the schedule on programs that no model has: gradients of values with any number of readers, values
 * that live as long as they are read, blocks of rows, stages that fail; and a parallel block of real operations. */
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "ops/norm/norm.h"
#include "ops/ops.h"
#include "program/exec.h"
#include "program/schedule.h"
#include "ref/variants.h"
#include "suite.h"

#include <math.h>
#include <string.h>

/* Random programs have few rows, or so many that these go through several operations together. */
enum { BATCH = 3, MANY = 60, SEQ = 7, ROWS = BATCH * SEQ, COLS = 5, MOST = 64 };

/* ---- linear operations in whole numbers, so that fp32 is exact. Value v, row r, column j starts as a small number. */

typedef struct {
    int id;             /* of the operation */
    float factor;
    float *gradient;    /* a source's, as backward gets it */
    const float *value; /* of in[0] after the forward pass that is to be there in backward, or NULL */
    float weight, expected; /* of an operation with a weight: the sum of in[0] times the gradient of out */
} own;

static const own *own_of(const sl_op *op) { return op->own; }

static float start(int id, int64_t at) { return (float)((id * 7 + at * 3) % 5 - 2); }

static int source(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = s->first * COLS; i < (s->first + s->n) * COLS; i++)
        sl_buf_data(x, op->out)[i] = start(own_of(op)->id, i);
    return 0;
}

static int source_back(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t at = s->first * COLS;
    memcpy(own_of(op)->gradient + at, sl_buf_data(x, op->dout) + at, (size_t)(s->n * COLS) * sizeof(float));
    return 0;
}

static const sl_op_kind source_kind = {.name = "source",
                                       .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = source}),
                                       .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = source_back})};

/* out = factor in[0] + all others */
static int times(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = s->first * COLS; i < (s->first + s->n) * COLS; i++) {
        float sum = own_of(op)->factor * sl_buf_data(x, op->in[0])[i];
        for (int k = 1; k < op->inputs; k++)
            sum += sl_buf_data(x, op->in[k])[i];
        sl_buf_data(x, op->out)[i] = sum;
    }
    return 0;
}

static int times_back(const sl_op *op, const sl_exec *x, const sl_span *s) {
    const own *o = own_of(op);
    for (int64_t i = s->first * COLS; i < (s->first + s->n) * COLS; i++) {
        float g = o->factor * sl_buf_data(x, op->dout)[i];
        sl_buf_data(x, op->din[0])[i] = op->acc[0] ? sl_buf_data(x, op->din[0])[i] + g : g;
        if (op->use[0] & SL_INPUT_KEPT && sl_buf_data(x, op->in[0])[i] != o->value[i])
            return sl_fail("operation %d finds another value of its input going back", o->id);
    }
    return 0;
}

/* one that adds to a gradient, one that leaves it to the schedule */
static const sl_op_kind times_kind = {.name = "times",
                                      .adds = true,
                                      .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times}),
                                      .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times_back})};

static const sl_op_kind plain_times_kind = {.name = "plain times",
                                            .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times}),
                                            .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times_back})};

/* one whose value may be computed again going back */
static const sl_op_kind again_kind = {.name = "again",
                                      .adds = true,
                                      .again = true,
                                      .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times}),
                                      .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times_back})};

/* Sums over all rows what must not have changed since backward. */
static int weigh(const sl_op *op, const sl_exec *x, const sl_span *s) {
    float sum = 0;
    (void)s;
    for (int64_t i = 0; i < op->rows * COLS; i++)
        sum += sl_buf_data(x, op->in[0])[i] * sl_buf_data(x, op->dout)[i];
    ((own *)op->own)->weight = sum;
    return 0;
}

static const sl_op_kind weighted_kind = {
    .name = "weighted",
    .adds = true,
    .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times}),
    .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = times_back}, {.cut = SL_CUT_SUMS, .run = weigh})};

static int loss(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int64_t i = s->first * COLS; i < (s->first + s->n) * COLS; i++)
        sl_buf_data(x, op->din[0])[i] = start(1, i);
    return 0;
}

static const sl_op_kind loss_kind = {.name = "loss", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = loss})};

/* ---- random programs of them */

typedef struct {
    sl_params params;
    sl_program b;
    sl_exec x;
    sl_rng rng;
    int64_t size; /* of a value */
    int unread[MOST], unreads;
    bool kept[MOST]; /* of each value: is it read going back, and so not to be changed */
    float *value[MOST], *gradient[MOST];
} dag;

static sl_op *append(dag *d, const sl_op_kind *kind, float factor) {
    sl_op *op = sl_program_op(&d->b, kind, (sl_scope){.layer = d->b.ops, .part = SL_PART_add});
    own *o = sl_program_own(&d->b, op, sizeof *o);
    *o = (own){.id = d->b.ops - 1, .factor = factor};
    op->dim_in = op->dim_out = COLS;
    return op;
}

static void mark_read(dag *d, sl_buf v) {
    for (int i = 0; i < d->unreads; i++)
        if (d->unread[i] == v)
            d->unread[i--] = d->unread[--d->unreads];
}

static sl_buf new_value(dag *d) {
    sl_buf v = sl_program_buffer(&d->b, d->size / COLS, COLS);
    d->value[v] = calloc((size_t)d->size, sizeof(float));
    d->gradient[v] = calloc((size_t)d->size, sizeof(float));
    return d->unread[d->unreads++] = v;
}

static int below(dag *d, int n) { return (int)sl_rng_below(&d->rng, (uint64_t)n); }

/* One more operation: reads one to three values, the same one perhaps twice, now and then in place. */
static void append_random(dag *d) {
    int values = d->b.buffers, n = 1 + below(d, 3);
    sl_buf in = below(d, 2) ? below(d, values) : values - 1 - below(d, 3); /* of three sources at least */
    bool in_place = below(d, 4) == 0 && !d->kept[in], kept = !in_place && below(d, 3);
    const sl_op_kind *kind = below(d, 2) ? &times_kind : &plain_times_kind;
    if (kept && below(d, 4))
        kind = below(d, 2) ? &weighted_kind : &again_kind;
    if (kind == &again_kind && below(d, 4))
        n = 1; /* others are not kept, and would keep it from being computed again */
    sl_op *op = append(d, kind, (float)(below(d, 2) + 1) * (below(d, 2) ? 1 : -1));
    sl_op_reads(op, in, SL_INPUT_GRADIENT | (kept ? SL_INPUT_KEPT : 0u));
    d->kept[in] = d->kept[in] || kept;
    ((own *)op->own)->value = d->value[in];
    mark_read(d, in);
    for (int i = 1; i < n && !in_place; i++) {
        sl_buf other = below(d, values);
        sl_op_reads(op, other, SL_INPUT_ADDED);
        mark_read(d, other);
    }
    if (!in_place)
        op->out = new_value(d);
    else
        d->unread[d->unreads++] = op->out = in;
}

/* Adds what nobody reads into one value, which the loss reads. */
static void end(dag *d) {
    while (d->unreads > 1) {
        sl_buf a = d->unread[0], c = d->unread[1];
        sl_op *op = append(d, &times_kind, 1);
        sl_op_reads(op, a, SL_INPUT_GRADIENT), sl_op_reads(op, c, SL_INPUT_ADDED);
        mark_read(d, a), mark_read(d, c);
        op->out = new_value(d);
    }
    sl_op *op = append(d, &loss_kind, 1);
    sl_op_reads(op, d->unread[0], SL_INPUT_GRADIENT);
}

/* The same by plain loops: values forward, gradients backward. */
static void expect(dag *d) {
    for (int i = 0; i < d->b.ops - 1; i++) {
        const sl_op *op = &d->b.op[i];
        for (int64_t at = 0; at < d->size; at++) {
            float sum = op->inputs ? own_of(op)->factor * d->value[op->in[0]][at] : start(own_of(op)->id, at);
            for (int k = 1; k < op->inputs; k++)
                sum += d->value[op->in[k]][at];
            d->value[op->out][at] = sum;
        }
    }
    for (int64_t at = 0; at < d->size; at++)
        d->gradient[d->b.op[d->b.ops - 1].in[0]][at] = start(1, at);
    for (int i = d->b.ops - 2; i >= 0; i--) {
        const sl_op *op = &d->b.op[i];
        for (int64_t at = 0; op->inputs && at < d->size; at++) {
            float g = d->gradient[op->out][at];
            ((own *)op->own)->expected += d->value[op->in[0]][at] * g;
            for (int k = 1; k < op->inputs; k++)
                d->gradient[op->in[k]][at] += g;
            if (op->in[0] == op->out)
                d->gradient[op->out][at] = own_of(op)->factor * g;
            else
                d->gradient[op->in[0]][at] += own_of(op)->factor * g;
        }
    }
}

static sl_program program(const sl_config *c, sl_params *p, int64_t batch) {
    return (sl_program){.config = c, .kernels = sl_kernels_select(SL_ISA_AUTO), .params = p, .batch = batch, .seq = SEQ,
                        .training = true};
}

static int values_again; /* that all programs computed again */

/* Returns how many operations share a segment with others. */
static int check_dag(uint64_t seed, int64_t batch) {
    static sl_config c;
    static float got[3][MANY * SEQ * COLS];
    dag d = {.rng = sl_rng_make(seed, SL_STREAM_TEST, 0), .size = batch * SEQ * COLS};
    d.b = program(&c, &d.params, batch);
    d.b.bf16 = true; /* in which alone values are computed again */
    for (int i = 0; i < 3; i++) {
        sl_op *op = append(&d, &source_kind, 0);
        ((own *)op->own)->gradient = got[i];
        op->out = new_value(&d);
    }
    for (int i = 0, n = 3 + below(&d, 12); i < n; i++)
        append_random(&d);
    end(&d);
    int sources[3], values = d.b.buffers;
    for (int i = 0; i < 3; i++)
        sources[i] = d.b.op[i].out;
    expect(&d);
    ck_assert_msg(sl_exec_open(&d.x, &d.b, &d.params) == 0, "%s", sl_error());
    d.x.training = true;
    ck_assert_msg(sl_schedule_forward(&d.b, &d.x, NULL) == 0, "%s", sl_error());
    ck_assert_msg(sl_schedule_backward(&d.b, &d.x, NULL) == 0, "seed %d: %s", (int)seed, sl_error());
    for (int i = 0; i < 3; i++)
        for (int at = 0; at < d.size; at++)
            ck_assert_msg(got[i][at] == d.gradient[sources[i]][at], "seed %d: gradient of source %d is %g, not %g",
                          (int)seed, i, (double)got[i][at], (double)d.gradient[sources[i]][at]);
    int together = 0;
    for (int v = 0; v < d.b.buffers; v++)
        values_again += d.b.buffer[v].back != SL_NONE && d.b.buffer[d.b.buffer[v].back].first >= 0;
    for (int i = 0; i < d.b.ops; i++)
        if (d.b.op[i].kind == &weighted_kind)
            ck_assert_msg(own_of(&d.b.op[i])->weight == own_of(&d.b.op[i])->expected,
                          "seed %d: operation %d sums %g, not %g", (int)seed, i, (double)own_of(&d.b.op[i])->weight,
                          (double)own_of(&d.b.op[i])->expected);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < d.b.segments[k]; i++)
            together += d.b.segment[k][i].blocks ? d.b.segment[k][i].end - d.b.segment[k][i].first : 0;
    for (int v = 0; v < values; v++)
        free(d.value[v]), free(d.gradient[v]);
    sl_exec_close(&d.x);
    sl_program_free(&d.b);
    return together;
}

START_TEST(gradients_of_any_readers) {
    for (int seed = 0; seed < 500; seed++)
        ck_assert_int_eq(check_dag((uint64_t)seed, BATCH), 0);
    ck_assert_int_gt(values_again, 100);
}
END_TEST

/* The same with rows that go through operations together: values that only one call has, and sums over rows that come
 * after rows of later operations. */
START_TEST(gradients_in_segments) {
    int together = 0;
    for (int threads = 1; threads <= 3; threads++) {
        sl_threads_set(threads);
        for (int seed = 0; seed < 100; seed++)
            together += check_dag((uint64_t)seed, MANY);
    }
    sl_threads_set(2);
    ck_assert_int_gt(together, 3 * 100 * 6);
    ck_assert_int_gt(values_again, 200);
}
END_TEST

/* ---- a parallel block: GPT-J's, h + A(n) + F(n) with n = norm(h), and NeoX's with a norm for each */

typedef struct {
    sl_config config;
    sl_params params;
    sl_program b;
    sl_exec x;
    int32_t in[ROWS], target[ROWS];
} parallel_block;

enum { VOCAB = 9 };

static int matrix(sl_program *b, const char *name, int64_t out, int64_t in) {
    return sl_program_param(b, "m", &(sl_param_spec){.name = name, .rows = out, .cols = in, .init = SL_INIT_NORMAL,
                                                     .start = 0.4, .decay = SL_DECAY_MATRIX});
}

static sl_scope scope(enum sl_half half, enum sl_part part) { return (sl_scope){0, half, part, SL_ROLE_SELF}; }

static sl_buf norm(sl_program *b, enum sl_half half, const char *prefix, sl_buf h) {
    return sl_norm_builders[b->config->model_norm](b, scope(half, SL_PART_norm), h, prefix, SL_NORM_ATTN).out;
}

static void build(parallel_block *p, bool one_norm) {
    sl_program *b = &p->b;
    int64_t d = p->config.model_dim, f = 12, q = p->config.model_heads * sl_config_head_dim(&p->config),
            kv = sl_config_kv_heads(&p->config) * sl_config_head_dim(&p->config);
    sl_buf h = sl_build_embed(b, matrix(b, "embed", VOCAB, d));
    sl_buf n = norm(b, SL_HALF_ATTN, "a", h);
    sl_buf qkv = sl_build_linear(b, scope(SL_HALF_ATTN, SL_PART_qkv), n, d, q + 2 * kv, matrix(b, "qkv", q + 2 * kv, d),
                                 SL_NONE, SL_NONE);
    sl_buf a = sl_build_attention(b, scope(SL_HALF_ATTN, SL_PART_core), qkv, "m");
    sl_buf t = sl_build_linear(b, scope(SL_HALF_ATTN, SL_PART_out), a, q, d, matrix(b, "o", d, q), SL_NONE, h);
    sl_buf m = one_norm ? n : norm(b, SL_HALF_FFN, "f", h);
    sl_buf in = sl_build_linear(b, scope(SL_HALF_FFN, SL_PART_in), m, d, 2 * f, matrix(b, "in", 2 * f, d), SL_NONE,
                                SL_NONE);
    sl_buf act = sl_build_ffn(b, scope(SL_HALF_FFN, SL_PART_act), SL_FFN_swiglu, in, f);
    t = sl_build_linear(b, scope(SL_HALF_FFN, SL_PART_out), act, f, d, matrix(b, "down", d, f), SL_NONE, t);
    sl_build_head(b, norm(b, SL_HALF_NONE, "n", t), matrix(b, "head", VOCAB, d), SL_NONE, VOCAB);
}

static double forward_loss(parallel_block *p) {
    double sum = 0;
    ck_assert_msg(sl_schedule_forward(&p->b, &p->x, NULL) == 0, "%s", sl_error());
    for (int i = 0; i < ROWS; i++)
        sum += p->x.token_loss[i];
    return sum / ROWS;
}

/* The slope along the gradient of one tensor is its squared norm. fp32 losses are good to about 1e-6, so that central
 * differences over steps that change it by about .02 are good to a few parts in a thousand. A gradient that is left
 * out or overwritten is off by its size. */
static void check_slope(parallel_block *p, const sl_tensor *t) {
    float *w = p->params.w + t->offset, *g = p->params.g + t->offset, old[1024];
    double norm = 0;
    ck_assert(t->size <= 1024);
    memcpy(old, w, (size_t)t->size * sizeof *w);
    for (int64_t i = 0; i < t->size; i++)
        norm += (double)g[i] * g[i];
    double step = 0.01 / norm, side[2];
    for (int s = 0; s < 2; s++) {
        for (int64_t i = 0; i < t->size; i++)
            w[i] = old[i] + (float)((s ? step : -step) * g[i]);
        side[s] = forward_loss(p);
    }
    memcpy(w, old, (size_t)t->size * sizeof *w);
    double slope = (side[1] - side[0]) / (2 * step);
    ck_assert_msg(fabs(slope - norm) < 0.05 * norm, "%s: slope %g, squared gradient %g", t->name, slope, norm);
}

static void check_parallel_block(bool one_norm) {
    static parallel_block p;
    ref_variant v;
    ck_assert(ref_variant_tiny(1, &v));
    p = (parallel_block){.config = v.config};
    p.b = program(&p.config, &p.params, BATCH);
    build(&p, one_norm);
    ref_random_tokens(ROWS, VOCAB, 1, p.in);
    ref_random_tokens(ROWS, VOCAB, 2, p.target);
    ck_assert_msg(sl_params_allocate(&p.params, p.config.train_optimizer, true) == 0, "%s", sl_error());
    sl_params_init(&p.params, 5);
    ck_assert_msg(sl_exec_open(&p.x, &p.b, &p.params) == 0, "%s", sl_error());
    p.x.tokens = p.in, p.x.targets = p.target, p.x.training = true;
    forward_loss(&p);
    /* the head's gradient comes with its value */
    ck_assert_msg(sl_schedule_backward(&p.b, &p.x, NULL) == 0, "%s", sl_error());
    float *g = malloc((size_t)p.params.floats * sizeof *g);
    memcpy(g, p.params.g, (size_t)p.params.floats * sizeof *g);
    p.x.training = false;
    for (int i = 0; i < p.params.count; i++)
        check_slope(&p, &p.params.tensor[i]);
    free(g);
    sl_exec_close(&p.x);
    sl_program_free(&p.b);
    sl_params_free(&p.params);
}

START_TEST(parallel_blocks) {
    check_parallel_block(true);
    check_parallel_block(false);
}
END_TEST

/* ---- blocks of rows */

START_TEST(blocks_cover_rows) {
    static const int64_t seqs[] = {1, 2, 7, 15, 16, 17, 63, 64, 100, 256, 1000};
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++)
        for (int64_t windows = 1; windows < 70; windows += windows < 8 ? 1 : 13) {
            int64_t seq = seqs[i], rows = seq * windows, next = 0;
            sl_blocks b = sl_row_blocks(rows, seq);
            for (int64_t k = 0; k < b.count; k++) {
                int64_t first = sl_block_first(b, k), n = sl_block_rows(b, k);
                ck_assert(first == next && n > 0);
                ck_assert(first / seq == (first + n - 1) / seq || (first % seq == 0 && n % seq == 0));
                ck_assert(sl_block_at(b, first) == k && sl_block_at(b, first + n - 1) == k);
                next = first + n;
            }
            ck_assert(next == rows && b.count <= 2 * SL_ROW_BLOCKS);
        }
}
END_TEST

/* ---- a stage that fails */

/* Forward fails with this message, however its calls follow one another. All operations are in one segment. */
static void expect_failure(sl_program *b, const sl_params *p, const char *message) {
    sl_exec x;
    ck_assert(sl_exec_open(&x, b, p) == 0);
    ck_assert_int_eq(b->segments[SL_FORWARD], 1);
    for (int i = 0; i < 20; i++) {
        ck_assert(sl_schedule_forward(b, &x, NULL) == -1);
        ck_assert_str_eq(sl_error(), message);
    }
    sl_exec_close(&x);
    sl_program_free(b);
}

static int fail_from_row_4(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)op, (void)x;
    return s->first + s->n > 4 ? sl_fail("rows from %d on", (int)s->first) : 0;
}

static sl_split single_rows(const sl_op *op, const sl_exec *x) {
    (void)op, (void)x;
    return (sl_split){.unit = 1, .least = 1, .most = 1, .parts = 1, .parts_most = 1};
}

static const sl_op_kind failing = {
    .name = "failing", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = fail_from_row_4, .split = single_rows})};

START_TEST(failures_come_back) {
    static sl_config c;
    sl_params p = {0};
    for (int threads = 1; threads <= 4; threads++) {
        sl_threads_set(threads);
        sl_program b = program(&c, &p, BATCH);
        sl_program_op(&b, &failing, (sl_scope){0})->out = sl_program_buffer(&b, ROWS, COLS);
        expect_failure(&b, &p, "rows from 4 on");
    }
    sl_threads_set(0);
}
END_TEST

/* Two operations that rows go through together. The first fails from row 30 on, the second everywhere: what is told is
 * what the first says of the first rows it is given. */
static int fail_from_row_30(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)op, (void)x;
    return s->first + s->n > 30 ? sl_fail("first, row 30") : 0;
}

static int fail_always(const sl_op *op, const sl_exec *x, const sl_span *s) {
    (void)op, (void)x, (void)s;
    return sl_fail("second");
}

static const sl_op_kind failing_first = {.name = "first",
                                         .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = fail_from_row_30})};
static const sl_op_kind failing_second = {.name = "second",
                                          .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = fail_always})};

START_TEST(failures_in_segments) {
    static sl_config c;
    sl_params p = {0};
    for (int threads = 1; threads <= 4; threads++) {
        sl_threads_set(threads);
        sl_program b = program(&c, &p, MANY);
        sl_buf v = sl_program_op(&b, &failing_first, (sl_scope){0})->out = sl_program_buffer(&b, MANY * SEQ, COLS);
        sl_op *second = sl_program_op(&b, &failing_second, (sl_scope){0});
        sl_op_reads(second, v, 0);
        second->out = sl_program_buffer(&b, MANY * SEQ, COLS);
        expect_failure(&b, &p, "first, row 30");
    }
    sl_threads_set(0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("plan");
    TCase *t = tcase_create("plan");
    tcase_add_test(t, gradients_of_any_readers);
    tcase_add_test(t, gradients_in_segments);
    tcase_add_test(t, parallel_blocks);
    tcase_add_test(t, blocks_cover_rows);
    tcase_add_test(t, failures_come_back);
    tcase_add_test(t, failures_in_segments);
    suite_add_tcase(s, t);
    return run_suite(s);
}
