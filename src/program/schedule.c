#include "program/schedule.h"

#include "base/clock.h"
#include "base/threads.h"
#include "program/stage.h"

#include <stdlib.h>
#include <string.h>

/* ---- gradients of inputs that somebody else reads too */

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

/* ---- one direction of a pass */

typedef struct {
    const sl_program *b;
    const sl_exec *x;
    int direction;
    double *seconds; /* NULL, or SL_TIMES of each operation */
} pass;

static const sl_stage *stages_of(const pass *p, const sl_op *op) {
    static const sl_stage none[] = {{0}};
    const sl_stage *s = p->direction == SL_FORWARD ? op->kind->forward : op->kind->backward;
    return s ? s : none;
}

static bool behind_rows(const sl_stage *s) { return s->cut == SL_CUT_SUMS || s->cut == SL_CUT_FOLD; }

/* What the operation sees: its own part of the shared scratch. */
static sl_exec exec_of(const pass *p, const sl_op *op) {
    sl_exec x = *p->x;
    x.shared = (float *)(void *)((char *)x.shared + op->shared[p->direction]);
    x.sums = (float *)(void *)((char *)x.sums + op->sums[p->direction]);
    return x;
}

static void count(const pass *p, const sl_op *op, bool sums, double seconds) {
    if (p->seconds)
        p->seconds[SL_TIMES * (op - p->b->op) + (sums ? SL_TIME_SUMS : p->direction)] += seconds;
}

static int timed_stage(const pass *p, const sl_op *op, const sl_stage *s, int64_t row0, int64_t rows) {
    sl_exec x = exec_of(p, op);
    double start = p->seconds ? sl_now() : 0;
    int rc = sl_stage_run(op, &x, s, row0, rows);
    if (p->seconds)
        count(p, op, behind_rows(s) && p->direction == SL_BACKWARD, sl_now() - start);
    return rc;
}

typedef struct {
    bool pass, sum; /* before the stages, behind them */
} around;

static around around_of(const pass *p, const sl_op *op) {
    around a = {false, false};
    for (int i = 0; p->direction == SL_BACKWARD && i < op->inputs; i++)
        a.pass = a.pass || op->pass[i], a.sum = a.sum || op->sum[i] != SL_NONE;
    return a;
}

/* ---- an operation by itself */

static int run_stages(const pass *p, const sl_op *op) {
    const sl_stage *stage = stages_of(p, op);
    int64_t chunk = op->kind->chunk ? op->kind->chunk(op) : op->rows;
    for (; stage->cut == SL_CUT_PARAMS; stage++)
        if (timed_stage(p, op, stage, 0, op->rows))
            return -1;
    for (int64_t row0 = 0; row0 < op->rows; row0 += chunk)
        for (const sl_stage *s = stage; s->cut != SL_CUT_END; s++)
            if (timed_stage(p, op, s, row0, sl_min(chunk, op->rows - row0)))
                return -1;
    return 0;
}

static int run_op(const pass *p, const sl_op *op) {
    static const sl_stage passing = {.cut = SL_CUT_ROWS, .run = pass_rows},
                          summing = {.cut = SL_CUT_ROWS, .run = sum_rows};
    around a = around_of(p, op);
    if (a.pass && timed_stage(p, op, &passing, 0, op->rows))
        return -1;
    if (run_stages(p, op))
        return -1;
    return a.sum ? timed_stage(p, op, &summing, 0, op->rows) : 0;
}

/* What it needs again. */
static int run_again(const pass *p, const sl_segment *s) {
    for (int i = s->again; i < s->again_end; i++) {
        const sl_op *op = &p->b->op[p->b->again[i]];
        for (const sl_stage *stage = op->kind->forward; stage->cut != SL_CUT_END; stage++)
            if (stage->cut == SL_CUT_ROWS && timed_stage(p, op, stage, 0, op->rows))
                return -1;
    }
    return 0;
}

/* ---- a segment: what reads parameters alone, of all its operations at once; then rows, each call through all
 * operations; then sums over them, again of all operations at once */

