#include "simd/tier.h"

/* Channels that share the loads of what is said of keys; what is left over goes one by one. */
#define RWKV7_BLOCK 4

/* A row of a call. */
typedef struct {
    int64_t n;
    const float *r, *w, *k, *at, *by;
} rwkv7_row;

/* ---- forward: two passes over a channel's numbers, since what is taken away hangs on all of them */

SL_VEC void rwkv7_held_at(int64_t i, int c, int channels, const rwkv7_row *a, const float *from, vf *held) {
    vf at = v_load_n(a->at + i, c);
    for (int j = 0; j < channels; j++)
        held[j] = v_muladd(v_load_n(from + j * a->n + i, c), at, held[j]);
}

SL_VEC void rwkv7_fwd_at(int64_t i, int c, int channels, int with_y, const rwkv7_row *a, const vf *v, const vf *held,
                         const float *from, float *to, vf *sum) {
    vf w = v_load_n(a->w + i, c), k = v_load_n(a->k + i, c), by = v_load_n(a->by + i, c), r = v_load_n(a->r + i, c);
    for (int j = 0; j < channels; j++) {
        vf s = v_mul(v_load_n(from + j * a->n + i, c), w);
        s = v_muladd(v[j], k, v_sub(s, v_mul(held[j], by)));
        v_store_n(to + j * a->n + i, s, c);
        if (with_y)
            sum[j] = v_muladd(s, r, sum[j]);
    }
}

SL_VEC void rwkv7_fwd_row(int channels, int with_y, const rwkv7_row *a, const float *v, const float *from, float *to,
                          float *e, float *y) {
    vf held[RWKV7_BLOCK], value[RWKV7_BLOCK], sum[RWKV7_BLOCK];
    for (int j = 0; j < channels; j++) {
        held[j] = sum[j] = v_zero();
        value[j] = v_set1(v[j]);
    }
    V_EACH(a->n, rwkv7_held_at, channels, a, from, held);
    for (int j = 0; j < channels; j++) {
        e[j] = v_reduce_add(held[j]);
        held[j] = v_set1(e[j]);
    }
    V_EACH(a->n, rwkv7_fwd_at, channels, with_y, a, value, held, from, to, sum);
    for (int j = 0; with_y && j < channels; j++)
        y[j] = v_reduce_add(sum[j]);
}

SL_VEC void rwkv7_fwd_channels(int channels, int with_y, int64_t j, const rwkv7_row *a, const float *v, float *s,
                               int64_t to, float *e, float *y) {
    rwkv7_fwd_row(channels, with_y, a, v + j, s + j * a->n, s + to + j * a->n, e + j, with_y ? y + j : NULL);
}

void SL_FN(rwkv7_fwd)(int64_t rows, int64_t m, int64_t n, const float *r, int64_t ldr, const float *w, int64_t ldw,
                      const float *k, const float *at, const float *by, int64_t ldk, const float *v, int64_t ldv,
                      float *s, int64_t to, float *e, int64_t lde, float *y, int64_t ldy) {
    for (int64_t t = 0; t < rows; t++, s += to, v += ldv, e += lde) {
        rwkv7_row a = {n, r + t * ldr, w + t * ldw, k + t * ldk, at + t * ldk, by + t * ldk};
        int64_t j = 0;
        for (; j + RWKV7_BLOCK <= m; j += RWKV7_BLOCK) {
            if (y)
                rwkv7_fwd_channels(RWKV7_BLOCK, 1, j, &a, v, s, to, e, y + t * ldy);
            else
                rwkv7_fwd_channels(RWKV7_BLOCK, 0, j, &a, v, s, to, e, NULL);
        }
        for (; j < m; j++) {
            if (y)
                rwkv7_fwd_channels(1, 1, j, &a, v, s, to, e, y + t * ldy);
            else
                rwkv7_fwd_channels(1, 0, j, &a, v, s, to, e, NULL);
        }
    }
}

/* ---- backward */

/* Gradients of a row. */
typedef struct {
    float *r, *w, *k, *at, *by;
} rwkv7_back;

/* What one row of some channels knows and adds up. */
typedef struct {
    vf dy[RWKV7_BLOCK], v[RWKV7_BLOCK], e[RWKV7_BLOCK], dv[RWKV7_BLOCK], de[RWKV7_BLOCK];
} rwkv7_sums;

