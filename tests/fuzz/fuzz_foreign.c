/* Models of others: a GGUF file with its configuration and every weight, or a config.json. */
#include "families/foreign.h"
#include "fuzz.h"
#include "model/model.h"

#include <string.h>

/* Small enough for a model to be made of it. */
static bool small(const sl_config *c, int32_t vocab) {
    return c->model_layers <= 2 && c->model_dim <= 64 && c->model_ffn <= 64 && c->model_heads <= 8 &&
           sl_config_head_dim(c) <= 64 && vocab <= 256 && (c->model_experts == 0 || sl_config_expert_ffn(c) <= 64);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sl_config c;
    int64_t said;
    int32_t vocab = 0;
    if (n < 4 || memcmp(data, "GGUF", 4) != 0) {
        sl_foreign_parse(data, n, "fuzz", &c, &said);
        return 0;
    }
    sl_foreign *f = sl_foreign_open(sl_fuzz_file(data, n));
    if (f && sl_foreign_config(f, &c, &vocab) == 0 && small(&c, vocab)) {
        sl_model *m = sl_model_create(&c, vocab, 1, 2, 0);
        if (m)
            sl_foreign_load(f, sl_model_params(m));
        sl_model_free(m);
    }
    sl_foreign_close(f);
    sl_fuzz_file_end();
    return 0;
}
