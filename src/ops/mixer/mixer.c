#include "ops/mixer/mixer.h"

#define MIXER(name, help) extern const sl_mixer sl_mixer_##name;
#include "tables/mixer.inc"
#undef MIXER

const sl_mixer *const sl_mixers[] = {
#define MIXER(name, help) &sl_mixer_##name,
#include "tables/mixer.inc"
#undef MIXER
    NULL};

int64_t sl_mixer_first(const sl_config *c, bool attends) {
    for (int64_t i = 0; i < c->model_layers; i++)
        if (sl_mixer_of(c, i)->attends == attends)
            return i;
    return -1;
}
