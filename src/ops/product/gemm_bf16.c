#include "ops/product/gemm_bf16.h"

#include "program/scratch.h"

enum {
    NR = SL_BF16_NR,
    KR = SL_BF16_KR,
    /* Forward and input gradient. */
    B_SLICE = 256 * 1024, /* elements of B that stay in L2 while rows of A stream past them */
    CALL_ROWS = 128,      /* rows of a call: B's panels come from L2 once for so many */
    /* Weight gradient. */
    M_CHUNK = 384,      /* rows of x and dy that are transposed and packed at a time, at most */
    PARTIALS = 1 << 20, /* floats of all partial sums; small gradients are summed in parts of m, */
    PART_ROWS = 512,    /* of at least so many rows */
    JOB_ROWS = 16,
    JOB_COLS = 24,       /* the largest piece of dw (or its transpose), in units of 32 */
    JOB_BYTES = 7 << 18, /* of L2 (2 MB, AMX) for that piece, a chunk's operands, and the next one's rows of x and dy */
    AT_LD = M_CHUNK + KR,
};

/* ---- packing weights: an item is 32 rows of w, one panel forward, 32 rows of k in every panel backward */

sl_split sl_gemm_bf16_pack_split(const sl_gemm_bf16_pack_args *p) { return (sl_split){.items = sl_div_up(p->n, NR)}; }

static void pack_item(const sl_gemm_bf16_pack_args *p, int64_t row) {
    int64_t rows = sl_min(p->n - row, NR);
    if (p->w16) {
        p->k->pack_bt_bf16(rows, p->depth, p->w16 + row * p->ldw, p->ldw, p->forward + row * sl_bf16_kpad(p->depth));
        return;
    }
    const float *w = p->w + row * p->ldw;
    if (p->forward)
        p->k->pack_bt_f32(rows, p->depth, w, p->ldw, p->forward + row * sl_bf16_kpad(p->depth));
    for (int64_t j = 0; p->back && j < p->depth; j += NR)
        p->k->pack_b_f32(sl_min(p->depth - j, NR), rows, w + j, p->ldw, p->back + j * sl_bf16_kpad(p->n) + row * NR);
}

void sl_gemm_bf16_pack(const sl_gemm_bf16_pack_args *p, const sl_span *s) {
    for (int64_t i = s->first; i < s->first + s->n; i++)
        pack_item(p, i * NR);
}

/* ---- forward and input gradient */

/* A slice of B that fits L2 by a few rows; narrower, then lower, where that gives too few calls. */
sl_split sl_gemm_bf16_rows_split(const sl_gemm_bf16_args *g) {
    int64_t panels = sl_div_up(g->n, NR), slice = sl_max(B_SLICE / (NR * sl_bf16_kpad(g->depth)), 1);
    return (sl_split){.unit = KR, .least = CALL_ROWS, .most = CALL_ROWS, .parts = sl_div_up(panels, slice),
                      .parts_most = panels};
}

void sl_gemm_bf16_rows(const sl_gemm_bf16_args *g, const sl_span *s) {
    int64_t kp = sl_bf16_kpad(g->depth), share = sl_div_up(sl_div_up(g->n, NR), s->parts) * NR;
    int64_t left = s->part * share, right = sl_min(left + share, g->n), first = s->first - s->row0;
    if (left >= right)
        return;
    sl_bf16_store to = {.ldy = g->ldy, .ldc = g->ldc, .ldp = NR, .add = g->add,
                        .bias = g->bias ? g->bias + left : NULL};
    if (g->c) {
        to.c = g->c + first * g->ldc + left;
        to.residual = g->residual ? g->residual + first * g->ldc + left : NULL;
    } else {
        to.y = g->y + first * g->ldy + left;
    }
    g->k->gemm_bf16_store(s->n, right - left, kp, g->a + first * g->lda, g->lda, g->b + left * kp, &to);
}

/* ---- weight gradient */

/* C[na, nb] = P[m, na]^T Q[m, nb]: P is transposed into rows, Q is packed into panels. The narrower
 * of x and dy is P, since transposing costs three times as much as packing; if that is x, C is
 * dw^T. A small C is summed in parts of m, which then are added up: jobs may be large pieces of it, so
 * that little is transposed and packed more than once.
 *
 * Until it is added to dw, C is in panels of 32 columns, [rows][32] one behind the other: rows as far apart as dw's,
 * often a power of two, would fall on the same few sets of the caches. */
typedef struct {
    const sl_gemm_bf16_wgrad_args *g;
    int64_t na, nb, ldp, ldq;
    const sl_bf16 *p, *q;
    bool flip;
    int64_t parts, depth;               /* parts of `depth` rows of m */
    int64_t job_rows, job_cols, across; /* of C, multiples of 32; jobs side by side ... */
    int64_t tiles;                      /* ... and in all */
} wgrad;

