/* Token bins: arrays of token ids in a file, little-endian.
 *   llm.c          256 int32 [20240520, 1, count, 0 ...], then uint16 ids
 *   llm.c, Llama 3 256 int32 [20240801, 7, count, 0 ...], then uint32 ids
 *   nanoGPT        bare uint16 ids, without any mark: only in a file that is named *.bin */
#ifndef SL_DATA_BIN_H
#define SL_DATA_BIN_H

#include "io/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SL_BIN_HEADER_BYTES = 1024, SL_BIN_HEADER_INTS = 256 };

/* Ids of 2 or 4 bytes. Those of a bin are unchecked: see sl_tokens_largest. */
typedef struct {
    const void *id;
    int width;
    int64_t count;
} sl_tokens;

static inline int32_t sl_tokens_at(const sl_tokens *t, int64_t i) {
    return t->width == 2 ? ((const uint16_t *)t->id)[i] : (int32_t)((const uint32_t *)t->id)[i];
}
/* Largest id, -1 if there are no tokens; *at: where it is first. */
int64_t sl_tokens_largest(const sl_tokens *t, int64_t *at);

/* Width of the ids of a vocabulary. */
static inline int sl_token_width(int32_t vocab) { return vocab <= 65536 ? 2 : 4; }

/* An open bin; its tokens point into the map. */
typedef struct {
    sl_map map;
    sl_tokens tokens;
} sl_bin;

int sl_bin_open(sl_bin *b, const char *path);
void sl_bin_close(sl_bin *b); /* also of a zeroed struct */
/* From memory: `name` stands for the file in messages, its ending decides about bare ids. data: 4-byte aligned. */
int sl_bin_parse(sl_tokens *t, const void *data, size_t n, const char *name);
/* Whether the file begins with the mark of a token bin or is named *.bin. False of a file that can't be read. */
bool sl_bin_looks_like(const char *path);

/* Writes a bin of the flavour that the width asks for; `extra` NULL or 4 values for the spare header words
 * 248..255, which readers skip. At most 2^31 - 1 tokens. The file is whole or not there. */
int sl_bin_write(const char *path, const sl_tokens *t, const uint64_t extra[4]);
/* The spare words of a file that sl_bin_open took; false if it has no header. */
bool sl_bin_extra(const sl_bin *b, uint64_t extra[4]);

#endif
