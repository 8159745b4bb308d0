/* Mistral: Llama whose every layer may have a window (arXiv 2310.06825). */
#include "families/kind.h"

static int from_hf(const sl_hf *s, sl_config *c) {
    return sl_family_llama.from_hf(s, c) || sl_hf_whole(s, "sliding_window", 0, &c->attention_window) ? -1 : 0;
}

const sl_family sl_family_mistral = {from_hf, NULL, NULL, NULL, NULL, NULL, NULL};
