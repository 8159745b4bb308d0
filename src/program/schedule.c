#include "program/schedule.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/threads.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* The calls of one stage: `down` of them for each of `parts`. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    const sl_stage *stage;
    int64_t row0, rows;       /* that the stage is about */
    int64_t base, end, step;  /* what is cut, rows or items, into steps */
    bool blocks;              /* and not into steps but into sl_op_blocks() */
    int64_t down, parts;
    pthread_mutex_t lock;
    int64_t failed;           /* the first call that failed, */
    char message[2048];       /* and what it said */
} calls;

static sl_span span_of(const calls *c, int64_t call, int worker) {
    sl_span s = {.part = call / c->down, .parts = c->parts, .row0 = c->row0, .rows = c->rows, .worker = worker};
    int64_t i = call % c->down;
    if (c->blocks) {
        sl_blocks b = sl_op_blocks(c->op);
        s.first = sl_block_first(b, i), s.n = sl_block_rows(b, i);
    } else {
        s.first = c->base + i * c->step, s.n = sl_min(c->step, c->end - s.first);
    }
    return s;
}

static void note_failure(calls *c, int64_t call) {
    pthread_mutex_lock(&c->lock);
    if (call < c->failed) {
        c->failed = call;
        snprintf(c->message, sizeof c->message, "%s", sl_error());
    }
    pthread_mutex_unlock(&c->lock);
}

static void run_call(void *ctx, int64_t call, int worker) {
    calls *c = ctx;
    sl_span s = span_of(c, call, worker);
    if (c->stage->run(c->op, c->x, &s))
        note_failure(c, call);
}

/* ---- cutting */

enum { CALLS = 6 }; /* for each thread at least, so that none waits long for a slow one */

/* Lower as long as a call has the rows that the stage likes, then narrower, then lower still; even ones. */
static void cut_rows(calls *c, const sl_split *g) {
    int64_t step = sl_min(sl_round_up(c->rows, g->unit), g->most), wanted = CALLS * c->x->workers;
    c->parts = g->parts;
    while (sl_div_up(c->rows, step) * c->parts < wanted) {
        if (step > g->least)
            step = sl_max(sl_round_up(step / 2, g->unit), g->least);
        else if (2 * c->parts <= g->parts_most)
            c->parts *= 2;
        else if (step > g->unit)
            step = sl_round_up(step / 2, g->unit);
        else
            break;
    }
    c->step = sl_round_up(sl_div_up(c->rows, sl_div_up(c->rows, step)), g->unit);
    c->down = sl_div_up(c->rows, c->step);
}

static void cut(calls *c) {
    const sl_stage *s = c->stage;
    sl_split g = s->split ? s->split(c->op, c->x) : (sl_split){.items = 1, .parts = 1};
    c->parts = 1;
    if (s->cut == SL_CUT_PARAMS || s->cut == SL_CUT_BATCH) {
        c->end = c->down = g.items;
        c->step = 1;
        return;
    }
    c->base = c->row0;
    c->end = c->row0 + c->rows;
    if (s->cut == SL_CUT_WINDOWS) {
        c->step = c->op->seq;
        c->down = c->rows / c->step;
        c->parts = g.parts;
    } else if (s->split) {
        cut_rows(c, &g);
    } else {
        c->blocks = true;
        c->down = sl_op_blocks(c->op).count;
    }
}

static int run_stage(const sl_op *op, const sl_exec *x, const sl_stage *stage, int64_t row0, int64_t rows) {
    calls c = {.op = op, .x = x, .stage = stage, .row0 = row0, .rows = rows, .failed = INT64_MAX};
    cut(&c);
    pthread_mutex_init(&c.lock, NULL);
    sl_parallel(c.down * c.parts, run_call, &c);
    pthread_mutex_destroy(&c.lock);
    return c.failed == INT64_MAX ? 0 : sl_fail("%s", c.message);
}

/* ---- operations */

