/* A quantised model as one file, DIR/quantised.safetensors, so that the result can be checked elsewhere. For each
 * rounded matrix <name>.weight [out, in] of the checkpoint, with its scheme's blocks of block_rows x block_cols
 * elements:
 *
 *   <name>.weight_packed        codes: I8 [out, in] of int8, F8_E4M3 [out, in] of e4m3; of int4 (two's complement)
 *   and e2m1
 *                               U8 [out, ceil(in/2)], two in a byte, the first in the lower half
 *   <name>.weight_scale         of each block [down, across]: F32; U8 of E8M0 (2^(byte - 127)); F8_E4M3 (times the
 *   next)
 *   <name>.weight_global_scale  F32 [1], nvfp4
 *   <name>.input_scale          F32 [1], of static ranges; nvfp4: input_global_scale
 *   <name>.input_zero_point     I32 [1], of affine ones: x = (code - zero) * scale
 *   <name>.input_rotation       I8 [in], the signs D where the layer reads R x = (H (x) C) D x (ops/quant/rotate.h);
 *   the matrix is
 *                               that which multiplies R x
 *   model.layers.N.self_attn.kv_rotation  I8 [head_dim], where keys and values are rotated to be rounded, and back
 *
 * Everything else, matrices that --keep names too, is F32 under its own name, transformed as the weights were. The
 * metadata has "format", the model's configuration as YAML ("config"), and the options as JSON ("quantization"). */
#ifndef SL_QUANT_EXPORT_H
#define SL_QUANT_EXPORT_H

#include "model/model.h"
#include "formats/options.h"
#include "quant/weights.h"

#define SL_EXPORT_FILE "quantised.safetensors"
#define SL_EXPORT_FORMAT "sinklab-quantised-1"

/* Writes a new folder. o: the options that m was made with. */
int sl_quant_export(const char *dir, const sl_quant_options *o, const sl_quant_weights *w, sl_model *m);

/* Is there an exported model in the folder? */
bool sl_quant_is_export(const char *dir);
/* What it says of itself; *o has no path into the file. */
int sl_quant_export_read(const char *dir, sl_config *c, int32_t *vocab, sl_quant_options *o);
/* Fills a model made with these options. Fails on a missing tensor, a wrong type or shape. */
int sl_quant_import(const char *dir, const sl_quant_options *o, sl_model *m);

#endif
