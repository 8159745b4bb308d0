/* SL_DELTA_GROUP rows at a time. With s the state before the group, i and j rows of it,
 *   from_i = decay_0 ... decay_i,  pass_ij = decay_{j+1} ... decay_i  (what of j is left at i; 1 for j = i),
 * the recurrence is, rewritten and not approximated,
 *   e_i = v_i - from_i s k_i - sum_{j<i} pass_ij <k_i, k_j> u_j,   u_i = beta_i e_i,
 *   o_i = from_i s q_i + sum_{j<=i} pass_ij <q_i, k_j> u_j,        s := from_last s + sum_j pass_last,j u_j k_j^T:
 * small products with the state, which is read and written once a group. Decays are multiplied, never divided by. A row
 * takes nothing from a later one, not even times 0. */
#include "simd/tier.h"

enum { G = SL_DELTA_GROUP };

/* ---- products */

/* In plain C one: of two floats gcc makes vectors that read past the end of z. */
enum { TILE_ROWS = 4, TILE_VECTORS = VL > 1 ? 2 : 1 };

/* y = by y0 + x z, or x z where y0 is NULL: y and y0 [rows, cols], z [depth, cols]; x[r, p] is x[r ldx + p step]. */
typedef struct {
    int64_t depth, ldx, step, ldz, ldy;
    const float *x, *z, *y0;
    float by, *y;
} delta_product;

SL_VEC void delta_tile(int rows, int vectors, int c, const delta_product *a, int64_t row, int64_t col) {
    vf sum[TILE_ROWS][TILE_VECTORS], z[TILE_VECTORS];
    const float *x = a->x + row * a->ldx, *from = a->z + col;
    int64_t to = row * a->ldy + col;
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++)
            sum[r][j] = a->y0 ? v_mul(v_set1(a->by), v_load_n(a->y0 + to + r * a->ldy + j * VL, c)) : v_zero();
    for (int64_t p = 0; p < a->depth; p++) {
        for (int j = 0; j < vectors; j++)
            z[j] = v_load_n(from + p * a->ldz + j * VL, c);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vectors; j++)
                sum[r][j] = v_muladd(v_set1(x[r * a->ldx + p * a->step]), z[j], sum[r][j]);
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++)
            v_store_n(a->y + to + r * a->ldy + j * VL, sum[r][j], c);
}

SL_VEC void delta_strip(int vectors, int c, int64_t rows, const delta_product *a, int64_t col) {
    int64_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        delta_tile(TILE_ROWS, vectors, c, a, r, col);
    for (; r < rows; r++)
        delta_tile(1, vectors, c, a, r, col);
}

SL_VEC void delta_multiply(int64_t rows, int64_t cols, delta_product a) {
    int64_t j = 0;
    for (; j + TILE_VECTORS * VL <= cols; j += TILE_VECTORS * VL)
        delta_strip(TILE_VECTORS, VL, rows, &a, j);
    for (; j + VL <= cols; j += VL)
        delta_strip(1, VL, rows, &a, j);
    if (j < cols)
        delta_strip(1, (int)(cols - j), rows, &a, j);
}

/* y [rows, cols] = x z, x [rows, depth] */
static __attribute__((noinline)) void delta_set(int64_t rows, int64_t cols, int64_t depth, const float *x, int64_t ldx,
                                                const float *z, int64_t ldz, float *y, int64_t ldy) {
    delta_multiply(rows, cols, (delta_product){.depth = depth, .x = x, .ldx = ldx, .step = 1, .z = z, .ldz = ldz,
                                               .y = y, .ldy = ldy});
}

/* y [rows, cols] = by y0 + x^T z, x [depth, rows] and z [depth, cols] */
static __attribute__((noinline)) void delta_update(int64_t rows, int64_t cols, int64_t depth, const float *x,
                                                   const float *z, float by, const float *y0, float *y) {
    delta_multiply(rows, cols, (delta_product){.depth = depth, .x = x, .ldx = 1, .step = rows, .z = z, .ldz = cols,
                                               .by = by, .y0 = y0, .y = y, .ldy = cols});
}

