/* A program of one operation alone, between values that are given and gradients that are given. Its numbers are such as
 * bf16 holds, so that both precisions are given the same. */
#ifndef SL_TESTS_ALONE_H
#define SL_TESTS_ALONE_H

#include "base/err.h"
#include "base/threads.h"
#include "program/exec.h"
#include "program/schedule.h"
#include "suite.h"

#include <math.h>
#include <string.h>

typedef struct {
    const float *value, *gradient; /* [rows, columns] of what goes in, of the gradient of what comes out */
    float *out, *din;              /* what comes out, and its other side's gradient */
} ends;

static inline const ends *ends_of(const sl_op *op) { return op->own; }

static inline void move_rows(const sl_exec *x, sl_buf b, const sl_span *s, const float *from, float *to) {
    const sl_buffer *v = &x->info[b];
    for (int64_t r = s->first; r < s->first + s->n; r++) {
        float *wide = sl_buf_data(x, b) + r * v->ld;
        sl_bf16 *half = sl_buf_bf16(x, b) + r * v->ld;
        if (from && v->bf16)
            x->k->to_bf16(v->cols, from + r * v->cols, half);
        else if (from)
            memcpy(wide, from + r * v->cols, (size_t)v->cols * sizeof *wide);
        else if (v->bf16)
            x->k->from_bf16(v->cols, half, to + r * v->cols);
        else
            memcpy(to + r * v->cols, wide, (size_t)v->cols * sizeof *wide);
    }
}

static inline int set_value(const sl_op *op, const sl_exec *x, const sl_span *s) {
    move_rows(x, op->out, s, ends_of(op)->value, NULL);
    return 0;
}
static inline int get_gradient(const sl_op *op, const sl_exec *x, const sl_span *s) {
    move_rows(x, op->dout, s, NULL, ends_of(op)->din);
    return 0;
}
static inline int take_result(const sl_op *op, const sl_exec *x, const sl_span *s) {
    move_rows(x, op->in[0], s, NULL, ends_of(op)->out);
    if (x->training)
        move_rows(x, op->din[0], s, ends_of(op)->gradient, NULL);
    return 0;
}

static const sl_op_kind alone_source = {.name = "source", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = set_value}),
                                        .backward = SL_STAGES({.cut = SL_CUT_ROWS, .run = get_gradient})};
static const sl_op_kind alone_loss = {.name = "loss", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = take_result})};

typedef struct {
    sl_params params;
    sl_program b;
    sl_exec x;
} alone;

static inline sl_op *append_end(sl_program *b, const sl_op_kind *kind, const ends *e) {
    sl_op *op = sl_program_op(b, kind, (sl_scope){.part = SL_PART_add});
    *(ends *)sl_program_own(b, op, sizeof *e) = *e;
    return op;
}

/* in [rows, columns] to what `build` makes of it. Vectors that start at 0 are random. */
typedef sl_buf build_alone(sl_program *b, sl_buf in, const void *how);
static inline void open_alone(alone *a, enum sl_isa isa, bool bf16, int64_t batch, int64_t seq, bool decoder,
                              int64_t columns, const ends *e, build_alone *build, const void *how) {
    static sl_config c;
    memset(a, 0, sizeof *a);
    a->b = (sl_program){.config = &c, .kernels = sl_kernels_tier(isa), .params = &a->params, .batch = batch,
                        .seq = decoder ? 1 : seq, .training = !decoder, .bf16 = bf16, .cache = decoder ? seq : 0};
    sl_buf in = sl_program_activation(&a->b, batch * a->b.seq, columns);
    append_end(&a->b, &alone_source, e)->out = in;
    sl_buf out = build(&a->b, in, how);
    sl_op_reads(append_end(&a->b, &alone_loss, e), out, SL_INPUT_GRADIENT);
    ck_assert_msg(sl_exec_open(&a->x, &a->b, &a->params) == 0, "%s", sl_error());
    ck_assert(sl_params_allocate(&a->params, 0, true) == 0);
    sl_params_init(&a->params, 3);
    sl_rng r = sl_rng_make(4, SL_STREAM_TEST, 0);
    for (int t = 0; t < a->params.count; t++)
        for (int64_t i = 0; a->params.tensor[t].init == SL_INIT_ZEROS && i < a->params.tensor[t].size; i++)
            a->params.w[a->params.tensor[t].offset + i] = (float)sl_rng_normal(&r);
    a->x.training = !decoder;
}

static inline void close_alone(alone *a) {
    sl_exec_close(&a->x);
    sl_program_free(&a->b);
    sl_params_free(&a->params);
}

static inline float *random_halves(int64_t n, uint64_t seed) {
    float *p = malloc((size_t)n * sizeof *p);
    sl_rng r = sl_rng_make(seed, SL_STREAM_TEST, 0);
    for (int64_t i = 0; i < n; i++) {
        float f = (float)sl_rng_normal(&r);
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        u &= 0xffff0000u;
        memcpy(&p[i], &u, sizeof u);
    }
    return p;
}

