#include "ops/quant/rotate.h"

#include "base/err.h"
#include "base/rng.h"
#include "ops/quant/quantise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_hartley(int64_t m, double *c) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++) {
            double angle = 2 * acos(-1) * (double)(i * j % m) / (double)m;
            c[i * m + j] = (cos(angle) + sin(angle)) / sqrt((double)m);
        }
}

sl_rotation *sl_rotation_new(uint64_t seed, sl_scope scope, int64_t n) {
    sl_rotation *r = calloc(1, sizeof *r);
    if (!r) {
        sl_fail("out of memory for a rotation");
        return NULL;
    }
    char name[SL_SCOPE_CHARS];
    sl_scope_name(scope, name);
    r->scope = scope;
    r->n = n;
    r->power = n & -n;
    r->odd = n / r->power;
    r->hartley = malloc((size_t)(r->odd * r->odd) * sizeof *r->hartley);
    r->sign = malloc((size_t)n);
    if (!r->hartley || !r->sign) {
        sl_rotation_free(r);
        sl_fail("out of memory for a rotation");
        return NULL;
    }
    fill_hartley(r->odd, r->hartley);
    sl_rng random = sl_rng_make(seed, SL_STREAM_ROTATE, sl_hash64(name, strlen(name)));
    for (int64_t i = 0; i < n; i++)
        r->sign[i] = sl_rng_u32(&random) & 1 ? 1 : -1;
    return r;
}

void sl_rotation_free(sl_rotation *r) {
    if (!r)
        return;
    free(r->hartley), free(r->sign);
    free(r);
}

/* Over the factor of powers of two: element a of `power`, each of `odd` values. */
static void hadamard(const sl_rotation *r, double *x) {
    int64_t m = r->odd;
    for (int64_t half = 1; half < r->power; half *= 2)
        for (int64_t a = 0; a < r->power; a += 2 * half)
            for (int64_t i = a * m; i < (a + half) * m; i++) {
                double u = x[i], v = x[i + half * m];
                x[i] = u + v;
                x[i + half * m] = u - v;
            }
    double scale = 1 / sqrt((double)r->power);
    for (int64_t i = 0; i < r->n; i++)
        x[i] *= scale;
}

static void hartley(const sl_rotation *r, double *x, double *work) {
    int64_t m = r->odd;
    if (m == 1)
        return;
    memset(work, 0, (size_t)r->n * sizeof *work);
    for (int64_t a = 0; a < r->n; a += m)
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = 0; i < m; i++) /* innermost, so that sums don't wait for each other */
                work[a + i] += r->hartley[j * m + i] * x[a + j];
    memcpy(x, work, (size_t)r->n * sizeof *x);
}

static void flip(const sl_rotation *r, double *x) {
    for (int64_t i = 0; i < r->n; i++)
        x[i] *= r->sign[i];
}

void sl_rotate(const sl_rotation *r, double *x, double *work) {
    flip(r, x);
    hadamard(r, x);
    hartley(r, x, work);
}

void sl_rotate_back(const sl_rotation *r, double *x, double *work) {
    hartley(r, x, work);
    hadamard(r, x);
    flip(r, x);
}

static void rotate_row(const sl_rotation *r, const float *x, float *y, double *scratch, bool back) {
    for (int64_t i = 0; i < r->n; i++)
        scratch[i] = x[i];
    (back ? sl_rotate_back : sl_rotate)(r, scratch, scratch + r->n);
    for (int64_t i = 0; i < r->n; i++)
        y[i] = (float)scratch[i];
}

void sl_rotate_row(const sl_rotation *r, const float *x, float *y, double *scratch) {
    rotate_row(r, x, y, scratch, false);
}

void sl_rotate_row_back(const sl_rotation *r, const float *x, float *y, double *scratch) {
    rotate_row(r, x, y, scratch, true);
}

/* ---- the operation; own: the rotation */

static int forward(const sl_op *op, const sl_exec *x, const sl_span *s) {
    int64_t d = op->dim_in;
    for (int64_t i = s->first; i < s->first + s->n; i++)
        sl_rotate_row(op->own, sl_buf_data(x, op->in[0]) + i * d, sl_buf_data(x, op->out) + i * d,
                      sl_worker_scratch(x, s->worker));
    return 0;
}

static void destroy(void *own) { sl_rotation_free(own); }

static const sl_op_kind rotate = {
    .name = "rotate", .forward = SL_STAGES({.cut = SL_CUT_ROWS, .run = forward}), .destroy = destroy};

const sl_rotation *sl_rotation_of(const sl_op *op) { return op->kind == &rotate ? op->own : NULL; }

sl_buf sl_build_rotate(sl_program *b, sl_scope scope, sl_buf in, int64_t dim) {
    sl_op *op = sl_program_op(b, &rotate, scope);
    sl_op_reads(op, in, 0);
    sl_op_rows_of(b, op, in);
    op->dim_in = op->dim_out = dim;
    op->worker_bytes = (size_t)(2 * dim) * sizeof(double);
    if (!(op->own = sl_rotation_new(b->quant->seed, scope, dim)))
        b->failed = true;
    return op->out = sl_program_buffer(b, op->rows, dim);
}
