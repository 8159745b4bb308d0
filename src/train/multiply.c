#include "train/multiply.h"

#include "base/mem.h"
#include "base/threads.h"

int sl_multiplier_open(sl_multiplier *m, const sl_kernels *k, size_t packed_bytes) {
    /* + 64: threads' scratch must not share sets of the cache. */
    *m = (sl_multiplier){.k = k, .scratch_bytes = (size_t)sl_round_up((int64_t)sl_gemm_scratch_bytes(k), 4096) + 64};
    m->scratch = sl_alloc_threads(sl_threads(), m->scratch_bytes, "scratch of products");
    m->packed = sl_alloc_shared(packed_bytes, "scratch of products");
    return m->scratch && m->packed ? 0 : -1;
}

void sl_multiplier_close(sl_multiplier *m) {
    sl_free(m->scratch), sl_free(m->packed);
    *m = (sl_multiplier){0};
}

typedef struct {
    const sl_multiplier *m;
    const sl_gemm_args *g;
} job;

static void pack_item(void *ctx, int64_t item, int thread) {
    const job *j = ctx;
    sl_gemm_pack(j->g, &(sl_span){.first = item, .n = 1, .worker = thread});
}

static void tile_item(void *ctx, int64_t item, int thread) {
    const job *j = ctx;
    sl_gemm_tiles(j->g, sl_threads(), &(sl_span){.first = item, .n = 1, .worker = thread},
                  j->m->scratch + (size_t)thread * j->m->scratch_bytes);
}

void sl_multiply(const sl_multiplier *m, sl_gemm_args g) {
    job j = {m, &g};
    g.k = m->k;
    g.packed = m->packed;
    sl_parallel(sl_gemm_pack_split(&g).items, pack_item, &j);
    sl_parallel(sl_gemm_tiles_split(&g, sl_threads()).items, tile_item, &j);
}
