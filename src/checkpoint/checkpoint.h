/* Checkpoints. A run keeps RUN/checkpoints/<step, 8 digits>/ with
 *   model.safetensors      parameters, Hugging Face names (opens with transformers for a baseline)
 *   config.json            the architecture for transformers (model_type, hidden_size, ...)
 *   config.yaml            the effective sinklab configuration
 *   optimizer.safetensors  m.<name> and v.<name>, as far as train.optimizer keeps them (tables/optim.inc)
 *   state.json             sl_train_state, format version
 *   DONE                   written last: size and XXH3-64 of each file above
 * A checkpoint is written into <step>.tmp, every file and the folder fsync'ed, then renamed; then
 * the oldest beyond keep-last-N are removed. When <step> is there already it steps aside as
 * <step>.old until the new one is in its place; readers see either. A crash at any moment leaves
 * either no <step> or a whole one. A reader takes a checkpoint only if DONE is there and every size
 * and hash agrees. */
#ifndef SL_CHECKPOINT_CHECKPOINT_H
#define SL_CHECKPOINT_CHECKPOINT_H

#include "config/config.h"
#include "program/params.h"

#include <stdbool.h>

enum { SL_CHECKPOINT_VERSION = 1 };

/* Saves; keeps the newest `keep` complete checkpoints, the new one always among them. On failure
 * (full disk, no permission) the unfinished folder is removed and older checkpoints are untouched.
 * A checkpoint of the same step is replaced. Folders that a crash left behind are removed; what
 * cannot be removed is tried again at the next save. p->m NULL: no optimizer file. */
int sl_checkpoint_save(const char *run_dir, const sl_config *c, const sl_params *p,
                       const sl_train_state *s, int keep);
/* Removes what crashes left in a run's checkpoints (a save does so too); for a resumed run that has nothing left to
 * save. What cannot be removed stays. */
void sl_checkpoint_clean(const char *run_dir);
/* `path` is a checkpoint folder, a run folder (newest complete one is meant) or, for inference, a
 * model of others (families/foreign.h): a Hugging Face folder or a GGUF file. Writes what is meant
 * into dir. In a run folder every size and hash is checked, and a damaged checkpoint is passed over
 * for the one before it. */
int sl_checkpoint_resolve(const char *path, char dir[SL_DIR_CHARS]);
/* Is what it found a model of others? */
bool sl_checkpoint_foreign(const char *dir);
/* For a warning: why the last sl_checkpoint_resolve of this thread passed over a newer checkpoint
 * (one line that names it), "" if it did not. */
const char *sl_checkpoint_passed_over(void);
/* Reads the configuration of what sl_checkpoint_resolve found, and its vocabulary: the rows of the
 * embedding matrix. */
int sl_checkpoint_config(const char *dir, sl_config *c, int32_t *vocab);
/* Fills p->w (and *s, and p->m and p->v if p has them, when s is not NULL) after verifying DONE. A
 * missing or extra tensor, a wrong shape, a newer version, a wrong hash, the state of another optimizer: an error
 * that leaves p and
 * *s as they were. */
int sl_checkpoint_load(const char *dir, sl_params *p, sl_train_state *s);
/* Number of complete checkpoints of a run (DONE is there and the sizes agree; hashes are not read),
 * 0 if there is no such folder; the step of the newest in *step unless there are none. */
int sl_checkpoint_list(const char *run_dir, int64_t *step);
/* Is there no checkpoint in the run folder at all, not even a damaged one? (Unfinished ones don't count.) */
bool sl_checkpoint_none(const char *run_dir);

#endif
