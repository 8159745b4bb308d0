#include "model/program.h"

#include "base/err.h"
#include "base/mem.h"
#include "ops/gemm_bf16.h"
#include "ops/linear_int.h"
#include "ops/quantise.h"
#include "ops/rotate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for one more element of a growing array; false (and b->failed) when memory is out. */
static bool grow(sl_program *b, void **array, int count, int *capacity, size_t size) {
    if (count < *capacity)
        return true;
    int wanted = *capacity ? 2 * *capacity : 64;
    void *p = realloc(*array, (size_t)wanted * size);
    if (!p) {
        sl_fail("out of memory while building the program");
        b->failed = true;
        return false;
    }
    *array = p;
    *capacity = wanted;
    return true;
}

sl_buf sl_program_buffer(sl_program *b, int64_t rows, int64_t cols) {
    if (!grow(b, (void **)&b->buffer, b->buffers, &b->buffer_capacity, sizeof *b->buffer))
        return 0;
    b->buffer[b->buffers] = (sl_buffer){.rows = rows, .cols = cols, .ld = cols, .first = -1, .last = -1};
    return b->buffers++;
}

static sl_buf like(sl_program *b, int64_t rows, int64_t cols, bool bf16) {
    sl_buf v = sl_program_buffer(b, rows, cols);
    if (bf16 && !b->failed) {
        b->buffer[v].bf16 = true;
        b->buffer[v].ld = sl_bf16_ld(cols);
    }
    return v;
}

sl_buf sl_program_activation(sl_program *b, int64_t rows, int64_t cols) { return like(b, rows, cols, b->bf16); }

sl_op *sl_program_op(sl_program *b, const sl_op_kind *kind, const char *label) {
    static _Thread_local sl_op sink; /* takes the writes of a builder that ran out of memory */
    sl_op *op = grow(b, (void **)&b->op, b->ops, &b->op_capacity, sizeof *b->op) ? &b->op[b->ops++] : &sink;
    *op = (sl_op){.kind = kind, .rows = b->batch * b->seq, .seq = b->seq, .out = SL_NONE,
                  .temp = SL_NONE, .din = SL_NONE, .din1 = SL_NONE, .dout = SL_NONE, .factor = 1};
    snprintf(op->label, sizeof op->label, "%s", label);
    for (int i = 0; i < SL_OP_INPUTS; i++)
        op->in[i] = SL_NONE;
    for (int i = 0; i < SL_OP_SAVED; i++)
        op->saved[i] = SL_NONE;
    for (int i = 0; i < SL_OP_PARAMS; i++)
        op->param[i] = SL_NONE;
    return op;
}

int sl_program_param(sl_program *b, const char *prefix, const char *name, int64_t rows, int64_t cols,
                     enum sl_init init, double std, enum sl_decay decay, bool join) {
    sl_params *p = b->params;
    sl_tensor *grown = realloc(p->tensor, (size_t)(p->count + 1) * sizeof *grown);
    if (!grown) {
        sl_fail("out of memory while declaring %s.%s", prefix, name);
        b->failed = true;
        return 0;
    }
    p->tensor = grown;
    sl_tensor *t = &p->tensor[p->count];
    *t = (sl_tensor){.ndim = cols ? 2 : 1, .shape = {rows, cols ? cols : 1}, .size = rows * (cols ? cols : 1),
                     .init = init, .init_std = (float)std, .decay = decay};
    snprintf(t->name, sizeof t->name, "%s.%s", prefix, name);
    t->offset = join ? p->floats : sl_round_up(p->floats, SL_ALIGN / (int64_t)sizeof(float));
    p->floats = t->offset + t->size;
    p->params += t->size;
    return p->count++;
}

int sl_program_state(sl_program *b, const char *prefix, const char *name, int64_t n) {
    int i = sl_program_param(b, prefix, name, n, 0, SL_INIT_ZEROS, 0, SL_DECAY_NONE, false);
    if (b->failed)
        return 0;
    b->params->tensor[i].state = true;
    b->params->params -= n;
    return i;
}

void sl_program_keep(sl_program *b, sl_buf v) {
    if (grow(b, (void **)&b->keep, b->keeps, &b->keep_capacity, sizeof *b->keep))
        b->keep[b->keeps++] = v;
}

static void use(sl_program *b, sl_buf v, int time) {
    if (v == SL_NONE)
        return;
    sl_buffer *u = &b->buffer[v];
    if (u->first < 0 || time < u->first)
        u->first = time;
    if (time > u->last)
        u->last = time;
}

/* Walks the list backwards and gives every value a gradient buffer where its last reader writes it
 * first. A residual input shares the gradient of the output. The first operation (embedding) needs no din. */