SL_VEC void rwkv7_reads_at(int64_t i, int c, int channels, const rwkv7_row *a, const rwkv7_back *d,
                           const float *before, const float *after, float *ds, rwkv7_sums *s) {
    vf r = v_load_n(a->r + i, c), k = v_load_n(a->k + i, c), by = v_load_n(a->by + i, c);
    vf dr = v_load_n(d->r + i, c), dw = v_load_n(d->w + i, c), dk = v_load_n(d->k + i, c);
    vf dby = v_load_n(d->by + i, c);
    for (int j = 0; j < channels; j++) {
        vf g = v_muladd(s->dy[j], r, v_load_n(ds + j * a->n + i, c));
        v_store_n(ds + j * a->n + i, g, c);
        dr = v_muladd(s->dy[j], v_load_n(after + j * a->n + i, c), dr);
        dw = v_muladd(g, v_load_n(before + j * a->n + i, c), dw);
        dk = v_muladd(s->v[j], g, dk);
        dby = v_sub(dby, v_mul(s->e[j], g));
        s->dv[j] = v_muladd(g, k, s->dv[j]);
        s->de[j] = v_sub(s->de[j], v_mul(g, by));
    }
    v_store_n(d->r + i, dr, c);
    v_store_n(d->w + i, dw, c);
    v_store_n(d->k + i, dk, c);
    v_store_n(d->by + i, dby, c);
}

SL_VEC void rwkv7_passes_at(int64_t i, int c, int channels, const rwkv7_row *a, const rwkv7_back *d,
                            const float *before, float *ds, const rwkv7_sums *s) {
    vf w = v_load_n(a->w + i, c), at = v_load_n(a->at + i, c), dat = v_load_n(d->at + i, c);
    for (int j = 0; j < channels; j++) {
        vf g = v_mul(v_load_n(ds + j * a->n + i, c), w);
        dat = v_muladd(s->de[j], v_load_n(before + j * a->n + i, c), dat);
        v_store_n(ds + j * a->n + i, v_muladd(s->de[j], at, g), c);
    }
    v_store_n(d->at + i, dat, c);
}

SL_VEC void rwkv7_bwd_row(int channels, const rwkv7_row *a, const rwkv7_back *d, const float *v, const float *e,
                          const float *dy, const float *before, const float *after, float *ds, float *dv) {
    rwkv7_sums s;
    for (int j = 0; j < channels; j++) {
        s.dy[j] = v_set1(dy[j]), s.v[j] = v_set1(v[j]), s.e[j] = v_set1(e[j]);
        s.dv[j] = s.de[j] = v_zero();
    }
    V_EACH(a->n, rwkv7_reads_at, channels, a, d, before, after, ds, &s);
    for (int j = 0; j < channels; j++) {
        dv[j] = v_reduce_add(s.dv[j]);
        s.de[j] = v_set1(v_reduce_add(s.de[j]));
    }
    V_EACH(a->n, rwkv7_passes_at, channels, a, d, before, ds, &s);
}

void SL_FN(rwkv7_bwd)(int64_t rows, int64_t m, int64_t n, const float *r, int64_t ldr, const float *w, int64_t ldw,
                      const float *k, const float *at, const float *by, int64_t ldk, const float *v, int64_t ldv,
                      const float *s, const float *e, int64_t lde, const float *dy, int64_t lddy, float *ds, float *dr,
                      float *dw, float *dk, float *dat, float *dby, float *dv, int64_t lddv) {
    for (int64_t t = rows - 1; t >= 0; t--) {
        rwkv7_row a = {n, r + t * ldr, w + t * ldw, k + t * ldk, at + t * ldk, by + t * ldk};
        rwkv7_back d = {dr + t * n, dw + t * n, dk + t * n, dat + t * n, dby + t * n};
        const float *before = s + t * m * n, *after = before + m * n, *vt = v + t * ldv, *et = e + t * lde;
        const float *dyt = dy + t * lddy;
        float *dvt = dv + t * lddv;
        int64_t j = 0;
        for (; j + RWKV7_BLOCK <= m; j += RWKV7_BLOCK)
            rwkv7_bwd_row(RWKV7_BLOCK, &a, &d, vt + j, et + j, dyt + j, before + j * n, after + j * n, ds + j * n,
                          dvt + j);
        for (; j < m; j++)
            rwkv7_bwd_row(1, &a, &d, vt + j, et + j, dyt + j, before + j * n, after + j * n, ds + j * n, dvt + j);
    }
}