static int run_stages(const sl_op *op, const sl_exec *x, const sl_stage *stage) {
    int64_t chunk = op->kind->chunk ? op->kind->chunk(op) : op->rows;
    for (; stage->cut == SL_CUT_PARAMS; stage++)
        if (run_stage(op, x, stage, 0, op->rows))
            return -1;
    for (int64_t row0 = 0; row0 < op->rows; row0 += chunk)
        for (const sl_stage *s = stage; s->cut != SL_CUT_END; s++)
            if (run_stage(op, x, s, row0, sl_min(chunk, op->rows - row0)))
                return -1;
    return 0;
}

/* dout to the gradients of added inputs that do not share it: all of the residual stream, so fp32. */
static int pass_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int i = 0; i < op->inputs; i++) {
        const sl_buffer *v = op->pass[i] ? &x->info[op->din[i]] : NULL;
        if (!v)
            continue;
        const float *dout = sl_buf_data(x, op->dout) + s->first * v->ld;
        float *din = sl_buf_data(x, op->din[i]) + s->first * v->ld;
        if (op->acc[i])
            x->k->add(s->n * v->ld, dout, din);
        else
            memcpy(din, dout, (size_t)(s->n * v->ld) * sizeof *din);
    }
    return 0;
}

/* Rows of gradients in whatever precision: a[i] += b[i]. */
static void add_bf16(const sl_kernels *k, int64_t n, const sl_bf16 *b, sl_bf16 *a) {
    float x[256], y[256];
    for (int64_t i = 0; i < n; i += 256) {
        int64_t m = sl_min(256, n - i);
        k->from_bf16(m, b + i, x), k->from_bf16(m, a + i, y);
        k->add(m, x, y);
        k->to_bf16(m, y, a + i);
    }
}

static int sum_rows(const sl_op *op, const sl_exec *x, const sl_span *s) {
    for (int i = 0; i < op->inputs; i++) {
        const sl_buffer *v = op->sum[i] == SL_NONE ? NULL : &x->info[op->sum[i]];
        if (!v)
            continue;
        int64_t at = s->first * v->ld, n = s->n * v->ld;
        if (v->bf16)
            add_bf16(x->k, n, sl_buf_bf16(x, op->din[i]) + at, sl_buf_bf16(x, op->sum[i]) + at);
        else
            x->k->add(n, sl_buf_data(x, op->din[i]) + at, sl_buf_data(x, op->sum[i]) + at);
    }
    return 0;
}

static int run_backward(const sl_op *op, const sl_exec *x) {
    static const sl_stage passing = {.cut = SL_CUT_ROWS, .run = pass_rows},
                          summing = {.cut = SL_CUT_ROWS, .run = sum_rows};
    bool pass = false, sum = false;
    for (int i = 0; i < op->inputs; i++)
        pass = pass || op->pass[i], sum = sum || op->sum[i] != SL_NONE;
    if (pass && run_stage(op, x, &passing, 0, op->rows))
        return -1;
    if (op->kind->backward && run_stages(op, x, op->kind->backward))
        return -1;
    return sum ? run_stage(op, x, &summing, 0, op->rows) : 0;
}

int sl_schedule_forward(const sl_program *b, const sl_exec *x, double *seconds) {
    for (int i = 0; i < b->ops; i++) {
        double start = seconds ? sl_now() : 0;
        if (run_stages(&b->op[i], x, b->op[i].kind->forward))
            return -1;
        if (seconds)
            seconds[2 * i] += sl_now() - start;
    }
    return 0;
}

int sl_schedule_backward(const sl_program *b, const sl_exec *x, double *seconds) {
    for (int i = b->ops - 1; i >= 0; i--) {
        double start = seconds ? sl_now() : 0;
        if (run_backward(&b->op[i], x))
            return -1;
        if (seconds)
            seconds[2 * i + 1] += sl_now() - start;
    }
    return 0;
}
