/* config.json of Hugging Face transformers, as our checkpoints have it; src/families reads those of others. */
#ifndef SL_CHECKPOINT_HF_CONFIG_H
#define SL_CHECKPOINT_HF_CONFIG_H

#include "config/config.h"
#include "families/foreign.h"

#include <stdint.h>

/* The text of config.json, to be freed; NULL with a message. RMSNorm + softmax attention + a gated
 * feed-forward + rotary positions is a LlamaForCausalLM, with QK-norm a Qwen3ForCausalLM. Every other model gets
 * an architecture that transformers does not know, so that it refuses instead of computing
 * something else. */
char *sl_hf_config_text(const sl_config *c, int32_t vocab);

/* The key that makes the model, mixtures of experts aside, another than transformers' Llama and Qwen3 or, of one whose
 * mixer is mamba2 throughout, than its Mamba-2; NULL: none. */
const char *sl_hf_obstacle(const sl_config *c);

/* The same of a folder to be exported, whose tensors have the names of transformers: a model of Mamba-2's, which a
 * checkpoint has by ours, is a Mamba2ForCausalLM there. buf is for the name, which lives as long. */
char *sl_hf_export_text(const sl_config *c, int32_t vocab);
const char *sl_hf_export_name(const sl_config *c, const char *ours, char buf[SL_FOREIGN_NAME_CHARS]);

#endif
