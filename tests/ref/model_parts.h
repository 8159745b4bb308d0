/* Parts of the reference model, a file each, and nobody else's. Rows are batch*seq; what is returned is allocated. A
 * tensor that is missing or of another shape ends the program. */
#ifndef REF_MODEL_PARTS_H
#define REF_MODEL_PARTS_H

#include "ref/model.h"

enum site { ATTN, FFN, FINAL };
enum { Q, K, V, GATE, PARTS }; /* of anchors */

/* ---- model.c: tensors <prefix><name> */
void ref_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
int64_t ref_rows(const ref_model *m);
const sl_tensor *ref_tensor(const ref_model *m, const char *prefix, const char *name);
const ref_c *ref_vector(const ref_model *m, const char *prefix, const char *name, int64_t n);
const ref_c *ref_matrix(const ref_model *m, const char *prefix, const char *name, int64_t out, int64_t in);
/* x [rows, in] times a named matrix. */
ref_c *ref_project(const ref_model *m, const char *prefix, const char *name, int64_t in, int64_t out, const ref_c *x);
/* The same of <name>.weight and, where the configuration has it, the bias <name>.bias. */
ref_c *ref_affine(const ref_model *m, const char *prefix, const char *name, bool biased, int64_t in, int64_t out,
                  const ref_c *x);
/* What a half of a block reads of h [rows, dim], and h with the half's output. */
ref_c *ref_half_input(const ref_model *m, const char *layer, enum site site, const ref_c *h);
void ref_half_output(const ref_model *m, const char *layer, enum site site, const ref_c *out, ref_c *h);
/* Halves: x, what they read; h gets what they give. The feed-forward returns its router's losses times the
 * coefficients. */
void ref_mixer(const ref_model *m, int64_t i, const char *layer, const ref_c *x, ref_c *h);
ref_c ref_ffn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);

/* ---- norms.c: nullify, of a norm whose input may have channels replaced */
ref_c *ref_normed(const ref_model *m, const char *prefix, enum site site, bool nullify, const ref_c *x);

/* ---- attention.c, recurrent.c: mixers */
void ref_external_anchors(const ref_model *m, const ref_c *h);
void ref_attention_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_mean_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_mamba2_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_gdn_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_deltanet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_gla_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
void ref_retnet_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
/* rwkv7.c */
void ref_rwkv7_block(const ref_model *m, const char *layer, const ref_c *x, ref_c *h);
/* x, each channel moved by its share of <prefix><name> to the position before. */
ref_c *ref_shifted(const ref_model *m, const char *prefix, const char *name, const ref_c *x);

/* ---- depth.c: all blocks, where they read mixtures: of outputs, or of states. h: the embedding, then what the final
 * norm reads. */
void ref_attention_residuals(const ref_model *m, ref_c *h, ref_c *router_loss);
void ref_residuals_of_states(const ref_model *m, ref_c *h, ref_c *router_loss);

#endif
