/* tokenizer.json; with what is accepted every byte must be encodable and come back. */
#include "data/bpe.h"
#include "fuzz.h"

#include <stdlib.h>

static const char text[] = "The 1st: don't\n\n  stop<|endoftext|>\xff\xe4\xb8\xad\t ...";

static void encode(const sl_bpe *b) {
    static volatile unsigned sum; /* volatile: the reads must stay */
    (void)sum;
    sl_ids ids = {0};
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, sizeof text);
    if (!e || sl_bpe_encode(e, text, sizeof text, &ids) != 0)
        abort();
    for (int64_t i = 0; i < ids.count; i++) {
        size_t n;
        const char *p = sl_bpe_piece(b, ids.id[i], &n);
        if (!p || ids.id[i] < 0 || ids.id[i] >= sl_bpe_vocab(b))
            abort();
        sum += n ? (unsigned char)p[n - 1] : 0; /* a sanitizer sees a piece that ends outside */
    }
    sl_ids_free(&ids);
    sl_bpe_encoder_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_bpe *b = sl_bpe_parse((const char *)data, n, "fuzz");
    if (b)
        encode(b);
    sl_bpe_free(b);
    return 0;
}
