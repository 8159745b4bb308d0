#include "simd/tier.h"

/* Channels that share the loads of b and c; what is left over goes one by one. */
#define SSD_BLOCK 4

SL_VEC void ssd_fwd_at(int64_t i, int c, int channels, int with_y, int64_t n, float decay, const vf *x, const float *b,
                       const float *cc, const float *from, float *to, vf *sum) {
    vf vb = v_load_n(b + i, c), vc = v_load_n(cc + i, c), a = v_set1(decay);
    for (int r = 0; r < channels; r++) {
        vf h = v_muladd(x[r], vb, v_mul(a, v_load_n(from + r * n + i, c)));
        v_store_n(to + r * n + i, h, c);
        if (with_y)
            sum[r] = v_muladd(h, vc, sum[r]);
    }
}

/* One row of some channels. */
SL_VEC void ssd_fwd_row(int channels, int with_y, int64_t n, const float *x, float dt, float decay, const float *b,
                        const float *c, float skip, const float *from, float *to, float *y) {
    vf scaled[SSD_BLOCK], sum[SSD_BLOCK];
    for (int r = 0; r < channels; r++) {
        scaled[r] = v_set1(dt * x[r]);
        sum[r] = v_zero();
    }
    V_EACH(n, ssd_fwd_at, channels, with_y, n, decay, scaled, b, c, from, to, sum);
    for (int r = 0; with_y && r < channels; r++)
        y[r] = v_reduce_add(sum[r]) + skip * x[r];
}

void SL_FN(ssd_fwd)(int64_t rows, int64_t p, int64_t n, const float *x, int64_t ldx, const float *dt,
                    const float *decay, const float *b, const float *c, int64_t ldbc, float skip, float *h, int64_t to,
                    float *y, int64_t ldy) {
    for (int64_t t = 0; t < rows; t++, x += ldx, b += ldbc, c += ldbc, h += to) {
        int64_t r = 0;
        for (; r + SSD_BLOCK <= p; r += SSD_BLOCK) {
            if (y)
                ssd_fwd_row(SSD_BLOCK, 1, n, x + r, dt[t], decay[t], b, c, skip, h + r * n, h + to + r * n, y + r);
            else
                ssd_fwd_row(SSD_BLOCK, 0, n, x + r, dt[t], decay[t], b, c, skip, h + r * n, h + to + r * n, NULL);
        }
        for (; r < p; r++) {
            if (y)
                ssd_fwd_row(1, 1, n, x + r, dt[t], decay[t], b, c, skip, h + r * n, h + to + r * n, y + r);
            else
                ssd_fwd_row(1, 0, n, x + r, dt[t], decay[t], b, c, skip, h + r * n, h + to + r * n, NULL);
        }
        if (y)
            y += ldy;
    }
}

/* What one row of some channels adds up. */
typedef struct {
    vf x[SSD_BLOCK], dy[SSD_BLOCK], dhb[SSD_BLOCK], dlog;
} ssd_sums;

SL_VEC void ssd_bwd_at(int64_t i, int c, int channels, int64_t n, float decay, const float *b, const float *cc,
                       const float *before, const float *after, float *dh, float *db, float *dc, ssd_sums *s) {
    vf vb = v_load_n(b + i, c), vc = v_load_n(cc + i, c), a = v_set1(decay);
    vf gb = v_load_n(db + i, c), gc = v_load_n(dc + i, c);
    for (int r = 0; r < channels; r++) {
        vf g = v_muladd(s->dy[r], vc, v_load_n(dh + r * n + i, c));
        gc = v_muladd(s->dy[r], v_load_n(after + r * n + i, c), gc);
        gb = v_muladd(s->x[r], g, gb);
        s->dhb[r] = v_muladd(g, vb, s->dhb[r]);
        g = v_mul(a, g);
        s->dlog = v_muladd(g, v_load_n(before + r * n + i, c), s->dlog);
        v_store_n(dh + r * n + i, g, c);
    }
    v_store_n(db + i, gb, c);
    v_store_n(dc + i, gc, c);
}

SL_VEC void ssd_bwd_row(int channels, int64_t n, const float *x, float dt, float decay, const float *b, const float *c,
                        float skip, const float *before, const float *after, const float *dy, float *dh, float *dx,
                        float *ddt, float *dlog, float *db, float *dc) {
    ssd_sums s;
    s.dlog = v_zero();
    for (int r = 0; r < channels; r++) {
        s.x[r] = v_set1(dt * x[r]);
        s.dy[r] = v_set1(dy[r]);
        s.dhb[r] = v_zero();
    }
    V_EACH(n, ssd_bwd_at, channels, n, decay, b, c, before, after, dh, db, dc, &s);
    for (int r = 0; r < channels; r++) {
        float dhb = v_reduce_add(s.dhb[r]);
        dx[r] = dt * dhb + skip * dy[r];
        *ddt += x[r] * dhb;
    }
    *dlog += v_reduce_add(s.dlog);
}

void SL_FN(ssd_bwd)(int64_t rows, int64_t p, int64_t n, const float *x, int64_t ldx, const float *dt,
                    const float *decay, const float *b, const float *c, int64_t ldbc, float skip, const float *h,
                    const float *dy, int64_t lddy, float *dh, float *dx, int64_t lddx, float *ddt, float *dlog,
                    float *db, float *dc, int64_t lddbc) {
    for (int64_t t = rows - 1; t >= 0; t--) {
        const float *xt = x + t * ldx, *bt = b + t * ldbc, *ct = c + t * ldbc, *dyt = dy + t * lddy;
        const float *before = h + t * p * n, *after = before + p * n;
        float *dxt = dx + t * lddx, *dbt = db + t * lddbc, *dct = dc + t * lddbc;
        int64_t r = 0;
        for (; r + SSD_BLOCK <= p; r += SSD_BLOCK)
            ssd_bwd_row(SSD_BLOCK, n, xt + r, dt[t], decay[t], bt, ct, skip, before + r * n, after + r * n, dyt + r,
                        dh + r * n, dxt + r, ddt + t, dlog + t, dbt, dct);
        for (; r < p; r++)
            ssd_bwd_row(1, n, xt + r, dt[t], decay[t], bt, ct, skip, before + r * n, after + r * n, dyt + r,
                        dh + r * n, dxt + r, ddt + t, dlog + t, dbt, dct);
    }
}
