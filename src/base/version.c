#include "version.h"

#include "sinklab.h"

/* In a section of its own and always as long, so that programs of equal code differ nowhere else (the store of studies
 * hashes all but this section). */
__attribute__((section("sinklab_git"))) const char sl_git[64] = SL_GIT;

const char *sl_version(void) { return SL_VERSION; }
