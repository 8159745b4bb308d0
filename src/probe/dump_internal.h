#ifndef SL_PROBE_DUMP_INTERNAL_H
#define SL_PROBE_DUMP_INTERNAL_H

#include "io/npy.h"
#include "probe/dump.h"

enum { DUMP_DIMS = 4 };

typedef struct {
    char *path;
    const char *file; /* its last part */
    const char *what, *descr, *unit;
    const char *axes[DUMP_DIMS];
    int64_t shape[DUMP_DIMS];
    int ndim, layer; /* layer -1: not of one */
    int kind;        /* how dump.c gets it */
    sl_writer writer; /* fd -1: not open */
} dump_array;

struct sl_dump {
    const sl_model *model;
    sl_dump_options o;
    sl_shape shape;
    dump_array *array;
    int arrays, capacity;
    int64_t added; /* windows */
    int heads;     /* of attention maps */
    float *data, *rows; /* scratch: a tap, or an attention map; rows of threads */
    bool made, finished; /* the folder */
};

/* Appends an array to the list; axes and shape end at the first NULL axis. NULL with a message when memory is out. */
dump_array *dump_append(sl_dump *d, const char *what, int layer, const char *descr, const char *unit,
                        const char *const *axes, const int64_t *shape);
/* Writes the files of the statistics. */
int dump_statistics(sl_dump *d, const json_t *statistics);
int dump_manifest(sl_dump *d);

#endif
