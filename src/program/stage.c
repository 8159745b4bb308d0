#include "program/stage.h"

#include "base/err.h"
#include "base/threads.h"

#include <stdio.h>

/* ---- what failed */

void sl_failure_open(sl_failure *f) {
    f->rank = INT64_MAX;
    pthread_mutex_init(&f->lock, NULL);
}

void sl_failure_note(sl_failure *f, int64_t rank) {
    pthread_mutex_lock(&f->lock);
    if (rank < f->rank) {
        f->rank = rank;
        snprintf(f->message, sizeof f->message, "%s", sl_error());
    }
    pthread_mutex_unlock(&f->lock);
}

int sl_failure_close(sl_failure *f) {
    pthread_mutex_destroy(&f->lock);
    return f->rank == INT64_MAX ? 0 : sl_fail("%s", f->message);
}

/* ---- one stage */

/* Its calls: `down` of them for each of `parts`. */
typedef struct {
    const sl_op *op;
    const sl_exec *x;
    const sl_stage *stage;
    int64_t row0, rows;       /* that the stage is about */
    int64_t base, end, step;  /* what is cut, rows or items, into steps */
    bool blocks;              /* and not into steps but into sl_op_blocks() */
    int64_t down, parts;
    sl_failure failure;
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

static void run_call(void *ctx, int64_t call, int worker) {
    calls *c = ctx;
    sl_span s = span_of(c, call, worker);
    if (c->stage->run(c->op, c->x, &s))
        sl_failure_note(&c->failure, call);
}

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
    if (s->cut != SL_CUT_ROWS && s->cut != SL_CUT_WINDOWS) {
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

int sl_stage_run(const sl_op *op, const sl_exec *x, const sl_stage *stage, int64_t row0, int64_t rows) {
    calls c = {.op = op, .x = x, .stage = stage, .row0 = row0, .rows = rows};
    cut(&c);
    sl_failure_open(&c.failure);
    sl_parallel(c.down * c.parts, run_call, &c);
    return sl_failure_close(&c.failure);
}