/* n numbers in and m out. */
static inline ends random_ends(int64_t n, int64_t m) {
    return (ends){random_halves(n, 1), random_halves(m, 2), malloc((size_t)m * sizeof(float)),
                  malloc((size_t)n * sizeof(float))};
}
static inline void free_ends(const ends *e) {
    free((void *)e->value), free((void *)e->gradient), free(e->out), free(e->din);
}

/* ---- what holds of any mixer that reads rows [batch*seq, columns] and gives [batch*seq, outputs] */
typedef struct {
    int64_t batch, seq, columns, outputs;
    build_alone *build;
    const void *how;
} alone_mixer;

static inline ends mixer_ends(const alone_mixer *m) {
    return random_ends(m->batch * m->seq * m->columns, m->batch * m->seq * m->outputs);
}
static inline void open_mixer(alone *a, const alone_mixer *m, enum sl_isa isa, bool bf16, bool decoder, const ends *e) {
    open_alone(a, isa, bf16, m->batch, m->seq, decoder, m->columns, e, m->build, m->how);
}

/* The same bits by one thread and by three. */
static inline void check_threads_of_mixer(const alone_mixer *m) {
    int64_t rows = m->batch * m->seq;
    ends e[2] = {mixer_ends(m), mixer_ends(m)};
    alone a[2];
    for (int i = 0; i < 2; i++) {
        sl_threads_set(i == 0 ? 1 : 3);
        open_mixer(&a[i], m, SL_ISA_SCALAR, true, false, &e[i]);
        ck_assert(!sl_schedule_forward(&a[i].b, &a[i].x, NULL) && !sl_schedule_backward(&a[i].b, &a[i].x, NULL));
    }
    ck_assert_mem_eq(e[0].out, e[1].out, (size_t)(rows * m->outputs) * sizeof(float));
    ck_assert_mem_eq(e[0].din, e[1].din, (size_t)(rows * m->columns) * sizeof(float));
    ck_assert_mem_eq(a[0].params.g, a[1].params.g, (size_t)a[0].params.floats * sizeof(float));
    for (int i = 0; i < 2; i++)
        close_alone(&a[i]), free_ends(&e[i]);
    sl_threads_set(0);
}

/* At most apart of the largest, or the same bits. */
static inline void check_apart(int64_t n, const float *x, const float *y, double apart) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)y[i]));
    for (int64_t i = 0; apart > 0 && i < n; i++)
        ck_assert_double_le(fabs((double)x[i] - (double)y[i]), apart * most);
    if (apart <= 0)
        ck_assert_mem_eq(x, y, (size_t)n * sizeof(float));
}

/* Position by position, twice: the whole window's results, at most apart, and position 0 forgets what was before. */
static inline void check_decoding_of_mixer(const alone_mixer *m, bool bf16, double apart) {
    int64_t in = m->columns, out = m->outputs;
    ends e = mixer_ends(m), row = random_ends(m->batch * in, m->batch * out);
    alone full, one;
    open_mixer(&full, m, SL_ISA_SCALAR, bf16, false, &e);
    ck_assert_int_eq(sl_schedule_forward(&full.b, &full.x, NULL), 0);
    open_mixer(&one, m, SL_ISA_SCALAR, bf16, true, &row);
    for (int64_t k = 0; k < 2 * m->seq; k++) {
        int64_t t = one.x.position = k % m->seq;
        for (int64_t b = 0; b < m->batch; b++)
            memcpy((float *)row.value + b * in, e.value + (b * m->seq + t) * in, (size_t)in * sizeof(float));
        ck_assert_int_eq(sl_schedule_forward(&one.b, &one.x, NULL), 0);
        for (int64_t b = 0; b < m->batch; b++)
            check_apart(out, row.out + b * out, e.out + (b * m->seq + t) * out, apart);
    }
    close_alone(&full), close_alone(&one);
    free_ends(&e), free_ends(&row);
}

/* As many positions in one window as in many take the same memory, and so does a worker. */
static inline void check_memory_of_mixer(const alone_mixer *many, const alone_mixer *one) {
    ends e = {0};
    alone a, b;
    open_mixer(&a, many, SL_ISA_SCALAR, false, false, &e);
    open_mixer(&b, one, SL_ISA_SCALAR, false, false, &e);
    ck_assert_uint_eq(a.x.arena_bytes, b.x.arena_bytes);
    ck_assert_uint_eq(a.x.scratch_bytes, b.x.scratch_bytes);
    ck_assert_uint_le(b.b.shared_bytes, a.b.shared_bytes);
    close_alone(&a), close_alone(&b);
}

/* Within tolerance of the rms of what is wanted, and of bf16 within its rounding of each. */
static inline bool near(int64_t n, const float *got, const double *want, bool bf16, double tolerance) {
    double rms = 0;
    for (int64_t i = 0; i < n; i++)
        rms += want[i] * want[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tolerance * sqrt(rms) + (bf16 ? 0x1p-8 * fabs(want[i]) : 0)))
            return false;
    return true;
}

#endif
