/* What the files of src/families share about an open model. */
#ifndef SL_FAMILIES_FOREIGN_INTERNAL_H
#define SL_FAMILIES_FOREIGN_INTERNAL_H

#include "families/foreign.h"
#include "families/kind.h"
#include "io/tensors.h"

enum { SL_FOREIGN_PATH = 4608 };

/* A row of tables/family.inc. */
typedef struct {
    const char *name, *architecture, *model_type, *gguf;
    const sl_family *kind;
} sl_family_row;

struct sl_foreign {
    sl_tensors *tensors;
    const sl_family_row *row;
    sl_map json; /* config.json; empty of a GGUF file */
    char json_name[SL_FOREIGN_PATH];
};

/* The tensor of this name, which may lack its family's prefix; -1 if absent. */
int sl_foreign_find(const sl_foreign *f, const char *name);
/* Where its family has our tensors. */
sl_places sl_foreign_places(const sl_foreign *f);
/* The rules of a class of transformers; NULL: it has none, or is not known. */
const sl_place *sl_foreign_hf_places(const char *architecture);

#endif