static int assign_gradients(sl_program *b) {
    sl_buf *grad = malloc((size_t)(b->buffers + 1) * sizeof *grad);
    int known = b->buffers;
    if (!grad)
        return sl_fail("out of memory while planning gradients");
    for (int i = 0; i < known; i++)
        grad[i] = SL_NONE;
    for (int i = b->ops - 1; i >= 0 && !b->failed; i--) {
        sl_op *op = &b->op[i];
        if (op->out != SL_NONE)
            op->dout = grad[op->out];
        if (op->second)
            grad[op->in[1]] = op->din1 = like(b, b->buffer[op->in[1]].rows, b->buffer[op->in[1]].cols,
                                              b->buffer[op->in[1]].bf16);
        else if (op->in[1] != SL_NONE)
            grad[op->in[1]] = op->dout;
        if (op->in[0] == SL_NONE)
            continue;
        bool in_place = op->in[0] == op->out;
        op->acc = !in_place && grad[op->in[0]] != SL_NONE;
        if (grad[op->in[0]] == SL_NONE)
            grad[op->in[0]] = like(b, b->buffer[op->in[0]].rows, b->buffer[op->in[0]].cols,
                                   b->buffer[op->in[0]].bf16);
        op->din = grad[op->in[0]];
    }
    free(grad);
    return b->failed ? -1 : 0;
}

static void lifetimes(sl_program *b) {
    int n = b->ops;
    for (int i = 0; i < n; i++) {
        const sl_op *op = &b->op[i];
        int back = 2 * n - 1 - i;
        use(b, op->in[0], i), use(b, op->in[1], i), use(b, op->out, i);
        for (int s = 0; s < SL_OP_SAVED; s++) {
            use(b, op->saved[s], i);
            if (b->training)
                use(b, op->saved[s], back);
        }
        if (!b->training)
            continue;
        if (op->kind->keeps_in)
            use(b, op->in[0], back);
        if (op->second)
            use(b, op->in[1], back), use(b, op->din1, back);
        if (op->kind->keeps_out)
            use(b, op->out, back);
        use(b, op->din, back), use(b, op->dout, back), use(b, op->temp, back);
        if (op->out == SL_NONE) /* the head writes its input's gradient together with the loss */
            use(b, op->din, i);
    }
    for (int i = 0; i < b->keeps; i++)
        use(b, b->keep[i], n);
}

static size_t bytes_of(const sl_buffer *v) {
    size_t element = v->bf16 ? sizeof(sl_bf16) : sizeof(float);
    return (size_t)sl_round_up(v->rows * v->ld * (int64_t)element, 4096);
}

static int by_size(const void *x, const void *y) {
    const sl_buffer *a = *(const sl_buffer *const *)x, *b = *(const sl_buffer *const *)y;
    size_t s = bytes_of(a), t = bytes_of(b);
    return s != t ? (s < t ? 1 : -1) : (a < b ? -1 : 1);
}

/* Greedy by size: each buffer goes to the lowest place free during its whole life. */
static size_t place(sl_buffer **order, int n) {
    size_t end = 0;
    for (int i = 0; i < n; i++) {
        sl_buffer *v = order[i];
        size_t at = 0;
        for (int moved = 1; moved;) {
            moved = 0;
            for (int j = 0; j < i; j++) {
                const sl_buffer *o = order[j];
                bool alive = o->first <= v->last && v->first <= o->last;
                if (alive && at < o->offset + bytes_of(o) && o->offset < at + bytes_of(v)) {
                    at = o->offset + bytes_of(o);
                    moved = 1;
                }
            }
        }
        v->offset = at;
        if (at + bytes_of(v) > end)
            end = at + bytes_of(v);
    }
    return end;
}

size_t sl_program_plan(sl_program *b) {
    if (b->failed || (b->training && assign_gradients(b)))
        return 0;
    lifetimes(b);
    sl_buffer **order = malloc((size_t)(b->buffers + 1) * sizeof *order);
    if (!order) {
        sl_fail("out of memory while planning buffers");
        b->failed = true;
        return 0;
    }
    for (int i = 0; i < b->buffers; i++)
        order[i] = &b->buffer[i];
    qsort(order, (size_t)b->buffers, sizeof(sl_buffer *), by_size);
    size_t end = place(order, b->buffers);
    free(order);
    return end;
}

static void free_op(sl_op *op) {
    for (int i = 0; i < 2; i++)
        sl_quant_point_free(op->point[i]), sl_rotation_free(op->rotation[i]);
    sl_int_weights_free(op->integers);
    free(op->nullify), free(op->moe);
}

void sl_program_free(sl_program *b) {
    for (int i = 0; i < b->ops; i++)
        free_op(&b->op[i]);
    free(b->op);
    free(b->buffer);
    free(b->keep);
}
