#include "tests/cuda/emu/emu.h"

#include <ucontext.h>

#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
unsigned char *emu_dynamic;

namespace {

enum { STACK = 256 << 10, SLOT = 64, MAX_THREADS = 1024, MAX_SHARED = 256 << 10 };
enum state { RUNNING, AT_BARRIER, AT_EXCHANGE, DONE };

struct fiber {
    ucontext_t at;
    state s;
    uint3 index;
    long exchanges;
};

/* What the lanes of a warp give, of two exchanges in turn: a lane may read the last one while others are at the next. */
struct warp {
    unsigned char slot[2][32 * SLOT];
};

ucontext_t scheduler;
fiber fibers[MAX_THREADS];
warp warps[MAX_THREADS / 32];
char *stacks;
unsigned current;
int threads;
const std::function<void()> *body;

void stop(state s) {
    fibers[current].s = s;
    swapcontext(&fibers[current].at, &scheduler);
}

void run() {
    (*body)();
    fibers[current].s = DONE;
    swapcontext(&fibers[current].at, &scheduler);
}

void resume(int i) {
    current = (unsigned)i;
    threadIdx = fibers[i].index;
    fibers[i].s = RUNNING;
    swapcontext(&scheduler, &fibers[i].at);
}

/* All that go on are at `s`: let them go on. */
bool release(int from, int to, state s) {
    int at = 0, done = 0;
    for (int i = from; i < to; i++)
        at += fibers[i].s == s, done += fibers[i].s == DONE;
    if (at == 0 || at + done < to - from)
        return false;
    for (int i = from; i < to; i++)
        if (fibers[i].s == s)
            fibers[i].s = RUNNING;
    return true;
}

void run_block() {
    memset(warps, 0, sizeof warps);
    for (int i = 0; i < threads; i++) {
        fiber *f = &fibers[i];
        unsigned x = (unsigned)i % blockDim.x, y = (unsigned)i / blockDim.x % blockDim.y;
        f->index = {x, y, (unsigned)i / blockDim.x / blockDim.y};
        f->exchanges = 0;
        f->s = RUNNING;
        getcontext(&f->at);
        f->at.uc_stack.ss_sp = stacks + (size_t)i * STACK;
        f->at.uc_stack.ss_size = STACK;
        f->at.uc_link = nullptr;
        makecontext(&f->at, run, 0);
    }
    for (;;) {
        bool went = false, left = false;
        for (int i = 0; i < threads; i++)
            if (fibers[i].s == RUNNING)
                resume(i), went = true;
        for (int w = 0; w * 32 < threads; w++)
            went = release(w * 32, w * 32 + 32 < threads ? w * 32 + 32 : threads, AT_EXCHANGE) || went;
        went = release(0, threads, AT_BARRIER) || went;
        for (int i = 0; i < threads; i++)
            left = left || fibers[i].s != DONE;
        if (!left)
            return;
        if (!went) {
            fprintf(stderr, "emu: threads of a block wait for each other at different places\n");
            abort();
        }
    }
}

} // namespace

int emu_lane() { return (int)(current % 32); }

void emu_barrier() { stop(AT_BARRIER); }

const unsigned char *emu_exchange(const void *mine, size_t bytes) {
    fiber *f = &fibers[current];
    unsigned char *slots = warps[current / 32].slot[f->exchanges++ % 2];
    memset(slots + SLOT * emu_lane(), 0, SLOT);
    memcpy(slots + SLOT * emu_lane(), mine, bytes);
    stop(AT_EXCHANGE);
    return slots;
}

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &f) {
    if (!stacks) {
        stacks = static_cast<char *>(malloc((size_t)MAX_THREADS * STACK));
        emu_dynamic = static_cast<unsigned char *>(aligned_alloc(1024, MAX_SHARED));
    }
    threads = (int)(block.x * block.y * block.z);
    if (threads < 1 || threads > MAX_THREADS || shared > 227 * 1024 || grid.y > 65535 || grid.z > 65535 ||
        (int64_t)grid.x * grid.y * grid.z < 1 || grid.x > 2147483647u) {
        fprintf(stderr, "emu: no such launch: grid %u %u %u, block %u %u %u, %zu bytes\n", grid.x, grid.y, grid.z,
                block.x, block.y, block.z, shared);
        abort();
    }
    body = &f;
    gridDim = grid, blockDim = block;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                memset(emu_dynamic, 0xff, shared); /* NaN: nobody counts on zeros */
                run_block();
            }
}

/* ---- mma.h */

static float half_of(uint32_t pair, int hi) { return __uint_as_float(hi ? pair & 0xffff0000u : pair << 16); }

void slc_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = emu_exchange(mine, sizeof mine);
    uint32_t r[32][6];
    for (int l = 0; l < 32; l++)
        memcpy(r[l], all + SLOT * l, sizeof r[l]);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + 8 * (i / 2), col = 2 * t + i % 2;
        float sum = d[i];
        for (int k = 0; k < 16; k++)
            sum += half_of(r[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k % 2) *
                   half_of(r[col * 4 + k % 8 / 2][4 + k / 8], k % 2);
        d[i] = sum;
    }
}

void slc_mma_int8(int d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = emu_exchange(mine, sizeof mine);
    int8_t r[32][6][4];
    for (int l = 0; l < 32; l++)
        memcpy(r[l], all + SLOT * l, sizeof r[l]);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + 8 * (i / 2), col = 2 * t + i % 2;
        for (int k = 0; k < 32; k++)
            d[i] += r[row % 8 * 4 + k % 16 / 4][row / 8 + 2 * (k / 16)][k % 4] *
                    r[col * 4 + k % 16 / 4][4 + k / 16][k % 4];
    }
}

static void ldmatrix(uint32_t r[4], const void *row, bool trans) {
    const unsigned char *all = emu_exchange(&row, sizeof row);
    const uint16_t *rows[32];
    for (int l = 0; l < 32; l++)
        memcpy(&rows[l], all + SLOT * l, sizeof rows[l]);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t lo = trans ? rows[8 * i + 2 * t][g] : rows[8 * i + g][2 * t];
        uint16_t hi = trans ? rows[8 * i + 2 * t + 1][g] : rows[8 * i + g][2 * t + 1];
        r[i] = (uint32_t)lo | (uint32_t)hi << 16;
    }
    emu_exchange("", 0); /* nobody writes the rows before all have read them */
}

void slc_ldmatrix(uint32_t r[4], const void *row) { ldmatrix(r, row, false); }
void slc_ldmatrix_trans(uint32_t r[4], const void *row) { ldmatrix(r, row, true); }

uint32_t slc_transpose(uint32_t x) {
    const unsigned char *all = emu_exchange(&x, sizeof x);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    uint32_t y = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t from;
        memcpy(&from, all + SLOT * ((2 * t + i) * 4 + g / 2), sizeof from);
        y |= (g % 2 ? from >> 16 : from & 0xffffu) << 16 * i;
    }
    return y;
}
