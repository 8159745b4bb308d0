/* The types of tensors in GGUF files, a row each of tables/ggml_type.inc. */
#ifndef SL_IO_GGML_TYPES_H
#define SL_IO_GGML_TYPES_H

#include "io/floats.h"

typedef struct {
    uint32_t id;
    const char *name;
    int64_t values, bytes; /* of a block */
    sl_floats_fn *floats;  /* the floats that the reference implementation (ggml's quants, to the bit) makes of blocks;
                              NULL: not supported */
} sl_ggml_type;

/* NULL: no row has this id. */
const sl_ggml_type *sl_ggml_type_of(uint32_t id);
/* The names of the supported types, with commas between, for messages. Returns buf. */
enum { SL_GGML_NAMES_CHARS = 128 };
const char *sl_ggml_supported(char buf[SL_GGML_NAMES_CHARS]);

/* n values of MXFP4, whole blocks of 32, as transformers writes them: 16 bytes a block, of which byte i has value 2i
 * low and 2i + 1 high, and each block's scale, the same byte as in GGUF, in an array of its own. */
void sl_floats_from_mxfp4(const unsigned char *blocks, const unsigned char *scales, int64_t n, float *dst);

#endif
