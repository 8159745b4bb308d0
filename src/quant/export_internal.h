/* What writing and reading of exported models share. */
#ifndef SL_QUANT_EXPORT_INTERNAL_H
#define SL_QUANT_EXPORT_INTERNAL_H

#include "io/safetensors.h"
#include "quant/weights.h"

enum { SL_EXPORT_NAME = 160, SL_EXPORT_PATH = 4200 };

/* "<name>.<part>" of tensor "<name>.weight". */
void sl_export_name(char name[SL_EXPORT_NAME], const sl_tensor *t, const char *part);
/* The operation that multiplies a tensor; false of embeddings, which are read as they are. */
bool sl_export_scope(const sl_tensor *t, sl_scope *scope);
/* Bytes of a row of codes, and their type. */
int64_t sl_export_code_cols(const sl_quant_matrix *x, enum sl_dtype *dtype);

#endif
