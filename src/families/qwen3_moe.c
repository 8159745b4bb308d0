/* Qwen3-MoE: Qwen3 with a mixture of experts in every layer (arXiv 2505.09388). */
#include "base/err.h"
#include "families/kind.h"

int sl_qwen_experts(const sl_hf *s, int64_t top, int64_t width, bool scaled, sl_config *c) {
    if (sl_hf_whole(s, "num_experts_per_tok", top, &c->model_experts_per_token) ||
        sl_hf_whole(s, "moe_intermediate_size", width, &c->model_expert_ffn) ||
        sl_hf_bool(s, "norm_topk_prob", scaled, &scaled))
        return -1;
    /* They sum to 1 exactly where ours do. */
    return scaled == (c->model_experts_per_token > 1)
               ? 0
               : sl_fail("%s: norm_topk_prob: only true is supported (false with one expert a token)", s->name);
}

static int read_experts(const sl_hf *s, sl_config *c) {
    /* transformers 4 writes num_experts, transformers 5 num_local_experts. */
    const char *experts = json_object_get(s->v, "num_experts") ? "num_experts" : "num_local_experts";
    int64_t step = 1;
    if (sl_hf_whole(s, experts, -1, &c->model_experts) || sl_hf_whole(s, "decoder_sparse_step", 1, &step) ||
        sl_qwen_experts(s, -1, -1, false, c))
        return -1;
    if (c->model_experts == 0 || c->model_expert_ffn == 0 || step != 1 ||
        json_array_size(json_object_get(s->v, "mlp_only_layers")) > 0)
        return sl_fail("%s: num_experts, moe_intermediate_size, decoder_sparse_step, mlp_only_layers: only mixtures in "
                       "every layer are supported",
                       s->name);
    return 0;
}

static int from_hf(const sl_hf *s, sl_config *c) {
    return sl_family_qwen3.from_hf(s, c) || read_experts(s, c) ? -1 : 0;
}

static int from_gguf(const sl_gguf_keys *k, sl_config *c) {
    static const char *const more[] = {"expert_feed_forward_length", NULL};
    c->model_qk_norm = true;
    return sl_keys_experts(k, c) || sl_keys_sizes(k, c) || sl_keys_rope(k, c) || sl_keys_check(k, more) ? -1 : 0;
}

const sl_family sl_family_qwen3_moe = {from_hf, from_gguf, NULL, NULL, NULL, NULL, NULL};
