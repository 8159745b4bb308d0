#include "base/rng.h"

#include <math.h>

static uint32_t mulhilo(uint32_t a, uint32_t b, uint32_t *hi) {
    uint64_t p = (uint64_t)a * b;
    *hi = (uint32_t)(p >> 32);
    return (uint32_t)p;
}

void sl_philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1], c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    for (int round = 0; round < 10; round++) {
        uint32_t h0, h1;
        uint32_t l0 = mulhilo(0xD2511F53u, c0, &h0), l1 = mulhilo(0xCD9E8D57u, c2, &h1);
        uint32_t n0 = h1 ^ c1 ^ k0, n2 = h0 ^ c3 ^ k1;
        c0 = n0, c1 = l1, c2 = n2, c3 = l0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

sl_rng sl_rng_make(uint64_t seed, enum sl_stream stream, uint64_t sub) {
    sl_rng r = {.sub = sub};
    r.key[0] = (uint32_t)seed ^ ((uint32_t)stream * 0x9E3779B9u);
    r.key[1] = (uint32_t)(seed >> 32) ^ (uint32_t)stream;
    return r;
}

uint32_t sl_rng_u32(sl_rng *r) {
    if (r->left == 0) {
        uint32_t ctr[4] = {(uint32_t)r->at, (uint32_t)(r->at >> 32), (uint32_t)r->sub,
                           (uint32_t)(r->sub >> 32)};
        sl_philox(r->key, ctr, r->out);
        r->at++;
        r->left = 4;
    }
    return r->out[4 - r->left--];
}

uint64_t sl_rng_u64(sl_rng *r) {
    uint64_t lo = sl_rng_u32(r);
    return lo | (uint64_t)sl_rng_u32(r) << 32;
}

double sl_rng_uniform(sl_rng *r) { return (double)(sl_rng_u64(r) >> 11) * 0x1p-53; }

uint64_t sl_rng_below(sl_rng *r, uint64_t n) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do
        x = sl_rng_u64(r);
    while (x >= limit);
    return x % n;
}

double sl_rng_normal(sl_rng *r) {
    double u = 1.0 - sl_rng_uniform(r), v = sl_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

uint64_t sl_hash64(const void *p, uint64_t n) {
    const unsigned char *s = p;
    uint64_t h = 0xcbf29ce484222325ull;
    for (uint64_t i = 0; i < n; i++)
        h = (h ^ s[i]) * 0x100000001b3ull;
    return h;
}