SL_VEC void delta_dots_at(int64_t i, int c, int count, const float *x, const float *y, int64_t ldy, vf *sum) {
    vf a = v_load_n(x + i, c);
    for (int j = 0; j < count; j++)
        sum[j] = v_muladd(a, v_load_n(y + j * ldy + i, c), sum[j]);
}
SL_VEC void delta_dots_of(int count, int64_t n, const float *x, const float *y, int64_t ldy, float *to) {
    vf sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    V_EACH(n, delta_dots_at, count, x, y, ldy, sum);
    for (int j = 0; j < count; j++)
        to[j] = v_reduce_add(sum[j]);
}
/* to[i][j] = <x_i, y_j> for j <= i */
static __attribute__((noinline)) void delta_dots(int g, int64_t n, const float *x, int64_t ldx, const float *y,
                                                 int64_t ldy, float (*to)[G]) {
    for (int i = 0; i < g; i++) {
        int j = 0;
        for (; j + 4 <= i + 1; j += 4)
            delta_dots_of(4, n, x + i * ldx, y + j * ldy, ldy, to[i] + j);
        for (; j <= i; j++)
            delta_dots_of(1, n, x + i * ldx, y + j * ldy, ldy, to[i] + j);
    }
}

SL_VEC void delta_scale_at(int64_t i, int c, float by, const float *x, float *y) {
    v_store_n(y + i, v_mul(v_set1(by), v_load_n(x + i, c)), c);
}
/* y_i = sign by_i x_i, rows of n */
SL_VEC void delta_scale(int g, int64_t n, float sign, const float *by, const float *x, int64_t ldx, float *y) {
    for (int i = 0; i < g; i++)
        V_EACH(n, delta_scale_at, sign * by[i], x + i * ldx, y + i * n);
}

/* ---- a group: from and pass; kk[i][j] = <k_i, k_j> and qk[i][j] = <q_i, k_j> for j <= i */

typedef struct {
    int64_t m, n, ld;
    int rule;
    const float *q, *k, *decay, *beta;
    float from[G], pass[G][G], kk[G][G], qk[G][G];
} delta_group;

SL_VEC void delta_from(delta_group *a, int64_t t, const float *q, const float *k, const float *decay,
                       const float *beta) {
    a->q = q + t * a->ld, a->k = k + t * a->ld, a->decay = decay + t, a->beta = beta + t;
}

SL_VEC void delta_decays(int g, delta_group *a) {
    for (int i = 0; i < g; i++) {
        for (int j = 0; j < i; j++)
            a->pass[i][j] = a->pass[i - 1][j] * a->decay[i];
        a->pass[i][i] = 1;
        a->from[i] = i ? a->from[i - 1] * a->decay[i] : a->decay[0];
    }
}

/* to_ij = sign pass_ij by_ij */
SL_VEC void delta_pass(int g, const delta_group *a, float sign, const float (*by)[G], float (*to)[G]) {
    for (int i = 0; i < g; i++)
        for (int j = 0; j <= i; j++)
            to[i][j] = sign * a->pass[i][j] * by[i][j];
}

/* ---- forward */

typedef struct {
    const float *v;
    float *e, *o, *u;
    int64_t ldv, lde, ldo;
    float lacks[G][G], reads[G][G]; /* of u: -pass <k, k>, pass <q, k> */
} delta_forward;

/* e and o hold what the state before gives. */
SL_VEC void delta_solve_at(int64_t x, int c, int g, int rule, const delta_group *a, const delta_forward *f) {
    vf u[G];
#pragma GCC unroll 8
    for (int i = 0; i < g; i++) {
        vf e = v_load_n(f->v + i * f->ldv + x, c);
        if (rule) {
            e = v_sub(e, v_load_n(f->e + i * f->lde + x, c));
#pragma GCC unroll 8
            for (int j = 0; j < i; j++)
                e = v_muladd(v_set1(f->lacks[i][j]), u[j], e);
        }
        u[i] = v_mul(v_set1(a->beta[i]), e);
        v_store_n(f->e + i * f->lde + x, e, c);
        v_store_n(f->u + i * a->m + x, u[i], c);
        if (!f->o)
            continue;
        vf o = v_load_n(f->o + i * f->ldo + x, c);
#pragma GCC unroll 8
        for (int j = 0; j <= i; j++)
            o = v_muladd(v_set1(f->reads[i][j]), u[j], o);
        v_store_n(f->o + i * f->ldo + x, o, c);
    }
}

