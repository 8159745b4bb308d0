/* A corpus as tokens: training and validation part, and windows over them.
 * Window w of a text holds T = seq positions. With BOS: inputs = [BOS, t_0 .. t_{T-2}], targets = [t_0 .. t_{T-1}]
 * where t are tokens [w*T, (w+1)*T); without: inputs = t_0..t_{T-1} and targets the next ones. Windows do not
 * overlap; the rest after the last whole window is left out. Documents are joined by one BOS token.
 * data.bos_place=random: BOS stands at position r, drawn anew for each window: inputs [t_0 .. t_{r-1}, BOS, t_r ..
 * t_{T-2}]; BOS is never a target, so the target before it is -1 (none) and t_r is that of BOS; for r = 0 as above.
 * data.first_token: at position 0 of the inputs stands this token in place of what would; targets are the same.
 * Synthetic corpora (data/synthetic.h) have endless training windows, each a pure function of seed and index, and
 * validation windows that depend on no seed and are no training windows; -1 is the target where no answer counts. */
#ifndef SL_DATA_DATASET_H
#define SL_DATA_DATASET_H

#include "config/config.h"
#include "data/tokenizer.h"

#include <stdint.h>

/* The id of data.first_token, -1 where it is "own". */
int sl_dataset_first_token(const sl_config *c, const sl_tokenizer *t, int32_t *id);

/* Opens config's data.corpus with data.tokenizer: a name prepared under $SINKLAB_DATA or data/corpora, any folder
 * of .txt files, a text file, or a token bin (llm.c header or bare uint16 nanoGPT); data/corpus.h has the rules.
 * Without a val part of its own, the last data.val_fraction of the tokens is the val part. Tokens of a BPE corpus
 * are cached beside it when the folder is writable (data/token_cache.h). Missing, empty, a part shorter than one
 * window, ids beyond the tokenizer's vocabulary: an error saying how to mend it. */
sl_dataset *sl_dataset_open(const sl_config *c);
int32_t sl_dataset_vocab(const sl_dataset *d); /* that of sl_dataset_open_tokenizer */
const sl_tokenizer *sl_dataset_tokenizer(const sl_dataset *d); /* NULL if it knows no text ("ids:") */
int64_t sl_dataset_seq(const sl_dataset *d); /* positions of a window */
int32_t sl_dataset_bos(const sl_dataset *d); /* in each window; -1: none */
int64_t sl_dataset_tokens(const sl_dataset *d, enum sl_split s);
/* Of sl_dataset_windows(): at least 1, but 0 of SL_TRAIN where data.val_fraction is 1 and the corpus has no val part,
 * or where tokens are given. */

/* Bytes of text per token of the split (for bits per byte); 0 if unknown (no tokenizer with text). Boundary
 * tokens count as tokens without bytes. */
double sl_dataset_bytes_per_token(const sl_dataset *d, enum sl_split s);
/* Hash of the tokens of both splits; part of a run's identity. */
uint64_t sl_dataset_hash(const sl_dataset *d);
/* Fails if the tokens are no longer those that the hash is of: a bin is mapped, and another program may write to it.
 * Reads all of them. */
int sl_dataset_check(const sl_dataset *d);
/* Window number `index` >= 0 of the endless training order: epoch = index / windows, place = index % windows,
 * window = P_{seed,epoch}(place) with P a pseudo-random permutation computed on the fly (data/permute.h);
 * of a synthetic corpus, the window of that number.
 * Fills seq values each. Thread-safe. */
void sl_dataset_train_window(const sl_dataset *d, uint64_t seed, int64_t index, int32_t *in, int32_t *target);
/* Validation windows in file order; 0 <= index < windows. */
void sl_dataset_val_window(const sl_dataset *d, int64_t index, int32_t *in, int32_t *target);
/* Whether positions of two kinds are told apart: those marked (the triggers of a synthetic corpus; sl_synthetic_mark
 * says which) and all others. Only then may sl_dataset_mark be called; it fills seq values for a window's inputs. */
bool sl_dataset_has_marks(const sl_dataset *d);
void sl_dataset_mark(const sl_dataset *d, const int32_t *in, uint8_t *mark);

#endif