/* Parts of so many rows of a chunk of m, for dw of so many elements. */
static int64_t part_rows(int64_t chunk, int64_t elements) {
    int64_t parts = sl_max(sl_min(PARTIALS / elements, chunk / PART_ROWS), 1);
    return sl_round_up(sl_div_up(chunk, parts), KR);
}

static wgrad wgrad_of(const sl_gemm_bf16_wgrad_args *g) {
    wgrad w = {.g = g, .flip = g->depth < g->n};
    w.na = w.flip ? g->depth : g->n, w.nb = w.flip ? g->n : g->depth;
    w.p = w.flip ? g->x : g->dy, w.ldp = w.flip ? g->ldx : g->lddy;
    w.q = w.flip ? g->dy : g->x, w.ldq = w.flip ? g->lddy : g->ldx;
    w.depth = part_rows(g->chunk, g->n * g->depth);
    w.parts = sl_div_up(g->chunk, w.depth);
    return w;
}

int64_t sl_gemm_bf16_wgrad_partials(int64_t chunk, int64_t n, int64_t depth) {
    int64_t parts = sl_div_up(chunk, part_rows(chunk, n * depth));
    return parts > 1 ? parts * sl_min(n, depth) * sl_round_up(sl_max(n, depth), NR) : 0;
}

/* Does a job of r x c blocks leave L2 only for the rows of x and dy, which are fetched before they are wanted? */
static bool fits(int64_t r, int64_t c) {
    int64_t operands = (r + c) * 32 * M_CHUNK * (int64_t)sizeof(sl_bf16);
    return r * c * 32 * 32 * (int64_t)sizeof(float) + 2 * operands <= JOB_BYTES;
}

/* Cycles of an AMX core for a job of r x c blocks per 32 rows of m: 64 for a 32 x 32 block of C, 13 to load and store
 * the block, beside which 32 x 32 elements of an operand come from beyond L2 in 380 (16 GB/s); then 170 to transpose
 * and 64 to pack them. */
static int64_t cycles(int64_t r, int64_t c) { return sl_max((64 + 13) * r * c, 380 * (r + c)) + 170 * r + 64 * c; }

/* The cut of C into jobs that takes least time. Workers take jobs as they come free, so the last one ends half a job
 * after the average. */
static void cut(wgrad *w, int workers) {
    int64_t na = sl_div_up(w->na, 32), nb = sl_div_up(w->nb, 32), best = INT64_MAX;
    for (int64_t r = 1; r <= sl_min(na, JOB_ROWS); r++) {
        int64_t down = sl_div_up(na, r) * w->parts;
        for (int64_t c = 1; c <= sl_min(nb, JOB_COLS) && fits(r, c); c++) {
            int64_t jobs = down * sl_div_up(nb, c);
            int64_t cost = (2 * jobs + workers) * cycles(r, c);
            if (cost < best) {
                best = cost;
                w->job_rows = r * 32;
                w->job_cols = c * 32;
            }
        }
    }
    w->across = sl_div_up(w->nb, w->job_cols);
    w->tiles = sl_div_up(w->na, w->job_rows) * w->across;
}

/* Scratch of a worker: transposed rows of P, panels of Q, and a piece of C that is not one of several parts. */
typedef struct {
    sl_bf16 *at, *panels;
    float *c;
} pieces;

static pieces pieces_at(int64_t n, int64_t depth, sl_carver *c) {
    int64_t rows = sl_min(sl_round_up(sl_min(n, depth), 32), JOB_ROWS * 32);
    int64_t cols = sl_min(sl_round_up(sl_max(n, depth), 32), JOB_COLS * NR);
    pieces p;
    p.at = sl_carve(c, rows * AT_LD * (int64_t)sizeof *p.at);
    p.panels = sl_carve(c, cols * M_CHUNK * (int64_t)sizeof *p.panels);
    p.c = sl_carve_floats(c, rows * cols);
    return p;
}

size_t sl_gemm_bf16_wgrad_scratch_bytes(int64_t n, int64_t depth) {
    sl_carver c = {0};
    pieces_at(n, depth, &c);
    return c.used;
}

/* Rows and columns of C. */
typedef struct {
    int64_t row, rows, col, cols;
} block;

/* Rows i..i+k of m for a piece of C: P transposed, Q packed. In strips of 32 rows, so that x and dy are read along
 * their rows, once. */
static void wgrad_operands(const wgrad *w, const block *b, int64_t i, int64_t k, const pieces *s) {
    const sl_kernels *kn = w->g->k;
    int64_t panel = sl_bf16_kpad(k) * NR;
    for (int64_t t = 0; t < k; t += KR) {
        int64_t deep = sl_min(k - t, KR);
        kn->transpose_bf16(deep, b->rows, w->p + (i + t) * w->ldp + b->row, w->ldp, s->at + t, AT_LD);
        for (int64_t n = 0; n < b->cols; n += NR)
            kn->pack_b_bf16(sl_min(b->cols - n, NR), deep, w->q + (i + t) * w->ldq + b->col + n, w->ldq,
                            s->panels + n / NR * panel + t * NR);
    }
}

