#include "simd/tier.h"

/* Channels that share the loads of q and k; what is left over goes one by one. */
#define DELTA_BLOCK 4

SL_VEC void delta_recall_at(int64_t i, int c, int channels, int64_t n, const float *k, const float *s, vf *sum) {
    vf vk = v_load_n(k + i, c);
    for (int r = 0; r < channels; r++)
        sum[r] = v_muladd(v_load_n(s + r * n + i, c), vk, sum[r]);
}

SL_VEC void delta_write_at(int64_t i, int c, int channels, int with_o, int64_t n, float decay, const vf *u,
                           const float *q, const float *k, const float *from, float *to, vf *sum) {
    vf vq = v_load_n(q + i, c), vk = v_load_n(k + i, c), a = v_set1(decay);
    for (int r = 0; r < channels; r++) {
        vf s = v_muladd(u[r], vk, v_mul(a, v_load_n(from + r * n + i, c)));
        v_store_n(to + r * n + i, s, c);
        if (with_o)
            sum[r] = v_muladd(s, vq, sum[r]);
    }
}

/* One row of some channels. */
SL_VEC void delta_fwd_row(int channels, int with_o, int rule, int64_t n, const float *q, const float *k,
                          const float *v, float decay, float beta, const float *from, float *to, float *e, float *o) {
    vf u[DELTA_BLOCK], sum[DELTA_BLOCK];
    for (int r = 0; r < channels; r++)
        sum[r] = v_zero();
    if (rule)
        V_EACH(n, delta_recall_at, channels, n, k, from, sum);
    for (int r = 0; r < channels; r++) {
        e[r] = rule ? v[r] - decay * v_reduce_add(sum[r]) : v[r];
        u[r] = v_set1(beta * e[r]);
        sum[r] = v_zero();
    }
    V_EACH(n, delta_write_at, channels, with_o, n, decay, u, q, k, from, to, sum);
    for (int r = 0; with_o && r < channels; r++)
        o[r] = v_reduce_add(sum[r]);
}

SL_VEC void delta_fwd_rows(int with_o, int rule, int64_t rows, int64_t m, int64_t n, const float *q, const float *k,
                           int64_t ldqk, const float *v, int64_t ldv, const float *decay, const float *beta, float *s,
                           int64_t to, float *e, int64_t lde, float *o, int64_t ldo) {
    for (int64_t t = 0; t < rows; t++, q += ldqk, k += ldqk, v += ldv, s += to, e += lde, o += with_o ? ldo : 0) {
        int64_t r = 0;
        for (; r + DELTA_BLOCK <= m; r += DELTA_BLOCK)
            delta_fwd_row(DELTA_BLOCK, with_o, rule, n, q, k, v + r, decay[t], beta[t], s + r * n, s + to + r * n,
                          e + r, o + (with_o ? r : 0));
        for (; r < m; r++)
            delta_fwd_row(1, with_o, rule, n, q, k, v + r, decay[t], beta[t], s + r * n, s + to + r * n, e + r,
                          o + (with_o ? r : 0));
    }
}

void SL_FN(delta_fwd)(int64_t rows, int64_t m, int64_t n, const float *q, const float *k, int64_t ldqk, const float *v,
                      int64_t ldv, const float *decay, const float *beta, int rule, float *s, int64_t to, float *e,
                      int64_t lde, float *o, int64_t ldo) {
    if (o && rule)
        delta_fwd_rows(1, 1, rows, m, n, q, k, ldqk, v, ldv, decay, beta, s, to, e, lde, o, ldo);
    else if (o)
        delta_fwd_rows(1, 0, rows, m, n, q, k, ldqk, v, ldv, decay, beta, s, to, e, lde, o, ldo);
    else
        delta_fwd_rows(0, rule, rows, m, n, q, k, ldqk, v, ldv, decay, beta, s, to, e, lde, e, 0);
}

/* What one row of some channels adds up, and what it is multiplied by. */
typedef struct {
    vf out[DELTA_BLOCK], dsk[DELTA_BLOCK], u[DELTA_BLOCK], back[DELTA_BLOCK], dlog;
} delta_sums;

