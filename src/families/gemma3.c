/* Gemma 3, text (arXiv 2503.19786): Gemma 2 (gemma2.c) without its caps, with a norm on each query and key head, and
 * windows in all layers but every sixth, each kind of layer with a rotary base of its own. */
#include "base/err.h"
#include "families/kind.h"

enum { PATTERN = 6, LARGEST = 62 };
static const double base_window = 10000, base_full = 1e6;

/* transformers 5 has an object for each kind of layer, 4 keys of its own for the windows. */
static int read_rope(const sl_hf *s, sl_config *c) {
    const json_t *v = sl_hf_get(s, "rope_parameters");
    const json_t *window = json_object_get(v, "sliding_attention"), *full = json_object_get(v, "full_attention");
    const sl_hf in = {window, s->name};
    static const char *const off[] = {"factor", NULL};
    double base = 0, local = 0;
    if (v && !full)
        return sl_fail("%s: rope_parameters: full_attention is missing", s->name);
    return sl_hf_real(s, "rope_theta", base_full, &base) ||
                   sl_hf_rope_object(s, v ? full : sl_hf_get(s, "rope_scaling"), base, 1, c) ||
                   sl_hf_real(s, "rope_local_base_freq", base_window, &local) ||
                   sl_hf_real(&in, "rope_theta", local, &c->model_rope_base_window) || sl_hf_off(&in, off)
               ? -1
               : 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"attn_logit_softcapping", "final_logit_softcapping", NULL};
    c->model_qk_norm = true;
    return sl_hf_off(s, off) || sl_gemma_from_hf(s, PATTERN, c) || read_rope(s, c) ? -1 : 0;
}

/* The base of windows need not be said. */
static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"attention.sliding_window", "attention.sliding_window_pattern",
                                       "rope.freq_base_swa", NULL};
    c->model_qk_norm = true;
    return sl_gemma_from_gguf(k, PATTERN, LARGEST, c) ||
                   sl_keys_real(k, "rope.freq_base_swa", base_window, &c->model_rope_base_window) ||
                   sl_keys_check(k, more)
               ? -1
               : 0;
}

const sl_family sl_family_gemma3 = {from_hf, from_gguf, sl_gemma_hf_places, sl_gemma_gguf_places, NULL, NULL, NULL};
