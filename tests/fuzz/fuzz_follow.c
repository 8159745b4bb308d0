/* The lines of metrics.jsonl and probe.jsonl, in pieces as a running process leaves them; the first byte sizes the
 * pieces. Whatever they are, every whole line is taken or counted. */
#include "fuzz.h"
#include "train/follow.h"

#include <stdlib.h>
#include <string.h>

static int64_t taken;

static void take(void *ctx, const json_t *o) {
    sl_series *s = ctx;
    sl_series_add(s, json_number_value(json_object_get(o, "loss")));
    taken++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_follow_lines l = {.at = 0};
    sl_series s = {.per = 0};
    char curve[SL_SPARKLINE_CHARS];
    size_t piece = n ? 1 + data[0] : 1;
    int64_t ends = 0;
    taken = 0;
    for (size_t i = 1; i < n; i += piece) {
        size_t part = n - i < piece ? n - i : piece;
        if (sl_follow_feed(&l, (const char *)data + i, part, take, &s))
            abort();
    }
    for (size_t i = 1; i < n; i++)
        ends += data[i] == '\n';
    sl_sparkline(curve, &s, SL_SPARKLINE_WIDTH, true);
    if (taken + l.unreadable != ends || strlen(curve) > 3 * SL_SPARKLINE_WIDTH)
        abort();
    free(l.line);
    return 0;
}
