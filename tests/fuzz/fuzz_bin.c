/* Token bins, marked and bare; what is accepted must be readable to its last id. */
#include "data/bin.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[] = {"fuzz", "fuzz.bin"};
    void *copy = malloc(n + 1); /* aligned, as a map is, and with an end that a sanitizer sees */
    if (!copy)
        abort();
    memcpy(copy, data, n);
    for (int i = 0; i < 2; i++) {
        sl_tokens t;
        int64_t at;
        if (sl_bin_parse(&t, copy, n, names[i]) == 0 &&
            (t.count < 1 || sl_tokens_largest(&t, &at) < 0 || at >= t.count))
            abort();
    }
    free(copy);
    return 0;
}
