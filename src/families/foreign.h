/* Models that others trained: a folder as transformers writes it (config.json beside model.safetensors, or beside the
 * files of model.safetensors.index.json), or a GGUF file. A family (tables/family.inc) says what configuration of ours
 * computes the same and where our parameters lie in its files. What no configuration of ours computes is an error that
 * names it; nothing is approximated. */
#ifndef SL_FAMILIES_FOREIGN_H
#define SL_FAMILIES_FOREIGN_H

#include "config/config.h"
#include "io/safetensors.h"
#include "program/params.h"

typedef struct sl_foreign sl_foreign;

sl_foreign *sl_foreign_open(const char *path); /* NULL with a message */
void sl_foreign_close(sl_foreign *f);
/* Its configuration, checked, and its vocabulary, the rows of its embedding. model.seq is its context, but at most 256:
 * windows of thousands of tokens would make every measurement one of minutes. data.tokenizer is that of the file or
 * folder, where it has one. */
int sl_foreign_config(const sl_foreign *f, sl_config *c, int32_t *vocab);
/* The context that the file claims, which may be longer than model.seq above. */
int sl_foreign_context(const sl_foreign *f, int64_t *context);
/* Fills p->w and p->w16, a tensor at a time; pages of the files that were read are given back. First everything is
 * checked: each parameter (but the states of a model made for inference) must be there in its shape, and each tensor of
 * the files be a parameter or one that holds nothing to read. On failure p is unchanged. */
int sl_foreign_load(const sl_foreign *f, sl_params *p);

/* Internal (tests): configuration and vocabulary (-1: not given) from n bytes of config.json; `name` stands for the
 * file in messages. */
int sl_foreign_parse(const void *text, size_t n, const char *name, sl_config *c, int64_t *vocab);

/* The tensors that a model of this class of transformers has for p, the parameters of configuration c, which that class
 * can have: fp32 entries, at most p->count, into entry, which is zeroed. They point to p->w or into *values, which the
 * caller frees. A class that no row of the table names has our tensors. Returns how many, or -1 with a message. */
int sl_foreign_tensors(const char *architecture, const sl_config *c, const sl_params *p, sl_st_entry *entry,
                       float **values);

/* What hidden_act of config.json calls the function of each feed-forward kind, NULL if nothing; [SL_FFN_KINDS]. */
extern const char *const sl_hf_activation[];

#endif
