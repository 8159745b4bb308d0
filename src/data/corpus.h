/* What data.corpus names: texts or token bins for training and validation. */
#ifndef SL_DATA_CORPUS_H
#define SL_DATA_CORPUS_H

#include "data/bin.h"

#include <stdbool.h>
#include <stddef.h>

enum { SL_PATH_CHARS = 4096 };

/* One split of a corpus. */
typedef struct {
    bool there;
    char path[SL_PATH_CHARS]; /* the file or folder it came from, for messages */
    /* of a text */
    const char *text;
    size_t n;
    sl_map map;
    char *joined; /* a folder's files, with boundary lines in between */
    /* of a bin */
    sl_bin bin;
} sl_part;

typedef struct {
    bool is_bin;
    char folder[SL_PATH_CHARS]; /* where the texts are, and their token caches */
    sl_part part[2];            /* [SL_TRAIN], [SL_VAL]; without a val part of its own, part[SL_VAL].there is false */
} sl_corpus;

/* In this order: a prepared name ($SINKLAB_DATA/NAME, or data/corpora/NAME without that variable); a folder with
 * train.txt (and val.txt), or train.bin (and val.bin), or any *.txt, joined in order of name; a token bin, with
 * ..._val.bin beside ..._train.bin as its val part; the same pair without its ending; a text file. */
int sl_corpus_open(sl_corpus *c, const char *name);
/* The file or folder that is meant; fails where there is none. */
int sl_corpus_find(const char *name, char path[SL_PATH_CHARS]);
void sl_corpus_close(sl_corpus *c);

#endif
