#include "model/params.h"

#include <string.h>

int sl_params_find(const sl_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->tensor[i].name, name) == 0)
            return i;
    return -1;
}
