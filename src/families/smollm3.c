/* SmolLM3: Llama with no positions in some layers (arXiv 2501.18795), every fourth if the file does not say which. */
#include "base/err.h"
#include "families/kind.h"

enum { INTERVAL = 4, LAYERS = 1024 };

/* no_rope_layers has a 1 for each layer with positions. */
static int read_list(const sl_hf *s, const json_t *list, int64_t layers, uint8_t of[LAYERS]) {
    if (!json_is_array(list) || json_array_size(list) < (size_t)layers)
        return sl_fail("%s: no_rope_layers: a list of num_hidden_layers numbers is needed", s->name);
    for (int64_t i = 0; i < layers; i++) {
        const json_t *rope = json_array_get(list, (size_t)i);
        if (!json_is_integer(rope) || json_integer_value(rope) < 0 || json_integer_value(rope) > 1)
            return sl_fail("%s: no_rope_layers: 1 (with positions) and 0 (without) are supported", s->name);
        of[i] = json_integer_value(rope) ? SL_LAYER_ROPE : SL_LAYER_NO_ROPE;
    }
    return 0;
}

/* All but every interval-th layer have positions. */
static int set_interval(const char *name, int64_t interval, int64_t layers, uint8_t of[LAYERS]) {
    if (interval < 1 || layers > LAYERS)
        return sl_fail("%s: no_rope_layer_interval: 1 or more is needed, of at most %d layers", name, LAYERS);
    for (int64_t i = 0; i < layers; i++)
        of[i] = (i + 1) % interval ? SL_LAYER_ROPE : SL_LAYER_NO_ROPE;
    return 0;
}

static int read_layers(const sl_hf *s, sl_config *c) {
    const json_t *list = sl_hf_get(s, "no_rope_layers");
    int64_t interval = 0;
    uint8_t of[LAYERS];
    if (sl_hf_whole(s, "no_rope_layer_interval", INTERVAL, &interval) ||
        set_interval(s->name, interval, c->model_layers, of) || (list && read_list(s, list, c->model_layers, of)))
        return -1;
    return sl_list_of_layers(s->name, of, c->model_layers, &c->model_rope_layers);
}

static int from_hf(const sl_hf *s, sl_config *c) {
    static const char *const off[] = {"use_sliding_window", NULL};
    c->model_rope_base = 2e6;
    return sl_hf_off(s, off) || sl_hf_sizes(s, true, c) || sl_hf_ffn(s, "hidden_act", "silu", true, c) ||
                   sl_hf_rope(s, c) || sl_hf_bias(s, c) || read_layers(s, c)
               ? -1
               : 0;
}

/* GGUF files do not say which layers; readers take every fourth. */
static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    uint8_t of[LAYERS];
    return sl_keys_sizes(k, c) || sl_keys_rope(k, c) || sl_keys_check(k, NULL) ||
                   set_interval(sl_gguf_name(k->f), INTERVAL, c->model_layers, of) ||
                   sl_list_of_layers(sl_gguf_name(k->f), of, c->model_layers, &c->model_rope_layers)
               ? -1
               : 0;
}

const sl_family sl_family_smollm3 = {from_hf, from_gguf, NULL, sl_llama_gguf_places, NULL, NULL, NULL};