SL_VEC void delta_fwd_group(int g, delta_group *a, delta_forward *f, const float *s, float *to, float *work) {
    int64_t m = a->m, n = a->n;
    float *scaled = work;
    f->u = work + G * n;
    delta_decays(g, a);
    if (a->rule) {
        delta_dots(g, n, a->k, a->ld, a->k, a->ld, a->kk);
        delta_pass(g, a, -1, (const float(*)[G])a->kk, f->lacks);
        delta_scale(g, n, 1, a->from, a->k, a->ld, scaled);
        delta_set(g, m, n, scaled, n, s, m, f->e, f->lde);
    }
    if (f->o) {
        delta_dots(g, n, a->q, a->ld, a->k, a->ld, a->qk);
        delta_pass(g, a, 1, (const float(*)[G])a->qk, f->reads);
        delta_scale(g, n, 1, a->from, a->q, a->ld, scaled);
        delta_set(g, m, n, scaled, n, s, m, f->o, f->ldo);
    }
    if (a->rule)
        V_EACH(m, delta_solve_at, g, 1, a, f);
    else
        V_EACH(m, delta_solve_at, g, 0, a, f);
    delta_scale(g, n, 1, a->pass[g - 1], a->k, a->ld, scaled);
    delta_update(n, m, g, scaled, f->u, a->from[g - 1], s, to);
}

void SL_FN(delta_fwd)(int64_t rows, int64_t m, int64_t n, const float *q, const float *k, int64_t ldqk, const float *v,
                      int64_t ldv, const float *decay, const float *beta, int rule, float *s, int64_t to, float *e,
                      int64_t lde, float *o, int64_t ldo, float *work) {
    delta_group a = {.m = m, .n = n, .ld = ldqk, .rule = rule};
    delta_forward f = {.ldv = ldv, .lde = lde, .ldo = ldo};
    for (int64_t t = 0; t < rows; t += G, s += to) {
        delta_from(&a, t, q, k, decay, beta);
        f.v = v + t * ldv, f.e = e + t * lde, f.o = o ? o + t * ldo : NULL;
        if (rows - t >= G)
            delta_fwd_group(G, &a, &f, s, s + to, work);
        else
            delta_fwd_group((int)(rows - t), &a, &f, s, s + to, work);
    }
}

/* ---- backward, of the same sums: with d the gradient of the state after the group, [n, m] as s is,
 *   du_j = pass_last,j d k_j + sum_{i>=j} pass_ij <q_i, k_j> dout_i - sum_{i>j} pass_ij <k_i, k_j> dv_i,
 *   dv_j = beta_j du_j,  d := from_last d + sum_i from_i (q_i dout_i^T - k_i dv_i^T) */

/* back: [dout; dv] [2G, m]. through: [s dout; s dv; d e] [3G, n]. dqk, dkk: gradients of <q_i, k_j> and <k_i, k_j>,
 * at first <dout_i, e_j> and <dv_i, e_j>. */
typedef struct {
    const float *e, *dout;
    int64_t lde, lddo, lddv, ldg;
    float *dv, *dlog, *dbeta, *dq, *dk, *back, *through;
    float lacks[G][G], reads[G][G], dqk[G][G], dkk[G][G];
} delta_backward;

/* The second half of back holds d k. */
SL_VEC void delta_back_at(int64_t x, int c, int g, int rule, const delta_group *a, const delta_backward *b, vf *dbeta) {
    vf dout[G], dv[G];
#pragma GCC unroll 8
    for (int i = 0; i < g; i++) {
        dout[i] = v_load_n(b->dout + i * b->lddo + x, c);
        v_store_n(b->back + i * a->m + x, dout[i], c);
    }
#pragma GCC unroll 8
    for (int j = g - 1; j >= 0; j--) {
        vf du = v_load_n(b->back + (g + j) * a->m + x, c);
#pragma GCC unroll 8
        for (int i = j; i < g; i++)
            du = v_muladd(v_set1(b->reads[i][j]), dout[i], du);
        if (rule) {
#pragma GCC unroll 8
            for (int i = g - 1; i > j; i--)
                du = v_muladd(v_set1(b->lacks[i][j]), dv[i], du);
        }
        dbeta[j] = v_muladd(du, v_load_n(b->e + j * b->lde + x, c), dbeta[j]);
        dv[j] = v_mul(v_set1(a->beta[j]), du);
        v_store_n(b->dv + j * b->lddv + x, dv[j], c);
        v_store_n(b->back + (g + j) * a->m + x, dv[j], c);
    }
}

