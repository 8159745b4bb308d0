/* Activations of passes as .npy files in a new folder, for notebooks. Each array has one file a layer, written pass
 * by pass, so memory does not grow with the windows. manifest.json, which is written last, lists them: file, what,
 * layer, shape, axes, dtype, unit. After a failure the folder is gone. */
#ifndef SL_PROBE_DUMP_H
#define SL_PROBE_DUMP_H

#include "probe/probe.h"

enum sl_dump_what {
    SL_DUMP_RESIDUAL,
    SL_DUMP_NORMS,
    SL_DUMP_GATES,
    SL_DUMP_QKV,
    SL_DUMP_ATTENTION,
    SL_DUMP_OUTPUT,
    SL_DUMP_HIDDEN,
    SL_DUMP_STATISTICS,
    SL_DUMPS
};
extern const sl_measure_info sl_dump_table[]; /* SL_DUMPS rows and one with a NULL name */

typedef struct {
    const char *folder;     /* to be made */
    const char *checkpoint; /* for the manifest */
    const char *corpus;
    unsigned what;          /* bits 1 << sl_dump_what */
    int64_t windows;        /* that will be added in all */
    const bool *layer;      /* layers + 1: which; NULL: all */
    const bool *head;       /* query heads of attention maps: which; NULL: all */
} sl_dump_options;

typedef struct sl_dump sl_dump;
/* Makes the folder and the files; m is a model for inference with taps. Fails before anything is made if the folder
 * exists or the disk has not the room. The strings and arrays of *o must stay until the end. */
sl_dump *sl_dump_create(const sl_model *m, const sl_dump_options *o);
/* Adds the pass that m has just done over tokens[batch*seq]. */
int sl_dump_add(sl_dump *d, const sl_model *m, const int32_t *tokens);
/* Writes the statistics (of sl_probe_result with its profile, and "measures" in it if there are any) and the manifest.
 * Gives the files and bytes written. */
int sl_dump_finish(sl_dump *d, const json_t *statistics, int *files, int64_t *bytes);
/* Frees; removes the folder and its files unless sl_dump_finish succeeded. */
void sl_dump_free(sl_dump *d);

#endif
