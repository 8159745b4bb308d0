/* .npy files of tokens. */
#include "fuzz.h"
#include "io/npy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int64_t shape[2];
    int32_t *tokens;
    if (sl_npy_tokens_from_memory(data, n, "fuzz", shape, &tokens) < 0)
        return 0;
    volatile int32_t last = 0;
    for (int64_t i = 0; i < shape[0] * shape[1]; i++)
        last = tokens[i];
    (void)last;
    free(tokens);
    return 0;
}
