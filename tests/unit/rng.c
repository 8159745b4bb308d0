/* base/rng: known answers, and that streams, ranges and moments are what the header promises. */
#include "base/rng.h"
#include "suite.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Random123's known answers for philox4x32-10 (Salmon et al., SC 2011). */
START_TEST(philox_known_answers) {
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } kat[] = {{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
               {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
               {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                {0xa4093822, 0x299f31d0},
                {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    uint32_t out[4];
    sl_philox(kat[_i].key, kat[_i].ctr, out);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(out[i], kat[_i].out[i]);
}
END_TEST

/* The words of a stream are Philox blocks at counter (at, sub): the promise "same seed, same bits".
 */
START_TEST(stream_is_philox) {
    uint64_t seed = 0x0123456789abcdefull, sub = 0xfedcba9876543210ull;
    sl_rng r = sl_rng_make(seed, SL_STREAM_SHUFFLE, sub);
    uint32_t key[2] = {0x89abcdefu ^ (2u * 0x9E3779B9u), 0x01234567u ^ 2u};
    for (uint32_t block = 0; block < 3; block++) {
        uint32_t ctr[4] = {block, 0, 0x76543210u, 0xfedcba98u}, out[4];
        sl_philox(key, ctr, out);
        for (int i = 0; i < 4; i++)
            ck_assert_uint_eq(sl_rng_u32(&r), out[i]);
    }
}
END_TEST

START_TEST(streams_differ) {
    sl_rng base = sl_rng_make(1, SL_STREAM_INIT, 0);
    sl_rng other[] = {sl_rng_make(2, SL_STREAM_INIT, 0), sl_rng_make(1, SL_STREAM_SHUFFLE, 0),
                      sl_rng_make(1, SL_STREAM_INIT, 1),
                      sl_rng_make(1ull << 32 | 1, SL_STREAM_INIT, 0)};
    uint64_t first = sl_rng_u64(&base);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        ck_assert(sl_rng_u64(&other[i]) != first);
}
END_TEST

enum { DRAWS = 40000 };

/* Bounds are six standard errors: a false alarm has probability about 2e-9, and the seed is fixed.
 */
START_TEST(uniform_moments) {
    sl_rng r = sl_rng_make(3, SL_STREAM_TEST, 0);
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        double u = sl_rng_uniform(&r);
        ck_assert(u >= 0 && u < 1);
        sum += u;
    }
    ck_assert_double_lt(fabs(sum / DRAWS - 0.5), 6 * sqrt(1.0 / 12 / DRAWS));
}
END_TEST

START_TEST(normal_moments) {
    sl_rng r = sl_rng_make(4, SL_STREAM_TEST, 0);
    double sum = 0, square = 0, fourth = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = sl_rng_normal(&r);
        sum += x, square += x * x, fourth += x * x * x * x;
    }
    ck_assert_double_lt(fabs(sum / DRAWS), 6 * sqrt(1.0 / DRAWS));
    ck_assert_double_lt(fabs(square / DRAWS - 1), 6 * sqrt(2.0 / DRAWS));  /* var of x^2: 3 - 1 */
    ck_assert_double_lt(fabs(fourth / DRAWS - 3), 6 * sqrt(96.0 / DRAWS)); /* var of x^4: 105 - 9 */
}
END_TEST

START_TEST(below_is_in_range_and_even) {
    sl_rng r = sl_rng_make(5, SL_STREAM_TEST, 0);
    int count[7] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint64_t x = sl_rng_below(&r, 7);
        ck_assert_uint_lt(x, 7);
        count[x]++;
    }
    double p = 1.0 / 7;
    for (int i = 0; i < 7; i++)
        ck_assert_double_lt(fabs(count[i] - p * DRAWS), 6 * sqrt(p * (1 - p) * DRAWS));
    for (int i = 0; i < 100; i++) {
        ck_assert_uint_eq(sl_rng_below(&r, 1), 0);
        ck_assert_uint_lt(sl_rng_below(&r, UINT64_MAX), UINT64_MAX);
    }
}
END_TEST

/* FNV-1a 64, from its definition: the offset basis, and "a" = (basis ^ 'a') * prime. */
START_TEST(hash_known_answers) {
    ck_assert(sl_hash64("", 0) == 0xcbf29ce484222325ull);
    ck_assert(sl_hash64("a", 1) == 0xaf63dc4c8601ec8cull);
}
END_TEST

int main(void) {
    Suite *s = suite_create("rng");
    TCase *t = tcase_create("rng");
    tcase_add_loop_test(t, philox_known_answers, 0, 3);
    tcase_add_test(t, stream_is_philox);
    tcase_add_test(t, streams_differ);
    tcase_add_test(t, uniform_moments);
    tcase_add_test(t, normal_moments);
    tcase_add_test(t, below_is_in_range_and_even);
    tcase_add_test(t, hash_known_answers);
    suite_add_tcase(s, t);
    return run_suite(s);
}