typedef struct {
    const pass *p;
    const sl_segment *s;
    int ops;
    int from, to;    /* apart from rows: of which operations, */
    int nth;         /* which stage of each, */
    bool behind;     /* of those behind its rows, or before, */
    int64_t end[SL_SEGMENT_OPS]; /* and where its items end among those of all */
    int64_t calls;
    sl_blocks blocks;
    double *busy;    /* NULL, or seconds of operation i in worker t: busy[t * timed + i]; behind those of the segment */
    int timed;       /* come those that it computes again */
    sl_failure failure;
} passage;

/* The i-th operation that the direction comes to; behind them those that it computes again. */
static const sl_op *op_of(const passage *g, int i) {
    if (i >= g->ops)
        return &g->p->b->op[g->p->b->again[g->s->again + i - g->ops]];
    return &g->p->b->op[g->p->direction == SL_FORWARD ? g->s->first + i : g->s->end - 1 - i];
}

/* The n-th of its stages before the rows, or behind them; NULL if there are not so many. */
static const sl_stage *nth_of(const passage *g, const sl_op *op) {
    const sl_stage *s = stages_of(g->p, op);
    for (int n = 0; s->cut != SL_CUT_END; s++)
        if ((g->behind ? behind_rows(s) : s->cut == SL_CUT_PARAMS) && n++ == g->nth)
            return s;
    return NULL;
}

static int64_t items_of(const passage *g, const sl_op *op) {
    const sl_stage *s = nth_of(g, op);
    if (!s)
        return 0;
    sl_exec x = exec_of(g->p, op);
    return s->split ? s->split(op, &x).items : 1;
}

/* Items are counted through all operations. */
static void run_item(void *ctx, int64_t item, int worker) {
    passage *g = ctx;
    int i = g->from;
    while (item >= g->end[i])
        i++;
    const sl_op *op = op_of(g, i);
    sl_exec x = exec_of(g->p, op);
    double start = g->busy ? sl_now() : 0;
    sl_span span = {.first = item - (i > g->from ? g->end[i - 1] : 0), .n = 1, .parts = 1, .rows = op->rows,
                    .worker = worker};
    if (nth_of(g, op)->run(op, &x, &span))
        sl_failure_note(&g->failure, item);
    if (g->busy)
        g->busy[worker * g->timed + i] += sl_now() - start;
}

static void **bufs_of(const pass *p, int worker) {
    return p->x->worker_buf + (2 * (size_t)worker + (size_t)p->direction) * p->x->buffers;
}

/* Places the local buffers of these rows, so that row r of one is where that of any other buffer would be. */
static void place_local(const passage *g, const sl_exec *x, const sl_span *s) {
    void **buf = bufs_of(g->p, s->worker);
    uintptr_t base = (uintptr_t)x->local + (uintptr_t)s->worker * x->local_bytes;
    for (int i = g->s->local; i < g->s->local_end; i++) {
        sl_buf v = g->p->b->local[i];
        const sl_buffer *info = &x->info[v];
        size_t row = (size_t)info->ld * (info->bf16 ? sizeof(sl_bf16) : sizeof(float));
        buf[info->id] = (void *)(base + info->offset - (uintptr_t)s->first * row);
    }
}

/* One operation on these rows: 0, or which of its steps failed, counted from 1. */
static int run_rows_of(const pass *p, const sl_op *op, const sl_exec *x, const sl_span *span) {
    around a = around_of(p, op);
    const sl_stage *s = stages_of(p, op);
    int step = 1;
    if (a.pass && pass_rows(op, x, span))
        return step;
    for (; s->cut == SL_CUT_PARAMS; s++)
        ;
    for (; s->cut == SL_CUT_ROWS; s++)
        if (step++, s->run(op, x, span))
            return step;
    return a.sum && sum_rows(op, x, span) ? step + 1 : 0;
}

/* Values that the segment needs again. */
static int compute_again(const passage *g, const sl_span *span) {
    for (int i = g->ops; i < g->timed; i++) {
        double start = g->busy ? sl_now() : 0;
        const sl_op *op = op_of(g, i);
        sl_exec x = *g->p->x;
        x.buf = bufs_of(g->p, span->worker);
        for (const sl_stage *s = op->kind->forward; s->cut != SL_CUT_END; s++)
            if (s->cut == SL_CUT_ROWS && s->run(op, &x, span))
                return -1;
        if (g->busy)
            g->busy[span->worker * g->timed + i] += sl_now() - start;
    }
    return 0;
}

