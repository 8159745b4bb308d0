#include "ops/norm/norm.h"

const sl_norm_builder sl_norm_builders[] = {
#define NORM(name, ...) sl_build_##name,
#include "tables/norm.inc"
#undef NORM
};

const sl_norm_builder sl_base_builders[] = {
#define NORM(...)
#define BASE(name, ...) sl_build_##name,
#include "tables/norm.inc"
#undef NORM
};