static sl_ahead rows_ahead(const sl_bf16 *x, int64_t ld, int64_t rows, int64_t cols) {
    return (sl_ahead){x, rows, cols * (int64_t)sizeof *x, ld * (int64_t)sizeof *x};
}

/* Rows m0..m1 of one job's piece of C into c, its panels ldp apart: in even chunks, each of which fetches the next
 * one's rows. */
static void wgrad_piece(const wgrad *w, const block *b, int64_t m0, int64_t m1, const pieces *s, float *c,
                        int64_t ldp) {
    int64_t step = sl_round_up(sl_div_up(m1 - m0, sl_div_up(m1 - m0, M_CHUNK)), KR);
    for (int64_t i = m0; i < m1; i += step) {
        int64_t k = sl_min(m1 - i, step), next = i + step < m1 ? i + step : i; /* or none */
        int64_t rows = next > i ? sl_min(m1 - next, step) : 0;
        const sl_ahead ahead[2] = {rows_ahead(w->p + next * w->ldp + b->row, w->ldp, rows, b->rows),
                                   rows_ahead(w->q + next * w->ldq + b->col, w->ldq, rows, b->cols)};
        wgrad_operands(w, b, i, k, s);
        w->g->k->gemm_bf16_store(b->rows, b->cols, sl_bf16_kpad(k), s->at, AT_LD, s->panels,
                                 &(sl_bf16_store){.c = c, .ldc = NR, .ldp = ldp, .add = i > m0, .ahead = ahead});
    }
}

/* dw += the piece b of C. */
static void add_piece(const wgrad *w, const block *b, const float *c, int64_t ldp) {
    const sl_gemm_bf16_wgrad_args *g = w->g;
    for (int64_t n = 0; n < b->cols; n += NR, c += ldp) {
        int64_t cols = sl_min(b->cols - n, NR);
        if (w->flip)
            g->k->transpose_f32(b->rows, cols, c, NR, g->dw + (b->col + n) * g->lddw + b->row, g->lddw, 1);
        for (int64_t i = 0; !w->flip && i < b->rows; i++)
            g->k->add(cols, c + i * NR, g->dw + (b->row + i) * g->lddw + b->col + n);
    }
}

static float *part_of(const wgrad *w, int64_t part) {
    return w->g->partials + part * w->na * sl_round_up(w->nb, NR);
}

static void wgrad_item(const wgrad *w, int64_t item, const pieces *s) {
    int64_t part = item / w->tiles, tile = item % w->tiles;
    block b = {.row = tile / w->across * w->job_rows, .col = tile % w->across * w->job_cols};
    b.rows = sl_min(w->na - b.row, w->job_rows), b.cols = sl_min(w->nb - b.col, w->job_cols);
    int64_t m0 = part * w->depth, m1 = sl_min(m0 + w->depth, w->g->m);
    if (w->parts > 1) {
        wgrad_piece(w, &b, m0, m1, s, part_of(w, part) + b.col * w->na + b.row * NR, w->na * NR);
        return;
    }
    wgrad_piece(w, &b, m0, m1, s, s->c, b.rows * NR);
    add_piece(w, &b, s->c, b.rows * NR);
}

sl_split sl_gemm_bf16_wgrad_split(const sl_gemm_bf16_wgrad_args *g, int workers) {
    wgrad w = wgrad_of(g);
    cut(&w, workers);
    return (sl_split){.items = w.parts * w.tiles};
}

/* Parts behind the last row of a smaller chunk are void. */
void sl_gemm_bf16_wgrad(const sl_gemm_bf16_wgrad_args *g, int workers, const sl_span *s, void *scratch) {
    wgrad w = wgrad_of(g);
    pieces p = pieces_at(g->n, g->depth, &(sl_carver){scratch, 0});
    cut(&w, workers);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        if (i / w.tiles * w.depth < g->m)
            wgrad_item(&w, i, &p);
}

sl_split sl_gemm_bf16_fold_split(const sl_gemm_bf16_wgrad_args *g) {
    wgrad w = wgrad_of(g);
    return (sl_split){.items = w.parts > 1 ? sl_div_up(w.nb, NR) : 0};
}

/* dw += the sum of the parts, a panel of C at a time, left in the first part. */
static void fold_item(const wgrad *w, int64_t panel) {
    block b = {.rows = w->na, .col = panel * NR, .cols = sl_min(w->nb - panel * NR, NR)};
    float *sum = part_of(w, 0) + b.col * w->na;
    for (int64_t part = 1; part * w->depth < w->g->m; part++)
        w->g->k->add(w->na * NR, part_of(w, part) + b.col * w->na, sum);
    add_piece(w, &b, sum, 0);
}

void sl_gemm_bf16_fold(const sl_gemm_bf16_wgrad_args *g, const sl_span *s) {
    wgrad w = wgrad_of(g);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        fold_item(&w, i);
}