SL_VEC void delta_read_back_at(int64_t i, int c, int channels, int64_t n, const float *q, const float *k,
                               const float *after, float *ds, float *dq, delta_sums *a) {
    vf vq = v_load_n(q + i, c), vk = v_load_n(k + i, c), gq = v_load_n(dq + i, c);
    for (int r = 0; r < channels; r++) {
        vf g = v_muladd(a->out[r], vq, v_load_n(ds + r * n + i, c));
        gq = v_muladd(a->out[r], v_load_n(after + r * n + i, c), gq);
        a->dsk[r] = v_muladd(g, vk, a->dsk[r]);
        v_store_n(ds + r * n + i, g, c);
    }
    v_store_n(dq + i, gq, c);
}

SL_VEC void delta_write_back_at(int64_t i, int c, int channels, int64_t n, float decay, const float *k,
                                const float *before, float *ds, float *dk, delta_sums *a) {
    vf vk = v_load_n(k + i, c), gk = v_load_n(dk + i, c), d = v_set1(decay);
    for (int r = 0; r < channels; r++) {
        vf g = v_load_n(ds + r * n + i, c), s = v_mul(d, v_load_n(before + r * n + i, c));
        gk = v_muladd(a->u[r], g, v_muladd(a->back[r], s, gk));
        g = v_muladd(a->back[r], vk, g);
        a->dlog = v_muladd(g, s, a->dlog);
        v_store_n(ds + r * n + i, v_mul(d, g), c);
    }
    v_store_n(dk + i, gk, c);
}

SL_VEC void delta_bwd_row(int channels, int64_t n, const float *q, const float *k, float decay, float beta, int rule,
                          const float *before, const float *after, const float *e, const float *dout, float *ds,
                          float *dv, float *dlog, float *dbeta, float *dq, float *dk) {
    delta_sums a;
    a.dlog = v_zero();
    for (int r = 0; r < channels; r++) {
        a.out[r] = v_set1(dout[r]);
        a.dsk[r] = v_zero();
    }
    V_EACH(n, delta_read_back_at, channels, n, q, k, after, ds, dq, &a);
    for (int r = 0; r < channels; r++) {
        float du = v_reduce_add(a.dsk[r]);
        dv[r] = beta * du;
        *dbeta += e[r] * du;
        a.u[r] = v_set1(beta * e[r]);
        a.back[r] = v_set1(rule ? -dv[r] : 0);
    }
    V_EACH(n, delta_write_back_at, channels, n, decay, k, before, ds, dk, &a);
    *dlog += v_reduce_add(a.dlog);
}

void SL_FN(delta_bwd)(int64_t rows, int64_t m, int64_t n, const float *q, const float *k, int64_t ldqk,
                      const float *decay, const float *beta, int rule, const float *s, const float *e, int64_t lde,
                      const float *dout, int64_t lddo, float *ds, float *dv, int64_t lddv, float *dlog, float *dbeta,
                      float *dq, float *dk, int64_t lddqk) {
    for (int64_t t = rows - 1; t >= 0; t--) {
        const float *qt = q + t * ldqk, *kt = k + t * ldqk, *et = e + t * lde, *dot = dout + t * lddo;
        const float *before = s + t * m * n, *after = before + m * n;
        float *dvt = dv + t * lddv, *dqt = dq + t * lddqk, *dkt = dk + t * lddqk;
        int64_t r = 0;
        for (; r + DELTA_BLOCK <= m; r += DELTA_BLOCK)
            delta_bwd_row(DELTA_BLOCK, n, qt, kt, decay[t], beta[t], rule, before + r * n, after + r * n, et + r,
                          dot + r, ds + r * n, dvt + r, dlog + t, dbeta + t, dqt, dkt);
        for (; r < m; r++)
            delta_bwd_row(1, n, qt, kt, decay[t], beta[t], rule, before + r * n, after + r * n, et + r, dot + r,
                          ds + r * n, dvt + r, dlog + t, dbeta + t, dqt, dkt);
    }
}
