#include "program/program.h"

#include "base/err.h"
#include "base/mem.h"

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
    b->buffer[b->buffers] = (sl_buffer){.rows = rows, .cols = cols, .ld = cols, .first = -1, .last = -1,
                                          .id = b->buffers, .back = SL_NONE};
    return b->buffers++;
}

sl_buf sl_program_activation(sl_program *b, int64_t rows, int64_t cols) {
    sl_buf v = sl_program_buffer(b, rows, cols);
    if (b->bf16 && !b->failed) {
        b->buffer[v].bf16 = true;
        b->buffer[v].ld = b->device ? sl_round_up(cols, 8) : sl_bf16_ld(cols);
    }
    return v;
}

sl_buf sl_program_lasting(sl_program *b, int64_t rows, int64_t cols) {
    sl_buf v = sl_program_buffer(b, rows, cols);
    if (!b->failed)
        b->buffer[v].first = b->buffer[v].last = 0, b->buffer[v].lasting = true;
    sl_program_keep(b, v);
    return v;
}

sl_op *sl_program_op(sl_program *b, const sl_op_kind *kind, sl_scope scope) {
    static _Thread_local sl_op sink; /* takes the writes of a builder that ran out of memory */
    sl_op *op = grow(b, (void **)&b->op, b->ops, &b->op_capacity, sizeof *b->op) ? &b->op[b->ops++] : &sink;
    *op = (sl_op){.kind = kind, .scope = scope, .rows = b->batch * b->seq, .seq = b->seq, .out = SL_NONE,
                  .temp = SL_NONE, .dout = SL_NONE};
    for (int i = 0; i < SL_OP_INPUTS; i++)
        op->in[i] = op->din[i] = op->sum[i] = SL_NONE;
    for (int i = 0; i < SL_OP_SAVED; i++)
        op->saved[i] = SL_NONE;
    for (int i = 0; i < SL_OP_PARAMS; i++)
        op->param[i] = SL_NONE;
    return op;
}

void sl_op_reads(sl_op *op, sl_buf v, unsigned use) {
    op->in[op->inputs] = v;
    op->use[op->inputs++] = v == SL_NONE ? 0 : use;
}

void *sl_program_own(sl_program *b, sl_op *op, size_t bytes) {
    op->own = calloc(1, bytes);
    if (!op->own) {
        sl_fail("out of memory while building the program");
        b->failed = true;
    }
    return op->own;
}

int sl_program_param(sl_program *b, const char *prefix, const sl_param_spec *spec) {
    sl_params *p = b->params;
    sl_tensor *grown = realloc(p->tensor, (size_t)(p->count + 1) * sizeof *grown);
    if (!grown) {
        sl_fail("out of memory while declaring %s.%s", prefix, spec->name);
        b->failed = true;
        return 0;
    }
    p->tensor = grown;
    sl_tensor *t = &p->tensor[p->count];
    *t = (sl_tensor){.shape = {spec->rows, spec->cols, spec->more[0], spec->more[1]}, .size = 1, .init = spec->init,
                     .init_std = (float)spec->start, .span = spec->span, .draw = spec->draw, .decay = spec->decay,
                     .rate = spec->rate > 0 ? (float)spec->rate : 1, .place = spec->place,
                     .bf16 = spec->linear && b->compact};
    do
        t->size *= t->shape[t->ndim++];
    while (t->ndim < SL_TENSOR_DIMS && t->shape[t->ndim]);
    for (int i = t->ndim; i < SL_TENSOR_DIMS; i++)
        t->shape[i] = 1;
    t->matrix = t->ndim == 2 && b->layer != SL_NO_LAYER && !spec->elementwise;
    snprintf(t->name, sizeof t->name, "%s.%s", prefix, spec->name);
    int64_t *end = t->bf16 ? &p->halves : &p->floats, line = SL_ALIGN / (t->bf16 ? sizeof(sl_bf16) : sizeof(float));
    t->offset = spec->join ? *end : sl_round_up(*end, line);
    *end = t->offset + t->size;
    p->params += t->size;
    return p->count++;
}

int sl_program_state(sl_program *b, const char *prefix, const char *name, int64_t n) {
    sl_param_spec spec = {.name = name, .rows = n, .init = SL_INIT_ZEROS, .decay = SL_DECAY_NONE};
    int i = sl_program_param(b, prefix, &spec);
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

const sl_op *sl_program_find(const sl_program *b, int layer, enum sl_half half, enum sl_part part) {
    for (int i = 0; i < b->ops; i++) {
        const sl_scope *p = &b->op[i].scope;
        if (p->layer == layer && p->half == half && p->part == part)
            return &b->op[i];
    }
    return NULL;
}

void sl_program_free(sl_program *b) {
    for (int i = 0; i < b->ops; i++)
        (b->op[i].kind->destroy ? b->op[i].kind->destroy : free)(b->op[i].own);
    free(b->op);
    free(b->buffer);
    free(b->segment[SL_FORWARD]), free(b->segment[SL_BACKWARD]), free(b->local), free(b->again);
    free(b->keep);
}

sl_blocks sl_row_blocks(int64_t rows, int64_t seq) {
    int64_t target = sl_max(sl_div_up(rows, SL_ROW_BLOCKS), SL_ROW_BLOCK_MIN), windows = target / seq;
    if (windows > 0) /* whole ones to a block */
        return (sl_blocks){rows, sl_div_up(rows, windows * seq), windows * seq, windows * seq, 1};
    int64_t per = sl_div_up(seq, target), size = sl_div_up(seq, per);
    return (sl_blocks){rows, rows / seq * per, seq, size, per};
}
