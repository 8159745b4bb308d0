/* config.json of Hugging Face transformers: written for our models, read for foreign ones. */
#ifndef SL_CHECKPOINT_HF_CONFIG_H
#define SL_CHECKPOINT_HF_CONFIG_H

#include "config/config.h"

#include <stdint.h>

/* The text of config.json, to be freed; NULL with a message. RMSNorm + softmax attention + a gated
 * feed-forward + rotary positions is a LlamaForCausalLM, with QK-norm a Qwen3ForCausalLM. Every other model gets
 * an architecture that transformers does not know, so that it refuses instead of computing
 * something else. */
char *sl_hf_config_text(const sl_config *c, int32_t vocab);

/* Fills *c and *vocab (-1: not given) from n bytes of config.json; `name` stands for the file in messages. What the
 * engine would compute otherwise than the architecture asks (rope_scaling, biases, a sliding window,
 * another activation, quantised weights) is an error that names the field. */
int sl_hf_config_parse(const void *text, size_t n, const char *name, sl_config *c, int64_t *vocab);

#endif
