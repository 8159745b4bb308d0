/* Inside of checkpoints: the folders of a run, and DONE, the last file of a checkpoint. DONE has a
 * line with the format version, then one line for each file with its XXH3-64, its size and its
 * name. */
#ifndef SL_CHECKPOINT_INTERNAL_H
#define SL_CHECKPOINT_INTERNAL_H

#include "io/file.h"
#include "program/params.h"

#include <stdbool.h>
#include <stdint.h>

#define SL_EMBEDDING "model.embed_tokens.weight" /* its rows are the vocabulary */
const sl_tensor *sl_checkpoint_tensor(const sl_params *p, const char *name); /* NULL if absent */

enum { SL_PATH = 4352 }; /* a folder of 4095 bytes and a name of ours in it */
/* snprintf that takes a path cut short for a failure. */
int sl_path(char out[SL_PATH], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool sl_path_exists(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool sl_is_folder(const char *path); /* itself, no link to one */

/* ---- folders (checkpoint_folders.c) */
enum sl_folder_kind { SL_WHOLE, SL_OLD, SL_TMP }; /* <step>, <step>.old, <step>.tmp */
typedef struct {
    int64_t step;
    enum sl_folder_kind kind;
} sl_folder;

int sl_folder_path(char out[SL_PATH], const char *base, int64_t step, enum sl_folder_kind kind);
/* Removes a folder and the files in it, as far as that is possible. A link to one is left as it is, and what it leads
 * to. */
void sl_folder_remove(const char *path);
/* All our folders in `base`, links left out, the newest first; their number. *list is to be freed. No such folder:
 * 0. */
int sl_folder_scan(const char *base, sl_folder **list);
/* DONE is there and the sizes agree. */
int sl_folder_check_complete(const char *dir);

/* ---- DONE (checkpoint_done.c) */
enum sl_done_file {
    SL_DONE_MODEL,
    SL_DONE_CONFIG_JSON,
    SL_DONE_CONFIG_YAML,
    SL_DONE_STATE,
    SL_DONE_OPTIMIZER, /* the only one that may be absent */
    SL_DONE_FILES
};
extern const char *const sl_done_name[SL_DONE_FILES];

typedef struct {
    bool has[SL_DONE_FILES];
    uint64_t size[SL_DONE_FILES], hash[SL_DONE_FILES];
} sl_done;

int sl_done_write(const char *dir, const sl_done *d);
/* Fails if DONE is missing, damaged, or of a newer format. */
int sl_done_read(const char *dir, sl_done *d);
/* Do all files have the sizes that DONE says? */
int sl_done_check_sizes(const char *dir, const sl_done *d);
/* Maps a file and compares its size and hash with DONE. Nothing to close on failure. */
int sl_done_map(const char *dir, const sl_done *d, enum sl_done_file file, sl_map *m);

#endif
