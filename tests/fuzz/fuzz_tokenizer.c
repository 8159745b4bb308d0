/* tokenizer.json, and (what begins with "GGUF") the tokenizer of a GGUF; what is accepted must encode any text to
 * tokens that it has. */
#include "data/bpe.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static const char text[] = "The 1st: don't\n\n  stop<|endoftext|>\xff\xe4\xb8\xad\t <s> e\xcc\x81 \xe2\x96\x81...";

static void encode(const sl_bpe *b, bool literal) {
    static volatile unsigned sum; /* volatile: the reads must stay */
    (void)sum;
    sl_ids ids = {0};
    sl_bpe_encoder *e = sl_bpe_encoder_new(b, sizeof text, literal);
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

static sl_bpe *parse(const uint8_t *data, size_t n) {
    if (n < 4 || memcmp(data, "GGUF", 4) != 0)
        return sl_bpe_parse((const char *)data, n, "fuzz");
    sl_gguf *f = sl_gguf_open_memory(data, n, "fuzz");
    sl_bpe *b = f ? sl_bpe_of_gguf(f) : NULL;
    sl_gguf_close(f);
    return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_bpe *b = parse(data, n);
    if (b) {
        encode(b, false);
        encode(b, true);
    }
    sl_bpe_free(b);
    return 0;
}
