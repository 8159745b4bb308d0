/* config.json of Hugging Face transformers, as our checkpoints have it; src/families reads those of others. */
#ifndef SL_CHECKPOINT_HF_CONFIG_H
#define SL_CHECKPOINT_HF_CONFIG_H

#include "config/config.h"

#include <stdint.h>

/* The text of config.json, to be freed; NULL with a message. RMSNorm + softmax attention + a gated
 * feed-forward + rotary positions is a LlamaForCausalLM, with QK-norm a Qwen3ForCausalLM. Every other model gets
 * an architecture that transformers does not know, so that it refuses instead of computing
 * something else. */
char *sl_hf_config_text(const sl_config *c, int32_t vocab);

/* The key that makes the model, mixtures of experts aside, another than transformers' Llama and Qwen3 or, of one whose
 * mixer is mamba2 throughout, than its Mamba-2, of one with gdn in some layers or all and softmax in the others than
 * its Qwen3-Next; NULL: none. */
const char *sl_hf_obstacle(const sl_config *c);

/* The same of a model to be exported, of which mixtures only as Qwen3-Next's are. */
const char *sl_hf_export_obstacle(const sl_config *c);

/* The same of a folder to be exported, of a model without an obstacle, and the class of its tensors: models of Mamba-2
 * and Qwen3-Next, which a checkpoint has by our names, are a Mamba2ForCausalLM and a Qwen3NextForCausalLM there. */
char *sl_hf_export_text(const sl_config *c, int32_t vocab);
const char *sl_hf_export_class(const sl_config *c);

#endif
