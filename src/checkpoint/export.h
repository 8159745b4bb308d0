/* Models as files that others open: a folder of Hugging Face's, or a GGUF file, of the families Llama and Qwen3. What
 * is there appears only when it is whole. */
#ifndef SL_CHECKPOINT_EXPORT_H
#define SL_CHECKPOINT_EXPORT_H

#include "config/config.h"
#include "program/params.h"

#include <stdbool.h>

typedef struct {
    const sl_config *config; /* as the model is built; model.seq is the context that the file will claim */
    const sl_params *params;
    int32_t vocab;
    int32_t bos; /* that windows begin with; -1: none */
} sl_export;

/* Fails, naming the key, if the model is another than plain Llama, Qwen3, Qwen3-Next or Mamba-2. */
int sl_export_check(const sl_config *c, const char *name);
/* A new folder with config.json, model.safetensors (fp32) and, of data.tokenizer=bpe:FILE, tokenizer.json. */
int sl_export_hf(const sl_export *e, const char *dir);
/* A new file, with the tokenizer (data/vocabulary_gguf_write.h), of a model with model.ffn_kind=swiglu. type: "f32",
 * "f16" or "bf16", of the matrices; vectors are F32. f16: a value that would become infinity is an error. */
int sl_export_gguf(const sl_export *e, const char *type, const char *path);
/* Is the name one of those types? */
bool sl_export_type(const char *type);

#endif
