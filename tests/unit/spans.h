/* Calls of one stage of a product (ops/product/gemm.h) without a schedule: in several cuts, which must not show. */
#ifndef SL_TESTS_SPANS_H
#define SL_TESTS_SPANS_H

#include "program/op.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

typedef void (*span_fn)(const void *args, const sl_span *s, void *scratch);

enum { SPAN_CUTS = 3, SPAN_ROW0 = 96 };

static inline void each_call(const void *args, span_fn fn, sl_span s, size_t bytes) {
    void *scratch = aligned_alloc(64, (bytes + 127) / 64 * 64);
    ck_assert_ptr_nonnull(scratch);
    memset(scratch, 0xff, (bytes + 127) / 64 * 64); /* NaN, whatever is read before it is written */
    fn(args, &s, scratch);
    free(scratch);
}

/* One by one, the last one first; or all in one call. */
static inline void each_item(const void *args, sl_split c, span_fn fn, int cut, size_t bytes) {
    int64_t step = cut == 1 ? sl_max(c.items, 1) : 1;
    for (int64_t i = sl_div_up(c.items, step) - 1; i >= 0; i--)
        each_call(args, fn, (sl_span){.first = i * step, .n = sl_min(step, c.items - i * step)}, bytes);
}

/* Cut 1: as high and wide as the stage likes; 2: its lowest calls, narrower; 3: rows in no units, very narrow. */
static inline void each_span(const void *args, int64_t rows, sl_split c, span_fn fn, int cut, size_t bytes) {
    const int64_t step[] = {0, c.most, c.unit, 5};
    const int64_t parts[] = {0, c.parts, sl_min(2 * c.parts, c.parts_most), c.parts_most};
    for (int64_t i = sl_div_up(rows, step[cut]) - 1; i >= 0; i--)
        for (int64_t p = 0; p < parts[cut]; p++) {
            int64_t first = i * step[cut];
            each_call(args, fn, (sl_span){.first = SPAN_ROW0 + first, .n = sl_min(step[cut], rows - first), .part = p,
                                          .parts = parts[cut], .row0 = SPAN_ROW0, .rows = rows}, bytes);
        }
}

#endif