/* before, after: of each row, the parts of <d, s> that pass all its rows before, and after. */
SL_VEC void delta_keys_at(int64_t x, int c, int g, int rule, const delta_group *a, const delta_backward *b, vf *before,
                          vf *after) {
    vf q[G], k[G];
    for (int i = 0; i < g; i++) {
        q[i] = v_load_n(a->q + i * a->ld + x, c);
        k[i] = v_load_n(a->k + i * a->ld + x, c);
    }
#pragma GCC unroll 8
    for (int i = 0; i < g; i++) {
        const float *through = b->through + i * a->n + x;
        vf from = v_set1(a->from[i]), dq = v_mul(from, v_load_n(through, c));
        vf dk = v_mul(v_set1(a->pass[g - 1][i] * a->beta[i]), v_load_n(through + 2 * g * a->n, c));
        before[i] = v_muladd(q[i], dq, before[i]);
        after[i] = v_muladd(k[i], dk, after[i]);
        if (rule) {
            vf back = v_mul(from, v_load_n(through + g * a->n, c));
            before[i] = v_sub(before[i], v_mul(k[i], back));
            dk = v_sub(dk, back);
#pragma GCC unroll 8
            for (int j = 0; j < g; j++)
                if (j != i)
                    dk = v_muladd(v_set1(b->dkk[j < i ? i : j][j < i ? j : i]), k[j], dk);
        }
#pragma GCC unroll 8
        for (int j = 0; j <= i; j++)
            dq = v_muladd(v_set1(b->dqk[i][j]), k[j], dq);
#pragma GCC unroll 8
        for (int j = i; j < g; j++)
            dk = v_muladd(v_set1(b->dqk[j][i]), q[j], dk);
        v_store_n(b->dq + i * b->ldg + x, v_add(v_load_n(b->dq + i * b->ldg + x, c), dq), c);
        v_store_n(b->dk + i * b->ldg + x, v_add(v_load_n(b->dk + i * b->ldg + x, c), dk), c);
    }
}

SL_VEC void delta_dot_at(int64_t i, int c, int64_t quarter, const float *x, const float *y, vf *sum) {
    for (int j = 0; j < 4; j++)
        sum[j] = v_muladd(v_load_n(x + j * quarter + i, c), v_load_n(y + j * quarter + i, c), sum[j]);
}
SL_VEC float delta_dot(int64_t n, const float *x, const float *y) {
    vf sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t quarter = n / 4;
    V_EACH(quarter, delta_dot_at, quarter, x, y, sum);
    float rest = 0;
    for (int64_t i = 4 * quarter; i < n; i++)
        rest += x[i] * y[i];
    return v_reduce_add(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3]))) + rest;
}

/* The gradient of log(decay_t) is what passes row t: all of <d, s>, what goes from s to rows from t on, from rows
 * before t to d, and from those to these. Nothing is taken away again, so nothing cancels that is not to. */
SL_VEC void delta_dlog(int g, const delta_group *a, const delta_backward *b, float whole, const vf *before,
                       const vf *after) {
    float first = whole, here[G], late[G] = {0};
    for (int i = 0; i < g; i++) {
        float passed = here[i] = v_reduce_add(before[i]);
        late[0] += passed;
        for (int t = 1; t <= i; t++) {
            passed += b->dqk[i][t - 1] * a->qk[i][t - 1] + (a->rule ? b->dkk[i][t - 1] * a->kk[i][t - 1] : 0);
            late[t] += passed;
        }
    }
    for (int t = 0; t < g; t++) {
        b->dlog[t] += first + late[t];
        first += v_reduce_add(after[t]);
    }
}

/* From <dout_i, e_j> and <dv_i, e_j>: u is beta e. */
SL_VEC void delta_dots_back(int g, const delta_group *a, delta_backward *b) {
    delta_dots(g, a->m, b->back, a->m, b->e, b->lde, b->dqk);
    if (a->rule)
        delta_dots(g, a->m, b->back + g * a->m, a->m, b->e, b->lde, b->dkk);
    for (int i = 0; i < g; i++)
        for (int j = 0; j <= i; j++) {
            float by = a->pass[i][j] * a->beta[j];
            b->dqk[i][j] *= by;
            if (a->rule)
                b->dkk[i][j] *= -by;
        }
}

