#include "program/params.h"

#include <string.h>

/* [optimizer][is it a matrix of a block] */
static const int moments[][2] = {
#define OPTIM(name, matrix, other, help) {other, matrix},
#include "tables/optim.inc"
#undef OPTIM
};

int sl_params_moments(int optimizer, const sl_tensor *t) {
    static const char block[] = "model.layers.";
    return moments[optimizer][t->ndim == 2 && strncmp(t->name, block, sizeof block - 1) == 0];
}

int sl_params_find(const sl_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->tensor[i].name, name) == 0)
            return i;
    return -1;
}
