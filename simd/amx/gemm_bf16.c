/* bf16 GEMM on AMX tiles (TDPBF16PS). Contract in simd/kernels.h. */
#define TILE_DP(c, a, b) _tile_dpbf16ps(c, a, b)
#include "simd/amx/tiles.h"
#include "simd/store_bf16.h"

void SL_UNIT_FN(gemm_bf16)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                           const sl_bf16 *panel, float *c, int64_t ldc, int add) {
    tile_product(m, n, 2 * k, (const char *)a, 2 * lda, (const char *)panel, (char *)c, 4 * ldc, add);
}

/* ---- the product that is stored at once
 *
 * A block of 32 x 32 sums goes to a slot of 4 KB and is converted and stored from there in the middle of the next
 * block's products: by then it has left the store buffer, and the unit has products to go on with. Behind the tile
 * stores themselves the conversions would wait for them and keep the next block's loads out of the scheduler.
 *
 * So much of k is gone through at a time that a panel stays in L1; where that is not all of it, several blocks of rows
 * are, with a slot each for their sums, so that that part of the panel comes from L2 once for all of them. */
enum { NR = SL_BF16_NR, BLOCK = 2 * TILE, K_CHUNK = 512, SLOTS = 4 };

typedef struct {
    float *t; /* NULL: none */
    int64_t row, rows, col, cols;
} sums;

typedef struct {
    int64_t m, n, k, chunk;
    const sl_bf16 *a;
    int64_t lda;
    const sl_bf16_store *to;
    int rows; /* that the tiles are configured for */
    sums done; /* but not stored */
    fetch ahead;
} product;

static void finish(product *p) {
    const sums *s = &p->done;
    if (s->t)
        store_rows(p->to, s->row, s->col, s->rows, s->cols, s->t);
    p->done.t = NULL;
}

/* What is there already, into a slot, since a tile would read more columns. */
static float *gather(product *p, const sums *s) {
    finish(p); /* in that slot, maybe */
    for (int64_t i = 0; i < s->rows; i++) {
        memset(s->t + i * NR, 0, NR * sizeof(float));
        memcpy(s->t + i * NR, p->to->c + store_place(p->to, s->row + i, s->col), (size_t)s->cols * sizeof(float));
    }
    return s->t;
}

/* The block s, k from kk on, in its slot or, where nothing is left to do with whole panels, straight in c. */
TILES void stored_block(const int r2, product *p, const sums *s, int64_t kk, const sl_bf16 *panel) {
    const sl_bf16_store *to = p->to;
    int64_t k = store_least(p->k - kk, p->chunk), half = k / 2 / SL_BF16_KR * SL_BF16_KR;
    float *c = !to->y && s->cols == NR ? to->c + store_place(to, s->row, s->col) : NULL;
    const sl_bf16 *a = p->a + s->row * p->lda + kk;
    int last = kk + k >= p->k, straight = last && c && !to->residual && !to->bias;
    if (kk > 0)
        tiles_begin(r2, 1, (const char *)s->t, NR * sizeof(float));
    else if (!to->y && to->add)
        tiles_begin(r2, 1, (const char *)(c ? c : gather(p, s)), c ? 4 * to->ldc : 4 * NR);
    else
        tiles_begin(r2, 1, NULL, 0);
    panel += kk * NR;
    tiles_multiply(r2, 1, 2 * half, (const char *)a, 2 * p->lda, (const char *)panel, &p->ahead);
    finish(p);
    tiles_multiply(r2, 1, 2 * (k - half), (const char *)(a + half), 2 * p->lda, (const char *)(panel + half * NR),
                   &p->ahead);
    tiles_store(r2, 1, (char *)(straight ? c : s->t), straight ? 4 * to->ldc : 4 * NR);
    if (last && !straight)
        p->done = *s;
}

/* Panels are whole, whatever their columns: a slot has room for all. */
static void configure_rows(product *p, int rows) {
    if (rows != p->rows)
        configure(tile_least(rows, TILE), rows > TILE ? rows - TILE : 0, TILE, TILE);
    p->rows = rows;
}

/* As many rows as there are slots, of one panel. */
static void stored_rows(product *p, int64_t row, int64_t rows, int64_t col, const sl_bf16 *panel,
                        float slot[SLOTS][BLOCK * NR]) {
    int64_t kk = 0;
    do {
        for (int64_t i = 0; i < rows; i += BLOCK) {
            sums s = {slot[i / BLOCK], row + i, store_least(rows - i, BLOCK), col, store_least(p->n - col, NR)};
            configure_rows(p, (int)s.rows);
            if (s.rows > TILE)
                stored_block(1, p, &s, kk, panel);
            else
                stored_block(0, p, &s, kk, panel);
        }
        kk += p->chunk;
    } while (kk < p->k);
}

/* What the caller names, or else the panels behind the first. */
static fetch fetch_for(const product *p, const sl_bf16 *panels) {
    int64_t across = (p->n + NR - 1) / NR, down = (p->m + BLOCK - 1) / BLOCK;
    const sl_ahead rest[2] = {{panels + p->k * NR, 1, (across - 1) * p->k * NR * 2, 0}, {0}};
    return fetch_over(across * down * (p->k / SL_BF16_KR), p->to->ahead ? p->to->ahead : rest);
}

void SL_UNIT_FN(gemm_bf16_store)(int64_t m, int64_t n, int64_t k, const sl_bf16 *a, int64_t lda,
                                 const sl_bf16 *panels, const sl_bf16_store *to) {
    _Alignas(64) float slot[SLOTS][BLOCK * NR];
    int64_t chunks = (k + K_CHUNK - 1) / K_CHUNK, height = chunks > 1 ? SLOTS * BLOCK : BLOCK;
    if (m <= 0 || n <= 0)
        return;
    product p = {.m = m, .n = n, .k = k, .a = a, .lda = lda, .to = to};
    p.chunk = chunks > 1 ? sl_bf16_kpad((k + chunks - 1) / chunks) : K_CHUNK;
    p.ahead = fetch_for(&p, panels);
    for (int64_t col = 0; col < n; col += NR, panels += k * NR)
        for (int64_t row = 0; row < m; row += height)
            stored_rows(&p, row, store_least(m - row, height), col, panels, slot);
    finish(&p);
    _tile_release();
}

int64_t SL_UNIT_FN(peak_bf16)(int64_t rounds) { return 2 * tile_peak(rounds, 2); }