/* dv and dbeta; back. */
SL_VEC void delta_values_back(int g, delta_group *a, delta_backward *b, const float *d, float *scaled) {
    vf dbeta[G];
    delta_decays(g, a);
    delta_dots(g, a->n, a->q, a->ld, a->k, a->ld, a->qk);
    delta_pass(g, a, 1, (const float(*)[G])a->qk, b->reads);
    if (a->rule) {
        delta_dots(g, a->n, a->k, a->ld, a->k, a->ld, a->kk);
        delta_pass(g, a, -1, (const float(*)[G])a->kk, b->lacks);
    }
    delta_scale(g, a->n, 1, a->pass[g - 1], a->k, a->ld, scaled);
    delta_set(g, a->m, a->n, scaled, a->n, d, a->m, b->back + g * a->m, a->m);
    for (int i = 0; i < g; i++)
        dbeta[i] = v_zero();
    if (a->rule)
        V_EACH(a->m, delta_back_at, g, 1, a, b, dbeta);
    else
        V_EACH(a->m, delta_back_at, g, 0, a, b, dbeta);
    for (int i = 0; i < g; i++)
        b->dbeta[i] += v_reduce_add(dbeta[i]);
}

SL_VEC void delta_bwd_group(int g, delta_group *a, delta_backward *b, const float *s, float *d, float *work) {
    int64_t m = a->m, n = a->n;
    float *scaled = work, *turned = scaled + 2 * G * n;
    vf before[G], after[G];
    b->through = turned + m * n;
    b->back = b->through + 3 * G * n;
    delta_values_back(g, a, b, d, scaled);
    delta_dots_back(g, a, b);
    SL_FN(transpose_f32)(n, m, s, m, turned, n, 0);
    delta_set(a->rule ? 2 * g : g, n, m, b->back, m, turned, n, b->through, n);
    SL_FN(transpose_f32)(n, m, d, m, turned, n, 0);
    delta_set(g, n, m, b->e, b->lde, turned, n, b->through + 2 * g * n, n);
    for (int i = 0; i < g; i++)
        before[i] = after[i] = v_zero();
    if (a->rule)
        V_EACH(n, delta_keys_at, g, 1, a, b, before, after);
    else
        V_EACH(n, delta_keys_at, g, 0, a, b, before, after);
    delta_dlog(g, a, b, a->from[g - 1] * delta_dot(m * n, d, s), before, after);
    delta_scale(g, n, 1, a->from, a->q, a->ld, scaled);
    if (a->rule)
        delta_scale(g, n, -1, a->from, a->k, a->ld, scaled + g * n);
    delta_update(n, m, a->rule ? 2 * g : g, scaled, b->back, a->from[g - 1], d, d);
}

void SL_FN(delta_bwd)(int64_t rows, int64_t m, int64_t n, const float *q, const float *k, int64_t ldqk,
                      const float *decay, const float *beta, int rule, const float *s, const float *e, int64_t lde,
                      const float *dout, int64_t lddo, float *ds, float *dv, int64_t lddv, float *dlog, float *dbeta,
                      float *dq, float *dk, int64_t lddqk, float *work) {
    delta_group a = {.m = m, .n = n, .ld = ldqk, .rule = rule};
    delta_backward b = {.lde = lde, .lddo = lddo, .lddv = lddv, .ldg = lddqk};
    for (int64_t group = (rows + G - 1) / G - 1; group >= 0; group--) {
        int64_t t = group * G;
        delta_from(&a, t, q, k, decay, beta);
        b.e = e + t * lde, b.dout = dout + t * lddo, b.dv = dv + t * lddv, b.dlog = dlog + t, b.dbeta = dbeta + t;
        b.dq = dq + t * lddqk, b.dk = dk + t * lddqk;
        if (rows - t >= G)
            delta_bwd_group(G, &a, &b, s + group * m * n, ds, work);
        else
            delta_bwd_group((int)(rows - t), &a, &b, s + group * m * n, ds, work);
    }
}