static void run_rows(void *ctx, int64_t call, int worker) {
    enum { STEPS = 16 };
    passage *g = ctx;
    int64_t block = call * g->s->blocks, last = sl_min(block + g->s->blocks, g->blocks.count) - 1;
    sl_span span = {.first = sl_block_first(g->blocks, block), .parts = 1, .rows = g->blocks.rows, .worker = worker};
    span.n = sl_block_first(g->blocks, last) + sl_block_rows(g->blocks, last) - span.first;
    place_local(g, g->p->x, &span);
    if (compute_again(g, &span)) {
        sl_failure_note(&g->failure, call);
        return;
    }
    for (int i = 0; i < g->ops; i++) {
        const sl_op *op = op_of(g, i);
        sl_exec x = exec_of(g->p, op);
        x.buf = bufs_of(g->p, worker);
        double start = g->busy ? sl_now() : 0;
        int failed = run_rows_of(g->p, op, &x, &span);
        if (g->busy)
            g->busy[worker * g->timed + i] += sl_now() - start;
        if (failed) {
            sl_failure_note(&g->failure, (i * STEPS + failed) * g->calls + call);
            return;
        }
    }
}

/* Runs the items and shares the time that it took among the operations as they were busy. */
static int run_timed(passage *g, int64_t items, sl_item_fn fn) {
    double start = g->busy ? sl_now() : 0, all = 0;
    int timed = g->p->x->workers * g->timed;
    if (g->busy)
        memset(g->busy, 0, (size_t)timed * sizeof *g->busy);
    sl_failure_open(&g->failure);
    sl_parallel(items, fn, g);
    double took = g->busy ? sl_now() - start : 0;
    for (int i = 0; g->busy && i < timed; i++)
        all += g->busy[i];
    for (int i = 0; all > 0 && i < timed; i++)
        count(g->p, op_of(g, i % g->timed), g->behind && g->p->direction == SL_BACKWARD, took * g->busy[i] / all);
    return sl_failure_close(&g->failure);
}

/* Stages apart from rows, of operations from..to-1: the first of each at once, then the second ... */
static int run_apart(passage *g, bool behind, int from, int to) {
    g->behind = behind;
    g->from = from, g->to = to;
    g->nth = 0;
    for (bool more = true; more; g->nth++) {
        int64_t items = 0;
        more = false;
        for (int i = from; i < to; i++) {
            more = more || nth_of(g, op_of(g, i));
            g->end[i] = items += items_of(g, op_of(g, i));
        }
        if (items > 0 && run_timed(g, items, run_item))
            return -1;
    }
    return 0;
}

static int run_sums(passage *g) {
    int step = g->s->sums_apart ? 1 : g->ops;
    for (int i = 0; i < g->ops; i += step)
        if (run_apart(g, true, i, i + step))
            return -1;
    return 0;
}

static int run_segment(const pass *p, const sl_segment *s) {
    passage g = {.p = p, .s = s, .ops = s->end - s->first, .blocks = sl_op_blocks(&p->b->op[s->first])};
    if (s->blocks == 0)
        return run_again(p, s) || run_op(p, &p->b->op[s->first]) ? -1 : 0;
    g.calls = sl_div_up(g.blocks.count, s->blocks);
    g.timed = g.ops + s->again_end - s->again;
    g.busy = p->seconds ? calloc((size_t)(p->x->workers * g.timed), sizeof *g.busy) : NULL;
    int rc = run_apart(&g, false, 0, g.ops) || run_timed(&g, g.calls, run_rows) || run_sums(&g) ? -1 : 0;
    free(g.busy);
    return rc;
}

static int run_pass(const pass *p) {
    for (int i = 0; i < p->b->segments[p->direction]; i++)
        if (run_segment(p, &p->b->segment[p->direction][i]))
            return -1;
    return 0;
}

int sl_schedule_forward(const sl_program *b, const sl_exec *x, double *seconds) {
    return run_pass(&(pass){b, x, SL_FORWARD, seconds});
}

int sl_schedule_backward(const sl_program *b, const sl_exec *x, double *seconds) {
    sl_exec back = *x;
    back.buf += back.buffers;
    return run_pass(&(pass){b, &back, SL_BACKWARD, seconds});
}
